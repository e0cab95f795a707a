# says: an image that grows: the guest sees the new size without a detach
# acceptance: 35
scenario() {
  local file
  file=$(image data 32)
  guest_start g "$(disk xvda "$(root_image g)")" "$(disk xvdb "$file")"
  must_within 60 guest_run g '[ "$(cat /sys/block/xvdb/size)" = 65536 ]'
  truncate -s 64M "$file"
  if [ "$LAB_BACKEND" = splitd ]; then
    splitctl resize "vbd/$(xl domid g)/xvdb" || fail "splitctl resize failed"
  else
    losetup -c "$(losetup -j "$file" | cut -d: -f1)"
  fi
  must_within 60 guest_run g '[ "$(cat /sys/block/xvdb/size)" = 131072 ]'
  guest_run g 'echo end | dd of=/dev/xvdb bs=512 seek=131071 conv=sync oflag=direct 2>/dev/null'
  guest_kernel_quiet g
  guest_stop g
}
