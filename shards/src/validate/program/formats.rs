//! The usual forms of the formats. A form left out here (a leap second, a lower-case `z`, a quoted mailbox) is for the
//! reference to judge.

use crate::schema::program::Format;

/// Whether `text` is surely of this format. It need not be UTF-8.
#[inline]
pub(super) fn matches(format: Format, text: &[u8]) -> bool {
    match format {
        Format::Date => text.try_into().is_ok_and(is_date),
        Format::DateTime => is_date_time(text),
        Format::Email => is_email(text),
        Format::Time => is_time(text),
        Format::Uuid => text.try_into().is_ok_and(is_uuid),
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

#[inline]
fn is_date_time(text: &[u8]) -> bool {
    let Some((date, [b'T', time @ ..])) = text.split_first_chunk() else { return false };
    is_date(date) && is_time(time)
}

#[inline]
fn is_time(text: &[u8]) -> bool {
    let Some((clock, mut rest)) = text.split_first_chunk() else { return false };
    let [h0, h1, _, m0, m1, _, s0, s1] = *clock;
    if !has_form(clock, b"00:00:00") || two(h0, h1) > 23 || two(m0, m1) > 59 || two(s0, s1) > 59 {
        return false;
    }
    if let [b'.', fraction @ ..] = rest {
        let count = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if count == 0 {
            return false;
        }
        rest = &fraction[count..];
    }
    match *rest {
        [b'Z'] => true,
        [b'+' | b'-', h0, h1, b':', m0, m1] => {
            has_form(&[h0, h1, m0, m1], b"0000") && two(h0, h1) <= 23 && two(m0, m1) <= 59
        }
        _ => false,
    }
}

/// 8-4-4-4-12 hexadecimal digits.
#[inline]
fn is_uuid(text: &[u8; 36]) -> bool {
    const FORM: &[u8; 36] = b"00000000-0000-0000-0000-000000000000";
    text.iter().zip(FORM).fold(0xff, |good, (&byte, &wanted)| {
        let is_hex = mask(byte.wrapping_sub(b'0') < 10) | mask((byte | 0x20).wrapping_sub(b'a') < 6);
        let is_same = mask(byte == wanted);
        let free = mask(wanted == b'0');
        good & ((free & is_hex) | (!free & is_same))
    }) == 0xff
}

/// A mailbox of dotted words at a domain of at least two labels, in ASCII.
fn is_email(text: &[u8]) -> bool {
    let Some(at) = text.iter().position(|&byte| byte == b'@') else { return false };
    let (local, domain) = (&text[..at], &text[at + 1..]);
    let is_word = |word: &[u8]| {
        !word.is_empty() && word.iter().all(|&byte| byte.is_ascii_alphanumeric() || b"_+-".contains(&byte))
    };
    let is_label = |label: &[u8]| {
        label.len() <= 63
            && label.first().is_some_and(u8::is_ascii_alphanumeric)
            && label.last().is_some_and(u8::is_ascii_alphanumeric)
            && label.iter().all(|&byte| byte.is_ascii_alphanumeric() || byte == b'-')
            // No punycode.
            && !label.windows(2).any(|pair| pair == b"--")
    };
    let is_dot = |&byte: &u8| byte == b'.';
    local.len() <= 64
        && domain.len() <= 180
        && local.split(is_dot).all(is_word)
        && domain.split(is_dot).all(is_label)
        && domain.iter().any(is_dot)
        && domain.last().is_some_and(u8::is_ascii_alphabetic)
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
