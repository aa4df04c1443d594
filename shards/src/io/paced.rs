//! Writing a long file beside a log that others wait for.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsRawFd as _,
};

/// So many bytes go to the device at a time: what a durable write of the log may find before it in the device's queue.
const PIECE_BYTES: u64 = 256 << 10;

/// A file whose bytes go to the device as they are written, a piece at a time. Left to [`File::sync_all`] they would go all at
/// once, tens of megabytes of them, and each durable write to the same disk would wait behind them.
///
/// Written in order, from its start. Nothing is durable before [`Paced::sync`].
#[derive(Debug)]
pub struct Paced {
    file: File,
    written: u64,
    /// Up to where the device has it.
    sent: u64,
    /// Whether the file system can be told to begin.
    can_send: bool,
}

impl Paced {
    /// A file that is empty.
    #[must_use]
    pub fn new(file: File) -> Self {
        Self { file, written: 0, sent: 0, can_send: true }
    }

    /// Makes all that was written durable.
    ///
    /// # Errors
    /// What the file system answers. A write that failed earlier was told of then.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// Sends what was written and is not with the device yet, and waits until it is.
    fn send(&mut self) -> io::Result<()> {
        const ALL: u32 =
            libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
        let range = |at: u64| i64::try_from(at).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge));
        let (from, bytes) = (range(self.sent)?, range(self.written - self.sent)?);
        // SAFETY: the call takes numbers alone, and the descriptor is open as long as `self.file` is there.
        #[allow(unsafe_code, reason = "no safe crate has this call")]
        let failed = unsafe { libc::sync_file_range(self.file.as_raw_fd(), from, bytes, ALL) } != 0;
        self.sent = self.written;
        if !failed {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            // It is a kindness to others: without it all goes with the sync.
            Some(libc::ENOSYS | libc::EINVAL | libc::ESPIPE | libc::EPERM) => {
                self.can_send = false;
                Ok(())
            }
            // A failed write is told of once: the sync would say that all is well.
            _ => Err(error),
        }
    }
}

impl Write for Paced {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let room = usize::try_from(PIECE_BYTES - (self.written - self.sent).min(PIECE_BYTES - 1)).unwrap_or(usize::MAX);
        let written = self.file.write(&buf[..buf.len().min(room)])?;
        self.written += written as u64;
        if !self.can_send {
            self.sent = self.written;
        } else if self.written - self.sent >= PIECE_BYTES {
            self.send()?;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_in_pieces_of_any_length_is_what_is_there() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        let content: Vec<u8> = (0..3 * PIECE_BYTES + 77).map(|at| (at % 251) as u8).collect();
        let mut paced = Paced::new(File::create(&path).expect("made"));
        let (first, rest) = content.split_at(1000);
        paced.write_all(first).expect("written");
        // Longer than a piece, in one call.
        paced.write_all(rest).expect("written");
        assert!(!paced.can_send || paced.sent == 3 * PIECE_BYTES, "{paced:?}");
        paced.sync().expect("synced");
        assert_eq!(std::fs::read(&path).expect("read"), content);
    }

    #[test]
    fn where_there_is_no_device_all_goes_as_it_is() {
        let (reader, writer) = io::pipe().expect("a pipe");
        let drain = std::thread::spawn(move || io::copy(&mut { reader }, &mut io::sink()).expect("read"));
        let mut paced = Paced::new(File::from(std::os::fd::OwnedFd::from(writer)));
        paced.write_all(&vec![7; 2 * PIECE_BYTES as usize]).expect("written");
        assert!(!paced.can_send);
        drop(paced);
        assert_eq!(drain.join().expect("joined"), 2 * PIECE_BYTES);
    }
}
