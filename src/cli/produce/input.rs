//! The records to send: lines of files or of standard input, plain or compressed, read on a thread of their own.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;

use crate::cli::failure::Failure;

/// What is read at a time.
const READ_BYTES: usize = 256 << 10;
/// Pieces that wait to be sent.
const PIECES_MAX: usize = 8;
/// The longest line: no server takes a record as long.
const LINE_BYTES_MAX: usize = 64 << 20;
const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Whole lines of a file.
#[derive(Debug)]
pub(super) struct Piece {
    /// Which of the files, from 0.
    pub(super) file: usize,
    /// The number of its first line, from 1.
    pub(super) first_line: u64,
    /// Each ends with a line break.
    pub(super) lines: Bytes,
}

/// What is being read.
pub(super) struct Input {
    /// Their names, for people.
    pub(super) names: Vec<String>,
    /// What has been read; the channel ends with the input.
    pub(super) pieces: mpsc::Receiver<Result<Piece, Failure>>,
    /// Bytes that were read, as they lie in the files.
    pub(super) read: Arc<AtomicU64>,
    /// Bytes of all files; none: there is no telling.
    pub(super) total: Option<u64>,
    /// Whether it comes as it is made, and should not wait for more.
    pub(super) is_live: bool,
}

/// Starts to read these files; none, or `-`: standard input.
pub(super) fn start(mut paths: Vec<PathBuf>) -> Result<Input, Failure> {
    if paths.is_empty() {
        paths.push("-".into());
    }
    let is_stdin = |path: &PathBuf| path == Path::new("-");
    let read = Arc::new(AtomicU64::new(0));
    let mut total = Some(0);
    let mut sources: Vec<Box<dyn Read + Send>> = Vec::new();
    for path in &paths {
        if is_stdin(path) {
            total = None;
            sources.push(Box::new(io::stdin()));
            continue;
        }
        // Before anything is sent: a name that is wrong is found at once.
        let file = File::open(path).map_err(|error| Failure::file(path, &error))?;
        let metadata = file.metadata().map_err(|error| Failure::file(path, &error))?;
        if metadata.is_dir() {
            return Err(Failure::usage(format!("{} is a folder: name the files in it", path.display())));
        }
        total = total.filter(|_| metadata.is_file()).map(|total| total + metadata.len());
        sources.push(Box::new(file));
    }
    let name = |path: &PathBuf| if is_stdin(path) { "standard input".to_owned() } else { path.display().to_string() };
    let names: Vec<_> = paths.iter().map(name).collect();
    let is_live = paths.iter().any(is_stdin);
    let (sender, pieces) = mpsc::channel(PIECES_MAX);
    let (counter, whose) = (Arc::clone(&read), names.clone());
    let thread = std::thread::Builder::new().name("ttdust-input".into());
    let started = thread.spawn(move || {
        for (file, source) in sources.into_iter().enumerate() {
            let counted = Counted { inner: source, read: Arc::clone(&counter) };
            let outcome = decoded(counted).and_then(|source| Lines::new(file).send_all(source, &sender));
            if let Err(error) = outcome {
                // A receiver that is gone wants no more.
                let _ = sender.blocking_send(Err(Failure::usage(format!("{}: {error}", whose[file]))));
                return;
            }
        }
    });
    started.map_err(|error| Failure::usage(format!("cannot start to read: {error}")))?;
    Ok(Input { names, pieces, read, total, is_live })
}

/// Counts what is read.
struct Counted {
    inner: Box<dyn Read + Send>,
    read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.read.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

/// The text of a source, which its first bytes tell to be plain, gzip or zstd.
fn decoded(mut source: Counted) -> io::Result<Box<dyn Read>> {
    let mut head = Vec::new();
    let may_be = |head: &[u8]| [GZIP, ZSTD].iter().any(|magic| magic.starts_with(head) || head.starts_with(magic));
    // Not a byte further than needed: whoever types records sees each sent.
    while head.len() < ZSTD.len() && may_be(&head) {
        let mut byte = [0];
        if source.read(&mut byte)? == 0 {
            break;
        }
        head.push(byte[0]);
    }
    let (is_gzip, is_zstd) = (head.starts_with(GZIP), head.starts_with(ZSTD));
    let whole = io::Cursor::new(head).chain(source);
    if is_gzip {
        return Ok(Box::new(flate2::read::MultiGzDecoder::new(io::BufReader::new(whole))));
    }
    if is_zstd {
        return Ok(Box::new(zstd::stream::read::Decoder::new(whole)?));
    }
    Ok(Box::new(whole))
}

/// Cuts a text into pieces of whole lines.
struct Lines {
    file: usize,
    /// The number of the first line that waits.
    line: u64,
    waiting: BytesMut,
}

impl Lines {
    fn new(file: usize) -> Self {
        Self { file, line: 1, waiting: BytesMut::new() }
    }

    fn send_all(mut self, mut source: Box<dyn Read>, sender: &mpsc::Sender<Result<Piece, Failure>>) -> io::Result<()> {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let n = match source.read(&mut buffer) {
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(io::Error::new(error.kind(), format!("line {}: {error}", self.line))),
            };
            let piece = if n == 0 { self.rest() } else { self.take(&buffer[..n])? };
            // A receiver that is gone wants no more.
            if piece.is_some_and(|piece| sender.blocking_send(Ok(piece)).is_err()) || n == 0 {
                return Ok(());
            }
        }
    }

    /// Adds text, and returns the lines that are whole by it.
    fn take(&mut self, text: &[u8]) -> io::Result<Option<Piece>> {
        let Some(last) = text.iter().rposition(|&byte| byte == b'\n') else {
            self.waiting.extend_from_slice(text);
            if self.waiting.len() > LINE_BYTES_MAX {
                let what =
                    format!("line {} is longer than {LINE_BYTES_MAX} bytes: a record goes on one line", self.line);
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
            return Ok(None);
        };
        self.waiting.extend_from_slice(&text[..=last]);
        let piece = self.piece();
        self.waiting.extend_from_slice(&text[last + 1..]);
        Ok(Some(piece))
    }

    /// The last line, where no line break follows it.
    fn rest(&mut self) -> Option<Piece> {
        if self.waiting.is_empty() {
            return None;
        }
        self.waiting.extend_from_slice(b"\n");
        Some(self.piece())
    }

    fn piece(&mut self) -> Piece {
        let mut lines = self.waiting.split().freeze();
        // It may have come in parts, so it is looked for in the first piece.
        if self.line == 1 && lines.starts_with(BYTE_ORDER_MARK) {
            lines = lines.slice(BYTE_ORDER_MARK.len()..);
        }
        let first_line = self.line;
        self.line += lines.iter().filter(|&&byte| byte == b'\n').count() as u64;
        Piece { file: self.file, first_line, lines }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// All lines of the files, with their numbers.
    fn read_all(paths: Vec<PathBuf>) -> Result<Vec<(usize, u64, Vec<u8>)>, Failure> {
        let mut input = start(paths)?;
        let mut found = Vec::new();
        while let Some(piece) = input.pieces.blocking_recv() {
            let piece = piece?;
            assert_eq!(piece.lines.last(), Some(&b'\n'));
            found.push((piece.file, piece.first_line, piece.lines.to_vec()));
        }
        Ok(found)
    }

    #[test]
    fn plain_and_compressed_files_are_told_apart_by_their_bytes() {
        let dir = tempfile::tempdir().expect("a directory");
        let text = b"\xef\xbb\xbf{\"n\":1}\n\n{\"n\":2}";
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(text).expect("in memory");
        let gzip = gzip.finish().expect("in memory");
        for (name, bytes) in [
            ("a", text.to_vec()),
            ("b", gzip),
            ("c", zstd::encode_all(&text[..], 1).expect("in memory")),
            ("d", vec![]),
        ] {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).expect("written");
            let found = read_all(vec![path]).expect("read");
            let all: Vec<u8> = found.iter().flat_map(|(_, _, lines)| lines.clone()).collect();
            let wanted: &[u8] = if name == "d" { b"" } else { b"{\"n\":1}\n\n{\"n\":2}\n" };
            assert_eq!(all, wanted, "{name}");
        }
    }

    #[test]
    fn lines_keep_their_numbers_over_pieces_and_files() {
        let dir = tempfile::tempdir().expect("a directory");
        let paths = ["a", "b"].map(|name| dir.path().join(name));
        let line = format!("{{\"text\":\"{}\"}}\n", "x".repeat(1000));
        for path in &paths {
            std::fs::write(path, line.repeat(1000)).expect("written");
        }
        let found = read_all(paths.to_vec()).expect("read");
        assert!(found.len() > 4, "several pieces a file");
        for file in [0, 1] {
            let mut next = 1;
            for (_, first, lines) in found.iter().filter(|(of, ..)| *of == file) {
                assert_eq!(*first, next);
                next += (lines.len() / line.len()) as u64;
            }
            assert_eq!(next, 1001);
        }
    }

    #[test]
    fn what_cannot_be_read_is_told_with_its_name() {
        let dir = tempfile::tempdir().expect("a directory");
        let none = dir.path().join("none");
        assert!(start(vec![none]).err().is_some_and(|failure| failure.told().contains("none")));
        assert!(start(vec![dir.path().to_owned()]).err().is_some_and(|failure| failure.told().contains("a folder")));
        let torn = dir.path().join("torn.gz");
        std::fs::write(&torn, [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 1, 2, 3]).expect("written");
        assert!(read_all(vec![torn]).is_err_and(|failure| failure.told().contains("torn.gz: line 1")));
    }
}
