//! Reading a log back after a stop or a crash.
//!
//! Recovery writes nothing to a segment. Every file is synced before it is read, so all that is read is durable, however
//! often recovery itself is cut short. A torn tail is cut off by what comes after it: the log goes on in a new segment, with a
//! frame of a later epoch that follows the last whole one. Should the torn frame become whole later (see `scan`), it is either
//! surfaced, while nothing came after it, or disowned: it was never acknowledged. A tail that was acknowledged and then damaged
//! on the medium cannot be told from a torn one, since nothing follows it; so it is always told of in `truncated`.

use std::path::{Path, PathBuf};

use super::{
    Lsn,
    batch::RowBatch,
    scan::{self, Scan, ScannedSegment},
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

impl RecoveryError {
    pub(super) fn io((path, source): scan::FileError) -> Self {
        Self::Io { path, source }
    }

    pub(super) fn damaged(issue: &scan::Issue) -> Self {
        Self::Damaged { path: issue.path.clone(), offset: issue.offset, reason: issue.reason.clone() }
    }
}

/// Reads the log in the shard's folder `dir`: cuts a torn tail, syncs what it keeps, refuses damage. A missing folder is an
/// empty log. Blocking.
///
/// # Errors
/// See [`RecoveryError`]. After an error nothing has changed, and it may be tried again.
pub fn recover(disk: &dyn Disk, dir: &Path, shard: ShardId) -> Result<Recovered, RecoveryError> {
    let mut batches = Vec::new();
    let mut last_frame_at = 0;
    let scan = scan::scan(disk, dir, None, Some(shard), true, &mut |frame| {
        if frame.replaces_last {
            batches.truncate(last_frame_at);
        }
        last_frame_at = batches.len();
        for entry in frame.entries() {
            let (offset, layout) = entry?;
            batches.push(RowBatch::new(layout.header, Arc::clone(frame.segment), offset, None));
        }
        Ok(())
    });
    let scan = scan.map_err(RecoveryError::io)?;
    if let Some(issue) = scan.damage().next() {
        return Err(RecoveryError::damaged(issue));
    }
    for path in &scan.unfinished {
        disk.remove(path).map_err(|source| RecoveryError::Io { path: path.clone(), source })?;
    }
    // All rows of older segments were flushed: else the last frame would still need them.
    batches.retain(|batch| batch.segment().id >= scan.log_start);
    let truncated = scan.torn.as_ref().map(ToString::to_string);
    let bytes_read = scan.bytes_read;
    Ok(Recovered { shard, end: log_end(scan), batches, truncated, bytes_read })
}

fn log_end(scan: Scan) -> LogEnd {
    let mut end = LogEnd { last_segment: scan.segments.last().map_or(0, |last| last.segment.id), ..LogEnd::default() };
    if let Some(last) = scan.last {
        (end.last_lsn, end.last_checksum) = (last.lsn, last.checksum);
    }
    for ScannedSegment { segment, frames, first_lsn, last_lsn, .. } in scan.segments {
        if frames > 0 && segment.id >= scan.log_start {
            end.segments.push(SealedSegment { segment, first_lsn, last_lsn });
            continue;
        }
        let mut released = segment.as_released();
        // A write that a killed process asked for may still come to one of the segments after the last frame.
        released.recyclable = scan.last.is_some_and(|last| segment.id <= last.segment);
        end.spare.push(released);
    }
    end
}
