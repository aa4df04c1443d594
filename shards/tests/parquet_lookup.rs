//! Lookups by key and by id over files and buffer against a plain model: a list of rows.

#[path = "parquet/batches.rs"]
mod batches;
#[path = "parquet/history.rs"]
mod history;

use std::{io, ops::Range, sync::Arc, sync::Mutex, time::Instant};

use batches::{MICROS_AN_HOUR, Random, Reading, Stream, file_ref, job};
use bytes::Bytes;
use history::{History, KEY_FIELDS, VALUES};
use ttdust_shards::{
    ids::{RecordId, SchemaId, ShardId, StreamId},
    parquet::{self, cache::FileCache, source::FileSource, source::RangeRead},
    query::{
        Bounds, BufferSnapshot, FileRef, KeyLookup, QueryAnswer, QueryContext, QueryError, RECORD_ID_FIELD, Wanted,
        lookup,
    },
    record::keys::KeyField,
    schema::CompiledSchema,
    snapshot::{StreamEntry, StreamState},
    wal::batch::RowBatch,
};

fn by_key(stream: StreamId, field: &str, key: &str) -> KeyLookup {
    KeyLookup { stream, wanted: Wanted::Key { field: KeyField::new(field), key: key.to_owned() } }
}

impl History {
    fn check(&self, field: usize, key: &str, flushed_through: i64, files: &[FileRef], reading: &Reading) {
        let expected = (0..self.rows.len()).rev().find(|row| self.keys[*row][field] == Some(key));
        let query = by_key(self.stream.id, KEY_FIELDS[field], key);
        let answer = lookup(&query, &self.buffer(flushed_through), files, &reading.context()).unwrap();
        let found = answer.records.first();
        let context = || format!("{key:?} in {}, flushed through {flushed_through}", KEY_FIELDS[field]);
        assert_eq!(found, expected.map(|row| &self.rows[row]), "{}", context());
        assert_eq!((answer.records.len(), answer.next_after), (usize::from(expected.is_some()), None));
    }
}

#[test]
fn every_split_of_files_and_buffer_finds_the_latest_record() {
    for seed in 1..=4 {
        let mut random = Random(seed);
        // With one and the same history: every file indexed, some, and none.
        let history = History::new(&mut random, 30, 5, Some(8), seed % 4);
        let reading = Reading::new(if seed % 2 == 0 { 0 } else { 8 << 20 });
        let keys = VALUES.iter().filter_map(|(_, key)| *key).chain(["absent", "10", "1e2", "A", "a/"]);
        for flushed_through in 0..=history.last() {
            let mut files = history.files.clone();
            if random.chance(2) {
                files.reverse();
            }
            if random.chance(2) {
                files.retain(|file| file.first_sequence <= flushed_through);
            }
            let key = keys.clone().nth(random.below(keys.clone().count() as u64) as usize).unwrap();
            history.check(random.below(2) as usize, key, flushed_through, &files, &reading);
        }
        for key in keys {
            for field in [0, 1] {
                for flushed_through in [0, history.last() / 2, history.last()] {
                    history.check(field, key, flushed_through, &history.files, &reading);
                }
            }
        }
    }
}

#[test]
fn a_record_is_found_by_its_id_wherever_it_lies() {
    let mut random = Random(9);
    let history = History::new(&mut random, 30, 5, Some(8), 2);
    let stream = history.stream.id;
    let reading = Reading::new(1 << 20);
    for flushed_through in [0, history.last() / 2, history.last()] {
        let buffer = history.buffer(flushed_through);
        let find = |sequence| {
            let query = KeyLookup { stream, wanted: Wanted::Sequence(sequence) };
            lookup(&query, &buffer, &history.files, &reading.context()).unwrap().records.pop()
        };
        for row in &history.rows {
            assert_eq!(find(row.sequence).as_ref(), Some(row));
        }
        for none in [0, history.last() + 1, i64::MAX] {
            assert_eq!(find(none), None, "{none}");
        }
    }
}

fn entry() -> StreamEntry {
    StreamEntry {
        id: StreamId::generate(),
        name: "s".to_owned(),
        state: StreamState::Active,
        schema: Arc::new(CompiledSchema::compile(SchemaId::generate(), 1, "{}").unwrap()),
        key_fields: KEY_FIELDS.map(KeyField::new).into(),
        pipelines: Arc::default(),
        dead_letters: None,
        home: ShardId(0),
    }
}

#[test]
fn what_is_asked_for_is_checked() {
    let stream = entry();
    let plan = |field: &str, value: &str| KeyLookup::plan(&stream, field, value);
    assert_eq!(plan("k", "x").unwrap(), by_key(stream.id, "k", "x"));
    for unknown in ["other", "/k", "deep/k", ""] {
        let error = plan(unknown, "x").unwrap_err();
        assert_eq!((error.parameter, error.reason), ("key_field", "UNKNOWN_KEY_FIELD"), "{unknown}");
        assert!(error.message.contains("\"k\", \"/deep/k\", \"_record_id\""), "{error}");
    }
    let id = |stream, sequence| RecordId::of(stream, sequence).to_string();
    assert_eq!(plan(RECORD_ID_FIELD, &id(stream.id, 7)).unwrap().wanted, Wanted::Sequence(7));
    assert_eq!(plan(RECORD_ID_FIELD, &id(StreamId::generate(), 7)).unwrap().wanted, Wanted::Sequence(0));
    assert_eq!(plan(RECORD_ID_FIELD, "rec_7").unwrap_err().reason, "BAD_RECORD_ID");
}

/// A file whose reads are counted: the ranges of each round trip.
#[derive(Debug)]
struct Counted {
    file: std::fs::File,
    rounds: Mutex<Vec<Vec<Range<u64>>>>,
}

impl RangeRead for Counted {
    fn read_ranges(&self, ranges: &[Range<u64>]) -> io::Result<Vec<Bytes>> {
        use std::os::unix::fs::FileExt as _;
        self.rounds.lock().unwrap().push(ranges.to_vec());
        ranges
            .iter()
            .map(|range| {
                let mut bytes = vec![0; (range.end - range.start) as usize];
                self.file.read_exact_at(&mut bytes, range.start)?;
                Ok(Bytes::from(bytes))
            })
            .collect()
    }
}

/// One file of 40,000 records with keys, as an object elsewhere.
struct Elsewhere {
    file: FileRef,
    counted: Arc<Counted>,
    buffer: BufferSnapshot,
    _dir: tempfile::TempDir,
}

impl Elsewhere {
    fn new(indexed: bool) -> Self {
        let mut stream = Stream::new();
        let batches: Vec<RowBatch> = (0..400)
            .map(|batch| {
                let row = |row| {
                    Bytes::from(format!(r#"{{"n":{row},"k":"key-{}","f":"{}"}}"#, batch * 100 + row, "y".repeat(200)))
                };
                stream.batch(MICROS_AN_HOUR + batch, &[], &(0..100).map(row).collect::<Vec<_>>())
            })
            .collect();
        let dir = tempfile::tempdir().unwrap();
        let mut job = job(history::SCHEMA, &batches, dir.path(), "file");
        if indexed {
            job.key_fields = [KeyField::new("k")].into();
        }
        let meta = parquet::write(&job).unwrap();
        let counted = Arc::new(Counted { file: std::fs::File::open(&meta.path).unwrap(), rounds: Mutex::default() });
        let source = FileSource::Object { key: "object".into(), bytes: meta.bytes, ranges: Arc::clone(&counted) as _ };
        let file = FileRef { source, ..file_ref(&meta) };
        let buffer = BufferSnapshot {
            stream: stream.id,
            batches: Vec::new(),
            flushed_through: 40_000,
            last_sequence: 40_000,
            next_sequence: 40_001,
            pipelines: Default::default(),
        };
        Self { file, counted, buffer, _dir: dir }
    }

    fn find(&self, key: &str, context: &QueryContext<'_>) -> (QueryAnswer, usize, u64) {
        self.counted.rounds.lock().unwrap().clear();
        let query = by_key(self.buffer.stream, "k", key);
        let answer = lookup(&query, &self.buffer, std::slice::from_ref(&self.file), context).unwrap();
        let rounds = self.counted.rounds.lock().unwrap();
        (answer, rounds.len(), rounds.iter().flatten().map(|range| range.end - range.start).sum())
    }
}

#[test]
fn a_lookup_takes_few_round_trips_and_none_when_all_is_known() {
    let elsewhere = Elsewhere::new(true);
    let reading = Reading::new(16 << 20);
    // Cold: footer, head, bucket, pages.
    let (answer, rounds, _) = elsewhere.find("key-12345", &reading.context());
    assert_eq!(answer.records[0].sequence, 12_346);
    assert_eq!((rounds, answer.cache_hits), (4, 0));
    // Warm, another key: its bucket, and its pages all at once.
    let (answer, rounds, bytes) = elsewhere.find("key-39999", &reading.context());
    assert_eq!(answer.records[0].sequence, 40_000);
    assert_eq!((rounds, answer.cache_hits, answer.partitions_scanned, answer.rows_scanned), (2, 2, 1, 1));
    assert!(bytes < 100_000, "{bytes}");
    // The same again: nothing is read.
    let (answer, rounds, _) = elsewhere.find("key-39999", &reading.context());
    assert_eq!((rounds, answer.cache_misses), (0, 0));
    // Absent: at most a bucket.
    let (answer, rounds, _) = elsewhere.find("absent", &reading.context());
    assert!(answer.records.is_empty() && rounds <= 1);
    assert_eq!((answer.rows_scanned, answer.partitions_scanned), (0, 0));
    // A range of a warm file: the pages of all columns in one round a row group.
    elsewhere.counted.rounds.lock().unwrap().clear();
    let query = ttdust_shards::query::TimeRangeQuery {
        stream: elsewhere.buffer.stream,
        time_field: ttdust_shards::query::TimeField::Ingest,
        start_unix_micros: i64::MIN,
        end_unix_micros: i64::MAX,
        limit: 1000,
        order: ttdust_shards::query::Order::Descending,
        after_sequence: Some(20_000),
    };
    let files = std::slice::from_ref(&elsewhere.file);
    let answer = ttdust_shards::query::time_range(&query, &elsewhere.buffer, files, &reading.context()).unwrap();
    assert_eq!((answer.records.len(), answer.records[0].sequence), (1000, 19_999));
    assert_eq!(elsewhere.counted.rounds.lock().unwrap().len(), 1);
}

#[test]
fn without_an_index_all_rows_are_looked_at_within_bounds() {
    let elsewhere = Elsewhere::new(false);
    let reading = Reading::new(0);
    let (answer, ..) = elsewhere.find("key-5", &reading.context());
    assert_eq!(answer.records[0].sequence, 6);
    assert!(answer.rows_scanned >= 39_995, "{}", answer.rows_scanned);
    let (answer, ..) = elsewhere.find("absent", &reading.context());
    assert_eq!((answer.records.len(), answer.rows_scanned), (0, 40_000));

    let query = by_key(elsewhere.buffer.stream, "k", "absent");
    let files = std::slice::from_ref(&elsewhere.file);
    let cache = FileCache::new(0);
    let run = |bounds: &Bounds| lookup(&query, &elsewhere.buffer, files, &QueryContext { cache: &cache, bounds });
    let late = Bounds { deadline: Some(Instant::now()), ..Bounds::default() };
    assert!(matches!(run(&late), Err(QueryError::TimedOut)));
    let unwanted = Bounds::default();
    unwanted.cancel.cancel();
    assert!(matches!(run(&unwanted), Err(QueryError::Cancelled)));
}

#[test]
fn a_damaged_index_is_an_error_and_no_wrong_answer() {
    let elsewhere = Elsewhere::new(true);
    let FileSource::Object { bytes, .. } = elsewhere.file.source else { panic!("an object") };
    let name = "key-777";
    let reading = Reading::new(0);
    elsewhere.find(name, &reading.context());
    // The second and third rounds read the index.
    let index = {
        let rounds = elsewhere.counted.rounds.lock().unwrap();
        [rounds[1][0].start, rounds[2][0].start]
    };
    let path = elsewhere._dir.path().join("file");
    let whole = std::fs::read(&path).unwrap();
    assert_eq!(whole.len() as u64, bytes);
    for at in index {
        let mut damaged = whole.clone();
        damaged[at as usize + 1] ^= 0x10;
        std::fs::write(&path, &damaged).unwrap();
        let query = by_key(elsewhere.buffer.stream, "k", name);
        let files = std::slice::from_ref(&elsewhere.file);
        let answer = lookup(&query, &elsewhere.buffer, files, &reading.context());
        assert!(answer.unwrap_err().to_string().contains("index of k is damaged"));
    }
}
