# says: xentop, xl block-list and network-list, unmodified, on guests with disks and an interface of ours; vbd3 from Xen 4.20 on
# acceptance: 1
# backends: splitd
# limit: 900
scenario() {
  local domain written shown
  network
  MEMORY=512 VIFS=$(vif 2) guest_start g "$(disk xvda "$(root_image g)")" $(tap_disk xvdb "$(image data 64)")
  domain=$(xl domid g)
  guest_net g 2
  guest_run g 'ping -c 20 -i 0.05 -s 1000 10.9.0.1 > /run/ping'
  xl block-list g | awk '$1 == 51712 && $2 == 0 && $4 == 4 {found = 1} END {exit !found}' || fail "xl block-list: $(xl block-list g)"
  xl network-list g | grep -q '^0 .* 00:16:3e:00:00:02 .* 4 ' || fail "xl network-list: $(xl network-list g)"
  # 20 pings of 1000 bytes each way, and then some.
  shown=$(xentop -b -i 1 -n | awk '$1 == "Net0" {gsub(/[^0-9 ]/, ""); print $2}')
  [ "${shown:-0}" -gt 20000 ] || fail "xentop shows $shown bytes from the interface: $(xentop -b -i 1 -n)"
  # Kind vbd: only the kernel's own driver has figures where this xentop looks. It says so, and nothing else.
  xentop -b -i 1 -x | grep -q 'VBD BlkBack 51712 .*RD: *- ' || fail "xentop: $(xentop -b -i 1 -x)"
  if [ "$LAB_XEN" = 4.20 ]; then
    guest_run g 'dd if=/dev/urandom of=/dev/xvdb bs=64k count=64 oflag=direct 2> /dev/null'
    must_within 30 xentop_has_written $((64 * 128))
    note "xentop of vbd3: $(xentop -b -i 1 -x | grep 51728)"
  fi
  guest_stop g
  must_within 30 absent "/local/domain/0/backend/vbd3/$domain"
}
# tap_disk VDEV TARGET: a disk of kind vbd3 where this xl knows it.
tap_disk() {
  [ "$LAB_XEN" != 4.20 ] || echo "format=raw,backendtype=tap,script=block-splitd,vdev=$1,target=$2"
}
# xentop_has_written SECTORS: its sum over g's disks.
xentop_has_written() {
  local sectors
  sectors=$(xentop -b -i 1 -x | sed -n 's/^VBD.* 51728 .*WSECT: *\([0-9]*\).*/\1/p')
  [ "${sectors:-0}" -ge "$1" ]
}
