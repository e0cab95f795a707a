# says: GRUB's own PV loader reads its configuration, kernel and initrd from our disk and hands over to Linux
# acceptance: 19
# limit: 1800
scenario() {
  KERNEL=grub guest_start g "$(disk xvda "$(bootable_image g)")"
  guest_says g GRUB-READ-ITS-CONFIG || fail "GRUB did not read its configuration"
  expect "backend not at 4 after GRUB handed over" node_is "$(backend_path g xvda)/state" 4
  [ "$LAB_BACKEND" != splitd ] || [ "$(workers | wc -l)" = 1 ] || fail "$(workers | wc -l) workers for one disk"
  guest_kernel_quiet g
  guest_stop g
}
