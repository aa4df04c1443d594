//! A row batch: an entry of a synced frame, held in memory or only in its segment.

use std::{io, sync::Arc};

use bytes::Bytes;

use super::segment::Segment;
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
    /// How many records.
    pub count: u32,
    /// Bytes of all payloads.
    pub payload_bytes: u32,
    /// Bytes of the whole entry.
    pub entry_bytes: u32,
}

impl BatchHeader {
    /// The sequence number of its last record.
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

    /// Its records. Reads the segment if the batch is not in memory: then not for a shard's reactor.
    ///
    /// # Errors
    /// The segment cannot be read, or what stands there is not this entry.
    pub fn rows(&self) -> io::Result<Rows> {
        unimplemented!()
    }
}

/// The records of a batch, in memory.
#[derive(Debug, Clone)]
pub struct Rows {
    entry: Bytes,
}

impl Rows {
    /// The payload of record `index` (from 0), without a copy.
    #[must_use]
    pub fn payload(&self, _index: usize) -> Bytes {
        unimplemented!()
    }

    /// Its idempotency key; empty: none.
    #[must_use]
    pub fn key(&self, _index: usize) -> &[u8] {
        unimplemented!()
    }

    /// The encoded metadata that all records of the batch share; empty: none.
    #[must_use]
    pub fn metadata(&self) -> Bytes {
        unimplemented!()
    }
}
