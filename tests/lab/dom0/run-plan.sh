# Runs the plan of this boot, scenario by scenario, each in its own shell with a limit. Sourced by dom0's init.
# Lines in /host/results are read by xtask:
#   UP SECONDS · PREPARED · FAILED REASON · START NAME · SCENARIO NAME ok|fail SECONDS REASON · END
report() { echo "$*" >> /host/results; }

report "UP $(cut -d' ' -f1 /proc/uptime)"
mkdir -p /run/lab /host/evidence /host/logs
if ! bash /host/dom0/prepare.sh > /run/lab/prepare.log 2>&1; then
  cp /run/lab/prepare.log /host/evidence/
  report "FAILED preparing the $LAB_BACKEND backend: $(tail -1 /run/lab/prepare.log)"
else
  report PREPARED
  if [ "$LAB_MODE" = shell ]; then
    echo "dom0 of the lab: Xen $LAB_XEN, store $LAB_STORE, backend $LAB_BACKEND. '. /host/dom0/lib.sh' loads guest_start and the rest."
    setsid bash -c 'exec bash -i < /dev/hvc0 > /dev/hvc0 2>&1'
  else
    while read -r name limit; do
      report "START $name"
      echo "LAB START $name"
      began=$SECONDS
      rm -f /run/lab/reason
      timeout -k 10 "$limit" bash /host/dom0/run-one.sh "$name" > /host/logs/$name.log 2>&1
      status=$?
      if [ $status = 124 ] || [ $status = 137 ]; then echo "not done after $limit s" > /run/lab/reason; fi
      bash /host/dom0/clean-up.sh "$name" "$status" >> /host/logs/$name.log 2>&1 || status=1
      if [ $status = 0 ]; then
        report "SCENARIO $name ok $((SECONDS - began))"
      else
        reason=$(tr '\n' ' ' < /run/lab/reason 2>/dev/null)
        report "SCENARIO $name fail $((SECONDS - began)) ${reason:-status $status; see scenario.log}"
      fi
      echo "LAB END $name $status"
    done < /host/plan
  fi
fi
report END
