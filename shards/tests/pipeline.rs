//! Pipelines: what each step makes of a record, edge by edge, and what is refused when one is made.

use std::sync::Arc;

use serde_json::{Value, json};
use ttdust_shards::{
    pipeline::{
        Pipeline, Runner, Verdict,
        steps::{FIELDS_MAX, STEPS_MAX, with_time_zones, without_time_zones},
    },
    transform::columns::{Column, Kind, declared_columns},
};

fn compiled(steps: &Value) -> Pipeline {
    Pipeline::compile(1, steps).unwrap_or_else(|errors| panic!("{errors:?}: {steps}"))
}

/// What becomes of a record, as text: itself, `DROPPED`, or `DEAD` with step, reason and fields.
fn outcome(steps: &Value, record: &str) -> String {
    let mut runner = Runner::new(Arc::new(compiled(steps)));
    let text = |verdict: Verdict<'_>| match verdict {
        Verdict::Same => record.to_owned(),
        Verdict::Changed(output) => String::from_utf8(output.to_vec()).expect("UTF-8"),
        Verdict::Dropped => "DROPPED".to_owned(),
        Verdict::Dead(failure) => format!("DEAD {} {} {}", failure.step, failure.reason, failure.pointers.join(" ")),
    };
    let first = text(runner.run(record.as_bytes()));
    // What was learned from other records changes nothing.
    let _ = runner.run(br#"{"z":1,"y":{"x":[2]},"a":3}"#);
    assert_eq!(text(runner.run(record.as_bytes())), first, "the same again");
    first
}

/// Checks rows of (step, record, expected).
fn check(rows: &[(Value, &str, &str)]) {
    for (step, record, expected) in rows {
        assert_eq!(outcome(&json!([step]), record), *expected, "{step} on {record}");
    }
}

#[test]
fn select_keeps_what_is_named() {
    let select = |fields: &[&str]| json!({"type": "select", "fields": fields});
    check(&[
        (select(&["a"]), r#"{"a":1,"b":2}"#, r#"{"a":1}"#),
        (select(&["a", "b"]), r#"{ "a" : 1 , "b" : 2 }"#, r#"{ "a" : 1 , "b" : 2 }"#),
        (select(&["b", "a"]), r#"{"a":1,"b":2,"c":3}"#, r#"{"a":1,"b":2}"#),
        (select(&["c"]), r#"{"a":1}"#, "{}"),
        (select(&["c"]), "{}", "{}"),
        (select(&["/a/b"]), r#"{"a":{"b":1.50,"c":2},"d":3}"#, r#"{"a":{"b":1.50}}"#),
        (select(&["/a/b"]), r#"{"a":{"c":2}}"#, r#"{"a":{}}"#),
        (select(&["/a/b"]), r#"{"a":5,"b":1}"#, "{}"),
        (select(&["/a/b"]), r#"{"a":[{"b":1}]}"#, "{}"),
        (
            select(&["/a/b/c", "/a/d"]),
            r#"{"a":{"b":{"c":1,"x":2},"d":{"x":3},"e":4}}"#,
            r#"{"a":{"b":{"c":1},"d":{"x":3}}}"#,
        ),
        (select(&["/a~1b", "/c~0d"]), r#"{"a/b":1,"c~d":2,"e":3}"#, r#"{"a/b":1,"c~d":2}"#),
        (select(&["é"]), r#"{"\u00e9":"\ud83d\ude00","e":1}"#, r#"{"\u00e9":"\ud83d\ude00"}"#),
        (select(&[r#"a"b"#]), r#"{"a\"b":1,"c":2}"#, r#"{"a\"b":1}"#),
    ]);
}

#[test]
fn exclude_takes_away_and_leaves_the_rest_byte_for_byte() {
    let exclude = |fields: &[&str]| json!({"type": "exclude", "fields": fields});
    check(&[
        (exclude(&["a"]), r#"{"a":1,"b":2}"#, r#"{"b":2}"#),
        (exclude(&["b"]), r#"{"a":1,"b":2}"#, r#"{"a":1}"#),
        (
            exclude(&["b"]),
            r#"{"a": 1e5 , "b":2 , "c":12345678901234567890.10}"#,
            r#"{"a": 1e5,"c":12345678901234567890.10}"#,
        ),
        (exclude(&["a"]), r#"{"a":1}"#, "{}"),
        (exclude(&["x"]), r#"{ "a":1 }"#, r#"{ "a":1 }"#),
        (exclude(&["/a/b"]), r#"{"a":{"b":1,"c":"}\"{"},"b":2}"#, r#"{"a":{"c":"}\"{"},"b":2}"#),
        (exclude(&["/a/b"]), r#"{"a":{"b":1}}"#, r#"{"a":{}}"#),
        (exclude(&["/a/0"]), r#"{"a":[1,2]}"#, r#"{"a":[1,2]}"#),
        (exclude(&["/a/b", "c"]), r#"{"a":null,"c":[{"d":"]"}],"e":1}"#, r#"{"a":null,"e":1}"#),
    ]);
}

#[test]
fn rename_and_reorder_move_names_and_places() {
    let rename = |fields: Value| json!({"type": "rename", "fields": fields});
    let reorder = |fields: &[&str]| json!({"type": "reorder", "fields": fields});
    check(&[
        (rename(json!({"a": "x"})), r#"{"a": 1,"b":2}"#, r#"{"x":1,"b":2}"#),
        (rename(json!({"a": "q\"ü"})), r#"{"a":1}"#, r#"{"q\"ü":1}"#),
        (rename(json!({"a": "b"})), r#"{"a":1,"b":2}"#, r#"{"b":1}"#),
        (rename(json!({"a": "a"})), r#"{"a":1,"b":2}"#, r#"{"a":1,"b":2}"#),
        (rename(json!({"/a/b": "c"})), r#"{"a":{"b":{"d":1}},"b":2}"#, r#"{"a":{"c":{"d":1}},"b":2}"#),
        (rename(json!({"z": "c"})), r#"{"c":1}"#, r#"{"c":1}"#),
        (reorder(&["c", "a"]), r#"{"a":1,"b":2,"c":3}"#, r#"{"c":3,"a":1,"b":2}"#),
        (reorder(&["a", "b"]), r#"{ "a":1, "b":2 }"#, r#"{ "a":1, "b":2 }"#),
        (reorder(&["z", "b"]), r#"{"a":1,"b":2}"#, r#"{"b":2,"a":1}"#),
        (reorder(&["/o/b", "z"]), r#"{"o":{"a":1,"b":2},"z":0}"#, r#"{"z":0,"o":{"b":2,"a":1}}"#),
        (reorder(&["/o/b"]), r#"{"o":[1],"z":0}"#, r#"{"o":[1],"z":0}"#),
    ]);
    let steps = json!([
        {"type": "rename", "fields": {"a": "b"}}, {"type": "rename", "fields": {"b": "c"}},
        {"type": "reorder", "fields": ["d"]}, {"type": "exclude", "fields": ["e"]}, {"type": "select", "fields": ["d", "c"]},
    ]);
    assert_eq!(outcome(&steps, r#"{"a":1,"e":2,"d":{"x":3},"f":4}"#), r#"{"d":{"x":3},"c":1}"#);
}

#[test]
fn coerce_follows_its_table() {
    const FAILED: &str = "failed";
    for (to, value, expected) in [
        ("string", r#""a\n""#, r#""a\n""#),
        ("string", "1.50", r#""1.50""#),
        ("string", "-12345678901234567890", r#""-12345678901234567890""#),
        ("string", "true", r#""true""#),
        ("string", "null", "null"),
        ("string", "{}", FAILED),
        ("string", "[1]", FAILED),
        ("integer", "7", "7"),
        ("integer", "-0", "0"),
        ("integer", "7.0", "7"),
        ("integer", "7e2", "700"),
        ("integer", "7.5", FAILED),
        ("integer", "9223372036854775807", "9223372036854775807"),
        ("integer", "9223372036854775807.0", "9223372036854775807"),
        ("integer", "9223372036854775808", FAILED),
        ("integer", "1e300", FAILED),
        ("integer", r#"" +7 ""#, "7"),
        ("integer", r#""007""#, "7"),
        ("integer", r#""7.0""#, "7"),
        ("integer", r#""""#, FAILED),
        ("integer", r#""7a""#, FAILED),
        ("integer", r#""inf""#, FAILED),
        ("integer", r#""\u0037""#, "7"),
        ("integer", "true", "1"),
        ("integer", "null", "null"),
        ("integer", "[]", FAILED),
        ("number", "1.50", "1.50"),
        ("number", r#""1.50""#, "1.50"),
        ("number", r#""-.5""#, "-0.5"),
        ("number", r#""5.""#, "5.0"),
        ("number", r#""1e3""#, "1e3"),
        ("number", r#""01""#, "1.0"),
        ("number", r#""NaN""#, FAILED),
        ("number", r#""1e999""#, FAILED),
        ("number", r#""1,5""#, FAILED),
        ("number", "false", "0"),
        ("boolean", "true", "true"),
        ("boolean", "1", "true"),
        ("boolean", "0", "false"),
        ("boolean", "2", FAILED),
        ("boolean", r#""Yes""#, "true"),
        ("boolean", r#""OFF""#, "false"),
        ("boolean", r#""maybe""#, FAILED),
        ("boolean", "null", "null"),
        ("timestamp", r#""2026-03-01t14:00:00+02:00""#, r#""2026-03-01T12:00:00Z""#),
        ("timestamp", "5", FAILED),
        ("timestamp", "true", FAILED),
    ] {
        let record = format!(r#"{{"a":0,"v": {value} ,"z":[1]}}"#);
        let with = |value: &str| format!(r#"{{"a":0,"v":{value},"z":[1]}}"#);
        let step = |on_error: &str| json!([{"type": "coerce", "fields": ["v"], "to": to, "on_error": on_error}]);
        if expected != FAILED {
            let output = outcome(&step("dlq"), &record);
            assert_eq!(output.replace(" ", ""), with(expected).replace(" ", ""), "{value} to {to}");
            continue;
        }
        assert_eq!(outcome(&step("keep"), &record), record, "{value} to {to}");
        assert_eq!(outcome(&step("null"), &record), with("null"), "{value} to {to}");
        assert_eq!(outcome(&step("drop"), &record), "DROPPED", "{value} to {to}");
        let dead = outcome(&step("dlq"), &record);
        assert!(dead.starts_with("DEAD 0 NOT_A") && dead.ends_with(" /v"), "{value} to {to}: {dead}");
    }
    let step = json!([
        {"type": "rename", "fields": {"/o/b": "c"}},
        {"type": "coerce", "fields": ["a", "/o/c", "missing"], "to": "integer", "on_error": "dlq"},
    ]);
    assert_eq!(outcome(&step, r#"{"a":"x","o":{"b":"y"}}"#), "DEAD 1 NOT_AN_INTEGER /a /o/c");
    assert_eq!(outcome(&step, r#"{"a":"1","o":{}}"#), r#"{"a":1,"o":{}}"#);
}

/// `None`: the text is no time in that format.
const TIMES: &[(&str, &str, Option<&str>)] = &[
    ("rfc3339", "2026-03-01T12:00:00Z", Some("2026-03-01T12:00:00Z")),
    ("rfc3339", "2026-03-01 12:00:00.120-00:30", Some("2026-03-01T12:30:00.120Z")),
    ("rfc3339", "2026-03-01T12:00:00.1234567891Z", Some("2026-03-01T12:00:00.123456789Z")),
    ("rfc3339", "2016-12-31T23:59:60Z", Some("2017-01-01T00:00:00Z")),
    ("rfc3339", "0000-01-01T00:00:00+00:01", None),
    ("rfc3339", "9999-12-31T23:59:59-00:01", None),
    ("rfc3339", "2026-02-29T00:00:00Z", None),
    ("rfc3339", "2024-02-29T24:00:00Z", None),
    ("rfc3339", "2026-03-01T12:00:00", None),
    ("rfc3339", "2026-03-01T12:00:00.Z", None),
    ("rfc3339", "2026-03-01T12:00:00Zx", None),
    ("rfc3339", "", None),
    ("iso8601", "20260301T120000Z", Some("2026-03-01T12:00:00Z")),
    ("iso8601", "2026-03-01T12:00:00,5+0130", Some("2026-03-01T10:30:00.500Z")),
    ("iso8601", "2026-03-01T12:00+01", Some("2026-03-01T11:00:00Z")),
    ("iso8601", "2026-03-01T12.5", Some("2026-03-01T12:30:00Z")),
    ("iso8601", "2026-03-01T24:00", Some("2026-03-02T00:00:00Z")),
    ("iso8601", "2026-03-01", Some("2026-03-01T00:00:00Z")),
    ("iso8601", "20260301", Some("2026-03-01T00:00:00Z")),
    ("iso8601", "2026-03", Some("2026-03-01T00:00:00Z")),
    ("iso8601", "2026-060", Some("2026-03-01T00:00:00Z")),
    ("iso8601", "2026060T12Z", Some("2026-03-01T12:00:00Z")),
    ("iso8601", "2025-366", None),
    ("iso8601", "2020-W53-7", Some("2021-01-03T00:00:00Z")),
    ("iso8601", "2021W53", None),
    ("iso8601", "2026W01", Some("2025-12-29T00:00:00Z")),
    ("iso8601", "2026-13", None),
    ("iso8601", "2026-03-01T", None),
    ("iso8601", "2026-03-01T12:", None),
    ("iso8601", "2026-03-01T12:00:00+24:00", None),
    ("unix_s", "1772366400", Some("2026-03-01T12:00:00Z")),
    ("unix_s", "1772366400.25", Some("2026-03-01T12:00:00.250Z")),
    ("unix_s", "-1", Some("1969-12-31T23:59:59Z")),
    ("unix_s", "-0.5", Some("1969-12-31T23:59:59.500Z")),
    ("unix_s", "1.5e9", Some("2017-07-14T02:40:00Z")),
    ("unix_s", "99999999999999", None),
    ("unix_s", "inf", None),
    ("unix_s", "12a", None),
    ("unix_ms", "1772366400001", Some("2026-03-01T12:00:00.001Z")),
    ("unix_us", "1772366400000001", Some("2026-03-01T12:00:00.000001Z")),
    ("unix_ns", "1772366400000000001", Some("2026-03-01T12:00:00.000000001Z")),
    ("%d/%m/%Y %H:%M:%S", "01/03/2026   12:00:00", Some("2026-03-01T12:00:00Z")),
    ("%d/%m/%Y %H:%M:%S", "31/04/2026 12:00:00", None),
    ("%d/%b/%Y:%T %z", "01/Mar/2026:12:00:00 +0100", Some("2026-03-01T11:00:00Z")),
    ("%a, %d %B %Y %T", "Sunday, 1 march 2026 12:00:00", Some("2026-03-01T12:00:00Z")),
    ("%m/%d/%y %I:%M %p", "03/01/26 12:05 AM", Some("2026-03-01T00:05:00Z")),
    ("%m/%d/%y %I:%M %p", "3/1/69 1:05 pm", Some("1969-03-01T13:05:00Z")),
    ("%m/%d/%y %I:%M %p", "3/1/26 13:05 pm", None),
    ("%Y%j", "2026060", Some("2026-03-01T00:00:00Z")),
    ("%F %T%.f", "2026-03-01 12:00:00.25", Some("2026-03-01T12:00:00.250Z")),
    ("%F %T.%f", "2026-03-01 12:00:00.000001", Some("2026-03-01T12:00:00.000001Z")),
    ("%s.%f", "1772366400.5", Some("2026-03-01T12:00:00.500Z")),
    ("%F", "2026-03-01x", None),
    ("%F%%", "2026-03-01%", Some("2026-03-01T00:00:00Z")),
];

#[test]
fn times_are_read_in_every_format() {
    for (format, text, expected) in TIMES {
        let steps = json!([{"type": "timestamp", "fields": ["t"], "formats": [format], "on_error": "null"}]);
        let expected = expected.map_or("null".to_owned(), |expected| format!("\"{expected}\""));
        let output = outcome(&steps, &json!({"t": text}).to_string());
        assert_eq!(output, format!("{{\"t\":{expected}}}"), "{text} as {format}");
        if format.starts_with("unix") && serde_json::from_str::<f64>(text).is_ok() {
            assert_eq!(outcome(&steps, &format!("{{\"t\":{text}}}")), output, "{text} as a number");
        }
    }
}

#[test]
fn times_are_written_as_the_target_says_and_by_the_first_format_that_fits() {
    for (target, expected) in [
        ("rfc3339", r#""1969-12-31T23:59:59.999999999Z""#),
        ("unix_s", "-1"),
        ("unix_ms", "-1"),
        ("unix_us", "-1"),
        ("unix_ns", "-1"),
    ] {
        let steps = json!([{"type": "timestamp", "fields": ["t"], "target": target}]);
        let output = outcome(&steps, r#"{"t":"1969-12-31T23:59:59.999999999Z"}"#);
        assert_eq!(output, format!("{{\"t\":{expected}}}"));
    }
    let steps = json!([{"type": "timestamp", "fields": ["t", "u"], "formats": ["unix_ms", "%d.%m.%Y", "rfc3339"], "target": "unix_s"}]);
    assert_eq!(outcome(&steps, r#"{"t":5000,"u":"02.01.1970"}"#), r#"{"t":5,"u":86400}"#);
    assert_eq!(outcome(&steps, r#"{"t":"1970-01-01T00:01:00Z","u":"x"}"#), r#"{"t":60,"u":"x"}"#);
}

#[test]
fn local_times_are_of_their_zone_by_the_rules_that_were_kept() {
    let steps = |zone: &str| json!([{"type": "timestamp", "fields": ["t"], "formats": ["%F %T"], "time_zone": zone}]);
    assert_eq!(outcome(&steps("-03:30"), r#"{"t":"2026-07-01 12:00:00"}"#), r#"{"t":"2026-07-01T15:30:00Z"}"#);
    let rules = |name: &str| std::fs::read(format!("/usr/share/zoneinfo/{name}")).ok();
    let berlin = with_time_zones(steps("Europe/Berlin"), rules).expect("a client's steps");
    for (local, utc) in [
        ("2026-07-01 12:00:00", "2026-07-01T10:00:00Z"),
        ("2026-12-01 12:00:00", "2026-12-01T11:00:00Z"),
        ("2026-03-29 02:30:00", "2026-03-29T01:30:00Z"),
        ("2026-10-25 02:30:00", "2026-10-25T00:30:00Z"),
        ("2090-07-01 12:00:00", "2090-07-01T10:00:00Z"),
    ] {
        let record = format!("{{\"t\":\"{local}\"}}");
        assert_eq!(outcome(&berlin, &record), format!("{{\"t\":\"{utc}\"}}"), "{local}");
    }
    assert_eq!(without_time_zones(berlin.clone()), steps("Europe/Berlin"));
    assert!(with_time_zones(berlin, rules).is_err(), "rules are the server's to add");
    for zone in ["Europe/Nowhere", "../../etc/passwd", "/etc/passwd", "+25:00", ""] {
        let errors = Pipeline::compile(1, &with_time_zones(steps(zone), rules).expect("taken")).expect_err(zone);
        assert_eq!(errors[0].pointer, "/0/time_zone", "{zone}");
    }
}

#[test]
fn what_is_no_object_is_told_and_no_bytes_panic() {
    let steps = json!([{"type": "exclude", "fields": ["a", "/b/c"]}]);
    for record in
        ["5", "[]", "null", "\"a\"", "", "{", "{\"a\"", "{\"a\":", "{\"a\":1", "{\"a\":1,", "{a:1}", "{\"a\":}", "{} x"]
    {
        assert_eq!(outcome(&steps, record), "DEAD 0 RECORD_NOT_AN_OBJECT ", "{record}");
    }
    let record = br#" {"a":"x\"\\","b":{"c":[1,{"d":"}"}],"e":null},"f":-1.5e3} "#;
    let mut runner = Runner::new(Arc::new(compiled(&steps)));
    for cut in 0..record.len() {
        let _ = runner.run(&record[..cut]);
        for byte in [0, b'"', b'{', b'}', b'\\', b',', 0xff] {
            let mut damaged = record.to_vec();
            damaged[cut] = byte;
            let _ = runner.run(&damaged);
        }
    }
}

#[test]
fn steps_that_make_no_sense_are_refused_with_their_place() {
    let step = |step: Value| json!([step]);
    let many: Vec<String> = (0..=FIELDS_MAX).map(|n| format!("f{n}")).collect();
    for (steps, pointer, needle) in [
        (json!({}), "", "array"),
        (json!([]), "", "1 to"),
        (json!(vec![json!({"type": "select", "fields": ["a"]}); STEPS_MAX + 1]), "", "1 to"),
        (json!([{"type": "select", "fields": ["a"]}, 5]), "/1/type", "select, exclude"),
        (step(json!({"type": "explode", "fields": ["a"]})), "/0/type", "select, exclude"),
        (step(json!({"type": "select"})), "/0/fields", "array"),
        (step(json!({"type": "select", "fields": []})), "/0/fields", "1 to"),
        (step(json!({"type": "select", "fields": many})), "/0/fields", "1 to"),
        (step(json!({"type": "select", "fields": [1]})), "/0/fields", "array"),
        (step(json!({"type": "select", "fields": [""]})), "/0/fields/0", "JSON Pointer"),
        (step(json!({"type": "exclude", "fields": ["a", "/a"]})), "/0/fields/1", "the same"),
        (step(json!({"type": "exclude", "fields": ["/a/b", "a"]})), "/0/fields/1", "inside"),
        (step(json!({"type": "exclude", "fields": ["a"], "on_error": "drop"})), "/0/on_error", "no \"on_error\""),
        (step(json!({"type": "rename", "fields": ["a"]})), "/0/fields", "new name"),
        (step(json!({"type": "rename", "fields": {"a/b": 5}})), "/0/fields/a~1b", "new name"),
        (step(json!({"type": "coerce", "fields": ["a"]})), "/0/to", "string, integer"),
        (step(json!({"type": "coerce", "fields": ["a"], "to": "date"})), "/0/to", "string, integer"),
        (
            step(json!({"type": "coerce", "fields": ["a"], "to": "string", "target": "rfc3339"})),
            "/0/target",
            "for timestamps",
        ),
        (step(json!({"type": "coerce", "fields": ["a"], "to": "string", "on_error": "retry"})), "/0/on_error", "dlq"),
        (step(json!({"type": "timestamp", "fields": ["a"], "formats": []})), "/0/formats", "1 to"),
        (step(json!({"type": "timestamp", "fields": ["a"], "formats": ["rfc822"]})), "/0/formats/0", "rfc3339"),
        (step(json!({"type": "timestamp", "fields": ["a"], "formats": ["%Y-%m"]})), "/0/formats/0", "day"),
        (step(json!({"type": "timestamp", "fields": ["a"], "formats": ["%F %Q"]})), "/0/formats/0", "%Q"),
        (step(json!({"type": "timestamp", "fields": ["a"], "formats": ["%F %"]})), "/0/formats/0", "lone"),
        (step(json!({"type": "timestamp", "fields": ["a"], "formats": ["%F %I"]})), "/0/formats/0", "half"),
        (step(json!({"type": "timestamp", "fields": ["a"], "target": "epoch"})), "/0/target", "unix_s"),
        (step(json!({"type": "timestamp", "fields": ["a", "b"], "event_time": true})), "/0/event_time", "one field"),
        (
            step(json!({"type": "coerce", "fields": ["a"], "to": "string", "event_time": true})),
            "/0/event_time",
            "for timestamps",
        ),
        (
            json!([{"type": "timestamp", "fields": ["a"], "event_time": true}, {"type": "timestamp", "fields": ["b"], "event_time": true}]),
            "/1/event_time",
            "earlier",
        ),
        (step(json!({"type": "timestamp", "fields": ["a"], "time_zone": "Mars"})), "/0/time_zone", "offset"),
    ] {
        let errors = Pipeline::compile(1, &steps).map(drop).expect_err("refused");
        assert!(errors.iter().any(|e| e.pointer == pointer && e.message.contains(needle)), "{steps}: {errors:?}");
    }
}

const DEFINITION: &str = r#"{"type":"object","properties":{
    "id":{"type":"integer"},"name":{"type":"string"},"free":{"type":"object"},"list":{"type":"array","items":{"type":"string"}},
    "ok":{"type":"boolean"},"user":{"type":"object","properties":{"id":{"type":"string"},"age":{"type":"integer"}}}}}"#;

#[test]
fn steps_that_do_not_fit_the_stream_are_refused() {
    for (steps, pointer, needle) in [
        (json!([{"type": "select", "fields": ["id", "nam"]}]), "/0/fields/1", "has no /nam (it has free, id"),
        (
            json!([{"type": "exclude", "fields": ["name"]}, {"type": "coerce", "fields": ["name"], "to": "string"}]),
            "/1/fields/0",
            "no /name",
        ),
        (json!([{"type": "exclude", "fields": ["/user/name"]}]), "/0/fields/0", "no /user/name"),
        (json!([{"type": "exclude", "fields": ["/list/0"]}]), "/0/fields/0", "no /list/0"),
        (json!([{"type": "coerce", "fields": ["user"], "to": "string"}]), "/0/fields/0", "name a field in it"),
        (json!([{"type": "timestamp", "fields": ["ok"]}]), "/0/fields/0", "no time"),
        (json!([{"type": "rename", "fields": {"name": "ok"}}]), "/0/fields/name", "already"),
        (
            json!([{"type": "timestamp", "fields": ["name"], "event_time": true}, {"type": "rename", "fields": {"name": "at"}},
            {"type": "exclude", "fields": ["at"]}]),
            "/2/fields/0",
            "/at tells when the event was",
        ),
        (
            json!([{"type": "timestamp", "fields": ["name"], "event_time": true}, {"type": "coerce", "fields": ["name"], "to": "string"}]),
            "/1/fields/0",
            "/name tells when the event was",
        ),
        (json!([{"type": "rename", "fields": {"name": "x", "list": "x"}}]), "/0/fields/", "already"),
        (json!([{"type": "exclude", "fields": ["id"]}]), "/0/fields/0", "key field"),
        (json!([{"type": "select", "fields": ["id", "name"]}]), "/0/fields/0", "/user/id is a key field"),
        (json!([{"type": "rename", "fields": {"user": "person"}}]), "/0/fields/user", "/user/id is a key field"),
    ] {
        let errors = compiled(&steps).misfits(declared_columns(DEFINITION), &["id", "/user/id"]);
        let is_told = |error: &ttdust_shards::pipeline::StepError| {
            error.pointer.starts_with(pointer) && error.message.contains(needle)
        };
        assert!(errors.iter().any(is_told), "{steps}: {errors:?}");
    }
    for steps in [
        json!([{"type": "select", "fields": ["id", "/user/id", "/free/anything"]}]),
        json!([{"type": "rename", "fields": {"name": "title"}}, {"type": "coerce", "fields": ["title"], "to": "integer"}]),
        json!([{"type": "exclude", "fields": ["name"]}, {"type": "rename", "fields": {"ok": "name"}}]),
        json!([{"type": "reorder", "fields": ["user", "/user/age"]}]),
    ] {
        let errors = compiled(&steps).misfits(declared_columns(DEFINITION), &["id", "/user/id"]);
        assert_eq!(errors, [], "{steps}");
    }
    let anything = compiled(&json!([{"type": "exclude", "fields": ["/a/b"]}]));
    assert_eq!(anything.misfits(declared_columns(r#"{"type":"object"}"#), &[]), []);
}

#[test]
fn columns_follow_the_output() {
    let steps = json!([
        {"type": "exclude", "fields": ["/user/age", "free"]},
        {"type": "rename", "fields": {"name": "title"}},
        {"type": "coerce", "fields": ["title"], "to": "number"},
        {"type": "timestamp", "fields": ["id"], "formats": ["unix_s"]},
        {"type": "select", "fields": ["id", "title", "/user/id", "ok"]},
        {"type": "reorder", "fields": ["title"]},
    ]);
    let text = || Kind::Utf8 { is_enum: false };
    let column = |name: &str, kind| Column { key: name.to_owned(), name: name.to_owned(), kind };
    let expected = [
        column("title", Kind::Float64),
        column("id", text()),
        column("ok", Kind::Boolean),
        column("user", Kind::Struct(vec![column("id", text())])),
    ];
    assert_eq!(compiled(&steps).columns(declared_columns(DEFINITION)), expected);
    let steps = json!([{"type": "exclude", "fields": ["/user/id", "/user/age"]}]);
    let user = compiled(&steps).columns(declared_columns(DEFINITION)).pop().expect("columns");
    assert_eq!((user.key.as_str(), user.kind), ("user", Kind::Json), "an object without members is no struct");
}
