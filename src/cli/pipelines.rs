//! `ttdust pipeline`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Map, Value, value::RawValue};

use super::{
    api::{Api, segment},
    failure::{Failure, Outcome},
    output::{Column, Form, column, column_of, note},
    session::{Session, confirm, read_text},
    streams,
    text::{cell, plain, time},
};

const PIPELINES: &str = "/api/v1/pipelines";

/// What may be done with pipelines.
#[derive(Subcommand)]
pub enum PipelineCommand {
    /// Give a stream a pipeline.
    Create {
        /// The stream's name or id.
        stream: String,
        /// The steps, a JSON array; -: read it from standard input.
        file: PathBuf,
        /// For people.
        #[arg(long, default_value = "", hide_default_value = true)]
        description: String,
    },
    /// List pipelines, in the order of their streams.
    List {
        /// At most so many.
        #[arg(long, value_name = "N", default_value_t = usize::MAX, hide_default_value = true)]
        limit: usize,
    },
    /// Show a pipeline, or print its steps.
    Get {
        /// Its id, or its stream's name or id.
        pipeline: String,
        /// Print the steps alone, as JSON.
        #[arg(long)]
        steps: bool,
    },
    /// Give a pipeline another version, for records to come.
    Change {
        /// Its id, or its stream's name or id.
        pipeline: String,
        /// The steps, a JSON array; -: read it from standard input. Without it they stay as they are.
        file: Option<PathBuf>,
        /// For people.
        #[arg(long)]
        description: Option<String>,
    },
    /// End a pipeline: records stay as they come.
    Delete {
        /// Its id, or its stream's name or id.
        pipeline: String,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Show what steps make of sample records; nothing is changed. Steps are counted from 0, and REASON is the code that
    /// `ttdust dlq replay --reason` takes.
    Test(Test),
}

/// Steps to try.
#[derive(Args)]
pub struct Test {
    /// The steps, a JSON array; -: read it from standard input.
    file: PathBuf,
    /// Sample records, a JSON record a line.
    records: PathBuf,
    /// The stream that they are for, by name or id: steps and records are checked against its schema too.
    #[arg(long)]
    stream: Option<String>,
}

const LIST: &[Column] = &[
    column("ID", "/id"),
    column("STREAM", "/stream_id"),
    column("VERSION", "/version"),
    column("DESCRIPTION", "/description"),
    column_of("UPDATED", "/updated_at", time),
];

const WHOLE: &[Column] = &[
    column("ID", "/id"),
    column("STREAM", "/stream_id"),
    column("VERSION", "/version"),
    column("DESCRIPTION", "/description"),
    column_of("CREATED", "/created_at", time),
    column_of("UPDATED", "/updated_at", time),
    column("STEPS", "/steps"),
];

const RESULTS: &[Column] = &[
    column("OUTCOME", "/outcome"),
    column("OUTPUT", "/output"),
    column("REASON", "/failure/reason"),
    column("STEP (FROM 0)", "/failure/step"),
    column("MESSAGE", "/failure/message"),
    column("FIELDS", "/failure/pointers"),
    column_of("NOT BY THE SCHEMA", "/schema_errors", faults),
];

fn faults(errors: &Value) -> String {
    let fault = |error: &Value| format!("{}: {}", cell(&error["pointer"]), cell(&error["detail"]));
    let all = errors.as_array().map(|errors| errors.iter().map(fault).collect::<Vec<_>>().join("; "));
    all.filter(|all| !all.is_empty()).unwrap_or_else(|| "-".to_owned())
}

/// Does what `command` says.
pub(super) async fn run(command: PipelineCommand, session: &mut Session) -> Outcome {
    let Session { api, output } = session;
    match command {
        PipelineCommand::Create { stream, file, description } => {
            let text = |text: &str| serde_json::to_string(text).expect("a text always serialises");
            let (stream, description, steps) = (text(&stream), text(&description), json_of(&file)?);
            let body = format!("{{\"stream_id\":{stream},\"description\":{description},\"steps\":{steps}}}");
            output.object(api.post_text(PIPELINES, &[], body).await?.text()?, WHOLE)
        }
        PipelineCommand::List { limit } => output.list(&api.list(PIPELINES, &[], "pipelines", limit).await?, LIST),
        PipelineCommand::Get { pipeline, steps } => {
            let answer = api.get(&path_of(api, &pipeline).await?, &[]).await?;
            if !steps {
                return output.object(answer.text()?, WHOLE);
            }
            let whole: Map<String, Value> = answer.parse()?;
            output.line(serde_json::to_string_pretty(&whole.get("steps")).expect("JSON is written as JSON"))?;
            output.flush()
        }
        PipelineCommand::Change { pipeline, file, description } => {
            let mut change = Map::new();
            if let Some(file) = file {
                let steps = serde_json::from_str(json_of(&file)?.get()).expect("it was read as JSON before");
                change.insert("steps".into(), steps);
            }
            change.extend(description.map(|description| ("description".to_owned(), description.into())));
            if change.is_empty() {
                return Err(Failure::usage("nothing to change: give a file of steps or --description"));
            }
            let path = path_of(api, &pipeline).await?;
            output.object(api.patch(&path, &change.into()).await?.text()?, WHOLE)
        }
        PipelineCommand::Delete { pipeline, yes } => {
            confirm(&format!("End the pipeline {pipeline}?"), yes)?;
            api.delete(&path_of(api, &pipeline).await?).await?;
            note("ended: records stay as they come from now on");
            Ok(())
        }
        PipelineCommand::Test(test) => try_out(&test, session).await,
    }
}

/// The JSON in a file, as it stands there.
fn json_of(file: &Path) -> Result<Box<RawValue>, Failure> {
    let text = read_text(file)?;
    serde_json::from_str(&text).map_err(|error| Failure::usage(format!("{}: no JSON: {error}", file.display())))
}

/// The path of the pipeline that goes by this id, or of the one of this stream.
async fn path_of(api: &Api, pipeline: &str) -> Result<String, Failure> {
    if pipeline.starts_with("pip_") {
        return Ok(format!("{PIPELINES}/{}", segment(pipeline)));
    }
    let stream: Map<String, Value> = api.get(&streams::path_of(pipeline), &[]).await?.parse()?;
    let found = of_stream(api, stream.get("id").and_then(Value::as_str).unwrap_or_default()).await?;
    let none = || {
        Failure::not_found(
            format!("the stream {} has no pipeline", plain(pipeline)),
            "`ttdust pipeline create` makes one",
        )
    };
    Ok(format!("{PIPELINES}/{}", segment(&cell(&found.ok_or_else(none)?["id"]))))
}

/// The pipeline of the stream with this id.
async fn of_stream(api: &Api, id: &str) -> Result<Option<Value>, Failure> {
    let all = api.list(PIPELINES, &[], "pipelines", usize::MAX).await?;
    let mut all = all.iter().filter_map(|item| serde_json::from_str::<Value>(item.get()).ok());
    Ok(all.find(|found| found["stream_id"] == id))
}

/// Whether the stream with this id has a pipeline that leaves records to the dead letters, as far as the caller may know.
pub(super) async fn makes_letters(api: &Api, id: &str) -> bool {
    let pipeline = of_stream(api, id).await.ok().flatten();
    let steps = pipeline.as_ref().and_then(|pipeline| pipeline["steps"].as_array());
    steps.is_some_and(|steps| steps.iter().any(|step| step["on_error"] == "dlq"))
}

async fn try_out(test: &Test, session: &mut Session) -> Outcome {
    let Session { api, output } = session;
    let steps = json_of(&test.file)?;
    let text = read_text(&test.records)?;
    let lines = text.lines().zip(1u64..).filter(|(line, _)| !line.trim().is_empty());
    let record = |(line, number): (&str, u64)| {
        serde_json::from_str::<Box<RawValue>>(line)
            .map(|record| record.get().to_owned())
            .map_err(|error| Failure::usage(format!("{}, line {number}: no JSON: {error}", test.records.display())))
    };
    let records = lines.map(record).collect::<Result<Vec<_>, Failure>>()?.join(",");
    let stream = test.stream.as_ref().map_or_else(String::new, |stream| {
        format!("\"stream_id\":{},", serde_json::to_string(stream).expect("a text always serialises"))
    });
    let body = format!("{{{stream}\"steps\":{steps},\"records\":[{records}]}}");
    let answer = api.post_text(&format!("{PIPELINES}:test"), &[], body).await?;
    if output.form == Form::Json {
        output.json(answer.text()?)?;
        return output.flush();
    }
    let mut tested: std::collections::BTreeMap<String, Box<RawValue>> = answer.parse()?;
    let results = tested.remove("results").map(|results| serde_json::from_str::<Vec<Box<RawValue>>>(results.get()));
    output.list(&results.and_then(Result::ok).unwrap_or_default(), RESULTS)
}
