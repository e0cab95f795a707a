# says: a driver domain with splitd and `xl devd` serves a guest's disks and interface: verify, hot plug, a killed worker, its directories go
# acceptance: 28
# backends: splitd
# limit: 1800

# The driver domain is this dom0's own system once more, without the powers of a dom0.
# By its bash: busybox's shell, which is the guests', takes its own dpkg and modprobe for theirs.
inside() { guest_run dd "PATH=/usr/sbin:/usr/bin exec bash -c ${*@Q}"; }
driver_domain() {
  local len_bytes
  len_bytes=$(stat -c %s /host/splitd.deb)
  cp /host/splitd.deb /srv/deb.img
  truncate -s $(((len_bytes + 4095) / 4096 * 4096)) /srv/deb.img
  MEMORY=768 guest_start dd "$(disk xvda /dev/vdf)" "$(disk xvdb /srv/deb.img access=ro)"
  inside "export PATH=/usr/lib/xen-$LAB_XEN/bin:\$PATH
    mkdir -p /run/lock /run/xen /var/log/xen /var/lib/xen
    for fd in fd:/proc/self/fd stdin:fd/0 stdout:fd/1 stderr:fd/2; do ln -sf \${fd#*:} /dev/\${fd%%:*}; done
    modprobe -a xenfs xen-evtchn xen-gntdev xen-gntalloc xen-privcmd loop tun bridge
    mount -t xenfs xenfs /proc/xen
    printf 'install xen-%s /bin/true\n' blkback netback > /etc/modprobe.d/lab.conf
    head -c $len_bytes /dev/xvdb > /tmp/splitd.deb
    dpkg -i /tmp/splitd.deb > /run/dpkg.log 2>&1 || { tail -3 /run/dpkg.log; exit 1; }
    echo 'serve_vifs = \"all\"' >> /etc/splitd/splitd.toml
    (setsid splitd > /run/splitd.log 2>&1 < /dev/null &)
    (setsid xl devd -F > /run/devd.log 2>&1 < /dev/null &)
    ip link add name xenbr0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0
    ip address add 10.9.0.1/24 dev xenbr0
    ip link set xenbr0 up" || fail "the driver domain could not be set up"
  must_within 60 inside 'splitctl list'
}
# disk_of VDEV TARGET, backend VDEV
disk_of() { echo "script=block-splitd,backend=dd,vdev=$1,target=$2"; }
backend() { echo "/local/domain/$(xl domid dd)/backend/vbd/$(xl domid g)/$(vdev_number "$1")"; }
killed() {
  local old
  old=$(inside "splitctl show vbd/$(xl domid g)/$1" | awk '$1 == "pid" {print $2}')
  inside "kill -9 $old"
  must_within 60 eval '[ "$(inside "splitctl show vbd/'"$(xl domid g)/$1"'" | awk "\$1 == \"pid\" {print \$2}")" != '"$old"' ]'
}
scenario() {
  local back
  driver_domain
  inside 'cp --sparse=always /lab/guest-root.img /srv/g.img && truncate -s 64M /srv/data.img && truncate -s 16M /srv/more.img'
  VIFS="'mac=00:16:3e:00:00:02,bridge=xenbr0,backend=dd'" guest_create g "$(disk_of xvda /srv/g.img)" "$(disk_of xvdb /srv/data.img)" || {
    inside 'tail -n 40 /run/splitd.log /run/devd.log'
    fail "xl create g failed"
  }
  must_within $UP_SECONDS guest_up_or_gone g
  guest_up g || fail "the guest did not reach its userland"
  [ -z "$(xenstore-list "/local/domain/0/backend/vbd/$(xl domid g)" 2> /dev/null)" ] || fail "dom0 serves the guest"
  must_within 60 guest_run g 'test -b /dev/xvdb'
  verify_until_stopped g
  killed xvdb
  guest_io_since g 0
  wait_for 120 guest_io_since g "$((IO_COUNT + 64))" || fail "no I/O goes on after the worker was killed"
  verify_stop g
  guest_run g 'ip link set eth0 up && ip address add 10.9.0.2/24 dev eth0'
  must_within 60 guest_run g 'ping -c 1 -W 1 10.9.0.1'
  xl block-attach g "$(disk_of xvdc /srv/more.img)" || fail "xl block-attach failed"
  must_within 60 guest_run g 'test -b /dev/xvdc'
  verify g /dev/xvdc --rw=randwrite --bs=4k --iodepth=16 --size=8M
  back=$(backend xvdc)
  milliseconds xl block-detach g xvdc || fail "xl block-detach failed"
  [ "$MS" -lt 10000 ] || fail "block-detach took $MS ms"
  must_within 30 absent "$back"
  guest_kernel_quiet g
  back=$(backend xvdb)
  guest_stop g
  must_within 30 absent "$back"
  must_within 60 inside '! pgrep -x blkback && ! pgrep -x netback'
  guest_stop dd
}
