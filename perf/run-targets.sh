#!/usr/bin/env bash
# Runs the scenarios of perf/README.md against target/release/ttdust on this machine and prints each figure next to its target.
# Writes the raw reports to perf/results/. Needs bash, python3 and curl, and two free cores; takes about four minutes.
#
#   perf/run-targets.sh [SCENARIO ...]     append100 append100_flush append16 stream ingest flush memory recovery (default: these)
#                                          admin admin_postgres many many_postgres outage_postgres outage_redis auth: the control
#                                          plane beside the load; some need Postgres and Redis, by tests/services.sh
#                                          queries: lookups and time ranges over QUERY_HOURS hourly partitions, alone and beside
#                                          a load; needs Debian's faketime, and about ten minutes
#                                          tail: readers that follow a stream, and one that replays it
#                                          http: small batches of records over HTTP
#                                          import: JSON Lines alone, and beside a steady load
#                                          scrape: /metrics, alone and beside a steady load
#                                          sustained: full load with flushes and merges for SUSTAINED_SECONDS
#                                          keys: the same load with and without idempotency keys, KEYS of them in the window
#                                          floods, overload, soak: hostile.sh. Floods of frames beside an honest load; more load
#                                          than there is room for, in a cgroup; a steady load with kills
#
# Environment: SERVER, BENCH (binaries) · SHARD_CORE=1 LOAD_CORE=0 · SECONDS_EACH=10 ACK_SECONDS=5 MEMORY_SECONDS=60 · PAYLOAD=flights ·
# FLUSH_RATE=300000 (records/s of the flush and outage scenarios) · OUTAGE_SECONDS=60 · QUERY_HOURS=30 QUERY_RECORDS=100000000 ·
# FLOOD_SECONDS=10 FLOOD_LOAD=20000 (records/s of the honest load) · OVERLOAD_SECONDS=60 (the long run: 1800) OVERLOAD_TIMES=10
# OVERLOAD_MEMORY=4294967296 OVERLOAD_CPU=20 (% of a core) · SOAK_SECONDS=300 (the long run: 3600) SOAK_LOAD=20000 SOAK_LIFE=120
# SOAK_POSTGRES=0 ·
# SUSTAINED_SECONDS=600 · KEYS=50000000 · IMPORT_RECORDS=2000000 IMPORT_RATE=50000 (records/s of the load beside an import or scrapes) · DATA (folder for the data, removed at the end; its disk is what is
# measured) · SERVER_FLAGS (more flags for `ttdust serve`)
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
SHARD_CORE=${SHARD_CORE:-1}
LOAD_CORE=${LOAD_CORE:-0}
SECONDS_EACH=${SECONDS_EACH:-10}
ACK_SECONDS=${ACK_SECONDS:-5}
MEMORY_SECONDS=${MEMORY_SECONDS:-60}
PAYLOAD=${PAYLOAD:-flights}
FLUSH_RATE=${FLUSH_RATE:-300000}
IMPORT_RECORDS=${IMPORT_RECORDS:-2000000}
IMPORT_RATE=${IMPORT_RATE:-50000}
OUTAGE_SECONDS=${OUTAGE_SECONDS:-60}
SUSTAINED_SECONDS=${SUSTAINED_SECONDS:-600}
KEYS=${KEYS:-50000000}
QUERY_HOURS=${QUERY_HOURS:-30}
QUERY_RECORDS=${QUERY_RECORDS:-100000000}
SERVER_FLAGS=${SERVER_FLAGS:-}

die() { echo "run-targets: $*" >&2; exit 2; }
for tool in python3 curl taskset; do command -v "$tool" >/dev/null || die "$tool is needed"; done

results=$root/perf/results
mkdir -p "$results"
commit=$(git -C "$root" rev-parse --short HEAD 2>/dev/null || echo unknown)
out=$results/$(date -u +%Y%m%dT%H%M%SZ)-$commit
jsonl=$out.jsonl
server_log=$out.server.log
. "$root/perf/server.sh"
disk=$(df --output=source,fstype "$scratch" | tail -n 1 | tr -s ' ')
# Where it may be done, cores are watched for stalls of the machine under this one.
watch=()
if [[ $(id -u) == 0 ]] && command -v chrt >/dev/null; then watch=(--stalls "$LOAD_CORE,$SHARD_CORE"); fi

# load NAME FLAGS...: one run; its report goes to the results under NAME.
load() {
  local name=$1
  shift
  echo "── $name: $*" >>"$out.txt"
  local status=0
  "$BENCH" load --grpc "$grpc" --http "$http" --create --payload "$PAYLOAD" --cores "$LOAD_CORE" --server-pid "$server_pid" \
    "${watch[@]}" --note "commit=$commit" --note "disk=$disk" -o json "$@" >"$scratch/report.json" 2>>"$out.txt" || status=$?
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
run_append100() {
  ack_path_server
  load append100 --scenario append100 --warmup 1s --duration "${ACK_SECONDS}s"
}
# The same with everything on.
run_append100_flush() {
  fresh_server "${everything_on[@]}"
  load append100_flush --scenario append100 --duration "${SECONDS_EACH}s"
}
run_append16() { ack_path_server; load append16 --scenario append16 --duration "${SECONDS_EACH}s"; }
run_stream() {
  ack_path_server
  load stream --scenario stream --duration "${SECONDS_EACH}s"
}
run_ingest() {
  ack_path_server
  load ingest --scenario ingest --duration "${SECONDS_EACH}s"
}

run_flush() {
  # Interleaved, so that what else goes on in the machine meets both.
  for round in 1 2 3 4 5; do
    fresh_server "${no_flush[@]}"
    load "flush_off.$round" --scenario flush --rate "$FLUSH_RATE" --duration "${SECONDS_EACH}s"
    fresh_server '[buffer]' 'flush_interval_ms = 1000' 'freeze_bytes = 33554432'
    load "flush_on.$round" --scenario flush --rate "$FLUSH_RATE" --duration "${SECONDS_EACH}s"
  done
}

run_memory() { fresh_server "${everything_on[@]}"; load memory --scenario memory --duration "${MEMORY_SECONDS}s"; }

run_recovery() {
  fresh_server "${no_flush[@]}"
  # The run ends when the server dies under it; what it had acked must all be there afterwards.
  (sleep "$((SECONDS_EACH + 1))"; kill -KILL "$server_pid") &
  local killer=$!
  load recovery_load --scenario append100 --warmup 1s --duration 600s --acked "$scratch/acked.json"
  wait "$killer" || true
  wait "$server_pid" 2>/dev/null || true
  server_pid=
  start_server "${no_flush[@]}"
  local status=0
  "$BENCH" verify "$scratch/acked.json" --grpc "$grpc" >>"$out.txt" 2>&1 || status=$?
  note recovery "\"ready_ms\": $started_ms, \"verify_exit\": $status"
  echo "done: recovery"
}

# rest_bench NAME COMMAND KEY FLAGS...: a run of calls over REST; its report goes to the results under NAME, as KEY.
rest_bench() {
  local name=$1 report=$scratch/$2.json key=$3 status=0
  "$BENCH" "$2" --http "$http" --cores "$LOAD_CORE" "${watch[@]}" -o json "${@:4}" >"$report" 2>>"$out.txt" || status=$?
  [[ -s $report ]] || { tail -n 3 "$out.txt" >&2; die "$name gave no report"; }
  note "$name" "\"exit\": $status, \"$key\": $(cat "$report")"
  echo "done: $name"
}

# calls NAME FLAGS...: calls of the admin plane.
calls() { rest_bench "$1" admin calls "${@:2}"; }

# A Postgres of its own under the server; sets postgres.
with_postgres() {
  "$root/tests/services.sh" start
  eval "$("$root/tests/services.sh" env)"
  local host port database
  host=$(sed 's/.*host=\([^ ]*\).*/\1/' <<<"$TESTS_PG")
  port=$(sed 's/.*port=\([^ ]*\).*/\1/' <<<"$TESTS_PG")
  database=perf_$(date +%s%N)
  psql --quiet --host "$host" --port "$port" --username ttdust --dbname postgres --command "CREATE DATABASE $database"
  postgres=('[pg]' "host = \"$host\"" "port = $port" "database = \"$database\"")
}

# Load alone and load beside admin calls in turns, on one server.
run_admin_on() {
  local name=$1
  shift
  for round in 1 2 3 4 5; do
    ack_path_server "$@"
    calls "$name.fill" --schemas 10 --streams 100 --duration 0s
    # One after the other on one server: now the one first, now the other.
    for turn in $((round % 2)) $((1 - round % 2)); do
      if ((turn)); then
        load "${name}_alone.$round" --scenario append100 --warmup 1s --duration 4s
      else
        calls "${name}_calls.$round" --schemas 10 --streams 100 --mix mixed --rate 100 --duration 6s &
        local caller=$!
        load "${name}_beside.$round" --scenario append100 --warmup 1s --duration 4s
        wait "$caller"
      fi
    done
  done
}
run_admin() { run_admin_on admin; }
run_admin_postgres() {
  local postgres
  with_postgres
  run_admin_on admin_postgres "${postgres[@]}"
}

# Ten thousand streams of a thousand schemas: creations, and a start.
run_many_on() {
  local name=$1
  shift
  fresh_server "$@"
  calls "$name.fill" --schemas 1000 --streams 10000 --duration 0s
  calls "$name.creates" --schemas 1000 --streams 10000 --mix creates --rate 5 --duration 40s
  stop_server
  start_server "$@"
  note "$name.start" "\"ready_ms\": $started_ms"
  calls "$name.reads" --schemas 1000 --streams 10000 --duration 10s
}
run_many() { run_many_on many; }
run_many_postgres() {
  local postgres
  with_postgres
  run_many_on many_postgres "${postgres[@]}"
}

# Before, while the service is stopped, and after, at one rate.
run_outage_of() {
  local service=$1
  shift
  # Flushes are on: without the catalog they wait, and the log grows.
  fresh_server '[wal]' 'quota_bytes = 34359738368' "$@"
  for round in 1 2; do
    load "outage_${service}_before.$round" --scenario flush --rate "$FLUSH_RATE" --duration "${OUTAGE_SECONDS}s"
    "$root/tests/services.sh" halt "$service"
    load "outage_${service}_during.$round" --scenario flush --rate "$FLUSH_RATE" --duration "${OUTAGE_SECONDS}s"
    "$root/tests/services.sh" resume "$service"
  done
}
run_outage_postgres() {
  local postgres
  with_postgres
  run_outage_of postgres "${postgres[@]}"
}
run_outage_redis() {
  "$root/tests/services.sh" start
  eval "$("$root/tests/services.sh" env)"
  run_outage_of redis '[redis]' "url = \"redis://$TESTS_REDIS\"" "${far_limits[@]}"
}

# Readers of one stream: live at a steady rate, then one that replays what a load has left, from the log and from files.
run_tail() {
  local readers
  tail_bench() {
    local name=$1
    shift
    echo "── $name: $*" >>"$out.txt"
    "$BENCH" tail --grpc "$grpc" --http "$http" --core "$LOAD_CORE" -o json "$@" >"$scratch/report.json" 2>>"$out.txt" ||
      die "$name failed; see $out.txt"
    note "$name" "\"tail\": $(cat "$scratch/report.json")"
    cat "$scratch/report.json" >>"$out.txt"
    echo "done: $name"
  }
  for readers in 1 100 1000; do
    fresh_server "${everything_on[@]}"
    tail_bench "tail_live.$readers" --readers "$readers" --rate 100 --batch 1 --duration "${SECONDS_EACH}s"
  done
  PAYLOAD=clicks
  fresh_server "${no_flush[@]}"
  load tail_fill.log --scenario flush --rate "$FLUSH_RATE" --duration "${SECONDS_EACH}s" --stream clicks
  tail_bench tail_replay.log --replay --stream clicks
  fresh_server '[buffer]' 'flush_interval_ms = 500'
  load tail_fill.files --scenario flush --rate "$FLUSH_RATE" --duration "${SECONDS_EACH}s" --stream clicks
  sleep 3
  tail_bench tail_replay.files --replay --stream clicks
}

# scrape NAME: the sum of a metric's values.
scrape() { curl -s "http://$http/metrics" | awk -v name="$1" '$1 ~ "^" name "({|$)" { sum += $2 } END { print sum + 0 }'; }

# settled: waits until every row is in a file and nothing is left to be merged.
settled() {
  local before=-1 now still=0
  until ((still >= 5)); do
    now="$(scrape ttdust_storage_files_total) $(scrape ttdust_compaction_runs_total) $(scrape ttdust_ingestion_buffer_records)"
    if [[ $now == "$before" ]]; then still=$((still + 1)); else still=0; fi
    before=$now
    sleep 2
  done
  echo "settled: files, merges and buffered rows: $now" >>"$out.txt"
}

# Hour after hour of clicks, each hour with keys of its own, written by servers whose clocks are set back.
run_queries() {
  local hour keys=200000 faketime rate=$((QUERY_RECORDS / QUERY_HOURS / 10)) begin
  faketime=$(ls /usr/lib/*/faketime/libfaketime.so.1) || die "faketime is needed: apt-get install faketime"
  begin=$(($(date +%s) - QUERY_HOURS * 3600))
  local quick=('[buffer]' 'flush_interval_ms = 2000')
  fresh_server "${quick[@]}"
  for ((hour = 0; hour < QUERY_HOURS; hour++)); do
    stop_server
    server_env=("LD_PRELOAD=$faketime" "FAKETIME=-$((QUERY_HOURS - hour))h" DONT_FAKE_MONOTONIC=1)
    start_server "${quick[@]}"
    PAYLOAD=clicks@$((hour * keys)) load "queries_fill.$hour" --stream clicks --key-field event_id --payload-records "$keys" \
      --rate "$rate" --warmup 0s --duration 10s
  done
  stop_server
  server_env=()
  start_server "${quick[@]}"
  settled
  du -sh "$scratch/data/objects" >>"$out.txt"
  note queries.files "\"objects\": $(find "$scratch/data/objects" -name '*.parquet' | wc -l), \"bytes\": $(du -sb "$scratch/data/objects" | cut -f1)"
  local ask=(--clicks "0..$((QUERY_HOURS * keys))" --times "$((begin * 1000000))..$(((begin + (QUERY_HOURS - 2) * 3600) * 1000000))")
  query_bench queries_warm "${ask[@]}" --rate 50 --duration 20s
  query_bench queries_alone "${ask[@]}" --rate 100 --duration 30s
  load queries_ingest_alone --stream beside --scenario append100 --duration 10s
  load queries_ingest_beside --stream beside --scenario append100 --duration 30s &
  local loader=$!
  sleep 2
  query_bench queries_beside "${ask[@]}" --rate 100 --duration 25s
  wait "$loader"
}

query_bench() { rest_bench "$1" query queries "${@:2}"; }

# Ten records a call, a hundred calls a second.
run_http() {
  local round
  for round in 1 2 3; do
    fresh_server '[buffer]' 'flush_interval_ms = 1000'
    rest_bench "http_alone.$round" http http --payload "$PAYLOAD" --rate 100 --batch 10 --duration "${SECONDS_EACH}s"
  done
}

# Scrapes, ten a second, on an idle server and beside a steady load; and that load without them, in turns.
run_scrape() {
  local round turn
  ack_path_server
  calls scrape_alone --mix scrapes --rate 10 --duration "${SECONDS_EACH}s"
  for round in 1 2 3; do
    ack_path_server
    for turn in $((round % 2)) $((1 - round % 2)); do
      if ((turn)); then
        load "scrape_off.$round" --scenario import --rate "$IMPORT_RATE" --warmup 1s --duration "${SECONDS_EACH}s"
      else
        calls "scrape_on.$round" --mix scrapes --rate 10 --duration "$((SECONDS_EACH + 2))s" &
        local caller=$!
        load "scrape_beside.$round" --scenario import --rate "$IMPORT_RATE" --warmup 1s --duration "${SECONDS_EACH}s"
        wait "$caller"
      fi
    done
  done
}

# Imports of the flights: alone, and beside live load, whose latency is taken before and meanwhile.
run_import() {
  local folder=$scratch/import PAYLOAD=flights
  mkdir -p "$folder"
  python3 - "$root/tests/data/flights.jsonl.gz" "$folder/flights.jsonl" "$IMPORT_RECORDS" <<'PY'
import gzip, itertools, sys
with gzip.open(sys.argv[1]) as sample, open(sys.argv[2], "wb") as out:
    lines = sample.readlines()
    out.writelines(itertools.islice(itertools.cycle(lines), int(sys.argv[3])))
PY
  import_job() {
    local name=$1
    python3 - "$http" "$folder/flights.jsonl" >"$scratch/$name.json" <<'PY' || die "$name failed"
import json, sys, time, urllib.request
jobs = f"http://{sys.argv[1]}/api/v1/jobs"
ask = {"stream_id": "flights", "source_uri": "file://" + sys.argv[2], "format": "json_lines"}
request = urllib.request.Request(jobs, json.dumps(ask).encode(), {"content-type": "application/json"})
begun = time.monotonic()
job = json.load(urllib.request.urlopen(request))
while job["status"] in ("pending", "running"):
    time.sleep(0.05)
    job = json.load(urllib.request.urlopen(f"{jobs}/{job['id']}"))
seconds = time.monotonic() - begun
print(json.dumps({"status": job["status"], "records": job["records_succeeded"], "seconds": seconds,
                  "records_per_second": job["records_succeeded"] / seconds, "reason": job["reason"]}))
sys.exit(job["status"] != "completed")
PY
    note "$name" "\"import\": $(cat "$scratch/$name.json")"
    cat "$scratch/$name.json" >>"$out.txt"
    echo "done: $name"
  }
  fresh_server "${everything_on[@]}" '[wal]' 'quota_bytes = 17179869184' '[import]' "roots = \"$folder\""
  load import_before --scenario import --rate "$IMPORT_RATE" --duration "${SECONDS_EACH}s" --stream flights
  import_job import_alone
  import_job import_beside &
  local importer=$!
  load import_during --scenario import --rate "$IMPORT_RATE" --warmup 1s --duration "${SECONDS_EACH}s" --stream flights
  wait "$importer"
}

# Full load with everything on, merges too, and what the server's memory, files and log do meanwhile.
run_sustained() {
  fresh_server "${everything_on[@]}" '[compaction]' 'min_age_ms = 10000'
  load sustained --scenario sustained --duration "${SUSTAINED_SECONDS}s" &
  local loader=$! samples='' rss
  while kill -0 "$loader" 2>/dev/null; do
    sleep 5
    rss=$(awk '/^VmRSS:/ { print $2 * 1024 }' "/proc/$server_pid/status")
    samples+=", [$rss, $(scrape ttdust_wal_used_bytes), $(scrape ttdust_storage_files_total), $(scrape ttdust_compaction_runs_total)]"
  done
  wait "$loader"
  note sustained.samples "\"of\": [\"rss_bytes\", \"wal_used_bytes\", \"files\", \"merges\"], \"samples\": [${samples#, }]"
}

# A window full of keys, beside a server that took as much without; then both kinds of load on that window.
run_keys() {
  local round
  fresh_server "${everything_on[@]}"
  load keys_fill.without --scenario append100 --duration "$((KEYS / 500000))s"
  fresh_server "${everything_on[@]}"
  while (($(scrape ttdust_dedup_keys_in_memory) + $(scrape ttdust_dedup_keys_in_files) < KEYS)); do
    load keys_fill.with --scenario keys --warmup 0s --duration 20s
  done
  note keys.count "\"keys\": $(($(scrape ttdust_dedup_keys_in_memory) + $(scrape ttdust_dedup_keys_in_files)))"
  for round in 1 2 3; do
    load "keys_without.$round" --scenario append100 --duration "${SECONDS_EACH}s"
    load "keys_with.$round" --scenario keys --duration "${SECONDS_EACH}s"
  done
}

# Limits that are counted and never reached.
far_limits=('[rate]' 'ingest_records_per_second = 1000000000' 'ingest_bytes_per_second = 1000000000000'
  'queries_per_second = 1000000' 'admin_per_second = 1000000')
# Open, and with keys and limits, in turns.
run_auth() {
  for round in 1 2 3; do
    ack_path_server
    load "auth_off.$round" --scenario append100 --duration 5s
    ack_path_server '[auth]' 'mode = "keys"' "${far_limits[@]}"
    local key
    key=$(grep -o 'ttd_live_[A-Za-z0-9_-]*' "$out.server.log" | tail -n 1)
    TTDUST_API_KEY=$key load "auth_on.$round" --scenario append100 --duration 5s
  done
}

. "$root/perf/hostile.sh"

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
