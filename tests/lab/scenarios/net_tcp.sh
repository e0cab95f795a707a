# says: 100 MiB over TCP between guest and dom0, both ways, by checksum; iperf3 both ways
# acceptance: 1
# limit: 900
scenario() {
  network
  MEMORY=512 VIFS=$(vif 2) guest_start g "$(disk xvda "$(root_image g)")"
  guest_net g 2
  tcp_file g 10.9.0.2 100
  note "iperf3 guest to dom0: $(iperf g 10.9.0.1 5) kbit/s, dom0 to guest: $(iperf g 10.9.0.1 5 -R) kbit/s"
  guest_net_quiet g
  guest_stop g
}
