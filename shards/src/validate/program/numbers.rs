//! Numbers: compared as the integers around them, exactly, wherever their digits allow it.

use super::Run;
use crate::schema::program::{Bounds, Node, types};

/// The most digits of an integer: any such fits an i64.
const INTEGER_DIGITS_MAX: usize = 18;

/// The most digits that an f64 keeps, whoever reads it.
const EXACT_DIGITS_MAX: usize = 15;

/// The most digits of a decimal.
const DECIMAL_DIGITS_MAX: usize = 40;

/// How far off a reader of decimals may be, as a part of the value: much more than any is.
const SLACK: f64 = 1e-14;

/// The digits that open `text`: how many, and their value if they are at most [`INTEGER_DIGITS_MAX`].
#[inline]
fn digits(text: &[u8]) -> (usize, i64) {
    let (mut count, mut value) = (0, 0i64);
    for &byte in text {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            break;
        }
        value = value.wrapping_mul(10).wrapping_add(i64::from(digit));
        count += 1;
    }
    (count, value)
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
        if let Some(b'.' | b'e' | b'E') = whole.get(count) {
            return self.decimal(at, node, negative, count, value);
        }
        // What `-0` is, an integer or a float, is for others to say.
        if node.types & types::INTEGER == 0 || (negative && value == 0) {
            return None;
        }
        let value = if negative { -value } else { value };
        if !is_within(&node.number, value, value)
            || node.values.as_deref().is_some_and(|values| !values.integers.contains(&value))
        {
            return None;
        }
        Some(at + usize::from(negative) + count)
    }

    /// A number with a fraction or an exponent, after `count` digits that mean `whole`.
    fn decimal(&self, from: usize, node: &Node, negative: bool, count: usize, whole: i64) -> Option<usize> {
        let mut at = from + usize::from(negative) + count;
        let (mut total, mut integral, mut plain) = (count, true, true);
        if self.text.get(at) == Some(&b'.') {
            let fraction = self.text.get(at + 1..)?;
            let (more, _) = digits(fraction);
            if more == 0 {
                return None;
            }
            integral = fraction.get(..more)?.iter().all(|&digit| digit == b'0');
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
        if total > DECIMAL_DIGITS_MAX || node.types & types::DECIMAL == 0 || node.values.is_some() {
            return None;
        }
        if node.number.any {
            let within = if plain && total <= EXACT_DIGITS_MAX {
                let beyond = i64::from(!integral);
                let (floor, ceil) = if negative { (-whole - beyond, -whole) } else { (whole, whole + beyond) };
                is_within(&node.number, floor, ceil)
            } else {
                is_clearly_within(&node.number, self.text.get(from..at)?)
            };
            if !within {
                return None;
            }
        }
        Some(at)
    }
}

/// Whether the decimal `text` is within `bounds`, however it is rounded.
#[cold]
fn is_clearly_within(bounds: &Bounds, text: &[u8]) -> bool {
    let Some(value) = std::str::from_utf8(text).ok().and_then(|text| text.parse::<f64>().ok()) else { return false };
    let slack = value.abs() * SLACK;
    let (low, high) = (value - slack, value + slack);
    low >= bounds.floor_min as f64
        && high <= bounds.ceil_max as f64
        && low > bounds.ceil_over as f64
        && high < bounds.floor_under as f64
}
