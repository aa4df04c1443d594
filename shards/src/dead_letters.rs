//! Dead letters: records that a pipeline could make nothing of, or that did not pass their schema, with what is known of why. Each
//! is a record of the stream `<stream>.dlq`, by an idempotency key that is a function of where it came from, so that what is done
//! again after a crash makes no second one.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::{
    ids::{RecordId, StreamId},
    pipeline::{self, rows::DeadLetter},
    transform::decode_metadata,
    validate::{self, Invalid},
};

/// What the names of dead letters' streams end with; no other's does.
pub const SUFFIX: &str = ".dlq";

/// Fields at fault that a letter names.
const POINTERS_MAX: usize = 16;

/// The schema of dead letters.
pub const DEFINITION: &str = r#"{
  "$schema": "http://json-schema.org/draft-07/schema#",
  "title": "dead letter",
  "description": "A record that was not taken, or that a pipeline could make nothing of.",
  "type": "object",
  "required": ["stream_id", "reason", "message", "pointers", "schema_version", "pipeline_version"],
  "properties": {
    "stream_id": {"type": "string", "description": "The stream that the record was for."},
    "reason": {"type": "string", "description": "Why, for programs."},
    "message": {"type": "string", "description": "Why, for people."},
    "step": {"type": ["integer", "null"], "description": "The pipeline's step, from 0; null: the schema did not let it in."},
    "pointers": {"type": "array", "items": {"type": "string"}, "description": "The fields at fault."},
    "schema_version": {"type": "integer"},
    "pipeline_version": {"type": "integer", "description": "0: no pipeline saw it."},
    "original_id": {"type": ["string", "null"], "description": "The record's id; null: it never got one."},
    "original_sequence": {"type": ["integer", "null"]},
    "original_ingested_at_unix_micros": {"type": ["integer", "null"]},
    "payload": {"type": ["string", "null"], "description": "The record's bytes as text."},
    "payload_base64": {"type": ["string", "null"], "description": "The record's bytes, where they are no plain UTF-8."},
    "metadata": {"type": "object", "additionalProperties": {"type": "string"}}
  }
}"#;

/// Every reason that a letter may have.
pub fn reasons() -> impl Iterator<Item = &'static str> {
    validate::FAILURES.into_iter().chain(pipeline::failures())
}

/// The record of a dead letter that a pipeline made.
#[must_use]
pub fn of_pipeline(stream: StreamId, letter: &DeadLetter) -> Bytes {
    let failure = &letter.failure;
    let mut members = members(stream, &letter.payload, &letter.metadata);
    members.extend(pairs([
        ("reason", json!(failure.reason)),
        ("message", json!(failure.message)),
        ("step", json!(failure.step)),
        ("pointers", json!(failure.pointers)),
        ("schema_version", json!(letter.schema_version)),
        ("pipeline_version", json!(letter.pipeline_version)),
        ("original_id", json!(RecordId::of(stream, letter.sequence).to_string())),
        ("original_sequence", json!(letter.sequence)),
        ("original_ingested_at_unix_micros", json!(letter.timestamp_unix_micros)),
    ]));
    Value::Object(members).to_string().into()
}

/// The record of one that its schema did not let in.
#[must_use]
pub fn of_schema(stream: StreamId, schema_version: u32, invalid: &Invalid, payload: &[u8], metadata: &[u8]) -> Bytes {
    let mut members = members(stream, payload, metadata);
    let pointers = invalid.field_errors.iter().map(|error| error.pointer.as_str());
    let pointers: Vec<&str> = pointers.take(POINTERS_MAX).collect();
    members.extend(pairs([
        ("reason", json!(invalid.code)),
        ("message", json!(invalid.message)),
        ("step", Value::Null),
        ("pointers", json!(pointers)),
        ("schema_version", json!(schema_version)),
        ("pipeline_version", json!(0)),
        ("original_id", Value::Null),
        ("original_sequence", Value::Null),
        ("original_ingested_at_unix_micros", Value::Null),
    ]));
    Value::Object(members).to_string().into()
}

fn pairs<const N: usize>(pairs: [(&str, Value); N]) -> impl Iterator<Item = (String, Value)> {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value))
}

fn members(stream: StreamId, payload: &[u8], metadata: &[u8]) -> Map<String, Value> {
    // Text of control characters would take six bytes for one.
    let escaped = payload.iter().filter(|byte| **byte < 0x20).count();
    let (text, base64) = match std::str::from_utf8(payload) {
        Ok(text) if escaped <= payload.len() / 16 => (json!(text), Value::Null),
        _ => (Value::Null, json!(base64(payload))),
    };
    let metadata: Map<String, Value> =
        decode_metadata(metadata).into_iter().map(|(name, value)| (name, value.into())).collect();
    let stream = json!(stream.to_string());
    let own = [("stream_id", stream), ("payload", text), ("payload_base64", base64), ("metadata", metadata.into())];
    pairs(own).collect()
}

/// RFC 4648, with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

/// The key of what a pipeline made of a row.
#[must_use]
pub fn key_of_row(stream: StreamId, sequence: i64, pipeline_version: u16) -> Bytes {
    format!("pipeline/{stream}/{sequence}/{pipeline_version}").into()
}

/// The key of a record that was sent with this key.
#[must_use]
pub fn key_of_key(stream: StreamId, key: &[u8]) -> Bytes {
    [format!("key/{stream}/").as_bytes(), key].concat().into()
}

/// The key of a record that was sent under this number of a writer.
#[must_use]
pub fn key_of_number(stream: StreamId, writer: &[u8], number: u64) -> Bytes {
    [format!("writer/{stream}/{number}/").as_bytes(), writer].concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ids::SchemaId, schema::CompiledSchema, transform::encode_metadata, validate::Validator};

    #[test]
    fn letters_are_records_of_their_schema_and_hold_every_byte() {
        let stream = StreamId::generate();
        let schema = CompiledSchema::compile(SchemaId::generate(), 1, DEFINITION).expect("a schema");
        let field = |pointer: &str| crate::validate::FieldError { pointer: pointer.into(), message: "m".into() };
        let invalid = Invalid { code: "NOT_JSON", message: "no".into(), field_errors: vec![field("/a"), field("/b")] };
        for payload in [&b"{\"a\":\"\xff\"}"[..], b"{\"a\":1}", b"", b"\0\x01\xfe\xff\xff", b"\x01\x01\x01\x01"] {
            let letter = of_schema(stream, 7, &invalid, payload, &encode_metadata([("k", "v")]));
            Validator::default().check(&schema, &letter).expect("valid");
            let read: Value = serde_json::from_slice(&letter).expect("JSON");
            assert_eq!((&read["pointers"], &read["metadata"]["k"]), (&json!(["/a", "/b"]), &json!("v")));
            match std::str::from_utf8(payload).ok().filter(|text| !text.contains('\x01')) {
                Some(text) => assert_eq!((&read["payload"], &read["payload_base64"]), (&json!(text), &Value::Null)),
                None => assert!(read["payload"].is_null() && read["payload_base64"].is_string()),
            }
        }
        for (bytes, text) in
            [(&b""[..], ""), (b"f", "Zg=="), (b"fo", "Zm8="), (b"foo", "Zm9v"), (b"\xff\xfe\xfd\xfc", "//79/A==")]
        {
            assert_eq!(base64(bytes), text);
        }
    }
}
