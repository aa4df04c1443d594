//! Dead letters once more: those that a filter finds go back into their stream, through its schema and pipeline as they are now.
//!
//! A job reads the stream of dead letters that its stream had when the job was made, and no other, from its first letter to the last
//! that was there then, page by page. What came of a page is kept in the catalog before the next one is begun, however long that
//! takes; a run goes on after the last page that was kept. What is put back has an idempotency key that is a function of its letter,
//! so a page that is gone through again, after a crash or by another job, puts nothing back twice within the window of keys.
//!
//! What remains: of the one page that was under way, letters that were put back before the run ended are put back twice, if the next
//! run comes to them only when their keys are forgotten (`dedup.window_hours`). Of two jobs that have letters in common, further
//! apart than that, the same is true of all of these.
//!
//! A letter that the pipeline would still make nothing of stays where it is. With a pipeline that cannot be loaded nothing is put
//! back: the job waits until it can.

use std::{
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::time;
use ttdust_proto::ingestion::{AppendResponse, OnInvalid};
use ttdust_shards::{
    ids::StreamId,
    pipeline::{Runner, UnknownPipeline, Verdict},
    query::{Cancel, Order, Query, QueryAnswer, RecordRow, TimeField, TimeRangeQuery},
    snapshot::StreamEntry,
    status::Status,
    transform::encode_metadata,
    validate::Validator,
};

use super::{
    CATALOG_PAUSE, Imports, Progress, Running, corrupt,
    run::{End, is_for_later},
};
use crate::{
    catalog::{AuditEntry, CatalogError, Job, JobKind},
    producer::{Records, Source, pause},
    workers::WorkerError,
};

/// Letters that are read at a time.
const PAGE: usize = 500;
/// Between tries to read them, at least.
const READ_PAUSE: Duration = Duration::from_millis(200);

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
    /// The id of the stream that the letters are in. `None`, of a job of an earlier version: the stream's dead letters.
    pub letters: Option<String>,
    /// The sequence number of the last letter that there was when the job was made: those that come later, of what is put back
    /// too, are for another job. `None`, of a job of an earlier version: the filter's `end` is no later than that.
    pub through: Option<i64>,
}

impl ReplaySpec {
    /// The stream that the letters are in.
    fn letters_of(&self, stream: &StreamEntry) -> Result<StreamId, End> {
        let now = stream.dead_letters.ok_or_else(|| End::Failed("the stream has no dead letters".to_owned()))?;
        let then = self
            .letters
            .as_deref()
            .map(str::parse::<StreamId>)
            .transpose()
            .map_err(|_| corrupt("the id of a stream"))?;
        match then {
            Some(then) if then != now => {
                let reason = format!("the dead letters of the stream are in {now} now, and this is a replay of {then}");
                Err(End::Failed(format!("{reason}: begin another one")))
            }
            _ => Ok(now),
        }
    }
}

/// Whether a job is a replay that puts nothing back.
pub(super) fn only_counts(job: &Job) -> bool {
    let spec = || serde_json::from_value::<ReplaySpec>(job.spec.clone());
    job.kind() == JobKind::Replay && spec().is_ok_and(|spec| spec.dry_run)
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

/// Letters that follow each other.
struct Page {
    records: Vec<RecordRow>,
    /// The sequence number that the next come after; `None`: as before.
    through: Option<i64>,
    /// There are no more, or no more that are asked for.
    is_last: bool,
}

impl Page {
    /// Of these, those up to `last`.
    fn of(answer: QueryAnswer, last: i64) -> Self {
        let QueryAnswer { mut records, next_after, .. } = answer;
        records.retain(|record| record.sequence <= last);
        let through = next_after.or_else(|| records.last().map(|record| record.sequence)).map(|after| after.min(last));
        Self { records, through, is_last: next_after.is_none_or(|after| after >= last) }
    }
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
    /// `Full`: too many have not ended; see [`CatalogError`].
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
        let task = self.put_all_back(job, &spec, running);
        self.watched(&job.id, running, task).await.err().unwrap_or(End::Done)
    }

    async fn put_all_back(&self, job: &Job, spec: &ReplaySpec, running: &Running) -> Result<(), End> {
        let filter = Arc::new(spec.filter.clone());
        let mut progress = running.progress().replay.unwrap_or_default();
        loop {
            if running.is_over() {
                return Err(End::Cancelled);
            }
            let entry = self.parts.producer.stream(job.stream).map_err(|status| End::Failed(status.message))?;
            let letters = spec.letters_of(&entry)?;
            let page = self.page(letters, spec, progress.after, running).await?;
            let Page { records, through, is_last } = page;
            let (filter, of_stream) = (Arc::clone(&filter), Arc::clone(&entry));
            let mut sorted = match self.parts.sorters.run(move || sort(&of_stream, &filter, records)).await {
                Ok(Ok(sorted)) => sorted,
                Ok(Err(unknown)) => return Err(End::Waits(unknown.to_string())),
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
            self.keep(&job.id, running).await?;
            if is_last {
                return Ok(());
            }
        }
    }

    /// Keeps how far a replay came, once that can be done.
    async fn keep(&self, id: &str, running: &Running) -> Result<(), End> {
        loop {
            let change = running.change(id, None);
            let why = match self.parts.catalog.change_job(change, None).await {
                Ok(_) => {
                    running.waits_for(None);
                    return Ok(());
                }
                Err(CatalogError::Unavailable(why)) => format!("how far it came cannot be kept: {why}"),
                // It has ended, by somebody else's hand.
                Err(CatalogError::Conflict(_) | CatalogError::NotFound(_)) => return Err(End::Later),
                Err(error) => return Err(End::Failed(error.to_string())),
            };
            running.waits_for(Some(why));
            if running.is_over() {
                return Err(End::Cancelled);
            }
            time::sleep(CATALOG_PAUSE).await;
        }
    }

    /// The next letters, once they can be read.
    async fn page(&self, letters: StreamId, spec: &ReplaySpec, after: i64, running: &Running) -> Result<Page, End> {
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
                Ok(answer) => return Ok(Page::of(answer, spec.through.unwrap_or(i64::MAX))),
                Err(failure) => Status::query(failure),
            };
            let message = format!("dead letters cannot be read: {}", failure.message);
            match failure.retry_after {
                Some(after) => running.pause(message, after.max(READ_PAUSE)).await?,
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
                None if status.reason == "STREAM_PAUSED" => return Err(End::Waits(status.message)),
                None if is_for_later(&status) => return Err(End::Later),
                None => return Err(End::Failed(status.message)),
            }
        }
    }
}

impl Running {
    fn waits_for(&self, what: Option<String>) {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).waits_for = what;
    }

    /// Waits this long, and tells for what; but not for ever in its place.
    async fn pause(&self, what: String, time: Duration) -> Result<(), End> {
        if self.is_over() {
            return Err(End::Cancelled);
        }
        if self.patience.lock().unwrap_or_else(PoisonError::into_inner).is_over(Instant::now()) {
            return Err(End::Waits(what));
        }
        self.waits_for(Some(what));
        time::sleep(time).await;
        Ok(())
    }

    fn came_to(&self, replay: ReplayProgress, dry_run: bool) {
        self.patience.lock().unwrap_or_else(PoisonError::into_inner).renew();
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
fn sort(stream: &StreamEntry, filter: &ReplayFilter, records: Vec<RecordRow>) -> Result<Sorted, UnknownPipeline> {
    let mut sorted = Sorted::default();
    let mut validator = Validator::default();
    let mut runner = match stream.pipelines.current() {
        0 => None,
        version => Some(Runner::new(stream.pipelines.get(version)?)),
    };
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
    Ok(sorted)
}

#[cfg(test)]
mod tests {
    use ttdust_shards::{
        ids::{SchemaId, ShardId},
        pipeline::Pipelines,
        schema::CompiledSchema,
        snapshot::StreamState,
    };

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
        let spec = ReplaySpec { filter, dry_run: true, letters: Some("str_1".into()), through: Some(41) };
        let mut kept = serde_json::to_value(&spec).expect("JSON");
        JobKind::Replay.mark(&mut kept);
        assert_eq!(serde_json::from_value::<ReplaySpec>(kept.clone()).expect("a spec"), spec);
        let earlier = serde_json::json!({"kind": "replay", "filter": {"end": 5}, "dry_run": true});
        let earlier = serde_json::from_value::<ReplaySpec>(earlier).expect("of an earlier version");
        assert_eq!((earlier.filter.end, earlier.letters, earlier.through), (Some(5), None, None));
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
        assert_eq!((job.kind(), only_counts(&job)), (JobKind::Replay, true));
        assert_eq!(Job { spec: serde_json::json!({"source_uri": ""}), ..job }.kind(), JobKind::Import);
    }

    fn stream(pipelines: Pipelines, dead_letters: Option<StreamId>) -> StreamEntry {
        StreamEntry {
            id: StreamId::generate(),
            name: "s".into(),
            state: StreamState::Active,
            schema: Arc::new(CompiledSchema::compile(SchemaId::generate(), 1, "{}").expect("a schema")),
            key_fields: Arc::default(),
            pipelines: Arc::new(pipelines),
            dead_letters,
            home: ShardId(0),
        }
    }

    fn letter(sequence: i64) -> RecordRow {
        let payload = serde_json::json!({"reason": "NOT_AN_INTEGER", "pointers": ["/n"], "payload": "{\"n\":\"x\"}"});
        RecordRow { sequence, timestamp_unix_micros: 0, payload: payload.to_string().into(), metadata: Vec::new() }
    }

    #[test]
    fn with_a_pipeline_that_cannot_be_loaded_nothing_is_put_back() {
        let sorted = |pipelines| sort(&stream(pipelines, None), &ReplayFilter::default(), vec![letter(1)]);
        let none = sorted(Pipelines::default()).expect("no pipeline is none");
        assert_eq!((none.good.len(), none.counts.failing), (1, 0));
        let dlq = r#"[{"type": "coerce", "fields": ["n"], "to": "integer", "on_error": "dlq"}]"#;
        let one = sorted(Pipelines::new(2, [(2, dlq.into())])).expect("a pipeline");
        assert_eq!((one.good.len(), one.counts.failing), (0, 1));
        for unknown in [Pipelines::new(2, []), Pipelines::new(2, [(2, r#"[{"type": "of tomorrow"}]"#.into())])] {
            let Err(error) = sorted(unknown) else { panic!("it is passed over") };
            assert!(error.to_string().contains("version 2"), "{error}");
        }
    }

    #[test]
    fn a_job_reads_the_letters_that_it_was_made_for_and_no_others() {
        let (mine, other) = (StreamId::generate(), StreamId::generate());
        let spec = |letters: Option<StreamId>| ReplaySpec {
            letters: letters.map(|id| id.to_string()),
            ..ReplaySpec::default()
        };
        let of = |spec: ReplaySpec, now| spec.letters_of(&stream(Pipelines::default(), now));
        assert_eq!(of(spec(Some(mine)), Some(mine)).expect("the same"), mine);
        assert_eq!(of(spec(None), Some(other)).expect("of an earlier version"), other);
        for (spec, now) in [(spec(Some(mine)), Some(other)), (spec(Some(mine)), None), (spec(None), None)] {
            assert!(matches!(of(spec, now), Err(End::Failed(_))));
        }
    }

    #[test]
    fn it_ends_at_the_last_letter_that_was_there() {
        let answer = |sequences: std::ops::RangeInclusive<i64>, next_after| QueryAnswer {
            records: sequences.map(letter).collect(),
            next_after,
            ..QueryAnswer::default()
        };
        let of = |answer, last| {
            let Page { records, through, is_last } = Page::of(answer, last);
            (records.len(), through, is_last)
        };
        assert_eq!(of(answer(1..=3, Some(3)), i64::MAX), (3, Some(3), false));
        assert_eq!(of(answer(4..=5, None), i64::MAX), (2, Some(5), true));
        assert_eq!(of(answer(1..=3, Some(3)), 4), (3, Some(3), false));
        assert_eq!(of(answer(1..=3, Some(3)), 3), (3, Some(3), true));
        assert_eq!(of(answer(1..=3, Some(3)), 2), (2, Some(2), true));
        assert_eq!(of(answer(8..=9, None), 2), (0, None, true));
        let nothing = QueryAnswer { next_after: Some(7), ..QueryAnswer::default() };
        assert_eq!(of(nothing, 9), (0, Some(7), false));
    }
}
