//! The real disk (blocking operations) and the real clock.
//!
//! A file has two descriptors: one for durable writes (O_DIRECT and O_DSYNC where the file system takes them, found out by a
//! real attempt), and one for reads through the page cache. Every change of a directory is synced before it is reported.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::{FileExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use rustix::fs::{Advice, FallocateFlags, OFlags, statvfs};

use super::{BLOCK_BYTES, Clock, Disk, DiskFile, aligned_buffer, is_aligned};

/// How much is written at a time when a file is filled with zeros.
const FILL_BYTES: usize = 1 << 20;

/// The file system of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk {}

impl Disk for RealDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut missing = Vec::new();
        let mut at = Some(dir);
        while let Some(path) = at.filter(|path| !path.as_os_str().is_empty() && !path.exists()) {
            missing.push(path);
            at = path.parent();
        }
        for path in missing.into_iter().rev() {
            match fs::create_dir(path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => made?,
            }
            sync_parent(path)?;
        }
        // A run that was killed between the two calls above left a directory that was never synced.
        sync_parent(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let entries = match fs::read_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                names.push(PathBuf::from(entry.file_name()));
            }
        }
        names.sort();
        Ok(names)
    }

    fn create(&self, path: &Path, len: u64) -> io::Result<Arc<dyn DiskFile>> {
        let plain = OpenOptions::new().write(true).create_new(true).open(path)?;
        let made = fill(&plain, path, len).and_then(|()| {
            sync_parent(path)?;
            self.open(path)
        });
        if made.is_err() {
            // The first error is the one to report; a file that stays behind is found again at the next start.
            let _ = fs::remove_file(path);
        }
        made
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let reads = File::open(path)?;
        let (writes, writes_are_durable) = open_for_writes(path)?;
        Ok(Arc::new(RealFile { reads, writes, writes_are_durable }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)?;
        sync_parent(to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)?;
        sync_parent(path)
    }

    fn free_bytes(&self, dir: &Path) -> u64 {
        statvfs(dir).map_or(u64::MAX, |system| system.f_bavail.saturating_mul(system.f_frsize))
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

/// Allocates and really writes `len` zeros, so that a later write changes no metadata, and syncs the file.
fn fill(plain: &File, path: &Path, len: u64) -> io::Result<()> {
    if len > 0 {
        match rustix::fs::fallocate(plain, FallocateFlags::empty(), 0, len) {
            // Not every file system can allocate ahead; the zeros below do it too, only less tidily.
            Err(rustix::io::Errno::OPNOTSUPP) => {}
            allocated => allocated?,
        }
    }
    let mut zeros = aligned_buffer(FILL_BYTES);
    zeros.resize(FILL_BYTES, 0);
    // O_DIRECT keeps the zeros out of the page cache; without O_DSYNC, since one sync at the end does.
    let direct = open_direct(path, OFlags::empty())?;
    let mut offset = 0;
    while offset < len {
        let bytes = usize::try_from(len - offset).map_or(FILL_BYTES, |left| left.min(FILL_BYTES));
        match &direct {
            Some(direct) if bytes.is_multiple_of(BLOCK_BYTES) => write_all(direct, &zeros[..bytes], offset)?,
            _ => write_all(plain, &zeros[..bytes], offset)?,
        }
        offset += bytes as u64;
    }
    plain.set_len(len)?;
    plain.sync_all()
}

/// A descriptor with O_DIRECT and `flags`, or `None` where the file system refuses to open or to read with it.
fn open_direct(path: &Path, flags: OFlags) -> io::Result<Option<File>> {
    let flags = (OFlags::DIRECT | flags).bits().cast_signed();
    let refused = |error: &io::Error| {
        matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
            || error.raw_os_error() == Some(rustix::io::Errno::OPNOTSUPP.raw_os_error())
    };
    let file = match OpenOptions::new().read(true).write(true).custom_flags(flags).open(path) {
        Err(error) if refused(&error) => return Ok(None),
        opened => opened?,
    };
    let mut block = aligned_buffer(BLOCK_BYTES);
    block.resize(BLOCK_BYTES, 0);
    match file.read_at(&mut block, 0) {
        Err(error) if refused(&error) => Ok(None),
        read => read.map(|_| Some(file)),
    }
}

fn open_for_writes(path: &Path) -> io::Result<(File, bool)> {
    if let Some(file) = open_direct(path, OFlags::DSYNC)? {
        return Ok((file, true));
    }
    let flags = OFlags::DSYNC.bits().cast_signed();
    match OpenOptions::new().read(true).write(true).custom_flags(flags).open(path) {
        Ok(file) => Ok((file, true)),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            Ok((OpenOptions::new().read(true).write(true).open(path)?, false))
        }
        Err(error) => Err(error),
    }
}

/// Writes all of `data`. A short write goes on only where O_DIRECT can: at a multiple of a block.
fn write_all(file: &File, mut data: &[u8], mut offset: u64) -> io::Result<()> {
    while !data.is_empty() {
        let written = match file.write_at(data, offset) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            written => written?,
        };
        if written == 0 || (written < data.len() && !written.is_multiple_of(BLOCK_BYTES)) {
            return Err(io::Error::new(
                io::ErrorKind::WriteZero,
                format!("the disk took {written} of {} bytes at {offset}", data.len()),
            ));
        }
        data = &data[written..];
        offset += written as u64;
    }
    Ok(())
}

#[derive(Debug)]
struct RealFile {
    reads: File,
    writes: File,
    writes_are_durable: bool,
}

impl DiskFile for RealFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.reads.metadata()?.len())
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.reads.read_exact_at(buf, offset)
    }

    fn write_durable(&self, data: &[u8], offset: u64) -> io::Result<()> {
        assert!(
            data.len().is_multiple_of(BLOCK_BYTES) && offset.is_multiple_of(BLOCK_BYTES as u64),
            "durable writes are whole blocks"
        );
        if is_aligned(data) {
            write_all(&self.writes, data, offset)?;
        } else {
            let mut copy = aligned_buffer(data.len());
            copy.extend_from_slice(data);
            write_all(&self.writes, &copy, offset)?;
        }
        if !self.writes_are_durable {
            self.writes.sync_data()?;
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.writes.sync_all()?;
        rustix::fs::fadvise(&self.reads, 0, None, Advice::DontNeed)?;
        rustix::fs::fadvise(&self.reads, 0, None, Advice::Sequential)?;
        Ok(())
    }

    fn write_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.writes.as_fd())
    }

    fn writes_are_durable(&self) -> bool {
        self.writes_are_durable
    }
}

/// The clock of the machine.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// A clock whose monotonic time starts now.
    #[must_use]
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn unix_micros(&self) -> i64 {
        // A wall clock before 1970 or after the year 294,246 is broken; the epoch is then as good as any time.
        SystemTime::now().duration_since(UNIX_EPOCH).ok().and_then(|d| i64::try_from(d.as_micros()).ok()).unwrap_or(0)
    }

    fn monotonic_micros(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_created_file_is_all_zeros_takes_durable_writes_and_reads_them_back() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let disk = RealDisk::default();
        let folder = dir.path().join("a/b");
        disk.create_dir(&folder)?;
        disk.create_dir(&folder)?;
        let path = folder.join("one");
        let len = (3 << 20) + BLOCK_BYTES as u64;
        let file = disk.create(&path, len)?;
        assert_eq!(file.len()?, len);
        assert!(disk.create(&path, len).is_err(), "an existing file is never overwritten");
        assert_eq!(disk.list(&folder)?, [PathBuf::from("one")], "a refused create removes nothing");

        let block = vec![7; BLOCK_BYTES + 1];
        file.write_durable(&block[1..], BLOCK_BYTES as u64)?;
        disk.rename(&path, &folder.join("two"))?;
        let file = disk.open(&folder.join("two"))?;
        file.sync()?;
        let mut read = vec![1; 3 * BLOCK_BYTES];
        file.read_exact_at(&mut read, 0)?;
        assert!(read[..BLOCK_BYTES].iter().all(|&b| b == 0));
        assert!(read[BLOCK_BYTES..2 * BLOCK_BYTES].iter().all(|&b| b == 7));
        assert!(read[2 * BLOCK_BYTES..].iter().all(|&b| b == 0));
        assert!(file.read_exact_at(&mut read, len - 1).is_err(), "past the end is an error, not zeros");
        assert!(file.write_fd().is_some());

        disk.remove(&folder.join("two"))?;
        assert!(disk.list(&folder)?.is_empty());
        assert!(disk.list(&dir.path().join("none"))?.is_empty());
        Ok(())
    }

    #[test]
    fn the_monotonic_clock_never_steps_back() {
        let clock = SystemClock::new();
        let first = clock.monotonic_micros();
        assert!(clock.monotonic_micros() >= first);
        assert!(clock.unix_micros() > 1_700_000_000_000_000);
    }
}
