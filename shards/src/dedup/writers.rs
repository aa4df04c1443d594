//! Writer sessions: exactly-once for producers that number their records, with one entry a writer instead of one a record.
//!
//! A writer numbers the payloads that it sends to a stream 0, 1, 2, … and goes on so over restarts; a higher epoch fences the
//! writer's older incarnations. What a request took travels in its log entry as a [`Session`], from which [`Writers`] is rebuilt
//! together with the shard's file of writers, `NNNNN.writers`. Rows that were rejected take a number too, so an entry may have
//! no records at all.
//!
//! Invariants: a writer's epoch and next number never fall, in whatever order sessions are taken. The numbers of two sessions of
//! a writer do not overlap. Of each writer the last [`RANGES_MAX`] ranges are known, joined where both numbers go on.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    path::{Path, PathBuf},
};

use bytes::{Buf, Bytes};

use super::file::{is_whole, seal_block};
use crate::{
    ids::{ShardId, StreamId},
    io::{BLOCK_BYTES, Disk, aligned_buffer},
};

/// The most writers of a stream.
pub const WRITERS_MAX: usize = 10_000;
/// The longest id, in bytes.
pub const ID_BYTES_MAX: usize = 128;
/// Ranges that are remembered of a writer: a record sent again that is older is a duplicate all the same, of unknown number.
const RANGES_MAX: usize = 64;
/// A writer that sent nothing for so long (µs of the keys' clock) is forgotten: 7 days.
const IDLE_MICROS: u64 = 7 * 24 * 3600 * 1_000_000;

const MAGIC: [u8; 8] = *b"TTDwrit\0";
const VERSION: u32 = 1;

/// What a request took of its writer's numbers, as its log entry tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The writer.
    pub writer: Bytes,
    /// Its epoch.
    pub epoch: u64,
    /// The first number that was taken.
    pub first: u64,
    /// How many numbers went to accepted records, then how many to rejected ones, and so on in turns.
    pub runs: Vec<u32>,
}

impl Session {
    /// How many numbers it took.
    fn len(&self) -> u64 {
        self.runs.iter().map(|&run| u64::from(run)).sum()
    }

    /// Its form in a log entry: u64 epoch · u64 first number · u16 id bytes · id · runs (varints).
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(18 + self.writer.len() + self.runs.len() * 2);
        bytes.extend_from_slice(&self.epoch.to_le_bytes());
        bytes.extend_from_slice(&self.first.to_le_bytes());
        bytes.extend_from_slice(&(self.writer.len() as u16).to_le_bytes());
        bytes.extend_from_slice(&self.writer);
        for &run in &self.runs {
            prost::encoding::encode_varint(u64::from(run), &mut bytes);
        }
        bytes
    }

    /// The session that [`Session::encode`] gave; `None`: it is none.
    #[must_use]
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        if bytes.len() < 18 {
            return None;
        }
        let (epoch, first, len) = (bytes.get_u64_le(), bytes.get_u64_le(), usize::from(bytes.get_u16_le()));
        let writer = Bytes::copy_from_slice(bytes.get(..len)?);
        bytes.advance(len);
        let mut runs = Vec::new();
        while bytes.has_remaining() {
            runs.push(u32::try_from(prost::encoding::decode_varint(&mut bytes).ok()?).ok()?);
        }
        let session = Self { writer, epoch, first, runs };
        first.checked_add(session.len())?;
        Some(session)
    }
}

/// Numbers in a row that got sequence numbers in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    first: u64,
    len: u64,
    /// Of the first; 0: all of them were rejected.
    sequence: i64,
}

impl Range {
    fn end(&self) -> u64 {
        self.first + self.len
    }

    fn goes_on_with(&self, next: &Self) -> bool {
        let sequence = if self.sequence == 0 { 0 } else { self.sequence + self.len as i64 };
        self.end() == next.first && sequence == next.sequence
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Writer {
    epoch: u64,
    /// The number that comes next.
    next: u64,
    /// In order.
    ranges: VecDeque<Range>,
    /// By the keys' clock.
    used_at: u64,
}

/// What became of a number that was taken before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It went to the record with this sequence number.
    As(i64),
    /// The record was rejected.
    Rejected,
    /// So long ago that it is not known.
    Unknown,
}

/// Why a request of a writer is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriterRefused {
    /// An incarnation with this higher epoch has written.
    Fenced(u64),
    /// This number comes next.
    Gap(u64),
    /// The stream has as many writers as it may have.
    TooMany,
}

/// The writers of one shard.
#[derive(Debug, Default)]
pub struct Writers {
    writers: BTreeMap<(StreamId, Bytes), Writer>,
    per_stream: BTreeMap<StreamId, usize>,
    /// Something changed since the last snapshot.
    is_changed: bool,
}

impl Writers {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.writers.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.writers.is_empty()
    }

    /// How many of `sent` numbers from `first` on were taken before, or why none can be taken; and whether the epoch is new.
    ///
    /// # Errors
    /// See [`WriterRefused`].
    pub fn check(
        &self,
        stream: StreamId,
        id: &Bytes,
        epoch: u64,
        first: u64,
        sent: u64,
    ) -> Result<(u64, bool), WriterRefused> {
        let known = self.writers.get(&(stream, id.clone()));
        if known.is_none() && self.per_stream.get(&stream).is_some_and(|&count| count >= WRITERS_MAX) {
            return Err(WriterRefused::TooMany);
        }
        let (newest, next) = known.map_or((0, 0), |writer| (writer.epoch, writer.next));
        if epoch < newest {
            return Err(WriterRefused::Fenced(newest));
        }
        if first > next {
            return Err(WriterRefused::Gap(next));
        }
        Ok(((next - first).min(sent), known.is_none() || epoch > newest))
    }

    /// What became of number `number`, which was taken.
    #[must_use]
    pub fn taken(&self, stream: StreamId, id: &Bytes, number: u64) -> Taken {
        let ranges = self.writers.get(&(stream, id.clone())).map(|writer| &writer.ranges);
        let found = ranges.and_then(|ranges| {
            let after = ranges.partition_point(|range| range.first <= number);
            ranges.get(after.checked_sub(1)?).filter(|range| number < range.end())
        });
        match found {
            None => Taken::Unknown,
            Some(Range { sequence: 0, .. }) => Taken::Rejected,
            Some(range) => Taken::As(range.sequence + (number - range.first) as i64),
        }
    }

    /// Takes a session whose accepted records have the sequence numbers from `sequence` on.
    pub fn take(&mut self, stream: StreamId, session: &Session, mut sequence: i64, clock: u64) {
        let writer = self.entry(stream, session.writer.clone());
        writer.epoch = writer.epoch.max(session.epoch);
        writer.used_at = writer.used_at.max(clock);
        let mut first = session.first;
        for (index, &run) in session.runs.iter().enumerate() {
            let is_rejected = index % 2 == 1;
            if run > 0 {
                let len = u64::from(run);
                writer.add(Range { first, len, sequence: if is_rejected { 0 } else { sequence } });
                first += len;
                sequence += if is_rejected { 0 } else { len as i64 };
            }
        }
        writer.next = writer.next.max(first);
        self.is_changed = true;
    }

    fn entry(&mut self, stream: StreamId, id: Bytes) -> &mut Writer {
        self.writers.entry((stream, id)).or_insert_with(|| {
            *self.per_stream.entry(stream).or_insert(0) += 1;
            Writer::default()
        })
    }

    /// Forgets those that were idle for too long, and those of streams that are gone.
    pub fn forget(&mut self, clock: u64) {
        let per_stream = &mut self.per_stream;
        self.writers.retain(|(stream, _), writer| {
            let kept = writer.used_at + IDLE_MICROS > clock;
            if !kept && let Some(count) = per_stream.get_mut(stream) {
                *count -= 1;
                self.is_changed = true;
            }
            kept
        });
        per_stream.retain(|_, count| *count > 0);
    }

    /// All of them as a file's contents, if something changed since the last time.
    pub fn snapshot(&mut self) -> Option<Bytes> {
        if !std::mem::take(&mut self.is_changed) {
            return None;
        }
        let mut body = Vec::new();
        for ((stream, id), writer) in &self.writers {
            body.extend_from_slice(stream.as_bytes());
            body.extend_from_slice(&(id.len() as u16).to_le_bytes());
            body.extend_from_slice(id);
            for number in [writer.epoch, writer.next, writer.used_at, writer.ranges.len() as u64] {
                body.extend_from_slice(&number.to_le_bytes());
            }
            for Range { first, len, sequence } in &writer.ranges {
                for number in [*first, *len, sequence.cast_unsigned()] {
                    body.extend_from_slice(&number.to_le_bytes());
                }
            }
        }
        Some(body.into())
    }

    /// Takes what a file of writers holds. `false`: it is not whole.
    fn restore(&mut self, mut body: &[u8]) -> bool {
        while body.has_remaining() {
            if body.len() < 18 {
                return false;
            }
            let (stream, rest) = body.split_at(16);
            let stream = StreamId::from_bytes(stream.try_into().expect("a slice of 16"));
            body = rest;
            let len = usize::from(body.get_u16_le());
            if body.len() < len + 32 {
                return false;
            }
            let id = Bytes::copy_from_slice(&body[..len]);
            body.advance(len);
            let [epoch, next, used_at, ranges] = std::array::from_fn(|_| body.get_u64_le());
            if ranges > RANGES_MAX as u64 || body.len() < ranges as usize * 24 {
                return false;
            }
            let writer = self.entry(stream, id);
            for _ in 0..ranges {
                let [first, len, sequence] = std::array::from_fn(|_| body.get_u64_le());
                writer.add(Range { first, len, sequence: sequence.cast_signed() });
            }
            writer.epoch = writer.epoch.max(epoch);
            writer.next = writer.next.max(next);
            writer.used_at = writer.used_at.max(used_at);
        }
        true
    }
}

impl Writer {
    /// Adds a range, which is known already or overlaps none.
    fn add(&mut self, range: Range) {
        let at = self.ranges.partition_point(|known| known.end() <= range.first);
        if self.ranges.get(at).is_some_and(|known| known.first < range.end()) {
            // Both file and log tell of it.
            return;
        }
        self.ranges.insert(at, range);
        for at in [at, at.wrapping_sub(1)] {
            if let (Some(&before), Some(after)) = (self.ranges.get(at), self.ranges.get(at.wrapping_add(1)).copied())
                && before.goes_on_with(&after)
            {
                self.ranges[at].len += after.len;
                self.ranges.remove(at + 1);
            }
        }
        if self.ranges.len() > RANGES_MAX {
            self.ranges.pop_front();
        }
    }
}

fn file_name(shard: ShardId) -> String {
    format!("{:05}.writers", shard.0)
}

/// Writes a shard's snapshot in the place of the last one. Blocking.
///
/// # Errors
/// The system's; then the last one is still there.
pub fn write_snapshot(disk: &dyn Disk, dir: &Path, shard: ShardId, body: &[u8]) -> io::Result<()> {
    let path = dir.join(file_name(shard));
    let unfinished = path.with_extension("tmp");
    match disk.remove(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let len = BLOCK_BYTES + body.len().next_multiple_of(BLOCK_BYTES);
    let mut bytes = aligned_buffer(len);
    bytes.resize(BLOCK_BYTES, 0);
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[12..16].copy_from_slice(&crc32c::crc32c(body).to_le_bytes());
    bytes[16..24].copy_from_slice(&(body.len() as u64).to_le_bytes());
    seal_block(&mut bytes);
    bytes.extend_from_slice(body);
    bytes.resize(len, 0);
    let file = disk.create(&unfinished, 0)?;
    file.write_durable(&bytes, 0)?;
    disk.rename(&unfinished, &path)
}

/// Why a file of writers cannot be used.
#[derive(Debug)]
pub(super) enum SnapshotError {
    Io(io::Error),
    Damaged,
    Newer(u32),
}

impl From<io::Error> for SnapshotError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Whether this is the name of a file of writers.
pub(super) fn is_snapshot(name: &Path) -> bool {
    name.extension().is_some_and(|extension| extension == "writers")
}

/// The body of the file at `path`, if it is whole. Blocking.
pub(super) fn read_snapshot(disk: &dyn Disk, path: &Path) -> Result<Bytes, SnapshotError> {
    let file = disk.open(path)?;
    let len = file.len()?;
    if len < BLOCK_BYTES as u64 {
        return Err(SnapshotError::Damaged);
    }
    let mut bytes = vec![0; usize::try_from(len).map_err(|_| SnapshotError::Damaged)?];
    file.read_exact_at(&mut bytes, 0)?;
    let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("a slice of 4"));
    if !is_whole(&bytes[..BLOCK_BYTES]) || bytes[..8] != MAGIC {
        return Err(SnapshotError::Damaged);
    }
    if u32_at(8) != VERSION {
        return Err(SnapshotError::Newer(u32_at(8)));
    }
    let body_bytes = u64::from_le_bytes(bytes[16..24].try_into().expect("a slice of 8"));
    let body = usize::try_from(body_bytes).ok().and_then(|len| bytes.get(BLOCK_BYTES..BLOCK_BYTES.checked_add(len)?));
    let body = body.filter(|body| crc32c::crc32c(body) == u32_at(12)).ok_or(SnapshotError::Damaged)?;
    let whole = Writers::default().restore(body);
    if whole { Ok(Bytes::copy_from_slice(body)) } else { Err(SnapshotError::Damaged) }
}

impl Writers {
    /// The writers of all these snapshots: those of streams at home here, and all of the shard's own last one, so that the next
    /// one does not lose what only it holds.
    #[must_use]
    pub(super) fn of(shard: ShardId, snapshots: &[(PathBuf, Bytes)], is_home: impl Fn(StreamId) -> bool) -> Self {
        let mut own = Self::default();
        let mut others = Self::default();
        for (path, body) in snapshots {
            let is_own = path.file_name().is_some_and(|name| name == file_name(shard).as_str());
            let whole = if is_own { own.restore(body) } else { others.restore(body) };
            assert!(whole, "it was checked when it was read");
        }
        for ((stream, id), theirs) in others.writers {
            if is_home(stream) {
                let writer = own.entry(stream, id);
                theirs.ranges.iter().for_each(|&range| writer.add(range));
                writer.epoch = writer.epoch.max(theirs.epoch);
                writer.next = writer.next.max(theirs.next);
                writer.used_at = writer.used_at.max(theirs.used_at);
                own.is_changed = true;
            }
        }
        own
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::sim::{SimDisk, SimRng};

    fn stream() -> StreamId {
        StreamId::from_bytes([5; 16])
    }

    fn session(first: u64, epoch: u64, runs: &[u32]) -> Session {
        Session { writer: Bytes::from_static(b"w"), epoch, first, runs: runs.to_vec() }
    }

    #[test]
    fn a_session_reads_back_and_no_bytes_panic() {
        let session = session(7, 3, &[0, 2, 300, 1]);
        let bytes = session.encode();
        assert_eq!(Session::decode(&bytes), Some(session));
        for len in 0..bytes.len() {
            let _ = Session::decode(&bytes[..len]);
        }
        let mut rng = SimRng::new(1);
        for _ in 0..2000 {
            let mut bytes = bytes.clone();
            let at = rng.below(bytes.len() as u64) as usize;
            bytes[at] = rng.next_u64() as u8;
            let _ = Session::decode(&bytes);
        }
    }

    #[test]
    fn numbers_taken_again_are_known_gaps_and_old_epochs_are_refused() {
        let mut writers = Writers::default();
        let id = Bytes::from_static(b"w");
        let check = |writers: &Writers, epoch, first, sent| writers.check(stream(), &id, epoch, first, sent);
        assert_eq!(check(&writers, 2, 0, 5), Ok((0, true)));
        assert_eq!(check(&writers, 2, 1, 5), Err(WriterRefused::Gap(0)), "a writer begins at 0");
        writers.take(stream(), &session(0, 2, &[2, 1, 2]), 10, 0);
        assert_eq!(check(&writers, 2, 0, 5), Ok((5, false)));
        assert_eq!(check(&writers, 2, 3, 5), Ok((2, false)));
        assert_eq!(check(&writers, 2, 6, 5), Err(WriterRefused::Gap(5)));
        assert_eq!(check(&writers, 1, 5, 5), Err(WriterRefused::Fenced(2)));
        assert_eq!(check(&writers, 3, 5, 5), Ok((0, true)));
        let became: Vec<_> = (0..6).map(|number| writers.taken(stream(), &id, number)).collect();
        let expected = [Taken::As(10), Taken::As(11), Taken::Rejected, Taken::As(12), Taken::As(13), Taken::Unknown];
        assert_eq!(became, expected);
    }

    #[test]
    fn state_is_bounded_and_survives_in_any_order_of_file_and_log() -> io::Result<()> {
        let (disk, dir) = (SimDisk::new(1), Path::new("keys"));
        for seed in 0..100 {
            let mut rng = SimRng::new(seed);
            let (mut first, mut sequence) = (0, 1);
            let sessions: Vec<_> = (0..120)
                .map(|_| {
                    let runs = [rng.below(3) as u32, rng.below(2) as u32];
                    let session = session(first, rng.below(2), &runs);
                    let at = sequence;
                    first += session.len();
                    // Other writers' records stand between, or not.
                    sequence += i64::from(runs[0]) + rng.below(2) as i64;
                    (session, at)
                })
                .collect();
            let mut all = Writers::default();
            sessions.iter().for_each(|(session, at)| all.take(stream(), session, *at, 0));
            let writer = &all.writers[&(stream(), Bytes::from_static(b"w"))];
            assert!(writer.ranges.len() <= RANGES_MAX && writer.next == first);
            // A snapshot of some, then the log from somewhere before its end, in a disorder.
            let written = rng.below(121) as usize;
            let mut some = Writers::default();
            sessions[..written].iter().for_each(|(session, at)| some.take(stream(), session, *at, 0));
            let mut snapshots = Vec::new();
            if let Some(body) = some.snapshot() {
                write_snapshot(&disk, dir, ShardId(seed as u16 % 3), &body)?;
                let path = dir.join(file_name(ShardId(seed as u16 % 3)));
                let body = read_snapshot(&disk, &path).unwrap_or_else(|error| panic!("{error:?}"));
                snapshots.push((path, body));
            }
            let mut again = Writers::of(ShardId(1), &snapshots, |_| true);
            let mut log: Vec<_> = sessions[rng.below(written as u64 + 1) as usize..].iter().collect();
            for at in (1..log.len()).rev() {
                log.swap(at, rng.below(at as u64 + 1) as usize);
            }
            log.iter().for_each(|(session, at)| again.take(stream(), session, *at, 0));
            let id = Bytes::from_static(b"w");
            let (newest, known) = (&again.writers[&(stream(), id.clone())], &all.writers[&(stream(), id.clone())]);
            assert_eq!((newest.next, newest.epoch), (known.next, known.epoch), "seed {seed}");
            for number in first.saturating_sub(20)..first {
                assert_eq!(again.taken(stream(), &id, number), all.taken(stream(), &id, number), "seed {seed}");
            }
        }
        Ok(())
    }
}
