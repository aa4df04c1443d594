#!/usr/bin/env bash
# Makes a data directory with the program of an earlier version, for tests/upgrade.rs: records in the log and in Parquet,
# idempotency keys, a writer's session, a pipeline of two versions and dead letters; and what that program said of all of it.
#
#   tests/data/upgrade/make.sh PROGRAM NAME       writes tests/data/upgrade/NAME.tar.gz; NAME is the commit of PROGRAM
#
# Needs the Python of `make test` (target/venv). The server that wrote it was killed, so the log has to be recovered.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$here/../../..
program=$(realpath "$1")
name=$2
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

PYTHONPATH=$root/tests/python "$root/target/venv/bin/python" -B - "$program" "$scratch" <<'PY'
import glob, json, os, signal, subprocess, sys, time, urllib.request

from stubs import Client, contract

program, scratch = sys.argv[1:]
SETTINGS = {"shards.count": 1, "wal.segment_bytes": "512KiB", "wal.quota_bytes": "16MiB", "wal.frame_bytes": "64KiB",
            "limits.message_bytes": "64KiB", "limits.record_bytes": "16KiB", "wal.segments_ahead": 1,
            # Nothing is merged or removed while it is looked at.
            "compaction.enabled": "false"}
ports = os.path.join(scratch, "ports.json")


class Server:
    def __init__(self, **more):
        settings = SETTINGS | {key.replace("__", "."): value for key, value in more.items()}
        flags = [flag for key, value in settings.items() for flag in ("--set", f"{key}={value}")]
        if os.path.exists(ports):
            os.remove(ports)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("TTDUST_")}
        self.process = subprocess.Popen(
            [program, "serve", "--bind-address", "127.0.0.1:0", "--grpc-address", "127.0.0.1:0", "--data-dir",
             os.path.join(scratch, "data"), "--port-file", ports, *flags], env=environment)
        wait_for(lambda: os.path.exists(ports))
        found = json.load(open(ports))
        self.http, self.client = found["http"], Client(found["grpc"])

    def call(self, method, path, body=None):
        request = urllib.request.Request(
            f"http://{self.http}{path}", None if body is None else json.dumps(body).encode(),
            {"content-type": "application/json"}, method=method)
        return json.load(urllib.request.urlopen(request, timeout=30))

    def append(self, stream, payloads, **more):
        payloads = [json.dumps(payload).encode() for payload in payloads]
        answers = self.client.append(
            iter([contract.AppendRequest(stream_id=stream, payloads=payloads, **more)]), timeout=30)
        return next(answers)

    def end(self, how):
        self.process.send_signal(how)
        self.process.wait(60)


def wait_for(ready):
    end = time.monotonic() + 60
    while not (found := ready()):
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)
    return found


def event(number, /, **more):
    n = number
    return {"id": f"event-{n}", "n": str(n), "at": f"2026-11-{1 + n % 28:02}T08:00:00Z", "secret": "s" * (n % 7)} | more


def keyed(server, first, last):
    answer = server.append("events", [event(n) for n in range(first, last)],
                           idempotency_keys=[f"key-{n}" for n in range(first, last)], metadata={"by": "keys"})
    assert answer.accepted == last - first, answer
    for n in range(first, last):
        expected["keys"][f"key-{n}"] = answer.first_sequence + n - first


def numbered(server, first, payloads):
    answer = server.append("events", payloads, writer_id="tower", writer_epoch=3, first_writer_sequence=first,
                           on_invalid=contract.SKIP)
    assert answer.accepted + answer.rejected == len(payloads), answer
    bad = {row.index for row in answer.row_errors}
    sequence = answer.first_sequence
    for index in range(len(payloads)):
        expected["writer"].append(None if index in bad else sequence)
        sequence += index not in bad


NEVER = {"buffer__flush_interval_ms": 3_600_000}
expected = {"settings": SETTINGS, "keys": {}, "writer": [], "records": {}}
definition = {"type": "object", "required": ["id"], "properties": {
    "id": {"type": "string"}, "n": {"type": "string"}, "at": {"type": "string"}, "secret": {"type": "string"}}}

# In the log alone: as they came, without a pipeline and with its first version.
server = Server(**NEVER)
schema = server.call("POST", "/api/v1/schemas", {
    "name": "events", "namespace": "fixture", "definition": definition, "compatibility_mode": "none"})
server.call("POST", "/api/v1/streams", {
    "name": "events", "description": "of an earlier version", "schema_id": schema["id"], "key_fields": ["id"],
    "labels": {"team": "fixture"}, "dlq": {"retention_days": 36500}})
server.call("POST", "/api/v1/streams", {"name": "plain", "schema_id": schema["id"]})
keyed(server, 0, 20)
steps = [{"type": "exclude", "fields": ["secret"]},
         {"type": "coerce", "fields": ["n"], "to": "integer", "on_error": "dlq"}]
pipeline = server.call("POST", "/api/v1/pipelines", {"stream_id": "events", "steps": steps})
keyed(server, 20, 30)
numbered(server, 0, [event(100), event(101), {"id": 7}, event(102), event(103, n="no number")])
refused = server.append("events", [event(104), {"id": 8}], on_invalid=contract.DLQ)
assert (refused.accepted, refused.dead_lettered) == (1, 1), refused
server.append("plain", [event(n) for n in range(200, 205)])
server.end(signal.SIGKILL)

# All of it goes to Parquet, and what was recovered of keys and writers to files of their own.
server = Server(buffer__flush_interval_ms=20)
flushed = lambda name, through: server.call("GET", f"/api/v1/streams/{name}")["statistics"]["flushed_through"] >= through
wait_for(lambda: flushed("events", 35) and flushed("plain", 5) and flushed("events.dlq", 2))
wait_for(lambda: glob.glob(f"{scratch}/data/wal/keys/*.keys") and glob.glob(f"{scratch}/data/wal/keys/*.writers"))
server.call("POST", f"/api/v1/schemas/{schema['id']}/versions", {
    "definition": definition | {"properties": definition["properties"] | {"later": {"type": "boolean"}}}})
server.end(signal.SIGTERM)

# And more, in the log alone, by the pipeline's second version.
server = Server(**NEVER)
server.call("PATCH", f"/api/v1/pipelines/{pipeline['id']}", {"steps": steps + [{"type": "rename", "fields": {"at": "when"}}]})
keyed(server, 30, 40)
numbered(server, 5, [event(n, later=True) for n in range(105, 110)])
server.append("plain", [event(n) for n in range(205, 208)], metadata={"by": "log"})
server.call("POST", "/api/v1/api-keys", {"role": "reader", "streams": ["events"]})

everything = "start=2020-01-01T00:00:00Z&end=2100-01-01T00:00:00Z&limit=1000"
for name in ("events", "events.dlq", "plain"):
    expected["records"][name] = server.call("GET", f"/api/v1/streams/{name}/records?{everything}")["records"]
streams = server.call("GET", "/api/v1/streams")["streams"]
# Where its rows are changes with the first flush.
expected["streams"] = [{key: value for key, value in stream.items() if key != "statistics"} for stream in streams]
expected["pipelines"] = server.call("GET", "/api/v1/pipelines")["pipelines"]
expected["schemas"] = server.call("GET", f"/api/v1/schemas/{schema['id']}/versions")["versions"]
expected["api_keys"] = [key["key_id"] for key in server.call("GET", "/api/v1/api-keys")["api_keys"]]
server.end(signal.SIGKILL)
json.dump(expected, open(os.path.join(scratch, "expected.json"), "w"), indent=1)
print({name: len(records) for name, records in expected["records"].items()})
PY

rm -rf "$scratch/data/staging"
tar --create --directory "$scratch" --owner 0 --group 0 data expected.json | gzip -9 >"$here/$name.tar.gz"
ls -l "$here/$name.tar.gz"
