//! Writes files into a tar archive, in the form that POSIX calls ustar.

use std::io::{self, Write};

/// Headers and contents fill blocks of so many bytes.
const BLOCK: usize = 512;
const NAME_MAX: usize = 100;
/// Where the checksum stands in a header; while it is summed up, these are spaces.
const CHECKSUM: std::ops::Range<usize> = 148..156;

/// An archive that is being written.
pub(super) struct Ustar<W: Write> {
    out: W,
    unix_seconds: u64,
}

impl<W: Write> Ustar<W> {
    /// An archive whose files are all of this time, in Unix seconds.
    pub(super) fn new(out: W, unix_seconds: u64) -> Self {
        Self { out, unix_seconds }
    }

    /// Adds a file that its owner alone may read.
    pub(super) fn file(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        self.out.write_all(&header(name, content.len() as u64, self.unix_seconds)?)?;
        self.out.write_all(content)?;
        let padding = content.len().next_multiple_of(BLOCK) - content.len();
        self.out.write_all(&[0; BLOCK][..padding])
    }

    /// Ends the archive.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        Ok(self.out)
    }
}

fn header(name: &str, bytes: u64, unix_seconds: u64) -> io::Result<[u8; BLOCK]> {
    let too_much = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("{name}: {what} for an archive"));
    // Eleven octal digits.
    if bytes >> 33 != 0 || unix_seconds >> 33 != 0 {
        return Err(too_much("too large or too late"));
    }
    if name.len() >= NAME_MAX {
        return Err(too_much("too long a name"));
    }
    let mut header = [0; BLOCK];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000600");
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{bytes:011o}"));
    put(136, &format!("{unix_seconds:011o}"));
    put(CHECKSUM.start, "        ");
    put(156, "0");
    put(257, "ustar\u{0}00");
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[CHECKSUM].copy_from_slice(format!("{sum:06o}\u{0} ").as_bytes());
    Ok(header)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_system_s_tar_reads_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let files = [("a/empty", vec![]), ("a/one", vec![1; BLOCK]), ("b", b"text\n".to_vec()), ("c", vec![7; 1300])];
        let mut archive = Ustar::new(Vec::new(), 1_700_000_000);
        for (name, content) in &files {
            archive.file(name, content).expect("added");
        }
        let path = dir.path().join("it.tar");
        std::fs::write(&path, archive.finish().expect("ended")).expect("written");
        let tar = Command::new("tar").arg("-xvf").arg(&path).arg("-C").arg(dir.path()).output().expect("tar starts");
        assert!(tar.status.success() && tar.stderr.is_empty(), "{tar:?}");
        assert_eq!(String::from_utf8_lossy(&tar.stdout), "a/empty\na/one\nb\nc\n");
        for (name, content) in files {
            assert_eq!(std::fs::read(dir.path().join(name)).expect("extracted"), content, "{name}");
        }
    }

    #[test]
    fn what_no_header_holds_is_refused() {
        assert!(header(&"n".repeat(100), 1, 1).is_err());
        assert!(header("n", 8 << 30, 1).is_err());
        assert!(header("n", (8 << 30) - 1, 1).is_ok());
    }
}
