# says: xl.cfg lines as hosts have them today, 'phy:/dev/…,xvda,w', 'file:/…,xvdb,w' and vif=[''], by the stock scripts
# acceptance: 2
# backends: splitd kernel
scenario() {
  local volume file
  volume=$(volume root 600)
  dd if=/lab/guest-root.img of="$volume" bs=1M conv=sparse status=none
  file=$(image data 64)
  splitd_serves_all
  network
  VIFS="''" guest_start g "phy:$volume,xvda,w" "file:$file,xvdb,w"
  expect "physical-device of the volume" xenstore-exists "$(backend_path g xvda)/physical-device"
  guest_run g 'echo on-the-file | dd of=/dev/xvdb bs=512 conv=sync oflag=direct 2>/dev/null'
  [ "$(head -c 11 "$file")" = on-the-file ] || fail "what the guest wrote to xvdb is not in $file"
  [ "$LAB_BACKEND" != splitd ] || [ "$(workers | wc -l)" = 2 ] || fail "$(workers | wc -l) workers for two disks"
  guest_net g 2
  expect "the interface is in another bridge" test -e "/sys/class/net/xenbr0/brif/$(vif_name g)"
  guest_kernel_quiet g
  guest_net_quiet g
  guest_stop g
}
