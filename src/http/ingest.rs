//! `POST /api/v1/streams/{id}/records`: writing, with the meaning that `Append` has in gRPC.

mod batch;

use axum::{
    extract::{FromRequestParts, State},
    http::{StatusCode, request::Parts},
};
use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ttdust_proto::ingestion::{AppendResponse, IngestError, OnInvalid, Status as RecordStatus};
use ttdust_shards::{
    access::{Action, Principal},
    memory::Held,
    rows::takes_records,
    status::Status,
};

use super::{
    Shared,
    answer::Written,
    extract::{Caller, Id, Parameters},
    operation::{Described, Route, Takes},
    problem::Problem,
};
use crate::{
    control::FieldError,
    producer::{Records, Source},
    traces,
};
use batch::Batch;

pub use batch::Batches;

/// What the row number of a record stands behind in its idempotency key.
const ROW_MARK: char = '/';

pub(super) fn routes() -> Vec<Route> {
    vec![Route::post("/api/v1/streams/{id}/records", "appendRecords", "Write records, one or many", post).fails(&[
        StatusCode::CONFLICT,
        StatusCode::UNPROCESSABLE_ENTITY,
        StatusCode::REQUEST_TIMEOUT,
        StatusCode::PAYLOAD_TOO_LARGE,
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
    ])]
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AppendRecords {
    /// What becomes of the good records when there are bad ones: atomic (nothing is taken, 422), skip (the rest is taken, and
    /// row_errors tells of the bad ones) or dlq (the same, and the bad ones are kept as dead letters of the stream); atomic where
    /// it is missing. With dlq, look at `error`: it may be that the good ones are taken, and the bad ones not kept.
    #[schemars(with = "Option<OnInvalidName>")]
    on_invalid: Option<String>,
}

/// What `on_invalid` takes.
#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
#[allow(dead_code, reason = "the document is made from it")]
enum OnInvalidName {
    Atomic,
    Skip,
    Dlq,
}

/// What became of the records: accepted + duplicates + rejected + dead_lettered are those that were sent.
#[derive(Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Appended {
    status: AppendStatus,
    /// The sequence number of the first accepted record; the others follow without gaps. 0: none was.
    first_sequence: i64,
    last_sequence: i64,
    /// When they were ingested.
    timestamp_unix_micros: i64,
    accepted: u32,
    duplicates: u32,
    rejected: u32,
    /// Bad records that are dead letters on stable storage now.
    dead_lettered: u32,
    /// The first hundred bad records.
    row_errors: Vec<RowProblem>,
    /// What each duplicate's original got, where it is known.
    duplicate_sequences: Vec<Duplicate>,
    schema_version: i32,
    /// Why bad records are no dead letters, although on_invalid=dlq asks for it: these are counted as rejected, and all that is
    /// counted as taken is taken. Send the same again with the same Idempotency-Key, or else the bad ones alone. Null: they are.
    error: Option<LettersProblem>,
}

/// Why dead letters were not written.
#[derive(Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct LettersProblem {
    /// The reason, as in gRPC.
    code: String,
    message: String,
    /// When it may work; null: not by itself.
    retry_after_millis: Option<u32>,
}

/// How it went as a whole.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum AppendStatus {
    /// Records were taken, or are dead letters.
    Ok,
    /// All that were good had been taken before.
    Duplicate,
    /// None was good.
    ValidationError,
}

/// A bad record.
#[derive(Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RowProblem {
    /// Which: the first of the body is 0.
    index: u32,
    /// The reason, as in gRPC.
    code: String,
    message: String,
    field_errors: Vec<FieldProblem>,
}

/// A field of a bad record.
#[derive(Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FieldProblem {
    /// A JSON Pointer into the record.
    path: String,
    message: String,
}

/// A record that had been taken before.
#[derive(Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Duplicate {
    index: u32,
    sequence_number: i64,
}

/// Who calls, and may write records: looked at before the body is.
struct Writing(Principal);

impl FromRequestParts<Shared> for Writing {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Shared) -> Result<Self, Problem> {
        let Caller(caller) = Caller::from_request_parts(parts, app).await?;
        caller.require(Action::WriteRecords)?;
        Ok(Self(caller))
    }
}

impl Takes for Writing {
    fn describe(to: &mut Described) {
        Caller::describe(to);
    }
}

async fn post(
    State(app): State<Shared>,
    Writing(caller): Writing,
    Id(id): Id,
    Parameters(asked): Parameters<AppendRecords>,
    batch: Batch,
) -> Result<Written<Appended>, Problem> {
    let stream = app.control.resolve_stream(&caller, &id)?;
    takes_records(&stream)?;
    let on_invalid = on_invalid(asked.on_invalid.as_deref())?;
    let Batch { payloads, key, metadata, bytes, limited, room } = batch;
    limited.admit_records(&app, &caller, payloads.len(), bytes).await?;
    let keys = key.map(|key| row_keys(&key, payloads.len())).unwrap_or_default();
    let records = Records { payloads, keys, metadata, on_invalid, numbers: None };
    // On a task of its own, so that the memory is spoken for until the records are with the shard, whoever waits for it.
    let task = tokio::spawn(traces::carried(async move {
        let answer = app.producer.append(Source::Http, &stream, records).await;
        drop(room);
        answer
    }));
    let answer = task.await.map_err(|error| Problem::from(Status::internal(error.to_string())))?;
    let answer = answer?;
    if on_invalid == OnInvalid::Atomic && answer.rejected > 0 {
        return Err(all_refused(&answer));
    }
    let text = serde_json::to_vec(&Appended::of(answer, on_invalid)).expect("plain members always serialise");
    Ok(Written::new(text, Held::default()))
}

fn on_invalid(text: Option<&str>) -> Result<OnInvalid, Problem> {
    match text {
        None | Some("atomic") => Ok(OnInvalid::Atomic),
        Some("skip") => Ok(OnInvalid::Skip),
        Some("dlq") => Ok(OnInvalid::Dlq),
        Some(_) => Err(Problem::invalid("on_invalid", "on_invalid is atomic, skip or dlq")),
    }
}

/// The key of each record of a request with this one.
fn row_keys(key: &str, rows: usize) -> Vec<Bytes> {
    (0..rows).map(|row| Bytes::from(format!("{key}{ROW_MARK}{row}"))).collect()
}

/// Of a request that is taken whole or not at all: which records were bad.
fn all_refused(answer: &AppendResponse) -> Problem {
    let mut errors = Vec::new();
    for row in &answer.row_errors {
        let Some(error) = &row.error else { continue };
        if error.field_errors.is_empty() {
            errors.push(FieldError { pointer: format!("/{}", row.index), detail: error.message.clone() });
        }
        errors.extend(error.field_errors.iter().map(|field| FieldError {
            pointer: format!("/{}{}", row.index, field.path),
            detail: field.message.clone(),
        }));
    }
    let detail = format!(
        "nothing was taken, for {} of {} records are bad: mend them, or send on_invalid=skip to have the others taken",
        if answer.row_errors.len() < ttdust_shards::rows::ROW_ERRORS_MAX {
            answer.row_errors.len().to_string()
        } else {
            format!("at least {}", answer.row_errors.len())
        },
        answer.rejected
    );
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "INVALID_RECORDS", detail).with_errors(errors)
}

impl Appended {
    fn of(answer: AppendResponse, on_invalid: OnInvalid) -> Self {
        let status = match answer.status() {
            RecordStatus::Duplicate => AppendStatus::Duplicate,
            RecordStatus::ValidationError => AppendStatus::ValidationError,
            _ => AppendStatus::Ok,
        };
        // Of others an error says no more than the status and the rows do.
        let error = answer.error.clone().filter(|_| on_invalid == OnInvalid::Dlq).map(|error| LettersProblem {
            code: error.code,
            message: error.message,
            retry_after_millis: answer.retry_after_millis,
        });
        let row = |index, error: IngestError| RowProblem {
            index,
            code: error.code,
            message: error.message,
            field_errors: error
                .field_errors
                .into_iter()
                .map(|field| FieldProblem { path: field.path, message: field.message })
                .collect(),
        };
        Self {
            status,
            first_sequence: answer.first_sequence,
            last_sequence: answer.last_sequence,
            timestamp_unix_micros: answer.timestamp_unix_micros,
            accepted: answer.accepted,
            duplicates: answer.duplicates,
            rejected: answer.rejected,
            dead_lettered: answer.dead_lettered,
            row_errors: answer.row_errors.into_iter().map(|e| row(e.index, e.error.unwrap_or_default())).collect(),
            duplicate_sequences: answer
                .duplicate_sequences
                .into_iter()
                .map(|d| Duplicate { index: d.index, sequence_number: d.sequence_number })
                .collect(),
            schema_version: answer.schema_version,
            error,
        }
    }
}
