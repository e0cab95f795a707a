# says: no worker exists before the disk's hotplug script ran, exactly one after, none when the disk is gone
# core: 4.17
# backends: splitd
scenario() {
  local file back
  file=$(image data 16)
  guest_start g "$(disk xvda "$(root_image g)")"
  [ "$(workers | wc -l)" = 1 ] || fail "$(workers | wc -l) workers for one disk"
  # The same script, held back until the file /run/lab/go is there.
  printf '#!/bin/bash\nif [ "$1" = add ]; then touch /run/lab/held; until [ -e /run/lab/go ]; do sleep 0.1; done; fi\nexec /etc/xen/scripts/block-splitd "$@"\n' \
    > /etc/xen/scripts/block-splitd-held
  chmod 755 /etc/xen/scripts/block-splitd-held
  rm -f /run/lab/go /run/lab/held
  splitd_serves_all # the held script has another name
  back=$(backend_path g xvdb)
  xl block-attach g "script=block-splitd-held,vdev=xvdb,target=$file" &
  must_within 60 test -e /run/lab/held
  expect "state before the script ended" node_is "$back/state" 2
  [ "$(workers | wc -l)" = 1 ] || fail "a worker was started before its script ran"
  touch /run/lab/go
  wait $! || fail "xl block-attach failed"
  must_within 60 node_is "$back/state" 4
  [ "$(workers | wc -l)" = 2 ] || fail "$(workers | wc -l) workers for two disks"
  detach g xvdb
  must_within 60 eval '[ "$(workers | wc -l)" = 1 ]'
  guest_stop g
}
