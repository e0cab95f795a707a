# says: network-attach with MTU 9000 and network-detach, 20 times: both sides come and go, tap and bridge port with them
# acceptance: 15
# limit: 1200
scenario() {
  local round tap back front
  network
  MEMORY=512 VIFS=$(vif 2) guest_start g "$(disk xvda "$(root_image g)")"
  guest_net g 2
  for round in $(seq 20); do
    echo "round $round at $SECONDS s"
    xl network-attach g bridge=xenbr0 mac=00:16:3e:00:01:02 mtu=9000 || fail "round $round: xl network-attach failed"
    tap=$(vif_name g 1) back=$(vif_backend g 1) front=$(vif_frontend g 1)
    must_within 60 node_is "$back/state" 4
    must_within 60 node_is "$front/state" 4
    [ "$(cat "/sys/class/net/$tap/mtu")" = 9000 ] || fail "round $round: the tap's MTU is $(cat "/sys/class/net/$tap/mtu")"
    expect "round $round: no mtu for the frontend" node_is "$front/mtu" 9000
    xl network-detach g 1 || fail "round $round: xl network-detach failed"
    must_within 60 absent "$back"
    must_within 60 absent "$front"
    must_within 60 eval "! test -e /sys/class/net/$tap"
    must_within 60 guest_run g '! test -e /sys/class/net/eth1'
  done
  guest_run g 'ping -c 3 -i 0.2 10.9.0.1' || fail "the other interface does not answer any more"
  guest_stop g
}
