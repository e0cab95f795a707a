# says: 200 rounds of attach and detach of a disk and an interface on a running guest: no 10 s stall, no node, grant, fd or process left
# acceptance: 10
# limit: 5400
scenario() {
  local file round slowest=0
  network
  file=$(image data 16)
  guest_start g "$(disk xvda "$(root_image g)")"
  attach g xvdb "$file" # the first round allocates what is then kept
  detach g xvdb
  net_attach
  net_detach
  local grants before_fds=0
  grants=$(grants_mapped)
  [ "$LAB_BACKEND" != splitd ] || before_fds=$(ls "/proc/$(pgrep -x splitd)/fd" | wc -l)
  for round in $(seq 200); do
    timed attach g xvdb "$file"
    timed net_attach
    timed net_detach
    timed detach g xvdb
  done
  note "slowest of 800 steps: $slowest ms"
  [ "$slowest" -lt 10000 ] || fail "a step took $slowest ms"
  [ "$(grants_mapped)" = "$grants" ] || fail "grants mapped: $grants before, $(grants_mapped) after"
  if [ "$LAB_BACKEND" = splitd ]; then
    must_within 60 eval '[ "$(workers | wc -l)" = 1 ] && [ -z "$(net_workers)" ]'
    local after_fds
    after_fds=$(ls "/proc/$(pgrep -x splitd)/fd" | wc -l)
    [ "$after_fds" -le "$before_fds" ] || fail "splitd's open files: $before_fds before, $after_fds after"
  fi
  guest_stop g
}
timed() {
  milliseconds "$@"
  [ "$MS" -le "$slowest" ] || slowest=$MS
}
net_attach() {
  xl network-attach g bridge=xenbr0 mac=00:16:3e:00:00:02 || fail "round ${round:-0}: xl network-attach failed"
  must_within 60 node_is "$(vif_frontend g)/state" 4
}
net_detach() {
  local back front
  back=$(vif_backend g) front=$(vif_frontend g)
  xl network-detach g 0 || fail "round ${round:-0}: xl network-detach failed"
  must_within 60 absent "$back"
  must_within 60 absent "$front"
}
