# says: create with eight disks and four interfaces: all connect, no hotplug script waits for another's worker
# acceptance: 3
scenario() {
  local specs=() letter number
  for letter in b c d e f g h; do specs+=("$(disk "xvd$letter" "$(image "data-$letter" 16)")"); done
  network
  MEMORY=384 VIFS="$(vif 2),$(vif 3),$(vif 4),$(vif 5)" guest_start g "$(disk xvda "$(root_image g)")" "${specs[@]}"
  for letter in a b c d e f g h; do
    must_within 60 node_is "$(frontend_path g "xvd$letter")/state" 4
    expect "backend of xvd$letter" node_is "$(backend_path g "xvd$letter")/state" 4
  done
  for number in 0 1 2 3; do
    must_within 60 node_is "$(vif_frontend g $number)/state" 4
    expect "backend of vif $number" node_is "$(vif_backend g $number)/state" 4
  done
  [ "$(guest_run g 'ls /dev/xvd? | wc -l')" = 8 ] || fail "the guest sees $(guest_run g 'ls /dev/xvd?')"
  [ "$LAB_BACKEND" != splitd ] || [ "$(workers | wc -l)" = 8 ] || fail "$(workers | wc -l) workers for eight disks"
  [ "$LAB_BACKEND" != splitd ] || [ "$(net_workers | wc -l)" = 4 ] || fail "$(net_workers | wc -l) workers for four interfaces"
  guest_stop g
}
