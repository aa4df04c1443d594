//! What becomes of a field that has no type of its own, or no value, in the record: the stream's schema says.

use std::collections::HashMap;

use serde_json::Value;

/// What a member of the record may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kinds {
    /// The schema says what it may be; else it is a text.
    is_known: bool,
    text: bool,
    number: bool,
    boolean: bool,
    /// An object or an array.
    nested: bool,
    /// It may be null.
    pub(super) null: bool,
}

impl Kinds {
    const UNKNOWN: Self =
        Self { is_known: false, text: true, number: false, boolean: false, nested: false, null: false };

    /// By the schema of the member.
    fn of(schema: &Value) -> Self {
        let names: Vec<&str> = match &schema["type"] {
            Value::String(name) => vec![name],
            Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
            _ => return Self::UNKNOWN,
        };
        let has = |name: &str| names.contains(&name);
        Self {
            is_known: true,
            text: has("string"),
            number: has("integer") || has("number"),
            boolean: has("boolean"),
            nested: has("object") || has("array"),
            null: has("null"),
        }
    }

    /// Writes a field's text as JSON. What does not fit what the schema asks for is written as a text, for the record's check to
    /// tell what is wrong with it.
    pub(super) fn put(self, out: &mut Vec<u8>, text: &str) {
        let trimmed = text.trim();
        if self.boolean && (trimmed.eq_ignore_ascii_case("true") || trimmed.eq_ignore_ascii_case("false")) {
            out.extend(trimmed.bytes().map(|byte| byte.to_ascii_lowercase()));
        } else if (self.number && is_number(trimmed.as_bytes())) || (self.nested && is_nested(trimmed)) {
            out.extend_from_slice(trimmed.as_bytes());
        } else {
            put_text(out, text);
        }
    }

    /// Whether a field of no text has no value either.
    pub(super) fn is_absent(self, text: &str) -> bool {
        text.is_empty() && !(self.is_known && self.text)
    }
}

/// The members of a record at its top, by the schema of the stream.
#[derive(Debug, Default)]
pub(super) struct Members(HashMap<String, Kinds>);

impl Members {
    /// By a schema's definition.
    pub(super) fn of(definition: &str) -> Self {
        let definition: Value = serde_json::from_str(definition).unwrap_or(Value::Null);
        let properties = definition["properties"].as_object().into_iter().flatten();
        Self(properties.map(|(name, schema)| (name.clone(), Kinds::of(schema))).collect())
    }

    pub(super) fn kinds(&self, name: &str) -> Kinds {
        self.0.get(name).copied().unwrap_or(Kinds::UNKNOWN)
    }
}

/// Writes a text as JSON.
pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    let plain = |byte: u8| byte >= 0x20 && byte != b'"' && byte != b'\\';
    if text.bytes().all(plain) {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        serde_json::to_writer(out, text).expect("a text always serialises, and a Vec takes it");
    }
}

/// Whether this is a number as JSON writes it.
fn is_number(text: &[u8]) -> bool {
    let digits = |at: usize| text[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut at = usize::from(text.first() == Some(&b'-'));
    let whole = digits(at);
    if whole == 0 || (whole > 1 && text[at] == b'0') {
        return false;
    }
    at += whole;
    if text.get(at) == Some(&b'.') {
        let fraction = digits(at + 1);
        if fraction == 0 {
            return false;
        }
        at += 1 + fraction;
    }
    if matches!(text.get(at), Some(b'e' | b'E')) {
        at += 1 + usize::from(matches!(text.get(at + 1), Some(b'+' | b'-')));
        let exponent = digits(at);
        if exponent == 0 {
            return false;
        }
        at += exponent;
    }
    at == text.len()
}

/// Whether this is an object or an array: nothing that would break out of its place.
fn is_nested(text: &str) -> bool {
    text.starts_with(['{', '[']) && serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_becomes_what_the_schema_asks_for_or_stays_a_text() {
        let members = Members::of(
            r#"{"properties": {"i": {"type": "integer"}, "n": {"type": ["null", "number"]}, "b": {"type": "boolean"},
                "s": {"type": "string"}, "o": {"type": "object"}, "any": {}, "m": {"type": ["string", "integer"]}}}"#,
        );
        let put = |name: &str, text: &str| {
            let mut out = Vec::new();
            members.kinds(name).put(&mut out, text);
            String::from_utf8(out).expect("UTF-8")
        };
        for (name, text, json) in [
            ("i", "7", "7"),
            ("i", " -70 ", "-70"),
            ("i", "007", r#""007""#),
            ("i", "1,\"x\":2", r#""1,\"x\":2""#),
            ("n", "1.5e-3", "1.5e-3"),
            ("n", "1.", r#""1.""#),
            ("n", ".5", r#"".5""#),
            ("n", "1e", r#""1e""#),
            ("n", "-", r#""-""#),
            ("n", "NaN", r#""NaN""#),
            ("b", "TRUE", "true"),
            ("b", "1", r#""1""#),
            ("s", "12", r#""12""#),
            ("s", "a\"b\\c\n", r#""a\"b\\c\n""#),
            ("o", "{\"a\": [1]}", "{\"a\": [1]}"),
            ("o", "{\"a\": 1}, {", r#""{\"a\": 1}, {""#),
            ("any", "12", r#""12""#),
            ("unheard-of", "true", r#""true""#),
            ("m", "12", "12"),
            ("m", "x", r#""x""#),
        ] {
            assert_eq!(put(name, text), json, "{name} {text:?}");
        }
        assert!(members.kinds("n").null && !members.kinds("i").null);
        assert!(members.kinds("i").is_absent("") && members.kinds("any").is_absent(""));
        assert!(!members.kinds("s").is_absent("") && !members.kinds("i").is_absent("0"));
    }
}
