# says: TCP crosses the tap in super-frames, both ways; behind a port without offloads every checksum is right
# acceptance: 1
# limit: 900
scenario() {
  local tap said wrong way
  network
  modprobe veth
  ip netns add far
  ip link add far0 type veth peer name far1 netns far
  ethtool -K far0 tx off tso off gso off sg off > /dev/null
  ip link set far0 master xenbr0
  ip link set far0 up
  ip -n far address add 10.9.0.9/24 dev far1
  ip -n far link set far1 up
  MEMORY=512 VIFS=$(vif 2) guest_start g "$(disk xvda "$(root_image g)")"
  guest_net g 2
  tap=$(vif_name g)
  for way in '' -R; do
    ip netns exec far iperf3 -s -1 > /run/lab/iperf.log 2>&1 &
    must_within 60 eval "ip netns exec far ss -ltn | grep -q ':5201 '"
    tcpdump -i "$tap" -n -e -c 20 'tcp port 5201 and greater 3000' > "/run/lab/super$way.log" 2> /dev/null &
    timeout 120 ip netns exec far tcpdump -i far1 -n -vv -c 3000 'tcp port 5201 and src 10.9.0.2' > "/run/lab/far$way.log" 2> /dev/null &
    guest_run g "iperf3 -c 10.9.0.9 -t 10 $way" > /dev/null || fail "iperf3 $way"
    must_within 60 eval '[ "$(wc -l < /run/lab/super'$way'.log)" -ge 20 ]'
    wait
    grep -q 'cksum.*correct' "/run/lab/far$way.log" || fail "nothing was captured on the far side"
    wrong=$(grep -c incorrect "/run/lab/far$way.log" || true)
    [ "$wrong" = 0 ] || fail "$wrong wrong checksums: $(grep -m1 incorrect "/run/lab/far$way.log")"
    said=$(awk '{for (i = 1; i < NF; i++) if ($i == "length" && $(i + 1) + 0 > n) n = $(i + 1) + 0} END {print n}' "/run/lab/super$way.log")
    note "longest frame on the tap, ${way:-from the guest}: $said bytes"
  done
  guest_net_quiet g
  guest_stop g
  ip netns del far
}
