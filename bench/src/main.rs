//! `ttdust-bench`: a load generator, a checker of what was acked, and micro-benchmarks of the engine's parts.
//!
//! Exit codes: 0 all good, 1 the run was not (errors, a failed check), 2 it could not be done.

mod admin;
mod calls;
mod clicks;
mod client;
mod fake;
mod flood;
mod http;
mod load;
mod messages;
mod micro;
mod payload;
mod query;
mod report;
mod rest;
mod scenario;
mod stalls;
mod tail;
mod wire;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use load::{acked::AckedRun, args::LoadArgs};
use payload::{PayloadKind, Payloads};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Parser)]
#[command(name = "ttdust-bench", version, about = "Load generator and micro-benchmarks for TTDust")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Put load on a server and measure
    Load(Box<LoadArgs>),
    /// List the loads that have a name, for `load --scenario`
    Scenarios,
    /// Make a page with plots of what runs reported
    Report(report::ReportArgs),
    /// Check that what a run acked (`load --acked FILE`) can be read back
    Verify(VerifyArgs),
    /// Call the admin plane at a steady rate and measure
    Admin(admin::AdminArgs),
    /// Send small batches of records over HTTP at a steady rate and measure
    Http(http::HttpArgs),
    /// Ask for records at a steady rate and measure
    Query(query::QueryArgs),
    /// Follow a stream with many readers, or replay it with one, and measure
    Tail(tail::TailArgs),
    /// Flood a server with frames of HTTP/2, and tell how often it closes
    Flood(flood::FloodArgs),
    /// Measure parts of the engine in this process
    Micro(micro::MicroArgs),
    /// A server that acks and keeps nothing: shows what the generator itself can do
    Sink {
        /// Where to listen
        #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:50051")]
        listen: SocketAddr,
    },
}

#[derive(Debug, clap::Args)]
struct VerifyArgs {
    /// The file that `load --acked` wrote
    file: PathBuf,
    /// The server's gRPC address
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:50051")]
    grpc: String,
    /// The API key, sent as a bearer token
    #[arg(long, value_name = "KEY", env = "TTDUST_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// The format of the report on stdout
    #[arg(short, long, value_enum, default_value_t = load::args::Output::Text)]
    output: load::args::Output,
}

fn main() -> ExitCode {
    let done = match Cli::parse_from(scenario::expanded(std::env::args_os())).command {
        Command::Scenarios => {
            print!("{}", scenario::list());
            Ok(true)
        }
        Command::Report(args) => report::run(&args).map(|()| true),
        Command::Load(args) => load::run::run(&args).map_err(Into::into),
        Command::Verify(args) => verify(&args),
        Command::Admin(args) => admin::run(&args),
        Command::Http(args) => http::run(&args),
        Command::Query(args) => query::run(&args),
        Command::Tail(args) => tail::run(&args),
        Command::Flood(args) => flood::run(&args),
        Command::Micro(args) => micro::run(&args).map(|()| true),
        Command::Sink { listen } => sink(listen).map(|()| true),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("ttdust-bench: {error}");
            ExitCode::from(2)
        }
    }
}

type AnyError = Box<dyn std::error::Error>;

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

fn verify(args: &VerifyArgs) -> Result<bool, AnyError> {
    let cannot = |error: std::io::Error| format!("cannot read {}: {error}", args.file.display());
    let run = AckedRun::read(&args.file).map_err(cannot)?;
    let kind: PayloadKind = run.payload.parse()?;
    let payloads = Payloads::load(&kind, run.payload_records as usize)?;
    let target = client::Target::new(&args.grpc, args.api_key.as_deref())?;
    let verdict = runtime()?.block_on(load::verify::verify(&target, &run.streams, &payloads, |_| {}))?;
    match args.output {
        load::args::Output::Text => print!("{}", verdict.text()),
        load::args::Output::Json => println!("{}", serde_json::to_string_pretty(&verdict)?),
    }
    Ok(verdict.problems.is_empty())
}

fn sink(listen: SocketAddr) -> Result<(), AnyError> {
    let fake = fake::Fake::new(fake::Faults::default(), false);
    let bound = |address| eprintln!("sink: keeps nothing, listens on {address}; Ctrl-C ends it");
    runtime()?.block_on(async {
        tokio::select! {
            served = fake.clone().serve(listen, bound) => served,
            stopped = tokio::signal::ctrl_c() => stopped,
        }
    })?;
    let (requests, records) = fake.counts();
    eprintln!("sink: {requests} requests, {records} records");
    Ok(())
}
