//! The memory of a log: the frame that fills, and full ones that wait for their write.
//!
//! Frames are cut from slabs, each on a multiple of 4096 bytes, so that they can be written as they lie. A lone record takes
//! one block of a slab. An entry that is a frame by itself gets memory of its own, so that it wastes no slab.

use std::collections::VecDeque;

use bytes::BytesMut;

use super::{
    Lsn,
    batch::BatchHeader,
    entry::{self, EntryDraft, EntrySize, MAX_ENTRY_BYTES},
    frame::{HEADER_BYTES, MAX_FRAME_BYTES},
};
use crate::io::{BLOCK_BYTES, aligned_buffer};

/// How many full frames a slab holds.
const FRAMES_PER_SLAB: usize = 4;

/// A frame that takes no more entries. Its header is blank.
#[derive(Debug)]
pub(super) struct FullFrame {
    pub(super) lsn: Lsn,
    /// Whole blocks, aligned.
    pub(super) bytes: BytesMut,
    pub(super) body_bytes: u32,
    /// Where in the frame each entry stands, and its header.
    pub(super) entries: Vec<(u32, BatchHeader)>,
}

#[derive(Debug)]
pub(super) struct Filling {
    frame_bytes: usize,
    /// The position of the last frame that was opened.
    last: Lsn,
    /// Begins with the open frame if there is one, else it is empty.
    slab: BytesMut,
    /// Of the open frame; empty: none is open.
    entries: Vec<(u32, BatchHeader)>,
    full: VecDeque<FullFrame>,
    full_bytes: usize,
}

impl Filling {
    /// Frames of at most `frame_bytes`, with positions after `last`.
    pub(super) fn new(last: Lsn, frame_bytes: usize) -> Self {
        assert!(
            (BLOCK_BYTES..=MAX_FRAME_BYTES).contains(&frame_bytes),
            "a frame of {frame_bytes} bytes is out of bounds"
        );
        const { assert!(MAX_ENTRY_BYTES + HEADER_BYTES <= MAX_FRAME_BYTES) };
        Self { frame_bytes, last, slab: BytesMut::new(), entries: Vec::new(), full: VecDeque::new(), full_bytes: 0 }
    }

    /// Adds an entry and returns the position of its frame.
    pub(super) fn append(&mut self, draft: &EntryDraft<'_>) -> Lsn {
        let size = EntrySize::of(draft);
        if !self.entries.is_empty() && !self.fits(self.slab.len() + size.total) {
            self.close();
        }
        if self.entries.is_empty() {
            self.last.0 += 1;
            if HEADER_BYTES + size.total > self.frame_bytes {
                return self.append_alone(draft, size);
            }
            if !self.fits(HEADER_BYTES + size.total) {
                let frame = self.frame_bytes.next_multiple_of(BLOCK_BYTES);
                self.slab = aligned_buffer(FRAMES_PER_SLAB * frame);
            }
            self.slab.extend_from_slice(&[0; HEADER_BYTES]);
        }
        let at = self.slab.len();
        let header = entry::encode(draft, size, &mut self.slab);
        self.entries.push((frame_offset(at), header));
        self.last
    }

    /// The padded length of the frame that [`Filling::take`] would give.
    pub(super) fn next_bytes(&self) -> Option<usize> {
        match self.full.front() {
            Some(frame) => Some(frame.bytes.len()),
            None if self.entries.is_empty() => None,
            None => Some(self.slab.len().next_multiple_of(BLOCK_BYTES)),
        }
    }

    /// The oldest frame; if none is full, the open one.
    pub(super) fn take(&mut self) -> Option<FullFrame> {
        if self.full.is_empty() && !self.entries.is_empty() {
            self.close();
        }
        let frame = self.full.pop_front()?;
        self.full_bytes -= frame.bytes.len();
        Some(frame)
    }

    /// Bytes in all frames.
    pub(super) fn bytes(&self) -> usize {
        self.full_bytes + self.slab.len()
    }

    /// Bytes of the largest frame.
    pub(super) fn largest_bytes(&self) -> usize {
        self.full.iter().map(|frame| frame.bytes.len()).chain([self.slab.len()]).max().unwrap_or(0)
    }

    /// Whether the slab can hold an open frame of `used` bytes, and the limit allows it.
    fn fits(&self, used: usize) -> bool {
        used <= self.frame_bytes && used.next_multiple_of(BLOCK_BYTES) <= self.slab.capacity()
    }

    fn close(&mut self) {
        let used = self.slab.len();
        self.slab.resize(used.next_multiple_of(BLOCK_BYTES), 0);
        let bytes = self.slab.split();
        // The next frame is likely to be like this one.
        let next = Vec::with_capacity(self.entries.len());
        let entries = std::mem::replace(&mut self.entries, next);
        self.queue(bytes, used, entries);
    }

    fn append_alone(&mut self, draft: &EntryDraft<'_>, size: EntrySize) -> Lsn {
        let used = HEADER_BYTES + size.total;
        let padded = used.next_multiple_of(BLOCK_BYTES);
        let mut bytes = aligned_buffer(padded);
        bytes.extend_from_slice(&[0; HEADER_BYTES]);
        let header = entry::encode(draft, size, &mut bytes);
        bytes.resize(padded, 0);
        self.queue(bytes, used, vec![(frame_offset(HEADER_BYTES), header)]);
        self.last
    }

    fn queue(&mut self, bytes: BytesMut, used: usize, entries: Vec<(u32, BatchHeader)>) {
        self.full_bytes += bytes.len();
        let body_bytes = frame_offset(used - HEADER_BYTES);
        self.full.push_back(FullFrame { lsn: self.last, bytes, body_bytes, entries });
    }
}

fn frame_offset(at: usize) -> u32 {
    u32::try_from(at).expect("a frame is at most MAX_FRAME_BYTES")
}
