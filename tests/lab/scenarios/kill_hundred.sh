# says: 100 kill -9 of blkback and of netback, 20 of splitd, 20 of splitd and all workers at once, under fio verify at depth 32 on 4 queues and one TCP connection
# acceptance: 29
# backends: splitd
# limit: 5400
scenario() {
  local round before
  network
  splitd_setting "persistent = false"
  MEMORY=512 VCPUS=4 VIFS=$(vif 2) guest_start g "$(disk xvda "$(root_image g)")"
  root_worker=$(workers)
  attach g xvdb "$(image data 64)"
  must_within 60 guest_run g 'test -b /dev/xvdb'
  guest_run g 'test "$(ls -d /sys/block/xvdb/mq/* | wc -l)" = 4' || fail "not four queues"
  guest_net g 2
  tcp_stream g 10.9.0.2
  load
  for round in $(seq 100); do
    kill -9 $(replaceable)
    [ $((round % 10)) != 0 ] || goes_on "round $round, workers"
  done
  for round in $(seq 20); do
    before=$(replaceable)
    kill -9 "$(pgrep -x splitd)"
    must_within 60 splitd_stopped
    splitd_start
    must_within 60 eval 'splitctl list | grep -q xvdb'
    [ "$(replaceable)" = "$before" ] || fail "round $round: workers $before became $(replaceable)"
    [ $((round % 10)) != 0 ] || goes_on "round $round, splitd"
  done
  for round in $(seq 20); do
    kill -9 "$(pgrep -x splitd)" $(workers) $(net_workers)
    must_within 60 splitd_stopped
    splitd_start
    [ $((round % 5)) != 0 ] || goes_on "round $round, all at once"
  done
  stop_load
  tcp_stream_end g
  note "$((STREAM_BYTES >> 20)) MiB over one TCP connection"
  guest_kernel_quiet g
  guest_net_quiet g
  guest_stop g
}
# replaceable: the workers of the data disk and of the interface, once both are there.
replaceable() {
  wait_for 60 both_there || fail "round ${round:-0}: no worker for $(workers | wc -l) disks, $(net_workers | wc -l) interfaces"
  { workers | grep -vx "$root_worker"; net_workers; } | xargs
}
both_there() { [ "$(workers | wc -l)" = 2 ] && [ -n "$(net_workers)" ]; }
load() {
  local job
  for job in 0 1 2 3; do
    guest_job g "verify$job" "while [ ! -e /run/stop ]; do $VERIFY --filename=/dev/xvdb --cpus_allowed=$job --offset=$((16 * job))M --size=8M --rw=randwrite --bs=4k --iodepth=32 || exit 1; done"
  done
}
goes_on() {
  both_there || must_within 60 both_there
  expect "$1: the disk's backend left state 4" node_is "$(backend_path g xvdb)/state" 4
  expect "$1: the interface's backend left state 4" node_is "$(vif_backend g)/state" 4
  guest_io_since g 0 || true
  wait_for 180 guest_io_since g "$((IO_COUNT + 256))" || fail "$1: no I/O goes on"
  must_within 60 busybox ping -c 1 -W 1 -q 10.9.0.2
}
stop_load() {
  local job said
  guest_run g 'touch /run/stop'
  for job in 0 1 2 3; do
    must_within 900 guest_job_done g "verify$job"
    said=$(guest_job_output g "verify$job") || fail "fio on queue $job: $(grep -m1 -i -e 'verify' -e 'error' <<< "$said")"
  done
}
