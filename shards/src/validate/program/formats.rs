//! The usual forms of the formats. A form left out here (a leap second, a lower-case `z`, a quoted mailbox) is for the
//! reference to judge.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::uris;
use crate::schema::program::Format;

/// Whether `text` is surely of this format. It need not be UTF-8.
#[inline]
pub(super) fn matches(format: Format, text: &[u8]) -> bool {
    let is_whole = |length: Option<usize>| length == Some(text.len());
    match format {
        Format::Base64 => is_base64(text),
        Format::Date => text.try_into().is_ok_and(is_date),
        Format::DateTime => is_whole(date_time_length(text)),
        Format::Email => is_email(text),
        Format::Hostname => is_hostname(text),
        Format::Ipv4 => std::str::from_utf8(text).is_ok_and(|text| text.parse::<Ipv4Addr>().is_ok()),
        Format::Ipv6 => std::str::from_utf8(text).is_ok_and(|text| text.parse::<Ipv6Addr>().is_ok()),
        Format::JsonPointer => is_json_pointer(text),
        Format::Time => is_whole(time_length(text)),
        Format::Uri => uris::is_uri(text),
        Format::UriReference => uris::is_reference(text),
        Format::Uuid => is_whole(uuid_length(text)),
    }
}

/// All ones, or all zeros.
#[inline]
const fn mask(yes: bool) -> u8 {
    if yes { 0xff } else { 0 }
}

/// Whether `text` has digits where `form` has a 0, and the byte of `form` elsewhere. Without branches: it becomes a few
/// wide instructions.
#[inline]
fn has_form<const N: usize>(text: &[u8; N], form: &[u8; N]) -> bool {
    text.iter().zip(form).fold(0xff, |good, (&byte, &wanted)| {
        let is_digit = mask(byte.wrapping_sub(b'0') < 10);
        let is_same = mask(byte == wanted);
        let free = mask(wanted == b'0');
        good & ((free & is_digit) | (!free & is_same))
    }) == 0xff
}

/// The number that two digits are.
#[inline]
fn two(high: u8, low: u8) -> u8 {
    high.wrapping_sub(b'0').wrapping_mul(10).wrapping_add(low.wrapping_sub(b'0'))
}

#[inline]
fn is_date(text: &[u8; 10]) -> bool {
    let [y0, y1, y2, y3, _, m0, m1, _, d0, d1] = *text;
    let (century, year, month, day) = (two(y0, y1), two(y2, y3), two(m0, m1), two(d0, d1));
    let leap = if year == 0 { century % 4 == 0 } else { year % 4 == 0 };
    let days = match month {
        4 | 6 | 9 | 11 => 30,
        2 => 28 + u8::from(leap),
        1..=12 => 31,
        _ => return false,
    };
    has_form(text, b"0000-00-00") && (1..=days).contains(&day) && (century, year) != (0, 0)
}

/// The length of the date with its time that opens `text`.
#[inline]
pub(super) fn date_time_length(text: &[u8]) -> Option<usize> {
    let (date, rest) = text.split_first_chunk()?;
    let (b'T', time) = rest.split_first()? else { return None };
    if !is_date(date) {
        return None;
    }
    Some(11 + time_length(time)?)
}

/// The length of the time that opens `text`.
#[inline]
fn time_length(text: &[u8]) -> Option<usize> {
    let clock = text.first_chunk::<8>()?;
    let [h0, h1, _, m0, m1, _, s0, s1] = *clock;
    if !has_form(clock, b"00:00:00") || two(h0, h1) > 23 || two(m0, m1) > 59 || two(s0, s1) > 59 {
        return None;
    }
    let mut length = 8;
    if text.get(length) == Some(&b'.') {
        let digits = text.iter().skip(length + 1).take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 {
            return None;
        }
        length += 1 + digits;
    }
    match *text.get(length..)? {
        [b'Z', ..] => Some(length + 1),
        [b'+' | b'-', h0, h1, b':', m0, m1, ..]
            if has_form(&[h0, h1, m0, m1], b"0000") && two(h0, h1) <= 23 && two(m0, m1) <= 59 =>
        {
            Some(length + 6)
        }
        _ => None,
    }
}

/// The length of the UUID, 8-4-4-4-12 hexadecimal digits, that opens `text`.
#[inline]
pub(super) fn uuid_length(text: &[u8]) -> Option<usize> {
    const FORM: &[u8; 36] = b"00000000-0000-0000-0000-000000000000";
    let text = text.first_chunk::<36>()?;
    let good = text.iter().zip(FORM).fold(0xff, |good, (&byte, &wanted)| {
        let is_hex = mask(byte.wrapping_sub(b'0') < 10) | mask((byte | 0x20).wrapping_sub(b'a') < 6);
        let is_same = mask(byte == wanted);
        let free = mask(wanted == b'0');
        good & ((free & is_hex) | (!free & is_same))
    });
    (good == 0xff).then_some(FORM.len())
}

/// A mailbox of dotted words at a domain of at least two labels, in ASCII.
fn is_email(text: &[u8]) -> bool {
    let Some(at) = text.iter().position(|&byte| byte == b'@') else { return false };
    let (local, domain) = (&text[..at], &text[at + 1..]);
    let is_word = |word: &[u8]| {
        !word.is_empty() && word.iter().all(|&byte| byte.is_ascii_alphanumeric() || b"_+-".contains(&byte))
    };
    let is_dot = |&byte: &u8| byte == b'.';
    local.len() <= 64
        && domain.len() <= 180
        && local.split(is_dot).all(is_word)
        && domain.split(is_dot).all(is_label)
        && domain.iter().any(is_dot)
        && domain.last().is_some_and(u8::is_ascii_alphabetic)
}

/// Letters, digits and hyphens between them. No punycode.
fn is_label(label: &[u8]) -> bool {
    label.len() <= 63
        && label.first().is_some_and(u8::is_ascii_alphanumeric)
        && label.last().is_some_and(u8::is_ascii_alphanumeric)
        && label.iter().all(|&byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !label.windows(2).any(|pair| pair == b"--")
}

fn is_hostname(text: &[u8]) -> bool {
    text.len() <= 253 && text.split(|&byte| byte == b'.').all(is_label)
}

/// Whole groups of four characters, filled up at the end, where no bits are left over.
fn is_base64(text: &[u8]) -> bool {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => u8::MAX,
    };
    let (digits, left_over) = match text {
        [digits @ .., b'=', b'='] => (digits, 0x0f),
        [digits @ .., b'='] => (digits, 0x03),
        digits => (digits, 0),
    };
    text.len().is_multiple_of(4)
        && digits.iter().all(|&byte| value(byte) < 64)
        && digits.last().is_none_or(|&last| value(last) & left_over == 0)
}

/// Nothing, or steps that begin with a slash, in which a tilde opens `~0` or `~1`.
fn is_json_pointer(text: &[u8]) -> bool {
    let tildes = || text.iter().enumerate().filter(|(_, byte)| **byte == b'~');
    (text.is_empty() || text[0] == b'/') && tildes().all(|(at, _)| matches!(text.get(at + 1), Some(b'0' | b'1')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_usual_forms() {
        for (format, good, bad) in [
            (
                Format::DateTime,
                &["2013-01-01T10:15:00Z", "2024-02-29T23:59:59.123456789+05:30", "2000-02-29T00:00:00-00:00"][..],
                &[
                    "2013-02-30T00:00:00Z",
                    "1900-02-29T00:00:00Z",
                    "2013-02-29T00:00:00Z",
                    "2013-04-31T00:00:00Z",
                    "2013-00-01T00:00:00Z",
                    "2013-13-01T00:00:00Z",
                    "2013-01-00T00:00:00Z",
                    "2013-01-01t00:00:00Z",
                    "2013-01-01T00:00:00z",
                    "2013-01-01 00:00:00Z",
                    "2013-01-01T24:00:00Z",
                    "2013-01-01T00:60:00Z",
                    "2016-12-31T23:59:60Z",
                    "2013-01-01T00:00:00",
                    "2013-01-01T00:00:00.Z",
                    "2013-01-01T00:00:00Z ",
                    "2013-01-01T00:00:00+24:00",
                    "2013-01-01T00:00:00+0100",
                    "2013-01-01T00:00:00+01:60",
                    "0000-01-01T00:00:00Z",
                    "2O13-01-01T00:00:00Z",
                    "",
                ][..],
            ),
            (Format::Date, &["2013-12-31"], &["2013-12-32", "2013-1-31", "2013/12/31", "2013-12-31Z"]),
            (Format::Time, &["10:15:00Z", "10:15:00.5-01:00"], &["10:15:00", "10:15Z", "1:15:00Z", "10:15:60Z"]),
            (
                Format::Uuid,
                &["018f4e3c-5b7a-7c21-9d3e-2f6a81c4b90d", "018F4E3C-5B7A-7C21-9D3E-2F6A81C4B90D"],
                &[
                    "018f4e3c-5b7a-7c21-9d3e-2f6a81c4b90g",
                    "018f4e3c05b7a-7c21-9d3e-2f6a81c4b90d",
                    "018f4e3c-5b7a-7c21-9d3e-2f6a81c4b90",
                    "018f4e3c5b7a7c219d3e2f6a81c4b90d",
                    "018f4e3c-5b7a-7c21-9d3e-2f6a81c4b9-d",
                ],
            ),
            (
                Format::Email,
                &["a@b.cd", "a.b+c_d-e@x-y.example.org"],
                &["a", "a@b", "@b.cd", "a@.cd", "a..b@c.de", ".a@b.cd", "a@-b.cd", "a@b.1", "a@b@c.de", "a@xn--b.cd"],
            ),
            (
                Format::Hostname,
                &["a", "www.example.com", "A-1.b2", "127.0.0.1"],
                &["", ".", "a.", ".a", "-a", "a-.b", "a..b", "xn--a.b", "a--b", "a_b", "é.b", "a b"],
            ),
            (
                Format::Base64,
                &["", "AAAA", "YQ==", "YWI=", "YWJj", "+/09"],
                &["A", "YQ=", "YR==", "YWJ=", "YQ", "====", "=AAA", "A===", "YW-j", "YWJ ", "YQ==YQ=="],
            ),
            (Format::Ipv4, &["127.0.0.1", "0.0.0.0"], &["", "1.2.3", "256.1.1.1", "01.1.1.1", "1.2.3.4.5", " 1.2.3.4"]),
            (Format::Ipv6, &["::1", "2001:db8::ff00:42:8329", "::ffff:1.2.3.4"], &["", ":", "1::2::3", "::g", "[::1]"]),
            (Format::JsonPointer, &["", "/", "/a/~0~1/é"], &["a", "#", "/~", "/~2", "/a~"]),
        ] {
            for text in good {
                assert!(matches(format, text.as_bytes()), "{format:?} {text}");
            }
            for text in bad {
                assert!(!matches(format, text.as_bytes()), "{format:?} {text}");
            }
        }
    }
}
