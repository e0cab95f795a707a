# The words scenarios are written in. Sourced in dom0; knows xl, the guests' agent and how splitd is started, not any
# one scenario. Waits are for conditions, with limits far beyond what a loaded machine needs; nothing sleeps a guess.
. /host/plan.env
. /host/dom0/rates.sh
CONSOLES=/var/log/xen/console
SPLITD_LOG=/var/log/splitd.log
UP_SECONDS=420

# reason TEXT: why the scenario fails; the first one said is the one reported.
reason() { [ -s /run/lab/reason ] || echo "$*" > /run/lab/reason; echo "REASON: $*" >&2; }
fail() { reason "$*"; trap - ERR; exit 1; }

# Nothing ever comes from it: to wait for a while without a process for it.
exec {NOTHING}<> <(:)
# wait_for SECONDS COMMAND…: until the command succeeds. Asked less and less often, unless POLL_SECONDS says how often: each look is a
# process or some, which in an emulated dom0 is time that what is looked at does not get.
wait_for() {
  local end=$((SECONDS + $1)) pause=1
  shift
  until "$@"; do
    [ $SECONDS -lt $end ] || return 1
    read -r -t "${POLL_SECONDS:-0.$pause}" -u "$NOTHING" || true
    [ $pause = 8 ] || pause=$((pause + 1))
  done
}
# must_within SECONDS COMMAND…: the same, and the scenario fails with the command named.
must_within() { wait_for "$@" || fail "after $1 s still not: ${*:2}"; }
# expect TEXT COMMAND…
expect() { local text=$1; shift; "$@" || fail "$text"; }
refuse() { local text=$1; shift; ! "$@" || fail "$text"; }

# packages: installs those that the scenario's header names; what they would start stays stopped.
packages() {
  printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
  chmod 0755 /usr/sbin/policy-rc.d
  DEBIAN_FRONTEND=noninteractive dpkg -i "/host/packages/$SCENARIO/"*.deb > /run/lab/said 2>&1 || fail "dpkg: $(tail -2 /run/lab/said)"
  rm /usr/sbin/policy-rc.d
}

# ---- disks
# disk VDEV TARGET [OPTION…]: the xl.cfg disk line by which the backend under test serves TARGET.
disk() {
  local vdev=$1 target=$2 options=
  shift 2
  for option in "$@"; do options+=",$option"; done
  case $LAB_BACKEND in
    splitd) echo "script=block-splitd,vdev=$vdev$options,target=$target" ;;
    kernel) echo "format=raw,vdev=$vdev$options,target=$target" ;;
    # Not direct-io-safe: Debian's QEMU for Xen is built without the native AIO which that asks for, and then serves nothing.
    qdisk) echo "format=raw,backendtype=qdisk,vdev=$vdev$options,target=$target" ;;
  esac
}
# root_image NAME: a fresh copy of the guests' root disk; prints its path.
root_image() { cp --sparse=always /lab/guest-root.img "/srv/$1.img" && echo "/srv/$1.img"; }
# image NAME MIB: a sparse file; prints its path.
image() { rm -f "/srv/$1.img"; truncate -s "${2}M" "/srv/$1.img"; echo "/srv/$1.img"; }
# volume_group: makes vg0 on the lab's disk for it, once a boot.
volume_group() { vgs vg0 > /dev/null 2>&1 || { pvcreate -q /dev/vdb && vgcreate -q vg0 /dev/vdb; }; }
# volume NAME MIB: a fresh logical volume; prints its path.
volume() {
  volume_group >&2
  lvremove -qfy "vg0/$1" > /dev/null 2>&1 || true
  lvcreate -qq -y -Wn -Zn -n "$1" -L "${2}M" vg0 >&2
  udevadm settle
  echo "/dev/vg0/$1"
}
# file_system xfs|ext4: a file system of that kind mounted below /srv, once a boot; prints its path.
file_system() {
  local device=/dev/vdc
  [ "$1" = ext4 ] && device=/dev/vdd
  if ! mountpoint -q "/srv/$1"; then
    mkdir -p "/srv/$1"
    "mkfs.$1" -q "$device" >&2
    mount "$device" "/srv/$1"
  fi
  echo "/srv/$1"
}

# ---- guests
# bootable_image NAME: a copy of the guests' root disk with a kernel, an initrd and GRUB's configuration in it; prints its path.
GUEST_ARGUMENTS="console=hvc0 quiet loglevel=1 panic=-1 mitigations=off"
bootable_image() {
  local file
  file=$(root_image "$1")
  mkdir -p /run/lab/mnt
  mount -o loop "$file" /run/lab/mnt
  mkdir -p /run/lab/mnt/boot/grub
  cp "/lab/guest/$LAB_GUEST/vmlinuz" "/lab/guest/$LAB_GUEST/initrd" /run/lab/mnt/boot/
  printf '%s\n' 'echo GRUB-READ-ITS-CONFIG' 'set default=0' 'set timeout=0' 'menuentry "Linux" {' \
    "  linux /boot/vmlinuz $GUEST_ARGUMENTS" '  initrd /boot/initrd' '}' > /run/lab/mnt/boot/grub/grub.cfg
  umount /run/lab/mnt
  echo "$file"
}
# guest_config NAME DISK…: writes the guest's xl.cfg; prints its path. VCPUS, MEMORY, KERNEL (a version, grub or pygrub), VIFS
# (quoted as xl.cfg wants them) and EXTRA may be set before.
guest_config() {
  local name=$1 file=/run/lab/guests/$1.cfg
  shift
  mkdir -p /run/lab/guests
  {
    echo "name=\"$name\""
    case ${KERNEL:=$LAB_GUEST} in
      grub) echo 'kernel="/usr/lib/grub-xen/grub-x86_64-xen.bin"' ;;
      pygrub) echo 'bootloader="pygrub"' ;;
      *)
        echo "kernel=\"/lab/guest/$KERNEL/vmlinuz\""
        echo "ramdisk=\"/lab/guest/$KERNEL/initrd\""
        echo "extra=\"$GUEST_ARGUMENTS\""
        ;;
    esac
    if [ "$LAB_GUEST_TYPE" = pvh ] && [[ $KERNEL != *grub && ${EXTRA:-} != *type=* ]]; then
      echo 'type="pvh"'
      echo "memory=$((${MEMORY:-256} + 128))"
      echo 'vcpus=1'
    else
      echo "memory=${MEMORY:-256}"
      echo "vcpus=${VCPUS:-1}"
    fi
    echo "cpus=\"1\""
    echo "on_crash=\"destroy\""
    printf 'disk=['
    printf "'%s'," "$@"
    echo ']'
    [ -z "${VIFS:-}" ] || echo "vif=[$VIFS]"
    echo "${EXTRA:-}"
  } > "$file"
  echo "$file"
}
guest_console() { echo "$CONSOLES/guest-$1.log"; }
guest_says() { grep -q -- "$2" "$(guest_console "$1")" 2>/dev/null; }
# guest_create NAME DISK…: xl create, without waiting for its userland.
guest_create() {
  local name=$1 config
  shift
  rm -f "$(guest_console "$name")"
  config=$(guest_config "$name" "$@")
  xl create -q "$config"
}
guest_up() { guest_says "$1" GUEST-UP; }
guest_up_or_gone() { guest_up "$1" || guest_says "$1" GUEST-NO-ROOT || ! xl domid "$1" > /dev/null 2>&1; }
# guest_start NAME DISK…: create, then wait for its agent.
guest_start() {
  guest_create "$@" || fail "xl create $1 failed"
  must_within $UP_SECONDS guest_up_or_gone "$1"
  guest_up "$1" || fail "guest $1 did not reach its userland: $(tail -1 "$(guest_console "$1")")"
}
# guest_run NAME COMMAND…: runs it in the guest; prints its output and returns its status. RUN_SECONDS is the limit.
guest_run() {
  local name=$1 id tty log
  shift
  id=$(date +%s%N)
  log=$(guest_console "$name")
  tty=$(xenstore-read "/local/domain/$(xl domid "$name")/console/tty")
  { printf '%s\n' "$*" | base64 -w 512 | sed 's/^/+/'; echo "!$id"; } > "$tty"
  wait_for "${RUN_SECONDS:-300}" grep -q "^END $id " "$log" || fail "guest $name: no answer to: $*"
  tr -d '\r' < "$log" | awk -v id="$id" '$1 == "END" && $2 == id {exit} p {print} $1 == "BEGIN" && $2 == id {p = 1}'
  return "$(tr -d '\r' < "$log" | awk -v id="$id" '$1 == "END" && $2 == id {print $3}')"
}
# guest_job NAME ID COMMAND…: starts it in the guest's background; guest_job_done and guest_job_output ask after it.
guest_job() {
  local name=$1 job=$2
  shift 2
  guest_run "$name" "( ( $* ) > /run/$job.out 2>&1; echo \$? > /run/$job.status ) < /dev/null &"
}
guest_job_done() { guest_run "$1" "test -e /run/$2.status"; }
guest_job_output() { guest_run "$1" "cat /run/$2.out; exit \$(cat /run/$2.status)"; }
# guest_fio_end NAME ID…: ends every fio in the guest; these were the jobs that ran them.
guest_fio_end() {
  local name=$1 job
  shift
  guest_run "$name" 'for it in /proc/[0-9]*; do [ "$(cat "$it/comm" 2> /dev/null)" != fio ] || kill "${it#/proc/}"; done'
  for job in "$@"; do must_within 60 guest_job_done "$name" "$job"; done
  for job in "$@"; do guest_run "$name" "rm /run/$job.*"; done
}
guest_gone() { ! xl domid "$1" > /dev/null 2>&1; }
# guest_stop NAME: a shutdown from inside, waited for.
guest_stop() {
  xl shutdown "$1"
  must_within 120 guest_gone "$1"
}

# milliseconds COMMAND…: how long it took, in MS; its status is kept.
milliseconds() {
  local began status=0
  began=$(date +%s%N)
  "$@" || status=$?
  MS=$((($(date +%s%N) - began) / 1000000))
  return $status
}
# attach NAME VDEV TARGET [OPTION…], detach NAME VDEV: hot plug, waited for on both sides.
attach() {
  local name=$1 vdev=$2
  xl block-attach "$name" "$(disk "${@:2}")" || fail "xl block-attach $name $vdev failed"
  must_within 60 node_is "$(frontend_path "$name" "$vdev")/state" 4
}
detach() {
  local back front
  back=$(backend_path "$1" "$2") front=$(frontend_path "$1" "$2")
  xl block-detach "$1" "$2" || fail "xl block-detach $1 $2 failed"
  must_within 60 absent "$back"
  must_within 60 absent "$front"
}
# guest_kernel_quiet NAME: no complaint of the guest's kernel about any disk.
guest_kernel_quiet() {
  local said
  said=$(guest_run "$1" 'dmesg | grep -i -E "i/o error|blkfront.*(error|fail)|xvd.*(error|fail)|EXT4-fs error|blocked for more" || true')
  [ -z "$said" ] || fail "guest $1: $said"
}
# fio_failed NAME TEXT: fails with what fio said, and what the guest's kernel said of fio.
fio_failed() {
  local kernel
  kernel=$(guest_run "$1" 'dmesg | grep -E "fio\[|traps:|Code:" | tail -3')
  fail "fio: $(tr '\r' '\n' <<< "$2" | tail -3) $kernel"
}
# verify NAME DEVICE FIO-OPTION…: a bounded run of fio that checks every byte it wrote.
VERIFY="fio --eta=never --name=verify --ioengine=libaio --direct=1 --verify=crc32c --verify_fatal=1 --verify_backlog=256 --randrepeat=1"
verify() {
  local name=$1 device=$2 said
  shift 2
  said=$(RUN_SECONDS=${RUN_SECONDS:-900} guest_run "$name" "$VERIFY --filename=$device $* 2>&1") || fio_failed "$name" "$said"
  grep -q 'err= 0' <<< "$said" || fail "fio: $(grep -m1 'err=' <<< "$said")"
}

# verify_until_stopped NAME: fio writes and verifies the guest's xvdb at depth 32, over and over, until verify_stop.
verify_until_stopped() {
  guest_job "$1" verify "while [ ! -e /run/stop ]; do $VERIFY --filename=/dev/xvdb --size=16M --rw=randwrite --bs=4k --iodepth=32 || exit 1; done"
  must_within 60 guest_io_since "$1" 0
}
verify_stop() {
  local said
  guest_run "$1" 'touch /run/stop'
  must_within 600 guest_job_done "$1" verify
  said=$(guest_job_output "$1" verify) || fail "fio: $(grep -m1 -i -e 'verify' -e 'error' <<< "$said")"
}
# guest_io_since NAME COUNT: whether its xvdb has completed more than COUNT requests; the count is left in IO_COUNT.
guest_io_since() {
  IO_COUNT=$(guest_run "$1" "awk '{print \$1 + \$5}' /sys/block/xvdb/stat")
  [ "$IO_COUNT" -gt "$2" ]
}
# kills_under_verify PERSISTENT worker|splitd ROUNDS: SIGKILL, again and again, with I/O seen to go on after each.
kills_under_verify() {
  local round victim root_worker spec
  splitd_setting "persistent = $1"
  guest_start g "$(disk xvda "$(root_image g)")"
  root_worker=$(workers)
  attach g xvdb "$(image data 64)"
  verify_until_stopped g
  for round in $(seq "$3"); do
    if [ "$2" = worker ]; then
      victim=$(workers | grep -vx "$root_worker")
      kill -9 "$victim"
      must_within 60 eval '[ -n "$(workers | grep -vx -e '"$root_worker"' -e '"$victim"')" ]'
    else
      spec=$(workers | sort | xargs)
      kill -9 "$(pgrep -x splitd)"
      must_within 60 splitd_stopped
      splitd_start
      must_within 60 eval 'splitctl list | grep -q xvdb'
      [ "$(workers | sort | xargs)" = "$spec" ] || fail "round $round: workers $spec became $(workers | sort | xargs)"
    fi
    expect "round $round: the backend left state 4" node_is "$(backend_path g xvdb)/state" 4
    wait_for 120 guest_io_since g "$((IO_COUNT + 64))" || {
      guest_job_done g verify && fail "round $round: fio ended: $(guest_job_output g verify | grep -m1 -i -E 'verify:|error|err=')"
      fail "round $round: no I/O goes on"
    }
  done
  verify_stop g
  guest_kernel_quiet g
  guest_stop g
}

# verify_on_queues NAME DEVICE MIB FIO-OPTION…: four fios at once, each on a processor of its own, so that each queue is used, and on
# its own so many MiB of the device. Not one fio with four jobs: its end crashes now and then on a loaded machine.
verify_on_queues() {
  local name=$1 device=$2 mib=$3 said script
  shift 3
  script="cd /run; for job in 0 1 2 3; do
    $VERIFY --filename=$device --cpus_allowed=\$job --offset=\$((2 * job * $mib))M --size=${mib}M $* > verify.\$job 2>&1 &
  done; wait; cat verify.?; test \$(grep -c 'err= 0' verify.? | grep -c ':1\$') = 4"
  said=$(RUN_SECONDS=${RUN_SECONDS:-1800} guest_run "$name" "$script") || fio_failed "$name" "$said"
}
# verify_everything NAME: on its xvdb, small requests on every queue, large ones, then writes with discards between.
verify_everything() {
  local said
  must_within 60 guest_run "$1" 'test -b /dev/xvdb'
  verify_on_queues "$1" /dev/xvdb 8 --rw=randwrite --bs=4k --iodepth=32
  verify "$1" /dev/xvdb --rw=write --bs=1M --iodepth=4 --size=64M --offset=64M
  said=$(RUN_SECONDS=900 guest_run "$1" "fio --eta=never --name=trim --ioengine=libaio --direct=1 --filename=/dev/xvdb --rw=trimwrite --bs=64k --iodepth=8 --size=32M --offset=128M 2>&1") || fail "fio with discards: $(tail -3 <<< "$said")"
  grep -q 'err= 0' <<< "$said" || fail "fio with discards: $(grep -m1 'err=' <<< "$said")"
  verify "$1" /dev/xvdb --rw=randwrite --bs=16k --iodepth=16 --size=32M --offset=128M
  guest_kernel_quiet "$1"
}

# ---- the store
backend_kind() { case $LAB_BACKEND in qdisk) echo qdisk ;; *) echo vbd ;; esac; }
# vdev_number xvdX: as Xen numbers it; from the 17th disk on in the extended form.
vdev_number() {
  local index=$(($(printf '%d' "'${1:3:1}") - 97))
  if [ $index -lt 16 ]; then echo $((51712 + 16 * index)); else echo $((268435456 + 256 * index)); fi
}
# backend_path NAME VDEV, frontend_path NAME VDEV
backend_path() { echo "/local/domain/0/backend/$(backend_kind)/$(xl domid "$1")/$(vdev_number "$2")"; }
frontend_path() { echo "/local/domain/$(xl domid "$1")/device/vbd/$(vdev_number "$2")"; }
node() { xenstore-read "$1" 2>/dev/null; }
node_is() { [ "$(node "$1")" = "$2" ]; }
absent() { ! xenstore-exists "$1"; }

# ---- networks: dom0's end of each is a bridge with 10.9.B.1 and fd09:B::1; guest number N has the same ending in N.
# network [B]: the bridge xenbrB, and a backend for interfaces.
network() {
  local bridge=xenbr${1:-0} subnet=${1:-0}
  case $LAB_BACKEND in
    splitd) splitd_setting 'serve_vifs = "all"' ;;
    kernel) modprobe xen-netback ;;
  esac
  [ -e "/sys/class/net/$bridge" ] || ip link add name "$bridge" type bridge stp_state 0 forward_delay 0 mcast_snooping 0
  ip address replace "10.9.$subnet.1/24" dev "$bridge"
  ip -6 address replace "fd09:$subnet::1/64" dev "$bridge" nodad
  # Set, so that it does not follow its ports.
  ip link set "$bridge" mtu 1500
  ip link set "$bridge" up
}
# vif N [OPTION…]: the xl.cfg line of guest number N's interface.
vif() {
  local number=$1
  shift
  printf "'mac=00:16:3e:00:00:%02x,bridge=xenbr0" "$number"
  [ $# = 0 ] || printf ',%s' "$@"
  printf "'"
}
vif_backend() { echo "/local/domain/0/backend/vif/$(xl domid "$1")/${2:-0}"; }
vif_frontend() { echo "/local/domain/$(xl domid "$1")/device/vif/${2:-0}"; }
vif_name() { echo "vif$(xl domid "$1").${2:-0}"; }
net_workers() { pgrep -x netback || true; }
# guest_net NAME N [B]: its interface eth0 (ethB) is up with number N's addresses, and dom0 answers it.
guest_net() {
  local subnet=${3:-0}
  must_within 60 node_is "$(vif_backend "$1" "$subnet")/state" 4
  must_within 60 guest_run "$1" "test -e /sys/class/net/eth$subnet"
  guest_run "$1" "echo 0 > /proc/sys/net/ipv6/conf/eth$subnet/accept_dad; ip link set lo up; ip link set eth$subnet up &&
    ip address add 10.9.$subnet.$2/24 dev eth$subnet && ip -6 address add fd09:$subnet::$2/64 dev eth$subnet"
  must_within 60 guest_run "$1" "ping -c 1 -W 1 10.9.$subnet.1"
}
# tcp_connects ADDRESS PORT
tcp_connects() { busybox nc "$1" "$2" < /dev/null > /dev/null 2>&1; }
listens() { guest_run "$1" "netstat -ltn | grep -q ':$2 '"; }
# take NAME COMMAND: the guest's port 7000, the first connection to it into COMMAND; take_done says what that printed. busybox's nc
# ends its connection with its input, so that its input must not end.
NC="[ -p /run/hold ] || mkfifo /run/hold; nc 0<>/run/hold"
take() {
  guest_job "$1" take "$NC -l -p 7000 | $2"
  must_within 60 listens "$1" 7000
}
take_done() {
  must_within 600 guest_job_done "$1" take
  guest_job_output "$1" take
}
# tcp_file NAME ADDRESS MIB: so much over TCP to the guest and back, compared by checksum.
tcp_file() {
  local name=$1 address=$2 mib=$3 want got
  head -c "${mib}M" /dev/urandom > /srv/tcp.data
  want=$(md5sum < /srv/tcp.data)
  [ -p /run/lab/hold ] || mkfifo /run/lab/hold
  take "$name" "tee /run/tcp.data | md5sum"
  timeout 600 busybox nc "$address" 7000 < /srv/tcp.data || fail "sending $mib MiB to the guest failed"
  got=$(take_done "$name")
  [ "$got" = "$want" ] || fail "$mib MiB over TCP to the guest: $want became $got, $(guest_run "$name" 'wc -c < /run/tcp.data') bytes"
  guest_job "$name" give "nc -l -p 7001 < /run/tcp.data"
  must_within 60 listens "$name" 7001
  got=$(timeout 600 busybox nc "$address" 7001 0<>/run/lab/hold | md5sum)
  [ "$got" = "$want" ] || fail "$mib MiB over TCP from the guest: $want became $got"
  guest_run "$name" 'rm /run/tcp.data /run/take.* /run/give.*'
  rm /srv/tcp.data
}
# tcp_stream NAME ADDRESS: bytes over one TCP connection to the guest, on and on, until tcp_stream_end compares what left with what
# arrived; STREAM_BYTES is then how many.
tcp_stream() {
  head -c 64M /dev/urandom > /srv/tcp.data
  take "$1" md5sum
  rm -f /run/lab/stop /run/lab/sent
  (n=0; while [ ! -e /run/lab/stop ]; do dd if=/srv/tcp.data bs=1M count=1 skip=$((n++ % 64)) status=none; done) |
    tee >(md5sum > /run/lab/sent) >(wc -c > /run/lab/sent.len) | busybox nc "$2" 7000 &
}
tcp_stream_end() {
  local got want
  touch /run/lab/stop
  got=$(take_done "$1")
  must_within 60 test -s /run/lab/sent -a -s /run/lab/sent.len
  want=$(cat /run/lab/sent)
  [ "$got" = "$want" ] || fail "over TCP to the guest: $want became $got"
  STREAM_BYTES=$(cat /run/lab/sent.len)
  rm /srv/tcp.data
}
# iperf NAME ADDRESS SECONDS [OPTION…]: from the guest to dom0's ADDRESS; prints the receiver's kbit/s.
iperf() {
  local name=$1 address=$2 seconds=$3 said
  shift 3
  iperf3 -s -1 -B "$address" > /run/lab/iperf.log 2>&1 &
  must_within 60 eval "ss -ltn | grep -q ':5201 '"
  said=$(RUN_SECONDS=$((seconds * 4 + 60)) guest_run "$name" "iperf3 -c $address -t $seconds -f k $* 2>&1") || fail "iperf3 $*: $(tail -3 <<< "$said")"
  wait $!
  awk '/receiver/ {print int($(NF - 2)); exit}' <<< "$said"
}
# guest_net_quiet NAME: no complaint of the guest's kernel about its interfaces.
guest_net_quiet() {
  local said
  said=$(guest_run "$1" 'dmesg | grep -i -E "(xen_netfront|eth[0-9]|vif).*(error|fail|bad|invalid|rx->offset|csum)|hw csum" || true')
  [ -z "$said" ] || fail "guest $1: $said"
}

# grants_mapped: how many grants of guests Xen knows as mapped by dom0.
grants_mapped() {
  xl debug-keys g
  xl dmesg -c | awk '/gnttab_usage_print_all \[ key/ {n = 0} /^\(XEN\) *\[ *[0-9]+\]/ && !/0x000000/ {n++} END {print n + 0}'
}
note() { echo "NOTE $*" >> /host/results; }

# ---- splitd
splitd_answers() { splitctl list > /dev/null 2>&1; }
splitd_start() {
  if [ -d /run/systemd/system ]; then
    systemctl start splitd.service
  else
    # Not a job of the scenario's shell, which would wait for it.
    (setsid splitd >> "$SPLITD_LOG" 2>&1 < /dev/null &)
  fi
  must_within 60 splitd_answers
}
splitd_stopped() { ! pgrep -x splitd > /dev/null; }
splitd_stop() {
  if [ -d /run/systemd/system ]; then
    systemctl stop splitd.service
  else
    pkill -x splitd || true
  fi
  wait_for 30 splitd_stopped || pkill -9 -x splitd
  must_within 60 splitd_stopped
}
workers() { pgrep -x blkback || true; }
# splitd_serves_all: what an operator writes who moves a host with its xl.cfg lines as they are.
splitd_serves_all() { splitd_setting 'serve = "all"'; }
# splitd_setting LINE: that line in splitd.toml instead of the key's other value; splitd is restarted when it changes.
splitd_setting() {
  [ "$LAB_BACKEND" = splitd ] || return 0
  local file=/etc/splitd/splitd.toml
  grep -qxF -- "$1" "$file" && return 0
  sed -i "/^${1%% *} *=/d" "$file"
  echo "$1" >> "$file"
  splitd_stop
  splitd_start
}

# evidence NAME: what a reader needs to see why scenario NAME failed.
evidence() {
  local to=/host/evidence/$1
  mkdir -p "$to"
  cp "/host/logs/$1.log" "$to/scenario.log" 2>/dev/null
  cp -r "$CONSOLES" "$to/" 2>/dev/null
  [ ! -d /run/systemd/system ] || journalctl --no-pager -b > "$to/journal.txt" 2>&1
  cp /var/log/xen/*.log /var/log/splitd.log "$to/" 2>/dev/null
  cp /run/lab/*.log /run/lab/said "$to/" 2>/dev/null
  xenstore-ls -fp > "$to/xenstore.txt" 2>&1
  { xl list; ps -ef; dmesg | tail -100; } > "$to/dom0.txt" 2>&1
  xl dmesg > "$to/xen.txt" 2>&1
  # Regular files only: the shared directory takes no sockets.
  (cd /run/splitd && find . -type f -size -4096k -exec cp --parents {} "$to/" \;) 2>/dev/null
  return 0
}
