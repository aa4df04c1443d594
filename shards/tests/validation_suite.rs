//! The official JSON Schema test suite, draft-07: the tape, the reference and the suite must agree on every instance.

use std::{fs, path::PathBuf};

use serde_json::Value;
use ttdust_shards::{
    ids::SchemaId,
    schema::CompiledSchema,
    validate::{TapeVerdict, Validator},
};

/// Groups whose schema is refused when it is registered: each refers to a document by its URI, and only `#...` is taken.
const REFUSED: [&str; 30] = [
    "definitions.json: validate definition against metaschema",
    "optional/cross-draft.json: refs to future drafts are processed as future drafts",
    "optional/id.json: id inside an enum is not a real identifier",
    "optional/unknownKeyword.json: $id inside an unknown keyword is not a real identifier",
    "ref.json: $id must be resolved against nearest parent, not just immediate parent",
    "ref.json: $ref prevents a sibling $id from changing the base uri",
    "ref.json: Location-independent identifier with base URI change in subschema",
    "ref.json: Recursive references between schemas",
    "ref.json: Reference an anchor with a non-relative URI",
    "ref.json: URN base URI with URN and JSON pointer ref",
    "ref.json: URN base URI with URN and anchor ref",
    "ref.json: ref to else",
    "ref.json: ref to if",
    "ref.json: ref to then",
    "ref.json: ref with absolute-path-reference",
    "ref.json: refs with relative uris and defs",
    "ref.json: relative refs with absolute uris and defs",
    "ref.json: remote ref, containing refs itself",
    "ref.json: simple URN base URI with $ref via the URN",
    "refRemote.json: $ref to $ref finds location-independent $id",
    "refRemote.json: Location-independent identifier in remote ref",
    "refRemote.json: base URI change",
    "refRemote.json: base URI change - change folder",
    "refRemote.json: base URI change - change folder in subschema",
    "refRemote.json: fragment within remote ref",
    "refRemote.json: ref within remote ref",
    "refRemote.json: remote ref",
    "refRemote.json: remote ref with ref to definitions",
    "refRemote.json: retrieved nested refs resolve relative to their URI not $id",
    "refRemote.json: root ref in remote ref",
];

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
                assert!(error.pointer.ends_with("/$ref"), "{title}: {error}");
                outcome.refused.push(title);
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
fn tape_reference_and_suite_agree() {
    let mut outcome = Outcome::default();
    for file in files("").into_iter().chain(files("optional")).chain(files("optional/format")) {
        run(&file, &mut outcome);
    }
    outcome.refused.sort();
    assert_eq!(outcome.wrong, Vec::<String>::new());
    assert_eq!(outcome.refused, REFUSED);
    assert_eq!(outcome.right, 1656, "some of the suite was not run");
}
