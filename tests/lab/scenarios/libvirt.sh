# says: libvirt's xen driver creates a guest on splitd, attaches and detaches a disk and an interface, and sees it shut down
# acceptance: 37
# backends: splitd
# packages: libvirt-daemon libvirt-daemon-driver-xen libvirt-clients
# limit: 1200
virsh() { command virsh -q -c xen:///system "$@"; }
disk_xml() { printf "<disk type='file' device='disk'><driver name='%s' type='raw'/><source file='%s'/><target dev='%s' bus='xen'/></disk>" "$1" "$2" "$3"; }
scenario() {
  local root
  packages
  network
  splitd_serves_all
  # libvirt knows no processor as small as the emulator's, which lacks what its 486 has.
  sed -i "/name='vme'/d" /usr/share/libvirt/cpu_map/x86_486.xml
  # Its driver for QEMU's own guests, which wants a user that another package makes, and ends libvirtd without.
  rm -f /usr/lib/*/libvirt/connection-driver/libvirt_driver_qemu.so
  mkdir -p /run/libvirt /run/lab/guests
  (setsid libvirtd > /run/lab/libvirtd.log 2>&1 < /dev/null &)
  must_within 120 virsh version
  root=$(root_image g)
  rm -f "$(guest_console g)"
  cat > /run/lab/guests/g.xml <<XML
<domain type='xen'><name>g</name><memory unit='MiB'>256</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='xenpv'>linux</type><kernel>/lab/guest/$LAB_GUEST/vmlinuz</kernel><initrd>/lab/guest/$LAB_GUEST/initrd</initrd>
<cmdline>$GUEST_ARGUMENTS</cmdline></os><on_crash>destroy</on_crash>
<devices>$(disk_xml phy "$root" xvda)<console type='pty'><target type='xen'/></console></devices></domain>
XML
  virsh create /run/lab/guests/g.xml || fail "virsh create: $(tail -2 /run/lab/libvirtd.log)"
  must_within $UP_SECONDS guest_up_or_gone g
  guest_up g || fail "the guest did not reach its userland"
  [ "$(workers | wc -l)" = 1 ] || fail "$(workers | wc -l) workers serve the root disk"
  disk_xml phy "$(image data 64)" xvdb > /run/lab/guests/disk.xml
  virsh attach-device g /run/lab/guests/disk.xml --live || fail "virsh attach-device"
  must_within 60 guest_run g 'test -b /dev/xvdb'
  verify g /dev/xvdb --rw=randwrite --bs=4k --iodepth=32 --size=8M
  virsh detach-device g /run/lab/guests/disk.xml --live || fail "virsh detach-device"
  must_within 60 guest_run g 'test ! -b /dev/xvdb'
  virsh attach-interface g bridge xenbr0 --mac 00:16:3e:00:00:02 --live || fail "virsh attach-interface"
  guest_net g 2
  virsh detach-interface g bridge --mac 00:16:3e:00:00:02 --live || fail "virsh detach-interface"
  must_within 60 guest_run g 'test ! -e /sys/class/net/eth0'
  guest_kernel_quiet g
  virsh shutdown g
  must_within 120 guest_gone g
  pkill -x libvirtd
  must_within 60 eval '! pgrep -x libvirtd'
}
