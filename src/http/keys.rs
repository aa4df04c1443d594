//! `/api/v1/api-keys`.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
    response::IntoResponse,
};
use serde::Deserialize;
use serde_json::{Value, json};
use ttdust_shards::access::{Action, Role};

use super::{
    Answer, Shared,
    extract::{Acting, Caller, JsonBody, Parameters, next_token, page},
    problem::{Problem, no_time},
    to_the_end,
};
use crate::{
    calendar::{parse_time, rfc3339},
    catalog::ApiKey,
    control::NewKey,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateKey {
    #[serde(default)]
    name: String,
    role: String,
    #[serde(default)]
    streams: Vec<String>,
    expires_at: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListKeys {
    page_size: Option<u32>,
    page_token: Option<String>,
}

fn key_json(key: &ApiKey) -> Value {
    json!({
        "key_id": key.id,
        "name": key.name,
        "role": key.role.name(),
        "streams": key.streams,
        "created_at": rfc3339(key.created_at),
        "expires_at": key.expires_at.map(rfc3339),
        "last_used_at": key.last_used_at.map(rfc3339),
    })
}

pub(super) async fn create(
    State(app): State<Shared>,
    Acting(actor): Acting,
    JsonBody(body): JsonBody<CreateKey>,
) -> Answer {
    actor.caller.require(Action::ManageKeys)?;
    let unknown = || Problem::invalid("/role", "role is admin, operator, schema_admin, writer or reader");
    let new = NewKey {
        name: body.name,
        role: Role::of_name(&body.role).ok_or_else(unknown)?,
        streams: body.streams,
        expires_at: body.expires_at.as_deref().map(parse_time).transpose().map_err(no_time("/expires_at"))?,
    };
    let created = to_the_end(async move { app.control.create_key(&actor, new).await }).await?;
    let mut answer = key_json(&created.key);
    answer["api_key"] = created.text.into();
    Ok((StatusCode::CREATED, [("cache-control", "no-store")], Json(answer)).into_response())
}

pub(super) async fn list(
    State(app): State<Shared>,
    Caller(caller): Caller,
    Parameters(asked): Parameters<ListKeys>,
) -> Answer {
    caller.require(Action::ManageKeys)?;
    let page = page(asked.page_size, asked.page_token)?;
    let keys = app.control.keys(page.clone()).await?;
    let next = next_token(&keys, &page, |key| key.id.clone());
    let keys: Vec<_> = keys.iter().map(key_json).collect();
    Ok(Json(json!({"api_keys": keys, "next_page_token": next})).into_response())
}

pub(super) async fn delete(State(app): State<Shared>, Acting(actor): Acting, Path(id): Path<String>) -> Answer {
    actor.caller.require(Action::ManageKeys)?;
    to_the_end(async move { app.control.delete_key(&actor, &id).await }).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
