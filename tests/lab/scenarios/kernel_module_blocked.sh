# says: after takeover, modprobe xen-blkback (and udev's autoload) is blocked; handback undoes it
# acceptance: 33
# backends: splitd
scenario() {
  rm -f /etc/modprobe.d/lab.conf
  splitctl takeover || fail "splitctl takeover failed"
  modprobe xen-blkback || true
  refuse "xen-blkback was loaded in spite of the takeover" grep -q '^xen_blkback' /proc/modules
  guest_start g "$(disk xvda "$(root_image g)")"
  refuse "a guest's start loaded xen-blkback" grep -q '^xen_blkback' /proc/modules
  guest_stop g
  splitctl handback || fail "splitctl handback failed"
  modprobe -n xen-blkback | grep -q false && fail "the rule is left after handback"
  printf 'install xen-%s /bin/true\n' blkback netback > /etc/modprobe.d/lab.conf
}
