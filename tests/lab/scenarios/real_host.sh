# says: grants, event channels and the kernel's xenstore device keep what the seam promises; dom0 plays both sides
# core: 4.17 4.20
# backends: splitd
# limit: 300
scenario() {
  modprobe xen-gntalloc
  expect "the checks did not end with ALL OK" sh -c '/host/on_xen | tee /dev/stderr | tail -1 | grep -qx "ALL OK"'
}
