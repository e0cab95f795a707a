# says: a snapshot of a volume taken under load with pause and resume: its file system is clean; a linked clone of a root volume boots
# backends: splitd
# limit: 1800
scenario() {
  local lv dev root
  lv=$(volume data 96)
  mkfs.ext4 -q "$lv"
  guest_start g "$(disk xvda "$(root_image g)")" "$(disk xvdb "$lv")"
  must_within 60 guest_run g 'test -b /dev/xvdb'
  guest_run g 'mkdir -p /run/mnt && mount -t ext4 /dev/xvdb /run/mnt'
  guest_job g load 'n=0; while [ ! -e /run/stop ]; do n=$(((n + 1) % 20)); head -c 1000000 /dev/urandom > /run/mnt/f$n; sync; done'
  must_within 120 guest_run g 'test -e /run/mnt/f5'
  dev=vbd/$(xl domid g)/xvdb
  splitctl pause "$dev" || fail "pause"
  lvcreate -qq -y -s -n backup -L 64M "$lv"
  splitctl resume "$dev" || fail "resume"
  udevadm settle
  # The journal of a file system in use is replayed, as at a mount; then nothing may be wrong.
  e2fsck -fy /dev/vg0/backup > /run/lab/said 2>&1 || [ $? = 1 ] || fail "e2fsck: $(tail -2 /run/lab/said)"
  e2fsck -fn /dev/vg0/backup > /run/lab/said 2>&1 || fail "after its journal: $(tail -2 /run/lab/said)"
  guest_run g 'touch /run/stop'
  must_within 120 guest_job_done g load
  guest_job_output g load || fail "the load: $(guest_job_output g load | tail -2)"
  guest_run g 'umount /run/mnt'
  guest_kernel_quiet g
  guest_stop g
  lvremove -qfy vg0/backup
  lvremove -qfy vg0/data
  root=$(root_image golden)
  lv=$(volume golden $(($(stat -c %s "$root") / 1048576 + 1)))
  dd if="$root" of="$lv" bs=1M conv=fsync status=none
  lvcreate -qq -y -s -n clone -L 64M "$lv"
  udevadm settle
  guest_start g "$(disk xvda /dev/vg0/clone)"
  guest_run g 'dd if=/dev/urandom of=/mark bs=4k count=1 && sync' || fail "the clone cannot be written"
  guest_stop g
  cmp -n "$(stat -c %s "$root")" "$root" "$lv" || fail "a clone's write reached the golden volume"
  lvremove -qfy vg0/clone
  lvremove -qfy vg0/golden
}
