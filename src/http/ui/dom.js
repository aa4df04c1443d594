// Elements, made from what they hold. Text goes in as text: nothing here, or elsewhere in the console, reads markup.

import { time } from "./format.js";

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (typeof value === "function") {
      element.addEventListener(name.replace(/^on/, ""), value);
    } else if (value !== undefined && value !== null && value !== false) {
      // A handler is a function, never a text.
      if (name.startsWith("on")) throw new Error(`${name} is no function`);
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
  element.append(...nodes(children));
  return element;
}

function nodes(children) {
  const shown = children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
  return shown.map((child) => (child instanceof Node ? child : document.createTextNode(String(child))));
}

// An element of HTML: h("p", { class: "note" }, "text", other).
export function h(name, attributes, ...children) {
  return fill(document.createElement(name), attributes, children);
}

// An element of SVG.
export function svg(name, attributes, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

// Puts these in place of what the element held.
export function replace(element, ...children) {
  element.replaceChildren(...nodes(children));
}

// A text that stays untouched while it is the same, so that what is selected or read aloud stays so too.
export function setText(element, text) {
  const wanted = String(text);
  if (element.textContent !== wanted) element.textContent = wanted;
}

// A card: a part of the page with a name; `note` is where it says what is wrong.
let cards = 0;
export function card(title, ...tools) {
  const id = `card-${++cards}`;
  const note = h("div", { class: "note", role: "status", hidden: true });
  const body = h("div", { class: "card-body" });
  const heading = h("h2", { id }, title);
  const head = h("div", { class: "card-head" }, heading, h("div", { class: "tools" }, tools));
  const root = h("section", { class: "card", "aria-labelledby": id }, head, note, body);
  return { root, body, note, heading };
}

// Puts these children in, in this order; what is in its place already stays there, with its focus and selection.
export function arrange(element, wanted) {
  if (wanted.length !== element.children.length || wanted.some((one, at) => one !== element.children[at])) replace(element, wanted);
}

// What a list says that is empty: why, and what to do.
export function empty(words, ...commands) {
  return h("div", { class: "empty" }, h("p", null, words), commands.map((command) => h("pre", null, h("code", null, command))));
}

// A table whose columns are { title, class }.
export function table(label, columns) {
  const head = columns.map(({ title, ...rest }) => h("th", { scope: "col", class: rest.class, title: rest.hint }, title));
  const body = h("tbody");
  const root = h(
    "div",
    { class: "scroll", tabindex: "0", role: "group", "aria-label": label },
    h("table", { "aria-label": label }, h("thead", null, h("tr", null, head)), body),
  );
  return { root, body };
}

// A time of the server; what it is exactly is told by its title.
export function moment(text) {
  return h("time", { datetime: text, title: text }, time(text));
}

// A bar from 0 to 1, with what it means as text.
export function bar() {
  const level = h("span", { class: "level" });
  const words = h("span", { class: "words" });
  const root = h("span", { class: "bar" }, h("span", { class: "rail", "aria-hidden": "true" }, level), words);
  return {
    root,
    set(ratio, text) {
      const known = Number.isFinite(ratio);
      level.style.width = `${known ? Math.min(1, Math.max(0, ratio)) * 100 : 0}%`;
      root.dataset.level = known && ratio >= 0.9 ? "bad" : known && ratio >= 0.7 ? "warn" : "good";
      setText(words, text);
    },
  };
}
