# says: 20 kill -9 of a worker under fio verify at depth 32 (transfer by persistent): no error, not a word in the guest's log
# acceptance: 29
# backends: splitd
# limit: 1800
scenario() { kills_under_verify true worker 20; }
