//! Objects that are imported: whatever they hold, each row becomes a record that is JSON, or is told as bad, or the object is
//! refused; in bounded memory, which the fuzzer watches.

use std::{io, ops::Range, path::PathBuf, sync::Arc};

use bytes::Bytes;
use serde_json::Value;
use ttdust::imports::{Format, Spec, each_row};
use ttdust_shards::parquet::source::{FileSource, RangeRead};

/// A stream's schema with a member of each kind.
const DEFINITION: &str = r#"{"properties": {"n": {"type": "integer"}, "s": {"type": "string"}, "b": {"type": "boolean"},
    "o": {"type": ["number", "null"]}}}"#;
/// The largest record.
const RECORD_BYTES: usize = 4096;

#[derive(Debug)]
struct Memory(Bytes);

impl RangeRead for Memory {
    fn read_ranges(&self, ranges: &[Range<u64>]) -> io::Result<Vec<Bytes>> {
        Ok(ranges.iter().map(|range| self.0.slice(range.start as usize..range.end as usize)).collect())
    }
}

fn object(name: &str, bytes: &[u8]) -> FileSource {
    let ranges = Arc::new(Memory(Bytes::copy_from_slice(bytes)));
    FileSource::Object { key: PathBuf::from(name), bytes: bytes.len() as u64, ranges }
}

fn spec(format: Format, options: &[(&str, &str)]) -> Spec {
    let options = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Spec { source_uri: String::new(), format, options }
}

/// A record and its line.
type Record = (u64, Vec<u8>);

/// The records, and whether the object was read to its end.
fn rows(source: &FileSource, spec: &Spec) -> (Vec<Record>, Result<(), String>) {
    let (mut records, mut last) = (Vec::new(), 0);
    let ended = each_row(source, spec, DEFINITION, RECORD_BYTES, &mut |line, row| {
        assert!(line > last || (spec.format == Format::JsonLines && line >= last), "line {line} after {last}");
        last = line;
        match row {
            Ok(payload) => records.push((line, payload.to_vec())),
            Err(message) => assert!(!message.is_empty() && message.len() < 8192),
        }
    });
    (records, ended)
}

fn name(kind: u8) -> &'static str {
    ["object", "object.gz", "object.zst"][usize::from(kind % 3)]
}

/// The first byte says how the rest is compressed.
pub fn import_lines(input: &[u8]) {
    let Some((&kind, rest)) = input.split_first() else { return };
    let (records, ended) = rows(&object(name(kind), rest), &spec(Format::JsonLines, &[]));
    if kind % 3 != 0 {
        return;
    }
    ended.expect("any text has lines");
    let text = rest.strip_prefix(b"\xef\xbb\xbf").unwrap_or(rest);
    let lines: Vec<&[u8]> = text.split(|&byte| byte == b'\n').collect();
    for (line, payload) in records {
        assert_eq!(payload, lines[line as usize - 1], "line {line} is handed on as it stands");
    }
}

/// The first byte says how the rest is compressed and which options are used.
pub fn import_csv(input: &[u8]) {
    let Some((&kind, rest)) = input.split_first() else { return };
    let options: &[(&str, &str)] = match kind / 3 % 4 {
        0 => &[],
        1 => &[("delimiter", ";"), ("quote", "'"), ("null", "NULL")],
        2 => &[("header", "false"), ("columns", "n,s,b,o")],
        _ => &[("delimiter", "\\t"), ("quote", "")],
    };
    let (records, _) = rows(&object(name(kind), rest), &spec(Format::Csv, options));
    for (line, payload) in records {
        match serde_json::from_slice::<Value>(&payload) {
            Ok(value) => assert!(value.is_object(), "line {line}: {value}"),
            // A number is handed on as it stands: whether it is too large is for the record's check to say.
            Err(error) => {
                let shown = String::from_utf8_lossy(&payload);
                assert!(error.to_string().starts_with("number out of range"), "line {line}: {error}: {shown}");
            }
        }
    }
}

/// The first byte chooses whether rows are members or one column's texts.
pub fn import_parquet(input: &[u8]) {
    let Some((&kind, rest)) = input.split_first() else { return };
    let options: &[(&str, &str)] = if kind % 2 == 0 { &[] } else { &[("payload_column", "payload")] };
    let (records, _) = rows(&object("object.parquet", rest), &spec(Format::Parquet, options));
    for (row, payload) in records.iter().filter(|_| kind % 2 == 0) {
        let value = serde_json::from_slice::<Value>(payload);
        assert!(value.is_ok_and(|value| value.is_object()), "row {row}: {}", String::from_utf8_lossy(payload));
    }
}
