//! Random schemas and random records: whatever a schema's program or the tape accepts, the reference accepts; and the program
//! takes most of what is valid, or it would be of no use.
//!
//! `TTDUST_RANDOM_RECORDS=n` tries n records, `TTDUST_SEED=n` others than the usual ones. A failure shows schema and record.

#[path = "validation/mutate.rs"]
mod mutate;
#[path = "validation/random.rs"]
mod random;

use mutate::{Random, mutate};
use random::{Records, Schemas};
use ttdust_shards::{
    ids::SchemaId,
    schema::CompiledSchema,
    validate::{TapeVerdict, Validator},
};

/// How many records are tried if nobody asks for more.
const RECORDS: u64 = 40_000;

/// Records that are made for one schema.
const MADE_A_SCHEMA: usize = 100;

/// Spoilt copies of each.
const SPOILT_A_RECORD: usize = 2;

/// All paths are compared for one in so many records; for the others, the reference with a program that accepted.
const COMPARED: u64 = 16;

fn asked(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}

#[derive(Debug, Default)]
struct Counts {
    records: u64,
    schemas: u64,
    without_program: u64,
    accepted: u64,
    compared: u64,
    valid: u64,
    valid_by_program: u64,
}

/// One record, through the paths.
fn compare(validator: &mut Validator, schema: &CompiledSchema, record: &[u8], counts: &mut Counts) {
    let program = validator.check_program(schema, record);
    counts.records += 1;
    let is_compared = counts.records.is_multiple_of(COMPARED);
    if program != Some(true) && !is_compared {
        return;
    }
    let (tape, reference) = validator.check_both(schema, record);
    let shown = || format!("{}\n{}\n{reference:?}", schema.definition, String::from_utf8_lossy(record));
    assert!(program != Some(true) || reference.is_ok(), "the program alone accepts: {}", shown());
    assert!(tape != TapeVerdict::Accepted || reference.is_ok(), "the tape alone accepts: {}", shown());
    counts.accepted += u64::from(program == Some(true));
    if is_compared {
        counts.compared += 1;
        counts.valid += u64::from(reference.is_ok());
        counts.valid_by_program += u64::from(program == Some(true));
        assert_eq!(validator.check(schema, record), reference, "{}", shown());
        assert_eq!(validator.accepts(schema, record), reference.is_ok(), "{}", shown());
    }
}

#[test]
fn what_is_accepted_fast_is_accepted_by_the_reference() {
    let records = asked("TTDUST_RANDOM_RECORDS").unwrap_or(RECORDS);
    // A xorshift that starts from 0 stays there.
    let mut random = Random(asked("TTDUST_SEED").unwrap_or(7).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut validator = Validator::default();
    let mut counts = Counts::default();
    while counts.records < records {
        let definition = Schemas(&mut random).definition();
        // One that leads back to itself is refused, for instance.
        let Ok(schema) = CompiledSchema::compile(SchemaId::generate(), 1, &definition.to_string()) else { continue };
        counts.schemas += 1;
        if validator.check_program(&schema, b"null").is_none() {
            counts.without_program += 1;
            continue;
        }
        let mut made = Records::new(&definition);
        let mut donor = "{\"a\":1,\"b\":2,\"kind\":\"a\"}".to_owned();
        for _ in 0..MADE_A_SCHEMA {
            let record = made.next(&mut random);
            compare(&mut validator, &schema, record.as_bytes(), &mut counts);
            for _ in 0..SPOILT_A_RECORD {
                let spoilt = mutate(record.as_bytes(), donor.as_bytes(), &mut random);
                compare(&mut validator, &schema, &spoilt, &mut counts);
            }
            if record.len() < 2000 {
                record.clone_into(&mut donor);
            }
        }
    }
    println!("{counts:?}");
    assert!(counts.without_program * 5 < counts.schemas, "{counts:?}");
    assert!(counts.accepted * 10 > counts.records, "{counts:?}");
    assert!(counts.valid_by_program * 10 > counts.valid * 7, "{counts:?}");
}
