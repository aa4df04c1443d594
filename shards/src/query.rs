//! Plan and merge: one answer from the buffer and the files, with no gap and no double.
//!
//! The buffer's snapshot carries `flushed_through`, taken in one step with its rows: rows up to it come from the files, rows
//! past it from the buffer. Runs on workers, never on a shard's reactor.

mod bounds;
pub mod cursor;
mod events;
mod lookup;
mod range;

pub use bounds::{Bounds, Cancel, CancelOnDrop};
pub use cursor::{CursorError, Order, decode_cursor, encode_cursor};
pub use lookup::{KeyLookup, LookupError, RECORD_ID_FIELD, Wanted, lookup};
pub use range::{ANSWER_BYTES_MAX, TimeField, TimeRangeQuery, time_range, time_range_within};

use std::{ops::Range, sync::Arc};

use bytes::Bytes;

use crate::{
    ids::StreamId,
    memory::{Held, MemoryShort},
    parquet::{
        ParquetFileError, PartitionHour,
        cache::FileCache,
        read::{FileReader, FileRow, ReadCounts},
        source::FileSource,
    },
    pipeline::{Pipelines, UnknownPipeline},
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
    /// The sequence number that the next row gets: at least one past `last_sequence`, more while rows are being synced.
    pub next_sequence: i64,
    /// What is seen of the rows.
    pub pipelines: Arc<Pipelines>,
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

/// A record of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordRow {
    /// Its sequence number.
    pub sequence: i64,
    /// When it was ingested, Unix µs.
    pub timestamp_unix_micros: i64,
    /// As the stream's pipeline made it; without one, byte for byte as it came.
    pub payload: Bytes,
    /// Name and value, sorted by name.
    pub metadata: Vec<(String, String)>,
}

impl RecordRow {
    /// What it takes in memory, about: small metadata takes more than its text.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let pair = size_of::<(String, String)>();
        let metadata: usize = self.metadata.iter().map(|(name, value)| pair + name.len() + value.len()).sum();
        size_of::<Self>() + self.payload.len() + metadata
    }
}

/// An answer: of a time range the records of a page, of a lookup one record or none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueryAnswer {
    /// At most `limit` records; fewer when they are large (see [`ANSWER_BYTES_MAX`]), or when the page ended early.
    pub records: Vec<RecordRow>,
    /// More may follow: ask again with this as `after_sequence`. It is where the search ended, which may be past the last record.
    pub next_after: Option<i64>,
    /// The page ended before it was full: its time was over, or there was no memory for more.
    pub is_partial: bool,
    /// Of a time range in ascending order: the first row that there still was past `after_sequence`. Those between it and the
    /// first record are left out by the pipeline or the time range; those before it are gone.
    pub first_there: i64,
    /// Rows looked at.
    pub rows_scanned: u64,
    /// Hours looked into: files' partitions, and one for the buffer if it had rows.
    pub partitions_scanned: u64,
    /// Files opened.
    pub files_opened: u64,
    /// Parts of files that were in the cache.
    pub cache_hits: u64,
    /// Parts of files that were not, and had to be read.
    pub cache_misses: u64,
    /// The memory of its records.
    pub held: Held,
}

impl QueryAnswer {
    /// Counts a file that was opened.
    fn count(&mut self, counts: ReadCounts) {
        self.files_opened += 1;
        self.rows_scanned += counts.rows;
        self.cache_hits += counts.cache_hits;
        self.cache_misses += counts.cache_misses;
    }
}

/// A query of either kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Query {
    /// Records of a time range.
    TimeRange(TimeRangeQuery),
    /// The latest record with a key.
    Lookup(KeyLookup),
}

impl Query {
    /// The stream.
    #[must_use]
    pub fn stream(&self) -> StreamId {
        match self {
            Self::TimeRange(query) => query.stream,
            Self::Lookup(query) => query.stream,
        }
    }

    /// Answers it.
    ///
    /// # Errors
    /// See [`QueryError`].
    ///
    /// # Panics
    /// As [`time_range`] and [`lookup`].
    pub fn answer(
        &self,
        buffer: &BufferSnapshot,
        files: &[FileRef],
        context: &QueryContext<'_>,
    ) -> Result<QueryAnswer, QueryError> {
        match self {
            Self::TimeRange(query) => time_range(query, buffer, files, context),
            Self::Lookup(query) => lookup(query, buffer, files, context),
        }
    }
}

/// What a query runs with.
#[derive(Debug, Clone, Copy)]
pub struct QueryContext<'c> {
    /// What was read of files before.
    pub cache: &'c FileCache,
    /// When it ends.
    pub bounds: &'c Bounds,
}

/// Why a query has no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// A file that the catalog names cannot be read.
    #[error(transparent)]
    File(ParquetFileError),
    /// There is no memory for it.
    #[error(transparent)]
    Memory(#[from] MemoryShort),
    /// Rows that are only in the log cannot be read.
    #[error("cannot read buffered rows from the log: {0}")]
    Log(#[source] std::io::Error),
    /// Rows are of a version of the pipeline that is not at hand.
    #[error(transparent)]
    Pipeline(#[from] UnknownPipeline),
    /// It is by times of events, and nothing tells these.
    #[error(
        "the stream has no time of events: give its pipeline a timestamp step with \"event_time\": true, or ask by time of ingestion"
    )]
    NoEventTime,
    /// Its deadline passed.
    #[error("the query did not end within its time limit")]
    TimedOut,
    /// Nobody waits for it.
    #[error("the query was cancelled")]
    Cancelled,
}

impl From<ParquetFileError> for QueryError {
    fn from(error: ParquetFileError) -> Self {
        match error {
            ParquetFileError::Memory(short) => Self::Memory(short),
            error => Self::File(error),
        }
    }
}

impl QueryError {
    /// Whether a file was gone when it was to be read: another list may name what took its place.
    #[must_use]
    pub fn is_of_a_file_that_is_gone(&self) -> bool {
        matches!(self, Self::File(ParquetFileError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound)
    }

    /// Whether the store of a file cannot answer now: nothing is wrong with the file.
    #[must_use]
    pub fn is_of_a_store_that_is_away(&self) -> bool {
        matches!(self, Self::File(error) if error.is_of_a_store_that_is_away())
    }
}

/// Opens a file that the catalog names.
fn open<'f>(file: &'f FileRef, context: &QueryContext<'f>) -> Result<FileReader<'f>, QueryError> {
    let reader = FileReader::open_within(&file.source, context.cache, context.bounds.meter.clone())?;
    if (reader.first_sequence(), reader.last_sequence()) != (file.first_sequence, file.last_sequence) {
        let reason = "it holds other rows than the catalog says".to_owned();
        return Err(ParquetFileError::Format { path: file.source.name().to_owned(), reason }.into());
    }
    Ok(reader)
}

/// Reads `step`, or as much of its beginning, of its end if `backward`, as there is memory for: rows may be far larger than
/// their neighbours.
fn read_step(
    reader: &mut FileReader<'_>,
    mut step: Range<usize>,
    backward: bool,
) -> Result<(Range<usize>, Vec<FileRow>), QueryError> {
    loop {
        match reader.read(step.clone()) {
            Err(error) if is_too_much_at_once(&error) && step.len() > 1 => step = half_of(&step, backward),
            read => return Ok((step, read?)),
        }
    }
}

fn is_too_much_at_once(error: &ParquetFileError) -> bool {
    matches!(error, ParquetFileError::Memory(MemoryShort::Own { .. }))
}

/// The beginning of `step`, or its end.
fn half_of(step: &Range<usize>, backward: bool) -> Range<usize> {
    let half = step.len() / 2;
    if backward { step.end - half..step.end } else { step.start..step.start + half }
}

impl BufferSnapshot {
    fn last_batch_sequence(&self) -> i64 {
        self.batches.last().map_or(0, |batch| batch.header().last_sequence())
    }
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
