#!/bin/bash
# Builds one lab image set: a Debian dom0 with Xen, and the root disk of the guests.
#
#   build.sh SUITE XEN_VERSION OUT_DIR < apt-sources
#
# Reads one-line apt sources on standard input (xtask derives them from the machine's own). OUT_DIR must exist and be
# empty; the caller renames it into place when this has ended well, so that nobody sees half an image.
# Knows nothing about scenarios: what runs in dom0 and in the guests comes with each boot.
set -euo pipefail
suite=$1 xen=$2 out=$3
here=$(dirname "$(readlink -f "$0")")

# mmdebstrap needs no root where user namespaces with subordinate ids work; as root it needs no namespace.
mode=unshare
[ "$(id -u)" = 0 ] && mode=root
chmod 0777 "$out"

packages=$(sed -e 's/#.*//' -e "s/@XEN@/$xen/g" "$here/dom0-packages" | tr -s ' \n' ',' | sed -e 's/^,//' -e 's/,$//')
export LAB_OUT=$out LAB_XEN=$xen
mmdebstrap --mode="$mode" --variant=essential --format=null \
  --aptopt='Apt::Install-Recommends "false"' --aptopt='Acquire::Retries "5"' --aptopt='Acquire::Languages "none"' \
  --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
  --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' \
  --include="$packages" --customize-hook="bash '$here/inside.sh' \"\$1\"" \
  "$suite" /dev/null -
chmod 0755 "$out"
