//! Reads the frames of a log in order and checks their chain, changing nothing: what recovery, inspect, verify and repair share.
//!
//! A frame follows another if its position is the next one and it carries the other's checksum. Within a segment frames lie
//! one after the other and bear one epoch, that of the file's name. A position where no whole frame begins is the end of the segment, unless a whole
//! frame of this segment stands further on, or a torn one that was begun later: then it is damage. Where the chain does not go on in the next segment that has
//! frames, what is between them is missing.
//!
//! One frame may be disowned: when a run ended with a write under way, the next run may have found no whole frame there and
//! gone on from the one before; if the write came to its end later all the same (a kernel finishes what a killed process
//! asked for), two frames follow the same one. The one of the later epoch counts; the other was never acknowledged.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Lsn,
    entry::{EntryError, Layout},
    frame::{FrameError, FrameHeader, HEADER_BYTES},
    segment::{self, Segment},
};
use crate::{
    ids::ShardId,
    io::{BLOCK_BYTES, Disk, DiskFile},
};

/// How much is read at a time.
const READ_BYTES: usize = 4 << 20;

/// A place where the log is damaged.
#[derive(Debug, Clone)]
pub(super) struct Issue {
    pub(super) path: PathBuf,
    pub(super) segment: u64,
    pub(super) offset: u64,
    pub(super) reason: String,
    /// What is missing stood in a segment before this one.
    before: u64,
}

impl fmt::Display for Issue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}: {}", self.path.display(), self.offset, self.reason)
    }
}

/// A segment file and what it held.
#[derive(Debug)]
pub(super) struct ScannedSegment {
    pub(super) segment: Arc<Segment>,
    pub(super) frames: u64,
    pub(super) first_lsn: Lsn,
    pub(super) last_lsn: Lsn,
    /// The end of its last frame.
    pub(super) end: u64,
    /// The length that its frames say it had.
    pub(super) full_bytes: u64,
}

/// What a visitor is shown of a frame.
#[derive(Debug)]
pub(super) struct Visit<'a> {
    pub(super) segment: &'a Arc<Segment>,
    pub(super) offset: u64,
    pub(super) header: &'a FrameHeader,
    pub(super) body: &'a [u8],
    /// The frame before it is disowned.
    pub(super) replaces_last: bool,
}

impl Visit<'_> {
    /// The entries and their places in the segment, in bytes.
    pub(super) fn entries(&self) -> impl Iterator<Item = Result<(u64, Layout), EntryError>> {
        let mut at = 0;
        let mut left = self.header.entries;
        std::iter::from_fn(move || {
            if left == 0 && at == self.body.len() {
                return None;
            }
            if left == 0 {
                at = self.body.len();
                return Some(Err(EntryError::Field("place after the last one")));
            }
            let layout = Layout::decode(&self.body[at..]);
            let offset = self.offset + (HEADER_BYTES + at) as u64;
            match &layout {
                Ok(layout) => {
                    at += layout.header.entry_bytes as usize;
                    left -= 1;
                }
                Err(_) => (at, left) = (self.body.len(), 0),
            }
            Some(layout.map(|layout| (offset, layout)))
        })
    }
}

/// A log's state.
#[derive(Debug)]
pub(super) struct Scan {
    /// By id.
    pub(super) segments: Vec<ScannedSegment>,
    /// Names of files that were being made.
    pub(super) unfinished: Vec<PathBuf>,
    /// The last frame.
    pub(super) last: Option<FrameHeader>,
    /// The oldest segment that the last frame says is needed.
    pub(super) log_start: u64,
    /// What seems to have been a frame after the last one.
    pub(super) torn: Option<Issue>,
    pub(super) bytes_read: u64,
    issues: Vec<Issue>,
}

impl Scan {
    /// Damage, oldest first. What is wrong only in segments that are not needed any more is none.
    pub(super) fn damage(&self) -> impl Iterator<Item = &Issue> {
        self.issues.iter().filter(|issue| issue.before > self.log_start)
    }
}

/// The error of a system call, with the file.
pub(super) type FileError = (PathBuf, io::Error);

/// Scans the log in `dir`: only `only` if given, of any one shard if `shard` is not given. With `sync`, every file is synced
/// before it is read, so that what is read is durable.
pub(super) fn scan(
    disk: &dyn Disk,
    dir: &Path,
    only: Option<u64>,
    shard: Option<ShardId>,
    sync: bool,
    visit: &mut dyn FnMut(Visit<'_>) -> Result<(), EntryError>,
) -> Result<Scan, FileError> {
    let names = disk.list(dir).map_err(|error| (dir.to_owned(), error))?;
    let mut found: Vec<_> = names.iter().filter_map(|name| segment::parse_file_name(name)).collect();
    found.sort_unstable();
    let mut scanner = Scanner { shard, chain: Chain::default(), window: Vec::new(), bytes_read: 0, visit };
    let mut segments = Vec::new();
    for (id, epoch) in found.into_iter().filter(|(id, _)| only.is_none_or(|only| only == *id)) {
        let path = dir.join(segment::file_name(id, epoch));
        let scanned = open(disk, (id, epoch), &path, sync).and_then(|segment| scanner.segment(segment));
        segments.push(scanned.map_err(|error| (path, error))?);
    }
    let unfinished = names.into_iter().filter(|name| segment::is_unfinished(name)).map(|name| dir.join(name)).collect();
    let Scanner { chain, bytes_read, .. } = scanner;
    let Chain { last, log_start, suspect, issues, .. } = chain;
    Ok(Scan { segments, unfinished, last, log_start, torn: suspect, bytes_read, issues })
}

fn open(disk: &dyn Disk, (id, epoch): (u64, Option<u64>), path: &Path, sync: bool) -> io::Result<Arc<Segment>> {
    let file = disk.open(path)?;
    if sync {
        file.sync()?;
    }
    let bytes = file.len()? / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
    Ok(Arc::new(Segment { id, epoch, path: path.to_owned(), file, bytes }))
}

/// What the frames so far lead to.
#[derive(Debug, Default)]
struct Chain {
    last: Option<FrameHeader>,
    before_last: Option<FrameHeader>,
    /// Whether damage, already noted, lies between the last frame and the next.
    broken: bool,
    /// The last frame's segment, and where in it the frame ends.
    end: Option<(Arc<Segment>, u64)>,
    /// The first place after the last frame where one seems to have begun.
    suspect: Option<Issue>,
    log_start: u64,
    issues: Vec<Issue>,
}

impl Chain {
    /// Adds a frame; says whether it disowns the one before it.
    fn add(&mut self, segment: &Arc<Segment>, offset: u64, next: FrameHeader) -> bool {
        let mut disowns = false;
        if let Some(last) = self.last.filter(|_| !self.broken) {
            let same_segment = last.segment == next.segment;
            let later_run = next.epoch >> 32 > last.epoch >> 32;
            let in_run = next.epoch == last.epoch || (!same_segment && later_run);
            let follows = next.lsn.0 == last.lsn.0 + 1 && next.previous_checksum == last.checksum;
            disowns = !follows
                && later_run
                && next.lsn == last.lsn
                && self.before_last.is_none_or(|before| before.checksum == next.previous_checksum);
            if !in_run || !(follows || disowns) {
                self.note_gap(segment, offset, &last, &next);
            }
        }
        if !disowns {
            self.before_last = self.last.filter(|_| !self.broken);
        }
        self.last = Some(next);
        self.broken = false;
        self.suspect = None;
        self.end = Some((Arc::clone(segment), offset + next.padded_bytes() as u64));
        self.log_start = self.log_start.max(next.log_start);
        disowns
    }

    fn note_gap(&mut self, segment: &Segment, offset: u64, last: &FrameHeader, next: &FrameHeader) {
        let reason = format!(
            "after the frame with lsn {} and checksum {:08x} comes the one with lsn {} in {} at byte {offset}, which follows \
             checksum {:08x}",
            last.lsn.0,
            last.checksum,
            next.lsn.0,
            segment.path.display(),
            next.previous_checksum
        );
        let issue = if last.segment == next.segment {
            Issue { path: segment.path.clone(), segment: segment.id, offset, reason, before: segment.id + 1 }
        } else {
            match (self.suspect.take(), self.end.take()) {
                (Some(suspect), _) => {
                    Issue { reason: format!("{}; {reason}", suspect.reason), before: segment.id, ..suspect }
                }
                (None, Some((end, offset))) => {
                    Issue { path: end.path.clone(), segment: end.id, offset, reason, before: segment.id }
                }
                (None, None) => {
                    Issue { path: segment.path.clone(), segment: segment.id, offset, reason, before: segment.id }
                }
            }
        };
        self.issues.push(issue);
    }

    /// Whether a frame that is not whole still shows that an earlier one is missing: a write is only begun when the one before
    /// it is synced. Clients do not know the epoch, so no payload looks like this.
    fn proves_missing(&self, torn: &FrameHeader) -> bool {
        self.last.is_some_and(|last| !self.broken && torn.epoch == last.epoch && torn.lsn.0 > last.lsn.0 + 1)
    }

    /// Notes that the frame that should stand at `offset` of `segment`, or before it, is missing, as the one at `found` shows.
    fn note_missing(&mut self, segment: &Segment, offset: u64, found: u64, torn: &FrameHeader) {
        let reason =
            format!("no whole frame, but one with lsn {} was begun at byte {found} after it was synced", torn.lsn.0);
        let place = Issue { path: segment.path.clone(), segment: segment.id, offset, reason, before: segment.id + 1 };
        let issue = match (&self.suspect, &self.end) {
            (Some(suspect), _) => Issue { reason: place.reason, before: place.before, ..suspect.clone() },
            (None, Some((end, offset))) => Issue { path: end.path.clone(), segment: end.id, offset: *offset, ..place },
            (None, None) => place,
        };
        self.issues.push(issue);
        self.broken = true;
    }

    /// Whether a frame found beyond a place where none begins can be of this segment. The random part of the epoch is not
    /// known to clients, so a payload that looks like a frame does not pass, once a frame of the run is known.
    fn may_follow(&self, found: &FrameHeader) -> bool {
        self.last.is_none_or(|last| {
            let same_run = found.epoch >> 32 == last.epoch >> 32;
            if same_run || last.segment == found.segment { found.epoch == last.epoch } else { true }
        })
    }
}

struct Scanner<'a> {
    shard: Option<ShardId>,
    chain: Chain,
    /// Lent to a [`Reader`] for each segment.
    window: Vec<u8>,
    bytes_read: u64,
    visit: &'a mut dyn FnMut(Visit<'_>) -> Result<(), EntryError>,
}

impl Scanner<'_> {
    fn segment(&mut self, segment: Arc<Segment>) -> io::Result<ScannedSegment> {
        let file = Arc::clone(&segment.file);
        let window = std::mem::take(&mut self.window);
        let mut reader = Reader { file: &*file, len: segment.bytes, window, start: 0, filled: 0, read: 0 };
        let mut scanned =
            ScannedSegment { segment, frames: 0, first_lsn: Lsn(0), last_lsn: Lsn(0), end: 0, full_bytes: 0 };
        let mut offset = 0;
        if reader.len == 0 {
            // A file gets a segment's name only when it has its full length.
            let (path, id) = (scanned.segment.path.clone(), scanned.segment.id);
            let reason = "the file was cut off here".to_owned();
            self.chain.issues.push(Issue { path, segment: id, offset, reason, before: id + 1 });
        }
        loop {
            match reader.frame(offset, &scanned.segment, self.shard)? {
                Ok(header) => {
                    self.frame(&mut scanned, offset, &header, reader.slice(offset, header.used_bytes()));
                    offset += header.padded_bytes() as u64;
                }
                Err(error) => match self.resume(&mut reader, &scanned.segment, offset, error)? {
                    Some(next) => offset = next,
                    None => break,
                },
            }
        }
        self.bytes_read += reader.read;
        self.window = reader.window;
        Ok(scanned)
    }

    fn frame(&mut self, scanned: &mut ScannedSegment, offset: u64, header: &FrameHeader, used: &[u8]) {
        let segment = &scanned.segment;
        self.shard.get_or_insert(header.shard);
        let replaces_last = self.chain.add(segment, offset, *header);
        let body = &used[HEADER_BYTES..];
        if let Err(error) = (self.visit)(Visit { segment, offset, header, body, replaces_last }) {
            let reason = format!("the frame's checksum is right, but {error}");
            let issue = Issue { path: segment.path.clone(), segment: segment.id, offset, reason, before: u64::MAX };
            self.chain.issues.push(issue);
        }
        if scanned.frames == 0 {
            scanned.first_lsn = header.lsn;
            let had = u64::from(header.segment_blocks) * BLOCK_BYTES as u64;
            scanned.full_bytes = had.max(segment.bytes);
            if segment.bytes < had {
                let reason = format!("the file was cut off here: it had {had} bytes");
                let (path, offset) = (segment.path.clone(), segment.bytes);
                self.chain.issues.push(Issue { path, segment: segment.id, offset, reason, before: segment.id + 1 });
            }
        }
        scanned.frames += 1;
        scanned.last_lsn = header.lsn;
        scanned.end = offset + header.padded_bytes() as u64;
    }

    /// What is to be made of a place where no frame begins: where the next one stands, or `None` at the segment's end.
    fn resume(
        &mut self,
        reader: &mut Reader<'_>,
        segment: &Segment,
        offset: u64,
        error: FrameError,
    ) -> io::Result<Option<u64>> {
        let issue = |reason, before| Issue { path: segment.path.clone(), segment: segment.id, offset, reason, before };
        if error.is_refusal() {
            self.chain.issues.push(issue(error.to_string(), u64::MAX));
            self.chain.broken = true;
        } else if error.is_suspect() && self.chain.suspect.is_none() {
            self.chain.suspect = Some(issue(error.to_string(), segment.id + 1));
        }
        let mut at = offset;
        while let Some(Found { offset: found, header, verdict }) = reader.find(at, segment, self.shard)? {
            at = found + BLOCK_BYTES as u64;
            if verdict.is_err_and(|error| !error.is_refusal()) {
                if self.chain.proves_missing(&header) {
                    self.chain.note_missing(segment, offset, found, &header);
                }
                continue;
            }
            if found == offset || !self.chain.may_follow(&header) {
                continue;
            }
            if !error.is_refusal() {
                let reason = format!("{error}, but the frame with a later place at byte {found} is whole");
                self.chain.issues.push(issue(reason, segment.id + 1));
                self.chain.broken = true;
            }
            return Ok(Some(found));
        }
        Ok(None)
    }
}

/// A place that begins like a frame, and whether it is one.
struct Found {
    offset: u64,
    header: FrameHeader,
    verdict: Result<FrameHeader, FrameError>,
}

/// A window that moves over a file.
struct Reader<'a> {
    file: &'a dyn DiskFile,
    /// In whole blocks.
    len: u64,
    /// Its first `filled` bytes are the file's from `start` on.
    window: Vec<u8>,
    start: u64,
    filled: usize,
    read: u64,
}

impl Reader<'_> {
    /// The whole frame at `offset`. On `Ok` its used bytes can be had with [`Reader::slice`].
    fn frame(
        &mut self,
        offset: u64,
        segment: &Segment,
        shard: Option<ShardId>,
    ) -> io::Result<Result<FrameHeader, FrameError>> {
        if offset + BLOCK_BYTES as u64 > self.len {
            return Ok(Err(FrameError::Absent));
        }
        self.load(offset, BLOCK_BYTES)?;
        let header = match FrameHeader::peek(self.slice(offset, HEADER_BYTES), segment.id) {
            Ok(header) => header,
            Err(error) => return Ok(Err(error)),
        };
        if self.len - offset < header.padded_bytes() as u64 {
            let error = if header.is_of(segment.epoch) { FrameError::Short } else { FrameError::Stale(segment.id) };
            return Ok(Err(error));
        }
        self.load(offset, header.padded_bytes())?;
        let used = self.slice(offset, header.used_bytes());
        let verified = header.verify(used, shard.unwrap_or(header.shard), segment.epoch);
        Ok(verified.map(|()| header))
    }

    /// The first place from `offset` on that begins like a frame of `segment`, and whether a whole one stands there.
    fn find(&mut self, offset: u64, segment: &Segment, shard: Option<ShardId>) -> io::Result<Option<Found>> {
        let mut at = offset;
        while at + BLOCK_BYTES as u64 <= self.len {
            self.load(at, BLOCK_BYTES)?;
            if let Ok(header) = FrameHeader::peek(self.slice(at, HEADER_BYTES), segment.id) {
                let verdict = self.frame(at, segment, shard)?;
                return Ok(Some(Found { offset: at, header, verdict }));
            }
            at += BLOCK_BYTES as u64;
        }
        Ok(None)
    }

    /// Bytes that were loaded.
    fn slice(&self, offset: u64, bytes: usize) -> &[u8] {
        let at = usize::try_from(offset - self.start).expect("it was loaded");
        &self.window[..self.filled][at..at + bytes]
    }

    /// Moves the window so that it holds `bytes` at `offset`, which the file has.
    fn load(&mut self, offset: u64, bytes: usize) -> io::Result<()> {
        let end = self.start + self.filled as u64;
        if offset >= self.start && offset + bytes as u64 <= end {
            return Ok(());
        }
        let left = usize::try_from(self.len - offset).unwrap_or(usize::MAX);
        let want = READ_BYTES.max(bytes).min(left);
        let mut kept = 0;
        if (self.start..end).contains(&offset) {
            let from = usize::try_from(offset - self.start).expect("it is within the window");
            self.window.copy_within(from..self.filled, 0);
            kept = self.filled - from;
        }
        if self.window.len() < want {
            self.window.resize(want, 0);
        }
        // Nothing is in the window until the read is done: it may fail.
        self.filled = 0;
        self.file.read_exact_at(&mut self.window[kept..want], offset + kept as u64)?;
        self.read += (want - kept) as u64;
        (self.start, self.filled) = (offset, want);
        Ok(())
    }
}
