//! Records against schemas: real data, broken real data, hostile data.

#[path = "validation/mutate.rs"]
mod mutate;

use std::{fs::File, io::Read as _, path::PathBuf};

use mutate::{Random, mutate};
use serde_json::json;
use ttdust_shards::{
    ids::SchemaId,
    schema::CompiledSchema,
    validate::{
        DUPLICATE_KEY, FIELD_ERRORS_MAX, Invalid, NOT_JSON, NUMBER_OUT_OF_RANGE, SCHEMA_VIOLATION, TOO_DEEP,
        TapeVerdict, Validator,
    },
};

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/data").join(name)
}

fn schema(definition: &str) -> CompiledSchema {
    CompiledSchema::compile(SchemaId::generate(), 1, definition).unwrap_or_else(|error| panic!("{error}: {definition}"))
}

fn flights() -> (CompiledSchema, Vec<String>) {
    let mut lines = String::new();
    let file = File::open(data("flights.jsonl.gz")).expect("the flights are part of the repository");
    flate2::read::GzDecoder::new(file).read_to_string(&mut lines).expect("whole gzip data");
    let definition = std::fs::read_to_string(data("flights.schema.json")).expect("as are their schema");
    (schema(&definition), lines.lines().map(str::to_owned).collect())
}

const CLICK: &str = r#"{"event_id":"018f4e3c-5b7a-7c21-9d3e-2f6a81c4b90d","timestamp":"2024-05-06T07:08:09.123Z","event_type":"click","user_id":"u_48151623","session_id":"s_9f86d081884c7d65","url":"/products/4711?color=green","referrer":null,"duration_ms":1834,"device":{"type":"mobile","os":"Android 14","screen_width":1080},"score":0.8125}"#;

fn clicks() -> CompiledSchema {
    schema(&std::fs::read_to_string(data("clicks.schema.json")).expect("the schema is part of the repository"))
}

fn refusal(schema: &CompiledSchema, record: impl AsRef<[u8]>) -> Invalid {
    let record = record.as_ref();
    match Validator::default().check(schema, record) {
        Err(invalid) => *invalid,
        Ok(()) => panic!("accepted: {}", String::from_utf8_lossy(&record[..record.len().min(200)])),
    }
}

#[test]
fn real_flights_are_valid_on_the_fast_path() {
    let (schema, flights) = flights();
    assert_eq!(flights.len(), 20_000);
    let mut validator = Validator::default();
    for (line, flight) in flights.iter().enumerate() {
        let before = flight.clone();
        let (tape, reference) = validator.check_both(&schema, flight.as_bytes());
        assert_eq!((tape, reference), (TapeVerdict::Accepted, Ok(())), "line {line}: {flight}");
        assert_eq!(validator.check(&schema, flight.as_bytes()), Ok(()));
        assert_eq!(*flight, before);
    }
}

#[test]
fn broken_flights_name_the_field() {
    let (schema, flights) = flights();
    let flight = &flights[0];
    for (from, to, pointer, needle) in [
        (r#""flight":1545"#, r#""flight":"1545""#, "/flight", "integer"),
        (r#""flight":1545"#, r#""flight":0"#, "/flight", "minimum of 1"),
        (r#""flight":1545"#, r#""flight":1545.5"#, "/flight", "integer"),
        (r#""flight":1545"#, r#""flight":123456789012345678901234567890"#, "/flight", "maximum of 9999"),
        (r#""origin":"EWR""#, r#""origin":"SFO""#, "/origin", "EWR"),
        (r#""dest":"IAH""#, r#""dest":"iah""#, "/dest", "^[A-Z]{3}$"),
        (r#""carrier":"UA""#, r#""carrier":"UAX""#, "/carrier", "2 characters"),
        (r#""timestamp":"2013-01-01T10:15:00Z""#, r#""timestamp":"2013-13-01T10:15:00Z""#, "/timestamp", "date-time"),
        (r#","cancelled":false"#, "", "", "\"cancelled\" is a required"),
        (r#""cancelled":false"#, r#""cancelled":false,"x/y~z":1"#, "/x~1y~0z", "x/y~z"),
        (r#""delay":{"departure":2"#, r#""delay":{"departure":true"#, "/delay/departure", "integer"),
        (r#""delay":{"departure":2"#, r#""delay":{"other":2"#, "/delay", "\"departure\" is a required"),
    ] {
        let broken = flight.replacen(from, to, 1);
        assert_ne!(broken, *flight, "{from}");
        let invalid = refusal(&schema, &broken);
        assert_eq!(invalid.code, SCHEMA_VIOLATION);
        let named: Vec<_> = invalid.field_errors.iter().map(|error| error.pointer.as_str()).collect();
        let found =
            invalid.field_errors.iter().find(|error| error.pointer == pointer && error.message.contains(needle));
        assert!(found.is_some(), "{to}: {pointer} with {needle:?} not among {named:?}: {invalid:?}");
    }
    for good in [r#""flight":1545.0"#, r#""flight":1.545e3"#, r#""flight":1e2"#] {
        assert_eq!(
            Validator::default().check(&schema, flight.replacen(r#""flight":1545"#, good, 1).as_bytes()),
            Ok(())
        );
    }
}

#[test]
fn clicks_are_checked() {
    let schema = clicks();
    assert_eq!(Validator::default().check_both(&schema, CLICK.as_bytes()), (TapeVerdict::Accepted, Ok(())));
    for (from, to, pointer) in [
        ("018f4e3c-", "018f4e3c", "/event_id"),
        ("07:08:09", "27:08:09", "/timestamp"),
        ("u_48", "v_48", "/user_id"),
        ("mobile", "phone", "/device/type"),
        ("0.8125", "1.8125", "/score"),
    ] {
        assert_eq!(refusal(&schema, CLICK.replacen(from, to, 1)).field_errors[0].pointer, pointer);
    }
}

#[test]
fn what_is_no_json_is_refused_with_its_position() {
    let any = schema("true");
    let mut table: Vec<(Vec<u8>, &str)> = vec![
        (b"".to_vec(), "byte 0"),
        (b" \n ".to_vec(), "line 2"),
        (b"\xef\xbb\xbf{}".to_vec(), "byte 0"),
        (b"{}\n{}".to_vec(), "line 2 column 1 (byte 3)"),
        (b"{} x".to_vec(), "byte 3"),
        (b"{}\0".to_vec(), "byte 2"),
        (b"{\"a\":1,}".to_vec(), "byte 7"),
        (b"[1,]".to_vec(), "byte 3"),
        (b"{a:1}".to_vec(), "byte 1"),
        (b"{'a':1}".to_vec(), "byte 1"),
        (b"[NaN]".to_vec(), "byte 1"),
        (b"[Infinity]".to_vec(), "byte 1"),
        (b"[-Infinity]".to_vec(), "byte 2"),
        (b"[01]".to_vec(), "byte 2"),
        (b"[+1]".to_vec(), "byte 1"),
        (b"[.5]".to_vec(), "byte 1"),
        (b"[1.]".to_vec(), "byte 3"),
        (b"[1e]".to_vec(), "byte 3"),
        (b"[-]".to_vec(), "byte 2"),
        (b"[0x10]".to_vec(), "byte 2"),
        (b"[1 2]".to_vec(), "byte 3"),
        (b"{\"a\" 1}".to_vec(), "byte 5"),
        (b"nul".to_vec(), "byte"),
        (b"truex".to_vec(), "byte"),
        (b"[1,/*c*/2]".to_vec(), "byte 3"),
        (b"\"\xff\"".to_vec(), "byte"),
        (b"\"\xc0\x80\"".to_vec(), "byte"),
        (b"\"\xed\xa0\x80\"".to_vec(), "byte"),
        (b"\"\xf4\x90\x80\x80\"".to_vec(), "byte"),
        (b"{\"a\xff\":1}".to_vec(), "byte"),
        (b"[\"a\nb\"]".to_vec(), "byte"),
        (b"[\"a\0b\"]".to_vec(), "byte"),
        (b"[\"\\x\"]".to_vec(), "byte"),
        (b"[\"\\u12\"]".to_vec(), "byte"),
        (br#"["\ud800"]"#.to_vec(), "byte"),
        (br#"["\udc00"]"#.to_vec(), "byte"),
        (br#"["\ud800\u0041"]"#.to_vec(), "byte"),
        (br#"["\udc00\ud800"]"#.to_vec(), "byte"),
        (br#"{"\ud800":1}"#.to_vec(), "byte"),
        (b"\"abc".to_vec(), "byte"),
        (b"[1".to_vec(), "byte"),
        (b"]".to_vec(), "byte 0"),
    ];
    // The same inside a long record, so that every part of the parsers' wide reads meets them.
    for padding in [0, 1, 31, 32, 33, 63, 64, 65, 127] {
        for (text, needle) in &mut table {
            let padded = [" ".repeat(padding).as_bytes(), text].concat();
            let invalid = refusal(&any, &padded);
            assert_eq!(invalid.code, NOT_JSON, "{:?}: {invalid:?}", String::from_utf8_lossy(text));
            assert!(
                padding > 0 || invalid.message.contains(*needle),
                "{:?}: {invalid:?}",
                String::from_utf8_lossy(text)
            );
            assert_eq!(Validator::default().check_both(&any, &padded).0, TapeVerdict::Unread);
        }
    }
}

#[test]
fn numbers_are_what_serde_json_makes_of_them() {
    let any = schema("true");
    for text in ["1e400", "-1e400", "[1e309]", "{\"a\":1e99999999999}"] {
        assert_eq!(refusal(&any, text).code, NUMBER_OUT_OF_RANGE, "{text}");
    }
    let integer = schema(r#"{"type":"integer"}"#);
    let mut validator = Validator::default();
    for text in [
        "0",
        "-0",
        "1.0",
        "1e2",
        "-1.50e1",
        "9223372036854775808",
        "18446744073709551615",
        "18446744073709551616",
        "-9223372036854775808",
        "-9223372036854775809",
        "123456789012345678901234567890",
        "1e308",
        "1e-400",
    ] {
        assert_eq!(validator.check(&integer, text.as_bytes()), Ok(()), "{text}");
    }
    for text in ["0.5", "1e-1", "1.00000001", "4.9e-324"] {
        assert_eq!(refusal(&integer, text).code, SCHEMA_VIOLATION, "{text}");
    }
    let digits = "9".repeat(300);
    assert_eq!(validator.check(&integer, digits.as_bytes()), Ok(()));
}

/// Other crates in the build could switch these features on for all; the validator is written for them off.
#[test]
fn serde_json_keeps_its_defaults() {
    let sorted: serde_json::Value = serde_json::from_str(r#"{"b":1,"a":2}"#).unwrap();
    assert_eq!(sorted.to_string(), r#"{"a":2,"b":1}"#, "preserve_order is on");
    let rounded: serde_json::Value = serde_json::from_str("1.00000000000000000000001").unwrap();
    assert_eq!(rounded.to_string(), "1.0", "arbitrary_precision is on");
    assert!(serde_json::from_str::<serde_json::Value>("1e400").is_err(), "arbitrary_precision is on");
}

#[test]
fn depth_is_bounded_before_anything_recurses() {
    let any = schema("true");
    let mut validator = Validator::default();
    for (open, core, close) in [("[", "1", "]"), ("{\"a\":", "1", "}"), ("[{\"a\":", "1", "}]")] {
        let nest = |levels: usize| {
            let levels = levels / open.matches(['[', '{']).count();
            format!("{}{core}{}", open.repeat(levels), close.repeat(levels))
        };
        assert_eq!(validator.check_both(&any, nest(64).as_bytes()), (TapeVerdict::Accepted, Ok(())), "{open}");
        for levels in [66, 128, 130, 20_000, 1_000_000] {
            let invalid = refusal(&any, nest(levels));
            assert_eq!(invalid.code, TOO_DEEP, "{open} {levels}");
            assert!(invalid.message.contains("64"));
        }
        assert_eq!(refusal(&any, open.repeat(20_000)).code, TOO_DEEP);
    }
    // Brackets in strings do not nest.
    let text = format!("[\"{}\\\"{}\"]", "[".repeat(1000), "{".repeat(1000));
    assert_eq!(validator.check_both(&any, text.as_bytes()), (TapeVerdict::Accepted, Ok(())));
}

#[test]
fn a_member_named_twice_is_refused() {
    let any = schema("true");
    for (text, pointer) in [
        (r#"{"a":1,"a":1}"#, ""),
        (r#"{"a":1,"b":{"c":[0,{"x":1,"y":2,"x":3}]}}"#, "/b/c/1"),
        (r#"{"a":1,"\u0061":2}"#, ""),
        (r#"{"":1,"":2}"#, ""),
    ] {
        let invalid = refusal(&any, text);
        assert_eq!((invalid.code, invalid.field_errors[0].pointer.as_str()), (DUPLICATE_KEY, pointer), "{text}");
        assert_eq!(Validator::default().check_both(&any, text.as_bytes()).0, TapeVerdict::Unread, "{text}");
    }
    for count in [2, 31, 32, 33, 34, 1000] {
        let name = |index: usize| format!("\"key{index}\":{index}");
        let mut members: Vec<_> = (0..count).map(name).collect();
        let record = format!("{{{}}}", members.join(","));
        assert_eq!(
            Validator::default().check_both(&any, record.as_bytes()),
            (TapeVerdict::Accepted, Ok(())),
            "{count}"
        );
        for (from, to) in [(0, count - 1), (count - 1, 0), (count / 2, count - 1)] {
            if from == to {
                continue;
            }
            let kept = std::mem::replace(&mut members[to], name(from));
            let record = format!("{{{}}}", members.join(","));
            members[to] = kept;
            assert_eq!(refusal(&any, &record).code, DUPLICATE_KEY, "{count}: {from} {to}");
            assert_eq!(Validator::default().check_both(&any, record.as_bytes()).0, TapeVerdict::Unread);
        }
    }
}

#[test]
fn wide_objects_are_looked_up_by_hash() {
    let wide = 50_000;
    let properties: serde_json::Map<_, _> =
        (0..2_000).map(|n| (format!("k{}", n * 20), json!({ "type": "integer" }))).collect();
    let required: Vec<_> = properties.keys().cloned().collect();
    let schema = schema(&json!({ "required": required, "properties": properties, "minProperties": wide }).to_string());
    let members: Vec<_> = (0..wide).map(|n| format!("\"k{n}\":{n}")).collect();
    let record = format!("{{{}}}", members.join(","));
    let mut validator = Validator::default();
    assert_eq!(validator.check_both(&schema, record.as_bytes()), (TapeVerdict::Accepted, Ok(())));
    let broken = record.replace("\"k400\":400", "\"k400\":null");
    assert_eq!(refusal(&schema, &broken).field_errors[0].pointer, "/k400");
    let missing = record.replace("\"k39980\":39980,", "\"x\":1,");
    assert!(refusal(&schema, &missing).field_errors[0].message.contains("k39980"));
}

#[test]
fn refusals_are_bounded() {
    let bounded = |invalid: &Invalid| {
        assert!((1..=FIELD_ERRORS_MAX).contains(&invalid.field_errors.len()), "{}", invalid.field_errors.len());
        assert!(invalid.message.len() < 1024, "{}", invalid.message.len());
        for error in &invalid.field_errors {
            assert!(error.pointer.len() < 1100 && error.message.len() < 300, "{error:?}");
        }
    };
    let strings = schema(r#"{"items":{"type":"string"},"additionalProperties":{"type":"string","maxLength":3}}"#);
    let closed = schema(r#"{"properties":{"a":true},"additionalProperties":false}"#);
    let many = format!("[{}1]", "1,".repeat(500_000));
    let invalid = refusal(&strings, &many);
    bounded(&invalid);
    let pointers: Vec<_> = invalid.field_errors.iter().map(|error| error.pointer.clone()).collect();
    assert_eq!(pointers, (0..16).map(|index| format!("/{index}")).collect::<Vec<_>>());
    let long = "x".repeat(1 << 20);
    bounded(&refusal(&strings, format!("{{\"a\":\"{long}\"}}")));
    bounded(&refusal(&strings, format!("{{\"{long}\":1}}")));
    bounded(&refusal(&closed, format!("{{\"{long}\":1}}")));
    let names: Vec<_> = (0..100_000).map(|n| format!("\"n{n}\":1")).collect();
    bounded(&refusal(&closed, format!("{{{}}}", names.join(","))));
    let late = format!("[{}1]", "\"\",".repeat(200_000));
    let invalid = refusal(&strings, &late);
    assert_eq!(invalid.field_errors[0].pointer, "/200000");
    let any_of = schema(r#"{"anyOf":[{"items":{"type":"string"}},{"items":{"type":"null"}}]}"#);
    bounded(&refusal(&any_of, &many));
}

/// Each level of such a record is listed twice for each branch that holds it, unless the listing is bounded: 2^60.
#[test]
fn listing_the_errors_of_nested_branches_is_bounded() {
    let branch = json!({ "type": "object", "properties": { "child": { "$ref": "#" } }, "required": ["child"] });
    let definition = json!({ "anyOf": [branch, branch, { "type": "integer" }] });
    let schema = schema(&definition.to_string());
    let record = format!("{}\"leaf\"{}", "{\"child\":".repeat(60), "}".repeat(60));
    let invalid = refusal(&schema, &record);
    assert_eq!(invalid.code, SCHEMA_VIOLATION);
    assert!(!invalid.field_errors.is_empty());
}

#[test]
fn the_tape_never_accepts_what_the_reference_refuses() {
    let (flight_schema, flights) = flights();
    let schemas = [
        flight_schema,
        schema("true"),
        // Keywords that turn an inner refusal into acceptance, and those that count or compare.
        schema(
            r#"{"not":{"properties":{"flight":{"type":"integer"},"delay":{"required":["departure"]}},
                "required":["flight","cancelled"],"minProperties":12}}"#,
        ),
        schema(
            r#"{"if":{"properties":{"cancelled":{"const":false}}},"then":{"maxProperties":13},"else":{"minProperties":14},
                "propertyNames":{"pattern":"^[a-z_]+$"},"dependencies":{"tailnum":["dest"],"dest":{"minProperties":3}},
                "oneOf":[{"properties":{"flight":{"maximum":1000}}},{"properties":{"flight":{"minimum":500}}}],
                "additionalProperties":{"anyOf":[{"type":["string","number","boolean","null"]},{"uniqueItems":true},
                {"enum":[{"departure":1,"arrival":2}]}]}}"#,
        ),
    ];
    let mut random = Random(0x5eed_1234_abcd_0001);
    let mut validator = Validator::default();
    let (mut valid, mut invalid, mut unread) = (0, 0, 0);
    for round in 0..8_000 {
        let record = flights[random.below(flights.len())].as_bytes();
        let donor = flights[random.below(flights.len())].as_bytes();
        let mutated = mutate(record, donor, &mut random);
        let schema = &schemas[round % schemas.len()];
        let (tape, reference) = validator.check_both(schema, &mutated);
        let shown = || String::from_utf8_lossy(&mutated).into_owned();
        match tape {
            TapeVerdict::Accepted => {
                valid += 1;
                assert_eq!(reference, Ok(()), "round {round}: {}", shown());
            }
            TapeVerdict::Rejected => {
                invalid += 1;
                let code = reference.expect_err(&shown()).code;
                assert_eq!(code, SCHEMA_VIOLATION, "round {round}: {}", shown());
            }
            TapeVerdict::Unread => {
                unread += 1;
                // Integers beyond 64 bits are the only JSON that the tape cannot hold.
                let big = mutated.split(|byte| !byte.is_ascii_digit()).any(|digits| digits.len() >= 19);
                assert!(reference.is_err() || big, "round {round}: {}", shown());
            }
        }
    }
    assert!(valid > 500 && invalid > 500 && unread > 500, "{valid} {invalid} {unread}");
}
