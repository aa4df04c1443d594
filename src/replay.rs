//! Dead letters once more: those that a filter finds go back into their stream, through its schema and pipeline as they are now.
//!
//! A job reads the stream of dead letters from its first letter to the last that was there when the job began. What is put back
//! has an idempotency key that is a function of its letter, so a job that was cut short, or is started twice, puts nothing back
//! twice within the window of keys. A letter that the pipeline would still make nothing of stays where it is. Jobs are known to
//! this process alone: after its end, start another; it goes on where the other ended, for what is there is a duplicate.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde::Deserialize;
use ttdust_proto::ingestion::OnInvalid;
use ttdust_shards::{
    ids::StreamId,
    pipeline::{Runner, Verdict},
    query::{Cancel, Order, Query, RecordRow, TimeField, TimeRangeQuery},
    snapshot::StreamEntry,
    transform::encode_metadata,
    validate::Validator,
};

use crate::{
    calendar::now_unix_micros,
    producer::{Producer, Records, Source},
    publish::Publisher,
    query::Queries,
    workers::Workers,
};

/// Letters that are read at a time.
const PAGE: usize = 500;
/// Jobs that are remembered.
const JOBS_MAX: usize = 100;
/// Jobs that run at a time.
const RUNNING_MAX: usize = 4;

/// Which letters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReplayFilter {
    /// Those with this reason.
    pub reason: Option<String>,
    /// Those with a fault in this field, a JSON Pointer, or in what is in it.
    pub field: Option<String>,
    /// Those that came at or after this time, Unix µs.
    pub start: Option<i64>,
    /// Those that came before it.
    pub end: Option<i64>,
}

/// How a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplayStatus {
    /// Under way.
    Running,
    /// At its end.
    Completed,
    /// Ended before: `error` says why.
    Failed,
}

/// What came of letters so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReplayCounts {
    /// Letters that were read.
    pub scanned: u64,
    /// Of these, those that the filter finds.
    pub matched: u64,
    /// Of these, put back; of a dry run, those that would be.
    pub replayed: u64,
    /// Of these, put back before.
    pub duplicates: u64,
    /// Of these, still refused by the schema.
    pub rejected: u64,
    /// Of these, those that the pipeline still makes nothing of.
    pub failing: u64,
}

/// A job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayJob {
    /// `job_…`.
    pub id: String,
    /// The stream that letters go back to.
    pub stream: StreamId,
    /// Nothing is put back: it is only counted.
    pub dry_run: bool,
    /// How it stands.
    pub status: ReplayStatus,
    /// So far.
    pub counts: ReplayCounts,
    /// Why it failed.
    pub error: Option<String>,
    /// Unix µs.
    pub started_at: i64,
    /// Unix µs.
    pub ended_at: Option<i64>,
}

/// Why a job is not begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplayRefused {
    /// There is nothing to read.
    #[error("the stream has no dead letters: give it some (PATCH it with a dlq)")]
    NoDeadLetters,
    /// There are enough.
    #[error("as many replays as can run at a time are under way: try again when one has ended")]
    TooMany,
}

/// Replays.
#[derive(Debug)]
pub struct Replays {
    queries: Arc<Queries>,
    producer: Arc<Producer>,
    publisher: Arc<Publisher>,
    workers: Workers,
    jobs: Mutex<VecDeque<ReplayJob>>,
}

/// A dead letter as it is read.
#[derive(Deserialize)]
struct Letter {
    reason: String,
    #[serde(default)]
    pointers: Vec<String>,
    payload: Option<String>,
    payload_base64: Option<String>,
    #[serde(default)]
    metadata: std::collections::BTreeMap<String, String>,
}

impl Letter {
    fn bytes(&self) -> Option<Vec<u8>> {
        match (&self.payload, &self.payload_base64) {
            (Some(text), _) => Some(text.as_bytes().to_vec()),
            (None, Some(text)) => BASE64_STANDARD.decode(text).ok(),
            (None, None) => None,
        }
    }
}

impl ReplayFilter {
    fn finds(&self, letter: &Letter) -> bool {
        let is_in = |pointer: &String, field: &str| {
            pointer.strip_prefix(field).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.reason.as_ref().is_none_or(|reason| *reason == letter.reason)
            && self.field.as_ref().is_none_or(|field| letter.pointers.iter().any(|pointer| is_in(pointer, field)))
    }
}

/// A letter that is to be put back.
struct Wanted {
    sequence: i64,
    payload: Bytes,
    metadata: Bytes,
}

/// What a page of letters comes to.
#[derive(Default)]
struct Sorted {
    counts: ReplayCounts,
    /// Those that are taken now.
    good: Vec<Wanted>,
}

impl Replays {
    /// From these parts.
    #[must_use]
    pub fn new(queries: Arc<Queries>, producer: Arc<Producer>, publisher: Arc<Publisher>, workers: Workers) -> Self {
        Self { queries, producer, publisher, workers, jobs: Mutex::default() }
    }

    /// Begins a job, and tells how it stands.
    ///
    /// # Errors
    /// See [`ReplayRefused`].
    pub fn start(
        self: &Arc<Self>,
        stream: &StreamEntry,
        filter: ReplayFilter,
        dry_run: bool,
    ) -> Result<ReplayJob, ReplayRefused> {
        let letters = stream.dead_letters.ok_or(ReplayRefused::NoDeadLetters)?;
        let job = ReplayJob {
            id: format!("job_{}", uuid::Uuid::now_v7()),
            stream: stream.id,
            dry_run,
            status: ReplayStatus::Running,
            counts: ReplayCounts::default(),
            error: None,
            started_at: now_unix_micros(),
            ended_at: None,
        };
        {
            let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
            if jobs.iter().filter(|job| job.status == ReplayStatus::Running).count() >= RUNNING_MAX {
                return Err(ReplayRefused::TooMany);
            }
            while jobs.len() >= JOBS_MAX {
                let Some(oldest) = jobs.iter().position(|job| job.status != ReplayStatus::Running) else { break };
                jobs.remove(oldest);
            }
            jobs.push_back(job.clone());
        }
        let (replays, id, stream) = (Arc::clone(self), job.id.clone(), stream.id);
        tokio::spawn(async move {
            let ended = replays.run(&id, stream, letters, filter, dry_run).await;
            replays.change(&id, |job| {
                job.ended_at = Some(now_unix_micros());
                job.status = if ended.is_ok() { ReplayStatus::Completed } else { ReplayStatus::Failed };
                job.error = ended.err();
            });
        });
        Ok(job)
    }

    /// A job of this stream.
    #[must_use]
    pub fn job(&self, stream: StreamId, id: &str) -> Option<ReplayJob> {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.iter().find(|job| job.id == id && job.stream == stream).cloned()
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut ReplayJob)) {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(job) = jobs.iter_mut().find(|job| job.id == id) {
            change(job);
        }
    }

    async fn run(
        &self,
        id: &str,
        stream: StreamId,
        letters: StreamId,
        filter: ReplayFilter,
        dry_run: bool,
    ) -> Result<(), String> {
        let filter = Arc::new(filter);
        // Letters that come meanwhile, of what is put back too, are for another job.
        let end = filter.end.unwrap_or(i64::MAX).min(now_unix_micros());
        let mut after = None;
        loop {
            let query = Query::TimeRange(TimeRangeQuery {
                stream: letters,
                time_field: TimeField::Ingest,
                start_unix_micros: filter.start.unwrap_or(i64::MIN),
                end_unix_micros: end,
                limit: PAGE,
                order: Order::Ascending,
                after_sequence: after,
            });
            let page = self.queries.run(query, Cancel::default()).await;
            let page = page.map_err(|failure| format!("dead letters cannot be read: {failure:?}"))?;
            after = page.next_after;
            let Some(entry) = self.publisher.current().stream(stream).cloned() else {
                return Err("the stream is gone".to_owned());
            };
            let (filter, of_stream) = (Arc::clone(&filter), Arc::clone(&entry));
            let records = page.records;
            let sort = move || sort(&of_stream, &filter, records);
            let mut sorted = self.workers.run(sort).await.map_err(|error| error.to_string())?;
            if dry_run {
                sorted.counts.replayed = sorted.good.len() as u64;
            } else {
                self.put_back(&entry, letters, &mut sorted).await?;
            }
            self.change(id, |job| add(&mut job.counts, sorted.counts));
            if after.is_none() {
                return Ok(());
            }
        }
    }

    async fn put_back(&self, stream: &StreamEntry, letters: StreamId, sorted: &mut Sorted) -> Result<(), String> {
        let good = std::mem::take(&mut sorted.good);
        for same in good.chunk_by(|a, b| a.metadata == b.metadata) {
            let records = Records {
                payloads: same.iter().map(|wanted| wanted.payload.clone()).collect(),
                keys: same.iter().map(|wanted| format!("replay/{letters}/{}", wanted.sequence).into()).collect(),
                metadata: same[0].metadata.clone(),
                on_invalid: OnInvalid::Skip,
                numbers: None,
            };
            let answer = self.producer.append_patiently(Source::DeadLetters, stream.id, records).await;
            let answer = answer.map_err(|status| format!("{}: {}", status.reason, status.message))?;
            sorted.counts.replayed += u64::from(answer.accepted);
            sorted.counts.duplicates += u64::from(answer.duplicates);
            sorted.counts.rejected += u64::from(answer.rejected);
        }
        Ok(())
    }
}

fn add(to: &mut ReplayCounts, counts: ReplayCounts) {
    to.scanned += counts.scanned;
    to.matched += counts.matched;
    to.replayed += counts.replayed;
    to.duplicates += counts.duplicates;
    to.rejected += counts.rejected;
    to.failing += counts.failing;
}

/// What of a page is to be put back, by the filter, the schema and the pipeline. Blocking.
fn sort(stream: &StreamEntry, filter: &ReplayFilter, records: Vec<RecordRow>) -> Sorted {
    let mut sorted = Sorted::default();
    let mut validator = Validator::default();
    let pipeline = stream.pipelines.get(stream.pipelines.current()).ok();
    let mut runner = pipeline.map(Runner::new);
    for record in records {
        sorted.counts.scanned += 1;
        let Ok(letter) = serde_json::from_slice::<Letter>(&record.payload) else { continue };
        if !filter.finds(&letter) {
            continue;
        }
        sorted.counts.matched += 1;
        let Some(payload) = letter.bytes().filter(|payload| validator.accepts(&stream.schema, payload)) else {
            sorted.counts.rejected += 1;
            continue;
        };
        let verdict = runner.as_mut().map(|runner| runner.run(&payload));
        if matches!(verdict, Some(Verdict::Dead(_))) {
            sorted.counts.failing += 1;
            continue;
        }
        let metadata = encode_metadata(letter.metadata).into();
        sorted.good.push(Wanted { sequence: record.sequence, payload: payload.into(), metadata });
    }
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_finds_by_reason_and_by_field_with_what_is_in_it() {
        let letter = |pointers: &[&str]| Letter {
            reason: "NOT_A_NUMBER".into(),
            pointers: pointers.iter().map(|&pointer| pointer.to_owned()).collect(),
            payload: None,
            payload_base64: Some("/w==".into()),
            metadata: Default::default(),
        };
        assert_eq!(letter(&[]).bytes(), Some(vec![0xff]));
        let filter = |reason: Option<&str>, field: Option<&str>| ReplayFilter {
            reason: reason.map(str::to_owned),
            field: field.map(str::to_owned),
            ..ReplayFilter::default()
        };
        assert!(filter(None, None).finds(&letter(&[])));
        assert!(filter(Some("NOT_A_NUMBER"), Some("/a")).finds(&letter(&["/b", "/a/c"])));
        assert!(!filter(Some("NOT_A_NUMBER"), Some("/a")).finds(&letter(&["/ab"])));
        assert!(!filter(Some("NOT_JSON"), None).finds(&letter(&["/a"])));
    }
}
