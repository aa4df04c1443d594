// What `/metrics` says: Prometheus text, and what is computed from two scrapes.

const SERIES = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g;
const ESCAPES = { n: "\n", "\\": "\\", '"': '"' };

// The series by name: lists of { labels, value }.
export function parse(text) {
  const found = new Map();
  for (const line of text.split("\n")) {
    const parts = line.startsWith("#") ? null : SERIES.exec(line);
    if (!parts) continue;
    const labels = {};
    for (const [, name, value] of (parts[2] ?? "").matchAll(LABEL)) {
      labels[name] = value.replace(/\\(.)/g, (_, letter) => ESCAPES[letter] ?? letter);
    }
    const value = parts[3] === "+Inf" ? Infinity : Number(parts[3]);
    if (!found.has(parts[1])) found.set(parts[1], []);
    found.get(parts[1]).push({ labels, value });
  }
  return found;
}

function sum(found, name, wanted = () => true) {
  const series = found.get(name)?.filter(({ labels }) => wanted(labels));
  return series?.length ? series.reduce((total, { value }) => total + value, 0) : NaN;
}

// Those that are known, together.
function total(values) {
  return values.filter(Number.isFinite).reduce((all, value) => all + value, 0);
}

// Counts up to each bound, in the order of the bounds.
function buckets(found, name, wanted = () => true) {
  const counts = new Map();
  for (const { labels, value } of found.get(`${name}_bucket`) ?? []) {
    if (!wanted(labels)) continue;
    const bound = labels.le === "+Inf" ? Infinity : Number(labels.le);
    counts.set(bound, (counts.get(bound) ?? 0) + value);
  }
  return [...counts].sort(([a], [b]) => a - b);
}

// A scrape, as the console uses it. `at`: of the page's clock, in ms.
export function sample(text, at) {
  const found = parse(text);
  const shards = (found.get("ttdust_shard_queue_depth") ?? []).map(({ labels }) => shard(found, labels.shard));
  const backend = found.get("ttdust_io_backend")?.[0]?.labels ?? {};
  return {
    at,
    accepted: sum(found, "ttdust_ingestion_records_accepted_total"),
    refused: total([
      sum(found, "ttdust_ingestion_validation_errors_total"),
      sum(found, "ttdust_producer_records_total", (labels) => labels.outcome === "rejected"),
    ]),
    log: sum(found, "ttdust_wal_bytes_total"),
    unflushed: sum(found, "ttdust_ingestion_buffer_records"),
    buffer: sum(found, "ttdust_ingestion_buffer_size_bytes"),
    acks: buckets(found, "ttdust_ingestion_ack_latency_seconds"),
    rest: buckets(found, "ttdust_producer_latency_seconds", (labels) => labels.source === "http"),
    memory: sum(found, "process_resident_memory_bytes"),
    cpu: sum(found, "process_cpu_seconds_total"),
    files: sum(found, "process_open_fds"),
    version: found.get("ttdust_build_info")?.[0]?.labels.version ?? "",
    backend: { kind: backend.kind ?? "", reason: backend.reason ?? "" },
    shards,
  };
}

function shard(found, name) {
  const ours = (labels) => labels.shard === name;
  const of = (metric) => sum(found, `ttdust_${metric}`, ours);
  return {
    name,
    accepted: of("ingestion_records_accepted_total"),
    busy: of("shard_busy_ratio"),
    queue: of("shard_queue_depth"),
    memory: of("shard_memory_bytes"),
    log: of("wal_used_bytes"),
    connections: of("grpc_connections_active"),
    tails: of("tail_active"),
    writes: buckets(found, "ttdust_wal_flush_latency_seconds", ours),
  };
}

// What came between two counts, or NaN where the counter began anew.
export function grown(before, after) {
  return after >= before ? after - before : NaN;
}

// The latencies that came between two scrapes: [[bound, count up to it]].
export function between(before, after) {
  const known = new Map(before);
  const grew = after.map(([bound, count]) => [bound, grown(known.get(bound) ?? 0, count)]);
  return grew.some(([, count]) => Number.isNaN(count)) ? [] : grew;
}

// The value under which this share of the latencies lies, straight within its bucket; NaN where there are none. Past the last bound
// nothing is known but that: it is Infinity.
export function quantile(counts, share) {
  const total = counts.at(-1)?.[1] ?? 0;
  if (total === 0) return NaN;
  const rank = share * total;
  let [below, under] = [0, 0];
  for (const [bound, count] of counts) {
    if (count >= rank && count > under) {
      return bound === Infinity ? Infinity : below + ((bound - below) * (rank - under)) / (count - under);
    }
    [below, under] = [bound, count];
  }
  return NaN;
}
