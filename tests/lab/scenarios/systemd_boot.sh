# says: dom0 under systemd, Xen started by Debian's own scripts: a guest boots from our disk and stops
# backends: splitd kernel
# dom0: systemd
scenario() {
  guest_start g "$(disk xvda "$(root_image g)")"
  guest_run g 'echo hello > /hello; sync'
  guest_kernel_quiet g
  guest_stop g
}
