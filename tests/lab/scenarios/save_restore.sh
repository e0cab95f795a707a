# says: save and restore under verifying I/O, and a checkpoint that lets the guest go on: the I/O verifies, no worker is left over
# acceptance: 23
# limit: 1800
scenario() {
  local first
  guest_start g "$(disk xvda "$(root_image g)")" "$(disk xvdb "$(image data 64)")"
  must_within 60 guest_run g 'test -b /dev/xvdb'
  verify_until_stopped g
  first=$(xl domid g)

  xl save g /srv/g.save || fail "xl save failed"
  must_within 60 guest_gone g
  [ "$LAB_BACKEND" != splitd ] || must_within 60 eval '[ -z "$(workers)" ]'
  must_within 30 absent "/local/domain/0/backend/$(backend_kind)/$first"
  xl restore /srv/g.save || fail "xl restore failed"
  [ "$(xl domid g)" != "$first" ] || fail "restored as the domain it was"
  must_within 60 node_is "$(backend_path g xvdb)/state" 4
  must_within 60 guest_io_since g 0
  wait_for 120 guest_io_since g "$((IO_COUNT + 64))" || fail "no I/O goes on after the restore"

  first=$(xl domid g)
  xl save -c g /srv/g.save || fail "xl save -c failed"
  [ "$(xl domid g)" = "$first" ] || fail "the checkpoint ended the guest"
  must_within 60 node_is "$(backend_path g xvdb)/state" 4
  must_within 60 guest_io_since g 0
  wait_for 120 guest_io_since g "$((IO_COUNT + 64))" || fail "no I/O goes on after the checkpoint"
  [ "$LAB_BACKEND" != splitd ] || must_within 60 eval '[ "$(workers | wc -l)" = 2 ]'
  verify_stop g
  guest_kernel_quiet g
  guest_stop g
  rm -f /srv/g.save
}
