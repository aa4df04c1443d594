//! The official JSON Schema test suite, draft-07: the tape, the reference and the suite must agree on every instance.

use std::{fs, path::PathBuf};

use serde_json::Value;
use ttdust_shards::{
    ids::SchemaId,
    schema::CompiledSchema,
    validate::{TapeVerdict, Validator},
};

/// Groups whose schema is refused when it is registered, with what their `$ref`s would need.
const REFUSED: [(&str, &str); 0] = [];

fn suite() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/data/json-schema-test-suite/draft7")
}

fn groups(path: &str) -> Vec<Value> {
    let text = fs::read(suite().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn files(under: &str) -> Vec<String> {
    let mut found: Vec<String> = fs::read_dir(suite().join(under))
        .expect("the suite is part of the repository")
        .map(|entry| entry.expect("a readable directory").file_name().into_string().expect("an ASCII name"))
        .filter(|name| name.ends_with(".json"))
        .map(|name| if under.is_empty() { name } else { format!("{under}/{name}") })
        .collect();
    found.sort();
    assert!(!found.is_empty());
    found
}

/// What one run found.
#[derive(Default)]
struct Outcome {
    refused: Vec<String>,
    wrong: Vec<String>,
    right: usize,
}

fn run(file: &str, outcome: &mut Outcome) {
    let mut validator = Validator::default();
    for group in groups(file) {
        let title = format!("{file}: {}", group["description"].as_str().unwrap_or_default());
        let schema = match CompiledSchema::compile(SchemaId::generate(), 1, &group["schema"].to_string()) {
            Ok(schema) => schema,
            Err(error) => {
                outcome.refused.push(format!("{title} => {error}"));
                continue;
            }
        };
        for test in group["tests"].as_array().expect("a group has tests") {
            let expected = test["valid"].as_bool().expect("a test has a verdict");
            let (tape, reference) = validator.check_both(&schema, test["data"].to_string().as_bytes());
            let agree = reference.is_ok() == expected && (tape == TapeVerdict::Accepted) == expected;
            if agree {
                outcome.right += 1;
            } else {
                outcome.wrong.push(format!(
                    "{title}: {} => expected {expected}, tape {tape:?}, reference {reference:?}",
                    test["description"]
                ));
            }
        }
    }
}

#[test]
fn mandatory() {
    let mut outcome = Outcome::default();
    for file in files("") {
        run(&file, &mut outcome);
    }
    println!("{} refused {:#?}", outcome.right, outcome.refused);
    assert_eq!(outcome.wrong, Vec::<String>::new());
    assert_eq!(outcome.refused.len(), REFUSED.len());
}

#[test]
fn optional() {
    let mut outcome = Outcome::default();
    for file in files("optional").into_iter().chain(files("optional/format")) {
        run(&file, &mut outcome);
    }
    println!("{} refused {:#?} wrong {:#?}", outcome.right, outcome.refused, outcome.wrong);
    assert!(outcome.wrong.is_empty());
}
