#!/bin/bash
# Runs scenario $1 in this shell. A command that fails ends it, and says where.
set -Eeuo pipefail
. /host/dom0/lib.sh
trap 'reason "line ${BASH_LINENO[0]} of ${BASH_SOURCE[1]##*/}: $BASH_COMMAND"' ERR
SCENARIO=$1
. "/host/scenarios/$SCENARIO.sh"
scenario
