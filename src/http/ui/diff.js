// The difference of two JSON values, line by line: a line is the same as another only where its path is the same too, and a comma
// is none of it. So a member that comes in is one change, and not three.

import { lines } from "./json.js";

// Past so many changes the search for the shortest way ends, and all between is told as gone and come.
const CHANGES_MAX = 600;
const AROUND = 3;

function same(a, b) {
  return a.text === b.text && a.name === b.name && a.path === b.path && a.kind === b.kind;
}

// All lines of both: { sign: " ", "-" or "+", old, now, line }, with their numbers from 1.
export function difference(before, after) {
  const [a, b] = [lines(before), lines(after)];
  let head = 0;
  while (head < a.length && head < b.length && same(a[head], b[head])) head += 1;
  let tail = 0;
  while (tail < a.length - head && tail < b.length - head && same(a.at(-1 - tail), b.at(-1 - tail))) tail += 1;
  const middle = steps(a.slice(head, a.length - tail), b.slice(head, b.length - tail));
  const signs = [..." ".repeat(head), ...middle, ..." ".repeat(tail)];
  let [old, now] = [0, 0];
  return signs.map((sign) => {
    const line = sign === "-" ? a[old] : b[now];
    old += sign === "+" ? 0 : 1;
    now += sign === "-" ? 0 : 1;
    return { sign, old: sign === "+" ? null : old, now: sign === "-" ? null : now, line };
  });
}

// Myers' shortest way from `a` to `b`, as signs.
function steps(a, b) {
  const most = Math.min(a.length + b.length, CHANGES_MAX);
  let reach = new Map([[1, 0]]);
  const trace = [];
  for (let changes = 0; changes <= most; changes++) {
    trace.push(new Map(reach));
    for (let k = -changes; k <= changes; k += 2) {
      const down = k === -changes || (k !== changes && (reach.get(k - 1) ?? -1) < (reach.get(k + 1) ?? -1));
      let x = down ? reach.get(k + 1) : reach.get(k - 1) + 1;
      while (x < a.length && x - k < b.length && same(a[x], b[x - k])) x += 1;
      reach.set(k, x);
      if (x >= a.length && x - k >= b.length) return back(trace, a.length, b.length);
    }
  }
  return [...a.map(() => "-"), ...b.map(() => "+")];
}

function back(trace, x, y) {
  const signs = [];
  for (let changes = trace.length - 1; changes >= 0; changes--) {
    const reach = trace[changes];
    const k = x - y;
    const down = k === -changes || (k !== changes && (reach.get(k - 1) ?? -1) < (reach.get(k + 1) ?? -1));
    const from = down ? k + 1 : k - 1;
    const [toX, toY] = [reach.get(from), reach.get(from) - from];
    while (x > toX && y > toY && x > 0 && y > 0) {
      signs.push(" ");
      x -= 1;
      y -= 1;
    }
    if (changes > 0) signs.push(down ? "+" : "-");
    [x, y] = [toX, toY];
  }
  return signs.reverse();
}

// The changes with some lines around them, as pieces of what `difference` gives; a piece that is left out is a number of lines.
export function hunks(all) {
  const near = new Set();
  all.forEach((one, at) => {
    if (one.sign === " ") return;
    for (let by = -AROUND; by <= AROUND; by++) near.add(at + by);
  });
  const found = [];
  all.forEach((one, at) => {
    if (near.has(at)) {
      if (!Array.isArray(found.at(-1))) found.push([]);
      found.at(-1).push(one);
    } else if (typeof found.at(-1) === "number") {
      found[found.length - 1] += 1;
    } else {
      found.push(1);
    }
  });
  return found;
}

// Where the changes are, as JSON Pointers, each named once; what holds a change is not named beside it.
export function places(all) {
  const changed = [...new Set(all.filter((one) => one.sign !== " ").map((one) => one.line.path))];
  return changed.filter((path) => !changed.some((other) => other !== path && path.startsWith(`${other}/`)));
}
