# says: two guests on one bridge: ping, 4-queue iperf3 both ways, jumbo frames, VLAN-tagged traffic, IPv6 and multicast between them
# acceptance: 3
# limit: 1200
scenario() {
  local name said way address
  network
  MEMORY=384 VCPUS=4 VIFS=$(vif 2 mtu=9000) guest_start g "$(disk xvda "$(root_image g)")"
  MEMORY=384 VIFS=$(vif 3 mtu=9000) guest_start h "$(disk xvda "$(root_image h)")"
  guest_net g 2
  guest_net h 3
  guest_run g 'test "$(ls -d /sys/class/net/eth0/queues/rx-* | wc -l)" = 4' || fail "not four queues"
  # Linux' frontend does not look at the MTU that the toolstack writes for it.
  for name in g h; do guest_run $name 'ip link set eth0 mtu 9000'; done
  guest_run g 'ping -c 5 -i 0.2 10.9.0.3' || fail "ping"
  guest_run g 'ping -c 5 -i 0.2 -s 8972 10.9.0.3' || fail "ping of 9000 bytes"
  guest_run g 'ping6 -c 5 -i 0.2 fd09:0::3' || fail "ping6"
  guest_run g 'ping6 -c 5 -i 0.2 -I eth0 ff02::1 | grep -q duplicates' || fail "no second answer to a multicast: $(guest_run g 'ping6 -c 3 -I eth0 ff02::1')"
  for name in g h; do
    guest_run $name "ip link add link eth0 name tagged type vlan id 5 && ip link set tagged up && ip address add 10.9.5.$([ $name = g ] && echo 2 || echo 3)/24 dev tagged"
  done
  guest_run g 'ping -c 5 -i 0.2 -s 8900 10.9.5.3' || fail "ping with a tag"
  guest_job h serve 'iperf3 -s'
  must_within 60 listens h 5201
  for address in 10.9.0.3 10.9.5.3; do
    for way in '' -R; do
      said=$(RUN_SECONDS=120 guest_run g "iperf3 -c $address -t 5 -P 4 $way -f m 2>&1") || fail "iperf3 $address $way: $(tail -3 <<< "$said")"
      note "iperf3 guest to guest, $address ${way:-forward}: $(awk '/SUM.*receiver/ {print $(NF - 2)}' <<< "$said") Mbit/s"
    done
  done
  guest_net_quiet g
  guest_net_quiet h
  guest_stop g
  guest_stop h
}
