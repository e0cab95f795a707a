# says: fio verifies in a guest with 4 vCPUs on ext4: 4 KiB at depth 32 on 4 queues, 1 MiB requests, discards between
# limit: 1800
scenario() {
  local target
  target=$(file_system ext4)/data.img; truncate -s 256M "$target"
  VCPUS=4 MEMORY=512 guest_start g "$(disk xvda "$(root_image g)")" "$(disk xvdb "$target")"
  verify_everything g
  guest_stop g
}
