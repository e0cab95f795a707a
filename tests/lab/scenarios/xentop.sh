# says: xentop, xl block-list and network-list, unmodified: what they show of a disk and an interface of ours
# acceptance: 1
# backends: splitd
# limit: 900
scenario() {
  local before after top
  network
  MEMORY=512 VIFS=$(vif 2) guest_start g "$(disk xvda "$(root_image g)")"
  guest_net g 2
  attach g xvdb "$(image data 64)"
  verify g /dev/xvdb --rw=randwrite --bs=4k --iodepth=16 --size=4M
  guest_run g 'ping -c 50 -i 0.05 -s 1000 10.9.0.1 > /run/ping'
  xentop -b -i 2 -d 1 -n -x -f > /run/lab/xentop.txt 2>&1 || note "xentop: $?"
  sed 's/^/XENTOP /' /run/lab/xentop.txt
  ls -la /sys/bus/xen-backend/devices/ /sys/bus/xen-backend/devices/*/ || true
  ls /dev/shm || true
  xl block-list g; xl network-list g
  splitctl list; splitctl top -b -d 1 -i 1
  guest_stop g
}
