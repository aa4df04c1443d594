//! Which definitions are taken, and what is said about the others.

use serde_json::{Value, json};
use ttdust_shards::{
    ids::SchemaId,
    schema::{CompiledSchema, DEFINITION_BYTES_MAX, SchemaError},
    validate::Validator,
};

fn compile(definition: &str) -> Result<CompiledSchema, SchemaError> {
    CompiledSchema::compile(SchemaId::generate(), 1, definition)
}

fn refusal(definition: &str) -> SchemaError {
    compile(definition).expect_err("a definition to refuse")
}

#[test]
fn good_definitions_are_taken() {
    for definition in [
        json!(true),
        json!(false),
        json!({}),
        json!({ "$schema": "http://json-schema.org/draft-07/schema#", "$id": "https://example.com/a.json" }),
        json!({ "$schema": "https://json-schema.org/draft-07/schema#", "$id": "/relative/1.0.0" }),
        json!({ "$schema": "http://json-schema.org/draft-07/schema", "type": "object" }),
        json!({ "properties": { "$schema": { "type": "string" } }, "unknownKeyword": 1, "format": "unknown-format" }),
        json!({ "definitions": { "a": { "type": "string" } }, "$ref": "#/definitions/a" }),
        json!({ "$defs": { "a": { "$id": "#name", "type": "string" } }, "properties": { "a": { "$ref": "#/$defs/a" } } }),
        json!({ "properties": { "child": { "$ref": "#" } } }),
        json!({ "pattern": "^[\\p{L}\\d_-]{1,64}$", "patternProperties": { "^x-": true } }),
    ] {
        let text = definition.to_string();
        let schema = compile(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(*schema.definition, text);
    }
}

#[test]
fn the_patterns_of_a_new_definition_are_bounded_together_and_stored_ones_go_on() {
    let new = |definition: &str| CompiledSchema::compile_new(SchemaId::generate(), 1, definition);
    // A few dozen bytes each, a megabyte each when compiled.
    let costly = |count: usize| {
        let patterns = (0..count).map(|n| (format!("p{n}"), json!({ "pattern": format!("^\\p{{L}}{{10}}{n}$") })));
        json!({ "properties": patterns.collect::<serde_json::Map<_, _>>() }).to_string()
    };
    assert!(new(&costly(2)).is_ok());
    let refused = new(&costly(60)).expect_err("too much together");
    assert!(refused.pointer.starts_with("/properties/p") && refused.pointer.ends_with("/pattern"), "{refused}");
    assert!(refused.message.contains("16 MiB"), "{refused}");
    assert!(compile(&costly(60)).is_ok() && new(&costly(60)).is_err(), "what is stored compiles as it did");
    let alone = new(&json!({ "pattern": "^\\p{L}{400}$" }).to_string()).expect_err("too much alone");
    assert_eq!(alone.pointer, "/pattern");
    // As many as a definition may have, of the usual kind.
    let usual = ["^[A-Z]{2,3}-[0-9]{4,10}$", "^[^@\\s]+@[^@\\s]+\\.[a-z]{2,}$", "^(active|paused|gone)$", "\\d+"];
    let many = (0..1000).map(|n| (format!("p{n}"), json!({ "pattern": usual[n % usual.len()] })));
    let many = json!({ "properties": many.collect::<serde_json::Map<_, _>>() }).to_string();
    assert_eq!(new(&many).map(drop), Ok(()));
}

#[test]
fn refusals_name_the_place() {
    for (definition, pointer, needle) in [
        (
            json!({ "properties": { "a/b": { "$ref": "http://example.com/s.json" } } }),
            "/properties/a~1b/$ref",
            "leaves",
        ),
        (json!({ "allOf": [{}, { "$ref": "other.json#/a" }] }), "/allOf/1/$ref", "leaves"),
        (
            json!({ "definitions": { "unused": { "$ref": "file:///etc/passwd" } } }),
            "/definitions/unused/$ref",
            "leaves",
        ),
        (
            json!({ "items": { "$schema": "https://json-schema.org/draft/2020-12/schema" } }),
            "/items/$schema",
            "draft-07",
        ),
        (json!({ "properties": { "a": { "pattern": "^(?!a)" } } }), "/properties/a/pattern", "look-around"),
        (json!({ "properties": { "a": { "pattern": "(a)\\1" } } }), "/properties/a/pattern", "back-reference"),
        (json!({ "patternProperties": { "(?<=a)b": {} } }), "/patternProperties/(?<=a)b", "look-around"),
        (json!({ "properties": { "a": { "type": "strin" } } }), "/properties/a/type", "strin"),
        (json!({ "minLength": -1 }), "/minLength", "-1"),
        (json!({ "required": "a" }), "/required", "array"),
        (json!([]), "", "object"),
        (json!("text"), "", "object"),
    ] {
        let error = refusal(&definition.to_string());
        assert_eq!(error.pointer, pointer, "{definition}: {error}");
        assert!(error.message.contains(needle), "{definition}: {error}");
    }
}

#[test]
fn what_cannot_be_compiled_is_refused() {
    for definition in [
        json!({ "$ref": "#/definitions/missing" }),
        json!({ "$ref": "#missing" }),
        json!({ "pattern": "[" }),
        json!({ "pattern": "(?:[a-z]{100}){100}{100}" }),
        json!({ "properties": { "a": { "patternProperties": { "*": {} } } } }),
    ] {
        let error = refusal(&definition.to_string());
        assert!(error.message.len() < 600, "{definition}: {error}");
    }
}

#[test]
fn texts_that_are_no_json_are_refused() {
    for (definition, needle) in [
        ("", "line 1 column 1"),
        ("{\"type\": }", "line 1 column 10 (byte 9)"),
        ("{}{}", "trailing"),
        ("\u{feff}{}", "line 1 column 1"),
        ("{\n\"minimum\": NaN}", "line 2"),
        ("{\"a\": 1e400}", "out of range"),
    ] {
        assert!(refusal(definition).message.contains(needle), "{definition}: {}", refusal(definition));
    }
    let twice = refusal(r##"{"properties":{"a":{"type":"string","type":"number"}}}"##);
    assert_eq!(twice.pointer, "/properties/a");
}

#[test]
fn bounds_hold() {
    let long = json!({ "description": "x".repeat(DEFINITION_BYTES_MAX) }).to_string();
    assert!(refusal(&long).message.contains("bytes"));

    let nest = |levels: usize| format!("{}true{}", "{\"items\":".repeat(levels), "}".repeat(levels));
    assert!(compile(&nest(64)).is_ok());
    assert!(refusal(&nest(65)).message.contains("more than 64"));
    assert!(refusal(&nest(100_000)).message.contains("more than 64"));
    assert!(refusal(&"[".repeat(1_000_000)).message.contains("more than 64"));

    let many = |count: usize, schema: Value| json!({ "allOf": vec![schema; count] }).to_string();
    assert!(
        compile(&many(1024, json!({ "$ref": "#/definitions/a" })).replace('{', "{ ").replacen(
            '{',
            r#"{"definitions":{"a":{}},"#,
            1
        ))
        .is_ok()
    );
    assert!(refusal(&many(1025, json!({ "$ref": "#" }))).message.contains("$refs"));
    assert!(refusal(&many(1025, json!({ "pattern": "^a$" }))).message.contains("patterns"));
}

/// The worst that a definition may ask for and a record may bring, on a thread with the stack that threads have by default.
#[test]
fn deep_records_fit_the_stack() {
    let links = 18;
    for link in ["allOf", "anyOf", "oneOf", "not", "if"] {
        let mut definitions = serde_json::Map::new();
        let mut inner =
            json!({ "properties": { "a": { "$ref": "#/definitions/a0" } }, "items": { "$ref": "#/definitions/a0" } });
        inner["additionalProperties"] = json!(false);
        definitions.insert(format!("a{links}"), json!({ "allOf": [inner, { "not": { "type": "string" } }] }));
        for index in 0..links {
            let reference = json!({ "$ref": format!("#/definitions/a{}", index + 1) });
            let schema = match (link, index % 2) {
                ("not" | "if", 0) => json!({ link: reference, "then": true }),
                (_, 0) => json!({ link: [reference] }),
                _ => reference,
            };
            definitions.insert(format!("a{index}"), schema);
        }
        let definition = json!({ "allOf": [{ "$ref": "#/definitions/a0" }], "definitions": definitions }).to_string();
        let schema = std::sync::Arc::new(compile(&definition).unwrap_or_else(|error| panic!("{link}: {error}")));
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            for leaf in ["1", "\"\""] {
                let record = format!("{}{leaf}{}", open.repeat(64), close.repeat(64));
                let schema = schema.clone();
                let check = move || drop(Validator::default().check_both(&schema, record.as_bytes()));
                let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(check);
                thread.expect("a thread").join().expect("no panic");
            }
        }
    }
}

#[test]
fn chains_and_circles_of_references_are_refused() {
    let long = (0..40).fold(json!(true), |inner, _| json!({ "allOf": [inner] })).to_string();
    assert!(refusal(&long).message.contains("64") || refusal(&long).message.contains("32"));
    let circle = refusal(r##"{"properties":{"a":{"allOf":[{"$ref":"#/properties/a"}]}}}"##);
    assert_eq!(circle.pointer, "/properties/a/allOf/0/$ref");
}
