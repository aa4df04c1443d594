//! Imports: jobs that read objects, row by row, and write their records into a stream as any producer does.
//!
//! A job is a writer of its stream that numbers its rows, so each is taken once, whatever happens and however often the job begins
//! again; what it knows of itself is a few numbers in the catalog. It runs on a thread of its own at low priority, holds a bounded
//! part of an object in memory, and gives way where others write to the same shard. What an object holds can fail its job, and
//! nothing else.
//!
//! A job that cannot go on now (`resting`), because its stream is paused or takes no records for long, gives its place to others and
//! is begun again later.
//!
//! Replays of dead letters (`replay`) are jobs too: they are kept, begun, called off and gone on with in the same way.

mod columnar;
mod delimited;
mod fields;
mod input;
mod json;
mod lines;
mod listing;
mod opening;
mod pace;
mod progress;
mod replay;
mod resting;
mod run;
mod spec;
mod thrift;

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde_json::Value;
use tokio::{
    sync::{Notify, watch},
    time,
};
use ttdust_shards::{ids::StreamId, rows::takes_records};

use crate::{
    calendar::now_unix_micros,
    catalog::{AuditEntry, Catalog, CatalogError, Job, JobChange, JobFilter, JobKind, JobStatus, Page},
    config::{ImportRoot, S3Options},
    objects::{ForeignObjects, ObjectError},
    producer::Producer,
    query::Queries,
    traces::Traces,
    workers::{WorkerError, Workers},
};
use input::Broken;
use resting::{Patience, Resting};
use run::{End, Run};

#[doc(hidden)]
pub use opening::each_row;
pub use progress::{Progress, RowFault};
pub use replay::{ReplayCounts, ReplayFilter, ReplayProgress, ReplaySpec};
pub use spec::{Format, Place, Spec, SpecError};

/// Between two times that a job's progress is kept.
const SAVE_PAUSE: Duration = Duration::from_secs(1);
/// Between tries to learn which jobs there are, or to keep how one ended.
const CATALOG_PAUSE: Duration = Duration::from_secs(2);
/// How long a cancellation waits for its job to stop.
const CANCEL_PATIENCE: Duration = Duration::from_secs(5);
/// How many replays run at a time.
const REPLAYS_AT_ONCE: usize = 4;
/// How many jobs there may be that have not ended: each is looked at whenever there may be one to begin.
const JOBS_MAX: u32 = 1000;
/// How long ended jobs are remembered, and between two times that older ones are forgotten.
const KEPT: Duration = Duration::from_secs(90 * 86_400);
const FORGET_PAUSE: Duration = Duration::from_secs(3600);

/// The objects of a job, and the bucket that they are in, if they are in one.
type Listed = (Vec<listing::Object>, Option<ForeignObjects>);

/// A row of an object.
#[derive(Debug)]
struct Row {
    /// The line that it begins on, or its number.
    line: u64,
    /// The record; or why there is none.
    payload: Result<Bytes, Box<BadRow>>,
}

/// A row that is no record.
#[derive(Debug)]
struct BadRow {
    message: String,
    field: String,
}

/// What this program has written cannot be read.
fn corrupt(what: &str) -> End {
    End::Failed(format!("the catalog holds {what} of the job that cannot be read"))
}

impl Row {
    fn bad(line: u64, message: String, field: &str) -> Self {
        Self { line, payload: Err(Box::new(BadRow { message, field: field.to_owned() })) }
    }
}

/// The rows of an object, in order.
trait Rows: Send + fmt::Debug {
    /// The next ones, a bounded number; none: it is at its end.
    fn next(&mut self) -> Result<Vec<Row>, Broken>;
}

/// What imports work with.
#[derive(Debug)]
pub struct ImportParts {
    /// Where jobs are kept.
    pub catalog: Catalog,
    /// Takes the records.
    pub producer: Arc<Producer>,
    /// Finds dead letters.
    pub queries: Arc<Queries>,
    /// The threads that they run on, one each.
    pub threads: Workers,
    /// Those that look through dead letters, a page at a time.
    pub sorters: Workers,
    /// How many imports run at a time.
    pub at_once: usize,
    /// What may be read.
    pub roots: Vec<ImportRoot>,
    /// The store whose buckets may be among it.
    pub s3: Option<S3Options>,
    /// Tells of each run of a job.
    pub traces: Traces,
}

/// Runs jobs.
#[derive(Debug)]
pub struct Imports {
    parts: ImportParts,
    running: Mutex<HashMap<String, Arc<Running>>>,
    resting: Resting,
    /// Rung when there may be a job to begin.
    news: Notify,
    stopping: AtomicBool,
}

/// A job at work.
#[derive(Debug)]
struct Running {
    kind: JobKind,
    progress: Mutex<Progress>,
    patience: Mutex<Patience>,
    /// It was called off, and by whom.
    cancelled: Mutex<Option<AuditEntry>>,
    is_cancelled: AtomicBool,
    /// The server is at its end.
    is_stopped: AtomicBool,
    ended: watch::Sender<bool>,
}

impl Running {
    fn of(job: &Job) -> Self {
        Self {
            kind: job.kind(),
            progress: Mutex::new(Progress::of_value(&job.progress)),
            patience: Mutex::default(),
            cancelled: Mutex::default(),
            is_cancelled: AtomicBool::new(false),
            is_stopped: AtomicBool::new(false),
            ended: watch::Sender::new(false),
        }
    }

    /// How far job `id` has come, for the catalog; `objects`: what it reads, if that is new.
    fn change(&self, id: &str, objects: Option<Value>) -> JobChange {
        let progress = self.progress().to_value();
        JobChange { id: id.to_owned(), status: JobStatus::Running, objects, progress, completed_at: None }
    }

    fn progress(&self) -> Progress {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether it is to stop where it is.
    fn is_over(&self) -> bool {
        self.is_cancelled.load(Relaxed) || self.is_stopped.load(Relaxed)
    }
}

impl Imports {
    /// None yet.
    #[must_use]
    pub fn new(parts: ImportParts) -> Self {
        Self {
            parts,
            running: Mutex::default(),
            resting: Resting::new(Instant::now()),
            news: Notify::new(),
            stopping: AtomicBool::new(false),
        }
    }

    /// Where a source lies, if it may be read.
    ///
    /// # Errors
    /// The request is at fault.
    pub fn check(&self, spec: &Spec) -> Result<(), SpecError> {
        spec.options()?;
        spec.place(&self.parts.roots).map(|_| ())
    }

    /// Keeps a new job, which begins when it is its turn.
    ///
    /// # Errors
    /// `Full`: too many have not ended; see [`CatalogError`].
    pub async fn create(&self, stream: StreamId, spec: &Spec, audit: AuditEntry) -> Result<Job, CatalogError> {
        let spec = serde_json::to_value(spec).expect("texts always serialise");
        self.create_job(stream, spec, &Progress::default(), audit).await
    }

    async fn create_job(
        &self,
        stream: StreamId,
        spec: Value,
        progress: &Progress,
        audit: AuditEntry,
    ) -> Result<Job, CatalogError> {
        let job = Job {
            id: audit.object_id.clone(),
            stream,
            status: JobStatus::Pending,
            spec,
            objects: Value::Null,
            progress: progress.to_value(),
            created_at: now_unix_micros(),
            completed_at: None,
        };
        self.parts.catalog.create_job(job.clone(), JOBS_MAX, audit).await?;
        self.news.notify_one();
        Ok(job)
    }

    /// A job, as it is at this moment.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn job(&self, id: &str) -> Result<Job, CatalogError> {
        Ok(self.up_to_date(self.parts.catalog.job(id.to_owned()).await?))
    }

    /// Jobs, the newest first.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub async fn jobs(&self, filter: JobFilter, page: Page) -> Result<Vec<Job>, CatalogError> {
        let jobs = self.parts.catalog.jobs(filter, page).await?;
        Ok(jobs.into_iter().map(|job| self.up_to_date(job)).collect())
    }

    fn running(&self, id: &str) -> Option<Arc<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    fn up_to_date(&self, job: Job) -> Job {
        if job.status.is_final() {
            return job;
        }
        let progress = match (self.running(&job.id), self.resting.what(&job.id)) {
            (Some(running), _) => running.progress(),
            (None, Some(what)) => Progress { waits_for: Some(what), ..Progress::of_value(&job.progress) },
            (None, None) => return job,
        };
        Job { progress: progress.to_value(), ..job }
    }

    /// Calls a job off, and answers it as it is then: what was taken stays.
    ///
    /// # Errors
    /// `NotFound`; `Conflict`: it has ended.
    pub async fn cancel(&self, id: &str, audit: AuditEntry) -> Result<Job, CatalogError> {
        if let Some(running) = self.running(id) {
            let mut ended = running.ended.subscribe();
            *running.cancelled.lock().unwrap_or_else(PoisonError::into_inner) = Some(audit.clone());
            running.is_cancelled.store(true, Relaxed);
            // Past that it is under way all the same.
            let has_ended = time::timeout(CANCEL_PATIENCE, ended.wait_for(|ended| *ended)).await.is_ok();
            let job = self.job(id).await?;
            // It may just have given its place back.
            if job.status.is_final() || !has_ended {
                return Ok(job);
            }
        }
        let job = self.parts.catalog.job(id.to_owned()).await?;
        let change = JobChange {
            id: job.id,
            status: JobStatus::Cancelled,
            objects: None,
            progress: Progress { waits_for: None, ..Progress::of_value(&job.progress) }.to_value(),
            completed_at: Some(now_unix_micros()),
        };
        let job = self.parts.catalog.change_job(change, Some(audit)).await?;
        self.resting.forget(&job.id);
        // It may just have been begun again.
        if let Some(running) = self.running(id) {
            running.is_cancelled.store(true, Relaxed);
        }
        Ok(job)
    }

    /// Stops all jobs where they are: the next start goes on with them.
    pub fn stop(&self) {
        self.stopping.store(true, Relaxed);
    }

    /// Begins jobs as they come, and goes on with those of earlier runs, for as long as the server runs.
    pub async fn run(self: Arc<Self>) {
        let mut forget_at = Instant::now();
        loop {
            let looked_at = Instant::now();
            match self.look(looked_at, &mut forget_at).await {
                Ok(()) => self.wait_for_work(looked_at, forget_at).await,
                Err(error) => {
                    tracing::warn!(%error, "which jobs there are is not known yet");
                    time::sleep(CATALOG_PAUSE).await;
                }
            }
            if self.stopping.load(Relaxed) {
                return;
            }
        }
    }

    /// Begins what is due, and forgets what is old where it is time for that.
    async fn look(self: &Arc<Self>, now: Instant, forget_at: &mut Instant) -> Result<(), CatalogError> {
        self.begin_due(now).await?;
        if *forget_at <= now {
            self.parts.catalog.forget_jobs_before(now_unix_micros() - KEPT.as_micros() as i64).await?;
            *forget_at = now + FORGET_PAUSE;
        }
        Ok(())
    }

    /// Until there may be a job to begin that was not there, or had not rested, at `looked_at`, or old ones are to be forgotten.
    async fn wait_for_work(&self, looked_at: Instant, forget_at: Instant) {
        let rested = async {
            match self.resting.next(looked_at) {
                Some(next) => time::sleep_until(next.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.news.notified() => {}
            () = rested => {}
            () = time::sleep_until(forget_at.into()) => {}
        }
    }

    async fn begin_due(self: &Arc<Self>, now: Instant) -> Result<(), CatalogError> {
        let unfinished = self.parts.catalog.unfinished_jobs().await?;
        let ids: HashSet<&str> = unfinished.iter().map(|job| job.id.as_str()).collect();
        self.resting.keep(|id| ids.contains(id));
        for job in unfinished {
            if self.resting.has(&job.id, now) || self.running(&job.id).is_some() {
                continue;
            }
            if let Some(what) = self.in_the_way(&job) {
                self.resting.begin(&job.id, Some(what), Progress::of_value(&job.progress).processed, now);
                continue;
            }
            let running = {
                let mut all = self.running.lock().unwrap_or_else(PoisonError::into_inner);
                if self.stopping.load(Relaxed) {
                    break;
                }
                let kind = job.kind();
                let limit = match kind {
                    JobKind::Import => self.parts.at_once,
                    JobKind::Replay => REPLAYS_AT_ONCE,
                };
                let is_full = all.values().filter(|running| running.kind == kind).count() >= limit;
                if is_full || all.contains_key(&job.id) {
                    continue;
                }
                let running = Arc::new(Running::of(&job));
                all.insert(job.id.clone(), Arc::clone(&running));
                running
            };
            let imports = Arc::clone(self);
            tokio::spawn(async move { imports.run_job(job, running).await });
        }
        Ok(())
    }

    /// Why a job need not be begun now; `None`: nothing that is known.
    fn in_the_way(&self, job: &Job) -> Option<String> {
        let stream = self.parts.producer.stream(job.stream).ok()?;
        let status = takes_records(&stream).err()?;
        (status.reason == "STREAM_PAUSED" && !replay::only_counts(job)).then_some(status.message)
    }

    async fn run_job(self: Arc<Self>, job: Job, running: Arc<Running>) {
        let id = job.id.clone();
        let mut span = self.parts.traces.own_work(match running.kind {
            JobKind::Import => "import",
            JobKind::Replay => "replay",
        });
        span.note("ttdust.job.id", id.clone());
        span.note("ttdust.stream.id", job.stream);
        let end = Box::pin(span.scope(self.work(job, &running))).await;
        let (status, reason, waits_for) = match end {
            End::Done => (JobStatus::Completed, None, None),
            End::Cancelled | End::Later | End::Waits(_) if running.is_cancelled.load(Relaxed) => {
                (JobStatus::Cancelled, None, None)
            }
            End::Cancelled | End::Later => (JobStatus::Running, None, None),
            End::Waits(what) => (JobStatus::Pending, None, Some(what)),
            End::Failed(reason) => (JobStatus::Failed, Some(reason), None),
        };
        {
            let mut progress = running.progress.lock().unwrap_or_else(PoisonError::into_inner);
            progress.reason.clone_from(&reason);
            progress.waits_for.clone_from(&waits_for);
        }
        span.note("ttdust.status", status.name());
        reason.iter().for_each(|reason| span.fail(reason));
        match (&reason, &waits_for) {
            (Some(reason), _) => tracing::warn!(job = %id, %reason, "a job failed"),
            (None, Some(what)) => tracing::info!(job = %id, %what, "a job waits"),
            (None, None) => tracing::info!(job = %id, status = status.name(), "a job ended"),
        }
        let completed_at = status.is_final().then(now_unix_micros);
        let audit = running.cancelled.lock().unwrap_or_else(PoisonError::into_inner).take();
        let audit = audit.filter(|_| status == JobStatus::Cancelled);
        let change =
            JobChange { id: id.clone(), status, objects: None, progress: running.progress().to_value(), completed_at };
        drop(span);
        while let Err(error @ CatalogError::Unavailable(_)) =
            self.parts.catalog.change_job(change.clone(), audit.clone()).await
        {
            tracing::warn!(job = %id, %error, "how a job ended is not kept yet");
            time::sleep(CATALOG_PAUSE).await;
            if self.stopping.load(Relaxed) {
                break;
            }
        }
        // Before it gives its place back: what is in its way is not gone at once.
        match status.is_final() {
            true => self.resting.forget(&id),
            false => self.resting.begin(&id, waits_for, running.progress().processed, Instant::now()),
        }
        self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        running.ended.send_replace(true);
        self.news.notify_one();
    }

    /// Runs a job to the end of this run.
    async fn work(&self, job: Job, running: &Arc<Running>) -> End {
        match running.kind {
            JobKind::Import => self.import(job, running).await,
            JobKind::Replay => self.replay(&job, running).await,
        }
    }

    async fn import(&self, job: Job, running: &Arc<Running>) -> End {
        let (spec, objects) = match self.begin(&job, running).await {
            Ok(begun) => begun,
            Err(end) => return end,
        };
        let run = match Run::new(&self.parts, &job, &spec, objects) {
            Ok(run) => run,
            Err(error) => return End::Failed(error.to_string()),
        };
        let working = Arc::clone(running);
        let task = self.parts.threads.run(move || run.to_the_end(&working.progress, &|| working.is_over()));
        match self.watched(&job.id, running, task).await {
            Ok(end) => end,
            // What half-read objects leave behind belongs to this run alone.
            Err(WorkerError::Panicked) => {
                End::Failed("an object of it has a form that the server cannot read; the log says where".to_owned())
            }
            Err(WorkerError::Overloaded) => End::Later,
        }
    }

    /// Waits for the end of what a job does, and keeps how far it came meanwhile.
    async fn watched<T>(&self, id: &str, running: &Running, task: impl Future<Output = T>) -> T {
        let mut task = std::pin::pin!(task);
        loop {
            let pause = time::sleep(SAVE_PAUSE);
            tokio::select! {
                ended = &mut task => return ended,
                () = pause => self.save(id, running).await,
            }
            if self.stopping.load(Relaxed) {
                running.is_stopped.store(true, Relaxed);
            }
        }
    }

    /// The objects of a job, listed if it is its first run. From here on it is another incarnation of its writer.
    async fn begin(&self, job: &Job, running: &Running) -> Result<(Spec, Listed), End> {
        let spec: Spec = serde_json::from_value(job.spec.clone()).map_err(|_| corrupt("a request"))?;
        let place = spec.place(&self.parts.roots).map_err(|error| End::Failed(error.to_string()))?;
        let known: Option<Vec<listing::Object>> =
            serde_json::from_value(job.objects.clone()).map_err(|_| corrupt("a list of objects"))?;
        let (listed, bucket) = self.list(place, known).await?;
        running.progress.lock().unwrap_or_else(PoisonError::into_inner).begin(listed.len());
        let objects =
            job.objects.is_null().then(|| serde_json::to_value(&listed).expect("texts and numbers serialise"));
        // What is sent must be of an incarnation that the catalog knows: so the next one is surely another.
        self.keep_begun(&job.id, objects, running).await?;
        Ok((spec, (listed, bucket)))
    }

    /// Keeps that a job has begun, with the objects that it reads if they are known by now.
    async fn keep_begun(&self, id: &str, objects: Option<Value>, running: &Running) -> Result<(), End> {
        loop {
            let change = running.change(id, objects.clone());
            match self.parts.catalog.change_job(change, None).await {
                Ok(_) => return Ok(()),
                Err(CatalogError::Unavailable(_)) if !self.stopping.load(Relaxed) => time::sleep(CATALOG_PAUSE).await,
                Err(_) => return Err(End::Later),
            }
        }
    }

    /// The objects of a place, and the bucket that they are in; `known`: as an earlier run listed them.
    async fn list(&self, place: Place, known: Option<Vec<listing::Object>>) -> Result<Listed, End> {
        let failed = |reason: String| End::Failed(reason);
        let Place::S3 { bucket, key, is_folder } = &place else {
            if let Some(known) = known {
                return Ok((known, None));
            }
            let roots = self.parts.roots.clone();
            let listed = self.parts.threads.run(move || listing::list(&place, &roots)).await;
            let listed = listed.map_err(|error| failed(error.to_string()))?;
            return Ok((listed.map_err(|broken| failed(broken.to_string()))?, None));
        };
        let Some(options) = &self.parts.s3 else {
            return Err(failed("s3:// is read from the store of s3.endpoint, which is not set".to_owned()));
        };
        let objects = ForeignObjects::open(options, bucket).map_err(|error| failed(error.to_string()))?;
        let found = loop {
            match listing::list_bucket(&objects, key, *is_folder).await {
                Ok(found) => break found,
                // The store is away.
                Err(ObjectError::Unavailable { .. }) if !self.stopping.load(Relaxed) => {
                    time::sleep(CATALOG_PAUSE).await
                }
                Err(ObjectError::Unavailable { .. }) => return Err(End::Later),
                Err(error) => return Err(failed(error.to_string())),
            }
        };
        let found = listing::checked(found).map_err(|broken| failed(broken.to_string()))?;
        match known {
            Some(known) if known != found => {
                Err(failed("what lies under source_uri was changed since the import began: import it anew".to_owned()))
            }
            _ => Ok((found, Some(objects))),
        }
    }

    async fn save(&self, id: &str, running: &Running) {
        let change = running.change(id, None);
        // It is kept with the next; until then a crash has it read some rows again, which are known to have been taken.
        let _ = self.parts.catalog.change_job(change, None).await;
    }
}
