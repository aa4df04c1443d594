//! `/api/v1/pipelines`.

use axum::{
    Json,
    extract::State,
    http::{Method, StatusCode},
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};
use ttdust_shards::{
    access::Action,
    transform::columns::{Column, Kind},
};

use super::{
    Shared,
    answer::{Created, NoContent, Versioned},
    extract::{Acting, Caller, Id, IfMatch, JsonBody, PAGE_MAX, Parameters, page},
    operation::Route,
    problem::Problem,
    to_the_end,
};
use crate::{
    calendar::rfc3339,
    control::{self, NewPipeline, PipelineChange, PipelineTest, SampleEnd},
};

const PIPELINES: &str = "/api/v1/pipelines";
const PIPELINE: &str = "/api/v1/pipelines/{id}";
const TEST: &str = "/api/v1/pipelines:test";

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::post(PIPELINES, "createPipeline", "Give a stream a pipeline", create)
            .fails(&[StatusCode::NOT_FOUND, StatusCode::CONFLICT])
            .leads_to("getPipeline", "id")
            .leads_to("changePipeline", "id")
            .leads_to("deletePipeline", "id"),
        Route::get(PIPELINES, "listPipelines", "List pipelines, in the order of their streams", list),
        Route::get(PIPELINE, "getPipeline", "Read a pipeline", one),
        Route::new(Method::PATCH, PIPELINE, "changePipeline", "Give a pipeline another version", change)
            .fails(&[StatusCode::CONFLICT]),
        Route::new(Method::DELETE, PIPELINE, "deletePipeline", "End a pipeline: records stay as they come", delete)
            .fails(&[StatusCode::CONFLICT]),
        Route::post(TEST, "testPipeline", "Show what steps make of sample records, step by step", test)
            .fails(&[StatusCode::NOT_FOUND]),
    ]
}

fn steps(_: &mut SchemaGenerator) -> Schema {
    let fields =
        json_schema!({"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1, "maxItems": 256});
    let of_type = |name: &str, fields: &Schema| {
        json_schema!({
            "type": "object",
            "properties": {"type": {"const": name}, "fields": fields},
            "required": ["type", "fields"],
            "additionalProperties": false,
        })
    };
    let renamed = json_schema!({"type": "object", "additionalProperties": {"type": "string", "minLength": 1}, "minProperties": 1});
    let on_error = json_schema!({"enum": ["dlq", "null", "keep", "drop"]});
    let formats = json_schema!({"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 16});
    let target = json_schema!({"enum": ["rfc3339", "unix_s", "unix_ms", "unix_us", "unix_ns"]});
    let conversion = |name: &str, required: &[&str]| {
        let mut schema = json_schema!({
            "type": "object",
            "properties": {
                "type": {"const": name},
                "fields": fields,
                "formats": formats,
                "time_zone": {"type": "string"},
                "target": target,
                "event_time": {"type": "boolean"},
                "on_error": on_error,
            },
            "required": required,
            "additionalProperties": false,
        });
        if name == "coerce" {
            let to = serde_json::json!({"enum": ["string", "integer", "number", "boolean", "timestamp"]});
            if let Some(properties) = schema.get_mut("properties") {
                properties["to"] = to;
            }
        }
        schema
    };
    json_schema!({
        "type": "array",
        "description": "The steps, in the order in which they are done. A field is a JSON Pointer or a top-level name.",
        "minItems": 1,
        "maxItems": 32,
        "items": {"oneOf": [
            of_type("select", &fields),
            of_type("exclude", &fields),
            of_type("rename", &renamed),
            of_type("reorder", &fields),
            conversion("timestamp", &["type", "fields"]),
            conversion("coerce", &["type", "fields", "to"]),
        ]},
    })
}

fn steps_or_null(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = steps(generator);
    schema.insert("type".into(), serde_json::json!(["array", "null"]));
    schema
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CreatePipeline {
    /// The stream, by id or name. It has one pipeline at a time.
    #[schemars(length(min = 1))]
    stream_id: String,
    /// For people.
    #[serde(default)]
    #[schemars(length(max = 4096))]
    description: String,
    #[schemars(schema_with = "steps")]
    steps: Value,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ChangePipeline {
    /// For people.
    #[schemars(length(max = 4096))]
    description: Option<String>,
    /// All of them.
    #[serde(default)]
    #[schemars(schema_with = "steps_or_null")]
    steps: Option<Value>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListPipelines {
    /// Entries of a page.
    #[schemars(range(min = 1, max = PAGE_MAX))]
    page_size: Option<u32>,
    /// The next_page_token of the page before.
    page_token: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TestPipeline {
    /// The stream that the steps are for, by id or name: they are checked against its schema, and so are the records.
    stream_id: Option<String>,
    #[schemars(schema_with = "steps")]
    steps: Value,
    /// Sample records.
    #[schemars(length(max = control::SAMPLES_MAX), with = "Vec<Value>")]
    records: Vec<Box<RawValue>>,
}

/// A stream's pipeline.
#[derive(Serialize, JsonSchema)]
struct Pipeline {
    #[schemars(regex(pattern = "^pip_"))]
    id: String,
    #[schemars(regex(pattern = "^str_"))]
    stream_id: String,
    description: String,
    /// Counted for the stream, from 1; no number comes twice. The ETag.
    version: u16,
    #[schemars(with = "Vec<serde_json::Map<String, Value>>")]
    steps: Value,
    #[schemars(extend("format" = "date-time"))]
    created_at: String,
    #[schemars(extend("format" = "date-time"))]
    updated_at: String,
}

#[derive(Serialize, JsonSchema)]
struct PipelinePage {
    pipelines: Vec<Pipeline>,
    next_page_token: Option<String>,
}

/// What steps make of sample records.
#[derive(Serialize, JsonSchema)]
struct PipelineTested {
    /// One for each record.
    results: Vec<SampleResult>,
    /// The columns that files would have; null: no stream was named.
    columns: Option<Vec<ColumnOfFiles>>,
}

#[derive(Serialize, JsonSchema)]
struct SampleResult {
    /// What becomes of the record.
    #[schemars(extend("enum" = ["kept", "dropped", "dead_letter"]))]
    outcome: &'static str,
    /// What readers see; null: nothing.
    #[schemars(with = "Option<Value>")]
    output: Option<Box<RawValue>>,
    /// The record after each step, as far as it came.
    #[schemars(with = "Vec<Value>")]
    steps: Vec<Box<RawValue>>,
    /// Why it is left out, or a dead letter.
    failure: Option<SampleFailure>,
    /// What the stream's schema says against the record as it is given: such a one would not be taken.
    schema_errors: Vec<SchemaError>,
}

#[derive(Serialize, JsonSchema)]
struct SampleFailure {
    /// The step, from 0.
    step: usize,
    /// For programs: the reason that the dead letter would have; or DROPPED.
    reason: &'static str,
    /// For people.
    message: &'static str,
    /// The fields at fault.
    pointers: Vec<String>,
}

#[derive(Serialize, JsonSchema)]
struct SchemaError {
    pointer: String,
    detail: String,
}

#[derive(Serialize, JsonSchema)]
struct ColumnOfFiles {
    name: String,
    /// string, int64, double, boolean, json, struct or list.
    r#type: &'static str,
}

impl From<control::WholePipeline> for Pipeline {
    fn from(whole: control::WholePipeline) -> Self {
        Self {
            id: whole.pipeline.id,
            stream_id: whole.stream.to_string(),
            description: whole.pipeline.description,
            version: whole.pipeline.version,
            steps: whole.steps,
            created_at: rfc3339(whole.pipeline.created_at),
            updated_at: rfc3339(whole.pipeline.updated_at),
        }
    }
}

impl From<Column> for ColumnOfFiles {
    fn from(column: Column) -> Self {
        let r#type = match column.kind {
            Kind::Utf8 { .. } => "string",
            Kind::Int64 => "int64",
            Kind::Float64 => "double",
            Kind::Boolean => "boolean",
            Kind::Json => "json",
            Kind::Struct(_) => "struct",
            Kind::List(_) => "list",
        };
        Self { name: column.name, r#type }
    }
}

impl From<control::Sample> for SampleResult {
    fn from(sample: control::Sample) -> Self {
        let (outcome, failure) = match sample.end {
            SampleEnd::Kept => ("kept", None),
            SampleEnd::Dropped(step) => {
                let message = "a value cannot be converted, and on_error is drop";
                let failure = SampleFailure { step, reason: "DROPPED", message, pointers: Vec::new() };
                ("dropped", Some(failure))
            }
            SampleEnd::Dead(failure) => {
                let (step, reason, message, pointers) =
                    (failure.step, failure.reason, failure.message, failure.pointers);
                ("dead_letter", Some(SampleFailure { step, reason, message, pointers }))
            }
        };
        let schema_errors = sample.schema_errors.into_iter();
        Self {
            outcome,
            output: sample.steps.last().filter(|_| failure.is_none()).cloned(),
            steps: sample.steps,
            failure,
            schema_errors: schema_errors.map(|e| SchemaError { pointer: e.pointer, detail: e.detail }).collect(),
        }
    }
}

fn answered(whole: control::WholePipeline) -> (i64, Pipeline) {
    (whole.pipeline.version.into(), whole.into())
}

async fn create(
    State(app): State<Shared>,
    Acting(actor): Acting,
    JsonBody(body): JsonBody<CreatePipeline>,
) -> Result<Versioned<Created<Pipeline>>, Problem> {
    actor.caller.require(Action::ChangePipelines)?;
    let stream = app.control.resolve_stream(&actor.caller, &body.stream_id)?.id;
    let new = NewPipeline { stream, description: body.description, steps: body.steps };
    let created = to_the_end(async move { app.control.create_pipeline(&actor, new).await }).await?;
    let (version, body) = answered(created);
    Ok(Versioned { version, answer: Created { location: format!("{PIPELINES}/{}", body.id), body } })
}

async fn list(
    State(app): State<Shared>,
    Caller(caller): Caller,
    Parameters(asked): Parameters<ListPipelines>,
) -> Result<Json<PipelinePage>, Problem> {
    caller.require(Action::ReadPipelines)?;
    let (pipelines, next_page_token) = app.control.pipelines(page(asked.page_size, asked.page_token)?).await?;
    Ok(Json(PipelinePage { pipelines: pipelines.into_iter().map(Pipeline::from).collect(), next_page_token }))
}

async fn one(
    State(app): State<Shared>,
    Caller(caller): Caller,
    Id(id): Id,
) -> Result<Versioned<Json<Pipeline>>, Problem> {
    caller.require(Action::ReadPipelines)?;
    let (version, body) = answered(app.control.pipeline(&id).await?);
    Ok(Versioned { version, answer: Json(body) })
}

async fn change(
    State(app): State<Shared>,
    Acting(actor): Acting,
    Id(id): Id,
    IfMatch(if_version): IfMatch,
    JsonBody(body): JsonBody<ChangePipeline>,
) -> Result<Versioned<Json<Pipeline>>, Problem> {
    actor.caller.require(Action::ChangePipelines)?;
    let change = PipelineChange { description: body.description, steps: body.steps, if_version };
    let changed = to_the_end(async move { app.control.change_pipeline(&actor, &id, change).await }).await?;
    let (version, body) = answered(changed);
    Ok(Versioned { version, answer: Json(body) })
}

async fn delete(
    State(app): State<Shared>,
    Acting(actor): Acting,
    Id(id): Id,
    IfMatch(if_version): IfMatch,
) -> Result<NoContent, Problem> {
    actor.caller.require(Action::ChangePipelines)?;
    to_the_end(async move { app.control.delete_pipeline(&actor, &id, if_version).await }).await?;
    Ok(NoContent)
}

async fn test(
    State(app): State<Shared>,
    Caller(caller): Caller,
    JsonBody(body): JsonBody<TestPipeline>,
) -> Result<Json<PipelineTested>, Problem> {
    caller.require(Action::ReadPipelines)?;
    let stream = body.stream_id.map(|text| app.control.resolve_stream(&caller, &text)).transpose()?;
    let test = PipelineTest { stream, steps: body.steps, records: body.records };
    let tested = app.control.test_pipeline(test).await?;
    Ok(Json(PipelineTested {
        results: tested.samples.into_iter().map(SampleResult::from).collect(),
        columns: tested.columns.map(|columns| columns.into_iter().map(ColumnOfFiles::from).collect()),
    }))
}
