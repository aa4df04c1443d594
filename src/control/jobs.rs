//! Jobs: imports, and replays of dead letters.

use ttdust_proto::ingestion::{
    BatchError, BatchJobResponse, IngestBatchRequest, JobStatus as WireStatus, SourceFormat,
};
use ttdust_shards::{
    access::{Action, Forbidden, Principal},
    dead_letters::reasons,
    rows::takes_records,
    snapshot::names_schema,
};

use super::{Actor, Control, ControlError, names};
use crate::{
    catalog::{Job, JobFilter, JobKind, JobStatus, Page},
    imports::{Format, Progress, ReplayFilter, ReplaySpec, Spec, SpecError},
};

/// Jobs that are read from the catalog at once while a page is filled with those that its reader may know of.
const SCAN_PAGE: u32 = 500;

/// Which jobs a list shows; `None`: all.
#[derive(Debug, Clone, Default)]
pub struct JobsAsked {
    /// Those of this stream, by id or name.
    pub stream: Option<String>,
    /// Those that stand so.
    pub status: Option<JobStatus>,
    /// Those that do this.
    pub kind: Option<JobKind>,
}

/// A part of the list of jobs.
#[derive(Debug, Clone, PartialEq)]
pub struct JobPage {
    /// The newest first.
    pub jobs: Vec<Job>,
    /// What the next part comes after; `None`: this is the last.
    pub next: Option<String>,
}

/// Why a job was not done as asked.
#[derive(Debug)]
pub enum JobError {
    /// The caller's role does not permit it.
    Forbidden(Forbidden),
    /// Any other reason.
    Control(ControlError),
}

impl<E: Into<ControlError>> From<E> for JobError {
    fn from(error: E) -> Self {
        Self::Control(error.into())
    }
}

impl From<SpecError> for ControlError {
    fn from(error: SpecError) -> Self {
        Self::field(&format!("/{}", error.field), error.detail)
    }
}

impl Control {
    /// Begins to import into the stream that is meant, whose schema `schema` must be if it is not empty.
    ///
    /// # Errors
    /// `NotFound`; `Invalid`: what is asked for; `Conflict`: the stream is being deleted, or has another schema; `TooManyJobs`.
    pub async fn create_job(
        &self,
        actor: &Actor,
        stream: &str,
        schema: &str,
        spec: &Spec,
    ) -> Result<Job, ControlError> {
        let stream = self.resolve_stream(&actor.caller, stream)?;
        if !names_schema(&stream, schema) {
            let message = format!("the stream's schema is {}: leave schema_id empty or send that id", stream.schema.id);
            return Err(ControlError::Conflict(message));
        }
        match takes_records(&stream) {
            // It is waited for.
            Err(status) if status.reason != "STREAM_PAUSED" => return Err(ControlError::Conflict(status.message)),
            _ => {}
        }
        self.parts.imports.check(spec)?;
        let id = new_id();
        let job = self.parts.imports.create(stream.id, spec, actor.did("job.create", "job", &id)).await?;
        let Actor { caller, trace_id } = actor;
        tracing::info!(job = %id, stream = %stream.id, source = %spec.source_uri, actor = %caller.id, request_id = trace_id, "import created");
        Ok(job)
    }

    /// Begins to put those dead letters back into the stream that is meant, or to count them.
    ///
    /// # Errors
    /// `Invalid`: no letter has such a reason; `NotFound`; `Conflict`: the stream has no dead letters; `Overloaded`: nobody can
    /// tell which there are; `TooManyJobs`.
    pub async fn create_replay(
        &self,
        actor: &Actor,
        stream: &str,
        filter: ReplayFilter,
        dry_run: bool,
    ) -> Result<Job, ControlError> {
        if let Some(reason) = filter.reason.as_deref().filter(|reason| !reasons().any(|known| known == *reason)) {
            let known = reasons().collect::<Vec<_>>().join(", ");
            let detail = format!("no dead letter has the reason {}: the reasons are {known}", names::shown(reason));
            return Err(ControlError::field("/reason", detail));
        }
        let stream = self.resolve_stream(&actor.caller, stream)?;
        let letters = stream.dead_letters.and_then(|letters| self.current().stream(letters).cloned());
        let Some(letters) = letters else {
            let message = "the stream has no dead letters: give it some (PATCH it with a dlq)";
            return Err(ControlError::Conflict(message.to_owned()));
        };
        let figures = self.parts.link.figures(letters.home, letters.id).await.ok_or(ControlError::Overloaded)?;
        let (letters, through) = (Some(letters.id.to_string()), Some(figures.last_sequence));
        let (id, spec) = (new_id(), ReplaySpec { filter, dry_run, letters, through });
        let job = self.parts.imports.create_replay(stream.id, &spec, actor.did("job.create", "job", &id)).await?;
        let Actor { caller, trace_id } = actor;
        tracing::info!(job = %id, stream = %stream.id, dry_run, actor = %caller.id, request_id = trace_id, "replay of dead letters created");
        Ok(job)
    }

    /// A job of a stream that the caller may know of.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn job(&self, caller: &Principal, id: &str) -> Result<Job, ControlError> {
        let unknown = || ControlError::NotFound(format!("job {}", names::shown(id)));
        if id.contains('\0') {
            return Err(unknown());
        }
        let job = self.parts.imports.job(id).await?;
        if self.knows_of(caller, &job) { Ok(job) } else { Err(unknown()) }
    }

    fn knows_of(&self, caller: &Principal, job: &Job) -> bool {
        !caller.role.is_confined()
            || self.current().stream(job.stream).is_some_and(|stream| caller.sees(stream.id, &stream.name))
    }

    /// Jobs that the caller may know of.
    ///
    /// # Errors
    /// `NotFound`: the stream.
    pub async fn jobs(&self, caller: &Principal, asked: JobsAsked, page: Page) -> Result<JobPage, ControlError> {
        let stream = match &asked.stream {
            Some(text) => Some(self.find_stream(caller, text).await?),
            None => None,
        };
        let filter = JobFilter { stream, status: asked.status };
        let (mut jobs, mut after) = (Vec::new(), page.after);
        let limit = page.limit as usize;
        loop {
            let scan = Page { after, limit: SCAN_PAGE.max(page.limit) };
            let full = scan.limit as usize;
            let read = self.parts.imports.jobs(filter.clone(), scan).await?;
            let is_last = read.len() < full;
            after = read.last().map(|job| job.id.clone()).unwrap_or_default();
            let is_asked = |job: &Job| asked.kind.is_none_or(|kind| job.kind() == kind) && self.knows_of(caller, job);
            jobs.extend(read.into_iter().filter(is_asked));
            if is_last || jobs.len() > limit {
                break;
            }
        }
        let next = (jobs.len() > limit).then(|| jobs[limit - 1].id.clone());
        jobs.truncate(limit);
        Ok(JobPage { jobs, next })
    }

    /// Calls a job off; what was taken stays.
    ///
    /// # Errors
    /// `NotFound`; `Conflict`: it has ended.
    pub async fn cancel_job(&self, actor: &Actor, id: &str) -> Result<Job, ControlError> {
        let job = self.job(&actor.caller, id).await?;
        if job.status.is_final() {
            return Err(ControlError::Conflict(format!("job {} has ended: it is {}", job.id, job.status.name())));
        }
        Ok(self.parts.imports.cancel(&job.id, actor.did("job.cancel", "job", &job.id)).await?)
    }

    /// `IngestBatch` of gRPC.
    ///
    /// # Errors
    /// As of [`Control::create_job`].
    pub async fn ingest_batch(&self, actor: &Actor, request: IngestBatchRequest) -> Result<BatchJobResponse, JobError> {
        actor.caller.require(Action::WriteRecords).map_err(JobError::Forbidden)?;
        let format = match request.format() {
            SourceFormat::FormatJsonLines => Format::JsonLines,
            SourceFormat::FormatCsv => Format::Csv,
            SourceFormat::FormatParquet => Format::Parquet,
            SourceFormat::FormatUnspecified => {
                let wanted = "want FORMAT_JSON_LINES, FORMAT_CSV or FORMAT_PARQUET";
                return Err(ControlError::field("/format", wanted).into());
            }
        };
        let options = request.options.into_iter().collect();
        let spec = Spec { source_uri: request.source_uri, format, options };
        let job = self.create_job(actor, &request.stream_id, &request.schema_id, &spec).await?;
        Ok(on_the_wire(&job))
    }

    /// `GetBatchJob` of gRPC.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn batch_job(&self, caller: &Principal, id: &str) -> Result<BatchJobResponse, JobError> {
        caller.require(Action::ReadStreams).map_err(JobError::Forbidden)?;
        Ok(on_the_wire(&self.job(caller, id).await?))
    }
}

fn new_id() -> String {
    format!("job_{}", uuid::Uuid::now_v7().hyphenated())
}

/// A job that was called off has no status of its own on the wire: it has failed, for this reason.
fn on_the_wire(job: &Job) -> BatchJobResponse {
    let progress = Progress::of_value(&job.progress);
    let status = match job.status {
        JobStatus::Pending => WireStatus::Pending,
        JobStatus::Running => WireStatus::Running,
        JobStatus::Completed => WireStatus::Completed,
        JobStatus::Failed | JobStatus::Cancelled => WireStatus::Failed,
    };
    let reason = match job.status {
        JobStatus::Cancelled => Some("the job was cancelled".to_owned()),
        _ => progress.reason,
    };
    let whole = reason.map(|message| BatchError { line_number: 0, message, field: String::new() });
    let rows = progress.faults.into_iter().map(|fault| BatchError {
        line_number: signed(fault.line),
        message: fault.message,
        field: fault.field,
    });
    BatchJobResponse {
        job_id: job.id.clone(),
        stream_id: job.stream.to_string(),
        status: status.into(),
        records_processed: signed(progress.processed),
        records_succeeded: signed(progress.succeeded),
        records_failed: signed(progress.failed),
        errors: whole.into_iter().chain(rows).collect(),
        created_at_unix_micros: job.created_at,
        completed_at_unix_micros: job.completed_at.unwrap_or(0),
    }
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
