# says: the network benchmark: splitd and kernel netback in turn for the same guest (run by `cargo xtask bench`)
# backends: splitd
# bench: yes
# limit: 14000

# Round by round, in a guest started anew for each turn; one JSON row a line goes to /host/rows.jsonl. The guest's disk is splitd's
# in every turn; xen-netback is loaded for the kernel's turn only, and then takes the interface. dom0's CPU time is Xen's account of
# dom0 during the measurement, the other end of the traffic included.
. /host/bench.env # LAB_ROUNDS LAB_SECONDS LAB_ONLY

# Looking for a guest's answer takes dom0's time, too.
POLL_SECONDS=1
dom0_cpu_seconds() { xl list Domain-0 | awk 'END {print $NF}'; }

# measure WHO CASE COMMAND…: the command prints BYTES SECONDS [PACKETS].
measure() {
  local who=$1 case=$2 before said
  [[ $case == *$LAB_ONLY* ]] || return 0
  before=$(dom0_cpu_seconds)
  said=$("${@:3}")
  awk -v who="$who" -v case="$case" -v cpu="$(awk -v a="$before" -v b="$(dom0_cpu_seconds)" 'BEGIN {print b - a}')" '
    NF >= 2 && $1 > 0 && $2 > 0 {
      printf "{\"case\":\"%s\",\"who\":\"%s\",\"gbit_s\":%.4f,\"kpps\":%s,\"cpu_us_per_mib\":%.1f}\n",
        case, who, $1 * 8 / $2 / 1e9, (NF > 2 ? sprintf("%.3f", $3 / $2 / 1000) : "null"), cpu * 1e6 / ($1 / 1048576)
    }' <<< "$said" >> /host/rows.jsonl
}

# traffic OPTION…: one run of iperf3 in the guest; prints what the receiver got.
traffic() {
  local said
  iperf3 -s -1 -B 10.9.0.1 > /run/lab/iperf.log 2>&1 &
  must_within 60 eval "ss -ltn | grep -q ':5201 '"
  said=$(RUN_SECONDS=120 guest_run g "iperf3 -c 10.9.0.1 -t $LAB_SECONDS -J $*") || fail "iperf3 $*: $(tail -3 <<< "$said")"
  wait $!
  # The end's sum: of the receiver for TCP; for UDP packets sent less those lost.
  tr -d ' \t",' <<< "$said" | awk -F: '
    /^end:/ {end = 1}
    end && /^sum_received:/ {part = "received"} end && /^sum:/ {part = "sum"} end && /^sum_sent:/ {part = "sent"}
    /^}/ {part = ""}
    part != "" {value[part, $1] = $2}
    END {
      if (("sum", "packets") in value) {
        packets = value["sum", "packets"] - value["sum", "lost_packets"]
        print value["sum", "bytes"] * packets / value["sum", "packets"], value["sum", "seconds"], packets
      } else print value["received", "bytes"], value["received", "seconds"]
    }'
}
# requests COUNT: as many pings one after the other; each is 64 bytes and its answer.
requests() {
  local began count=$1
  began=$(date +%s%N)
  guest_run g "ping -A -q -c $count 10.9.0.1 > /dev/null" || fail "ping -A"
  awk -v count="$count" -v ns="$(($(date +%s%N) - began))" 'BEGIN {print count * 64, ns / 1e9, count}'
}

turn() {
  local who=$1
  # blkback stays out: udev would load it for the guest's disk, too.
  [ "$who" != kernel ] || { echo 'install xen-blkback /bin/true' > /etc/modprobe.d/lab.conf; modprobe xen-netback; }
  MEMORY=384 VIFS=$(vif 2) guest_start g "$(disk xvda "$root")"
  guest_net g 2
  measure "$who" tcp-out traffic
  measure "$who" tcp-in traffic -R
  measure "$who" udp-64-out traffic -u -b 0 -l 64
  measure "$who" udp-64-in traffic -u -b 0 -l 64 -R
  measure "$who" udp-1400-in traffic -u -b 0 -l 1400 -R
  measure "$who" request-response requests 300
  guest_stop g
  [ "$who" != kernel ] || { rmmod xen-netback; printf 'install xen-%s /bin/true\n' blkback netback > /etc/modprobe.d/lab.conf; }
}

scenario() {
  local round who
  network
  root=$(root_image g)
  : > /host/rows.jsonl
  for round in $(seq "$LAB_ROUNDS"); do
    for who in splitd kernel; do turn "$who"; done
    note "round $round of $LAB_ROUNDS"
  done
}
