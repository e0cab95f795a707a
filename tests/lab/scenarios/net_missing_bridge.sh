# says: create with a bridge that is not there is refused in words that name it, and leaves nothing
# acceptance: 5
scenario() {
  local said
  network
  refuse "xl create succeeded" eval 'VIFS="$(vif 2 | sed s/xenbr0/nobridge/)" guest_create g "$(disk xvda "$(root_image g)")" 2> /run/lab/said'
  said=$(cat /run/lab/said)
  grep -q 'Could not find bridge device nobridge' <<< "$said" || fail "xl does not name the bridge: $said"
  guest_gone g || fail "domain g is left"
  must_within 60 eval '[ -z "$(net_workers)" ]'
  must_within 60 eval '! ls -d /sys/class/net/vif* 2> /dev/null'
}
