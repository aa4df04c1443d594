//! How many schemas one value may run through before validation goes into its members: the stack that a record can make
//! validation use is this times the depth of the record. Bounded here, because a stack overflow ends the process.
//!
//! Schemas meet the same value by `$ref`, `allOf`, `anyOf`, `oneOf`, `not`, `if`, `then`, `else` and `dependencies`. All the
//! recursion here is bounded by [`CHAIN_MAX`] or by the depth of the definition.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::{SchemaError, text::pointer_step};

/// The most schemas that one value may run through.
pub(crate) const CHAIN_MAX: usize = 32;

/// A schema, and the nearest schema around it with an `$id`, to which its `$ref`s are relative.
#[derive(Clone, Copy)]
struct Place<'a> {
    schema: &'a Value,
    base: &'a Value,
}

/// Makes sure that no value runs through more than [`CHAIN_MAX`] schemas, or round in a circle.
pub(super) fn check(definition: &Value) -> Result<(), SchemaError> {
    let mut chains = Chains::default();
    let root = Place { schema: definition, base: definition };
    chains.name(root);
    let mut waiting = vec![(root, String::new())];
    let mut begun = HashSet::new();
    while let Some((place, pointer)) = waiting.pop() {
        if begun.insert(std::ptr::from_ref(place.schema)) {
            chains.measure(place, &pointer, 0)?;
            waiting.append(&mut chains.below);
        }
    }
    Ok(())
}

#[derive(Default)]
struct Chains<'a> {
    /// Schemas by the name in their `$id` (`#name`). One name may stand in several places: all are followed.
    named: HashMap<&'a str, Vec<Place<'a>>>,
    /// The longest chain from a schema; `None` while it is being measured.
    measured: HashMap<*const Value, Option<usize>>,
    /// Schemas for members and elements: chains begin anew there.
    below: Vec<(Place<'a>, String)>,
}

impl<'a> Chains<'a> {
    /// Finds the named schemas, wherever they stand.
    fn name(&mut self, place: Place<'a>) {
        let Place { schema: value, .. } = place;
        let base = base_at(place);
        match value {
            Value::Object(members) => {
                if let Some(name) = members.get("$id").and_then(Value::as_str).and_then(|id| id.strip_prefix('#')) {
                    self.named.entry(name).or_default().push(Place { schema: value, base });
                }
                for schema in members.values() {
                    self.name(Place { schema, base });
                }
            }
            Value::Array(elements) => {
                for schema in elements {
                    self.name(Place { schema, base });
                }
            }
            _ => {}
        }
    }

    /// The longest chain that begins with `place`, which is the `above`th of its own.
    fn measure(&mut self, place: Place<'a>, pointer: &str, above: usize) -> Result<usize, SchemaError> {
        let Some(keywords) = place.schema.as_object() else { return Ok(1) };
        let key = std::ptr::from_ref(place.schema);
        match self.measured.get(&key) {
            Some(Some(length)) if above + length <= CHAIN_MAX => return Ok(*length),
            Some(None) => {
                return Err(SchemaError {
                    pointer: pointer.to_owned(),
                    message: "this schema refers back to itself for the same value: validation would not end"
                        .to_owned(),
                });
            }
            _ => {}
        }
        if above >= CHAIN_MAX {
            let message = format!(
                "one value runs through more than {CHAIN_MAX} schemas: shorten the chain of $ref, allOf, anyOf, ..."
            );
            return Err(SchemaError { pointer: pointer.to_owned(), message });
        }
        self.measured.insert(key, None);
        let mut longest = 0;
        for (next, pointer) in self.same_value(place, keywords, pointer) {
            longest = longest.max(self.measure(next, &pointer, above + 1)?);
        }
        self.measured.insert(key, Some(longest + 1));
        Ok(longest + 1)
    }

    /// The schemas that the value at `place` runs through next. Those for its members go to `below`.
    fn same_value(
        &mut self,
        place: Place<'a>,
        keywords: &'a Map<String, Value>,
        pointer: &str,
    ) -> Vec<(Place<'a>, String)> {
        let base = base_at(place);
        if let Some(target) = keywords.get("$ref").and_then(Value::as_str) {
            // In draft-07 a $ref stands alone: what is beside it is not looked at.
            let at = format!("{pointer}/$ref");
            return self.resolve(base, target).into_iter().map(|place| (place, at.clone())).collect();
        }
        let mut same = Vec::new();
        for (keyword, value) in keywords {
            let at = format!("{pointer}{}", pointer_step(keyword));
            let into = match keyword.as_str() {
                "allOf" | "anyOf" | "oneOf" | "not" | "if" | "then" | "else" | "dependencies" => &mut same,
                "additionalItems"
                | "additionalProperties"
                | "contains"
                | "items"
                | "patternProperties"
                | "properties"
                | "propertyNames" => &mut self.below,
                _ => continue,
            };
            match (keyword.as_str(), value) {
                ("dependencies" | "patternProperties" | "properties", Value::Object(schemas)) => {
                    into.extend(
                        schemas
                            .iter()
                            .map(|(name, schema)| (Place { schema, base }, format!("{at}{}", pointer_step(name)))),
                    );
                }
                (_, Value::Array(schemas)) => into.extend(
                    schemas.iter().enumerate().map(|(index, schema)| (Place { schema, base }, format!("{at}/{index}"))),
                ),
                (_, schema) => into.push((Place { schema, base }, at)),
            }
        }
        same
    }

    /// What `target` (`#...`) refers to; nothing if it does not exist, which compiling the schema refuses.
    fn resolve(&self, base: &'a Value, target: &str) -> Vec<Place<'a>> {
        let fragment = decode_percent(target.strip_prefix('#').unwrap_or(target));
        if fragment.is_empty() {
            return vec![Place { schema: base, base }];
        }
        let Some(path) = fragment.strip_prefix('/') else {
            return self.named.get(fragment.as_str()).cloned().unwrap_or_default();
        };
        let mut place = Place { schema: base, base };
        for token in path.split('/') {
            let token = token.replace("~1", "/").replace("~0", "~");
            let next = match place.schema {
                Value::Object(members) => members.get(&token),
                Value::Array(elements) => token.parse::<usize>().ok().and_then(|index| elements.get(index)),
                _ => None,
            };
            let Some(schema) = next else { return Vec::new() };
            place = Place { schema, base: base_at(place) };
        }
        vec![place]
    }
}

/// The schema to which `$ref`s in `place` are relative: itself, if it has an `$id` that is more than a name.
fn base_at<'a>(place: Place<'a>) -> &'a Value {
    let has_id = place.schema.as_object().is_some_and(|keywords| {
        !keywords.contains_key("$ref")
            && keywords.get("$id").and_then(Value::as_str).is_some_and(|id| !id.starts_with('#'))
    });
    if has_id { place.schema } else { place.base }
}

/// `fragment` with `%41` as `A`; what is no such escape, or no UTF-8 then, stays.
fn decode_percent(fragment: &str) -> String {
    let mut decoded = Vec::with_capacity(fragment.len());
    let mut rest = fragment.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let escape = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match escape.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(value) if byte == b'%' => {
                decoded.push(value);
                rest = &after[2..];
            }
            _ => {
                decoded.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8(decoded).unwrap_or_else(|_| fragment.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_links_for_the_same_value_count() {
        let mut deep = json!({ "$ref": "#" });
        for _ in 0..40 {
            deep = json!({ "properties": { "a": deep } });
        }
        assert_eq!(check(&deep), Ok(()));
        let chain = |links: usize| {
            let mut definitions = Map::new();
            for link in 0..links {
                definitions.insert(format!("a b{link}"), json!({ "$ref": format!("#/definitions/a%20b{}", link + 1) }));
            }
            definitions.insert(format!("a b{links}"), json!({ "$id": "#end" }));
            json!({ "items": [{ "$ref": "#/definitions/a%20b0" }, { "$ref": "#end" }], "definitions": definitions })
        };
        assert_eq!(check(&chain(CHAIN_MAX - 2)), Ok(()));
        let error = check(&chain(CHAIN_MAX - 1)).expect_err("too long");
        assert!(error.message.contains("more than 32"), "{error}");
    }

    #[test]
    fn a_measured_tail_counts_for_every_head() {
        let tail = (0..20).fold(json!(true), |inner, _| json!({ "not": inner }));
        let heads = (0..20).fold(json!({ "$ref": "#/definitions/tail" }), |inner, _| json!({ "allOf": [inner] }));
        let definition = json!({
            "properties": { "a": { "$ref": "#/definitions/tail" }, "b": heads },
            "definitions": { "tail": tail },
        });
        assert!(check(&definition).is_err());
    }

    #[test]
    fn circles_are_refused() {
        for circle in [
            json!({ "$ref": "#" }),
            json!({ "allOf": [{ "anyOf": [{ "$ref": "#" }] }] }),
            json!({ "properties": { "a": { "$id": "#a", "not": { "$ref": "#a" } } } }),
            json!({ "items": { "$id": "http://a.example/b", "if": { "$ref": "#" } } }),
        ] {
            assert!(check(&circle).expect_err("a circle").message.contains("itself"), "{circle}");
        }
        assert_eq!(check(&json!({ "items": { "$ref": "#" }, "properties": { "a": { "$ref": "#" } } })), Ok(()));
    }
}
