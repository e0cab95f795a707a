# says: xenstored updates itself while disks come and go under verifying I/O: no device is lost, nothing stalls
# acceptance: 31
# backends: splitd
# store: c
# limit: 1800
scenario() {
  local round before daemon rounds
  daemon=$(readlink -f "/proc/$(pgrep -x xenstored)/exe")
  guest_start g "$(disk xvda "$(root_image g)")" "$(disk xvdb "$(image data 64)")"
  must_within 60 guest_run g 'test -b /dev/xvdb'
  verify_until_stopped g
  before=$(workers | sort | xargs)
  for round in 1 2 3; do
    (for i in 1 2 3; do attach g xvdc "$(image "more-$round" 8)"; detach g xvdc; done) &
    rounds=$!
    sleep 1
    xenstore-control live-update -F -t 30 "$daemon" || fail "round $round: xenstored did not update itself"
    wait "$rounds" || fail "round $round: attach and detach failed beside the update"
    [ "$(workers | sort | xargs)" = "$before" ] || fail "round $round: workers $before became $(workers | sort | xargs)"
    splitctl list | grep -q xvdb || fail "round $round: splitctl list lost the disk"
    must_within 60 guest_io_since g 0
    wait_for 120 guest_io_since g "$((IO_COUNT + 64))" || fail "round $round: no I/O goes on"
  done
  verify_stop g
  guest_kernel_quiet g
  guest_stop g
}
