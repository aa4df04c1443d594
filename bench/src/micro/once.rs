//! One part of the engine over so many records, and nothing else that grows with them. Two runs, one over twice as many records
//! as the other, differ by what the records cost, to the instruction: `perf/instructions.sh` counts them.
//!
//! Inputs are the same in every run, and so are their order and number of repeats.

use std::{hint::black_box, path::PathBuf, sync::Arc};

use bytes::Bytes;
use clap::ValueEnum;
use prost::Message as _;
use serde_json::json;
use ttdust_proto::ingestion::AppendRequest;
use ttdust_shards::{
    ids::{SchemaId, StreamId},
    parquet::{PartitionHour, WriteJob, write},
    pipeline::{Pipeline, Runner},
    record::{Parser, keys::KeyField},
    schema::CompiledSchema,
    validate::Validator,
};

use super::{AnyError, parquet, records};
use crate::payload::{PayloadKind, schema};

/// Rows of a Parquet file.
const FILE_ROWS: usize = 10_000;
/// Appends of a frame of the log.
const FRAME_APPENDS: usize = 16;

/// A part of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Decoding the messages of `Append`, 100 records each
    DecodeAppend,
    /// Checking flights against their schema
    ValidateFlights,
    /// Checking clicks against theirs
    ValidateClicks,
    /// Appending flights to the log, 100 at a time, and sealing frames of 1,600; nothing is written
    Wal,
    /// Laying flights out as a tape
    Tape,
    /// A pipeline of one step, which converts a time, over flights
    Pipeline,
    /// Writing files of 10,000 flights
    ParquetFlights,
    /// Writing files of 10,000 clicks, with an index of their ids
    ParquetClicks,
}

impl Part {
    /// Records that only come together.
    fn unit(self) -> usize {
        match self {
            Self::DecodeAppend => parquet::BATCH_ROWS,
            Self::Wal => parquet::BATCH_ROWS * FRAME_APPENDS,
            Self::ParquetFlights | Self::ParquetClicks => FILE_ROWS,
            Self::ValidateFlights | Self::ValidateClicks | Self::Tape | Self::Pipeline => 1,
        }
    }
}

/// Does what `part` says for so many records.
///
/// # Errors
/// The number does not fit the part, or a file cannot be written.
pub fn run(part: Part, count: usize) -> Result<(), AnyError> {
    let unit = part.unit();
    if count == 0 || !count.is_multiple_of(unit) {
        return Err(format!("--records {count}: this part takes multiples of {unit}").into());
    }
    let kind = match part {
        Part::ValidateClicks | Part::ParquetClicks => PayloadKind::Clicks(0),
        _ => PayloadKind::Flights,
    };
    let records = records(&kind)?;
    match part {
        Part::DecodeAppend => decode(&records, count / unit)?,
        Part::ValidateFlights | Part::ValidateClicks => validate(&kind, &records, count)?,
        Part::Wal => log(&records, count / unit),
        Part::Tape => {
            let mut parser = Parser::default();
            for record in records.iter().cycle().take(count) {
                black_box(parser.with_nodes(black_box(record), |nodes| nodes.len()));
            }
        }
        Part::Pipeline => {
            let steps = json!([{"type": "timestamp", "fields": ["timestamp"], "target": "unix_ms"}]);
            let pipeline = Pipeline::compile(1, &steps).expect("a step that compiles");
            let mut runner = Runner::new(Arc::new(pipeline));
            for record in records.iter().cycle().take(count) {
                black_box(runner.run(black_box(record)));
            }
        }
        Part::ParquetFlights => files(&kind, &records, &[], count / unit)?,
        Part::ParquetClicks => files(&kind, &records, &["event_id"], count / unit)?,
    }
    println!("{count} records");
    Ok(())
}

fn decode(records: &[Bytes], messages: usize) -> Result<(), AnyError> {
    let payloads = records[..parquet::BATCH_ROWS].to_vec();
    let request = AppendRequest { stream_id: "flights".to_owned(), payloads, ..AppendRequest::default() };
    let message = Bytes::from(request.encode_to_vec());
    for _ in 0..messages {
        black_box(AppendRequest::decode(black_box(message.clone()))?);
    }
    Ok(())
}

fn compiled(kind: &PayloadKind) -> Result<CompiledSchema, AnyError> {
    let definition = schema(kind, None)?.to_string();
    Ok(CompiledSchema::compile(SchemaId::generate(), 1, &definition)?)
}

fn validate(kind: &PayloadKind, records: &[Bytes], count: usize) -> Result<(), AnyError> {
    let schema = compiled(kind)?;
    let mut validator = Validator::default();
    for record in records.iter().cycle().take(count) {
        // Each of them is valid: that is the way that is counted.
        assert!(black_box(validator.check(black_box(&schema), black_box(record))).is_ok(), "a bundled record");
    }
    Ok(())
}

fn log(records: &[Bytes], frames: usize) {
    let (mut wal, stream, mut sequence) = (parquet::log_in_memory(), StreamId::generate(), 1);
    let mut appends = records.chunks_exact(parquet::BATCH_ROWS).cycle();
    for _ in 0..frames {
        for payloads in appends.by_ref().take(FRAME_APPENDS) {
            parquet::append(&mut wal, stream, sequence, payloads);
            sequence += payloads.len() as i64;
        }
        black_box(parquet::written(&mut wal));
    }
}

fn files(kind: &PayloadKind, records: &[Bytes], keys: &[&str], files: usize) -> Result<(), AnyError> {
    let dir = tempfile::tempdir()?;
    let stream = StreamId::generate();
    let path: PathBuf = dir.path().join("once.parquet");
    let job = WriteJob {
        stream,
        schema: Arc::new(compiled(kind)?),
        pipelines: Arc::default(),
        hour: PartitionHour(0),
        batches: parquet::batches(stream, &records[..FILE_ROWS]),
        key_fields: keys.iter().map(|field| KeyField::new(field)).collect(),
        path,
    };
    for _ in 0..files {
        black_box(write(&job)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_runs_and_odd_numbers_are_refused() {
        for part in Part::value_variants() {
            run(*part, part.unit()).unwrap_or_else(|error| panic!("{part:?}: {error}"));
        }
        for (part, count) in [(Part::Tape, 0), (Part::Wal, 1500), (Part::ParquetClicks, 10_001)] {
            let told = run(part, count).expect_err("no multiple").to_string();
            assert!(told.contains("multiples"), "{told}");
        }
    }
}
