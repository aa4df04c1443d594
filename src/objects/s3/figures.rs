//! What metrics show of the S3 client.

use std::time::Duration;

use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram};

use super::request::Operation;

const SECONDS: [f64; 12] = [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

type Labels = Vec<(&'static str, &'static str)>;

/// How one request ended, as metrics name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Ok,
    NotFound,
    /// The object is there already, or the store was about to change it.
    Conflict,
    /// The credentials, the bucket or the request are not what the store wants.
    Denied,
    /// The store asks for fewer requests.
    Throttled,
    /// The store failed.
    Failed,
    /// It took too long.
    Timeout,
    /// There was no connection, or it broke.
    Connection,
}

impl Outcome {
    const ALL: [Self; 8] = [
        Self::Ok,
        Self::NotFound,
        Self::Conflict,
        Self::Denied,
        Self::Throttled,
        Self::Failed,
        Self::Timeout,
        Self::Connection,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Denied => "denied",
            Self::Throttled => "throttled",
            Self::Failed => "failed",
            Self::Timeout => "timeout",
            Self::Connection => "connection",
        }
    }
}

fn seconds() -> Histogram {
    Histogram::new(SECONDS)
}

/// Counters of the S3 client; all zero where objects lie in a directory.
#[derive(Debug, Clone)]
pub struct S3Figures {
    /// Requests by operation and outcome; each try counts.
    pub operations: Family<Labels, Counter>,
    /// Seconds of one request by operation.
    pub latency: Family<Labels, Histogram, fn() -> Histogram>,
    /// Bytes of bodies by direction.
    pub bytes: Family<Labels, Counter>,
    /// 1 while the store counts as down.
    pub breaker_open: Gauge,
}

impl Default for S3Figures {
    fn default() -> Self {
        let figures = Self {
            operations: Family::default(),
            latency: Family::new_with_constructor(seconds),
            bytes: Family::default(),
            breaker_open: Gauge::default(),
        };
        // A rate over a series needs its zero: it is there before the first event.
        for direction in ["sent", "received"] {
            drop(figures.bytes.get_or_create(&vec![("direction", direction)]));
        }
        for operation in Operation::ALL {
            for outcome in Outcome::ALL {
                let labels = vec![("operation", operation.name()), ("outcome", outcome.name())];
                drop(figures.operations.get_or_create(&labels));
            }
            drop(figures.latency.get_or_create(&vec![("operation", operation.name())]));
        }
        figures
    }
}

impl S3Figures {
    pub(super) fn request_done(&self, operation: Operation, outcome: Outcome, latency: Duration) {
        let (operation, outcome) = (("operation", operation.name()), ("outcome", outcome.name()));
        self.operations.get_or_create(&vec![operation, outcome]).inc();
        self.latency.get_or_create(&vec![operation]).observe(latency.as_secs_f64());
    }

    pub(super) fn sent(&self, bytes: usize) {
        self.bytes.get_or_create(&vec![("direction", "sent")]).inc_by(bytes as u64);
    }

    pub(super) fn received(&self, bytes: usize) {
        self.bytes.get_or_create(&vec![("direction", "received")]).inc_by(bytes as u64);
    }
}
