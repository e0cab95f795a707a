# says: two guests on volumes of one disk of 300 IOPS have it 2:1, then 4:1, within 5 % over 20 s, also while splitd is stopped
# backends: splitd
# limit: 1200

requests() { splitctl stats "vbd/$1/xvdb" | tr ' ' '\n' | awk -F= '$1 == "read_requests" || $1 == "write_requests" {sum += $2} END {print sum + 0}'; }
now() { awk '{print $1}' /proc/uptime; }
# shared WHAT WANTED SECONDS: what a got over what b got.
shared() {
  local a b from ratio
  a=$(requests a) b=$(requests b) from=$(now)
  sleep "$3"
  ratio=$(awk -v a=$(($(requests a) - a)) -v b=$(($(requests b) - b)) 'BEGIN {printf "%.3f", b ? a / b : 0}')
  note "$1: $ratio, asked for $2; $(awk -v n=$(($(requests a) - a + $(requests b) - b)) -v from="$from" -v to="$(now)" 'BEGIN {printf "%.0f", n / (to - from)}') IOPS together"
  awk -v r="$ratio" -v w="$2" 'BEGIN {exit !(r >= w * 0.95 && r <= w * 1.05)}' || fail "$1: $ratio, asked for $2"
}

scenario() {
  local guest
  vgs slow > /dev/null 2>&1 || { pvcreate -q /dev/vde && vgcreate -q slow /dev/vde; }
  for guest in a b; do lvcreate -qq -y -Wn -Zn -n "$guest" -L 64M slow; done
  udevadm settle
  printf 'version = 1\n[[domain]]\nmatch.name = "a"\nweight = 512\n' > /etc/splitd/policy.toml
  splitctl policy reload
  for guest in a b; do
    guest_start $guest "$(disk xvda "$(root_image $guest)")" "$(disk xvdb "/dev/slow/$guest")"
    must_within 60 guest_run $guest 'test -b /dev/xvdb'
    splitctl policy explain $guest | grep -q 'on vde' || fail "explain: $(splitctl policy explain $guest)"
    guest_job $guest load 'fio --eta=never --name=load --ioengine=libaio --direct=1 --filename=/dev/xvdb --rw=randread --bs=4k --iodepth=32 --time_based --runtime=3600'
  done
  must_within 60 eval '[ "$(requests a)" -gt 500 ] && [ "$(requests b)" -gt 500 ]'
  shared '2:1' 2 20
  splitctl qos -d a -w 1024 > /dev/null
  sleep 1
  shared '4:1' 4 20
  pkill -STOP -x splitd
  sleep 10
  pkill -CONT -x splitd
  shared '4:1 after a stop of splitd' 4 20
  rm -f /etc/splitd/policy.toml
  splitctl qos -d a --reset > /dev/null
  splitctl policy reload
  for guest in a b; do
    xl destroy $guest
    must_within 60 guest_gone $guest
    lvremove -qfy "slow/$guest"
  done
}
