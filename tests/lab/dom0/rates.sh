# What devices do each second, by their own counters and clocks, and what dom0 takes for it. Part of lib.sh, whose words it uses; knows
# nothing of what is asked for.

# counted FIELDS KIND/DOMAIN/NAME…: the sum of these counters (a pattern) of these devices, and when they were read, s: to ask takes
# seconds in a busy dom0, and asks once for all.
counted() {
  local fields=$1
  shift
  splitctl stats | awk -v fields="^($fields)\$" -v devices=" $* " '
    {
      for (i = 1; i <= NF; i++) { at = index($i, "="); f[substr($i, 1, at - 1)] = substr($i, at + 1) }
      split(f["device"], part, "/")
      if (index(devices, " " part[1] "/" f["domain"] "/" part[3] " ")) {
        for (name in f) if (name ~ fields) sum += f[name]
        at_ns += f["at_ns"]; n++
      }
      for (name in f) delete f[name]
    }
    END { if (!n) exit 1; printf "%.0f %.6f\n", sum, at_ns / n / 1e9 }'
}
# per_second BEFORE AFTER: of two pairs of a sum and its time.
per_second() { awk -v from="$1" -v to="$2" 'BEGIN {split(from, a); split(to, b); printf "%.2f", (b[1] - a[1]) / (b[2] - a[2])}'; }
# dom0_cpu: what dom0 has used of processors, s, and when.
dom0_cpu() { echo "$(xl list Domain-0 | awk 'END {print $NF}') $(awk '{print $1}' /proc/uptime)"; }
# rates COMMAND…: while it runs, dom0's use of a processor, percent: CPU_PERCENT; and what each of COUNTERS, which are arguments of
# counted, counts each second: RATES.
rates() {
  local it cpu before=()
  must_within 30 splitd_answers
  # shellcheck disable=SC2086 # fields and devices
  for it in "${COUNTERS[@]}"; do before+=("$(counted $it)"); done
  cpu=$(dom0_cpu)
  "$@"
  CPU_PERCENT=$(per_second "$cpu" "$(dom0_cpu)" | awk '{printf "%.0f", 100 * $1}')
  must_within 30 splitd_answers
  RATES=()
  # shellcheck disable=SC2086
  for it in "${COUNTERS[@]}"; do RATES+=("$(per_second "${before[${#RATES[@]}]}" "$(counted $it)")"); done
}
# kept WHAT WANTED FACTOR FIELD VIF…: over 20 seconds, FACTOR (bits of a byte, or 1) times what these interfaces of guest g carry each
# second is WANTED, within 5 %.
kept() {
  local what=$1 wanted=$2 factor=$3 field=$4 got
  shift 4
  COUNTERS=("$field ${*/#/vif/g/}")
  rates sleep 20
  got=$(awk -v rate="${RATES[0]}" -v f="$factor" 'BEGIN {printf "%.0f", f * rate}')
  note "$what: $got, asked for $wanted; dom0's processor $CPU_PERCENT %"
  awk -v m="$got" -v w="$wanted" 'BEGIN {exit !(m >= w * 0.95 && m <= w * 1.05)}' || fail "$what: $got, asked for $wanted"
}
