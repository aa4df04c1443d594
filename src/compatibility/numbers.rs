//! Numbers compared exactly, and what follows from their bounds and multiples.

use std::cmp::Ordering;

use serde_json::{Number, Value};

/// Below this, an integral f64 is kept as an integer.
const INTEGRAL_MAX: f64 = (1_u128 << 100) as f64;

/// The largest divisor that the validator divides by exactly.
const DIVISOR_MAX: i128 = 1 << 53;

/// Within these bounds and down to so many decimal places, the validator's reading of fractional multiples is exact.
const FRACTIONAL_RANGE: i128 = 1_000_000_000_000;
const DECIMALS_MAX: u32 = 9;

/// The value of a JSON number: i64 and u64 as they are, anything else as the nearest f64.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Num {
    /// A whole number.
    Int(i128),
    /// A fraction, or a whole number beyond 2^100.
    Float(f64),
}

impl Num {
    /// The value of `number`.
    pub(super) fn of(number: &Number) -> Self {
        if let Some(int) = number.as_u64() {
            return Self::Int(int.into());
        }
        if let Some(int) = number.as_i64() {
            return Self::Int(int.into());
        }
        // Without arbitrary precision, every JSON number has an f64.
        Self::of_float(number.as_f64().unwrap_or(f64::MAX))
    }

    fn of_float(float: f64) -> Self {
        if float.fract() == 0.0 && float.abs() < INTEGRAL_MAX { Self::Int(float as i128) } else { Self::Float(float) }
    }

    /// Whether it is an integer as draft-07 has it.
    pub(super) fn is_integer(self) -> bool {
        match self {
            Self::Int(_) => true,
            Self::Float(float) => float.fract() == 0.0,
        }
    }

    /// The order of two numbers.
    pub(super) fn order(self, other: Self) -> Ordering {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => a.cmp(&b),
            (Self::Float(a), Self::Float(b)) => a.total_cmp(&b),
            (Self::Int(a), Self::Float(b)) => order_mixed(a, b),
            (Self::Float(a), Self::Int(b)) => order_mixed(b, a).reverse(),
        }
    }
}

fn order_mixed(int: i128, float: f64) -> Ordering {
    if float.abs() >= INTEGRAL_MAX * 2.0 {
        return if float > 0.0 { Ordering::Less } else { Ordering::Greater };
    }
    let floor = float.floor();
    int.cmp(&(floor as i128)).then(if float > floor { Ordering::Less } else { Ordering::Equal })
}

/// A lower or an upper bound.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Bound {
    /// Where it is.
    pub(super) at: Num,
    /// Whether the value itself is outside.
    pub(super) open: bool,
}

/// Which bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// `minimum`, `exclusiveMinimum`.
    Lower,
    /// `maximum`, `exclusiveMaximum`.
    Upper,
}

impl Bound {
    /// The order of two bounds of one `end`: greater is tighter.
    pub(super) fn tightness(self, other: Self, end: End) -> Ordering {
        let order = self.at.order(other.at);
        let order = if end == End::Lower { order } else { order.reverse() };
        order.then(self.open.cmp(&other.open))
    }

    /// The tightest closed bound that holds for integers within this one.
    pub(super) fn for_integers(self, end: End) -> Self {
        let at = match (self.at, end) {
            (Num::Int(at), End::Lower) => at + i128::from(self.open),
            (Num::Int(at), End::Upper) => at - i128::from(self.open),
            (Num::Float(at), _) if at.abs() >= INTEGRAL_MAX => return self,
            (Num::Float(at), End::Lower) => at.ceil() as i128,
            (Num::Float(at), End::Upper) => at.floor() as i128,
        };
        Self { at: Num::Int(at), open: false }
    }

    /// Whether `value` is inside.
    pub(super) fn admits(self, value: Num, end: End) -> bool {
        match value.order(self.at) {
            Ordering::Equal => !self.open,
            Ordering::Greater => end == End::Lower,
            Ordering::Less => end == End::Upper,
        }
    }
}

/// What is known of a number's bounds.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Range {
    /// From here.
    pub(super) lower: Option<Bound>,
    /// To here.
    pub(super) upper: Option<Bound>,
}

impl Range {
    /// One of its bounds.
    pub(super) fn bound(&self, end: End) -> Option<Bound> {
        match end {
            End::Lower => self.lower,
            End::Upper => self.upper,
        }
    }

    /// Adds a bound.
    pub(super) fn tighten(&mut self, end: End, bound: Option<Bound>) {
        let own = match end {
            End::Lower => &mut self.lower,
            End::Upper => &mut self.upper,
        };
        if let Some(bound) = bound
            && own.is_none_or(|own| bound.tightness(own, end).is_gt())
        {
            *own = Some(bound);
        }
    }

    /// Whether no number is inside.
    pub(super) fn is_empty(&self) -> bool {
        let (Some(lower), Some(upper)) = (self.lower, self.upper) else { return false };
        match lower.at.order(upper.at) {
            Ordering::Less => false,
            Ordering::Equal => lower.open || upper.open,
            Ordering::Greater => true,
        }
    }

    /// Both ends, where they are closed integers.
    pub(super) fn integers(&self) -> Option<(i128, i128)> {
        match (self.lower?, self.upper?) {
            (Bound { at: Num::Int(lower), open: false }, Bound { at: Num::Int(upper), open: false }) => {
                Some((lower, upper))
            }
            _ => None,
        }
    }

    fn is_modest(&self) -> bool {
        let modest = |bound: Option<Bound>| {
            bound.is_some_and(|bound| {
                bound.at.order(Num::Int(-FRACTIONAL_RANGE)).is_ge()
                    && bound.at.order(Num::Int(FRACTIONAL_RANGE)).is_le()
            })
        };
        modest(self.lower) && modest(self.upper)
    }
}

/// Whether every multiple of `narrow` within `range` is a multiple of `wide`, as the validator divides. `None`: the ratio is
/// whole, but the validator's arithmetic is not exact enough to rely on it.
pub(super) fn multiples_within(narrow: Num, wide: Num, range: &Range) -> Option<bool> {
    match (narrow, wide) {
        _ if narrow == wide => Some(true),
        (Num::Int(a), Num::Int(b)) if a > 0 && b > 0 => match a % b {
            0 if a <= DIVISOR_MAX => Some(true),
            0 => None,
            _ => Some(false),
        },
        _ => {
            let (Some(a), Some(b)) = (decimal(narrow), decimal(wide)) else { return None };
            match scaled(a, b) {
                Some((a, b)) if b > 0 && a % b == 0 => range.is_modest().then_some(true),
                Some(_) => Some(false),
                None => None,
            }
        }
    }
}

/// `mantissa / 10^places` of a number with few digits.
fn decimal(number: Num) -> Option<(i128, u32)> {
    match number {
        Num::Int(int) => (0 < int && int <= FRACTIONAL_RANGE).then_some((int, 0)),
        Num::Float(float) => {
            let text = Value::from(float).to_string();
            let (whole, fraction) = text.split_once('.')?;
            let places = u32::try_from(fraction.len()).ok().filter(|&places| places <= DECIMALS_MAX)?;
            let mantissa = format!("{whole}{fraction}").parse().ok()?;
            Some((mantissa, places))
        }
    }
}

fn scaled((a, a_places): (i128, u32), (b, b_places): (i128, u32)) -> Option<(i128, i128)> {
    let places = a_places.max(b_places);
    Some((a.checked_mul(10_i128.pow(places - a_places))?, b.checked_mul(10_i128.pow(places - b_places))?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn num(value: Value) -> Num {
        let Value::Number(number) = value else { panic!("a number") };
        Num::of(&number)
    }

    #[test]
    fn numbers_are_ordered_exactly() {
        let ascending = [
            json!(-1e300),
            json!(i64::MIN),
            json!(-1.5),
            json!(-1),
            json!(0),
            json!(0.5),
            json!(1),
            json!(9_007_199_254_740_992_u64),
            json!(9_007_199_254_740_993_u64),
            json!(u64::MAX),
            json!(18_446_744_073_709_551_616.0),
            json!(1e300),
        ];
        for (i, a) in ascending.iter().enumerate() {
            for (j, b) in ascending.iter().enumerate() {
                assert_eq!(num(a.clone()).order(num(b.clone())), i.cmp(&j), "{a} {b}");
            }
        }
        assert_eq!(num(json!(1.0)), num(json!(1)));
        assert_eq!(num(json!(-0.0)), num(json!(0)));
    }

    #[test]
    fn multiples_are_divided_as_the_validator_does() {
        let free = Range::default();
        let closed = |at: i128| Some(Bound { at: Num::Int(at), open: false });
        let modest = Range { lower: closed(0), upper: closed(100) };
        assert_eq!(multiples_within(num(json!(6)), num(json!(3)), &free), Some(true));
        assert_eq!(multiples_within(num(json!(3)), num(json!(6)), &free), Some(false));
        assert_eq!(multiples_within(num(json!(1_u64 << 60)), num(json!(2)), &free), None);
        assert_eq!(multiples_within(num(json!(0.1)), num(json!(0.1)), &free), Some(true));
        assert_eq!(multiples_within(num(json!(0.1)), num(json!(0.01)), &free), None);
        assert_eq!(multiples_within(num(json!(0.1)), num(json!(0.01)), &modest), Some(true));
        assert_eq!(multiples_within(num(json!(0.3)), num(json!(0.2)), &modest), Some(false));
    }
}
