// The streams: what comes in, what is not flushed, what is stored; and one of them, with its records as they come.

import { api, every, json, newest, pause, query } from "./api.js";
import { arrange, card, empty, h, moment, replace, setText, table } from "./dom.js";
import { age, bytes, count, many, NONE, short } from "./format.js";
import { KEPT_MS } from "./history.js";
import { notice } from "./notice.js";
import { plot, spark } from "./plot.js";
import { tail } from "./tail.js";

const PAGE = 25;
// Statistics are asked for one stream at a time: no more than so many a second.
const ASKED_A_SECOND = 10;

const CREATE = [
  "ttdust schema create flights flights.schema.json",
  "ttdust stream create flights --schema flights --key-field event_id",
  "ttdust produce flights flights.jsonl.gz",
];

const COLUMNS = [
  { title: "Stream" },
  { title: "Records", class: "number", hint: "The sequence number of the last record" },
  { title: "Records/s", class: "number", hint: "Over about the last minute" },
  { title: "Seen", class: "drawn spare", hint: "Records a second since this page is open" },
  { title: "Bytes/s", class: "number spare" },
  { title: "Not flushed", class: "number", hint: "Records that are in no committed file yet" },
  { title: "Stored", class: "number", hint: "Committed files" },
  { title: "Files", class: "number spare" },
  { title: "Dead letters", class: "number", hint: "Records of the stream's dead letters" },
  { title: "Shard", class: "number spare" },
];

export function link(name) {
  return `#/streams/${encodeURIComponent(name)}`;
}

function state(stream) {
  return stream.status === "active" ? null : h("span", { class: "tag warn" }, stream.status);
}

function row(stream) {
  const cells = COLUMNS.map((column, at) => h(at === 0 ? "th" : "td", { class: column.class, scope: at === 0 && "row" }, at === 0 ? "" : NONE));
  const line = spark(`${stream.name}: records a second`);
  const rates = [];
  replace(cells[0], h("a", { href: link(stream.name) }, stream.name), " ", state(stream));
  replace(cells[3], line.root);
  if (stream.dlq_stream_id === null) setText(cells[8], "none kept");
  return {
    root: h("tr", null, cells),
    set(statistics) {
      const now = performance.now();
      rates.push([now, statistics.records_per_second ?? NaN]);
      while (rates[0][0] < now - KEPT_MS) rates.shift();
      setText(cells[1], count(statistics.last_sequence ?? NaN));
      setText(cells[2], short(statistics.records_per_second ?? NaN));
      line.set(rates, now);
      setText(cells[4], bytes(statistics.bytes_per_second ?? NaN));
      setText(cells[5], short(statistics.buffered_records ?? NaN));
      setText(cells[6], bytes(statistics.file_bytes));
      setText(cells[7], count(statistics.files));
      setText(cells[9], statistics.shard);
    },
    letters(number) {
      if (cells[8].childElementCount === 0) replace(cells[8], h("a", { href: link(stream.dlq_stream_id) }, NONE));
      setText(cells[8].firstChild, count(number));
    },
  };
}

// How many dead letters a stream has; null: it keeps none; NaN: nobody can tell, or not this key.
async function lettersOf(stream, signal) {
  if (stream.dlq_stream_id === null) return null;
  try {
    const { statistics } = await json(api("streams", stream.dlq_stream_id), { signal });
    return statistics.last_sequence ?? NaN;
  } catch (error) {
    if (error.status === 404) return NaN;
    throw error;
  }
}

// Asks for the statistics of the rows, one after the other, and begins anew.
async function refresh(rows, signal, failed) {
  while (!signal.aborted) {
    let asked = 0;
    for (const [stream, shown] of rows()) {
      if (signal.aborted) return;
      try {
        const whole = await json(api("streams", stream.id), { signal });
        shown.set(whole.statistics);
        const letters = await lettersOf(stream, signal);
        if (letters !== null) shown.letters(letters);
        asked += letters === null ? 1 : 2;
        failed(null);
      } catch (error) {
        if (signal.aborted) return;
        // One that was deleted meanwhile is gone from the list the next time.
        if (error.status !== 404) {
          failed(error);
          await pause(Math.max(1, error.retryAfter ?? 0), signal);
        }
      }
      if (asked >= ASKED_A_SECOND) {
        asked = 0;
        await pause(1, signal);
      }
    }
    await pause(document.hidden ? 10 : 1, signal);
  }
}

function showAll(root, signal) {
  const prefix = h("input", { type: "search", placeholder: "name begins with …", "aria-label": "Name begins with", spellcheck: "false" });
  const [first, next] = ["First page", "Next page"].map((words) => h("button", { type: "button", disabled: true }, words));
  const place = card("Streams", prefix, first, next);
  const grid = table("Streams", COLUMNS);
  replace(place.body, grid.root);
  replace(root, place.root);
  let rows = new Map();
  let token = "";
  let following = null;
  const page = newest((asked) => json(api("streams") + query(asked), { signal }));
  const list = async () => {
    const got = await page({ page_size: PAGE, page_token: token, name_prefix: prefix.value.trim() });
    if (got === null) return;
    const streams = got.streams;
    following = got.next_page_token;
    first.disabled = token === "";
    next.disabled = following === null;
    const known = new Map([...rows].map(([stream, shown]) => [`${stream.id} ${stream.version}`, shown]));
    rows = new Map(streams.map((stream) => [stream, known.get(`${stream.id} ${stream.version}`) ?? row(stream)]));
    arrange(grid.body, [...rows.values()].map((one) => one.root));
    const none = prefix.value.trim() ? empty("No stream has such a name.") : empty("There is no stream yet. To create one and fill it:", ...CREATE);
    if (streams.length === 0 && !place.body.querySelector(".empty")) replace(place.body, none);
    if (streams.length > 0 && !grid.root.isConnected) replace(place.body, grid.root);
  };
  const failed = (error) => notice(place.note, error);
  const now = () => list().then(() => failed(null), (error) => signal.aborted || failed(error));
  const turn = (to) => {
    token = to;
    now();
  };
  prefix.addEventListener("input", () => turn(""));
  first.addEventListener("click", () => turn(""));
  next.addEventListener("click", () => turn(following ?? ""));
  every(5, signal, list, failed);
  refresh(() => rows, signal, (error) => error && failed(error));
}

function retention(policy) {
  if (policy === null) return "for ever";
  return policy.type === "time" ? `${count(policy.retention_days)} days` : `the newest ${bytes(policy.max_bytes)}`;
}

function labels(stream) {
  const all = Object.entries(stream.labels);
  return all.length === 0 ? "none" : all.map(([name, value]) => [h("span", { class: "tag" }, value === "" ? name : `${name}=${value}`), " "]);
}

// What is known of a stream: what stays is made once for each version of it, what counts is written anew.
function facts() {
  const counted = {
    records: h("dd", null, NONE),
    unflushed: h("dd", null, NONE),
    flushed: h("dd", null, NONE),
    stored: h("dd", null, NONE),
    letters: h("dd", null, NONE),
    shard: h("dd", null, NONE),
  };
  const root = h("dl", { class: "facts" });
  let version = null;
  const fact = (term, value) => h("div", null, h("dt", null, term), value instanceof Node && value.tagName === "DD" ? value : h("dd", null, value));
  const make = (stream) => {
    const schema = h("a", { href: `#/schemas/${encodeURIComponent(stream.schema_id)}` }, "its versions");
    const old = age((Date.now() - new Date(stream.created_at)) / 1000);
    replace(
      root,
      fact("Records", counted.records),
      fact("Not flushed", counted.unflushed),
      fact("Flushed through", counted.flushed),
      fact("Stored", counted.stored),
      fact("Dead letters", counted.letters),
      fact("Shard", counted.shard),
      fact("Schema", schema),
      fact("Key fields", stream.key_fields.join(", ") || "none"),
      fact("Kept", retention(stream.retention_policy)),
      fact("Labels", labels(stream)),
      fact("Created", [moment(stream.created_at), `, ${old} ago`]),
      fact("Id", h("code", null, stream.id)),
    );
    if (stream.dlq_stream_id === null) setText(counted.letters, "none are kept");
    else replace(counted.letters, h("a", { href: link(stream.dlq_stream_id) }, NONE));
  };
  return {
    root,
    set(stream, letters) {
      if (stream.version !== version) make(stream);
      version = stream.version;
      const now = stream.statistics;
      const known = (value, words) => (value === null ? "its shard is too busy to tell" : words(value));
      setText(counted.records, known(now.last_sequence, count));
      setText(counted.unflushed, known(now.buffered_records, (rows) => `${count(rows)} (${bytes(now.buffered_bytes)})`));
      setText(counted.flushed, count(now.flushed_through));
      setText(counted.stored, `${bytes(now.file_bytes)} in ${many(now.files, "file")}, ${many(now.file_records, "record")}`);
      setText(counted.shard, now.shard);
      if (letters !== null) setText(counted.letters.firstChild, count(letters));
    },
  };
}

function showOne(root, name, signal) {
  const place = card("Stream", h("a", { class: "button", href: `#/query${query({ stream: name })}` }, "Query its records"));
  const about = h("p", { class: "fine" }, "\u00a0");
  const known = facts();
  const rate = plot(
    `Records a second of ${name} over the last 5 minutes`,
    [{ title: "records/s, over about a minute", class: "one", pick: (point) => point.rate }],
    (value) => `${short(value)}/s`,
    120,
  );
  const title = (words, tag) => replace(place.heading, h("a", { href: "#/streams" }, "Streams"), " / ", words, " ", tag);
  title(name, null);
  replace(place.body, about, rate.root, known.root);
  const records = card("Records as they come");
  records.body.append(tail(name, records.note, signal));
  replace(root, place.root, records.root);
  const points = [];
  let version = null;
  const ask = async () => {
    const stream = await json(api("streams", name), { signal });
    const letters = await lettersOf(stream, signal);
    const at = performance.now();
    points.push({ at, rate: stream.statistics.records_per_second ?? NaN });
    while (points[0].at < at - KEPT_MS) points.shift();
    rate.set(points);
    known.set(stream, letters);
    if (stream.version === version) return;
    version = stream.version;
    title(stream.name, state(stream));
    setText(about, stream.description || "\u00a0");
  };
  every(2, signal, ask, (error) => notice(place.note, error));
}

export function show(root, { parts }, signal) {
  if (parts[0]) showOne(root, parts[0], signal);
  else showAll(root, signal);
}
