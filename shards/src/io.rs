//! The only seam for simulation: a disk and a clock. The real disk is `io/real` (blocking parts) with `io/uring` for the one
//! write that is hot; the fake ones are in `io/sim`. `Paced` is how everything else that is long is written.

mod paced;
pub mod real;
pub mod sim;
pub mod uring;

pub use paced::Paced;

use bytes::{Buf, BytesMut};
use std::{
    fmt, io,
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The unit of every write to a log file, in bytes: what O_DIRECT needs on any usual disk.
pub const BLOCK_BYTES: usize = 4096;

/// What the write-ahead log needs of a file system. Blocking: used by recovery and by the thread that prepares segments.
pub trait Disk: fmt::Debug + Send + Sync + 'static {
    /// Makes `dir` and its parents, and syncs the parent.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// The names (not paths) of the plain files in `dir`, sorted. A missing directory is an empty one.
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>>;
    /// Makes a file of `len` zero bytes, really written and synced, and syncs its directory. The file must not exist.
    fn create(&self, path: &Path, len: u64) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens an existing file for reading and for durable block writes.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Renames and syncs the directory. Both are in the same directory.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes and syncs the directory.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Bytes that this process may still write to files in `dir`; [`u64::MAX`] if that is not known.
    fn free_bytes(&self, dir: &Path) -> u64;
}

/// An open file of a [`Disk`].
#[expect(clippy::len_without_is_empty, reason = "a file's length is a question to the system, not a container's")]
pub trait DiskFile: fmt::Debug + Send + Sync + 'static {
    /// Its length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Reads exactly `buf.len()` bytes at `offset`, or fails.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `data` at `offset` (both multiples of [`BLOCK_BYTES`]) and syncs it: on `Ok` it is on stable storage. A
    /// file that was made empty may so be written at its end.
    fn write_durable(&self, data: &[u8], offset: u64) -> io::Result<()>;
    /// Syncs whatever of the file is only in the page cache, and lets the cache go: what is read after it came from the
    /// device, so it is durable (a kernel may keep pages that it failed to write, marked clean).
    fn sync(&self) -> io::Result<()>;
    /// The descriptor for asynchronous durable writes, where the file is a real one.
    fn write_fd(&self) -> Option<BorrowedFd<'_>>;
    /// Whether a completed write to [`DiskFile::write_fd`] is durable in itself (O_DSYNC); if not, a sync must follow it.
    fn writes_are_durable(&self) -> bool;
}

/// Time.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Wall clock, microseconds since the Unix epoch.
    fn unix_micros(&self) -> i64;
    /// A clock that never steps back, microseconds since some start.
    fn monotonic_micros(&self) -> u64;
}

/// An empty buffer that begins on a multiple of [`BLOCK_BYTES`] and has room for at least `capacity` bytes. It stays aligned
/// as long as it never grows past that and is split at multiples of a block.
#[must_use]
pub fn aligned_buffer(capacity: usize) -> BytesMut {
    let mut buffer = BytesMut::with_capacity(capacity + BLOCK_BYTES);
    let skip = (buffer.as_ptr() as usize).next_multiple_of(BLOCK_BYTES) - buffer.as_ptr() as usize;
    buffer.resize(skip, 0);
    buffer.advance(skip);
    assert!(is_aligned(&buffer) && buffer.capacity() >= capacity, "a skip of less than a block aligns and leaves room");
    buffer
}

/// Whether `data` begins on a multiple of [`BLOCK_BYTES`] in memory.
#[must_use]
pub fn is_aligned(data: &[u8]) -> bool {
    (data.as_ptr() as usize).is_multiple_of(BLOCK_BYTES)
}
