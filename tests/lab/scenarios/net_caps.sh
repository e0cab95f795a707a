# says: rate= and the policy's caps within 5 % on a vif of 4 queues, both ways, in bits and in packets, on two vifs of one domain together, live, across kill -9 of netback and of splitd
# backends: splitd
# limit: 1800

# frames VIF: that it has carried, both ways.
frames() { counted '[tr]x_frames' "vif/g/$1" | cut -d' ' -f1; }
policy() {
  printf 'version = 1\n[[domain]]\nmatch.name = "g"\n%s\n' "$1" > /etc/splitd/policy.toml
  splitctl policy reload
  # What was under way under the old one has passed.
  sleep 2
}
# load VIF PORT [OPTION…]: iperf3 between the guest and dom0 until the guest ends; seen to begin.
load() {
  local vif=$1 port=$2 before
  shift 2
  iperf3 -s -B "10.9.$vif.1" -p "$port" > "/run/lab/iperf-$port.log" 2>&1 &
  SERVERS+=("$!")
  must_within 60 eval "ss -ltn | grep -q ':$port '"
  before=$(frames "$vif")
  guest_job g "load-$port" "iperf3 -c 10.9.$vif.1 -p $port -t 3600 -P 4 $*"
  must_within 60 eval '[ "$(frames '"$vif"')" -gt '$((before + 100))' ]'
}

scenario() {
  local victim pid subnet
  SERVERS=()
  splitd_setting 'rate_both_ways = "none"'
  network
  network 1
  rm -f /etc/splitd/policy.toml
  MEMORY=512 VCPUS=4 VIFS="$(vif 2 rate=4Mb/s mtu=9000),$(vif 3 mtu=9000 | sed s/xenbr0/xenbr1/)" guest_start g "$(disk xvda "$(root_image g)")"
  guest_net g 2
  guest_net g 3 1
  # Few, long frames: the caps are to be the limit, not what an emulated dom0 does for each frame.
  for subnet in 0 1; do
    ip link set "xenbr$subnet" mtu 9000
    guest_run g "ip link set eth$subnet mtu 9000"
  done
  guest_run g 'test "$(ls -d /sys/class/net/eth0/queues/tx-* | wc -l)" = 4' || fail "not four queues"

  # Rates that the emulator carries without them, too.
  load 0 5201
  kept 'rate=4Mb/s, from the guest' 4000000 8 tx_bytes 0
  xenstore-write "$(vif_backend g)/rate" 62500,50000
  sleep 2
  kept 'rate 62500,50000 written, from the guest' 10000000 8 tx_bytes 0
  policy 'net.0 = { tx_max = "5Mb/s", rx_max = "8Mb/s" }'
  kept 'tx_max = 5Mb/s below that rate, from the guest' 5000000 8 tx_bytes 0
  load 0 5202 -R
  kept 'rx_max = 8Mb/s, to the guest, both ways busy' 8000000 8 rx_bytes 0
  kept 'tx_max = 5Mb/s, from the guest, both ways busy' 5000000 8 tx_bytes 0
  xenstore-write "$(vif_backend g)/rate" 25000,50000
  sleep 2
  kept 'rate 25000,50000 below the policy, from the guest' 4000000 8 tx_bytes 0
  splitctl qos -d g -c rx_max=4Mb/s --ttl 1h
  sleep 2
  kept 'splitctl qos rx_max=4Mb/s, to the guest' 4000000 8 rx_bytes 0
  for victim in $(net_workers); do kill -9 "$victim"; done
  kept 'rx_max=4Mb/s after kill -9 of netback' 4000000 8 rx_bytes 0
  pkill -9 -x splitd
  splitd_start
  kept 'rx_max=4Mb/s after kill -9 of splitd' 4000000 8 rx_bytes 0
  splitctl qos -d g --reset
  sleep 2
  kept 'rx_max = 8Mb/s of the policy again' 8000000 8 rx_bytes 0

  policy 'net.rx_max = "6Mb/s"'
  load 1 5203 -R
  kept 'rx_max = 6Mb/s of the domain, two vifs together' 6000000 8 rx_bytes 0 1
  # TCP's uncut frames count as the packets that they become: with datagrams alone a frame is a packet. Four streams of 60 a second:
  # past the caps, and what the emulated guest and dom0 have time for; one way after the other.
  policy 'net = { tx_pps_max = 100, rx_pps_max = 100 }'
  guest_run g 'ip link set eth0 down'
  for pid in "${SERVERS[@]}"; do kill "$pid" || true; done
  SERVERS=()
  sleep 5
  load 1 5204 -u -b 96k -l 200
  sleep 5
  kept 'tx_pps_max = 100 of the domain' 100 1 tx_frames 1
  kill "${SERVERS[0]}"
  sleep 5
  load 1 5205 -u -b 96k -l 200 -R
  sleep 5
  kept 'rx_pps_max = 100 of the domain' 100 1 rx_frames 1

  rm -f /etc/splitd/policy.toml
  splitctl policy reload
  guest_net_quiet g
  xl destroy g
  must_within 60 guest_gone g
  for pid in "${SERVERS[@]}"; do kill "$pid" 2> /dev/null || true; done
}
