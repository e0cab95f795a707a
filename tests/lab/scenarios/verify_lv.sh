# says: fio verifies in a guest with 4 vCPUs on lv: 4 KiB at depth 32 on 4 queues, 1 MiB requests, discards between
# limit: 1800
scenario() {
  local target
  target=$(volume data 256)
  VCPUS=4 MEMORY=512 guest_start g "$(disk xvda "$(root_image g)")" "$(disk xvdb "$target")"
  verify_everything g
  guest_stop g
}
