#!/usr/bin/env bash
# A flame graph of a server under load: where its time goes, as an SVG that any browser shows.
#
#   perf/flame.sh [LOAD] [OUT.svg]      LOAD: a name that `ttdust-bench scenarios` lists (append100); OUT: flame-LOAD.svg
#
# Needs perf (Debian's linux-perf), python3 and root, or kernel.perf_event_paranoid at 1 or below. Cores are pinned as
# run-targets.sh pins them: the shard alone on one, control, load and perf on the other.
#
# Environment: SERVER, BENCH (binaries of a release build) · SHARD_CORE=1 LOAD_CORE=0 · SECONDS_EACH=10 · PAYLOAD=clicks ·
# FREQUENCY=199 (samples a second and thread) · THREAD (only threads whose names begin so, such as shard) · DATA · SERVER_FLAGS
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
load=${1:-append100}
out=${2:-flame-$load.svg}
SHARD_CORE=${SHARD_CORE:-1}
LOAD_CORE=${LOAD_CORE:-0}
SECONDS_EACH=${SECONDS_EACH:-10}
PAYLOAD=${PAYLOAD:-clicks}
FREQUENCY=${FREQUENCY:-199}
THREAD=${THREAD:-}
SERVER_FLAGS=${SERVER_FLAGS:-}

die() { echo "flame: $*" >&2; exit 2; }
command -v perf >/dev/null || die "perf is needed: apt-get install linux-perf"
for tool in python3 taskset; do command -v "$tool" >/dev/null || die "$tool is needed"; done
server_log=$(mktemp)
. "$root/perf/server.sh"
trap 'finish; rm -f "$server_log"' EXIT

fresh_server '[buffer]' 'memory_bytes = 134217728' 'freeze_bytes = 134217728'
"$BENCH" load --scenario "$load" --grpc "$grpc" --http "$http" --create --payload "$PAYLOAD" --cores "$LOAD_CORE" \
  --warmup 2s --duration "${SECONDS_EACH}s" &
loader=$!
# The warm-up is not recorded, nor is the end.
sleep 2
# Where there is no counter of cycles, as in many virtual machines, the clock does.
event=cycles
perf stat -e cycles true 2>&1 | grep -q 'not supported' && event=cpu-clock
taskset -c "$LOAD_CORE" perf record --quiet --event "$event" --freq "$FREQUENCY" --call-graph dwarf,16384 --pid "$server_pid" \
  --output "$scratch/perf.data" -- sleep "$((SECONDS_EACH - 1))" || die "perf could not record: is kernel.perf_event_paranoid at 1 or below?"
wait "$loader" || die "the load did not end well"
stop_server
perf script --input "$scratch/perf.data" --no-inline --fields comm,period,ip,sym 2>/dev/null |
  python3 "$root/perf/flame.py" --title "$load, $PAYLOAD, $event" --thread "$THREAD" >"$out"
echo "$out"
