//! A request's records: its body, read within bounds, decompressed within the same bounds, and cut into one piece a record.

use std::{collections::BTreeMap, io::Read as _, sync::Arc};

use axum::{
    extract::{FromRequest, Request},
    http::{HeaderMap, StatusCode, header},
};
use bytes::Bytes;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use ttdust_shards::rows;

use super::{
    super::{
        Shared,
        extract::whole_body_within,
        idempotency::{KEY_HEADER, key_of},
        operation::{Described, Takes},
        problem::Problem,
        rates::Limited,
    },
    ROW_MARK,
};
use crate::control::ControlError;

const METADATA_HEADER: &str = "x-metadata";
/// What bodies of all requests together may take, in KiB.
const ROOM_KIB: usize = 128 << 10;
/// Bodies of at most so many bytes are cut where they come in.
const INLINE_BYTES_MAX: usize = 64 << 10;
/// How far back a zstd frame may reach: as far as a message is long at most.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// Memory for bodies with records.
#[derive(Debug, Clone)]
pub struct Batches(Arc<Semaphore>);

impl Default for Batches {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(ROOM_KIB)))
    }
}

impl Batches {
    /// Speaks for so many bytes.
    fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Problem> {
        let kib = u32::try_from(bytes.div_ceil(1024).clamp(1, ROOM_KIB)).unwrap_or(u32::MAX);
        Arc::clone(&self.0).try_acquire_many_owned(kib).map_err(|_| {
            let detail = "too many bodies with records are being read: nothing was admitted, send it again";
            Problem::new(StatusCode::TOO_MANY_REQUESTS, "BACKPRESSURE", detail)
        })
    }
}

/// The records of a request.
pub(super) struct Batch {
    pub(super) payloads: Vec<Bytes>,
    /// That of the request.
    pub(super) key: Option<String>,
    /// Encoded.
    pub(super) metadata: Bytes,
    /// How long the body is, not compressed.
    pub(super) bytes: usize,
    pub(super) limited: Limited,
    /// The memory that they are in.
    pub(super) room: OwnedSemaphorePermit,
}

/// What a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// A record a line.
    Lines,
    /// An array of records, or one record that is none.
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Zstd,
}

impl FromRequest<Shared> for Batch {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &Shared) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let limits = *app.producer.limits();
        let (form, compression) = (form(&parts.headers)?, compression(&parts.headers)?);
        let metadata = metadata(&parts.headers)?;
        let metadata = rows::metadata(&limits, &metadata)?;
        let key = match parts.headers.contains_key(KEY_HEADER) {
            true => Some(key_of(&parts.headers)?),
            false => None,
        };
        if let Some(key) = &key {
            rows::check_key(&limits, &format!("{key}{ROW_MARK}{}", limits.records_per_request))?;
        }
        let limit = limits.message_bytes;
        let declared = parts.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        let whole = if compression == Compression::None { declared.unwrap_or(limit) } else { limit };
        let room = app.batches.take(whole.min(limit))?;
        let body = whole_body_within(body, limit, "limits.message_bytes").await?;
        let cut = move || {
            let text = decompressed(body, compression, limit)?;
            let bytes = text.len();
            let payloads = match form {
                Form::Lines => lines(&text),
                Form::Json => elements(&text)?,
            };
            Ok::<_, Problem>((payloads, bytes))
        };
        let (payloads, bytes) = if compression == Compression::None && whole <= INLINE_BYTES_MAX {
            cut()?
        } else {
            app.producer.checkers().run(cut).await.map_err(ControlError::from)??
        };
        if payloads.is_empty() {
            return Err(Problem::invalid(
                "",
                "the body holds no record: send one JSON text a line, or a JSON array of them",
            ));
        }
        if payloads.len() > limits.records_per_request {
            let detail = format!(
                "{} records in a request, over the limit of {} (limits.records_per_request): send them in several",
                payloads.len(),
                limits.records_per_request
            );
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "RESOURCE_EXHAUSTED", detail));
        }
        Ok(Self { payloads, key, metadata, bytes, limited: Limited::of(&parts), room })
    }
}

impl Takes for Batch {
    fn describe(to: &mut Described) {
        let about = "Makes it safe to send the same body again: a record of it that was taken is not taken a second time, for \
            as long as idempotency keys are remembered. The key of a record is this one, a slash, and its index in the body.";
        let pattern = "^[!-~]([ -~]*[!-~])?$";
        let schema = json!({"type": "string", "minLength": 1, "pattern": pattern});
        to.parameter("header", "Idempotency-Key", about, &schema);
        let about = "Metadata that is kept with each record: a JSON object whose members are texts.";
        to.parameter("header", "X-Metadata", about, &json!({"type": "string", "examples": ["{\"source\": \"shop\"}"]}));
        let about = "gzip or zstd, if the body is compressed.";
        to.parameter("header", "Content-Encoding", about, &json!({"enum": ["identity", "gzip", "zstd"]}));
        to.body_of(&json!({
            "application/json": {"schema": {"description": "An array of records; what is no array is one record."}},
            "application/x-ndjson": {"schema": {"type": "string", "description": "A record a line."}},
        }));
    }
}

fn unsupported(detail: &str) -> Problem {
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "INVALID_ARGUMENT", detail)
}

fn form(headers: &HeaderMap) -> Result<Form, Problem> {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    match value.split(';').next().unwrap_or("").trim().to_ascii_lowercase().as_str() {
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" | "application/x-jsonlines" => {
            Ok(Form::Lines)
        }
        "application/json" => Ok(Form::Json),
        _ => Err(unsupported(
            "send one JSON text a line with content-type: application/x-ndjson, or a JSON array with \
             content-type: application/json",
        )),
    }
}

fn compression(headers: &HeaderMap) -> Result<Compression, Problem> {
    let mut values = headers.get_all(header::CONTENT_ENCODING).iter();
    let value = values.next().map_or("", |value| value.to_str().unwrap_or("?")).trim().to_ascii_lowercase();
    match value.as_str() {
        _ if values.next().is_some() => Err(unsupported("compress the body once at most")),
        "" | "identity" => Ok(Compression::None),
        "gzip" | "x-gzip" => Ok(Compression::Gzip),
        "zstd" => Ok(Compression::Zstd),
        _ => Err(unsupported("content-encoding is gzip or zstd")),
    }
}

fn metadata(headers: &HeaderMap) -> Result<BTreeMap<String, String>, Problem> {
    let Some(value) = headers.get(METADATA_HEADER) else { return Ok(BTreeMap::new()) };
    serde_json::from_slice(value.as_bytes()).map_err(|error| {
        Problem::invalid("X-Metadata", format!("x-metadata is a JSON object whose members are texts: {error}"))
    })
}

/// The body as it was before it was compressed, if that is no longer than `limit`.
fn decompressed(body: Bytes, compression: Compression, limit: usize) -> Result<Bytes, Problem> {
    let bound = limit as u64 + 1;
    let mut out = Vec::new();
    let read = match compression {
        Compression::None => return Ok(body),
        Compression::Gzip => flate2::read::MultiGzDecoder::new(&body[..]).take(bound).read_to_end(&mut out),
        Compression::Zstd => zstd::stream::read::Decoder::with_buffer(&body[..]).and_then(|mut decoder| {
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            decoder.take(bound).read_to_end(&mut out)
        }),
    };
    match read {
        Ok(_) if out.len() <= limit => Ok(out.into()),
        Ok(_) => {
            let detail =
                format!("the body is over the limit of {limit} bytes (limits.message_bytes) when decompressed");
            Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "RESOURCE_EXHAUSTED", detail))
        }
        Err(error) => Err(Problem::invalid("", format!("the body is not what content-encoding says: {error}"))),
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// The part of `text` between these places, without the space around it.
fn trimmed(text: &Bytes, mut start: usize, mut end: usize) -> Bytes {
    while start < end && is_space(text[start]) {
        start += 1;
    }
    while start < end && is_space(text[end - 1]) {
        end -= 1;
    }
    text.slice(start..end)
}

/// A record a line; lines with nothing on them are none.
fn lines(text: &Bytes) -> Vec<Bytes> {
    let mut found = Vec::new();
    let mut start = 0;
    for end in memchr::memchr_iter(b'\n', text).chain([text.len()]) {
        let line = trimmed(text, start, end);
        if !line.is_empty() {
            found.push(line);
        }
        start = end + 1;
    }
    found
}

/// The elements of an array, as they stand there; what is no array is one itself. Whether each is JSON is for the record's check
/// to say: here only strings and brackets are told apart.
fn elements(text: &Bytes) -> Result<Vec<Bytes>, Problem> {
    let whole = trimmed(text, 0, text.len());
    if whole.first() != Some(&b'[') {
        return Ok(if whole.is_empty() { Vec::new() } else { vec![whole] });
    }
    let broken = |detail: &str| Err(Problem::invalid("", format!("the body is no JSON array: {detail}")));
    let (mut found, mut depth, mut start, mut at) = (Vec::new(), 0usize, 1, 1);
    while at < whole.len() {
        match whole[at] {
            b'"' => match end_of_string(&whole, at + 1) {
                Some(end) => at = end,
                None => return broken("a string in it does not end"),
            },
            b'[' | b'{' => depth += 1,
            b']' if depth == 0 => {
                let last = trimmed(&whole, start, at);
                if at + 1 != whole.len() {
                    return broken("there is more after its end");
                }
                if !last.is_empty() {
                    found.push(last);
                } else if !found.is_empty() {
                    return broken("a comma in it is followed by nothing");
                }
                return Ok(found);
            }
            b']' | b'}' => {
                if depth == 0 {
                    return broken("brackets in it do not match");
                }
                depth -= 1;
            }
            b',' if depth == 0 => {
                let element = trimmed(&whole, start, at);
                if element.is_empty() {
                    return broken("a comma in it follows nothing");
                }
                found.push(element);
                start = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    broken("it does not end")
}

/// Where the string that is open at `at` ends.
fn end_of_string(text: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += memchr::memchr2(b'"', b'\\', &text[at..])?;
        if text[at] == b'"' {
            return Some(at);
        }
        at += 2;
        if at > text.len() {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn of(text: &str) -> Option<Vec<String>> {
        let found = elements(&Bytes::copy_from_slice(text.as_bytes())).ok()?;
        Some(found.iter().map(|element| String::from_utf8_lossy(element).into_owned()).collect())
    }

    #[test]
    fn an_array_is_cut_into_its_elements_as_they_stand() {
        assert_eq!(
            of(r#" [ {"a":[1,2],"b":"],\"}"} , [ ] ,3 ] "#).expect("cut"),
            [r#"{"a":[1,2],"b":"],\"}"}"#, "[ ]", "3"]
        );
        assert_eq!(of("[]").expect("cut"), [""; 0]);
        assert_eq!(of(" [ \n ] ").expect("cut"), [""; 0]);
        assert_eq!(of(r#"{"a": 1}"#).expect("one"), [r#"{"a": 1}"#]);
        assert_eq!(of("").expect("none"), [""; 0]);
        for broken in ["[", "[1", "[1,]", "[,1]", "[1,,2]", "[1]2", "[1]]", "[\"", "[\"\\", "[\"\\\"]", "[1}", "[}]"] {
            assert_eq!(of(broken), None, "{broken}");
        }
    }

    #[test]
    fn any_cut_of_an_array_is_refused_and_its_elements_are_those_that_a_parser_finds() {
        let text = r#"[{"a":"x,\"[","b":{"c":[[1],{}]}},null,"],",[1,2,{"d":"}"}],-1.5e3]"#;
        let parsed: Vec<serde_json::Value> = serde_json::from_str(text).expect("JSON");
        let found: Vec<serde_json::Value> =
            of(text).expect("cut").iter().map(|element| serde_json::from_str(element).expect("JSON")).collect();
        assert_eq!(found, parsed);
        for end in 1..text.len() {
            assert_eq!(of(&text[..end]), None, "{}", &text[..end]);
        }
    }

    #[test]
    fn lines_may_be_empty_and_the_last_needs_no_end() {
        let found = lines(&Bytes::from_static(b"\n{\"a\":1}\r\n\n  \n2\n3"));
        assert_eq!(found, ["{\"a\":1}", "2", "3"]);
        assert!(lines(&Bytes::new()).is_empty());
    }

    #[test]
    fn a_bomb_and_a_torn_body_are_refused() {
        let zeros = vec![b' '; 1 << 20];
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        gzip.write_all(&zeros).expect("in memory");
        let gzip = gzip.finish().expect("in memory");
        let zstd = zstd::encode_all(&zeros[..], 3).expect("in memory");
        for (packed, compression) in [(gzip, Compression::Gzip), (zstd, Compression::Zstd)] {
            let of = |bytes: &[u8], limit| decompressed(Bytes::copy_from_slice(bytes), compression, limit);
            assert_eq!(of(&packed, 1 << 20).expect("as long as may be").len(), 1 << 20);
            assert!(of(&packed, (1 << 20) - 1).expect_err("too long").detail.contains("limits.message_bytes"));
            assert!(of(&packed[..packed.len() / 2], 1 << 20).is_err());
            assert!(of(b"no such thing", 1 << 20).is_err());
        }
    }
}
