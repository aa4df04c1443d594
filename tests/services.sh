#!/usr/bin/env bash
# The services that tests need, of their own and thrown away afterwards.
#
#   tests/services.sh start     starts what is not running yet
#   eval "$(tests/services.sh env)"     tells this shell where they are
#   tests/services.sh halt postgres|redis     ends one and keeps what it holds
#   tests/services.sh resume postgres|redis   starts it again
#   tests/services.sh stop      ends them all, and what they hold
set -euo pipefail
cd "$(dirname "$0")/.."

state=target/services
mkdir -p "$state"

# Postgres refuses to run as root.
unprivileged() {
    if [ "$(id -u)" -ne 0 ]; then
        "$@"
    elif id -u postgres >/dev/null 2>&1; then
        "$(command -v runuser || echo /usr/sbin/runuser)" -u postgres -- "$@"
    else
        "$(command -v runuser || echo /usr/sbin/runuser)" -u nobody -- "$@"
    fi
}

postgres_programs() {
    local dir
    dir=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1)
    [ -n "$dir" ] || dir=$(dirname "$(command -v initdb || true)")
    if [ ! -x "$dir/initdb" ]; then
        echo "tests/services.sh: no initdb: install Debian's package postgresql" >&2
        exit 1
    fi
    echo "$dir"
}

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# certificates DIR: a CA, ca.pem, and the certificate of a server on this machine, server.pem with server.key.
certificates() {
    local new="openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
    $new -x509 -days 30 -subj "/CN=tests of ttdust" -keyout "$1/ca.key" -out "$1/ca.pem" 2>/dev/null
    $new -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout "$1/server.key" 2>/dev/null |
        openssl x509 -req -CA "$1/ca.pem" -CAkey "$1/ca.key" -days 30 -copy_extensions copy -out "$1/server.pem" 2>/dev/null
}

start_postgres() {
    local programs dir
    programs=$(postgres_programs)
    command -v openssl >/dev/null || { echo "tests/services.sh: no openssl: install Debian's package openssl" >&2; exit 1; }
    # Not under target: the path of a socket is short, and another user must be able to go there.
    dir=$(unprivileged mktemp -d "${TMPDIR:-/tmp}/ttdust-postgres.XXXXXX")
    echo "$dir" >"$state/postgres"
    free_port >"$state/postgres.port"
    export -f certificates
    (cd / && unprivileged bash -c "certificates '$dir'") || { echo "tests/services.sh: no certificates" >&2; exit 1; }
    # No sync: what it holds need not outlive the machine.
    (
        cd /
        unprivileged "$programs/initdb" --pgdata "$dir/data" --username ttdust --auth trust --encoding UTF8 \
            --locale C.UTF-8 --no-sync >"$OLDPWD/$state/postgres.log"
    ) || { cat "$state/postgres.log" >&2; exit 1; }
    resume_postgres
}

resume_postgres() {
    local programs dir
    programs=$(postgres_programs)
    dir=$(cat "$state/postgres")
    (
        cd /
        unprivileged "$programs/pg_ctl" --pgdata "$dir/data" --log "$dir/log" --wait --timeout 60 start --options \
            "-c listen_addresses=127.0.0.1 -c port=$(cat "$OLDPWD/$state/postgres.port") -c unix_socket_directories='$dir' \
                -c ssl=on -c ssl_cert_file='$dir/server.pem' -c ssl_key_file='$dir/server.key' \
                -c fsync=off -c max_connections=400" \
            >>"$OLDPWD/$state/postgres.log"
    ) || { cat "$state/postgres.log" "$dir/log" >&2 2>/dev/null; exit 1; }
}

halt_postgres() {
    local programs dir
    programs=$(postgres_programs)
    dir=$(cat "$state/postgres")
    (cd / && unprivileged "$programs/pg_ctl" --pgdata "$dir/data" --mode immediate --wait stop) >/dev/null
}

postgres_runs() {
    [ -f "$state/postgres" ] && (cd / && unprivileged "$(postgres_programs)/pg_ctl" --pgdata \
        "$(cat "$OLDPWD/$state/postgres")/data" status) >/dev/null 2>&1
}

stop_postgres() {
    local dir
    [ -f "$state/postgres" ] || return 0
    dir=$(cat "$state/postgres")
    if postgres_runs; then halt_postgres; fi
    rm -rf "$dir" "$state/postgres"
}

start_redis() {
    command -v redis-server >/dev/null || {
        echo "tests/services.sh: no redis-server: install Debian's package redis-server" >&2
        exit 1
    }
    echo "127.0.0.1:$(free_port)" >"$state/redis"
    resume_redis
}

resume_redis() {
    local port
    port=$(sed 's/.*://' "$state/redis")
    redis-server --bind 127.0.0.1 --port "$port" --save '' --appendonly no --daemonize yes \
        --pidfile "$PWD/$state/redis.pid" --logfile "$PWD/$state/redis.log" >/dev/null
}

halt_redis() {
    local pid
    pid=$(cat "$state/redis.pid")
    kill "$pid"
    while kill -0 "$pid" 2>/dev/null; do sleep 0.02; done
}

redis_runs() {
    [ -f "$state/redis.pid" ] && kill -0 "$(cat "$state/redis.pid")" 2>/dev/null
}

stop_redis() {
    if redis_runs; then kill "$(cat "$state/redis.pid")"; fi
    rm -f "$state/redis" "$state/redis.pid"
}

case "${1:-}" in
    start)
        postgres_runs || { stop_postgres; start_postgres; }
        redis_runs || { stop_redis; start_redis; }
        ;;
    env)
        postgres_runs && redis_runs || { echo "tests/services.sh: not running: tests/services.sh start" >&2; exit 1; }
        echo "export TESTS_PG='host=$(cat "$state/postgres") port=$(cat "$state/postgres.port") user=ttdust'"
        echo "export TESTS_PG_CA='$(cat "$state/postgres")/ca.pem'"
        echo "export TESTS_REDIS='$(cat "$state/redis")'"
        ;;
    halt | resume)
        case "${2:-}" in
            postgres | redis) "$1_$2" ;;
            *) echo "usage: tests/services.sh $1 postgres | redis" >&2; exit 2 ;;
        esac
        ;;
    stop)
        stop_postgres
        stop_redis
        ;;
    *)
        echo "usage: tests/services.sh start | env | halt SERVICE | resume SERVICE | stop" >&2
        exit 2
        ;;
esac
