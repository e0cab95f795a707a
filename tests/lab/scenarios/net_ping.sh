# says: a vif on a stock bridge: ping, IPv6, 8 MiB over TCP both ways by checksum; offloads on; no kernel backend; one worker; nothing left
# acceptance: 1
# core: 4.17 4.20
# limit: 900
scenario() {
  local tap
  network
  MEMORY=512 VIFS=$(vif 2) guest_start g "$(disk xvda "$(root_image g)")"
  guest_net g 2
  expect "frontend not at 4" node_is "$(vif_frontend g)/state" 4
  tap=$(vif_name g)
  expect "$tap is no port of xenbr0" test -e "/sys/class/net/xenbr0/brif/$tap"
  guest_run g 'ping -c 20 -i 0.1 10.9.0.1 > /run/ping; grep -q " 0% packet loss" /run/ping' || fail "ping: $(guest_run g 'tail -3 /run/ping')"
  guest_run g 'ping -c 5 -i 0.1 -s 20000 10.9.0.1 > /run/ping; grep -q " 0% packet loss" /run/ping' || fail "ping of 20000 bytes: $(guest_run g 'tail -3 /run/ping')"
  guest_run g 'ping6 -c 5 -i 0.1 fd09:0::1' || fail "ping6 from the guest"
  expect "ping to the guest" busybox ping -c 5 -i 0.2 -q 10.9.0.2
  tcp_file g 10.9.0.2 8
  local feature
  for feature in scatter-gather rx-checksumming tx-checksumming tcp-segmentation-offload; do
    guest_run g "ethtool -k eth0 | grep -q '^$feature: on'" || fail "$feature is off in the guest"
  done
  guest_net_quiet g
  if [ "$LAB_BACKEND" = splitd ]; then
    refuse "xen-netback is loaded" grep -q xen_netback /proc/modules
    [ "$(net_workers | wc -l)" = 1 ] || fail "$(net_workers | wc -l) workers for one interface"
    splitctl list | grep -q 'vif/.*/0' || fail "splitctl list does not show the interface: $(splitctl list)"
  fi
  guest_stop g
  refuse "$tap is left" test -e "/sys/class/net/$tap"
}
