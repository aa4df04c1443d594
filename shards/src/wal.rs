//! The write-ahead log of one shard: group commit, segments, recovery.
//!
//! [`Wal`] is a state machine without I/O: [`Wal::append`] puts entries into the open frame, [`Wal::next_write`] seals it and
//! says what to write, the runtime writes it durably and tells [`Wal::written`]. One frame is one group commit is one write.
//! While a write is under way the next frame fills, so a commit closes just when the last one is synced: no timer.
//!
//! An entry is also the row batch that lives in the buffer after the sync (see [`batch::RowBatch`]): a payload is copied once,
//! from the socket's buffer into the frame, and the frame's memory is then the row buffer.
//!
//! Invariants: one write is in flight at a time, and frames are written in the order of their positions, so a frame that is
//! synced means that all before it are. A frame never spans segments; a segment holds frames of one run only. Segments are
//! released from the oldest on, and never the one with the newest synced frame, so what is left on disk is one unbroken chain.

pub mod batch;
pub mod entry;
pub mod frame;
pub mod inspect;
pub mod lock;
pub mod recovery;
pub mod segment;

mod filling;
mod scan;

use std::{collections::VecDeque, io, sync::Arc};

use bytes::Bytes;

use crate::{config::WalConfig, ids::ShardId, io::BLOCK_BYTES};
use batch::{BatchHeader, RowBatch};
use entry::EntryDraft;
use filling::{Filling, FullFrame};
use frame::FrameHeader;
use recovery::{LogEnd, SealedSegment};
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

/// How far a log has come. `appended >= synced >= released`, and none ever falls: see [`Positions::advance`].
#[derive(Debug, Clone, Copy)]
struct Positions {
    /// The newest frame that holds an entry.
    appended: Lsn,
    /// The newest frame on stable storage.
    synced: Lsn,
    /// The newest frame whose segment was released: its rows were flushed.
    released: Lsn,
}

impl Positions {
    fn advance(&mut self, next: Self) {
        assert!(
            next.appended >= self.appended && next.synced >= self.synced && next.released >= self.released,
            "a position of the log fell: {self:?} to {next:?}"
        );
        assert!(
            next.appended >= next.synced && next.synced >= next.released,
            "the log's positions are out of order: {next:?}"
        );
        *self = next;
    }
}

/// The segment that frames go to.
#[derive(Debug)]
struct Current {
    segment: Arc<Segment>,
    first_lsn: Lsn,
    /// Where the next frame goes.
    offset: u64,
}

/// A segment that the log is done with.
#[derive(Debug)]
struct Spare {
    released: ReleasedSegment,
    /// Not to be touched before a frame is synced that says that the log starts at this segment or later: else a crash could
    /// leave a hole that looks like damage.
    needed_before: u64,
}

impl Spare {
    /// Whether the file can become a segment of `bytes` as it is.
    fn fits(&self, bytes: u64) -> bool {
        self.released.recyclable && self.released.bytes == bytes
    }
}

#[derive(Debug)]
struct InFlight {
    lsn: Lsn,
    log_start: u64,
    segment: Arc<Segment>,
    offset: u64,
    data: Bytes,
    entries: Vec<(u32, BatchHeader)>,
}

/// Fewer prepared segments than this are made up for at once, even under load.
const LOW_WATER_SEGMENTS: usize = 2;

/// With room for fewer segments than this left on the disk, the next one is not relied on: see [`Wal::has_room`]. Between two
/// segments of the log a flusher writes less than one to the same disk; the rest is for what other programs write.
const SCARCE_SEGMENTS: u64 = 16;

/// The log of one shard. See the module's comment.
#[derive(Debug)]
pub struct Wal {
    shard: ShardId,
    config: WalConfig,
    epoch: u64,
    positions: Positions,
    /// Of the newest sealed frame.
    last_checksum: u32,
    filling: Filling,
    in_flight: Option<InFlight>,
    poisoned: bool,
    /// Oldest first; all their frames are synced.
    sealed: VecDeque<SealedSegment>,
    current: Option<Current>,
    /// Their ids rise.
    prepared: VecDeque<Arc<Segment>>,
    /// Oldest first, kept to be recycled.
    spare: VecDeque<Spare>,
    /// The one that the request under way uses up.
    ordered_spare: Option<Spare>,
    /// Where the newest synced frame says that the log starts.
    synced_log_start: u64,
    next_segment: u64,
    on_order: bool,
    /// The last request failed.
    starved: bool,
    /// After the last request that was served the disk had little room left: the next may fail.
    scarce: bool,
    /// A frame waits for a segment.
    stuck: bool,
    /// A frame waits that no prepared segment can hold: so many bytes.
    oversize: Option<u64>,
    used_bytes: u64,
    /// Segments ordered so far.
    pool_filled: usize,
    /// Sealed and not yet told of.
    newly_sealed: Vec<Arc<Segment>>,
}

impl Wal {
    /// A log that goes on after `recovered` (use [`recovery::Recovered::empty`] for a new one), in a *new* segment.
    #[must_use]
    pub fn new(shard: ShardId, config: WalConfig, recovered: LogEnd) -> Self {
        // Not known to a client, so that a payload cannot be made to look like a frame of this run.
        Self::with_epoch_salt(shard, config, recovered, uuid::Uuid::new_v4().as_u128() as u32)
    }

    /// The same with a given random number, for simulation.
    #[must_use]
    pub fn with_epoch_salt(shard: ShardId, config: WalConfig, recovered: LogEnd, salt: u32) -> Self {
        assert!(
            config.segment_bytes > 0 && config.segment_bytes.is_multiple_of(BLOCK_BYTES as u64),
            "segments are whole blocks"
        );
        let last = recovered.last_lsn;
        let released = recovered.segments.first().map_or(last, |oldest| Lsn(oldest.first_lsn.0 - 1));
        Self {
            shard,
            config,
            // Rises with every run that may have written: it had a segment then.
            epoch: (recovered.last_segment + 1) << 32 | u64::from(salt),
            positions: Positions { appended: last, synced: last, released },
            last_checksum: recovered.last_checksum,
            filling: Filling::new(last, config.frame_bytes),
            in_flight: None,
            poisoned: false,
            newly_sealed: match config.archive {
                true => recovered.segments.iter().map(|sealed| Arc::clone(&sealed.segment)).collect(),
                false => Vec::new(),
            },
            used_bytes: recovered.segments.iter().map(|sealed| sealed.segment.bytes).sum(),
            sealed: recovered.segments.into(),
            current: None,
            prepared: VecDeque::new(),
            spare: recovered.spare.into_iter().map(|released| Spare { released, needed_before: 0 }).collect(),
            ordered_spare: None,
            synced_log_start: 0,
            next_segment: recovered.last_segment + 1,
            on_order: false,
            starved: false,
            scarce: false,
            stuck: false,
            oversize: None,
            pool_filled: 0,
        }
    }

    /// Puts an entry into the open frame and returns that frame's position. Never fails and never blocks: the caller has
    /// asked [`Wal::usage`] first. A frame that would pass `frame_bytes` is closed and queued behind the one being written.
    ///
    /// # Panics
    /// The draft breaks its contract: no payload, not as many keys as payloads, over [`entry::MAX_ENTRY_BYTES`].
    pub fn append(&mut self, draft: &EntryDraft<'_>) -> Lsn {
        let lsn = self.filling.append(draft);
        self.positions.advance(Positions { appended: lsn, ..self.positions });
        lsn
    }

    /// The newest frame that holds an entry, synced or not.
    #[must_use]
    pub fn last_lsn(&self) -> Lsn {
        self.positions.appended
    }

    /// The newest frame on stable storage.
    #[must_use]
    pub fn synced_lsn(&self) -> Lsn {
        self.positions.synced
    }

    /// The segment that frames go to, if one was begun.
    #[must_use]
    pub fn current_segment(&self) -> Option<&Arc<Segment>> {
        self.current.as_ref().map(|current| &current.segment)
    }

    /// Bytes appended and not yet synced, with what pads them.
    #[must_use]
    pub fn unsynced_bytes(&self) -> usize {
        self.filling.bytes() + self.in_flight.as_ref().map_or(0, |write| write.data.len())
    }

    /// The next durable write, or `None`: one is under way, nothing waits, no prepared segment is at hand, or poisoned. Ask
    /// after every append, write and offered segment.
    pub fn next_write(&mut self) -> Option<WriteOp> {
        if self.poisoned || self.in_flight.is_some() {
            return None;
        }
        let bytes = self.filling.next_bytes()? as u64;
        self.stuck = !self.make_room(bytes);
        if self.stuck {
            return None;
        }
        let frame = self.filling.take().expect("a frame waits: its length was just asked");
        let current = self.current.as_mut().expect("room was just made in it");
        let log_start = self.sealed.front().map_or(current.segment.id, |oldest| oldest.segment.id);
        let FullFrame { lsn, mut bytes, body_bytes, entries } = frame;
        let header = FrameHeader {
            body_bytes,
            entries: u32::try_from(entries.len()).expect("an entry has at least 64 bytes"),
            shard: self.shard,
            previous_checksum: self.last_checksum,
            segment: current.segment.id,
            epoch: self.epoch,
            lsn,
            log_start,
            segment_blocks: u32::try_from(current.segment.bytes / BLOCK_BYTES as u64).unwrap_or(u32::MAX),
            checksum: 0,
        };
        self.last_checksum = header.seal(&mut bytes);
        let data = bytes.freeze();
        let op = WriteOp { lsn, segment: Arc::clone(&current.segment), offset: current.offset, data: data.clone() };
        current.offset += data.len() as u64;
        let (segment, offset) = (Arc::clone(&op.segment), op.offset);
        self.in_flight = Some(InFlight { lsn, log_start, segment, offset, data, entries });
        Some(op)
    }

    /// Tells how the write under way ended.
    ///
    /// # Errors
    /// [`WalPoisoned`] when it failed; from then on [`Wal::next_write`] returns `None` for ever.
    pub fn written(&mut self, lsn: Lsn, result: io::Result<()>) -> Result<SyncedFrame, WalPoisoned> {
        let write = self.in_flight.take().expect("a write is under way");
        assert_eq!(write.lsn, lsn, "the write under way is another");
        if let Err(source) = result {
            self.poisoned = true;
            return Err(WalPoisoned { lsn, segment: write.segment.path.display().to_string(), source });
        }
        assert_eq!(self.positions.synced.0 + 1, lsn.0, "frames are synced in order");
        self.positions.advance(Positions { synced: lsn, ..self.positions });
        self.synced_log_start = write.log_start;
        let mut batches = Vec::with_capacity(write.entries.len());
        for (index, &(at, header)) in write.entries.iter().enumerate() {
            let start = at as usize;
            let is_last = index + 1 == write.entries.len();
            let end = if is_last { write.data.len() } else { start + header.entry_bytes as usize };
            let resident = Some(write.data.slice(start..end));
            let offset = write.offset + u64::from(at);
            batches.push(RowBatch::new(header, Arc::clone(&write.segment), offset, resident));
        }
        Ok(SyncedFrame { lsn, batches })
    }

    /// Whether a write failed.
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.poisoned
    }

    /// A segment that should be prepared ahead (see [`segment::prepare`]), or `None` if enough are at hand or one is on order.
    pub fn wants_segment(&mut self) -> Option<SegmentRequest> {
        // A pool larger than the low-water mark is filled once, ahead of the load, and from then on by recycling alone: zeros
        // written under load would take the disk from the log itself.
        let pool = self.config.segments_ahead.max(1);
        let low = self.prepared.len() < pool.min(LOW_WATER_SEGMENTS);
        let bytes = self.oversize.unwrap_or(0).max(self.config.segment_bytes);
        let fits = |spare: &Spare| spare.fits(bytes) && spare.needed_before <= self.synced_log_start;
        let mut at = self.spare.iter().position(fits);
        let fills = self.prepared.len() < pool && (at.is_some() || self.pool_filled < pool);
        if self.on_order || self.poisoned || !(low || fills || self.oversize.is_some()) {
            return None;
        }
        self.pool_filled += 1;
        self.on_order = true;
        let id = self.next_segment;
        self.next_segment += 1;
        if at.is_none() && self.starved && self.stuck && !self.spare.is_empty() {
            // A full disk, and no place for the frame that would say what is needed no more. One at a time and from the
            // oldest on, each known to be gone before the next is asked for, does it too.
            at = Some(0);
        }
        self.ordered_spare = at.and_then(|at| self.spare.remove(at));
        let recycle = self.ordered_spare.as_ref().map(|spare| spare.released.clone());
        Some(SegmentRequest { id, epoch: self.epoch, shard: self.shard, bytes, recycle })
    }

    /// Learns how much room the disk has; see [`Wal::has_room`].
    pub fn learn_free_bytes(&mut self, bytes: u64) {
        self.scarce = bytes < SCARCE_SEGMENTS * self.config.segment_bytes;
    }

    /// Takes a prepared segment.
    pub fn offer_segment(&mut self, segment: PreparedSegment) {
        self.learn_free_bytes(segment.free_bytes);
        let segment = segment.segment;
        assert!(
            self.prepared.back().is_none_or(|last| last.id < segment.id) && segment.id < self.next_segment,
            "segments are offered in the order of the requests"
        );
        (self.on_order, self.starved, self.ordered_spare) = (false, false, None);
        if self.oversize.is_some_and(|bytes| bytes <= segment.bytes) {
            self.oversize = None;
        }
        self.prepared.push_back(segment);
    }

    /// A request could not be served (a full disk): it will be asked again.
    pub fn segment_failed(&mut self) {
        (self.on_order, self.starved) = (false, true);
        // It did not come, so it is still to be made.
        self.pool_filled = self.pool_filled.saturating_sub(1);
        if let Some(spare) = self.ordered_spare.take() {
            self.spare.push_front(spare);
        }
    }

    /// Sealed segments that no row batch refers to any more and that are not kept to be recycled: to be removed with
    /// [`segment::remove`]. They count as used no more at once, but are only handed out when a later frame is synced.
    pub fn release(&mut self) -> Vec<ReleasedSegment> {
        while let Some(oldest) = self.sealed.front() {
            let holds_newest = oldest.last_lsn >= self.positions.synced;
            // The count cannot rise behind our back: whoever could clone it would hold one.
            if holds_newest || Arc::strong_count(&oldest.segment) > 1 {
                break;
            }
            let oldest = self.sealed.pop_front().expect("the front was just looked at");
            self.positions.advance(Positions { released: oldest.last_lsn, ..self.positions });
            self.used_bytes -= oldest.segment.bytes;
            self.spare
                .push_back(Spare { released: oldest.segment.as_released(), needed_before: oldest.segment.id + 1 });
        }
        let mut surplus = self.spare.len().saturating_sub(self.config.segments_ahead.max(1));
        let mut gone = Vec::new();
        for spare in std::mem::take(&mut self.spare) {
            let is_surplus = surplus > 0 || !spare.fits(self.config.segment_bytes);
            if is_surplus && spare.needed_before <= self.synced_log_start {
                surplus = surplus.saturating_sub(1);
                gone.push(spare.released);
            } else {
                self.spare.push_back(spare);
            }
        }
        gone
    }

    /// The segments that take no more frames and were not told of before, those of earlier runs first, where they are archived.
    /// None is released while someone holds it.
    pub fn take_sealed(&mut self) -> Vec<Arc<Segment>> {
        std::mem::take(&mut self.newly_sealed)
    }

    /// How full the log is.
    #[must_use]
    pub fn usage(&self) -> WalUsage {
        WalUsage {
            used_bytes: self.used_bytes,
            quota_bytes: self.config.quota_bytes,
            segments_active: self.sealed.len() + usize::from(self.current.is_some()),
        }
    }

    /// Whether an entry of at most `bytes()` will find a place. On a disk with room to spare the next segment is on its way.
    /// On one that is nearly full it may never come, and what was appended can be neither written nor taken back: there the
    /// segments at hand must have room for it, behind all that waits.
    #[must_use]
    pub fn has_room(&self, bytes: impl FnOnce() -> usize) -> bool {
        if !self.scarce {
            return true;
        }
        let blocks = |bytes: usize| bytes.next_multiple_of(BLOCK_BYTES) as u64;
        // Two blocks more: the open frame is padded when it is closed, and a new one has a header.
        let frame = blocks(bytes()) + 2 * BLOCK_BYTES as u64;
        let waiting = blocks(self.filling.bytes());
        // Frames are not divided between segments, so at the end of each less than a frame may be lost.
        let lost = frame.max(blocks(self.filling.largest_bytes().max(self.config.frame_bytes)));
        let current = self.current.as_ref().map(|current| current.segment.bytes - current.offset);
        let mut segments = current.into_iter().chain(self.prepared.iter().map(|segment| segment.bytes));
        match waiting {
            0 => segments.any(|room| room >= frame),
            _ => segments.map(|room| room.saturating_sub(lost)).sum::<u64>() >= waiting + frame,
        }
    }

    /// Whether the current segment has room for a frame of `bytes`, after moving on to a prepared one if need be.
    fn make_room(&mut self, bytes: u64) -> bool {
        if self.current.as_ref().is_some_and(|current| current.segment.bytes - current.offset >= bytes) {
            return true;
        }
        let Some(at) = self.prepared.iter().position(|segment| segment.bytes >= bytes) else {
            if !self.prepared.is_empty() || bytes > self.config.segment_bytes {
                self.oversize = Some(bytes);
            }
            return false;
        };
        // Ids must rise along the log, so those passed over can only be used again under a new id.
        for passed in self.prepared.drain(..at) {
            self.spare.push_back(Spare { released: passed.as_released(), needed_before: 0 });
        }
        let segment = self.prepared.pop_front().expect("its position was just found");
        self.used_bytes += segment.bytes;
        // No write is in flight, so the last synced frame is the last one of the segment that is left.
        let last_lsn = self.positions.synced;
        let next = Current { segment, first_lsn: Lsn(last_lsn.0 + 1), offset: 0 };
        if let Some(Current { segment, first_lsn, .. }) = self.current.replace(next) {
            if self.config.archive {
                self.newly_sealed.push(Arc::clone(&segment));
            }
            self.sealed.push_back(SealedSegment { segment, first_lsn, last_lsn });
        }
        true
    }
}
