//! Reading a log back after a stop or a crash.

use std::path::{Path, PathBuf};

use super::{
    Lsn,
    batch::RowBatch,
    segment::{ReleasedSegment, Segment},
};
use crate::{ids::ShardId, io::Disk};
use std::sync::Arc;

/// Where a log ended: what a new [`super::Wal`] goes on from.
#[derive(Debug, Clone, Default)]
pub struct LogEnd {
    /// The last frame.
    pub last_lsn: Lsn,
    /// The checksum of the last frame.
    pub last_checksum: u32,
    /// The epoch of the last frame.
    pub last_epoch: u64,
    /// The highest id of any segment, with frames or without.
    pub last_segment: u64,
    /// Segments that still hold frames, sealed, oldest first. A clone of this list keeps them from being released.
    pub segments: Vec<SealedSegment>,
    /// Segments that hold none any more or never did: to be recycled.
    pub spare: Vec<ReleasedSegment>,
}

/// A segment that takes no more frames.
#[derive(Debug, Clone)]
pub struct SealedSegment {
    /// The segment.
    pub segment: Arc<Segment>,
    /// Its first frame.
    pub first_lsn: Lsn,
    /// Its last frame.
    pub last_lsn: Lsn,
}

/// What a shard's folder held.
#[derive(Debug)]
pub struct Recovered {
    /// The shard that wrote it.
    pub shard: ShardId,
    /// Where it ended.
    pub end: LogEnd,
    /// Its entries, oldest first, none of them resident.
    pub batches: Vec<RowBatch>,
    /// What was cut off the tail, if a frame was torn.
    pub truncated: Option<String>,
    /// Bytes read.
    pub bytes_read: u64,
}

impl Recovered {
    /// The state of a log that never was.
    #[must_use]
    pub fn empty(shard: ShardId) -> Self {
        Self { shard, end: LogEnd::default(), batches: Vec::new(), truncated: None, bytes_read: 0 }
    }
}

/// Why a log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The system failed.
    #[error("cannot read the log at {path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A damaged frame with valid frames after it: acked records may be lost, so an operator must decide.
    #[error(
        "{path} is damaged at byte {offset} ({reason}), and valid frames follow: nothing was changed; restore the file, or \
         run `ttdust wal inspect {path}` and then `ttdust wal repair {path}` to give up what is damaged"
    )]
    Damaged {
        /// The segment.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// What is wrong there.
        reason: String,
    },
}

/// Reads the log in the shard's folder `dir`: cuts a torn tail, syncs what it keeps, refuses damage. A missing folder is an
/// empty log.
///
/// # Errors
/// See [`RecoveryError`].
pub fn recover(_disk: &dyn Disk, _dir: &Path, _shard: ShardId) -> Result<Recovered, RecoveryError> {
    unimplemented!()
}
