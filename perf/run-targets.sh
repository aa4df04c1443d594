#!/usr/bin/env bash
# Runs the scenarios of perf/README.md against target/release/ttdust on this machine and prints each figure next to its target.
# Writes the raw reports to perf/results/. Needs bash, python3 and curl, and two free cores; takes about four minutes.
#
#   perf/run-targets.sh [SCENARIO ...]     append100 append100_flush append16 stream ingest flush memory recovery (default: all)
#
# Environment: SERVER, BENCH (binaries) · SHARD_CORE=1 LOAD_CORE=0 · SECONDS_EACH=10 MEMORY_SECONDS=60 · PAYLOAD=flights ·
# FLUSH_RATE=300000 (records/s of the flush scenario) · DATA (folder for the data, removed at the end; its disk is what is
# measured) · SERVER_FLAGS (more flags for `ttdust serve`)
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
SERVER=${SERVER:-$root/target/release/ttdust}
BENCH=${BENCH:-$root/target/release/ttdust-bench}
SHARD_CORE=${SHARD_CORE:-1}
LOAD_CORE=${LOAD_CORE:-0}
SECONDS_EACH=${SECONDS_EACH:-10}
MEMORY_SECONDS=${MEMORY_SECONDS:-60}
PAYLOAD=${PAYLOAD:-flights}
FLUSH_RATE=${FLUSH_RATE:-300000}
SERVER_FLAGS=${SERVER_FLAGS:-}

die() { echo "run-targets: $*" >&2; exit 2; }
for binary in "$SERVER" "$BENCH"; do
  [[ -x $binary ]] || die "$binary is not there: run 'cargo build --release' first"
done
for tool in python3 curl taskset; do command -v "$tool" >/dev/null || die "$tool is needed"; done

scratch=$(mktemp -d "${DATA:-$root/target}/perf-XXXXXX")
results=$root/perf/results
mkdir -p "$results"
commit=$(git -C "$root" rev-parse --short HEAD 2>/dev/null || echo unknown)
out=$results/$(date -u +%Y%m%dT%H%M%SZ)-$commit
jsonl=$out.jsonl
server_pid=

stop_server() {
  [[ -n $server_pid ]] || return 0
  kill "-${1:-TERM}" "$server_pid" 2>/dev/null || true
  wait "$server_pid" 2>/dev/null || true
  server_pid=
}
finish() { stop_server KILL; rm -rf "$scratch"; }
trap finish EXIT

# start_server TOML-LINES...: a server on fresh or kept data ($scratch/data); sets grpc, http, server_pid, started_ms.
start_server() {
  mkdir -p "$scratch/data"
  rm -f "$scratch/ports.json"
  {
    echo "data_dir = \"$scratch/data\""
    echo 'bind_address = "127.0.0.1:0"'
    echo 'grpc_address = "127.0.0.1:0"'
    printf '[shards]\ncores = [%s]\n[control]\ncores = [%s]\n' "$SHARD_CORE" "$LOAD_CORE"
    printf '%s\n' "$@"
  } >"$scratch/ttdust.toml"
  local began
  began=$(date +%s%3N)
  # shellcheck disable=SC2086
  "$SERVER" serve --config "$scratch/ttdust.toml" --port-file "$scratch/ports.json" $SERVER_FLAGS \
    >>"$out.server.log" 2>&1 &
  server_pid=$!
  until [[ -s $scratch/ports.json ]]; do
    kill -0 "$server_pid" 2>/dev/null || die "the server ended at start; see $out.server.log"
    (($(date +%s%3N) - began < 120000)) || die "the server is not ready after 120 s; see $out.server.log"
    sleep 0.005
  done
  started_ms=$(($(date +%s%3N) - began))
  read -r http grpc < <(python3 -c 'import json,sys; p=json.load(open(sys.argv[1])); print(p["http"], p["grpc"])' "$scratch/ports.json")
}

fresh_server() { stop_server; rm -rf "$scratch/data"; start_server "$@"; }

# load NAME FLAGS...: one run; its report goes to the results under NAME.
load() {
  local name=$1
  shift
  echo "── $name: $*" >>"$out.txt"
  local status=0
  "$BENCH" load --grpc "$grpc" --http "$http" --create --payload "$PAYLOAD" --cores "$LOAD_CORE" --server-pid "$server_pid" \
    -o json "$@" >"$scratch/report.json" 2>>"$out.txt" || status=$?
  [[ -s $scratch/report.json ]] || { tail -n 3 "$out.txt" >&2; die "$name gave no report"; }
  NAME=$name STATUS=$status python3 - "$scratch/report.json" >>"$jsonl" <<'PY'
import json, os, sys
print(json.dumps({"scenario": os.environ["NAME"], "exit": int(os.environ["STATUS"]), **json.load(open(sys.argv[1]))}))
PY
  cat "$scratch/report.json" >>"$out.txt"
  echo "done: $name"
}

# note NAME JSON: a figure that is not a load report.
note() { printf '{"scenario": "%s", %s}\n' "$1" "$2" >>"$jsonl"; }

no_flush=('[buffer]' 'flush_interval_ms = 3600000' 'freeze_bytes = 4294967296' 'memory_bytes = 134217728'
  '[wal]' 'quota_bytes = 17179869184')
# The ack path by itself: flushes put off, and a pool of log segments that were written ahead, as recycling keeps it.
pool_segments=40
ack_path=('[buffer]' 'flush_interval_ms = 3600000' 'freeze_bytes = 4294967296' 'memory_bytes = 67108864'
  '[wal]' 'quota_bytes = 17179869184'
  "segments_ahead = $pool_segments")
ack_path_server() {
  fresh_server "${ack_path[@]}"
  until (($(ls "$scratch/data/wal/shard-00000" | grep -c 'wal$') >= pool_segments)); do sleep 0.1; done
}

run_append100() {
  ack_path_server
  load append100 --batch 100 --connections 4 --in-flight 16 --duration "${SECONDS_EACH}s"
}
# The same with everything on: default configuration, Parquet written on the shard's own core.
everything_on=('[buffer]' 'memory_bytes = 134217728' 'freeze_bytes = 134217728')
run_append100_flush() {
  fresh_server "${everything_on[@]}"
  load append100_flush --batch 100 --connections 4 --in-flight 16 --duration "${SECONDS_EACH}s"
}
run_append16() { ack_path_server; load append16 --batch 16 --connections 4 --in-flight 4 --duration "${SECONDS_EACH}s"; }
run_stream() {
  ack_path_server
  load stream --method ingest-stream --connections 8 --in-flight 64 --duration "${SECONDS_EACH}s"
}
run_ingest() {
  ack_path_server
  load ingest --method ingest --connections 1 --in-flight 1 --duration "${SECONDS_EACH}s"
}

run_flush() {
  # Interleaved, so that what else goes on in the machine meets both.
  for round in 1 2 3; do
    fresh_server "${no_flush[@]}"
    load "flush_off.$round" --batch 100 --rate "$FLUSH_RATE" --duration "${SECONDS_EACH}s"
    fresh_server '[buffer]' 'flush_interval_ms = 1000' 'freeze_bytes = 33554432'
    load "flush_on.$round" --batch 100 --rate "$FLUSH_RATE" --duration "${SECONDS_EACH}s"
  done
}

run_memory() { fresh_server "${everything_on[@]}"; load memory --batch 100 --connections 4 --in-flight 16 --duration "${MEMORY_SECONDS}s"; }

run_recovery() {
  fresh_server "${no_flush[@]}"
  # The run ends when the server dies under it; what it had acked must all be there afterwards.
  (sleep "$((SECONDS_EACH + 1))"; kill -KILL "$server_pid") &
  local killer=$!
  load recovery_load --batch 100 --connections 4 --in-flight 16 --warmup 1s --duration 600s --acked "$scratch/acked.json"
  wait "$killer" || true
  wait "$server_pid" 2>/dev/null || true
  server_pid=
  start_server "${no_flush[@]}"
  local status=0
  "$BENCH" verify "$scratch/acked.json" --grpc "$grpc" >>"$out.txt" 2>&1 || status=$?
  note recovery "\"ready_ms\": $started_ms, \"verify_exit\": $status"
  echo "done: recovery"
}

{
  date -u
  echo "commit $commit; shard on core $SHARD_CORE, control and load on core $LOAD_CORE; payload $PAYLOAD"
  lscpu | grep -E '^(Architecture|CPU\(s\)|Model name|Hypervisor|L[123]|NUMA node0)' || true
  uname -sr
  df -T "$scratch" | tail -n 1
  echo "load average: $(cut -d' ' -f1-3 /proc/loadavg)"
} | tee "$out.txt"

scenarios=("$@")
((${#scenarios[@]})) || scenarios=(append100 append100_flush append16 stream ingest flush memory recovery)
for scenario in "${scenarios[@]}"; do
  declare -F "run_$scenario" >/dev/null || die "there is no scenario $scenario"
done
for scenario in "${scenarios[@]}"; do "run_$scenario"; done
stop_server

python3 "$root/perf/table.py" "$jsonl" | tee -a "$out.txt"
