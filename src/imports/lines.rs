//! JSON Lines: a record a line, handed on as it stands.

use bytes::Bytes;

use super::{
    Row, Rows,
    input::{Broken, Input},
};

/// What is cut at a time, about.
const CHUNK_BYTES: usize = 512 << 10;

/// Reads lines.
#[derive(Debug)]
pub(super) struct Lines {
    input: Input,
    /// What was read and is no whole line yet.
    rest: Vec<u8>,
    ended: bool,
    /// Lines before `rest`.
    line: u64,
    record_bytes: usize,
    /// What ends the reading, once the lines before it are handed on.
    broken: Option<Broken>,
}

impl Lines {
    /// The lines of `input`; one of more than `record_bytes` is no record.
    pub(super) fn new(input: Input, record_bytes: usize) -> Self {
        Self { input, rest: Vec::new(), ended: false, line: 0, record_bytes, broken: None }
    }

    /// Whole lines, as they were read, or the last one without its end; empty: there are no more.
    fn fill(&mut self, rows: &mut Vec<Row>) -> Result<Bytes, Broken> {
        if let Some(broken) = self.broken.take() {
            return Err(broken);
        }
        loop {
            let whole = memchr::memrchr(b'\n', &self.rest).map_or(0, |at| at + 1);
            if self.ended || (whole > 0 && self.rest.len() >= CHUNK_BYTES) {
                let end = if self.ended { self.rest.len() } else { whole };
                let mut data = std::mem::replace(&mut self.rest, Vec::with_capacity(2 * CHUNK_BYTES));
                self.rest.extend_from_slice(&data[end..]);
                data.truncate(end);
                return Ok(data.into());
            }
            if whole == 0 && self.rest.len() > self.record_bytes.max(CHUNK_BYTES) {
                self.skip_line(rows)?;
                continue;
            }
            let most = CHUNK_BYTES.saturating_sub(self.rest.len()).max(CHUNK_BYTES / 8);
            match self.input.read_more(&mut self.rest, most) {
                Ok(read) => self.ended = read == 0,
                Err(broken) if whole == 0 => return Err(broken),
                Err(broken) => {
                    self.broken = Some(broken);
                    self.rest.truncate(whole);
                    return Ok(std::mem::take(&mut self.rest).into());
                }
            }
        }
    }

    /// Passes over a line that is longer than any record, without holding it.
    fn skip_line(&mut self, rows: &mut Vec<Row>) -> Result<(), Broken> {
        self.line += 1;
        let message = format!("the line has more than {} bytes (limits.record_bytes)", self.record_bytes);
        rows.push(Row::bad(self.line, message, ""));
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.rest) {
                self.rest.drain(..=end);
                return Ok(());
            }
            self.rest.clear();
            if self.input.read_more(&mut self.rest, CHUNK_BYTES)? == 0 {
                self.ended = true;
                return Ok(());
            }
        }
    }
}

impl Rows for Lines {
    fn next(&mut self) -> Result<Vec<Row>, Broken> {
        let mut rows = Vec::new();
        while rows.is_empty() {
            let data = self.fill(&mut rows)?;
            if data.is_empty() {
                break;
            }
            let mut start = 0;
            for end in memchr::memchr_iter(b'\n', &data).chain([data.len()]) {
                if start == data.len() {
                    break;
                }
                self.line += 1;
                let mut line = data.slice(start..end);
                start = (end + 1).min(data.len());
                if self.line == 1 && line.starts_with(b"\xef\xbb\xbf") {
                    line = line.slice(3..);
                }
                let blank = line.iter().all(u8::is_ascii_whitespace);
                if !blank {
                    rows.push(Row { line: self.line, payload: Ok(line) });
                }
            }
        }
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use ttdust_shards::parquet::source::FileSource;

    use super::{super::spec::Compression, *};

    fn rows(text: &[u8], record_bytes: usize) -> Vec<(u64, Option<Bytes>)> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("object");
        std::fs::write(&path, text).expect("a file");
        let input = Input::open(FileSource::from(path).open().expect("open"), Compression::None).expect("plain");
        let mut lines = Lines::new(input, record_bytes);
        let mut all = Vec::new();
        loop {
            let rows = lines.next().expect("lines");
            if rows.is_empty() {
                return all;
            }
            all.extend(rows.into_iter().map(|row| (row.line, row.payload.ok())));
        }
    }

    #[test]
    fn lines_keep_their_numbers_and_blank_ones_are_none() {
        let found = rows(b"\xef\xbb\xbf{\"a\":1}\n\n  \r\n{\"a\":2}\r\n3", 100);
        let texts: Vec<_> = found.iter().map(|(line, text)| (*line, text.as_ref().expect("good").as_ref())).collect();
        assert_eq!(texts, [(1, &b"{\"a\":1}"[..]), (4, b"{\"a\":2}\r"), (5, b"3")]);
        assert!(rows(b"", 100).is_empty() && rows(b"\n\n", 100).is_empty());
    }

    #[test]
    fn no_line_is_lost_or_split_where_the_reading_is() {
        let lines: Vec<String> =
            (0..50_000).map(|n| format!("{{\"n\":{n},\"x\":\"{}\"}}", "y".repeat(n % 97))).collect();
        let found = rows(lines.join("\n").as_bytes(), 1000);
        assert_eq!(found.len(), lines.len());
        for (at, (line, text)) in found.iter().enumerate() {
            assert_eq!((*line, text.as_deref()), (at as u64 + 1, Some(lines[at].as_bytes())));
        }
    }

    #[test]
    fn a_line_longer_than_any_record_is_passed_over_and_told() {
        let long = vec![b'x'; 5 << 20];
        let text = [b"1\n".as_slice(), &long, b"\n2\n", &long].concat();
        let found = rows(&text, 1 << 20);
        let seen: Vec<_> = found.iter().map(|(line, text)| (*line, text.is_some())).collect();
        assert_eq!(seen, [(1, true), (2, false), (3, true), (4, false)]);
    }
}
