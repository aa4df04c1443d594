//! What a run tells, as JSON, with the names that `ttdust-bench load -o json` has where it tells the same.

use std::{
    rc::Rc,
    time::{SystemTime, UNIX_EPOCH},
};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::{line::Stats, processes::Used, protocol::Shape};

/// Percentiles, in µs.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Latency {
    /// How many.
    pub count: u64,
    /// Half are at most this.
    pub p50: f64,
    /// And so on.
    pub p99: f64,
    /// And so on.
    pub p999: f64,
    /// The longest.
    pub max: f64,
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |percentile: f64| histogram.value_at_percentile(percentile) as f64 / 1e3;
        Self { count: histogram.len(), p50: at(50.0), p99: at(99.0), p999: at(99.9), max: histogram.max() as f64 / 1e3 }
    }
}

/// A thread of the load.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct LoadThread {
    /// CPU time over the window's, 0 to 1.
    pub busy: f64,
}

/// What the run was.
#[derive(Debug)]
pub struct Told {
    /// The server's kind.
    pub peer: String,
    /// Connections.
    pub connections: u16,
    /// Requests in flight a connection.
    pub in_flight: u32,
    /// The requests.
    pub shape: Rc<Shape>,
    /// How long the window was.
    pub seconds: f64,
}

/// See the module's comment.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// When, in seconds since the Unix epoch.
    pub unix_seconds: u64,
    /// The server's kind.
    pub peer: String,
    /// Connections.
    pub connections: u16,
    /// Requests in flight a connection.
    pub in_flight: u32,
    /// Records a request.
    pub batch: u32,
    /// Whether a request is one message that holds all its records.
    pub opaque: bool,
    /// Mean bytes a record.
    pub payload_bytes: f64,
    /// How long the window was.
    pub seconds: f64,
    /// Records acked a second.
    pub records_per_second: f64,
    /// Requests acked a second.
    pub requests_per_second: f64,
    /// From start to ack, one a request.
    pub ack_latency_us: Latency,
    /// CPU time of the server's processes, in µs a record; `null`: not watched.
    pub server_cpu_us_per_record: Option<f64>,
    /// CPU time of the server's processes over the window's.
    pub server_busy: Option<f64>,
    /// The server's memory in RAM at the end.
    pub server_rss_bytes: Option<u64>,
    /// The load's only thread.
    pub load_threads: Vec<LoadThread>,
    /// The whole run: records acked.
    pub acked: u64,
    /// The whole run: messages, rows or entries of requests that were acked.
    pub acked_messages: u64,
    /// The whole run: requests without an answer.
    pub unanswered: u64,
    /// What the server says it holds at the end, in messages, rows or entries; `null`: it cannot be asked.
    pub stored_messages: Option<u64>,
    /// Why connections ended before their time.
    pub failures: Vec<String>,
}

impl Report {
    /// Of what was counted.
    #[must_use]
    pub fn new(told: &Told, stats: &Stats, used: &Used, failures: Vec<String>) -> Self {
        let (seconds, shape) = (told.seconds, &told.shape);
        // The looks at the server were not quite at the window's ends.
        let busy = |us: u64| us as f64 / used.window_us.max(1) as f64;
        let records_per_second = stats.window_records as f64 / seconds;
        let bytes: usize = shape.records.iter().map(Vec::len).sum();
        Self {
            unix_seconds: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            peer: told.peer.clone(),
            connections: told.connections,
            in_flight: told.in_flight,
            batch: shape.batch,
            opaque: shape.opaque,
            payload_bytes: bytes as f64 / shape.records.len() as f64,
            seconds,
            records_per_second,
            requests_per_second: stats.window_requests as f64 / seconds,
            ack_latency_us: Latency::of(&stats.latency),
            server_cpu_us_per_record: used.server_us.map(|us| busy(us) * 1e6 / records_per_second.max(1.0)),
            server_busy: used.server_us.map(busy),
            server_rss_bytes: used.server_rss_bytes,
            load_threads: vec![LoadThread { busy: busy(used.load_us) }],
            acked: stats.acked,
            acked_messages: stats.acked / u64::from(shape.batch) * u64::from(shape.messages()),
            unanswered: stats.unanswered,
            stored_messages: None,
            failures,
        }
    }

    /// Adds what the server says it holds.
    #[must_use]
    pub fn with_stored(mut self, stored: Option<u64>) -> Self {
        if let Some(stored) = stored.filter(|stored| *stored < self.acked_messages) {
            self.failures.push(format!("the server acked {} and holds {stored}", self.acked_messages));
        }
        self.stored_messages = stored;
        self
    }

    /// Whether something was acked, and nothing was refused or lost.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.acked > 0 && self.failures.is_empty() && self.unanswered == 0
    }
}
