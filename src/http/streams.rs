//! `/api/v1/streams`.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::State,
    http::{Method, StatusCode},
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use ttdust_shards::access::Action;

use super::{
    Shared,
    answer::{Accepted, Created, Versioned},
    extract::{Acting, Caller, Id, IfMatch, JsonBody, PAGE_MAX, Parameters, page},
    operation::Route,
    problem::Problem,
    schemas::NAME,
    to_the_end,
};
use crate::{
    calendar::rfc3339,
    catalog::{self, Retention, StreamChange, StreamFilter, StreamStatus},
    control::{self, NewStream},
};

const STREAMS: &str = "/api/v1/streams";
const STREAM: &str = "/api/v1/streams/{id}";
const FLUSH: &str = "/api/v1/streams/{id}/flush";

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::post(STREAMS, "createStream", "Create a stream", create)
            .fails(&[StatusCode::NOT_FOUND, StatusCode::CONFLICT])
            .leads_to("getStream", "id")
            .leads_to("changeStream", "id")
            .leads_to("deleteStream", "id")
            .leads_to("listRecords", "id"),
        Route::get(STREAMS, "listStreams", "List streams, in the order of their creation", list),
        Route::get(STREAM, "getStream", "Read a stream, with its statistics", one),
        Route::new(
            Method::PATCH,
            STREAM,
            "changeStream",
            "Change what is given of a stream; pause or resume it",
            change,
        )
        .fails(&[StatusCode::CONFLICT]),
        Route::new(Method::DELETE, STREAM, "deleteStream", "Begin to delete a stream and its records", delete)
            .fails(&[StatusCode::CONFLICT]),
        Route::post(
            FLUSH,
            "flushStream",
            "Write a stream's records to files now, and wait until they are there",
            flush,
        )
        .fails(&[StatusCode::CONFLICT]),
    ]
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CreateStream {
    /// Unique among the streams that are not deleted.
    #[schemars(length(min = 1, max = 128), regex(pattern = NAME))]
    name: String,
    /// For people.
    #[serde(default)]
    #[schemars(length(max = 4096))]
    description: String,
    /// The schema of its records.
    #[schemars(regex(pattern = "^sch_[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"))]
    schema_id: String,
    /// How long records are kept; null: for ever.
    retention_policy: Option<Retention>,
    /// How its files are parted: `{"granularity": "hour"}`, which is also what null means.
    #[schemars(schema_with = "partition_config")]
    partition_config: Option<Value>,
    /// Fields that records can be looked up by; they never change.
    #[serde(default)]
    #[schemars(length(max = 16), inner(length(min = 1, max = 256)), extend("uniqueItems" = true))]
    key_fields: Vec<String>,
    #[serde(default)]
    #[schemars(schema_with = "labels")]
    labels: BTreeMap<String, String>,
    /// Keep what is not taken, in the stream of this name with `.dlq`; null: do not.
    dlq: Option<Dlq>,
}

/// How dead letters are kept.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Dlq {
    /// For how long.
    #[serde(default = "seven")]
    #[schemars(range(min = 1))]
    retention_days: u32,
}

fn seven() -> u32 {
    control::RETENTION_DAYS
}

fn labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "description": "Free labels.",
        "maxProperties": 64,
        "propertyNames": {"minLength": 1, "maxLength": 256},
        "additionalProperties": {"type": "string", "maxLength": 256},
    })
}

fn labels_or_null(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = labels(generator);
    schema.insert("type".into(), serde_json::json!(["object", "null"]));
    schema.insert("description".into(), "Free labels, all of them; null: as they are.".into());
    schema
}

fn partition_config(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": ["object", "null"],
        "properties": {"granularity": {"const": "hour"}},
        "additionalProperties": false,
    })
}

fn any_status(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "enum": StreamStatus::ALL.map(StreamStatus::name)})
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListStreams {
    /// Streams that stand so; all that are not deleted where it is missing.
    #[schemars(schema_with = "any_status", extend("description" = "Streams that stand so; missing: not deleted."))]
    #[serde(default)]
    status: Option<String>,
    /// Streams whose names begin so.
    name_prefix: Option<String>,
    /// Streams with this label: `name`, or `name=value`.
    label: Option<String>,
    /// Entries of a page.
    #[schemars(range(min = 1, max = PAGE_MAX))]
    page_size: Option<u32>,
    /// The next_page_token of the page before.
    page_token: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ChangeStream {
    /// For people.
    #[schemars(length(max = 4096))]
    description: Option<String>,
    #[schemars(schema_with = "labels_or_null")]
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
    /// Missing: as it is; null: for ever.
    #[serde(default, deserialize_with = "present")]
    #[schemars(with = "Option<Retention>")]
    retention_policy: Option<Option<Retention>>,
    #[schemars(extend("enum" = [null, "active", "paused"]))]
    status: Option<String>,
    /// Keep what is not taken, or keep it for so long; null: as it is.
    dlq: Option<Dlq>,
}

/// A stream.
#[derive(Serialize, JsonSchema)]
struct Stream {
    #[schemars(regex(pattern = "^str_"))]
    id: String,
    name: String,
    description: String,
    #[schemars(regex(pattern = "^sch_"))]
    schema_id: String,
    #[schemars(schema_with = "any_status")]
    status: &'static str,
    key_fields: Vec<String>,
    labels: BTreeMap<String, String>,
    /// How long records are kept; null: for ever.
    retention_policy: Option<Retention>,
    /// As it was given.
    partition_config: Option<Value>,
    /// The stream of its dead letters; null: it has none.
    #[schemars(regex(pattern = "^str_"))]
    dlq_stream_id: Option<String>,
    /// Grows by one with every change; the ETag.
    version: i64,
    #[schemars(extend("format" = "date-time"))]
    created_at: String,
    #[schemars(extend("format" = "date-time"))]
    updated_at: String,
}

/// A stream, and how it stands.
#[derive(Serialize, JsonSchema)]
struct WholeStream {
    #[serde(flatten)]
    stream: Stream,
    statistics: StreamStatistics,
}

#[derive(Serialize, JsonSchema)]
struct StreamStatistics {
    /// The shard that owns it.
    shard: u16,
    /// The sequence number of the last record on stable storage; null: its shard is too busy to tell.
    last_sequence: Option<i64>,
    /// The last sequence number in a committed file; 0: none.
    flushed_through: i64,
    /// Records that are in no committed file yet: what the pipeline leaves to the dead letters is among these until then. Null,
    /// like what follows: its shard is too busy to tell.
    buffered_records: Option<u64>,
    /// Their bytes as they came.
    buffered_bytes: Option<u64>,
    /// Records that came in a second, over about the last minute.
    records_per_second: Option<f64>,
    /// Their bytes a second.
    bytes_per_second: Option<f64>,
    /// Committed files.
    files: u64,
    /// Their bytes.
    file_bytes: u64,
    /// Their records.
    file_records: u64,
}

/// What a flush came to.
#[derive(Serialize, JsonSchema)]
struct StreamFlushed {
    #[schemars(regex(pattern = "^str_"))]
    stream_id: String,
    /// The last record that there was when the flush began. All up to it are in committed files, but for those that the
    /// pipeline leaves out; those that it leaves to the dead letters are there. 0: there was none.
    flushed_through: i64,
}

#[derive(Serialize, JsonSchema)]
struct StreamPage {
    streams: Vec<Stream>,
    next_page_token: Option<String>,
}

impl From<catalog::Stream> for Stream {
    fn from(stream: catalog::Stream) -> Self {
        Self {
            id: stream.id.to_string(),
            name: stream.name,
            description: stream.description,
            schema_id: stream.schema.to_string(),
            status: stream.status.name(),
            key_fields: stream.key_fields,
            labels: stream.labels,
            retention_policy: stream.retention,
            partition_config: stream.partition_config,
            dlq_stream_id: stream.dead_letters.map(|id| id.to_string()),
            version: stream.version,
            created_at: rfc3339(stream.created_at),
            updated_at: rfc3339(stream.updated_at),
        }
    }
}

impl From<control::StreamStatistics> for StreamStatistics {
    fn from(statistics: control::StreamStatistics) -> Self {
        let figures = statistics.figures;
        Self {
            shard: statistics.shard.0,
            last_sequence: figures.map(|figures| figures.last_sequence),
            flushed_through: statistics.flushed_through,
            buffered_records: figures.map(|figures| figures.buffered_records),
            buffered_bytes: figures.map(|figures| figures.buffered_bytes),
            records_per_second: figures.map(|figures| figures.records_per_second),
            bytes_per_second: figures.map(|figures| figures.bytes_per_second),
            files: statistics.totals.files,
            file_bytes: statistics.totals.bytes,
            file_records: statistics.totals.rows,
        }
    }
}

fn present<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Option<Retention>>, D::Error> {
    Option::deserialize(value).map(Some)
}

async fn create(
    State(app): State<Shared>,
    Acting(actor): Acting,
    JsonBody(body): JsonBody<CreateStream>,
) -> Result<Versioned<Created<Stream>>, Problem> {
    actor.caller.require(Action::ChangeStreams)?;
    let schema = body.schema_id.parse().map_err(|e| Problem::invalid("/schema_id", format!("{e}")))?;
    let new = NewStream {
        name: body.name,
        description: body.description,
        schema,
        retention: body.retention_policy,
        partition_config: body.partition_config,
        key_fields: body.key_fields,
        labels: body.labels,
        dead_letters_days: body.dlq.map(|dlq| dlq.retention_days),
    };
    let stream = to_the_end(async move { app.control.create_stream(&actor, new).await }).await?;
    let (version, location) = (stream.version, format!("{STREAMS}/{}", stream.id));
    Ok(Versioned { version, answer: Created { location, body: stream.into() } })
}

async fn list(
    State(app): State<Shared>,
    Caller(caller): Caller,
    Parameters(asked): Parameters<ListStreams>,
) -> Result<Json<StreamPage>, Problem> {
    caller.require(Action::ReadStreams)?;
    let page = page(asked.page_size, asked.page_token)?;
    let status = match asked.status {
        None => None,
        Some(name) => {
            let unknown = || Problem::invalid("status", "status is creating, active, paused, deleting or deleted");
            Some(StreamStatus::of_name(&name).ok_or_else(unknown)?)
        }
    };
    let (label_key, label_value) = match asked.label.as_deref().map(|label| label.split_once('=').ok_or(label)) {
        None => (None, None),
        Some(Ok((key, value))) => (Some(key.to_owned()), Some(value.to_owned())),
        Some(Err(key)) => (Some(key.to_owned()), None),
    };
    let filter =
        StreamFilter { status, name_prefix: asked.name_prefix, label_key, label_value, ..StreamFilter::default() };
    let page = app.control.streams(&caller, filter, page).await?;
    let streams = page.streams.into_iter().map(Stream::from).collect();
    Ok(Json(StreamPage { streams, next_page_token: page.next }))
}

async fn one(
    State(app): State<Shared>,
    Caller(caller): Caller,
    Id(id): Id,
) -> Result<Versioned<Json<WholeStream>>, Problem> {
    caller.require(Action::ReadStreams)?;
    let stream = app.control.stream(app.control.find_stream(&caller, &id).await?).await?;
    let statistics = app.control.statistics(&stream).await?.into();
    Ok(Versioned { version: stream.version, answer: Json(WholeStream { stream: stream.into(), statistics }) })
}

async fn change(
    State(app): State<Shared>,
    Acting(actor): Acting,
    Id(id): Id,
    IfMatch(if_version): IfMatch,
    JsonBody(body): JsonBody<ChangeStream>,
) -> Result<Versioned<Json<Stream>>, Problem> {
    let only_status =
        body.description.is_none() && body.retention_policy.is_none() && body.labels.is_none() && body.dlq.is_none();
    actor.caller.require(if only_status { Action::PauseStreams } else { Action::ChangeStreams })?;
    let status = match body.status.as_deref() {
        None => None,
        Some(name) => {
            let allowed = |status: &StreamStatus| matches!(status, StreamStatus::Active | StreamStatus::Paused);
            let unknown = || Problem::invalid("/status", "status is active or paused; DELETE deletes");
            Some(StreamStatus::of_name(name).filter(allowed).ok_or_else(unknown)?)
        }
    };
    let change = StreamChange {
        description: body.description,
        retention: body.retention_policy,
        labels: body.labels,
        status,
        if_version,
        ..StreamChange::default()
    };
    let dlq = body.dlq.map(|dlq| dlq.retention_days);
    let id = app.control.find_stream(&actor.caller, &id).await?;
    let stream = to_the_end(async move { app.control.change_stream(&actor, id, change, dlq).await }).await?;
    Ok(Versioned { version: stream.version, answer: Json(stream.into()) })
}

async fn delete(
    State(app): State<Shared>,
    Acting(actor): Acting,
    Id(id): Id,
    IfMatch(if_version): IfMatch,
) -> Result<Versioned<Accepted<Stream>>, Problem> {
    actor.caller.require(Action::ChangeStreams)?;
    let id = app.control.find_stream(&actor.caller, &id).await?;
    let stream = to_the_end(async move { app.control.delete_stream(&actor, id, if_version).await }).await?;
    Ok(Versioned { version: stream.version, answer: Accepted(stream.into()) })
}

async fn flush(State(app): State<Shared>, Acting(actor): Acting, Id(id): Id) -> Result<Json<StreamFlushed>, Problem> {
    actor.caller.require(Action::FlushStreams)?;
    let stream = app.control.resolve_stream(&actor.caller, &id)?;
    let flushed_through = app.control.flush_stream(&actor, &stream).await?;
    Ok(Json(StreamFlushed { stream_id: stream.id.to_string(), flushed_through }))
}
