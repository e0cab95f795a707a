#!/bin/bash
# Fetches packages, and all they depend on that dom0's image lacks, as files: dom0 has no network to install them from.
#
#   packages.sh DOM0_IMAGE OUT_DIR PACKAGE… < apt-sources
#
# Reads one-line apt sources on standard input, as images/build.sh does. Uses a state of apt's of its own; the machine's stays as it is.
set -euo pipefail
image=$1 out=$2
shift 2
state=$(mktemp -d)
trap 'rm -rf "$state"' EXIT
mkdir -p "$state"/lists/partial "$state"/cache/archives/partial "$out"
cat > "$state/sources.list"
debugfs -R "dump /var/lib/dpkg/status $state/status" "$image"
[ -s "$state/status" ] || { echo "no list of packages in $image" >&2; exit 1; }
fetch() {
  apt-get -q -y -o Dir::Etc::SourceList="$state/sources.list" -o Dir::Etc::SourceParts=/dev/null -o Dir::Etc::PreferencesParts=/dev/null \
    -o Dir::State="$state" -o Dir::State::Status="$state/status" -o Dir::Cache="$state/cache" -o APT::Install-Recommends=false \
    -o APT::Sandbox::User= -o Acquire::Retries=5 -o Acquire::Languages=none -o Debug::NoLocking=1 "$@"
}
fetch update
fetch --download-only install "$@"
mv "$state"/cache/archives/*.deb "$out/"
