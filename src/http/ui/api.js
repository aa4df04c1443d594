// The one way to the server: REST, with the key that was pasted. The key is in this tab's session storage and in a header, never in
// a URL. Each refusal becomes words.

const STORED = "ttdust.key";
const HERE = new URL("../", import.meta.url);
const PATIENCE = 15_000;

// "key": it is another one, or the same is to be tried again; "other": what was shown with the key before is not for this one;
// "away", "back": the server went, or is there again.
export const changes = new EventTarget();

let key = stored();
let away = null;
// What the server said of this credential. Nothing else is asked with it: each try would count as a wrong one.
let refused = null;

// A browser that keeps nothing for the page lets it live without.
function stored() {
  try {
    return sessionStorage.getItem(STORED);
  } catch {
    return null;
  }
}

function store() {
  try {
    if (key) sessionStorage.setItem(STORED, key);
    else sessionStorage.removeItem(STORED);
  } catch {
    // It is kept for as long as the page is open.
  }
}

export function hasKey() {
  return Boolean(key);
}

// What is wrong with a text as a key; null: nothing.
export function faultOfKey(text) {
  if (text === "") return "Paste a key first.";
  return /^[\x21-\x7e]+$/.test(text) ? null : "A key has neither blanks nor letters beyond ASCII: copy it once more.";
}

export function setKey(text) {
  const before = key;
  key = text || null;
  refused = null;
  store();
  changes.dispatchEvent(new Event("key"));
  if (before !== null && before !== key) changes.dispatchEvent(new Event("other"));
}

// Asks with the same credential once more.
export function tryAgain() {
  refused = null;
  changes.dispatchEvent(new Event("key"));
}

// Since when the server has not answered, in ms of the page's clock; null: it does.
export function awaySince() {
  return away;
}

// The server did not answer.
export class Away extends Error {}

// The server answered that it does not do it.
export class Refusal extends Error {
  constructor(status, problem, retryAfter) {
    super(problem.detail ?? "");
    this.status = status;
    this.code = problem.code ?? "";
    this.errors = Array.isArray(problem.errors) ? problem.errors : [];
    this.retryAfter = retryAfter;
    this.withKey = Boolean(key);
  }
}

function gone() {
  if (away !== null) return;
  away = performance.now();
  changes.dispatchEvent(new Event("away"));
}

function there() {
  if (away === null) return;
  away = null;
  refused = null;
  changes.dispatchEvent(new Event("back"));
}

async function refusal(response) {
  let problem = {};
  try {
    problem = await response.json();
  } catch {
    // Whatever stands between answered in another language: the status says enough.
  }
  const seconds = Number(response.headers.get("retry-after"));
  return new Refusal(response.status, problem ?? {}, Number.isFinite(seconds) ? seconds : 0);
}

// Sends a request and gives its answer, if that is a success or one of `also`. `open`: what needs no credential gets none.
export async function send(path, { signal, method, body, headers, open, also = [], patience = PATIENCE } = {}) {
  if (refused && !open) throw refused;
  const sent = new Headers(headers);
  if (key && !open) sent.set("authorization", `Bearer ${key}`);
  if (body !== undefined) sent.set("content-type", "application/json");
  const limits = [signal, patience && AbortSignal.timeout(patience)].filter(Boolean);
  const shown = key;
  let response;
  try {
    response = await fetch(new URL(path, HERE), {
      method: method ?? "GET",
      headers: sent,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: AbortSignal.any(limits),
      cache: "no-store",
      redirect: "error",
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    gone();
    throw new Away();
  }
  there();
  if (response.ok || also.includes(response.status)) return response;
  const error = await refusal(response);
  if (response.status === 401 && shown === key) refused = error;
  throw error;
}

// The text of an answer: a connection that breaks within it is a server that went.
export async function text(path, options) {
  const response = await send(path, options);
  try {
    return await response.text();
  } catch (error) {
    if (options?.signal?.aborted) throw error;
    gone();
    throw new Away();
  }
}

export async function json(path, options) {
  return JSON.parse(await text(path, options));
}

// Of calls that overlap only the last one's answer counts: the others give null.
export function newest(ask) {
  let calls = 0;
  return async (...given) => {
    calls += 1;
    const mine = calls;
    const answer = await ask(...given);
    return mine === calls ? answer : null;
  };
}

// A path from parts, each of which may hold anything.
export function path(...parts) {
  return parts.map(encodeURIComponent).join("/");
}

export function api(...parts) {
  return `api/v1/${path(...parts)}`;
}

// Parameters that are set, as the end of a path.
export function query(parameters) {
  const set = Object.entries(parameters).filter(([, value]) => value !== undefined && value !== null && value !== "");
  return set.length === 0 ? "" : `?${new URLSearchParams(set)}`;
}

// What went wrong, in words.
export function words(error) {
  if (error instanceof Away) return "The server does not answer. The console goes on by itself as soon as it does.";
  if (!(error instanceof Refusal)) return `The console itself is at fault: ${error?.message ?? error}`;
  const more = error.message ? ` ${sentence(error.message)}` : "";
  const later = error.retryAfter > 0 ? ` It may be asked again in ${error.retryAfter} s.` : "";
  switch (error.status) {
    case 401:
      return error.withKey
        ? "The server does not take this key: it is wrong, has ended or was deleted. Paste another one."
        : "The server wants to know who asks. Paste an API key to see this.";
    case 403:
      return `This is not permitted${error.withKey ? " with this key" : ""}.${more}`;
    case 404:
      return `There is no such thing${error.withKey ? ", or not for this key" : ""}.${more}`;
    case 409:
      return `It cannot be done as things stand.${more}`;
    case 429:
      return `The server is asked too much at once.${more}${later}`;
    case 503:
      return `The server cannot do this just now.${more}${later}`;
    case 504:
      return `It took longer than it may.${more}`;
    case 400:
      return `The server does not understand this.${more}`;
    default:
      return `The server refused with status ${error.status}.${more}`;
  }
}

function sentence(detail) {
  return detail.charAt(0).toUpperCase() + detail.slice(1) + (/[.!?]$/.test(detail) ? "" : ".");
}

// Waits, less long when the key changes, the server is back or the page is looked at again.
export function pause(seconds, signal) {
  return new Promise((done) => {
    const ends = new AbortController();
    const end = () => {
      clearTimeout(timer);
      ends.abort();
      done();
    };
    const timer = setTimeout(end, seconds * 1000);
    const within = { signal: ends.signal };
    for (const event of ["key", "back"]) changes.addEventListener(event, end, within);
    document.addEventListener("visibilitychange", () => document.hidden || end(), within);
    signal.addEventListener("abort", end, within);
    if (signal.aborted) end();
  });
}

// Does it again and again until `signal`; `failed` hears how each time went, null: well. A page that nobody looks at asks less.
export async function every(seconds, signal, job, failed = () => {}) {
  while (!signal.aborted) {
    let wait = document.hidden ? seconds * 5 : seconds;
    try {
      await job();
      failed(null);
    } catch (error) {
      if (signal.aborted) return;
      failed(error);
      wait = Math.max(wait, error.retryAfter ?? 0);
    }
    await pause(wait, signal);
  }
}
