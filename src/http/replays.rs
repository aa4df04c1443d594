//! `/api/v1/streams/{id}/dlq/replay`.

use axum::{Json, extract::State, http::StatusCode};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use ttdust_shards::{access::Action, dead_letters::reasons};

use super::{
    Shared,
    answer::Accepted,
    extract::{Acting, Caller, Id, JsonBody, Parameters},
    jobs::status_name,
    operation::Route,
    problem::{Problem, no_time},
    to_the_end,
};
use crate::{
    calendar::{parse_time, rfc3339},
    catalog::{Job, JobKind},
    control::ControlError,
    imports::{Progress, ReplayFilter, ReplaySpec},
};

const REPLAY: &str = "/api/v1/streams/{id}/dlq/replay";

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::post(REPLAY, "replayDeadLetters", "Put dead letters back into their stream, or count them", start)
            .fails(&[StatusCode::CONFLICT]),
        Route::get(REPLAY, "getReplay", "How a replay of dead letters stands", one),
    ]
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ReplayDeadLetters {
    #[schemars(schema_with = "reason_or_null")]
    #[serde(default)]
    reason: Option<String>,
    /// Those with a fault in this field, a JSON Pointer, or in what is in it.
    field: Option<String>,
    /// Those that came at or after this time: RFC 3339, or Unix microseconds.
    start: Option<String>,
    /// Those that came before this time.
    end: Option<String>,
    /// Put nothing back, only count.
    #[serde(default)]
    dry_run: bool,
}

fn reason_or_null(_: &mut SchemaGenerator) -> Schema {
    let known: Vec<_> = reasons().map(Some).chain([None]).collect();
    json_schema!({"type": ["string", "null"], "enum": known, "description": "Those with this reason; null: with any."})
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WhichReplay {
    /// The job's id.
    job_id: String,
}

/// What a replay is of, and what came of it so far.
#[derive(Serialize, JsonSchema)]
pub(super) struct ReplayDetails {
    dry_run: bool,
    /// Letters with this reason; null: with any.
    reason: Option<String>,
    /// Letters with a fault in this field; null: in any.
    field: Option<String>,
    /// Letters that came at or after this time; null: from the first one on.
    #[schemars(extend("format" = "date-time"))]
    start: Option<String>,
    /// Letters that came before this time; null: up to the last one.
    #[schemars(extend("format" = "date-time"))]
    end: Option<String>,
    /// The sequence number of the last letter that there was when the replay was made: it goes no further. Null: of a replay that an
    /// earlier version of the server made, which ends by its time.
    through: Option<i64>,
    /// Dead letters that were read.
    scanned: u64,
    /// Of these, those that were asked for.
    matched: u64,
    /// Of these, put back; of a dry run: those that would be, if they were not before.
    replayed: u64,
    /// Of these, put back before.
    duplicates: u64,
    /// Of these, still refused by the schema.
    rejected: u64,
    /// Of these, those that the pipeline still makes nothing of.
    failing: u64,
}

impl ReplayDetails {
    /// Those of a job that is one.
    pub(super) fn of(job: &Job, progress: &Progress) -> Self {
        // What this program has written it can read.
        let ReplaySpec { filter, dry_run, through, .. } = serde_json::from_value(job.spec.clone()).unwrap_or_default();
        let counts = progress.replay.unwrap_or_default().counts;
        Self {
            dry_run,
            reason: filter.reason,
            field: filter.field,
            start: filter.start.map(rfc3339),
            end: filter.end.map(rfc3339),
            through,
            scanned: counts.scanned,
            matched: counts.matched,
            replayed: counts.replayed,
            duplicates: counts.duplicates,
            rejected: counts.rejected,
            failing: counts.failing,
        }
    }
}

/// A replay of dead letters. It is a job: its stream is that of the letters' records.
#[derive(Serialize, JsonSchema)]
struct Replay {
    #[schemars(regex(pattern = "^job_"))]
    id: String,
    #[schemars(regex(pattern = "^str_"))]
    stream_id: String,
    #[schemars(schema_with = "status_name")]
    status: &'static str,
    #[serde(flatten)]
    details: ReplayDetails,
    /// Why it failed; null: it did not.
    error: Option<String>,
    #[schemars(extend("format" = "date-time"))]
    started_at: String,
    #[schemars(extend("format" = "date-time"))]
    ended_at: Option<String>,
}

impl From<Job> for Replay {
    fn from(job: Job) -> Self {
        let progress = Progress::of_value(&job.progress);
        Self {
            details: ReplayDetails::of(&job, &progress),
            id: job.id,
            stream_id: job.stream.to_string(),
            status: job.status.name(),
            error: progress.reason,
            started_at: rfc3339(job.created_at),
            ended_at: job.completed_at.map(rfc3339),
        }
    }
}

async fn start(
    State(app): State<Shared>,
    Acting(actor): Acting,
    Id(id): Id,
    JsonBody(body): JsonBody<ReplayDeadLetters>,
) -> Result<Accepted<Replay>, Problem> {
    actor.caller.require(Action::ReplayDeadLetters)?;
    app.control.resolve_stream(&actor.caller, &id)?;
    let time = |name: &'static str, text: Option<&str>| text.map(parse_time).transpose().map_err(no_time(name));
    let filter = ReplayFilter {
        start: time("/start", body.start.as_deref())?,
        end: time("/end", body.end.as_deref())?,
        reason: body.reason,
        field: body.field,
    };
    if filter.field.as_ref().is_some_and(|field| field.contains('\0')) {
        return Err(Problem::invalid("/field", "it holds the character U+0000, which no field of a letter does"));
    }
    let job = to_the_end(async move { app.control.create_replay(&actor, &id, filter, body.dry_run).await }).await?;
    Ok(Accepted(job.into()))
}

async fn one(
    State(app): State<Shared>,
    Caller(caller): Caller,
    Id(id): Id,
    Parameters(asked): Parameters<WhichReplay>,
) -> Result<Json<Replay>, Problem> {
    caller.require(Action::ReplayDeadLetters)?;
    let stream = app.control.resolve_stream(&caller, &id)?;
    let job = app.control.job(&caller, &asked.job_id).await?;
    if job.kind() != JobKind::Replay || job.stream != stream.id {
        return Err(ControlError::NotFound(format!("replay {:?}", asked.job_id)).into());
    }
    Ok(Json(job.into()))
}
