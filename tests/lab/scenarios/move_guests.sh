# says: two guests move one at a time from the kernel's blkback and netback to splitd and back, on one host that never stops
# acceptance: 33
# backends: splitd
# limit: 1800
scenario() {
  local one two
  one=$(root_image one) two=$(root_image two)
  network
  rm -f /etc/modprobe.d/lab.conf
  modprobe -a xen-blkback xen-netback
  start one 2 "format=raw,vdev=xvda,target=$one"
  start two 3 "format=raw,vdev=xvda,target=$two"
  served_by_kernel one && served_by_kernel two || fail "the kernel does not serve both guests at the start"
  splitctl takeover --disks --vifs || fail "splitctl takeover failed"

  guest_stop one
  start one 2 "script=block-splitd,vdev=xvda,target=$one"
  served_by_splitd one || fail "the kernel took a device of splitd's"
  served_by_kernel two || fail "moving one guest took the other's devices from the kernel"
  guest_run two 'echo still-here > /a; sync'
  guest_stop two
  start two 3 "script=block-splitd,vdev=xvda,target=$two"
  [ "$(workers | wc -l)" = 2 ] || fail "$(workers | wc -l) workers for two moved disks"
  [ "$(net_workers | wc -l)" = 2 ] || fail "$(net_workers | wc -l) workers for two moved interfaces"

  guest_stop one
  splitctl handback || fail "splitctl handback failed"
  start one 2 "format=raw,vdev=xvda,target=$one"
  served_by_kernel one || fail "the kernel does not serve a guest that was handed back"
  served_by_splitd two || fail "handing one guest back took the other's devices from splitd"
  guest_run two 'echo and-here > /b; sync; cat /a' | grep -q still-here || fail "guest two lost what it wrote"
  guest_stop two
  start two 3 "format=raw,vdev=xvda,target=$two"
  served_by_kernel two || fail "the kernel does not serve the second guest"
  guest_run two 'cat /b' | grep -q and-here || fail "guest two lost what it wrote"
  guest_stop one
  guest_stop two
  rmmod xen-blkback xen-netback
  printf 'install xen-%s /bin/true\n' blkback netback > /etc/modprobe.d/lab.conf
}
# start NAME NUMBER DISK: with an interface that dom0 reaches.
start() {
  VIFS=$(vif "$2") guest_start "$1" "$3"
  guest_net "$1" "$2"
}
driver() { [ -e "/sys/bus/xen-backend/devices/$1-$(xl domid "$2")-$3/driver" ]; }
served_by_kernel() { driver vbd "$1" 51712 && driver vif "$1" 0; }
served_by_splitd() { ! driver vbd "$1" 51712 && ! driver vif "$1" 0; }
