//! What `/metrics` shows: the control plane's own counters, and at each scrape the shards' and the process's.
//!
//! Label sets are bounded: shards, routes, status classes. Every name stands in [`METRICS`]; a test holds the two together.

mod process;
mod queries;
mod rates;
mod shards;
mod tls;
mod traces;
mod upkeep;

use std::{
    fmt::Write,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use prometheus_client::{
    encoding,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use ttdust_shards::{
    ids::ShardId, memory::Pool, query::QueryAnswer, rate::Category, runtime::IoBackend, tls::HandshakeOutcome,
};

use crate::{catalog::PgFigures, link::ShardLink, objects::S3Figures, traces::TraceFigures};

pub use upkeep::UpkeepNumbers;

type Labels = Vec<(&'static str, String)>;

const SECONDS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
const ROWS: [f64; 6] = [0.0, 1.0, 10.0, 100.0, 1000.0, 10_000.0];
const PARTITIONS: [f64; 7] = [0.0, 1.0, 2.0, 5.0, 24.0, 168.0, 744.0];

/// A metric as the reference shows it.
#[derive(Debug, Clone, Copy)]
pub struct MetricInfo {
    /// Its name in Prometheus text.
    pub name: &'static str,
    /// counter, gauge or histogram.
    pub kind: &'static str,
    /// Its labels, separated by commas.
    pub labels: &'static str,
    /// What it counts.
    pub meaning: &'static str,
}

const fn info(name: &'static str, kind: &'static str, labels: &'static str, meaning: &'static str) -> MetricInfo {
    MetricInfo { name, kind, labels, meaning }
}

/// The metrics of the control plane and the process; the shards' are in a table of their own.
const CONTROL_METRICS: &[MetricInfo] = &[
    info("ttdust_build_info", "gauge", "version", "always 1"),
    info("ttdust_io_backend", "gauge", "kind,reason", "always 1: what the shards run on, and why"),
    info("ttdust_http_connections_active", "gauge", "", "open REST connections"),
    info("ttdust_http_connections_refused_total", "counter", "", "REST connections over the limit of their address"),
    info("ttdust_cp_requests_total", "counter", "method,route,status", "REST requests answered"),
    info("ttdust_auth_attempts_total", "counter", "result", "REST calls with authentication on"),
    info("ttdust_query_requests_total", "counter", "status", "time-range queries and lookups"),
    info("ttdust_query_latency_seconds", "histogram", "", "a query from its arrival to its answer"),
    info("ttdust_query_execution_duration_seconds", "histogram", "", "a query's time on a worker"),
    info(
        "ttdust_query_memory_bytes",
        "gauge",
        "",
        "memory that queries hold now, with answers that their clients have not taken yet",
    ),
    info("ttdust_query_memory_limit_bytes", "gauge", "", "what all queries may hold: query.memory_total_bytes"),
    info("ttdust_query_records_returned", "histogram", "", "records in an answer"),
    info("ttdust_query_partitions_scanned", "histogram", "", "hours looked into for an answer"),
    info(
        "ttdust_query_cache_hits_total",
        "counter",
        "cache_level",
        "parts of files that were in a cache: memory, or redis",
    ),
    info("ttdust_query_cache_misses_total", "counter", "cache_level", "parts of files that were not"),
    info(
        "ttdust_producer_records_total",
        "counter",
        "source,outcome",
        "records that did not come over gRPC: accepted, duplicate, rejected, or refused for now",
    ),
    info(
        "ttdust_producer_latency_seconds",
        "histogram",
        "source",
        "one request of them, from its arrival to its outcome",
    ),
    info("ttdust_storage_files_total", "counter", "", "files committed since the start"),
    info("ttdust_storage_bytes_total", "counter", "", "bytes of files committed since the start"),
    info("ttdust_storage_commit_retries_total", "counter", "", "flushes whose commit failed and was tried again"),
    info(
        "ttdust_compaction_runs_total",
        "counter",
        "outcome",
        "merges of files: ok, overtaken by another change, put_off while catalog or store was away, or error",
    ),
    info("ttdust_compaction_duration_seconds", "histogram", "", "a merge of files"),
    info("ttdust_compaction_files_total", "counter", "", "files that became part of a merged one"),
    info("ttdust_compaction_bytes_total", "counter", "direction", "bytes of files merged, read and written"),
    info("ttdust_storage_dropped_files_total", "counter", "", "files that were past their retention"),
    info("ttdust_storage_dropped_bytes_total", "counter", "", "bytes of files that were past their retention"),
    info("ttdust_storage_removed_objects_total", "counter", "", "objects removed once nobody could read them any more"),
    info("ttdust_storage_orphans_total", "counter", "", "objects given up that no list named"),
    info("ttdust_storage_manifests_total", "counter", "", "manifests written"),
    info("ttdust_wal_archived_segments_total", "counter", "", "log segments copied to the object store"),
    info("ttdust_wal_archived_bytes_total", "counter", "", "bytes of these copies, compressed"),
    info("ttdust_wal_archive_backlog", "gauge", "", "full log segments that wait to be copied; the log keeps them"),
    info(
        "ttdust_upkeep_failures_total",
        "counter",
        "task",
        "passes of the upkeep that were cut short by an error, and failed tries to archive",
    ),
    info(
        "ttdust_tls_handshakes_total",
        "counter",
        "port,outcome",
        "starts of connections with TLS, or with TLS on the wrong side alone",
    ),
    info(
        "ttdust_tls_certificate_not_after_timestamp_seconds",
        "gauge",
        "",
        "when the server's certificate ends, in Unix time",
    ),
    info("ttdust_rate_limit_hits_total", "counter", "category", "requests and calls refused for a rate limit"),
    info("ttdust_redis_latency_seconds", "histogram", "", "an answer of Redis, or its time limit"),
    info("ttdust_reloads_total", "counter", "result", "reloads by SIGHUP"),
    info("ttdust_pg_connections_active", "gauge", "", "connections to Postgres that a catalog call uses"),
    info("ttdust_pg_query_latency_seconds", "histogram", "", "a catalog call to Postgres"),
    info("ttdust_s3_operations_total", "counter", "operation,outcome", "requests to the S3 store, each try"),
    info("ttdust_s3_latency_seconds", "histogram", "operation", "one request to the S3 store"),
    info("ttdust_s3_bytes_total", "counter", "direction", "bytes of bodies sent to the S3 store and received"),
    info("ttdust_s3_breaker_open", "gauge", "", "1 while the S3 store counts as down and is asked seldom"),
    info("ttdust_traces_exported_total", "counter", "", "spans that the collector of traces took"),
    info(
        "ttdust_traces_dropped_total",
        "counter",
        "",
        "spans that it did not get: no room while it was slow or away, or it refused them",
    ),
    info("ttdust_traces_export_failures_total", "counter", "", "requests to the collector of traces that failed"),
    info(
        "ttdust_shard_stall_seconds",
        "gauge",
        "shard",
        "for how long the shard has not had a turn by now; 0 while it has one several times a second",
    ),
    info("process_resident_memory_bytes", "gauge", "", "resident memory of the process"),
    info("process_cpu_seconds_total", "counter", "", "CPU time of the process"),
    info(
        "ttdust_log_lines_dropped_total",
        "counter",
        "",
        "log lines not written because whoever reads stderr was too slow",
    ),
    info("process_open_fds", "gauge", "", "open file descriptors"),
];

/// Every metric, sorted by name.
#[must_use]
pub fn metrics() -> Vec<MetricInfo> {
    let mut all: Vec<_> = CONTROL_METRICS.iter().copied().chain(shards::infos()).collect();
    all.sort_by_key(|metric| metric.name);
    all
}

/// What the page of metrics begins with.
const HEAD: &str = "# Metrics\n\nMade by `ttdust metrics reference`: what `/metrics` shows, as Prometheus text, or as OpenMetrics where \
                    that is asked for. Times are in seconds, sizes in bytes. Labels have few values each; `shard` is a number from 0.\n\n\
                    | metric | kind | labels | meaning |\n|---|---|---|---|\n";

/// Every metric as a page of Markdown.
#[must_use]
pub fn reference() -> String {
    let mut text = String::from(HEAD);
    for metric in metrics() {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "| `{}` | {} | {} | {} |", metric.name, metric.kind, metric.labels, metric.meaning);
    }
    text
}

/// The control plane's own counters.
#[derive(Debug)]
pub struct ControlMetrics {
    http_connections: Gauge,
    http_refused: Counter,
    requests: Family<Labels, Counter>,
    auth_attempts: Family<Labels, Counter>,
    queries: Family<Labels, Counter>,
    query_latency: Histogram,
    query_execution: Histogram,
    query_records: Histogram,
    query_partitions: Histogram,
    query_memory: queries::QueryMemory,
    cache_hits: Family<Labels, Counter>,
    cache_misses: Family<Labels, Counter>,
    produced: Family<Labels, Counter>,
    produced_in: Family<Labels, Histogram, fn() -> Histogram>,
    files: Counter,
    file_bytes: Counter,
    commit_retries: Counter,
    reloads: Family<Labels, Counter>,
    redis_latency: Histogram,
    rates: Arc<rates::RateNumbers>,
    tls: Arc<tls::TlsNumbers>,
    postgres: PgFigures,
    s3: S3Figures,
    upkeep: upkeep::UpkeepNumbers,
    traces: TraceFigures,
    stalls: Family<Labels, Gauge<f64, AtomicU64>>,
}

impl Default for ControlMetrics {
    fn default() -> Self {
        let metrics = Self {
            http_connections: Gauge::default(),
            http_refused: Counter::default(),
            requests: Family::default(),
            auth_attempts: Family::default(),
            queries: Family::default(),
            query_latency: Histogram::new(SECONDS),
            query_execution: Histogram::new(SECONDS),
            query_records: Histogram::new(ROWS),
            query_partitions: Histogram::new(PARTITIONS),
            query_memory: Default::default(),
            cache_hits: Family::default(),
            cache_misses: Family::default(),
            produced: Family::default(),
            produced_in: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            files: Counter::default(),
            file_bytes: Counter::default(),
            commit_retries: Counter::default(),
            reloads: Family::default(),
            redis_latency: Histogram::new(SECONDS),
            rates: Arc::default(),
            tls: Arc::default(),
            postgres: PgFigures::default(),
            s3: S3Figures::default(),
            upkeep: upkeep::UpkeepNumbers::default(),
            traces: TraceFigures::default(),
            stalls: Family::default(),
        };
        // A rate over a series needs its zero: it is there before the first event.
        for result in ["ok", "refused"] {
            drop(metrics.auth_attempts.get_or_create(&vec![("result", result.to_owned())]));
            drop(metrics.reloads.get_or_create(&vec![("result", result.to_owned())]));
        }
        for status in ["ok", "overloaded", "memory", "timeout", "cancelled", "unavailable", "error"] {
            drop(metrics.queries.get_or_create(&vec![("status", status.to_owned())]));
        }
        metrics.cached("memory", 0, 0);
        metrics.cached("redis", 0, 0);
        metrics.produced("http", "accepted", 0);
        drop(metrics.produced_in.get_or_create(&vec![("source", "http".to_owned())]));
        metrics
    }
}

impl ControlMetrics {
    /// A query was answered or failed.
    pub fn query_done(&self, status: &'static str, latency: Duration, answer: Option<&QueryAnswer>) {
        self.queries.get_or_create(&vec![("status", status.to_owned())]).inc();
        self.query_latency.observe(latency.as_secs_f64());
        if let Some(answer) = answer {
            self.query_records.observe(answer.records.len() as f64);
            self.query_partitions.observe(answer.partitions_scanned as f64);
            self.cached("memory", answer.cache_hits, answer.cache_misses);
        }
    }

    /// So many parts of files were in the cache of this level, and so many were not.
    pub fn cached(&self, level: &'static str, hits: u64, misses: u64) {
        let labels = vec![("cache_level", level.to_owned())];
        self.cache_hits.get_or_create(&labels).inc_by(hits);
        self.cache_misses.get_or_create(&labels).inc_by(misses);
    }

    /// So many records that did not come over gRPC had this outcome.
    pub fn produced(&self, source: &'static str, outcome: &'static str, records: u32) {
        let labels = vec![("source", source.to_owned()), ("outcome", outcome.to_owned())];
        self.produced.get_or_create(&labels).inc_by(records.into());
    }

    /// A request of such records had its outcome after this time.
    pub fn produced_in(&self, source: &'static str, latency: Duration) {
        self.produced_in.get_or_create(&vec![("source", source.to_owned())]).observe(latency.as_secs_f64());
    }

    /// A worker was done with a query.
    pub fn query_executed(&self, duration: Duration) {
        self.query_execution.observe(duration.as_secs_f64());
    }

    /// Queries hold their memory in this pool.
    pub fn query_memory_is(&self, pool: &Arc<Pool>) {
        // There is one set of queries a server.
        let _ = self.query_memory.set(Arc::clone(pool));
    }

    /// Files were committed.
    pub fn files_committed(&self, files: u64, bytes: u64) {
        self.files.inc_by(files);
        self.file_bytes.inc_by(bytes);
    }

    /// Where the catalog counts what it asks of Postgres.
    #[must_use]
    pub fn postgres(&self) -> PgFigures {
        self.postgres.clone()
    }

    /// Where the objects' client counts what it asks of S3.
    #[must_use]
    pub fn s3(&self) -> S3Figures {
        self.s3.clone()
    }

    /// Where what becomes of traces is counted.
    #[must_use]
    pub fn traces(&self) -> TraceFigures {
        self.traces.clone()
    }

    /// A shard has had no turn for so long; zero: it goes on.
    pub fn shard_stalled(&self, shard: ShardId, stalled: Duration) {
        self.stalls.get_or_create(&vec![("shard", shard.to_string())]).set(stalled.as_secs_f64());
    }

    /// Where the upkeep of the files is counted.
    #[must_use]
    pub fn upkeep(&self) -> &UpkeepNumbers {
        &self.upkeep
    }

    /// A commit failed and is tried again.
    pub fn flush_retried(&self) {
        self.commit_retries.inc();
    }

    /// A REST connection was opened; closed when the guard goes.
    #[must_use]
    pub fn http_connection(self: &Arc<Self>) -> ConnectionGuard {
        self.http_connections.inc();
        ConnectionGuard(Arc::clone(self))
    }

    /// A REST connection was refused: its address has as many as it may.
    pub fn http_connection_refused(&self) {
        self.http_refused.inc();
    }

    /// A REST request was answered. `route` is a template, never a path that a client chose.
    pub fn request_done(&self, method: &'static str, route: &str, status: u16) {
        let labels = vec![("method", method.to_owned()), ("route", route.to_owned()), ("status", status.to_string())];
        self.requests.get_or_create(&labels).inc();
    }

    /// A REST call was let in or not.
    pub fn auth_attempt(&self, result: &'static str) {
        self.auth_attempts.get_or_create(&vec![("result", result.to_owned())]).inc();
    }

    /// A call was refused for a rate limit.
    pub fn rate_limited(&self, category: Category) {
        self.rates.count(category);
    }

    /// Redis answered, or its time was up.
    pub fn redis_answered(&self, latency: Duration) {
        self.redis_latency.observe(latency.as_secs_f64());
    }

    /// A REST connection's start ended in this way, as far as TLS goes.
    pub fn tls_handshake(&self, outcome: HandshakeOutcome) {
        self.tls.count(outcome);
    }

    /// A certificate that ends then, Unix µs, is shown from now on.
    pub fn certificate_in_force(&self, not_after_unix_micros: i64) {
        self.tls.set_not_after(not_after_unix_micros.div_euclid(1_000_000));
    }

    /// A reload was asked for and done (`ok`), or not (`refused`).
    pub fn reload_done(&self, result: &'static str) {
        self.reloads.get_or_create(&vec![("result", result.to_owned())]).inc();
    }

    fn register(&self, registry: &mut Registry) {
        registry.register("http_connections_active", meaning("http_connections_active"), self.http_connections.clone());
        let name = "http_connections_refused";
        registry.register(name, meaning("http_connections_refused_total"), self.http_refused.clone());
        registry.register("cp_requests", meaning("cp_requests_total"), self.requests.clone());
        registry.register("auth_attempts", meaning("auth_attempts_total"), self.auth_attempts.clone());
        registry.register("query_requests", meaning("query_requests_total"), self.queries.clone());
        registry.register("query_latency_seconds", meaning("query_latency_seconds"), self.query_latency.clone());
        let name = "query_execution_duration_seconds";
        registry.register(name, meaning(name), self.query_execution.clone());
        registry.register("query_records_returned", meaning("query_records_returned"), self.query_records.clone());
        registry.register(
            "query_partitions_scanned",
            meaning("query_partitions_scanned"),
            self.query_partitions.clone(),
        );
        registry.register("query_cache_hits", meaning("query_cache_hits_total"), self.cache_hits.clone());
        registry.register("query_cache_misses", meaning("query_cache_misses_total"), self.cache_misses.clone());
        registry.register("producer_records", meaning("producer_records_total"), self.produced.clone());
        let name = "producer_latency_seconds";
        registry.register(name, meaning(name), self.produced_in.clone());
        registry.register("storage_files", meaning("storage_files_total"), self.files.clone());
        registry.register("storage_bytes", meaning("storage_bytes_total"), self.file_bytes.clone());
        registry.register(
            "storage_commit_retries",
            meaning("storage_commit_retries_total"),
            self.commit_retries.clone(),
        );
        registry.register("redis_latency_seconds", meaning("redis_latency_seconds"), self.redis_latency.clone());
        self.upkeep.register(registry);
        registry.register("reloads", meaning("reloads_total"), self.reloads.clone());
        registry.register("pg_connections_active", meaning("pg_connections_active"), self.postgres.active.clone());
        let name = "pg_query_latency_seconds";
        registry.register(name, meaning(name), self.postgres.latency.clone());
        registry.register("s3_operations", meaning("s3_operations_total"), self.s3.operations.clone());
        registry.register("s3_latency_seconds", meaning("s3_latency_seconds"), self.s3.latency.clone());
        registry.register("s3_bytes", meaning("s3_bytes_total"), self.s3.bytes.clone());
        registry.register("traces_exported", meaning("traces_exported_total"), self.traces.exported.clone());
        let name = "traces_export_failures";
        registry.register(name, meaning("traces_export_failures_total"), self.traces.failures.clone());
        registry.register("shard_stall_seconds", meaning("shard_stall_seconds"), self.stalls.clone());
        registry.register("s3_breaker_open", meaning("s3_breaker_open"), self.s3.breaker_open.clone());
    }
}

/// An open REST connection.
#[derive(Debug)]
pub struct ConnectionGuard(Arc<ControlMetrics>);

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.http_connections.dec();
    }
}

fn meaning(name: &str) -> &'static str {
    let metric = CONTROL_METRICS.iter().find(|m| m.name.strip_prefix("ttdust_") == Some(name));
    metric.expect("what is registered stands in the table").meaning
}

/// Everything that a scrape shows.
#[derive(Debug)]
pub struct Exposition {
    registry: Registry,
}

/// Which text a scrape is answered in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextFormat {
    /// Prometheus text 0.0.4.
    Prometheus,
    /// OpenMetrics text 1.0.
    OpenMetrics,
}

impl TextFormat {
    /// The format that an `Accept` header asks for.
    #[must_use]
    pub fn asked_for(accept: Option<&str>) -> Self {
        match accept {
            Some(accept) if accept.contains("application/openmetrics-text") => Self::OpenMetrics,
            _ => Self::Prometheus,
        }
    }

    /// Its content type.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

impl Exposition {
    /// Of these parts.
    #[must_use]
    pub fn new(control: &ControlMetrics, backend: &IoBackend, link: Option<ShardLink>) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(process::ProcessCollector));
        let ours = registry.sub_registry_with_prefix("ttdust");
        control.register(ours);
        let build = Family::<Labels, Gauge>::default();
        build.get_or_create(&vec![("version", env!("CARGO_PKG_VERSION").to_owned())]).set(1);
        ours.register("build_info", meaning("build_info"), build);
        let io = Family::<Labels, Gauge>::default();
        io.get_or_create(&vec![("kind", backend.kind.to_owned()), ("reason", backend.reason.clone())]).set(1);
        ours.register("io_backend", meaning("io_backend"), io);
        let metrics: Vec<_> = link.map_or_else(Vec::new, |link| {
            link.shards().map(|shard| Arc::clone(link.engine().metrics(shard))).collect()
        });
        ours.register_collector(Box::new(queries::QueryMemoryCollector(Arc::clone(&control.query_memory))));
        ours.register_collector(Box::new(tls::TlsCollector {
            control: Arc::clone(&control.tls),
            shards: metrics.clone(),
        }));
        ours.register_collector(Box::new(traces::TraceCollector {
            control: control.traces.dropped.clone(),
            shards: metrics.clone(),
        }));
        ours.register_collector(Box::new(rates::RateCollector {
            control: Arc::clone(&control.rates),
            shards: metrics.clone(),
        }));
        ours.register_collector(Box::new(shards::ShardCollector::new(metrics)));
        Self { registry }
    }

    /// The text of a scrape.
    #[must_use]
    pub fn text(&self, format: TextFormat) -> String {
        let mut text = String::new();
        let written = match format {
            TextFormat::Prometheus => encoding::prometheus_text::encode(&mut text, &self.registry),
            TextFormat::OpenMetrics => encoding::text::encode(&mut text, &self.registry),
        };
        written.expect("writing to a String cannot fail");
        text
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn exposition() -> Exposition {
        let control = ControlMetrics::default();
        control.query_done("ok", Duration::from_millis(3), Some(&QueryAnswer::default()));
        control.request_done("GET", "/api/v1/streams/{id}", 200);
        control.auth_attempt("ok");
        control.shard_stalled(ShardId(0), Duration::ZERO);
        let backend = IoBackend { kind: "epoll", reason: "a \"quoted\" reason".into() };
        Exposition::new(&control, &backend, None)
    }

    #[test]
    fn what_is_shown_is_what_the_table_says() {
        let text = exposition().text(TextFormat::Prometheus);
        let kinds: BTreeSet<_> =
            text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).map(str::to_owned).collect();
        let wanted: BTreeSet<_> = metrics().iter().map(|m| format!("{} {}", m.name, m.kind)).collect();
        assert_eq!(kinds, wanted);
        // What Prometheus sets itself takes the place of a metric's own.
        let clash =
            metrics().into_iter().filter(|m| m.labels.split(',').any(|label| ["job", "instance"].contains(&label)));
        assert_eq!(clash.map(|metric| metric.name).collect::<Vec<_>>(), [""; 0]);
        assert!(text.contains("ttdust_upkeep_failures_total{task=\"compaction\"} 0"), "{text}");
        for outcome in ["ok", "denied", "connection"] {
            let series = format!("ttdust_s3_operations_total{{operation=\"put\",outcome=\"{outcome}\"}} 0");
            assert!(text.contains(&series), "{series}");
        }
    }

    #[test]
    fn both_formats_are_well_formed() {
        let exposition = exposition();
        let open = exposition.text(TextFormat::OpenMetrics);
        assert!(open.ends_with("# EOF\n"), "{open}");
        assert!(open.contains("# TYPE ttdust_query_requests counter"), "{open}");
        let plain = exposition.text(TextFormat::Prometheus);
        assert!(plain.contains("# TYPE ttdust_query_requests_total counter") && !plain.contains("# EOF"), "{plain}");
        assert!(plain.contains("ttdust_query_requests_total{status=\"ok\"} 1"), "{plain}");
        assert!(plain.contains(r#"reason="a \"quoted\" reason""#), "{plain}");
        assert_eq!(TextFormat::asked_for(Some("application/openmetrics-text;version=1.0.0")), TextFormat::OpenMetrics);
        assert_eq!(TextFormat::asked_for(Some("*/*")), TextFormat::Prometheus);
    }

    #[test]
    fn an_open_connection_counts_until_it_is_closed() {
        let metrics = Arc::new(ControlMetrics::default());
        let guard = metrics.http_connection();
        assert_eq!(metrics.http_connections.get(), 1);
        drop(guard);
        assert_eq!(metrics.http_connections.get(), 0);
    }
}
