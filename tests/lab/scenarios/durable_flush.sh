# says: what a guest was told is safe stood before a flush in the device's own log (dm-log-writes), over kills of the worker too
# backends: splitd
# limit: 1200

# Numbered blocks, each written and flushed before the next, by the guest's own account.
BLOCKS=120

logged_device() {
  local data log
  data=$(volume data 32)
  log=$(volume log 128)
  modprobe dm-log-writes
  dmsetup create logged --table "0 65536 log-writes $data $log"
  udevadm settle
}
# entries LOG: a line with sector, sectors and flags for each entry of it (Documentation/admin-guide/device-mapper/log-writes.rst; struct
# log_write_entry of drivers/md/dm-log-writes.c). Sectors of 512 bytes; one for the head, then the entry's data but for a discard's.
entries() {
  local log=$1 at=1 left sector sectors flags data_len
  left=$(od -An -v -t u8 -j 16 -N 8 "$log")
  while [ "$left" -gt 0 ]; do
    read -r sector sectors flags data_len < <(od -An -v -w32 -t u8 -j $((at * 512)) -N 32 "$log")
    echo "$sector $sectors $flags"
    at=$((at + 1))
    [ $((flags & 4)) != 0 ] || at=$((at + sectors))
    left=$((left - 1))
  done
}
# flushed_in_order FIRST LAST: of the blocks FIRST to LAST none was written before the one ahead of it had been written and flushed. Flags:
# 1 is a flush (before the entry's own data), 2 a write through the cache.
flushed_in_order() {
  awk -v first="$1" -v last="$2" '
    { flush = $3 % 2; through = int($3 / 2) % 2 }
    flush { for (n in written) safe[n] = 1 }
    $2 == 8 && $1 % 8 == 0 && $1 / 8 >= first && $1 / 8 <= last {
      n = $1 / 8
      if (n > first && !safe[n - 1]) { print "block " n " was written before block " n - 1 " was safe"; bad = 1; exit 1 }
      written[n] = 1
      if (through) safe[n] = 1
    }
    END { if (!bad && !(last in written)) { print "block " last " is not in the log"; exit 1 } }' /run/lab/entries
}
scenario() {
  local dev old round
  logged_device
  guest_start g "$(disk xvda "$(root_image g)")" "$(disk xvdb /dev/mapper/logged)"
  must_within 60 guest_run g 'test -b /dev/xvdb'
  dev=vbd/$(xl domid g)/xvdb
  guest_job g blocks "n=1; while [ \$n -le $BLOCKS ]; do
    dd if=/dev/urandom of=/dev/xvdb bs=4k count=1 seek=\$n oflag=direct conv=fsync,notrunc 2> /dev/null || exit 1; echo \$n > /run/at; n=\$((n + 1)); done"
  for round in 1 2 3 4 5; do
    must_within 120 eval '[ "$(guest_run g "cat /run/at || echo 0")" -ge '$((round * 10))' ]'
    old=$(splitctl show "$dev" | awk '$1 == "pid" {print $2}')
    kill -9 "$old"
    must_within 60 eval '[ "$(splitctl show '"$dev"' | awk "\$1 == \"pid\" {print \$2}")" != '"$old"' ]'
  done
  must_within 300 guest_job_done g blocks
  guest_job_output g blocks || fail "a write or a flush failed"
  # And some that nobody flushes, by which it is seen that the log tells the difference.
  guest_run g 'for n in 1001 1002; do dd if=/dev/urandom of=/dev/xvdb bs=4k count=1 seek=$n oflag=direct conv=notrunc; done'
  guest_kernel_quiet g
  guest_stop g
  dmsetup message logged 0 mark end
  dmsetup remove logged
  entries /dev/vg0/log > /run/lab/entries
  note "$(wc -l < /run/lab/entries) entries, $(awk '$3 % 2' /run/lab/entries | wc -l) flushes of $BLOCKS"
  flushed_in_order 1 $BLOCKS > /run/lab/said || fail "$(cat /run/lab/said)"
  refuse "blocks without a flush look flushed: the log shows nothing" flushed_in_order 1001 1002
  lvremove -qfy vg0/data vg0/log
}
