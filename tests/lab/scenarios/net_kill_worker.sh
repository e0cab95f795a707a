# says: 20 kill -9 of netback under iperf3 and a checked file over TCP: the connection lives, the bytes are right, the tap stays
# acceptance: 29
# backends: splitd
# limit: 1800
scenario() {
  local round victim tap index
  network
  MEMORY=512 VIFS=$(vif 2) guest_start g "$(disk xvda "$(root_image g)")"
  guest_net g 2
  tap=$(vif_name g)
  index=$(cat "/sys/class/net/$tap/ifindex")
  tcp_stream g 10.9.0.2
  for round in $(seq 20); do
    victim=$(net_workers)
    [ -n "$victim" ] || fail "round $round: no worker"
    kill -9 "$victim"
    must_within 60 eval '[ -n "$(net_workers | grep -vx '"$victim"')" ]'
    expect "round $round: the backend left state 4" node_is "$(vif_backend g)/state" 4
    expect "round $round: another tap" [ "$(cat "/sys/class/net/$tap/ifindex")" = "$index" ]
    must_within 60 busybox ping -c 1 -W 1 -q 10.9.0.2
  done
  tcp_stream_end g
  note "20 kills in $((STREAM_BYTES >> 20)) MiB over TCP"
  [ "$STREAM_BYTES" -gt 20000000 ] || fail "only $STREAM_BYTES bytes went over TCP"
  guest_net_quiet g
  guest_stop g
}
