//! What a value becomes as another type: the table of [`super`] in code.

use super::{
    members::Scalar,
    times::{Format, Moment, Target, Zone},
};

/// The type that a field is to have.
#[derive(Debug, Clone)]
pub(super) enum Conversion {
    String,
    Integer,
    Number,
    Boolean,
    Timestamp { formats: Vec<Format>, zone: Zone, target: Target },
}

/// What came of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Converted {
    /// It is of the type already.
    AsItIs,
    /// It is written anew.
    Anew,
    /// It cannot be.
    Failed,
}

const NOT_A_STRING: &str = "NOT_A_STRING";
const NOT_AN_INTEGER: &str = "NOT_AN_INTEGER";
const NOT_A_NUMBER: &str = "NOT_A_NUMBER";
const NOT_A_BOOLEAN: &str = "NOT_A_BOOLEAN";
const NOT_A_TIMESTAMP: &str = "NOT_A_TIMESTAMP";

/// The code of every value that cannot be converted.
pub(super) const FAILURES: [&str; 5] = [NOT_A_STRING, NOT_AN_INTEGER, NOT_A_NUMBER, NOT_A_BOOLEAN, NOT_A_TIMESTAMP];

impl Conversion {
    /// The code of a value that cannot be converted, and what it is not.
    pub(super) fn failure(&self) -> (&'static str, &'static str) {
        match self {
            Self::String => (NOT_A_STRING, "an object or array is no string"),
            Self::Integer => (NOT_AN_INTEGER, "the value is no integer of 64 bits"),
            Self::Number => (NOT_A_NUMBER, "the value is no number"),
            Self::Boolean => (NOT_A_BOOLEAN, "the value is neither true nor false"),
            Self::Timestamp { .. } => (NOT_A_TIMESTAMP, "the value is no time in any of the step's formats"),
        }
    }

    /// Converts `value`; JSON text that is new is left in `out`, which is empty.
    pub(super) fn convert(&self, value: Scalar<'_>, out: &mut String) -> Converted {
        // Null is a value of every type.
        if value == Scalar::Null {
            return Converted::AsItIs;
        }
        let decoded;
        let value = match value {
            Scalar::String { text, is_escaped: true } if !matches!(self, Self::String) => {
                decoded = unescaped(text);
                Scalar::String { text: &decoded, is_escaped: false }
            }
            value => value,
        };
        let converted = match self {
            Self::String => string(value, out),
            Self::Integer => integer(value, out),
            Self::Number => number(value, out),
            Self::Boolean => boolean(value, out),
            Self::Timestamp { formats, zone, target } => match moment(value, formats, zone) {
                Some(moment) => {
                    moment.write(*target, out);
                    Some(is_same(value, out))
                }
                None => None,
            },
        };
        converted.unwrap_or(Converted::Failed)
    }
}

#[cold]
fn unescaped(text: &str) -> String {
    serde_json::from_str(&format!("\"{text}\"")).unwrap_or_default()
}

/// Whether what was written is what was there.
fn is_same(value: Scalar<'_>, out: &str) -> Converted {
    let is_same = match value {
        Scalar::Number(text) => text == out,
        Scalar::String { text, .. } => out.strip_prefix('"').and_then(|out| out.strip_suffix('"')) == Some(text),
        _ => false,
    };
    if is_same { Converted::AsItIs } else { Converted::Anew }
}

fn string(value: Scalar<'_>, out: &mut String) -> Option<Converted> {
    let text = match value {
        Scalar::String { .. } => return Some(Converted::AsItIs),
        Scalar::Number(text) => text,
        Scalar::Boolean(true) => "true",
        Scalar::Boolean(false) => "false",
        Scalar::Null | Scalar::Nested => return None,
    };
    out.push('"');
    out.push_str(text);
    out.push('"');
    Some(Converted::Anew)
}

fn integer(value: Scalar<'_>, out: &mut String) -> Option<Converted> {
    let text = match value {
        Scalar::Boolean(value) => {
            out.push(if value { '1' } else { '0' });
            return Some(Converted::Anew);
        }
        Scalar::Number(text) => text,
        Scalar::String { text, .. } => numeral(text)?,
        Scalar::Null | Scalar::Nested => return None,
    };
    // `-0` and `00` are written as `0`, so that a number has one text.
    let parsed = match text.parse::<i64>() {
        Ok(parsed) => parsed,
        Err(_) => whole(text)?,
    };
    use std::fmt::Write as _;
    // Writing to a string cannot fail.
    let _ = write!(out, "{parsed}");
    Some(is_number_same(value, out))
}

fn is_number_same(value: Scalar<'_>, out: &str) -> Converted {
    if matches!(value, Scalar::Number(text) if text == out) { Converted::AsItIs } else { Converted::Anew }
}

/// `1.0` and `1.5e3` as the integers that they are: exact up to 2^53, where a double is.
#[cold]
fn whole(text: &str) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    // Digits past the point that are all zeros leave an integer of any size.
    if let Some((whole, fraction)) = text.split_once('.')
        && !fraction.is_empty()
        && fraction.bytes().all(|byte| byte == b'0')
    {
        return whole.parse().ok();
    }
    let value: f64 = text.parse().ok()?;
    (value.fract() == 0.0 && value.abs() <= EXACT && text.contains(['.', 'e', 'E'])).then_some(value as i64)
}

fn number(value: Scalar<'_>, out: &mut String) -> Option<Converted> {
    match value {
        Scalar::Number(_) => Some(Converted::AsItIs),
        Scalar::Boolean(value) => {
            out.push(if value { '1' } else { '0' });
            Some(Converted::Anew)
        }
        Scalar::String { text, .. } => {
            let text = numeral(text)?;
            let value: f64 = text.parse().ok().filter(|value: &f64| value.is_finite())?;
            // As it is written, where JSON writes it so too: no digit is lost.
            if is_json_number(text) {
                out.push_str(text);
            } else {
                out.push_str(&serde_json::Number::from_f64(value)?.to_string());
            }
            Some(Converted::Anew)
        }
        Scalar::Null | Scalar::Nested => None,
    }
}

/// The digits in `text` that `parse` may see: no words such as `inf`.
fn numeral(text: &str) -> Option<&str> {
    let text = text.trim_matches([' ', '\t', '\n', '\r']);
    let is_numeral = |byte: u8| byte.is_ascii_digit() || b"+-.eE".contains(&byte);
    (!text.is_empty() && text.bytes().all(is_numeral)).then_some(text)
}

fn is_json_number(text: &str) -> bool {
    let rest = text.strip_prefix('-').unwrap_or(text);
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let has_leading_zero = digits > 1 && rest.starts_with('0');
    let is_open = rest.ends_with('.') || rest.contains(".e") || rest.contains(".E");
    digits > 0 && !has_leading_zero && !is_open
}

fn boolean(value: Scalar<'_>, out: &mut String) -> Option<Converted> {
    let is_one_of = |text: &str, words: &[&str]| words.iter().any(|word| text.eq_ignore_ascii_case(word));
    let truth = match value {
        Scalar::Boolean(_) => return Some(Converted::AsItIs),
        Scalar::Number("1") => true,
        Scalar::Number("0") => false,
        Scalar::String { text, .. } if is_one_of(text, &["true", "t", "yes", "y", "on", "1"]) => true,
        Scalar::String { text, .. } if is_one_of(text, &["false", "f", "no", "n", "off", "0"]) => false,
        _ => return None,
    };
    out.push_str(if truth { "true" } else { "false" });
    Some(Converted::Anew)
}

fn moment(value: Scalar<'_>, formats: &[Format], zone: &Zone) -> Option<Moment> {
    let (text, is_number) = match value {
        Scalar::Number(text) => (text, true),
        Scalar::String { text, .. } => (text, false),
        Scalar::Null | Scalar::Boolean(_) | Scalar::Nested => return None,
    };
    formats.iter().find_map(|format| format.read(text, is_number, zone))
}
