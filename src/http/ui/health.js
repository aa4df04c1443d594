// Each part of the server: whether it is there, and how fast it answers.

import { every, json } from "./api.js";
import { arrange, card, h, replace, setText } from "./dom.js";
import { duration } from "./format.js";
import { KEPT_MS } from "./history.js";
import { notice } from "./notice.js";
import { spark } from "./plot.js";

const NAMES = { catalog: "Catalog", objects: "Object store", coordination: "Coordination", io: "I/O", server: "Server" };

// How the server stands; down is an answer too.
export async function readiness(signal) {
  return json("health/ready", { signal, open: true, also: [503] });
}

function title(name) {
  return NAMES[name] ?? name.replace(/^shard_/, "Shard ");
}

function part(name) {
  const dot = h("span", { class: "dot" });
  const [words, latency, detail] = [h("span", { class: "state" }), h("span", { class: "number" }), h("p", { class: "fine" })];
  const line = spark(`${title(name)}: time to an answer`, null, 120, 26);
  const seen = [];
  return {
    root: h("li", { class: "part" }, h("div", { class: "row" }, dot, h("strong", null, title(name)), words, h("span", { class: "gap" }), latency), line.root, detail),
    set({ status, latency_ms, detail: said }) {
      const at = performance.now();
      // What is not asked anything takes no time.
      seen.push([at, latency_ms > 0 ? latency_ms : NaN]);
      while (seen[0][0] < at - KEPT_MS) seen.shift();
      dot.dataset.level = status === "ok" ? "good" : "bad";
      setText(words, status === "ok" ? "ok" : "down");
      setText(latency, latency_ms > 0 ? duration(latency_ms / 1000) : "");
      setText(detail, said || "\u00a0");
      line.set(seen, at);
    },
  };
}

export function show(root, _, signal) {
  const place = card("Health");
  const verdict = h("p", { role: "status" }, "\u00a0");
  const list = h("ul", { class: "parts", "aria-label": "Parts of the server" });
  place.body.append(verdict, list);
  replace(root, place.root);
  const parts = new Map();
  const ask = async () => {
    const { status, components } = await readiness(signal);
    const names = Object.keys(components);
    for (const name of names) if (!parts.has(name)) parts.set(name, part(name));
    for (const name of [...parts.keys()]) if (!names.includes(name)) parts.delete(name);
    names.forEach((name) => parts.get(name).set(components[name]));
    arrange(list, names.map((name) => parts.get(name).root));
    const down = names.filter((name) => components[name].status !== "ok").map(title);
    const ready = status === "ok" ? "The server is ready." : "The server is not ready.";
    setText(verdict, down.length > 0 ? `${ready} Down: ${down.join(", ")}.` : ready);
  };
  every(2, signal, ask, (error) => notice(place.note, error));
}
