# says: a guest paused for a minute under load: nothing disconnects, disk I/O and one TCP connection go on and verify
# acceptance: 22
# limit: 1800
scenario() {
  local back net_back paused
  network
  MEMORY=512 VIFS=$(vif 2) guest_start g "$(disk xvda "$(root_image g)")" "$(disk xvdb "$(image data 64)")"
  must_within 60 guest_run g 'test -b /dev/xvdb'
  guest_net g 2
  back=$(backend_path g xvdb) net_back=$(vif_backend g)
  tcp_stream g 10.9.0.2
  guest_job g load "$VERIFY --filename=/dev/xvdb --size=32M --rw=randwrite --bs=4k --iodepth=16 --loops=2"
  must_within 60 sh -c '[ $(du -k /srv/data.img | cut -f1) -gt 500 ]'
  xl pause g
  paused=$SECONDS
  stays_for_a_minute() {
    node_is "$back/state" 4 && node_is "$net_back/state" 4 || fail "a backend left state 4"
    [ $((SECONDS - paused)) -ge 60 ]
  }
  must_within 120 stays_for_a_minute
  xl unpause g
  must_within 900 guest_job_done g load
  guest_job_output g load | grep -q 'err= 0' || fail "fio failed after the pause"
  tcp_stream_end g
  note "$((STREAM_BYTES >> 20)) MiB over one TCP connection"
  guest_kernel_quiet g
  guest_net_quiet g
  guest_stop g
}
