//! `/api/v1/schemas`.

use axum::{
    Json,
    extract::State,
    http::{Method, StatusCode},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};
use ttdust_shards::{
    access::{Action, Principal},
    ids::{SchemaId, StreamId},
};

use super::{
    Shared,
    answer::{Created, Either, Versioned},
    extract::{Acting, Caller, Id, IdAndNumber, IfMatch, JsonBody, PAGE_MAX, Parameters, next_token, page},
    operation::Route,
    problem::Problem,
    to_the_end,
};
use crate::{
    calendar::rfc3339,
    catalog::{self, SchemaChange},
    compatibility::{self, Direction, Mode, Policy},
    control::{AddedVersion, ControlError, NewSchema, NewVersion, PipelineFault, policy_name, policy_of},
};

const SCHEMAS: &str = "/api/v1/schemas";
const SCHEMA: &str = "/api/v1/schemas/{id}";
const VERSIONS: &str = "/api/v1/schemas/{id}/versions";
const VERSION: &str = "/api/v1/schemas/{id}/versions/{number}";
const RETIRE: &str = "/api/v1/schemas/{id}/versions/{number}/retire";
/// The pattern of the names of schemas, namespaces and streams; `..` is not in them.
pub(super) const NAME: &str = "^[a-z0-9](\\.?[a-z0-9_-])*\\.?$";

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::post(SCHEMAS, "createSchema", "Register a schema with its first version", create)
            .fails(&[StatusCode::CONFLICT])
            .leads_to("getSchema", "id")
            .leads_to("addSchemaVersion", "id")
            .leads_to("listSchemaVersions", "id"),
        Route::get(SCHEMAS, "listSchemas", "List schemas, in the order of their creation", list),
        Route::get(SCHEMA, "getSchema", "Read a schema and its newest version", one),
        Route::new(Method::PATCH, SCHEMA, "changeSchema", "Change what is given of a schema", change),
        Route::post(VERSIONS, "addSchemaVersion", "Add a version, or only ask whether it could be added", add_version)
            .fails(&[StatusCode::CONFLICT])
            .leads_to("getSchema", "schema_id"),
        Route::get(VERSIONS, "listSchemaVersions", "List the versions of a schema, the first one first", versions),
        Route::get(VERSION, "getSchemaVersion", "Read a version of a schema", one_version),
        Route::post(RETIRE, "retireSchemaVersion", "Take a version out of use, for good", retire)
            .fails(&[StatusCode::CONFLICT]),
    ]
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CreateSchema {
    /// Unique in its namespace.
    #[schemars(length(min = 1, max = 128), regex(pattern = NAME))]
    name: String,
    /// `default` where it is missing.
    #[schemars(length(min = 1, max = 128), regex(pattern = NAME))]
    namespace: Option<String>,
    /// For people.
    #[serde(default)]
    #[schemars(length(max = 4096))]
    description: String,
    /// As it was sent: a key that stands in it twice must be seen by whoever judges it.
    #[schemars(schema_with = "definition")]
    definition: Box<RawValue>,
    /// How a new version must agree with those before it; in any case. NONE where it is missing.
    #[schemars(schema_with = "mode_or_null")]
    #[serde(default)]
    compatibility_mode: Option<String>,
    /// Whether members that an open object does not declare are expected; strict where it is missing.
    #[schemars(extend("enum" = [null, "strict", "lenient"]))]
    policy: Option<String>,
}

fn mode_or_null(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let names = Mode::ALL.map(|mode| Some(mode.name())).into_iter().chain([None]).collect::<Vec<_>>();
    schemars::json_schema!({"type": ["string", "null"], "enum": names})
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ChangeSchema {
    /// For people.
    #[schemars(length(max = 4096))]
    description: Option<String>,
    /// How a new version must agree with those before it; in any case.
    #[schemars(schema_with = "mode_or_null")]
    #[serde(default)]
    compatibility_mode: Option<String>,
    #[schemars(extend("enum" = [null, "strict", "lenient"]))]
    policy: Option<String>,
}

fn definition(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": ["object", "boolean"], "description": "A JSON Schema, draft-07."})
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListSchemas {
    /// Schemas of this namespace.
    namespace: Option<String>,
    /// Schemas of this name.
    name: Option<String>,
    /// Entries of a page.
    #[schemars(range(min = 1, max = PAGE_MAX))]
    page_size: Option<u32>,
    /// The next_page_token of the page before.
    page_token: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AddVersion {
    #[schemars(schema_with = "definition")]
    definition: Box<RawValue>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DryRun {
    /// Only check the version, and answer with the verdict.
    #[serde(default)]
    dry_run: bool,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListVersions {
    /// Entries of a page.
    #[schemars(range(min = 1, max = PAGE_MAX))]
    page_size: Option<u32>,
    /// The next_page_token of the page before.
    page_token: Option<String>,
}

/// A schema of the registry.
#[derive(Serialize, JsonSchema)]
struct Schema {
    #[schemars(regex(pattern = "^sch_"))]
    id: String,
    namespace: String,
    name: String,
    description: String,
    compatibility_mode: String,
    policy: String,
    /// Grows by one with every change.
    version: i64,
    /// The number of its newest version.
    latest_version: u32,
    #[schemars(extend("format" = "date-time"))]
    created_at: String,
    #[schemars(extend("format" = "date-time"))]
    updated_at: String,
}

/// A schema and its newest version.
#[derive(Serialize, JsonSchema)]
struct WholeSchema {
    #[serde(flatten)]
    schema: Schema,
    #[schemars(schema_with = "definition")]
    definition: Value,
}

#[derive(Serialize, JsonSchema)]
struct SchemaPage {
    schemas: Vec<Schema>,
    next_page_token: Option<String>,
}

/// A version of a schema.
#[derive(Serialize, JsonSchema)]
struct SchemaVersion {
    #[schemars(regex(pattern = "^sch_"))]
    schema_id: String,
    /// From 1.
    version: u32,
    #[schemars(schema_with = "definition")]
    definition: Value,
    /// SHA-256 of the definition in a canonical form, in hexadecimal digits.
    fingerprint: String,
    #[schemars(extend("format" = "date-time"))]
    created_at: String,
    /// Null: it is in use.
    #[schemars(extend("format" = "date-time"))]
    retired_at: Option<String>,
}

/// A version that was added.
#[derive(Serialize, JsonSchema)]
struct NewestVersion {
    #[serde(flatten)]
    version: SchemaVersion,
    /// From which sequence number on each stream's records were all checked with it; at most 100 streams.
    effective_from: Vec<Effective>,
}

#[derive(Serialize, JsonSchema)]
struct Effective {
    stream_id: String,
    sequence: i64,
}

#[derive(Serialize, JsonSchema)]
struct VersionPage {
    versions: Vec<SchemaVersion>,
    next_page_token: Option<String>,
}

/// Whether a version could be added.
#[derive(Serialize, JsonSchema)]
struct Verdict {
    /// Whether it could: nothing speaks against it.
    compatible: bool,
    compatibility_mode: String,
    policy: String,
    /// Why it may not follow the versions before it.
    violations: Vec<Violation>,
    /// Steps of pipelines that would not fit any more; at most 100.
    pipeline_faults: Vec<BrokenStep>,
}

/// A step of a stream's pipeline that a version would leave without what it needs.
#[derive(Serialize, JsonSchema)]
struct BrokenStep {
    #[schemars(regex(pattern = "^pip_"))]
    pipeline_id: String,
    #[schemars(regex(pattern = "^str_"))]
    stream_id: String,
    stream_name: String,
    /// From 0.
    step: u64,
    /// JSON Pointer into the pipeline.
    pointer: String,
    /// For people.
    reason: String,
}

impl From<PipelineFault> for BrokenStep {
    fn from(fault: PipelineFault) -> Self {
        Self {
            pipeline_id: fault.pipeline,
            stream_id: fault.stream.to_string(),
            stream_name: fault.stream_name,
            step: fault.step as u64,
            pointer: fault.pointer,
            reason: fault.message,
        }
    }
}

/// A reason why a version may not follow another.
#[derive(Serialize, JsonSchema)]
struct Violation {
    /// For programs.
    rule: &'static str,
    /// JSON Pointer into the new definition.
    pointer: String,
    /// JSON Pointer into the older definition.
    old_pointer: String,
    /// For people.
    reason: String,
    against_version: u32,
    /// Whose records break: backward: the older version's under the new one; forward: the reverse.
    #[schemars(extend("enum" = ["backward", "forward"]))]
    direction: &'static str,
}

impl From<compatibility::Violation> for Violation {
    fn from(violation: compatibility::Violation) -> Self {
        Self {
            rule: violation.rule,
            pointer: violation.pointer,
            old_pointer: violation.old_pointer,
            reason: violation.reason,
            against_version: violation.against_version,
            direction: match violation.direction {
                Direction::Backward => "backward",
                Direction::Forward => "forward",
            },
        }
    }
}

impl From<catalog::Schema> for Schema {
    fn from(schema: catalog::Schema) -> Self {
        Self {
            id: schema.id.to_string(),
            namespace: schema.namespace,
            name: schema.name,
            description: schema.description,
            compatibility_mode: schema.compatibility_mode,
            policy: schema.policy,
            version: schema.version,
            latest_version: schema.latest_version,
            created_at: rfc3339(schema.created_at),
            updated_at: rfc3339(schema.updated_at),
        }
    }
}

impl TryFrom<catalog::SchemaVersion> for SchemaVersion {
    type Error = ControlError;

    fn try_from(version: catalog::SchemaVersion) -> Result<Self, ControlError> {
        let definition = serde_json::from_str(&version.definition)
            .map_err(|e| ControlError::Internal(format!("the catalog holds a definition that is no JSON: {e}")))?;
        Ok(Self {
            schema_id: version.schema.to_string(),
            version: version.version,
            definition,
            fingerprint: version.fingerprint.iter().map(|byte| format!("{byte:02x}")).collect(),
            created_at: rfc3339(version.created_at),
            retired_at: version.retired_at.map(rfc3339),
        })
    }
}

fn whole(schema: catalog::Schema, newest: catalog::SchemaVersion) -> Result<WholeSchema, ControlError> {
    Ok(WholeSchema { schema: schema.into(), definition: SchemaVersion::try_from(newest)?.definition })
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

async fn create(
    State(app): State<Shared>,
    Acting(actor): Acting,
    JsonBody(body): JsonBody<CreateSchema>,
) -> Result<Created<WholeSchema>, Problem> {
    actor.caller.require(Action::ChangeSchemas)?;
    let new = NewSchema {
        namespace: body.namespace,
        name: body.name,
        description: body.description,
        definition: body.definition.get().to_owned(),
        mode: mode(body.compatibility_mode.as_deref())?.unwrap_or(Mode::None),
        policy: policy(body.policy.as_deref())?.unwrap_or_default(),
    };
    let (schema, version) = to_the_end(async move { app.control.create_schema(&actor, new).await }).await?;
    Ok(Created { location: format!("{SCHEMAS}/{}", schema.id), body: whole(schema, version)? })
}

async fn list(
    State(app): State<Shared>,
    Caller(caller): Caller,
    Parameters(asked): Parameters<ListSchemas>,
) -> Result<Json<SchemaPage>, Problem> {
    caller.require(Action::ListSchemas)?;
    let page = page(asked.page_size, asked.page_token)?;
    let schemas = app.control.schemas(asked.namespace, asked.name, page.clone()).await?;
    let next_page_token = next_token(&schemas, &page, |schema| schema.id.to_string());
    Ok(Json(SchemaPage { schemas: schemas.into_iter().map(Schema::from).collect(), next_page_token }))
}

async fn one(
    State(app): State<Shared>,
    Caller(caller): Caller,
    Id(id): Id,
) -> Result<Versioned<Json<WholeSchema>>, Problem> {
    let id = readable(&app, &caller, &id)?;
    let (schema, newest) = app.control.schema_and_newest(id).await?;
    Ok(Versioned { version: schema.version, answer: Json(whole(schema, newest)?) })
}

async fn change(
    State(app): State<Shared>,
    Acting(actor): Acting,
    Id(id): Id,
    IfMatch(if_version): IfMatch,
    JsonBody(body): JsonBody<ChangeSchema>,
) -> Result<Versioned<Json<Schema>>, Problem> {
    actor.caller.require(Action::ChangeSchemas)?;
    let change = SchemaChange {
        description: body.description,
        compatibility_mode: mode(body.compatibility_mode.as_deref())?.map(|mode| mode.name().to_owned()),
        policy: policy(body.policy.as_deref())?.map(|policy| policy_name(policy).to_owned()),
        if_version,
    };
    let id = schema_id(&id)?;
    let schema = to_the_end(async move { app.control.change_schema(&actor, id, change).await }).await?;
    Ok(Versioned { version: schema.version, answer: Json(schema.into()) })
}

fn mode(name: Option<&str>) -> Result<Option<Mode>, Problem> {
    let unknown = || {
        let names = Mode::ALL.map(Mode::name).join(", ");
        Problem::invalid("/compatibility_mode", format!("compatibility_mode is one of {names}, in any case"))
    };
    name.map(|name| Mode::parse(name).ok_or_else(unknown)).transpose()
}

fn policy(name: Option<&str>) -> Result<Option<Policy>, Problem> {
    let unknown = || Problem::invalid("/policy", "policy is strict or lenient");
    name.map(|name| policy_of(name).ok_or_else(unknown)).transpose()
}

async fn one_version(
    State(app): State<Shared>,
    Caller(caller): Caller,
    IdAndNumber(id, number): IdAndNumber,
) -> Result<Json<SchemaVersion>, Problem> {
    let id = readable(&app, &caller, &id)?;
    Ok(Json(app.control.version(id, number).await?.try_into()?))
}

async fn retire(
    State(app): State<Shared>,
    Acting(actor): Acting,
    IdAndNumber(id, number): IdAndNumber,
) -> Result<Json<SchemaVersion>, Problem> {
    actor.caller.require(Action::ChangeSchemas)?;
    let id = schema_id(&id)?;
    let version = to_the_end(async move { app.control.retire_version(&actor, id, number).await }).await?;
    Ok(Json(version.try_into()?))
}

async fn add_version(
    State(app): State<Shared>,
    Acting(actor): Acting,
    Id(id): Id,
    Parameters(DryRun { dry_run }): Parameters<DryRun>,
    JsonBody(body): JsonBody<AddVersion>,
) -> Result<Either<Created<NewestVersion>, Either<Json<SchemaVersion>, Json<Verdict>>>, Problem> {
    actor.caller.require(Action::ChangeSchemas)?;
    let new = NewVersion { schema: schema_id(&id)?, definition: body.definition.get().to_owned(), dry_run };
    match to_the_end(async move { app.control.add_version(&actor, new).await }).await? {
        AddedVersion::Added { version, effective_from } => {
            let location = format!("{SCHEMAS}/{}/versions/{}", version.schema, version.version);
            let of = |(id, sequence): (StreamId, i64)| Effective { stream_id: id.to_string(), sequence };
            let effective_from = effective_from.into_iter().map(of).collect();
            let body = NewestVersion { version: version.try_into()?, effective_from };
            Ok(Either::One(Created { location, body }))
        }
        AddedVersion::Known(version) => Ok(Either::Other(Either::One(Json(version.try_into()?)))),
        AddedVersion::Judged { schema, verdict, faults } => Ok(Either::Other(Either::Other(Json(Verdict {
            compatible: verdict.compatible && faults.is_empty(),
            compatibility_mode: schema.compatibility_mode,
            policy: schema.policy,
            violations: verdict.violations.into_iter().map(Violation::from).collect(),
            pipeline_faults: faults.into_iter().map(BrokenStep::from).collect(),
        })))),
    }
}

async fn versions(
    State(app): State<Shared>,
    Caller(caller): Caller,
    Id(id): Id,
    Parameters(asked): Parameters<ListVersions>,
) -> Result<Json<VersionPage>, Problem> {
    let id = readable(&app, &caller, &id)?;
    let page = page(asked.page_size, asked.page_token)?;
    let after = match page.after.as_str() {
        "" => 0,
        token => token.parse().map_err(|_| Problem::invalid("page_token", "not a page_token of this list"))?,
    };
    let versions = app.control.versions(id, after, page.limit).await?;
    let next_page_token = next_token(&versions, &page, |version| version.version.to_string());
    let versions: Result<_, ControlError> = versions.into_iter().map(SchemaVersion::try_from).collect();
    Ok(Json(VersionPage { versions: versions?, next_page_token }))
}
