//! JSON Schema: a verdict on a record is what `jsonschema` says on `serde_json`'s value of it, whichever way it was found.

use jsonschema::{Draft, PatternOptions};
use serde_json::Value;
use ttdust_shards::{
    ids::SchemaId,
    schema::CompiledSchema,
    validate::{FIELD_ERRORS_MAX, SCHEMA_VIOLATION, TapeVerdict, Validator},
};

use super::parts;

/// Definitions of the sample data: inputs that begin with their number need not bring one along.
const KNOWN: [&str; 2] = [include_str!("../data/flights.schema.json"), include_str!("../data/clicks.schema.json")];
/// Longer inputs find nothing that shorter ones do not, and are slow.
const DEFINITION_BYTES_MAX: usize = 4096;

thread_local! {
    static COMPILED: [(CompiledSchema, jsonschema::Validator); 2] =
        KNOWN.map(|definition| both(definition).expect("the definition compiles"));
}

/// A definition as the product compiles it, and by `jsonschema` alone.
fn both(definition: &str) -> Option<(CompiledSchema, jsonschema::Validator)> {
    let compiled = CompiledSchema::compile_new(SchemaId::generate(), 1, definition).ok()?;
    let mut value: Value = serde_json::from_str(definition).expect("what compiles is JSON");
    // The draft is fixed, whatever a definition names; where it is named further down, it may be a part of data.
    value.as_object_mut().and_then(|members| members.remove("$schema"));
    if value.to_string().contains("$schema") {
        return None;
    }
    let plain = jsonschema::options()
        .with_draft(Draft::Draft7)
        .should_validate_formats(true)
        .with_format("uuid", |text: &str| text.len() == 36 && uuid::Uuid::try_parse(text).is_ok())
        .with_pattern_options(PatternOptions::regex())
        .offline()
        .build(&value)
        .unwrap_or_else(|error| panic!("compiled, but jsonschema says {error}: {definition}"));
    Some((compiled, plain))
}

/// A definition, a NUL and a record; or a digit and a record of the definition with that number.
pub fn schema(input: &[u8]) {
    match input.split_first() {
        Some((&digit @ b'0'..=b'1', record)) => {
            COMPILED.with(|known| judge(&known[usize::from(digit - b'0')], record));
        }
        Some(_) => {
            let [definition, record] = parts(input);
            let Ok(definition) = std::str::from_utf8(definition) else { return };
            if definition.len() <= DEFINITION_BYTES_MAX
                && let Some(compiled) = both(definition)
            {
                judge(&compiled, record);
            }
        }
        None => {}
    }
}

fn judge((compiled, plain): &(CompiledSchema, jsonschema::Validator), record: &[u8]) {
    let mut validator = Validator::default();
    let verdict = validator.check(compiled, record);
    assert_eq!(validator.accepts(compiled, record), verdict.is_ok());
    let (tape, reference) = validator.check_both(compiled, record);
    assert_eq!(verdict, reference, "the reference decides");
    assert!(tape != TapeVerdict::Accepted || verdict.is_ok(), "accepted by the tape alone");
    let by_program = validator.check_program(compiled, record) == Some(true);
    assert!(!by_program || verdict.is_ok(), "accepted by the program alone");
    let Ok(value) = serde_json::from_slice::<Value>(record) else {
        assert!(verdict.is_err(), "no JSON, but taken");
        return;
    };
    let is_valid = plain.is_valid(&value);
    match verdict {
        Ok(()) => assert!(is_valid, "taken, but jsonschema says: {:?}", plain.validate(&value)),
        Err(invalid) if invalid.code == SCHEMA_VIOLATION => {
            assert!(!is_valid, "{invalid:?}, but jsonschema takes it");
            assert!(invalid.field_errors.len() <= FIELD_ERRORS_MAX);
            for error in invalid.field_errors {
                let cut = error.pointer.ends_with('…');
                assert!(cut || value.pointer(&error.pointer).is_some(), "{error:?} points nowhere");
            }
        }
        // Refused for its text.
        Err(_) => {}
    }
}
