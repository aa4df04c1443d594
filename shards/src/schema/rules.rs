//! What a definition must be beyond draft-07: its `$ref`s stay inside the document, its patterns can be matched in linear
//! time, and its size is bounded.
//!
//! The walk follows the keywords that hold schemas, so data under `enum`, `const`, `default` or `examples` is left alone.
//! It recurses as deep as the definition nests, which the parser bounds.

use serde_json::Value;

use super::{SchemaError, patterns::Patterns, text::pointer_step};

/// The most `$ref`s in a definition.
pub(crate) const REFERENCES_MAX: usize = 1024;

/// The most patterns (`pattern` and the names in `patternProperties`) in a definition.
pub(crate) const PATTERNS_MAX: usize = 1024;

/// Keywords whose value is a schema.
const HOLDS_SCHEMA: [&str; 10] = [
    "additionalItems",
    "additionalProperties",
    "contains",
    "else",
    "if",
    "items",
    "not",
    "propertyNames",
    "then",
    "unevaluatedProperties",
];

/// Keywords whose value is an array of schemas.
const HOLDS_SCHEMAS: [&str; 4] = ["allOf", "anyOf", "items", "oneOf"];

/// Keywords whose value is an object of schemas. `$defs` is no keyword of draft-07, but many keep schemas there.
const HOLDS_NAMED_SCHEMAS: [&str; 5] = ["$defs", "definitions", "dependencies", "patternProperties", "properties"];

/// Checks `definition` and drops its `$schema` keywords: the draft is fixed. Returns its patterns.
pub(crate) fn apply(definition: &mut Value) -> Result<Patterns, SchemaError> {
    let mut walk = Walk::default();
    walk.schema(definition, "")?;
    Ok(Patterns(walk.patterns))
}

#[derive(Debug, Default)]
struct Walk {
    references: usize,
    /// With where each stands, as a JSON Pointer.
    patterns: Vec<(String, String)>,
}

impl Walk {
    fn schema(&mut self, schema: &mut Value, pointer: &str) -> Result<(), SchemaError> {
        let Some(keywords) = schema.as_object_mut() else { return Ok(()) };
        if let Some(named) = keywords.remove("$schema") {
            check_draft(&named).map_err(|message| SchemaError { pointer: format!("{pointer}/$schema"), message })?;
        }
        for (keyword, value) in keywords.iter_mut() {
            let at = format!("{pointer}{}", pointer_step(keyword));
            match keyword.as_str() {
                "$ref" => self.reference(value, at.clone())?,
                "pattern" => {
                    if let Some(pattern) = value.as_str() {
                        self.pattern(pattern, at.clone())?;
                    }
                }
                _ => {}
            }
            self.keyword(keyword, value, &at)?;
        }
        Ok(())
    }

    fn keyword(&mut self, keyword: &str, value: &mut Value, at: &str) -> Result<(), SchemaError> {
        if HOLDS_SCHEMA.contains(&keyword) && !value.is_array() {
            self.schema(value, at)?;
        } else if let (true, Some(schemas)) = (HOLDS_SCHEMAS.contains(&keyword), value.as_array_mut()) {
            for (index, schema) in schemas.iter_mut().enumerate() {
                self.schema(schema, &format!("{at}/{index}"))?;
            }
        } else if let (true, Some(schemas)) = (HOLDS_NAMED_SCHEMAS.contains(&keyword), value.as_object_mut()) {
            for (name, schema) in schemas {
                let at = format!("{at}{}", pointer_step(name));
                if keyword == "patternProperties" {
                    self.pattern(name, at.clone())?;
                }
                self.schema(schema, &at)?;
            }
        }
        Ok(())
    }

    fn reference(&mut self, target: &Value, pointer: String) -> Result<(), SchemaError> {
        self.references += 1;
        if self.references > REFERENCES_MAX {
            let message = format!("the definition has more than {REFERENCES_MAX} $refs: split it");
            return Err(SchemaError { pointer, message });
        }
        match target.as_str() {
            Some(target) if !target.starts_with('#') => {
                let shown: String = target.chars().take(128).collect();
                let message = format!(
                    "$ref {shown:?} leaves the document, and nothing is fetched: copy the schema under \"definitions\" and \
                     refer to it as \"#/definitions/...\""
                );
                Err(SchemaError { pointer, message })
            }
            // What is no text is for the meta-schema to refuse.
            _ => Ok(()),
        }
    }

    fn pattern(&mut self, pattern: &str, pointer: String) -> Result<(), SchemaError> {
        if self.patterns.len() >= PATTERNS_MAX {
            let message = format!("the definition has more than {PATTERNS_MAX} patterns: split it");
            return Err(SchemaError { pointer, message });
        }
        match find_backtracking(pattern) {
            None => {
                self.patterns.push((pattern.to_owned(), pointer));
                Ok(())
            }
            Some(feature) => {
                let message = format!(
                    "the pattern uses {feature}, which cannot be matched in linear time: write it without (combine patterns \
                     with \"allOf\" and \"not\")"
                );
                Err(SchemaError { pointer, message })
            }
        }
    }
}

/// Draft-07 is the only draft; its meta-schema is named with http or https, with or without the empty fragment.
fn check_draft(named: &Value) -> Result<(), String> {
    let Some(named) = named.as_str() else { return Err("$schema must be a string".into()) };
    let name = named.strip_prefix("https").or_else(|| named.strip_prefix("http")).unwrap_or_default();
    match name.strip_suffix('#').unwrap_or(name) {
        "://json-schema.org/draft-07/schema" => Ok(()),
        _ => {
            let shown: String = named.chars().take(128).collect();
            Err(format!("$schema is {shown:?}, but only \"http://json-schema.org/draft-07/schema#\" is taken"))
        }
    }
}

/// What opens a look-ahead or look-behind, after its parenthesis.
const AROUND: [&[u8]; 4] = [b"?=", b"?!", b"?<=", b"?<!"];

/// The first feature of `pattern` that needs backtracking.
fn find_backtracking(pattern: &str) -> Option<&'static str> {
    let mut rest = pattern.as_bytes();
    let mut in_class = false;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'\\' => {
                match after.first() {
                    Some(b'1'..=b'9') if !in_class => return Some("a back-reference"),
                    Some(b'k') if !in_class && after.get(1) == Some(&b'<') => return Some("a back-reference"),
                    _ => {}
                }
                rest = after.get(1..).unwrap_or_default();
            }
            b'[' => in_class = true,
            b']' => in_class = false,
            b'(' if !in_class && AROUND.iter().any(|around| after.starts_with(around)) => return Some("look-around"),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_needs_backtracking_is_found() {
        for good in ["", "^a(b|c)+$", "(?:a)", "(?<name>a)", r"\(?=", "[(?=]", r"[\1]", r"\\1", r"[\]](a)", "a\\"] {
            assert_eq!(find_backtracking(good), None, "{good}");
        }
        for bad in ["(?=a)", "^(?!a)b", "(?<=a)b", "(?<!a)b", r"(a)\1", r"(?<n>a)\k<n>", r"[\]](?=a)"] {
            assert!(find_backtracking(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn data_is_no_schema() {
        let mut definition = json!({
            "properties": { "$ref": { "type": "string" }, "pattern": { "const": { "$ref": "http://a/" } } },
            "enum": [{ "$ref": "file:///a" }],
            "default": { "$ref": "a", "pattern": "(?=a)" },
        });
        assert!(apply(&mut definition).expect("it is good").is_empty());
    }
}
