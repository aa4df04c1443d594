//! What an operator can do with a log that no process has open: list it, verify it, repair it.
//!
//! [`inspect`] and [`verify`] change nothing. [`repair`] gives up what recovery refuses to pass over: it cuts the log at the
//! first damage, and destroys nothing, since each file that it changes or takes out of the log stays beside it under a new name.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
};

use super::{
    Lsn,
    recovery::RecoveryError,
    scan::{self, Issue, Scan, Visit},
    segment,
};
use crate::{
    ids::{ShardId, StreamId},
    io::{BLOCK_BYTES, Disk, DiskFile, aligned_buffer},
};

/// How much is copied or zeroed at a time.
const COPY_BYTES: usize = 1 << 20;

/// A frame, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameInfo {
    /// Its position.
    pub lsn: Lsn,
    /// The segment's id.
    pub segment: u64,
    /// Where in the segment, in bytes.
    pub offset: u64,
    /// Bytes on disk.
    pub bytes: usize,
    /// The shard that wrote it.
    pub shard: ShardId,
    /// The run that wrote it.
    pub epoch: u64,
    /// How many entries.
    pub entries: u32,
    /// How many records.
    pub records: u64,
    /// Bytes of all payloads.
    pub payload_bytes: u64,
    /// The streams that they belong to.
    pub streams: BTreeSet<StreamId>,
}

/// A segment, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its id.
    pub id: u64,
    /// Its file.
    pub path: PathBuf,
    /// The file's length.
    pub bytes: u64,
    /// The end of its last frame.
    pub used_bytes: u64,
    /// How many frames.
    pub frames: u64,
    /// Its first frame; 0: none.
    pub first_lsn: Lsn,
    /// Its last frame; 0: none.
    pub last_lsn: Lsn,
}

/// A log, for people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The segments, oldest first.
    pub segments: Vec<SegmentInfo>,
    /// How many frames.
    pub frames: u64,
    /// How many records.
    pub records: u64,
    /// Bytes of all payloads.
    pub payload_bytes: u64,
    /// The last frame; 0: none.
    pub last_lsn: Lsn,
    /// The oldest segment that is still needed; older ones may be gone.
    pub log_start: u64,
    /// Damage that recovery would refuse, oldest first.
    pub damage: Vec<String>,
    /// What recovery would cut off the tail.
    pub torn: Option<String>,
    /// Bytes read.
    pub bytes_read: u64,
}

/// Lists the frames of the log at `path`, a shard's folder or a single segment, oldest first, and reports what it holds; goes
/// on past damage. `None` as shard takes the frames of any one shard. Changes nothing. Blocking.
///
/// # Errors
/// [`RecoveryError::Io`]
pub fn inspect(
    disk: &dyn Disk,
    path: &Path,
    shard: Option<ShardId>,
    on_frame: &mut dyn FnMut(&FrameInfo),
) -> Result<Report, RecoveryError> {
    let only = path.file_name().and_then(|name| segment::parse_file_name(Path::new(name))).map(|(id, _)| id);
    let dir = if only.is_some() { path.parent().unwrap_or(Path::new(".")) } else { path };
    let (scan, report) = survey(disk, dir, only, shard, on_frame)?;
    drop(scan);
    Ok(report)
}

/// Checks the log in the shard's folder `dir` just as [`super::recovery::recover`] would, and changes nothing. Blocking.
///
/// # Errors
/// See [`RecoveryError`].
pub fn verify(disk: &dyn Disk, dir: &Path, shard: ShardId) -> Result<Report, RecoveryError> {
    let (scan, report) = survey(disk, dir, None, Some(shard), &mut |_| {})?;
    scan.damage().next().map_or(Ok(report), |issue| Err(RecoveryError::damaged(issue)))
}

fn survey(
    disk: &dyn Disk,
    dir: &Path,
    only: Option<u64>,
    shard: Option<ShardId>,
    on_frame: &mut dyn FnMut(&FrameInfo),
) -> Result<(Scan, Report), RecoveryError> {
    let mut report = Report::default();
    let scan = scan::scan(disk, dir, only, shard, false, &mut |frame| {
        let mut info = frame_info(&frame);
        for entry in frame.entries() {
            let header = entry?.1.header;
            info.records += u64::from(header.count);
            info.payload_bytes += u64::from(header.payload_bytes);
            info.streams.insert(header.stream);
        }
        report.frames += 1;
        report.records += info.records;
        report.payload_bytes += info.payload_bytes;
        on_frame(&info);
        Ok(())
    });
    let scan = scan.map_err(RecoveryError::io)?;
    report.segments = scan.segments.iter().map(segment_info).collect();
    report.last_lsn = scan.last.map_or(Lsn(0), |last| last.lsn);
    report.log_start = scan.log_start;
    report.damage = scan.damage().map(ToString::to_string).collect();
    report.torn = scan.torn.as_ref().map(ToString::to_string);
    report.bytes_read = scan.bytes_read;
    Ok((scan, report))
}

fn frame_info(frame: &Visit<'_>) -> FrameInfo {
    FrameInfo {
        lsn: frame.header.lsn,
        segment: frame.segment.id,
        offset: frame.offset,
        bytes: frame.header.padded_bytes(),
        shard: frame.header.shard,
        epoch: frame.header.epoch,
        entries: frame.header.entries,
        records: 0,
        payload_bytes: 0,
        streams: BTreeSet::new(),
    }
}

fn segment_info(scanned: &scan::ScannedSegment) -> SegmentInfo {
    SegmentInfo {
        id: scanned.segment.id,
        path: scanned.segment.path.clone(),
        bytes: scanned.segment.bytes,
        used_bytes: scanned.end,
        frames: scanned.frames,
        first_lsn: scanned.first_lsn,
        last_lsn: scanned.last_lsn,
    }
}

/// What a repair did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repaired {
    /// The damage at which the log was cut.
    pub damage: String,
    /// The last frame that was kept.
    pub last_lsn: Lsn,
    /// Whole frames that were given up because they came after the damage.
    pub frames_lost: u64,
    /// The records in them.
    pub records_lost: u64,
    /// The files that were set aside: the damaged one as it was, and all that came after it.
    pub aside: Vec<PathBuf>,
}

/// Cuts the log in the shard's folder `dir` at its first damage, so that it can be recovered; what is given up stays in files
/// whose names end in `.damaged`. `None`: there is no damage, and nothing was changed. May be run again after a crash. Blocking.
///
/// # Errors
/// [`RecoveryError::Io`]
pub fn repair(disk: &dyn Disk, dir: &Path, shard: ShardId) -> Result<Option<Repaired>, RecoveryError> {
    let mut result: Option<Repaired> = None;
    let mut last_place = None;
    loop {
        let (scan, before) = survey(disk, dir, None, Some(shard), &mut |_| {})?;
        let Some(issue) = scan.damage().next().cloned() else { return Ok(result) };
        let place = Some((issue.path.clone(), issue.offset));
        if last_place == place {
            let source = io::Error::other(format!("the damage is still there after it was cut off: {issue}"));
            return Err(RecoveryError::Io { path: issue.path, source });
        }
        last_place = place;
        let aside =
            cut(disk, &scan, &issue).map_err(|source| RecoveryError::Io { path: issue.path.clone(), source })?;
        let (_, after) = survey(disk, dir, None, Some(shard), &mut |_| {})?;
        let repaired = result.get_or_insert_with(|| Repaired {
            damage: issue.to_string(),
            last_lsn: Lsn(0),
            frames_lost: 0,
            records_lost: 0,
            aside: Vec::new(),
        });
        repaired.last_lsn = after.last_lsn;
        repaired.frames_lost += before.frames.saturating_sub(after.frames);
        repaired.records_lost += before.records.saturating_sub(after.records);
        repaired.aside.extend(aside);
    }
}

/// Takes everything from `issue` on out of the log. The damage is still there until the last step, so a crash in between
/// leaves a log that is still refused, or one that is cut already.
fn cut(disk: &dyn Disk, scan: &Scan, issue: &Issue) -> io::Result<Vec<PathBuf>> {
    let mut aside = Vec::new();
    // The frames that say that these are not needed any more may be among those that are given up.
    for old in scan.segments.iter().filter(|old| old.segment.id < scan.log_start.min(issue.segment)) {
        aside.push(set_aside(disk, &old.segment.path, "flushed")?);
    }
    for later in scan.segments.iter().rev().filter(|later| later.segment.id > issue.segment && later.frames > 0) {
        aside.push(set_aside(disk, &later.segment.path, "damaged")?);
    }
    let Some(damaged) = scan.segments.iter().find(|scanned| scanned.segment.id == issue.segment) else {
        return Ok(aside);
    };
    let (path, file, bytes) = (&damaged.segment.path, &*damaged.segment.file, damaged.segment.bytes);
    if issue.offset == 0 || issue.offset == bytes {
        // Nothing of it is kept, or only its end is gone: then it gets zeros in its place.
        let copy = (issue.offset > 0).then(|| copy_of(disk, path, file, bytes, damaged.full_bytes)).transpose()?;
        aside.push(set_aside(disk, path, "damaged")?);
        if let Some(copy) = copy {
            disk.rename(&copy, path)?;
        }
        return Ok(aside);
    }
    let copy = copy_of(disk, path, file, bytes, bytes)?;
    aside.push(set_aside(disk, &copy, "damaged")?);
    let mut zeros = aligned_buffer(COPY_BYTES);
    zeros.resize(COPY_BYTES, 0);
    // Backwards: the damage is the last to go.
    let mut end = bytes;
    while end > issue.offset {
        let start = end.saturating_sub(COPY_BYTES as u64).max(issue.offset);
        let len = usize::try_from(end - start).expect("at most COPY_BYTES");
        file.write_durable(&zeros[..len], start)?;
        end = start;
    }
    Ok(aside)
}

/// Copies the first `bytes` of a segment to an unfinished file of `full_bytes` beside it.
fn copy_of(disk: &dyn Disk, path: &Path, file: &dyn DiskFile, bytes: u64, full_bytes: u64) -> io::Result<PathBuf> {
    let to = path.with_extension("tmp");
    match disk.remove(&to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let copy = disk.create(&to, full_bytes)?;
    let mut buffer = aligned_buffer(COPY_BYTES);
    let mut at = 0;
    while at < bytes {
        let len = usize::try_from(bytes - at).map_or(COPY_BYTES, |left| left.min(COPY_BYTES));
        assert!(len.is_multiple_of(BLOCK_BYTES), "segments are whole blocks");
        buffer.resize(len, 0);
        file.read_exact_at(&mut buffer, at)?;
        copy.write_durable(&buffer, at)?;
        at += len as u64;
    }
    Ok(to)
}

/// Gives a file a name that no segment has, and no other file.
fn set_aside(disk: &dyn Disk, path: &Path, suffix: &str) -> io::Result<PathBuf> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let taken = disk.list(dir)?;
    let name =
        path.with_extension("wal").file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let free = (0..).map(|n| if n == 0 { format!("{name}.{suffix}") } else { format!("{name}.{suffix}.{n}") });
    let free = free.map(PathBuf::from).find(|name| !taken.contains(name)).expect("the numbers do not end");
    let to = dir.join(free);
    disk.rename(path, &to)?;
    Ok(to)
}
