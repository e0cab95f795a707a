# says: xl shutdown -w: every disk closes, no domain, node or worker is left
# acceptance: 18
# core: yes
scenario() {
  local id
  guest_start g "$(disk xvda "$(root_image g)")" "$(disk xvdb "$(image data 16)")"
  id=$(xl domid g)
  timeout 120 xl shutdown -w g || fail "xl shutdown -w did not return"
  must_within 60 guest_gone g
  refuse "a zombie is left" sh -c "xl list | grep -q '(null)'"
  must_within 60 absent "/local/domain/0/backend/$(backend_kind)/$id"
  [ "$LAB_BACKEND" != splitd ] || must_within 60 eval '[ -z "$(workers)" ]'
}
