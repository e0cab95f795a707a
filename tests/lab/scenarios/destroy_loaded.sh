# says: xl destroy under full disk and network I/O: gone at once, no zombie, and what the guest saw completed is in the image
# acceptance: 20
# core: 4.20
scenario() {
  local file id server
  file=$(image data 64)
  network
  MEMORY=384 VIFS=$(vif 2) guest_start g "$(disk xvda "$(root_image g)")" "$(disk xvdb "$file")"
  must_within 60 guest_run g 'test -b /dev/xvdb'
  guest_run g 'echo completed | dd of=/dev/xvdb bs=512 seek=100000 conv=sync oflag=direct 2>/dev/null'
  guest_job g load "fio --name=load --ioengine=libaio --direct=1 --filename=/dev/xvdb --size=32M --rw=randwrite --bs=4k --iodepth=32 --time_based --runtime=600"
  must_within 60 sh -c "[ \$(du -k $file | cut -f1) -gt 1000 ]"
  guest_net g 2
  iperf3 -s -1 -B 10.9.0.1 > /run/lab/iperf.log 2>&1 &
  server=$!
  must_within 60 eval "ss -ltn | grep -q ':5201 '"
  guest_job g net 'iperf3 -c 10.9.0.1 -t 600'
  must_within 60 tap_received 1000000
  id=$(xl domid g)
  milliseconds xl destroy g 2> /run/lab/said || fail "xl destroy failed"
  refuse "a wait of libxl's ran out" grep -q 'device with path' /run/lab/said
  note "destroy under load: $MS ms"
  must_within 60 eval '! xl list | grep -q -e "(null)" -e "^g "'
  must_within 60 absent "/local/domain/0/backend/$(backend_kind)/$id"
  must_within 60 absent "/local/domain/0/backend/vif/$id"
  must_within 60 eval "! test -e /sys/class/net/vif$id.0"
  kill "$server" 2> /dev/null || true
  [ "$(dd if="$file" bs=512 skip=100000 count=1 status=none | head -c 9)" = completed ] || fail "a completed write is not in the image"
}
# tap_received BYTES: so much has come from the guest.
tap_received() { [ "$(cat "/sys/class/net/$(vif_name g)/statistics/rx_bytes")" -gt "$1" ]; }
