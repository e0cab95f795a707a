# says: block-detach of an idle disk: closes in order, its directories are gone, its worker ended
# acceptance: 11
# core: 4.20
scenario() {
  local back front
  guest_start g "$(disk xvda "$(root_image g)")"
  attach g xvdb "$(image data 16)"
  back=$(backend_path g xvdb) front=$(frontend_path g xvdb)
  milliseconds xl block-detach g xvdb || fail "xl block-detach failed"
  note "block-detach of an idle disk: $MS ms"
  must_within 60 absent "$back"
  must_within 60 absent "$front"
  must_within 60 absent "/libxl/$(xl domid g)/device/vbd/$(vdev_number xvdb)"
  must_within 60 guest_run g '! test -e /dev/xvdb'
  [ "$LAB_BACKEND" != splitd ] || must_within 60 eval '[ "$(workers | wc -l)" = 1 ]'
  guest_stop g
}
