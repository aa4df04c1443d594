"""The table of a run of run.sh: one row a server and shape; medians of the rounds, and from the least to the most records/s.

`table.py --line FILE` prints the last run alone, for those who wait.
"""

import json
import statistics
import sys

HEADS = [
    "a request", "server", "connections × in flight", "records/s (least to most)", "p50 / p99 ms", "server CPU µs/record",
    "load busy", "an ack means", "checks the content",
]  # fmt: skip


def shape(run):
    return f"{run['batch']}, opaque" if run.get("opaque") else str(run["batch"])


def read(path):
    with open(path) as lines:
        return [json.loads(line) for line in lines]


def complaint(run):
    """What was wrong with a run, or nothing."""
    if not run["exit"]:
        return ""
    first = (run.get("failures") or [*(kind for kind in run.get("errors", {})), "see the raw report"])[0]
    return f"exit {run['exit']}: {first}"


def cells(runs):
    def median(pick):
        return statistics.median(pick(run) for run in runs)

    rates = [run["records_per_second"] for run in runs]
    cpu = [run["server_cpu_us_per_record"] for run in runs if run["server_cpu_us_per_record"] is not None]
    first = runs[0]
    return [
        shape(first),
        first["row"],
        f"{first['connections']} × {first['in_flight']}",
        f"{statistics.median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})",
        f"{median(lambda run: run['ack_latency_us']['p50']) / 1e3:.2f} / {median(lambda run: run['ack_latency_us']['p99']) / 1e3:.2f}",
        f"{statistics.median(cpu):.2f}" if cpu else "",
        f"{median(lambda run: max((thread['busy'] for thread in run['load_threads']), default=0)):.0%}",
        first["durability"],
        first["checks"],
    ]


def table(runs):
    groups = {}
    for run in runs:
        groups.setdefault((run["batch"], bool(run.get("opaque")), run["row"]), []).append(run)

    def place(group):
        (batch, opaque, _), members = group
        return -batch, opaque, -statistics.median(run["records_per_second"] for run in members)

    ordered = sorted(groups.items(), key=place)
    lines = ["| " + " | ".join(HEADS) + " |", "|" + "---|" * len(HEADS)]
    lines += ["| " + " | ".join(cells(members)) + " |" for _, members in ordered]
    wrong = [f"{run['row']}, {shape(run)}, round {run['round']}: {complaint(run)}" for run in runs if complaint(run)]
    return "\n".join(lines + ([""] + wrong if wrong else []))


def line(run):
    told = f"round {run['round']}: {shape(run)} a request, {run['row']}: {run['records_per_second']:,.0f} records/s"
    return f"{told} {complaint(run)}".rstrip()


if __name__ == "__main__":
    if sys.argv[1] == "--line":
        print(line(read(sys.argv[2])[-1]))
    else:
        print(table(read(sys.argv[1])))
