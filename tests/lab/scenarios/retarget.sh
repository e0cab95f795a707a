# says: a disk moves from a file to a logical volume under fio verify: splitctl killed midway leaves the file served, the second try moves it, no error
# backends: splitd
# limit: 1800
scenario() {
  local file lv dev copying pid
  guest_start g "$(disk xvda "$(root_image g)")"
  file=$(image data 96)
  attach g xvdb "$file"
  verify_until_stopped g
  lv=$(volume moved 96)
  dev=vbd/$(xl domid g)/xvdb
  splitctl retarget "$dev" "$lv" > /run/lab/said 2>&1 &
  copying=$!
  must_within 60 eval '[ "$(ls -l /proc/'$copying'/fd 2> /dev/null | grep -c "/dev/\(dm-\|mapper\|vg0\)")" != 0 ] || ! kill -0 '$copying
  kill -9 $copying && wait $copying || true
  splitctl show "$dev" | grep -q "^target .*$file\$" || fail "after a kill of splitctl: $(splitctl show "$dev" | grep '^target')"
  guest_io_since g 0
  wait_for 120 guest_io_since g "$((IO_COUNT + 64))" || fail "no I/O goes on after splitctl was killed"
  splitctl retarget "$dev" "$lv" > /run/lab/said 2>&1 || fail "retarget: $(tail -2 /run/lab/said)"
  note "$(head -1 /run/lab/said)"
  splitctl show "$dev" | grep -q "^target .*$lv\$" || fail "after the move: $(splitctl show "$dev" | grep '^target')"
  node_is "$(backend_path g xvdb)/params" "$lv" || fail "params is $(node "$(backend_path g xvdb)/params")"
  for pid in $(workers); do
    ! ls -l "/proc/$pid/fd" | grep -q "$file" || fail "worker $pid still has $file open"
  done
  pid=$(splitctl show "$dev" | awk '$1 == "pid" {print $2}')
  kill -9 "$pid"
  guest_io_since g 0
  wait_for 120 guest_io_since g "$((IO_COUNT + 64))" || fail "no I/O goes on after its worker was killed there"
  verify_stop g
  guest_kernel_quiet g
  detach g xvdb
  lvremove -qfy vg0/moved
  guest_stop g
}
