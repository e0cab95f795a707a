# says: a disk with blocks of 4 KiB: the guest is told both sizes; single sectors, their neighbours and discards verify
# limit: 900
scenario() {
  local file device
  file=$(image large 64)
  device=$(losetup --direct-io=on --sector-size 4096 --find --show "$file")
  guest_start g "$(disk xvda "$(root_image g)")" "$(disk xvdb "$device")"
  must_within 60 guest_run g 'test -b /dev/xvdb'
  if [ "$LAB_BACKEND" = splitd ]; then
    [ "$(guest_run g 'cat /sys/block/xvdb/queue/physical_block_size')" = 4096 ] ||
      fail "the guest sees physical blocks of $(guest_run g 'cat /sys/block/xvdb/queue/physical_block_size') bytes"
  fi
  # The blocks that the guest may write are as large as it was told, at most those of the disk.
  local sector
  sector=$(guest_run g 'cat /sys/block/xvdb/queue/logical_block_size')
  verify g /dev/xvdb --rw=randwrite "--bs=$sector" --iodepth=32 --size=1M
  verify g /dev/xvdb --rw=randwrite --bs=12k --iodepth=16 --size=16M --offset=16M
  guest_run g "fio --name=trim --ioengine=libaio --direct=1 --filename=/dev/xvdb --rw=trimwrite --bs=64k --iodepth=4 --size=8M --offset=48M 2>&1" > /dev/null ||
    fail "fio with discards"
  guest_kernel_quiet g
  guest_stop g
  losetup --detach "$device"
}
