//! Schemas that no value can satisfy two of: by the type, by the values that they list, or by a member that tells them apart.
//!
//! Two schemas are apart only if that is sure, so what is not looked at can only make them look alike.

use serde_json::{Map, Value};

use super::{
    compiler::{follow, named_types},
    types,
};

/// The most schemas that are compared, each with each.
const SCHEMAS_MAX: usize = 32;

/// Whether no value can be two of `schemas`, which are part of `definition`.
pub(super) fn are_apart(definition: &Value, schemas: &[Value]) -> bool {
    let followed: Option<Vec<&Value>> = schemas.iter().map(|schema| follow(definition, schema)).collect();
    let Some(schemas) = followed.filter(|schemas| schemas.len() <= SCHEMAS_MAX) else { return false };
    schemas
        .iter()
        .enumerate()
        .all(|(at, schema)| schemas[..at].iter().all(|other| are_two_apart(definition, schema, other)))
}

fn are_two_apart(definition: &Value, one: &Value, other: &Value) -> bool {
    let (types_of_one, types_of_other) = (types_at_most(one), types_at_most(other));
    if types_of_one & types_of_other == 0 {
        return true;
    }
    let (Some(one), Some(other)) = (one.as_object(), other.as_object()) else { return false };
    if let (Some(values), Some(others)) = (listed(one), listed(other))
        && share_nothing(values, others)
    {
        return true;
    }
    (types_of_one | types_of_other) == types::OBJECT && have_a_telling_member(definition, one, other)
}

/// All types that a value of `schema` may have, and perhaps more.
fn types_at_most(schema: &Value) -> u8 {
    let keywords = match schema {
        Value::Bool(false) => return 0,
        Value::Object(keywords) => keywords,
        _ => return types::ALL,
    };
    let by_name = keywords.get("type").map_or(Some(types::ALL), named_types).map_or(types::ALL, with_all_numbers);
    let by_value =
        listed(keywords).map_or(types::ALL, |values| values.iter().fold(0, |set, value| set | type_of(value)));
    by_name & by_value
}

/// A number may be an integer whatever it looks like: `1.0`.
fn with_all_numbers(set: u8) -> u8 {
    const NUMBER: u8 = types::INTEGER | types::DECIMAL;
    if set & NUMBER == 0 { set } else { set | NUMBER }
}

fn type_of(value: &Value) -> u8 {
    match value {
        Value::Null => types::NULL,
        Value::Bool(_) => types::BOOLEAN,
        Value::Number(_) => types::INTEGER | types::DECIMAL,
        Value::String(_) => types::STRING,
        Value::Array(_) => types::ARRAY,
        Value::Object(_) => types::OBJECT,
    }
}

/// The only values that a schema takes, if it lists them.
fn listed(keywords: &Map<String, Value>) -> Option<&[Value]> {
    match keywords.get("const") {
        Some(value) => Some(std::slice::from_ref(value)),
        None => keywords.get("enum")?.as_array().map(Vec::as_slice),
    }
}

/// Whether no value is in both lists. Numbers, arrays and objects may be equal though they look different.
fn share_nothing(values: &[Value], others: &[Value]) -> bool {
    let is_plain = |value: &Value| matches!(value, Value::Null | Value::Bool(_) | Value::String(_));
    values.iter().all(|value| {
        others
            .iter()
            .all(|other| value != other && (is_plain(value) || is_plain(other) || type_of(value) != type_of(other)))
    })
}

/// Whether there is a member that both demand, with no value in common, or that one demands and the other forbids.
fn have_a_telling_member(definition: &Value, one: &Map<String, Value>, other: &Map<String, Value>) -> bool {
    let demands = |keywords: &Map<String, Value>, name: &str| {
        let required = keywords.get("required").and_then(Value::as_array);
        required.is_some_and(|names| names.iter().any(|other| other.as_str() == Some(name)))
    };
    let values = |keywords: &'_ Map<String, Value>, name: &str| -> Option<Vec<Value>> {
        let schema = follow(definition, keywords.get("properties")?.get(name)?)?;
        listed(schema.as_object()?).map(<[Value]>::to_vec)
    };
    let forbids = |keywords: &Map<String, Value>, name: &str| {
        keywords.get("additionalProperties") == Some(&Value::Bool(false))
            && !keywords.contains_key("patternProperties")
            && keywords.get("properties").is_none_or(|properties| properties.get(name).is_none())
    };
    let demanded = |keywords: &Map<String, Value>, other: &Map<String, Value>| {
        let names = keywords.get("required").and_then(Value::as_array).into_iter().flatten();
        names.filter_map(Value::as_str).any(|name| forbids(other, name))
    };
    if demanded(one, other) || demanded(other, one) {
        return true;
    }
    let Some(properties) = one.get("properties").and_then(Value::as_object) else { return false };
    properties.keys().any(|name| {
        demands(one, name)
            && demands(other, name)
            && values(one, name)
                .zip(values(other, name))
                .is_some_and(|(values, others)| share_nothing(&values, &others))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Takes the member `name`, and no other.
    fn closed(name: &str) -> Value {
        json!({ "type": "object", "required": [name], "properties": { name: {} }, "additionalProperties": false })
    }

    #[test]
    fn only_what_is_surely_apart_is() {
        let kind = |value: Value| json!({ "type": "object", "required": ["kind"], "properties": { "kind": value } });
        let definition = json!({ "definitions": { "a": kind(json!({ "const": "a" })), "text": { "const": "b" } } });
        for (schemas, apart) in [
            (json!([{ "type": "string" }, { "type": "null" }, { "type": ["array", "object"] }]), true),
            (json!([{ "type": "integer" }, { "type": "number" }]), false),
            (json!([{ "type": "integer" }, { "enum": [1.5] }]), false),
            (json!([{ "type": "string" }, {}]), false),
            (json!([{}, false]), true),
            (json!([true, true]), false),
            (json!([{ "const": "a" }, { "const": "b" }, { "enum": ["c", null] }]), true),
            (json!([{ "const": "a" }, { "enum": ["b", "a"] }]), false),
            (json!([{ "const": 1 }, { "const": 1.0 }]), false),
            (json!([{ "const": 1 }, { "const": 2 }]), false),
            (json!([{ "const": [1] }, { "const": {} }]), true),
            (json!([{ "const": "a", "type": "string" }, { "type": "string" }]), false),
            (json!([{ "$ref": "#/definitions/a" }, kind(json!({ "$ref": "#/definitions/text" }))]), true),
            (json!([{ "$ref": "#/definitions/a" }, { "$ref": "#/definitions/a" }]), false),
            (json!([{ "$ref": "#/definitions/a" }, { "$ref": "#/definitions/missing" }]), false),
            (json!([kind(json!({ "enum": ["x", "y"] })), kind(json!({ "enum": ["z", "y"] }))]), false),
            (
                json!([kind(json!({ "const": "x" })), { "required": ["kind"], "properties": { "kind": { "const": "y" } } }]),
                false,
            ),
            (
                json!([kind(json!({ "const": "x" })), { "type": "object", "properties": { "kind": { "const": "y" } } }]),
                false,
            ),
            (json!([closed("a"), closed("b"), closed("c")]), true),
            (json!([closed("a"), { "type": "object", "required": ["b"] }]), true),
            (json!([closed("a"), { "required": ["b"] }]), false),
            (json!([closed("a"), { "type": "object", "properties": { "b": {} } }]), false),
        ] {
            assert_eq!(are_apart(&definition, schemas.as_array().expect("some schemas")), apart, "{schemas}");
        }
    }
}
