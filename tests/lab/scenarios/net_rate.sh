# says: rate=10Mb/s holds in what the guest sends, and a change of the backend's node takes effect while connected
# acceptance: 17
scenario() {
  local first second
  network
  MEMORY=512 VIFS=$(vif 2 rate=10Mb/s mtu=9000) guest_start g "$(disk xvda "$(root_image g)")"
  guest_net g 2
  # Few, long frames: the rate is to be the limit, not what an emulated dom0 does for each frame.
  ip link set xenbr0 mtu 9000
  guest_run g 'ip link set eth0 mtu 9000'
  first=$(iperf g 10.9.0.1 10)
  note "rate=10Mb/s: $first kbit/s"
  [ "$first" -ge 9000 ] && [ "$first" -le 11000 ] || fail "10 Mb/s asked for, $first kbit/s measured"
  # 4 Mb/s over 50 ms.
  if [ "$LAB_BACKEND" = splitd ]; then
    xenstore-write "$(vif_backend g)/rate" 25000,50000
    second=$(iperf g 10.9.0.1 10)
    note "rate 25000,50000 written: $second kbit/s"
    [ "$second" -ge 3600 ] && [ "$second" -le 4400 ] || fail "4 Mb/s asked for, $second kbit/s measured"
  fi
  guest_stop g
}
