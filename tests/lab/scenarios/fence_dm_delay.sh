# says: kill -9 of a worker with a write stuck in a slow device (dm-delay): nothing is answered before that write has ended; without the fence something is
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
# answer_after_kill: one write is under way, its worker is killed; sets WAITED_MS to the time from the kill to the answer of a read, and
# WRITE_LEFT_MS to what the write had still to go at the kill.
answer_after_kill() {
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
  milliseconds guest_run g 'dd if=/dev/xvdb of=/dev/null bs=4k count=1 skip=64 iflag=direct' || fail "the read failed"
  WAITED_MS=$MS
  must_within 60 guest_job_done g write
  guest_job_output g write > /run/lab/said || fail "the write: $(cat /run/lab/said)"
  guest_run g 'dd if=/dev/xvdb bs=4k count=1 iflag=direct | cmp - /run/new' || fail "what was written is not what is read"
}
scenario() {
  slow_device
  guest_start g "$(disk xvda "$(root_image g)")" "$(disk xvdb /dev/mapper/slow)"
  must_within 60 guest_run g 'test -b /dev/xvdb'
  answer_after_kill
  note "fenced: a read was answered after $WAITED_MS ms, the write had $WRITE_LEFT_MS ms to go"
  [ "$WRITE_LEFT_MS" -gt 3000 ] || fail "the machine was too slow: the write had only $WRITE_LEFT_MS ms to go"
  [ "$WAITED_MS" -ge "$WRITE_LEFT_MS" ] || fail "a read was answered after $WAITED_MS ms, $WRITE_LEFT_MS before the old write's end"
  # The same with a worker that leaves the fence out: were it answered no sooner, the check above would show nothing.
  printf '#!/bin/sh\nSPLITD_WITHOUT=fence exec /run/lab/faulty/blkback "$@"\n' > /run/lab/unfenced
  mkdir -p /run/lab/faulty
  cp /host/blkback-faulty /run/lab/faulty/blkback
  chmod 0755 /run/lab/unfenced /run/lab/faulty/blkback
  mount --bind /run/lab/unfenced /usr/libexec/splitd/blkback
  # The worker that served so far keeps its fence; its successors have none.
  splitctl restart "vbd/$(xl domid g)/xvdb" || { umount /usr/libexec/splitd/blkback; fail "restart"; }
  answer_after_kill
  umount /usr/libexec/splitd/blkback
  note "without: a read was answered after $WAITED_MS ms, the write had $WRITE_LEFT_MS ms to go"
  [ "$WAITED_MS" -lt "$WRITE_LEFT_MS" ] || fail "without the fence the read waited as long: $WAITED_MS ms of $WRITE_LEFT_MS"
  guest_kernel_quiet g
  guest_stop g
  dmsetup remove slow
  lvremove -qfy vg0/slow
}
