// Imports and replays of dead letters: how far each is, and its end.

import { api, every, json, newest, query } from "./api.js";
import { arrange, bar, card, empty, h, replace, setText } from "./dom.js";
import { count, time } from "./format.js";
import { notice } from "./notice.js";

const PAGE = 50;
const OPEN = new Set(["pending", "running"]);
const COLOURS = { completed: "good", running: "info", pending: "info", failed: "bad", cancelled: "warn" };

// The names of streams by id, asked for once.
const names = new Map();
async function nameOf(id, signal) {
  if (!names.has(id)) {
    const asking = json(api("streams", id), { signal }).then((stream) => stream.name);
    names.set(id, asking);
    asking.catch(() => names.delete(id));
  }
  return names.get(id);
}

// What a job is of, in a line.
function source(job) {
  if (job.kind === "import") return `${job.source_uri} (${job.format})`;
  const { reason, field, start, end, dry_run } = job.replay;
  const filter = Object.entries({ reason, field, start, end }).filter(([, value]) => value !== null);
  return `dead letters${dry_run ? ", only counted" : ""}${filter.map(([name, value]) => `, ${name} ${value}`).join("")}`;
}

function outcome(job) {
  if (job.kind === "import") {
    const failed = job.records_failed > 0 ? `, ${count(job.records_failed)} bad` : "";
    return `${count(job.records_succeeded)} of ${count(job.records_processed)} rows taken${failed}`;
  }
  const { scanned, matched, replayed, duplicates, rejected, failing } = job.replay;
  const others = Object.entries({ duplicates, rejected, failing }).filter(([, number]) => number > 0);
  const more = others.map(([name, number]) => `, ${count(number)} ${name}`).join("");
  return `${count(scanned)} read, ${count(matched)} matched, ${count(replayed)} put back${more}`;
}

// How far it is, if that is known.
function progress(job) {
  if (job.status === "completed") return [1, "done"];
  if (job.kind === "import" && job.objects_total > 0) {
    return [job.objects_done / job.objects_total, `${count(job.objects_done)} of ${count(job.objects_total)} objects`];
  }
  return [OPEN.has(job.status) ? NaN : 0, OPEN.has(job.status) ? "under way" : "not done"];
}

// A button that wants to be pressed twice.
function canceller(job, signal, done) {
  const button = h("button", { type: "button" }, "Cancel");
  let sure = false;
  button.addEventListener("blur", () => {
    sure = false;
    setText(button, "Cancel");
  });
  button.addEventListener("click", async () => {
    if (!sure) {
      sure = true;
      setText(button, "Really cancel?");
      return;
    }
    button.disabled = true;
    try {
      await json(`${api("jobs", job.id)}/cancel`, { signal, method: "POST" });
      done(null);
    } catch (error) {
      if (!signal.aborted) done(error);
    }
    button.disabled = false;
  });
  return button;
}

function item(first, signal, done) {
  const status = h("span", { class: "tag" });
  const [stream, what, came, why, times] = Array.from({ length: 5 }, () => h("span"));
  const level = bar();
  const faults = h("details", { hidden: true });
  const cancel = canceller(first, signal, done);
  const link = h("a", { href: `#/streams/${encodeURIComponent(first.stream_id)}` }, stream);
  setText(stream, first.stream_id);
  nameOf(first.stream_id, signal).then((name) => setText(stream, name), () => {});
  const root = h(
    "li",
    { class: "job" },
    h("div", { class: "row" }, status, h("strong", null, first.kind), " into ", link, h("code", { class: "fine" }, first.id), h("span", { class: "gap" }), cancel),
    h("div", { class: "what" }, what),
    h("div", { class: "row" }, level.root, came),
    why,
    h("div", { class: "fine" }, times),
    faults,
  );
  return {
    root,
    set(job) {
      setText(status, job.status);
      status.className = `tag ${COLOURS[job.status] ?? ""}`;
      setText(what, source(job));
      setText(came, outcome(job));
      level.set(...progress(job));
      level.root.dataset.level = job.status === "failed" ? "bad" : "good";
      why.className = job.reason ? "bad" : "fine";
      setText(why, job.reason ?? (job.waits_for ? `waits: ${job.waits_for}` : ""));
      setText(times, `begun ${time(job.created_at)}${job.completed_at ? `, ended ${time(job.completed_at)}` : ""}`);
      cancel.hidden = !OPEN.has(job.status);
      faults.hidden = job.errors.length === 0;
      if (job.errors.length > 0 && faults.childElementCount !== 2) replace(faults, h("summary", null, "Bad rows"), h("ul", null));
      if (job.errors.length > 0 && faults.lastChild.childElementCount !== job.errors.length) {
        const rows = job.errors.map((one) => h("li", null, h("code", null, `${one.object}:${one.line_number}`), ` ${one.field} ${one.message}`));
        replace(faults.lastChild, rows);
      }
    },
  };
}

export function show(root, _, signal) {
  const kind = h("select", { "aria-label": "Kind" }, h("option", { value: "" }, "all jobs"), h("option", { value: "import" }, "imports"), h("option", { value: "replay" }, "replays"));
  const [first, next] = ["Newest", "Older"].map((words) => h("button", { type: "button", disabled: true }, words));
  const place = card("Jobs", kind, first, next);
  const rows = h("ul", { class: "jobs", "aria-label": "Jobs, the newest first" });
  const none = empty(
    "There is no job. To import objects, or to put dead letters back:",
    "ttdust import start flights s3://bucket/day/ --format json_lines",
    "ttdust dlq replay flights --dry-run",
  );
  replace(root, place.root);
  let items = new Map();
  let [token, following] = ["", null];
  const failed = (error) => notice(place.note, error);
  const page = newest((asked) => json(api("jobs") + query(asked), { signal }));
  const list = async () => {
    const got = await page({ page_size: PAGE, page_token: token, kind: kind.value });
    if (got === null) return;
    const jobs = got.jobs;
    following = got.next_page_token;
    first.disabled = token === "";
    next.disabled = following === null;
    const known = items;
    items = new Map(jobs.map((job) => [job.id, known.get(job.id) ?? item(job, signal, ended)]));
    jobs.forEach((job) => items.get(job.id).set(job));
    arrange(rows, [...items.values()].map((one) => one.root));
    arrange(place.body, [jobs.length > 0 ? rows : none]);
  };
  const now = () => list().then(() => failed(null), (error) => signal.aborted || failed(error));
  const ended = (error) => (error ? failed(error) : now());
  const turn = (to) => {
    token = to;
    now();
  };
  kind.addEventListener("change", () => turn(""));
  first.addEventListener("click", () => turn(""));
  next.addEventListener("click", () => turn(following ?? ""));
  every(2, signal, list, failed);
}
