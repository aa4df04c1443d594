#!/usr/bin/env bash
# Installs and starts other servers that can sync each ack, sends the same click events through each and through TTDust, in turns and
# in one run, and prints one table. Raw reports go to perf/results/. Needs Debian, bash, python3, cargo, two free cores, and about a
# quarter of an hour.
#
#   bench/peers/run.sh [SERVER ...]      ttdust redis nats postgres postgres-jsonb durable-streams rabbitmq clickhouse (default: all)
#
# Environment: SERVER, BENCH (binaries of TTDust) · SHARD_CORE=1 (the server, all of it) LOAD_CORE=0 · ROUNDS=3 · SECONDS_EACH=5
# WARMUP=1 · SHAPES="100 opaque 1" (records a request; opaque: 100 as one message) · DATA=/var/tmp (its disk is what is measured)
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
home=${PEERS_HOME:-$root/target/peers}
SHARD_CORE=${SHARD_CORE:-1}
LOAD_CORE=${LOAD_CORE:-0}
# Each server has one core for all that it does.
CONTROL_CORE=$SHARD_CORE
ROUNDS=${ROUNDS:-3}
SECONDS_EACH=${SECONDS_EACH:-5}
WARMUP=${WARMUP:-1}
SHAPES=${SHAPES:-100 opaque 1}
DATA=${DATA:-/var/tmp}
SERVER_FLAGS=${SERVER_FLAGS:-}

die() { echo "peers: $*" >&2; exit 2; }
for tool in cargo python3 taskset setpriv; do command -v "$tool" >/dev/null || die "$tool is needed"; done
[[ $(df --output=fstype "$DATA" | tail -n 1) != tmpfs ]] || die "$DATA is in memory, where no sync means anything: set DATA"
servers=("$@")
((${#servers[@]})) || servers=(ttdust redis nats postgres postgres-jsonb durable-streams rabbitmq clickhouse)

mkdir -p "$root/perf/results" "$home"
commit=$(git -C "$root" rev-parse --short HEAD 2>/dev/null || echo unknown)
out=$root/perf/results/$(date -u +%Y%m%dT%H%M%SZ)-$commit-peers
server_log=$out.server.log
. "$root/perf/server.sh"
. "$here/servers.sh"
. "$here/rows.sh"
# Other users must get to their data.
chmod 755 "$scratch"
trap 'stop_peer; finish' EXIT

for server in "${servers[@]}"; do
  declare -F "rows_$server" >/dev/null || die "there is no server $server"
done
echo 'installing and building what is missing'
CARGO_TARGET_DIR=$home/build cargo build --release --quiet --locked --manifest-path "$here/Cargo.toml"
peer_load=$home/build/release/peer-load
for server in "${servers[@]}"; do
  if declare -F "install_$server" >/dev/null; then "install_$server"; fi
done

{
  date -u
  echo "commit $commit; servers on core $SHARD_CORE, load on core $LOAD_CORE; $ROUNDS rounds of ${SECONDS_EACH} s each"
  lscpu | grep -E '^(Model name|Hypervisor)' || true
  uname -sr
  df -T "$scratch" | tail -n 1
  echo "load average: $(cut -d' ' -f1-3 /proc/loadavg)"
} | tee "$out.txt"

# record ROW STATUS: the report in $scratch/report.json goes to the results as the row ROW of this round.
record() {
  [[ -s $scratch/report.json ]] || { tail -n 3 "$out.txt" >&2; die "$1 gave no report"; }
  ROW=$1 STATUS=$2 ROUND=$round python3 - "$scratch/report.json" >>"$out.jsonl" <<'PY'
import json, os, sys
row = json.loads(os.environ["ROW"])
print(json.dumps({**row, "round": int(os.environ["ROUND"]), "exit": int(os.environ["STATUS"]), **json.load(open(sys.argv[1]))}))
PY
  python3 "$here/table.py" --line "$out.jsonl"
}

for ((round = 1; round <= ROUNDS; round++)); do
  for shape in $SHAPES; do
    for server in "${servers[@]}"; do "rows_$server" "$shape"; done
  done
done
stop_peer
stop_server
python3 "$here/table.py" "$out.jsonl" | tee -a "$out.txt"
