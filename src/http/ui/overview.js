// What comes in, how fast it is acked, and how each shard stands.

import { every, json } from "./api.js";
import { bar, card, h, replace, setText, table } from "./dom.js";
import { bytes, configured, count, duration, NONE, percent, short } from "./format.js";
import { follow } from "./history.js";
import { notice } from "./notice.js";
import { plot, spark } from "./plot.js";

const past = (value) => (value === Infinity ? "> 2.5 s" : duration(value));

// A figure with its name, and a line under it.
function tile(title, hint) {
  const value = h("dd", null, NONE);
  const under = h("dd", { class: "under" }, "\u00a0");
  const root = h("div", { class: "tile", title: hint }, h("dt", null, title), value, under);
  return {
    root,
    set(text, more = "\u00a0") {
      setText(value, text);
      setText(under, more);
    },
  };
}

function tiles() {
  const all = {
    records: tile("Records", "Records on stable storage, a second"),
    log: tile("Log", "Bytes written to the log, a second"),
    p50: tile("Ack p50", "Half of the requests of the last 5 s were answered within this"),
    p99: tile("Ack p99", "99 of 100 requests of the last 5 s were answered within this"),
    unflushed: tile("Not flushed", "Records in the log and in memory, and in no committed file yet"),
    process: tile("Process", "CPU cores in use, and resident memory"),
  };
  const root = h("dl", { class: "tiles" }, Object.values(all).map((one) => one.root));
  return {
    root,
    set(point) {
      const now = point.now;
      all.records.set(`${short(point.accepted)}/s`, `${count(now.accepted)} since the start`);
      all.log.set(`${bytes(point.log)}/s`, `${bytes(now.log)} since the start`);
      const over = point.over ? `over ${point.over}, last 5 s` : "no requests in 5 s";
      all.p50.set(past(point.p50), over);
      all.p99.set(past(point.p99), point.over ? `p99.9 ${past(point.p999)}` : "\u00a0");
      all.unflushed.set(short(now.unflushed), `${bytes(now.buffer)} in memory`);
      const cpu = Number.isFinite(point.cpu) ? `${point.cpu.toFixed(2)} cores` : NONE;
      all.process.set(cpu, `${bytes(now.memory)}, ${count(now.files)} files open`);
    },
  };
}

const COLUMNS = [
  { title: "Shard" },
  { title: "Busy", class: "wide", hint: "CPU time of the shard's thread" },
  { title: "Last 5 min", class: "drawn spare" },
  { title: "Records/s", class: "number" },
  { title: "Queue", class: "number", hint: "Messages that wait for the shard" },
  { title: "Memory", class: "number", hint: "Rows and tails in memory" },
  { title: "Log in use", class: "wide", hint: "Of the shard's part of wal.quota_bytes" },
  { title: "Log write p99", class: "number spare" },
  { title: "Connections", class: "number spare" },
  { title: "Tails", class: "number spare" },
];

function shardRow(name) {
  const [busy, log] = [bar(), bar()];
  const line = spark(`shard ${name}: busy over the last 5 minutes`, 1);
  const cells = COLUMNS.map((column, at) => h(at === 0 ? "th" : "td", { class: column.class, scope: at === 0 && "row" }));
  cells[0].append(name);
  cells[1].append(busy.root);
  cells[2].append(line.root);
  cells[6].append(log.root);
  return {
    root: h("tr", null, cells),
    set(shard, point, points, quota) {
      const rates = point.shards.get(name) ?? {};
      busy.set(shard.busy, percent(shard.busy));
      line.set(points.map((one) => [one.at, one.shards.get(name)?.busy ?? NaN]), point.at);
      setText(cells[3], short(rates.accepted));
      setText(cells[4], count(shard.queue));
      setText(cells[5], bytes(shard.memory));
      log.set(shard.log / quota, Number.isFinite(quota) ? `${bytes(shard.log)} of ${bytes(quota)}` : bytes(shard.log));
      setText(cells[7], past(rates.write));
      setText(cells[8], count(shard.connections));
      setText(cells[9], count(shard.tails));
    },
  };
}

function shards(quota) {
  const place = card("Shards");
  const grid = table("Shards", COLUMNS);
  const backend = h("p", { class: "fine" }, "\u00a0");
  place.body.append(grid.root, backend);
  const rows = new Map();
  return {
    ...place,
    set(point, points) {
      const known = point.now.shards;
      if (known.some(({ name }) => !rows.has(name)) || rows.size !== known.length) {
        rows.clear();
        known.forEach(({ name }) => rows.set(name, shardRow(name)));
        replace(grid.body, [...rows.values()].map((row) => row.root));
      }
      known.forEach((shard) => rows.get(shard.name).set(shard, point, points, quota.bytes / known.length));
      const { kind, reason } = point.now.backend;
      setText(backend, kind ? `I/O by ${kind}: ${reason}` : "\u00a0");
    },
  };
}

export function show(root, _, signal) {
  const figures = tiles();
  const rate = (value) => `${short(value)}/s`;
  const throughput = plot(
    "Records a second over the last 5 minutes",
    [
      { title: "accepted", class: "one", pick: (point) => point.accepted },
      { title: "refused by their schema", class: "three", pick: (point) => point.refused },
    ],
    rate,
  );
  const acks = plot(
    "Time to an ack over the last 5 minutes",
    [
      { title: "p50", class: "one", pick: (point) => point.p50 },
      { title: "p99", class: "two", pick: (point) => point.p99 },
      { title: "p99.9", class: "three", pick: (point) => point.p999 },
    ],
    past,
  );
  const quota = { bytes: NaN };
  const cores = shards(quota);
  const [left, right] = [card("Throughput"), card("Ack latency")];
  left.body.append(throughput.root);
  right.body.append(acks.root);
  replace(root, figures.root, h("div", { class: "pair" }, left.root, right.root), cores.root);
  follow(signal, (point, points) => {
    figures.set(point);
    throughput.set(points);
    acks.set(points);
    cores.set(point, points);
  });
  const configuration = async () => {
    const { settings } = await json("api/v1/config", { signal });
    quota.bytes = configured(settings["wal.quota_bytes"]?.value);
  };
  // Whoever may not read the configuration sees the log without its bound.
  every(60, signal, configuration, (error) => notice(cores.note, error?.status === 403 ? null : error));
}
