#!/usr/bin/env python3
"""Prints the figures of a results file (.jsonl of run-targets.sh) next to their targets, as a Markdown table."""

import json
import statistics
import sys


def main(path):
    runs = {}
    with open(path) as lines:
        for line in lines:
            run = json.loads(line)
            runs[run["scenario"]] = run
    print("\n| scenario | figure | measured | target | |")
    print("|---|---|---|---|---|")
    for scenario, figure, measured, target, good in rows(runs):
        print(f"| {scenario} | {figure} | {measured} | {target} | {'ok' if good else 'MISSED'} |")
    for name, run in runs.items():
        for problem in problems(run):
            print(f"\n{name}: {problem}", end="")
    print()


def rows(runs):
    def latency(run, point):
        return run["ack_latency_us"][point] / 1000

    if run := runs.get("append100"):
        name = "Append 100 a request, 4 × 16"
        yield at_least(name, "records/s", run["records_per_second"], 1_000_000)
        yield at_most(name, "server CPU µs/record", run["server_cpu_us_per_record"], 1.0)
        yield at_most(name, "p99 ms", latency(run, "p99"), 10)
    if run := runs.get("append100_flush"):
        name = "Append 100 a request, 4 × 16, flushing all the while"
        yield name, "records/s", f"{run['records_per_second']:,.0f}", "(no target)", True
        yield name, "server CPU µs/record", f"{run['server_cpu_us_per_record']:.3f}", "(no target)", True
    if run := runs.get("append16"):
        yield at_most("Append 16 a request, 4 × 4", "p50 ms", latency(run, "p50"), 0.6)
        yield at_most("Append 16 a request, 4 × 4", "p99 ms", latency(run, "p99"), 1.5)
    if run := runs.get("stream"):
        name = "IngestStream, 8 × 64"
        rate, cpu = run["records_per_second"], run["server_cpu_us_per_record"]
        good = rate >= 180_000 or cpu <= 3.5
        yield name, "records/s; server CPU µs/record", f"{rate:,.0f}; {cpu:.3f}", "≥ 180,000 or ≤ 3.5", good
        yield at_most(name, "p99 ms", latency(run, "p99"), 10)
    if run := runs.get("ingest"):
        yield at_most("Ingest, one at a time", "p50 ms", latency(run, "p50"), 0.5)
    if on := [latency(run, "p99") for name, run in runs.items() if name.startswith("flush_on.")]:
        off = [latency(run, "p99") for name, run in runs.items() if name.startswith("flush_off.")]
        ratio = statistics.median(on) / statistics.median(off)
        figure = f"ack p99, median of {len(on)}: {statistics.median(on):.2f} ms over {statistics.median(off):.2f} ms"
        yield at_most("flush while ingesting", figure, ratio, 2)
    if run := runs.get("memory"):
        yield at_most("full load", f"RSS MiB, most in {run['seconds']:.0f} s", run["server"]["rss_max_bytes"] / 2**20, 2048)
    if run := runs.get("recovery"):
        load = runs["recovery_load"]
        # Payload bytes only: what is read is more, so the true speed is higher.
        mib = load["acked"] * load["payload_bytes"] / 2**20
        seconds = run["ready_ms"] / 1000
        yield at_least("recovery after kill -9", f"MiB/s ({mib:.0f} MiB of payload)", mib / max(seconds, 1e-3), 200)
        yield at_most("recovery after kill -9", "ready after s", seconds, 30)
        found = "all" if run["verify_exit"] == 0 else "NOT ALL"
        yield "recovery after kill -9", "acked records read back", found, "all", run["verify_exit"] == 0


def at_least(scenario, figure, value, target):
    return scenario, figure, f"{value:,.0f}", f"≥ {target:,}", value >= target


def at_most(scenario, figure, value, target):
    shown = f"{value:,.0f}" if target >= 100 else f"{value:.3f}"
    return scenario, figure, shown, f"≤ {target:,}", value <= target


def problems(run):
    if run.get("interrupted") and not run["scenario"].startswith("recovery"):
        yield "ended before its time"
    if not run["scenario"].startswith("recovery"):
        for kind, error in run.get("errors", {}).items():
            yield f"{error['count']} × {kind}: {error['first']}"
    if run.get("rate_limited"):
        yield f"{run['rate_limited']} requests were refused for now"
    if run.get("violations"):
        yield f"{run['violations']} answers break the contract"
    if run.get("unsent"):
        yield f"{run['unsent']} requests were due and never sent"
    if run.get("rate") is None and any(thread["busy"] >= 0.9 for thread in run.get("load_threads", [])):
        yield "the load core is saturated: the server may be able to do more"


if __name__ == "__main__":
    main(sys.argv[1])
