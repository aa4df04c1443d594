//! `/api/v1/schemas`.

use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};
use ttdust_shards::{
    access::{Action, Principal},
    ids::SchemaId,
};

use super::{
    Answer, Shared,
    extract::{Acting, Caller, JsonBody, Parameters, if_match, next_token, page},
    problem::Problem,
    to_the_end,
};
use crate::{
    calendar::rfc3339,
    catalog::{Schema, SchemaChange, SchemaVersion},
    compatibility::{Direction, Mode, Policy, Violation},
    control::{AddedVersion, ControlError, NewSchema, NewVersion, policy_name, policy_of},
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
    policy: Option<String>,
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
pub(super) struct ChangeSchema {
    description: Option<String>,
    compatibility_mode: Option<String>,
    policy: Option<String>,
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
        "policy": schema.policy,
        "version": schema.version,
        "updated_at": rfc3339(schema.updated_at),
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
        "fingerprint": hex(&version.fingerprint),
        "retired_at": version.retired_at.map(rfc3339),
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
        mode: mode(body.compatibility_mode.as_deref())?.unwrap_or(Mode::None),
        policy: policy(body.policy.as_deref())?.unwrap_or_default(),
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
    Ok(with_etag(&schema, with_definition(&schema, &newest)?))
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
        AddedVersion::Added { version, effective_from } => {
            let mut body = version_json(&version)?;
            let streams =
                effective_from.iter().map(|(id, sequence)| json!({"stream_id": id.to_string(), "sequence": sequence}));
            body["effective_from"] = streams.collect();
            let location = format!("/api/v1/schemas/{}/versions/{}", version.schema, version.version);
            Ok((StatusCode::CREATED, [("location", location)], Json(body)).into_response())
        }
        AddedVersion::Known(version) => Ok(Json(version_json(&version)?).into_response()),
        AddedVersion::Judged { schema, verdict } => Ok(Json(json!({
            "compatible": verdict.compatible,
            "compatibility_mode": schema.compatibility_mode,
            "policy": schema.policy,
            "violations": verdict.violations.iter().map(violation_json).collect::<Vec<_>>(),
        }))
        .into_response()),
    }
}

fn violation_json(violation: &Violation) -> Value {
    json!({
        "rule": violation.rule,
        "pointer": violation.pointer,
        "old_pointer": violation.old_pointer,
        "reason": violation.reason,
        "against_version": violation.against_version,
        "direction": match violation.direction {
            Direction::Backward => "backward",
            Direction::Forward => "forward",
        },
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn mode(name: Option<&str>) -> Result<Option<Mode>, Problem> {
    let unknown = || {
        let names: Vec<_> = Mode::ALL.into_iter().map(Mode::name).collect();
        Problem::invalid(
            "/compatibility_mode",
            format!("compatibility_mode is one of {}, in any case", names.join(", ")),
        )
    };
    name.map(|name| Mode::parse(name).ok_or_else(unknown)).transpose()
}

fn policy(name: Option<&str>) -> Result<Option<Policy>, Problem> {
    name.map(|name| policy_of(name).ok_or_else(|| Problem::invalid("/policy", "policy is strict or lenient")))
        .transpose()
}

pub(super) async fn change(
    State(app): State<Shared>,
    Acting(actor): Acting,
    Path(id): Path<String>,
    headers: HeaderMap,
    JsonBody(body): JsonBody<ChangeSchema>,
) -> Answer {
    actor.caller.require(Action::ChangeSchemas)?;
    let change = SchemaChange {
        description: body.description,
        compatibility_mode: mode(body.compatibility_mode.as_deref())?.map(|mode| mode.name().to_owned()),
        policy: policy(body.policy.as_deref())?.map(|policy| policy_name(policy).to_owned()),
        if_version: if_match(&headers)?,
    };
    let id = schema_id(&id)?;
    let schema = to_the_end(async move { app.control.change_schema(&actor, id, change).await }).await?;
    Ok(with_etag(&schema, schema_json(&schema)))
}

fn with_etag(schema: &Schema, body: Value) -> Response {
    ([("etag", format!("\"{}\"", schema.version))], Json(body)).into_response()
}

pub(super) async fn one_version(
    State(app): State<Shared>,
    Caller(caller): Caller,
    Path((id, number)): Path<(String, String)>,
) -> Answer {
    let id = readable(&app, &caller, &id)?;
    let version = app.control.version(id, version_number(&number)?).await?;
    Ok(Json(version_json(&version)?).into_response())
}

fn version_number(text: &str) -> Result<u32, Problem> {
    text.parse().map_err(|_| ControlError::NotFound("such a version".into()).into())
}

pub(super) async fn retire(
    State(app): State<Shared>,
    Acting(actor): Acting,
    Path((id, number)): Path<(String, String)>,
) -> Answer {
    actor.caller.require(Action::ChangeSchemas)?;
    let (id, number) = (schema_id(&id)?, version_number(&number)?);
    let version = to_the_end(async move { app.control.retire_version(&actor, id, number).await }).await?;
    Ok(Json(version_json(&version)?).into_response())
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
