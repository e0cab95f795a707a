# says: a frontend that closes and comes back (as a kexec'd kernel does) is served again while online=1
# acceptance: 19
scenario() {
  local back front
  guest_start g "$(disk xvda "$(root_image g)")" "$(disk xvdb "$(image data 16)")"
  back=$(backend_path g xvdb) front=$(frontend_path g xvdb)
  must_within 60 node_is "$front/state" 4
  guest_run g 'echo before | dd of=/dev/xvdb bs=512 conv=sync oflag=direct 2>/dev/null
    echo vbd-51728 > /sys/bus/xen/drivers/vbd/unbind'
  must_within 60 node_is "$back/state" 6
  xenstore-write "$front/state" 1 # what a booting kernel writes first
  must_within 60 node_is "$back/state" 2
  guest_run g 'echo vbd-51728 > /sys/bus/xen/drivers/vbd/bind'
  must_within 60 node_is "$back/state" 4
  must_within 60 guest_run g 'dd if=/dev/xvdb bs=512 count=1 iflag=direct 2>/dev/null | grep -q before'
  [ "$LAB_BACKEND" != splitd ] || [ "$(workers | wc -l)" = 2 ] || fail "$(workers | wc -l) workers for two disks"
  guest_stop g
}
