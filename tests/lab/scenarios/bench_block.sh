# says: the block benchmark: splitd, kernel blkback and qdisk in turn on the same logical volume, the same jobs (run by `cargo xtask bench`)
# backends: splitd
# bench: yes
# limit: 14000

# Round by round, in a guest started anew for each turn; one JSON row a line goes to /host/rows.jsonl.
# A turn: no guest runs; splitd is stopped; xen-blkback is loaded for the kernel's turn only, splitd started for its own;
# guest, jobs, guest stopped; module unloaded. dom0's CPU time is Xen's account of dom0 during the job.
. /host/bench.env # LAB_ROUNDS LAB_OPERATIONS LAB_ONLY LAB_SETTING

# Looking for a guest's answer takes dom0's time, too.
POLL_SECONDS=1
dom0_cpu_seconds() { xl list Domain-0 | awk 'END {print $NF}'; }

# row WHO CASE CPU_SECONDS: fio's terse line (version 3) on standard input, as a row of the benchmark's report.
row() {
  awk -F';' -v who="$1" -v case="$2" -v cpu="$3" -v operations="$LAB_OPERATIONS" '
    function percentile(field) { split($field, part, "="); return part[2] }
    $1 == 3 && $5 == 0 {
      busy = ($8 >= $49) ? 24 : 65
      printf "{\"case\":\"%s\",\"who\":\"%s\",\"iops\":%.1f,\"mib_s\":%.2f,\"p50_us\":%d,\"p99_us\":%d,\"cpu_us_per_io\":%.1f}\n",
        case, who, $8 + $49, ($7 + $48) / 1024, percentile(busy), percentile(busy + 6), cpu * 1e6 / operations
    }'
}

turn() {
  local who=$1 job case before said
  [ "$who" != kernel ] || { rm -f /etc/modprobe.d/lab.conf; modprobe xen-blkback; }
  [ "$who" = kernel ] || echo 'install xen-blkback /bin/true' > /etc/modprobe.d/lab.conf
  LAB_BACKEND=$who
  [ "$who" != splitd ] || { splitd_start; [ -z "$LAB_SETTING" ] || splitd_setting "$LAB_SETTING"; }
  guest_start g "$(disk xvda "$root")" "$(disk xvdb "$data")"
  must_within 60 guest_run g 'test -b /dev/xvdb'
  for job in /host/fio/*$LAB_ONLY*.fio; do
    case=$(basename "$job" .fio)
    guest_run g "cat > /run/job.fio <<'JOB'
$(cat "$job")
JOB"
    before=$(dom0_cpu_seconds)
    said=$(RUN_SECONDS=900 guest_run g "DEVICE=/dev/xvdb OPS=$LAB_OPERATIONS fio --output-format=terse --terse-version=3 /run/job.fio 2>&1")
    row "$who" "$case" "$(awk -v a="$before" -v b="$(dom0_cpu_seconds)" 'BEGIN {print b - a}')" <<< "$said" >> /host/rows.jsonl
  done
  guest_stop g
  [ "$who" != splitd ] || splitd_stop
  [ "$who" != kernel ] || rmmod xen-blkback
}

scenario() {
  local round who
  splitd_stop
  # A volume: a file the kernel serves through a loop device, that is from dom0's page cache.
  root=$(root_image g) data=$(volume data 64)
  dd if=/dev/urandom of="$data" bs=1M count=64 conv=fsync status=none
  : > /host/rows.jsonl
  for round in $(seq "$LAB_ROUNDS"); do
    for who in splitd kernel qdisk; do turn "$who"; done
    note "round $round of $LAB_ROUNDS"
  done
  echo 'install xen-blkback /bin/true' > /etc/modprobe.d/lab.conf
  LAB_BACKEND=splitd
  splitd_start
}
