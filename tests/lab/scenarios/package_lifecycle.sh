# says: upgrade and downgrade under load keep every worker, then move them to the installed version one by one; purge is refused while a disk is connected, then leaves nothing
# backends: splitd
# limit: 1800
scenario() {
  local before
  guest_start g "$(disk xvda "$(root_image g)")" "$(disk xvdb "$(image data 64)")"
  must_within 60 guest_run g 'test -b /dev/xvdb'
  verify_until_stopped g
  before=$(workers | sort | xargs)
  local deb pid
  for deb in /host/splitd-next.deb /host/splitd.deb; do
    dpkg -i "$deb" > /run/lab/dpkg.log 2>&1 || fail "dpkg -i $deb: $(tail -2 /run/lab/dpkg.log)"
    must_within 60 splitd_stopped
    splitd_start
    must_within 60 eval 'splitctl list | grep -q xvdb'
    [ "$(workers | sort | xargs)" = "$before" ] || fail "workers $before became $(workers | sort | xargs)"
    guest_io_since g 0
    splitctl restart --all > /run/lab/said || fail "restart --all: $(tail -2 /run/lab/said)"
    before=$(workers | sort | xargs)
    for pid in $before; do
      [ "$(readlink "/proc/$pid/exe")" = /usr/libexec/splitd/blkback ] || fail "worker $pid runs $(readlink "/proc/$pid/exe")"
    done
    wait_for 120 guest_io_since g "$((IO_COUNT + 64))" || fail "no I/O goes on after $(basename "$deb")"
  done
  refuse "purge went through while disks are connected" dpkg -P splitd > /run/lab/dpkg.log 2>&1
  expect "splitd is gone after a refused purge" splitd_answers
  verify_stop g
  guest_kernel_quiet g
  guest_stop g
  must_within 60 eval '[ -z "$(workers)" ]'
  dpkg -P splitd > /run/lab/dpkg.log 2>&1 || fail "purge: $(tail -2 /run/lab/dpkg.log)"
  must_within 60 splitd_stopped
  local path
  for path in /etc/splitd /etc/xen/scripts/block-splitd /usr/sbin/splitd /usr/libexec/splitd /run/splitd /var/lib/splitd; do
    [ ! -e "$path" ] || fail "$path is left after a purge"
  done
  dpkg -i /host/splitd.deb > /run/lab/dpkg.log 2>&1 || fail "install after purge: $(tail -2 /run/lab/dpkg.log)"
  splitd_start
}
