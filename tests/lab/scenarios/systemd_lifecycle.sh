# says: dom0 under systemd: splitd restarts and the unit that ran xl is killed, both without an I/O error or a lost worker
# acceptance: 30
# backends: splitd
# dom0: systemd
# limit: 1800
scenario() {
  local config before
  expect "splitd.service is not active" systemctl -q is-active splitd.service
  config=$(guest_config g "$(disk xvda "$(root_image g)")" "$(disk xvdb "$(image data 64)")")
  rm -f "$(guest_console g)"
  systemd-run -q --unit=caller --property=KillMode=control-group --property=Type=forking xl create -q "$config" || fail "xl create in a unit failed"
  must_within $UP_SECONDS guest_up g
  must_within 60 guest_run g 'test -b /dev/xvdb'
  verify_until_stopped g
  before=$(workers | sort | xargs)
  systemctl kill -s KILL caller.service || true
  systemctl stop caller.service || true
  [ "$(workers | sort | xargs)" = "$before" ] || fail "workers died with the unit that ran xl"
  systemctl restart splitd.service || fail "systemctl restart splitd"
  must_within 60 eval 'splitctl list | grep -q xvdb'
  systemctl kill -s KILL splitd.service --kill-whom=main || fail "systemctl kill"
  must_within 60 eval 'splitctl list 2> /dev/null | grep -q xvdb'
  dpkg -i /host/splitd-next.deb > /run/lab/dpkg.log 2>&1 || fail "upgrade: $(tail -2 /run/lab/dpkg.log)"
  must_within 60 eval 'splitctl list 2> /dev/null | grep -q xvdb'
  [ "$(workers | sort | xargs)" = "$before" ] || fail "workers $before became $(workers | sort | xargs)"
  verify_stop g
  guest_kernel_quiet g
  xl destroy g # xl's own process for this guest died with the unit
}
