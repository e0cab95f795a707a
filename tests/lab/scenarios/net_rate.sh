# says: rate= within 5 % on a vif of 4 queues, in what the guest sends and with rate_both_ways in what it receives; a change of the backend's node takes effect while connected
# acceptance: 17
# limit: 900
scenario() {
  local first said way field port=5201
  splitd_setting 'rate_both_ways = "all"'
  network
  MEMORY=512 VCPUS=4 VIFS=$(vif 2 rate=8Mb/s mtu=9000) guest_start g "$(disk xvda "$(root_image g)")"
  guest_net g 2
  # Few, long frames: the rate is to be the limit, not what an emulated dom0 does for each frame.
  ip link set xenbr0 mtu 9000
  guest_run g 'ip link set eth0 mtu 9000'
  if [ "$LAB_BACKEND" = splitd ]; then
    guest_run g 'test "$(ls -d /sys/class/net/eth0/queues/tx-* | wc -l)" = 4' || fail "not four queues"
    said=$(xenstore-read "$(vif_backend g)/rate")
    for way in '' -R; do
      [ -n "$way" ] && field=rx_bytes || field=tx_bytes
      iperf3 -s -B 10.9.0.1 -p $port > /run/lab/iperf.log 2>&1 &
      must_within 60 eval "ss -ltn | grep -q ':$port '"
      guest_job g load "iperf3 -c 10.9.0.1 -p $port -t 3600 -P 4 $way"
      sleep 5
      kept "rate=8Mb/s $way" 8000000 8 $field 0
      # 4 Mb/s over 50 ms.
      xenstore-write "$(vif_backend g)/rate" 25000,50000
      sleep 2
      kept "25000,50000 written $way" 4000000 8 $field 0
      xenstore-write "$(vif_backend g)/rate" "$said"
      kill $!
      must_within 60 guest_job_done g load
      guest_run g 'rm /run/load.*'
      port=$((port + 1))
    done
  else
    first=$(iperf g 10.9.0.1 10)
    note "rate=8Mb/s: $first kbit/s"
    [ "$first" -ge 7200 ] && [ "$first" -le 8800 ] || fail "8 Mb/s asked for, $first kbit/s measured"
  fi
  guest_stop g
  splitd_setting 'rate_both_ways = "none"'
}
