# says: a guest with the other Linux (6.12 on Xen 4.17, 6.1 on Xen 4.20) and four vCPUs, one queue for each
# guest-kernel-of: 4.20
# xen: 4.17
# limit: 1800
scenario() {
  local other queues
  other=$(ls /lab/guest | grep -vx "$LAB_GUEST")
  KERNEL=$other VCPUS=4 guest_start g "$(disk xvda "$(root_image g)")"
  [ "$(guest_run g 'uname -r' | cut -d. -f1,2)" = "$other" ] || fail "the guest runs $(guest_run g 'uname -r')"
  queues=$(guest_run g 'ls /sys/block/xvda/mq | wc -l')
  [ "$queues" = 4 ] || [ "$LAB_BACKEND" != splitd ] || fail "$queues queues for four vCPUs"
  guest_run g 'dd if=/dev/urandom of=/a bs=1M count=16 2>/dev/null && sync && sum1=$(md5sum < /a) &&
    echo 3 > /proc/sys/vm/drop_caches && [ "$(md5sum < /a)" = "$sum1" ]'
  guest_kernel_quiet g
  guest_stop g
}
