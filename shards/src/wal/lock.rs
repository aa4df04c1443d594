//! One process at a time has a log: the server, or a repair.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use rustix::fs::{FlockOperation, flock};

const FILE: &str = "LOCK";

/// The folder of all shards' logs, locked until this is dropped or the process ends.
#[derive(Debug)]
pub struct LogLock {
    _file: File,
}

impl LogLock {
    /// Locks the folder, which exists.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`]: another process has it. Others: what the system says.
    pub fn take(wal_dir: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(wal_dir.join(FILE))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => Err(io::Error::new(
                io::ErrorKind::WouldBlock,
                "another process has this log open: stop it first, or set another wal.directory",
            )),
            outcome => outcome.map(|()| Self { _file: file }).map_err(Into::into),
        }
    }

    /// Whether a process has the folder locked. Changes nothing.
    #[must_use]
    pub fn is_taken(wal_dir: &Path) -> bool {
        let Ok(file) = File::open(wal_dir.join(FILE)) else { return false };
        flock(&file, FlockOperation::NonBlockingLockExclusive) == Err(rustix::io::Errno::WOULDBLOCK)
    }
}
