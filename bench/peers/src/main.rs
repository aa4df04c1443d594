//! `peer-load`: the events of `ttdust-bench`, sent to another server in its own protocol, each ack waited for; as cheap a client as
//! can be, so that the server is what is measured.
//!
//! Exit codes: 0 all good, 1 the server refused something or holds less than it acked, 2 the run did not take place.

mod amqp;
#[path = "../../src/clicks.rs"]
mod clicks;
mod durable_streams;
mod line;
mod nats;
mod postgres;
mod processes;
mod protocol;
mod redis;
mod report;
mod wire;

use std::{
    io,
    net::SocketAddr,
    process::ExitCode,
    rc::Rc,
    time::{Duration, Instant},
};

use clap::{Parser, ValueEnum};
use line::{Course, Line};
use protocol::{Protocol, Shape};
use report::Report;
use wire::Wire;

/// A server that is not TTDust.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Peer {
    /// Redis: XADD, pipelined
    Redis,
    /// NATS JetStream: one message, or an atomic batch
    Nats,
    /// PostgreSQL: INSERT into a table of text
    Postgres,
    /// PostgreSQL: INSERT into a table of jsonb
    PostgresJsonb,
    /// Durable Streams: POST of bytes, or of an array of JSON
    DurableStreams,
    /// RabbitMQ: a quorum queue, publisher confirms
    Rabbitmq,
}

#[derive(Debug, Parser)]
#[command(name = "peer-load", about = "The load of ttdust-bench, for servers that are not TTDust")]
struct Args {
    /// The server's kind
    #[arg(long, value_enum)]
    peer: Peer,
    /// Where it listens
    #[arg(long, value_name = "IP:PORT")]
    address: SocketAddr,
    /// Connections
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1000))]
    connections: u16,
    /// Requests in flight a connection
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    in_flight: u32,
    /// Records a request
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    batch: u32,
    /// All records of a request as one message, row or entry: nobody can address a single one
    #[arg(long)]
    opaque: bool,
    /// How many clicks to cycle through
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=200_000))]
    records: u32,
    /// Seconds before measuring
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    warmup: f64,
    /// Seconds to measure
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0)]
    duration: f64,
    /// The core of the only thread
    #[arg(long, value_name = "N")]
    core: Option<usize>,
    /// The server's process: its CPU time and its children's are measured along
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,
}

/// How long to wait for open answers at the end.
const DRAIN: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(report) => {
            println!("{}", serde_json::to_string(&report).expect("plain numbers and text"));
            ExitCode::from(u8::from(!report.is_good()))
        }
        Err(error) => {
            eprintln!("peer-load: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> io::Result<Report> {
    let seconds = |value: f64, name: &str| {
        Duration::try_from_secs_f64(value)
            .ok()
            .filter(|time| *time <= Duration::from_secs(86_400))
            .ok_or_else(|| io::Error::other(format!("--{name} must be seconds, up to a day")))
    };
    let (warmup, duration) = (seconds(args.warmup, "warmup")?, seconds(args.duration, "duration")?);
    if duration.is_zero() {
        return Err(io::Error::other("--duration must be more than 0"));
    }
    if let Some(core) = args.core {
        processes::pin(core)?;
    }
    let shape = Shape {
        batch: args.batch,
        opaque: args.opaque,
        connections: args.connections,
        records: (0..u64::from(args.records)).map(|number| clicks::click(number).into_bytes()).collect(),
    };
    let shape = Rc::new(shape);
    let mut wire = Wire::open(args.address)?;
    prepare(args.peer, &mut wire, &shape)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(drive(args, &shape, warmup, duration))?;
    // On a connection of its own: the first may have been closed for its silence.
    let mut wire = Wire::open(args.address)?;
    let stored = stored(args.peer, &mut wire, &shape)?;
    Ok(report.with_stored(stored))
}

/// Puts all connections to work, and gathers.
async fn drive(args: &Args, shape: &Rc<Shape>, warmup: Duration, duration: Duration) -> io::Result<Report> {
    let mut lines = Vec::new();
    for number in 0..args.connections {
        let mut wire = Wire::open(args.address)?;
        let protocol = open(args.peer, &mut wire, shape, number)?;
        lines.push((wire, protocol));
    }
    let began = Instant::now();
    let course = Rc::new(Course::new(began, began + warmup, began + warmup + duration, DRAIN));
    let local = tokio::task::LocalSet::new();
    let tasks: Vec<_> = lines
        .into_iter()
        .enumerate()
        .map(|(number, (wire, protocol))| {
            let (shape, course) = (Rc::clone(shape), Rc::clone(&course));
            let in_flight = args.in_flight;
            local.spawn_local(async move { Line::new(wire, protocol, shape, in_flight, number)?.run(&course).await })
        })
        .collect();
    let used = local.run_until(processes::watch(args.server_pid, course.from, course.to)).await?;
    local.await;
    let mut failures = Vec::new();
    for task in tasks {
        if let Err(error) = task.await.unwrap_or_else(|_| Err(io::Error::other("a connection's task panicked"))) {
            failures.push(error.to_string());
        }
    }
    let told = report::Told {
        peer: args.peer.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned()),
        connections: args.connections,
        in_flight: args.in_flight,
        shape: Rc::clone(shape),
        seconds: duration.as_secs_f64(),
    };
    Ok(Report::new(&told, &course.stats(), &used, failures))
}

/// Makes what records go to: a table, a queue, a stream.
fn prepare(peer: Peer, wire: &mut Wire, shape: &Shape) -> io::Result<()> {
    match peer {
        Peer::Redis => Ok(()),
        Peer::Nats => nats::prepare(wire, shape),
        Peer::Postgres => postgres::prepare(wire, false),
        Peer::PostgresJsonb => postgres::prepare(wire, true),
        Peer::DurableStreams => durable_streams::prepare(wire, shape),
        Peer::Rabbitmq => amqp::prepare(wire),
    }
}

/// A connection that is ready for requests.
fn open(peer: Peer, wire: &mut Wire, shape: &Rc<Shape>, number: u16) -> io::Result<Box<dyn Protocol>> {
    Ok(match peer {
        Peer::Redis => Box::new(redis::Redis::default()),
        Peer::Nats => Box::new(nats::Nats::open(wire, shape, number)?),
        Peer::Postgres => Box::new(postgres::Postgres::open(wire, shape, false)?),
        Peer::PostgresJsonb => Box::new(postgres::Postgres::open(wire, shape, true)?),
        Peer::DurableStreams => Box::new(durable_streams::DurableStreams::new(shape)),
        Peer::Rabbitmq => Box::new(amqp::Amqp::open(wire, shape)?),
    })
}

/// How many messages, rows or entries the server says it holds; `None`: it cannot be asked.
fn stored(peer: Peer, wire: &mut Wire, shape: &Shape) -> io::Result<Option<u64>> {
    match peer {
        Peer::Redis => redis::stored(wire).map(Some),
        Peer::Nats => nats::stored(wire, shape).map(Some),
        Peer::Postgres | Peer::PostgresJsonb => postgres::stored(wire).map(Some),
        Peer::DurableStreams => Ok(None),
        Peer::Rabbitmq => amqp::stored(wire).map(Some),
    }
}
