# says: twenty disks attached one after the other, one worker each; all detach again
# acceptance: 7
# limit: 1800
scenario() {
  local letter
  guest_start g "$(disk xvda "$(root_image g)")"
  for letter in b c d e f g h i j k l m n o p q r s t u; do
    attach g "xvd$letter" "$(image "data-$letter" 8)"
  done
  [ "$(guest_run g 'ls /dev/xvd? | wc -l')" = 21 ] || fail "the guest sees $(guest_run g 'ls /dev/xvd?')"
  [ "$LAB_BACKEND" != splitd ] || [ "$(workers | wc -l)" = 21 ] || fail "$(workers | wc -l) workers for 21 disks"
  for letter in b c d e f g h i j k l m n o p q r s t u; do detach g "xvd$letter"; done
  [ "$LAB_BACKEND" != splitd ] || must_within 60 eval '[ "$(workers | wc -l)" = 1 ]'
  guest_stop g
}
