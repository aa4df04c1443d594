// Records of a stream: those of a time range, page by page, or the latest with a key.

import { Refusal, api, every, json, query, text } from "./api.js";
import { card, empty, h, moment, replace, setText } from "./dom.js";
import { asked, count, duration, many } from "./format.js";
import { cell, member, pretty, read, valueOf } from "./json.js";
import { notice } from "./notice.js";

// A query may take as long as query.timeout_ms lets it.
const PATIENCE = 120_000;
// Members of the payload that have columns of their own.
const COLUMNS = 6;

function option(value, words) {
  return h("option", { value }, words);
}

function field(label, input, hint) {
  return h("label", { class: "field", title: hint }, h("span", null, label), input);
}

function form(stream) {
  const names = h("datalist", { id: "query-streams" });
  const inputs = {
    stream: h("input", { name: "stream", list: "query-streams", required: true, value: stream, spellcheck: "false", autocomplete: "off" }),
    what: h("select", { name: "what" }, option("range", "records of a time range"), option("key", "the latest with a key")),
    start: h("input", { name: "start", placeholder: "15m, or 2026-11-30T12:00Z", spellcheck: "false", autocomplete: "off" }),
    end: h("input", { name: "end", placeholder: "now", spellcheck: "false", autocomplete: "off" }),
    time_field: h("select", { name: "time_field" }, option("", "when it was ingested"), option("event", "when its event was")),
    order: h("select", { name: "order" }, option("desc", "newest first"), option("asc", "oldest first")),
    limit: h("input", { name: "limit", type: "number", min: 1, max: 1000, value: 50 }),
    key_field: h("select", { name: "key_field" }, option("_record_id", "record id")),
    key_value: h("input", { name: "key_value", spellcheck: "false", autocomplete: "off" }),
  };
  const run = h("button", { type: "submit", class: "main" }, "Run");
  const range = h(
    "div",
    { class: "fields" },
    field("From", inputs.start, "RFC 3339, Unix microseconds, or how long ago: 30s, 15m, 2h, 7d. Empty: from the first"),
    field("To", inputs.end, "The same, and not with it. Empty: to the last"),
    field("By the time", inputs.time_field),
    field("Order", inputs.order),
    field("Limit", inputs.limit),
  );
  const key = h("div", { class: "fields", hidden: true }, field("Key field", inputs.key_field), field("Key", inputs.key_value));
  inputs.what.addEventListener("change", () => {
    range.hidden = inputs.what.value !== "range";
    key.hidden = inputs.what.value !== "key";
  });
  const root = h(
    "form",
    { class: "query", "aria-label": "Query" },
    h("div", { class: "fields" }, field("Stream", inputs.stream), field("What", inputs.what)),
    range,
    key,
    h("div", { class: "row" }, run),
    names,
  );
  return { root, inputs, names, run };
}

function parameters(inputs, cursor) {
  if (inputs.what.value === "key") return { key_field: inputs.key_field.value, key_value: inputs.key_value.value };
  return {
    start: asked(inputs.start.value),
    end: asked(inputs.end.value),
    time_field: inputs.time_field.value,
    order: inputs.order.value,
    limit: inputs.limit.value,
    cursor,
  };
}

// The members that most of the records have, in the order in which they stand.
function columns(records) {
  const seen = new Map();
  for (const record of records) {
    for (const { name } of member(record, "payload")?.items ?? []) {
      if (name !== null) seen.set(name, (seen.get(name) ?? 0) + 1);
    }
  }
  const often = [...seen].filter(([, times]) => times * 2 > records.length).map(([name]) => String(valueOf({ text: name })));
  return [...new Set(often)].slice(0, COLUMNS);
}

function rows(record, names, at) {
  const payload = member(record, "payload");
  const metadata = member(record, "metadata");
  const sequence = count(valueOf(member(record, "sequence_number")));
  const id = `record-${at}`;
  const more = h("tr", { id, class: "more", hidden: true });
  const open = h("button", { type: "button", class: "open", "aria-expanded": "false", "aria-controls": id, "aria-label": `Record ${sequence}, whole` });
  open.addEventListener("click", () => {
    more.hidden = !more.hidden;
    open.setAttribute("aria-expanded", String(!more.hidden));
    if (more.children.length > 0) return;
    const kept = metadata && metadata.items.length > 0 ? [h("p", { class: "fine" }, "metadata"), pretty(metadata)] : [];
    const identity = h("p", { class: "fine" }, h("code", null, valueOf(member(record, "record_id")) ?? ""));
    more.append(h("td", { colspan: names.length + 3 }, identity, payload ? pretty(payload) : "", kept));
  });
  const cells = names.length > 0 ? names.map((name) => cell(member(payload, name))) : [cell(payload)];
  const head = [h("td", { class: "tight" }, open), h("th", { scope: "row", class: "number" }, sequence), h("td", { class: "tight" }, moment(valueOf(member(record, "ingested_at"))))];
  return [h("tr", null, head, cells.map((words) => h("td", { class: "value" }, words))), more];
}

function results(records) {
  const names = columns(records);
  const titles = names.length > 0 ? names : ["payload"];
  const head = ["", "#", "Ingested", ...titles].map((title, at) =>
    h("th", { scope: "col", class: at === 1 ? "number" : at > 2 ? "value" : null }, title || h("span", { class: "hidden" }, "Whole record")),
  );
  const body = h("tbody", null, records.map((record, at) => rows(record, names, at)));
  return h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Records" }, h("table", { "aria-label": "Records", class: "results" }, h("thead", null, h("tr", null, head)), body));
}

function told(answer, shown, seconds) {
  const of = (name) => valueOf(member(member(answer, "metadata"), name));
  const took = duration(of("execution_time_micros") / 1e6);
  const parts = [
    many(shown, "record"),
    `${count(of("total_records_scanned"))} scanned`,
    many(of("partitions_scanned"), "partition"),
    many(of("cache_hits"), "cache hit"),
    `${took} on the server, ${duration(seconds)} in all`,
  ];
  return parts.join(" · ");
}

// The names of streams to choose from, and the key fields of the one that is named.
function choices({ inputs, names }, signal) {
  const list = async () => {
    const { streams } = await json(api("streams") + query({ page_size: 500 }), { signal });
    replace(names, streams.map((stream) => option(stream.name, null)));
  };
  // Whoever may not list them types the name.
  every(60, signal, list);
  const keys = async () => {
    const name = inputs.stream.value.trim();
    const fields = name === "" ? [] : (await json(api("streams", name), { signal })).key_fields;
    const chosen = inputs.key_field.value;
    replace(inputs.key_field, fields.map((one) => option(one, one)), option("_record_id", "record id"));
    if (fields.includes(chosen)) inputs.key_field.value = chosen;
  };
  const ask = () => keys().catch(() => replace(inputs.key_field, option("_record_id", "record id")));
  inputs.stream.addEventListener("change", ask);
  ask();
}

export function show(root, { parameters: given }, signal) {
  const box = form(given.get("stream") ?? "");
  const summary = h("p", { class: "fine", role: "status" }, "\u00a0");
  const next = h("button", { type: "button", disabled: true }, "Next page");
  const [asks, place] = [card("Query"), card("Records", next)];
  const held = h("div", null, empty("Choose a stream and run the query. A terminal does the same:", "ttdust query flights --start 15m --order desc"));
  asks.body.append(box.root);
  place.body.append(summary, held);
  replace(root, asks.root, place.root);
  choices(box, signal);
  let [running, cursor, pages] = [null, null, 0];
  const run = async (from) => {
    running?.abort();
    running = new AbortController();
    const within = AbortSignal.any([signal, running.signal]);
    box.run.disabled = next.disabled = true;
    setText(summary, "asking …");
    const began = performance.now();
    try {
      const path = api("streams", box.inputs.stream.value.trim(), "records") + query(from);
      const answer = read(await text(path, { signal: within, patience: PATIENCE }));
      const found = member(answer, "record");
      const records = member(answer, "records")?.items.map(({ node }) => node) ?? (found?.kind === "object" ? [found] : []);
      cursor = valueOf(member(answer, "next_cursor")) ?? null;
      pages = from.cursor ? pages + 1 : 1;
      notice(asks.note, null);
      setText(place.heading, pages > 1 ? `Records, page ${pages}` : "Records");
      setText(summary, told(answer, records.length, (performance.now() - began) / 1000));
      replace(held, records.length > 0 ? results(records) : empty("No record is in it."));
    } catch (error) {
      if (within.aborted) return;
      setText(summary, error instanceof Refusal ? "refused" : "no answer");
      notice(asks.note, error);
    }
    box.run.disabled = false;
    next.disabled = cursor === null;
  };
  let last = null;
  box.root.addEventListener("submit", (event) => {
    event.preventDefault();
    cursor = null;
    // The next page is of the same times, even if the clock went on.
    last = parameters(box.inputs);
    run(last);
  });
  next.addEventListener("click", () => run({ ...last, cursor }));
}
