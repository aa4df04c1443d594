//! Strings: where they end, and whether they are what the schema wants.

use super::{HIGH_BITS, Run, formats};
use crate::schema::program::{Node, types};

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

/// A byte in each byte of a word.
const fn each(byte: u8) -> u64 {
    u64::from_le_bytes([byte; 8])
}

/// The top bit of the first byte that ends a plain run of a string (a quote, a backslash, a control character) is the lowest
/// bit that is set here; bits above it mean nothing.
#[inline]
fn stops(word: u64) -> u64 {
    let quote = word ^ each(b'"');
    let backslash = word ^ each(b'\\');
    let found = (quote.wrapping_sub(each(1)) & !quote)
        | (backslash.wrapping_sub(each(1)) & !backslash)
        | (word.wrapping_sub(each(0x20)) & !word);
    found & HIGH_BITS
}

impl Run<'_> {
    /// A string as a value.
    #[inline]
    pub(super) fn string(&mut self, at: usize, node: &Node) -> Option<usize> {
        if node.types & types::STRING == 0 {
            return None;
        }
        let scan = self.scan(at)?;
        let body = self.text.get(scan.from..scan.to)?;
        let text = &node.text;
        let exact = node.values.is_some() || text.pattern.is_some() || text.format.is_some();
        if exact {
            if scan.escaped {
                return None;
            }
            if let Some(values) = &node.values
                && !values.strings.iter().any(|allowed| **allowed == *body)
            {
                return None;
            }
            if text.pattern.as_ref().is_some_and(|pattern| !pattern.matches(body))
                || text.format.is_some_and(|format| !formats::matches(format, body))
            {
                return None;
            }
        }
        let (fewest, most) = if scan.escaped {
            // A code point takes 1 to 12 bytes, as itself or escaped.
            (body.len().div_ceil(12), body.len())
        } else if scan.high {
            let points = body.iter().filter(|&&byte| byte & 0xc0 != 0x80).count();
            (points, points)
        } else {
            (body.len(), body.len())
        };
        (fewest >= text.length_min && most <= text.length_max).then_some(scan.to + 1)
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

/// How many bytes of `rest` are plain, and all of them or-ed.
#[inline]
fn plain(rest: &[u8]) -> (usize, u64) {
    let (mut length, mut high) = (0, 0);
    let mut left = rest;
    while let Some((chunk, after)) = left.split_first_chunk() {
        let word = u64::from_le_bytes(*chunk);
        let stops = stops(word);
        if stops != 0 {
            let more = stops.trailing_zeros() / 8;
            return (length + more as usize, high | (word & ((1u64 << (more * 8)) - 1)));
        }
        high |= word;
        length += 8;
        left = after;
    }
    for &byte in left {
        if byte < 0x20 || byte == b'"' || byte == b'\\' {
            break;
        }
        high |= u64::from(byte);
        length += 1;
    }
    (length, high)
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
    fn every_byte_stops_or_not_at_every_place() {
        for byte in 0..=u8::MAX {
            for at in 0..20 {
                for filler in [b'a', 0x21, 0x23, 0x5d, 0x7f, 0x80, 0xff] {
                    let mut text = [filler; 20];
                    text[at] = byte;
                    let wanted = if byte < 0x20 || byte == b'"' || byte == b'\\' { at } else { 20 };
                    let (length, high) = plain(&text);
                    assert_eq!(length, wanted, "{byte} {at} {filler}");
                    let beyond = text[..wanted].iter().any(|byte| *byte >= 0x80);
                    assert_eq!(high & HIGH_BITS != 0, beyond, "{byte} {at} {filler}");
                }
            }
        }
    }

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
}
