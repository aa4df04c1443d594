//! `/api/v1/schemas`.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
    response::IntoResponse,
};
use serde::Deserialize;
use serde_json::{Value, json};
use ttdust_shards::{
    access::{Action, Principal},
    ids::SchemaId,
};

use super::{
    Answer, Shared,
    extract::{Acting, Caller, JsonBody, Parameters, next_token, page},
    problem::Problem,
    to_the_end,
};
use crate::{
    calendar::rfc3339,
    catalog::{Schema, SchemaVersion},
    control::{AddedVersion, ControlError, NewSchema, NewVersion},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateSchema {
    name: String,
    namespace: Option<String>,
    #[serde(default)]
    description: String,
    definition: Value,
    compatibility_mode: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListSchemas {
    namespace: Option<String>,
    name: Option<String>,
    page_size: Option<u32>,
    page_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AddVersion {
    definition: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DryRun {
    #[serde(default)]
    dry_run: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListVersions {
    page_size: Option<u32>,
    page_token: Option<String>,
}

fn schema_json(schema: &Schema) -> Value {
    json!({
        "id": schema.id.to_string(),
        "namespace": schema.namespace,
        "name": schema.name,
        "description": schema.description,
        "compatibility_mode": schema.compatibility_mode,
        "latest_version": schema.latest_version,
        "created_at": rfc3339(schema.created_at),
    })
}

fn version_json(version: &SchemaVersion) -> Result<Value, ControlError> {
    let definition: Value = serde_json::from_str(&version.definition)
        .map_err(|e| ControlError::Internal(format!("the catalog holds a definition that is no JSON: {e}")))?;
    Ok(json!({
        "schema_id": version.schema.to_string(),
        "version": version.version,
        "definition": definition,
        "created_at": rfc3339(version.created_at),
    }))
}

fn with_definition(schema: &Schema, version: &SchemaVersion) -> Result<Value, ControlError> {
    let mut body = schema_json(schema);
    body["definition"] = version_json(version)?["definition"].take();
    Ok(body)
}

fn schema_id(text: &str) -> Result<SchemaId, Problem> {
    text.parse().map_err(|_| ControlError::NotFound("such a schema".into()).into())
}

/// The schema of this id, if the caller may read it: one that it may not does not exist.
fn readable(app: &Shared, caller: &Principal, text: &str) -> Result<SchemaId, Problem> {
    caller.require(Action::ReadSchema)?;
    let id = schema_id(text)?;
    if app.control.sees_schema(caller, id) {
        return Ok(id);
    }
    Err(ControlError::NotFound(format!("schema {id}")).into())
}

pub(super) async fn create(
    State(app): State<Shared>,
    Acting(actor): Acting,
    JsonBody(body): JsonBody<CreateSchema>,
) -> Answer {
    actor.caller.require(Action::ChangeSchemas)?;
    let new = NewSchema {
        namespace: body.namespace,
        name: body.name,
        description: body.description,
        definition: body.definition.to_string(),
        compatibility_mode: body.compatibility_mode,
    };
    let (schema, version) = to_the_end(async move { app.control.create_schema(&actor, new).await }).await?;
    let location = format!("/api/v1/schemas/{}", schema.id);
    Ok((StatusCode::CREATED, [("location", location)], Json(with_definition(&schema, &version)?)).into_response())
}

pub(super) async fn list(
    State(app): State<Shared>,
    Caller(caller): Caller,
    Parameters(asked): Parameters<ListSchemas>,
) -> Answer {
    caller.require(Action::ListSchemas)?;
    let page = page(asked.page_size, asked.page_token)?;
    let schemas = app.control.schemas(asked.namespace, asked.name, page.clone()).await?;
    let next = next_token(&schemas, &page, |schema| schema.id.to_string());
    let schemas: Vec<_> = schemas.iter().map(schema_json).collect();
    Ok(Json(json!({"schemas": schemas, "next_page_token": next})).into_response())
}

pub(super) async fn one(State(app): State<Shared>, Caller(caller): Caller, Path(id): Path<String>) -> Answer {
    let id = readable(&app, &caller, &id)?;
    let (schema, newest) = app.control.schema_and_newest(id).await?;
    Ok(Json(with_definition(&schema, &newest)?).into_response())
}

pub(super) async fn add_version(
    State(app): State<Shared>,
    Acting(actor): Acting,
    Path(id): Path<String>,
    Parameters(DryRun { dry_run }): Parameters<DryRun>,
    JsonBody(body): JsonBody<AddVersion>,
) -> Answer {
    actor.caller.require(Action::ChangeSchemas)?;
    let new = NewVersion { schema: schema_id(&id)?, definition: body.definition.to_string(), dry_run };
    match to_the_end(async move { app.control.add_version(&actor, new).await }).await? {
        AddedVersion::Added(version) => Ok((StatusCode::CREATED, Json(version_json(&version)?)).into_response()),
        AddedVersion::WouldFit { compatibility_mode } => {
            let verdict = json!({"compatible": true, "compatibility_mode": compatibility_mode, "violations": []});
            Ok(Json(verdict).into_response())
        }
    }
}

pub(super) async fn versions(
    State(app): State<Shared>,
    Caller(caller): Caller,
    Path(id): Path<String>,
    Parameters(asked): Parameters<ListVersions>,
) -> Answer {
    let id = readable(&app, &caller, &id)?;
    let page = page(asked.page_size, asked.page_token)?;
    let after = match page.after.as_str() {
        "" => 0,
        token => token.parse().map_err(|_| Problem::invalid("page_token", "not a page_token of this list"))?,
    };
    let versions = app.control.versions(id, after, page.limit).await?;
    let next = next_token(&versions, &page, |version| version.version.to_string());
    let versions: Result<Vec<_>, _> = versions.iter().map(version_json).collect();
    Ok(Json(json!({"versions": versions?, "next_page_token": next})).into_response())
}
