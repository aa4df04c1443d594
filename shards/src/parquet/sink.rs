//! Where a file's bytes go: counted and checksummed on the way, durable at the end, or gone.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use crate::{io::Paced, threads};

const BUFFER_BYTES: usize = 256 * 1024;

/// A file under construction. Dropped before [`Sink::finish`], it is removed.
#[derive(Debug)]
pub(super) struct Sink {
    file: BufWriter<Paced>,
    unfinished: Unfinished,
    bytes: u64,
    checksum: u32,
}

/// The path to remove.
#[derive(Debug)]
struct Unfinished(Option<PathBuf>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // Best effort: a leftover in the staging folder is replaced by the next try.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Sink {
    /// Makes the file, or empties the one that is there.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let file = File::create(path)?;
        Ok(Self {
            file: BufWriter::with_capacity(BUFFER_BYTES, Paced::new(file)),
            unfinished: Unfinished(Some(path.to_owned())),
            bytes: 0,
            checksum: 0,
        })
    }

    /// Syncs the file and its directory; its length in bytes and its CRC32C.
    pub(super) fn finish(mut self) -> io::Result<(u64, u32)> {
        self.file.flush()?;
        self.file.get_ref().sync()?;
        let parent = self.unfinished.0.as_deref().and_then(Path::parent);
        let dir = parent.filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(dir)?.sync_all()?;
        self.unfinished.0 = None;
        Ok((self.bytes, self.checksum))
    }
}

impl Write for Sink {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        threads::offer();
        let written = self.file.write(buf)?;
        self.bytes += written as u64;
        self.checksum = crc32c::crc32c_append(self.checksum, &buf[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
