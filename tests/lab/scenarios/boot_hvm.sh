# says: an HVM guest: its emulated boot disk is QEMU's, its paravirtual ones are splitd's after the unplug; verify, an interface
# acceptance: 26
# backends: splitd
# limit: 1800
scenario() {
  local root data
  network
  splitd_serves_all
  root=$(volume root 256)
  dd if=/lab/guest-root.img of="$root" bs=1M conv=fsync status=none
  data=$(volume data 64)
  UP_SECONDS=900 EXTRA='type="hvm"
vnc=0
usb=0
hap=1' MEMORY=512 VIFS=$(vif 2 type=vif) guest_start g "phy:$root,xvda,w" "phy:$data,xvdb,w"
  guest_run g 'test "$(cat /sys/hypervisor/guest_type)" = HVM' || fail "the guest is $(guest_run g 'cat /sys/hypervisor/guest_type')"
  [ "$(workers | wc -l)" = 2 ] || fail "$(workers | wc -l) workers"
  guest_net g 2
  must_within 60 guest_run g 'test -b /dev/xvdb'
  verify g /dev/xvdb --rw=randwrite --bs=4k --iodepth=32 --size=8M
  guest_kernel_quiet g
  guest_net_quiet g
  guest_stop g
  lvremove -qfy vg0/root vg0/data
}
