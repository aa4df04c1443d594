//! `/api/v1/streams`.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use ttdust_shards::access::Action;

use super::{
    Answer, Shared,
    extract::{Acting, Caller, JsonBody, Parameters, if_match, next_token, page},
    problem::Problem,
    to_the_end,
};
use crate::{
    calendar::rfc3339,
    catalog::{Retention, Stream, StreamChange, StreamFilter, StreamStatus},
    control::{NewStream, StreamStatistics},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateStream {
    name: String,
    #[serde(default)]
    description: String,
    schema_id: String,
    retention_policy: Option<Retention>,
    partition_config: Option<Value>,
    #[serde(default)]
    key_fields: Vec<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListStreams {
    status: Option<String>,
    name_prefix: Option<String>,
    /// `name`, or `name=value`.
    label: Option<String>,
    page_size: Option<u32>,
    page_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChangeStream {
    description: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    /// Missing: as it is; null: for ever.
    #[serde(default, deserialize_with = "present")]
    retention_policy: Option<Option<Retention>>,
    status: Option<String>,
}

fn present<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Option<Retention>>, D::Error> {
    Option::deserialize(value).map(Some)
}

fn stream_json(stream: &Stream) -> Value {
    json!({
        "id": stream.id.to_string(),
        "name": stream.name,
        "description": stream.description,
        "schema_id": stream.schema.to_string(),
        "status": stream.status.name(),
        "key_fields": stream.key_fields,
        "labels": stream.labels,
        "retention_policy": stream.retention,
        "partition_config": stream.partition_config,
        "version": stream.version,
        "created_at": rfc3339(stream.created_at),
        "updated_at": rfc3339(stream.updated_at),
    })
}

fn statistics_json(statistics: &StreamStatistics) -> Value {
    json!({
        "shard": statistics.shard.0,
        "last_sequence": statistics.last_sequence,
        "flushed_through": statistics.flushed_through,
        "files": statistics.totals.files,
        "file_bytes": statistics.totals.bytes,
        "file_records": statistics.totals.rows,
    })
}

fn with_etag(status: StatusCode, stream: &Stream, body: Value) -> Response {
    (status, [("etag", format!("\"{}\"", stream.version))], Json(body)).into_response()
}

pub(super) async fn create(
    State(app): State<Shared>,
    Acting(actor): Acting,
    JsonBody(body): JsonBody<CreateStream>,
) -> Answer {
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
    };
    let stream = to_the_end(async move { app.control.create_stream(&actor, new).await }).await?;
    let mut response = with_etag(StatusCode::CREATED, &stream, stream_json(&stream));
    if let Ok(location) = format!("/api/v1/streams/{}", stream.id).parse() {
        response.headers_mut().insert("location", location);
    }
    Ok(response)
}

pub(super) async fn list(
    State(app): State<Shared>,
    Caller(caller): Caller,
    Parameters(asked): Parameters<ListStreams>,
) -> Answer {
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
    let filter = StreamFilter { status, name_prefix: asked.name_prefix, label_key, label_value };
    let streams = app.control.streams(filter, page.clone()).await?;
    let next = next_token(&streams, &page, |stream| stream.id.to_string());
    let streams: Vec<_> = streams.iter().filter(|s| caller.sees(s.id, &s.name)).map(stream_json).collect();
    Ok(Json(json!({"streams": streams, "next_page_token": next})).into_response())
}

pub(super) async fn one(State(app): State<Shared>, Caller(caller): Caller, Path(id): Path<String>) -> Answer {
    caller.require(Action::ReadStreams)?;
    let stream = app.control.stream(app.control.resolve_stream(&caller, &id)?.id).await?;
    let mut body = stream_json(&stream);
    body["statistics"] = statistics_json(&app.control.statistics(&stream).await?);
    Ok(with_etag(StatusCode::OK, &stream, body))
}

pub(super) async fn change(
    State(app): State<Shared>,
    Acting(actor): Acting,
    Path(id): Path<String>,
    headers: HeaderMap,
    JsonBody(body): JsonBody<ChangeStream>,
) -> Answer {
    let only_status = body.description.is_none() && body.retention_policy.is_none() && body.labels.is_none();
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
        if_version: if_match(&headers)?,
    };
    let id = app.control.resolve_stream(&actor.caller, &id)?.id;
    let stream = to_the_end(async move { app.control.change_stream(&actor, id, change).await }).await?;
    Ok(with_etag(StatusCode::OK, &stream, stream_json(&stream)))
}

pub(super) async fn delete(
    State(app): State<Shared>,
    Acting(actor): Acting,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Answer {
    actor.caller.require(Action::ChangeStreams)?;
    let if_version = if_match(&headers)?;
    let id = app.control.resolve_stream(&actor.caller, &id)?.id;
    let stream = to_the_end(async move { app.control.delete_stream(&actor, id, if_version).await }).await?;
    Ok(with_etag(StatusCode::ACCEPTED, &stream, stream_json(&stream)))
}
