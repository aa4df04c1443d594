// A stream's records as they come, the newest first; at most so many rows, however many come.

import { Away, Refusal, api, changes, pause, query, send } from "./api.js";
import { h, moment, replace, setText } from "./dom.js";
import { count, many } from "./format.js";
import { line, member, pretty, read, valueOf } from "./json.js";
import { notice } from "./notice.js";
import { events } from "./sse.js";

const ROWS = 200;
const PREVIEW = 600;
// Nobody reads faster.
const DRAWN_MS = 100;
// Ends after which there is nothing to come back for.
const FINAL = new Set(["STREAM_DELETING", "STREAM_NOT_FOUND", "NOT_FOUND", "PERMISSION_DENIED", "UNAUTHENTICATED"]);

function row(data) {
  const record = read(data);
  const payload = member(record, "payload");
  const metadata = member(record, "metadata");
  const details = h(
    "details",
    null,
    h(
      "summary",
      null,
      h("span", { class: "sequence" }, count(valueOf(member(record, "sequence_number")))),
      moment(valueOf(member(record, "ingested_at"))),
      h("code", { class: "payload" }, line(payload?.text ?? "", PREVIEW)),
    ),
  );
  details.addEventListener("toggle", () => {
    if (!details.open || details.children.length > 1 || !payload) return;
    const more = metadata && metadata.items.length > 0 ? [h("p", { class: "fine" }, "metadata"), pretty(metadata)] : [];
    details.append(h("p", { class: "fine" }, valueOf(member(record, "record_id")) ?? ""), pretty(payload), ...more);
  });
  return h("li", null, details);
}

// The rows on the page, and those that wait while it is paused.
function rows(list) {
  let waiting = [];
  let paused = false;
  let passed = 0;
  let due = false;
  const draw = () => {
    due = false;
    if (paused || waiting.length === 0) return;
    list.prepend(...waiting.reverse().map(row));
    waiting = [];
    while (list.children.length > ROWS) list.lastChild.remove();
  };
  return {
    add(data, came) {
      waiting = waiting.concat(data).slice(-ROWS);
      if (paused) passed += came;
      if (!due) setTimeout(() => requestAnimationFrame(draw), DRAWN_MS);
      due = true;
    },
    pause(wanted) {
      paused = wanted;
      passed = 0;
      draw();
    },
    clear() {
      waiting = [];
      passed = 0;
      replace(list);
    },
    passed: () => passed,
    paused: () => paused,
  };
}

// Lets the page do what else waits, however fast records come. A timer would wait too, and for a second where nobody looks.
function breath() {
  return new Promise((done) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      done();
    };
    port2.postMessage(null);
  });
}

// Reads one connection to its end: the code of the last event, or null where it only broke off.
async function connection(path, place, signal, heard) {
  const headers = place.last === null ? {} : { "last-event-id": place.last };
  const response = await send(path, { signal, headers, patience: 0 });
  heard.opened();
  const [decoder, parse] = [new TextDecoder(), events(ROWS)];
  const reader = response.body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return null;
      const { found, passed } = parse(decoder.decode(value, { stream: true }));
      const ended = found.find((one) => one.name === "error");
      const records = found.filter((one) => one.name === "message");
      if (records.length > 0) place.last = records.at(-1).id;
      heard.records(records.map((one) => one.data), records.length + passed);
      if (ended) return JSON.parse(ended.data);
      await breath();
    }
  } catch (error) {
    if (signal.aborted) throw error;
    return null;
  } finally {
    reader.cancel().catch(() => {});
  }
}

// Follows to the end of `signal`, coming back after the last record that came.
async function follow(path, signal, heard) {
  const place = { last: null };
  let again = path;
  while (!signal.aborted) {
    let wait = 1;
    try {
      const ended = await connection(again, place, signal, heard);
      if (ended && FINAL.has(ended.code)) {
        heard.ended(ended.message);
        return;
      }
      if (ended?.code === "RECORDS_EXPIRED") {
        // What comes from now on is there.
        place.last = null;
        again = path.split("?")[0];
      }
      heard.broken(ended?.message ?? "the connection broke off");
    } catch (error) {
      if (signal.aborted) return;
      heard.failed(error);
      wait = Math.max(wait, error.retryAfter ?? 0);
      if (error instanceof Refusal && [401, 403, 404].includes(error.status)) await changed(signal);
    }
    await pause(wait, signal);
  }
}

// Until the key is another one or the server is: nothing else changes such a refusal.
function changed(signal) {
  return new Promise((done) => {
    for (const event of ["key", "back"]) changes.addEventListener(event, done, { once: true, signal });
    signal.addEventListener("abort", done);
  });
}

export function tail(stream, note, signal) {
  const list = h("ol", { class: "tail", "aria-label": `Records of ${stream}, the newest first` });
  const state = h("span", { class: "state", role: "status" }, "opening …");
  const seen = h("span", { class: "fine" }, "0 records");
  const none = h("p", { class: "empty" }, "Nothing has come yet. What is acked from now on is shown here as it comes.");
  const shown = rows(list);
  let [total, lately, since] = [0, 0, performance.now()];
  let [standing, kind] = ["opening …", ""];
  const told = () => {
    const now = performance.now();
    if (now - since >= 1000) {
      setText(seen, `${many(total, "record")}, ${count((lately * 1000) / (now - since))}/s`);
      [lately, since] = [0, now];
    }
    const waits = shown.passed() > 0 ? `, ${count(shown.passed())} came meanwhile` : "";
    setText(state, shown.paused() ? `paused${waits}` : standing);
    state.dataset.state = shown.paused() ? "paused" : kind;
    none.hidden = total > 0;
  };
  const stand = (words, as) => {
    [standing, kind] = [words, as];
    told();
  };
  const heard = {
    opened: () => {
      notice(note, null);
      stand("live", "live");
    },
    records: (data, came) => {
      if (came === 0) return;
      total += came;
      lately += came;
      shown.add(data, came);
      told();
    },
    broken: (why) => stand(`comes again: ${why}`, "broken"),
    ended: (why) => stand(`ended: ${why}`, "broken"),
    failed: (error) => {
      notice(note, error);
      stand(error instanceof Away ? "waits for the server" : "refused", "broken");
    },
  };
  let one = null;
  const begin = (from) => {
    one?.abort();
    one = new AbortController();
    signal.addEventListener("abort", () => one.abort(), { once: true });
    stand("opening …", "");
    follow(api("streams", stream, "tail") + query(from), one.signal, heard);
  };
  const timer = setInterval(told, 1000);
  signal.addEventListener("abort", () => clearInterval(timer));
  begin({});
  return h("div", null, tools(shown, begin, told, state, seen), h("div", { class: "tail-box", tabindex: "0", role: "group", "aria-label": "Records" }, none, list));
}

function tools(shown, begin, told, state, seen) {
  const hold = h("button", { type: "button", "aria-pressed": "false" }, "Pause");
  hold.addEventListener("click", () => {
    shown.pause(!shown.paused());
    hold.setAttribute("aria-pressed", String(shown.paused()));
    told();
  });
  const clear = h("button", { type: "button", onclick: () => shown.clear() }, "Clear");
  const from = h(
    "select",
    { "aria-label": "Begin with" },
    h("option", { value: "now" }, "what comes from now on"),
    h("option", { value: "60" }, "the last minute"),
    h("option", { value: "900" }, "the last 15 minutes"),
    h("option", { value: "first" }, "the first record"),
  );
  from.addEventListener("change", () => {
    shown.clear();
    const ago = (seconds) => ({ start_time: new Date(Date.now() - seconds * 1000).toISOString() });
    begin(from.value === "now" ? {} : from.value === "first" ? { start_sequence: 1 } : ago(Number(from.value)));
  });
  return h("div", { class: "row" }, hold, clear, from, state, seen);
}
