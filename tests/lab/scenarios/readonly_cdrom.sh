# says: read-only, no-discard and cdrom disks: info bits, refused writes, no discard
# acceptance: 14
scenario() {
  guest_start g "$(disk xvda "$(root_image g)")" "$(disk xvdb "$(image ro 16)" access=ro)" \
    "$(disk xvdc "$(image nodiscard 16)" no-discard)" "$(disk xvdd "$(image cd 16)" access=ro devtype=cdrom)"
  must_within 60 node_is "$(frontend_path g xvdd)/state" 4
  [ $(($(node "$(backend_path g xvdb)/info") & 4)) = 4 ] || fail "xvdb is not marked read-only"
  guest_run g 'echo x | dd of=/dev/xvdb bs=512 conv=sync oflag=direct 2>/dev/null' && fail "a write to a read-only disk succeeded"
  [ "$(guest_run g 'cat /sys/block/xvdb/ro')" = 1 ] || fail "the guest takes xvdb for writable"
  [ "$(node "$(backend_path g xvdc)/feature-discard")" != 1 ] || fail "discard offered in spite of no-discard"
  [ $(($(node "$(backend_path g xvdd)/info") & 1)) = 1 ] || fail "xvdd is not marked as a cdrom"
  guest_stop g
}
