//! Numbers: compared as the integers around them, exactly, wherever their digits allow it.

use super::Run;
use crate::schema::program::{Bounds, Node, types};

/// The most digits of an integer: any such fits a u64.
const INTEGER_DIGITS_MAX: usize = 19;

/// The most digits before the point of a decimal.
const WHOLE_DIGITS_MAX: usize = 18;

/// The most digits that an f64 keeps, whoever reads it.
const EXACT_DIGITS_MAX: usize = 15;

/// The most digits of a decimal.
const DECIMAL_DIGITS_MAX: usize = 40;

/// The most digits of a whole part to which a thousandth is much more than [`SLACK`].
const CLEAR_DIGITS_MAX: usize = 9;

/// How far off a reader of decimals may be, as a part of the value: much more than any is.
const SLACK: f64 = 1e-14;

/// The digits that open `text`: how many, and their value if they are at most [`INTEGER_DIGITS_MAX`].
#[inline]
fn digits(text: &[u8]) -> (usize, u64) {
    let (mut count, mut value, mut left) = (0, 0u64, text);
    while left.get(7).is_some_and(u8::is_ascii_digit)
        && let Some((chunk, after)) = left.split_first_chunk()
        && let Some(eight) = eight_digits(u64::from_le_bytes(*chunk))
    {
        value = value.wrapping_mul(100_000_000).wrapping_add(eight);
        count += 8;
        left = after;
    }
    for &byte in left {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            break;
        }
        value = value.wrapping_mul(10).wrapping_add(u64::from(digit));
        count += 1;
    }
    (count, value)
}

/// The value of the eight bytes of `word`, the first of which is the lowest; `None`: they are not all digits.
#[inline]
fn eight_digits(word: u64) -> Option<u64> {
    const TOPS: u64 = u64::from_le_bytes([0xf0; 8]);
    const ZEROS: u64 = u64::from_le_bytes([b'0'; 8]);
    // What is beyond 9 has the next top after 6 more.
    if word & TOPS != ZEROS || word.wrapping_add(u64::from_le_bytes([6; 8])) & TOPS != ZEROS {
        return None;
    }
    let ones = word & !TOPS;
    let twos = (ones * 10 + (ones >> 8)) & 0x00ff_00ff_00ff_00ff;
    let fours = (twos * 100 + (twos >> 16)) & 0x0000_ffff_0000_ffff;
    Some((fours.wrapping_mul(10_000) + (fours >> 32)) & 0xffff_ffff)
}

/// Whether a number between these integers is surely within `bounds`.
#[inline]
fn is_within(bounds: &Bounds, floor: i64, ceil: i64) -> bool {
    floor >= bounds.floor_min && ceil <= bounds.ceil_max && ceil > bounds.ceil_over && floor < bounds.floor_under
}

impl Run<'_> {
    /// A number as a value. What may come after it is not looked at.
    #[inline]
    pub(super) fn number(&self, at: usize, node: &Node) -> Option<usize> {
        let rest = self.text.get(at..)?;
        let negative = *rest.first()? == b'-';
        let whole = rest.get(usize::from(negative)..)?;
        let (count, value) = digits(whole);
        if count == 0 || count > INTEGER_DIGITS_MAX || (count > 1 && whole[0] == b'0') {
            return None;
        }
        let value = i64::try_from(value).ok()?;
        if let Some(b'.' | b'e' | b'E') = whole.get(count) {
            return self.decimal(at, node, negative, count, value);
        }
        // What `-0` is, an integer or a float, is for others to say.
        if node.types & types::INTEGER == 0 || (negative && value == 0) {
            return None;
        }
        let value = if negative { -value } else { value };
        if !is_within(&node.number, value, value)
            || (node.number.multiple_of != 0 && value % node.number.multiple_of != 0)
            || node.values.as_deref().is_some_and(|values| !values.integers.contains(&value))
        {
            return None;
        }
        Some(at + usize::from(negative) + count)
    }

    /// A number with a fraction or an exponent, after `count` digits that mean `whole`.
    fn decimal(&self, from: usize, node: &Node, negative: bool, count: usize, whole: i64) -> Option<usize> {
        let mut at = from + usize::from(negative) + count;
        let (mut total, mut fraction, mut plain) = (count, &[][..], true);
        if self.text.get(at) == Some(&b'.') {
            let rest = self.text.get(at + 1..)?;
            let (more, _) = digits(rest);
            if more == 0 {
                return None;
            }
            fraction = rest.get(..more)?;
            total += more;
            at += 1 + more;
        }
        if let Some(b'e' | b'E') = self.text.get(at) {
            plain = false;
            at += 1 + usize::from(matches!(self.text.get(at + 1), Some(b'+' | b'-')));
            let (more, _) = digits(self.text.get(at..)?);
            if !(1..=2).contains(&more) {
                return None;
            }
            at += more;
        }
        let is_exact = plain && total <= EXACT_DIGITS_MAX;
        let integral = fraction.iter().all(|&digit| digit == b'0');
        // `2.0` is an integer, too.
        let types = types::DECIMAL | if is_exact && integral { types::INTEGER } else { 0 };
        let bounds = &node.number;
        if count > WHOLE_DIGITS_MAX
            || total > DECIMAL_DIGITS_MAX
            || node.types & types == 0
            || node.values.is_some()
            || bounds.multiple_of != 0
        {
            return None;
        }
        if !bounds.any {
            return Some(at);
        }
        let beyond = i64::from(!integral);
        let (floor, ceil) = if negative { (-whole - beyond, -whole) } else { (whole, whole + beyond) };
        let lies_between = is_exact || (plain && is_clearly_between(count, fraction));
        let within =
            (lies_between && is_within(bounds, floor, ceil)) || is_clearly_within(bounds, self.text.get(from..at)?);
        within.then_some(at)
    }
}

/// Whether a number of `count` digits and a `fraction` lies between the integers around it, however it is rounded.
fn is_clearly_between(count: usize, fraction: &[u8]) -> bool {
    count <= CLEAR_DIGITS_MAX && fraction.get(..3).is_some_and(|digits| digits != b"000" && digits != b"999")
}

/// Whether the decimal `text` is within `bounds`, however it is rounded.
#[cold]
fn is_clearly_within(bounds: &Bounds, text: &[u8]) -> bool {
    let Some(value) = std::str::from_utf8(text).ok().and_then(|text| text.parse::<f64>().ok()) else { return false };
    let slack = value.abs() * SLACK;
    value - slack > bounds.low && value + slack < bounds.high
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_counted_and_read() {
        for value in
            (0..2000).chain([1234567, 12345678, 99999999, 100000000, 1714979289123, u64::MAX / 2, 9999999999999999999])
        {
            for after in ["", ",", "e1", ".000000000", " \"12345678\"", "/12345678", ":12345678"] {
                let text = format!("{value}{after}");
                assert_eq!(digits(text.as_bytes()), (value.to_string().len(), value), "{text}");
            }
        }
        assert_eq!(digits(b"0000000012345678x"), (16, 12345678));
        assert_eq!(digits(b""), (0, 0));
        for byte in (0..=u8::MAX).filter(|byte| !byte.is_ascii_digit()) {
            for at in 0..9 {
                let mut text = *b"123456789";
                text[at] = byte;
                assert_eq!(digits(&text).0, at, "{byte} at {at}");
            }
        }
    }
}
