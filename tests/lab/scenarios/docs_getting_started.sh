# says: docs/getting-started.md, its blocks typed as they stand: a guest on splitd from Debian's packages and ours
# acceptance: 1
# backends: splitd
# dom0: systemd
# limit: 1200
scenario() {
  local number
  # What the page's blocks without this mark need a network for: the image, and the kernel that Debian leaves here.
  root_image web1 > /dev/null
  ln -sf "/lab/guest/$LAB_GUEST/vmlinuz" /vmlinuz
  ln -sf "/lab/guest/$LAB_GUEST/initrd" /initrd.img
  # What keeps the lab's other scenarios simple, and what `splitctl takeover` is for.
  rm -f /etc/modprobe.d/lab.conf "$(guest_console web1)"
  page_blocks /host/getting-started.md
  [ "$(ls /run/lab/page | wc -l)" -ge 6 ] || fail "the page has only $(ls /run/lab/page | wc -l) blocks"
  for number in $(ls /run/lab/page | sort -n); do
    note "block $number: $(tr '\n' ';' < "/run/lab/page/$number" | cut -c 1-100)"
    bash -eo pipefail "/run/lab/page/$number" > /run/lab/said 2>&1 || fail "block $number: $(tail -3 /run/lab/said)"
    cat /run/lab/said
    # A person would watch it boot.
    if xl domid web1 > /dev/null 2>&1; then must_within $UP_SECONDS guest_up web1; fi
  done
  # xl is told that the guest has stopped; its own process then takes the domain away.
  must_within 60 guest_gone web1
  splitctl handback
  # What comes next in this dom0 is splitd's.
  rmmod xen-blkback xen-netback
  printf 'install xen-%s /bin/true\n' blkback netback > /etc/modprobe.d/lab.conf
}
# page_blocks FILE: each shell block that is marked for the lab, as a file of its own below /run/lab/page.
page_blocks() {
  rm -rf /run/lab/page
  mkdir -p /run/lab/page
  awk '/^```sh lab$/ {inside = 1; n++; next} /^```$/ {inside = 0} inside {print > "/run/lab/page/" n}' "$1"
}
