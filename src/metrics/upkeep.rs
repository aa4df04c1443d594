//! What the upkeep of the files did.

use std::time::Duration;

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use super::{Labels, SECONDS, meaning};

const OUTCOMES: [&str; 4] = ["ok", "overtaken", "put_off", "error"];
// Not `job`: Prometheus has a label of that name for what it scrapes.
const TASKS: [&str; 6] = ["compaction", "retention", "removal", "manifests", "orphans", "archive"];

/// The counters.
#[derive(Debug)]
pub struct UpkeepNumbers {
    runs: Family<Labels, Counter>,
    duration: Histogram,
    merged_files: Counter,
    bytes: Family<Labels, Counter>,
    dropped_files: Counter,
    dropped_bytes: Counter,
    removed: Counter,
    orphans: Counter,
    manifests: Counter,
    archived: Counter,
    archived_bytes: Counter,
    archive_backlog: Gauge,
    failures: Family<Labels, Counter>,
}

fn labels(name: &'static str, value: &'static str) -> Labels {
    vec![(name, value.to_owned())]
}

impl Default for UpkeepNumbers {
    fn default() -> Self {
        let numbers = Self {
            runs: Family::default(),
            duration: Histogram::new(SECONDS),
            merged_files: Counter::default(),
            bytes: Family::default(),
            dropped_files: Counter::default(),
            dropped_bytes: Counter::default(),
            removed: Counter::default(),
            orphans: Counter::default(),
            manifests: Counter::default(),
            archived: Counter::default(),
            archived_bytes: Counter::default(),
            archive_backlog: Gauge::default(),
            failures: Family::default(),
        };
        // A rate over a series needs its zero: it is there before the first event.
        let zero = |family: &Family<Labels, Counter>, name, values: &[&'static str]| {
            values.iter().for_each(|value| drop(family.get_or_create(&labels(name, value))));
        };
        zero(&numbers.runs, "outcome", &OUTCOMES);
        zero(&numbers.bytes, "direction", &["read", "written"]);
        zero(&numbers.failures, "task", &TASKS);
        numbers
    }
}

impl UpkeepNumbers {
    /// A merge ended.
    pub fn compaction_done(&self, outcome: &'static str, duration: Duration) {
        self.runs.get_or_create(&labels("outcome", outcome)).inc();
        self.duration.observe(duration.as_secs_f64());
    }

    /// Files became one.
    pub fn compacted(&self, files: u64, bytes_read: u64, bytes_written: u64) {
        self.merged_files.inc_by(files);
        self.bytes.get_or_create(&labels("direction", "read")).inc_by(bytes_read);
        self.bytes.get_or_create(&labels("direction", "written")).inc_by(bytes_written);
    }

    /// Files were past their retention.
    pub fn dropped(&self, files: u64, bytes: u64) {
        self.dropped_files.inc_by(files);
        self.dropped_bytes.inc_by(bytes);
    }

    /// Objects were removed.
    pub fn removed(&self, objects: u64) {
        self.removed.inc_by(objects);
    }

    /// Objects that no list names were given up.
    pub fn orphans(&self, objects: u64) {
        self.orphans.inc_by(objects);
    }

    /// Manifests were written.
    pub fn manifests_written(&self, manifests: u64) {
        self.manifests.inc_by(manifests);
    }

    /// A log segment was copied, in so many bytes.
    pub fn archived(&self, bytes: u64) {
        self.archived.inc();
        self.archived_bytes.inc_by(bytes);
    }

    /// So many log segments more wait to be copied.
    pub fn archive_backlog(&self, more: i64) {
        self.archive_backlog.inc_by(more);
    }

    /// A pass was not done to its end.
    pub fn failed(&self, task: &'static str) {
        self.failures.get_or_create(&labels("task", task)).inc();
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let counter = |registry: &mut Registry, name: &'static str, counter: &Counter| {
            let total = format!("{name}_total");
            registry.register(name, meaning(&total), counter.clone());
        };
        let family = |registry: &mut Registry, name: &'static str, family: &Family<Labels, Counter>| {
            let total = format!("{name}_total");
            registry.register(name, meaning(&total), family.clone());
        };
        family(registry, "compaction_runs", &self.runs);
        registry.register("compaction_duration_seconds", meaning("compaction_duration_seconds"), self.duration.clone());
        counter(registry, "compaction_files", &self.merged_files);
        family(registry, "compaction_bytes", &self.bytes);
        counter(registry, "storage_dropped_files", &self.dropped_files);
        counter(registry, "storage_dropped_bytes", &self.dropped_bytes);
        counter(registry, "storage_removed_objects", &self.removed);
        counter(registry, "storage_orphans", &self.orphans);
        counter(registry, "storage_manifests", &self.manifests);
        counter(registry, "wal_archived_segments", &self.archived);
        counter(registry, "wal_archived_bytes", &self.archived_bytes);
        registry.register("wal_archive_backlog", meaning("wal_archive_backlog"), self.archive_backlog.clone());
        family(registry, "upkeep_failures", &self.failures);
    }
}
