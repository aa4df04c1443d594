//! Calls of the admin plane at a steady rate: how long they take, beside a load or alone.
//!
//! An open loop: each call counts from when it was due, whatever the calls before it took.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io, thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use clap::{Args, ValueEnum};
use hdrhistogram::Histogram;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    load::{
        args::{Cores, Output, duration},
        report::{Latency, write_latency},
        stats::histogram,
        worker,
    },
    rest::{Connection, Rest, RestError},
    stalls::{self, CoreStalls, Watch},
};

/// In a mixed run one call in so many is a change.
const CHANGE_EVERY: u64 = 10;
const CHANGE: &str = "change a stream";
const CREATION: &str = "create a stream";

/// Flags of `ttdust-bench admin`.
#[derive(Debug, Clone, Args)]
pub struct AdminArgs {
    /// The server's HTTP address
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8080")]
    http: String,
    /// The API key, sent as a bearer token
    #[arg(long, value_name = "KEY", env = "TTDUST_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// First make so many schemas, where they are missing
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    schemas: u32,
    /// And so many streams of them
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    streams: u32,
    /// What is called
    #[arg(long, value_enum, default_value_t = Mix::Reads)]
    mix: Mix,
    /// Calls a second in all
    #[arg(long, value_name = "CALLS/S", default_value_t = 100.0)]
    rate: f64,
    /// How long; 0s: only make what is missing
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    duration: Duration,
    /// Connections, each with a thread
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=256))]
    connections: u32,
    /// Cores of the threads, such as 0,2-3, or none
    #[arg(long, value_name = "LIST", default_value = "none")]
    cores: Cores,
    /// Watch these cores for stalls of the machine under this one, and tell latencies without them too (takes root)
    #[arg(long, value_name = "LIST")]
    stalls: Option<Cores>,
    /// The format of the report on stdout
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// What is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mix {
    /// Lists and single objects, the configuration, the health, in turn
    Reads,
    /// Reads, and one change of a stream in ten calls
    Mixed,
    /// Creations of streams: each is answered when all shards know the stream
    Creates,
}

/// What a run tells.
#[derive(Debug, Serialize)]
struct Report {
    mix: &'static str,
    rate: f64,
    seconds: f64,
    connections: u32,
    schemas: u32,
    streams: u32,
    /// From when a call was due to its answer, in µs, by what was called.
    latency_us: BTreeMap<&'static str, Latency>,
    /// Of all calls that change nothing.
    reads_us: Latency,
    /// Of those that no stall of the machine fell into; `null`: nobody watched.
    undisturbed_reads_us: Option<Latency>,
    /// Stalls of the machine; `null`: nobody watched.
    stalls: Option<Vec<CoreStalls>>,
    /// Answers that were no success, by status; 0: no answer.
    failed: BTreeMap<u16, u64>,
}

/// What there is to call about.
#[derive(Debug)]
struct Objects {
    /// Names.
    streams: Vec<String>,
    /// Ids.
    schemas: Vec<String>,
    /// Tells this run's creations from those of an earlier one.
    run: u64,
}

#[derive(Debug, Default)]
struct Counts {
    latency: BTreeMap<&'static str, Histogram<u64>>,
    undisturbed: BTreeMap<&'static str, Histogram<u64>>,
    failed: BTreeMap<u16, u64>,
}

impl Counts {
    fn record(&mut self, what: &'static str, nanos: u64) {
        self.latency.entry(what).or_insert_with(histogram).saturating_record(nanos);
        if !stalls::ended_within(nanos) {
            self.undisturbed.entry(what).or_insert_with(histogram).saturating_record(nanos);
        }
    }

    fn merge(&mut self, other: Self) {
        for (what, latency) in other.latency {
            *self.latency.entry(what).or_insert_with(histogram) += latency;
        }
        for (what, latency) in other.undisturbed {
            *self.undisturbed.entry(what).or_insert_with(histogram) += latency;
        }
        other.failed.into_iter().for_each(|(status, count)| *self.failed.entry(status).or_default() += count);
    }
}

/// Fills, calls, reports on stdout, and says whether all calls were answered well.
///
/// # Errors
/// The server cannot be reached, or refuses what is made first.
pub fn run(args: &AdminArgs) -> Result<bool, Box<dyn std::error::Error>> {
    if !(args.rate.is_finite() && args.rate > 0.0) {
        return Err("--rate wants calls per second, above 0".into());
    }
    let objects = fill(args)?;
    let watch = stalls::watch(args.stalls.as_ref())?;
    let begin = Instant::now() + Duration::from_millis(50);
    let cores = match &args.cores {
        Cores::Unpinned => Vec::new(),
        Cores::List(cores) => cores.clone(),
    };
    let call = |index: u32| {
        if let Some(&core) = cores.get(index as usize % cores.len().max(1)) {
            worker::pin(core).map_err(io::Error::other)?;
        }
        call_at_rate(args, &objects, begin, index)
    };
    let counts = thread::scope(|scope| {
        let threads: Vec<_> = (0..args.connections).map(|index| scope.spawn(move || call(index))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a calling thread does not panic")).collect::<Vec<_>>()
    });
    let mut all = Counts::default();
    for counts in counts {
        all.merge(counts?);
    }
    let report = Report::new(args, &all, watch.map(Watch::stop));
    match args.output {
        Output::Text => print!("{}", report.text()),
        Output::Json => println!("{}", serde_json::to_string(&report)?),
    }
    Ok(report.failed.is_empty())
}

/// Makes schemas and streams that are missing.
fn fill(args: &AdminArgs) -> Result<Objects, RestError> {
    let rest = Rest { authority: &args.http, api_key: args.api_key.as_deref() };
    let definition = |n: u32| {
        let bounded = json!({ "type": "integer", "minimum": 0, "maximum": n });
        json!({ "type": "object", "required": ["id"], "properties": { "id": bounded, "name": { "type": "string" } } })
    };
    let create = |path: &str, body: Value| match rest.call("POST", path, Some(&body)) {
        Ok(_) | Err(RestError::Status { status: 409, .. }) => Ok(()),
        Err(error) => Err(error),
    };
    for n in 0..args.schemas {
        let body = json!({ "name": format!("admin-{n}"), "namespace": "bench", "definition": definition(n) });
        create("/api/v1/schemas", body)?;
    }
    let mut schemas = Vec::new();
    let mut token = String::new();
    loop {
        let page = rest.call("GET", &format!("/api/v1/schemas?namespace=bench&page_size=100{token}"), None)?;
        let items = page["schemas"].as_array().into_iter().flatten();
        schemas.extend(items.filter_map(|schema| schema["id"].as_str().map(str::to_owned)));
        match page["next_page_token"].as_str().filter(|next| !next.is_empty()) {
            Some(next) => token = format!("&page_token={next}"),
            None => break,
        }
    }
    let streams: Vec<String> = (0..args.streams).map(|n| format!("admin-{n}")).collect();
    let share = streams.len().div_ceil(args.connections as usize).max(1);
    let create_share = |part: usize| {
        streams.iter().enumerate().skip(part * share).take(share).try_for_each(|(n, name)| {
            create("/api/v1/streams", json!({ "name": name, "schema_id": schemas[n % schemas.len()] }))
        })
    };
    let failed = thread::scope(|scope| {
        let create_share = &create_share;
        let parts = 0..args.connections as usize;
        let threads: Vec<_> = parts.map(|part| scope.spawn(move || create_share(part))).collect();
        threads.into_iter().find_map(|thread| thread.join().expect("a filling thread does not panic").err())
    });
    let run = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as u64);
    failed.map_or(Ok(Objects { streams, schemas, run }), Err)
}

/// The calls of one connection: every `connections`-th of all, from the `index`-th on.
fn call_at_rate(args: &AdminArgs, objects: &Objects, begin: Instant, index: u32) -> io::Result<Counts> {
    let mut connection = Connection::open(&args.http, args.api_key.as_deref())?;
    let mut counts = Counts::default();
    for turn in 0.. {
        let number = u64::from(index) + turn * u64::from(args.connections);
        let due = Duration::from_secs_f64(number as f64 / args.rate);
        if due >= args.duration {
            break;
        }
        let due = begin + due;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let (what, method, path, body) = request(args.mix, number, objects);
        let status = match connection.exchange(method, &path, body.as_ref()) {
            Ok(Some((status, _))) => status,
            Ok(None) | Err(_) => {
                connection = Connection::open(&args.http, args.api_key.as_deref())?;
                0
            }
        };
        if (200..300).contains(&status) {
            let took = due.elapsed().as_nanos() as u64;
            counts.record(what, took);
        } else {
            *counts.failed.entry(status).or_default() += 1;
        }
    }
    Ok(counts)
}

/// Call `number` of a run: its kind, method, path and body.
fn request(mix: Mix, number: u64, objects: &Objects) -> (&'static str, &'static str, String, Option<Value>) {
    let at = number as usize;
    let stream = &objects.streams[at % objects.streams.len()];
    if mix == Mix::Creates {
        let name = format!("created-{}-{number}", objects.run);
        let body = json!({ "name": name, "schema_id": objects.schemas[at % objects.schemas.len()] });
        return (CREATION, "POST", "/api/v1/streams".to_owned(), Some(body));
    }
    if mix == Mix::Mixed && number.is_multiple_of(CHANGE_EVERY) {
        let body = json!({ "description": format!("changed by call {number}") });
        return (CHANGE, "PATCH", format!("/api/v1/streams/{stream}"), Some(body));
    }
    let (what, path) = match number % 6 {
        1 => ("list 100 streams", "/api/v1/streams?page_size=100".to_owned()),
        2 => ("read a stream", format!("/api/v1/streams/{stream}")),
        3 => ("list 100 schemas", "/api/v1/schemas?page_size=100".to_owned()),
        4 => ("read the configuration", "/api/v1/config".to_owned()),
        5 => ("list keys", "/api/v1/api-keys".to_owned()),
        _ => ("read a stream", format!("/api/v1/streams/{stream}")),
    };
    (what, "GET", path, None)
}

impl Report {
    fn new(args: &AdminArgs, counts: &Counts, stalls: Option<Vec<CoreStalls>>) -> Self {
        let reads = |latency: &BTreeMap<&'static str, Histogram<u64>>| {
            let mut reads = histogram();
            let only_reads = latency.iter().filter(|(what, _)| **what != CHANGE && **what != CREATION);
            only_reads.for_each(|(_, latency)| reads += latency);
            Latency::of(&reads)
        };
        Self {
            mix: match args.mix {
                Mix::Reads => "reads",
                Mix::Mixed => "mixed",
                Mix::Creates => "creates",
            },
            rate: args.rate,
            seconds: args.duration.as_secs_f64(),
            connections: args.connections,
            schemas: args.schemas,
            streams: args.streams,
            latency_us: counts.latency.iter().map(|(what, latency)| (*what, Latency::of(latency))).collect(),
            reads_us: reads(&counts.latency),
            undisturbed_reads_us: stalls.is_some().then(|| reads(&counts.undisturbed)),
            stalls,
            failed: counts.failed.clone(),
        }
    }

    fn text(&self) -> String {
        let mut out = String::new();
        for (what, latency) in &self.latency_us {
            write_latency(&mut out, what, latency).expect("a String grows");
        }
        for (status, count) in &self.failed {
            writeln!(out, "{count} calls failed with status {status}").expect("a String grows");
        }
        out
    }
}
