//! Strings: where they end, and whether they are what the schema wants.

use super::{HIGH_BITS, Run, formats, stops::plain};
use crate::schema::program::{Node, Shortcut, Text, types};

/// The longest string, in bytes, that is looked at without its escapes.
const UNESCAPED_MAX: usize = 4096;

/// A string that was gone past.
pub(super) struct Scan {
    /// Its first byte, after the quote.
    pub(super) from: usize,
    /// Its closing quote.
    pub(super) to: usize,
    pub(super) escaped: bool,
    /// Whether it has a byte beyond ASCII.
    pub(super) high: bool,
}

impl Run<'_> {
    /// A string as a value.
    #[inline]
    pub(super) fn string(&mut self, at: usize, node: &Node) -> Option<usize> {
        if node.types & types::STRING == 0 {
            return None;
        }
        let text = &node.text;
        let rest = self.text.get(at + 1..)?;
        let length = match &text.shortcut {
            Shortcut::None => return self.scanned(at, node),
            Shortcut::Words(words) => {
                let window = self.window(at);
                return match words.iter().find_map(|word| self.meets(window, at, word)) {
                    Some(after) => Some(after),
                    None => self.scanned_slowly(at, node),
                };
            }
            Shortcut::Row(row) => row.length(rest),
            Shortcut::Uuid => formats::uuid_length(rest),
            Shortcut::DateTime => formats::date_time_length(rest),
        };
        match length {
            // These are ASCII: a byte is a code point.
            Some(length)
                if rest.get(length) == Some(&b'"') && (text.length_min..=text.length_max).contains(&length) =>
            {
                Some(at + length + 2)
            }
            _ => self.scanned_slowly(at, node),
        }
    }

    /// A string that a shortcut did not take.
    #[cold]
    fn scanned_slowly(&mut self, at: usize, node: &Node) -> Option<usize> {
        self.scanned(at, node)
    }

    /// A string, by its end first.
    #[inline]
    fn scanned(&mut self, at: usize, node: &Node) -> Option<usize> {
        let scan = self.scan(at)?;
        let body = self.text.get(scan.from..scan.to)?;
        let fits = if scan.escaped {
            fits_without_escapes(body, node, self.unescaped)
        } else {
            is_exactly(body, node) && has_length(body, &node.text, scan.high)
        };
        fits.then_some(scan.to + 1)
    }

    /// The string whose opening quote is at `at`.
    #[inline]
    pub(super) fn scan(&mut self, at: usize) -> Option<Scan> {
        let from = at + 1;
        let rest = self.text.get(from..)?;
        let (mut length, mut high, mut escaped) = (0, 0, false);
        loop {
            let (plain, bits) = plain(rest.get(length..)?);
            length += plain;
            high |= bits;
            match rest.get(length)? {
                b'"' => break,
                b'\\' => {
                    escaped = true;
                    length += escape(rest.get(length..)?)?;
                }
                _ => return None,
            }
        }
        self.high |= high;
        Some(Scan { from, to: from + length, escaped, high: high & HIGH_BITS != 0 })
    }
}

/// Whether `body`, a string without escapes, is one of the values, matches the pattern and has the format.
#[inline]
fn is_exactly(body: &[u8], node: &Node) -> bool {
    let text = &node.text;
    node.values.as_ref().is_none_or(|values| values.strings.iter().any(|allowed| allowed.as_bytes() == body))
        && text.pattern.as_ref().is_none_or(|pattern| pattern.matches(body))
        && text.format.is_none_or(|format| formats::matches(format, body))
}

/// Whether `body`, a string without escapes, has a good length; `high`: not all of it is ASCII.
#[inline]
fn has_length(body: &[u8], text: &Text, high: bool) -> bool {
    let points = if high { body.iter().filter(|&&byte| byte & 0xc0 != 0x80).count() } else { body.len() };
    (text.length_min..=text.length_max).contains(&points)
}

/// Whether `body`, a string with good escapes, is what `node` wants. `scratch` is memory for it.
#[cold]
fn fits_without_escapes(body: &[u8], node: &Node, scratch: &mut Vec<u8>) -> bool {
    let text = &node.text;
    let is_exact = node.values.is_some() || text.pattern.is_some() || text.format.is_some();
    // A code point takes 1 to 12 bytes, as itself or escaped.
    if !is_exact && body.len().div_ceil(12) >= text.length_min && body.len() <= text.length_max {
        return true;
    }
    body.len() <= UNESCAPED_MAX
        && unescape(body, scratch).is_some()
        && is_exactly(scratch, node)
        && has_length(scratch, text, true)
}

/// Writes what `body` stands for to `plain`.
fn unescape(body: &[u8], plain: &mut Vec<u8>) -> Option<()> {
    plain.clear();
    let mut rest = body;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        let (before, escaped) = rest.split_at(at);
        plain.extend_from_slice(before);
        let length = escape(escaped)?;
        match escaped.get(1)? {
            b'b' => plain.push(0x08),
            b'f' => plain.push(0x0c),
            b'n' => plain.push(b'\n'),
            b'r' => plain.push(b'\r'),
            b't' => plain.push(b'\t'),
            b'u' => {
                let first = unit(escaped)?;
                let point = match length {
                    6 => first,
                    _ => 0x10000 + ((first - 0xd800) << 10) + (unit(escaped.get(6..)?)? - 0xdc00),
                };
                plain.extend_from_slice(char::from_u32(point)?.encode_utf8(&mut [0; 4]).as_bytes());
            }
            byte => plain.push(*byte),
        }
        rest = escaped.get(length..)?;
    }
    plain.extend_from_slice(rest);
    Some(())
}

/// The length of the escape that opens `rest`: of both, if it is a pair of surrogates.
fn escape(rest: &[u8]) -> Option<usize> {
    match rest.get(1)? {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(2),
        b'u' => match unit(rest)? {
            0xd800..=0xdbff => matches!(unit(rest.get(6..)?)?, 0xdc00..=0xdfff).then_some(12),
            0xdc00..=0xdfff => None,
            _ => Some(6),
        },
        _ => None,
    }
}

/// The code unit that `\uXXXX` at the start of `rest` stands for.
fn unit(rest: &[u8]) -> Option<u32> {
    let digits = rest.strip_prefix(b"\\u")?.get(..4)?;
    digits.iter().try_fold(0, |unit, &digit| Some(unit << 4 | char::from(digit).to_digit(16)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_whole() {
        for (text, length) in [
            (r"\n", Some(2)),
            (r"\/x", Some(2)),
            (r"\u0000", Some(6)),
            (r"\uD83D\uDE00", Some(12)),
            (r"\ud800", None),
            (r"\ud800\u0041", None),
            (r"\udc00\ud800", None),
            (r"\u12g4", None),
            (r"\u+123", None),
            (r"\u12", None),
            (r"\x", None),
            ("\\", None),
        ] {
            assert_eq!(escape(text.as_bytes()), length, "{text}");
        }
    }

    #[test]
    fn what_escapes_stand_for_is_what_serde_json_says() {
        let mut scratch = Vec::new();
        for text in [
            "",
            "plain é",
            r#"\"\\\/\b\f\n\r\t"#,
            r"a\u0000b\u001fc\u00e9",
            r"\uD83D\uDE00\ud800\udc00\uDBFF\uDFFF",
            r"http:\/\/a.example\/\u4e2d",
            r"\ud7ff\ue000\uffff",
        ] {
            let expected: String = serde_json::from_str(&format!("\"{text}\"")).expect("a JSON string");
            assert_eq!(unescape(text.as_bytes(), &mut scratch), Some(()), "{text}");
            assert_eq!(scratch, expected.as_bytes(), "{text}");
        }
        for text in [r"\ud800", r"a\x", "\\"] {
            assert_eq!(unescape(text.as_bytes(), &mut scratch), None, "{text}");
        }
    }
}
