"""The table of a run of run.sh: one row a runtime and batch; medians of the rounds, and from the least to the most records/s."""

import json
import statistics
import sys


def main(path):
    groups = {}
    with open(path) as lines:
        for line in lines:
            run = json.loads(line)
            groups.setdefault((run["batch"], run["runtime"]), []).append(run)
    print("| a message | connections × in flight | runtime | records/s (least to most) | p50 / p99 ms | server CPU µs/record | load busy |")
    print("|---|---|---|---|---|---|---|")
    for (batch, runtime), runs in sorted(groups.items()):
        def median(pick):
            return statistics.median(pick(run) for run in runs)

        rates = [run["records_per_second"] for run in runs]
        failed = sum(run["exit"] != 0 for run in runs)
        print(
            f"| {batch} | {runs[0]['connections']} × {runs[0]['in_flight']} | {runtime} "
            f"| {statistics.median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f}) "
            f"| {median(lambda run: run['ack_latency_us']['p50']) / 1e3:.2f} / {median(lambda run: run['ack_latency_us']['p99']) / 1e3:.2f} "
            f"| {median(lambda run: run['server_cpu_us_per_record'] or 0):.3f} "
            f"| {median(lambda run: max(thread['busy'] for thread in run['load_threads'])):.0%} |"
            + (f" {failed} of {len(runs)} runs had errors" if failed else "")
        )


main(sys.argv[1])
