//! What is done to files of keys off the shard's thread, as values: what is to be done, and what came of it.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
};

use bytes::Bytes;

use super::{
    Seen,
    file::{self, Facts, KeyFile, KeyFileWriter},
    fingerprint::Fingerprint,
    table::Table,
    writers::write_snapshot,
};
use crate::{ids::StreamId, io::Disk};

/// Work on a shard's key files. Blocking, up to seconds (a merge: minutes).
#[derive(Debug)]
pub enum KeyJob {
    /// Write the keys of a full table, and the writers.
    Write {
        /// The table.
        table: Arc<Table>,
        /// Of the file.
        facts: Facts,
        /// With the larger filter.
        wide: bool,
        /// The writers, if something of theirs changed.
        writers: Option<Bytes>,
    },
    /// Make one file of several, which stay.
    Merge {
        /// The files.
        files: Vec<Arc<KeyFile>>,
        /// Of the new file.
        facts: Facts,
        /// With the larger filter.
        wide: bool,
        /// Raised when it is not wanted any more.
        stop: Arc<AtomicBool>,
    },
    /// Remove a file that nothing needs.
    Remove(PathBuf),
}

/// What came of a [`KeyJob`].
#[derive(Debug)]
pub enum KeyDone {
    /// All is on stable storage, or why not. Without keys there is no file.
    Written(io::Result<Option<Arc<KeyFile>>>),
    /// The same; with the number of blocks that were damaged.
    Merged(io::Result<(Arc<KeyFile>, u64)>),
    /// Nothing that the shard must know.
    Removed,
}

impl KeyJob {
    /// Does it, in the folder of keys.
    #[must_use]
    pub fn perform(self, disk: &dyn Disk, dir: &Path) -> KeyDone {
        match self {
            Self::Write { table, facts, wide, writers } => {
                let written = write(disk, dir, &table, facts, wide, writers.as_deref());
                KeyDone::Written(tidy_up(disk, dir, &facts, written))
            }
            Self::Merge { files, facts, wide, stop } => {
                let merged = file::merge(disk, dir, facts, &files, wide, &stop);
                let merged = tidy_up(disk, dir, &facts, merged);
                KeyDone::Merged(merged.map(|(file, damaged)| (Arc::new(file), damaged)))
            }
            Self::Remove(path) => {
                match disk.remove(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        tracing::warn!(%error, path = %path.display(), "an old file of keys stays on disk");
                    }
                    _ => {}
                }
                KeyDone::Removed
            }
        }
    }
}

/// Leaves nothing of a file that was not finished: the disk may be full.
fn tidy_up<T>(disk: &dyn Disk, dir: &Path, facts: &Facts, made: io::Result<T>) -> io::Result<T> {
    if made.is_err() {
        // The first error is the one to report. What stays is removed at the next start.
        let _ = disk.remove(&dir.join(file::file_name(facts.shard, facts.number)).with_extension("tmp"));
    }
    made
}

fn write(
    disk: &dyn Disk,
    dir: &Path,
    table: &Table,
    facts: Facts,
    wide: bool,
    writers: Option<&[u8]>,
) -> io::Result<Option<Arc<KeyFile>>> {
    writers.map_or(Ok(()), |body| write_snapshot(disk, dir, facts.shard, body))?;
    if table.is_empty() {
        return Ok(None);
    }
    let mut writer = KeyFileWriter::begin(disk, dir, facts, table.len() as u64, wide)?;
    table.for_each_in_order(|entry| writer.push(entry))?;
    writer.finish().map(|file| Some(Arc::new(file)))
}

/// A key that a file may hold.
#[derive(Debug)]
pub struct Lookup {
    /// Of the record in its submission.
    pub index: u32,
    /// The key.
    pub key: Fingerprint,
    /// The file.
    pub file: Arc<KeyFile>,
    /// What it says of records with this sequence number or a later one is not to be believed.
    pub believed_below: i64,
}

/// Whether files hold keys of a submission that waits for it.
#[derive(Debug)]
pub struct KeyQuestion {
    /// The submission's stream, of which one submission asks at a time.
    pub stream: StreamId,
    /// What to look up.
    pub lookups: Vec<Lookup>,
}

/// What the files say.
#[derive(Debug)]
pub struct KeyAnswer {
    /// The stream.
    pub stream: StreamId,
    /// Index of each record whose key was found, and what it got.
    pub found: Vec<(u32, Seen)>,
    /// Reads that failed.
    pub failed: u64,
}

impl KeyQuestion {
    /// Reads the answer. Blocking.
    #[must_use]
    pub fn answer(self) -> KeyAnswer {
        let mut answer = KeyAnswer { stream: self.stream, found: Vec::new(), failed: 0 };
        for Lookup { index, key, file, believed_below } in self.lookups {
            match file.find(key) {
                Ok(Some(seen)) if seen.sequence < believed_below => answer.found.push((index, seen)),
                Ok(_) => {}
                Err(error) => {
                    tracing::error!(%error, "an idempotency key cannot be looked up: a duplicate of it may be accepted");
                    answer.failed += 1;
                }
            }
        }
        answer
    }
}
