# says: create, attach, detach, shutdown and destroy, by splitd and by the kernel's backends in turn: no step takes over 1.5 times as long and a second
# backends: splitd
# limit: 2400
ROUNDS=8
scenario() {
  local data root second
  network
  rm -f /etc/modprobe.d/lab.conf
  modprobe -a xen-blkback xen-netback
  # A volume: a file the kernel serves through a loop device, which takes a step more.
  data=$(volume data 16) root=$(root_image g) second=$(root_image second)
  guest_start g "format=raw,vdev=xvda,target=$root"
  rm -f /run/lab/steps
  for round in $(seq $ROUNDS); do
    steps kernel "format=raw,vdev"
    splitctl takeover --disks --vifs || fail "splitctl takeover failed"
    steps splitd "script=block-splitd,vdev"
    splitctl handback || fail "splitctl handback failed"
  done
  compare
  guest_stop g
  rmmod xen-blkback xen-netback
  printf 'install xen-%s /bin/true\n' blkback netback > /etc/modprobe.d/lab.conf
}
# step WHO NAME COMMAND…: how long it took is noted.
step() {
  local who=$1 name=$2
  shift 2
  milliseconds "$@" || fail "round $round, $who: $name failed"
  echo "$name $who $MS" >> /run/lab/steps
}
steps() {
  local who=$1 options=$2
  step "$who" block-attach attached "$options=xvdb,target=$data"
  step "$who" block-detach detach g xvdb
  step "$who" network-attach net_attached
  step "$who" network-detach net_detached
  VIFS=$(vif 3) step "$who" create guest_create second "$options=xvda,target=$second"
  must_within 300 guest_up_or_gone second
  guest_up second || fail "round $round, $who: the second guest did not reach its userland"
  if [ $((round % 2)) = 0 ]; then step "$who" shutdown guest_stop second; else step "$who" destroy destroyed; fi
}
attached() {
  xl block-attach g "$1" && must_within 60 node_is "$(frontend_path g xvdb)/state" 4
}
net_attached() {
  xl network-attach g bridge=xenbr0 mac=00:16:3e:00:00:02 && must_within 60 node_is "$(vif_frontend g)/state" 4
}
net_detached() {
  local back
  back=$(vif_backend g)
  xl network-detach g 0 && must_within 60 absent "$back"
}
destroyed() {
  local back
  back=$(backend_path second xvda)
  xl destroy second && must_within 60 absent "$back"
}
# compare: the median of each step by both, and the limit.
compare() {
  local name kernel splitd
  for name in block-attach block-detach network-attach network-detach create shutdown destroy; do
    kernel=$(median "$name kernel") splitd=$(median "$name splitd")
    note "$name: splitd $splitd ms, kernel $kernel ms (medians)"
    [ "$splitd" -le $((kernel * 3 / 2 + 1000)) ] || reason "$name takes $splitd ms with splitd, $kernel ms with the kernel's backend"
  done
  [ ! -s /run/lab/reason ] || fail "a step takes too long"
}
median() { awk -v step="$1" '$1 " " $2 == step {print $3}' /run/lab/steps | sort -n | awk '{a[NR] = $1} END {print a[int((NR + 1) / 2)]}'; }
