# says: a guest's root disk is a logical volume, by script=block-splitd
# acceptance: 1
# backends: splitd kernel
scenario() {
  local volume
  volume=$(volume root 600)
  dd if=/lab/guest-root.img of="$volume" bs=1M conv=sparse status=none
  guest_start g "$(disk xvda "$volume")"
  guest_run g 'dd if=/dev/urandom of=/a bs=4k count=256 2>/dev/null && sync && sum1=$(md5sum < /a) &&
    echo 3 > /proc/sys/vm/drop_caches && [ "$(md5sum < /a)" = "$sum1" ]'
  guest_kernel_quiet g
  guest_stop g
}
