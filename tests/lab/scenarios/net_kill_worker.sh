# says: 20 kill -9 of netback under iperf3 and a checked file over TCP: the connection lives, the bytes are right, the tap stays
# acceptance: 29
# backends: splitd
# limit: 1800
scenario() {
  local round victim tap index want got
  network
  MEMORY=512 VIFS=$(vif 2) guest_start g "$(disk xvda "$(root_image g)")"
  guest_net g 2
  tap=$(vif_name g)
  index=$(cat "/sys/class/net/$tap/ifindex")
  head -c 64M /dev/urandom > /srv/tcp.data
  take g md5sum
  rm -f /run/lab/stop
  (n=0; while [ ! -e /run/lab/stop ]; do dd if=/srv/tcp.data bs=1M count=1 skip=$((n++ % 64)) status=none; done) |
    tee >(md5sum > /run/lab/sent) >(wc -c > /run/lab/sent.len) | busybox nc 10.9.0.2 7000 &
  for round in $(seq 20); do
    victim=$(net_workers)
    [ -n "$victim" ] || fail "round $round: no worker"
    kill -9 "$victim"
    must_within 60 eval '[ -n "$(net_workers | grep -vx '"$victim"')" ]'
    expect "round $round: the backend left state 4" node_is "$(vif_backend g)/state" 4
    expect "round $round: another tap" [ "$(cat "/sys/class/net/$tap/ifindex")" = "$index" ]
    must_within 60 busybox ping -c 1 -W 1 -q 10.9.0.2
  done
  touch /run/lab/stop
  got=$(take_done g)
  want=$(cat /run/lab/sent)
  [ "$got" = "$want" ] || fail "over TCP to the guest: $want became $got"
  note "20 kills in $(($(cat /run/lab/sent.len) >> 20)) MiB over TCP"
  [ "$(cat /run/lab/sent.len)" -gt 20000000 ] || fail "only $(cat /run/lab/sent.len) bytes went over TCP"
  rm /srv/tcp.data
  guest_net_quiet g
  guest_stop g
}
