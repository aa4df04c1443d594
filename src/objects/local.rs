//! Objects as files under one directory. Blocking.
//!
//! An object appears whole or not at all: it is verified and synced where it is staged, renamed into place, and every directory
//! that changed is synced. What is staged on another file system is copied first. What begins with a dot is no object: small
//! objects and copies are made under `.new`.

mod listing;

use std::{
    fs::{self, File},
    io::{self, Read, Write as _},
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use ttdust_shards::parquet::source::FileSource;

use super::{ObjectEntry, ObjectError};

const READ_BYTES: usize = 1 << 20;
/// Where small objects are made.
const NEW: &str = ".new";
/// How often a directory may be taken away as empty while a file is moved into it.
const PLACE_TRIES: usize = 8;

/// The objects under one directory.
#[derive(Debug, Clone)]
pub(super) struct LocalObjects {
    root: Arc<Path>,
}

/// A file's length and checksum.
type Content = (u64, u32);

impl LocalObjects {
    /// The objects under `root`, which is made if it is missing, and cleaned of what an earlier run left half done.
    pub(super) fn open(root: &Path) -> Result<Self, ObjectError> {
        create_synced(root).map_err(io_error("cannot make the object directory", root))?;
        clean_staging(&root.join(NEW))?;
        Ok(Self { root: root.into() })
    }

    /// Where the object of this key lies.
    pub(super) fn path(&self, key: &str) -> PathBuf {
        self.root.join(key)
    }

    pub(super) fn put(&self, staged: &Path, key: &str, bytes: u64, checksum: u32) -> Result<(), ObjectError> {
        let target = self.path(key);
        match content_if_exists(&target).map_err(io_error("cannot read the object", &target))? {
            Some(found) if found == (bytes, checksum) => return remove_if_exists(staged),
            Some(_) => return Err(ObjectError::Different { key: key.to_owned() }),
            None => {}
        }
        self.place(staged, &target, (bytes, checksum))
    }

    pub(super) fn replace(&self, staged: &Path, key: &str, bytes: u64, checksum: u32) -> Result<(), ObjectError> {
        self.place(staged, &self.path(key), (bytes, checksum))
    }

    /// Moves a staged file to `target` if it holds what is wanted, from another file system too.
    fn place(&self, staged: &Path, target: &Path, wanted: Content) -> Result<(), ObjectError> {
        match place(staged, target, wanted) {
            Err(ObjectError::Io { source, .. }) if source.kind() == io::ErrorKind::CrossesDevices => {}
            placed => return placed,
        }
        let copy = self.new_path();
        let copied = fs::copy(staged, &copy).map_err(io_error("cannot copy the staged file to", &copy));
        let placed = copied.and_then(|_| place(&copy, target, wanted));
        if placed.is_err() {
            // Best effort: what stays, the next start removes.
            let _ = fs::remove_file(&copy);
        }
        placed.and_then(|()| remove_if_exists(staged))
    }

    /// Where something new can be made.
    fn new_path(&self) -> PathBuf {
        self.root.join(NEW).join(uuid::Uuid::new_v4().simple().to_string())
    }

    pub(super) fn put_bytes(&self, key: &str, content: &[u8]) -> Result<(), ObjectError> {
        let made = self.new_path();
        let written = File::create_new(&made).and_then(|mut file| file.write_all(content));
        let placed = match written {
            Ok(()) => place(&made, &self.path(key), (content.len() as u64, crc32c::crc32c(content))),
            Err(error) => Err(io_error("cannot write", &made)(error)),
        };
        if placed.is_err() {
            // Best effort: what stays, the next start removes.
            let _ = fs::remove_file(&made);
        }
        placed
    }

    pub(super) fn get(&self, key: &str, limit: u64) -> Result<Bytes, ObjectError> {
        let path = self.path(key);
        let failed = || reading(key, &path);
        let file = File::open(&path).map_err(failed())?;
        let bytes = file.metadata().map_err(failed())?.len();
        let too_long = |bytes| ObjectError::TooLong { key: key.to_owned(), bytes, limit };
        if bytes > limit {
            return Err(too_long(bytes));
        }
        let mut content = Vec::with_capacity(usize::try_from(bytes).map_err(|_| too_long(bytes))?);
        // One more than allowed, should it have grown meanwhile.
        file.take(limit.saturating_add(1)).read_to_end(&mut content).map_err(failed())?;
        if content.len() as u64 > limit {
            return Err(too_long(content.len() as u64));
        }
        Ok(content.into())
    }

    pub(super) fn read_ranges(&self, key: &str, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, ObjectError> {
        let path = self.path(key);
        let source = FileSource::from(path.clone()).open().map_err(reading(key, &path))?;
        source.read_ranges(ranges).map_err(reading(key, &path))
    }

    pub(super) fn size(&self, key: &str) -> Result<Option<u64>, ObjectError> {
        let path = self.path(key);
        match fs::metadata(&path) {
            Ok(meta) => Ok(meta.is_file().then_some(meta.len())),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(io_error("cannot look at", &path)(error)),
        }
    }

    pub(super) fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ObjectEntry>, ObjectError> {
        listing::list(&self.root, prefix, after, limit)
    }

    /// Removes an object, and the directories above it that are empty then.
    pub(super) fn remove(&self, key: &str) -> Result<(), ObjectError> {
        let path = self.path(key);
        remove_if_exists(&path)?;
        self.remove_empty(path.parent());
        Ok(())
    }

    pub(super) fn remove_prefix(&self, folder: &str) -> Result<(), ObjectError> {
        let dir = self.path(folder);
        match fs::remove_dir_all(&dir) {
            Err(error) if !is_absent(&error) => return Err(io_error("cannot remove", &dir)(error)),
            _ => self.remove_empty(dir.parent()),
        }
        sync_dir(&self.root).map_err(io_error("cannot sync the directory", &self.root))
    }

    /// The first directory that holds something else, or cannot go, stays, and so do those above it.
    fn remove_empty(&self, lowest: Option<&Path>) {
        let above = lowest.into_iter().flat_map(Path::ancestors).take_while(|dir| **dir != *self.root);
        for dir in above {
            if fs::remove_dir(dir).is_err() {
                break;
            }
        }
    }

    pub(super) fn check(&self) -> Result<(), ObjectError> {
        rustix::fs::access(&*self.root, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK)
            .map_err(|e| io_error("cannot write to", &self.root)(e.into()))
    }
}

/// Moves a staged file to `target`, which is on the same file system, if it holds what is wanted.
fn place(staged: &Path, target: &Path, wanted: Content) -> Result<(), ObjectError> {
    let lost = |reason: String| ObjectError::StagedLost { path: staged.to_owned(), reason };
    let found = content_if_exists(staged).map_err(io_error("cannot read the staged file", staged))?;
    let found = found.ok_or_else(|| lost("it does not exist".into()))?;
    if found != wanted {
        return Err(lost(format!("length and CRC32C are {found:?}, not {wanted:?}")));
    }
    File::open(staged).and_then(|f| f.sync_all()).map_err(io_error("cannot sync the staged file", staged))?;
    let parent = target.parent().expect("a key lies below the root");
    for left in (0..PLACE_TRIES).rev() {
        create_synced(parent).map_err(io_error("cannot make the directory", parent))?;
        match fs::rename(staged, target) {
            // A removal next to it took the directory away as empty.
            Err(error) if error.kind() == io::ErrorKind::NotFound && left > 0 => {}
            outcome => {
                outcome.map_err(io_error("cannot move the staged file to", target))?;
                break;
            }
        }
    }
    sync_dir(parent).map_err(io_error("cannot sync the directory", parent))
}

/// Removes what earlier runs left in the staging directory: files that were never committed, whose rows are in the log.
///
/// # Errors
/// The directory cannot be made, read or cleaned.
pub fn clean_staging(dir: &Path) -> Result<u64, ObjectError> {
    create_synced(dir).map_err(io_error("cannot make the staging directory", dir))?;
    let mut removed = 0;
    for entry in fs::read_dir(dir).map_err(io_error("cannot list", dir))? {
        let path = entry.map_err(io_error("cannot list", dir))?.path();
        let is_dir = path.symlink_metadata().is_ok_and(|m| m.is_dir());
        let outcome = if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        outcome.map_err(io_error("cannot remove", &path))?;
        removed += 1;
    }
    Ok(removed)
}

/// Makes `dir` and its parents, and syncs the parent of each one made.
fn create_synced(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    create_synced(parent)?;
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => sync_dir(parent),
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn content_if_exists(path: &Path) -> io::Result<Option<Content>> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut buffer = vec![0; READ_BYTES];
    let (mut bytes, mut checksum) = (0, 0);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(Some((bytes, checksum))),
            read => {
                bytes += read as u64;
                checksum = crc32c::crc32c_append(checksum, &buffer[..read]);
            }
        }
    }
}

fn remove_if_exists(path: &Path) -> Result<(), ObjectError> {
    match fs::remove_file(path) {
        Err(error) if !is_absent(&error) => Err(io_error("cannot remove", path)(error)),
        _ => Ok(()),
    }
}

/// Whether nothing lies at a path: not there, or below what is no directory.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// What a failure to read an object means.
fn reading(key: &str, path: &Path) -> impl FnOnce(io::Error) -> ObjectError {
    move |error| match error.kind() {
        _ if is_absent(&error) => ObjectError::NotFound { key: key.to_owned() },
        io::ErrorKind::UnexpectedEof => ObjectError::TooShort { key: key.to_owned() },
        _ => io_error("cannot read", path)(error),
    }
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ObjectError {
    let path = path.display().to_string();
    move |source| ObjectError::Io { what: format!("{what} {path}"), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_directories_go_and_others_stay() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let objects = LocalObjects::open(&dir.path().join("objects")).expect("opened");
        for key in ["one/1/a", "one/2/a", "two/a"] {
            objects.put_bytes(key, b"rows").expect("put");
        }
        objects.remove("one/1/a").expect("removed");
        assert!(!objects.path("one/1").exists() && objects.path("one/2/a").exists());
        objects.remove_prefix("one/2").expect("removed");
        assert!(!objects.path("one").exists() && objects.path("two/a").exists());
        objects.check().expect("writable");
    }

    #[test]
    fn what_was_left_half_done_goes() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let staging = dir.path().join("staging/deep");
        assert_eq!(clean_staging(&staging).expect("made"), 0);
        fs::write(staging.join("left"), b"x").expect("written");
        assert_eq!(clean_staging(&staging).expect("cleaned"), 1);
        let half = dir.path().join("objects").join(NEW).join("half");
        fs::create_dir_all(half.parent().expect("one")).expect("made");
        fs::write(&half, b"x").expect("written");
        let objects = LocalObjects::open(&dir.path().join("objects")).expect("opened");
        assert!(!half.exists());
        assert_eq!(objects.list("", None, 10).expect("a listing"), []);
    }
}
