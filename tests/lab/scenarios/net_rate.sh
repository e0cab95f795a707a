# says: rate=10Mb/s holds in what the guest sends, and a change of the backend's node takes effect while connected
# acceptance: 17
scenario() {
  local slow fast
  network
  MEMORY=512 VIFS=$(vif 2 rate=10Mb/s) guest_start g "$(disk xvda "$(root_image g)")"
  guest_net g 2
  slow=$(iperf g 10.9.0.1 10)
  note "rate=10Mb/s: $slow Mbit/s"
  [ "$slow" -ge 8 ] && [ "$slow" -le 11 ] || fail "10 Mb/s asked for, $slow Mbit/s measured"
  # 25 Mb/s over 50 ms.
  if [ "$LAB_BACKEND" = splitd ]; then
    xenstore-write "$(vif_backend g)/rate" 156250,50000
    fast=$(iperf g 10.9.0.1 10)
    note "rate 156250,50000 written: $fast Mbit/s"
    [ "$fast" -ge 21 ] && [ "$fast" -le 28 ] || fail "25 Mb/s asked for, $fast Mbit/s measured"
  fi
  guest_stop g
}
