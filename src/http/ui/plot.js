// Lines over the last five minutes, in SVG.

import { h, replace, setText, svg } from "./dom.js";
import { GAP_MS, KEPT_MS } from "./history.js";

const TOP = 8;
const BOTTOM = 18;
const LEFT = 4;

// The next of 1, 2, 2.5, 5, 10, … at or over a value.
export function ceiling(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 2.5, 5, 10].map((step) => step * power).find((step) => step >= value * (1 - 1e-9));
}

// Runs of neighbouring points that have a value.
function runs(points, pick) {
  const found = [];
  let last = null;
  for (const point of points) {
    const value = pick(point);
    if (!Number.isFinite(value)) {
      last = null;
      continue;
    }
    if (last === null || point.at - last > GAP_MS) found.push([]);
    found.at(-1).push([point.at, value]);
    last = point.at;
  }
  return found;
}

function path(run, x, y) {
  return run.map(([at, value], n) => `${n === 0 ? "M" : "L"}${x(at).toFixed(1)} ${y(value).toFixed(1)}`).join("");
}

// A plot of `series`: { title, class, pick }. `show` writes a value; what is pointed at is told in the legend.
export function plot(label, series, show, height = 180) {
  const grid = svg("g");
  const areas = svg("g");
  const marks = svg("line", { class: "cursor", y1: TOP, y2: height - BOTTOM, visibility: "hidden" });
  const root = svg("svg", { class: "plot", role: "img", "aria-label": label, height, width: "100%" }, grid, areas, marks);
  const values = series.map((one) => h("span", { class: "value" }, "–"));
  const when = h("span", { class: "when" }, "now");
  const keys = series.map((one, at) =>
    h("span", { class: `key ${one.class}` }, h("span", { class: "swatch" }), one.title, " ", values[at]),
  );
  const legend = h("div", { class: "legend" }, keys, when);
  let known = [];
  let width = 0;
  let pointed = null;
  const end = () => known.at(-1)?.at ?? 0;
  const x = (at) => LEFT + ((at - end() + KEPT_MS) / KEPT_MS) * (width - 2 * LEFT);

  function draw() {
    if (width === 0) return;
    const most = ceiling(Math.max(...known.flatMap((point) => series.map(({ pick }) => pick(point))).filter(Number.isFinite), 0));
    const y = (value) => height - BOTTOM - (value / most) * (height - BOTTOM - TOP);
    replace(grid, rules(most, y, width, show), minutes(x, width, height));
    replace(areas, series.map((one, at) => line(one, at, x, y)));
    tell();
  }

  function line(one, at, x, y) {
    return runs(known, one.pick).flatMap((run) => {
      const d = path(run, x, y);
      const [first, last] = [x(run[0][0]), x(run.at(-1)[0])].map((place) => place.toFixed(1));
      const area = svg("path", { class: `area ${one.class}`, d: `${d}L${last} ${y(0)}L${first} ${y(0)}Z` });
      const stroke = svg("path", { class: `line ${one.class}`, d: run.length === 1 ? `${d}h1` : d });
      return at === 0 ? [area, stroke] : [stroke];
    });
  }

  // The values at the cursor, else the newest.
  function tell() {
    const at = pointed === null ? end() : end() - KEPT_MS + ((pointed - LEFT) / (width - 2 * LEFT)) * KEPT_MS;
    const nearest = known.reduce((best, point) => (best && Math.abs(best.at - at) <= Math.abs(point.at - at) ? best : point), null);
    series.forEach((one, n) => setText(values[n], nearest ? show(one.pick(nearest)) : "–"));
    const ago = nearest ? Math.round((end() - nearest.at) / 1000) : 0;
    setText(when, pointed === null ? "now" : `${ago} s ago`);
    marks.setAttribute("visibility", pointed === null ? "hidden" : "visible");
    if (pointed !== null) for (const name of ["x1", "x2"]) marks.setAttribute(name, pointed);
  }

  root.addEventListener("pointermove", (event) => {
    const box = root.getBoundingClientRect();
    pointed = Math.min(Math.max(event.clientX - box.left, LEFT), width - LEFT);
    tell();
  });
  root.addEventListener("pointerleave", () => {
    pointed = null;
    tell();
  });
  new ResizeObserver(([entry]) => {
    width = Math.floor(entry.contentRect.width);
    draw();
  }).observe(root);
  return {
    root: h("div", { class: "plot-box" }, legend, root),
    set(points) {
      known = points;
      draw();
    },
  };
}

function rules(most, y, width, show) {
  return [0, 0.5, 1].map((share) => {
    const at = Math.round(y(most * share)) + 0.5;
    const text = share === 0 ? null : svg("text", { x: LEFT, y: at + 12, class: "scale" }, show(most * share));
    return svg("g", null, svg("line", { x1: 0, x2: width, y1: at, y2: at, class: "rule" }), text);
  });
}

function minutes(x, width, height) {
  const places = width < 420 ? [-5, -3, -1, 0] : [-5, -4, -3, -2, -1, 0];
  return places.map((minute) => {
    const at = LEFT + ((minute + 5) / 5) * (width - 2 * LEFT);
    const anchor = minute === -5 ? "start" : minute === 0 ? "end" : "middle";
    const words = minute === 0 ? "now" : `${minute} min`.replace("-", "−");
    return svg("text", { x: at, y: height - 4, "text-anchor": anchor, class: "scale" }, words);
  });
}

// A line without axes, for a cell of a table: of values from 0 to the highest, or to `most`.
export function spark(label, most = null, width = 96, height = 22) {
  const line = svg("path", { class: "line one" });
  const area = svg("path", { class: "area one" });
  const box = { width, height, viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none" };
  const root = svg("svg", { class: "spark", role: "img", "aria-label": label, ...box });
  root.append(area, line);
  return {
    root,
    // [[at, value]], up to the time `end`.
    set(values, end) {
      const points = values.map(([at, value]) => ({ at, value }));
      const top = most ?? Math.max(...points.map((point) => point.value).filter(Number.isFinite), 1e-9);
      const x = (at) => ((at - end + KEPT_MS) / KEPT_MS) * (width - 1);
      const y = (value) => height - 1 - Math.min(value / top, 1) * (height - 3);
      const found = runs(points, (point) => point.value);
      const closed = (run) => `${path(run, x, y)}L${x(run.at(-1)[0]).toFixed(1)} ${height}L${x(run[0][0]).toFixed(1)} ${height}Z`;
      line.setAttribute("d", found.map((run) => path(run, x, y)).join(""));
      area.setAttribute("d", found.map(closed).join(""));
    },
  };
}
