//! The key index of a file: from a key to the rows that may have it.
//!
//! It lies inside the file, between the last row group and the footer, so that both are one object with one checksum. The
//! footer names it by [`FOOTER_KEY`]; readers that do not know it pass it by. It has a part for each key field: a filter, which
//! one in 65,536 absent keys passes, a directory, and buckets of about 128 entries. An entry is 32 bits of the key's hash, beside
//! those that choose the bucket, and a row number. Of rows with one hash only the last is kept. Head (filter and directory)
//! and each bucket carry a CRC32C.
//!
//! What it says is a hint: whoever finds that none of the rows it names has the key looks at all rows of the file, because
//! two keys may share a hash. That it names no row is the truth.

use std::ops::Range;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use simd_json::Node;

use crate::{filter::Filter, record::keys::KeyField};

/// The footer's key under which the index is described, as the JSON of [`Footer`].
pub(super) const FOOTER_KEY: &str = "ttdust.key_index";
const VERSION: u32 = 1;

const BUCKET_ENTRIES: usize = 128;
const BUCKET_BITS_MAX: u32 = 20;
const ENTRY_BYTES: u64 = 8;
const CHECKSUM_BYTES: u64 = 4;

/// What the footer says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Footer {
    version: u32,
    fields: Vec<FieldIndex>,
}

/// Where the index of one field lies.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct FieldIndex {
    field: String,
    /// The byte of the file at which the head begins; the buckets follow it.
    offset: u64,
    filter_bytes: u64,
    bucket_bits: u32,
    entries: u32,
    head_crc32c: u32,
}

impl Footer {
    /// Reads the footer's text; `None`: an index that this version does not know.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let footer: Self = serde_json::from_str(text).ok()?;
        let known = |field: &FieldIndex| {
            field.bucket_bits <= BUCKET_BITS_MAX
                && field.offset.checked_add(field.filter_bytes).is_some_and(|end| end < 1 << 62)
        };
        (footer.version == VERSION && footer.fields.iter().all(known)).then_some(footer)
    }

    /// The index of `field`, and which of all it is.
    pub(super) fn field(&self, field: &str) -> Option<(usize, &FieldIndex)> {
        self.fields.iter().enumerate().find(|(_, index)| index.field == field)
    }
}

impl FieldIndex {
    /// The bytes of the file that [`Head::new`] takes.
    pub(super) fn head_range(&self) -> Range<u64> {
        self.offset..self.buckets_at()
    }

    fn buckets_at(&self) -> u64 {
        self.offset + self.filter_bytes + 4 * ((1 << self.bucket_bits) + 1)
    }
}

/// The part of an index that is worth keeping in memory.
#[derive(Debug)]
pub(super) struct Head {
    index: FieldIndex,
    filter: Filter,
    /// Where each bucket's entries start, and their end: u32 each.
    starts: Bytes,
}

impl Head {
    /// The head of `index` from its bytes; `None`: they are damaged.
    pub(super) fn new(index: &FieldIndex, bytes: Bytes) -> Option<Self> {
        let length = index.head_range();
        if bytes.len() as u64 != length.end - length.start || crc32c::crc32c(&bytes) != index.head_crc32c {
            return None;
        }
        let (filter, starts) =
            (bytes.slice(..index.filter_bytes as usize), Bytes::copy_from_slice(&bytes[index.filter_bytes as usize..]));
        let head = Self { index: index.clone(), filter: Filter::from_bytes(&filter).ok()?, starts };
        let ends = || (0..=1usize << index.bucket_bits).map(|bucket| head.start(bucket));
        (ends().is_sorted() && head.start(0) == 0 && ends().next_back() == Some(index.entries)).then_some(head)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.index.field.len() + self.filter.memory_bytes() + self.starts.len()
    }

    /// The field.
    pub(super) fn field(&self) -> &str {
        &self.index.field
    }

    /// Whether surely no row has a key with this hash.
    pub(super) fn lacks(&self, hash: u64) -> bool {
        !self.filter.contains(hash)
    }

    /// Where the bucket lies that knows of `key`; `None`: no row has it.
    pub(super) fn bucket_of(&self, hash: u64) -> Option<Range<u64>> {
        if self.lacks(hash) {
            return None;
        }
        let bucket = bucket_of(hash, self.index.bucket_bits);
        let (start, end) = (self.start(bucket), self.start(bucket + 1));
        let at = self.index.buckets_at() + ENTRY_BYTES * u64::from(start) + CHECKSUM_BYTES * bucket as u64;
        (start < end).then(|| at..at + ENTRY_BYTES * u64::from(end - start) + CHECKSUM_BYTES)
    }

    /// The rows that may have the key, the last first, from the bytes of its bucket; `None`: they are damaged.
    pub(super) fn rows(&self, hash: u64, bucket: &[u8]) -> Option<Vec<u32>> {
        let (entries, sum) = bucket.split_last_chunk::<4>()?;
        if crc32c::crc32c(entries) != u32::from_le_bytes(*sum) {
            return None;
        }
        let wanted = remainder_of(hash, self.index.bucket_bits);
        let (entries, _) = entries.as_chunks::<8>();
        let first = entries.partition_point(|entry| u32_at(entry, 0) < wanted);
        let same = entries[first..].iter().take_while(|entry| u32_at(*entry, 0) == wanted);
        let mut rows: Vec<u32> = same.map(|entry| u32_at(entry, 4)).collect();
        rows.sort_unstable_by(|a, b| b.cmp(a));
        Some(rows)
    }

    /// How many entries stand before `bucket`.
    fn start(&self, bucket: usize) -> u32 {
        u32_at(&self.starts, 4 * bucket)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("a slice of 4"))
}

fn bucket_of(hash: u64, bits: u32) -> usize {
    hash.checked_shr(64 - bits).unwrap_or(0) as usize
}

/// The 32 bits after those of the bucket.
fn remainder_of(hash: u64, bits: u32) -> u32 {
    ((hash << bits) >> 32) as u32
}

/// The hash of a key. Part of the files' form: it never changes.
#[must_use]
pub(super) fn hash_of(key: &str) -> u64 {
    const FIRST: u64 = 0x9e37_79b9_7f4a_7c15;
    const SECOND: u64 = 0xd6e8_feb8_6659_fd93;
    // A product's two halves, folded: every bit of both factors has a say in each bit.
    let fold = |a: u64, b: u64| {
        let product = u128::from(a) * u128::from(b);
        (product >> 64) as u64 ^ product as u64
    };
    let (chunks, rest) = key.as_bytes().as_chunks::<8>();
    let mut hash = FIRST ^ key.len() as u64;
    for chunk in chunks {
        hash = fold(hash ^ u64::from_le_bytes(*chunk), SECOND).wrapping_add(FIRST);
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    hash = fold(hash ^ u64::from_le_bytes(last), SECOND);
    hash ^= hash >> 32;
    hash = hash.wrapping_mul(FIRST);
    hash ^ (hash >> 29)
}

/// Collects the keys of rows. Takes 16 bytes a row and field, and at the end 33 more a row for one field at a time.
#[derive(Debug)]
pub(super) struct IndexBuilder {
    fields: Vec<(KeyField, Vec<(u64, u32)>)>,
    rows: u32,
    digits: String,
}

impl IndexBuilder {
    pub(super) fn new(fields: &[KeyField]) -> Self {
        let fields = fields.iter().map(|field| (field.clone(), Vec::new())).collect();
        Self { fields, rows: 0, digits: String::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Takes the next row.
    pub(super) fn append(&mut self, nodes: &[Node<'_>]) {
        for (field, rows) in &mut self.fields {
            if let Some(key) = field.key(nodes, &mut self.digits) {
                rows.push((hash_of(key), self.rows));
            }
        }
        self.rows = self.rows.checked_add(1).expect("a file has fewer than 2^32 rows");
    }

    /// The bytes of the index, to be put at `offset` of the file, and what the footer says of it.
    pub(super) fn finish(self, offset: u64) -> (Vec<u8>, String) {
        let mut bytes = Vec::new();
        let mut footer = Footer { version: VERSION, fields: Vec::new() };
        for (field, mut rows) in self.fields {
            rows.sort_unstable();
            // Of rows with the same hash the last one stays.
            rows.dedup_by(|later, kept| {
                let same = later.0 == kept.0;
                if same {
                    kept.1 = later.1;
                }
                same
            });
            footer.fields.push(write_field(field.name(), &rows, offset, &mut bytes));
        }
        (bytes, serde_json::to_string(&footer).expect("numbers and texts"))
    }
}

/// Appends the index of one field to `out`, which lies at `offset` of the file.
fn write_field(name: &str, rows: &[(u64, u32)], offset: u64, out: &mut Vec<u8>) -> FieldIndex {
    let at = out.len();
    let bucket_bits = rows.len().div_ceil(BUCKET_ENTRIES).max(1).next_power_of_two().ilog2().min(BUCKET_BITS_MAX);
    let hashes: Vec<u64> = rows.iter().map(|(hash, _)| *hash).collect();
    // The wide kind: over thousands of files one in 256 would make each absent key a read or ten.
    out.extend_from_slice(&Filter::build_wide(&hashes).to_bytes());
    drop(hashes);
    let filter_bytes = (out.len() - at) as u64;
    // Hashes are in order, so buckets are too.
    let start = |bucket: usize| rows.partition_point(|(hash, _)| bucket_of(*hash, bucket_bits) < bucket);
    let starts: Vec<usize> = (0..=1 << bucket_bits).map(start).collect();
    for start in &starts {
        out.extend_from_slice(&(*start as u32).to_le_bytes());
    }
    let head_crc32c = crc32c::crc32c(&out[at..]);
    for bucket in starts.windows(2) {
        let bucket_at = out.len();
        for (hash, row) in &rows[bucket[0]..bucket[1]] {
            out.extend_from_slice(&remainder_of(*hash, bucket_bits).to_le_bytes());
            out.extend_from_slice(&row.to_le_bytes());
        }
        let sum = crc32c::crc32c(&out[bucket_at..]);
        out.extend_from_slice(&sum.to_le_bytes());
    }
    FieldIndex {
        field: name.to_owned(),
        offset: offset + at as u64,
        filter_bytes,
        bucket_bits,
        entries: rows.len() as u32,
        head_crc32c,
    }
}

#[cfg(test)]
impl Head {
    /// Of an index of the field `k` with one row for each of these keys.
    pub(super) fn of(keys: &[String]) -> Self {
        let mut rows: Vec<_> = keys.iter().zip(0..).map(|(key, row)| (hash_of(key), row)).collect();
        rows.sort_unstable();
        let mut bytes = Vec::new();
        let index = write_field("k", &rows, 0, &mut bytes);
        let head = Bytes::copy_from_slice(&bytes[..index.head_range().end as usize]);
        Self::new(&index, head).expect("whole")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Parser;

    /// An index of `keys`, one a row, as a file with 100 bytes before it.
    fn file(keys: impl Iterator<Item = String>) -> (Vec<u8>, Footer) {
        let mut builder = IndexBuilder::new(&[KeyField::new("k"), KeyField::new("absent")]);
        let mut parser = Parser::default();
        for key in keys {
            parser.with_nodes(format!(r#"{{"k":"{key}"}}"#).as_bytes(), |nodes| builder.append(nodes));
        }
        let (bytes, footer) = builder.finish(100);
        ([vec![7; 100], bytes].concat(), Footer::parse(&footer).expect("what was written"))
    }

    fn slice(file: &[u8], range: Range<u64>) -> Bytes {
        Bytes::copy_from_slice(&file[range.start as usize..range.end as usize])
    }

    fn rows(file: &[u8], footer: &Footer, field: &str, key: &str) -> Vec<u32> {
        let (_, index) = footer.field(field).expect("indexed");
        let head = Head::new(index, slice(file, index.head_range())).expect("whole");
        let hash = hash_of(key);
        let bucket = head.bucket_of(hash).map(|range| head.rows(hash, &slice(file, range)).expect("whole"));
        bucket.unwrap_or_default()
    }

    #[test]
    fn the_hash_is_a_contract() {
        let hashes = ["", "a", "12345678", "123456789"].map(hash_of);
        assert_eq!(
            hashes,
            [0xacd4_bc3b_f7b1_d4ff, 0xde49_ba9b_e069_2f51, 0x7f24_169d_8de7_a999, 0xf41a_1be4_aac9_7477]
        );
    }

    #[test]
    fn every_key_is_found_at_its_last_row_and_few_others_are() {
        for count in [0, 1, 2, 127, 128, 129, 1000, 40_000] {
            let (file, footer) = file((0..count).map(|row| format!("key-{}", row % 30_000)));
            for row in 0..count {
                let last = if row + 30_000 < count { row + 30_000 } else { row };
                assert_eq!(rows(&file, &footer, "k", &format!("key-{}", row % 30_000)), [last as u32], "of {count}");
            }
            assert!(rows(&file, &footer, "absent", "key-1").is_empty());
            let (_, index) = footer.field("k").expect("indexed");
            let head = Head::new(index, slice(&file, index.head_range())).expect("whole");
            let passed = (0..20_000).filter(|n| head.bucket_of(hash_of(&format!("other {n}"))).is_some()).count();
            assert!(passed < 6, "{passed} of 20000 absent keys pass the filter of {count}");
            assert!((0..20_000).all(|n| rows(&file, &footer, "k", &format!("other {n}")).is_empty()) || count > 1000);
        }
    }

    #[test]
    fn two_rows_with_one_fingerprint_are_both_named() {
        // The same bucket and remainder, but another hash.
        let rows = [(0x1234_5678_0000_0001, 4), (0x1234_5678_0000_0002, 9), (0x1234_5679_0000_0000, 2)];
        let mut bytes = Vec::new();
        let index = write_field("k", &rows, 0, &mut bytes);
        let head = Head::new(&index, slice(&bytes, index.head_range())).expect("whole");
        let range = head.bucket_of(rows[0].0).expect("there");
        assert_eq!(head.rows(rows[0].0, &slice(&bytes, range)), Some(vec![9, 4]));
    }

    #[test]
    fn damage_is_seen() {
        let (mut file, footer) = file((0..300).map(|row| row.to_string()));
        let (_, index) = footer.field("k").expect("indexed");
        let head_range = index.head_range();
        let hash = hash_of("7");
        let bucket = {
            let head = Head::new(index, slice(&file, head_range.clone())).expect("whole");
            head.bucket_of(hash).expect("there")
        };
        for at in head_range.clone() {
            file[at as usize] ^= 1;
            assert!(Head::new(index, slice(&file, head_range.clone())).is_none(), "byte {at}");
            file[at as usize] ^= 1;
        }
        let head = Head::new(index, slice(&file, head_range)).expect("whole");
        for at in bucket.clone() {
            file[at as usize] ^= 1;
            assert!(head.rows(hash, &slice(&file, bucket.clone())).is_none(), "byte {at}");
            file[at as usize] ^= 1;
        }
        assert!(Footer::parse("{").is_none() && Footer::parse(r#"{"version":2,"fields":[]}"#).is_none());
    }
}
