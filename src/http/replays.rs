//! `/api/v1/streams/{id}/dlq/replay`.

use axum::{Json, extract::State, http::StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ttdust_shards::access::Action;

use super::{
    Shared,
    answer::Accepted,
    extract::{Acting, Caller, Id, JsonBody, Parameters},
    operation::Route,
    problem::{Problem, no_time},
};
use crate::{
    calendar::{parse_time, rfc3339},
    control::ControlError,
    replay::{ReplayFilter, ReplayJob, ReplayRefused, ReplayStatus},
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
    /// Those with this reason.
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

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WhichReplay {
    /// The job's id.
    job_id: String,
}

/// A replay of dead letters. The server knows it until it ends.
#[derive(Serialize, JsonSchema)]
struct Replay {
    #[schemars(regex(pattern = "^job_"))]
    id: String,
    #[schemars(regex(pattern = "^str_"))]
    stream_id: String,
    dry_run: bool,
    #[schemars(extend("enum" = ["running", "completed", "failed"]))]
    status: &'static str,
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
    /// Why it failed; null: it did not.
    error: Option<String>,
    #[schemars(extend("format" = "date-time"))]
    started_at: String,
    #[schemars(extend("format" = "date-time"))]
    ended_at: Option<String>,
}

impl From<ReplayJob> for Replay {
    fn from(job: ReplayJob) -> Self {
        Self {
            id: job.id,
            stream_id: job.stream.to_string(),
            dry_run: job.dry_run,
            status: match job.status {
                ReplayStatus::Running => "running",
                ReplayStatus::Completed => "completed",
                ReplayStatus::Failed => "failed",
            },
            scanned: job.counts.scanned,
            matched: job.counts.matched,
            replayed: job.counts.replayed,
            duplicates: job.counts.duplicates,
            rejected: job.counts.rejected,
            failing: job.counts.failing,
            error: job.error,
            started_at: rfc3339(job.started_at),
            ended_at: job.ended_at.map(rfc3339),
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
    let stream = app.control.resolve_stream(&actor.caller, &id)?;
    let time = |name: &'static str, text: Option<&str>| text.map(parse_time).transpose().map_err(no_time(name));
    let filter = ReplayFilter {
        start: time("/start", body.start.as_deref())?,
        end: time("/end", body.end.as_deref())?,
        reason: body.reason,
        field: body.field,
    };
    let refused = |refused: ReplayRefused| match refused {
        ReplayRefused::NoDeadLetters => ControlError::Conflict(refused.to_string()),
        ReplayRefused::TooMany => ControlError::Overloaded,
    };
    let job = app.replays.start(&stream, filter, body.dry_run).map_err(refused)?;
    tracing::info!(stream = %stream.id, job = %job.id, actor = %actor.caller.id, dry_run = job.dry_run, "replay of dead letters begun");
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
    let job = app.replays.job(stream.id, &asked.job_id);
    let job = job.ok_or_else(|| ControlError::NotFound(format!("replay {:?}", asked.job_id)))?;
    Ok(Json(job.into()))
}
