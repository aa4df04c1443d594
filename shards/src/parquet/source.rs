//! Where a file's bytes come from: a local file, or an object that somebody else fetches ranges of.
//!
//! Reads block, so they are for workers and helper threads, never for a shard's reactor.

use std::{
    fmt, io,
    ops::Range,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

/// Fetches ranges of one object.
pub trait RangeRead: fmt::Debug + Send + Sync {
    /// The bytes of each range, in the order of `ranges`, fetched side by side where the store can.
    ///
    /// # Errors
    /// The object is gone ([`io::ErrorKind::NotFound`]), it is shorter than asked for ([`io::ErrorKind::UnexpectedEof`]), the
    /// store cannot answer now ([`io::ErrorKind::HostUnreachable`], [`io::ErrorKind::TimedOut`]), or it failed otherwise.
    fn read_ranges(&self, ranges: &[Range<u64>]) -> io::Result<Vec<Bytes>>;
}

/// A file's bytes.
#[derive(Debug, Clone)]
pub enum FileSource {
    /// A file on this machine.
    Local(PathBuf),
    /// An object elsewhere.
    Object {
        /// Its key, as messages name it.
        key: PathBuf,
        /// Its length in bytes.
        bytes: u64,
        /// Who fetches it.
        ranges: Arc<dyn RangeRead>,
    },
}

impl From<PathBuf> for FileSource {
    fn from(path: PathBuf) -> Self {
        Self::Local(path)
    }
}

impl FileSource {
    /// What messages call it.
    #[must_use]
    pub fn name(&self) -> &Path {
        match self {
            Self::Local(path) | Self::Object { key: path, .. } => path,
        }
    }

    /// Makes it ready to be read.
    ///
    /// # Errors
    /// The local file cannot be opened.
    pub fn open(&self) -> io::Result<OpenSource> {
        Ok(match self {
            Self::Local(path) => {
                let file = std::fs::File::open(path)?;
                let bytes = file.metadata()?.len();
                OpenSource { bytes, ranges: Arc::new(LocalFile(file)) }
            }
            Self::Object { bytes, ranges, .. } => OpenSource { bytes: *bytes, ranges: Arc::clone(ranges) },
        })
    }
}

#[derive(Debug)]
struct LocalFile(std::fs::File);

impl RangeRead for LocalFile {
    fn read_ranges(&self, ranges: &[Range<u64>]) -> io::Result<Vec<Bytes>> {
        let read = |range: &Range<u64>| {
            let length = usize::try_from(range.end.saturating_sub(range.start)).map_err(io::Error::other)?;
            let mut buffer = vec![0; length];
            self.0.read_exact_at(&mut buffer, range.start)?;
            Ok(Bytes::from(buffer))
        };
        ranges.iter().map(read).collect()
    }
}

/// A file that is read.
#[derive(Debug, Clone)]
pub struct OpenSource {
    bytes: u64,
    ranges: Arc<dyn RangeRead>,
}

impl OpenSource {
    /// The bytes of each range; see [`RangeRead::read_ranges`]. A range past the end is refused before anything is allocated.
    ///
    /// # Errors
    /// As there.
    pub fn read_ranges(&self, ranges: &[Range<u64>]) -> io::Result<Vec<Bytes>> {
        if let Some(range) = ranges.iter().find(|range| range.end > self.bytes || range.start > range.end) {
            let message = format!("bytes {range:?} of a file of {} bytes", self.bytes);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
        }
        self.ranges.read_ranges(ranges)
    }

    /// Its length in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}
