# says: 200 rounds of attach and detach on a running guest: no 10 s stall, no node, grant, fd or process left
# acceptance: 10
# limit: 2400
scenario() {
  local file round slowest=0
  file=$(image data 16)
  guest_start g "$(disk xvda "$(root_image g)")"
  attach g xvdb "$file" # the first round allocates what is then kept
  detach g xvdb
  local grants before_fds=0
  grants=$(grants_mapped)
  [ "$LAB_BACKEND" != splitd ] || before_fds=$(ls "/proc/$(pgrep -x splitd)/fd" | wc -l)
  for round in $(seq 200); do
    milliseconds attach g xvdb "$file"
    [ "$MS" -gt "$slowest" ] && slowest=$MS
    milliseconds detach g xvdb
    [ "$MS" -gt "$slowest" ] && slowest=$MS
  done
  note "slowest of 400 steps: $slowest ms"
  [ "$(grants_mapped)" = "$grants" ] || fail "grants mapped: $grants before, $(grants_mapped) after"
  if [ "$LAB_BACKEND" = splitd ]; then
    must_within 60 eval '[ "$(workers | wc -l)" = 1 ]'
    local after_fds
    after_fds=$(ls "/proc/$(pgrep -x splitd)/fd" | wc -l)
    [ "$after_fds" -le "$before_fds" ] || fail "splitd's open files: $before_fds before, $after_fds after"
  fi
  guest_stop g
}
