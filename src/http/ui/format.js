// Numbers and times as people read them.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
export const NONE = "–";

// Three digits that count, so that a number keeps its width while it changes.
function three(value) {
  const size = Math.abs(value);
  return value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : 2);
}

function scaled(value, units, step) {
  let at = 0;
  // 999.7 would be written as 1000.
  while (Math.abs(value) >= step - step / 2000 && at < units.length - 1) {
    value /= step;
    at += 1;
  }
  return [value, units[at]];
}

// All digits: 1,234,567.
export function count(value) {
  return Number.isFinite(value) ? whole.format(value) : NONE;
}

// 1 record, 2 records
export function many(value, word) {
  return `${count(value)} ${word}${value === 1 ? "" : "s"}`;
}

// 1.85 M
export function short(value) {
  if (!Number.isFinite(value)) return NONE;
  const [number, unit] = scaled(value, ["", "k", "M", "G", "T"], 1000);
  if (unit === "") return Number.isInteger(number) ? String(number) : number < 10 ? number.toFixed(1) : number.toFixed(0);
  return `${three(number)} ${unit}`;
}

// 1.50 GiB
export function bytes(value) {
  if (!Number.isFinite(value)) return NONE;
  const [number, unit] = scaled(value, ["B", "KiB", "MiB", "GiB", "TiB"], 1024);
  return unit === "B" ? `${number.toFixed(0)} B` : `${three(number)} ${unit}`;
}

// Seconds as µs, ms or s.
export function duration(seconds) {
  if (!Number.isFinite(seconds)) return NONE;
  if (seconds < 0.001) return `${(seconds * 1e6).toFixed(0)} µs`;
  if (seconds < 1) return `${three(seconds * 1e3)} ms`;
  return `${three(seconds)} s`;
}

export function percent(ratio) {
  return Number.isFinite(ratio) ? `${(ratio * 100).toFixed(0)} %` : NONE;
}

// A time of the server, in the reader's own zone: 14:05:09.123, with the date before it where it is not today's.
export function time(text) {
  const at = new Date(text);
  if (Number.isNaN(at.getTime())) return text ?? NONE;
  const two = (number) => String(number).padStart(2, "0");
  const clock = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  const now = new Date();
  const today = at.toDateString() === now.toDateString();
  const date = `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
  return today ? `${clock}.${String(at.getMilliseconds()).padStart(3, "0")}` : `${date} ${clock}`;
}

// 12 s, 3 min, 5 h, 2 d
export function age(seconds) {
  if (!Number.isFinite(seconds)) return NONE;
  if (seconds < 60) return `${Math.max(0, Math.round(seconds))} s`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} d`;
}

const UNITS = { s: 1, m: 60, min: 60, h: 3600, d: 86400 };

// What REST takes as a time: as it is, or as how long ago it was (15m, 2h). Empty: none.
export function asked(text, now = Date.now()) {
  const trimmed = text.trim();
  const ago = /^(\d+(?:\.\d+)?)\s*(s|m|min|h|d)(?:\s+ago)?$/.exec(trimmed);
  if (ago) return new Date(now - Number(ago[1]) * UNITS[ago[2]] * 1000).toISOString();
  return trimmed === "now" ? new Date(now).toISOString() : trimmed;
}

// Bytes as the configuration writes them: 6GiB, or digits alone.
export function configured(text) {
  const parts = /^(\d+)\s*(KiB|MiB|GiB|TiB)?$/.exec(text ?? "");
  return parts ? Number(parts[1]) * 1024 ** ["", "KiB", "MiB", "GiB", "TiB"].indexOf(parts[2] ?? "") : NaN;
}
