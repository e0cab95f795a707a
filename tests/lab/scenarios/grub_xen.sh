# says: GRUB's own PV loader reads its configuration, kernel and initrd from our disk and hands over to Linux
# acceptance: 19
# limit: 1800
scenario() {
  local file
  file=$(root_image g)
  mkdir -p /run/lab/mnt
  mount -o loop "$file" /run/lab/mnt
  mkdir -p /run/lab/mnt/boot/grub
  cp "/lab/guest/$LAB_GUEST/vmlinuz" "/lab/guest/$LAB_GUEST/initrd" /run/lab/mnt/boot/
  printf '%s\n' 'echo GRUB-READ-ITS-CONFIG' 'linux /boot/vmlinuz console=hvc0 quiet loglevel=1 panic=-1 mitigations=off' \
    'initrd /boot/initrd' 'boot' > /run/lab/mnt/boot/grub/grub.cfg
  umount /run/lab/mnt
  KERNEL=grub guest_start g "$(disk xvda "$file")"
  guest_says g GRUB-READ-ITS-CONFIG || fail "GRUB did not read its configuration"
  expect "backend not at 4 after GRUB handed over" node_is "$(backend_path g xvda)/state" 4
  [ "$LAB_BACKEND" != splitd ] || [ "$(workers | wc -l)" = 1 ] || fail "$(workers | wc -l) workers for one disk"
  guest_kernel_quiet g
  guest_stop g
}
