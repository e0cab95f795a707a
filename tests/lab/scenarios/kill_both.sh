# says: the worker killed 3 times and splitd once under fio verify at depth 32: no error, the same guest goes on
# acceptance: 29
# core: 4.20
# backends: splitd
# limit: 1800
scenario() {
  kills_under_verify false worker 3
  kills_under_verify false splitd 1
}
