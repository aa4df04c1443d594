// The schemas, and what changed between two versions of one.

import { api, every, newest, query, text } from "./api.js";
import { difference, hunks, places } from "./diff.js";
import { card, empty, h, moment, replace, table } from "./dom.js";
import { many } from "./format.js";
import { member, pretty, read, shown, valueOf } from "./json.js";
import { notice } from "./notice.js";

const PAGE = 50;

function link(schema) {
  return `#/schemas/${encodeURIComponent(schema.id)}`;
}

function showAll(root, signal) {
  const [first, next] = ["First page", "Next page"].map((words) => h("button", { type: "button", disabled: true }, words));
  const place = card("Schemas", first, next);
  const grid = table("Schemas", [
    { title: "Schema" },
    { title: "Versions", class: "number" },
    { title: "Compatibility" },
    { title: "Policy", class: "spare" },
    { title: "Changed", class: "spare" },
    { title: "Description", class: "value spare" },
  ]);
  replace(root, place.root);
  let [token, following, drawn] = ["", null, ""];
  const page = newest(() => text(api("schemas") + query({ page_size: PAGE, page_token: token }), { signal }));
  const list = async () => {
    const got = await page();
    // What is the same stays, with what is selected in it.
    if (got === null || got === drawn) return;
    drawn = got;
    const { schemas, next_page_token } = JSON.parse(got);
    following = next_page_token;
    first.disabled = token === "";
    next.disabled = following === null;
    const rows = schemas.map((schema) =>
      h(
        "tr",
        null,
        h("th", { scope: "row" }, h("a", { href: link(schema) }, `${schema.namespace}/${schema.name}`)),
        h("td", { class: "number" }, schema.latest_version),
        h("td", null, schema.compatibility_mode),
        h("td", { class: "spare" }, schema.policy),
        h("td", { class: "spare" }, moment(schema.updated_at)),
        h("td", { class: "value spare" }, schema.description),
      ),
    );
    replace(grid.body, rows);
    const none = empty("There is no schema yet. To register one:", "ttdust schema create flights flights.schema.json --namespace demo");
    replace(place.body, rows.length > 0 || token !== "" ? grid.root : none);
  };
  const failed = (error) => notice(place.note, error);
  const turn = (to) => {
    token = to;
    list().then(() => failed(null), (error) => signal.aborted || failed(error));
  };
  first.addEventListener("click", () => turn(""));
  next.addEventListener("click", () => turn(following ?? ""));
  every(15, signal, list, failed);
}

// A line of a difference, with its numbers in both versions.
function row({ sign, old, now, line }) {
  const kind = sign === "+" ? "came" : sign === "-" ? "went" : "same";
  const said = sign === "+" ? "added" : sign === "-" ? "removed" : "";
  return h(
    "tr",
    { class: kind },
    h("td", { class: "at" }, old ?? ""),
    h("td", { class: "at" }, now ?? ""),
    h("td", { class: "sign" }, h("span", { "aria-hidden": "true" }, sign), said && h("span", { class: "hidden" }, said)),
    h("td", { class: "code" }, shown(line)),
  );
}

function pieces(all) {
  return hunks(all).map((piece) => {
    if (Array.isArray(piece)) return piece.map(row);
    const words = piece === 1 ? "1 line is the same" : `${piece} lines are the same`;
    return h("tr", { class: "left-out" }, h("td", { colspan: 4 }, words));
  });
}

function compared(before, after) {
  const all = difference(before, after);
  const [came, went] = ["+", "-"].map((sign) => all.filter((one) => one.sign === sign).length);
  if (came + went === 0) return h("p", { class: "empty" }, "Both say the same.");
  const at = places(all);
  const where = at.slice(0, 12).map((path) => [h("code", { class: "tag" }, path || "/"), " "]);
  return h(
    "div",
    null,
    h("p", { class: "fine" }, `${many(came, "line")} came, ${went} went: `, where, at.length > 12 && `and ${at.length - 12} more places`),
    h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Difference" }, h("table", { class: "diff", "aria-label": "Difference" }, h("tbody", null, pieces(all)))),
  );
}

function showOne(root, id, signal) {
  const [before, after] = ["Compare version", "with version"].map((label) => h("select", { "aria-label": label }));
  const place = card("Schema", h("label", null, "compare ", before), h("label", null, " with ", after));
  const about = h("p", { class: "fine" });
  const held = h("div");
  replace(place.heading, h("a", { href: "#/schemas" }, "Schemas"), " / ", id);
  replace(place.body, about, held);
  replace(root, place.root);
  const known = new Map();
  let latest = 0;
  let [drawn, described] = ["", ""];
  const version = async (number) => {
    if (!known.has(number)) known.set(number, read(await text(api("schemas", id, "versions", number), { signal })));
    return known.get(number);
  };
  const draw = async () => {
    const [from, to] = [Number(before.value), Number(after.value)];
    const wanted = `${from} ${to}`;
    const now = member(await version(to), "definition");
    const then = from > 0 ? member(await version(from), "definition") : null;
    if (drawn === wanted || wanted !== `${before.value} ${after.value}`) return;
    drawn = wanted;
    replace(held, then ? compared(then, now) : pretty(now));
  };
  const failed = (error) => notice(place.note, error);
  const ask = async () => {
    const said = await text(api("schemas", id), { signal });
    if (said === described) return;
    const schema = JSON.parse(said);
    replace(place.heading, h("a", { href: "#/schemas" }, "Schemas"), " / ", `${schema.namespace}/${schema.name}`);
    if (schema.latest_version !== latest) {
      latest = schema.latest_version;
      const numbers = Array.from({ length: latest }, (_, at) => latest - at);
      const options = (more) => [more, ...numbers.map((number) => h("option", { value: number }, `version ${number}`))];
      replace(before, options(h("option", { value: 0 }, "nothing: show it whole")));
      replace(after, options(null));
      after.value = latest;
      before.value = latest - 1;
    }
    await draw();
    const newest = await version(latest);
    const retired = valueOf(member(newest, "retired_at")) ? ", retired" : "";
    const rules = `${schema.compatibility_mode}, ${schema.policy}. Version ${latest} since `;
    replace(about, rules, moment(valueOf(member(newest, "created_at"))), `${retired}. `, schema.description);
    described = said;
  };
  for (const select of [before, after]) {
    select.addEventListener("change", () => draw().then(() => failed(null), (error) => signal.aborted || failed(error)));
  }
  every(15, signal, ask, failed);
}

export function show(root, { parts }, signal) {
  if (parts[0]) showOne(root, parts[0], signal);
  else showAll(root, signal);
}
