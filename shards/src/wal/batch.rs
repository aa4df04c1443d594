//! A row batch: an entry of a synced frame, held in memory or only in its segment.

use std::{io, sync::Arc};

use bytes::Bytes;

use super::{entry::Layout, segment::Segment};
use crate::ids::StreamId;

/// What a batch's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// The stream.
    pub stream: StreamId,
    /// The sequence number of its first record.
    pub first_sequence: i64,
    /// When they were ingested, Unix µs. Never falls within a stream.
    pub timestamp_unix_micros: i64,
    /// The schema version that they were checked with.
    pub schema_version: u32,
    /// The version of the stream's pipeline that they are read by; 0: none.
    pub pipeline_version: u16,
    /// How many records. 0 in an entry that tells only of a session: such a batch is never in a buffer.
    pub count: u32,
    /// Bytes of all payloads.
    pub payload_bytes: u32,
    /// Bytes of all idempotency keys; 0: no record has one.
    pub key_bytes: u32,
    /// Bytes of what it tells of a writer's session; 0: nothing.
    pub session_bytes: u32,
    /// Bytes of the whole entry.
    pub entry_bytes: u32,
}

impl BatchHeader {
    /// The sequence number of its last record; without records, the one before `first_sequence`.
    #[must_use]
    pub fn last_sequence(&self) -> i64 {
        self.first_sequence + i64::from(self.count) - 1
    }
}

/// An entry of a synced frame. Cheap to clone. While one exists, its segment is not recycled.
#[derive(Debug, Clone)]
pub struct RowBatch {
    header: BatchHeader,
    segment: Arc<Segment>,
    offset: u64,
    resident: Option<Bytes>,
}

impl RowBatch {
    /// A batch whose entry stands at byte `offset` of `segment`, and in memory as `resident` if given.
    #[must_use]
    pub fn new(header: BatchHeader, segment: Arc<Segment>, offset: u64, resident: Option<Bytes>) -> Self {
        Self { header, segment, offset, resident }
    }

    /// Its header.
    #[must_use]
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// Whether it is in memory.
    #[must_use]
    pub fn is_resident(&self) -> bool {
        self.resident.is_some()
    }

    /// Lets go of the memory; the log still holds it.
    pub fn spill(&mut self) {
        self.resident = None;
    }

    /// Bytes of memory that it holds on to: the last batch of a frame counts the frame's padding too. 0 if spilled.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.resident.as_ref().map_or(0, Bytes::len)
    }

    /// The segment that holds it.
    #[must_use]
    pub fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// Where its entry stands in its segment, in bytes.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Its records. Reads the segment if the batch is not in memory: then not for a shard's reactor.
    ///
    /// # Errors
    /// The segment cannot be read, or what stands there is not this entry.
    pub fn rows(&self) -> io::Result<Rows> {
        let damaged = |reason: String| {
            let what = format!("{} at byte {}: {reason}", self.segment.path.display(), self.offset);
            io::Error::new(io::ErrorKind::InvalidData, what)
        };
        let (entry, layout) = match &self.resident {
            Some(entry) => (entry.clone(), Layout::decode(entry)),
            None => {
                let mut entry = vec![0; self.header.entry_bytes as usize];
                self.segment.file.read_exact_at(&mut entry, self.offset)?;
                let layout = Layout::decode_checked(&entry);
                (Bytes::from(entry), layout)
            }
        };
        let layout = layout.map_err(|error| damaged(error.to_string()))?;
        if layout.header != self.header {
            return Err(damaged("another entry stands there".to_owned()));
        }
        Ok(Rows { entry, layout })
    }
}

/// The records of a batch, in memory. An index past the last record panics.
#[derive(Debug, Clone)]
pub struct Rows {
    entry: Bytes,
    layout: Layout,
}

impl Rows {
    /// How many records there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.layout.header.count as usize
    }

    /// The payload of record `index` (from 0), without a copy.
    #[must_use]
    pub fn payload(&self, index: usize) -> Bytes {
        self.entry.slice(self.layout.payload(&self.entry, index))
    }

    /// The same, borrowed: cheaper where the bytes are only looked at.
    #[must_use]
    pub fn payload_bytes(&self, index: usize) -> &[u8] {
        &self.entry[self.layout.payload(&self.entry, index)]
    }

    /// The memory that all of it lies in.
    #[must_use]
    pub fn entry(&self) -> Bytes {
        self.entry.clone()
    }

    /// Where in [`Rows::entry`] the payload of record `index` lies.
    #[must_use]
    pub fn payload_range(&self, index: usize) -> std::ops::Range<usize> {
        self.layout.payload(&self.entry, index)
    }

    /// The payloads of all records, one after the other.
    #[must_use]
    pub fn payloads(&self) -> &[u8] {
        &self.entry[self.layout.payloads()]
    }

    /// Its idempotency key; empty: none.
    #[must_use]
    pub fn key(&self, index: usize) -> &[u8] {
        &self.entry[self.layout.key(&self.entry, index)]
    }

    /// What it tells of a writer's session, encoded; empty: nothing.
    #[must_use]
    pub fn session(&self) -> &[u8] {
        &self.entry[self.layout.session()]
    }

    /// The encoded metadata that all records of the batch share; empty: none.
    #[must_use]
    pub fn metadata(&self) -> Bytes {
        self.entry.slice(self.layout.metadata())
    }
}
