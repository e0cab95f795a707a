# says: a guest that panics, with on_crash=destroy, preserve and restart: cleaned up, kept until destroyed, connected anew
# acceptance: 21
# limit: 1800
scenario() {
  local file id
  network
  VIFS=$(vif 2)
  file=$(root_image g)
  EXTRA='on_crash="destroy"' guest_start g "$(disk xvda "$file")"
  guest_panics
  must_within 60 guest_gone g

  EXTRA='on_crash="preserve"' guest_start g "$(disk xvda "$file")"
  guest_panics
  must_within 60 sh -c "xl list g | tail -1 | awk '{print \$5}' | grep -q c"
  expect "a preserved guest's disk closed" node_is "$(backend_path g xvda)/state" 4
  expect "a preserved guest's interface closed" node_is "$(vif_backend g)/state" 4
  xl destroy g
  must_within 60 guest_gone g

  EXTRA='on_crash="restart"' guest_start g "$(disk xvda "$file")"
  id=$(xl domid g)
  guest_panics
  rm -f "$(guest_console g)"
  must_within 60 eval '[ -n "$(xl domid g 2> /dev/null)" ] && [ "$(xl domid g 2> /dev/null)" != '"$id"' ]'
  must_within $UP_SECONDS guest_up g
  guest_net g 2
  xl destroy g
}
guest_panics() {
  local tty
  tty=$(xenstore-read "/local/domain/$(xl domid g)/console/tty")
  { echo 'echo c > /proc/sysrq-trigger' | base64 | sed 's/^/+/'; echo '!panic'; } > "$tty"
}
