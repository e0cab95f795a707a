# says: attach of a bad target, detach, attach of a good one: an error with its text, then a disk
# acceptance: 9
# core: 4.17
# backends: splitd
scenario() {
  local said
  guest_start g "$(disk xvda "$(root_image g)")"
  said=$(xl block-attach g "$(disk xvdb /srv/not-there.img)" 2>&1) && fail "attach of a missing file succeeded"
  grep -q '/srv/not-there.img' <<< "$said" || fail "xl does not name the target: $said"
  xl block-detach g xvdb || fail "detach of the failed disk"
  must_within 60 absent "$(backend_path g xvdb)"
  attach g xvdb "$(image data 16)"
  must_within 60 guest_run g 'test -b /dev/xvdb'
  detach g xvdb
  guest_stop g
}
