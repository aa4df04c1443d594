//! The shards' counters, read at each scrape. A row of the table is a metric.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};
use ttdust_shards::metrics::{LATENCY_BOUNDS_MICROS, LatencyHistogram, ShardMetrics};

use super::{MetricInfo, info};

enum Read {
    Counter(fn(&ShardMetrics) -> u64),
    Gauge(fn(&ShardMetrics) -> u64),
    Histogram(fn(&ShardMetrics) -> &LatencyHistogram),
    /// One counter a status of a request.
    Requests,
    /// One gauge a pool.
    Memory,
    /// CPU time by time between two scrapes.
    BusyRatio,
}

struct ShardMetric {
    /// In Prometheus text, without `ttdust_`.
    name: &'static str,
    /// With `ttdust_`.
    full_name: &'static str,
    meaning: &'static str,
    read: Read,
}

macro_rules! metric {
    ($name:literal, $read:expr, $meaning:literal) => {
        ShardMetric { name: $name, full_name: concat!("ttdust_", $name), meaning: $meaning, read: $read }
    };
}

const STATUSES: [&str; 5] = ["ok", "validation_error", "duplicate", "rate_limited", "internal_error"];

const SHARD_METRICS: &[ShardMetric] = &[
    metric!("ingestion_records_received_total", Read::Counter(|m| m.records_received.get()), "records that came in"),
    metric!(
        "ingestion_records_validated_total",
        Read::Counter(|m| m.records_validated.get()),
        "records that passed their schema"
    ),
    metric!(
        "ingestion_validation_errors_total",
        Read::Counter(|m| m.validation_errors.get()),
        "records that did not pass their schema"
    ),
    metric!(
        "ingestion_records_accepted_total",
        Read::Counter(|m| m.records_accepted.get()),
        "records on stable storage"
    ),
    metric!(
        "ingestion_records_duplicate_total",
        Read::Counter(|m| m.records_duplicate.get()),
        "records answered as duplicates"
    ),
    metric!("ingestion_bytes_total", Read::Counter(|m| m.payload_bytes.get()), "payload bytes that came in"),
    metric!("ingestion_requests_total", Read::Requests, "requests answered"),
    metric!(
        "ingestion_ack_latency_seconds",
        Read::Histogram(|m| &m.ack_latency),
        "from the last byte of a request to its answer"
    ),
    metric!(
        "ingestion_backpressure_total",
        Read::Counter(|m| m.backpressure.get()),
        "requests refused for backpressure"
    ),
    metric!("ingestion_buffer_size_bytes", Read::Gauge(|m| m.buffer_bytes.get()), "rows in memory"),
    metric!("ingestion_buffer_records", Read::Gauge(|m| m.buffer_records.get()), "rows in no committed file"),
    metric!("dedup_keys_in_memory", Read::Gauge(|m| m.dedup_keys_in_memory.get()), "idempotency keys in memory"),
    metric!("dedup_keys_in_files", Read::Gauge(|m| m.dedup_keys_in_files.get()), "idempotency keys in files"),
    metric!("dedup_files", Read::Gauge(|m| m.dedup_files.get()), "files of idempotency keys"),
    metric!("dedup_table_bytes", Read::Gauge(|m| m.dedup_table_bytes.get()), "memory of the newest idempotency keys"),
    metric!(
        "dedup_filter_bytes",
        Read::Gauge(|m| m.dedup_filter_bytes.get()),
        "memory of filters and indexes of the files of idempotency keys"
    ),
    metric!("ingestion_writers", Read::Gauge(|m| m.writers.get()), "writers that number their records"),
    metric!("dedup_lookups_total", Read::Counter(|m| m.dedup_lookups.get()), "idempotency keys looked up in files"),
    metric!(
        "dedup_damaged_total",
        Read::Counter(|m| m.dedup_damaged.get()),
        "files of idempotency keys set aside, and reads of them that failed: duplicates may have been accepted"
    ),
    metric!("wal_writes_total", Read::Counter(|m| m.wal_writes.get()), "frames written to the log"),
    metric!("wal_bytes_total", Read::Counter(|m| m.wal_bytes.get()), "bytes written to the log"),
    metric!("wal_flush_latency_seconds", Read::Histogram(|m| &m.wal_latency), "one durable write to the log"),
    metric!(
        "wal_group_commit_records",
        Read::Gauge(|m| m.wal_commit_records.get()),
        "records in the frame last written"
    ),
    metric!(
        "wal_pauses_total",
        Read::Counter(|m| m.wal_pauses.get()),
        "commits put off because the log is more than half full and the flusher needs the core"
    ),
    metric!("wal_segments_active", Read::Gauge(|m| m.wal_segments.get()), "log segments in use"),
    metric!("wal_used_bytes", Read::Gauge(|m| m.wal_used_bytes.get()), "log in use"),
    metric!(
        "wal_quota_bytes",
        Read::Gauge(|m| m.wal_quota_bytes.get()),
        "the shard's part of wal.quota_bytes: at 85% of it records are refused for a while"
    ),
    metric!("storage_flush_busy", Read::Gauge(|m| m.flush_busy.get()), "1 while the flusher encodes and writes"),
    metric!("storage_flush_duration_seconds", Read::Histogram(|m| &m.flush_latency), "writing the files of one flush"),
    metric!(
        "processing_records_total",
        Read::Counter(|m| m.processing_records.get()),
        "records that pipelines saw on their way into files"
    ),
    metric!(
        "processing_dropped_total",
        Read::Counter(|m| m.processing_dropped.get()),
        "of these, left out by a step's wish"
    ),
    metric!(
        "processing_errors_total",
        Read::Counter(|m| m.processing_errors.get()),
        "of these, those that the pipeline could not make anything of"
    ),
    metric!(
        "processing_dlq_records_total",
        Read::Counter(|m| m.dead_letters.get()),
        "dead letters, of pipelines and of requests that ask for them"
    ),
    metric!(
        "processing_latency_seconds",
        Read::Histogram(|m| &m.processing_latency),
        "writing the files of one flush of a stream with a pipeline"
    ),
    metric!("storage_flush_failures_total", Read::Counter(|m| m.flush_failures.get()), "flushes that failed"),
    metric!("tail_active", Read::Gauge(|m| m.tails.get()), "tails that are being read"),
    metric!("tail_records_total", Read::Counter(|m| m.tail_records.get()), "records sent by tails"),
    metric!("tail_bytes_total", Read::Counter(|m| m.tail_bytes.get()), "bytes of messages sent by tails"),
    metric!(
        "tail_fallbacks_total",
        Read::Counter(|m| m.tail_fallbacks.get()),
        "times that a live tail fell behind and had to catch up from storage"
    ),
    metric!(
        "tail_stalled_total",
        Read::Counter(|m| m.tails_stalled.get()),
        "tails that were ended because their readers took nothing"
    ),
    metric!("tail_queue_bytes", Read::Gauge(|m| m.tail_queue_bytes.get()), "bytes that wait for the readers of tails"),
    metric!(
        "tail_delivery_latency_seconds",
        Read::Histogram(|m| &m.tail_latency),
        "from a record's sync to its being handed to the socket of a live tail"
    ),
    metric!("grpc_connections_active", Read::Gauge(|m| m.connections.get()), "open gRPC connections"),
    metric!(
        "grpc_connections_refused_total",
        Read::Counter(|m| m.connections_refused.get()),
        "gRPC connections over a limit"
    ),
    metric!(
        "grpc_connections_flooding_total",
        Read::Counter(|m| m.connections_flooding.get()),
        "gRPC connections that were closed for a flood of frames that carry nothing"
    ),
    metric!("shard_queue_depth", Read::Gauge(|m| m.queue_depth.get()), "messages in the shard's queue"),
    metric!(
        "shard_stalls_total",
        Read::Counter(|m| m.stalls.get()),
        "times that the shard had no turn for a second or longer, as it saw afterwards"
    ),
    metric!("shard_memory_bytes", Read::Memory, "memory by pool"),
    metric!("shard_busy_ratio", Read::BusyRatio, "CPU time of the shard's thread by time, since the scrape before"),
];

impl ShardMetric {
    fn info(&self) -> MetricInfo {
        let (kind, labels) = match self.read {
            Read::Counter(_) => ("counter", "shard"),
            Read::Gauge(_) | Read::BusyRatio => ("gauge", "shard"),
            Read::Histogram(_) => ("histogram", "shard"),
            Read::Requests => ("counter", "shard,status"),
            Read::Memory => ("gauge", "shard,pool"),
        };
        info(self.full_name, kind, labels, self.meaning)
    }

    fn metric_type(&self) -> MetricType {
        match self.read {
            Read::Counter(_) | Read::Requests => MetricType::Counter,
            Read::Gauge(_) | Read::Memory | Read::BusyRatio => MetricType::Gauge,
            Read::Histogram(_) => MetricType::Histogram,
        }
    }
}

/// The shards' part of the reference.
pub(super) fn infos() -> impl Iterator<Item = MetricInfo> {
    SHARD_METRICS.iter().map(ShardMetric::info)
}

/// CPU time of a shard at a scrape, and the ratio then.
#[derive(Debug, Clone, Copy)]
struct BusySample {
    at: Instant,
    micros: u64,
    ratio: f64,
}

/// Reads the shards at each scrape.
#[derive(Debug)]
pub(super) struct ShardCollector {
    shards: Vec<(String, Arc<ShardMetrics>)>,
    busy: Mutex<Vec<BusySample>>,
}

impl ShardCollector {
    pub(super) fn new(shards: Vec<Arc<ShardMetrics>>) -> Self {
        let now = Instant::now();
        let sample = |m: &Arc<ShardMetrics>| BusySample { at: now, micros: m.busy_micros.get(), ratio: 0.0 };
        let busy = Mutex::new(shards.iter().map(sample).collect());
        let shards = shards.into_iter().enumerate().map(|(n, m)| (n.to_string(), m)).collect();
        Self { shards, busy }
    }

    /// The busy ratio of each shard since the scrape before. Scrapes closer than a second share one sample.
    fn busy_ratios(&self) -> Vec<f64> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        for (sample, (_, metrics)) in busy.iter_mut().zip(&self.shards) {
            let elapsed = now.duration_since(sample.at);
            if elapsed.as_secs() >= 1 {
                let micros = metrics.busy_micros.get();
                let ratio = micros.saturating_sub(sample.micros) as f64 / elapsed.as_micros() as f64;
                *sample = BusySample { at: now, micros, ratio: ratio.min(1.0) };
            }
        }
        busy.iter().map(|sample| sample.ratio).collect()
    }

    fn encode_one(&self, encoder: &mut DescriptorEncoder<'_>, metric: &ShardMetric) -> Result<(), std::fmt::Error> {
        let name = match metric.metric_type() {
            // The encoder adds it back.
            MetricType::Counter => metric.name.strip_suffix("_total").expect("counters are named so"),
            _ => metric.name,
        };
        let mut family = encoder.encode_descriptor(name, metric.meaning, None, metric.metric_type())?;
        let ratios = if matches!(metric.read, Read::BusyRatio) { self.busy_ratios() } else { Vec::new() };
        for (at, (shard, metrics)) in self.shards.iter().enumerate() {
            let labels = [("shard", shard.as_str())];
            match metric.read {
                Read::Counter(read) => ConstCounter::new(read(metrics)).encode(family.encode_family(&labels)?)?,
                Read::Gauge(read) => ConstGauge::new(signed(read(metrics))).encode(family.encode_family(&labels)?)?,
                Read::BusyRatio => ConstGauge::new(ratios[at]).encode(family.encode_family(&labels)?)?,
                Read::Memory => {
                    for (pool, bytes) in [("rows", &metrics.buffer_bytes), ("tails", &metrics.tail_queue_bytes)] {
                        let labels = [("shard", shard.as_str()), ("pool", pool)];
                        ConstGauge::new(signed(bytes.get())).encode(family.encode_family(&labels)?)?;
                    }
                }
                Read::Requests => {
                    for (status, count) in STATUSES.iter().zip(&metrics.requests) {
                        let labels = [("shard", shard.as_str()), ("status", status)];
                        ConstCounter::new(count.get()).encode(family.encode_family(&labels)?)?;
                    }
                }
                Read::Histogram(read) => {
                    let (sum, count, buckets) = histogram(read(metrics));
                    family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
                }
            }
        }
        Ok(())
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Sum in seconds, count, and buckets with their upper bounds in seconds.
fn histogram(latency: &LatencyHistogram) -> (f64, u64, Vec<(f64, u64)>) {
    let bounds = LATENCY_BOUNDS_MICROS.iter().map(|&micros| micros as f64 / 1e6).chain([f64::INFINITY]);
    let buckets: Vec<_> = bounds.zip(latency.buckets.iter().map(|bucket| bucket.get())).collect();
    let count = buckets.iter().map(|(_, count)| count).sum();
    (latency.sum_micros.get() as f64 / 1e6, count, buckets)
}

impl Collector for ShardCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        SHARD_METRICS.iter().try_for_each(|metric| self.encode_one(&mut encoder, metric))
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::{encoding::prometheus_text, registry::Registry};

    use super::*;

    #[test]
    fn each_shard_is_shown_under_its_number() {
        let metrics = Arc::new(ShardMetrics::default());
        metrics.records_received.add(5);
        metrics.requests[2].add(3);
        metrics.wal_latency.observe(120);
        metrics.wal_latency.observe(9_000_000);
        let mut registry = Registry::default();
        registry.register_collector(Box::new(ShardCollector::new(vec![Arc::default(), metrics])));
        let mut text = String::new();
        prometheus_text::encode(&mut text, &registry).expect("text");
        for line in [
            "ingestion_records_received_total{shard=\"0\"} 0",
            "ingestion_records_received_total{shard=\"1\"} 5",
            "ingestion_requests_total{shard=\"1\",status=\"duplicate\"} 3",
            "wal_flush_latency_seconds_bucket{shard=\"1\",le=\"0.0001\"} 0",
            "wal_flush_latency_seconds_bucket{shard=\"1\",le=\"0.00015\"} 1",
            "wal_flush_latency_seconds_bucket{shard=\"1\",le=\"+Inf\"} 2",
            "wal_flush_latency_seconds_count{shard=\"1\"} 2",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
    }
}
