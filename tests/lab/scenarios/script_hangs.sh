# says: a hotplug script of a disk or an interface that hangs is killed by xl after 40 s; detach cleans up and the slot is free again
# acceptance: 36
scenario() {
  local said
  printf '#!/bin/sh\n[ "$1" != add ] || exec sleep 300\n' > /etc/xen/scripts/block-hangs
  printf '#!/bin/sh\n[ "$1" != online ] || exec sleep 300\n' > /etc/xen/scripts/vif-hangs
  chmod 755 /etc/xen/scripts/*-hangs
  network
  splitd_serves_all # a script that is not ours
  guest_start g "$(disk xvda "$(root_image g)")"
  said=$(xl block-attach g "script=block-hangs,vdev=xvdb,target=$(image data 16)" 2>&1) && fail "a hanging script succeeded"
  grep -q 'because of timeout' <<< "$said" || fail "xl says: $said"
  xl block-detach g xvdb || true
  must_within 60 absent "$(backend_path g xvdb)"
  attach g xvdb "$(image data 16)"
  detach g xvdb

  said=$(xl network-attach g script=vif-hangs bridge=xenbr0 2>&1) && fail "a hanging script of an interface succeeded"
  grep -q 'because of timeout' <<< "$said" || fail "xl says: $said"
  xl network-detach g 0 || true
  must_within 60 absent "$(vif_backend g)"
  must_within 60 eval "! test -e /sys/class/net/$(vif_name g)"
  xl network-attach g bridge=xenbr0 || fail "xl network-attach failed after the hanging one"
  guest_net g 2
  guest_stop g
}
