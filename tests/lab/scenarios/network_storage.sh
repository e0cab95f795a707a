# says: disks on an NBD device and on an iSCSI LUN, from Debian's own servers: verified, a worker killed on each, a LUN that goes away for a while
# backends: splitd
# packages: nbd-server nbd-client tgt open-iscsi
# limit: 1800

IQN=iqn.2026-01.example:web1

nbd_device() {
  image nbd 96 > /dev/null
  mkdir -p /run/nbd
  printf '%s\n' '[generic]' '  listenaddr = 127.0.0.1' '  port = 10809' '[web1]' '  exportname = /srv/nbd.img' '  flush = true' > /run/nbd/config
  modprobe nbd
  nbd-server -C /run/nbd/config -p /run/nbd/pid > /run/lab/nbd.log 2>&1
  must_within 60 eval "ss -ltn | grep -q ':10809 '"
  nbd-client -N web1 127.0.0.1 10809 /dev/nbd0 > /run/lab/said 2>&1 || fail "nbd-client: $(tail -1 /run/lab/said)"
}
# iscsi_device: logs in to a LUN of this host's own target and leaves its node in LUN.
iscsi_device() {
  image iscsi 96 > /dev/null
  modprobe iscsi_tcp
  (setsid tgtd -f --iscsi portal=127.0.0.1:3260 > /run/lab/tgtd.log 2>&1 < /dev/null &)
  must_within 60 tgtadm --lld iscsi --mode sys --op show
  tgtadm --lld iscsi --mode target --op new --tid 1 --targetname $IQN
  tgtadm --lld iscsi --mode logicalunit --op new --tid 1 --lun 1 --backing-store /srv/iscsi.img
  tgtadm --lld iscsi --mode target --op bind --tid 1 --initiator-address ALL
  mkdir -p /run/lock/iscsi
  [ -s /etc/iscsi/initiatorname.iscsi ] || echo "InitiatorName=iqn.2026-01.example:dom0" > /etc/iscsi/initiatorname.iscsi
  (setsid iscsid -f > /run/lab/iscsid.log 2>&1 < /dev/null &)
  must_within 60 iscsiadm -m discovery -t sendtargets -p 127.0.0.1
  iscsiadm -m node -T $IQN -p 127.0.0.1 --login > /run/lab/said 2>&1 || fail "iscsiadm: $(tail -1 /run/lab/said)"
  must_within 60 eval "ls /dev/disk/by-path/*$IQN-lun-1"
  LUN=$(echo /dev/disk/by-path/*$IQN-lun-1)
}
pid_of() { splitctl show "$1" | awk '$1 == "pid" {print $2}'; }
# killed VDEV: its worker is, and another serves.
killed() {
  local dev old
  dev=vbd/$(xl domid g)/$1
  old=$(pid_of "$dev")
  kill -9 "$old"
  must_within 60 eval '[ -n "$(pid_of '"$dev"')" ] && [ "$(pid_of '"$dev"')" != '"$old"' ]'
}
scenario() {
  packages
  nbd_device
  iscsi_device
  guest_start g "$(disk xvda "$(root_image g)")" "$(disk xvdb /dev/nbd0)" "$(disk xvdc "$LUN")"
  must_within 60 guest_run g 'test -b /dev/xvdb -a -b /dev/xvdc'
  verify g /dev/xvdc --rw=randwrite --bs=4k --iodepth=32 --size=16M
  verify_until_stopped g
  killed xvdb
  killed xvdc
  guest_io_since g 0
  wait_for 120 guest_io_since g "$((IO_COUNT + 64))" || fail "no I/O goes on after the worker on NBD was killed"
  verify_stop g
  # The server holds still for ten seconds under load, which is no error.
  guest_job g lun "$VERIFY --filename=/dev/xvdc --size=16M --rw=randwrite --bs=4k --iodepth=32"
  must_within 60 guest_run g 'awk "{exit !(\$9 > 0)}" /sys/block/xvdc/stat'
  pkill -STOP -x tgtd
  sleep 10
  pkill -CONT -x tgtd
  must_within 600 guest_job_done g lun
  guest_job_output g lun > /run/lab/said || fail "fio over the pause of the target: $(grep -m1 -i error /run/lab/said)"
  guest_kernel_quiet g
  guest_stop g
  iscsiadm -m node -T $IQN -p 127.0.0.1 --logout > /dev/null
  pkill -x iscsid || true
  tgtadm --lld iscsi --mode target --op delete --force --tid 1
  pkill -9 -x tgtd || true
  nbd-client -d /dev/nbd0 > /dev/null
  kill "$(cat /run/nbd/pid)"
}
