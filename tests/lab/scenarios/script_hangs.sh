# says: a hotplug script that hangs is killed by xl after 40 s; detach cleans up and the vdev is free again
# acceptance: 36
scenario() {
  local said
  printf '#!/bin/sh\n[ "$1" != add ] || exec sleep 300\n' > /etc/xen/scripts/block-hangs
  chmod 755 /etc/xen/scripts/block-hangs
  splitd_serves_all # a script that is not ours
  guest_start g "$(disk xvda "$(root_image g)")"
  said=$(xl block-attach g "script=block-hangs,vdev=xvdb,target=$(image data 16)" 2>&1) && fail "a hanging script succeeded"
  grep -q 'because of timeout' <<< "$said" || fail "xl says: $said"
  xl block-detach g xvdb || true
  must_within 60 absent "$(backend_path g xvdb)"
  attach g xvdb "$(image data 16)"
  detach g xvdb
  guest_stop g
}
