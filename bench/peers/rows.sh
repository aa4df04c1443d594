# The rows of the table: for each server and shape (100, opaque, 1) how it is asked, and what its ack means. For run.sh, which sources
# it. Connections and requests in flight are those that served a server best of the few that were tried.
# shellcheck shell=bash

# row NAME DURABILITY CHECKS: what the table says of a row, as JSON.
row() { printf '{"row": "%s", "durability": "%s", "checks": "%s"}' "$1" "$2" "$3"; }

# ttdust_load ROW FLAGS...
ttdust_load() {
  local told=$1 status=0
  shift
  "$BENCH" load --grpc "$grpc" --http "$http" --create --payload clicks --cores "$LOAD_CORE" --server-pid "$server_pid" \
    --note "commit=$commit" --quiet --warmup "${WARMUP}s" --duration "${SECONDS_EACH}s" -o json "$@" \
    >"$scratch/report.json" 2>>"$out.txt" || status=$?
  record "$told" "$status"
  stop_server
}

rows_ttdust() {
  local durability='O_DIRECT and O_DSYNC'
  case $1 in
    100)
      ack_path_server
      ttdust_load "$(row 'TTDust' "$durability" 'JSON Schema')" --scenario append100
      fresh_server "${everything_on[@]}"
      ttdust_load "$(row 'TTDust, Parquet too' "$durability" 'JSON Schema')" --scenario append100
      ;;
    1)
      ack_path_server
      ttdust_load "$(row 'TTDust' "$durability" 'JSON Schema')" --scenario stream
      ;;
    # It has no messages that nobody can look into.
    *) ;;
  esac
}

# peer_row SERVER SHAPE DURABILITY CHECKS FLAGS...: one run against a fresh SERVER.
peer_row() {
  local server=$1 shape=$2 told status=0
  told=$(row "$("version_$server")" "$3" "$4")
  shift 4
  local flags=(--batch "${shape/opaque/100}")
  if [[ $shape == opaque ]]; then flags+=(--opaque); fi
  fresh_peer "$server"
  "$peer_load" --peer "$server" --address "$peer_address" --core "$LOAD_CORE" --server-pid "$peer_pid" --warmup "$WARMUP" \
    --duration "$SECONDS_EACH" "${flags[@]}" "$@" >"$scratch/report.json" 2>>"$out.txt" || status=$?
  record "$told" "$status"
  stop_peer
}

# in_flight SHAPE: as the loads of TTDust have it, for who takes many requests on a connection.
in_flight() { if [[ $1 == 1 ]]; then echo --connections 8 --in-flight 64; else echo --connections 4 --in-flight 16; fi; }

# Redis takes 16 KiB from each connection between two syncs: at 100 many connections share one.
rows_redis() {
  local flags=(--connections 64 --in-flight 1)
  if [[ $1 == 1 ]]; then flags=(--connections 8 --in-flight 64); fi
  peer_row redis "$1" 'appendfsync always' no "${flags[@]}"
}

# shellcheck disable=SC2046
rows_nats() { peer_row nats "$1" 'sync_interval always' no $(in_flight "$1"); }

# A backend does one transaction at a time: connections are what it has in flight.
postgres_flags() { if [[ $1 == 1 ]]; then echo --connections 64 --in-flight 1; else echo --connections 16 --in-flight 1; fi; }

# shellcheck disable=SC2046
rows_postgres() { peer_row postgres "$1" 'fsync, synchronous_commit' no $(postgres_flags "$1"); }

rows_postgres-jsonb() {
  # A row of many records is no JSON.
  [[ $1 == opaque ]] && return
  # shellcheck disable=SC2046
  peer_row postgres-jsonb "$1" 'fsync, synchronous_commit' 'syntax (jsonb)' $(postgres_flags "$1")
}

rows_durable-streams() {
  local connections=64 checks='syntax'
  if [[ $1 == 1 ]]; then connections=256; fi
  if [[ $1 == opaque ]]; then checks=no; fi
  peer_row durable-streams "$1" 'durability wal: fdatasync' "$checks" --connections "$connections" --in-flight 1
}

# shellcheck disable=SC2046
rows_rabbitmq() { peer_row rabbitmq "$1" 'quorum queue, confirms' no $(in_flight "$1"); }

# In one process with its load, which so runs on the server's core, and one insert at a time.
rows_clickhouse() {
  [[ $1 == opaque ]] && return
  local status=0
  taskset --cpu-list "$SHARD_CORE" "$venv/bin/python" "$here/clickhouse.py" "$scratch/clickhouse" "$1" "$WARMUP" "$SECONDS_EACH" \
    >"$scratch/report.json" 2>>"$out.txt" || status=$?
  record "$(row 'ClickHouse in process (chdb)' 'fsync_after_insert' 'types')" "$status"
  rm -rf "$scratch/clickhouse"
}
install_clickhouse() { "$venv/bin/python" -c 'import chdb' 2>/dev/null || pip_install chdb==4.4.0; }
