//! `ttdust stream`.

use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::{
    api::segment,
    failure::{Failure, Outcome},
    output::{Column, column, column_of, note},
    schemas::id_of,
    session::{Session, confirm},
    text::{bytes, parse_size, rate, retention, time},
};

const STREAMS: &str = "/api/v1/streams";
/// Between two looks at a stream that is being deleted.
const POLL: Duration = Duration::from_millis(200);
const DELETE_TIMEOUT: Duration = Duration::from_secs(120);

/// What may be done with streams.
#[derive(Subcommand)]
pub enum StreamCommand {
    /// Create a stream.
    Create(Create),
    /// List streams, in the order of their creation.
    List {
        /// Those that stand so: creating, active, paused, deleting or deleted; default: all but deleted.
        #[arg(long)]
        status: Option<String>,
        /// Those whose names begin so.
        #[arg(long, value_name = "TEXT")]
        prefix: Option<String>,
        /// Those with this label: NAME or NAME=VALUE.
        #[arg(long)]
        label: Option<String>,
        /// At most so many.
        #[arg(long, value_name = "N", default_value_t = usize::MAX, hide_default_value = true)]
        limit: usize,
    },
    /// Show a stream and how it stands.
    Get {
        /// Its name or id.
        stream: String,
    },
    /// Change what is given of a stream.
    Change(Change),
    /// Take no more records, until it is resumed.
    Pause {
        /// Its name or id.
        stream: String,
    },
    /// Take records again.
    Resume {
        /// Its name or id.
        stream: String,
    },
    /// Write a stream's records to files now, and wait until they are there: dead letters that its pipeline makes come then.
    Flush {
        /// Its name or id.
        stream: String,
    },
    /// Delete a stream and all its records.
    Delete {
        /// Its name or id.
        stream: String,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
        /// Wait until nothing of it is left.
        #[arg(long)]
        wait: bool,
    },
}

/// A stream to create.
#[derive(Args)]
pub struct Create {
    /// Its name.
    name: String,
    /// The schema of its records: its id, NAME or NAMESPACE/NAME.
    #[arg(long)]
    schema: String,
    /// For people.
    #[arg(long, default_value = "", hide_default_value = true)]
    description: String,
    /// A field that records can be looked up by: the name of a member, or a JSON Pointer; may be given again.
    #[arg(long = "key-field", value_name = "FIELD")]
    key_fields: Vec<String>,
    #[command(flatten)]
    retention: RetentionArgs,
    /// Keep what is not taken for so many days, in the stream NAME.dlq; default: it is not kept.
    #[arg(long, value_name = "DAYS")]
    dlq_days: Option<u32>,
    /// A label; may be given again.
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
}

/// A stream to change.
#[derive(Args)]
pub struct Change {
    /// Its name or id.
    stream: String,
    /// For people.
    #[arg(long)]
    description: Option<String>,
    #[command(flatten)]
    retention: RetentionArgs,
    /// Keep records for ever.
    #[arg(long, conflicts_with = "retention")]
    keep_forever: bool,
    /// Keep what is not taken for so many days, in the stream NAME.dlq.
    #[arg(long, value_name = "DAYS")]
    dlq_days: Option<u32>,
    /// A label; may be given again. Those that are given take the place of all that there were.
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
}

#[derive(Args)]
#[group(id = "retention", multiple = false)]
struct RetentionArgs {
    /// Keep records for so many days; default: for ever.
    #[arg(long, value_name = "DAYS")]
    retention_days: Option<u32>,
    /// Keep the newest records, in so many bytes, such as 10GiB.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    retention_bytes: Option<u64>,
}

impl RetentionArgs {
    fn policy(&self) -> Option<Value> {
        let days = self.retention_days.map(|days| json!({"type": "time", "retention_days": days}));
        days.or_else(|| self.retention_bytes.map(|bytes| json!({"type": "size", "max_bytes": bytes})))
    }
}

pub(super) fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("want NAME=VALUE, such as team=web")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn labels(given: Vec<(String, String)>) -> Value {
    given.into_iter().map(|(name, value)| (name, Value::String(value))).collect::<Map<_, _>>().into()
}

const LIST: &[Column] = &[
    column("NAME", "/name"),
    column("ID", "/id"),
    column("STATUS", "/status"),
    column_of("KEPT", "/retention_policy", retention),
    column("KEY FIELDS", "/key_fields"),
    column_of("UPDATED", "/updated_at", time),
];

const WHOLE: &[Column] = &[
    column("ID", "/id"),
    column("NAME", "/name"),
    column("DESCRIPTION", "/description"),
    column("STATUS", "/status"),
    column("SCHEMA", "/schema_id"),
    column("KEY FIELDS", "/key_fields"),
    column("LABELS", "/labels"),
    column("DEAD LETTERS", "/dlq_stream_id"),
    column_of("KEPT", "/retention_policy", retention),
    column_of("CREATED", "/created_at", time),
    column_of("UPDATED", "/updated_at", time),
];

const STATISTICS: &[Column] = &[
    column("LAST SEQUENCE", "/statistics/last_sequence"),
    column_of("RECORDS/S", "/statistics/records_per_second", rate),
    column_of("BYTES/S", "/statistics/bytes_per_second", rate),
    column("BUFFERED RECORDS", "/statistics/buffered_records"),
    column_of("BUFFERED BYTES", "/statistics/buffered_bytes", bytes),
    column("FLUSHED THROUGH", "/statistics/flushed_through"),
    column("FILES", "/statistics/files"),
    column("FILE RECORDS", "/statistics/file_records"),
    column_of("FILE BYTES", "/statistics/file_bytes", bytes),
    column("SHARD", "/statistics/shard"),
];

const FLUSHED: &[Column] = &[column("STREAM", "/stream_id"), column("FLUSHED THROUGH", "/flushed_through")];

/// Does what `command` says.
pub(super) async fn run(command: StreamCommand, session: &mut Session) -> Outcome {
    let Session { api, output } = session;
    match command {
        StreamCommand::Create(new) => {
            let mut body = json!({
                "name": new.name,
                "description": new.description,
                "schema_id": id_of(api, &new.schema).await?,
                "retention_policy": new.retention.policy(),
                "key_fields": new.key_fields,
                "labels": labels(new.labels),
            });
            if let Some(days) = new.dlq_days {
                body["dlq"] = json!({"retention_days": days});
            }
            output.object(api.post(STREAMS, &[], &body).await?.text()?, WHOLE)
        }
        StreamCommand::List { status, prefix, label, limit } => {
            let filters = [("status", status), ("name_prefix", prefix), ("label", label)];
            let query: Vec<_> = filters.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
            output.list(&api.list(STREAMS, &query, "streams", limit).await?, LIST)
        }
        StreamCommand::Get { stream } => {
            let columns = WHOLE.iter().chain(STATISTICS).copied().collect::<Vec<_>>();
            output.object(api.get(&path_of(&stream), &[]).await?.text()?, &columns)
        }
        StreamCommand::Change(change) => {
            let body = change.body()?;
            output.object(api.patch(&path_of(&change.stream), &body).await?.text()?, WHOLE)
        }
        StreamCommand::Pause { stream } => {
            output.object(api.patch(&path_of(&stream), &json!({"status": "paused"})).await?.text()?, WHOLE)
        }
        StreamCommand::Resume { stream } => {
            output.object(api.patch(&path_of(&stream), &json!({"status": "active"})).await?.text()?, WHOLE)
        }
        StreamCommand::Flush { stream } => {
            let path = format!("{}/flush", path_of(&stream));
            output.object(api.post(&path, &[], &json!({})).await?.text()?, FLUSHED)
        }
        StreamCommand::Delete { stream, yes, wait } => delete(&stream, yes, wait, session).await,
    }
}

/// The path of the stream that goes by this name or id.
pub(super) fn path_of(stream: &str) -> String {
    format!("{STREAMS}/{}", segment(stream))
}

impl Change {
    fn body(&self) -> Result<Value, Failure> {
        let mut body = Map::new();
        if let Some(description) = &self.description {
            body.insert("description".into(), description.as_str().into());
        }
        if let Some(policy) = self.retention.policy() {
            body.insert("retention_policy".into(), policy);
        }
        if self.keep_forever {
            body.insert("retention_policy".into(), Value::Null);
        }
        if let Some(days) = self.dlq_days {
            body.insert("dlq".into(), json!({"retention_days": days}));
        }
        if !self.labels.is_empty() {
            body.insert("labels".into(), labels(self.labels.clone()));
        }
        if body.is_empty() {
            let what = "nothing to change: give --description, --retention-days, --retention-bytes, --keep-forever, \
                        --dlq-days or --label";
            return Err(Failure::usage(what));
        }
        Ok(body.into())
    }
}

async fn delete(stream: &str, yes: bool, wait: bool, session: &mut Session) -> Outcome {
    let Session { api, output } = session;
    confirm(&format!("Delete the stream {stream} and all its records, for good?"), yes)?;
    let answer = api.delete(&path_of(stream)).await?;
    output.object(answer.text()?, WHOLE)?;
    if !wait {
        return Ok(());
    }
    let whole: Map<String, Value> = answer.parse()?;
    // By its id: another may take its name at once.
    let path = path_of(whole.get("id").and_then(Value::as_str).unwrap_or(stream));
    let end = Instant::now() + DELETE_TIMEOUT;
    while Instant::now() < end {
        match api.get(&path, &[]).await {
            Err(Failure::Refused(problem)) if problem.status == 404 => {
                note("nothing of it is left");
                return Ok(());
            }
            Err(failure) => return Err(failure),
            Ok(_) => tokio::time::sleep(POLL).await,
        }
    }
    Err(Failure::later(
        format!("the stream is still being deleted after {} s", DELETE_TIMEOUT.as_secs()),
        "the server goes on with it; `ttdust stream list --status deleting` shows when it is done",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_holds_what_was_given() {
        let none = || RetentionArgs { retention_days: None, retention_bytes: None };
        let change = |retention, keep_forever, labels: Vec<(String, String)>| {
            Change { stream: "s".into(), description: None, retention, keep_forever, dlq_days: None, labels }.body()
        };
        assert!(change(none(), false, vec![]).is_err_and(|failure| failure.told().contains("--keep-forever")));
        assert_eq!(change(none(), true, vec![]).expect("one"), json!({"retention_policy": null}));
        let days = RetentionArgs { retention_days: Some(7), retention_bytes: None };
        let both = change(days, false, vec![("a".into(), "b".into())]).expect("two");
        assert_eq!(both, json!({"retention_policy": {"type": "time", "retention_days": 7}, "labels": {"a": "b"}}));
        assert!(label("x").is_err());
    }
}
