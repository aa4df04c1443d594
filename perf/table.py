#!/usr/bin/env python3
"""Prints the figures of a results file (.jsonl of run-targets.sh) next to their targets, as a Markdown table."""

import json
import statistics
import sys


# Loads under which the server is killed.
DIES = ("recovery", "soak.")


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


def p99_rows(name, run, target):
    yield at_most(name, "p99 ms", run["ack_latency_us"]["p99"] / 1000, target)
    if undisturbed := run.get("undisturbed_latency_us"):
        yield at_most(name, "p99 ms, no stall of the machine in it", undisturbed["p99"] / 1000, target)


def queries(runs):
    if not (alone := runs.get("queries_alone")):
        return
    targets = {"a key that is there": (2, 10), "a key that is not": (None, 2), "1,000 rows of a time range": (5, 25)}
    for what, (p50, p99) in targets.items():
        latency = alone["queries"]["latency_us"][what]
        if p50:
            yield at_most(f"{what}", "p50 ms", latency["p50"] / 1000, p50)
        yield at_most(f"{what}", "p99 ms", latency["p99"] / 1000, p99)
        if alone["queries"].get("stalls"):
            undisturbed = alone["queries"]["undisturbed_us"][what]
            yield at_most(f"{what}", "p99 ms, no stall of the machine in it", undisturbed["p99"] / 1000, p99)
        if beside := runs.get("queries_beside"):
            ratio = beside["queries"]["latency_us"][what]["p99"] / latency["p99"]
            yield at_most(f"{what}, beside full ingest", "p99, times that alone", ratio, 4)
    if (ingest := runs.get("queries_ingest_alone")) and (beside := runs.get("queries_ingest_beside")):
        ratio = beside["ack_latency_us"]["p99"] / ingest["ack_latency_us"]["p99"]
        yield at_most("full ingest beside queries", "ack p99, times that alone", ratio, 2)


def rows(runs):
    def latency(run, point):
        return run["ack_latency_us"][point] / 1000

    if run := runs.get("append100"):
        name = "Append 100 a request, 4 × 16"
        yield at_least(name, "records/s", run["records_per_second"], 1_000_000)
        yield at_most(name, "server CPU µs/record", run["server_cpu_us_per_record"], 1.0)
        yield from p99_rows(name, run, 10)
    if run := runs.get("append100_flush"):
        name = "Append 100 a request, 4 × 16, flushing all the while"
        yield name, "records/s", f"{run['records_per_second']:,.0f}", "(no target)", True
        yield name, "server CPU µs/record", f"{run['server_cpu_us_per_record']:.3f}", "(no target)", True
    if run := runs.get("append16"):
        yield at_most("Append 16 a request, 4 × 4", "p50 ms", latency(run, "p50"), 0.6)
        yield from p99_rows("Append 16 a request, 4 × 4", run, 1.5)
    if run := runs.get("stream"):
        name = "IngestStream, 8 × 64"
        rate, cpu = run["records_per_second"], run["server_cpu_us_per_record"]
        good = rate >= 180_000 or cpu <= 3.5
        yield name, "records/s; server CPU µs/record", f"{rate:,.0f}; {cpu:.3f}", "≥ 180,000 or ≤ 3.5", good
        yield from p99_rows(name, run, 10)
    if run := runs.get("ingest"):
        yield at_most("Ingest, one at a time", "p50 ms", latency(run, "p50"), 0.5)
    if on := [latency(run, "p99") for name, run in runs.items() if name.startswith("flush_on.")]:
        off = [latency(run, "p99") for name, run in runs.items() if name.startswith("flush_off.")]
        ratio = statistics.median(on) / statistics.median(off)
        figure = f"ack p99, median of {len(on)}: {statistics.median(on):.2f} ms over {statistics.median(off):.2f} ms"
        yield at_most("flush while ingesting", figure, ratio, 2)
    if run := runs.get("memory"):
        yield at_most("full load", f"RSS MiB, most in {run['seconds']:.0f} s", run["server"]["rss_max_bytes"] / 2**20, 2048)
    yield from lasting(runs)
    yield from control_plane(runs)
    yield from tails(runs)
    yield from small_batches_over_http(runs)
    yield from scrapes(runs)
    yield from queries(runs)
    yield from hostile(runs)
    if run := runs.get("recovery"):
        load = runs["recovery_load"]
        # Payload bytes only: what is read is more, so the true speed is higher.
        mib = load["acked"] * load["payload_bytes"] / 2**20
        seconds = run["ready_ms"] / 1000
        yield at_least("recovery after kill -9", f"MiB/s ({mib:.0f} MiB of payload)", mib / max(seconds, 1e-3), 200)
        yield at_most("recovery after kill -9", "ready after s", seconds, 30)
        found = "all" if run["verify_exit"] == 0 else "NOT ALL"
        yield "recovery after kill -9", "acked records read back", found, "all", run["verify_exit"] == 0


def small_batches_over_http(runs):
    if https := [run["http"] for name, run in runs.items() if name.startswith("http_alone.")]:
        for figure, key in [("p99 ms", "latency_us"), ("p99 ms, no stall of the machine in it", "undisturbed_us")]:
            p99 = statistics.median(run[key]["records over HTTP"]["p99"] / 1000 for run in https)
            yield at_most(f"{https[0]['batch']} records a call over HTTP", f"{figure}, median of {len(https)}", p99, 5)


def scrapes(runs):
    def median(of, key):
        return statistics.median(run["calls"][key]["p99"] / 1000 for run in of)

    for title, prefix in [("a scrape of /metrics", "scrape_alone"), ("the same beside a steady load", "scrape_on.")]:
        if scraped := [run for name, run in runs.items() if name.startswith(prefix)]:
            yield at_most(title, f"p99 ms, median of {len(scraped)}", median(scraped, "reads_us"), 5)
            if all(run["calls"]["undisturbed_reads_us"] for run in scraped):
                yield at_most(title, "p99 ms, no stall of the machine in it", median(scraped, "undisturbed_reads_us"), 5)
    for figure, key in [("ack p99", "ack_latency_us"), ("ack p99, no stall of the machine in it", "undisturbed_latency_us")]:
        off, on = (
            [run[key]["p99"] / 1000 for name, run in runs.items() if name.startswith(f"scrape_{kind}.") and run.get(key)]
            for kind in ("off", "beside")
        )
        if off and on:
            off, on = statistics.median(off), statistics.median(on)
            yield at_most("a steady load beside scrapes", f"{figure} over that without ({on:.2f} / {off:.2f} ms)", on / off, 1.2)


def lasting(runs):
    def rate(run):
        return run["records_per_second"]

    if run := runs.get("sustained"):
        name = f"full load, flushes and merges, {run['seconds']:.0f} s"
        yield at_least(name, "records/s", rate(run), 400_000)
        yield at_most(name, "most RSS MiB", run["server"]["rss_max_bytes"] / 2**20, 2048)
        rss = [sample[0] / 2**20 for sample in runs["sustained.samples"]["samples"]]
        third = len(rss) // 3
        middle, last = statistics.median(rss[third : 2 * third]), statistics.median(rss[2 * third :])
        yield at_most(name, f"RSS of the last third over the middle one ({middle:.0f} → {last:.0f} MiB)", last / middle, 1.05)
    if count := runs.get("keys.count"):
        name = f"{count['keys']:,} idempotency keys"
        memory = [runs[f"keys_fill.{kind}"]["server"]["rss_after_bytes"] / 2**20 for kind in ("without", "with")]
        yield at_most(name, f"MiB more than without ({memory[0]:.0f} → {memory[1]:.0f})", memory[1] - memory[0], 1229)
        off, on = (
            statistics.median(rate(run) for name, run in runs.items() if name.startswith(f"keys_{kind}."))
            for kind in ("without", "with")
        )
        yield at_most(name, f"% of records/s lost ({off:,.0f} → {on:,.0f})", (1 - on / off) * 100, 15)


def control_plane(runs):
    def of(prefix, value):
        return [value(run) for name, run in runs.items() if name.startswith(prefix + ".")]

    def p99(run):
        return run["ack_latency_us"]["p99"] / 1000

    for name, store, limit in [("admin", "SQLite", 5), ("admin_postgres", "Postgres", 15)]:
        if not (reads := of(name + "_calls", lambda run: run["calls"]["reads_us"]["p99"] / 1000)):
            continue
        title = f"100 admin calls/s under full load, {store}"
        figure = f"p99 ms of reads, median of {len(reads)} (worst {max(reads):.2f})"
        yield at_most(title, figure, statistics.median(reads), limit)
        if calm := of(name + "_calls", lambda run: (run["calls"].get("undisturbed_reads_us") or {"p99": 0})["p99"] / 1000):
            if any(calm):
                figure = f"the same, no stall of the machine in it (worst {max(calm):.2f})"
                yield at_most(title, figure, statistics.median(calm), limit)
        for figure, key, sign in [("records/s lost", "records_per_second", -1), ("CPU/record more", "server_cpu_us_per_record", 1)]:
            alone, beside = (statistics.median(of(f"{name}_{kind}", lambda run: run[key])) for kind in ("alone", "beside"))
            shown = f"{alone:,.2f} → {beside:,.2f}"
            change = sign * (beside / alone - 1) * 100
            if key == "records_per_second":
                yield at_most(title, f"% of {figure} ({shown})", change, 2)
            else:
                yield title, f"% of {figure} ({shown})", f"{change:.1f}", "(no target)", True
    for name, store in [("many", "SQLite"), ("many_postgres", "Postgres")]:
        title = f"10,000 streams of 1,000 schemas, {store}"
        if run := runs.get(name + ".creates"):
            created = run["calls"]["latency_us"]["create a stream"]
            yield at_most(title, f"creation on all shards, p99 ms (p50 {created['p50'] / 1000:.1f})", created["p99"] / 1000, 50)
        if run := runs.get(name + ".start"):
            yield at_most(title, "start s", run["ready_ms"] / 1000, 5)
        if run := runs.get(name + ".reads"):
            yield title, "p99 ms of reads", f"{run['calls']['reads_us']['p99'] / 1000:.1f}", "(no target)", True
    for service in ["postgres", "redis"]:
        if during := of(f"outage_{service}_during", p99):
            before = of(f"outage_{service}_before", p99)
            figure = "ack p99 over that before: " + ", ".join(f"{a:.2f}/{b:.2f} ms" for a, b in zip(during, before))
            yield at_most(f"{service} stopped for a minute", figure, statistics.mean(during) / statistics.mean(before), 1.2)
    if of("auth_on", p99):
        for figure, key, sign in [("records/s lost", "records_per_second", -1), ("CPU/record more", "server_cpu_us_per_record", 1)]:
            off, on = (statistics.median(of(f"auth_{kind}", lambda run: run[key])) for kind in ("off", "on"))
            yield at_most("keys and rate limits", f"% of {figure} ({off:,.2f} → {on:,.2f})", sign * (on / off - 1) * 100, 3)


def tails(runs):
    for name, run in runs.items():
        if name.startswith("tail_live."):
            tail = run["tail"]
            title, latency = f"{tail['readers']} readers of a stream", tail["latency_us"]
            figure = f"after ack, p50 ms (p99 {latency['p99'] / 1000:.2f})"
            if tail["readers"] < 1000:
                yield at_most(title, figure, latency["p50"] / 1000, 2)
            else:
                # So many readers are the generator's own limit: that each gets each record is the target.
                sent, whole = tail["records"] * tail["readers"], tail["delivered"]
                shown = f"{whole:,} ({figure} {latency['p50'] / 1000:.2f})"
                yield title, "records delivered", shown, f"{sent:,}", whole == sent and not tail["problems"]
        if name.startswith("tail_replay."):
            source = {"log": "the log", "files": "files"}[name.split(".")[1]]
            yield at_least(f"one reader replays {source}", "records/s", run["tail"]["records_per_second"], 500_000)


def hostile(runs):
    for name, beside in runs.items():
        if not name.startswith("floods_beside."):
            continue
        kind = name.split(".")[1]
        alone, flood = runs[f"floods_alone.{kind}"], runs[f"floods_flood.{kind}"]
        title = f"honest load beside a flood: {kind}"
        for key, more in [("ack_latency_us", ""), ("undisturbed_latency_us", ", no stall of the machine in it")]:
            if alone.get(key) and beside.get(key):
                was, now = alone[key]["p99"] / 1000, beside[key]["p99"] / 1000
                yield at_most(title, f"ack p99, times that alone{more} ({was:.2f} → {now:.2f} ms)", now / was, 2)
        grown = (beside["server"]["rss_max_bytes"] - flood["rss_before_bytes"]) / 2**20
        yield at_most(title, "MiB more", grown, 256)
        told = flood["flood"]
        closed = told["calmed"] + told["other_goodbyes"] + told["cut"]
        shown = f"{closed:,} of {told['opened']:,} connections"
        # A reader that takes nothing does not hear of it.
        if kind != "slow-reader":
            yield title, "closed by the server", shown, "some", closed > 0
    if run := runs.get("overload"):
        end, verified = runs["overload.end"], runs["overload.verify"]
        title = f"{end['times']} times what it can take, for {run['seconds']:.0f} s"
        yield title, "records/s offered; taken", f"{end['offered_per_second']:,}; {run['records_per_second']:,.0f}", "(no target)", True
        yield title, "kills for want of memory", str(end["oom_kills"]), "0", end["oom_kills"] == 0 and not end["server_is_dead"]
        yield at_most(title, "most RSS MiB", run["server"]["rss_max_bytes"] / 2**20, 4096)
        for key, more in [("verify_exit", ""), ("verify_after_kill_exit", ", after a kill -9")]:
            good = verified[key] == 0
            yield title, "acked records read back" + more, "all" if good else "NOT ALL", "all", good
    if run := runs.get("soak.samples"):
        yield from soak(run)


def soak(run):
    last = run["samples"][-1][0] if run["samples"] else 0
    title = f"steady load with {run['lives']} kills, {last} s"
    yield title, "lives after which acked records were missing", str(run["lives_with_losses"]), "0", run["lives_with_losses"] == 0
    # The first seconds of a life are not like the rest.
    aged = [sample for sample in run["samples"] if sample[1] >= 30]
    third = len(aged) // 3
    if third < 3:
        yield title, "growth", "too short to tell", "none", False
        return
    # What may differ without growth: a few descriptors, a flush more or less.
    slack = {"rss_bytes": 64 << 20, "descriptors": 32, "threads": 4, "wal_used_bytes": 512 << 20}
    for at, name in enumerate(run["of"]):
        if name in slack:
            middle, end = (statistics.median(sample[at] for sample in part) for part in (aged[third : 2 * third], aged[2 * third :]))
            figure = f"{name}, the last third against the middle one"
            yield title, figure, f"{middle:,.0f} → {end:,.0f}", f"≤ 1.05 × + {slack[name]:,}", end <= middle * 1.05 + slack[name]


def at_least(scenario, figure, value, target):
    return scenario, figure, f"{value:,.0f}", f"≥ {target:,}", value >= target


def at_most(scenario, figure, value, target):
    shown = f"{value:,.0f}" if target >= 100 else f"{value:.3f}"
    return scenario, figure, shown, f"≤ {target:,}", value <= target


def problems(run):
    if run.get("interrupted") and not run["scenario"].startswith(DIES):
        yield "ended before its time"
    if not run["scenario"].startswith(DIES):
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
