//! `/api/v1/api-keys`.

use axum::{
    Json,
    extract::State,
    http::{Method, StatusCode},
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use ttdust_shards::access::{Action, Role};

use super::{
    Shared,
    answer::{CreatedSecret, NoContent},
    extract::{Acting, Caller, Id, JsonBody, PAGE_MAX, Parameters, next_token, page},
    operation::Route,
    problem::{Problem, no_time},
    to_the_end,
};
use crate::{
    calendar::{parse_time, rfc3339},
    catalog,
    control::NewKey,
};

const KEYS: &str = "/api/v1/api-keys";
const KEY: &str = "/api/v1/api-keys/{id}";

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::post(KEYS, "createApiKey", "Create a key, and show its text this one time", create)
            .fails(&[StatusCode::CONFLICT])
            .leads_to("deleteApiKey", "key_id"),
        Route::get(KEYS, "listApiKeys", "List keys, in the order of their creation, without their secrets", list),
        Route::new(Method::DELETE, KEY, "deleteApiKey", "Delete a key: it is refused from now on", delete),
    ]
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CreateKey {
    /// For people.
    #[serde(default)]
    #[schemars(length(max = 4096))]
    name: String,
    #[schemars(schema_with = "role_name")]
    role: String,
    /// What a writer or reader may use: ids, names, or patterns of names in which `*` stands for any text.
    #[serde(default)]
    #[schemars(length(max = 64), inner(regex(pattern = "^[a-z0-9._*-]{1,128}$")))]
    streams: Vec<String>,
    /// When it ends: RFC 3339, or Unix microseconds. Null: never.
    expires_at: Option<String>,
}

fn role_name(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "enum": Role::ALL.map(Role::name), "description": "What its holder may do."})
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListKeys {
    /// Entries of a page.
    #[schemars(range(min = 1, max = PAGE_MAX))]
    page_size: Option<u32>,
    /// The next_page_token of the page before.
    page_token: Option<String>,
}

/// A key, without its secret.
#[derive(Serialize, JsonSchema)]
struct ApiKey {
    #[schemars(regex(pattern = "^key_"))]
    key_id: String,
    name: String,
    #[schemars(schema_with = "role_name")]
    role: &'static str,
    streams: Vec<String>,
    #[schemars(extend("format" = "date-time"))]
    created_at: String,
    #[schemars(extend("format" = "date-time"))]
    expires_at: Option<String>,
    /// To the second, and a few seconds late; null: never.
    #[schemars(extend("format" = "date-time"))]
    last_used_at: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct CreatedKey {
    #[serde(flatten)]
    key: ApiKey,
    /// What its holder sends. It cannot be read again: an answer by Idempotency-Key lacks it.
    #[serde(skip_serializing_if = "Option::is_none")]
    api_key: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct KeyPage {
    api_keys: Vec<ApiKey>,
    next_page_token: Option<String>,
}

impl From<catalog::ApiKey> for ApiKey {
    fn from(key: catalog::ApiKey) -> Self {
        Self {
            key_id: key.id,
            name: key.name,
            role: key.role.name(),
            streams: key.streams,
            created_at: rfc3339(key.created_at),
            expires_at: key.expires_at.map(rfc3339),
            last_used_at: key.last_used_at.map(rfc3339),
        }
    }
}

async fn create(
    State(app): State<Shared>,
    Acting(actor): Acting,
    JsonBody(body): JsonBody<CreateKey>,
) -> Result<CreatedSecret<CreatedKey>, Problem> {
    actor.caller.require(Action::ManageKeys)?;
    let unknown = || Problem::invalid("/role", "role is admin, operator, schema_admin, writer or reader");
    let new = NewKey {
        name: body.name,
        role: Role::of_name(&body.role).ok_or_else(unknown)?,
        streams: body.streams,
        expires_at: body.expires_at.as_deref().map(parse_time).transpose().map_err(no_time("/expires_at"))?,
    };
    let created = to_the_end(async move { app.control.create_key(&actor, new).await }).await?;
    Ok(CreatedSecret(CreatedKey { key: created.key.into(), api_key: Some(created.text) }))
}

async fn list(
    State(app): State<Shared>,
    Caller(caller): Caller,
    Parameters(asked): Parameters<ListKeys>,
) -> Result<Json<KeyPage>, Problem> {
    caller.require(Action::ManageKeys)?;
    let page = page(asked.page_size, asked.page_token)?;
    let keys = app.control.keys(page.clone()).await?;
    let next_page_token = next_token(&keys, &page, |key| key.id.clone());
    Ok(Json(KeyPage { api_keys: keys.into_iter().map(ApiKey::from).collect(), next_page_token }))
}

async fn delete(State(app): State<Shared>, Acting(actor): Acting, Id(id): Id) -> Result<NoContent, Problem> {
    actor.caller.require(Action::ManageKeys)?;
    to_the_end(async move { app.control.delete_key(&actor, &id).await }).await?;
    Ok(NoContent)
}
