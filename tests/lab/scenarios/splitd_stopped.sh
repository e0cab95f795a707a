# says: create while splitd is stopped fails in bounded time; once it runs again, create succeeds
# acceptance: 6
# backends: splitd
scenario() {
  local spec
  spec=$(disk xvda "$(root_image g)")
  splitd_stop
  refuse "xl create succeeded without splitd" milliseconds guest_create g "$spec"
  note "refused after $MS ms"
  splitd_start
  must_within 60 guest_gone g
  guest_start g "$spec"
  guest_stop g
}
