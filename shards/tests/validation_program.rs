//! The program against the reference: whatever a schema's program accepts, the reference accepts, and it does accept real
//! records.

#[path = "validation/mutate.rs"]
mod mutate;

use std::{fs, fs::File, io::Read as _, path::PathBuf};

use mutate::{Random, mutate};
use serde_json::{Value, json};
use ttdust_shards::{ids::SchemaId, schema::CompiledSchema, validate::Validator};

/// How many mutated records the differential test tries; `TTDUST_MUTATIONS` asks for more.
const MUTATIONS: usize = 6_000;

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/data").join(name)
}

fn schema(definition: &str) -> CompiledSchema {
    CompiledSchema::compile(SchemaId::generate(), 1, definition).unwrap_or_else(|error| panic!("{error}: {definition}"))
}

fn schema_file(name: &str) -> CompiledSchema {
    schema(&fs::read_to_string(data(name)).expect("the schema is part of the repository"))
}

fn flights() -> Vec<String> {
    let mut lines = String::new();
    let file = File::open(data("flights.jsonl.gz")).expect("the flights are part of the repository");
    flate2::read::GzDecoder::new(file).read_to_string(&mut lines).expect("whole gzip data");
    lines.lines().map(str::to_owned).collect()
}

fn click(number: u64) -> String {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!(
        concat!(
            r#"{{"event_id":"018f4e3c-5b7a-7c21-9d3e-{:012x}","timestamp":"2024-05-06T07:{:02}:{:02}.{:03}Z","#,
            r#""event_type":"click","user_id":"u_{:08}","session_id":"s_{:016x}","url":"/products/{:04}?color=green","#,
            r#""referrer":null,"duration_ms":{},"device":{{"type":"mobile","os":"Android 14","screen_width":1080}},"#,
            r#""score":0.{:04}}}"#
        ),
        mixed & 0xffff_ffff_ffff,
        mixed % 60,
        mixed / 60 % 60,
        mixed % 1000,
        mixed % 100_000_000,
        mixed,
        mixed % 10_000,
        1000 + mixed % 9000,
        mixed % 10_000,
    )
}

/// Whether the program accepts; makes sure that the reference then does, too, and that `check` says what the reference says.
fn accepts(validator: &mut Validator, schema: &CompiledSchema, record: &[u8]) -> bool {
    let shown = || String::from_utf8_lossy(&record[..record.len().min(1000)]).into_owned();
    let accepted = validator.check_program(schema, record).unwrap_or_else(|| panic!("no program: {}", shown()));
    let (_, reference) = validator.check_both(schema, record);
    assert!(!accepted || reference.is_ok(), "accepted by the program alone: {} {reference:?}", shown());
    assert_eq!(validator.check(schema, record), reference, "{}", shown());
    accepted
}

#[test]
fn real_records_take_the_program() {
    let mut validator = Validator::default();
    let (flight, clicked) = (schema_file("flights.schema.json"), schema_file("clicks.schema.json"));
    let flights = flights();
    assert_eq!(flights.len(), 20_000);
    for (line, record) in flights.iter().enumerate() {
        assert_eq!(validator.check_program(&flight, record.as_bytes()), Some(true), "line {line}: {record}");
        let record = click(line as u64);
        assert_eq!(validator.check_program(&clicked, record.as_bytes()), Some(true), "{record}");
    }
}

#[test]
fn real_schemas_have_programs_that_take_their_own_examples() {
    let mut lines = String::new();
    let file = File::open(data("wikimedia/histories.jsonl.gz")).expect("the histories are part of the repository");
    flate2::read::GzDecoder::new(file).read_to_string(&mut lines).expect("whole gzip data");
    let mut validator = Validator::default();
    let (mut schemas, mut valid, mut taken) = (0, 0, 0);
    for line in lines.lines() {
        let history: Value = serde_json::from_str(line).expect("a history");
        for version in history["versions"].as_array().expect("it has versions") {
            let definition = &version["definition"];
            let compiled = schema(&definition.to_string());
            schemas += 1;
            for example in definition["examples"].as_array().into_iter().flatten() {
                let text = example.to_string();
                let accepted = accepts(&mut validator, &compiled, text.as_bytes());
                valid += usize::from(validator.check(&compiled, text.as_bytes()).is_ok());
                taken += usize::from(accepted);
                // The same without what its schema demands, and with every slash escaped, as some producers do.
                let fewer = text.replacen("\"$schema\"", "\"$scheme\"", 1);
                accepts(&mut validator, &compiled, fewer.as_bytes());
                let escaped = text.replace('/', "\\/");
                assert_eq!(accepts(&mut validator, &compiled, escaped.as_bytes()), accepted, "{escaped}");
            }
        }
    }
    println!("{schemas} schemas, {valid} valid examples, {taken} taken by programs");
    assert_eq!(schemas, 28);
    assert!(valid >= 20 && taken == valid, "{valid} {taken}");
}

#[test]
fn the_order_and_the_spacing_of_members_do_not_matter() {
    let flight = schema_file("flights.schema.json");
    let mut validator = Validator::default();
    for record in flights().iter().take(500) {
        // `Value` sorts the members.
        let value: Value = serde_json::from_str(record).expect("a flight");
        for text in [value.to_string(), serde_json::to_string_pretty(&value).expect("text"), record.clone()] {
            assert!(accepts(&mut validator, &flight, text.as_bytes()), "{text}");
        }
        let mut fewer = value.clone();
        fewer.as_object_mut().expect("an object").remove("tailnum");
        assert!(accepts(&mut validator, &flight, fewer.to_string().as_bytes()));
        fewer.as_object_mut().expect("an object").remove("dest");
        assert!(!accepts(&mut validator, &flight, fewer.to_string().as_bytes()));
    }
}

#[test]
fn the_official_suite_is_never_accepted_wrongly() {
    let (mut programs, mut accepted, mut valid) = (0, 0, 0);
    let mut validator = Validator::default();
    for under in ["", "optional", "optional/format"] {
        for entry in fs::read_dir(data("json-schema-test-suite/draft7").join(under)).expect("the suite") {
            let path = entry.expect("a readable directory").path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let groups: Vec<Value> = serde_json::from_slice(&fs::read(&path).expect("a file")).expect("JSON");
            for group in groups {
                let definition = group["schema"].to_string();
                let Ok(schema) = CompiledSchema::compile(SchemaId::generate(), 1, &definition) else { continue };
                for test in group["tests"].as_array().expect("a group has tests") {
                    let text = test["data"].to_string();
                    let Some(verdict) = validator.check_program(&schema, text.as_bytes()) else { continue };
                    let expected = test["valid"] == true;
                    assert!(!verdict || expected, "{}: {definition} {text}", path.display());
                    programs += 1;
                    accepted += usize::from(verdict);
                    valid += usize::from(expected);
                    accepts(&mut validator, &schema, text.as_bytes());
                }
            }
        }
    }
    println!("{programs} with a program, {valid} valid, {accepted} accepted by it");
    assert!(programs > 350 && accepted * 10 > valid * 7, "{programs} {valid} {accepted}");
}

#[test]
fn what_a_program_does_not_know_has_none() {
    let mut validator = Validator::default();
    for definition in [
        json!({ "properties": { "a": { "not": {} } } }),
        json!({ "items": [true] }),
        json!({ "if": true, "then": true }),
        json!({ "contains": true }),
        json!({ "dependencies": { "a": ["b"] } }),
        json!({ "propertyNames": true }),
        json!({ "patternProperties": {} }),
        json!({ "oneOf": [{ "type": "integer" }, { "type": "number" }] }),
        json!({ "multipleOf": 0.5 }),
        json!({ "contentEncoding": "base32" }),
        json!({ "contentMediaType": "application/json" }),
        json!({ "format": "regex" }),
        json!({ "unknownKeyword": 1 }),
        json!({ "properties": { "a\"b": true } }),
        json!({ "definitions": { "a": { "$id": "http://x/y" } }, "items": { "$ref": "#/definitions/a" } }),
        json!({ "properties": (0..256).map(|n| (format!("k{n}"), json!(true))).collect::<serde_json::Map<_, _>>() }),
    ] {
        assert_eq!(validator.check_program(&schema(&definition.to_string()), b"1"), None, "{definition}");
    }
}

/// Texts that are accepted, and texts that are not (because they are wrong, or because the program leaves them to others).
fn table(definition: &Value, good: &[&str], bad: &[&[u8]]) {
    let schema = schema(&definition.to_string());
    let mut validator = Validator::default();
    for text in good {
        assert!(accepts(&mut validator, &schema, text.as_bytes()), "{definition}: {text}");
    }
    for text in bad {
        assert!(!accepts(&mut validator, &schema, text), "{definition}: {}", String::from_utf8_lossy(text));
    }
}

/// Texts that are no JSON, that name a member twice, or that only the reference may judge.
const NOT_PLAIN_JSON: &[&[u8]] = &[
    b"",
    b" ",
    b"\xef\xbb\xbf{}",
    b"{}\0",
    b"{}{}",
    b"{} x",
    b"[1,]",
    b"{\"a\":1,}",
    b"{,}",
    b"[,1]",
    b"{\"a\"}",
    b"{\"a\" 1}",
    b"{a:1}",
    b"{'a':1}",
    b"[1 2]",
    b"[1",
    b"]",
    b"{",
    b"[",
    b"\"abc",
    b"\"",
    b"\"a\nb\"",
    b"\"\0\"",
    b"01",
    b"-01",
    b"+1",
    b"1.",
    b".5",
    b"-",
    b"1e",
    b"1e+",
    b"1.e1",
    b"1x",
    b"0x10",
    b"1_0",
    b"--1",
    b"1.5.5",
    b"1e400",
    b"-1e400",
    b"1e99999999999",
    b"NaN",
    b"Infinity",
    b"nul",
    b"nulll",
    b"truex",
    b"True",
    b"\"\\x\"",
    b"\"\\u12\"",
    br#""\ud800""#,
    br#""\udc00""#,
    br#""\ud800\u0041""#,
    br#""\udc00\ud800""#,
    b"\"\xff\"",
    b"\"\xc0\x80\"",
    b"\"\xed\xa0\x80\"",
    b"\"\xf4\x90\x80\x80\"",
    b"\"\xc3\"",
    b"{\"a\xff\":1}",
    b"\"0123456789\xff\"",
    b"[1,/*c*/2]",
    b"\xc2\xa01",
    b"\x0c1",
    br#"{"a":1,"a":2}"#,
    br#"{"a":1,"\u0061":2}"#,
    br#"{"":1,"":2}"#,
    br#"{"b":{"x":1,"y":{},"x":2}}"#,
    br#"{"\n":1}"#,
    b"9223372036854775808",
    b"-9223372036854775809",
    b"12345678901234567890",
    b"-0",
];

#[test]
fn text_that_is_no_json_is_never_accepted() {
    let deep = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
    let members = |count: usize| {
        let members: Vec<_> = (0..count).map(|n| format!("\"k{n}\":{n}")).collect();
        format!("{{{}}}", members.join(","))
    };
    let nested = [deep(65), deep(100), "[".repeat(100_000), members(100)];
    let bad: Vec<&[u8]> = NOT_PLAIN_JSON.iter().copied().chain(nested.iter().map(String::as_bytes)).collect();
    table(
        &json!({}),
        &[
            " {\"a\" : [ 1 , -2.5 , 1e9 , 1E-09, -0.0, null , true , false , \"x\" ] }\r\n\t",
            "[]",
            "{}",
            "\"\\u0000\\n\\ud83d\\ude00é\"",
            "\"\u{7f}\u{80}\u{10ffff}\"",
            &deep(64),
            &members(64),
            "{\"a\":{\"a\":1},\"b\":{\"a\":1}}",
        ],
        &bad,
    );
}

#[test]
fn names_are_told_apart() {
    table(
        &json!({
            "properties": { "a": { "type": "integer" }, "ab": true, "a_name_of_many_letters": true, "é": true },
            "required": ["a", "x"],
            "additionalProperties": { "type": "string" },
            "maxProperties": 5,
        }),
        &[
            r#"{"a":1,"x":"","ab":1,"é":[],"a_name_of_many_letters":0}"#,
            r#"{"x":"","a":1,"abc":"","a_name_of_many_letterz":""}"#,
            r#"{"a" : 1, "x": "y"}"#,
        ],
        &[
            br#"{"a":1}"#,
            br#"{"x":""}"#,
            br#"{"a":1,"x":1}"#,
            br#"{"a":"1","x":""}"#,
            br#"{"a":1,"x":"","a":1}"#,
            br#"{"a":1,"x":"","x":""}"#,
            br#"{"a":1,"x":"","ab":1,"ab":1}"#,
            br#"{"a":1,"x":"","\u0061b":1}"#,
            br#"{"a":1,"x":"","p":"","q":"","r":"","s":""}"#,
            b"{\"a\":1,\"x\":\"\",\"\xc3\xa9\":1,\"\xc3\xa9\":1}",
            br#"{"a":1,"x":"","b":1}"#,
            b"{\"a\":1,\"x\":\"\",\"\xc3\":\"\"}",
        ],
    );
    // A name that must be UTF-8 although it is met as expected.
    table(
        &json!({ "properties": { "é": true } }),
        &[r#"{"é":"a long enough text to be guessed"}"#],
        &[b"{\"\xc3\xa9\":\"a long enough text \xc3 \"}"],
    );
}

#[test]
fn numbers_keep_their_bounds() {
    table(
        &json!({ "type": "integer" }),
        &["0", "-1", "999999999999999999", "9223372036854775806", "-9223372036854775807", "1.0", "-0.0", "2.000"],
        &[b"1e2", b"-0", b"0.5", b"1.0000000000000000", b"true", b"\"1\"", b"9223372036854775808"],
    );
    table(
        &json!({ "type": "number", "minimum": 0, "maximum": 1 }),
        &["0", "1", "0.5", "1.0", "0.8125123456789012", "-0.0", "1e-1", "0.000000000000001", "0.00100000000000000001"],
        &[b"-0.1", b"1.1", b"2", b"-1", b"1.000000000000001", b"1.00000000000000000001", b"1e1", b"-1e-9", b"1e400"],
    );
    table(
        &json!({ "exclusiveMinimum": -2, "exclusiveMaximum": 2 }),
        &["-1", "1", "1.9", "-1.9", "1.99999999999999", "0.0", "\"no number\""],
        &[b"-2", b"2", b"2.0", b"-2.0", b"1.99999999999999999999", b"2.5", b"-2.5", b"2e0"],
    );
    table(
        &json!({ "minimum": -0.5, "maximum": 90.0 }),
        &["0", "90", "90.0", "89.9", "0.3", "-0.3", "-0.4999"],
        &[b"-1", b"-0.6", b"90.1", b"91", b"90.00000000000000001"],
    );
    table(
        &json!({ "maximum": 9223372036854775806u64 }),
        &["1", "1.5", "-3", "9223372036854775806"],
        &[b"9223372036854775807", b"9223372036854775808", b"1e30", b"9223372036854775805.5"],
    );
    table(
        &json!({ "enum": [1, "a", null, true, 2.5, [1]] }),
        &["1", "\"a\"", "null", "true", "\"\\u0061\""],
        &[b"2", b"\"b\"", b"false", b"2.5", b"[1]", b"{}", b"1.0", b"\"\\u0062\"", b"\"aa\"", b"\"\""],
    );
    table(&json!({ "const": false }), &["false"], &[b"0", b"true", b"null", b"\"false\""]);
}

#[test]
fn strings_keep_their_lengths_and_forms() {
    table(
        &json!({ "type": "string", "minLength": 2, "maxLength": 3 }),
        &["\"ab\"", "\"éé\"", "\"ééé\"", "\"😀😀😀\"", "\"漢字\""],
        &[
            b"\"a\"",
            b"\"abcd\"",
            "\"é\"".as_bytes(),
            "\"😀😀😀😀\"".as_bytes(),
            br#""\ud83d\ude00""#,
            br#""\u0061bcd""#,
            b"\"\xc3\xc3\"",
            b"1",
        ],
    );
    table(
        &json!({ "minLength": 1, "maxLength": 20 }),
        &[r#""\ud83d\ude00""#, r#""a\nb""#],
        &[b"\"\"", b"\"123456789012345678901\""],
    );
    table(&json!({ "minLength": 2 }), &[], &[br#""\ud83d\ude00""#, br#""\n""#]);
    table(
        &json!({ "pattern": "^[A-Z]{3}$" }),
        &["\"ABC\"", "1", "\"\\u0041BC\""],
        &[b"\"ABc\"", b"\"ABCD\"", b"\"AB\"", b"\"ABC\\n\"", b"\"\\u0061BC\""],
    );
    table(&json!({ "pattern": "a+b|é" }), &["\"xaab\"", "\"é\""], &[b"\"a\"", b"\"\xe9\""]);
    table(
        &json!({ "format": "date-time" }),
        &["\"2024-02-29T23:59:59.5+01:00\""],
        &[
            b"\"2013-02-30T00:00:00Z\"",
            b"\"2023-02-29T00:00:00Z\"",
            b"\"2013-02-03t00:00:00z\"",
            b"\"2016-12-31T23:59:60Z\"",
        ],
    );
    table(
        &json!({ "items": { "type": "integer" }, "minItems": 1, "maxItems": 2 }),
        &["[1]", "[1,2]", "{}", "[1,2.0]"],
        &[b"[]", b"[1,2,3]", b"[\"a\"]", b"[1,2.5]"],
    );
    table(
        &json!({ "$ref": "#/definitions/tree", "type": "null", "definitions": { "tree": { "type": "object", "required": ["n"],
            "properties": { "n": { "type": "integer" }, "kids": { "items": { "$ref": "#/definitions/tree" } } } } } }),
        &[r#"{"n":1,"kids":[{"n":2},{"n":3,"kids":[]}]}"#],
        &[b"null", br#"{"n":1,"kids":[{"n":"2"}]}"#, br#"{"n":1,"kids":[{"kids":[]}]}"#],
    );
}

#[test]
fn branches_are_tried() {
    table(
        &json!({ "anyOf": [{ "type": "string", "maxLength": 2 }, { "type": "null" }, { "type": "string", "pattern": "^x" }] }),
        &["\"ab\"", "null", "\"xyz\""],
        &[b"\"abc\"", b"1", b"nul", b"\"x", b"[]"],
    );
    let shape = |kind: &str, size: &str| {
        json!({ "type": "object", "required": ["kind", size], "additionalProperties": false,
            "properties": { "kind": { "const": kind }, size: { "type": "number" } } })
    };
    table(
        &json!({ "items": { "oneOf": [shape("circle", "radius"), shape("square", "side"), { "type": "null" }] } }),
        &[r#"[{"kind":"circle","radius":1},{"side":2,"kind":"square"},null]"#],
        &[
            br#"[{"kind":"circle","side":1}]"#,
            br#"[{"kind":"square","side":1,"side":1}]"#,
            b"[1]",
            br#"[{"kind":"square"}]"#,
        ],
    );
    table(
        &json!({ "allOf": [{ "$ref": "#/definitions/a" }, { "required": ["b"] }], "maxProperties": 3,
            "definitions": { "a": { "properties": { "a": { "type": "integer" } }, "required": ["a"] } } }),
        &[r#"{"a":1,"b":2}"#, r#"{"b":{"c":[]},"a":1,"x":0}"#, "[]", "1"],
        &[br#"{"a":1}"#, br#"{"b":1}"#, br#"{"a":"1","b":2}"#, br#"{"a":1,"b":2,"c":3,"d":4}"#],
    );
    // Unknown members of a branch that failed do not count for the next one.
    table(
        &json!({ "anyOf": [{ "type": "object", "required": ["z"] }, { "type": "object", "required": ["a"] }] }),
        &[r#"{"a":{"k":1,"l":2},"k":1,"l":2}"#, r#"{"k":1,"z":0}"#],
        &[br#"{"k":1}"#, br#"{"a":{"k":1,"k":2}}"#],
    );
}

/// Two branches a level would be looked at 2^64 times.
#[test]
fn what_branches_may_cost_is_bounded() {
    let node = |name: &str| json!({ "properties": { "a": { "$ref": "#/definitions/n" } }, "required": [name] });
    let any = json!({ "$ref": "#/definitions/n", "definitions": { "n": { "anyOf": [node("x"), node("a")] } } });
    let all = json!({ "$ref": "#/definitions/n", "definitions": { "n": { "allOf": [node("a"), node("a")] } } });
    let mut validator = Validator::default();
    for definition in [any, all] {
        let schema = schema(&definition.to_string());
        let record = format!("{}1{}", "{\"a\":".repeat(64), "}".repeat(64));
        let began = std::time::Instant::now();
        assert_eq!(validator.check_program(&schema, record.as_bytes()), Some(false));
        assert!(began.elapsed().as_secs() < 5, "{:?}", began.elapsed());
        assert_eq!(validator.check_program(&schema, br#"{"a":{"a":1}}"#), Some(true));
    }
}

#[test]
fn elements_that_must_differ_do() {
    let many: Vec<_> = (0..64).map(|number| format!("\"e{number}\"")).collect();
    let twice = format!("[{},\"e7\"]", many[..60].join(","));
    table(
        &json!({ "uniqueItems": true }),
        &["[]", "[1,2,-1,\"1\",\"\",null,true,false]", &format!("[{}]", many.join(",")), "{}"],
        &[b"[1,1]", b"[\"a\",\"a\"]", b"[1,1.0]", b"[\"a\",\"\\u0061\"]", b"[null,null]", twice.as_bytes(), b"[{},{}]"],
    );
    table(
        &json!({ "properties": { "a": { "uniqueItems": true }, "b": { "$ref": "#/properties/a" } } }),
        &["{\"x\":[1,1],\"a\":[1,2],\"y\":0,\"b\":[1,2]}"],
        &[b"{\"a\":[1,2],\"b\":[2,2]}"],
    );
    table(&json!({ "multipleOf": 3 }), &["0", "-3", "9", "\"\""], &[b"1", b"-4", b"3.0", b"3e0", b"1.5"]);
}

#[test]
fn wide_objects_are_told_member_by_member() {
    let name = |number: usize| format!("column_{number}");
    let properties: serde_json::Map<_, _> = (0..255).map(|n| (name(n), json!({ "type": "integer" }))).collect();
    let required: Vec<_> = (0..255).map(name).collect();
    let definition = json!({ "properties": properties, "required": required, "additionalProperties": false });
    let text = |numbers: &[usize]| {
        let members: Vec<_> = numbers.iter().map(|number| format!("\"{}\":{number}", name(*number))).collect();
        format!("{{{}}}", members.join(","))
    };
    let all: Vec<usize> = (0..255).rev().collect();
    let others: Vec<String> = [0, 63, 64, 127, 128, 191, 192, 254]
        .into_iter()
        .flat_map(|left_out| {
            let without: Vec<usize> = all.iter().copied().filter(|number| *number != left_out).collect();
            let twice = [&all[..], &[left_out]].concat();
            [text(&without), text(&twice)]
        })
        .collect();
    let others: Vec<&[u8]> = others.iter().map(String::as_bytes).collect();
    table(&definition, &[&text(&all)], &others);
}

#[test]
fn the_program_never_accepts_what_the_reference_refuses() {
    let asked = std::env::var("TTDUST_MUTATIONS").ok().and_then(|text| text.parse().ok());
    let flights = flights();
    let loose = r#"{"properties":{"flight":{"type":"number","exclusiveMinimum":0.5},"delay":{"additionalProperties":
        {"type":["integer","null","object"]},"minProperties":1},"carrier":{"pattern":"^[A-Z]|\\d"},"user_id":{"minLength":3},
        "url":{"maxLength":40},"tailnum":{"enum":["N14228",null,1]}},"required":["timestamp"]}"#;
    let branched = r#"{"anyOf":[{"properties":{"flight":{"type":"integer"},"user_id":{"format":"json-pointer"}},
        "required":["flight"]},{"required":["url"],"properties":{"url":{"format":"uri-reference"},"device":{"allOf":
        [{"required":["os"]},{"minProperties":2}]}}},{"type":"null"}],"allOf":[true,{"maxProperties":16}]}"#;
    let schemas = [
        (schema_file("flights.schema.json"), true),
        (schema_file("clicks.schema.json"), false),
        (schema(loose), true),
        (schema(loose), false),
        (schema(branched), true),
        (schema(branched), false),
        (schema("true"), true),
        (schema("{}"), false),
    ];
    let mut random = Random(0x5eed_4321_dcba_0007);
    let mut validator = Validator::default();
    let (mut accepted, mut left, mut refused) = (0u64, 0u64, 0u64);
    for round in 0..asked.unwrap_or(MUTATIONS) {
        let (schema, is_flight) = &schemas[round % schemas.len()];
        let mut pick = || match is_flight {
            true => flights[random.below(flights.len())].clone(),
            false => click(random.next()),
        };
        let (record, donor) = (pick(), pick());
        let mutated = mutate(record.as_bytes(), donor.as_bytes(), &mut random);
        let program = validator.check_program(schema, &mutated).expect("each has a program");
        let (_, reference) = validator.check_both(schema, &mutated);
        match (program, reference.is_ok()) {
            (true, true) => accepted += 1,
            (false, true) => left += 1,
            (false, false) => refused += 1,
            (true, false) => panic!("round {round}: {} {reference:?}", String::from_utf8_lossy(&mutated)),
        }
    }
    println!("{accepted} accepted, {left} left to the reference, which accepts, {refused} refused");
    assert!(accepted > 500 && refused > 500 && left < accepted, "{accepted} {left} {refused}");
}
