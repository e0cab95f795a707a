#!/bin/bash
# Makes ready what every scenario of this boot relies on: guest kernels on a disk, and the backend under test.
set -eu
. /host/dom0/lib.sh
mkdir -p /srv /lab
cp -r /host/guest /lab/
case $LAB_BACKEND in
  splitd)
    # The package leaves kernel modules alone; a host is moved by `splitctl takeover`. Here udev must not load blkback first.
    printf 'install xen-%s /bin/true\n' blkback netback > /etc/modprobe.d/lab.conf
    dpkg -i /host/splitd.deb
    splitd_start
    ;;
  kernel) modprobe xen-blkback ;;
  qdisk) ;;
esac
