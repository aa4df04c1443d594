//! `ttdust-bench report`: one page with tables and plots of what runs reported, that needs nothing else to be looked at.

mod markup;
mod page;
mod plot;
mod runs;

use std::{fs, path::PathBuf};

use clap::Args;
use runs::Reports;

/// Flags of `ttdust-bench report`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ttdust-bench report --out report.html before.json after.json
  ttdust-bench report --out flush.html --only flush perf/results/20261130T052355Z-169d5e8.jsonl

A .hgrm file gives the report of the same name (run.json and run.hgrm) its whole curve; by itself it is a run of its own.
Ratios are to the first run.")]
pub struct ReportArgs {
    /// The page to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// What stands above it
    #[arg(long, value_name = "TEXT", default_value = "Load runs")]
    title: String,
    /// Only runs whose names begin so; may be given again
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Reports of `load -o json` (.json), results of perf/run-targets.sh (.jsonl), percentiles (.hgrm)
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file holds something else.
    #[error("{path}: {what}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what was wanted.
        what: String,
    },
    /// No run is left.
    #[error("no run in these files has a name that begins with {0}: leave --only out to see which there are")]
    NoneLeft(String),
}

/// Writes the page.
///
/// # Errors
/// See [`ReportError`].
pub fn run(args: &ReportArgs) -> Result<(), Box<dyn std::error::Error>> {
    let mut reports = Reports::read(&args.files)?;
    reports.keep(&args.only)?;
    let page = page::page(&args.title, &reports);
    fs::write(&args.out, page).map_err(|source| ReportError::Io { path: args.out.clone(), source })?;
    eprintln!("{}: {} runs, {} other figures", args.out.display(), reports.runs.len(), reports.others.len());
    Ok(())
}
