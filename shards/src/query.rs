//! Plan and merge: one answer from the buffer and the files, with no gap and no double.
//!
//! The buffer's snapshot carries `flushed_through`, taken in one step with its rows: rows up to it come from the files, rows
//! past it from the buffer. Runs on workers, never on a shard's reactor.

pub mod cursor;

pub use cursor::{CursorError, decode_cursor, encode_cursor};

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::{
    ids::StreamId,
    parquet::{
        ParquetFileError, PartitionHour,
        read::{FileReader, FileRow},
        source::FileSource,
    },
    transform::decode_metadata,
    wal::batch::RowBatch,
};

/// The most rows one answer holds.
pub const LIMIT_MAX: usize = 10_000;
/// The rows of an answer when the client names no number.
pub const LIMIT_DEFAULT: usize = 1000;

/// An answer ends early when its payloads come to this many bytes.
pub const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A stream's rows that are not in a committed file, and where the files end.
#[derive(Debug, Clone)]
pub struct BufferSnapshot {
    /// The stream.
    pub stream: StreamId,
    /// Rows past `flushed_through`, oldest first. A batch may begin at or before it: skip those rows.
    pub batches: Vec<RowBatch>,
    /// Rows up to this sequence number are in committed files. 0: none.
    pub flushed_through: i64,
    /// The last synced row of the stream. 0: none.
    pub last_sequence: i64,
    /// The sequence number that the next row gets: at least one past `last_sequence`, more while rows are being synced.
    pub next_sequence: i64,
}

/// A committed file, as the catalog knows it.
#[derive(Debug, Clone)]
pub struct FileRef {
    /// Where it lies.
    pub source: FileSource,
    /// The hour.
    pub hour: PartitionHour,
    /// Its first sequence number.
    pub first_sequence: i64,
    /// Its last sequence number.
    pub last_sequence: i64,
    /// The time of its first row, Unix µs.
    pub min_timestamp: i64,
    /// The time of its last row, Unix µs.
    pub max_timestamp: i64,
    /// Its length in bytes.
    pub bytes: u64,
}

/// Records of one stream ingested in [`start`, `end`), oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeRangeQuery {
    /// The stream.
    pub stream: StreamId,
    /// Unix µs, inclusive.
    pub start_unix_micros: i64,
    /// Unix µs, exclusive.
    pub end_unix_micros: i64,
    /// 1 to [`LIMIT_MAX`].
    pub limit: usize,
    /// Only rows past this sequence number: where the page before ended.
    pub after_sequence: Option<i64>,
}

/// A record of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordRow {
    /// Its sequence number.
    pub sequence: i64,
    /// When it was ingested, Unix µs.
    pub timestamp_unix_micros: i64,
    /// Byte for byte as it came.
    pub payload: Bytes,
    /// Name and value, sorted by name.
    pub metadata: Vec<(String, String)>,
}

/// An answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TimeRangeAnswer {
    /// At most `limit` records, and fewer when they are large: see [`ANSWER_BYTES_MAX`].
    pub records: Vec<RecordRow>,
    /// More may follow: ask again with this as `after_sequence`.
    pub next_after: Option<i64>,
    /// Rows looked at.
    pub rows_scanned: u64,
    /// Hours looked into: files' partitions, and one for the buffer if it had rows.
    pub partitions_scanned: u64,
}

/// Why a query has no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// A file that the catalog names cannot be read.
    #[error(transparent)]
    File(#[from] ParquetFileError),
    /// Rows that are only in the log cannot be read.
    #[error("cannot read buffered rows from the log: {0}")]
    Log(#[source] std::io::Error),
}

/// Answers a time-range query. `files` may be in any order and may be more than are needed.
///
/// # Errors
/// See [`QueryError`].
///
/// # Panics
/// The limit is 0, or the buffer is another stream's.
pub fn time_range(
    query: &TimeRangeQuery,
    buffer: &BufferSnapshot,
    files: &[FileRef],
) -> Result<TimeRangeAnswer, QueryError> {
    assert!(query.limit > 0, "a query wants at least one record");
    assert_eq!(query.stream, buffer.stream, "the buffer of another stream");
    let mut page = Page::new(query);
    let mut files: Vec<&FileRef> = files.iter().filter(|file| may_hold(query, buffer, file)).collect();
    files.sort_unstable_by_key(|file| file.first_sequence);
    let mut hours = BTreeSet::new();
    for file in files {
        // A file that another one covers has nothing new; with a full page this one may.
        if file.last_sequence <= page.position {
            continue;
        }
        if page.is_full() {
            page.more = true;
            break;
        }
        hours.insert(file.hour);
        page.take_from_file(file, buffer.flushed_through)?;
    }
    page.answer.partitions_scanned = hours.len() as u64;
    page.take_from_buffer(buffer)?;
    Ok(page.finish())
}

/// Whether the file can hold a row that the answer needs.
fn may_hold(query: &TimeRangeQuery, buffer: &BufferSnapshot, file: &FileRef) -> bool {
    file.first_sequence <= buffer.flushed_through
        && file.last_sequence > query.after_sequence.unwrap_or(0)
        && file.max_timestamp >= query.start_unix_micros
        && file.min_timestamp < query.end_unix_micros
}

/// An answer as it fills.
struct Page<'q> {
    query: &'q TimeRangeQuery,
    answer: TimeRangeAnswer,
    /// Rows up to this one are in the answer or not wanted.
    position: i64,
    bytes: usize,
    more: bool,
}

impl<'q> Page<'q> {
    fn new(query: &'q TimeRangeQuery) -> Self {
        let position = query.after_sequence.unwrap_or(0);
        Self { query, answer: TimeRangeAnswer::default(), position, bytes: 0, more: false }
    }

    fn is_full(&self) -> bool {
        self.answer.records.len() >= self.query.limit || self.bytes >= ANSWER_BYTES_MAX
    }

    fn push(&mut self, record: RecordRow) {
        self.position = record.sequence;
        self.bytes += record.payload.len();
        self.answer.records.push(record);
    }

    fn take_from_file(&mut self, file: &FileRef, flushed_through: i64) -> Result<(), QueryError> {
        let mut reader = FileReader::open(&file.source)?;
        let first = reader.first_sequence();
        if (first, reader.last_sequence()) != (file.first_sequence, file.last_sequence) {
            let reason = "it holds other rows than the catalog says".to_owned();
            return Err(ParquetFileError::Format { path: file.source.name().to_owned(), reason }.into());
        }
        let mut start = row_number(self.position + 1, first);
        let mut end = reader.rows().min(row_number(flushed_through + 1, first));
        if file.min_timestamp < self.query.start_unix_micros {
            start = start.max(reader.first_row_at(self.query.start_unix_micros)?);
        }
        if file.max_timestamp >= self.query.end_unix_micros {
            end = end.min(reader.first_row_at(self.query.end_unix_micros)?);
        }
        if start < end {
            let wanted = end.min(start + (self.query.limit - self.answer.records.len()));
            reader.read(start..wanted, |row| {
                self.push(record_of(row));
                !self.is_full()
            })?;
            self.more |= self.position < first + end as i64 - 1;
        }
        self.answer.rows_scanned += reader.rows_decoded();
        Ok(())
    }

    fn take_from_buffer(&mut self, buffer: &BufferSnapshot) -> Result<(), QueryError> {
        let after = self.position.max(buffer.flushed_through);
        let batches = &buffer.batches;
        let time = |batch: &RowBatch| batch.header().timestamp_unix_micros;
        let start = batches.partition_point(|batch| time(batch) < self.query.start_unix_micros);
        let end = batches.partition_point(|batch| time(batch) < self.query.end_unix_micros);
        let in_range = batches.get(start..end).unwrap_or_default();
        let in_range = &in_range[in_range.partition_point(|batch| batch.header().last_sequence() <= after)..];
        if self.is_full() {
            self.more |= !in_range.is_empty();
            return Ok(());
        }
        self.answer.partitions_scanned += u64::from(buffer.last_batch_sequence() > buffer.flushed_through);
        for batch in in_range {
            if self.is_full() {
                self.more = true;
                break;
            }
            self.take_from_batch(batch, after)?;
        }
        Ok(())
    }

    fn take_from_batch(&mut self, batch: &RowBatch, after: i64) -> Result<(), QueryError> {
        let header = batch.header();
        let rows = batch.rows().map_err(QueryError::Log)?;
        let metadata = decode_metadata(&rows.metadata());
        for index in row_number(after + 1, header.first_sequence)..header.count as usize {
            if self.is_full() {
                self.more = true;
                break;
            }
            self.answer.rows_scanned += 1;
            self.push(RecordRow {
                sequence: header.first_sequence + index as i64,
                timestamp_unix_micros: header.timestamp_unix_micros,
                payload: rows.payload(index),
                metadata: metadata.clone(),
            });
        }
        Ok(())
    }

    fn finish(mut self) -> TimeRangeAnswer {
        self.answer.next_after = self.more.then_some(self.position);
        self.answer
    }
}

impl BufferSnapshot {
    fn last_batch_sequence(&self) -> i64 {
        self.batches.last().map_or(0, |batch| batch.header().last_sequence())
    }
}

/// The index, from 0, of `sequence` in rows that begin with `first`; 0 for one before them.
fn row_number(sequence: i64, first: i64) -> usize {
    usize::try_from(sequence.saturating_sub(first)).unwrap_or(0)
}

fn record_of(row: FileRow) -> RecordRow {
    let metadata = row.metadata_json.as_deref().map(metadata_pairs).unwrap_or_default();
    let FileRow { sequence, timestamp_unix_micros, payload, .. } = row;
    RecordRow { sequence, timestamp_unix_micros, payload, metadata }
}

/// The pairs of a `_metadata` text, sorted by name. The server wrote it, so it is a JSON object of strings.
fn metadata_pairs(json: &str) -> Vec<(String, String)> {
    let Ok(serde_json::Value::Object(members)) = serde_json::from_str(json) else { return Vec::new() };
    let mut pairs: Vec<_> = members
        .into_iter()
        .filter_map(|(name, value)| match value {
            serde_json::Value::String(value) => Some((name, value)),
            _ => None,
        })
        .collect();
    pairs.sort_unstable();
    pairs
}
