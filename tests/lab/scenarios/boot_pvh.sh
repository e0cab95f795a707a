# says: a PVH guest: root disk, a disk that verifies at depth 32, an interface with a file over TCP; hot plug
# limit: 1800
scenario() {
  network
  # One vCPU: several on one processor of the emulator stand still in the kernel's stop_machine for minutes, whatever serves them.
  EXTRA='type="pvh"' MEMORY=512 VIFS=$(vif 2) guest_start g "$(disk xvda "$(root_image g)")" "$(disk xvdb "$(image data 64)")"
  guest_run g 'test "$(cat /sys/hypervisor/guest_type)" = PVH' || fail "the guest is $(guest_run g 'cat /sys/hypervisor/guest_type')"
  guest_net g 2
  must_within 60 guest_run g 'test -b /dev/xvdb'
  verify g /dev/xvdb --rw=randwrite --bs=4k --iodepth=32 --size=16M
  tcp_file g 10.9.0.2 16
  attach g xvdc "$(image more 16)"
  must_within 60 guest_run g 'test -b /dev/xvdc'
  detach g xvdc
  guest_kernel_quiet g
  guest_net_quiet g
  guest_stop g
}
