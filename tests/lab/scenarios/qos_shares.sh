# says: two guests on volumes of one disk of 30 IOPS: 2:1 and 4:1 within 5 % over 20 s, a reservation, p99 beside a flooder, an idle neighbour's share, splitd stopped, all killed
# backends: splitd
# limit: 1800

# The disk is the bottleneck, not dom0's processor: its use is noted with each measurement and has a limit. As slow as the disk is,
# an emulated dom0 has time to spare; 20 s of it are six hundred requests, so one more or less is far below the tolerance.
IOPS=30
COUNTERS=('(read|write)_requests vbd/a/xvdb' '(read|write)_requests vbd/b/xvdb')
# measured WHAT COMMAND…: how many requests a and b did while the command ran, each second: RATE_A, RATE_B.
measured() {
  rates "${@:2}"
  RATE_A=${RATES[0]} RATE_B=${RATES[1]}
  note "$1: a $RATE_A, b $RATE_B IOPS; dom0's processor $CPU_PERCENT %"
  [ "$CPU_PERCENT" -lt 70 ] || fail "$1: dom0's processor is the bottleneck: $CPU_PERCENT % of it used"
}
ratio_within() { awk -v a="$RATE_A" -v b="$RATE_B" -v w="$1" 'BEGIN {exit !(a >= b * w * 0.95 && a <= b * w * 1.05)}'; }
# shared WHAT WANTED [COMMAND…]: what a got over what b got.
shared() {
  local wanted=$2
  measured "$1" "${@:3}"
  ratio_within "$wanted" || fail "$1: a $RATE_A, b $RATE_B IOPS, asked for $wanted"
}
at_least() { awk -v got="$2" -v least="$3" 'BEGIN {exit !(got >= least)}' || fail "$1: $2, asked for $3"; }
policy() {
  # A request is a request to this disk, wherever it goes. That it has heads is what it says, as all virtual ones do.
  printf '%s\n' 'version = 1' '[device.auto]' 'model = "ssd"' "$@" > /etc/splitd/policy.toml
  splitctl policy reload
}
domain() { printf '[[domain]]\nmatch.name = "%s"\n%s\n' "$1" "$2"; }
FIO='fio --eta=never --name=load --ioengine=libaio --direct=1 --filename=/dev/xvdb'
load() { guest_job "$1" load "$FIO --rw=randread --bs=4k --iodepth=32 --time_based --runtime=3600"; }
unload() { guest_fio_end "$1" load; }
# Both guests' two disks.
all_are_served() { [ "$(splitctl list | grep -c 'worker=serving')" -eq 4 ]; }
stopped() {
  pkill -STOP -x splitd
  sleep "$1"
  pkill -CONT -x splitd
  must_within 30 splitd_answers
}
# no_arbiter: the same while splitd has been stopped since before there was a load, by what the guests themselves count.
no_arbiter() {
  local guest a b
  pkill -STOP -x splitd
  for guest in a b; do
    load $guest
    guest_io_since $guest 0 || true
    must_within 120 guest_io_since $guest $((IO_COUNT + 25))
  done
  guest_io_since a 0; a=$IO_COUNT
  guest_io_since b 0; b=$IO_COUNT
  sleep 20
  guest_io_since a 0; RATE_A=$((IO_COUNT - a))
  guest_io_since b 0; RATE_B=$((IO_COUNT - b))
  pkill -CONT -x splitd
  must_within 30 splitd_answers
  note "no arbiter: a $RATE_A, b $RATE_B requests in the same time"
  ! ratio_within 2 || fail "without an arbiter: a $RATE_A, b $RATE_B, as if there were one"
}
# quick WHAT: p99 of a single reader in b, us.
quick() {
  local said
  said=$(RUN_SECONDS=300 guest_run b "$FIO --output-format=terse --terse-version=3 --rw=randread --bs=4k --iodepth=1 --number_ios=300 2>&1") || fail "fio: $said"
  P99_US=$(awk -F';' '$1 == 3 {split($30, part, "="); print part[2]}' <<< "$said")
  note "$1: p99 of a single reader $P99_US us"
}

shares() {
  local pid
  policy "$(domain a 'weight = 512')"
  for guest in a b; do splitctl policy explain $guest | grep -q 'on vde, weighed as ssd' || fail "explain: $(splitctl policy explain $guest)"; done
  no_arbiter
  # What had gathered in the disk's queue meanwhile takes its time to leave, and then to be learnt from.
  sleep 15
  shared '2:1' 2 sleep 20
  at_least '2:1, both together' "$(awk -v a="$RATE_A" -v b="$RATE_B" 'BEGIN {print a + b}')" $((IOPS * 90 / 100))
  splitctl qos -d a -w 1024 > /dev/null
  sleep 1
  shared '4:1' 4 sleep 20
  shared '4:1 while splitd is stopped' 4 stopped 20
  for pid in $(workers); do kill -9 "$pid"; done
  pkill -9 -x splitd
  splitd_start
  must_within 60 all_are_served
  sleep 1
  shared '4:1 from a second after kill -9 of splitd and all workers' 4 sleep 20
  splitctl qos -d a --reset > /dev/null
  policy "$(domain a 'weight = 256')"
  sleep 1
  shared '1:1 by a reload' 1 sleep 20
}

reservation() {
  policy "$(domain a 'weight = 65535')" "$(domain b 'weight = 1
disk = { reserve = { iops = 12 } }')"
  sleep 1
  measured 'a reservation of 12 IOPS beside a flooder' sleep 20
  at_least 'a reservation of 12 IOPS' "$RATE_B" 11.4
}

alone_and_beside() {
  local alone
  policy
  unload b
  measured 'an idle neighbour' sleep 20
  at_least "an idle neighbour's share" "$RATE_A" $((IOPS * 90 / 100))
  unload a
  quick alone
  alone=$P99_US
  guest_job a load "$FIO --rw=write --bs=1M --iodepth=8 --time_based --runtime=3600"
  guest_io_since a 0 || true
  must_within 60 guest_io_since a $((IO_COUNT + 10))
  quick 'beside a writer of 1 MiB at depth 8'
  [ "$P99_US" -le $((3 * alone)) ] || fail "p99 of a single reader: $P99_US us beside a flooder, $alone us alone"
  unload a
}

scenario() {
  local guest
  vgs slow > /dev/null 2>&1 || { pvcreate -q /dev/vde && vgcreate -q slow /dev/vde; }
  for guest in a b; do lvcreate -qq -y -Wn -Zn -n "$guest" -L 64M slow; done
  udevadm settle
  for guest in a b; do
    guest_start $guest "$(disk xvda "$(root_image $guest)")" "$(disk xvdb "/dev/slow/$guest")"
    must_within 60 guest_run $guest 'test -b /dev/xvdb'
  done
  shares
  reservation
  alone_and_beside
  rm -f /etc/splitd/policy.toml
  splitctl policy reload
  for guest in a b; do
    xl destroy $guest
    must_within 60 guest_gone $guest
    lvremove -qfy "slow/$guest"
  done
}
