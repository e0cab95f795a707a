# says: xl shutdown -w: disks and interface close, no domain, node, tap or worker is left
# acceptance: 18
# core: 4.17
scenario() {
  local id
  network
  VIFS=$(vif 2) guest_start g "$(disk xvda "$(root_image g)")" "$(disk xvdb "$(image data 16)")"
  guest_net g 2
  id=$(xl domid g)
  timeout 120 xl shutdown -w g || fail "xl shutdown -w did not return"
  must_within 60 guest_gone g
  refuse "a zombie is left" sh -c "xl list | grep -q '(null)'"
  must_within 60 absent "/local/domain/0/backend/$(backend_kind)/$id"
  must_within 60 absent "/local/domain/0/backend/vif/$id"
  must_within 60 eval "! test -e /sys/class/net/vif$id.0"
  [ "$LAB_BACKEND" != splitd ] || must_within 60 eval '[ -z "$(workers)$(net_workers)" ]'
}
