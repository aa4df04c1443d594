//! Lines become batches: what one request holds.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::input::Piece;

/// The records of a request.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    /// Which of all, from 0.
    pub(super) number: u64,
    /// The file that they are from.
    pub(super) file: usize,
    /// One a line, no line without one.
    pub(super) body: Bytes,
    /// The number of each one's line.
    pub(super) lines: Vec<u64>,
}

impl Batch {
    /// How many records it has.
    pub(super) fn len(&self) -> u64 {
        self.lines.len() as u64
    }

    /// The text of the record at `index`.
    pub(super) fn record(&self, index: usize) -> &[u8] {
        self.body.split(|&byte| byte == b'\n').nth(index).unwrap_or_default()
    }

    /// The records from `index` on.
    pub(super) fn after(&self, index: usize) -> &[u8] {
        let skipped: usize = self.body.split(|&byte| byte == b'\n').take(index).map(|line| line.len() + 1).sum();
        &self.body[skipped.min(self.body.len())..]
    }
}

/// Makes batches. The same lines make the same batches, however they come in.
#[derive(Debug)]
pub(super) struct Batcher {
    records_max: usize,
    bytes_max: usize,
    number: u64,
    file: usize,
    body: BytesMut,
    lines: Vec<u64>,
    ready: VecDeque<Batch>,
}

impl Batcher {
    pub(super) fn new(records_max: usize, bytes_max: usize) -> Self {
        let (body, lines) = (BytesMut::new(), Vec::new());
        Self { records_max, bytes_max, number: 0, file: 0, body, lines, ready: VecDeque::new() }
    }

    /// Adds lines. Those with nothing on them are no records.
    pub(super) fn push(&mut self, piece: &Piece) {
        if piece.file != self.file {
            self.cut();
            self.file = piece.file;
        }
        for (line, number) in piece.lines.split_inclusive(|&byte| byte == b'\n').zip(piece.first_line..) {
            if line.trim_ascii().is_empty() {
                continue;
            }
            if self.body.len() + line.len() > self.bytes_max {
                self.cut();
            }
            self.body.extend_from_slice(line);
            self.lines.push(number);
            if self.lines.len() == self.records_max {
                self.cut();
            }
        }
    }

    /// Ends the batch that is being filled.
    pub(super) fn cut(&mut self) {
        if self.lines.is_empty() {
            return;
        }
        let (body, lines) = (self.body.split().freeze(), std::mem::take(&mut self.lines));
        self.ready.push_back(Batch { number: self.number, file: self.file, body, lines });
        self.number += 1;
    }

    /// Whether a batch is being filled.
    pub(super) fn is_filling(&self) -> bool {
        !self.lines.is_empty()
    }

    /// The next batch that is whole.
    pub(super) fn take(&mut self) -> Option<Batch> {
        self.ready.pop_front()
    }

    /// Whether there is one.
    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batches(pieces: &[(usize, u64, &str)]) -> Vec<(u64, usize, String, Vec<u64>)> {
        let mut batcher = Batcher::new(3, 20);
        for &(file, first_line, lines) in pieces {
            batcher.push(&Piece { file, first_line, lines: Bytes::copy_from_slice(lines.as_bytes()) });
        }
        batcher.cut();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        std::iter::from_fn(|| batcher.take()).map(|b| (b.number, b.file, text(&b.body), b.lines)).collect()
    }

    #[test]
    fn batches_are_cut_by_count_by_bytes_and_by_file() {
        let found = batches(&[(0, 1, "1\n\n2\n \r\n3\n4\n"), (0, 7, "\"0123456789abcdef\"\n5\n"), (1, 1, "6\n")]);
        let wanted = [
            (0, 0, "1\n2\n3\n", vec![1, 3, 5]),
            (1, 0, "4\n", vec![6]),
            (2, 0, "\"0123456789abcdef\"\n", vec![7]),
            (3, 0, "5\n", vec![8]),
            (4, 1, "6\n", vec![1]),
        ];
        assert_eq!(found, wanted.map(|(number, file, body, lines)| (number, file, body.to_owned(), lines)));
    }

    #[test]
    fn a_line_that_is_longer_than_a_batch_goes_alone() {
        let long = format!("\"{}\"\n", "x".repeat(100));
        let found = batches(&[(0, 1, &format!("1\n{long}2\n"))]);
        assert_eq!(found.iter().map(|(_, _, body, _)| body.as_str()).collect::<Vec<_>>(), ["1\n", &long, "2\n"]);
    }

    #[test]
    fn how_lines_come_in_changes_nothing() {
        let text = "1\n2\n\n3\n4\n\"abcdefgh\"\n\"ijklmnop\"\n5\n6\n7\n";
        let whole = batches(&[(0, 1, text)]);
        let pieces: Vec<_> = (1..).zip(text.split_inclusive('\n')).map(|(line, part)| (0, line, part)).collect();
        assert_eq!(batches(&pieces), whole);
    }

    #[test]
    fn records_are_found_by_their_index() {
        let body = Bytes::from_static(b"1\n22\n333\n");
        let batch = Batch { number: 0, file: 0, body, lines: vec![1, 2, 3] };
        assert_eq!((batch.record(1), batch.after(2), batch.after(3)), (&b"22"[..], &b"333\n"[..], &b""[..]));
    }
}
