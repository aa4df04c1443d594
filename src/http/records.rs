//! `/api/v1/streams/{id}/records`: reading.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use axum::{extract::State, http::StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use ttdust_shards::{
    access::Action,
    ids::{RecordId, StreamId},
    query::{KeyLookup, LIMIT_MAX, Order, QueryAnswer, RecordRow, TimeField, TimeRangeQuery, encode_cursor},
};

use super::{
    Shared,
    answer::Written,
    extract::{Caller, Id, Parameters},
    operation::Route,
    problem::{Problem, no_time},
};
use crate::{
    calendar::{parse_time, rfc3339},
    query::{after_cursor, limit, order, time_field},
};

pub(super) fn routes() -> Vec<Route> {
    let path = "/api/v1/streams/{id}/records";
    vec![
        Route::get(
            path,
            "listRecords",
            "Read records in the order in which they were ingested, or the latest with a key",
            get,
        )
        .fails(&[StatusCode::CONFLICT, StatusCode::GATEWAY_TIMEOUT]),
    ]
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ReadRecords {
    /// Records whose time is this one or a later one: RFC 3339, or Unix microseconds.
    start: Option<String>,
    /// Records whose time is before this one, which is after `start`.
    end: Option<String>,
    /// Which time of a record `start` and `end` are of: when it was ingested, or when its event was, where the stream's pipeline
    /// tells; ingest where it is missing. Records come in the order of ingestion all the same.
    #[schemars(with = "Option<TimeFieldName>")]
    time_field: Option<String>,
    /// At most this many records; 1000 where it is missing.
    #[schemars(with = "Option<u32>", range(min = 1, max = LIMIT_MAX))]
    limit: Option<String>,
    /// The next_cursor of the answer before, in the same order.
    cursor: Option<String>,
    /// Oldest (asc) or newest (desc) first; asc where it is missing.
    #[schemars(with = "Option<OrderName>")]
    order: Option<String>,
    /// Look up the latest record with a key: one of the stream's key_fields, as it was declared, or _record_id. Goes with
    /// key_value alone.
    key_field: Option<String>,
    /// The key: a string as it is, an integer in decimal digits, true or false.
    key_value: Option<String>,
}

/// What `order` takes.
#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
#[allow(dead_code, reason = "the document is made from it")]
enum OrderName {
    Asc,
    Desc,
}

/// What `time_field` takes.
#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
#[allow(dead_code, reason = "the document is made from it")]
enum TimeFieldName {
    Ingest,
    Event,
}

/// The form of the answer, which [`page_body`] and [`lookup_body`] write as text.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "the document is made from it")]
enum Answer {
    Page(Records),
    Lookup(Lookup),
}

/// The latest record with a key.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Lookup {
    found: bool,
    /// Null: there is none.
    record: Option<Record>,
    metadata: QueryMetadata,
}

/// Records of a time range.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Records {
    /// Fewer than asked for, or none, where they are large or the search is long.
    records: Vec<Record>,
    /// For `cursor`; null: there are no more.
    next_cursor: Option<String>,
    metadata: QueryMetadata,
}

/// A record.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Record {
    #[schemars(regex(pattern = "^rec_"))]
    record_id: String,
    sequence_number: i64,
    #[schemars(extend("format" = "date-time"))]
    ingested_at: String,
    /// As it was sent, byte for byte.
    payload: Value,
    metadata: BTreeMap<String, String>,
}

/// What the query took.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct QueryMetadata {
    total_records_scanned: u64,
    partitions_scanned: u64,
    cache_hits: u64,
    execution_time_micros: u64,
    /// The search ended before the page was full, because its time was over or memory was short: next_cursor goes on with it.
    partial: bool,
}

async fn get(
    State(app): State<Shared>,
    Caller(caller): Caller,
    Id(id): Id,
    Parameters(asked): Parameters<ReadRecords>,
) -> Result<Written<Answer>, Problem> {
    caller.require(Action::ReadRecords)?;
    let stream = app.control.resolve_stream(&caller, &id)?;
    let start = Instant::now();
    if let Some((field, value)) = key(&asked)? {
        let query =
            KeyLookup::plan(&stream, field, value).map_err(|error| Problem::invalid(error.parameter, error.message))?;
        let answer = app.control.lookup(query).await?;
        let text = lookup_body(stream.id, &answer, start.elapsed());
        return Ok(Written::new(text, answer.held));
    }
    let query = time_range(stream.id, &asked)?;
    let order = query.order;
    let answer = app.control.records(query).await?;
    let text = page_body(stream.id, &answer, order, start.elapsed());
    Ok(Written::new(text, answer.held))
}

/// The key to look up, if that is what was asked for.
fn key(asked: &ReadRecords) -> Result<Option<(&str, &str)>, Problem> {
    let (field, value) = match (&asked.key_field, &asked.key_value) {
        (None, None) => return Ok(None),
        (Some(_), None) => return Err(Problem::invalid("key_value", "key_field goes with key_value")),
        (None, Some(_)) => return Err(Problem::invalid("key_field", "key_value goes with key_field")),
        (Some(field), Some(value)) => (field, value),
    };
    let others = [
        ("start", &asked.start),
        ("end", &asked.end),
        ("time_field", &asked.time_field),
        ("limit", &asked.limit),
        ("cursor", &asked.cursor),
        ("order", &asked.order),
    ];
    match others.into_iter().find(|(_, value)| value.is_some()) {
        Some((name, _)) => Err(Problem::invalid(name, format!("a key lookup takes no {name}: it is of all records"))),
        None => Ok(Some((field, value))),
    }
}

fn time_range(stream: StreamId, asked: &ReadRecords) -> Result<TimeRangeQuery, Problem> {
    let bound = |parameter: &'static str, text: Option<&String>, default: i64| match text {
        None => Ok(default),
        Some(text) => parse_time(text).map_err(no_time(parameter)),
    };
    let time_field = time_field(asked.time_field.as_deref())?;
    // Events may well have been before 1970.
    let earliest = if time_field == TimeField::Event { i64::MIN } else { 0 };
    let start_unix_micros = bound("start", asked.start.as_ref(), earliest)?;
    let end_unix_micros = bound("end", asked.end.as_ref(), i64::MAX)?;
    if start_unix_micros >= end_unix_micros {
        return Err(Problem::invalid("end", "end must be after start"));
    }
    let order = order(asked.order.as_deref())?;
    Ok(TimeRangeQuery {
        stream,
        time_field,
        start_unix_micros,
        end_unix_micros,
        limit: limit(asked.limit.as_deref())?,
        order,
        after_sequence: after_cursor(asked.cursor.as_deref(), order)?,
    })
}

/// The answer as JSON. Payloads go in byte for byte: they are JSON already, and reading them again could change a number.
fn page_body(stream: StreamId, answer: &QueryAnswer, order: Order, took: Duration) -> Vec<u8> {
    let payloads: usize = answer.records.iter().map(|record| record.payload.len()).sum();
    let mut text = Vec::with_capacity(payloads + 256 * answer.records.len() + 256);
    text.extend_from_slice(b"{\"records\":[");
    for (at, record) in answer.records.iter().enumerate() {
        if at > 0 {
            text.push(b',');
        }
        record_json(&mut text, stream, record);
    }
    let next = answer.next_after.map(|sequence| format!("\"{}\"", encode_cursor(sequence, order)));
    text.extend_from_slice(format!("],\"next_cursor\":{}", next.as_deref().unwrap_or("null")).as_bytes());
    metadata_json(&mut text, answer, took);
    text
}

/// The answer to a lookup, likewise.
fn lookup_body(stream: StreamId, answer: &QueryAnswer, took: Duration) -> Vec<u8> {
    let mut text = Vec::new();
    match answer.records.first() {
        Some(record) => {
            text.extend_from_slice(b"{\"found\":true,\"record\":");
            record_json(&mut text, stream, record);
        }
        None => text.extend_from_slice(b"{\"found\":false,\"record\":null"),
    }
    metadata_json(&mut text, answer, took);
    text
}

/// The answer's last member and its end.
fn metadata_json(text: &mut Vec<u8>, answer: &QueryAnswer, took: Duration) {
    text.extend_from_slice(
        format!(
            ",\"metadata\":{{\"total_records_scanned\":{},\"partitions_scanned\":{},\"cache_hits\":{},\
             \"execution_time_micros\":{},\"partial\":{}}}}}",
            answer.rows_scanned,
            answer.partitions_scanned,
            answer.cache_hits,
            took.as_micros(),
            answer.is_partial
        )
        .as_bytes(),
    );
}

fn record_json(text: &mut Vec<u8>, stream: StreamId, record: &RecordRow) {
    text.extend_from_slice(
        format!(
            "{{\"record_id\":\"{}\",\"sequence_number\":{},\"ingested_at\":\"{}\",\"payload\":",
            RecordId::of(stream, record.sequence),
            record.sequence,
            rfc3339(record.timestamp_unix_micros)
        )
        .as_bytes(),
    );
    text.extend_from_slice(&record.payload);
    text.extend_from_slice(b",\"metadata\":{");
    for (at, (name, value)) in record.metadata.iter().enumerate() {
        if at > 0 {
            text.push(b',');
        }
        quoted(text, name);
        text.push(b':');
        quoted(text, value);
    }
    text.extend_from_slice(b"}}");
}

/// A text as JSON.
pub(super) fn quoted(text: &mut Vec<u8>, value: &str) {
    serde_json::to_writer(text, value).expect("a text always serialises, and a Vec takes it");
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use ttdust_shards::memory::Held;

    use super::*;

    #[test]
    fn payloads_are_spliced_in_byte_for_byte() {
        let stream = StreamId::generate();
        let payload = "{ \"n\": 1.50,\"big\":123456789012345678901234567890 }";
        let record = RecordRow {
            sequence: 7,
            timestamp_unix_micros: 0,
            payload: payload.into(),
            metadata: vec![("a\"b".into(), "x\n".into()), ("c".into(), String::new())],
        };
        let second = RecordRow { sequence: 8, metadata: vec![], payload: "1".into(), ..record.clone() };
        let answer = QueryAnswer {
            records: vec![record, second],
            next_after: Some(8),
            is_partial: true,
            first_there: 0,
            rows_scanned: 9,
            partitions_scanned: 2,
            files_opened: 1,
            cache_hits: 3,
            cache_misses: 1,
            held: Held::default(),
        };
        let took = Duration::from_micros(5);
        let text = String::from_utf8(page_body(stream, &answer, Order::Descending, took)).expect("UTF-8");
        assert!(text.contains(&format!("\"payload\":{payload},")), "{text}");
        let _of_the_form: Records = serde_json::from_str(&text).expect("what the document says");
        let parsed: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(parsed["records"][0]["metadata"]["a\"b"], "x\n");
        assert_eq!(parsed["records"][1]["record_id"], RecordId::of(stream, 8).to_string());
        assert_eq!(parsed["next_cursor"], encode_cursor(8, Order::Descending));
        assert_eq!(parsed["metadata"]["total_records_scanned"], 9);
        assert_eq!((&parsed["metadata"]["cache_hits"], &parsed["metadata"]["partial"]), (&json!(3), &json!(true)));
        let none = QueryAnswer::default();
        let empty = String::from_utf8(page_body(stream, &none, Order::Ascending, took)).expect("UTF-8");
        assert!(serde_json::from_str::<serde_json::Value>(&empty).expect("JSON")["next_cursor"].is_null());
        for (answer, found) in [(&answer, true), (&none, false)] {
            let text = String::from_utf8(lookup_body(stream, answer, took)).expect("UTF-8");
            let lookup: Lookup = serde_json::from_str(&text).expect("what the document says");
            assert_eq!((lookup.found, lookup.record.is_some()), (found, found), "{text}");
        }
    }

    #[test]
    fn times_limits_and_cursors_are_checked() {
        let asked = |start: &str, end: &str| ReadRecords {
            start: Some(start.into()),
            end: Some(end.into()),
            time_field: None,
            limit: None,
            cursor: None,
            order: None,
            key_field: None,
            key_value: None,
        };
        let stream = StreamId::generate();
        let query = time_range(stream, &asked("1970-01-01T00:00:01Z", "5000000")).expect("valid");
        assert_eq!((query.start_unix_micros, query.end_unix_micros, query.limit), (1_000_000, 5_000_000, 1000));
        assert!(time_range(stream, &asked("5", "5")).is_err());
        assert!(time_range(stream, &asked("yesterday", "5")).is_err());
        assert!(time_range(stream, &ReadRecords { limit: Some("0".into()), ..asked("1", "2") }).is_err());
        assert!(time_range(stream, &ReadRecords { cursor: Some("x".into()), ..asked("1", "2") }).is_err());
        assert!(time_range(stream, &ReadRecords { order: Some("up".into()), ..asked("1", "2") }).is_err());
        let of_events = |asked: ReadRecords| ReadRecords { time_field: Some("event".into()), ..asked };
        let query = time_range(stream, &of_events(asked("-5", "2"))).expect("valid");
        assert_eq!((query.time_field, query.start_unix_micros), (TimeField::Event, -5));
        let from_the_first = ReadRecords { start: None, ..asked("", "2") };
        assert_eq!(time_range(stream, &of_events(from_the_first)).expect("valid").start_unix_micros, i64::MIN);
        assert!(time_range(stream, &ReadRecords { time_field: Some("_event_ts".into()), ..asked("1", "2") }).is_err());
    }

    #[test]
    fn a_lookup_takes_a_field_and_a_value_and_nothing_else() {
        let asked = |field: Option<&str>, value: Option<&str>, limit: Option<&str>| {
            let owned = |text: Option<&str>| text.map(str::to_owned);
            let (key_field, key_value, limit) = (owned(field), owned(value), owned(limit));
            ReadRecords {
                start: None,
                end: None,
                time_field: None,
                cursor: None,
                order: None,
                limit,
                key_field,
                key_value,
            }
        };
        assert!(matches!(key(&asked(None, None, Some("1"))), Ok(None)));
        assert!(matches!(key(&asked(Some("id"), Some(""), None)), Ok(Some(("id", "")))));
        assert!(key(&asked(Some("id"), None, None)).is_err());
        assert!(key(&asked(None, Some("1"), None)).is_err());
        assert!(key(&asked(Some("id"), Some("1"), Some("1"))).is_err());
    }
}
