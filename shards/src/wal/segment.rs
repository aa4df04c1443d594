//! Segment files: preparing, recycling, removing.
//!
//! A segment is `{id:016x}-{epoch:016x}.wal` in the shard's folder. One that is being made has another name until it is whole,
//! so a file with a segment's name is always pre-written to its full length. A recycled file keeps its old bytes: the frames in
//! them bear the old segment id, so they are no frames of the new segment. Nor is anything that a client made to look like a
//! frame of it and had written as a payload, key or metadata: all frames of a segment bear the epoch that is in its file's
//! name, and half of an epoch is a random number that no client is told. (`{id:016x}.wal` is the name that the first version
//! gave; its frames may bear any epoch.)

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    ids::ShardId,
    io::{BLOCK_BYTES, Disk, DiskFile},
};

/// A segment file.
#[derive(Debug)]
pub struct Segment {
    /// Grows by one with every segment of a shard, over restarts too.
    pub id: u64,
    /// The epoch of all its frames; `None`: of a version that did not write it into the name.
    pub epoch: Option<u64>,
    /// The file.
    pub path: PathBuf,
    /// The open file.
    pub file: Arc<dyn DiskFile>,
    /// Its length in bytes, in whole blocks.
    pub bytes: u64,
}

impl Segment {
    /// What is needed to remove or recycle it.
    pub(crate) fn as_released(&self) -> ReleasedSegment {
        ReleasedSegment { path: self.path.clone(), bytes: self.bytes, recyclable: true }
    }
}

/// The file name of segment `id` with frames of `epoch`.
#[must_use]
pub fn file_name(id: u64, epoch: Option<u64>) -> String {
    match epoch {
        Some(epoch) => format!("{id:016x}-{epoch:016x}.wal"),
        None => format!("{id:016x}.wal"),
    }
}

/// The id and the epoch in a segment's file name; `None` for the name of anything else.
#[must_use]
pub fn parse_file_name(name: &Path) -> Option<(u64, Option<u64>)> {
    let number = |hex: &str| u64::from_str_radix(hex, 16).ok();
    let stem = name.to_str()?.strip_suffix(".wal")?;
    let (id, epoch) = match stem.split_once('-') {
        Some((id, epoch)) => (number(id)?, Some(number(epoch)?)),
        None => (number(stem)?, None),
    };
    (file_name(id, epoch) == name.to_str()?).then_some((id, epoch))
}

/// Whether this is the name of a segment that was being made when the process died: never evidence of anything.
#[must_use]
pub(super) fn is_unfinished(name: &Path) -> bool {
    name.extension().is_some_and(|extension| extension == "tmp")
}

/// A wish for a segment, to be served by [`prepare`] off the reactor.
#[derive(Debug)]
pub struct SegmentRequest {
    /// Its id.
    pub id: u64,
    /// The epoch of the frames that it is for.
    pub epoch: u64,
    /// Whose log.
    pub shard: ShardId,
    /// Its length in bytes.
    pub bytes: u64,
    /// A file to recycle, instead of writing zeros, or else to remove first. It may be gone already.
    pub recycle: Option<ReleasedSegment>,
}

/// A segment that is ready for its first frame: its blocks are written, it and its directory entry are synced.
#[derive(Debug)]
pub struct PreparedSegment {
    /// The segment.
    pub segment: Arc<Segment>,
    /// What its file system had left afterwards, in bytes; see [`Disk::free_bytes`].
    pub free_bytes: u64,
}

/// A segment that nothing refers to any more: all its rows are in committed files, or it never held any. To be removed with
/// [`remove`], or recycled by way of a [`SegmentRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleasedSegment {
    /// Its path.
    pub path: PathBuf,
    /// Its length in bytes.
    pub bytes: u64,
    /// Whether the file may become another segment.
    pub recyclable: bool,
}

/// Serves a request in the shard's folder `dir`. Blocking, up to seconds.
///
/// # Errors
/// The file cannot be made; nothing of it is left.
pub fn prepare(disk: &dyn Disk, dir: &Path, request: SegmentRequest) -> io::Result<PreparedSegment> {
    assert!(request.bytes > 0 && request.bytes.is_multiple_of(BLOCK_BYTES as u64), "segments are whole blocks");
    let epoch = Some(request.epoch);
    let path = dir.join(file_name(request.id, epoch));
    let mut file = None;
    if let Some(old) = request.recycle {
        if old.recyclable && old.bytes == request.bytes {
            file = recycle(disk, &old.path, &path)?;
        } else {
            remove(disk, &old)?;
        }
    }
    let file = file.map_or_else(|| create(disk, &path, request.bytes), Ok)?;
    let segment = Arc::new(Segment { id: request.id, epoch, path, file, bytes: request.bytes });
    Ok(PreparedSegment { segment, free_bytes: disk.free_bytes(dir) })
}

/// Removes a released segment. Blocking. One that is gone already is no error.
///
/// # Errors
/// What the system says.
pub fn remove(disk: &dyn Disk, released: &ReleasedSegment) -> io::Result<()> {
    match disk.remove(&released.path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Gives the old file the new name; `None` if there is no old file, as after a request that failed half way.
fn recycle(disk: &dyn Disk, old: &Path, path: &Path) -> io::Result<Option<Arc<dyn DiskFile>>> {
    let made = match disk.rename(old, path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        renamed => renamed.and_then(|()| disk.open(path)),
    };
    if made.is_err() {
        // The first error is the one to report. What stays behind is found at the next start.
        let _ = disk.remove(path);
    }
    made.map(Some)
}

fn create(disk: &dyn Disk, path: &Path, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
    let unfinished = path.with_extension("tmp");
    match disk.remove(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.create(&unfinished, bytes)?;
    match disk.rename(&unfinished, path) {
        Ok(()) => Ok(file),
        Err(error) => {
            let _ = disk.remove(&unfinished);
            let _ = disk.remove(path);
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_segments_own_name_is_parsed() {
        for name in [(0x2a, Some(7)), (u64::MAX, Some(u64::MAX)), (42, None)] {
            assert_eq!(parse_file_name(Path::new(&file_name(name.0, name.1))), Some(name));
        }
        for name in [
            "2a.wal",
            "000000000000002A.wal",
            "000000000000002a.wal.damaged",
            "000000000000002a.tmp",
            "+00000000000002a.wal",
            "000000000000002a-7.wal",
            "000000000000002a-0000000000000007-.wal",
        ] {
            assert_eq!(parse_file_name(Path::new(name)), None, "{name}");
        }
    }
}
