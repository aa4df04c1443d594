//! Micro-benchmarks: one part of the engine, in this process, without a server. One file a part, each with a `run`.

pub mod dedup;
pub mod lookup;
pub mod once;
pub mod parquet;
pub mod pipeline;
pub mod trace;
pub mod validate;
pub mod wal;

use std::path::PathBuf;

use bytes::Bytes;
use clap::{Args, Subcommand};

use crate::{
    load::args::duration,
    payload::{self, PayloadKind, Payloads},
};

type AnyError = Box<dyn std::error::Error>;

/// Flags of `ttdust-bench micro`.
#[derive(Debug, Args)]
pub struct MicroArgs {
    #[command(subcommand)]
    part: Part,
    /// How long to measure each figure
    #[arg(long, global = true, value_name = "TIME", default_value = "2s", value_parser = duration)]
    duration: std::time::Duration,
    /// Records: flights, clicks or file:PATH; default: flights and clicks
    #[arg(long, global = true, value_name = "KIND")]
    payload: Vec<PayloadKind>,
    /// The JSON Schema of a payload of one's own
    #[arg(long, global = true, value_name = "PATH")]
    schema: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// The write-ahead log: appends and framing in memory, then durable commits in a real folder
    Wal {
        /// Where to make the log; it is removed at the end
        #[arg(long, value_name = "DIR", default_value = ".")]
        dir: PathBuf,
    },
    /// Idempotency keys: memory, and the cost of new keys and of old duplicates with many in the window
    Dedup {
        /// Keys in the window
        #[arg(long, value_name = "N", default_value_t = 50_000_000)]
        keys: u64,
        /// Where to make their files; they are removed at the end
        #[arg(long, value_name = "DIR", default_value = ".")]
        dir: PathBuf,
    },
    /// One part over so many records and nothing more, for a counter of instructions: see perf/instructions.sh
    Once {
        /// The part
        #[arg(value_enum)]
        part: once::Part,
        /// Records
        #[arg(long, value_name = "N", default_value_t = 40_000)]
        records: usize,
    },
    /// Checking records against their schema
    Validate,
    /// What each step of a pipeline costs, on the flights
    Pipeline,
    /// Deciding whether a request is traced, and tracing one
    Trace,
    /// Finding records in a local file, by key and by range
    Lookup {
        /// Records of the file
        #[arg(long, value_name = "N", default_value_t = 1_000_000)]
        rows: usize,
    },
    /// Writing records to a Parquet file
    Parquet {
        /// How often, after a warm-up
        #[arg(long, value_name = "N", default_value_t = 5)]
        rounds: u32,
        /// Records of a file; those of the payload, over and over
        #[arg(long, value_name = "N", default_value_t = 200_000)]
        rows: usize,
        /// A key field to index; may be given many times
        #[arg(long, value_name = "FIELD")]
        key: Vec<String>,
    },
}

/// Measures, and prints.
///
/// # Errors
/// What the part said.
pub fn run(args: &MicroArgs) -> Result<(), AnyError> {
    let kinds =
        if args.payload.is_empty() { vec![PayloadKind::Flights, PayloadKind::Clicks(0)] } else { args.payload.clone() };
    match &args.part {
        &Part::Lookup { rows } => Ok(lookup::run(rows, args.duration)?),
        Part::Trace => {
            trace::run(args.duration);
            Ok(())
        }
        &Part::Once { part, records } => once::run(part, records),
        Part::Wal { dir } => {
            wal::run(&records(&kinds[0])?, dir, args.duration)?;
            Ok(())
        }
        Part::Dedup { keys, dir } => {
            dedup::run(*keys, dir)?;
            Ok(())
        }
        Part::Validate => {
            for kind in &kinds {
                let definition = payload::schema(kind, args.schema.as_deref())?.to_string();
                validate::run(&kind.to_string(), &definition, &records(kind)?, args.duration.as_secs_f64())?;
            }
            Ok(())
        }
        Part::Pipeline => {
            pipeline::run(&records(&PayloadKind::Flights)?, args.duration.as_secs_f64());
            Ok(())
        }
        Part::Parquet { rounds, rows, key } => {
            for kind in &kinds {
                let definition = payload::schema(kind, args.schema.as_deref())?.to_string();
                let records: Vec<Bytes> = records(kind)?.into_iter().cycle().take(*rows).collect();
                println!("parquet {kind}:");
                parquet::run(&definition, &records, key, *rounds)?;
            }
            Ok(())
        }
    }
}

fn records(kind: &PayloadKind) -> Result<Vec<Bytes>, payload::PayloadError> {
    Ok(Payloads::load(kind, 20_000)?.iter().cloned().collect())
}
