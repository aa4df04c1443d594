"""Writes the dashboards beside it, from the lists of panels below: `python3 deploy/grafana/dashboards.py [FOLDER]`.

`$instance` is the server, `$__rate_interval` what Grafana thinks right for a rate. A panel is a title, its unit, what it tells,
and its expressions with their legends.
"""

import json
import pathlib
import sys

COLUMNS, HEIGHT = 3, 8


def total(metric, by="instance", **matchers):
    """Events a second."""
    return f"sum by ({by}) (rate({series(metric, **matchers)}[$__rate_interval]))"


def series(metric, **matchers):
    wanted = [*(f'{label}="{value}"' for label, value in matchers.items()), 'instance=~"$instance"']
    return f"{metric}{{{', '.join(wanted)}}}"


def now(metric, by="instance", **matchers):
    return f"sum by ({by}) ({series(metric, **matchers)})"


def quantiles(metric, by=""):
    """The median, and what one in a hundred and one in a thousand exceed."""
    grouped = ", ".join(filter(None, ["le", by]))
    legend = f" {{{{{by}}}}}" if by else ""
    rate = f"sum by ({grouped}) (rate({series(metric + '_bucket')}[$__rate_interval]))"
    return [(f"p{text}{legend}", f"histogram_quantile({q}, {rate})") for q, text in ((0.5, "50"), (0.99, "99"), (0.999, "99.9"))]


def ratio(part, whole):
    return f"{part} / {whole}"


DASHBOARDS = {
    "ingest": [
        ("Records", "ops", "Records that came in, and what became of them.", [
            ("received", total("ttdust_ingestion_records_received_total")),
            ("on stable storage", total("ttdust_ingestion_records_accepted_total")),
            ("duplicates", total("ttdust_ingestion_records_duplicate_total")),
            ("not over gRPC: {{source}} {{outcome}}", total("ttdust_producer_records_total", "source, outcome")),
        ]),
        ("Acks", "s", "From the last byte of a request to its answer.", quantiles("ttdust_ingestion_ack_latency_seconds")),
        ("Bytes", "Bps", "Payloads that came in, and what the log took.", [
            ("payloads", total("ttdust_ingestion_bytes_total")),
            ("log", total("ttdust_wal_bytes_total")),
        ]),
        ("Answers", "reqps", "Requests answered, by status.", [
            ("{{status}}", total("ttdust_ingestion_requests_total", "status")),
        ]),
        ("Refused", "ops", "Records that do not fit their schema; requests refused for now.", [
            ("invalid", total("ttdust_ingestion_validation_errors_total")),
            ("backpressure", total("ttdust_ingestion_backpressure_total")),
            ("rate limit: {{category}}", total("ttdust_rate_limit_hits_total", "category")),
        ]),
        ("Connections", "short", "Open ones, and those refused a second.", [
            ("gRPC", now("ttdust_grpc_connections_active")),
            ("REST", now("ttdust_http_connections_active")),
            ("gRPC refused", total("ttdust_grpc_connections_refused_total")),
            ("REST refused", total("ttdust_http_connections_refused_total")),
        ]),
        ("Pipelines", "ops", "Records on their way into files, those left out, those nothing could be made of, and dead letters.", [
            ("seen", total("ttdust_processing_records_total")),
            ("left out", total("ttdust_processing_dropped_total")),
            ("failed", total("ttdust_processing_errors_total")),
            ("dead letters", total("ttdust_processing_dlq_records_total")),
        ]),
        ("TLS handshakes", "ops", "By port and outcome.", [
            ("{{port}} {{outcome}}", total("ttdust_tls_handshakes_total", "port, outcome")),
        ]),
        ("Credentials", "ops", "REST calls let in and refused.", [
            ("{{result}}", total("ttdust_auth_attempts_total", "result")),
        ]),
    ],
    "shards": [
        ("Busy", "percentunit", "CPU time of each shard's thread; at 1 its core is full.", [
            ("shard {{shard}}", series("ttdust_shard_busy_ratio")),
        ]),
        ("Records", "ops", "On stable storage, by home shard.", [
            ("shard {{shard}}", total("ttdust_ingestion_records_accepted_total", "shard")),
        ]),
        ("Queue", "short", "Messages that wait in a shard's queue.", [
            ("shard {{shard}}", series("ttdust_shard_queue_depth")),
        ]),
        ("Durable writes", "s", "One write to the log, synced.", quantiles("ttdust_wal_flush_latency_seconds")),
        ("Records a write", "short", "How many records share a write to the log.", [
            ("shard {{shard}}", ratio(total("ttdust_ingestion_records_accepted_total", "shard"), total("ttdust_wal_writes_total", "shard"))),
        ]),
        ("Memory", "bytes", "Rows and what waits for readers, by shard; keys; the whole process.", [
            ("shard {{shard}} {{pool}}", series("ttdust_shard_memory_bytes")),
            ("keys", now("ttdust_dedup_table_bytes")),
            ("filters of keys", now("ttdust_dedup_filter_bytes")),
            ("process", series("process_resident_memory_bytes")),
        ]),
        ("Process", "short", "Cores used, and open descriptors.", [
            ("cores", total("process_cpu_seconds_total")),
            ("descriptors", series("process_open_fds")),
        ]),
        ("Idempotency keys", "short", "Remembered in memory and in files.", [
            ("memory", now("ttdust_dedup_keys_in_memory")),
            ("files", now("ttdust_dedup_keys_in_files")),
        ]),
        ("I/O backend", "short", "uring, or epoll and why.", [
            ("{{kind}}: {{reason}}", series("ttdust_io_backend")),
        ]),
    ],
    "storage": [
        ("Log", "bytes", "In use: what is in no committed file yet. Records are refused at 85% of wal.quota_bytes.", [
            ("all shards", now("ttdust_wal_used_bytes")),
            ("quota", now("ttdust_wal_quota_bytes")),
            ("shard {{shard}}", series("ttdust_wal_used_bytes")),
        ]),
        ("Rows that wait", "short", "Rows in no committed file.", [
            ("rows", now("ttdust_ingestion_buffer_records")),
        ]),
        ("Flushes", "s", "Writing the files of one flush.", quantiles("ttdust_storage_flush_duration_seconds")),
        ("Files", "ops", "Committed, merged, past their retention, removed, given up.", [
            ("committed", total("ttdust_storage_files_total")),
            ("merged", total("ttdust_compaction_files_total")),
            ("dropped", total("ttdust_storage_dropped_files_total")),
            ("removed", total("ttdust_storage_removed_objects_total")),
            ("orphans", total("ttdust_storage_orphans_total")),
        ]),
        ("Bytes of files", "Bps", "Committed, merged, dropped.", [
            ("committed", total("ttdust_storage_bytes_total")),
            ("merged, {{direction}}", total("ttdust_compaction_bytes_total", "direction")),
            ("dropped", total("ttdust_storage_dropped_bytes_total")),
        ]),
        ("Failures", "ops", "Flushes and commits tried again, and passes of the upkeep cut short.", [
            ("flushes", total("ttdust_storage_flush_failures_total")),
            ("commits", total("ttdust_storage_commit_retries_total")),
            ("upkeep: {{task}}", total("ttdust_upkeep_failures_total", "task")),
        ]),
        ("S3 requests", "reqps", "By operation and outcome; each try counts.", [
            ("{{operation}} {{outcome}}", total("ttdust_s3_operations_total", "operation, outcome")),
            ("breaker open", series("ttdust_s3_breaker_open")),
        ]),
        ("S3 latency", "s", "One request.", quantiles("ttdust_s3_latency_seconds", "operation")),
        ("Catalog latency", "s", "One call to Postgres.", quantiles("ttdust_pg_query_latency_seconds")),
        ("Merges", "ops", "By outcome.", [
            ("{{outcome}}", total("ttdust_compaction_runs_total", "outcome")),
        ]),
        ("Log archive", "short", "Segments that wait to be copied, and those copied a second.", [
            ("waiting", series("ttdust_wal_archive_backlog")),
            ("copied", total("ttdust_wal_archived_segments_total")),
        ]),
        ("Segments of the log", "short", "In use.", [
            ("shard {{shard}}", series("ttdust_wal_segments_active")),
        ]),
    ],
    "queries": [
        ("Queries", "reqps", "Time ranges and lookups, by how they ended.", [
            ("{{status}}", total("ttdust_query_requests_total", "status")),
        ]),
        ("Latency", "s", "From arrival to answer.", quantiles("ttdust_query_latency_seconds")),
        ("On a worker", "s", "The part of it that a worker took.", quantiles("ttdust_query_execution_duration_seconds")),
        ("Caches", "percentunit", "Parts of files that were in a cache, of those asked for.", [
            ("{{cache_level}}", ratio(
                total("ttdust_query_cache_hits_total", "cache_level"),
                f"({total('ttdust_query_cache_hits_total', 'cache_level')} + {total('ttdust_query_cache_misses_total', 'cache_level')})",
            )),
        ]),
        ("Records an answer", "short", "On average.", [
            ("records", ratio(total("ttdust_query_records_returned_sum"), total("ttdust_query_records_returned_count"))),
            ("hours looked into", ratio(total("ttdust_query_partitions_scanned_sum"), total("ttdust_query_partitions_scanned_count"))),
        ]),
        ("Redis latency", "s", "An answer of Redis, or its time limit.", quantiles("ttdust_redis_latency_seconds")),
        ("Tails", "short", "Being read.", [
            ("tails", now("ttdust_tail_active")),
        ]),
        ("Records to tails", "ops", "Sent, and how often readers fell behind or were ended.", [
            ("records", total("ttdust_tail_records_total")),
            ("fell behind", total("ttdust_tail_fallbacks_total")),
            ("ended", total("ttdust_tail_stalled_total")),
        ]),
        ("Delivery", "s", "From a record's sync to the socket of a live tail.", quantiles("ttdust_tail_delivery_latency_seconds")),
        ("REST", "reqps", "Requests answered, by route and status.", [
            ("{{method}} {{route}} {{status}}", total("ttdust_cp_requests_total", "method, route, status")),
        ]),
    ],
}


def panel(at, title, unit, description, expressions):
    width = 24 // COLUMNS
    return {
        "id": at + 1,
        "type": "timeseries",
        "title": title,
        "description": description,
        "datasource": {"type": "prometheus", "uid": "prometheus"},
        "gridPos": {"x": at % COLUMNS * width, "y": at // COLUMNS * HEIGHT, "w": width, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0, "custom": {"fillOpacity": 8, "showPoints": "never"}}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}},
        "targets": [
            {"refId": chr(ord("A") + number), "expr": expression, "legendFormat": legend}
            for number, (legend, expression) in enumerate(expressions)
        ],
    }


def dashboard(name, panels):
    instance = {
        "name": "instance",
        "label": "Server",
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "prometheus"},
        "query": {"query": "label_values(ttdust_build_info, instance)", "refId": "instance"},
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }
    return {
        "uid": f"ttdust-{name}",
        "title": f"TTDust: {name}",
        "tags": ["ttdust"],
        "schemaVersion": 39,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "utc",
        "templating": {"list": [instance]},
        "links": [{"title": "TTDust", "type": "dashboards", "tags": ["ttdust"], "asDropdown": True, "keepTime": True, "includeVars": True}],
        "panels": [panel(at, *parts) for at, parts in enumerate(panels)],
    }


if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).with_name("dashboards")
    for file_name, its_panels in DASHBOARDS.items():
        text = json.dumps(dashboard(file_name, its_panels), indent=1)
        (folder / f"{file_name}.json").write_text(text + "\n", encoding="ascii")
