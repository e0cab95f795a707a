# says: create with a target that is not there is refused at once, in words that name it, and leaves nothing
# acceptance: 4
# core: 4.17
# backends: splitd
scenario() {
  local said
  refuse "xl create succeeded" guest_create g "$(disk xvda /srv/not-there.img)" 2> /run/lab/said
  said=$(cat /run/lab/said)
  grep -q 'script: .*/srv/not-there.img' <<< "$said" || fail "xl does not name the target: $said"
  # What libxl says when one of its 10 s waits has run out.
  refuse "some wait ran into its limit: $said" grep -q 'device with path' <<< "$said"
  guest_gone g || fail "domain g is left"
  [ -z "$(workers)" ] || fail "a worker is left"
}
