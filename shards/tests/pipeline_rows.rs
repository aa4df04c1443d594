//! Random records through random pipelines: buffer, files, merged files, lookups and pages of a tail give the same, and what a
//! plain model of the steps says; what is left out is a dead letter exactly where a step wants it to be one.

#[path = "parquet/batches.rs"]
mod batches;

use std::{fs::File, path::Path, sync::Arc};

use arrow_array::{
    RecordBatch,
    cast::AsArray,
    types::{Int64Type, TimestampMicrosecondType},
};
use batches::{MICROS_AN_HOUR, Random, Reading, Stream, buffer_of, file_ref, job, read_all};
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use prost::Message as _;
use serde_json::{Map, Value, json};
use ttdust_proto::query::StreamingReadResponse;
use ttdust_shards::{
    memory::Pool,
    parquet::{self as files, merge},
    pipeline::Pipelines,
    query::{
        BufferSnapshot, FileRef, KeyLookup, Order, RECORD_ID_FIELD, RecordRow, TimeField, TimeRangeQuery, Wanted,
        lookup, time_range,
    },
    record::keys::KeyField,
    tail::page::{PageAsk, Position},
    wal::batch::RowBatch,
};

const DEFINITION: &str = r#"{"type":"object","properties":{
    "id":{"type":"integer"},"name":{"type":"string"},"n":{"type":["integer","string"]},
    "user":{"type":"object","properties":{"id":{"type":"string"},"age":{"type":"integer"}}}}}"#;

/// The steps of version 1, 2 and 3. None takes `id` away, the field that records are looked up by.
fn versions(random: &mut Random) -> Vec<Value> {
    let on_error = |random: &mut Random| ["dlq", "null", "keep", "drop"][random.below(4) as usize];
    let mut versions = Vec::new();
    for _ in 0..3 {
        let mut steps = Vec::new();
        if random.chance(2) {
            steps.push(json!({"type": "exclude", "fields": if random.chance(2) { ["/user/age"] } else { ["user"] }}));
        }
        if random.chance(2) {
            steps.push(json!({"type": "coerce", "fields": ["n"], "to": "integer", "on_error": on_error(random)}));
        }
        if random.chance(2) {
            steps.push(json!({"type": "rename", "fields": {"name": "title", "/user/id": "key"}}));
        }
        if random.chance(2) {
            steps.push(json!({"type": "select", "fields": ["id", "n", "title", "/user/key"]}));
        }
        if random.chance(2) || steps.is_empty() {
            steps.push(json!({"type": "reorder", "fields": ["n", "id"]}));
        }
        versions.push(Value::Array(steps));
    }
    versions
}

fn record(random: &mut Random, id: i64) -> Value {
    let mut record = json!({"id": id});
    if !random.chance(5) {
        record["name"] = json!(["a", "ü\n", ""][random.below(3) as usize]);
    }
    if !random.chance(5) {
        record["n"] = match random.below(5) {
            0 => json!(random.below(1000)),
            1 => json!(format!("{}", random.below(1000))),
            2 => json!("no number"),
            3 => json!(2.5),
            _ => Value::Null,
        };
    }
    if !random.chance(4) {
        record["user"] = json!({"id": format!("u{id}"), "age": random.below(99)});
    }
    record
}

/// What becomes of a record, by the letter of the steps. `Err(true)`: a dead letter; `Err(false)`: left out.
fn model(steps: &Value, mut record: Value) -> Result<Value, bool> {
    for step in steps.as_array().expect("steps") {
        let fields = step["fields"].clone();
        let names = fields.as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>();
        let object = record.as_object_mut().expect("an object");
        match step["type"].as_str().expect("a type") {
            "exclude" if names == ["user"] => drop(object.remove("user")),
            "exclude" => drop(object.get_mut("user").and_then(Value::as_object_mut).map(|user| user.remove("age"))),
            "coerce" => match object.get("n").cloned() {
                None | Some(Value::Null) => {}
                Some(Value::Number(n)) if n.is_u64() => {}
                Some(Value::String(text)) if text.parse::<i64>().is_ok() => {
                    object.insert("n".into(), json!(text.parse::<i64>().expect("digits")));
                }
                Some(_) => match step["on_error"].as_str().expect("text") {
                    "dlq" => return Err(true),
                    "drop" => return Err(false),
                    "null" => drop(object.insert("n".into(), Value::Null)),
                    _ => {}
                },
            },
            "rename" => {
                if let Some(name) = object.remove("name") {
                    object.insert("title".into(), name);
                }
                if let Some(user) = object.get_mut("user").and_then(Value::as_object_mut) {
                    let id = user.remove("id");
                    user.extend(id.map(|id| ("key".to_owned(), id)));
                }
            }
            "select" => {
                let keep = |name: &String| ["id", "n", "title", "user"].contains(&name.as_str());
                object.retain(|name, _| keep(name));
                if let Some(user) = object.get_mut("user").and_then(Value::as_object_mut) {
                    user.retain(|name, _| name == "key");
                }
            }
            _ => {}
        }
    }
    Ok(record)
}

/// A history: what came, and what is to be seen.
struct History {
    stream: Stream,
    pipelines: Arc<Pipelines>,
    steps: Vec<Value>,
    batches: Vec<RowBatch>,
    seen: Vec<(i64, Value)>,
    dead: Vec<(i64, Bytes)>,
}

impl History {
    fn new(random: &mut Random) -> Self {
        let steps = versions(random);
        let numbered = steps.iter().enumerate().map(|(at, steps)| (at as u16 + 1, steps.to_string().into()));
        let pipelines = Arc::new(Pipelines::new(3, numbered));
        let mut history = Self { stream: Stream::new(), pipelines, steps, batches: vec![], seen: vec![], dead: vec![] };
        let mut sequence = 0;
        for at in 0..12 {
            let version = random.below(4) as u16;
            history.stream.pipeline_version = version;
            let mut payloads = Vec::new();
            // Now and then a batch of which nothing may be left.
            let hopeless = random.chance(4);
            for _ in 0..1 + random.below(40) {
                sequence += 1;
                let mut record = record(random, sequence);
                if hopeless {
                    record["n"] = json!("x");
                }
                let payload = Bytes::from(record.to_string());
                match if version == 0 { Ok(record) } else { model(&history.steps[version as usize - 1], record) } {
                    Ok(output) => history.seen.push((sequence, output)),
                    Err(true) => history.dead.push((sequence, payload.clone())),
                    Err(false) => {}
                }
                payloads.push(payload);
            }
            let mut batch = history.stream.batch(10 * MICROS_AN_HOUR + at, b"", &payloads);
            if random.chance(3) {
                batch.spill();
            }
            history.batches.push(batch);
        }
        history
    }

    fn last(&self) -> i64 {
        self.batches.last().expect("batches").header().last_sequence()
    }

    fn buffer(&self, flushed_through: i64) -> BufferSnapshot {
        buffer_of(&self.batches, flushed_through, Arc::clone(&self.pipelines))
    }

    /// Files of a few batches each, and the dead letters that came of them.
    fn flush(&self, random: &mut Random, dir: &Path) -> (Vec<FileRef>, Vec<(i64, Bytes)>) {
        let (mut written, mut dead, mut start) = (Vec::new(), Vec::new(), 0);
        while start < self.batches.len() {
            let end = self.batches.len().min(start + 1 + random.below(3) as usize);
            let mut job = job(DEFINITION, &self.batches[start..end], dir, &format!("{start}.parquet"));
            job.pipelines = Arc::clone(&self.pipelines);
            job.key_fields = [KeyField::new("id")].into();
            let flushed = files::flush(&job).expect("written");
            assert_eq!(files::flush(&job).expect("again").file, flushed.file, "the same again");
            dead.extend(flushed.dead.into_iter().map(|letter| (letter.sequence, letter.payload)));
            written.push(file_ref(&flushed.file));
            start = end;
        }
        (written, dead)
    }

    /// All that a client sees, page by page.
    fn read(&self, flushed: i64, files: &[FileRef], order: Order, limit: usize) -> Vec<RecordRow> {
        let (reading, buffer) = (Reading::new(1 << 20), self.buffer(flushed));
        let (start_unix_micros, end_unix_micros) = (i64::MIN, i64::MAX);
        let mut query = TimeRangeQuery {
            stream: self.stream.id,
            time_field: TimeField::Ingest,
            start_unix_micros,
            end_unix_micros,
            limit,
            order,
            after_sequence: None,
        };
        let mut rows = Vec::new();
        loop {
            let answer = time_range(&query, &buffer, files, &reading.context()).expect("an answer");
            rows.extend(answer.records);
            match answer.next_after {
                Some(after) => query.after_sequence = Some(after),
                None => return rows,
            }
        }
    }

    fn check_lookups(&self, flushed: i64, files: &[FileRef], expected: &[RecordRow]) {
        let (reading, buffer) = (Reading::new(1 << 20), self.buffer(flushed));
        for sequence in (1..=self.last() + 1).step_by(5) {
            let expected = expected.iter().find(|row| row.sequence == sequence);
            let key = Wanted::Key { field: KeyField::new("id"), key: sequence.to_string() };
            for wanted in [Wanted::Sequence(sequence), key] {
                let query = KeyLookup { stream: self.stream.id, wanted };
                let answer = lookup(&query, &buffer, files, &reading.context()).expect("an answer");
                assert_eq!(answer.records.first(), expected, "{sequence} by {query:?} ({RECORD_ID_FIELD})");
            }
        }
    }

    /// What a tail sends that catches up from the beginning; its pieces stand for all rows, without a gap.
    fn tail(&self, flushed: i64, files: &[FileRef]) -> Vec<(i64, Bytes)> {
        let (reading, buffer, pool) = (Reading::new(1 << 20), self.buffer(flushed), Pool::new(1 << 20));
        let (mut rows, mut through) = (Vec::new(), 0);
        loop {
            let from = Position { after: through, not_before: None };
            let ask =
                PageAsk { stream: self.stream.id, from, bytes: 500, pool: Arc::clone(&pool), reserved: pool.charge(0) };
            let answer = time_range(&ask.query(), &buffer, files, &reading.context()).expect("an answer");
            let page = ask.fill(&buffer, answer);
            for piece in &page.pieces {
                assert_eq!(piece.first, through + 1);
                through = piece.last;
                let mut data = &piece.data[..];
                while !data.is_empty() {
                    let length = u32::from_be_bytes(data[1..5].try_into().expect("four")) as usize;
                    let message = StreamingReadResponse::decode(&data[5..5 + length]).expect("a message");
                    let record = message.record.expect("a record");
                    rows.push((record.sequence_number, record.payload));
                    data = &data[5 + length..];
                }
                let cut = piece.clone().after(piece.first).map_or(0, |rest| rest.messages);
                assert_eq!(cut, rows.iter().filter(|(row, _)| *row > piece.first && *row <= piece.last).count() as u64);
            }
            assert_eq!(page.through, through);
            if page.is_last {
                assert_eq!(through, self.last());
                return rows;
            }
        }
    }
}

/// Payloads and the column `n` of a file, where it has one of integers.
fn columns(path: &Path) -> (Vec<String>, Option<Vec<Option<i64>>>) {
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path).expect("a file")).expect("a Parquet file");
    let (mut payloads, mut numbers) = (Vec::new(), Some(Vec::new()));
    for batch in builder.build().expect("a reader") {
        let batch = batch.expect("rows");
        let column = batch.column_by_name("_payload").expect("there").as_string::<i32>();
        payloads.extend(column.iter().map(|text| text.expect("a payload").to_owned()));
        let found = batch.column_by_name("n").and_then(|column| column.as_primitive_opt::<Int64Type>());
        numbers = numbers.zip(found).map(|(all, found)| [all, found.iter().collect()].concat());
    }
    (payloads, numbers)
}

#[test]
fn every_reader_sees_the_same_and_what_the_steps_say() {
    let (mut gaps, mut letters) = (0, 0);
    for seed in 1..=30 {
        let mut random = Random(seed);
        let history = History::new(&mut random);
        let dir = tempfile::tempdir().expect("a directory");
        let (files, dead) = history.flush(&mut random, dir.path());
        assert_eq!(dead, history.dead, "seed {seed}");
        let all = history.read(0, &[], Order::Ascending, 10_000);
        let seen: Vec<(i64, Value)> =
            all.iter().map(|row| (row.sequence, serde_json::from_slice(&row.payload).expect("JSON"))).collect();
        assert_eq!(seen, history.seen, "seed {seed}: {:?}", history.steps);
        gaps += history.last() - all.len() as i64;
        letters += dead.len();

        let ends: Vec<i64> = [0].into_iter().chain(files.iter().map(|file| file.last_sequence)).collect();
        let flushed = ends[random.below(ends.len() as u64) as usize];
        for flushed in [0, flushed, history.last()] {
            let there: Vec<FileRef> = files.iter().filter(|file| file.first_sequence <= flushed).cloned().collect();
            let limit = 1 + random.below(60) as usize;
            assert_eq!(history.read(flushed, &there, Order::Ascending, limit), all, "seed {seed}");
            let mut backward = history.read(flushed, &there, Order::Descending, limit);
            backward.reverse();
            assert_eq!(backward, all, "seed {seed}");
            history.check_lookups(flushed, &there, &all);
            let tailed: Vec<(i64, Bytes)> = all.iter().map(|row| (row.sequence, row.payload.clone())).collect();
            assert_eq!(history.tail(flushed, &there), tailed, "seed {seed}");
        }

        let version = history.batches.last().expect("batches").header().pipeline_version;
        let merged = merge::merge(&merge::MergeJob {
            stream: history.stream.id,
            hour: files[0].hour,
            inputs: files.iter().map(|file| file.source.name().to_owned()).collect(),
            schema: ttdust_shards::ids::SchemaId::from_bytes([9; 16]),
            schema_version: 3,
            definition: DEFINITION.into(),
            pipeline: (version > 0).then(|| history.pipelines.get(version).expect("known")),
            key_fields: [KeyField::new("id")].into(),
            path: dir.path().join("merged.parquet"),
        });
        let merged = merged.expect("merged").file;
        let merged_ref = FileRef { min_timestamp: i64::MIN, max_timestamp: i64::MAX, ..file_ref(&merged) };
        assert_eq!(merged.rows, all.len() as u64);
        assert_eq!(
            history.read(history.last(), std::slice::from_ref(&merged_ref), Order::Ascending, 7),
            all,
            "seed {seed}"
        );
        history.check_lookups(history.last(), &[merged_ref], &all);
        check_columns(&merged.path, &all);
        for file in &files {
            let range = file.first_sequence..=file.last_sequence;
            let rows: Vec<RecordRow> = all.iter().filter(|row| range.contains(&row.sequence)).cloned().collect();
            check_columns(file.source.name(), &rows);
        }
    }
    assert!(gaps > 300 && letters > 50, "{gaps} left out, {letters} dead letters: too few to show anything");
}

/// A file of ours as other readers see it: the payloads, and the integers in them.
fn check_columns(path: &Path, expected: &[RecordRow]) {
    let (payloads, numbers) = columns(path);
    let texts: Vec<&str> = expected.iter().map(|row| std::str::from_utf8(&row.payload).expect("UTF-8")).collect();
    assert_eq!(payloads, texts);
    if let Some(numbers) = numbers {
        let number = |text: &&str| {
            let record: Map<String, Value> = serde_json::from_str(text).expect("an object");
            record.get("n").and_then(Value::as_i64)
        };
        assert_eq!(numbers, texts.iter().map(number).collect::<Vec<_>>());
    }
}

/// The column of event times.
fn event_times(path: &Path) -> Vec<Option<i64>> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path).expect("a file")).expect("a Parquet file");
    let times = |batch: RecordBatch| {
        let times =
            batch.column_by_name("_event_ts").expect("there").as_primitive::<TimestampMicrosecondType>().clone();
        times.iter().collect::<Vec<_>>()
    };
    builder.build().expect("a reader").flat_map(|batch| times(batch.expect("rows"))).collect()
}

#[test]
fn files_have_the_time_of_the_event_where_the_pipeline_tells_it() {
    let mut stream = Stream::new();
    let records = |texts: &[&str]| texts.iter().map(|text| Bytes::from((*text).to_owned())).collect::<Vec<_>>();
    let hour = 10 * MICROS_AN_HOUR;
    let raw = stream.batch(hour, b"", &records(&[r#"{"t":5}"#, r#"{"t":"x"}"#, r#"{"user":{"at":1772366400001}}"#]));
    let steps = |target: &str| {
        json!([
            {"type": "timestamp", "fields": ["/user/t"], "formats": ["%F %T"], "target": target, "event_time": true},
            {"type": "rename", "fields": {"/user/t": "at"}},
        ])
    };
    let dir = tempfile::tempdir().expect("a directory");
    for (version, target) in [(1, "unix_ms"), (2, "rfc3339")] {
        let steps = [(1, steps("unix_ms").to_string().into()), (2, steps("rfc3339").to_string().into())];
        let pipelines = Arc::new(Pipelines::new(2, steps));
        stream.pipeline_version = version;
        let seen = stream.batch(
            hour,
            b"",
            &records(&[r#"{"user":{"t":"2026-03-01 12:00:00"}}"#, r#"{"user":{"t":"x"}}"#, "{}"]),
        );
        let write = |batches: &[RowBatch], name: &str| {
            let mut job = job(DEFINITION, batches, dir.path(), name);
            job.pipelines = Arc::clone(&pipelines);
            files::write(&job).expect("written")
        };
        let file = write(std::slice::from_ref(&seen), "seen");
        assert_eq!(event_times(&file.path), [Some(1_772_366_400_000_000), None, None], "{target}");
        assert_eq!(read_all(&file.path.clone().into(), false).len(), 3);
        if version == 1 {
            let before = write(std::slice::from_ref(&raw), "raw");
            let merged = merge::merge(&merge::MergeJob {
                stream: stream.id,
                hour: file.hour,
                inputs: vec![before.path, file.path],
                schema: ttdust_shards::ids::SchemaId::from_bytes([9; 16]),
                schema_version: 3,
                definition: DEFINITION.into(),
                pipeline: Some(pipelines.get(1).expect("known")),
                key_fields: Arc::default(),
                path: dir.path().join("merged.parquet"),
            });
            let expected = [None, None, Some(1_772_366_400_001_000), Some(1_772_366_400_000_000), None, None];
            assert_eq!(event_times(&merged.expect("merged").file.path), expected, "by the newest version");
        }
    }
}

#[test]
fn rows_of_an_unknown_version_fail_instead_of_being_shown_as_they_are() {
    let mut stream = Stream::new();
    stream.pipeline_version = 7;
    let batches = vec![stream.batch(10 * MICROS_AN_HOUR, b"", &[Bytes::from_static(b"{}")])];
    let dir = tempfile::tempdir().expect("a directory");
    let error = files::flush(&job(DEFINITION, &batches, dir.path(), "f")).expect_err("unknown").to_string();
    assert!(error.contains("version 7 of the stream's pipeline"), "{error}");
    let buffer = BufferSnapshot {
        stream: stream.id,
        batches,
        flushed_through: 0,
        last_sequence: 1,
        next_sequence: 2,
        pipelines: Arc::default(),
    };
    let reading = Reading::new(0);
    let query = KeyLookup { stream: stream.id, wanted: Wanted::Sequence(1) };
    assert!(lookup(&query, &buffer, &[], &reading.context()).is_err());
}

#[test]
fn a_key_is_found_in_what_the_pipeline_makes_of_it_and_nowhere_else() {
    let steps = json!([
        {"type": "coerce", "fields": ["n"], "to": "integer"},
        {"type": "rename", "fields": {"/user/id": "key"}},
        {"type": "exclude", "fields": ["name"]},
    ]);
    let pipelines = Arc::new(Pipelines::new(1, [(1, steps.to_string().into())]));
    let pipeline = pipelines.get(1).expect("known");
    for (field, is_left) in [
        ("n", false),
        ("/n", false),
        ("/user/key", false),
        ("/user/id", false),
        ("/user/id/deeper", false),
        ("/user/other", true),
        ("/other/key", true),
        ("key", true),
        ("name", true),
        ("id", true),
    ] {
        assert_eq!(pipeline.leaves(field), is_left, "{field}");
    }
    let mut stream = Stream::new();
    stream.pipeline_version = 1;
    let record =
        |n: &str, id: u32| Bytes::from(format!(r#"{{"id":{id},"n":"{n}","user":{{"id":"u{id}"}},"name":"x"}}"#));
    let batch = stream.batch(10 * MICROS_AN_HOUR, b"", &[record(" +7", 1), record("8", 20), record("7.0", 3)]);
    let buffer = BufferSnapshot {
        stream: stream.id,
        batches: vec![batch],
        flushed_through: 0,
        last_sequence: 3,
        next_sequence: 4,
        pipelines,
    };
    let reading = Reading::new(0);
    for (field, key, expected) in [
        ("n", "7", Some(3)),
        ("n", "8", Some(2)),
        ("n", " +7", None),
        ("/user/key", "u20", Some(2)),
        ("/user/id", "u20", None),
        ("name", "x", None),
        ("id", "1", Some(1)),
        ("id", "20", Some(2)),
        ("id", "2", None),
    ] {
        let wanted = Wanted::Key { field: KeyField::new(field), key: key.to_owned() };
        let answer =
            lookup(&KeyLookup { stream: stream.id, wanted }, &buffer, &[], &reading.context()).expect("an answer");
        assert_eq!(answer.records.first().map(|row| row.sequence), expected, "{field} {key}");
    }
}
