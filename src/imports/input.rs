//! An object's bytes, read from its beginning to its end, decompressed on the way, within bounds.

use std::{
    io::{self, Read},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::{Buf as _, Bytes};
use ttdust_shards::parquet::source::OpenSource;

use super::spec::Compression;

/// Read from the object at a time.
const RANGE_BYTES: u64 = 1 << 20;
/// An object that decompresses to more than this times its size is taken for a bomb…
const RATIO_MAX: u64 = 1000;
/// …once so many bytes have come out.
const RATIO_FROM_BYTES: u64 = 64 << 20;
/// How far back a zstd frame may reach: what a reader must hold of it.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// Why an object cannot be read on, and with it the import.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Broken(pub String);

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                Self(format!("it is cut short, or not compressed as it is said to be: {error}"))
            }
            _ => Self(error.to_string()),
        }
    }
}

/// An object's bytes.
pub struct Input {
    reader: Box<dyn Read + Send>,
    /// Bytes of the object that were read so far.
    taken: Arc<AtomicU64>,
    given: u64,
}

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Input").field("given", &self.given).finish_non_exhaustive()
    }
}

impl Input {
    /// The bytes of `source`, which is compressed in this way.
    ///
    /// # Errors
    /// It is not.
    pub fn open(source: OpenSource, compression: Compression) -> Result<Self, Broken> {
        let taken = Arc::<AtomicU64>::default();
        let ranges = Ranges { source, at: 0, buffer: Bytes::new(), taken: Arc::clone(&taken) };
        let reader: Box<dyn Read + Send> = match compression {
            Compression::None | Compression::ByName => Box::new(ranges),
            Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(io::BufReader::new(ranges))),
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::new(ranges)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                Box::new(decoder)
            }
        };
        Ok(Self { reader, taken, given: 0 })
    }

    /// Reads more into the end of `buffer`, `most` bytes at most; 0: it is at its end.
    ///
    /// # Errors
    /// It cannot be read, or is a bomb.
    pub fn read_more(&mut self, buffer: &mut Vec<u8>, most: usize) -> Result<usize, Broken> {
        let before = buffer.len();
        buffer.resize(before + most, 0);
        let read = loop {
            match self.reader.read(&mut buffer[before..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        buffer.truncate(before + read.as_ref().map_or(0, |read| *read));
        let read = read?;
        self.given += read as u64;
        if self.given > RATIO_FROM_BYTES && self.given / RATIO_MAX > self.taken.load(Relaxed) {
            return Err(Broken(format!(
                "it decompresses to more than {RATIO_MAX} times its size, and is taken for a decompression bomb"
            )));
        }
        Ok(read)
    }
}

/// Reads a source range by range.
struct Ranges {
    source: OpenSource,
    at: u64,
    buffer: Bytes,
    taken: Arc<AtomicU64>,
}

impl Read for Ranges {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.buffer.is_empty() {
            let end = (self.at + RANGE_BYTES).min(self.source.bytes());
            if end == self.at || into.is_empty() {
                return Ok(0);
            }
            let range = self.at..end;
            self.buffer = self.source.read_ranges(std::slice::from_ref(&range))?.remove(0);
            self.at = end;
            self.taken.store(end, Relaxed);
        }
        let length = into.len().min(self.buffer.len());
        self.buffer.copy_to_slice(&mut into[..length]);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use ttdust_shards::parquet::source::FileSource;

    use super::*;

    fn read(bytes: &[u8], compression: Compression) -> Result<u64, Broken> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("object");
        std::fs::write(&path, bytes).expect("a file");
        let mut input = Input::open(FileSource::from(path).open().expect("open"), compression)?;
        let (mut buffer, mut total) = (Vec::new(), 0);
        loop {
            buffer.clear();
            match input.read_more(&mut buffer, 1 << 20)? {
                0 => return Ok(total),
                read => total += read as u64,
            }
        }
    }

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(data).expect("in memory");
        encoder.finish().expect("in memory")
    }

    #[test]
    fn what_is_read_is_what_was_written_and_a_cut_is_noticed() {
        let text: Vec<u8> = (0..700_000u32).flat_map(u32::to_le_bytes).collect();
        let zstd = zstd::encode_all(&text[..], 1).expect("in memory");
        let length = Ok(text.len() as u64);
        assert_eq!(read(&text, Compression::None), length);
        // Two members, as tools that append make them.
        let halves = [gzip(&text[..1000]), gzip(&text[1000..])].concat();
        assert_eq!(read(&halves, Compression::Gzip), length);
        assert_eq!(read(&zstd, Compression::Zstd), length);
        for (packed, compression) in [(&halves, Compression::Gzip), (&zstd, Compression::Zstd)] {
            assert!(read(&packed[..packed.len() - 9], compression).is_err(), "{compression:?}");
            assert!(read(&text, compression).is_err(), "{compression:?}");
        }
    }

    #[test]
    fn a_bomb_is_stopped_long_before_its_end() {
        // Only zstd packs so tightly; gzip does no more than about 1:1030.
        let layer = vec![0; 1 << 20];
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).expect("in memory");
        for _ in 0..200 {
            encoder.write_all(&layer).expect("in memory");
        }
        let bomb = encoder.finish().expect("in memory");
        assert!(bomb.len() < 100_000, "{}", bomb.len());
        let error = read(&bomb, Compression::Zstd).expect_err("a bomb");
        assert!(error.0.contains("bomb"), "{error}");
    }
}
