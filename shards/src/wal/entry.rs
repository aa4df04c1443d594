//! Encode and decode of an entry: the records of one append to one stream, which is also their form in memory.
//!
//! Little endian. Header of 64 bytes: u32 entry bytes (a multiple of 8) · u8 kind (1) · u8 flags (1: has keys) · u16 zero · 16
//! bytes stream · i64 first sequence · i64 timestamp (Unix µs) · u32 schema version · u32 count · u32 payload bytes · u32
//! metadata bytes · u32 key bytes · u32 zero. Then u32 payload end a record; with keys, u32 key end a record; metadata (an
//! encoded map); keys; payloads; zeros.

use bytes::Bytes;

use crate::ids::StreamId;

/// The records of one append, before they have a form. `payloads` is not empty; `keys` is empty or as long as `payloads`, an
/// empty key meaning none.
#[derive(Debug, Clone, Copy)]
pub struct EntryDraft<'a> {
    /// The stream.
    pub stream: StreamId,
    /// The sequence number of the first record; the others follow without gaps.
    pub first_sequence: i64,
    /// When they were ingested, Unix µs.
    pub timestamp_unix_micros: i64,
    /// The schema version that they were checked with.
    pub schema_version: u32,
    /// The records.
    pub payloads: &'a [Bytes],
    /// Their idempotency keys.
    pub keys: &'a [Bytes],
    /// The metadata that all of them share, as the protobuf encoding of a `Metadata` map; empty: none.
    pub metadata: &'a [u8],
}
