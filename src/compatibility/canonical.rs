//! The canonical text of a JSON value, and the fingerprint of a definition.
//!
//! In the spirit of RFC 8785: members sorted by their names' bytes, no white space, one text for one number. `1`, `1.0` and
//! `1e0` are one number; unlike in the RFC, an integer of 64 bits keeps all its digits, as the validator compares them all.
//! Nothing is left out: a changed description is a new version.

use serde_json::{Number, Value};
use sha2::{Digest as _, Sha256};

/// SHA-256 of the canonical text of `definition`.
#[must_use]
pub fn fingerprint(definition: &Value) -> [u8; 32] {
    Sha256::digest(text(definition).as_bytes()).into()
}

/// The canonical text of `value`.
pub(super) fn text(value: &Value) -> String {
    let mut into = String::new();
    write(value, &mut into);
    into
}

fn write(value: &Value, into: &mut String) {
    match value {
        Value::Number(number) => into.push_str(&number_text(number)),
        Value::Array(elements) => {
            into.push('[');
            for (index, element) in elements.iter().enumerate() {
                if index > 0 {
                    into.push(',');
                }
                write(element, into);
            }
            into.push(']');
        }
        Value::Object(members) => {
            let mut sorted: Vec<_> = members.iter().collect();
            sorted.sort_unstable_by_key(|&(name, _)| name);
            into.push('{');
            for (index, (name, member)) in sorted.into_iter().enumerate() {
                if index > 0 {
                    into.push(',');
                }
                into.push_str(&Value::from(name.as_str()).to_string());
                into.push(':');
                write(member, into);
            }
            into.push('}');
        }
        Value::Null | Value::Bool(_) | Value::String(_) => into.push_str(&value.to_string()),
    }
}

/// Whole numbers within 64 bits as integers, whatever they were written as.
fn number_text(number: &Number) -> String {
    const BEYOND_U64: f64 = 18_446_744_073_709_551_616.0;
    const I64_MIN: f64 = -9_223_372_036_854_775_808.0;
    match number.as_f64() {
        Some(float) if number.is_f64() && float.fract() == 0.0 && (I64_MIN..BEYOND_U64).contains(&float) => {
            format!("{}", float as i128)
        }
        _ => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(json: &str) -> [u8; 32] {
        fingerprint(&serde_json::from_str(json).expect("JSON"))
    }

    #[test]
    fn what_means_the_same_has_one_fingerprint() {
        assert_eq!(of(r#"{"a":1,"b":[true,null]}"#), of("{ \"b\" : [true, null],\n\"a\": 1.0 }"));
        assert_eq!(of("[-0.0, 1e2, 0.5, \"\\u0061\"]"), of(r#"[0, 100, 5e-1, "a"]"#));
        assert_eq!(of("9223372036854775808"), of("9223372036854775808.0"));
    }

    #[test]
    fn what_differs_has_another() {
        let texts =
            ["1", "2", "\"1\"", "1e300", "18446744073709551615", "18446744073709551616", "[]", "{}", "[1]", "[[1]]"];
        let mut seen: Vec<_> = texts.iter().map(|text| of(text)).collect();
        seen.push(of(r#"{"description":"a"}"#));
        seen.push(of(r#"{"description":"b"}"#));
        seen.push(of(r#"{"enum":[1,2]}"#));
        seen.push(of(r#"{"enum":[2,1]}"#));
        let count = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), count);
    }
}
