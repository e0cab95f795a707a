# says: what a worker's sandbox refuses, in dom0: each act is seen to succeed outside of it first
# core: 4.20
# backends: splitd
# limit: 300

# attempt NUMBER outside|inside: in a directory of its own, with a file to lose.
attempt() {
  rm -rf /run/lab/probe
  mkdir -p /run/lab/probe
  echo victim > /run/lab/probe/victim
  /host/sandbox_probe "$1" "$2" /run/lab/probe < /dev/null 2> /dev/null
}
scenario() {
  local number=0 shown=0 act status
  while read -r act; do
    if attempt $number outside; then
      shown=$((shown + 1))
      status=0
      attempt $number inside || status=$?
      # Refused by an error, or ended by SIGSYS.
      case $status in 3 | 159) ;; *) fail "$act: status $status inside the sandbox" ;; esac
    else
      note "not possible outside either: $act"
    fi
    number=$((number + 1))
  done < <(/host/sandbox_probe list)
  note "$shown of $number acts succeed outside, each is refused inside"
  [ $shown -ge 60 ] || fail "only $shown of $number acts can be shown"
}
