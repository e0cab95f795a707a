# says: block-detach --force and network-detach with the guest paused: both done in bounded time, and nothing comes back
# acceptance: 13
scenario() {
  local back front net_back net_front tap
  network
  VIFS=$(vif 2) guest_start g "$(disk xvda "$(root_image g)")"
  attach g xvdb "$(image data 16)"
  back=$(backend_path g xvdb) front=$(frontend_path g xvdb)
  guest_net g 2
  net_back=$(vif_backend g) net_front=$(vif_frontend g) tap=$(vif_name g)
  xl pause g
  milliseconds xl block-detach --force g xvdb || fail "forced detach failed"
  note "forced detach: $MS ms"
  must_within 60 absent "$back"
  absent "$front" || fail "the frontend's directory is left"
  # For an interface libxl waits ten seconds for the guest, then goes on without it.
  milliseconds xl network-detach g 0 || fail "network-detach of a paused guest failed"
  note "network-detach of a paused guest: $MS ms"
  must_within 60 absent "$net_back"
  absent "$net_front" || fail "the interface's frontend directory is left"
  must_within 60 eval "! test -e /sys/class/net/$tap"
  [ "$LAB_BACKEND" != splitd ] || must_within 60 eval '[ "$(workers | wc -l)" = 1 ] && [ -z "$(net_workers)" ]'
  xl unpause g
  absent "$back" && absent "$net_back" || fail "a backend's directory came back"
  xl destroy g
}
