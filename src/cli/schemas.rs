//! `ttdust schema`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value, value::RawValue};

use super::{
    api::{Api, segment},
    failure::{Failure, Outcome},
    output::{Column, Form, column, column_of, note},
    session::{Session, read_text},
    text::{cell, plain, time},
};

const SCHEMAS: &str = "/api/v1/schemas";

/// What may be done with schemas.
#[derive(Subcommand)]
pub enum SchemaCommand {
    /// Register a schema with its first version.
    Create(Create),
    /// List schemas, in the order of their creation.
    List {
        /// Those of this namespace.
        #[arg(long)]
        namespace: Option<String>,
        /// Those of this name.
        #[arg(long)]
        name: Option<String>,
        /// At most so many.
        #[arg(long, value_name = "N", default_value_t = usize::MAX, hide_default_value = true)]
        limit: usize,
    },
    /// Show a schema, or print its definition.
    Get {
        /// Its id, NAME or NAMESPACE/NAME.
        schema: String,
        /// This version; default: the newest.
        #[arg(long = "schema-version", value_name = "N")]
        number: Option<u32>,
        /// Print the definition alone, as JSON.
        #[arg(long)]
        definition: bool,
    },
    /// List the versions of a schema, the first one first.
    Versions {
        /// Its id, NAME or NAMESPACE/NAME.
        schema: String,
    },
    /// Add a version, or only ask whether it could be added.
    Add {
        /// The schema's id, NAME or NAMESPACE/NAME.
        schema: String,
        /// The definition, as JSON; -: read it from standard input.
        file: PathBuf,
        /// Only check it; the exit status is 1 if it would be refused.
        #[arg(long)]
        dry_run: bool,
    },
    /// Change what is given of a schema.
    Change {
        /// Its id, NAME or NAMESPACE/NAME.
        schema: String,
        /// For people.
        #[arg(long)]
        description: Option<String>,
        /// How a new version must agree with those before it, such as BACKWARD.
        #[arg(long, value_name = "MODE")]
        compatibility: Option<String>,
        /// strict or lenient.
        #[arg(long)]
        policy: Option<String>,
    },
    /// Take a version out of use, for good.
    Retire {
        /// The schema's id, NAME or NAMESPACE/NAME.
        schema: String,
        /// The version's number.
        number: u32,
    },
}

/// A schema to register.
#[derive(Args)]
pub struct Create {
    /// Its name.
    name: String,
    /// The definition, a JSON Schema (draft-07); -: read it from standard input.
    file: PathBuf,
    /// Default: default.
    #[arg(long)]
    namespace: Option<String>,
    /// For people.
    #[arg(long, default_value = "", hide_default_value = true)]
    description: String,
    /// How a new version must agree with those before it: NONE, BACKWARD, FORWARD, FULL, or one of these with _TRANSITIVE.
    #[arg(long, value_name = "MODE", default_value = "NONE")]
    compatibility: String,
    /// Whether members that an open object does not declare are expected: strict or lenient.
    #[arg(long, default_value = "strict")]
    policy: String,
}

const LIST: &[Column] = &[
    column("ID", "/id"),
    column("NAMESPACE", "/namespace"),
    column("NAME", "/name"),
    column("VERSIONS", "/latest_version"),
    column("COMPATIBILITY", "/compatibility_mode"),
    column_of("UPDATED", "/updated_at", time),
];

const WHOLE: &[Column] = &[
    column("ID", "/id"),
    column("NAMESPACE", "/namespace"),
    column("NAME", "/name"),
    column("DESCRIPTION", "/description"),
    column("COMPATIBILITY", "/compatibility_mode"),
    column("POLICY", "/policy"),
    column("LATEST VERSION", "/latest_version"),
    column_of("CREATED", "/created_at", time),
    column_of("UPDATED", "/updated_at", time),
    column("DEFINITION", "/definition"),
];

const VERSIONS: &[Column] = &[
    column("VERSION", "/version"),
    column_of("FINGERPRINT", "/fingerprint", short),
    column_of("CREATED", "/created_at", time),
    column_of("RETIRED", "/retired_at", time),
];

const VERSION: &[Column] = &[
    column("SCHEMA", "/schema_id"),
    column("VERSION", "/version"),
    column("FINGERPRINT", "/fingerprint"),
    column_of("CREATED", "/created_at", time),
    column_of("RETIRED", "/retired_at", time),
    column("DEFINITION", "/definition"),
];

/// Enough of a fingerprint to tell it from others.
fn short(value: &Value) -> String {
    cell(value).chars().take(16).collect()
}

/// Does what `command` says.
pub(super) async fn run(command: SchemaCommand, session: &mut Session) -> Outcome {
    let Session { api, output } = session;
    match command {
        SchemaCommand::Create(new) => create(new, session).await,
        SchemaCommand::List { namespace, name, limit } => {
            let filters = [("namespace", namespace), ("name", name)];
            let query: Vec<_> = filters.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
            output.list(&api.list(SCHEMAS, &query, "schemas", limit).await?, LIST)
        }
        SchemaCommand::Get { schema, number, definition } => {
            let mut path = path_of(api, &schema).await?;
            if let Some(number) = number {
                path = format!("{path}/versions/{number}");
            }
            let answer = api.get(&path, &[]).await?;
            if definition {
                let whole: serde_json::Map<String, Value> = answer.parse()?;
                let text = serde_json::to_string_pretty(&whole.get("definition")).expect("JSON is written as JSON");
                output.line(text)?;
                return output.flush();
            }
            output.object(answer.text()?, if number.is_some() { VERSION } else { WHOLE })
        }
        SchemaCommand::Versions { schema } => {
            let path = format!("{}/versions", path_of(api, &schema).await?);
            output.list(&api.list(&path, &[], "versions", usize::MAX).await?, VERSIONS)
        }
        SchemaCommand::Add { schema, file, dry_run } => add(&schema, &file, dry_run, session).await,
        SchemaCommand::Change { schema, description, compatibility, policy } => {
            let given = [("description", description), ("compatibility_mode", compatibility), ("policy", policy)];
            let change: serde_json::Map<_, _> =
                given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.into()))).collect();
            if change.is_empty() {
                let what = "nothing to change: give --description, --compatibility or --policy";
                return Err(Failure::usage(what));
            }
            let path = path_of(api, &schema).await?;
            output.object(api.patch(&path, &change.into()).await?.text()?, &WHOLE[..WHOLE.len() - 1])
        }
        SchemaCommand::Retire { schema, number } => {
            let path = format!("{}/versions/{number}/retire", path_of(api, &schema).await?);
            output.object(api.post(&path, &[], &Value::Object(serde_json::Map::new())).await?.text()?, VERSION)
        }
    }
}

async fn create(new: Create, session: &mut Session) -> Outcome {
    let text = |text: &str| serde_json::to_string(text).expect("a text always serialises");
    let mut body = format!(
        "{{\"name\":{},\"description\":{},\"compatibility_mode\":{},\"policy\":{},\"definition\":{}",
        text(&new.name),
        text(&new.description),
        text(&new.compatibility),
        text(&new.policy),
        definition(&new.file)?.get(),
    );
    if let Some(namespace) = &new.namespace {
        body.push_str(&format!(",\"namespace\":{}", text(namespace)));
    }
    body.push('}');
    let answer = session.api.post_text(SCHEMAS, &[], body).await?;
    session.output.object(answer.text()?, &WHOLE[..WHOLE.len() - 1])
}

/// The definition in a file as it stands there: the server judges what JSON would make one of, such as a key that comes twice.
fn definition(file: &Path) -> Result<Box<RawValue>, Failure> {
    let text = read_text(file)?;
    serde_json::from_str(&text).map_err(|error| Failure::usage(format!("{}: no JSON: {error}", file.display())))
}

async fn add(schema: &str, file: &Path, dry_run: bool, session: &mut Session) -> Outcome {
    let Session { api, output } = session;
    let body = format!("{{\"definition\":{}}}", definition(file)?.get());
    let path = format!("{}/versions", path_of(api, schema).await?);
    let query = if dry_run { vec![("dry_run", "true".to_owned())] } else { Vec::new() };
    let answer = api.post_text(&path, &query, body).await?;
    if !dry_run {
        return output.object(answer.text()?, &VERSION[..VERSION.len() - 1]);
    }
    let verdict: Value = answer.parse()?;
    if output.form == Form::Json {
        output.json(answer.text()?)?;
    } else {
        let mode = cell(&verdict["compatibility_mode"]);
        let says = if verdict["compatible"] == true { "it could be added" } else { "it would be refused" };
        output.line(format!("{says} ({mode})"))?;
        for reason in verdict["violations"].as_array().into_iter().flatten() {
            let (pointer, why) = (cell(&reason["pointer"]), cell(&reason["reason"]));
            output.line(format!("  {pointer}: {why} (against version {})", cell(&reason["against_version"])))?;
        }
        for fault in verdict["pipeline_faults"].as_array().into_iter().flatten() {
            let [stream, pipeline, pointer, why] =
                ["stream_name", "pipeline_id", "pointer", "reason"].map(|name| cell(&fault[name]));
            output.line(format!("  the pipeline of {stream} ({pipeline}), {pointer}: {why}"))?;
        }
    }
    output.flush()?;
    if verdict["compatible"] == true { Ok(()) } else { Err(Failure::Partly) }
}

/// The path of the schema that goes by this id, name, or namespace and name.
async fn path_of(api: &Api, schema: &str) -> Result<String, Failure> {
    Ok(format!("{SCHEMAS}/{}", segment(&id_of(api, schema).await?)))
}

/// The id of the schema that goes by this id, name, or namespace and name.
pub(super) async fn id_of(api: &Api, schema: &str) -> Result<String, Failure> {
    if schema.starts_with("sch_") {
        return Ok(schema.to_owned());
    }
    let (namespace, name) = schema.split_once('/').map_or((None, schema), |(space, name)| (Some(space), name));
    let mut query = vec![("name", name.to_owned())];
    query.extend(namespace.map(|namespace| ("namespace", namespace.to_owned())));
    let found = api.list(SCHEMAS, &query, "schemas", 100).await?;
    let found: Vec<Value> = found.iter().filter_map(|item| serde_json::from_str(item.get()).ok()).collect();
    match found.as_slice() {
        [one] => Ok(cell(&one["id"])),
        [] => {
            Err(Failure::not_found(format!("there is no schema {}", plain(schema)), "`ttdust schema list` shows them"))
        }
        several => {
            let names = several.iter().map(|one| format!("{}/{}", cell(&one["namespace"]), cell(&one["name"])));
            let names = names.collect::<Vec<_>>().join(", ");
            note("several schemas have this name");
            Err(Failure::usage(format!("which schema is meant: {names}? Give one of these, or its id")))
        }
    }
}
