// JSON as it was written: numbers keep their digits, members their order, and one that stands twice does so.

import { h } from "./dom.js";

const WORD = /[^\s,\]}]+/y;
const BLANK = /\s*/y;
const HIGHLIGHT_MAX = 100_000;

// The value at the start of a text: { kind, text, items }. What a server answers is well-formed; of else, the rest is one word.
export function read(text) {
  const { node } = value(text, 0);
  return node;
}

function skip(text, at) {
  if (at >= text.length) return text.length;
  BLANK.lastIndex = at;
  BLANK.test(text);
  return BLANK.lastIndex;
}

function word(text, at) {
  WORD.lastIndex = at;
  return WORD.exec(text)?.[0] ?? text.slice(at);
}

// The text in quotes that begins here.
function quoted(text, start) {
  let at = start;
  for (;;) {
    at = text.indexOf('"', at + 1);
    if (at < 0) return text.slice(start);
    let slashes = 0;
    while (text[at - 1 - slashes] === "\\") slashes += 1;
    if (slashes % 2 === 0) return text.slice(start, at + 1);
  }
}

function value(text, from) {
  const start = skip(text, from);
  const first = text[start];
  if (first === "{" || first === "[") return group(text, start, first === "{");
  const found = first === '"' ? quoted(text, start) : word(text, start);
  const kind = first === '"' ? "string" : /^[-\d]/.test(found) ? "number" : "word";
  return { node: { kind, text: found, items: [] }, end: start + found.length };
}

function group(text, start, named) {
  const items = [];
  let at = skip(text, start + 1);
  while (at < text.length && text[at] !== "}" && text[at] !== "]") {
    let name = null;
    if (named) {
      name = quoted(text, at);
      at = skip(text, at + name.length) + 1;
    }
    const { node, end } = value(text, at);
    items.push({ name, node });
    at = skip(text, end);
    if (text[at] === ",") at = skip(text, at + 1);
  }
  return { node: { kind: named ? "object" : "array", text: text.slice(start, at + 1), items }, end: at + 1 };
}

// The member of this name of an object, or undefined.
export function member(node, name) {
  return node?.items.findLast((item) => item.name !== null && plain(item.name) === name)?.node;
}

function plain(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

// A value as the page computes with it; undefined: there is none.
export function valueOf(node) {
  return node === undefined ? undefined : plain(node.text);
}

// A value on one line, as a cell shows it: a text without its quotes.
export function cell(node) {
  if (node === undefined) return "";
  return node.kind === "string" ? String(plain(node.text)) : line(node.text, 400);
}

// The beginning of a JSON text on one line.
export function line(text, most) {
  const begun = text.length > most ? `${text.slice(0, most)} …` : text;
  return begun.replace(/\s*[\r\n]\s*/g, " ");
}

// The lines of a value: { path, indent, name, text, comma }. The path is a JSON Pointer; elements of a list are all at `-`.
export function lines(node, path = "", indent = 0, name = null, comma = false) {
  const opened = node.kind === "object" ? "{" : "[";
  const closed = node.kind === "object" ? "}" : "]";
  if (node.items.length === 0) {
    const empty = node.kind === "object" || node.kind === "array";
    return [{ path, indent, name, kind: node.kind, text: empty ? opened + closed : node.text, comma }];
  }
  const found = [{ path, indent, name, kind: "open", text: opened, comma: false }];
  node.items.forEach((item, at) => {
    const step = item.name === null ? "-" : String(plain(item.name)).replaceAll("~", "~0").replaceAll("/", "~1");
    for (const one of lines(item.node, `${path}/${step}`, indent + 1, item.name, at < node.items.length - 1)) found.push(one);
  });
  found.push({ path, indent, name: null, kind: "close", text: closed, comma });
  return found;
}

// One line of `lines`, in colours.
export function shown({ indent, name, kind, text, comma }) {
  const key = name === null ? [] : [h("span", { class: "json-name" }, name), ": "];
  const token = kind === "open" || kind === "close" ? text : h("span", { class: `json-${kind}` }, text);
  return ["  ".repeat(indent), key, token, comma ? "," : ""];
}

// A value, indented; a very long one as it came.
export function pretty(node) {
  const pre = h("pre", { class: "json", tabindex: "0" });
  if (node.text.length > HIGHLIGHT_MAX) pre.append(node.text);
  else pre.append(...lines(node).flatMap((one) => [h("span", { class: "json-line" }, shown(one)), "\n"]));
  return pre;
}
