//! Time-range queries over files and buffer against a plain model: a list of rows.

#[path = "parquet/batches.rs"]
mod batches;
#[path = "parquet/history.rs"]
mod history;

use std::time::Instant;

use batches::{Random, Reading, Stream, file_ref, job};
use bytes::Bytes;
use history::{History, SCHEMA};
use ttdust_shards::{
    parquet::{self, cache::FileCache, source::FileSource},
    query::{
        ANSWER_BYTES_MAX, Bounds, BufferSnapshot, FileRef, LIMIT_MAX, Order, QueryContext, RecordRow, TimeField,
        TimeRangeQuery, time_range,
    },
    transform::encode_metadata,
    wal::batch::RowBatch,
};

const BOTH: [Order; 2] = [Order::Ascending, Order::Descending];

impl History {
    fn random_query(&self, random: &mut Random) -> TimeRangeQuery {
        let time = |random: &mut Random| {
            let row = &self.rows[random.below(self.rows.len() as u64) as usize];
            row.timestamp_unix_micros + random.below(3) as i64 - 1
        };
        let (start, end) = (time(random), time(random));
        TimeRangeQuery {
            stream: self.stream.id,
            time_field: TimeField::Ingest,
            start_unix_micros: if random.chance(4) { i64::MIN } else { start },
            end_unix_micros: if random.chance(4) { i64::MAX } else { end },
            limit: if random.chance(3) { LIMIT_MAX } else { 1 + random.below(40) as usize },
            order: BOTH[random.below(2) as usize],
            after_sequence: random.chance(2).then(|| random.below(self.last() as u64 + 2) as i64),
        }
    }

    fn expected(&self, query: &TimeRangeQuery) -> Vec<&RecordRow> {
        let times = query.start_unix_micros..query.end_unix_micros;
        let wanted = |row: &&RecordRow| {
            times.contains(&row.timestamp_unix_micros)
                && query.after_sequence.is_none_or(|after| match query.order {
                    Order::Ascending => row.sequence > after,
                    Order::Descending => row.sequence < after,
                })
        };
        match query.order {
            Order::Ascending => self.rows.iter().filter(wanted).collect(),
            Order::Descending => self.rows.iter().rev().filter(wanted).collect(),
        }
    }

    /// Asks for a page, and then for all that follow it, while rows move from the buffer to files.
    fn check(&self, query: &TimeRangeQuery, mut flushed_through: i64, files: &[FileRef]) {
        let moving = files.len() == self.files.len();
        let reading = Reading::new(1 << 20);
        let expected = self.expected(query);
        let first = query;
        let mut query = query.clone();
        let mut seen = 0;
        loop {
            let context = || format!("{first:?}, flushed through {flushed_through}");
            let answer = time_range(&query, &self.buffer(flushed_through), files, &reading.context()).unwrap();
            let page = expected[seen..].iter().take(query.limit);
            assert!(answer.records.iter().eq(page.copied()), "{}: {:?}", context(), answer.records);
            seen += answer.records.len();
            assert!(answer.rows_scanned >= answer.records.len() as u64, "{}", context());
            match answer.next_after {
                Some(after) => {
                    assert_eq!(Some(after), answer.records.last().map(|row| row.sequence), "{}", context());
                    query.after_sequence = Some(after);
                    if moving {
                        flushed_through = self.last().min(flushed_through + 3);
                    }
                }
                None => break assert_eq!(seen, expected.len(), "{}", context()),
            }
        }
    }
}

#[test]
fn every_split_of_files_and_buffer_answers_as_a_list_would() {
    for seed in 1..=6 {
        let mut random = Random(seed);
        let history = History::new(&mut random, 40, 6, Some(9), 2);
        for flushed_through in 0..=history.last() {
            let mut files = history.files.clone();
            // As the catalog may give them: in any order, and with files that were committed after the snapshot, or not.
            if random.chance(2) {
                files.reverse();
            }
            if random.chance(2) {
                files.retain(|file| file.first_sequence <= flushed_through);
            }
            for _ in 0..8 {
                history.check(&history.random_query(&mut random), flushed_through, &files);
            }
        }
    }
}

#[test]
fn pages_that_end_before_they_are_full_miss_nothing() {
    let cache = FileCache::new(1 << 20);
    for seed in 1..=4 {
        let mut random = Random(seed);
        let history = History::new(&mut random, 40, 6, Some(9), 2);
        for flushed_through in (0..=history.last()).step_by(5) {
            for _ in 0..4 {
                let first = history.random_query(&mut random);
                let (mut query, mut found) = (first.clone(), Vec::new());
                loop {
                    let bounds = Bounds { page_until: Some(Instant::now()), ..Bounds::default() };
                    let context = QueryContext { cache: &cache, bounds: &bounds };
                    let buffer = history.buffer(flushed_through);
                    let answer = time_range(&query, &buffer, &history.files, &context).unwrap();
                    found.extend(answer.records);
                    let Some(after) = answer.next_after else { break };
                    assert_ne!(query.after_sequence.replace(after), Some(after), "it has gone ahead");
                }
                assert!(found.iter().eq(history.expected(&first)), "{first:?}, flushed through {flushed_through}");
            }
        }
    }
}

#[test]
fn rows_up_to_the_flush_come_from_files_and_later_ones_from_the_buffer() {
    let rows = |origin: &'static str, stream: &mut Stream| -> Vec<RowBatch> {
        (0..5).map(|time| stream.batch(time, &[], &[1, 2, 3, 4].map(|_| Bytes::from(origin)))).collect()
    };
    let dir = tempfile::tempdir().unwrap();
    let (filed, buffered) = (rows("1", &mut Stream::new()), rows("2", &mut Stream::new()));
    let file = file_ref(&parquet::write(&job(SCHEMA, &filed, dir.path(), "file")).unwrap());
    let stream = filed[0].header().stream;
    for flushed_through in 0..=20 {
        let buffer = BufferSnapshot {
            stream,
            batches: buffered.clone(),
            flushed_through,
            last_sequence: 20,
            next_sequence: 21,
            pipelines: Default::default(),
        };
        let (start_unix_micros, end_unix_micros) = (0, 5);
        let query = TimeRangeQuery {
            stream,
            time_field: TimeField::Ingest,
            start_unix_micros,
            end_unix_micros,
            limit: 100,
            order: Order::Ascending,
            after_sequence: None,
        };
        let origins = |files: &[FileRef]| {
            let answer = time_range(&query, &buffer, files, &Reading::new(0).context()).unwrap();
            answer.records.iter().map(|row| (row.sequence, row.payload[0])).collect::<Vec<_>>()
        };
        let expected: Vec<(i64, u8)> =
            (1..=20).map(|sequence| (sequence, if sequence <= flushed_through { b'1' } else { b'2' })).collect();
        assert_eq!(origins(std::slice::from_ref(&file)), expected);
        // The file is gone, by its age say: its rows do not come back from a batch that is still there.
        assert_eq!(origins(&[]), expected[flushed_through as usize..]);
    }
}

#[test]
fn rows_are_found_across_pages_and_row_groups() {
    let mut random = Random(77);
    let history = History::new(&mut random, 900, 150, None, 0);
    assert_eq!(history.files.len(), 1);
    assert!(history.rows.len() > 2 * parquet::layout::FLUSHED_GROUP_ROWS, "{}", history.rows.len());
    let flushed_through = history.last();
    for _ in 0..60 {
        let mut query = history.random_query(&mut random);
        query.limit = query.limit.max(500);
        query.end_unix_micros = query.end_unix_micros.min(query.start_unix_micros.saturating_add(300));
        history.check(&query, flushed_through, &history.files);
    }
    // A bound that stands at, before and after the first row of each page and row group.
    for row in [0, 1, 4095, 4096, 4097, 32_767, 32_768, 32_769, history.rows.len() - 1] {
        for shift in [-1, 0, 1] {
            let bound = history.rows[row].timestamp_unix_micros + shift;
            let mut query = TimeRangeQuery {
                stream: history.stream.id,
                time_field: TimeField::Ingest,
                start_unix_micros: bound,
                end_unix_micros: bound + 10,
                limit: 100,
                order: BOTH[(row + usize::from(shift == 0)) % 2],
                after_sequence: None,
            };
            history.check(&query, flushed_through, &history.files);
            (query.start_unix_micros, query.end_unix_micros) = (bound - 10, bound);
            history.check(&query, flushed_through, &history.files);
        }
    }
}

#[test]
fn only_what_is_needed_is_read() {
    let mut random = Random(5);
    let history = History::new(&mut random, 900, 150, None, 0);
    let reading = Reading::new(0);
    let middle = &history.rows[history.rows.len() / 2];
    let query = TimeRangeQuery {
        stream: history.stream.id,
        time_field: TimeField::Ingest,
        start_unix_micros: middle.timestamp_unix_micros,
        end_unix_micros: i64::MAX,
        limit: 10,
        order: Order::Ascending,
        after_sequence: None,
    };
    let answer = time_range(&query, &history.buffer(history.last()), &history.files, &reading.context()).unwrap();
    assert_eq!(answer.records.len(), 10);
    assert!(answer.rows_scanned <= 10 + parquet::layout::PAGE_ROWS as u64, "{}", answer.rows_scanned);
    assert_eq!(answer.partitions_scanned, 1);

    let none = TimeRangeQuery { start_unix_micros: i64::MAX - 1, ..query.clone() };
    let answer = time_range(&none, &history.buffer(history.last()), &history.files, &reading.context()).unwrap();
    assert_eq!((answer.rows_scanned, answer.partitions_scanned, answer.next_after), (0, 0, None));

    // All in the buffer: no file is opened, even if it is not there.
    let files = [FileRef { source: FileSource::Local("not-there".into()), ..history.files[0].clone() }];
    let answer = time_range(&query, &history.buffer(0), &files, &reading.context()).unwrap();
    assert_eq!((answer.records.len(), answer.rows_scanned, answer.partitions_scanned), (10, 10, 1));
    assert!(time_range(&query, &history.buffer(history.last()), &files, &reading.context()).is_err());
    // Another file stands where the catalog says.
    let files = [FileRef { last_sequence: history.last() + 1, ..history.files[0].clone() }];
    assert!(time_range(&query, &history.buffer(history.last()), &files, &reading.context()).is_err());
}

#[test]
fn an_answer_of_large_records_ends_early() {
    let dir = tempfile::tempdir().unwrap();
    let reading = Reading::new(0);
    let mut stream = Stream::new();
    let large = Bytes::from(format!(r#"{{"n":1,"filler":"{}"}}"#, "x".repeat(1 << 20)));
    let batches: Vec<RowBatch> = (0..40).map(|time| stream.batch(time, &[], std::slice::from_ref(&large))).collect();
    let file = file_ref(&parquet::write(&job(SCHEMA, &batches, dir.path(), "large")).unwrap());
    for (flushed_through, order) in [0, 20, 40].into_iter().flat_map(|through| BOTH.map(|order| (through, order))) {
        let buffer = BufferSnapshot {
            stream: stream.id,
            batches: batches.clone(),
            flushed_through,
            last_sequence: 40,
            next_sequence: 41,
            pipelines: Default::default(),
        };
        let mut query = TimeRangeQuery {
            stream: stream.id,
            time_field: TimeField::Ingest,
            start_unix_micros: 0,
            end_unix_micros: 40,
            limit: 1000,
            order,
            after_sequence: None,
        };
        let mut sequences = Vec::new();
        loop {
            let answer = time_range(&query, &buffer, std::slice::from_ref(&file), &reading.context()).unwrap();
            let bytes: usize = answer.records.iter().map(|row| row.payload.len()).sum();
            assert!(bytes < ANSWER_BYTES_MAX + large.len(), "{bytes}");
            sequences.extend(answer.records.iter().map(|row| row.sequence));
            query.after_sequence = answer.next_after;
            if answer.next_after.is_none() {
                break;
            }
        }
        if order == Order::Descending {
            sequences.reverse();
        }
        assert!(sequences.iter().copied().eq(1..=40), "{sequences:?}");
    }
}

#[test]
fn an_answer_of_much_metadata_ends_early_too() {
    let reading = Reading::new(0);
    let mut stream = Stream::new();
    let metadata: std::collections::BTreeMap<String, String> =
        (0..2000).map(|n| (format!("{n:x}"), String::new())).collect();
    let payloads = vec![Bytes::from_static(b"1"); LIMIT_MAX];
    let batch = stream.batch(0, &encode_metadata(&metadata), &payloads);
    let batches = vec![batch];
    let (last_sequence, next_sequence) = (LIMIT_MAX as i64, LIMIT_MAX as i64 + 1);
    let buffer = BufferSnapshot {
        stream: stream.id,
        batches,
        flushed_through: 0,
        last_sequence,
        next_sequence,
        pipelines: Default::default(),
    };
    let query = TimeRangeQuery {
        stream: stream.id,
        time_field: TimeField::Ingest,
        start_unix_micros: 0,
        end_unix_micros: 1,
        limit: LIMIT_MAX,
        order: Order::Ascending,
        after_sequence: None,
    };
    let answer = time_range(&query, &buffer, &[], &reading.context()).unwrap();
    let pairs: usize = answer.records.iter().map(|row| row.metadata.len()).sum();
    assert!(pairs > 0 && pairs * size_of::<(String, String)>() <= ANSWER_BYTES_MAX, "{pairs}");
    assert_eq!(answer.next_after, Some(answer.records.len() as i64));
}
