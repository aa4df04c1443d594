//! The data directory: one process at a time, and a format version that a newer program's data is refused by.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt as _, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, flock},
    process::Pid,
};

/// The name of the file that is locked.
const LOCK: &str = "LOCK";
/// The layout that this program reads and writes.
const FORMAT: u32 = 1;

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another process has it.
    #[error("{path} is in use by another process: stop it, or set another data_dir")]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// A newer program wrote it, or something else did.
    #[error("{path} says format {found:?}, this program knows {FORMAT}: run the program that wrote it")]
    Format {
        /// The file.
        path: PathBuf,
        /// What it says.
        found: String,
    },
    /// The system failed.
    #[error("{what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// The directory, locked until this is dropped or the process ends.
#[derive(Debug)]
pub struct DataDir {
    _lock: File,
}

impl DataDir {
    /// Makes the directory if it is missing, for its owner alone, and locks it.
    ///
    /// # Errors
    /// See [`DataDirError`].
    pub fn lock(path: &Path) -> Result<Self, DataDirError> {
        let error = |what, path: &Path| {
            let path = path.to_owned();
            move |source| DataDirError::Io { what, path, source }
        };
        make(path).map_err(error("cannot make", path))?;
        let lock_path = path.join(LOCK);
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(error("cannot open", &lock_path))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(DataDirError::Locked { path: path.to_owned() }),
            outcome => outcome.map_err(|e| error("cannot lock", &lock_path)(e.into()))?,
        }
        check_format(path, &error)?;
        Ok(Self { _lock: lock })
    }
}

/// The process that has the directory, as far as the system tells: one of another container is not seen. Takes no lock.
#[must_use]
pub fn holder(path: &Path) -> Option<Pid> {
    let lock = fs::metadata(path.join(LOCK)).ok()?;
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let (major, minor) = (rustix::fs::major(lock.dev()), rustix::fs::minor(lock.dev()));
    let device = format!("{major:02x}:{minor:02x}:");
    let pids = locks.lines().filter_map(|line| holder_by(line, lock.ino(), &device));
    // Some file systems name another device here than there: then only what runs this program counts.
    pids.max_by_key(|(same_device, _)| *same_device)
        .filter(|(same_device, pid)| *same_device || runs_this_program(*pid))
        .map(|(_, pid)| pid)
}

/// Who has the lock of a line of `/proc/locks`, if it is one of this file; and whether it names the same device.
fn holder_by(line: &str, inode: u64, device: &str) -> Option<(bool, Pid)> {
    let words: Vec<_> = line.split_ascii_whitespace().collect();
    // Whoever only waits has an arrow before the kind.
    let [_, "FLOCK", _, "WRITE", pid, file, ..] = words.as_slice() else { return None };
    let is_file = file.rsplit(':').next()?.parse() == Ok(inode);
    let pid = Pid::from_raw(pid.parse().ok()?).filter(|_| is_file)?;
    Some((file.starts_with(device), pid))
}

fn runs_this_program(pid: Pid) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == env!("CARGO_PKG_NAME"))
}

fn check_format<E: FnOnce(io::Error) -> DataDirError>(
    dir: &Path,
    error: &impl Fn(&'static str, &Path) -> E,
) -> Result<(), DataDirError> {
    let path = dir.join("FORMAT");
    match fs::read_to_string(&path) {
        Ok(text) if text.trim().parse() == Ok(FORMAT) => Ok(()),
        Ok(text) => Err(DataDirError::Format { path, found: text.chars().take(64).collect() }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => write_format(dir, &path).map_err(error("cannot write", &path)),
        Err(e) => Err(error("cannot read", &path)(e)),
    }
}

/// A crash leaves the whole file or none.
fn write_format(dir: &Path, path: &Path) -> io::Result<()> {
    let staged = dir.join("FORMAT.new");
    let mut file = File::create(&staged)?;
    file.write_all(format!("{FORMAT}\n").as_bytes())?;
    file.sync_all()?;
    fs::rename(&staged, path)?;
    File::open(dir)?.sync_all()
}

fn make(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_at_a_time_and_again_after_it() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("deep/data");
        let first = DataDir::lock(&path).expect("locked");
        assert!(matches!(DataDir::lock(&path), Err(DataDirError::Locked { .. })));
        assert_eq!(holder(&path), Some(rustix::process::getpid()));
        drop(first);
        assert_eq!(holder(&path), None);
        DataDir::lock(&path).expect("locked again");
    }

    #[test]
    fn a_lock_is_its_holder_s_and_nobody_else_s() {
        let by = |line| holder_by(line, 17, "fe:00:");
        let pid = |raw| Pid::from_raw(raw).expect("no zero");
        assert_eq!(by("1: FLOCK  ADVISORY  WRITE 24192 fe:00:17 0 EOF"), Some((true, pid(24192))));
        assert_eq!(by("1: FLOCK  ADVISORY  WRITE 24192 00:2a:17 0 EOF"), Some((false, pid(24192))));
        for line in [
            "1: -> FLOCK  ADVISORY  WRITE 25067 fe:00:17 0 EOF",
            "1: FLOCK  ADVISORY  WRITE 24192 fe:00:170 0 EOF",
            "1: FLOCK  ADVISORY  WRITE 0 fe:00:17 0 EOF",
            "3: FLOCK  ADVISORY  READ 23317 fe:00:17 0 EOF",
            "2: POSIX  ADVISORY  WRITE 24192 fe:00:17 0 EOF",
            "",
        ] {
            assert_eq!(by(line), None, "{line}");
        }
    }

    #[test]
    fn another_format_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        drop(DataDir::lock(dir.path()).expect("locked"));
        for found in ["2\n", "", "x"] {
            fs::write(dir.path().join("FORMAT"), found).expect("written");
            assert!(matches!(DataDir::lock(dir.path()), Err(DataDirError::Format { .. })), "{found:?}");
        }
    }
}
