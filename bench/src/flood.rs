//! Floods a server of one's own, connection after connection, to be run beside an honest load whose latency is measured.

use std::{
    io, thread,
    time::{Duration, Instant},
};

use clap::Args;
use serde::Serialize;

use crate::{
    AnyError,
    load::{
        args::{Output, duration},
        worker,
    },
    rest,
};
use attack::{ATTACKS, Attack, Closed, Flooder};

mod attack;
mod frames;

/// The reason of a goodbye to those who do too much.
const ENHANCE_YOUR_CALM: u32 = 11;

/// Flags of `ttdust-bench flood`.
#[derive(Debug, Clone, Args)]
pub struct FloodArgs {
    /// The server's gRPC address, without TLS
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:50051")]
    grpc: String,
    /// What is sent
    #[arg(long, value_name = "KIND", value_parser = clap::builder::PossibleValuesParser::new(ATTACKS.iter().map(|a| a.name)))]
    kind: String,
    /// Connections that flood at a time; one that is closed is opened anew at once
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=256))]
    connections: u32,
    /// How long
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    duration: Duration,
    /// The core of this program
    #[arg(long, value_name = "N")]
    core: Option<usize>,
    /// The format of the report on stdout
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// What a run tells.
#[derive(Debug, Default, Serialize)]
struct Report {
    kind: String,
    seconds: f64,
    /// Connections that were opened.
    opened: u64,
    /// Those that the server said ENHANCE_YOUR_CALM to.
    calmed: u64,
    /// Those that it closed with another word.
    other_goodbyes: u64,
    /// Those that it closed without one that was heard.
    cut: u64,
    /// Connections that were not taken.
    refused: u64,
    megabytes_sent: f64,
}

/// Floods; says whether the server closed a connection at all.
///
/// # Errors
/// The server's name is not known, or the system failed.
pub fn run(args: &FloodArgs) -> Result<bool, AnyError> {
    if let Some(core) = args.core {
        worker::pin(core)?;
    }
    let address = rest::resolve(&args.grpc)?;
    let attack = ATTACKS.iter().find(|attack| attack.name == args.kind).ok_or("no such kind")?;
    let begun = Instant::now();
    let until = begun + args.duration;
    let shares: Vec<io::Result<Report>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..args.connections).map(|_| scope.spawn(|| share(attack, address, until))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a flooding thread does not panic")).collect()
    });
    let mut report = Report { kind: args.kind.clone(), ..Report::default() };
    for share in shares {
        report.add(&share?);
    }
    report.seconds = begun.elapsed().as_secs_f64();
    match args.output {
        Output::Text => println!("{}", report.text()),
        Output::Json => println!("{}", serde_json::to_string(&report)?),
    }
    Ok(report.calmed + report.other_goodbyes + report.cut > 0)
}

/// One connection after the other.
fn share(attack: &Attack, address: std::net::SocketAddr, until: Instant) -> io::Result<Report> {
    let mut report = Report::default();
    while Instant::now() < until {
        let Ok(mut flooder) = Flooder::open(attack, address) else {
            report.refused += 1;
            thread::sleep(Duration::from_millis(10));
            continue;
        };
        report.opened += 1;
        let closed = flooder.flood(until)?;
        report.megabytes_sent += flooder.sent as f64 / 1e6;
        match closed {
            None => {}
            Some(Closed::Goodbye(ENHANCE_YOUR_CALM)) => report.calmed += 1,
            Some(Closed::Goodbye(_)) => report.other_goodbyes += 1,
            Some(Closed::Cut) => report.cut += 1,
        }
    }
    Ok(report)
}

impl Report {
    fn add(&mut self, other: &Self) {
        self.opened += other.opened;
        self.calmed += other.calmed;
        self.other_goodbyes += other.other_goodbyes;
        self.cut += other.cut;
        self.refused += other.refused;
        self.megabytes_sent += other.megabytes_sent;
    }

    fn text(&self) -> String {
        format!(
            "{}: {} connections in {:.1} s, {:.1} MB; closed: {} told to calm down, {} otherwise, {} cut; {} not taken",
            self.kind,
            self.opened,
            self.seconds,
            self.megabytes_sent,
            self.calmed,
            self.other_goodbyes,
            self.cut,
            self.refused
        )
    }
}
