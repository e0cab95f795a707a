# says: caps of the policy file: 100 IOPS and 1 MiB/s within 2 % on 1 and 4 queues, on two disks of one domain together, across kill -9 of workers and of splitd and a SIGSTOP
# backends: splitd
# limit: 1500

# done_so_far FIELD VDEV…: requests (or bytes) that these disks of guest g have answered.
done_so_far() {
  local field=$1 vdev
  shift
  for vdev in "$@"; do splitctl stats "vbd/g/$vdev"; done |
    tr ' ' '\n' | awk -F= -v f="$field" '$1 == "read_" f || $1 == "write_" f {sum += $2} END {print sum + 0}'
}
now() { awk '{print $1}' /proc/uptime; }
# rate SECONDS FIELD VDEV…: what they did each second, over that time; looked at again while splitd is away.
rate() {
  local seconds=$1 from to a b
  shift
  must_within 30 splitd_answers
  a=$(done_so_far "$@") from=$(now)
  sleep "$seconds"
  must_within 30 splitd_answers
  b=$(done_so_far "$@") to=$(now)
  awk -v d=$((b - a)) -v from="$from" -v to="$to" 'BEGIN {printf "%.2f", d / (to - from)}'
}
# within WHAT MEASURED WANTED
within() {
  note "$1: $2, asked for $3"
  awk -v m="$2" -v w="$3" 'BEGIN {exit !(m >= w * 0.98 && m <= w * 1.02)}' || fail "$1: $2, asked for $3"
}
policy() {
  printf 'version = 1\n[[domain]]\nmatch.name = "g"\n%s\n' "$1" > /etc/splitd/policy.toml
  splitctl policy reload
}
load() { guest_job g "$1" "fio --eta=never --name=load --ioengine=libaio --direct=1 --filename=/dev/$1 --size=32M --rw=randrw --bs=$2 --iodepth=16 --numjobs=$3 --time_based --runtime=3600"; }

scenario() {
  local vcpus pid
  for vcpus in 1 4; do
    rm -f /etc/splitd/policy.toml
    splitctl policy reload > /dev/null
    VCPUS=$vcpus guest_start g "$(disk xvda "$(root_image g)")" "$(disk xvdb "$(image b 64)")" "$(disk xvdc "$(image c 64)")"
    must_within 60 guest_run g 'test -b /dev/xvdc'
    policy 'disk = { total_iops_max = 100 }'
    load xvdb 16k "$vcpus"
    must_within 60 eval '[ "$(done_so_far requests xvdb)" -gt 50 ]'
    within "100 IOPS, $vcpus vCPUs" "$(rate 20 requests xvda xvdb)" 100
    load xvdc 16k "$vcpus"
    must_within 60 eval '[ "$(done_so_far requests xvdc)" -gt 50 ]'
    within "100 IOPS, $vcpus vCPUs, two disks together" "$(rate 20 requests xvda xvdb xvdc)" 100
    if [ "$vcpus" = 4 ]; then
      for pid in $(workers); do kill -9 "$pid"; done
      within '100 IOPS after kill -9 of all workers' "$(rate 20 requests xvda xvdb xvdc)" 100
      pkill -9 -x splitd
      splitd_start
      within '100 IOPS after kill -9 of splitd' "$(rate 20 requests xvda xvdb xvdc)" 100
      a=$(done_so_far requests xvda xvdb xvdc) from=$(now)
      pkill -STOP -x splitd
      sleep 20
      pkill -CONT -x splitd
      b=$(done_so_far requests xvda xvdb xvdc)
      within '100 IOPS while splitd is stopped' "$(awk -v d=$((b - a)) -v from="$from" -v to="$(now)" 'BEGIN {printf "%.2f", d / (to - from)}')" 100
    fi
    policy 'disk = { total_bytes_max = "1MiB/s" }'
    sleep 2
    within "1 MiB/s, $vcpus vCPUs, two disks together" "$(rate 20 bytes xvda xvdb xvdc)" 1048576
    rm -f /etc/splitd/policy.toml
    splitctl policy reload
    xl destroy g
    must_within 60 guest_gone g
  done
}
