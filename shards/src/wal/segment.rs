//! Segment files: preparing, recycling, removing.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    ids::ShardId,
    io::{Disk, DiskFile},
};

/// A segment file.
#[derive(Debug)]
pub struct Segment {
    /// Grows by one with every segment of a shard, over restarts too.
    pub id: u64,
    /// The file.
    pub path: PathBuf,
    /// The open file.
    pub file: Arc<dyn DiskFile>,
}

/// A wish for a segment, to be served by [`prepare`] off the reactor.
#[derive(Debug)]
pub struct SegmentRequest {
    /// Its id.
    pub id: u64,
    /// Whose log.
    pub shard: ShardId,
    /// Its length in bytes.
    pub bytes: u64,
    /// A file to recycle, instead of writing zeros.
    pub recycle: Option<ReleasedSegment>,
}

/// A segment that is ready for its first frame: its blocks are written, it and its directory entry are synced.
#[derive(Debug)]
pub struct PreparedSegment {
    /// The segment.
    pub segment: Arc<Segment>,
}

/// A sealed segment that nothing refers to any more.
#[derive(Debug)]
pub struct ReleasedSegment {
    /// Its path.
    pub path: PathBuf,
}

/// Serves a request in the shard's folder `dir`. Blocking, up to seconds.
///
/// # Errors
/// The file cannot be made; nothing of it is left.
pub fn prepare(_disk: &dyn Disk, _dir: &Path, _request: SegmentRequest) -> io::Result<PreparedSegment> {
    unimplemented!()
}
