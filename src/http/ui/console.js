// The console: which view is shown, and how the server stands.

import { awaySince, changes, every } from "./api.js";
import { begin as credential } from "./credential.js";
import { h, replace, setText } from "./dom.js";
import { age } from "./format.js";
import * as health from "./health.js";
import * as history from "./history.js";
import * as jobs from "./jobs.js";
import * as overview from "./overview.js";
import * as query from "./query.js";
import * as schemas from "./schemas.js";
import * as streams from "./streams.js";

const VIEWS = new Map([
  ["overview", { title: "Overview", show: overview.show }],
  ["streams", { title: "Streams", show: streams.show }],
  ["query", { title: "Query", show: query.show }],
  ["schemas", { title: "Schemas", show: schemas.show }],
  ["jobs", { title: "Jobs", show: jobs.show }],
  ["health", { title: "Health", show: health.show }],
]);

const main = document.getElementById("main");
const pill = document.getElementById("status");
const banner = document.getElementById("away");
const always = new AbortController().signal;
let shown = new AbortController();
let ready = null;

// #/streams/NAME?more=… : a view, what of it, and parameters.
function route() {
  const [path, parameters] = location.hash.replace(/^#\/?/, "").split("?");
  const [view, ...parts] = path.split("/").map((part) => {
    try {
      return decodeURIComponent(part);
    } catch {
      return part;
    }
  });
  return { view: VIEWS.has(view) ? view : "overview", parts, parameters: new URLSearchParams(parameters ?? "") };
}

function turn(event) {
  const where = route();
  const { title, show } = VIEWS.get(where.view);
  shown.abort();
  shown = new AbortController();
  for (const link of document.querySelectorAll("#nav a")) {
    if (link.dataset.view === where.view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${[...where.parts.filter(Boolean), title].join(" · ")} · TTDust`;
  const root = h("div", { class: `view ${where.view}` }, h("h1", { class: "hidden" }, title));
  const content = h("div", { class: "cards" });
  root.append(content);
  replace(main, root);
  show(content, where, shown.signal);
  if (event) {
    main.focus({ preventScroll: true });
    scrollTo(0, 0);
  }
}

// How the server stands, beside the key.
function stand() {
  const since = awaySince();
  const standing = ready === null ? ["", "asking …"] : ready ? ["good", "ready"] : ["warn", "not ready"];
  const [level, words] = since !== null ? ["bad", "no answer"] : standing;
  pill.dataset.level = level;
  setText(pill.querySelector(".words"), words);
  banner.hidden = since === null;
  setText(banner.querySelector(".since"), since === null ? "" : `Since ${age((performance.now() - since) / 1000)}.`);
  const version = history.latest()?.version;
  setText(document.getElementById("build"), version ? `TTDust ${version}` : "");
}

replace(
  document.getElementById("nav"),
  [...VIEWS].map(([view, { title }]) => h("a", { href: `#/${view}`, "data-view": view }, title)),
);
setText(document.getElementById("address"), location.host);
credential();
history.begin(always, stand);
every(
  5,
  always,
  async () => {
    ready = (await health.readiness(always)).status === "ok";
  },
  stand,
);
for (const event of ["away", "back"]) changes.addEventListener(event, stand);
changes.addEventListener("other", () => turn(null));
addEventListener("hashchange", turn);
turn(null);
