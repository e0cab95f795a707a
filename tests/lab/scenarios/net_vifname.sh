# says: vifname renames the tap, with four queues too; a name that is taken is refused in words that say so
# acceptance: 16
scenario() {
  network
  MEMORY=512 VCPUS=4 VIFS=$(vif 2 vifname=web0) guest_start g "$(disk xvda "$(root_image g)")"
  guest_net g 2
  expect "no web0 in the bridge" test -e /sys/class/net/xenbr0/brif/web0
  refuse "the old name is left" test -e "/sys/class/net/$(vif_name g)"
  if [ "$LAB_BACKEND" = splitd ]; then
    expect "not four queues" node_is "$(vif_frontend g)/multi-queue-num-queues" 4
    kill -9 "$(net_workers)"
    must_within 60 busybox ping -c 1 -W 1 -q 10.9.0.2
  fi
  refuse "a second web0 was made" eval 'VIFS=$(vif 3 vifname=web0) guest_create h "$(disk xvda "$(root_image h)")" 2> /run/lab/said'
  grep -q 'already exists' /run/lab/said || fail "xl does not say why: $(cat /run/lab/said)"
  # Cleaning up after h, vif-bridge takes the interface called web0 out of the bridge, whoever's it is.
  guest_gone h || fail "the second guest is left"
  guest_stop g
  must_within 60 eval '! test -e /sys/class/net/web0'
}
