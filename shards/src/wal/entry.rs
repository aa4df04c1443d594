//! Encode and decode of an entry: the records of one append to one stream, which is also their form in memory.
//!
//! Little endian. Header of 64 bytes: u32 entry bytes (a multiple of 8) · u8 kind (1) · u8 flags (1: has keys, 2: has a session) · u16
//! pipeline version (0: none) · 16 bytes stream · i64 first sequence · i64 timestamp (Unix µs) · u32 schema version · u32 count · u32 payload bytes · u32
//! metadata bytes · u32 key bytes · u32 CRC32C of the entry without this field. Then u32 payload end a record; with keys, u32
//! key end a record; with a session, u32 bytes of it, and it; metadata (an encoded map); keys; payloads; zeros. An entry with a
//! session may have no records.
//!
//! An entry has a checksum of its own, besides its frame's, so that one that is read alone is still checked. [`Layout::decode`]
//! takes any bytes: what it accepts can be sliced without a further check.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::batch::BatchHeader;
use crate::ids::StreamId;

/// Bytes of an entry's header.
pub const HEADER_BYTES: usize = 64;

/// The largest entry, in bytes. The limits on what a client sends keep well below it.
pub const MAX_ENTRY_BYTES: usize = 16 << 20;

const KIND_RECORDS: u8 = 1;
const FLAG_KEYS: u8 = 1;
const FLAG_SESSION: u8 = 2;
const CHECKSUM_AT: usize = 60;
const ALIGN_BYTES: usize = 8;

/// The records of one append, before they have a form. `payloads` is not empty, or there is a
/// session; `keys` is empty or as long as `payloads`, an
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
    /// The version of the stream's pipeline that they are read by; 0: none.
    pub pipeline_version: u16,
    /// The records.
    pub payloads: &'a [Bytes],
    /// Their idempotency keys.
    pub keys: &'a [Bytes],
    /// The metadata that all of them share, as the protobuf encoding of a `Metadata` map; empty: none.
    pub metadata: &'a [u8],
    /// What was taken of a writer's numbers, encoded; empty: there is no writer.
    pub session: &'a [u8],
}

/// How long the parts of an entry will be, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct EntrySize {
    pub(super) total: usize,
    payloads: usize,
    keys: usize,
}

impl EntrySize {
    /// The size of `draft`'s entry. Panics on a draft that breaks its contract, or is over [`MAX_ENTRY_BYTES`].
    pub(super) fn of(draft: &EntryDraft<'_>) -> Self {
        let is_empty = draft.payloads.is_empty() && draft.session.is_empty();
        assert!(!is_empty, "an entry has at least one record, or tells of a session");
        assert!(draft.keys.is_empty() || draft.keys.len() == draft.payloads.len(), "none has a key, or each has one");
        let payloads: usize = draft.payloads.iter().map(Bytes::len).sum();
        let keys: usize = draft.keys.iter().map(Bytes::len).sum();
        let ends = 4 * (draft.payloads.len() + draft.keys.len());
        let session = session_part(draft.session.len());
        let total =
            (HEADER_BYTES + ends + session + draft.metadata.len() + keys + payloads).next_multiple_of(ALIGN_BYTES);
        assert!(total <= MAX_ENTRY_BYTES, "an entry of {total} bytes is over the limit of {MAX_ENTRY_BYTES}");
        Self { total, payloads, keys }
    }
}

/// Bytes that a session of `bytes` takes in an entry.
fn session_part(bytes: usize) -> usize {
    if bytes == 0 { 0 } else { 4 + bytes }
}

/// Writes `draft`'s entry at the end of `out`, which has room for it, and returns its header.
pub(super) fn encode(draft: &EntryDraft<'_>, size: EntrySize, out: &mut BytesMut) -> BatchHeader {
    assert!(out.capacity() - out.len() >= size.total, "a frame's memory never moves");
    let narrow = |n: usize| u32::try_from(n).expect("every part is below MAX_ENTRY_BYTES");
    let batch = BatchHeader {
        stream: draft.stream,
        first_sequence: draft.first_sequence,
        timestamp_unix_micros: draft.timestamp_unix_micros,
        schema_version: draft.schema_version,
        pipeline_version: draft.pipeline_version,
        count: narrow(draft.payloads.len()),
        payload_bytes: narrow(size.payloads),
        key_bytes: narrow(size.keys),
        session_bytes: narrow(draft.session.len()),
        entry_bytes: narrow(size.total),
    };
    let has_keys = !draft.keys.is_empty();
    let mut header = [0; HEADER_BYTES];
    header[0..4].copy_from_slice(&batch.entry_bytes.to_le_bytes());
    header[4] = KIND_RECORDS;
    header[5] = if has_keys { FLAG_KEYS } else { 0 } | if draft.session.is_empty() { 0 } else { FLAG_SESSION };
    header[6..8].copy_from_slice(&batch.pipeline_version.to_le_bytes());
    header[8..24].copy_from_slice(batch.stream.as_bytes());
    header[24..32].copy_from_slice(&batch.first_sequence.to_le_bytes());
    header[32..40].copy_from_slice(&batch.timestamp_unix_micros.to_le_bytes());
    header[40..44].copy_from_slice(&batch.schema_version.to_le_bytes());
    header[44..48].copy_from_slice(&batch.count.to_le_bytes());
    header[48..52].copy_from_slice(&batch.payload_bytes.to_le_bytes());
    header[52..56].copy_from_slice(&narrow(draft.metadata.len()).to_le_bytes());
    header[56..60].copy_from_slice(&narrow(size.keys).to_le_bytes());

    let start = out.len();
    out.extend_from_slice(&header);
    encode_ends(draft.payloads, out);
    encode_ends(draft.keys, out);
    if !draft.session.is_empty() {
        out.extend_from_slice(&batch.session_bytes.to_le_bytes());
        out.extend_from_slice(draft.session);
    }
    out.extend_from_slice(draft.metadata);
    for key in draft.keys {
        out.extend_from_slice(key);
    }
    for payload in draft.payloads {
        out.extend_from_slice(payload);
    }
    out.resize(start + size.total, 0);
    let checksum = checksum(&out[start..]);
    out[start + CHECKSUM_AT..start + HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
    batch
}

/// Writes where each part ends, by way of a small array so that the buffer is touched once in a while, not once a record.
fn encode_ends(parts: &[Bytes], out: &mut BytesMut) {
    let mut end = 0u32;
    let mut chunk = [0; 256];
    for parts in parts.chunks(chunk.len() / 4) {
        for (part, to) in parts.iter().zip(chunk.chunks_exact_mut(4)) {
            // Cannot wrap: the sum is below MAX_ENTRY_BYTES, as `EntrySize::of` asserts.
            end += part.len() as u32;
            to.copy_from_slice(&end.to_le_bytes());
        }
        out.extend_from_slice(&chunk[..4 * parts.len()]);
    }
}

fn checksum(entry: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&entry[..CHECKSUM_AT]), &entry[HEADER_BYTES..])
}

/// Bytes that are not an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// Fewer bytes than the header or its length asks for.
    #[error("the entry is cut off")]
    Short,
    /// A header field has a value that no writer gives it.
    #[error("the entry's {0} is wrong")]
    Field(&'static str),
    /// The checksum does not match.
    #[error("the entry's checksum is wrong")]
    Checksum,
}

/// Where the parts of an entry stand. Every range is within the entry, and every end in it is in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// What the header says.
    pub header: BatchHeader,
    has_keys: bool,
    metadata_at: u32,
    keys_at: u32,
    payloads_at: u32,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("a slice of 4"))
}

fn i64_at(bytes: &[u8], at: usize) -> i64 {
    i64::from_le_bytes(bytes[at..at + 8].try_into().expect("a slice of 8"))
}

impl Layout {
    /// The layout of the entry that `bytes` begins with; more may follow it. Its checksum is not looked at.
    ///
    /// # Errors
    /// The bytes are no entry.
    pub fn decode(bytes: &[u8]) -> Result<Self, EntryError> {
        if bytes.len() < HEADER_BYTES {
            return Err(EntryError::Short);
        }
        let entry_bytes = u32_at(bytes, 0);
        let count = u32_at(bytes, 44);
        let [payload_bytes, metadata_bytes, key_bytes] = [48, 52, 56].map(|at| u32_at(bytes, at));
        if bytes[4] != KIND_RECORDS {
            return Err(EntryError::Field("kind"));
        }
        if bytes[5] & !(FLAG_KEYS | FLAG_SESSION) != 0 {
            return Err(EntryError::Field("flags"));
        }
        let has_keys = bytes[5] & FLAG_KEYS != 0;
        let first_sequence = i64_at(bytes, 24);
        let has_session = bytes[5] & FLAG_SESSION != 0;
        if (count == 0 && !has_session) || first_sequence < 0 || first_sequence.checked_add(i64::from(count)).is_none()
        {
            return Err(EntryError::Field("count or sequence"));
        }
        let session_at = HEADER_BYTES as u64 + 4 * u64::from(count) * if has_keys { 2 } else { 1 };
        let session_bytes = if has_session { session_bytes(bytes, session_at)? } else { 0 };
        let metadata_at = session_at + session_part(session_bytes as usize) as u64;
        let keys_at = metadata_at + u64::from(metadata_bytes);
        let payloads_at = keys_at + u64::from(key_bytes);
        let end = (payloads_at + u64::from(payload_bytes)).next_multiple_of(ALIGN_BYTES as u64);
        if end != u64::from(entry_bytes) || end > MAX_ENTRY_BYTES as u64 {
            return Err(EntryError::Field("length"));
        }
        if bytes.len() < entry_bytes as usize {
            return Err(EntryError::Short);
        }
        let header = BatchHeader {
            stream: StreamId::from_bytes(bytes[8..24].try_into().expect("a slice of 16")),
            first_sequence,
            timestamp_unix_micros: i64_at(bytes, 32),
            schema_version: u32_at(bytes, 40),
            pipeline_version: u16::from_le_bytes([bytes[6], bytes[7]]),
            count,
            payload_bytes,
            key_bytes,
            session_bytes,
            entry_bytes,
        };
        // They fit: all are at most `entry_bytes`.
        let [metadata_at, keys_at, payloads_at] = [metadata_at, keys_at, payloads_at].map(|at| at as u32);
        let ends_at = HEADER_BYTES + 4 * count as usize;
        check_ends(&bytes[HEADER_BYTES..ends_at], payload_bytes, "payload ends")?;
        if has_keys {
            check_ends(&bytes[ends_at..2 * ends_at - HEADER_BYTES], key_bytes, "key ends")?;
        } else if key_bytes != 0 {
            return Err(EntryError::Field("key bytes"));
        }
        Ok(Self { header, has_keys, metadata_at, keys_at, payloads_at })
    }

    /// The layout of the entry that `bytes` begins with, if its checksum is right too.
    ///
    /// # Errors
    /// The bytes are no entry, or a damaged one.
    pub fn decode_checked(bytes: &[u8]) -> Result<Self, EntryError> {
        let layout = Self::decode(bytes)?;
        let entry = &bytes[..layout.header.entry_bytes as usize];
        if checksum(entry) == u32_at(entry, CHECKSUM_AT) { Ok(layout) } else { Err(EntryError::Checksum) }
    }

    /// Where in `entry`, the bytes that the layout was decoded from, the payload of record `index` stands.
    pub(super) fn payload(&self, entry: &[u8], index: usize) -> Range<usize> {
        self.part(entry, index, HEADER_BYTES, self.payloads_at)
    }

    /// Where all payloads stand.
    pub(super) fn payloads(&self) -> Range<usize> {
        let start = self.payloads_at as usize;
        start..start + self.header.payload_bytes as usize
    }

    /// Where the key of record `index` stands; an empty range if it has none.
    pub(super) fn key(&self, entry: &[u8], index: usize) -> Range<usize> {
        assert!(index < self.header.count as usize, "record {index} of {}", self.header.count);
        if !self.has_keys {
            return 0..0;
        }
        self.part(entry, index, HEADER_BYTES + 4 * self.header.count as usize, self.keys_at)
    }

    /// Where the session stands; an empty range if there is none.
    pub(super) fn session(&self) -> Range<usize> {
        let end = self.metadata_at as usize;
        end - self.header.session_bytes as usize..end
    }

    /// Where the metadata stands.
    pub(super) fn metadata(&self) -> Range<usize> {
        self.metadata_at as usize..self.keys_at as usize
    }

    fn part(&self, entry: &[u8], index: usize, ends_at: usize, parts_at: u32) -> Range<usize> {
        assert!(index < self.header.count as usize, "record {index} of {}", self.header.count);
        let start = if index == 0 { 0 } else { u32_at(entry, ends_at + 4 * (index - 1)) };
        let end = u32_at(entry, ends_at + 4 * index);
        (parts_at + start) as usize..(parts_at + end) as usize
    }
}

/// The length of the session whose part begins at `at`.
fn session_bytes(bytes: &[u8], at: u64) -> Result<u32, EntryError> {
    let at = usize::try_from(at).map_err(|_| EntryError::Short)?;
    let len = bytes.get(at..at.saturating_add(4)).ok_or(EntryError::Short)?;
    match u32_at(len, 0) {
        0 => Err(EntryError::Field("session")),
        len => Ok(len),
    }
}

/// Checks that the ends never fall and that the last one is `total`.
fn check_ends(ends: &[u8], total: u32, name: &'static str) -> Result<(), EntryError> {
    let mut last = 0;
    let mut rising = true;
    for end in ends.chunks_exact(4) {
        let end = u32_at(end, 0);
        rising &= end >= last;
        last = end;
    }
    if rising && last == total { Ok(()) } else { Err(EntryError::Field(name)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(payloads: &[Bytes], keys: &[Bytes], session: &[u8]) -> (BatchHeader, BytesMut) {
        let draft = EntryDraft {
            stream: StreamId::from_bytes([3; 16]),
            first_sequence: 5,
            timestamp_unix_micros: -7,
            schema_version: 2,
            pipeline_version: 0x0102,
            payloads,
            keys,
            metadata: b"some metadata",
            session,
        };
        let size = EntrySize::of(&draft);
        let mut out = BytesMut::with_capacity(size.total);
        let header = encode(&draft, size, &mut out);
        assert_eq!(out.len(), size.total);
        (header, out)
    }

    fn sample() -> (BatchHeader, BytesMut, Vec<Bytes>, Vec<Bytes>) {
        let payloads: Vec<_> = (0..150).map(|i| Bytes::from(vec![i as u8; i % 7])).collect();
        let keys: Vec<_> = (0..150).map(|i| Bytes::from(vec![!(i as u8); i % 3])).collect();
        let (header, entry) = encoded(&payloads, &keys, b"a session");
        (header, entry, payloads, keys)
    }

    #[test]
    fn an_entry_reads_back_as_it_was_written() -> Result<(), EntryError> {
        let (header, mut entry, payloads, keys) = sample();
        entry.extend_from_slice(b"what follows is not looked at");
        let layout = Layout::decode_checked(&entry)?;
        assert_eq!((layout.header, layout.header.pipeline_version), (header, 0x0102));
        assert_eq!(&entry[layout.metadata()], b"some metadata");
        assert_eq!(&entry[layout.session()], b"a session");
        for index in 0..150 {
            assert_eq!(entry[layout.payload(&entry, index)], payloads[index]);
            assert_eq!(entry[layout.key(&entry, index)], keys[index]);
        }
        let (header, rowless) = encoded(&[], &[], b"a session");
        let layout = Layout::decode_checked(&rowless)?;
        assert_eq!((layout.header, layout.header.count), (header, 0));
        assert_eq!((&rowless[layout.session()], layout.header.last_sequence()), (&b"a session"[..], 4));
        let (_, keyless) = encoded(&payloads[1..2], &[], &[]);
        let layout = Layout::decode_checked(&keyless)?;
        assert_eq!((layout.key(&keyless, 0), &keyless[layout.payload(&keyless, 0)]), (0..0, &[1][..]));
        Ok(())
    }

    #[test]
    fn any_damage_is_an_error_or_can_still_be_sliced() {
        let (header, entry, ..) = sample();
        for len in 0..entry.len() {
            assert!(Layout::decode(&entry[..len]).is_err(), "cut at {len}");
        }
        for bit in 0..entry.len() * 8 {
            let mut flipped = entry.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Layout::decode_checked(&flipped).is_err(), "bit {bit}");
            let Ok(layout) = Layout::decode(&flipped) else { continue };
            assert_eq!(layout.header.count, header.count, "a count that does not fit the ends is refused");
            for index in 0..layout.header.count as usize {
                let _ = (&flipped[layout.payload(&flipped, index)], &flipped[layout.key(&flipped, index)]);
            }
            let _ = (&flipped[layout.metadata()], &flipped[layout.session()]);
        }
    }

    #[test]
    fn lengths_that_overflow_are_refused() {
        let (_, entry, ..) = sample();
        for at in [0, 44, 48, 52, 56] {
            for value in [0, 1, u32::MAX, u32::MAX - 7, 1 << 31, 1 << 30] {
                let mut bytes = entry.clone();
                bytes[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
                assert!(Layout::decode(&bytes).is_err(), "{value} at {at}");
            }
        }
        let mut bytes = entry.clone();
        bytes[24..32].copy_from_slice(&i64::MAX.to_le_bytes());
        assert_eq!(Layout::decode(&bytes), Err(EntryError::Field("count or sequence")));
    }
}
