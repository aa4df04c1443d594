//! From what a server counts to what it does a second: two looks, and the difference between them.

use std::{collections::BTreeMap, time::Instant};

use serde::Serialize;

use super::exposition::{Exposition, Series};

/// Cumulative counts by upper bound in seconds, in order.
type Buckets = Vec<(f64, f64)>;

/// What a shard's metrics said at one look.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct ShardLook {
    accepted: f64,
    bytes: f64,
    errors: f64,
    acks: Buckets,
    busy: f64,
    queue_depth: f64,
    buffer_bytes: f64,
    wal_used_bytes: f64,
    unflushed: f64,
}

/// What a server's metrics said at one look.
#[derive(Debug, Clone)]
pub(super) struct Look {
    pub(super) at: Instant,
    pub(super) shards: BTreeMap<u32, ShardLook>,
    cpu_seconds: Option<f64>,
}

/// What a shard, or all of them, do. Rates are of the time between two looks; none: there is no look before.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct ShardFigures {
    /// Its number; none: all of them together.
    pub(super) shard: Option<u32>,
    pub(super) records_per_second: Option<f64>,
    /// Payload, in 10^6 bytes.
    pub(super) mb_per_second: Option<f64>,
    pub(super) ack_p50_ms: Option<f64>,
    pub(super) ack_p99_ms: Option<f64>,
    /// CPU time by time, 0 to 1, as the server has it; of all of them: the mean.
    pub(super) busy: f64,
    pub(super) queue_depth: u64,
    pub(super) buffer_bytes: u64,
    pub(super) wal_used_bytes: u64,
    /// None: the caller may not read the settings.
    pub(super) wal_quota_bytes: Option<u64>,
    /// Records in no committed file yet.
    pub(super) unflushed_records: u64,
    /// The time in which so many come in at the present rate.
    pub(super) flush_lag_seconds: Option<f64>,
    /// Records that their schema or a pipeline refuses, requests that fail or are refused for now, and flushes that fail.
    pub(super) errors_per_second: Option<f64>,
}

/// What a server's process does.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct ProcessFigures {
    pub(super) resident_bytes: Option<u64>,
    /// CPU time by time.
    pub(super) cores_busy: Option<f64>,
    pub(super) grpc_connections: Option<u64>,
    pub(super) http_connections: Option<u64>,
    pub(super) tails: Option<u64>,
}

const ERRORS: [&str; 3] = [
    "ttdust_ingestion_validation_errors_total",
    "ttdust_processing_errors_total",
    "ttdust_storage_flush_failures_total",
];
const FAILED_STATUSES: [&str; 2] = ["rate_limited", "internal_error"];

impl Look {
    /// What `metrics` say at this time.
    pub(super) fn new(metrics: &Exposition, at: Instant) -> Self {
        let mut shards: BTreeMap<u32, ShardLook> = BTreeMap::new();
        let mut each = |name: &str, add: &dyn Fn(&mut ShardLook, &Series)| {
            for series in metrics.of(name) {
                // Whatever has no number is no shard's.
                if let Ok(shard) = series.label("shard").parse() {
                    add(shards.entry(shard).or_default(), series);
                }
            }
        };
        each("ttdust_ingestion_records_accepted_total", &|shard, series| shard.accepted = series.value);
        each("ttdust_ingestion_bytes_total", &|shard, series| shard.bytes = series.value);
        each("ttdust_shard_busy_ratio", &|shard, series| shard.busy = series.value);
        each("ttdust_shard_queue_depth", &|shard, series| shard.queue_depth = series.value);
        each("ttdust_ingestion_buffer_size_bytes", &|shard, series| shard.buffer_bytes = series.value);
        each("ttdust_wal_used_bytes", &|shard, series| shard.wal_used_bytes = series.value);
        each("ttdust_ingestion_buffer_records", &|shard, series| shard.unflushed = series.value);
        for name in ERRORS {
            each(name, &|shard, series| shard.errors += series.value);
        }
        each("ttdust_ingestion_requests_total", &|shard, series| {
            if FAILED_STATUSES.contains(&series.label("status")) {
                shard.errors += series.value;
            }
        });
        each("ttdust_ingestion_ack_latency_seconds_bucket", &|shard, series| {
            // `+Inf` is read as what it is.
            if let Ok(bound) = series.label("le").parse() {
                shard.acks.push((bound, series.value));
            }
        });
        Self { at, shards, cpu_seconds: metrics.sum("process_cpu_seconds_total") }
    }

    /// What each shard did since `before`, by its number. `quota_bytes` is that of the log of all shards together.
    pub(super) fn shards_since(&self, before: Option<&Self>, quota_bytes: Option<u64>) -> Vec<ShardFigures> {
        let seconds = before.map_or(0.0, |before| (self.at - before.at).as_secs_f64());
        let quota = quota_bytes.map(|bytes| bytes / (self.shards.len() as u64).max(1));
        let figures = |(&shard, look): (&u32, &ShardLook)| {
            let since = before.map(|before| look.since(before.shards.get(&shard)));
            ShardFigures { shard: Some(shard), ..look.figures(since.as_ref(), seconds, quota) }
        };
        self.shards.iter().map(figures).collect()
    }

    /// All shards together.
    pub(super) fn total_since(&self, before: Option<&Self>, quota_bytes: Option<u64>) -> ShardFigures {
        let seconds = before.map_or(0.0, |before| (self.at - before.at).as_secs_f64());
        let mut now = ShardLook::default();
        let mut since = ShardLook::default();
        for (shard, look) in &self.shards {
            now.add(look);
            since.add(&look.since(before.and_then(|before| before.shards.get(shard))));
        }
        now.busy /= (self.shards.len() as f64).max(1.0);
        now.figures(before.map(|_| &since), seconds, quota_bytes)
    }

    /// What the process does.
    pub(super) fn process_since(&self, before: Option<&Self>, metrics: &Exposition) -> ProcessFigures {
        let cores = || {
            let before = before?;
            let used = self.cpu_seconds? - before.cpu_seconds?;
            ratio(used.max(0.0), (self.at - before.at).as_secs_f64())
        };
        let whole = |name| metrics.sum(name).map(whole);
        ProcessFigures {
            resident_bytes: whole("process_resident_memory_bytes"),
            cores_busy: cores(),
            grpc_connections: whole("ttdust_grpc_connections_active"),
            http_connections: whole("ttdust_http_connections_active"),
            tails: whole("ttdust_tail_active"),
        }
    }
}

impl ShardLook {
    /// What was counted since `before`. A counter that went back began anew, with its server: then all of it is new.
    fn since(&self, before: Option<&Self>) -> Self {
        let nothing = Self::default();
        let before = before.unwrap_or(&nothing);
        let went_back = self.accepted < before.accepted || self.bytes < before.bytes || self.errors < before.errors;
        let before = if went_back { &nothing } else { before };
        let count_of = |bound: f64| before.acks.iter().find(|(other, _)| *other == bound).map_or(0.0, |(_, n)| *n);
        Self {
            accepted: self.accepted - before.accepted,
            bytes: self.bytes - before.bytes,
            errors: self.errors - before.errors,
            acks: self.acks.iter().map(|&(bound, count)| (bound, (count - count_of(bound)).max(0.0))).collect(),
            ..self.clone()
        }
    }

    fn add(&mut self, other: &Self) {
        self.accepted += other.accepted;
        self.bytes += other.bytes;
        self.errors += other.errors;
        self.busy += other.busy;
        self.queue_depth += other.queue_depth;
        self.buffer_bytes += other.buffer_bytes;
        self.wal_used_bytes += other.wal_used_bytes;
        self.unflushed += other.unflushed;
        for &(bound, count) in &other.acks {
            match self.acks.iter_mut().find(|(mine, _)| *mine == bound) {
                Some((_, mine)) => *mine += count,
                None => self.acks.push((bound, count)),
            }
        }
    }

    fn figures(&self, since: Option<&Self>, seconds: f64, quota: Option<u64>) -> ShardFigures {
        let rate = |counted: fn(&Self) -> f64| ratio(counted(since?), seconds);
        // To the nanosecond: what is past it is the arithmetic's.
        let latency = |quantile| Some((self::quantile(&since?.acks, quantile)? * 1e9).round() / 1e6);
        let records_per_second = rate(|look| look.accepted);
        ShardFigures {
            shard: None,
            records_per_second,
            mb_per_second: rate(|look| look.bytes / 1e6),
            ack_p50_ms: latency(0.5),
            ack_p99_ms: latency(0.99),
            busy: if self.busy.is_finite() { self.busy } else { 0.0 },
            queue_depth: whole(self.queue_depth),
            buffer_bytes: whole(self.buffer_bytes),
            wal_used_bytes: whole(self.wal_used_bytes),
            wal_quota_bytes: quota,
            unflushed_records: whole(self.unflushed),
            flush_lag_seconds: records_per_second.and_then(|rate| lag(self.unflushed, rate)),
            errors_per_second: rate(|look| look.errors),
        }
    }
}

/// The time in which so many records come in at this rate; none where none do.
pub(super) fn lag(unflushed: f64, records_per_second: f64) -> Option<f64> {
    if unflushed == 0.0 { Some(0.0) } else { ratio(unflushed, records_per_second) }
}

/// None where it has no meaning.
pub(super) fn ratio(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| part / whole).filter(|ratio| ratio.is_finite())
}

fn whole(value: f64) -> u64 {
    // What is below 0, or no number, becomes 0.
    value as u64
}

/// The quantile of what was counted in `buckets`, in their unit: straight between two bounds, as Prometheus has it. What lies
/// past the last bound counts as that. None: nothing was counted.
fn quantile(buckets: &[(f64, f64)], quantile: f64) -> Option<f64> {
    let mut buckets = buckets.to_vec();
    buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
    let total = buckets.last()?.1;
    if total <= 0.0 {
        return None;
    }
    let rank = quantile * total;
    let (mut below, mut counted) = (0.0, 0.0);
    for (bound, count) in buckets {
        if count >= rank && count > counted {
            let part = ((rank - counted) / (count - counted)).clamp(0.0, 1.0);
            return Some(if bound.is_finite() { below + (bound - below) * part } else { below });
        }
        if bound.is_finite() {
            below = bound;
        }
        counted = counted.max(count);
    }
    Some(below)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Metrics of shards, each: accepted, bytes, errors of the schema, unflushed, and acks up to 1 ms, 10 ms and in all.
    fn metrics(shards: &[[u64; 7]]) -> Exposition {
        let mut text = String::from("process_cpu_seconds_total 10\nprocess_resident_memory_bytes 1048576\n");
        for (shard, [accepted, bytes, invalid, unflushed, ms1, ms10, all]) in shards.iter().enumerate() {
            for (name, value) in [
                ("ingestion_records_accepted_total", accepted),
                ("ingestion_bytes_total", bytes),
                ("ingestion_validation_errors_total", invalid),
                ("ingestion_buffer_records", unflushed),
                ("shard_queue_depth", &3),
                ("wal_used_bytes", &1000),
            ] {
                text.push_str(&format!("ttdust_{name}{{shard=\"{shard}\"}} {value}\n"));
            }
            for (bound, count) in [("0.001", ms1), ("0.01", ms10), ("+Inf", all)] {
                let name = "ttdust_ingestion_ack_latency_seconds_bucket";
                text.push_str(&format!("{name}{{shard=\"{shard}\",le=\"{bound}\"}} {count}\n"));
            }
            for (status, count) in [("ok", 99), ("rate_limited", 2), ("internal_error", 1)] {
                let name = "ttdust_ingestion_requests_total";
                text.push_str(&format!("{name}{{shard=\"{shard}\",status=\"{status}\"}} {count}\n"));
            }
            text.push_str(&format!("ttdust_shard_busy_ratio{{shard=\"{shard}\"}} 0.{}\n", 2 + 4 * shard));
        }
        Exposition::parse(&text).expect("text")
    }

    /// Two looks, two seconds apart.
    fn looks(before: &[[u64; 7]], after: &[[u64; 7]]) -> (Look, Look) {
        let at = Instant::now();
        (Look::new(&metrics(before), at), Look::new(&metrics(after), at + Duration::from_secs(2)))
    }

    #[test]
    fn rates_are_differences_by_time() {
        let (before, after) = looks(
            &[[1000, 5_000_000, 1, 0, 10, 10, 10], [0; 7]],
            &[[3000, 9_000_000, 5, 500, 110, 110, 110], [0, 0, 0, 7, 0, 100, 100]],
        );
        let shards = after.shards_since(Some(&before), Some(8000));
        assert_eq!(shards.len(), 2);
        let first = &shards[0];
        assert_eq!((first.shard, first.records_per_second, first.mb_per_second), (Some(0), Some(1000.0), Some(2.0)));
        assert_eq!(first.errors_per_second, Some(2.0), "those of requests were there before");
        assert_eq!((first.ack_p50_ms, first.ack_p99_ms), (Some(0.5), Some(0.99)), "100 acks below 1 ms");
        assert_eq!((first.unflushed_records, first.flush_lag_seconds), (500, Some(0.5)));
        assert_eq!((first.wal_used_bytes, first.wal_quota_bytes), (1000, Some(4000)), "a share each");
        assert_eq!((first.busy, first.queue_depth), (0.2, 3));
        let second = &shards[1];
        assert_eq!((second.records_per_second, second.flush_lag_seconds), (Some(0.0), None), "nothing comes in");
        assert_eq!(second.ack_p50_ms, Some(5.5), "half way from 1 to 10");
        let total = after.total_since(Some(&before), Some(8000));
        assert_eq!((total.shard, total.records_per_second, total.unflushed_records), (None, Some(1000.0), 507));
        assert_eq!((total.ack_p50_ms, total.queue_depth, total.wal_quota_bytes), (Some(1.0), 6, Some(8000)));
        assert!((total.busy - 0.4).abs() < 1e-9, "the mean");
    }

    #[test]
    fn a_first_look_has_no_rates_and_a_server_that_began_anew_has_what_it_counted_since() {
        let (before, after) = looks(&[[1000, 5_000_000, 9, 0, 50, 50, 50]], &[[30, 9_000, 0, 10, 8, 8, 8]]);
        let first = &after.shards_since(None, None)[0];
        assert_eq!((first.records_per_second, first.ack_p50_ms, first.errors_per_second), (None, None, None));
        assert_eq!((first.unflushed_records, first.wal_quota_bytes), (10, None));
        let again = &after.shards_since(Some(&before), None)[0];
        assert_eq!((again.records_per_second, again.errors_per_second), (Some(15.0), Some(1.5)));
        assert_eq!(again.ack_p99_ms, Some(0.99));
        assert_eq!(after.total_since(Some(&before), None).records_per_second, Some(15.0));
        let process = after.process_since(Some(&before), &metrics(&[]));
        assert_eq!((process.resident_bytes, process.cores_busy, process.tails), (Some(1 << 20), Some(0.0), None));
    }

    #[test]
    fn quantiles_lie_between_bounds() {
        let inf = f64::INFINITY;
        for (buckets, q, wanted) in [
            (&[][..], 0.5, None),
            (&[(1.0, 0.0), (inf, 0.0)], 0.5, None),
            (&[(1.0, 10.0), (2.0, 10.0), (inf, 10.0)], 0.5, Some(0.5)),
            (&[(1.0, 0.0), (2.0, 10.0), (inf, 10.0)], 0.5, Some(1.5)),
            // In any order; past the last bound there is no telling.
            (&[(inf, 10.0), (2.0, 1.0), (1.0, 1.0)], 0.99, Some(2.0)),
            (&[(inf, 3.0)], 0.5, Some(0.0)),
            // Torn between two scrapes: a count below the one before it.
            (&[(1.0, 5.0), (2.0, 4.0), (inf, 6.0)], 0.99, Some(2.0)),
        ] {
            assert_eq!(quantile(buckets, q), wanted, "{buckets:?} {q}");
        }
        assert_eq!((lag(0.0, 0.0), lag(5.0, 0.0), lag(5.0, 10.0)), (Some(0.0), None, Some(0.5)));
    }
}
