//! `/api/v1/streams/{id}/records`: reading.

use std::collections::BTreeMap;

use axum::{extract::State, http::StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use ttdust_shards::{
    access::Action,
    ids::{RecordId, StreamId},
    query::{LIMIT_MAX, RecordRow, TimeRangeAnswer, TimeRangeQuery, encode_cursor},
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
    query::{after_cursor, limit},
};

pub(super) fn routes() -> Vec<Route> {
    let path = "/api/v1/streams/{id}/records";
    vec![
        Route::get(path, "listRecords", "Read records in the order of their times of ingestion", get)
            .fails(&[StatusCode::CONFLICT, StatusCode::NOT_IMPLEMENTED]),
    ]
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ReadRecords {
    /// Records ingested at or after this time: RFC 3339, or Unix microseconds.
    start: Option<String>,
    /// Records ingested before this time, which is after `start`.
    end: Option<String>,
    /// At most this many records; 1000 where it is missing.
    #[schemars(with = "Option<u32>", range(min = 1, max = LIMIT_MAX))]
    limit: Option<String>,
    /// The next_cursor of the answer before.
    cursor: Option<String>,
    /// Look up a key in this field. This version answers 501.
    key_field: Option<String>,
    /// The key to look up. This version answers 501.
    key_value: Option<String>,
}

/// The form of the answer, which [`body`] writes as text.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Records {
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
}

async fn get(
    State(app): State<Shared>,
    Caller(caller): Caller,
    Id(id): Id,
    Parameters(asked): Parameters<ReadRecords>,
) -> Result<Written<Records>, Problem> {
    caller.require(Action::ReadRecords)?;
    let stream = app.control.resolve_stream(&caller, &id)?.id;
    if asked.key_field.is_some() || asked.key_value.is_some() {
        return Err(Problem::not_available("key lookup is not available in this version: read by start and end"));
    }
    let query = time_range(stream, &asked)?;
    let start = std::time::Instant::now();
    let answer = app.control.records(query).await?;
    let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
    Ok(Written::new(body(stream, &answer, micros)))
}

fn time_range(stream: StreamId, asked: &ReadRecords) -> Result<TimeRangeQuery, Problem> {
    let bound = |parameter: &'static str, text: Option<&String>, default: i64| match text {
        None => Ok(default),
        Some(text) => parse_time(text).map_err(no_time(parameter)),
    };
    let start_unix_micros = bound("start", asked.start.as_ref(), 0)?;
    let end_unix_micros = bound("end", asked.end.as_ref(), i64::MAX)?;
    if start_unix_micros >= end_unix_micros {
        return Err(Problem::invalid("end", "end must be after start"));
    }
    Ok(TimeRangeQuery {
        stream,
        start_unix_micros,
        end_unix_micros,
        limit: limit(asked.limit.as_deref())?,
        after_sequence: after_cursor(asked.cursor.as_deref())?,
    })
}

/// The answer as JSON. Payloads go in byte for byte: they are JSON already, and reading them again could change a number.
fn body(stream: StreamId, answer: &TimeRangeAnswer, micros: u64) -> Vec<u8> {
    let payloads: usize = answer.records.iter().map(|record| record.payload.len()).sum();
    let mut text = Vec::with_capacity(payloads + 256 * answer.records.len() + 256);
    text.extend_from_slice(b"{\"records\":[");
    for (at, record) in answer.records.iter().enumerate() {
        if at > 0 {
            text.push(b',');
        }
        record_json(&mut text, stream, record);
    }
    let next =
        answer.next_after.map_or_else(|| "null".to_owned(), |sequence| format!("\"{}\"", encode_cursor(sequence)));
    text.extend_from_slice(
        format!(
            "],\"next_cursor\":{next},\"metadata\":{{\"total_records_scanned\":{},\"partitions_scanned\":{},\
             \"cache_hits\":0,\"execution_time_micros\":{micros}}}}}",
            answer.rows_scanned, answer.partitions_scanned
        )
        .as_bytes(),
    );
    text
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

fn quoted(text: &mut Vec<u8>, value: &str) {
    serde_json::to_writer(text, value).expect("a text always serialises, and a Vec takes it");
}

#[cfg(test)]
mod tests {
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
        let answer = TimeRangeAnswer {
            records: vec![record, second],
            next_after: Some(8),
            rows_scanned: 9,
            partitions_scanned: 2,
        };
        let text = String::from_utf8(body(stream, &answer, 5)).expect("UTF-8");
        assert!(text.contains(&format!("\"payload\":{payload},")), "{text}");
        let _of_the_form: Records = serde_json::from_str(&text).expect("what the document says");
        let parsed: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(parsed["records"][0]["metadata"]["a\"b"], "x\n");
        assert_eq!(parsed["records"][1]["record_id"], RecordId::of(stream, 8).to_string());
        assert_eq!(parsed["next_cursor"], encode_cursor(8));
        assert_eq!(parsed["metadata"]["total_records_scanned"], 9);
        let empty = String::from_utf8(body(stream, &TimeRangeAnswer::default(), 0)).expect("UTF-8");
        assert!(serde_json::from_str::<serde_json::Value>(&empty).expect("JSON")["next_cursor"].is_null());
    }

    #[test]
    fn times_limits_and_cursors_are_checked() {
        let asked = |start: &str, end: &str| ReadRecords {
            start: Some(start.into()),
            end: Some(end.into()),
            limit: None,
            cursor: None,
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
    }
}
