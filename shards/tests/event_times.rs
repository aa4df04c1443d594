//! Time ranges of events against a plain model: random records under random versions of a pipeline, in the buffer, in files and
//! in merged files. What a query answers is a function of the record, as readers see it, and of the pipeline in force now.

#[path = "parquet/batches.rs"]
mod batches;

use std::{path::Path, sync::Arc, time::Instant};

use batches::{MICROS_AN_HOUR, Random, Reading, Stream, buffer_of, file_ref, job};
use bytes::Bytes;
use serde_json::{Value, json};
use ttdust_shards::{
    ids::SchemaId,
    memory::{Meter, Pool},
    parquet::{self as files, cache::FileCache, layout, merge},
    pipeline::Pipelines,
    query::{
        Bounds, BufferSnapshot, FileRef, Order, QueryAnswer, QueryContext, QueryError, TimeField, TimeRangeQuery,
        time_range,
    },
    wal::batch::RowBatch,
};

const DEFINITION: &str =
    r#"{"type":"object","properties":{"id":{"type":"integer"},"t":{"type":["string","integer"]}}}"#;
/// 2026-03-01T12:00:00Z, Unix s.
const NOON: i64 = 1_772_366_400;
const BOTH: [Order; 2] = [Order::Ascending, Order::Descending];
/// Versions that tell when events were, each in its way; version 4 tells nothing.
const TELLING: [u16; 4] = [1, 2, 3, 5];
/// As version 1, but it leaves out what has no such time.
const DROPPING: u16 = 6;

fn versions() -> Vec<(u16, Arc<str>)> {
    let formats = ["unix_us", "rfc3339"];
    let told = |field: &str, target: &str| json!({"type": "timestamp", "fields": [field], "formats": formats, "target": target, "event_time": true});
    let steps = [
        json!([told("t", "unix_us")]),
        json!([told("t", "rfc3339")]),
        json!([told("u", "unix_us")]),
        json!([{"type": "reorder", "fields": ["u", "id"]}]),
        json!([told("t", "unix_us"), {"type": "rename", "fields": {"t": "at"}}]),
        json!([{"type": "timestamp", "fields": ["t"], "formats": formats, "target": "unix_us", "event_time": true,
            "on_error": "drop"}]),
    ];
    steps.iter().enumerate().map(|(at, steps)| (at as u16 + 1, steps.to_string().into())).collect()
}

fn text_of(seconds: i64) -> String {
    format!("2026-03-01T12:{:02}:{:02}Z", seconds / 60, seconds % 60)
}

/// A second after noon, as records and readers may have it.
fn second_of(value: &Value) -> Option<i64> {
    match value {
        Value::Number(micros) => micros.as_i64().map(|micros| micros / 1_000_000 - NOON),
        Value::String(text) => (0..3600).find(|seconds| text_of(*seconds) == *text),
        _ => None,
    }
}

fn micros_of(seconds: i64) -> i64 {
    (NOON + seconds) * 1_000_000
}

fn time(random: &mut Random) -> Option<Value> {
    let seconds = random.below(3600) as i64;
    match random.below(8) {
        0..3 => Some(json!(micros_of(seconds))),
        3..6 => Some(json!(text_of(seconds))),
        6 => Some([json!("x"), json!(null), json!({"t": micros_of(seconds)})][random.below(3) as usize].clone()),
        _ => None,
    }
}

/// What readers see of a record under a version.
fn seen(version: u16, mut record: Value) -> Value {
    let field = if version == 3 { "u" } else { "t" };
    let second = record.get(field).and_then(second_of);
    match (version, second) {
        (1 | 3 | 5, Some(second)) => record[field] = json!(micros_of(second)),
        (2, Some(second)) => record[field] = json!(text_of(second)),
        _ => {}
    }
    if version == 5
        && let Some(time) = record.as_object_mut().expect("an object").remove("t")
    {
        record["at"] = time;
    }
    record
}

/// When the event of a record was, as `current` tells it of what readers see.
fn event(current: u16, seen: &Value) -> Option<i64> {
    let value = seen.get(["", "t", "t", "u", "", "at"][current as usize])?;
    (value.is_string() == (current == 2)).then(|| second_of(value)).flatten().map(micros_of)
}

struct History {
    stream: Stream,
    batches: Vec<RowBatch>,
    seen: Vec<(i64, Value)>,
}

impl History {
    fn new(random: &mut Random) -> Self {
        let mut history = Self { stream: Stream::new(), batches: vec![], seen: vec![] };
        for at in 0..14 {
            let version = random.below(6) as u16;
            history.stream.pipeline_version = version;
            let mut payloads = Vec::new();
            for _ in 0..1 + random.below(30) {
                let id = history.seen.len() as i64 + 1;
                let mut record = json!({"id": id});
                for field in ["t", "u"] {
                    if let Some(time) = time(random) {
                        record[field] = time;
                    }
                }
                payloads.push(Bytes::from(record.to_string()));
                history.seen.push((id, seen(version, record)));
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
        self.seen.len() as i64
    }

    fn buffer(&self, current: u16, flushed_through: i64) -> BufferSnapshot {
        buffer_of(&self.batches, flushed_through, Arc::new(Pipelines::new(current, versions())))
    }

    fn flush(&self, random: &mut Random, dir: &Path) -> Vec<FileRef> {
        let (mut written, mut start) = (Vec::new(), 0);
        while start < self.batches.len() {
            let end = self.batches.len().min(start + 1 + random.below(3) as usize);
            let mut job = job(DEFINITION, &self.batches[start..end], dir, &format!("{start}.parquet"));
            job.pipelines = Arc::new(Pipelines::new(0, versions()));
            written.push(file_ref(&files::write(&job).expect("written")));
            start = end;
        }
        written
    }

    /// Neighbours as one file, as a compaction does it.
    fn merge(&self, files: &[FileRef], dir: &Path) -> FileRef {
        let of = |batch: &&RowBatch| batch.header().last_sequence() == files[files.len() - 1].last_sequence;
        let version = self.batches.iter().find(of).expect("its last batch").header().pipeline_version;
        let pipelines = Pipelines::new(0, versions());
        let merged = merge::merge(&merge::MergeJob {
            stream: self.stream.id,
            hour: files[0].hour,
            inputs: files.iter().map(|file| file.source.name().to_owned()).collect(),
            schema: SchemaId::from_bytes([9; 16]),
            schema_version: 3,
            definition: DEFINITION.into(),
            pipeline: (version > 0).then(|| pipelines.get(version).expect("known")),
            key_fields: Arc::default(),
            path: dir.join(format!("merged-{}.parquet", files[files.len() - 1].last_sequence)),
        });
        file_ref(&merged.expect("merged").file)
    }

    fn query(&self, (start, end): (i64, i64), order: Order, limit: usize) -> TimeRangeQuery {
        TimeRangeQuery {
            stream: self.stream.id,
            time_field: TimeField::Event,
            start_unix_micros: start,
            end_unix_micros: end,
            limit,
            order,
            after_sequence: None,
        }
    }

    /// All pages, of places that hold more rows in files with each page: `places` are what is flushed and in which files.
    /// `hurried`: each page ends as soon as it may.
    fn pages(
        &self,
        mut query: TimeRangeQuery,
        (current, hurried): (u16, bool),
        places: &[(i64, &[FileRef])],
    ) -> Vec<(i64, Value)> {
        let cache = FileCache::new(1 << 20);
        // Little memory: pages may end early.
        let page_until = hurried.then(Instant::now);
        let bounds = Bounds { meter: Meter::new(Pool::new(1 << 20), 40_000), page_until, ..Bounds::default() };
        let context = QueryContext { cache: &cache, bounds: &bounds };
        let mut places = places.iter();
        let mut place = places.next().expect("a place");
        let mut rows = Vec::new();
        loop {
            let answer = time_range(&query, &self.buffer(current, place.0), place.1, &context).expect("an answer");
            assert!(answer.records.len() <= query.limit);
            let row = |row: &ttdust_shards::query::RecordRow| {
                (row.sequence, serde_json::from_slice(&row.payload).expect("JSON"))
            };
            rows.extend(answer.records.iter().map(row));
            match answer.next_after {
                Some(after) => go_on(&mut query, after),
                None => return rows,
            }
            place = places.next().unwrap_or(place);
        }
    }
}

/// The next page is elsewhere.
fn go_on(query: &mut TimeRangeQuery, after: i64) {
    let is_ahead = query.after_sequence.is_none_or(|before| match query.order {
        Order::Ascending => after > before,
        Order::Descending => after < before,
    });
    assert!(is_ahead, "{after} comes after {query:?}");
    query.after_sequence = Some(after);
}

#[test]
fn a_range_of_events_answers_as_a_list_would_wherever_the_rows_lie() {
    let mut found = 0;
    for seed in 1..=25 {
        let mut random = Random(seed);
        let history = History::new(&mut random);
        let dir = tempfile::tempdir().expect("a directory");
        let files = history.flush(&mut random, dir.path());
        let middle = files.len() / 2;
        let mut merged = vec![history.merge(&files[..middle.max(1)], dir.path())];
        merged.extend_from_slice(&files[middle.max(1)..]);
        let all_merged = [history.merge(&files, dir.path())];
        let flushed = files[middle].last_sequence;
        let half: Vec<FileRef> = files[..=middle].to_vec();
        for current in TELLING {
            for _ in 0..6 {
                let bound = |random: &mut Random| match random.below(6) {
                    0 => i64::MIN,
                    1 => i64::MAX,
                    _ => micros_of(random.below(3600) as i64) + random.below(3) as i64 - 1,
                };
                let (one, other) = (bound(&mut random), bound(&mut random));
                let range = (one.min(other), one.max(other));
                let limit = if random.chance(3) { 10_000 } else { 1 + random.below(20) as usize };
                for order in BOTH {
                    let is_wanted = |row: &&(i64, Value)| {
                        event(current, &row.1).is_some_and(|time| (range.0..range.1).contains(&time))
                    };
                    let mut expected: Vec<(i64, Value)> = history.seen.iter().filter(is_wanted).cloned().collect();
                    if order == Order::Descending {
                        expected.reverse();
                    }
                    found += expected.len();
                    let last = history.last();
                    let places: [&[(i64, &[FileRef])]; 5] = [
                        &[(0, &[])],
                        &[(flushed, &half[..])],
                        &[(last, &files[..])],
                        &[(last, &all_merged)],
                        // Flushed and merged while a client turns the pages.
                        &[(0, &[]), (flushed, &half[..]), (last, &files[..]), (last, &merged[..]), (last, &all_merged)],
                    ];
                    for place in places {
                        let how = (current, random.chance(2));
                        let pages = history.pages(history.query(range, order, limit), how, place);
                        assert_eq!(pages, expected, "seed {seed}, {how:?}, {range:?}, {order:?}, {place:?}");
                    }
                }
            }
        }
        for silent in [0, 4] {
            let query = history.query((0, 1), Order::Ascending, 1);
            for flushed in [0, history.last()] {
                let buffer = history.buffer(silent, flushed);
                let refused = time_range(&query, &buffer, &files, &Reading::new(0).context());
                assert!(matches!(refused, Err(QueryError::NoEventTime)), "{refused:?}");
            }
        }
    }
    assert!(found > 10_000, "{found} records: too few to show anything");
}

/// One file of many row groups, by version 1: events about in order, and now and then ten thousand records without one.
fn large(random: &mut Random, dir: &Path) -> (History, Vec<Option<i64>>, FileRef) {
    let mut history = History { stream: Stream::new(), batches: vec![], seen: vec![] };
    history.stream.pipeline_version = 1;
    let mut times = Vec::new();
    for at in 0..100 {
        let has_times = at % 25 < 12;
        let mut payloads = Vec::new();
        for _ in 0..1000 {
            let row = times.len() as i64;
            let time = has_times.then(|| micros_of(0) + row * 10 + random.below(5000) as i64);
            let t = time.map_or_else(String::new, |time| format!(r#","t":{time}"#));
            payloads.push(Bytes::from(format!(r#"{{"id":{row}{t}}}"#)));
            times.push(time);
        }
        history.batches.push(history.stream.batch(10 * MICROS_AN_HOUR + at, b"", &payloads));
    }
    let mut job = job(DEFINITION, &history.batches, dir, "large.parquet");
    job.pipelines = Arc::new(Pipelines::new(0, versions()));
    let file = file_ref(&files::write(&job).expect("written"));
    (history, times, file)
}

#[test]
fn only_pages_that_may_hold_an_event_are_looked_at() {
    let mut random = Random(3);
    let dir = tempfile::tempdir().expect("a directory");
    let (history, times, file) = large(&mut random, dir.path());
    assert!(times.len() > 3 * layout::FLUSHED_GROUP_ROWS);
    let last = times.len() as i64;
    let buffer = BufferSnapshot { last_sequence: last, next_sequence: last + 1, ..history.buffer(1, last) };
    let reading = Reading::new(1 << 20);
    let ask = |query: &TimeRangeQuery| -> QueryAnswer {
        time_range(query, &buffer, std::slice::from_ref(&file), &reading.context()).expect("an answer")
    };
    for _ in 0..40 {
        let start = micros_of(0) + random.below(times.len() as u64) as i64 * 10;
        let range = (start, start + 1 + random.below(200) as i64 * 10);
        for order in BOTH {
            let wanted = |(row, time): (usize, &Option<i64>)| {
                time.is_some_and(|time| (range.0..range.1).contains(&time)).then_some(row as i64 + 1)
            };
            let mut expected: Vec<i64> = times.iter().enumerate().filter_map(wanted).collect();
            if order == Order::Descending {
                expected.reverse();
            }
            let mut query = history.query(range, order, 1 + random.below(100) as usize);
            let mut found = Vec::new();
            loop {
                let answer = ask(&query);
                found.extend(answer.records.iter().map(|row| row.sequence));
                // A few pages of times, and what is read of the rows with what is between them.
                assert!(answer.rows_scanned <= 5 * layout::PAGE_ROWS as u64, "{}", answer.rows_scanned);
                match answer.next_after {
                    Some(after) => query.after_sequence = Some(after),
                    None => break,
                }
            }
            assert_eq!(found, expected, "{range:?} {order:?}");
        }
    }
    // Before and after all events: nothing but the footer.
    for range in [(i64::MIN, micros_of(0)), (micros_of(0) + last * 10 + 5000, i64::MAX)] {
        let answer = ask(&history.query(range, Order::Ascending, 10));
        assert_eq!((answer.records.len(), answer.rows_scanned, answer.next_after), (0, 0, None));
    }
    // One that is enough ends it.
    let answer = ask(&history.query((i64::MIN, i64::MAX), Order::Descending, 1));
    assert!(answer.rows_scanned <= 1 + layout::PAGE_ROWS as u64, "{}", answer.rows_scanned);
    assert_eq!(answer.records.len(), 1);
}

/// One file of many row groups by this version, in each page of which events are early and late; those of a few rows are between.
fn sparse(version: u16, dir: &Path) -> (History, Vec<i64>, FileRef) {
    let mut history = History { stream: Stream::new(), batches: vec![], seen: vec![] };
    history.stream.pipeline_version = version;
    let mut between = Vec::new();
    for at in 0..100 {
        let payloads = (0..1000).map(|index| {
            let row = at * 1000 + index;
            let time = match row % 3 {
                _ if row % 24_999 == 7 => micros_of(1800),
                0 => micros_of(1),
                1 => micros_of(3599),
                // No time at all.
                _ => return Bytes::from(format!(r#"{{"id":{row},"t":"x"}}"#)),
            };
            if time == micros_of(1800) {
                between.push(row + 1);
            }
            Bytes::from(format!(r#"{{"id":{row},"t":{time},"u":{time}}}"#))
        });
        let payloads: Vec<Bytes> = payloads.collect();
        history.batches.push(history.stream.batch(10 * MICROS_AN_HOUR + at, b"", &payloads));
    }
    let mut job = job(DEFINITION, &history.batches, dir, &format!("sparse-{version}.parquet"));
    job.pipelines = Arc::new(Pipelines::new(0, versions()));
    let file = file_ref(&files::write(&job).expect("written"));
    (history, between, file)
}

#[test]
fn a_search_whose_time_is_over_goes_on_where_it_has_come_to() {
    let dir = tempfile::tempdir().expect("a directory");
    // Told by the file's column, also where rows are left out; by the records themselves; and from the buffer.
    for (version, current, flushed) in [(1, 1, true), (DROPPING, DROPPING, true), (1, 3, true), (1, 1, false)] {
        let (history, between, file) = sparse(version, dir.path());
        assert!(between.len() >= 4, "{between:?}");
        let last = 100_000;
        let buffer = BufferSnapshot {
            last_sequence: last,
            next_sequence: last + 1,
            ..history.buffer(current, if flushed { last } else { 0 })
        };
        for order in BOTH {
            let cache = FileCache::new(1 << 20);
            let mut query = history.query((micros_of(1800), micros_of(1801)), order, 1000);
            let (mut found, mut calls) = (Vec::new(), 0);
            loop {
                // It is over at once: each call does what it must.
                let bounds = Bounds { page_until: Some(Instant::now()), ..Bounds::default() };
                let context = QueryContext { cache: &cache, bounds: &bounds };
                let answer = time_range(&query, &buffer, std::slice::from_ref(&file), &context).expect("an answer");
                calls += 1;
                assert!(answer.rows_scanned <= 3 * layout::PAGE_ROWS as u64, "{}", answer.rows_scanned);
                assert_eq!(answer.is_partial, answer.next_after.is_some(), "none is full");
                found.extend(answer.records.iter().map(|row| row.sequence));
                match answer.next_after {
                    Some(after) => go_on(&mut query, after),
                    None => break,
                }
            }
            assert!(calls >= 15, "{calls} calls");
            let mut expected = between.clone();
            if order == Order::Descending {
                expected.reverse();
            }
            assert_eq!(found, expected, "{version} {current} {flushed} {order:?}");
        }
    }
}

#[test]
fn files_without_such_events_are_not_opened_again_even_when_their_footers_are_forgotten() {
    let mut random = Random(11);
    let dir = tempfile::tempdir().expect("a directory");
    let mut history = History { stream: Stream::new(), batches: vec![], seen: vec![] };
    history.stream.pipeline_version = 1;
    let mut files = Vec::new();
    for at in 0..20 {
        let time = micros_of(at * 100 + random.below(50) as i64);
        let batch = history.stream.batch(10 * MICROS_AN_HOUR + at, b"", &[format!(r#"{{"t":{time}}}"#).into()]);
        let mut job = job(DEFINITION, std::slice::from_ref(&batch), dir.path(), &format!("{at}.parquet"));
        job.pipelines = Arc::new(Pipelines::new(0, versions()));
        files.push(file_ref(&files::write(&job).expect("written")));
        history.batches.push(batch);
    }
    let buffer = BufferSnapshot { last_sequence: 20, next_sequence: 21, ..history.buffer(1, 20) };
    // A footer is larger than what is kept at all.
    let reading = Reading::new(8 * 4096);
    let ask = |range| time_range(&history.query(range, Order::Ascending, 10), &buffer, &files, &reading.context());
    let between = (micros_of(1060), micros_of(1100));
    let first = ask(between).expect("an answer");
    assert_eq!((first.records.len(), first.cache_misses), (0, 20));
    files.iter().for_each(|file| std::fs::remove_file(file.source.name()).expect("removed"));
    let again = ask(between).expect("an answer without a look into a file");
    assert_eq!((again.records.len(), again.cache_hits, again.cache_misses), (0, 20, 0));
    assert_eq!((again.next_after, again.partitions_scanned), (None, 0));
    assert!(ask((micros_of(1000), micros_of(1050))).is_err(), "this one would have to be opened");
}
