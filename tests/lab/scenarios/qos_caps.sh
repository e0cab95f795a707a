# says: caps of the policy file: 100 IOPS and 1 MiB/s within 2 % on 1 and 4 queues, on two disks of one domain together, across kill -9 of workers and of splitd and a SIGSTOP
# backends: splitd
# limit: 1500

# That a cap is reached is what shows that nothing else is the limit; and dom0's processor is to have time to spare, but while workers or
# splitd start.
# held WHAT WANTED FIELDS "VDEV…" COMMAND…: while the command runs, these disks of guest g together do that much each second; LEAST
# says what part of it at least.
held() {
  local what=$1 wanted=$2 vdev devices=
  for vdev in $4; do devices="$devices vbd/g/$vdev"; done
  COUNTERS=("(read|write)_$3$devices")
  rates "${@:5}"
  note "$what: ${RATES[0]}, asked for $wanted; dom0's processor $CPU_PERCENT %"
  [ "${LEAST:-0.98}" = 0 ] || [ "$CPU_PERCENT" -lt 70 ] || fail "$what: dom0's processor is the bottleneck: $CPU_PERCENT % of it used"
  awk -v m="${RATES[0]}" -v w="$wanted" -v l="${LEAST:-0.98}" 'BEGIN {exit !(m >= w * l && m <= w * 1.02)}' || fail "$what: ${RATES[0]}, asked for $wanted"
}
done_by() { counted '(read|write)_requests' "vbd/g/$1" | cut -d' ' -f1; }
has_done() { [ "$(done_by "$1")" -gt "$2" ]; }
# killed workers|splitd: and until others are there; what those that come take of an emulated dom0 keeps the disks below their cap.
killed() {
  local pid
  case $1 in
    workers) for pid in $(workers); do kill -9 "$pid"; done ;;
    splitd)
      pkill -9 -x splitd
      splitd_start
      ;;
  esac
  must_within 60 all_are_served
  sleep 10
}
all_are_served() { [ "$(splitctl list | grep -c 'worker=serving')" -eq 3 ]; }
stopped() {
  pkill -STOP -x splitd
  sleep "$1"
  pkill -CONT -x splitd
}
# unstuck MOST WHAT COMMAND…: and the longest time in which no request of a disk ended, as the guest itself sees it every tenth of a
# second: MOST hundredths of a second. Three workers that start at once take an emulated dom0 seconds.
WATCH='last= longest=0 since=
while [ ! -e /run/watch.end ]; do
  read -r reads _ _ _ writes _ < /sys/block/xvdb/stat; read -r now _ < /proc/uptime
  now=${now%.*}${now#*.} ended="$reads $writes"
  gap=$((now - ${since:-$now}))
  [ $gap -le $longest ] || longest=$gap
  [ "$ended" = "$last" ] || { since=$now; last=$ended; }
  sleep 0.1
done
echo $longest'
unstuck() {
  local stuck_cs
  guest_job g watch "$WATCH"
  "${@:3}"
  guest_run g 'touch /run/watch.end'
  must_within 60 guest_job_done g watch
  stuck_cs=$(guest_job_output g watch)
  guest_run g 'rm /run/watch.*'
  note "$2: no request ended for ${stuck_cs}0 ms at the most"
  [ "$stuck_cs" -le "$1" ] || fail "$2: no request ended for ${stuck_cs}0 ms"
}
policy() {
  printf 'version = 1\n[[domain]]\nmatch.name = "g"\n%s\n' "$1" > /etc/splitd/policy.toml
  splitctl policy reload
}
# load VDEV BLOCK JOBS: until it is ended; seen to begin. Sixteen at a time, eight of which are handed over together: each that comes by
# itself wakes an emulated dom0 once more.
load() {
  local before
  before=$(done_by "$1")
  guest_job g "$1" "fio --eta=never --name=load --ioengine=libaio --direct=1 --filename=/dev/$1 --size=32M --rw=randrw --bs=$2 --iodepth=16 --iodepth_batch=8 --iodepth_batch_complete_min=8 --numjobs=$3 --time_based --runtime=3600"
  must_within 60 has_done "$1" $((before + 20))
}

scenario() {
  local vcpus vdev loads disks='xvda xvdb xvdc'
  for vcpus in 1 4; do
    rm -f /etc/splitd/policy.toml
    splitctl policy reload > /dev/null
    VCPUS=$vcpus guest_start g "$(disk xvda "$(root_image g)")" "$(disk xvdb "$(volume b 64)")" "$(disk xvdc "$(volume c 64)")"
    must_within 60 guest_run g 'test -b /dev/xvdc'
    policy 'disk = { total_iops_max = 100 }'
    load xvdb 4k "$vcpus"
    loads=xvdb
    held "100 IOPS, $vcpus vCPUs" 100 requests 'xvda xvdb' sleep 20
    if [ "$vcpus" = 1 ]; then
      load xvdc 4k 1
      loads="$loads xvdc"
      held '100 IOPS, two disks together' 100 requests "$disks" sleep 20
    else
      LEAST=0 held '100 IOPS, kill -9 of all workers' 100 requests "$disks" unstuck 1000 '100 IOPS, kill -9 of all workers' killed workers
      held '100 IOPS, by their successors' 100 requests "$disks" sleep 20
      LEAST=0 held '100 IOPS, kill -9 of splitd' 100 requests "$disks" unstuck 100 '100 IOPS, kill -9 of splitd' killed splitd
      held '100 IOPS, by the next splitd' 100 requests "$disks" sleep 20
      held '100 IOPS while splitd is stopped' 100 requests "$disks" unstuck 100 '100 IOPS while splitd is stopped' stopped 20
    fi
    # shellcheck disable=SC2086 # names
    guest_fio_end g $loads
    policy 'disk = { total_bytes_max = "1MiB/s" }'
    for vdev in $loads; do load "$vdev" 64k "$vcpus"; done
    held "1 MiB/s, $vcpus vCPUs, on $loads" 1048576 bytes "$disks" sleep 20
    rm -f /etc/splitd/policy.toml
    splitctl policy reload
    xl destroy g
    must_within 60 guest_gone g
  done
}
