#!/bin/bash
# Runs as mmdebstrap's last hook, as root of the new file system $1, and leaves in $LAB_OUT:
#   xen            the hypervisor, decompressed (multiboot takes no gzip)
#   vmlinuz        the kernel, for dom0 and for guests
#   dom0.initrd, guest.initrd   busybox and the modules each needs to find its root; their /init comes with each boot
#   dom0.img       dom0's root (ext4), with the guests' root disk in it as /lab/guest-root.img
set -euo pipefail
trap 'echo "inside.sh: line $LINENO failed: $BASH_COMMAND" >&2' ERR
root=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Kernel and hypervisor are unpacked rather than installed: installing them would build an initramfs nobody boots.
kernel=$(APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-cache depends linux-image-amd64 | awk '/Depends: linux-image/ && !name {name = $2} END {print name}')
(cd "$work" && APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-get download -qq \
  "$kernel" "xen-hypervisor-$LAB_XEN-amd64" grub-xen-bin grub-xen-host)
for deb in "$work"/*.deb; do dpkg -x "$deb" "$work/x"; done
version=${kernel#linux-image-}
zcat "$work/x/boot/xen-$LAB_XEN-amd64.gz" > "$LAB_OUT/xen"
cp "$work/x/boot/vmlinuz-$version" "$LAB_OUT/vmlinuz"
echo "$version" > "$LAB_OUT/kernel-version"

# Modules: what an emulated PC without sound, screen or radio can use. initrds want them decompressed (trixie: .ko.xz).
modules=$work/x/lib/modules/$version
[ -d "$modules" ] || modules=$work/x/usr/lib/modules/$version
rm -rf "$modules"/kernel/{sound,drivers/{gpu,media,infiniband,iio,hid,input,isdn,usb,video,staging,hwmon,bluetooth,mfd,gpio}}
rm -rf "$modules"/kernel/{net/{wireless,mac80211,bluetooth},drivers/net/{wireless,ethernet,usb,can}}
find "$modules" -name '*.ko.xz' -exec xz -d {} +
mkdir -p "$root/usr/lib/modules" "$root/boot" "$root/lab" "$root/host"
cp -a "$modules" "$root/usr/lib/modules/"
cp -a "$work/x/usr/lib/grub-xen" "$root/usr/lib/" 2>/dev/null || true
chroot "$root" depmod "$version"

# initrd NAME MODULE…: busybox, the modules in load order in /modlist, and mount points.
initrd() {
  local name=$1 dir=$work/initrd-$1
  shift
  mkdir -p "$dir"/{bin,modules,proc,sys,dev,new}
  cp "$root/bin/busybox" "$dir/bin/"
  for module in "$@"; do chroot "$root" modprobe -S "$version" --show-depends "$module"; done |
    awk '$1 == "insmod" && !seen[$2]++ {print $2}' |
    while read -r path; do
      cp "$root/$path" "$dir/modules/"
      basename "$path" >> "$dir/modlist"
    done
  (cd "$dir" && find . | cpio --quiet -o -H newc | gzip -1) > "$LAB_OUT/$name.initrd"
}
initrd dom0 virtio_pci virtio_blk ext4 9p 9pnet_virtio
initrd guest xen-blkfront ext4 xen-netfront 8021q

# The guests' root: busybox, fio, iperf3 and the libraries they load. Small enough to be copied for every guest.
guest=$work/guest
mkdir -p "$guest"/{bin,sbin,proc,sys,dev,tmp,run,etc,mnt,usr/bin,usr/sbin}
cp "$root/bin/busybox" "$guest/bin/"
cp "$root/usr/bin/fio" "$root/usr/bin/iperf3" "$guest/usr/bin/"
for tool in blkdiscard blockdev ethtool; do cp "$(readlink -f "$root/usr/sbin/$tool" 2>/dev/null || readlink -f "$root/sbin/$tool")" "$guest/sbin/"; done
for binary in /usr/bin/fio /usr/bin/iperf3 /sbin/blkdiscard /sbin/blockdev /sbin/ethtool; do chroot "$root" ldd "$binary"; done |
  awk '{for (i = 1; i <= NF; i++) if ($i ~ /^\//) print $i}' | sort -u |
  while read -r library; do
    mkdir -p "$guest$(dirname "$library")"
    cp -L "$root$library" "$guest$library"
  done
kib=$(du -sk "$guest" | cut -f1)
mke2fs -q -t ext4 -O ^has_journal -m 0 -d "$guest" "$root/lab/guest-root.img" "$((kib * 13 / 10 + 24576))k"

rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin
# A plain bind shows the file system without the /proc and /sys that are mounted in it now.
mkdir "$work/plain"
mount --bind "$root" "$work/plain"
mke2fs -q -t ext4 -O ^has_journal -m 0 -d "$work/plain" "$LAB_OUT/dom0.img" 6G
umount "$work/plain"
chmod -R a+rX "$LAB_OUT"
