//! `GET /api/v1/streams/{id}/tail`: a stream as Server-Sent Events, for `curl` and for a browser's `EventSource`.

use std::{convert::Infallible, time::Duration};

use axum::{
    body::Body,
    extract::{FromRequestParts, State},
    http::{HeaderName, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{Stream, stream};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;
use ttdust_shards::{access::Action, status::Status, tail::piece::Piece};

use super::{
    Shared,
    extract::{Caller, Id, Parameters},
    operation::{Answers, Described, Route, Takes},
    problem::{Problem, no_time},
    records::quoted,
};
use crate::{
    calendar::{parse_time, rfc3339},
    tails::{Reader, Start},
};

const LAST_EVENT_ID: &str = "last-event-id";
/// After this time without a record, a comment shows that the connection is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// What a browser waits before it comes again, and the first bytes of every answer.
const GREETING: &[u8] = b"retry: 1000\n\n";

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/api/v1/streams/{id}/tail", "tailRecords", "Follow a stream, as Server-Sent Events", get)
            .fails(&[StatusCode::CONFLICT]),
    ]
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TailRecords {
    /// Begin with this sequence number; 1 is the first, and one that is not there yet is waited for. Without it and start_time,
    /// the tail begins with what is acked from now on.
    #[schemars(with = "Option<u64>", range(min = 1))]
    start_sequence: Option<String>,
    /// Begin with what was ingested at or after this time: RFC 3339, or Unix microseconds.
    start_time: Option<String>,
}

/// The event that a reader had last.
struct LastEventId(Option<String>);

impl FromRequestParts<Shared> for LastEventId {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Result<Self, Infallible> {
        let value = parts.headers.get(LAST_EVENT_ID);
        Ok(Self(value.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())))
    }
}

impl Takes for LastEventId {
    fn describe(to: &mut Described) {
        let about = "The id of the event that came last: the tail goes on after it, whatever the parameters say. A browser \
            sends it by itself when it comes again.";
        to.parameter("header", "Last-Event-ID", about, &json!({"type": "string"}));
    }
}

/// The events of a reader, to its end.
#[derive(Debug)]
struct Events(Box<Reader>);

impl Answers for Events {
    fn describe(to: &mut Described) {
        let about = "An event a record: its id is the sequence number, its data the record as listRecords gives it, with \
            is_historical (false once the reader has caught up). Lines that begin with a colon show that the connection is \
            alive. The event named error is the last one, and says why in code and message.";
        let content = json!({"text/event-stream": {"schema": {"type": "string", "description": about}}});
        to.answer_of(StatusCode::OK, &[], &content);
    }
}

impl IntoResponse for Events {
    fn into_response(self) -> Response {
        // What stands between must neither keep it nor wait until there is more of it.
        const HEADERS: [(HeaderName, &str); 3] = [
            (header::CONTENT_TYPE, "text/event-stream"),
            (header::CACHE_CONTROL, "no-store"),
            (HeaderName::from_static("x-accel-buffering"), "no"),
        ];
        (HEADERS, Body::from_stream(events(self.0))).into_response()
    }
}

async fn get(
    State(app): State<Shared>,
    Caller(caller): Caller,
    Id(id): Id,
    Parameters(asked): Parameters<TailRecords>,
    LastEventId(last): LastEventId,
) -> Result<Events, Problem> {
    caller.require(Action::ReadRecords)?;
    let stream = app.control.resolve_stream(&caller, &id)?;
    let start = start(&asked, last.as_deref())?;
    let reader = app.tails.open(caller, &stream, start).await?;
    Ok(Events(Box::new(reader)))
}

fn start(asked: &TailRecords, last: Option<&str>) -> Result<Start, Problem> {
    let number = |name: &str, text: &str| {
        let number = text.parse::<i64>().ok().filter(|number| (0..i64::MAX).contains(number));
        number.ok_or_else(|| Problem::invalid(name, format!("{name} is a sequence number")))
    };
    if let Some(last) = last {
        return Ok(Start::Sequence(number("Last-Event-ID", last)? + 1));
    }
    match (&asked.start_sequence, &asked.start_time) {
        (None, None) => Ok(Start::Now),
        (Some(_), Some(_)) => {
            Err(Problem::invalid("start_time", "start_sequence and start_time are both set: set one of them"))
        }
        (Some(sequence), None) => match number("start_sequence", sequence)? {
            0 => Err(Problem::invalid("start_sequence", "start_sequence is 1 or more: 1 is the first of every stream")),
            sequence => Ok(Start::Sequence(sequence)),
        },
        (None, Some(time)) => parse_time(time).map(Start::Time).map_err(no_time("start_time")),
    }
}

fn events(reader: Box<Reader>) -> impl Stream<Item = Result<Bytes, Infallible>> {
    let greeting = stream::iter([Ok(Bytes::from_static(GREETING))]);
    let rest = stream::unfold(Some(reader), async |reader| {
        let mut reader = reader?;
        Some(match reader.next(KEEP_ALIVE).await {
            Ok(Some(piece)) => (Ok(encoded(&piece)), Some(reader)),
            Ok(None) => (Ok(Bytes::from_static(b":\n\n")), Some(reader)),
            Err(status) => (Ok(end(&status)), None),
        })
    });
    stream::StreamExt::chain(greeting, rest)
}

/// The rows of a piece as events.
fn encoded(piece: &Piece) -> Bytes {
    let mut out = Vec::with_capacity(piece.data.len() + piece.data.len() / 2 + 256);
    for message in piece.decoded() {
        let record = message.record.unwrap_or_default();
        let (sequence, at) = (record.sequence_number, rfc3339(record.timestamp_unix_micros));
        let head = format!(
            "id: {sequence}\ndata: {{\"record_id\":\"{}\",\"sequence_number\":{sequence},\"ingested_at\":\"{at}\",\"payload\":",
            record.record_id
        );
        out.extend_from_slice(head.as_bytes());
        put_data(&mut out, &record.payload);
        out.extend_from_slice(b",\"metadata\":{");
        for (at, (name, value)) in record.metadata.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            quoted(&mut out, name);
            out.push(b':');
            quoted(&mut out, value);
        }
        out.extend_from_slice(format!("}},\"is_historical\":{}}}\n\n", message.is_historical).as_bytes());
    }
    out.into()
}

/// JSON as a part of an event's data. A line's end in it, which only stands between its parts, begins another line of data; a
/// carriage return would be taken for one.
fn put_data(out: &mut Vec<u8>, payload: &[u8]) {
    for part in payload.split_inclusive(|byte| matches!(byte, b'\n' | b'\r')) {
        match part.split_last() {
            Some((b'\n', rest)) => {
                out.extend_from_slice(rest);
                out.extend_from_slice(b"\ndata: ");
            }
            Some((b'\r', rest)) => {
                out.extend_from_slice(rest);
                out.push(b' ');
            }
            _ => out.extend_from_slice(part),
        }
    }
}

/// The last event.
fn end(status: &Status) -> Bytes {
    let data = json!({"code": status.reason, "message": status.message});
    format!("event: error\ndata: {data}\n\n").into()
}

#[cfg(test)]
mod tests {
    use ttdust_shards::{
        ids::{RecordId, StreamId},
        memory::Pool,
        tail::piece::PieceWriter,
    };

    use super::*;

    /// The data of each event, as a browser puts it together, by id.
    fn parsed(text: &[u8]) -> Vec<(String, serde_json::Value)> {
        let text = String::from_utf8(text.to_vec()).expect("UTF-8");
        let event = |event: &str| {
            let of = |name: &str| {
                let lines = event.split(['\n', '\r']).filter_map(|line| line.strip_prefix(name)).collect::<Vec<_>>();
                lines.join("\n")
            };
            (of("id: "), serde_json::from_str(&of("data: ")).expect("JSON"))
        };
        text.split_terminator("\n\n").map(event).collect()
    }

    #[test]
    fn a_record_is_an_event_whatever_lines_its_text_has() {
        let (stream, pool) = (StreamId::generate(), Pool::new(1 << 20));
        let mut writer = PieceWriter::new((stream, 7), true, None, &pool);
        writer.push(7, 0, b"{\n  \"a\": [1,\r\n\r2]\n}", 0);
        writer.set_metadata(&[("k\"".into(), "v\n".into())]);
        writer.push(8, 1_000_000, b"\"data: x\"", 0);
        let events: Vec<_> = writer.finish(8).iter().flat_map(|piece| parsed(&encoded(piece))).collect();
        assert_eq!(events.len(), 2);
        assert_eq!(events[0].0, "7");
        assert_eq!(events[0].1["payload"], json!({"a": [1, 2]}));
        assert_eq!(events[0].1["is_historical"], true);
        assert_eq!(events[1].1["record_id"], RecordId::of(stream, 8).to_string());
        assert_eq!(events[1].1["payload"], "data: x");
        assert_eq!(events[1].1["metadata"]["k\""], "v\n");
        let last = parsed(&end(&Status::draining()));
        assert_eq!(last[0].1["code"], "DRAINING");
    }

    #[test]
    fn the_event_that_came_last_goes_before_what_was_asked_for_first() {
        let asked = |sequence: Option<&str>, time: Option<&str>| TailRecords {
            start_sequence: sequence.map(str::to_owned),
            start_time: time.map(str::to_owned),
        };
        let of = |sequence, time, last| start(&asked(sequence, time), last).ok();
        assert_eq!(of(None, None, None), Some(Start::Now));
        assert_eq!(of(Some("5"), None, Some("9")), Some(Start::Sequence(10)));
        assert_eq!(of(None, None, Some("0")), Some(Start::Sequence(1)));
        assert_eq!(of(Some("5"), None, None), Some(Start::Sequence(5)));
        assert_eq!(of(None, Some("1970-01-01T00:00:01Z"), None), Some(Start::Time(1_000_000)));
        for (sequence, time, last) in [
            (Some("0"), None, None),
            (Some("x"), None, None),
            (Some("1"), Some("2"), None),
            (None, Some("soon"), None),
            (None, None, Some("9223372036854775807")),
            (None, None, Some("")),
        ] {
            assert_eq!(of(sequence, time, last), None, "{sequence:?} {time:?} {last:?}");
        }
    }
}
