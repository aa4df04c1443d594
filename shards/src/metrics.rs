//! Counters of a shard: written by its own thread only, read by whoever scrapes. So a plain load and store do; no counter is
//! shared by two writers.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::{rate::Category, tls::HandshakeOutcome};

/// A shard whose upkeep has no turn for so long is stalled: it should have one every 100 ms.
pub const STALL: Duration = Duration::from_secs(1);

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only from the owning thread.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Its value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Sets it.
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// Its value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Upper bounds of the latency buckets, in microseconds; a last bucket has no bound.
pub const LATENCY_BOUNDS_MICROS: [u64; 18] = [
    50, 100, 150, 200, 300, 400, 600, 800, 1_000, 1_500, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 500_000,
    2_500_000,
];

/// Latencies in buckets.
#[derive(Debug, Default)]
pub struct LatencyHistogram {
    /// One more than there are bounds; not cumulative.
    pub buckets: [Counter; LATENCY_BOUNDS_MICROS.len() + 1],
    /// Sum of all, in microseconds.
    pub sum_micros: Counter,
}

impl LatencyHistogram {
    /// Counts one.
    pub fn observe(&self, micros: u64) {
        let bucket = LATENCY_BOUNDS_MICROS.partition_point(|&bound| bound < micros);
        self.buckets[bucket].add(1);
        self.sum_micros.add(micros);
    }
}

/// The counters of one shard.
#[derive(Debug, Default)]
pub struct ShardMetrics {
    /// Records that came in.
    pub records_received: Counter,
    /// Records that passed their schema.
    pub records_validated: Counter,
    /// Records that did not.
    pub validation_errors: Counter,
    /// Records accepted and synced by this shard.
    pub records_accepted: Counter,
    /// Records answered as duplicates.
    pub records_duplicate: Counter,
    /// Payload bytes that came in.
    pub payload_bytes: Counter,
    /// Requests answered OK, VALIDATION_ERROR, DUPLICATE, RATE_LIMITED, INTERNAL_ERROR, in the order of the enum `Status` less one.
    pub requests: [Counter; 5],
    /// From the last byte of a request to its answer being handed to the socket.
    pub ack_latency: LatencyHistogram,
    /// Requests refused for backpressure.
    pub backpressure: Counter,
    /// Requests refused for a rate limit, in the order of [`Category::ALL`].
    pub rate_limit_hits: [Counter; Category::ALL.len()],
    /// Frames written.
    pub wal_writes: Counter,
    /// Bytes written to the log.
    pub wal_bytes: Counter,
    /// One durable write.
    pub wal_latency: LatencyHistogram,
    /// Commits put off for the flusher's sake.
    pub wal_pauses: Counter,
    /// Records in the frame last written.
    pub wal_commit_records: Gauge,
    /// Segments in use.
    pub wal_segments: Gauge,
    /// Log in use, in bytes.
    pub wal_used_bytes: Gauge,
    /// What the log may come to, in bytes.
    pub wal_quota_bytes: Gauge,
    /// Rows in memory, in bytes.
    pub buffer_bytes: Gauge,
    /// Rows in no committed file.
    pub buffer_records: Gauge,
    /// Writing one flush's files.
    pub flush_latency: LatencyHistogram,
    /// 1 while the flusher encodes and writes.
    pub flush_busy: Gauge,
    /// Flushes that failed.
    pub flush_failures: Counter,
    /// Records that pipelines saw on their way into files.
    pub processing_records: Counter,
    /// Of these, left out by a step's wish.
    pub processing_dropped: Counter,
    /// Of these, those that the pipeline could not make anything of.
    pub processing_errors: Counter,
    /// Dead letters that were taken.
    pub dead_letters: Gauge,
    /// Writing one flush's files, of streams with a pipeline.
    pub processing_latency: LatencyHistogram,
    /// Tails that are being read.
    pub tails: Gauge,
    /// Records sent by tails.
    pub tail_records: Counter,
    /// Bytes of messages sent by tails.
    pub tail_bytes: Counter,
    /// Times that a tail which was live had to catch up again.
    pub tail_fallbacks: Counter,
    /// Tails that were ended because their readers took nothing.
    pub tails_stalled: Counter,
    /// Bytes that wait for the readers of tails.
    pub tail_queue_bytes: Gauge,
    /// From a record's sync to its being handed to the socket of a live tail.
    pub tail_latency: LatencyHistogram,
    /// Open connections.
    pub connections: Gauge,
    /// Connections refused: the shard or their address has as many as it may.
    pub connections_refused: Counter,
    /// Connections closed for a flood of frames that carry nothing.
    pub connections_flooding: Counter,
    /// Starts of connections, in the order of [`HandshakeOutcome::ALL`].
    pub tls_handshakes: [Counter; HandshakeOutcome::ALL.len()],
    /// Spans that found no room on their way to control.
    pub spans_dropped: Counter,
    /// Messages waiting in the shard's queue.
    pub queue_depth: Gauge,
    /// When the shard's upkeep last had its turn, in microseconds since the shard's start.
    pub turned_micros: Gauge,
    /// Times that it had none for [`STALL`] or longer.
    pub stalls: Counter,
    /// Microseconds of CPU time that the shard's thread has used.
    pub busy_micros: Gauge,
    /// Idempotency keys in memory.
    pub dedup_keys_in_memory: Gauge,
    /// Idempotency keys in files.
    pub dedup_keys_in_files: Gauge,
    /// Files of idempotency keys.
    pub dedup_files: Gauge,
    /// Memory of the tables of keys, in bytes.
    pub dedup_table_bytes: Gauge,
    /// Memory of the filters and indexes of those files, in bytes.
    pub dedup_filter_bytes: Gauge,
    /// Writers that number their records.
    pub writers: Gauge,
    /// Keys looked up in files.
    pub dedup_lookups: Counter,
    /// Files of keys that could not be opened, and reads of them that failed.
    pub dedup_damaged: Counter,
}
