// The last five minutes, as the page has seen them: a scrape a second.

import { every, text } from "./api.js";
import { between, grown, quantile, sample } from "./metrics.js";

export const KEPT_MS = 300_000;
// Percentiles of a second alone would jump.
const WINDOW_MS = 5_000;
// A pause in the scrapes this long is a gap in the lines.
export const GAP_MS = 15_000;

const samples = [];
// What the plots show: { at, accepted, refused, log, cpu, p50, p99, p999, over, shards }.
const points = [];
const watchers = new Set();

// Calls `watch` with each new point, and with the last one at once, until `signal`.
export function follow(signal, watch) {
  watchers.add(watch);
  signal.addEventListener("abort", () => watchers.delete(watch));
  if (points.length > 0) watch(points.at(-1), points);
}

export function latest() {
  return samples.at(-1);
}

// Begins to scrape; `heard` is told of each time how it went.
export function begin(signal, heard) {
  const scrape = async () => {
    const answer = await text("metrics", { signal, open: true, patience: 5_000 });
    add(sample(answer, performance.now()));
  };
  every(1, signal, scrape, heard);
}

function add(now) {
  const before = samples.at(-1);
  samples.push(now);
  while (samples[0].at < now.at - KEPT_MS - WINDOW_MS) samples.shift();
  while (points.length > 0 && points[0].at < now.at - KEPT_MS) points.shift();
  if (before && now.at - before.at < GAP_MS) points.push(point(before, now));
  else points.push({ at: now.at, now, shards: new Map() });
  for (const watch of watchers) watch(points.at(-1), points);
}

function point(before, now) {
  const seconds = (now.at - before.at) / 1000;
  const rate = (name) => grown(before[name], now[name]) / seconds;
  const from = samples.find((one) => one.at >= now.at - WINDOW_MS - 500) ?? before;
  const overGrpc = between(from.acks, now.acks);
  const [over, latencies] = quantile(overGrpc, 0.5) >= 0 ? ["gRPC", overGrpc] : ["REST", between(from.rest, now.rest)];
  const shards = now.shards.map((shard) => {
    const then = before.shards.find((one) => one.name === shard.name);
    const early = from.shards.find((one) => one.name === shard.name);
    const accepted = then ? grown(then.accepted, shard.accepted) / seconds : NaN;
    const write = early ? quantile(between(early.writes, shard.writes), 0.99) : NaN;
    return [shard.name, { accepted, busy: shard.busy, write }];
  });
  return {
    at: now.at,
    now,
    accepted: rate("accepted"),
    refused: rate("refused"),
    log: rate("log"),
    cpu: rate("cpu"),
    p50: quantile(latencies, 0.5),
    p99: quantile(latencies, 0.99),
    p999: quantile(latencies, 0.999),
    over: latencies.length > 0 && latencies.at(-1)[1] > 0 ? over : "",
    shards: new Map(shards),
  };
}
