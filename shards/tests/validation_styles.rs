//! Schemas in the styles that people publish them in: which have a program, what is said about records, and that the fast paths
//! say nothing else than the reference, however the records are spoilt.

#[path = "validation/mutate.rs"]
mod mutate;

use mutate::{Random, mutate};
use ttdust_shards::{
    ids::SchemaId,
    schema::CompiledSchema,
    validate::{TapeVerdict, Validator},
};

/// How many spoilt records of each style are tried; `TTDUST_MUTATIONS` asks for more.
const MUTATIONS: usize = 1_000;

/// A schema and records.
struct Style {
    name: &'static str,
    definition: &'static str,
    has_program: bool,
    good: &'static [&'static str],
    /// With the pointer to the first fault.
    bad: &'static [(&'static str, &'static str)],
}

const CLOUD_EVENT: Style = Style {
    name: "an envelope with definitions, as of CloudEvents",
    definition: r##"{
        "$schema": "http://json-schema.org/draft-07/schema#", "type": "object",
        "properties": {
            "id": { "description": "Identifies the event.", "$ref": "#/definitions/iddef", "examples": ["A234-1234-1234"] },
            "source": { "$ref": "#/definitions/sourcedef" },
            "specversion": { "$ref": "#/definitions/specversiondef" },
            "type": { "$ref": "#/definitions/typedef" },
            "datacontenttype": { "$ref": "#/definitions/datacontenttypedef" },
            "dataschema": { "$ref": "#/definitions/dataschemadef" },
            "time": { "$ref": "#/definitions/timedef" },
            "data": { "$ref": "#/definitions/datadef" },
            "data_base64": { "$ref": "#/definitions/data_base64def" }
        },
        "required": ["id", "source", "specversion", "type"],
        "definitions": {
            "iddef": { "type": "string", "minLength": 1 },
            "sourcedef": { "type": "string", "format": "uri-reference", "minLength": 1 },
            "specversiondef": { "type": "string", "minLength": 1 },
            "typedef": { "type": "string", "minLength": 1 },
            "datacontenttypedef": { "type": ["string", "null"], "minLength": 1 },
            "dataschemadef": { "type": ["string", "null"], "format": "uri", "minLength": 1 },
            "timedef": { "type": ["string", "null"], "format": "date-time", "minLength": 1 },
            "datadef": { "type": ["object", "string", "number", "array", "boolean", "null"] },
            "data_base64def": { "type": ["string", "null"], "contentEncoding": "base64" }
        }
    }"##,
    has_program: true,
    good: &[
        r#"{"specversion":"1.0","type":"com.example.someevent","source":"/mycontext","id":"A234-1234-1234",
            "time":"2018-04-05T17:31:00Z","comexampleextension1":"value","comexampleothervalue":5,
            "datacontenttype":"text/xml","data":"<much wow=\"xml\"/>"}"#,
        r#"{"id":"1","source":"https:\/\/a.example\/b","specversion":"1.0","type":"t","dataschema":null,"data_base64":"YWJj"}"#,
        r#"{"id":"1","source":"urn:a:b","specversion":"1.0","type":"t","data":{"n":[1,2.5,{"deep":null}]},"time":null}"#,
    ],
    bad: &[
        (r#"{"id":"","source":"/a","specversion":"1.0","type":"t"}"#, "/id"),
        (r#"{"id":"1","source":"a b","specversion":"1.0","type":"t"}"#, "/source"),
        (r#"{"id":"1","source":"/a","specversion":"1.0","type":"t","data_base64":"YQ="}"#, "/data_base64"),
        (r#"{"id":"1","source":"/a","specversion":"1.0"}"#, ""),
    ],
};

const GEOMETRY: Style = Style {
    name: "alternatives that a member tells apart, as of GeoJSON",
    definition: r#"{
        "title": "GeoJSON Geometry",
        "oneOf": [
            { "type": "object", "required": ["type", "coordinates"], "properties": { "type": { "type": "string", "enum": ["Point"] },
              "coordinates": { "type": "array", "minItems": 2, "items": { "type": "number" } } } },
            { "type": "object", "required": ["type", "coordinates"], "properties": { "type": { "const": "LineString" },
              "coordinates": { "type": "array", "minItems": 2, "items": { "type": "array", "minItems": 2,
              "items": { "type": "number", "minimum": -180, "maximum": 180 } } } } },
            { "type": "null" }
        ]
    }"#,
    has_program: true,
    good: &[
        r#"{"type":"Point","coordinates":[102.0,0.5]}"#,
        r#"{"coordinates":[[102.0,0.0],[103.00000000000001,1.0],[-0.000001,-1e-3]],"type":"LineString","bbox":[1,2]}"#,
        "null",
    ],
    bad: &[
        (r#"{"type":"Point","coordinates":[[102.0,0.5],[1,2]]}"#, ""),
        (r#"{"type":"LineString","coordinates":[[180.0001,0],[1,2]]}"#, ""),
        (r#"{"type":"Circle","coordinates":[1,2]}"#, ""),
    ],
};

const LOG_RECORD: Style = Style {
    name: "a value that is one of many and may hold itself, as of OpenTelemetry",
    definition: r##"{
        "type": "object", "required": ["timeUnixNano", "body"],
        "properties": {
            "timeUnixNano": { "type": "string", "pattern": "^[0-9]{1,20}$" },
            "severityNumber": { "type": "integer", "minimum": 0, "maximum": 24 },
            "severityText": { "enum": ["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"] },
            "traceId": { "type": "string", "pattern": "^[0-9a-f]{32}$" },
            "body": { "$ref": "#/definitions/any" },
            "attributes": { "type": "array", "items": { "type": "object", "required": ["key", "value"],
                "properties": { "key": { "type": "string" }, "value": { "$ref": "#/definitions/any" } } } }
        },
        "additionalProperties": false,
        "definitions": { "any": { "oneOf": [
            { "type": "object", "required": ["stringValue"], "additionalProperties": false,
              "properties": { "stringValue": { "type": "string" } } },
            { "type": "object", "required": ["intValue"], "additionalProperties": false,
              "properties": { "intValue": { "type": ["string", "integer"], "pattern": "^-?[0-9]+$" } } },
            { "type": "object", "required": ["arrayValue"], "additionalProperties": false, "properties": { "arrayValue":
              { "type": "object", "properties": { "values": { "type": "array", "items": { "$ref": "#/definitions/any" } } } } } }
        ] } }
    }"##,
    has_program: true,
    good: &[
        r#"{"timeUnixNano":"1581452773000000789","severityNumber":9,"severityText":"INFO","body":{"stringValue":"This is a log message"},
            "attributes":[{"key":"app","value":{"stringValue":"server"}},{"key":"instance_num","value":{"intValue":"1"}}],
            "traceId":"08040201000000000000000000000000"}"#,
        r#"{"timeUnixNano":"1","body":{"arrayValue":{"values":[{"intValue":1},{"arrayValue":{"values":[]}}]}}}"#,
    ],
    bad: &[
        (r#"{"timeUnixNano":"1","body":{"stringValue":"a","intValue":1}}"#, "/body"),
        (r#"{"timeUnixNano":"1","body":{"stringValue":"a"},"attributes":[{"key":"a"}]}"#, "/attributes/0"),
        (r#"{"timeUnixNano":1,"body":{"stringValue":"a"}}"#, "/timeUnixNano"),
    ],
};

const ORDER: Style = Style {
    name: "nested objects that extend each other, with money, as of a shop",
    definition: r##"{
        "allOf": [{ "$ref": "#/definitions/event" }, { "type": "object", "required": ["order"], "properties": { "order": {
            "type": "object", "required": ["id", "lines", "total"], "properties": {
                "id": { "type": "string", "format": "uuid" },
                "currency": { "type": "string", "pattern": "^[A-Z]{3}$", "default": "EUR" },
                "total": { "type": "number", "exclusiveMinimum": 0, "maximum": 1e9 },
                "lines": { "type": "array", "minItems": 1, "maxItems": 500, "items": { "$ref": "#/definitions/line" } },
                "coupons": { "type": "array", "uniqueItems": true, "items": { "type": "string", "minLength": 3 } },
                "email": { "type": "string", "format": "email" },
                "note": { "anyOf": [{ "type": "string", "maxLength": 20 }, { "type": "null" }] }
            } } } }],
        "definitions": {
            "event": { "type": "object", "required": ["at"], "properties": { "at": { "type": "string", "format": "date-time" },
                "ip": { "type": "string", "format": "ipv4" } } },
            "line": { "type": "object", "required": ["sku", "quantity"], "additionalProperties": { "type": ["string", "number"] },
                "properties": { "sku": { "type": "string", "maxLength": 12 }, "quantity": { "type": "integer", "minimum": 1,
                "multipleOf": 1 }, "price": { "type": "number", "minimum": 0.01 } } }
        }
    }"##,
    has_program: true,
    good: &[
        r#"{"at":"2024-05-06T07:08:09.123+02:00","ip":"192.0.2.1","order":{"id":"018f4e3c-5b7a-7c21-9d3e-2f6a81c4b90d","total":19.99,
            "currency":"EUR","coupons":["abc","abcd"],"email":"a.b@c.example","note":null,
            "lines":[{"sku":"A-1","quantity":2,"price":0.01000001},{"sku":"éé","quantity":1,"price":17,"colour":"red"}]}}"#,
        r#"{"order":{"total":1e2,"lines":[{"quantity":1,"sku":"x"}],"id":"018f4e3c-5b7a-7c21-9d3e-2f6a81c4b90d","note":"line\nbreak"},
            "at":"2024-05-06T07:08:09Z"}"#,
    ],
    bad: &[
        (r#"{"at":"2024-05-06T07:08:09Z","order":{"id":"x","lines":[],"total":0}}"#, "/order/id"),
        (
            r#"{"at":"2024-05-06T07:08:09Z","order":{"id":"018f4e3c-5b7a-7c21-9d3e-2f6a81c4b90d","total":1,
                "lines":[{"sku":"a","quantity":1},{"sku":"b","quantity":1,"price":0.009}]}}"#,
            "/order/lines/1/price",
        ),
        (
            r#"{"at":"2024-05-06T07:08:09Z","order":{"id":"018f4e3c-5b7a-7c21-9d3e-2f6a81c4b90d","total":1,
                "coupons":["abc","abc"],"lines":[{"sku":"a","quantity":1}]}}"#,
            "/order/coupons",
        ),
        (r#"{"at":"now"}"#, "/at"),
    ],
};

const PACKAGE: Style = Style {
    name: "conditions and patterns of names, as of a package's manifest",
    definition: r#"{
        "type": "object", "required": ["name"],
        "properties": {
            "name": { "type": "string", "maxLength": 214, "pattern": "^(@[a-z0-9-~][a-z0-9-._~]*/)?[a-z0-9-~][a-z0-9-._~]*$" },
            "private": { "anyOf": [{ "type": "boolean" }, { "enum": ["false", "true"] }] },
            "files": { "type": "array", "items": { "type": "string" }, "uniqueItems": true }
        },
        "patternProperties": { "^_": { "type": ["string", "number"] } },
        "if": { "properties": { "private": { "const": true } }, "required": ["private"] },
        "then": true, "else": { "required": ["version"] },
        "dependencies": { "files": ["main"] }
    }"#,
    has_program: false,
    good: &[
        r#"{"name":"@a/b","version":"1.0.0","files":["x","y"],"main":"x","_id":1}"#,
        r#"{"name":"b","private":true,"other":{"a":[1]}}"#,
    ],
    bad: &[
        (r#"{"name":"B","private":true}"#, "/name"),
        (r#"{"name":"b","_id":null,"private":true}"#, "/_id"),
        (r#"{"name":"b"}"#, ""),
    ],
};

const STYLES: [Style; 5] = [CLOUD_EVENT, GEOMETRY, LOG_RECORD, ORDER, PACKAGE];

impl Style {
    fn compile(&self) -> CompiledSchema {
        CompiledSchema::compile(SchemaId::generate(), 1, self.definition)
            .unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }
}

#[test]
fn each_style_has_its_verdicts() {
    let mut validator = Validator::default();
    for style in STYLES {
        let schema = style.compile();
        for record in style.good {
            let expected = style.has_program.then_some(true);
            assert_eq!(validator.check_program(&schema, record.as_bytes()), expected, "{}: {record}", style.name);
            let both = validator.check_both(&schema, record.as_bytes());
            assert_eq!(both, (TapeVerdict::Accepted, Ok(())), "{}: {record}", style.name);
            assert_eq!(validator.check(&schema, record.as_bytes()), Ok(()), "{}: {record}", style.name);
        }
        for (record, pointer) in style.bad {
            assert_ne!(validator.check_program(&schema, record.as_bytes()), Some(true), "{}: {record}", style.name);
            let refusal = validator.check(&schema, record.as_bytes()).expect_err(record);
            assert_eq!(refusal.field_errors[0].pointer, *pointer, "{}: {record} {refusal:?}", style.name);
        }
    }
}

#[test]
fn spoilt_records_have_one_verdict() {
    let asked = std::env::var("TTDUST_MUTATIONS").ok().and_then(|text| text.parse().ok());
    let mut random = Random(0x5eed_0bad_cafe_0001);
    let mut validator = Validator::default();
    for style in STYLES {
        let schema = style.compile();
        let (mut by_program, mut valid) = (0, 0);
        for _ in 0..asked.unwrap_or(MUTATIONS) {
            let mut pick = || style.good[random.below(style.good.len())];
            let (record, donor) = (pick(), pick());
            let spoilt = mutate(record.as_bytes(), donor.as_bytes(), &mut random);
            let program = validator.check_program(&schema, &spoilt) == Some(true);
            let (tape, reference) = validator.check_both(&schema, &spoilt);
            let shown = || format!("{}: {} {reference:?}", style.name, String::from_utf8_lossy(&spoilt));
            assert!(!program || reference.is_ok(), "the program alone: {}", shown());
            assert!(tape != TapeVerdict::Accepted || reference.is_ok(), "the tape alone: {}", shown());
            assert_eq!(validator.check(&schema, &spoilt), reference, "{}", shown());
            by_program += usize::from(program);
            valid += usize::from(reference.is_ok());
        }
        println!("{}: {valid} valid, {by_program} by the program", style.name);
        assert!(valid > 0 && (by_program > 0) == style.has_program, "{}: {valid} {by_program}", style.name);
    }
}
