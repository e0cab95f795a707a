# says: pygrub reads kernel and initrd from our disk through dom0's own frontend, then the guest boots from the same disk
# acceptance: 27
# limit: 1200
scenario() {
  modprobe xen-blkfront
  KERNEL=pygrub guest_start g "$(disk xvda "$(bootable_image g)")"
  must_within 60 absent "/local/domain/0/backend/$(backend_kind)/0"
  [ "$LAB_BACKEND" != splitd ] || must_within 60 eval '[ "$(workers | wc -l)" = 1 ]'
  guest_kernel_quiet g
  guest_stop g

  # dom0 attaches a disk to itself, reads and writes it, and lets it go.
  local file
  file=$(image data 16)
  xl block-attach 0 "$(disk xvdz "$file")" || fail "xl block-attach 0 failed"
  must_within 60 test -b /dev/xvdz
  echo from-dom0 | dd of=/dev/xvdz bs=512 conv=sync oflag=direct status=none
  [ "$(head -c 9 "$file")" = from-dom0 ] || fail "what dom0 wrote is not in the image"
  xl block-detach 0 xvdz || fail "xl block-detach 0 failed"
  must_within 60 absent "/local/domain/0/backend/$(backend_kind)/0"
  must_within 60 eval '! test -e /dev/xvdz'
}
