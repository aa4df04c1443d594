//! `/api/v1/jobs`: imports, and replays of dead letters.

use std::collections::BTreeMap;

use axum::{Json, extract::State, http::StatusCode};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use ttdust_shards::access::Action;

use super::{
    Shared,
    answer::Created,
    extract::{Acting, Caller, Id, JsonBody, PAGE_MAX, Parameters, page},
    operation::Route,
    problem::Problem,
    replays::ReplayDetails,
    to_the_end,
};
use crate::{
    calendar::rfc3339,
    catalog::{self, JobKind, JobStatus},
    control::JobsAsked,
    imports::{Format, Progress, RowFault, Spec},
};

const JOBS: &str = "/api/v1/jobs";
const JOB: &str = "/api/v1/jobs/{id}";

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::post(JOBS, "createJob", "Import objects into a stream", create)
            .fails(&[StatusCode::NOT_FOUND, StatusCode::CONFLICT])
            .leads_to("getJob", "id")
            .leads_to("cancelJob", "id"),
        Route::get(JOBS, "listJobs", "List jobs, the newest first", list).fails(&[StatusCode::NOT_FOUND]),
        Route::get(JOB, "getJob", "Read a job and how far it came", one),
        Route::post("/api/v1/jobs/{id}/cancel", "cancelJob", "Call a job off; what was taken stays", cancel)
            .fails(&[StatusCode::CONFLICT]),
    ]
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CreateJob {
    /// The stream, by id or name.
    #[schemars(length(min = 1))]
    stream_id: String,
    /// The stream's schema, if it is to be made sure of.
    #[serde(default)]
    schema_id: String,
    /// file:///path or s3://bucket/key under one of the server's import.roots (TTDUST_IMPORT_ROOTS, without which imports are
    /// off); one that ends with a slash means all objects under it.
    source_uri: String,
    #[schemars(schema_with = "format_name")]
    format: String,
    /// compression (auto, none, gzip, zstd) and max_failed; of csv also delimiter, quote, header, columns and null; of parquet
    /// payload_column, and no compression.
    #[serde(default)]
    options: BTreeMap<String, String>,
}

fn kind_name(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "enum": JobKind::ALL.map(JobKind::name), "description": "What the job does."})
}

fn format_or_null(_: &mut SchemaGenerator) -> Schema {
    let names = Format::ALL.into_iter().map(|format| Some(format.name())).chain([None]);
    json_schema!({"type": ["string", "null"], "enum": names.collect::<Vec<_>>(), "description": "Null: of a replay."})
}

fn format_name(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "enum": Format::ALL.map(Format::name), "description": "How the records lie in an object."})
}

pub(super) fn status_name(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "enum": JobStatus::ALL.map(JobStatus::name), "description": "How the job stands."})
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListJobs {
    /// Those of this stream, by id or name.
    stream_id: Option<String>,
    /// Those that stand so.
    #[schemars(with = "Option<StatusName>")]
    status: Option<String>,
    /// Those that do this.
    #[schemars(with = "Option<KindName>")]
    kind: Option<String>,
    /// Entries of a page.
    #[schemars(range(min = 1, max = PAGE_MAX))]
    page_size: Option<u32>,
    /// The next_page_token of the page before.
    page_token: Option<String>,
}

/// What `status` takes.
#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
#[allow(dead_code, reason = "the document is made from it")]
enum StatusName {
    Pending,
    Running,
    Completed,
    Failed,
    Cancelled,
}

/// What `kind` takes.
#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
#[allow(dead_code, reason = "the document is made from it")]
enum KindName {
    Import,
    Replay,
}

/// An import, or a replay of dead letters, whose rows are the letters.
#[derive(Serialize, JsonSchema)]
struct Job {
    #[schemars(regex(pattern = "^job_"))]
    id: String,
    stream_id: String,
    #[schemars(schema_with = "kind_name")]
    kind: &'static str,
    #[schemars(schema_with = "status_name")]
    status: &'static str,
    /// Null: of a replay.
    source_uri: Option<String>,
    #[schemars(schema_with = "format_or_null")]
    format: Option<&'static str>,
    options: BTreeMap<String, String>,
    /// Rows that were read.
    records_processed: u64,
    /// Those that are records of the stream now.
    records_succeeded: u64,
    /// Those that are not.
    records_failed: u64,
    /// The first hundred bad rows.
    errors: Vec<JobFault>,
    objects_done: u64,
    objects_total: u64,
    /// Why it failed; null: it did not.
    reason: Option<String>,
    /// What it waits for; null: for nothing.
    waits_for: Option<String>,
    /// Of a replay, what it is of and what came of it; null: of an import.
    replay: Option<ReplayDetails>,
    #[schemars(extend("format" = "date-time"))]
    created_at: String,
    #[schemars(extend("format" = "date-time"))]
    completed_at: Option<String>,
}

/// A bad row.
#[derive(Serialize, JsonSchema)]
struct JobFault {
    object: String,
    /// The line that the row begins on; of parquet the row's number. The first is 1.
    line_number: u64,
    message: String,
    /// Where: a JSON Pointer into the record, or a column; empty: the row as a whole.
    field: String,
}

#[derive(Serialize, JsonSchema)]
struct JobPage {
    jobs: Vec<Job>,
    next_page_token: Option<String>,
}

impl From<catalog::Job> for Job {
    fn from(job: catalog::Job) -> Self {
        let progress = Progress::of_value(&job.progress);
        let kind = job.kind();
        let replay = (kind == JobKind::Replay).then(|| ReplayDetails::of(&job, &progress));
        let spec = serde_json::from_value::<Spec>(job.spec).ok().filter(|_| kind == JobKind::Import);
        let (source_uri, format, options) = match spec {
            Some(Spec { source_uri, format, options }) => (Some(source_uri), Some(format.name()), options),
            None => (None, None, BTreeMap::new()),
        };
        let fault = |RowFault { object, line, message, field }| JobFault { object, line_number: line, message, field };
        Self {
            id: job.id,
            stream_id: job.stream.to_string(),
            kind: kind.name(),
            status: job.status.name(),
            source_uri,
            format,
            options,
            records_processed: progress.processed,
            records_succeeded: progress.succeeded,
            records_failed: progress.failed,
            errors: progress.faults.into_iter().map(fault).collect(),
            objects_done: progress.objects_done as u64,
            objects_total: progress.objects_total as u64,
            reason: progress.reason,
            waits_for: progress.waits_for,
            replay,
            created_at: rfc3339(job.created_at),
            completed_at: job.completed_at.map(rfc3339),
        }
    }
}

async fn create(
    State(app): State<Shared>,
    Acting(actor): Acting,
    JsonBody(body): JsonBody<CreateJob>,
) -> Result<Created<Job>, Problem> {
    actor.caller.require(Action::WriteRecords)?;
    let unknown = || Problem::invalid("/format", "format is json_lines, csv or parquet");
    let format = Format::ALL.into_iter().find(|format| format.name() == body.format).ok_or_else(unknown)?;
    let texts = body.options.iter().flat_map(|(name, value)| [name, value]).chain([&body.source_uri, &body.stream_id]);
    if texts.into_iter().any(|text| text.contains('\0')) {
        return Err(Problem::invalid("", "a text holds the character U+0000, which nothing here does"));
    }
    let spec = Spec { source_uri: body.source_uri, format, options: body.options };
    let job = to_the_end(async move { app.control.create_job(&actor, &body.stream_id, &body.schema_id, &spec).await })
        .await?;
    Ok(Created { location: format!("{JOBS}/{}", job.id), body: job.into() })
}

async fn list(
    State(app): State<Shared>,
    Caller(caller): Caller,
    Parameters(asked): Parameters<ListJobs>,
) -> Result<Json<JobPage>, Problem> {
    caller.require(Action::ReadStreams)?;
    let page = page(asked.page_size, asked.page_token)?;
    let status = |name: &str| {
        JobStatus::of_name(name)
            .ok_or_else(|| Problem::invalid("status", "status is pending, running, completed, failed or cancelled"))
    };
    let status = asked.status.as_deref().map(status).transpose()?;
    let kind = |name: &str| JobKind::of_name(name).ok_or_else(|| Problem::invalid("kind", "kind is import or replay"));
    let kind = asked.kind.as_deref().map(kind).transpose()?;
    let found = app.control.jobs(&caller, JobsAsked { stream: asked.stream_id, status, kind }, page).await?;
    Ok(Json(JobPage { jobs: found.jobs.into_iter().map(Job::from).collect(), next_page_token: found.next }))
}

async fn one(State(app): State<Shared>, Caller(caller): Caller, Id(id): Id) -> Result<Json<Job>, Problem> {
    caller.require(Action::ReadStreams)?;
    Ok(Json(app.control.job(&caller, &id).await?.into()))
}

async fn cancel(State(app): State<Shared>, Acting(actor): Acting, Id(id): Id) -> Result<Json<Job>, Problem> {
    if actor.caller.require(Action::WriteRecords).is_err() {
        actor.caller.require(Action::ReplayDeadLetters)?;
    }
    // Whoever may begin such a job may call it off.
    actor.caller.require(match app.control.job(&actor.caller, &id).await?.kind() {
        JobKind::Import => Action::WriteRecords,
        JobKind::Replay => Action::ReplayDeadLetters,
    })?;
    let job = to_the_end(async move { app.control.cancel_job(&actor, &id).await }).await?;
    Ok(Json(job.into()))
}
