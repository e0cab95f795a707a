# says: 5 kill -9 of splitd under fio verify: I/O goes on, the next splitd adopts the same workers
# acceptance: 29
# backends: splitd
# limit: 1800
scenario() { kills_under_verify false splitd 5; }
