//! `ttdust dlq`: what a stream did not take, and how to put it back.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};

use super::{
    api::Api,
    failure::{Failure, Outcome},
    output::{Column, column, column_of, note},
    pipelines,
    records::PAGE_MAX,
    session::Session,
    streams::path_of,
    text::{count, parse_moment, plain, time},
};

/// Between two looks at a replay.
const POLL: Duration = Duration::from_millis(200);

/// What may be done with dead letters.
#[derive(Subcommand)]
pub enum DlqCommand {
    /// List a stream's dead letters, the newest first. REASON is the code that `replay --reason` takes; steps are counted from 0.
    List {
        /// The name or id of the stream that did not take them.
        stream: String,
        /// Those that came at or after this time: RFC 3339, or how long ago, such as 2h.
        #[arg(long, value_name = "TIME", value_parser = parse_moment, allow_hyphen_values = true)]
        start: Option<i64>,
        /// Those that came before this time.
        #[arg(long, value_name = "TIME", value_parser = parse_moment, allow_hyphen_values = true)]
        end: Option<i64>,
        /// At most so many, up to 10,000.
        #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=PAGE_MAX))]
        limit: u64,
    },
    /// Put dead letters back into their stream, through its schema and pipeline as they are now, and wait for the end.
    Replay(Replay),
}

/// Dead letters to put back.
#[derive(Args)]
pub struct Replay {
    /// The name or id of the stream that did not take them.
    stream: String,
    /// Those with this reason, a code such as NOT_AN_INTEGER, as `list` shows it.
    #[arg(long, value_name = "CODE")]
    reason: Option<String>,
    /// Those with a fault in this field, a JSON Pointer, or in what is in it.
    #[arg(long, value_name = "POINTER")]
    field: Option<String>,
    /// Those that came at or after this time: RFC 3339, or how long ago, such as 2h.
    #[arg(long, value_name = "TIME", value_parser = parse_moment, allow_hyphen_values = true)]
    start: Option<i64>,
    /// Those that came before this time.
    #[arg(long, value_name = "TIME", value_parser = parse_moment, allow_hyphen_values = true)]
    end: Option<i64>,
    /// Put nothing back, only count.
    #[arg(long)]
    dry_run: bool,
}

const LETTERS: &[Column] = &[
    column("SEQUENCE", "/sequence_number"),
    column_of("AT", "/ingested_at", time),
    column("REASON", "/payload/reason"),
    column("STEP (FROM 0)", "/payload/step"),
    column("MESSAGE", "/payload/message"),
    column("RECORD", "/payload/payload"),
];

const REPLAY: &[Column] = &[
    column("ID", "/id"),
    column("STATUS", "/status"),
    column("DRY RUN", "/dry_run"),
    column("READ", "/scanned"),
    column("ASKED FOR", "/matched"),
    column("PUT BACK", "/replayed"),
    column("PUT BACK BEFORE", "/duplicates"),
    column("STILL NOT BY THE SCHEMA", "/rejected"),
    column("STILL NOT BY THE PIPELINE", "/failing"),
    column("ERROR", "/error"),
];

/// How a replay stands.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Job {
    id: String,
    status: String,
    scanned: u64,
    matched: u64,
    replayed: u64,
    rejected: u64,
    failing: u64,
    error: Option<String>,
}

/// Does what `command` says.
pub(super) async fn run(command: DlqCommand, session: &mut Session) -> Outcome {
    match command {
        DlqCommand::List { stream, start, end, limit } => {
            let Session { api, output } = session;
            let mut query = vec![("order", "desc".to_owned()), ("limit", limit.to_string())];
            query.extend(start.map(|micros| ("start", micros.to_string())));
            query.extend(end.map(|micros| ("end", micros.to_string())));
            let whole: Map<String, Value> = api.get(&path_of(&stream), &[]).await?.parse()?;
            let letters = path_of(letters_of(&whole, &stream)?);
            let answer = api.get(&format!("{letters}/records"), &query).await?;
            let mut page: BTreeMap<String, Box<RawValue>> = answer.parse()?;
            let found = page.remove("records").map(|records| serde_json::from_str::<Vec<Box<RawValue>>>(records.get()));
            let found = found.and_then(Result::ok).unwrap_or_default();
            output.list(&found, LETTERS)?;
            if found.is_empty() {
                tell_what_may_come(api, &whole, &stream).await;
            }
            Ok(())
        }
        DlqCommand::Replay(asked) => replay(&asked, session).await,
    }
}

/// The id of the stream with the dead letters of the stream `whole`, as the server has it, that the user calls `stream`.
fn letters_of<'a>(whole: &'a Map<String, Value>, stream: &str) -> Result<&'a str, Failure> {
    whole.get("dlq_stream_id").and_then(Value::as_str).ok_or_else(|| {
        let remedy = format!("`ttdust stream change {} --dlq-days 7` keeps them from now on", plain(stream));
        Failure::not_found(format!("the stream {} keeps no dead letters", plain(stream)), &remedy)
    })
}

/// Says so where records are still to become letters: a pipeline's come with the flush of its stream.
async fn tell_what_may_come(api: &Api, whole: &Map<String, Value>, stream: &str) {
    let buffered = whole.get("statistics").and_then(|statistics| statistics["buffered_records"].as_u64()).unwrap_or(0);
    let id = whole.get("id").and_then(Value::as_str).unwrap_or_default();
    if buffered > 0 && pipelines::makes_letters(api, id).await {
        let stream = plain(stream);
        note(&format!(
            "the pipeline of {stream} makes its letters when records are flushed, and {} are not yet: `ttdust stream flush \
             {stream}` does it now",
            count(buffered)
        ));
    }
}

impl Replay {
    fn body(&self) -> Value {
        let micros = |time: Option<i64>| time.map(|micros| micros.to_string());
        let given = [
            ("reason", self.reason.clone()),
            ("field", self.field.clone()),
            ("start", micros(self.start)),
            ("end", micros(self.end)),
        ];
        let mut body: Map<_, _> =
            given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.into()))).collect();
        body.insert("dry_run".into(), self.dry_run.into());
        body.into()
    }
}

/// Begins a replay and waits for its end. One that failed, or left letters where they were, is told by the status.
async fn replay(asked: &Replay, session: &mut Session) -> Outcome {
    let Session { api, output } = session;
    let path = format!("{}/dlq/replay", path_of(&asked.stream));
    let is_shown = io::stderr().is_terminal();
    let mut answer = api.post(&path, &[], &asked.body()).await?;
    let mut job: Job = answer.parse()?;
    while ["pending", "running"].contains(&job.status.as_str()) {
        if is_shown {
            let _ = write!(io::stderr(), "\r\u{1b}[K{} read, {} put back", count(job.scanned), count(job.replayed));
        }
        tokio::time::sleep(POLL).await;
        answer = api.get(&path, &[("job_id", job.id.clone())]).await?;
        job = answer.parse()?;
    }
    if is_shown {
        let _ = write!(io::stderr(), "\r\u{1b}[K");
    }
    output.object(answer.text()?, REPLAY)?;
    if job.status != "completed" {
        note(&format!("ttdust: the replay {}: {}", job.status, job.error.unwrap_or_default()));
        return Err(Failure::Partly);
    }
    if job.matched == 0 {
        note(&format!("0 letters match, of {} that were read", count(job.scanned)));
    }
    if job.rejected + job.failing > 0 { Err(Failure::Partly) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_replay_asks_for_what_was_given() {
        let mut asked = Replay {
            stream: "s".into(),
            reason: Some("R".into()),
            field: None,
            start: Some(5),
            end: None,
            dry_run: true,
        };
        assert_eq!(asked.body(), json!({"reason": "R", "start": "5", "dry_run": true}));
        (asked.reason, asked.start, asked.dry_run) = (None, None, false);
        assert_eq!(asked.body(), json!({"dry_run": false}));
    }
}
