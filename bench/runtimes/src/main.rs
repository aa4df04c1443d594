//! `runtime-ingest`: a server that takes `Append` as TTDust does, writes what came to a log, syncs it and acks it, and does nothing
//! else; on one of four runtimes, all on one thread. What differs between two runs is the runtime.

mod frame;
mod log;
mod on_compio;
mod on_glommio;
mod on_monoio;
mod on_tokio;
mod service;

use std::{
    fs,
    io::{self, Write as _},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, ValueEnum};

/// What a runtime is given: a socket that listens and a log's file that is filled with zeros.
struct Job {
    listener: TcpListener,
    core: usize,
    path: PathBuf,
    bytes: u64,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Runtime {
    /// io_uring through compio, sockets by readiness: what the server runs on
    Compio,
    /// io_uring through monoio, sockets by readiness
    Monoio,
    /// io_uring through glommio, log as a DmaFile
    Glommio,
    /// Tokio's single-threaded runtime, with a ring of its own for the log
    Tokio,
}

#[derive(Debug, Parser)]
#[command(name = "runtime-ingest", about = "A minimal ingest loop, on the runtime of one's choice")]
struct Args {
    /// The runtime
    #[arg(long, value_enum)]
    runtime: Runtime,
    /// Where to listen
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// The folder of the log; its disk is what is measured
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// The core of the only thread
    #[arg(long, value_name = "N")]
    core: usize,
    /// Bytes of the log, written round and round, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u64).range(16..=65_536))]
    log_mib: u64,
    /// Where to say the address once it listens
    #[arg(long, value_name = "FILE")]
    port_file: PathBuf,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("runtime-ingest: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> io::Result<()> {
    let path = args.dir.join("ingest.log");
    let bytes = args.log_mib << 20;
    fill(&path, bytes).map_err(|error| io::Error::other(format!("cannot fill {}: {error}", path.display())))?;
    let listener = TcpListener::bind(args.listen)
        .map_err(|error| io::Error::other(format!("cannot listen on {}: {error}", args.listen)))?;
    pin(args.core)?;
    // Under another name first, so that whoever waits for the file finds it whole.
    let unfinished = args.port_file.with_extension("new");
    fs::write(&unfinished, listener.local_addr()?.to_string())?;
    fs::rename(&unfinished, &args.port_file)?;
    let job = Job { listener, core: args.core, path, bytes };
    match args.runtime {
        Runtime::Compio => on_compio::run(job),
        Runtime::Monoio => on_monoio::run(job),
        Runtime::Glommio => on_glommio::run(job),
        Runtime::Tokio => on_tokio::run(job),
    }
}

/// A file of zeros: its blocks are there, so that a durable write is one of data alone.
fn fill(path: &Path, bytes: u64) -> io::Result<()> {
    let mut file = fs::File::create(path)?;
    let zeros = vec![0; 1 << 20];
    for _ in 0..bytes >> 20 {
        file.write_all(&zeros)?;
    }
    file.sync_all()
}

fn pin(core: usize) -> io::Result<()> {
    let mut cores = rustix::thread::CpuSet::new();
    if core >= rustix::thread::CpuSet::MAX_CPU {
        return Err(io::Error::other(format!("there is no core {core}")));
    }
    cores.set(core);
    rustix::thread::sched_setaffinity(None, &cores)
        .map_err(|error| io::Error::other(format!("cannot run on core {core}: {error}")))
}
