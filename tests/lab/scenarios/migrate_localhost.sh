# says: a live migration to the same host under verifying I/O: both ends hold the disk for a moment, the I/O verifies
# acceptance: 24
# limit: 1800
scenario() {
  local first kind=pv
  # Pages that a PV guest dirties are followed with shadow page tables, which Debian's Xen 4.20 is built without.
  xl info virt_caps | grep -q shadow || kind=pvh
  note "a guest of type $kind"
  EXTRA="type=\"$kind\"" guest_start g "$(disk xvda "$(root_image g)")" "$(disk xvdb "$(image data 64)")"
  must_within 60 guest_run g 'test -b /dev/xvdb'
  verify_until_stopped g
  first=$(xl domid g)
  # `-s ""` runs the receiver as a command of its own instead of through ssh.
  xl migrate -s "" g 'xl migrate-receive' || fail "xl migrate failed"
  # Its console's log keeps the name that it arrived under.
  ln -sf guest-g--incoming.log "$(guest_console g)"
  [ "$(xl domid g)" != "$first" ] || fail "migrated to the domain it was"
  must_within 60 node_is "$(backend_path g xvdb)/state" 4
  must_within 60 guest_io_since g 0
  wait_for 120 guest_io_since g "$((IO_COUNT + 64))" || fail "no I/O goes on after the migration"
  verify_stop g
  guest_kernel_quiet g
  [ "$LAB_BACKEND" != splitd ] || must_within 60 eval '[ "$(workers | wc -l)" = 2 ]'
  must_within 30 absent "/local/domain/0/backend/$(backend_kind)/$first"
  guest_stop g
}
