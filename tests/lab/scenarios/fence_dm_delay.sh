# says: kill -9 of a worker with a write stuck in a slow device (dm-delay): nothing is answered before that write has ended, then all is; without the fence the disk is lost
# acceptance: 29
# backends: splitd
# faulty-worker: yes
# limit: 900

# A write takes so long, a read no time.
WRITE_MS=9000

slow_device() {
  local lv
  lv=$(volume slow 32)
  modprobe dm-delay
  dmsetup create slow --table "0 65536 delay $lv 0 0 $lv 0 $WRITE_MS"
  udevadm settle
}
# kill_at_write: one write is under way, and its worker is killed; WRITE_LEFT_MS is what the write had still to go.
kill_at_write() {
  local dev old began
  dev=vbd/$(xl domid g)/xvdb
  old=$(splitctl show "$dev" | awk '$1 == "pid" {print $2}')
  guest_run g 'head -c 4096 /dev/urandom > /run/new'
  began=$(date +%s%N)
  guest_job g write 'dd if=/run/new of=/dev/xvdb bs=4k count=1 oflag=direct'
  # Not the device's own count: it does not begin before the delay has ended.
  must_within 30 eval 'dmsetup status slow | awk "{exit !(\$5 > 0)}"'
  kill -9 "$old"
  WRITE_LEFT_MS=$((WRITE_MS - ($(date +%s%N) - began) / 1000000))
}
scenario() {
  slow_device
  guest_start g "$(disk xvda "$(root_image g)")" "$(disk xvdb /dev/mapper/slow)"
  must_within 60 guest_run g 'test -b /dev/xvdb'
  kill_at_write
  milliseconds guest_run g 'dd if=/dev/xvdb of=/dev/null bs=4k count=1 skip=64 iflag=direct' || fail "the read failed"
  note "fenced: a read was answered after $MS ms, the write had $WRITE_LEFT_MS ms to go"
  [ "$WRITE_LEFT_MS" -gt 3000 ] || fail "the machine was too slow: the write had only $WRITE_LEFT_MS ms to go"
  [ "$MS" -ge "$WRITE_LEFT_MS" ] || fail "a read was answered after $MS ms, $WRITE_LEFT_MS before the old write's end"
  must_within 60 guest_job_done g write
  guest_job_output g write > /run/lab/said || fail "the write: $(cat /run/lab/said)"
  guest_run g 'dd if=/dev/xvdb bs=4k count=1 iflag=direct | cmp - /run/new' || fail "what was written is not what is read"
  guest_kernel_quiet g
  # The same with a worker that leaves the fence out: the dead one's io_uring still holds the event channel, whose bind then fails.
  printf '#!/bin/sh\nSPLITD_WITHOUT=fence exec /run/lab/faulty/blkback "$@"\n' > /run/lab/unfenced
  mkdir -p /run/lab/faulty
  cp /host/blkback-faulty /run/lab/faulty/blkback
  chmod 0755 /run/lab/unfenced /run/lab/faulty/blkback
  mount --bind /run/lab/unfenced /usr/libexec/splitd/blkback
  # The worker that served so far keeps its fence; its successors have none.
  splitctl restart "vbd/$(xl domid g)/xvdb" || { umount /usr/libexec/splitd/blkback; fail "restart"; }
  kill_at_write
  wait_for 60 node_is "$(backend_path g xvdb)/state" 6 || { umount /usr/libexec/splitd/blkback; fail "without the fence the disk goes on"; }
  umount /usr/libexec/splitd/blkback
  grep -q 'is not for us to bind' "$SPLITD_LOG" || fail "the disk was closed, and not for want of its event channel"
  note "without the fence the disk is lost"
  xl destroy g
  must_within 60 guest_gone g
  # The dead worker's write keeps the device busy until its end.
  must_within 60 dmsetup remove slow
  lvremove -qfy vg0/slow
}
