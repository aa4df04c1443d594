//! Plan and merge: one answer from the buffer and the files, with no gap and no double.
//!
//! The buffer's snapshot carries `flushed_through`, taken in one step with its rows: rows up to it come from the files, rows
//! past it from the buffer. Runs on workers, never on a shard's reactor.

use std::path::PathBuf;

use bytes::Bytes;

use crate::{
    ids::StreamId,
    parquet::{ParquetFileError, PartitionHour},
    wal::batch::RowBatch,
};

/// The most rows one answer holds.
pub const LIMIT_MAX: usize = 10_000;
/// The rows of an answer when the client names no number.
pub const LIMIT_DEFAULT: usize = 1000;

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
}

/// A committed file, as the catalog knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRef {
    /// Where it lies.
    pub path: PathBuf,
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
    /// At most `limit` records.
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
pub fn time_range(
    _query: &TimeRangeQuery,
    _buffer: &BufferSnapshot,
    _files: &[FileRef],
) -> Result<TimeRangeAnswer, QueryError> {
    unimplemented!()
}
