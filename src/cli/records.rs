//! `ttdust query` and `ttdust lookup`.

use clap::{Args, ValueEnum};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    failure::{Failure, Outcome},
    output::{Form, Output, note},
    session::Session,
    streams::path_of,
    text::{parse_moment, plain},
};

/// The most records that a server answers with at once.
pub(super) const PAGE_MAX: u64 = 10_000;

/// Records to read.
#[derive(Args)]
pub struct Query {
    /// The stream's name or id.
    stream: String,
    /// Records whose time is this one or a later one: RFC 3339, Unix microseconds, or how long ago, such as 15m.
    #[arg(long, value_name = "TIME", value_parser = parse_moment, allow_hyphen_values = true)]
    start: Option<i64>,
    /// Records whose time is before this one.
    #[arg(long, value_name = "TIME", value_parser = parse_moment, allow_hyphen_values = true)]
    end: Option<i64>,
    /// Which time: when a record was ingested, or when its event was, where the stream's pipeline tells.
    #[arg(long, value_enum, default_value_t = Time::Ingest)]
    time: Time,
    /// At most so many.
    #[arg(long, value_name = "N", default_value_t = 100, conflicts_with = "all")]
    limit: u64,
    /// All that there are.
    #[arg(long)]
    all: bool,
    /// Oldest or newest first.
    #[arg(long, value_enum, default_value_t = Order::Asc)]
    order: Order,
    /// Print the records alone, as they were sent, one a line.
    #[arg(long)]
    payload: bool,
}

/// A key to look up.
#[derive(Args)]
pub struct Lookup {
    /// The stream's name or id.
    stream: String,
    /// One of the stream's key fields, as it was declared, or _record_id.
    field: String,
    /// The key: a text, an integer, true or false.
    #[arg(allow_hyphen_values = true)]
    value: String,
    /// Print the record alone, as it was sent.
    #[arg(long)]
    payload: bool,
}

/// Which records come first.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Order {
    /// Oldest first.
    Asc,
    /// Newest first.
    Desc,
}

/// A record's times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Time {
    /// When it was ingested.
    Ingest,
    /// When its event was.
    Event,
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    records: Vec<&'a RawValue>,
    next_cursor: Option<String>,
}

#[derive(Deserialize)]
struct Found<'a> {
    #[serde(borrow)]
    record: Option<&'a RawValue>,
}

/// A record of an answer; its payload is as it was sent, byte for byte.
#[derive(Deserialize)]
pub(super) struct Record<'a> {
    pub(super) sequence_number: i64,
    ingested_at: &'a str,
    #[serde(borrow)]
    payload: &'a RawValue,
}

/// How records are printed.
#[derive(Clone, Copy)]
pub(super) struct Manner {
    /// The payload alone.
    pub(super) payload: bool,
}

impl Manner {
    /// Prints the line of titles, where there is one.
    pub(super) fn head(self, output: &mut Output) -> Outcome {
        if self.payload || output.form == Form::Json {
            return Ok(());
        }
        output.row(&[format!("{:>12}", "SEQUENCE"), format!("{:27}", "INGESTED AT"), "PAYLOAD".to_owned()].map(
            |title| {
                if output.is_terminal() { title } else { title.trim().to_owned() }
            },
        ))
    }

    /// Prints a record as the server wrote it.
    pub(super) fn record(self, text: &str, output: &mut Output) -> Outcome {
        if !self.payload && output.form == Form::Json {
            return output.json(text);
        }
        let record: Record<'_> = serde_json::from_str(text).map_err(|error| unreadable(&error))?;
        if self.payload {
            return output.json(record.payload.get());
        }
        let sequence = record.sequence_number.to_string();
        let sequence = if output.is_terminal() { format!("{sequence:>12}") } else { sequence };
        output.row(&[sequence, plain(record.ingested_at), plain(record.payload.get())])
    }
}

pub(super) fn unreadable(error: &serde_json::Error) -> Failure {
    Failure::Unreachable {
        what: format!("a record of the answer cannot be read: {error}"),
        remedy: "is the server of a version near to this program's?".to_owned(),
    }
}

/// Prints records of a time range, page by page.
pub(super) async fn query(query: Query, session: &mut Session) -> Outcome {
    let Session { api, output } = session;
    let manner = Manner { payload: query.payload };
    let path = format!("{}/records", path_of(&query.stream));
    let order = if matches!(query.order, Order::Desc) { "desc" } else { "asc" };
    let mut left = if query.all { u64::MAX } else { query.limit };
    let mut cursor: Option<String> = None;
    let mut is_begun = false;
    // A page may be empty and have others after it: where a search is long, each goes on where the one before had come to.
    while left > 0 {
        let mut asked = vec![("limit", left.min(PAGE_MAX).to_string()), ("order", order.to_owned())];
        asked.extend(query.start.map(|micros| ("start", micros.to_string())));
        asked.extend(query.end.map(|micros| ("end", micros.to_string())));
        if query.time == Time::Event {
            asked.push(("time_field", "event".to_owned()));
        }
        asked.extend(cursor.take().map(|cursor| ("cursor", cursor)));
        let answer = api.get(&path, &asked).await?;
        let page: Page<'_> = serde_json::from_str(answer.text()?).map_err(|error| unreadable(&error))?;
        if !std::mem::replace(&mut is_begun, true) {
            manner.head(output)?;
        }
        page.records.iter().try_for_each(|record| manner.record(record.get(), output))?;
        output.flush()?;
        left = left.saturating_sub(page.records.len() as u64);
        cursor = page.next_cursor;
        if cursor.is_none() {
            return Ok(());
        }
    }
    if cursor.is_some() && output.is_terminal() {
        note("there are more: give --limit N or --all");
    }
    Ok(())
}

/// Prints the latest record with a key.
pub(super) async fn lookup(lookup: Lookup, session: &mut Session) -> Outcome {
    let Session { api, output } = session;
    let manner = Manner { payload: lookup.payload };
    let path = format!("{}/records", path_of(&lookup.stream));
    let asked = [("key_field", lookup.field.clone()), ("key_value", lookup.value.clone())];
    let answer = api.get(&path, &asked).await?;
    let found: Found<'_> = serde_json::from_str(answer.text()?).map_err(|error| unreadable(&error))?;
    let Some(record) = found.record else {
        let what = format!("no record of {} has {} {:?}", lookup.stream, lookup.field, lookup.value);
        return Err(Failure::not_found(what, "a key is its text, its decimal digits, true or false"));
    };
    manner.head(output)?;
    manner.record(record.get(), output)?;
    output.flush()
}
