# says: a second attach of the same vdev is refused and the first goes on
# acceptance: 8
scenario() {
  local file said
  file=$(image data 16)
  guest_start g "$(disk xvda "$(root_image g)")"
  attach g xvdb "$file"
  said=$(xl block-attach g "$(disk xvdb "$(image other 16)")" 2>&1) && fail "the second attach succeeded"
  grep -q 'already exists' <<< "$said" || fail "xl says: $said"
  guest_run g 'echo first | dd of=/dev/xvdb bs=512 conv=sync oflag=direct 2>/dev/null'
  [ "$(head -c 5 "$file")" = first ] || fail "the first disk lost its target"
  detach g xvdb
  guest_stop g
}
