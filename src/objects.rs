//! Where committed files and what belongs to them lie: one object a key, in a local directory or in S3.
//!
//! Invariants: an object appears whole or not at all; what [`Objects::put`] says is in place was read back or vouched for by the
//! store, length and CRC32C; a key that holds something else is never overwritten but by [`Objects::replace`] and
//! [`Objects::put_bytes`]. Every store does the same: `tests/objects.rs` holds each to it. Keys are made of ids and numbers
//! only, never of names that a client chose ([`names`]).

mod local;
pub mod names;
mod s3;

use std::{
    io,
    ops::Range,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use tokio::task::spawn_blocking;
use ttdust_shards::parquet::source::FileSource;

use crate::config::{Config, S3Options};
use local::LocalObjects;
use names::is_key;
use s3::S3Objects;

pub use local::clean_staging;
pub use names::{
    FORMAT_VERSION, FileName, MergeMark, checkpoint_key_of, hour_of, key_of, manifest_key_of, merged_key_of, prefix_of,
};
pub use s3::{CredentialsError, FreshCredentials, S3Figures};

/// Objects that one call of [`Objects::list`] gives at most.
pub const LIST_MAX: usize = 10_000;

/// Why an operation on an object was not done, or is not known to be.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// The staged file is gone or is not what was written: it must be written anew from the log.
    #[error("the staged file {path} is lost: {reason}")]
    StagedLost {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// An object with this key exists and holds something else.
    #[error("an object {key} exists and holds something else")]
    Different {
        /// The key.
        key: String,
    },
    /// There is no object with this key.
    #[error("there is no object {key}")]
    NotFound {
        /// The key.
        key: String,
    },
    /// The object is longer than the caller takes.
    #[error("the object {key} has {bytes} bytes, more than {limit}")]
    TooLong {
        /// The key.
        key: String,
        /// Its length.
        bytes: u64,
        /// The caller's limit.
        limit: u64,
    },
    /// A range past the object's end was asked for.
    #[error("the object {key} is shorter than what is asked of it")]
    TooShort {
        /// The key.
        key: String,
    },
    /// The store does not do what is asked until somebody changes something: credentials, bucket, endpoint.
    #[error("{what} is refused: {reason}")]
    Denied {
        /// What was tried.
        what: String,
        /// What the store said and what to do.
        reason: String,
    },
    /// The store cannot answer now; worth trying again. What was asked may have happened.
    #[error("{what} failed: {reason}")]
    Unavailable {
        /// What was tried.
        what: String,
        /// What happened.
        reason: String,
    },
    /// The system failed; worth trying again.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl From<ObjectError> for io::Error {
    /// As a file's reader knows it.
    fn from(error: ObjectError) -> Self {
        let kind = match &error {
            ObjectError::NotFound { .. } => io::ErrorKind::NotFound,
            ObjectError::TooShort { .. } => io::ErrorKind::UnexpectedEof,
            ObjectError::Unavailable { .. } => io::ErrorKind::HostUnreachable,
            ObjectError::Denied { .. } => io::ErrorKind::PermissionDenied,
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// An object as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectEntry {
    /// Its key.
    pub key: String,
    /// Its length.
    pub bytes: u64,
    /// When it was put there, Unix µs, by the store's clock.
    pub modified_unix_micros: i64,
}

/// A handle to the objects, cheap to clone.
///
/// Its methods are for the control runtime and wait for the store there; only a [`FileSource`] reads blocking, on other threads.
#[derive(Debug, Clone)]
pub struct Objects {
    store: Store,
}

#[derive(Debug, Clone)]
enum Store {
    Local(LocalObjects),
    S3(S3Objects),
}

/// Objects of a bucket that are somebody else's, whatever their keys: they are read, and nothing is written beside them. Cheap to
/// clone.
#[derive(Debug, Clone)]
pub struct ForeignObjects(S3Objects);

impl ForeignObjects {
    /// Those of `bucket`, in the store and with the credentials of `options`; used from this runtime, one of a single thread.
    /// Asks the store nothing; reads files, blocking.
    ///
    /// # Errors
    /// `Denied`: the settings have to be put right.
    pub fn open(options: &S3Options, bucket: &str) -> Result<Self, ObjectError> {
        let options = S3Options { bucket: bucket.to_owned(), prefix: String::new(), ..options.clone() };
        S3Objects::open_foreign(&options, S3Figures::default()).map(Self)
    }

    /// As [`Objects::list`].
    ///
    /// # Errors
    /// The store failed, or does not let us.
    pub async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<ObjectEntry>, ObjectError> {
        self.0.list(prefix, after, limit).await
    }

    /// As [`Objects::source`].
    #[must_use]
    pub fn source(&self, key: &str, bytes: u64) -> FileSource {
        self.0.source(key, bytes)
    }
}

/// Runs what blocks on a thread that may.
async fn on_a_thread<T: Send + 'static>(
    local: &LocalObjects,
    run: impl FnOnce(&LocalObjects) -> Result<T, ObjectError> + Send + 'static,
) -> Result<T, ObjectError> {
    let local = local.clone();
    match spawn_blocking(move || run(&local)).await {
        Ok(outcome) => outcome,
        Err(error) => Err(ObjectError::Io {
            what: "a thread that works on objects failed".into(),
            source: io::Error::other(error),
        }),
    }
}

impl Objects {
    /// The objects under the directory `root`, which is made if it is missing. Blocking.
    ///
    /// # Errors
    /// It cannot be made or cleaned of what an earlier run left half done.
    pub fn local(root: PathBuf) -> Result<Self, ObjectError> {
        Ok(Self { store: Store::Local(LocalObjects::open(&root)?) })
    }

    /// The objects of a bucket, used from this runtime, one of a single thread, alone. A store that is away does not keep it
    /// from opening; one that refuses what is needed does.
    ///
    /// # Errors
    /// `Denied`: the settings, the credentials or the bucket have to be put right.
    pub async fn s3(options: &S3Options, figures: S3Figures) -> Result<Self, ObjectError> {
        let s3 = S3Objects::open(options, figures)?;
        match s3.probe_once().await {
            Ok(()) => {}
            Err(error @ ObjectError::Unavailable { .. }) => {
                tracing::warn!(%error, "the object store is away: files wait in the log until it is there");
            }
            Err(error) => return Err(error),
        }
        Ok(Self { store: Store::S3(s3) })
    }

    /// The objects where the configuration puts them.
    ///
    /// # Errors
    /// See [`Objects::local`] and [`Objects::s3`].
    pub async fn open(config: &Config, figures: S3Figures) -> Result<Self, ObjectError> {
        match &config.s3 {
            Some(options) => Self::s3(options, figures).await,
            None => Self::local(config.objects_dir()),
        }
    }

    /// Whether the store is elsewhere and may be away while this node goes on.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        matches!(self.store, Store::S3(_))
    }

    /// The credentials as they are now in their file; `None`: none are needed. Blocking.
    ///
    /// # Errors
    /// The file cannot be used.
    pub fn fresh_credentials(&self) -> Result<Option<FreshCredentials>, CredentialsError> {
        match &self.store {
            Store::Local(_) => Ok(None),
            Store::S3(s3) => s3.fresh_credentials().map(Some),
        }
    }

    /// From now on these are used.
    pub fn use_credentials(&self, fresh: FreshCredentials) {
        match &self.store {
            Store::Local(_) => {}
            Store::S3(s3) => s3.use_credentials(fresh),
        }
    }

    /// Puts a staged file of `bytes` bytes and this CRC32C into place, verifies it there, and takes the staged one away. The
    /// same object again is no change, also without the staged file.
    ///
    /// # Errors
    /// `StagedLost`: try no more with this file. `Different`: what is there stays. Any other: it may be there or not; try
    /// again.
    ///
    /// # Panics
    /// `key` is none ([`is_key`]); so in every other method.
    pub async fn put(&self, staged: &Path, key: &str, bytes: u64, checksum: u32) -> Result<(), ObjectError> {
        assert!(is_key(key), "{key:?} is no key");
        let (staged, key) = (staged.to_owned(), key.to_owned());
        match &self.store {
            Store::Local(local) => on_a_thread(local, move |l| l.put(&staged, &key, bytes, checksum)).await,
            Store::S3(s3) => s3.put(&staged, &key, bytes, checksum, false).await,
        }
    }

    /// As [`Objects::put`], in the place of what lies there. Only for a key that no catalog entry names.
    ///
    /// # Errors
    /// As there, but for `Different`.
    pub async fn replace(&self, staged: &Path, key: &str, bytes: u64, checksum: u32) -> Result<(), ObjectError> {
        assert!(is_key(key), "{key:?} is no key");
        let (staged, key) = (staged.to_owned(), key.to_owned());
        match &self.store {
            Store::Local(local) => on_a_thread(local, move |l| l.replace(&staged, &key, bytes, checksum)).await,
            Store::S3(s3) => s3.put(&staged, &key, bytes, checksum, true).await,
        }
    }

    /// Puts a small object, such as a manifest, into place; one that is there is replaced in one step, so that a reader sees
    /// either.
    ///
    /// # Errors
    /// The one or the other is in place.
    pub async fn put_bytes(&self, key: &str, content: Bytes) -> Result<(), ObjectError> {
        assert!(is_key(key), "{key:?} is no key");
        let key = key.to_owned();
        match &self.store {
            Store::Local(local) => on_a_thread(local, move |l| l.put_bytes(&key, &content)).await,
            Store::S3(s3) => s3.put_bytes(&key, content).await,
        }
    }

    /// A whole object of `limit` bytes at most.
    ///
    /// # Errors
    /// `NotFound`; `TooLong`, before it is read; the store failed.
    pub async fn get(&self, key: &str, limit: u64) -> Result<Bytes, ObjectError> {
        assert!(is_key(key), "{key:?} is no key");
        let key = key.to_owned();
        match &self.store {
            Store::Local(local) => on_a_thread(local, move |l| l.get(&key, limit)).await,
            Store::S3(s3) => s3.get(&key, limit).await,
        }
    }

    /// The bytes of each range, in their order. Whoever asks bounds how much that is.
    ///
    /// # Errors
    /// `NotFound`; `TooShort`; the store failed.
    pub async fn read_ranges(&self, key: &str, ranges: Vec<Range<u64>>) -> Result<Vec<Bytes>, ObjectError> {
        assert!(is_key(key), "{key:?} is no key");
        let key = key.to_owned();
        match &self.store {
            Store::Local(local) => on_a_thread(local, move |l| l.read_ranges(&key, &ranges)).await,
            Store::S3(s3) => s3.read_ranges(&key, &ranges).await,
        }
    }

    /// The length of an object; `None`: there is none.
    ///
    /// # Errors
    /// The store failed.
    pub async fn size(&self, key: &str) -> Result<Option<u64>, ObjectError> {
        assert!(is_key(key), "{key:?} is no key");
        let key = key.to_owned();
        match &self.store {
            Store::Local(local) => on_a_thread(local, move |l| l.size(&key)).await,
            Store::S3(s3) => s3.size(&key).await,
        }
    }

    /// The first `limit` objects whose keys begin with the text `prefix` (empty: all) and come after `after`, in the order of
    /// their keys' bytes. Fewer than `limit`: there are no more. What is half done is not shown.
    ///
    /// # Errors
    /// The store failed.
    ///
    /// # Panics
    /// `limit` is not between 1 and [`LIST_MAX`].
    pub async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<ObjectEntry>, ObjectError> {
        assert!((1..=LIST_MAX).contains(&limit), "a page of {limit} objects");
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        match &self.store {
            Store::Local(local) => on_a_thread(local, move |l| l.list(&prefix, after.as_deref(), limit)).await,
            Store::S3(s3) => s3.list(&prefix, after.as_deref(), limit).await,
        }
    }

    /// Removes an object. None is no fault.
    ///
    /// # Errors
    /// It may be there still.
    pub async fn remove(&self, key: &str) -> Result<(), ObjectError> {
        assert!(is_key(key), "{key:?} is no key");
        let key = key.to_owned();
        match &self.store {
            Store::Local(local) => on_a_thread(local, move |l| l.remove(&key)).await,
            Store::S3(s3) => s3.remove(&key).await,
        }
    }

    /// Removes every object whose key begins with `folder/`. None is no fault.
    ///
    /// # Errors
    /// Some may be there still.
    pub async fn remove_prefix(&self, folder: &str) -> Result<(), ObjectError> {
        assert!(is_key(folder), "{folder:?} is no folder");
        let folder = folder.to_owned();
        match &self.store {
            Store::Local(local) => on_a_thread(local, move |l| l.remove_prefix(&folder)).await,
            Store::S3(s3) => s3.remove_prefix(&folder).await,
        }
    }

    /// Whether the store is there and takes objects.
    ///
    /// # Errors
    /// It is not or does not.
    pub async fn check(&self) -> Result<(), ObjectError> {
        match &self.store {
            Store::Local(local) => on_a_thread(local, LocalObjects::check).await,
            Store::S3(s3) => s3.check().await,
        }
    }

    /// Which store it is, for people.
    #[must_use]
    pub fn store_name(&self) -> &str {
        match &self.store {
            Store::Local(_) => "local directory",
            Store::S3(s3) => s3.place(),
        }
    }

    /// The object of `bytes` bytes, to be read on a worker. Never on the control runtime's own thread.
    #[must_use]
    pub fn source(&self, key: &str, bytes: u64) -> FileSource {
        assert!(is_key(key), "{key:?} is no key");
        match &self.store {
            Store::Local(local) => local.path(key).into(),
            Store::S3(s3) => s3.source(key, bytes),
        }
    }
}
