//! What makes two definitions of a schema the same: the SHA-256 of their JSON with the keys of objects in order.

use serde_json::Value;
use sha2::{Digest, Sha256};

/// The fingerprint of a definition.
///
/// # Errors
/// It is no JSON.
pub fn canonical_fingerprint(definition: &str) -> Result<[u8; 32], serde_json::Error> {
    let mut text = String::with_capacity(definition.len());
    write(&mut text, &serde_json::from_str(definition)?);
    Ok(Sha256::digest(text).into())
}

// Recursion is bounded by the JSON parser's own limit on nesting.
fn write(text: &mut String, value: &Value) {
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(key, _)| *key);
            text.push('{');
            for (at, (key, value)) in members.into_iter().enumerate() {
                text.push_str(if at == 0 { "" } else { "," });
                text.push_str(&Value::from(key.as_str()).to_string());
                text.push(':');
                write(text, value);
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for (at, item) in items.iter().enumerate() {
                text.push_str(if at == 0 { "" } else { "," });
                write(text, item);
            }
            text.push(']');
        }
        scalar => text.push_str(&scalar.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_meant_counts() {
        let of = |text| canonical_fingerprint(text).expect("JSON");
        let one = of(r#"{"type": "object", "properties": {"b": {}, "a": {"type": ["null", "string"]}}}"#);
        assert_eq!(one, of(r#"{"properties":{"a":{"type":["null","string"]},"b":{}},"type":"object"}"#));
        assert_ne!(one, of(r#"{"properties":{"a":{"type":["string","null"]},"b":{}},"type":"object"}"#));
        assert_ne!(of(r#"["a,b"]"#), of(r#"["a","b"]"#));
        assert!(canonical_fingerprint("{").is_err());
    }
}
