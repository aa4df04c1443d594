//! The write-ahead log of one shard: group commit, segments, recovery.
//!
//! [`Wal`] is a state machine without I/O: [`Wal::append`] puts entries into the open frame, [`Wal::next_write`] seals it and
//! says what to write, the runtime writes it durably and tells [`Wal::written`]. One frame is one group commit is one write.
//! While a write is under way the next frame fills, so a commit closes just when the last one is synced: no timer.
//!
//! An entry is also the row batch that lives in the buffer after the sync (see [`batch::RowBatch`]): a payload is copied once,
//! from the socket's buffer into the frame, and the frame's memory is then the row buffer.

pub mod batch;
pub mod entry;
pub mod frame;
pub mod recovery;
pub mod segment;

use std::{io, sync::Arc};

use bytes::Bytes;

use crate::{config::WalConfig, ids::ShardId};
use batch::RowBatch;
use entry::EntryDraft;
use segment::{PreparedSegment, ReleasedSegment, Segment, SegmentRequest};

/// Position of a frame in a shard's log: 1, 2, 3, … without gaps, over restarts too. 0: before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

/// One durable write that the runtime must do now.
#[derive(Debug, Clone)]
pub struct WriteOp {
    /// The frame's position.
    pub lsn: Lsn,
    /// Where it goes.
    pub segment: Arc<Segment>,
    /// Byte offset in the segment, a multiple of 4096.
    pub offset: u64,
    /// A whole number of 4096-byte blocks, in memory aligned to 4096.
    pub data: Bytes,
}

/// A frame that is on stable storage.
#[derive(Debug)]
pub struct SyncedFrame {
    /// Its position. Every earlier frame is synced too.
    pub lsn: Lsn,
    /// Its entries, in the order of their appends.
    pub batches: Vec<RowBatch>,
}

/// A write or sync failed: what it held may or may not be on disk. The log takes nothing more.
#[derive(Debug, thiserror::Error)]
#[error("log write at lsn {} in {segment} failed, its outcome is unknown: {source}", lsn.0)]
pub struct WalPoisoned {
    /// The frame.
    pub lsn: Lsn,
    /// The segment's path.
    pub segment: String,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

/// How full a log is.
#[derive(Debug, Clone, Copy, Default)]
pub struct WalUsage {
    /// Segments that hold unreleased frames, with the one being written: counted in whole segments, in bytes.
    pub used_bytes: u64,
    /// The quota, in bytes.
    pub quota_bytes: u64,
    /// Segments in use.
    pub segments_active: usize,
}

/// The log of one shard. See the module's comment.
#[derive(Debug)]
pub struct Wal {}

impl Wal {
    /// A log that goes on after `recovered` (use [`recovery::Recovered::empty`] for a new one), in a *new* segment.
    #[must_use]
    pub fn new(_shard: ShardId, _config: WalConfig, _recovered: recovery::LogEnd) -> Self {
        unimplemented!()
    }

    /// Puts an entry into the open frame and returns that frame's position. Never fails and never blocks: the caller has
    /// asked [`Wal::usage`] first. A frame that would pass `frame_bytes` is closed and queued behind the one being written.
    pub fn append(&mut self, _draft: &EntryDraft<'_>) -> Lsn {
        unimplemented!()
    }

    /// The newest frame that holds an entry, synced or not.
    #[must_use]
    pub fn last_lsn(&self) -> Lsn {
        unimplemented!()
    }

    /// The newest frame on stable storage.
    #[must_use]
    pub fn synced_lsn(&self) -> Lsn {
        unimplemented!()
    }

    /// Bytes appended and not yet synced.
    #[must_use]
    pub fn unsynced_bytes(&self) -> usize {
        unimplemented!()
    }

    /// The next durable write, or `None`: one is under way, nothing waits, no prepared segment is at hand, or poisoned.
    pub fn next_write(&mut self) -> Option<WriteOp> {
        unimplemented!()
    }

    /// Tells how the write under way ended.
    ///
    /// # Errors
    /// [`WalPoisoned`] when it failed; from then on [`Wal::next_write`] returns `None` for ever.
    pub fn written(&mut self, _lsn: Lsn, _result: io::Result<()>) -> Result<SyncedFrame, WalPoisoned> {
        unimplemented!()
    }

    /// Whether a write failed.
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        unimplemented!()
    }

    /// A segment that should be prepared ahead (see [`segment::prepare`]), or `None` if enough are at hand or on order.
    pub fn wants_segment(&mut self) -> Option<SegmentRequest> {
        unimplemented!()
    }

    /// Takes a prepared segment.
    pub fn offer_segment(&mut self, _segment: PreparedSegment) {
        unimplemented!()
    }

    /// A request could not be served (a full disk): it will be asked again.
    pub fn segment_failed(&mut self) {
        unimplemented!()
    }

    /// Sealed segments that no row batch refers to any more: to be recycled by the next request, or removed.
    pub fn release(&mut self) -> Vec<ReleasedSegment> {
        unimplemented!()
    }

    /// How full the log is.
    #[must_use]
    pub fn usage(&self) -> WalUsage {
        unimplemented!()
    }
}
