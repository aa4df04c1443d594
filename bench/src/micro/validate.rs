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

/// A way to check a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// As the server does it: one way after the other, until one is sure.
    Server,
    /// The schema's program over the bytes.
    Program,
    /// The tape, and the schema over it.
    Tape,
}

/// What one way was measured to do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// The way.
    pub way: Way,
    /// Mean time for one record, in ns: the best of the passes over the records, so that other work on the machine counts less.
    pub ns_per_record: f64,
    /// How many of the records it accepts.
    pub accepted: usize,
}

impl Way {
    fn accepts(self, validator: &mut Validator, schema: &CompiledSchema, record: &[u8]) -> bool {
        match self {
            Self::Server => validator.check(schema, record).is_ok(),
            Self::Program => validator.check_program(schema, record) == Some(true),
            Self::Tape => validator.check_tape(schema, record) == TapeVerdict::Accepted,
        }
    }
}

/// Checks `records` against the schema `definition` over and over for about `seconds` each way, the ways in turns, and prints
/// what a record costs.
///
/// # Errors
/// The definition cannot be compiled.
///
/// # Panics
/// There are no records.
pub fn run(name: &str, definition: &str, records: &[Bytes], seconds: f64) -> Result<Vec<Measured>, SchemaError> {
    assert!(!records.is_empty(), "nothing to measure");
    let schema = CompiledSchema::compile(SchemaId::generate(), 1, definition)?;
    let mut validator = Validator::default();
    let has_program = validator.check_program(&schema, &records[0]).is_some();
    let ways = [Way::Server, Way::Program, Way::Tape];
    let ways = ways.into_iter().filter(|way| has_program || *way != Way::Program);
    let mut measured: Vec<Measured> =
        ways.map(|way| Measured { way, ns_per_record: f64::INFINITY, accepted: 0 }).collect();
    let budget = Duration::from_secs_f64(seconds * measured.len() as f64);
    let began = Instant::now();
    loop {
        for row in &mut measured {
            let pass = Instant::now();
            let accepts = |record: &&Bytes| row.way.accepts(&mut validator, black_box(&schema), black_box(record));
            row.accepted = records.iter().filter(accepts).count();
            row.ns_per_record = row.ns_per_record.min(pass.elapsed().as_nanos() as f64 / records.len() as f64);
        }
        if began.elapsed() >= budget {
            break;
        }
    }
    let bytes = records.iter().map(Bytes::len).sum::<usize>() / records.len();
    for Measured { way, ns_per_record, accepted } in &measured {
        let way = format!("{way:?}").to_lowercase();
        println!(
            "validate {name}, {way}: {ns_per_record:.0} ns/record ({bytes} bytes; {accepted} of {} accepted)",
            records.len()
        );
    }
    Ok(measured)
}
