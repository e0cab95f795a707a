# says: twenty reboots of a guest from inside: a new domain each time, the same disk and interface, nothing left of the last one
# acceptance: 19
# limit: 1800
scenario() {
  local round id
  network
  VIFS=$(vif 2) guest_start g "$(disk xvda "$(root_image g)")"
  for round in $(seq 20); do
    id=$(xl domid g)
    guest_run g "echo round-$round > /round; sync"
    rm -f "$(guest_console g)"
    xl reboot g
    must_within 60 eval '[ "$(xl domid g 2> /dev/null)" != '"$id"' ]'
    must_within $UP_SECONDS guest_up g
    [ "$(guest_run g 'cat /round')" = "round-$round" ] || fail "round $round: the disk is not the one of before"
    must_within 60 absent "/local/domain/0/backend/$(backend_kind)/$id"
    must_within 60 absent "/local/domain/0/backend/vif/$id"
    must_within 60 eval "! test -e /sys/class/net/vif$id.0"
    must_within 60 node_is "$(vif_backend g)/state" 4
  done
  guest_net g 2
  guest_stop g
}
