#!/bin/bash
# After scenario $1 (which ended with status $2): evidence if it failed, then no guest, and nothing left behind by any.
. /host/dom0/lib.sh
name=$1 status=$2
left=

guests() { xl list 2>/dev/null | awk 'NR > 1 && $2 != 0 {print $2}'; }
leftovers() {
  left=
  [ -z "$(guests)" ] || left="domain $(xl list | awk 'NR > 1 && $2 != 0 {print $1}' | tr '\n' ' ')"
  for kind in vbd vbd3 qdisk vif; do
    for domain in $(xenstore-list /local/domain/0/backend/$kind 2>/dev/null); do left="$left backend/$kind/$domain"; done
  done
  if pgrep -x blkback > /dev/null; then left="$left worker $(pgrep -x blkback | tr '\n' ' ')"; fi
  if pgrep -x netback > /dev/null; then left="$left worker $(pgrep -x netback | tr '\n' ' ')"; fi
  for tap in /sys/class/net/vif* /sys/class/net/web*; do [ ! -e "$tap" ] || left="$left interface ${tap##*/}"; done
  [ -z "$left" ]
}

[ "$status" = 0 ] || evidence "$name"
for id in $(guests); do xl destroy "$id"; done
if ! wait_for 60 leftovers; then
  if [ "$status" = 0 ]; then
    reason "left behind: $left"
    evidence "$name"
    exit 1
  fi
fi
ip netns del far 2> /dev/null
rm -f /srv/*.img /srv/*/*.img /var/log/xen/console/guest-*.log
rm -rf /run/lab/guests
if [ "$LAB_BACKEND" = splitd ] && ! splitd_answers; then
  [ "$status" = 0 ] && { reason "splitd does not answer after the scenario"; evidence "$name"; status=1; }
  splitd_stop
  splitd_start
fi
exit "$status"
