//! Frozen rows ↔ Parquet, in the measured layout.
//!
//! Columns: `_seq`, `_ingest_ts`, `_record_id`, `_schema_version`, `_metadata` (JSON text, null if none), the typed columns of
//! the schema, `_payload` (the record byte for byte). Ordered by `_seq`.

use std::{path::PathBuf, sync::Arc};

use crate::{ids::StreamId, schema::CompiledSchema, wal::batch::RowBatch};

/// An hour of a stream: where its files lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionHour(
    /// Hours since the Unix epoch.
    pub i64,
);

/// A file to write.
#[derive(Debug)]
pub struct WriteJob {
    /// The stream.
    pub stream: StreamId,
    /// The schema that the typed columns follow.
    pub schema: Arc<CompiledSchema>,
    /// The hour, by time of ingest, that all batches belong to.
    pub hour: PartitionHour,
    /// The rows, in order of their sequence numbers, without gaps.
    pub batches: Vec<RowBatch>,
    /// Where to write it; replaced if it exists.
    pub path: PathBuf,
}

/// A file that was written and synced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileMeta {
    /// The stream.
    pub stream: StreamId,
    /// The hour.
    pub hour: PartitionHour,
    /// Where it lies now.
    pub path: PathBuf,
    /// Its first sequence number.
    pub first_sequence: i64,
    /// Its last sequence number.
    pub last_sequence: i64,
    /// Rows: last − first + 1.
    pub rows: u64,
    /// The time of its first row, Unix µs.
    pub min_timestamp: i64,
    /// The time of its last row, Unix µs.
    pub max_timestamp: i64,
    /// Its length in bytes.
    pub bytes: u64,
    /// CRC32C of the whole file.
    pub checksum: u32,
}

/// Why a file could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ParquetFileError {
    /// The system failed.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Not a file of ours, or damaged.
    #[error("{path} is not a usable Parquet file: {reason}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// Writes and syncs a file. Runs on the flusher's thread.
///
/// # Errors
/// [`ParquetFileError`]; what was written is removed.
pub fn write(_job: &WriteJob) -> Result<FileMeta, ParquetFileError> {
    unimplemented!()
}
