# A server of its own on pinned cores, for the scripts beside this one and in bench/, which source it. They set root, SHARD_CORE,
# LOAD_CORE, SERVER_FLAGS and server_log, may set CONTROL_CORE, and say `die`.
# shellcheck shell=bash

SERVER=${SERVER:-$root/target/release/ttdust}
BENCH=${BENCH:-$root/target/release/ttdust-bench}
for binary in "$SERVER" "$BENCH"; do
  [[ -x $binary ]] || die "$binary is not there: run 'cargo build --release' first"
done

scratch=$(mktemp -d "${DATA:-$root/target}/perf-XXXXXX")
server_pid=
server_env=()

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
    printf '[shards]\ncores = [%s]\n[control]\ncores = [%s]\n' "$SHARD_CORE" "${CONTROL_CORE:-$LOAD_CORE}"
    printf '%s\n' "$@"
  } >"$scratch/ttdust.toml"
  local began
  began=$(date +%s%3N)
  # shellcheck disable=SC2086
  env "${server_env[@]}" "$SERVER" serve --config "$scratch/ttdust.toml" --port-file "$scratch/ports.json" $SERVER_FLAGS \
    >>"$server_log" 2>&1 &
  server_pid=$!
  until [[ -s $scratch/ports.json ]]; do
    kill -0 "$server_pid" 2>/dev/null || die "the server ended at start; see $server_log"
    (($(date +%s%3N) - began < 120000)) || die "the server is not ready after 120 s; see $server_log"
    sleep 0.005
  done
  started_ms=$(($(date +%s%3N) - began))
  read -r http grpc < <(python3 -c 'import json,sys; p=json.load(open(sys.argv[1])); print(p["http"], p["grpc"])' "$scratch/ports.json")
}

fresh_server() { stop_server; rm -rf "$scratch/data"; start_server "$@"; }

# The ack path by itself: flushes put off, and a pool of log segments that were written ahead, as recycling keeps it.
pool_segments=40
# Nothing is frozen by its size either: that is why these runs are short (a fast disk takes 4 GiB in 8 s).
ack_path=('[buffer]' 'flush_interval_ms = 3600000' 'freeze_bytes = 4294967296' 'memory_bytes = 67108864'
  '[wal]' 'quota_bytes = 34359738368'
  "segments_ahead = $pool_segments")
ack_path_server() {
  fresh_server "${ack_path[@]}" "$@"
  until (($(ls "$scratch/data/wal/shard-00000" | grep -c 'wal$') >= pool_segments)); do sleep 0.1; done
}
# Everything on: default configuration, Parquet written on the shard's own core.
# shellcheck disable=SC2034
everything_on=('[buffer]' 'memory_bytes = 134217728' 'freeze_bytes = 134217728')
