# says: block-detach --force with the guest paused: done within 10 s and nothing comes back
# acceptance: 13
scenario() {
  local back front
  guest_start g "$(disk xvda "$(root_image g)")"
  attach g xvdb "$(image data 16)"
  back=$(backend_path g xvdb) front=$(frontend_path g xvdb)
  xl pause g
  milliseconds xl block-detach --force g xvdb || fail "forced detach failed"
  note "forced detach: $MS ms"
  must_within 60 absent "$back"
  absent "$front" || fail "the frontend's directory is left"
  [ "$LAB_BACKEND" != splitd ] || must_within 60 eval '[ "$(workers | wc -l)" = 1 ]'
  xl unpause g
  absent "$back" || fail "the backend's directory came back"
  xl destroy g
}
