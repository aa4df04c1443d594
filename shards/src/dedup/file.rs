//! A file of keys on disk: sorted fingerprints with what each got, a filter in memory before it, one read of a block to look
//! one up.
//!
//! Little endian, in blocks of 4096 bytes. First the keys: 127 entries a block (u128 fingerprint · i64 sequence · i64 Unix µs)
//! · u64 file number · u64 block number · u32 entries · 8 zeros · u32 CRC32C. Then the index: of each block the upper half of
//! its first fingerprint (u64), of each filter its length (u32). Then the filters: keys are parted by the upper bits of their
//! fingerprints, so that building one takes little memory however long the file. Then zeros, and the footer: see `Footer`.
//!
//! A file is written under another name and renamed when it is whole and synced, and never changed. It is a hint: what it says
//! is also in the log, or was when the log was released; what is damaged is told of and left out.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::BytesMut;

use super::{Seen, fingerprint::Fingerprint, table::Entry};
use crate::{
    filter::Filter,
    ids::ShardId,
    io::{BLOCK_BYTES, Disk, DiskFile, aligned_buffer},
};

const ENTRY_BYTES: usize = 32;
const ENTRIES_PER_BLOCK: usize = BLOCK_BYTES / ENTRY_BYTES - 1;
const TRAILER_AT: usize = ENTRIES_PER_BLOCK * ENTRY_BYTES;
const CHECKSUM_AT: usize = BLOCK_BYTES - 4;
/// Written, and read where all is read, so many bytes at a time.
const CHUNK_BYTES: usize = 256 << 10;
/// A filter is for about so many keys.
const KEYS_PER_FILTER: u64 = 1 << 18;
const MAGIC: [u8; 8] = *b"TTDkeys\0";
const VERSION: u32 = 1;

/// What a file says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// The shard that wrote it.
    pub shard: ShardId,
    /// Grows with every file of the shard.
    pub number: u64,
    /// Of the seeds that its fingerprints were made with.
    pub seeds: u64,
    /// Which streams were whose when it was written.
    pub homes: u64,
    /// The first and last time (µs of the keys' clock) at which one of its keys may have come.
    pub clock: (u64, u64),
}

/// The name of a shard's file.
#[must_use]
pub fn file_name(shard: ShardId, number: u64) -> String {
    format!("{:05}-{number:016x}.keys", shard.0)
}

/// The shard and number in a file's name; `None` for the name of anything else.
#[must_use]
pub fn parse_file_name(name: &Path) -> Option<(ShardId, u64)> {
    let (shard, number) = name.to_str()?.strip_suffix(".keys")?.split_once('-')?;
    let (shard, number) = (ShardId(shard.parse().ok()?), u64::from_str_radix(number, 16).ok()?);
    (file_name(shard, number) == name.to_str()?).then_some((shard, number))
}

/// The last block: magic · u32 version · u32 filter bits · u64 seeds · u64 homes · u64 number · u64 first and last time · u64
/// entries · u64 blocks · u64 bytes of the filters · u16 shard · u16 zero · u32 CRC32C of the index · zeros · CRC32C.
#[derive(Debug, Clone, Copy)]
struct Footer {
    facts: Facts,
    /// There are two to the power of it filters.
    filter_bits: u32,
    entries: u64,
    blocks: u64,
    filter_bytes: u64,
    index_checksum: u32,
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("a slice of 8"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("a slice of 4"))
}

/// Puts the checksum of a block in its place.
pub(super) fn seal_block(block: &mut [u8]) {
    let checksum = crc32c::crc32c(&block[..CHECKSUM_AT]);
    block[CHECKSUM_AT..BLOCK_BYTES].copy_from_slice(&checksum.to_le_bytes());
}

/// Whether a block has the checksum that it bears.
pub(super) fn is_whole(block: &[u8]) -> bool {
    crc32c::crc32c(&block[..CHECKSUM_AT]) == u32_at(block, CHECKSUM_AT)
}

impl Footer {
    fn encode(&self) -> [u8; BLOCK_BYTES] {
        let mut block = [0; BLOCK_BYTES];
        block[0..8].copy_from_slice(&MAGIC);
        block[8..12].copy_from_slice(&VERSION.to_le_bytes());
        block[12..16].copy_from_slice(&self.filter_bits.to_le_bytes());
        let Facts { shard, number, seeds, homes, clock } = self.facts;
        let numbers = [seeds, homes, number, clock.0, clock.1, self.entries, self.blocks, self.filter_bytes];
        for (number, to) in numbers.into_iter().zip(block[16..].chunks_exact_mut(8)) {
            to.copy_from_slice(&number.to_le_bytes());
        }
        block[88..90].copy_from_slice(&shard.0.to_le_bytes());
        block[92..96].copy_from_slice(&self.index_checksum.to_le_bytes());
        seal_block(&mut block);
        block
    }

    fn decode(block: &[u8]) -> Result<Self, OpenError> {
        let damaged = |what: &str| Err(OpenError::Damaged(format!("the footer's {what} is wrong")));
        if block[0..8] != MAGIC {
            return damaged("magic");
        }
        if !is_whole(block) {
            return damaged("checksum");
        }
        if u32_at(block, 8) != VERSION {
            return Err(OpenError::Newer(u32_at(block, 8)));
        }
        let [seeds, homes, number, first, last, entries, blocks, filter_bytes] =
            std::array::from_fn(|i| u64_at(block, 16 + 8 * i));
        let shard = ShardId(u16::from_le_bytes([block[88], block[89]]));
        let facts = Facts { shard, number, seeds, homes, clock: (first, last) };
        let (filter_bits, index_checksum) = (u32_at(block, 12), u32_at(block, 92));
        if filter_bits > 24 || first > last {
            return damaged("filter bits or time");
        }
        Ok(Self { facts, filter_bits, entries, blocks, filter_bytes, index_checksum })
    }

    fn index_bytes(&self) -> Option<u64> {
        self.blocks.checked_mul(8)?.checked_add(4 << self.filter_bits)
    }

    /// The length of the whole file, if it is a number at all.
    fn file_bytes(&self) -> Option<u64> {
        let block = BLOCK_BYTES as u64;
        let tail = self.index_bytes()?.checked_add(self.filter_bytes)?.checked_next_multiple_of(block)?;
        self.blocks.checked_mul(block)?.checked_add(tail)?.checked_add(block)
    }
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The system failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is not whole.
    #[error("{0}")]
    Damaged(String),
    /// It is of a later version of this program.
    #[error("it has format version {0}, this program knows only {VERSION}: use a newer program")]
    Newer(u32),
}

/// An open file of keys.
#[derive(Debug)]
pub struct KeyFile {
    facts: Facts,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    entries: u64,
    /// Of each block, the upper half of its first fingerprint.
    firsts: Vec<u64>,
    filter_bits: u32,
    filters: Vec<Filter>,
    is_inherited: bool,
}

impl KeyFile {
    /// Opens the file at `path` and checks all of it but the keys themselves. Blocking.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(disk: &dyn Disk, path: &Path) -> Result<Self, OpenError> {
        let damaged = |what: &str| OpenError::Damaged(what.to_owned());
        let file = disk.open(path)?;
        let len = file.len()?;
        if len < BLOCK_BYTES as u64 {
            return Err(damaged("it is cut off"));
        }
        let mut block = [0; BLOCK_BYTES];
        file.read_exact_at(&mut block, len - BLOCK_BYTES as u64)?;
        let footer = Footer::decode(&block)?;
        if footer.file_bytes() != Some(len) {
            return Err(damaged("its length is wrong"));
        }
        // The length is right, so what follows fits into memory as well as the file's filters did when it was written.
        let mut index = vec![0; footer.index_bytes().unwrap_or(0) as usize];
        let mut at = footer.blocks * BLOCK_BYTES as u64;
        file.read_exact_at(&mut index, at)?;
        at += index.len() as u64;
        if crc32c::crc32c(&index) != footer.index_checksum {
            return Err(damaged("the index's checksum is wrong"));
        }
        let (firsts, lens) = index.split_at(footer.blocks as usize * 8);
        let firsts = firsts.chunks_exact(8).map(|first| u64_at(first, 0)).collect();
        let mut filters = Vec::with_capacity(1 << footer.filter_bits);
        for len in lens.chunks_exact(4) {
            let mut bytes = vec![0; u32_at(len, 0) as usize];
            file.read_exact_at(&mut bytes, at)?;
            at += bytes.len() as u64;
            filters.push(Filter::from_bytes(&bytes).map_err(|error| OpenError::Damaged(error.to_string()))?);
        }
        let (facts, entries, filter_bits) = (footer.facts, footer.entries, footer.filter_bits);
        Ok(Self { facts, path: path.to_owned(), file, entries, firsts, filter_bits, filters, is_inherited: true })
    }

    /// What it says of itself.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Whether what it holds is of an earlier run of the program.
    #[must_use]
    pub fn is_inherited(&self) -> bool {
        self.is_inherited
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many keys it holds.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.entries
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Bytes of memory that it takes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.firsts.len() * 8 + self.filters.iter().map(Filter::memory_bytes).sum::<usize>()
    }

    /// Whether it may hold `key`; `false` is certain. No I/O.
    #[must_use]
    pub fn may_hold(&self, key: Fingerprint) -> bool {
        self.filters[filter_of(key, self.filter_bits)].contains(key.low())
    }

    /// What `key` got. Reads one block: not for a shard's reactor.
    ///
    /// # Errors
    /// The block cannot be read, or is damaged.
    pub fn find(&self, key: Fingerprint) -> io::Result<Option<Seen>> {
        // Fingerprints that share their upper half may stand on both sides of a block's end.
        let after = self.firsts.partition_point(|&first| first < key.high());
        let mut block = [0; BLOCK_BYTES];
        for at in after.saturating_sub(1)..self.firsts.len() {
            if at > 0 && self.firsts[at] > key.high() {
                break;
            }
            self.file.read_exact_at(&mut block, at as u64 * BLOCK_BYTES as u64)?;
            let entries = self.entries_of(&block, at as u64)?;
            let found = entries.binary_search_by_key(&key.bits(), |entry| u128::from_le_bytes(*first_half(entry)));
            if let Ok(found) = found {
                return Ok(Some(decode_entry(&entries[found]).1));
            }
        }
        Ok(None)
    }

    fn entries_of<'a>(&self, block: &'a [u8], number: u64) -> io::Result<&'a [[u8; ENTRY_BYTES]]> {
        let count = u32_at(block, TRAILER_AT + 16) as usize;
        let belongs = (u64_at(block, TRAILER_AT), u64_at(block, TRAILER_AT + 8)) == (self.facts.number, number);
        if !is_whole(block) || !belongs || count > ENTRIES_PER_BLOCK {
            let what = format!("block {number} of {} is damaged", self.path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        Ok(block[..count * ENTRY_BYTES].as_chunks().0)
    }
}

fn filter_of(key: Fingerprint, bits: u32) -> usize {
    // In two steps: a shift by all 64 bits is none.
    (key.high() >> 1 >> (63 - bits)) as usize
}

fn first_half(entry: &[u8; ENTRY_BYTES]) -> &[u8; 16] {
    entry.first_chunk().expect("an entry is longer")
}

fn decode_entry(entry: &[u8; ENTRY_BYTES]) -> Entry {
    let key = Fingerprint::from_bits(u128::from_le_bytes(*first_half(entry)));
    let [sequence, timestamp_unix_micros] = [16, 24].map(|at| u64_at(entry, at).cast_signed());
    (key, Seen { sequence, timestamp_unix_micros })
}

/// Writes a file of keys that come in order of their fingerprints.
pub struct KeyFileWriter<'a> {
    disk: &'a dyn Disk,
    facts: Facts,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    /// What of the file is written.
    offset: u64,
    chunk: BytesMut,
    block: [u8; BLOCK_BYTES],
    in_block: usize,
    entries: u64,
    firsts: Vec<u64>,
    filter_bits: u32,
    wide: bool,
    /// Of the filter that comes next.
    lows: Vec<u64>,
    filters: Vec<Filter>,
}

impl<'a> KeyFileWriter<'a> {
    /// Begins a file for at most `keys_max` keys in `dir`. A `wide` filter takes twice the memory for 256 times fewer reads.
    ///
    /// # Errors
    /// The system's.
    pub fn begin(disk: &'a dyn Disk, dir: &Path, facts: Facts, keys_max: u64, wide: bool) -> io::Result<Self> {
        let path = dir.join(file_name(facts.shard, facts.number));
        let unfinished = path.with_extension("tmp");
        match disk.remove(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let filter_bits = keys_max.div_ceil(KEYS_PER_FILTER).max(1).next_power_of_two().ilog2();
        Ok(Self {
            disk,
            facts,
            file: disk.create(&unfinished, 0)?,
            path,
            offset: 0,
            chunk: aligned_buffer(CHUNK_BYTES),
            block: [0; BLOCK_BYTES],
            in_block: 0,
            entries: 0,
            firsts: Vec::new(),
            filter_bits,
            wide,
            lows: Vec::new(),
            filters: Vec::with_capacity(1 << filter_bits),
        })
    }

    /// Adds a key. Each is larger than the one before it.
    ///
    /// # Errors
    /// The system's.
    pub fn push(&mut self, (key, seen): Entry) -> io::Result<()> {
        self.build_filters(filter_of(key, self.filter_bits));
        self.lows.push(key.low());
        if self.in_block == 0 {
            self.firsts.push(key.high());
        }
        let entry = &mut self.block[self.in_block * ENTRY_BYTES..][..ENTRY_BYTES];
        entry[..16].copy_from_slice(&key.bits().to_le_bytes());
        entry[16..24].copy_from_slice(&seen.sequence.to_le_bytes());
        entry[24..].copy_from_slice(&seen.timestamp_unix_micros.to_le_bytes());
        (self.in_block, self.entries) = (self.in_block + 1, self.entries + 1);
        if self.in_block == ENTRIES_PER_BLOCK { self.end_block() } else { Ok(()) }
    }

    /// Builds the filters before the one numbered `next`.
    fn build_filters(&mut self, next: usize) {
        while self.filters.len() < next {
            let filter = if self.wide { Filter::build_wide(&self.lows) } else { Filter::build(&self.lows) };
            self.filters.push(filter);
            self.lows.clear();
        }
    }

    fn end_block(&mut self) -> io::Result<()> {
        self.block[self.in_block * ENTRY_BYTES..].fill(0);
        let trailer = &mut self.block[TRAILER_AT..];
        trailer[..8].copy_from_slice(&self.facts.number.to_le_bytes());
        trailer[8..16].copy_from_slice(&(self.firsts.len() as u64 - 1).to_le_bytes());
        trailer[16..20].copy_from_slice(&(self.in_block as u32).to_le_bytes());
        seal_block(&mut self.block);
        self.in_block = 0;
        let block = self.block;
        self.put(&block)
    }

    /// Adds bytes to the file.
    fn put(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let taken = bytes.len().min(CHUNK_BYTES - self.chunk.len());
            self.chunk.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if self.chunk.len() == CHUNK_BYTES {
                self.write_out()?;
            }
        }
        Ok(())
    }

    fn write_out(&mut self) -> io::Result<()> {
        if !self.chunk.is_empty() {
            self.file.write_durable(&self.chunk, self.offset)?;
            self.offset += self.chunk.len() as u64;
            self.chunk.clear();
        }
        Ok(())
    }

    /// Ends the file: when this returns it is on stable storage, under its name.
    ///
    /// # Errors
    /// The system's.
    pub fn finish(mut self) -> io::Result<KeyFile> {
        if self.in_block > 0 {
            self.end_block()?;
        }
        self.build_filters(1 << self.filter_bits);
        let filters: Vec<Vec<u8>> = self.filters.iter().map(Filter::to_bytes).collect();
        let mut index: Vec<u8> = self.firsts.iter().flat_map(|first| first.to_le_bytes()).collect();
        index.extend(filters.iter().flat_map(|filter| (filter.len() as u32).to_le_bytes()));
        let footer = Footer {
            facts: self.facts,
            filter_bits: self.filter_bits,
            entries: self.entries,
            blocks: self.firsts.len() as u64,
            filter_bytes: filters.iter().map(|filter| filter.len() as u64).sum(),
            index_checksum: crc32c::crc32c(&index),
        };
        self.put(&index)?;
        filters.iter().try_for_each(|filter| self.put(filter))?;
        let end = self.offset as usize + self.chunk.len();
        self.put(&vec![0; end.next_multiple_of(BLOCK_BYTES) - end])?;
        self.put(&footer.encode())?;
        self.write_out()?;
        self.disk.rename(&self.path.with_extension("tmp"), &self.path)?;
        let Self { facts, path, file, entries, firsts, filter_bits, filters, .. } = self;
        Ok(KeyFile { facts, path, file, entries, firsts, filter_bits, filters, is_inherited: false })
    }
}

/// The keys of a file from the first to the last, for a merge.
struct Cursor<'a> {
    file: &'a KeyFile,
    chunk: Vec<u8>,
    /// The block that comes next, and those of `chunk` that are left.
    next_block: usize,
    left: std::ops::Range<usize>,
    entries: std::vec::IntoIter<Entry>,
    head: Option<Entry>,
    damaged_blocks: u64,
}

impl<'a> Cursor<'a> {
    fn new(file: &'a KeyFile) -> io::Result<Self> {
        let entries = Vec::new().into_iter();
        let mut cursor =
            Self { file, chunk: Vec::new(), next_block: 0, left: 0..0, entries, head: None, damaged_blocks: 0 };
        cursor.advance()?;
        Ok(cursor)
    }

    fn advance(&mut self) -> io::Result<()> {
        loop {
            self.head = self.entries.next();
            if self.head.is_some() {
                return Ok(());
            }
            if self.left.is_empty() {
                let blocks = (self.file.firsts.len() - self.next_block).min(CHUNK_BYTES / BLOCK_BYTES);
                if blocks == 0 {
                    return Ok(());
                }
                self.chunk.resize(blocks * BLOCK_BYTES, 0);
                self.file.file.read_exact_at(&mut self.chunk, (self.next_block * BLOCK_BYTES) as u64)?;
                self.left = 0..blocks;
            }
            let at = self.left.start;
            self.left.start += 1;
            let number = self.next_block as u64;
            self.next_block += 1;
            match self.file.entries_of(&self.chunk[at * BLOCK_BYTES..][..BLOCK_BYTES], number) {
                Ok(entries) => self.entries = entries.iter().map(decode_entry).collect::<Vec<_>>().into_iter(),
                Err(error) => {
                    tracing::error!(%error, "idempotency keys are lost: their duplicates will be accepted");
                    self.damaged_blocks += 1;
                }
            }
        }
    }
}

/// Writes one file of the keys of all `files`. A key that several hold gets the largest of their sequence numbers. Returns the
/// file, and how many blocks were damaged and so are left out. `stop` ends it early.
///
/// # Errors
/// The system's, or [`io::ErrorKind::Interrupted`].
pub fn merge(
    disk: &dyn Disk,
    dir: &Path,
    facts: Facts,
    files: &[Arc<KeyFile>],
    wide: bool,
    stop: &AtomicBool,
) -> io::Result<(KeyFile, u64)> {
    let keys_max = files.iter().map(|file| file.len()).sum();
    let mut writer = KeyFileWriter::begin(disk, dir, facts, keys_max, wide)?;
    let mut cursors = files.iter().map(|file| Cursor::new(file)).collect::<io::Result<Vec<_>>>()?;
    while let Some(key) = cursors.iter().filter_map(|cursor| cursor.head).map(|(key, _)| key).min() {
        let mut newest: Option<Seen> = None;
        for cursor in &mut cursors {
            if let Some((_, seen)) = cursor.head.filter(|(its, _)| *its == key) {
                newest = newest.into_iter().chain([seen]).max_by_key(|seen| seen.sequence);
                cursor.advance()?;
            }
        }
        if writer.in_block == 0 && stop.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        writer.push((key, newest.expect("a cursor's head is this key")))?;
    }
    let damaged = cursors.iter().map(|cursor| cursor.damaged_blocks).sum();
    let is_inherited = files.iter().any(|file| file.is_inherited);
    Ok((KeyFile { is_inherited, ..writer.finish()? }, damaged))
}
