//! Dead letters once more: those that a filter finds go back into their stream, through its schema and pipeline as they are now.
//!
//! A job reads the stream of dead letters from its first letter to the last that was there when the job was made, page by page; a
//! run goes on after the last page that was kept. What is put back has an idempotency key that is a function of its letter, so a
//! page that is gone through again, after a crash or by another job, puts nothing back twice within the window of keys. A letter
//! that the pipeline would still make nothing of stays where it is.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::time;
use ttdust_proto::ingestion::{AppendResponse, OnInvalid};
use ttdust_shards::{
    ids::StreamId,
    pipeline::{Runner, Verdict},
    query::{Cancel, Order, Query, QueryAnswer, RecordRow, TimeField, TimeRangeQuery},
    snapshot::StreamEntry,
    status::Status,
    transform::encode_metadata,
    validate::Validator,
};

use super::{
    CATALOG_PAUSE, Imports, Progress, Running, corrupt,
    run::{End, PAUSED_PAUSE, is_for_later},
};
use crate::{
    calendar::now_unix_micros,
    catalog::{AuditEntry, CatalogError, Job, JobKind},
    producer::{Records, Source, pause},
    workers::WorkerError,
};

/// Letters that are read at a time.
const PAGE: usize = 500;

/// Which letters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
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

/// What a replay is of, as the catalog keeps it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReplaySpec {
    /// Which letters.
    pub filter: ReplayFilter,
    /// Nothing is put back: it is only counted.
    pub dry_run: bool,
}

impl ReplaySpec {
    /// Of the letters that are there now: those that come later, of what is put back too, are for another job.
    #[must_use]
    pub fn of_now(mut filter: ReplayFilter, dry_run: bool) -> Self {
        filter.end = Some(filter.end.unwrap_or(i64::MAX).min(now_unix_micros()));
        Self { filter, dry_run }
    }
}

/// What came of letters so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReplayCounts {
    /// Letters that were read.
    pub scanned: u64,
    /// Of these, those that the filter finds.
    pub matched: u64,
    /// Of these, put back; of a dry run, those that would be.
    pub replayed: u64,
    /// Of these, put back before: by another job, or by this one before a crash that it did not keep its progress over.
    pub duplicates: u64,
    /// Of these, still refused by the schema.
    pub rejected: u64,
    /// Of these, those that the pipeline still makes nothing of.
    pub failing: u64,
}

impl ReplayCounts {
    fn add(&mut self, counts: Self) {
        self.scanned += counts.scanned;
        self.matched += counts.matched;
        self.replayed += counts.replayed;
        self.duplicates += counts.duplicates;
        self.rejected += counts.rejected;
        self.failing += counts.failing;
    }
}

/// How far a replay came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReplayProgress {
    /// The sequence number of the last letter whose fate is known.
    pub after: i64,
    /// What came of those up to it.
    pub counts: ReplayCounts,
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

impl Imports {
    /// Keeps a new replay, which begins when it is its turn.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub async fn create_replay(
        &self,
        stream: StreamId,
        spec: &ReplaySpec,
        audit: AuditEntry,
    ) -> Result<Job, CatalogError> {
        let mut kept = serde_json::to_value(spec).expect("texts and numbers always serialise");
        JobKind::Replay.mark(&mut kept);
        let progress = Progress { replay: Some(ReplayProgress::default()), ..Progress::default() };
        self.create_job(stream, kept, &progress, audit).await
    }

    /// Runs a replay to the end of this run.
    pub(super) async fn replay(&self, job: &Job, running: &Running) -> End {
        let Ok(spec) = serde_json::from_value::<ReplaySpec>(job.spec.clone()) else {
            return corrupt("a request");
        };
        running.progress.lock().unwrap_or_else(PoisonError::into_inner).begin(0);
        if let Err(end) = self.keep_begun(&job.id, None, running).await {
            return end;
        }
        let task = self.put_all_back(job.stream, &spec, running);
        self.watched(&job.id, running, task).await.err().unwrap_or(End::Done)
    }

    async fn put_all_back(&self, stream: StreamId, spec: &ReplaySpec, running: &Running) -> Result<(), End> {
        let filter = Arc::new(spec.filter.clone());
        let mut progress = running.progress().replay.unwrap_or_default();
        loop {
            if running.is_over() {
                return Err(End::Cancelled);
            }
            let entry = self.parts.producer.stream(stream).map_err(|status| End::Failed(status.message))?;
            let letters = entry.dead_letters.ok_or_else(|| End::Failed("the stream has no dead letters".to_owned()))?;
            let QueryAnswer { records, next_after, .. } = self.page(letters, spec, progress.after, running).await?;
            let through = next_after.or_else(|| records.last().map(|record| record.sequence));
            let (filter, of_stream) = (Arc::clone(&filter), Arc::clone(&entry));
            let mut sorted = match self.parts.sorters.run(move || sort(&of_stream, &filter, records)).await {
                Ok(sorted) => sorted,
                Err(WorkerError::Overloaded) => {
                    running.pause("too much else is looked through".to_owned(), CATALOG_PAUSE).await?;
                    continue;
                }
                Err(error @ WorkerError::Panicked) => return Err(End::Failed(error.to_string())),
            };
            if spec.dry_run {
                sorted.counts.replayed = sorted.good.len() as u64;
            } else {
                self.put_back(&entry, letters, &mut sorted, running).await?;
            }
            progress.counts.add(sorted.counts);
            progress.after = through.unwrap_or(progress.after);
            running.came_to(progress, spec.dry_run);
            if next_after.is_none() {
                return Ok(());
            }
        }
    }

    /// The next letters, once they can be read.
    async fn page(
        &self,
        letters: StreamId,
        spec: &ReplaySpec,
        after: i64,
        running: &Running,
    ) -> Result<QueryAnswer, End> {
        loop {
            let query = Query::TimeRange(TimeRangeQuery {
                stream: letters,
                time_field: TimeField::Ingest,
                start_unix_micros: spec.filter.start.unwrap_or(i64::MIN),
                end_unix_micros: spec.filter.end.unwrap_or(i64::MAX),
                limit: PAGE,
                order: Order::Ascending,
                after_sequence: Some(after),
            });
            let failure = match self.parts.queries.run(query, Cancel::default()).await {
                Ok(page) => return Ok(page),
                Err(failure) => Status::query(failure),
            };
            let message = format!("dead letters cannot be read: {}", failure.message);
            match failure.retry_after {
                Some(after) => running.pause(message, after.max(PAUSED_PAUSE)).await?,
                None => return Err(End::Failed(message)),
            }
        }
    }

    async fn put_back(
        &self,
        stream: &StreamEntry,
        letters: StreamId,
        sorted: &mut Sorted,
        running: &Running,
    ) -> Result<(), End> {
        let good = std::mem::take(&mut sorted.good);
        for same in good.chunk_by(|a, b| a.metadata == b.metadata) {
            let records = Records {
                payloads: same.iter().map(|wanted| wanted.payload.clone()).collect(),
                keys: same.iter().map(|wanted| format!("replay/{letters}/{}", wanted.sequence).into()).collect(),
                metadata: same[0].metadata.clone(),
                on_invalid: OnInvalid::Skip,
                numbers: None,
            };
            let answer = self.append(stream.id, &records, running).await?;
            sorted.counts.replayed += u64::from(answer.accepted);
            sorted.counts.duplicates += u64::from(answer.duplicates);
            sorted.counts.rejected += u64::from(answer.rejected);
        }
        Ok(())
    }

    /// Puts records into the stream as it then is, once it takes them.
    async fn append(&self, stream: StreamId, records: &Records, running: &Running) -> Result<AppendResponse, End> {
        let producer = &self.parts.producer;
        loop {
            let entry = producer.stream(stream).map_err(|status| End::Failed(status.message))?;
            let status = match producer.append(Source::DeadLetters, &entry, records.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(status) => status,
            };
            match pause(&status) {
                Some(after) => running.pause(status.message, after).await?,
                None if status.reason == "STREAM_PAUSED" => running.pause(status.message, PAUSED_PAUSE).await?,
                None if is_for_later(&status) => return Err(End::Later),
                None => return Err(End::Failed(status.message)),
            }
        }
    }
}

impl Running {
    /// Waits this long, and tells for what.
    async fn pause(&self, what: String, time: Duration) -> Result<(), End> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).waits_for = Some(what);
        if self.is_over() {
            return Err(End::Cancelled);
        }
        time::sleep(time).await;
        Ok(())
    }

    fn came_to(&self, replay: ReplayProgress, dry_run: bool) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = replay.counts;
        progress.processed = counts.scanned;
        progress.succeeded = if dry_run { 0 } else { counts.replayed + counts.duplicates };
        progress.failed = counts.rejected + counts.failing;
        progress.waits_for = None;
        progress.replay = Some(replay);
    }
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

    #[test]
    fn what_a_job_is_of_and_how_far_it_came_are_read_back_as_they_were_kept() {
        let filter = ReplayFilter { reason: Some("R".into()), start: Some(-5), ..ReplayFilter::default() };
        let before = now_unix_micros();
        let spec = ReplaySpec::of_now(filter.clone(), true);
        assert!((before..=now_unix_micros()).contains(&spec.filter.end.expect("an end")));
        assert_eq!(ReplaySpec::of_now(ReplayFilter { end: Some(7), ..filter }, false).filter.end, Some(7));
        let mut kept = serde_json::to_value(&spec).expect("JSON");
        JobKind::Replay.mark(&mut kept);
        assert_eq!(serde_json::from_value::<ReplaySpec>(kept.clone()).expect("a spec"), spec);
        let counts = ReplayCounts { scanned: 9, failing: 2, ..ReplayCounts::default() };
        let progress =
            Progress { replay: Some(ReplayProgress { after: 41, counts }), processed: 9, ..Progress::default() };
        assert_eq!(Progress::of_value(&progress.to_value()), progress);
        let job = Job {
            id: String::new(),
            stream: StreamId::generate(),
            status: crate::catalog::JobStatus::Pending,
            spec: kept,
            objects: serde_json::Value::Null,
            progress: progress.to_value(),
            created_at: 0,
            completed_at: None,
        };
        assert_eq!(job.kind(), JobKind::Replay);
        assert_eq!(Job { spec: serde_json::json!({"source_uri": ""}), ..job }.kind(), JobKind::Import);
    }
}
