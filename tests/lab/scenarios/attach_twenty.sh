# says: twenty disks, then twenty interfaces, attached one after the other, one worker each; all detach again
# acceptance: 7
# limit: 1800
scenario() {
  local letter number
  network
  MEMORY=512 guest_start g "$(disk xvda "$(root_image g)")"
  for letter in b c d e f g h i j k l m n o p q r s t u; do
    attach g "xvd$letter" "$(image "data-$letter" 8)"
  done
  [ "$(guest_run g 'ls /dev/xvd? | wc -l')" = 21 ] || fail "the guest sees $(guest_run g 'ls /dev/xvd?')"
  [ "$LAB_BACKEND" != splitd ] || [ "$(workers | wc -l)" = 21 ] || fail "$(workers | wc -l) workers for 21 disks"
  for letter in b c d e f g h i j k l m n o p q r s t u; do detach g "xvd$letter"; done
  [ "$LAB_BACKEND" != splitd ] || must_within 60 eval '[ "$(workers | wc -l)" = 1 ]'
  for number in $(seq 0 19); do
    # libxl takes one more than the last of those it lists, and oxenstored lists 10 before 9: the twelfth would be a second number 10.
    xl network-attach g bridge=xenbr0 devid=$number || fail "xl network-attach number $number failed"
    must_within 60 node_is "$(vif_backend g $number)/state" 4
  done
  [ "$(guest_run g 'ls -d /sys/class/net/eth* | wc -l')" = 20 ] || fail "the guest sees $(guest_run g 'ls /sys/class/net')"
  [ "$LAB_BACKEND" != splitd ] || [ "$(net_workers | wc -l)" = 20 ] || fail "$(net_workers | wc -l) workers for 20 interfaces"
  for number in $(seq 0 19); do
    xl network-detach g $number || fail "xl network-detach number $number failed"
    must_within 60 absent "$(vif_backend g $number)"
  done
  [ "$LAB_BACKEND" != splitd ] || must_within 60 eval '[ -z "$(net_workers)" ]'
  must_within 60 eval '! ls -d /sys/class/net/vif* 2> /dev/null'
  guest_stop g
}
