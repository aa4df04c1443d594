//! Micro-benchmarks: one part of the engine, in this process, without a server. One file a part, each with a `run`.

use clap::{Args, Subcommand};

/// Flags of `ttdust-bench micro`.
#[derive(Debug, Args)]
pub struct MicroArgs {
    #[command(subcommand)]
    part: Part,
}

#[derive(Debug, Subcommand)]
enum Part {}

/// Measures, and prints.
///
/// # Errors
/// What the part said.
pub fn run(args: &MicroArgs) -> Result<(), Box<dyn std::error::Error>> {
    match args.part {}
}
