//! Pipelines: what readers see of a stream's records. One a stream at a time; its versions are kept with the stream, because rows
//! in the log and in files are of the version that was in force when they came.

use std::{fmt, sync::Arc};

use serde_json::{Value, value::RawValue};
use ttdust_shards::{
    ids::{SchemaId, StreamId},
    parquet::layout,
    pipeline::{Failure, Pipeline, Runner, StepError, Verdict, steps},
    snapshot::{StreamEntry, StreamState},
    transform::columns::{self, Column},
    validate::Validator,
};

use super::{Actor, Control, ControlError, FieldError, names, schemas::JUDGEMENTS_MAX};
use crate::{
    calendar::now_unix_micros,
    catalog::{
        CatalogError, Page, PipelineVersion, Stream, StreamChange, StreamFilter, StreamPipeline, StreamPipelines,
        StreamStatus,
    },
};

/// Versions that a stream's pipelines may have had.
const VERSIONS_MAX: usize = 1000;
/// What the steps of all of them may take, as JSON, in bytes.
const VERSIONS_BYTES_MAX: usize = 4 << 20;
/// Where a system keeps the rules of time zones.
const ZONES_DIR: &str = "/usr/share/zoneinfo";
/// The largest file of such rules.
const ZONE_BYTES_MAX: u64 = 64 << 10;
/// Faults that are told of a definition, and streams that are told of.
const FAULTS_MAX: usize = 100;
/// Sample records of a test.
pub const SAMPLES_MAX: usize = 100;

/// A pipeline to create.
#[derive(Debug, Clone)]
pub struct NewPipeline {
    /// The stream.
    pub stream: StreamId,
    /// For people.
    pub description: String,
    /// The steps, an array.
    pub steps: Value,
}

/// What to change in a pipeline; `None` leaves it as it is.
#[derive(Debug, Clone, Default)]
pub struct PipelineChange {
    /// For people.
    pub description: Option<String>,
    /// The steps, all of them.
    pub steps: Option<Value>,
    /// Only if the pipeline is at this version.
    pub if_version: Option<i64>,
}

/// A stream's pipeline and its steps.
#[derive(Debug, Clone, PartialEq)]
pub struct WholePipeline {
    /// The stream.
    pub stream: StreamId,
    /// The pipeline.
    pub pipeline: StreamPipeline,
    /// The steps, as they were given.
    pub steps: Value,
}

/// A step of a pipeline that a definition leaves without what it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipelineFault {
    /// The pipeline, `pip_…`.
    pub pipeline: String,
    /// Its stream.
    pub stream: StreamId,
    /// The stream's name.
    pub stream_name: String,
    /// The step, from 0.
    pub step: usize,
    /// JSON Pointer into the pipeline: `/steps/…`.
    pub pointer: String,
    /// What does not fit.
    pub message: String,
}

impl fmt::Display for PipelineFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pipeline, stream_name, step, pointer, message, .. } = self;
        write!(
            f,
            "step {step} of the pipeline {pipeline} of stream {stream_name} does not fit it ({pointer}): {message}"
        )
    }
}

/// Steps to try, and on what.
#[derive(Debug)]
pub struct PipelineTest {
    /// The stream that they are for, with its schema; `None`: they are tried without one.
    pub stream: Option<Arc<StreamEntry>>,
    /// The steps.
    pub steps: Value,
    /// Sample records.
    pub records: Vec<Box<RawValue>>,
}

/// What came of a test.
#[derive(Debug)]
pub struct PipelineTested {
    /// What becomes of each sample.
    pub samples: Vec<Sample>,
    /// The columns that files would have, if there is a stream.
    pub columns: Option<Vec<Column>>,
}

/// What becomes of a sample.
#[derive(Debug)]
pub struct Sample {
    /// What the stream's schema says against it.
    pub schema_errors: Vec<FieldError>,
    /// The record after each step, as far as it came.
    pub steps: Vec<Box<RawValue>>,
    /// The end of it.
    pub end: SampleEnd,
}

/// How a sample ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SampleEnd {
    /// Readers see what the last step made of it.
    Kept,
    /// It is left out, by this step, from 0.
    Dropped(usize),
    /// It is a dead letter.
    Dead(Failure),
}

impl Control {
    /// Creates a stream's pipeline; records that come once this is answered are seen through it.
    ///
    /// # Errors
    /// `Invalid`; `NotFound`: the stream; `AlreadyExists`: it has a pipeline; `Conflict`: it is being deleted, or has had too
    /// many versions.
    pub async fn create_pipeline(&self, actor: &Actor, new: NewPipeline) -> Result<WholePipeline, ControlError> {
        names::description("/description", &new.description)?;
        let (now, id) = (now_unix_micros(), format!("pip_{}", uuid::Uuid::now_v7()));
        let pipeline =
            StreamPipeline { id, description: new.description, version: 0, created_at: now, updated_at: now };
        let _changing = self.changing().await?;
        for _ in 0..JUDGEMENTS_MAX {
            // The schema that it must fit is that of the snapshot.
            self.catch_up().await?;
            let stream = self.parts.catalog.stream(new.stream).await?;
            if stream.pipelines.current.is_some() {
                return Err(ControlError::AlreadyExists(format!("a pipeline of stream {}", stream.id)));
            }
            let (pipeline, steps) = (pipeline.clone(), new.steps.clone());
            if let Some(done) = self.put_version(actor, "pipeline.create", stream, pipeline, steps).await? {
                return Ok(done);
            }
        }
        Err(always_changed())
    }

    /// A pipeline.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn pipeline(&self, id: &str) -> Result<WholePipeline, ControlError> {
        whole(&self.stream_of_pipeline(id).await?).ok_or_else(|| unknown(id))
    }

    /// Pipelines, in the order of their streams.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn pipelines(&self, page: Page) -> Result<(Vec<WholePipeline>, Option<String>), ControlError> {
        let limit = page.limit as usize;
        let filter = StreamFilter { with_pipeline: true, ..StreamFilter::default() };
        let read = self.parts.catalog.streams(filter, Page { limit: page.limit + 1, ..page }).await?;
        let next = read.get(..limit).and_then(|full| full.last()).filter(|_| read.len() > limit);
        let next = next.map(|stream| stream.id.to_string());
        Ok((read.iter().take(limit).filter_map(whole).collect(), next))
    }

    /// Gives a pipeline another version; records that come once this is answered are seen through it, and earlier ones as
    /// before. What is the same already is no new version.
    ///
    /// # Errors
    /// `Invalid`, `NotFound`, `Stale`, or `Conflict`: the stream is being deleted, or has had too many versions.
    pub async fn change_pipeline(
        &self,
        actor: &Actor,
        id: &str,
        change: PipelineChange,
    ) -> Result<WholePipeline, ControlError> {
        if let Some(description) = &change.description {
            names::description("/description", description)?;
        }
        let _changing = self.changing().await?;
        for _ in 0..JUDGEMENTS_MAX {
            self.catch_up().await?;
            let stream = self.stream_of_pipeline(id).await?;
            let before = whole(&stream).ok_or_else(|| unknown(id))?;
            check_version(&before, change.if_version)?;
            let mut pipeline = before.pipeline.clone();
            pipeline.description = change.description.clone().unwrap_or(pipeline.description);
            let steps = change.steps.clone().unwrap_or_else(|| before.steps.clone());
            if pipeline == before.pipeline && steps == before.steps {
                return Ok(before);
            }
            pipeline.updated_at = now_unix_micros();
            if let Some(done) = self.put_version(actor, "pipeline.change", stream, pipeline, steps).await? {
                return Ok(done);
            }
        }
        Err(always_changed())
    }

    /// Ends a pipeline: records that come once this is answered are seen as they are, and earlier ones as before.
    ///
    /// # Errors
    /// `NotFound`, `Stale`, or `Conflict`: the stream is being deleted.
    pub async fn delete_pipeline(&self, actor: &Actor, id: &str, if_version: Option<i64>) -> Result<(), ControlError> {
        let _changing = self.changing().await?;
        let stream = self.stream_of_pipeline(id).await?;
        check_version(&whole(&stream).ok_or_else(|| unknown(id))?, if_version)?;
        let pipelines = StreamPipelines { current: None, ..stream.pipelines };
        let change =
            StreamChange { pipelines: Some(pipelines), if_version: Some(stream.version), ..StreamChange::default() };
        let audit = actor.did("pipeline.delete", "stream", &stream.id.to_string());
        let changed = self.parts.catalog.change_stream(stream.id, change, now_unix_micros(), audit).await;
        self.published(changed).await?;
        let Actor { caller, trace_id } = actor;
        tracing::info!(stream = %stream.id, pipeline = id, actor = %caller.id, request_id = trace_id, "pipeline deleted");
        Ok(())
    }

    async fn stream_of_pipeline(&self, id: &str) -> Result<Stream, ControlError> {
        let filter = StreamFilter { pipeline: Some(id.to_owned()), ..StreamFilter::default() };
        let found = self.parts.catalog.streams(filter, Page { after: String::new(), limit: 1 }).await?;
        let found = found.into_iter().next().filter(|stream| stream.status != StreamStatus::Deleting);
        found.ok_or_else(|| unknown(id))
    }

    /// Puts the next version of a stream's pipeline in force, if it fits the snapshot, which must be of all that the catalog
    /// holds. `None`: the catalog was changed meanwhile, by another node. For whoever has the right to change.
    async fn put_version(
        &self,
        actor: &Actor,
        action: &str,
        stream: Stream,
        pipeline: StreamPipeline,
        steps: Value,
    ) -> Result<Option<WholePipeline>, ControlError> {
        let (now, generation) = (now_unix_micros(), self.parts.publisher.generation());
        let mut pipelines = stream.pipelines.clone();
        let version = pipelines.versions.last().map_or(1, |last| last.version + 1);
        let has_dead_letters = stream.dead_letters.is_some();
        let fits = self.parts.publisher.current().stream(stream.id).cloned();
        let steps =
            self.parts.workers.run(move || checked(version, steps, fits.as_deref(), has_dead_letters)).await??;
        let bytes: usize = pipelines.versions.iter().map(|known| known.steps.to_string().len()).sum();
        if pipelines.versions.len() >= VERSIONS_MAX || bytes + steps.to_string().len() > VERSIONS_BYTES_MAX {
            return Err(ControlError::Conflict(format!(
                "the pipelines of stream {} have had as many versions as are kept ({VERSIONS_MAX}, or {VERSIONS_BYTES_MAX} \
                 bytes): create another stream",
                stream.id
            )));
        }
        let pipeline = StreamPipeline { version, ..pipeline };
        pipelines.versions.push(PipelineVersion { version, steps, created_at: now });
        pipelines.current = Some(pipeline.clone());
        let change = StreamChange {
            pipelines: Some(pipelines),
            if_version: Some(stream.version),
            if_generation: Some(generation),
            ..StreamChange::default()
        };
        let audit = actor.did(action, "stream", &stream.id.to_string());
        let changed = self.parts.catalog.change_stream(stream.id, change, now, audit).await;
        if matches!(changed, Err(CatalogError::Stale { .. })) {
            return Ok(None);
        }
        let stream = self.published(changed).await?;
        let (id, Actor { caller, trace_id }) = (&pipeline.id, actor);
        tracing::info!(stream = %stream.id, pipeline = %id, version, actor = %caller.id, request_id = trace_id, "{action}");
        let done = whole(&stream);
        done.map(Some).ok_or_else(|| ControlError::Internal(format!("pipeline {id} is not in the catalog")))
    }

    /// Steps of the pipelines in force on a schema's streams that would not fit any more if this were its definition; at most
    /// 100.
    pub(super) async fn faults_under(
        &self,
        schema: SchemaId,
        definition: &str,
    ) -> Result<Vec<PipelineFault>, ControlError> {
        let has_pipeline = |stream: &&Arc<StreamEntry>| {
            stream.schema.id == schema && stream.state != StreamState::Deleting && stream.pipelines.current() > 0
        };
        let mut streams: Vec<_> = self.current().streams().filter(has_pipeline).cloned().collect();
        if streams.is_empty() {
            return Ok(Vec::new());
        }
        streams.sort_by_key(|stream| stream.id.to_string());
        let definition = definition.to_owned();
        let look = move || {
            let broken = |stream: Arc<StreamEntry>| {
                let errors = broken_steps(&stream, &definition);
                (!errors.is_empty()).then_some((stream, errors))
            };
            streams.into_iter().filter_map(broken).take(FAULTS_MAX).collect::<Vec<_>>()
        };
        let mut faults = Vec::new();
        for (entry, errors) in self.parts.workers.run(look).await? {
            let stream = self.parts.catalog.stream(entry.id).await?;
            let Some(pipeline) = stream.pipelines.current else { continue };
            faults.extend(errors.into_iter().map(|error| PipelineFault {
                pipeline: pipeline.id.clone(),
                stream: stream.id,
                stream_name: stream.name.clone(),
                step: error.pointer.split('/').nth(1).and_then(|step| step.parse().ok()).unwrap_or(0),
                pointer: format!("/steps{}", error.pointer),
                message: error.message,
            }));
        }
        faults.truncate(FAULTS_MAX);
        Ok(faults)
    }

    /// What steps would make of sample records.
    ///
    /// # Errors
    /// `Invalid`: the steps are no pipeline, or none of the stream's.
    pub async fn test_pipeline(&self, test: PipelineTest) -> Result<PipelineTested, ControlError> {
        if test.records.len() > SAMPLES_MAX {
            return Err(ControlError::field("/records", format!("at most {SAMPLES_MAX} records")));
        }
        self.parts.workers.run(move || run_test(test)).await?
    }
}

fn always_changed() -> ControlError {
    ControlError::Conflict("the catalog was changed again and again meanwhile: try again".to_owned())
}

fn unknown(id: &str) -> ControlError {
    ControlError::NotFound(format!("pipeline {}", names::shown(id)))
}

fn whole(stream: &Stream) -> Option<WholePipeline> {
    let pipeline = stream.pipelines.current.clone()?;
    let steps = steps::without_time_zones(stream.pipelines.steps(pipeline.version)?.clone());
    Some(WholePipeline { stream: stream.id, pipeline, steps })
}

fn check_version(of: &WholePipeline, wanted: Option<i64>) -> Result<(), ControlError> {
    let current = i64::from(of.pipeline.version);
    if wanted.is_some_and(|wanted| wanted != current) { Err(ControlError::Stale(current)) } else { Ok(()) }
}

fn invalid(errors: Vec<StepError>) -> ControlError {
    let fields: Vec<FieldError> = errors
        .into_iter()
        .map(|error| FieldError { pointer: format!("/steps{}", error.pointer), detail: error.message })
        .collect();
    ControlError::Invalid { detail: fields.first().map_or_else(String::new, |field| field.detail.clone()), fields }
}

/// The steps as they are to be kept, if they are a pipeline, and one for the stream. Blocking.
fn checked(
    version: u16,
    steps: Value,
    stream: Option<&StreamEntry>,
    has_dead_letters: bool,
) -> Result<Value, ControlError> {
    let steps = steps::with_time_zones(steps, zone_rules).map_err(|error| invalid(vec![error]))?;
    if steps.to_string().contains("\\u0000") {
        return Err(ControlError::field("/steps", "the steps have no U+0000: not every catalog can keep it"));
    }
    let pipeline = Pipeline::compile(version, &steps).map_err(invalid)?;
    let misfits = stream.map_or_else(Vec::new, |stream| misfits(&pipeline, stream, &stream.schema.definition));
    if !misfits.is_empty() {
        return Err(invalid(misfits));
    }
    if pipeline.has_dead_letters() && !has_dead_letters {
        let detail = "on_error is dlq, and the stream has no dead letters: give it some first (PATCH it with a dlq)";
        return Err(ControlError::field("/steps", detail));
    }
    Ok(steps)
}

fn misfits(pipeline: &Pipeline, stream: &StreamEntry, definition: &str) -> Vec<StepError> {
    let key_fields: Vec<&str> = stream.key_fields.iter().map(|field| field.name()).collect();
    pipeline.misfits(columns::declared_columns(definition), &key_fields)
}

/// What of a stream's pipeline fits the stream's schema, and not this definition. Blocking.
fn broken_steps(stream: &StreamEntry, definition: &str) -> Vec<StepError> {
    // A version that this program cannot run is told of elsewhere.
    let Ok(pipeline) = stream.pipelines.get(stream.pipelines.current()) else { return Vec::new() };
    let before = misfits(&pipeline, stream, &stream.schema.definition);
    let mut after = misfits(&pipeline, stream, definition);
    after.retain(|error| !before.contains(error));
    after
}

/// The rules of a time zone of this name, which is no way out of the folder.
fn zone_rules(name: &str) -> Option<Vec<u8>> {
    let path = std::path::Path::new(ZONES_DIR).join(name);
    let is_file = |meta: &std::fs::Metadata| meta.is_file() && meta.len() <= ZONE_BYTES_MAX;
    std::fs::metadata(&path).ok().filter(is_file)?;
    std::fs::read(path).ok()
}

fn run_test(test: PipelineTest) -> Result<PipelineTested, ControlError> {
    let steps = checked(1, test.steps, test.stream.as_deref(), true)?;
    let pipeline = Arc::new(Pipeline::compile(1, &steps).map_err(invalid)?);
    let columns = test.stream.as_ref().map(|stream| layout::typed_columns(&stream.schema.definition, Some(&pipeline)));
    let (mut runner, mut validator) = (Runner::new(Arc::clone(&pipeline)), Validator::default());
    let mut samples = Vec::new();
    for record in &test.records {
        let checked = test.stream.as_ref().map(|stream| validator.check(&stream.schema, record.get().as_bytes()));
        let schema_errors = match checked {
            Some(Err(invalid)) if invalid.field_errors.is_empty() => {
                vec![FieldError { pointer: String::new(), detail: invalid.message }]
            }
            Some(Err(invalid)) => {
                let field = |error: ttdust_shards::validate::FieldError| FieldError {
                    pointer: error.pointer,
                    detail: error.message,
                };
                invalid.field_errors.into_iter().map(field).collect()
            }
            _ => Vec::new(),
        };
        samples.push(sample(&mut runner, pipeline.len(), record, schema_errors)?);
    }
    Ok(PipelineTested { samples, columns })
}

fn sample(
    runner: &mut Runner,
    steps: usize,
    record: &RawValue,
    schema_errors: Vec<FieldError>,
) -> Result<Sample, ControlError> {
    let mut sample = Sample { schema_errors, steps: Vec::new(), end: SampleEnd::Kept };
    for step in 1..=steps {
        let output = match runner.run_through(record.get().as_bytes(), step) {
            Verdict::Same => record.get().to_owned(),
            Verdict::Changed(output) => String::from_utf8_lossy(output).into_owned(),
            Verdict::Dropped => {
                sample.end = SampleEnd::Dropped(step - 1);
                break;
            }
            Verdict::Dead(failure) => {
                sample.end = SampleEnd::Dead(failure);
                break;
            }
        };
        let output = RawValue::from_string(output);
        sample
            .steps
            .push(output.map_err(|error| ControlError::Internal(format!("a step's output is no JSON: {error}")))?);
    }
    Ok(sample)
}
