//! What checking a record against its schema costs.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use bytes::Bytes;
use ttdust_shards::{
    ids::SchemaId,
    schema::{CompiledSchema, SchemaError},
    validate::{TapeVerdict, Validator},
};

/// What one run measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// Records checked.
    pub records: u64,
    /// Mean time for one, in ns: the best of the passes over the records, so that other work on the machine counts less.
    pub ns_per_record: f64,
    /// Mean size of one, in bytes.
    pub bytes_per_record: f64,
    /// How many of the records the schema accepts.
    pub valid: usize,
    /// How many of those the fast path accepts alone.
    pub fast: usize,
}

/// Checks `records` against the schema `definition` over and over for about `seconds`, and prints what one costs.
///
/// # Errors
/// The definition cannot be compiled.
///
/// # Panics
/// There are no records.
pub fn run(name: &str, definition: &str, records: &[Bytes], seconds: f64) -> Result<Measured, SchemaError> {
    assert!(!records.is_empty(), "nothing to measure");
    let schema = CompiledSchema::compile(SchemaId::generate(), 1, definition)?;
    let mut validator = Validator::default();
    let (mut valid, mut fast) = (0, 0);
    for record in records {
        let (tape, reference) = validator.check_both(&schema, record);
        valid += usize::from(reference.is_ok());
        fast += usize::from(tape == TapeVerdict::Accepted);
    }
    let began = Instant::now();
    let budget = Duration::from_secs_f64(seconds);
    let (mut best, mut checked) = (Duration::MAX, 0);
    while checked == 0 || began.elapsed() < budget {
        let pass = Instant::now();
        for record in records {
            let _ = black_box(validator.check(black_box(&schema), black_box(record)));
        }
        best = best.min(pass.elapsed());
        checked += records.len() as u64;
    }
    let measured = Measured {
        records: checked,
        ns_per_record: best.as_nanos() as f64 / records.len() as f64,
        bytes_per_record: records.iter().map(Bytes::len).sum::<usize>() as f64 / records.len() as f64,
        valid,
        fast,
    };
    println!(
        "validate {name}: {:.0} ns/record ({:.0} bytes; {valid} of {} valid, {fast} on the fast path)",
        measured.ns_per_record,
        measured.bytes_per_record,
        records.len(),
    );
    Ok(measured)
}
