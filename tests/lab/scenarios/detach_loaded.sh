# says: block-detach under fio and while mounted: what was in flight completes or the disk goes on; unmounted, it detaches
# acceptance: 12
# limit: 1800
scenario() {
  local file
  file=$(image data 64)
  mke2fs -q -t ext4 "$file"
  guest_start g "$(disk xvda "$(root_image g)")"
  attach g xvdb "$file"
  guest_run g 'mount /dev/xvdb /mnt && echo kept > /mnt/kept && sync'
  guest_job g load "fio --name=load --ioengine=libaio --direct=1 --filename=/mnt/load --size=16M --rw=randwrite --bs=4k --iodepth=16 --number_ios=20000"
  must_within 60 guest_run g 'test -s /mnt/load'
  # A frontend of Linux 6.1 closes even when mounted, an older one refuses and must be served on: both are right.
  xl block-detach g xvdb || true
  if node_is "$(backend_path g xvdb)/state" 5; then
    guest_run g 'cat /mnt/kept' | grep -q kept || fail "refused to detach, and is no longer served"
  fi
  must_within 300 guest_job_done g load
  guest_run g 'umount /mnt || umount -l /mnt'
  absent "$(backend_path g xvdb)" || xl block-detach g xvdb || true
  must_within 60 absent "$(backend_path g xvdb)"
  e2fsck -fp "$file" > /dev/null || [ $? = 1 ] || fail "the image is inconsistent after the detach"
  guest_stop g
}
