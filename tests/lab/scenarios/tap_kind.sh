# says: a disk of kind vbd3 (backendtype=tap), which no kernel driver takes, beside one that the kernel's blkback serves
# acceptance: 34
# backends: splitd
# xen: 4.20
scenario() {
  local root data
  root=$(root_image g) data=$(image data 64)
  rm -f /etc/modprobe.d/lab.conf
  modprobe xen-blkback
  guest_start g "format=raw,vdev=xvda,target=$root" "format=raw,backendtype=tap,script=block-splitd,vdev=xvdb,target=$data"
  [ -e "/sys/bus/xen-backend/devices/vbd-$(xl domid g)-51712/driver" ] || fail "the kernel does not serve xvda"
  node_is "/local/domain/0/backend/vbd3/$(xl domid g)/51728/state" 4 || fail "vbd3 is at state $(node "/local/domain/0/backend/vbd3/$(xl domid g)/51728/state")"
  [ "$(workers | wc -l)" = 1 ] || fail "$(workers | wc -l) workers for one disk of ours"
  splitctl list | grep -q vbd3 || fail "splitctl list does not show the disk"
  verify g /dev/xvdb --rw=randwrite --bs=4k --iodepth=16 --size=8M
  guest_kernel_quiet g
  local domain
  domain=$(xl domid g)
  guest_stop g
  must_within 30 absent "/local/domain/0/backend/vbd3/$domain"
  must_within 30 eval '[ -z "$(workers)" ]'
  rmmod xen-blkback
  echo 'install xen-blkback /bin/true' > /etc/modprobe.d/lab.conf
}
