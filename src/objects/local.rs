//! Objects as files under one directory. Blocking.
//!
//! An object appears whole or not at all: it is verified and synced where it is staged, renamed into place, and every
//! directory that changed is synced. Staging and objects are on one file system.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use super::ObjectError;

const READ_BYTES: usize = 1 << 20;

/// The objects under one directory.
#[derive(Debug, Clone)]
pub struct LocalObjects {
    root: PathBuf,
}

/// A file's length and checksum.
type Content = (u64, u32);

impl LocalObjects {
    /// The objects under `root`, which is made if it is missing.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(root: PathBuf) -> Result<Self, ObjectError> {
        create_synced(&root).map_err(io_error("cannot make the object directory", &root))?;
        Ok(Self { root })
    }

    /// Where the object of this key lies.
    #[must_use]
    pub fn path(&self, key: &str) -> PathBuf {
        self.root.join(key)
    }

    /// Moves a staged file into place. The same object again is no change.
    ///
    /// # Errors
    /// See [`ObjectError`]; the object is not in place, or what lies there is left as it is.
    pub fn put(&self, staged: &Path, key: &str, bytes: u64, checksum: u32) -> Result<(), ObjectError> {
        let target = self.path(key);
        match content_if_exists(&target).map_err(io_error("cannot read the object", &target))? {
            Some(found) if found == (bytes, checksum) => return remove_if_exists(staged),
            Some(_) => return Err(ObjectError::Different { key: key.to_owned() }),
            None => {}
        }
        self.place(staged, &target, (bytes, checksum))
    }

    /// As [`LocalObjects::put`], in the place of what lies there. Only for a key that no catalog entry names.
    ///
    /// # Errors
    /// See [`ObjectError`].
    pub fn replace(&self, staged: &Path, key: &str, bytes: u64, checksum: u32) -> Result<(), ObjectError> {
        self.place(staged, &self.path(key), (bytes, checksum))
    }

    fn place(&self, staged: &Path, target: &Path, wanted: Content) -> Result<(), ObjectError> {
        let lost = |reason: String| ObjectError::StagedLost { path: staged.to_owned(), reason };
        let found = content_if_exists(staged).map_err(io_error("cannot read the staged file", staged))?;
        let found = found.ok_or_else(|| lost("it does not exist".into()))?;
        if found != wanted {
            return Err(lost(format!("length and CRC32C are {found:?}, not {wanted:?}")));
        }
        File::open(staged).and_then(|f| f.sync_all()).map_err(io_error("cannot sync the staged file", staged))?;
        let parent = target.parent().expect("a key lies below the root");
        create_synced(parent).map_err(io_error("cannot make the directory", parent))?;
        fs::rename(staged, target).map_err(io_error("cannot move the staged file to", target))?;
        sync_dir(parent).map_err(io_error("cannot sync the directory", parent))
    }

    /// Removes an object, and the directories above it that are empty then. None is no fault.
    ///
    /// # Errors
    /// It could not be removed.
    pub fn remove(&self, key: &str) -> Result<(), ObjectError> {
        let path = self.path(key);
        remove_if_exists(&path)?;
        for dir in path.ancestors().skip(1).take_while(|dir| *dir != self.root) {
            // The first one that holds something else, or cannot go, stays, and so do those above it.
            if fs::remove_dir(dir).is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Removes every object whose key begins with `prefix/`. None is no fault.
    ///
    /// # Errors
    /// Something could not be removed; some may be gone.
    pub fn remove_prefix(&self, prefix: &str) -> Result<(), ObjectError> {
        assert!(!prefix.is_empty() && !prefix.contains(['/', '.']), "a prefix is one id");
        let dir = self.path(prefix);
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("cannot remove", &dir)(error)),
            _ => sync_dir(&self.root).map_err(io_error("cannot sync the directory", &self.root)),
        }
    }

    /// Whether the directory is there and can be written to.
    ///
    /// # Errors
    /// It is not.
    pub fn check(&self) -> Result<(), ObjectError> {
        rustix::fs::access(&self.root, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK)
            .map_err(|e| io_error("cannot write to", &self.root)(e.into()))
    }
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
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("cannot remove", path)(error)),
        _ => Ok(()),
    }
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ObjectError {
    let path = path.display().to_string();
    move |source| ObjectError::Io { what: format!("{what} {path}"), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::{key_of, prefix_of};
    use ttdust_shards::{
        ids::StreamId,
        parquet::{FileMeta, PartitionHour},
    };

    fn fixture() -> (tempfile::TempDir, LocalObjects, PathBuf) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let objects = LocalObjects::open(dir.path().join("objects")).expect("opened");
        let staged = dir.path().join("staged");
        fs::write(&staged, b"rows").expect("written");
        (dir, objects, staged)
    }

    const SUM: fn(&[u8]) -> u32 = crc32c::crc32c;

    #[test]
    fn a_key_says_where_and_what() {
        let stream = StreamId::generate();
        let file = FileMeta {
            stream,
            hour: PartitionHour(492_324),
            path: PathBuf::new(),
            first_sequence: 7,
            last_sequence: 12,
            rows: 6,
            min_timestamp: 0,
            max_timestamp: 0,
            bytes: 0,
            checksum: 0,
        };
        let wanted = format!("{stream}/2026/03/01/12/00000000000000000007-00000000000000000012.v1.parquet");
        assert_eq!(key_of(&file), wanted);
        assert!(key_of(&file).starts_with(&prefix_of(stream)));
    }

    #[test]
    fn a_file_moves_into_place_once() {
        let (_dir, objects, staged) = fixture();
        objects.put(&staged, "s/1/a", 4, SUM(b"rows")).expect("put");
        assert!(!staged.exists());
        assert_eq!(fs::read(objects.path("s/1/a")).expect("there"), b"rows");
        objects.put(&staged, "s/1/a", 4, SUM(b"rows")).expect("the same again");
        fs::write(&staged, b"rows").expect("written");
        objects.put(&staged, "s/1/a", 4, SUM(b"rows")).expect("the same again, staged anew");
        assert!(!staged.exists());
    }

    #[test]
    fn another_content_is_refused_and_only_replaced_on_demand() {
        let (_dir, objects, staged) = fixture();
        objects.put(&staged, "s/a", 4, SUM(b"rows")).expect("put");
        fs::write(&staged, b"more").expect("written");
        assert!(matches!(objects.put(&staged, "s/a", 4, SUM(b"more")), Err(ObjectError::Different { .. })));
        assert_eq!(fs::read(objects.path("s/a")).expect("there"), b"rows");
        objects.replace(&staged, "s/a", 4, SUM(b"more")).expect("replaced");
        assert_eq!(fs::read(objects.path("s/a")).expect("there"), b"more");
    }

    #[test]
    fn a_lost_cut_or_damaged_file_is_never_put() {
        let (_dir, objects, staged) = fixture();
        for (bytes, checksum) in [(5, SUM(b"rows")), (4, SUM(b"sowr"))] {
            let refused = objects.put(&staged, "s/a", bytes, checksum);
            assert!(matches!(refused, Err(ObjectError::StagedLost { .. })));
        }
        let missing = staged.with_extension("missing");
        assert!(matches!(objects.put(&missing, "s/a", 4, 0), Err(ObjectError::StagedLost { .. })));
        assert!(!objects.path("s/a").exists());
    }

    #[test]
    fn a_prefix_goes_and_its_neighbours_stay() {
        let (dir, objects, staged) = fixture();
        objects.put(&staged, "one/a", 4, SUM(b"rows")).expect("put");
        fs::write(&staged, b"rows").expect("written");
        objects.put(&staged, "two/a", 4, SUM(b"rows")).expect("put");
        fs::write(&staged, b"rows").expect("written");
        objects.put(&staged, "three/1/a", 4, SUM(b"rows")).expect("put");
        fs::write(&staged, b"rows").expect("written");
        objects.put(&staged, "three/2/a", 4, SUM(b"rows")).expect("put");
        objects.remove("three/1/a").expect("removed");
        assert!(!objects.path("three/1").exists() && objects.path("three/2/a").exists());
        objects.remove("three/2/a").expect("removed");
        assert!(!objects.path("three").exists() && objects.path("two/a").exists());
        objects.remove_prefix("one").expect("removed");
        objects.remove_prefix("one").expect("removed again");
        assert!(!objects.path("one").exists() && objects.path("two/a").exists());
        objects.check().expect("writable");
        let staging = dir.path().join("staging/deep");
        assert_eq!(clean_staging(&staging).expect("made"), 0);
        fs::write(staging.join("left"), b"x").expect("written");
        assert_eq!(clean_staging(&staging).expect("cleaned"), 1);
    }
}
