//! Time-range queries over files and buffer against a plain model: a list of rows.

#[path = "parquet/batches.rs"]
mod batches;

use batches::{MICROS_AN_HOUR, Random, Stream, file_ref, job};
use bytes::Bytes;
use ttdust_shards::{
    parquet::{self, source::FileSource},
    query::{ANSWER_BYTES_MAX, BufferSnapshot, FileRef, LIMIT_MAX, RecordRow, TimeRangeQuery, time_range},
    transform::{decode_metadata, encode_metadata},
    wal::batch::RowBatch,
};

const SCHEMA: &str = r#"{"type":"object","properties":{"n":{"type":"integer"}}}"#;

/// A stream's history, and the same as batches and as files that hold all of it.
struct History {
    stream: Stream,
    rows: Vec<RecordRow>,
    batches: Vec<RowBatch>,
    files: Vec<FileRef>,
    _dir: tempfile::TempDir,
}

impl History {
    /// Up to `batch_rows` rows a batch and up to `file_batches` batches a file; `None`: one file of all.
    fn new(random: &mut Random, batches: usize, batch_rows: u64, file_batches: Option<u64>) -> Self {
        let mut stream = Stream::new();
        let mut time = 10 * MICROS_AN_HOUR;
        let mut rows = Vec::new();
        let mut all = Vec::new();
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
                .map(|_| Bytes::from(format!(r#"{{"n":{}}}"#, " ".repeat(random.below(9) as usize) + "1")))
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
            let name = format!("{start}.parquet");
            files.push(file_ref(&parquet::write(&job(SCHEMA, &all[start..end], dir.path(), &name)).unwrap()));
            start = end;
        }
        Self { stream, rows, batches: all, files, _dir: dir }
    }

    fn buffer(&self, flushed_through: i64) -> BufferSnapshot {
        let past = |batch: &&RowBatch| batch.header().last_sequence() > flushed_through;
        BufferSnapshot {
            stream: self.stream.id,
            batches: self.batches.iter().filter(past).cloned().collect(),
            flushed_through,
            last_sequence: self.last(),
            next_sequence: self.last() + 1,
        }
    }

    fn last(&self) -> i64 {
        self.rows.last().unwrap().sequence
    }

    fn random_query(&self, random: &mut Random) -> TimeRangeQuery {
        let time = |random: &mut Random| {
            let row = &self.rows[random.below(self.rows.len() as u64) as usize];
            row.timestamp_unix_micros + random.below(3) as i64 - 1
        };
        let (start, end) = (time(random), time(random));
        TimeRangeQuery {
            stream: self.stream.id,
            start_unix_micros: if random.chance(4) { i64::MIN } else { start },
            end_unix_micros: if random.chance(4) { i64::MAX } else { end },
            limit: if random.chance(3) { LIMIT_MAX } else { 1 + random.below(40) as usize },
            after_sequence: random.chance(2).then(|| random.below(self.last() as u64 + 2) as i64),
        }
    }

    fn expected(&self, query: &TimeRangeQuery) -> Vec<&RecordRow> {
        let times = query.start_unix_micros..query.end_unix_micros;
        let after = query.after_sequence.unwrap_or(0);
        self.rows.iter().filter(|row| row.sequence > after && times.contains(&row.timestamp_unix_micros)).collect()
    }

    /// Asks for a page, and then for all that follow it.
    fn check(&self, query: &TimeRangeQuery, flushed_through: i64, files: &[FileRef]) {
        let context = || format!("{query:?}, flushed through {flushed_through}");
        let buffer = self.buffer(flushed_through);
        let expected = self.expected(query);
        let mut query = query.clone();
        let mut seen = 0;
        loop {
            let answer = time_range(&query, &buffer, files).unwrap();
            let page = expected[seen..].iter().take(query.limit);
            assert!(answer.records.iter().eq(page.copied()), "{}: {:?}", context(), answer.records);
            seen += answer.records.len();
            assert!(answer.rows_scanned >= answer.records.len() as u64, "{}", context());
            match answer.next_after {
                Some(after) => {
                    assert_eq!(Some(after), answer.records.last().map(|row| row.sequence), "{}", context());
                    query.after_sequence = Some(after);
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
        let history = History::new(&mut random, 40, 6, Some(9));
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
fn rows_up_to_the_flush_come_from_files_and_later_ones_from_the_buffer() {
    let rows = |origin: &'static str, stream: &mut Stream| -> Vec<RowBatch> {
        (0..5).map(|time| stream.batch(time, &[], &[1, 2, 3, 4].map(|_| Bytes::from(origin)))).collect()
    };
    let dir = tempfile::tempdir().unwrap();
    let (filed, buffered) = (rows("1", &mut Stream::new()), rows("2", &mut Stream::new()));
    let file = file_ref(&parquet::write(&job(SCHEMA, &filed, dir.path(), "file")).unwrap());
    let stream = filed[0].header().stream;
    for flushed_through in 0..=20 {
        let buffer =
            BufferSnapshot { stream, batches: buffered.clone(), flushed_through, last_sequence: 20, next_sequence: 21 };
        let (start_unix_micros, end_unix_micros) = (0, 5);
        let query = TimeRangeQuery { stream, start_unix_micros, end_unix_micros, limit: 100, after_sequence: None };
        let origins = |files: &[FileRef]| {
            let answer = time_range(&query, &buffer, files).unwrap();
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
    let history = History::new(&mut random, 900, 150, None);
    assert_eq!(history.files.len(), 1);
    assert!(history.rows.len() > 2 * parquet::layout::ROW_GROUP_ROWS, "{}", history.rows.len());
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
                start_unix_micros: bound,
                end_unix_micros: bound + 10,
                limit: 100,
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
    let history = History::new(&mut random, 900, 150, None);
    let middle = &history.rows[history.rows.len() / 2];
    let query = TimeRangeQuery {
        stream: history.stream.id,
        start_unix_micros: middle.timestamp_unix_micros,
        end_unix_micros: i64::MAX,
        limit: 10,
        after_sequence: None,
    };
    let answer = time_range(&query, &history.buffer(history.last()), &history.files).unwrap();
    assert_eq!(answer.records.len(), 10);
    assert!(answer.rows_scanned <= 10 + parquet::layout::PAGE_ROWS as u64, "{}", answer.rows_scanned);
    assert_eq!(answer.partitions_scanned, 1);

    let none = TimeRangeQuery { start_unix_micros: i64::MAX - 1, ..query.clone() };
    let answer = time_range(&none, &history.buffer(history.last()), &history.files).unwrap();
    assert_eq!((answer.rows_scanned, answer.partitions_scanned, answer.next_after), (0, 0, None));

    // All in the buffer: no file is opened, even if it is not there.
    let files = [FileRef { source: FileSource::Local("not-there".into()), ..history.files[0].clone() }];
    let answer = time_range(&query, &history.buffer(0), &files).unwrap();
    assert_eq!((answer.records.len(), answer.rows_scanned, answer.partitions_scanned), (10, 10, 1));
    assert!(time_range(&query, &history.buffer(history.last()), &files).is_err());
    // Another file stands where the catalog says.
    let files = [FileRef { last_sequence: history.last() + 1, ..history.files[0].clone() }];
    assert!(time_range(&query, &history.buffer(history.last()), &files).is_err());
}

#[test]
fn an_answer_of_large_records_ends_early() {
    let dir = tempfile::tempdir().unwrap();
    let mut stream = Stream::new();
    let large = Bytes::from(format!(r#"{{"n":1,"filler":"{}"}}"#, "x".repeat(1 << 20)));
    let batches: Vec<RowBatch> = (0..40).map(|time| stream.batch(time, &[], std::slice::from_ref(&large))).collect();
    let file = file_ref(&parquet::write(&job(SCHEMA, &batches, dir.path(), "large")).unwrap());
    for flushed_through in [0, 20, 40] {
        let buffer = BufferSnapshot {
            stream: stream.id,
            batches: batches.clone(),
            flushed_through,
            last_sequence: 40,
            next_sequence: 41,
        };
        let mut query = TimeRangeQuery {
            stream: stream.id,
            start_unix_micros: 0,
            end_unix_micros: 40,
            limit: 1000,
            after_sequence: None,
        };
        let mut sequences = Vec::new();
        loop {
            let answer = time_range(&query, &buffer, std::slice::from_ref(&file)).unwrap();
            let bytes: usize = answer.records.iter().map(|row| row.payload.len()).sum();
            assert!(bytes < ANSWER_BYTES_MAX + large.len(), "{bytes}");
            sequences.extend(answer.records.iter().map(|row| row.sequence));
            query.after_sequence = answer.next_after;
            if answer.next_after.is_none() {
                break;
            }
        }
        assert!(sequences.iter().copied().eq(1..=40), "{sequences:?}");
    }
}
