# says: dom0 under systemd: splitd restarts, systemd kills it 5 times, and the unit that ran xl is killed, all without an I/O error or a lost worker
# acceptance: 30
# backends: splitd
# dom0: systemd
# limit: 1800
scenario() {
  local config before round old
  expect "splitd.service is not active" systemctl -q is-active splitd.service
  network
  config=$(MEMORY=384 VIFS=$(vif 2) guest_config g "$(disk xvda "$(root_image g)")" "$(disk xvdb "$(image data 64)")")
  rm -f "$(guest_console g)"
  systemd-run -q --unit=caller --property=KillMode=control-group --property=Type=forking xl create -q "$config" || fail "xl create in a unit failed"
  must_within $UP_SECONDS guest_up g
  must_within 60 guest_run g 'test -b /dev/xvdb'
  guest_net g 2
  verify_until_stopped g
  tcp_stream g 10.9.0.2
  before=$(all_workers)
  systemctl kill -s KILL caller.service || true
  systemctl stop caller.service || true
  [ "$(all_workers)" = "$before" ] || fail "workers died with the unit that ran xl"
  systemctl restart splitd.service || fail "systemctl restart splitd"
  must_within 60 eval 'splitctl list | grep -q xvdb'
  for round in 1 2 3 4 5; do
    old=$(pgrep -x splitd)
    systemctl kill -s KILL splitd.service || fail "systemctl kill"
    # All of the unit's processes, workers too: new ones serve.
    must_within 60 eval 'splitctl list 2> /dev/null | grep -q xvdb && [ "$(pgrep -x splitd)" != '"$old"' ]'
    must_within 60 eval '[ "$(all_workers | wc -w)" = 3 ]'
    wait_for 120 guest_io_since g "$((IO_COUNT + 64))" || fail "kill $round: no I/O goes on"
  done
  before=$(all_workers)
  dpkg -i /host/splitd-next.deb > /run/lab/dpkg.log 2>&1 || fail "upgrade: $(tail -2 /run/lab/dpkg.log)"
  must_within 60 eval 'splitctl list 2> /dev/null | grep -q xvdb'
  [ "$(all_workers)" = "$before" ] || fail "workers $before became $(all_workers)"
  verify_stop g
  tcp_stream_end g
  guest_kernel_quiet g
  guest_net_quiet g
  xl destroy g # xl's own process for this guest died with the unit
}
all_workers() { { workers; net_workers; } | sort | xargs; }
