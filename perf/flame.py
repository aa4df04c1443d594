#!/usr/bin/env python3
"""Draws what `perf script --fields comm,period,ip,sym` prints as a flame graph, an SVG without scripts.

    perf script ... | flame.py [--title TEXT] [--thread PREFIX] [--folded] >out.svg

The width of a frame is its share of the samples, the frames that it called stand on it. --folded prints a line a stack instead.
"""

import argparse
import collections
import html
import re
import sys

WIDTH, ROW, LEFT = 1400, 17, 10
# A frame that is narrower cannot be seen.
NARROWEST = 0.3
CHARACTER = 6.6
HASH = re.compile(r"::h[0-9a-f]{16}$")


def stacks(lines, thread=""):
    """Samples by stack, outermost frame first.

    >>> text = '''shard-0 250000:
    ...     7f01 ttdust::leaf::h0123456789abcdef
    ...     7f02 ttdust::root
    ...
    ... control 100000:
    ...     7f03 [unknown]
    ...
    ... shard-0 250000:
    ...     7f01 ttdust::leaf::h0123456789abcdef
    ...     7f02 ttdust::root
    ... '''
    >>> dict(stacks(text.splitlines()))
    {('shard-0', 'ttdust::root', 'ttdust::leaf'): 500000, ('control', '[unknown]'): 100000}
    >>> dict(stacks(text.splitlines(), thread='con'))
    {('control', '[unknown]'): 100000}
    """
    counted = collections.Counter()
    name, period, frames = None, 0, []

    def end():
        if name is not None and name.startswith(thread):
            counted[(name, *reversed(frames))] += period

    for line in lines:
        if not line.strip():
            continue
        if not line[0].isspace():
            end()
            head = line.split(":")[0].rsplit(None, 1)
            name, period, frames = head[0], int(head[1]) if head[-1].isdigit() else 1, []
        else:
            symbol = line.split(None, 1)[1].strip() if len(line.split(None, 1)) > 1 else "[unknown]"
            frames.append(HASH.sub("", symbol))
    end()
    return counted


class Frame:
    """A frame with all that it called."""

    def __init__(self):
        self.weight, self.calls = 0, {}


def tree(counted):
    """
    >>> root = tree({('a', 'b'): 2, ('a',): 1})
    >>> root.weight, root.calls['a'].weight, root.calls['a'].calls['b'].weight
    (3, 3, 2)
    """
    root = Frame()
    for stack, weight in counted.items():
        root.weight += weight
        at = root
        for name in stack:
            at = at.calls.setdefault(name, Frame())
            at.weight += weight
    return root


def depth(frame):
    return 1 + max(map(depth, frame.calls.values()), default=0)


def color(name):
    """By the kind of code; a little different for each name, and always the same."""
    shade = sum(map(ord, name)) % 40
    if name.startswith(("ttdust", "<ttdust")):
        return f"rgb({215 + shade},{110 + shade},60)"
    if "[k]" in name or name.startswith(("do_", "sys_", "__x64", "entry_", "io_", "ext4", "asm_")):
        return f"rgb({90 + shade},{140 + shade},{200 + shade // 2})"
    return f"rgb({205 + shade},{170 + shade},{90 + shade})"


def draw(root, title):
    r"""
    >>> svg = draw(tree({('t', '<a & b>'): 9, ('t', 'narrow'): 1e-9}), 'x < y')
    >>> '&lt;a &amp; b&gt;' in svg, 'narrow' in svg, '<script' in svg, 'x &lt; y' in svg
    (True, False, False, True)
    """
    rows = depth(root)
    height = (rows + 3) * ROW
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="monospace" font-size="11">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="{LEFT}" y="{ROW}" font-size="14">{html.escape(title)}</text>',
    ]
    scale = (WIDTH - 2 * LEFT) / max(root.weight, 1e-300)

    def put(name, frame, x, row):
        width = frame.weight * scale
        if width < NARROWEST:
            return
        y = height - (row + 2) * ROW
        share = 100 * frame.weight / root.weight
        out.append(f"<g><title>{html.escape(name)}: {share:.2f}%</title>")
        out.append(f'<rect x="{x:.1f}" y="{y}" width="{max(width - 0.4, 0.2):.1f}" height="{ROW - 1}" fill="{color(name)}"/>')
        room = int((width - 4) / CHARACTER)
        if room >= 3:
            short = name if len(name) <= room else name[: room - 1] + "…"
            out.append(f'<text x="{x + 2:.1f}" y="{y + 12}">{html.escape(short)}</text>')
        out.append("</g>")
        for called in sorted(frame.calls):
            put(called, frame.calls[called], x, row + 1)
            x += frame.calls[called].weight * scale

    put("all", root, LEFT, 0)
    return "\n".join([*out, "</svg>"]) + "\n"


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--title", default="flame graph")
    arguments.add_argument("--thread", default="")
    arguments.add_argument("--folded", action="store_true")
    given = arguments.parse_args()
    sys.setrecursionlimit(10_000)
    counted = stacks(sys.stdin, given.thread)
    if not counted:
        sys.exit("flame.py: no samples: did the load run, and is there a thread of that name?")
    if given.folded:
        for stack, weight in sorted(counted.items()):
            print(";".join(stack), weight)
    else:
        sys.stdout.write(draw(tree(counted), given.title))


if __name__ == "__main__":
    main()
