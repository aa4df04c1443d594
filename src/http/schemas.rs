//! `/api/v1/schemas`.

use axum::{Json, extract::State, http::StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use ttdust_shards::{
    access::{Action, Principal},
    ids::SchemaId,
};

use super::{
    Shared,
    answer::{Created, Either},
    extract::{Acting, Caller, Id, JsonBody, PAGE_MAX, Parameters, next_token, page},
    operation::Route,
    problem::Problem,
    to_the_end,
};
use crate::{
    calendar::rfc3339,
    catalog,
    control::{AddedVersion, ControlError, NewSchema, NewVersion},
};

const SCHEMAS: &str = "/api/v1/schemas";
const SCHEMA: &str = "/api/v1/schemas/{id}";
const VERSIONS: &str = "/api/v1/schemas/{id}/versions";
/// The pattern of the names of schemas, namespaces and streams; `..` is not in them.
pub(super) const NAME: &str = "^[a-z0-9](\\.?[a-z0-9_-])*\\.?$";

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::post(SCHEMAS, "createSchema", "Register a schema with its first version", create)
            .fails(&[StatusCode::CONFLICT, StatusCode::NOT_IMPLEMENTED])
            .leads_to("getSchema", "id")
            .leads_to("addSchemaVersion", "id")
            .leads_to("listSchemaVersions", "id"),
        Route::get(SCHEMAS, "listSchemas", "List schemas, in the order of their creation", list),
        Route::get(SCHEMA, "getSchema", "Read a schema and its newest version", one),
        Route::post(VERSIONS, "addSchemaVersion", "Add a version, or only ask whether it could be added", add_version)
            .fails(&[StatusCode::CONFLICT])
            .leads_to("getSchema", "schema_id"),
        Route::get(VERSIONS, "listSchemaVersions", "List the versions of a schema, the first one first", versions),
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
    #[schemars(schema_with = "definition")]
    definition: Value,
    /// How a new version must agree with those before it; in any case. All but NONE, which is the default, answer 501 in this
    /// version.
    #[schemars(extend("enum" = [null, "NONE", "BACKWARD", "FORWARD", "FULL", "BACKWARD_TRANSITIVE", "FORWARD_TRANSITIVE",
        "FULL_TRANSITIVE"]))]
    compatibility_mode: Option<String>,
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
    definition: Value,
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
    /// The number of its newest version.
    latest_version: u32,
    #[schemars(extend("format" = "date-time"))]
    created_at: String,
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
    #[schemars(extend("format" = "date-time"))]
    created_at: String,
}

#[derive(Serialize, JsonSchema)]
struct VersionPage {
    versions: Vec<SchemaVersion>,
    next_page_token: Option<String>,
}

/// Whether a version could be added.
#[derive(Serialize, JsonSchema)]
struct Verdict {
    compatible: bool,
    compatibility_mode: String,
    /// What speaks against it.
    violations: Vec<String>,
}

impl From<catalog::Schema> for Schema {
    fn from(schema: catalog::Schema) -> Self {
        Self {
            id: schema.id.to_string(),
            namespace: schema.namespace,
            name: schema.name,
            description: schema.description,
            compatibility_mode: schema.compatibility_mode,
            latest_version: schema.latest_version,
            created_at: rfc3339(schema.created_at),
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
            created_at: rfc3339(version.created_at),
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
        definition: body.definition.to_string(),
        compatibility_mode: body.compatibility_mode,
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

async fn one(State(app): State<Shared>, Caller(caller): Caller, Id(id): Id) -> Result<Json<WholeSchema>, Problem> {
    let id = readable(&app, &caller, &id)?;
    let (schema, newest) = app.control.schema_and_newest(id).await?;
    Ok(Json(whole(schema, newest)?))
}

async fn add_version(
    State(app): State<Shared>,
    Acting(actor): Acting,
    Id(id): Id,
    Parameters(DryRun { dry_run }): Parameters<DryRun>,
    JsonBody(body): JsonBody<AddVersion>,
) -> Result<Either<Created<SchemaVersion>, Json<Verdict>>, Problem> {
    actor.caller.require(Action::ChangeSchemas)?;
    let new = NewVersion { schema: schema_id(&id)?, definition: body.definition.to_string(), dry_run };
    match to_the_end(async move { app.control.add_version(&actor, new).await }).await? {
        AddedVersion::Added(version) => {
            let location = format!("{SCHEMAS}/{}/versions", version.schema);
            Ok(Either::One(Created { location, body: version.try_into()? }))
        }
        AddedVersion::WouldFit { compatibility_mode } => {
            Ok(Either::Other(Json(Verdict { compatible: true, compatibility_mode, violations: Vec::new() })))
        }
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
