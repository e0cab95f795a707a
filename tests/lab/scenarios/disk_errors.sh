# says: a disk that fails (dm-error) gives its guest errors and is counted; nothing else is hurt, and it goes on once the disk is well
# backends: splitd
# limit: 900
scenario() {
  local lv dev worker
  lv=$(volume shaky 32)
  dmsetup create shaky --table "0 65536 linear $lv 0"
  udevadm settle
  guest_start g "$(disk xvda "$(root_image g)")" "$(disk xvdb /dev/mapper/shaky)"
  must_within 60 guest_run g 'test -b /dev/xvdb'
  verify g /dev/xvdb --rw=randwrite --bs=4k --iodepth=16 --size=4M
  dev=vbd/$(xl domid g)/xvdb
  worker=$(splitctl show "$dev" | awk '$1 == "pid" {print $2}')
  becomes "0 65536 error"
  refuse "a read of a disk that fails went well" guest_run g 'dd if=/dev/xvdb of=/dev/null bs=4k count=1 iflag=direct'
  refuse "a write of a disk that fails went well" guest_run g 'dd if=/dev/zero of=/dev/xvdb bs=4k count=1 oflag=direct'
  guest_run g 'dd if=/dev/urandom of=/mark bs=4k count=16 && sync' || fail "its other disk was hurt"
  [ "$(splitctl stats "$dev" --json | tr ',{}' '\n' | awk -F: '/"io_errors"/ {print $2; exit}')" -gt 0 ] || fail "no error was counted"
  node_is "$(backend_path g xvdb)/state" 4 || fail "the backend left state 4"
  becomes "0 65536 linear $lv 0"
  verify g /dev/xvdb --rw=randwrite --bs=4k --iodepth=16 --size=4M
  [ "$(splitctl show "$dev" | awk '$1 == "pid" {print $2}')" = "$worker" ] || fail "the worker was replaced"
  guest_stop g
  dmsetup remove shaky
  lvremove -qfy vg0/shaky
}
becomes() {
  dmsetup suspend shaky
  dmsetup load shaky --table "$1"
  dmsetup resume shaky
}
