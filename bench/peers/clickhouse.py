"""Inserts clicks into ClickHouse in this process (chdb), each insert synced, and prints a report as `peer-load` does.

    clickhouse.py FOLDER BATCH WARMUP-SECONDS SECONDS
"""

import json
import resource
import sys
import time

from chdb import session

# The click of bench/src/clicks.rs.
CLICK = (
    '{{"event_id":"018f4e3c-5b7a-7c21-9d3e-{:012x}","timestamp":"2024-05-06T07:{:02}:{:02}.{:03}Z","event_type":"click",'
    '"user_id":"u_{:08}","session_id":"s_{:016x}","url":"/products/{:04}?color=green","referrer":null,"duration_ms":{},'
    '"device":{{"type":"mobile","os":"Android 14","screen_width":1080}},"score":0.{:04}}}'
)
TABLE = """
CREATE TABLE peers.events (
    event_id UUID, timestamp DateTime64(3), event_type LowCardinality(String), user_id String, session_id String, url String,
    referrer Nullable(String), duration_ms UInt32, device Tuple(type String, os String, screen_width UInt32), score Float64
) ENGINE = MergeTree ORDER BY timestamp
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, parts_to_throw_insert = 1000000, parts_to_delay_insert = 1000000,
    max_parts_in_total = 10000000
"""


def click(number):
    mixed = number * 0x9E3779B97F4A7C15 % (1 << 64)
    return CLICK.format(
        mixed & 0xFFFFFFFFFFFF, mixed % 60, mixed // 60 % 60, mixed % 1000, mixed % 100_000_000, mixed, mixed % 10_000,
        1000 + mixed % 9000, mixed % 10_000,
    )  # fmt: skip


def cpu():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def at(latencies, share):
    return latencies[min(len(latencies) - 1, int(len(latencies) * share))] * 1e6


def main(folder, batch, warmup, seconds):
    records = [click(number) for number in range(20_000)]
    rows = ["\n".join(records[first : first + batch]) for first in range(0, len(records) - batch + 1, batch)]
    database = session.Session(folder)
    database.query("CREATE DATABASE peers ENGINE = Atomic")
    database.query(TABLE)
    settings = "SET date_time_input_format = 'best_effort', async_insert = 0"
    database.query(settings)
    began = time.monotonic()
    window = used = None
    latencies, inserts = [], 0
    while True:
        now = time.monotonic()
        if window is None and now >= began + warmup:
            window, used = now, cpu()
        if window is not None and now >= window + seconds:
            break
        database.query("INSERT INTO peers.events FORMAT JSONEachRow " + rows[inserts % len(rows)])
        inserts += 1
        if window is not None:
            latencies.append(time.monotonic() - now)
    length, used = now - window, cpu() - used
    stored = int(database.query("SELECT count() FROM peers.events", "CSV").bytes().decode())
    latencies.sort()
    measured = len(latencies) * batch
    failures = [] if stored == inserts * batch else [f"{inserts * batch} inserted, {stored} there"]
    report = {
        "peer": "clickhouse", "connections": 1, "in_flight": 1, "batch": batch, "opaque": False, "seconds": length,
        "payload_bytes": sum(map(len, records)) / len(records), "records_per_second": measured / length,
        "requests_per_second": len(latencies) / length,
        "ack_latency_us": {
            "count": len(latencies), "p50": at(latencies, 0.5), "p99": at(latencies, 0.99), "p999": at(latencies, 0.999),
            "max": latencies[-1] * 1e6,
        },
        "server_cpu_us_per_record": used * 1e6 / measured, "server_busy": used / length, "load_threads": [],
        "acked": inserts * batch, "acked_messages": inserts * batch, "unanswered": 0, "stored_messages": stored,
        "failures": failures,
    }  # fmt: skip
    print(json.dumps(report))
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])))
