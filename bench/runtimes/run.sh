#!/usr/bin/env bash
# Builds the minimal ingest loop and measures it on each runtime in turns, with the load of `ttdust-bench`, and prints one table.
# Raw reports go to perf/results/. Needs bash, python3, cargo and two free cores.
#
#   bench/runtimes/run.sh [RUNTIME ...]     compio monoio glommio tokio (default: all four)
#
# Environment: BENCH (default target/release/ttdust-bench) · SHARD_CORE=1 LOAD_CORE=0 · ROUNDS=3 · SECONDS_EACH=5 WARMUP=1 ·
# BATCHES="1 16 100" (records a message) · LOG_MIB=1024 · DATA=/var/tmp (its disk is what is measured)
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
BENCH=${BENCH:-$root/target/release/ttdust-bench}
SHARD_CORE=${SHARD_CORE:-1}
LOAD_CORE=${LOAD_CORE:-0}
ROUNDS=${ROUNDS:-3}
SECONDS_EACH=${SECONDS_EACH:-5}
WARMUP=${WARMUP:-1}
BATCHES=${BATCHES:-1 16 100}
LOG_MIB=${LOG_MIB:-1024}
DATA=${DATA:-/var/tmp}

die() { echo "runtimes: $*" >&2; exit 2; }
for tool in cargo python3; do command -v "$tool" >/dev/null || die "$tool is needed"; done
[[ -x $BENCH ]] || die "$BENCH is not there: run 'cargo build --release' first, or set BENCH"
[[ $(df --output=fstype "$DATA" | tail -n 1) != tmpfs ]] || die "$DATA is in memory, where no write is durable: set DATA"
runtimes=("$@")
((${#runtimes[@]})) || runtimes=(compio monoio glommio tokio)

CARGO_TARGET_DIR=$root/target/runtimes cargo build --release --quiet --locked --manifest-path "$here/Cargo.toml"
ingest=$root/target/runtimes/release/runtime-ingest

results=$root/perf/results
mkdir -p "$results"
commit=$(git -C "$root" rev-parse --short HEAD 2>/dev/null || echo unknown)
out=$results/$(date -u +%Y%m%dT%H%M%SZ)-$commit-runtimes
scratch=$(mktemp -d "$DATA/ttdust-runtimes-XXXXXX")
server_pid=
stop() {
  [[ -n $server_pid ]] || return 0
  kill -KILL "$server_pid" 2>/dev/null || true
  wait "$server_pid" 2>/dev/null || true
  server_pid=
}
trap 'stop; rm -rf "$scratch"' EXIT

# start RUNTIME: a server on a log of its own; sets server_pid and address.
start() {
  stop
  rm -rf "$scratch/log" "$scratch/port"
  mkdir "$scratch/log"
  "$ingest" --runtime "$1" --dir "$scratch/log" --core "$SHARD_CORE" --log-mib "$LOG_MIB" --port-file "$scratch/port" \
    2>>"$out.server.log" &
  server_pid=$!
  local tries=0
  until [[ -s $scratch/port ]]; do
    kill -0 "$server_pid" 2>/dev/null || die "$1 ended at start; see $out.server.log"
    ((tries++ < 6000)) || die "$1 is not ready after 60 s; see $out.server.log"
    sleep 0.01
  done
  address=$(<"$scratch/port")
}

# shape BATCH: connections and requests in flight, as the targets have them.
shape() {
  case $1 in
    1) echo "8 64" ;;
    16) echo "4 4" ;;
    *) echo "4 16" ;;
  esac
}

# load ROUND RUNTIME BATCH: one run; a line of the results.
load() {
  local connections in_flight status=0
  read -r connections in_flight <<<"$(shape "$3")"
  "$BENCH" load --grpc "$address" --stream any --payload clicks --method append --batch "$3" --connections "$connections" \
    --in-flight "$in_flight" --warmup "${WARMUP}s" --duration "${SECONDS_EACH}s" --cores "$LOAD_CORE" --server-pid "$server_pid" \
    --note "commit=$commit" --quiet -o json >"$scratch/report.json" 2>>"$out.txt" || status=$?
  [[ -s $scratch/report.json ]] || { tail -n 3 "$out.txt" >&2; die "$2 gave no report"; }
  ROUND=$1 RUNTIME=$2 STATUS=$status python3 - "$scratch/report.json" >>"$out.jsonl" <<'PY'
import json, os, sys
report = json.load(open(sys.argv[1]))
told = {"runtime": os.environ["RUNTIME"], "round": int(os.environ["ROUND"]), "exit": int(os.environ["STATUS"])}
print(json.dumps({**told, **report}))
PY
}

{
  date -u
  echo "commit $commit; server on core $SHARD_CORE, load on core $LOAD_CORE; $ROUNDS rounds of ${SECONDS_EACH} s; log of $LOG_MIB MiB"
  lscpu | grep -E '^(Model name|Hypervisor)' || true
  uname -sr
  df -T "$scratch" | tail -n 1
  echo "load average: $(cut -d' ' -f1-3 /proc/loadavg)"
} | tee "$out.txt"

for ((round = 1; round <= ROUNDS; round++)); do
  for runtime in "${runtimes[@]}"; do
    start "$runtime"
    for batch in $BATCHES; do load "$round" "$runtime" "$batch"; done
    stop
    echo "done: round $round, $runtime"
  done
done
python3 "$here/table.py" "$out.jsonl" | tee -a "$out.txt"
