//! Random schemas, random changes of them, and what must hold for all of them.

use serde_json::{Map, Value, json};
use ttdust::compatibility::{Direction, Mode, NOT_PROVED, Policy, check};

use crate::{
    records::{Judges, Random, Records},
    verdict,
};

/// Pairs of a run, and records for each of them.
const PAIRS: usize = 2000;
const RECORDS: usize = 200;

const NAMES: [&str; 4] = ["a", "p", "q", "x-1"];
const TYPES: [&str; 7] = ["null", "boolean", "integer", "number", "string", "array", "object"];

/// A schema with `depth` levels below it.
fn schema(random: &mut Random, depth: usize) -> Value {
    match random.below(if depth == 0 { 6 } else { 18 }) {
        0 => values(random),
        1 => types(random),
        2 => [json!(true), json!(false), json!({}), json!({ "$ref": "#/definitions/s" })][random.below(4)].clone(),
        3 => number(random),
        4 => string(random),
        5 => types(random),
        6..=8 => array(random, depth - 1),
        9..=13 => object(random, depth - 1),
        14 => json!({ "$ref": *random.pick(&["#/definitions/s", "#/definitions/r"]) }),
        _ => combined(random, depth - 1),
    }
}

/// A whole definition.
fn definition(random: &mut Random) -> Value {
    let (depth, of_s, of_r) = (1 + random.below(2), random.below(2), random.below(2));
    let mut whole = schema(random, depth);
    if let Some(members) = whole.as_object_mut().filter(|members| !members.contains_key("$ref")) {
        let mut recursive = object(random, of_r);
        recursive["properties"]["a"] = json!({ "$ref": "#/definitions/r" });
        members.insert("definitions".into(), json!({ "s": schema_without_reference(random, of_s), "r": recursive }));
        return whole;
    }
    json!({ "definitions": { "s": { "type": "string" }, "r": { "properties": { "a": { "$ref": "#/definitions/r" } } } }, "allOf": [whole] })
}

/// `s` must not lead back to itself for one value.
fn schema_without_reference(random: &mut Random, depth: usize) -> Value {
    loop {
        let schema = schema(random, depth);
        if !schema.to_string().contains("$ref") {
            return schema;
        }
    }
}

fn value(random: &mut Random) -> Value {
    let values =
        [json!(null), json!(true), json!(0), json!(1), json!(1.0), json!(2), json!(0.5), json!(""), json!("a")];
    let more =
        [json!("b"), json!("abc"), json!([]), json!([1]), json!({}), json!({ "a": 1 }), json!({ "a": "a", "p": null })];
    random.pick(&[&values[..], &more[..]].concat()).clone()
}

fn values(random: &mut Random) -> Value {
    if random.one_in(3) {
        return json!({ "const": value(random) });
    }
    let values: Vec<_> = (0..1 + random.below(3)).map(|_| value(random)).collect();
    json!({ "enum": unique(values) })
}

fn unique(values: Vec<Value>) -> Vec<Value> {
    let mut kept: Vec<Value> = Vec::new();
    for value in values {
        // The meta-schema compares by value: 1 and 1.0 are one.
        if !kept.iter().any(|one| *one == value || one.as_f64().is_some() && one.as_f64() == value.as_f64()) {
            kept.push(value);
        }
    }
    kept
}

fn types(random: &mut Random) -> Value {
    if random.one_in(2) {
        return json!({ "type": *random.pick(&TYPES) });
    }
    let mut named: Vec<_> = (0..2 + random.below(2)).map(|_| *random.pick(&TYPES)).collect();
    named.sort_unstable();
    named.dedup();
    json!({ "type": named })
}

/// Each keyword once in two times; it was decided before what it would be.
fn some(random: &mut Random, keywords: Vec<(&str, Value)>) -> Map<String, Value> {
    keywords.into_iter().filter(|_| random.one_in(2)).map(|(name, value)| (name.to_owned(), value)).collect()
}

fn number(random: &mut Random) -> Value {
    let at = |random: &mut Random| json!([0.0, 1.0, 2.0, 3.0, 0.5, 1.5][random.below(6)]);
    let keywords = vec![
        ("type", json!(["integer", "number"][random.below(2)])),
        ("minimum", at(random)),
        ("maximum", at(random)),
        ("exclusiveMinimum", at(random)),
        ("exclusiveMaximum", at(random)),
        ("multipleOf", json!([1.0, 2.0, 3.0, 4.0, 6.0, 0.5, 0.1][random.below(7)])),
    ];
    Value::Object(some(random, keywords))
}

fn string(random: &mut Random) -> Value {
    let keywords = vec![
        ("type", json!("string")),
        ("minLength", json!(random.below(3))),
        ("maxLength", json!(random.below(4))),
        ("pattern", json!(["^a", "b$", "^[a-z]+$"][random.below(3)])),
        ("format", json!(["date", "uuid"][random.below(2)])),
    ];
    let mut keywords = some(random, keywords);
    if random.one_in(2) {
        keywords.remove("format");
        keywords.remove("pattern");
    }
    Value::Object(keywords)
}

fn array(random: &mut Random, depth: usize) -> Value {
    let tuple: Vec<_> = (0..random.below(3)).map(|_| schema(random, depth)).collect();
    let items = if random.one_in(3) && !tuple.is_empty() { json!(tuple) } else { schema(random, depth) };
    let keywords = vec![
        ("items", items),
        ("additionalItems", schema(random, 0)),
        ("minItems", json!(random.below(3))),
        ("maxItems", json!(random.below(4))),
        ("uniqueItems", json!(random.one_in(2))),
        ("contains", schema(random, 0)),
    ];
    let mut keywords = some(random, keywords);
    if !random.one_in(4) {
        keywords.insert("type".into(), json!("array"));
    }
    Value::Object(keywords)
}

fn names(random: &mut Random) -> Vec<&'static str> {
    NAMES.into_iter().filter(|_| random.one_in(3)).collect()
}

fn object(random: &mut Random, depth: usize) -> Value {
    let mut properties = Map::new();
    for name in NAMES {
        if random.one_in(2) {
            properties.insert(name.into(), schema(random, depth));
        }
    }
    let others = [json!(false), json!(false), json!(true), schema(random, 0)][random.below(4)].clone();
    let keywords = vec![("required", json!(names(random))), ("additionalProperties", others)];
    let mut keywords = some(random, keywords);
    let rare = vec![
        ("patternProperties", json!({ *random.pick(&["^p", "^x-", "^a"]): schema(random, 0) })),
        (
            "propertyNames",
            [json!({ "enum": ["a", "p"] }), string(random), json!({ "pattern": "^p" })][random.below(3)].clone(),
        ),
        ("minProperties", json!(random.below(3))),
        ("maxProperties", json!(random.below(4))),
        ("dependencies", json!({ *random.pick(&NAMES): names(random) })),
        ("dependencies", json!({ *random.pick(&NAMES): schema(random, depth) })),
    ];
    for (name, value) in rare {
        if random.one_in(5) {
            keywords.insert(name.into(), value);
        }
    }
    keywords.insert("properties".into(), Value::Object(properties));
    if !random.one_in(4) {
        keywords.insert("type".into(), json!("object"));
    }
    Value::Object(keywords)
}

fn combined(random: &mut Random, depth: usize) -> Value {
    let cases: Vec<_> = (0..1 + random.below(3)).map(|_| schema(random, depth)).collect();
    let mut whole = if random.one_in(3) { object(random, depth) } else { json!({}) };
    match random.below(6) {
        0 => whole["allOf"] = json!(cases),
        1 | 2 => whole["anyOf"] = json!(cases),
        3 => whole["oneOf"] = json!(cases),
        4 => whole["not"] = cases[0].clone(),
        _ => {
            whole["if"] = schema(random, depth);
            whole["then"] = cases[0].clone();
            whole["else"] = schema(random, 0);
        }
    }
    whole
}

/// JSON Pointers to all schemas in `schema`.
fn places(schema: &Value, at: &str, into: &mut Vec<String>) {
    into.push(at.to_owned());
    let Some(members) = schema.as_object() else { return };
    for (keyword, value) in members {
        match (keyword.as_str(), value) {
            ("properties" | "patternProperties" | "definitions" | "dependencies", Value::Object(named)) => {
                for (name, schema) in named.iter().filter(|(_, schema)| !schema.is_array()) {
                    places(schema, &format!("{at}/{keyword}/{name}"), into);
                }
            }
            ("items" | "allOf" | "anyOf" | "oneOf", Value::Array(schemas)) => {
                for (index, schema) in schemas.iter().enumerate() {
                    places(schema, &format!("{at}/{keyword}/{index}"), into);
                }
            }
            ("items" | "additionalItems" | "additionalProperties" | "contains" | "propertyNames" | "not", _)
            | ("if" | "then" | "else", _) => places(value, &format!("{at}/{keyword}"), into),
            _ => {}
        }
    }
}

/// `definition` with one thing changed.
fn changed(random: &mut Random, definition: &Value) -> Value {
    let mut changed = definition.clone();
    let mut all = Vec::new();
    places(definition, "", &mut all);
    // Half of the definitions are used by nobody; and what is deep inside shows seldom.
    let mut at = random.pick(&all).clone();
    for _ in 0..3 {
        if at.starts_with("/definitions") || at.matches('/').count() > 4 {
            at = random.pick(&all).clone();
        }
    }
    let place = changed.pointer_mut(&at).expect("the place was found in it");
    let is_free = at.is_empty() || at.ends_with("/r") || at.ends_with("/s");
    match random.below(8) {
        0 if !is_free => *place = schema(random, 1),
        1 if !is_free => *place = json!({ "anyOf": [place.take(), { "type": "null" }] }),
        2 if !is_free => *place = json!({ "allOf": [place.take(), schema(random, 0)] }),
        3 if !is_free => *place = json!({ "$ref": "#/definitions/s" }),
        _ => change_keyword(random, place),
    }
    changed
}

fn change_keyword(random: &mut Random, place: &mut Value) {
    let Some(members) = place.as_object_mut() else { return };
    let keywords: Vec<_> =
        members.keys().filter(|name| !["$ref", "definitions"].contains(&name.as_str())).cloned().collect();
    let more =
        [number(random), string(random), object(random, 0), array(random, 0), types(random)][random.below(5)].clone();
    let is_added = keywords.is_empty() || random.one_in(4);
    if is_added {
        members
            .extend(more.as_object().into_iter().flatten().take(1).map(|(name, value)| (name.clone(), value.clone())));
        return;
    }
    let name = random.pick(&keywords);
    let value = &mut members[name];
    match value {
        Value::Number(number) if random.one_in(2) => {
            let number = number.as_f64().unwrap_or(0.0) + [1.0, -1.0][random.below(2)];
            if number > 0.0 {
                *value = json!(number);
            }
        }
        Value::Array(elements) if random.one_in(2) && elements.len() > 1 => {
            let at = random.below(elements.len());
            elements.remove(at);
        }
        Value::Array(_) if name == "enum" => {
            let mut values = value.as_array().cloned().unwrap_or_default();
            values.push(self::value(random));
            *value = json!(unique(values));
        }
        Value::Object(named) if name == "properties" && random.one_in(2) => {
            named.insert((*random.pick(&NAMES)).into(), schema(random, 0));
        }
        _ => drop(members.remove(name)),
    }
}

/// The seeds that a run begins with: two that are fixed, and one that is not.
fn seeds() -> [u64; 2] {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |now| now.as_nanos() as u64);
    [0x7474_6475_7374_0001, now | 1]
}

#[derive(Debug, Default)]
struct Tally {
    compatible: usize,
    broken: usize,
    /// A refusal that claims to be certain, without a record that shows it.
    unshown: usize,
    unproved: usize,
    unusable: usize,
}

fn hold_against_records(seed: u64, tally: &mut Tally) {
    let mut random = Random(seed);
    for _ in 0..PAIRS / 2 {
        let at = random.0;
        let old = definition(&mut random);
        let mut new = changed(&mut random, &old);
        for _ in 0..random.below(3) {
            new = changed(&mut random, &new);
        }
        let Some(mut judges) = Judges::new(&old, &new) else {
            tally.unusable += 1;
            continue;
        };
        let verdicts =
            [Direction::Backward, Direction::Forward].map(|direction| verdict(Policy::Strict, direction, &old, &new));
        let mut records = Records::new(&old, &new, random.next());
        let found = judges.search(&mut records, RECORDS, [true; 2]);
        for (verdict, counterexample) in verdicts.iter().zip([found.backward, found.forward]) {
            match (verdict.compatible, counterexample) {
                (true, None) => tally.compatible += 1,
                (true, Some(record)) => {
                    panic!("seed {seed}, state {at}: a false proof\nold {old}\nnew {new}\nrecord {record}")
                }
                (false, Some(_)) => tally.broken += 1,
                (false, None) if verdict.violations.iter().all(|violation| violation.rule.ends_with(NOT_PROVED)) => {
                    tally.unproved += 1;
                }
                (false, None) => tally.unshown += 1,
            }
        }
        let same = check(Mode::Full, Policy::Strict, &[(1, &old)], &old);
        assert!(same.compatible, "seed {seed}, state {at}: not compatible with itself\n{old}\n{same:?}");
    }
}

#[test]
fn no_record_speaks_against_a_proof() {
    let mut tally = Tally::default();
    for seed in seeds() {
        hold_against_records(seed, &mut tally);
    }
    // The run itself must be worth something: definitions compile, and both verdicts occur and are shown.
    assert!(tally.unusable * 10 < PAIRS, "{tally:?}");
    assert!(tally.compatible * 4 > PAIRS && tally.broken * 5 > PAIRS, "{tally:?}");
    assert!((tally.unshown + tally.unproved) * 4 < tally.broken, "{tally:?}");
}

/// Changes that are compatible by construction must be found to be.
#[test]
fn what_is_wider_by_construction_is_proved() {
    for seed in seeds() {
        let mut random = Random(seed);
        for _ in 0..500 {
            let at = random.0;
            let old = definition(&mut random);
            let other = schema_without_reference(&mut random, 1);
            if Judges::new(&old, &other).is_none() {
                continue;
            }
            let inner = {
                let mut inner = old.clone();
                inner.as_object_mut().and_then(|members| members.remove("definitions"));
                inner
            };
            let with = |whole: Value| {
                let mut whole = whole;
                whole["definitions"] = old["definitions"].clone();
                whole
            };
            let mut moved = with(json!({ "allOf": [{ "$ref": "#/definitions/whole" }] }));
            moved["definitions"]["whole"] = inner.clone();
            for (mode, new) in [
                (Mode::Backward, with(json!({ "anyOf": [other, inner] }))),
                (Mode::Forward, with(json!({ "allOf": [other, inner] }))),
                (Mode::Full, moved),
                (Mode::Full, with(json!({ "anyOf": [inner] }))),
                (Mode::Full, with(json!({ "allOf": [inner, {}, true] }))),
            ] {
                let verdict = check(mode, Policy::Strict, &[(1, &old)], &new);
                assert!(verdict.compatible, "seed {seed}, state {at}\nold {old}\nnew {new}\n{verdict:#?}");
            }
        }
    }
}
