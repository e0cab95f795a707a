# says: a guest's root disk is a raw file; it boots, reads, writes; no loop device, no kernel backend
# acceptance: 1
# core: 4.17 4.20
# backends: splitd kernel qdisk
scenario() {
  guest_start g "$(disk xvda "$(root_image g)")"
  expect "backend not at 4" node_is "$(backend_path g xvda)/state" 4
  expect "frontend not at 4" node_is "$(frontend_path g xvda)/state" 4
  guest_run g 'dd if=/dev/urandom of=/a bs=4k count=256 2>/dev/null && sync && sum1=$(md5sum < /a) &&
    echo 3 > /proc/sys/vm/drop_caches && [ "$(md5sum < /a)" = "$sum1" ]'
  guest_run g 'dmesg -r | grep "^<[0-4]>.*\(xvda\|blkfront\)"' && fail "the guest's kernel complains"
  if [ "$LAB_BACKEND" = splitd ]; then
    refuse "a loop device is in use" sh -c 'losetup -a | grep -q /srv/g.img'
    refuse "xen-blkback is loaded" grep -q xen_blkback /proc/modules
    [ "$(workers | wc -l)" = 1 ] || fail "$(workers | wc -l) workers for one disk"
  fi
  guest_stop g
}
