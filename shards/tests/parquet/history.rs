//! A random history of one stream: as a plain list of rows, as batches, and as files that hold all of it.

// Each test binary uses a part.
#![allow(dead_code)]

use bytes::Bytes;
use ttdust_shards::{
    parquet,
    query::{BufferSnapshot, FileRef, RecordRow},
    record::keys::KeyField,
    transform::{decode_metadata, encode_metadata},
    wal::batch::RowBatch,
};

use super::batches::{MICROS_AN_HOUR, Random, Stream, buffer_of, file_ref, job};

pub const SCHEMA: &str = r#"{"type":"object","properties":{"n":{"type":"integer"}}}"#;

/// The key fields of files that have any.
pub const KEY_FIELDS: [&str; 2] = ["k", "/deep/k"];

/// Values that records have as `k`, as JSON, and the key that each is.
pub const VALUES: [(&str, Option<&str>); 16] = [
    ("\"a\"", Some("a")),
    ("\"b\"", Some("b")),
    ("\"\\u0061\"", Some("a")),
    ("\"ü\"", Some("ü")),
    ("\"\\u00fc\"", Some("ü")),
    ("\"日本\\n\\\"\"", Some("日本\n\"")),
    ("\"\"", Some("")),
    ("\"100\"", Some("100")),
    ("100", Some("100")),
    ("1e2", Some("100")),
    ("-7", Some("-7")),
    ("true", Some("true")),
    ("1.5", None),
    ("null", None),
    ("[\"a\"]", None),
    ("\"a/b\"", Some("a/b")),
];

/// A stream's history.
pub struct History {
    pub stream: Stream,
    pub rows: Vec<RecordRow>,
    /// By row: its key in either field.
    pub keys: Vec<[Option<&'static str>; 2]>,
    pub batches: Vec<RowBatch>,
    pub files: Vec<FileRef>,
    _dir: tempfile::TempDir,
}

impl History {
    /// Up to `batch_rows` rows a batch and up to `file_batches` batches a file; `None`: one file of all. `indexed`: of so many
    /// files one has no key index; 0: all have one.
    pub fn new(random: &mut Random, batches: usize, batch_rows: u64, file_batches: Option<u64>, bare: u64) -> Self {
        let mut stream = Stream::new();
        let mut time = 10 * MICROS_AN_HOUR;
        let (mut rows, mut keys, mut all) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..batches {
            if random.chance(2) {
                time += random.below(5) as i64;
            }
            if random.chance(30) {
                time += MICROS_AN_HOUR;
            }
            let pairs = [("source", "a\"\\\n"), ("ü", "")];
            let metadata = encode_metadata(pairs.into_iter().take(random.below(3) as usize));
            let count = 1 + random.below(batch_rows);
            let payloads: Vec<Bytes> = (0..count)
                .map(|_| {
                    let (payload, key) = payload(random);
                    keys.push(key);
                    payload
                })
                .collect();
            let mut batch = stream.batch(time, &metadata, &payloads);
            if random.chance(3) {
                batch.spill();
            }
            rows.extend(payloads.into_iter().enumerate().map(|(index, payload)| RecordRow {
                sequence: batch.header().first_sequence + index as i64,
                timestamp_unix_micros: time,
                payload,
                metadata: decode_metadata(&metadata),
            }));
            all.push(batch);
        }
        let dir = tempfile::tempdir().unwrap();
        let mut files = Vec::new();
        let mut start = 0;
        while start < all.len() {
            let end = file_batches.map_or(all.len(), |most| all.len().min(start + 1 + random.below(most) as usize));
            let mut job = job(SCHEMA, &all[start..end], dir.path(), &format!("{start}.parquet"));
            if bare == 0 || !random.chance(bare) {
                job.key_fields = KEY_FIELDS.map(KeyField::new).into();
            }
            files.push(file_ref(&parquet::write(&job).unwrap()));
            start = end;
        }
        Self { stream, rows, keys, batches: all, files, _dir: dir }
    }

    pub fn buffer(&self, flushed_through: i64) -> BufferSnapshot {
        buffer_of(&self.batches, flushed_through, Default::default())
    }

    pub fn last(&self) -> i64 {
        self.rows.last().unwrap().sequence
    }
}

fn payload(random: &mut Random) -> (Bytes, [Option<&'static str>; 2]) {
    let spaces = " ".repeat(random.below(9) as usize);
    let mut text = format!(r#"{{"n":{spaces}1"#);
    let mut keys = [None; 2];
    if !random.chance(4) {
        let (value, key) = VALUES[random.below(VALUES.len() as u64) as usize];
        text.push_str(&format!(r#","k":{value}"#));
        keys[0] = key;
    }
    if random.chance(3) {
        let (value, key) = VALUES[random.below(VALUES.len() as u64) as usize];
        text.push_str(&format!(r#","deep":{{"k":{value}}}"#));
        keys[1] = key;
    }
    text.push('}');
    (Bytes::from(text), keys)
}
