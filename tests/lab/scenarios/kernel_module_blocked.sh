# says: after takeover, modprobe of xen-blkback and xen-netback (and udev's autoload) is blocked; handback undoes it
# acceptance: 33
# backends: splitd
scenario() {
  local module
  network
  rm -f /etc/modprobe.d/lab.conf
  splitctl takeover --disks --vifs || fail "splitctl takeover failed"
  for module in blkback netback; do
    modprobe "xen-$module" || true
    refuse "xen-$module was loaded in spite of the takeover" grep -q "^xen_$module" /proc/modules
  done
  VIFS=$(vif 2) guest_start g "$(disk xvda "$(root_image g)")"
  guest_net g 2
  refuse "a guest's start loaded a backend of the kernel's" grep -q -E '^xen_(blk|net)back' /proc/modules
  guest_stop g
  splitctl handback || fail "splitctl handback failed"
  for module in blkback netback; do
    modprobe -n "xen-$module" | grep -q false && fail "the rule for xen-$module is left after handback"
    expect "xen-$module is not loaded after handback" grep -q "^xen_$module" /proc/modules
    # What comes next in this dom0 is splitd's.
    rmmod "xen-$module"
  done
  printf 'install xen-%s /bin/true\n' blkback netback > /etc/modprobe.d/lab.conf
}
