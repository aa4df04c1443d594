//! The folder of keys at a start: its seeds are read or drawn, its files opened, what is damaged or over set aside.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

use super::{
    file::{KeyFile, OpenError, is_whole, parse_file_name, seal_block},
    fingerprint::Seeds,
    writers::{SnapshotError, is_snapshot, read_snapshot},
};
use crate::io::{BLOCK_BYTES, Disk, aligned_buffer};

const SEEDS_FILE: &str = "seeds";
const SEEDS_MAGIC: [u8; 8] = *b"TTDseed\0";
const SEEDS_VERSION: u8 = 1;

/// What the folder held, of all shards that ever were.
#[derive(Debug, Clone)]
pub struct OpenKeys {
    /// Where it is.
    pub dir: PathBuf,
    /// What fingerprints are made with.
    pub seeds: Seeds,
    /// Its files.
    pub files: Vec<Arc<KeyFile>>,
    /// The latest time of the keys' clock that a file knows, µs.
    pub clock: u64,
    /// What each shard last wrote of its writers.
    pub writers: Vec<(PathBuf, Bytes)>,
    /// How many files were set aside.
    pub damaged: u64,
}

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the idempotency keys in {path} cannot be read: {source}")]
pub struct FolderError {
    /// The file or folder.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: OpenError,
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> FolderError {
    |source| FolderError { path: path.to_owned(), source: source.into() }
}

impl OpenKeys {
    /// Opens the folder `dir`, which is made if it is missing. `new_seeds` are for a folder that has none. Blocking.
    ///
    /// # Errors
    /// The system's, or a file is of a later version.
    pub fn open(disk: &dyn Disk, dir: &Path, new_seeds: Seeds) -> Result<Self, FolderError> {
        disk.create_dir(dir).map_err(failed(dir))?;
        let names = disk.list(dir).map_err(failed(dir))?;
        for name in names.iter().filter(|name| name.extension().is_some_and(|extension| extension == "tmp")) {
            let path = dir.join(name);
            disk.remove(&path).map_err(failed(&path))?;
        }
        let mut keys = Self {
            dir: dir.to_owned(),
            seeds: seeds(disk, dir, &names, new_seeds)?,
            files: Vec::new(),
            clock: 0,
            writers: Vec::new(),
            damaged: 0,
        };
        for name in names {
            let path = dir.join(&name);
            if is_snapshot(&name) {
                match read_snapshot(disk, &path) {
                    Ok(body) => keys.writers.push((path, body)),
                    Err(SnapshotError::Damaged) => {
                        set_aside(disk, &path, "the file of writers is not whole")?;
                        keys.damaged += 1;
                    }
                    Err(SnapshotError::Newer(version)) => {
                        return Err(FolderError { path, source: OpenError::Newer(version) });
                    }
                    Err(SnapshotError::Io(error)) => return Err(failed(&path)(error)),
                }
                continue;
            }
            let Some((shard, number)) = parse_file_name(&name) else { continue };
            let opened = KeyFile::open(disk, &path).and_then(|file| {
                let facts = file.facts();
                let wrong = if (facts.shard, facts.number) != (shard, number) {
                    "it has another file's name"
                } else if facts.seeds != keys.seeds.id() {
                    "it was made with other seeds"
                } else {
                    return Ok(file);
                };
                Err(OpenError::Damaged(wrong.to_owned()))
            });
            match opened {
                Ok(file) => {
                    keys.clock = keys.clock.max(file.facts().clock.1);
                    keys.files.push(Arc::new(file));
                }
                Err(OpenError::Damaged(reason)) => {
                    set_aside(disk, &path, &reason)?;
                    keys.damaged += 1;
                }
                Err(source) => return Err(FolderError { path, source }),
            }
        }
        Ok(keys)
    }
}

fn set_aside(disk: &dyn Disk, path: &Path, reason: &str) -> Result<(), FolderError> {
    tracing::error!(
        path = %path.display(),
        reason,
        "a file of idempotency keys is set aside: duplicates of its records will be accepted"
    );
    let mut aside = path.as_os_str().to_owned();
    aside.push(".damaged");
    disk.rename(path, Path::new(&aside)).map_err(failed(path))
}

/// The seeds of the folder; new ones if it has none.
fn seeds(disk: &dyn Disk, dir: &Path, names: &[PathBuf], seeds: Seeds) -> Result<Seeds, FolderError> {
    let path = dir.join(SEEDS_FILE);
    if names.iter().any(|name| name == Path::new(SEEDS_FILE)) {
        let mut block = [0; BLOCK_BYTES];
        let file = disk.open(&path).map_err(failed(&path))?;
        let whole = file.len().map_err(failed(&path))? == BLOCK_BYTES as u64;
        if whole {
            file.read_exact_at(&mut block, 0).map_err(failed(&path))?;
        }
        if whole && is_whole(&block) && block[..8] == SEEDS_MAGIC {
            if block[8] != SEEDS_VERSION {
                return Err(FolderError { path, source: OpenError::Newer(block[8].into()) });
            }
            return Ok(Seeds::from_bytes(block[16..32].try_into().expect("a slice of 16")));
        }
        set_aside(disk, &path, "the seeds are damaged")?;
    }
    let mut block = aligned_buffer(BLOCK_BYTES);
    block.resize(BLOCK_BYTES, 0);
    block[..8].copy_from_slice(&SEEDS_MAGIC);
    block[8] = SEEDS_VERSION;
    block[16..32].copy_from_slice(&seeds.to_bytes());
    seal_block(&mut block);
    let unfinished = path.with_extension("tmp");
    let written = disk
        .create(&unfinished, 0)
        .and_then(|file| file.write_durable(&block, 0))
        .and_then(|()| disk.rename(&unfinished, &path));
    written.map_err(failed(&path))?;
    Ok(seeds)
}
