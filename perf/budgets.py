#!/usr/bin/env python3
"""Compares counted instructions with the budgets in a TOML file, or writes them as such.

    budgets.py [--update] --compiler TEXT BUDGETS COUNTED

COUNTED has lines of a part's name and its instructions a record.
"""

import argparse
import datetime
import pathlib
import sys
import tomllib

TOLERANCE = 5.0
# Another compiler than the budgets' makes other instructions of the same work.
TOLERANCE_OF_OTHERS = 25.0
HEAD = """\
# Instructions that a record costs, by part: perf/instructions.sh counts them and `perf/instructions.sh --update` writes this.
# A part that costs over 5% more fails the check. Another compiler may count otherwise without anything having become slower.
"""


def verdict(budget, counted, tolerance=TOLERANCE):
    """What is to be said of a part, and whether it is within its budget.

    >>> verdict(1000, 1050)
    ('+5.0%', True)
    >>> verdict(1000, 1051)
    ('+5.1%: over its budget', False)
    >>> verdict(1000, 950)
    ('-5.0%', True)
    >>> verdict(1000, 940)
    ('-6.0%: tighten its budget with --update', True)
    >>> verdict(1000, 1051, TOLERANCE_OF_OTHERS)
    ('+5.1%', True)
    >>> verdict(None, 10)
    ('no budget yet: record one with --update', False)
    """
    if budget is None:
        return "no budget yet: record one with --update", False
    percent = (counted - budget) * 100 / budget
    told = f"{percent:+.1f}%"
    if percent > tolerance:
        return told + ": over its budget", False
    if percent < -tolerance:
        return told + ": tighten its budget with --update", True
    return told, True


def read_counted(text):
    """
    >>> read_counted("wal 12\\ntape 7\\n")
    {'wal': 12, 'tape': 7}
    """
    return {name: int(number) for name, number in (line.split() for line in text.splitlines())}


def written(compiler, date, counted):
    r"""
    >>> print(written('rustc "1"', '2026-11-30', {'wal': 12}).removeprefix(HEAD), end='')
    date = "2026-11-30"
    compiler = "rustc 1"
    <BLANKLINE>
    [instructions_per_record]
    wal = 12
    """
    lines = [f'date = "{date}"', f'compiler = "{compiler.replace(chr(34), "")}"', "", "[instructions_per_record]"]
    return HEAD + "\n".join(lines + [f"{name} = {number}" for name, number in counted.items()]) + "\n"


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--update", action="store_true")
    arguments.add_argument("--compiler", required=True)
    arguments.add_argument("budgets", type=pathlib.Path)
    arguments.add_argument("counted", type=pathlib.Path)
    given = arguments.parse_args()
    counted = read_counted(given.counted.read_text())
    recorded = tomllib.loads(given.budgets.read_text()) if given.budgets.exists() else {}
    budgets = recorded.get("instructions_per_record", {})
    if given.update:
        today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
        given.budgets.write_text(written(given.compiler, today, budgets | counted))
    good = True
    is_other = recorded.get("compiler", given.compiler) != given.compiler and not given.update
    if is_other:
        print(f"the budgets are of {recorded['compiler']}, this is {given.compiler}: within {TOLERANCE_OF_OTHERS:.0f}% of them is good")
    print(f"{'part':18} {'instructions/record':>19} {'budget':>8}")
    for name, number in counted.items():
        told, within = verdict(budgets.get(name), number, TOLERANCE_OF_OTHERS if is_other else TOLERANCE)
        print(f"{name:18} {number:>19,} {budgets.get(name, 0):>8,}  {told}")
        good &= within
    if given.update:
        print(f"{given.budgets} is written")
    elif not good:
        print("make it cheaper, or say in the change why it costs more and record it: perf/instructions.sh --update")
    sys.exit(0 if good or given.update else 1)


if __name__ == "__main__":
    main()
