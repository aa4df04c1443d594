//! `ttdust import`: objects that the server reads into a stream by itself.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    api::{Answer, segment},
    failure::{Failure, Outcome},
    output::{Column, Form, column, column_of, note},
    session::Session,
    streams::label,
    text::{count, plain, time},
};

const JOBS: &str = "/api/v1/jobs";
/// Between two looks at an import.
const POLL: Duration = Duration::from_millis(300);

/// What may be done with imports.
#[derive(Subcommand)]
pub enum ImportCommand {
    /// Import an object, or all under a prefix, into a stream.
    Start(Start),
    /// List imports, the newest first.
    List {
        /// Those into this stream, by its name or id.
        #[arg(long)]
        stream: Option<String>,
        /// Those that stand so: pending, running, completed, failed or cancelled.
        #[arg(long)]
        status: Option<String>,
        /// At most so many.
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: usize,
    },
    /// Show an import, how far it came, and its first bad rows.
    Get {
        /// Its id, job_….
        job: String,
    },
    /// Wait for the end of an import.
    Wait {
        /// Its id, job_….
        job: String,
    },
    /// Call an import off; what was taken stays.
    Cancel {
        /// Its id, job_….
        job: String,
    },
}

/// An import to start.
#[derive(Args)]
pub struct Start {
    /// The stream's name or id.
    stream: String,
    /// file:///path or s3://bucket/key as the server sees it, under one of its import.roots (TTDUST_IMPORT_ROOTS, without which
    /// imports are off); with a slash at its end: all objects under it.
    source: String,
    /// json_lines, csv or parquet; default: what the source's name says.
    #[arg(long)]
    format: Option<String>,
    /// How the objects are to be read, such as delimiter=;, compression=gzip or max_failed=100; may be given again.
    #[arg(long = "option", value_name = "NAME=VALUE", value_parser = label)]
    options: Vec<(String, String)>,
    /// Wait for its end.
    #[arg(long)]
    wait: bool,
}

const LIST: &[Column] = &[
    column("ID", "/id"),
    column("STATUS", "/status"),
    column("SOURCE", "/source_uri"),
    column("RECORDS", "/records_succeeded"),
    column("BAD ROWS", "/records_failed"),
    column_of("CREATED", "/created_at", time),
];

const WHOLE: &[Column] = &[
    column("ID", "/id"),
    column("STATUS", "/status"),
    column("STREAM", "/stream_id"),
    column("SOURCE", "/source_uri"),
    column("FORMAT", "/format"),
    column("OPTIONS", "/options"),
    column("OBJECTS DONE", "/objects_done"),
    column("OBJECTS", "/objects_total"),
    column("ROWS READ", "/records_processed"),
    column("RECORDS", "/records_succeeded"),
    column("BAD ROWS", "/records_failed"),
    column("REASON", "/reason"),
    column("WAITS FOR", "/waits_for"),
    column_of("CREATED", "/created_at", time),
    column_of("ENDED", "/completed_at", time),
];

/// How an import stands.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Job {
    id: String,
    status: String,
    records_processed: u64,
    records_failed: u64,
    objects_done: u64,
    objects_total: u64,
    errors: Vec<Fault>,
    reason: Option<String>,
    waits_for: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Fault {
    object: String,
    line_number: u64,
    message: String,
    field: String,
}

/// Does what `command` says.
pub(super) async fn run(command: ImportCommand, session: &mut Session) -> Outcome {
    let Session { api, output } = session;
    match command {
        ImportCommand::Start(start) => {
            let source = source(&start.source)?;
            let format = match start.format {
                Some(format) => format,
                None => format_of(&source)?.to_owned(),
            };
            let options: Map<_, _> = start.options.into_iter().map(|(name, value)| (name, value.into())).collect();
            let body = json!({"stream_id": start.stream, "source_uri": source, "format": format, "options": options});
            let answer = api.post(JOBS, &[], &body).await?;
            if !start.wait {
                return show(&answer, session);
            }
            let job: Job = answer.parse()?;
            wait(&job.id, session).await
        }
        ImportCommand::List { stream, status, limit } => {
            let filters = [("stream_id", stream), ("status", status), ("kind", Some("import".to_owned()))];
            let query: Vec<_> = filters.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
            output.list(&api.list(JOBS, &query, "jobs", limit).await?, LIST)
        }
        ImportCommand::Get { job } => {
            let answer = api.get(&path_of(&job), &[]).await?;
            show(&answer, session)
        }
        ImportCommand::Wait { job } => wait(&job, session).await,
        ImportCommand::Cancel { job } => {
            let path = format!("{}/cancel", path_of(&job));
            let answer = api.post(&path, &[], &Value::Object(Map::new())).await?;
            show(&answer, session)
        }
    }
}

fn path_of(job: &str) -> String {
    format!("{JOBS}/{}", segment(job))
}

/// Where the objects are, as the server takes it.
fn source(text: &str) -> Result<String, Failure> {
    if text.contains("://") {
        return Ok(text.to_owned());
    }
    if text.starts_with('/') {
        return Ok(format!("file://{text}"));
    }
    Err(Failure::usage(format!(
        "{text:?} is no source of an import, which the server reads by itself: give file:///path as the server has it, or \
         s3://bucket/key; `ttdust produce` sends files of this machine"
    )))
}

/// The format that a name tells of.
fn format_of(source: &str) -> Result<&'static str, Failure> {
    let name = source.trim_end_matches(".gz").trim_end_matches(".zst").trim_end_matches(".zstd");
    let formats =
        [("json_lines", &[".jsonl", ".ndjson", ".json"][..]), ("csv", &[".csv", ".tsv"]), ("parquet", &[".parquet"])];
    let known = formats.into_iter().find(|(_, endings)| endings.iter().any(|ending| name.ends_with(ending)));
    let unknown =
        || Failure::usage("the source's name does not tell its format: give --format json_lines, csv or parquet");
    known.map(|(format, _)| format).ok_or_else(unknown)
}

fn show(answer: &Answer, session: &mut Session) -> Outcome {
    let output = &mut session.output;
    output.object(answer.text()?, WHOLE)?;
    if output.form == Form::Table {
        let job: Job = answer.parse()?;
        for Fault { object, line_number, message, field } in job.errors.iter().take(10) {
            let at = if field.is_empty() { String::new() } else { format!(" {}", plain(field)) };
            output.line(format!("bad row\t{}, line {line_number}{at}: {}", plain(object), plain(message)))?;
        }
    }
    output.flush()
}

/// Waits for the end of an import, and tells of it. One that failed, or has bad rows, is told by the status.
async fn wait(id: &str, session: &mut Session) -> Outcome {
    let is_shown = io::stderr().is_terminal();
    loop {
        let answer = session.api.get(&path_of(id), &[]).await?;
        let job: Job = answer.parse()?;
        match job.status.as_str() {
            "pending" | "running" => {
                if is_shown {
                    let _ = write!(io::stderr(), "\r\u{1b}[K{}", line(&job));
                }
                tokio::time::sleep(POLL).await;
            }
            status => {
                if is_shown {
                    let _ = write!(io::stderr(), "\r\u{1b}[K");
                }
                show(&answer, session)?;
                if status != "completed" {
                    let reason = job.reason.map_or_else(|| status.to_owned(), |reason| format!("{status}: {reason}"));
                    note(&format!("ttdust: the import {reason}"));
                    return Err(Failure::Partly);
                }
                return if job.records_failed > 0 { Err(Failure::Partly) } else { Ok(()) };
            }
        }
    }
}

fn line(job: &Job) -> String {
    let done = format!("{} of {} objects", job.objects_done, job.objects_total);
    let waits = job.waits_for.as_ref().map_or_else(String::new, |what| format!("  waiting: {}", plain(what)));
    format!("{}  {done}  {} rows{waits}", plain(&job.status), count(job.records_processed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_the_server_s_and_its_name_tells_the_format() {
        assert_eq!(source("/data/a.csv").expect("absolute"), "file:///data/a.csv");
        assert_eq!(source("s3://b/k/").expect("a URI"), "s3://b/k/");
        assert!(source("a.csv").is_err_and(|failure| failure.told().contains("ttdust produce")));
        for (name, format) in [
            ("s3://b/a.jsonl.gz", "json_lines"),
            ("file:///a.ndjson.zst", "json_lines"),
            ("x.tsv", "csv"),
            ("x.parquet", "parquet"),
        ] {
            assert_eq!(format_of(name).expect("known"), format);
        }
        assert!(format_of("s3://b/prefix/").is_err_and(|failure| failure.told().contains("--format")));
    }
}
