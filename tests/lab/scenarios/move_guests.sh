# says: two guests move one at a time from the kernel's blkback to splitd and back, on one host that never stops
# acceptance: 33
# backends: splitd
# limit: 1800
scenario() {
  local one two
  one=$(root_image one) two=$(root_image two)
  rm -f /etc/modprobe.d/lab.conf
  modprobe xen-blkback
  guest_start one "format=raw,vdev=xvda,target=$one"
  guest_start two "format=raw,vdev=xvda,target=$two"
  served_by_kernel one && served_by_kernel two || fail "the kernel does not serve both guests at the start"
  splitctl takeover || fail "splitctl takeover failed"

  guest_stop one
  guest_start one "script=block-splitd,vdev=xvda,target=$one"
  served_by_kernel one && fail "the kernel took a disk of splitd's"
  served_by_kernel two || fail "moving one guest took the other's disk from the kernel"
  guest_run two 'echo still-here > /a; sync'
  guest_stop two
  guest_start two "script=block-splitd,vdev=xvda,target=$two"
  [ "$(workers | wc -l)" = 2 ] || fail "$(workers | wc -l) workers for two moved disks"

  guest_stop one
  splitctl handback || fail "splitctl handback failed"
  guest_start one "format=raw,vdev=xvda,target=$one"
  served_by_kernel one || fail "the kernel does not serve a guest that was handed back"
  guest_run two 'echo and-here > /b; sync; cat /a' | grep -q still-here || fail "guest two lost what it wrote"
  guest_stop two
  guest_start two "format=raw,vdev=xvda,target=$two"
  served_by_kernel two || fail "the kernel does not serve the second guest"
  guest_run two 'cat /b' | grep -q and-here || fail "guest two lost what it wrote"
  guest_stop one
  guest_stop two
  rmmod xen-blkback
  echo 'install xen-blkback /bin/true' > /etc/modprobe.d/lab.conf
}
served_by_kernel() { [ -e "/sys/bus/xen-backend/devices/vbd-$(xl domid "$1")-51712/driver" ]; }
