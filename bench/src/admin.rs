//! Calls of the admin plane at a steady rate: how long they take, beside a load or alone.

use std::{
    collections::BTreeMap,
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use clap::{Args, ValueEnum};
use hdrhistogram::Histogram;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    calls::{self, Call, CallArgs, Counts},
    load::{report::Latency, stats::histogram},
    rest::{Rest, RestError},
    stalls::CoreStalls,
};

/// In a mixed run one call in so many is a change.
const CHANGE_EVERY: u64 = 10;
const CHANGE: &str = "change a stream";
const CREATION: &str = "create a stream";

/// Flags of `ttdust-bench admin`.
#[derive(Debug, Clone, Args)]
pub struct AdminArgs {
    #[command(flatten)]
    calls: CallArgs,
    /// First make so many schemas, where they are missing
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    schemas: u32,
    /// And so many streams of them
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    streams: u32,
    /// What is called
    #[arg(long, value_enum, default_value_t = Mix::Reads)]
    mix: Mix,
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
    /// `/metrics`, as Prometheus asks for it
    Scrapes,
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

/// Fills, calls, reports on stdout, and says whether all calls were answered well.
///
/// # Errors
/// The server cannot be reached, or refuses what is made first.
pub fn run(args: &AdminArgs) -> Result<bool, Box<dyn std::error::Error>> {
    let objects = fill(args)?;
    let counts = calls::run(&args.calls, |number| AdminCall::new(args.mix, number, &objects))?;
    let report = Report::new(args, counts);
    calls::print(args.calls.output, &report, || calls::text(&report.latency_us, &report.failed, 0))?;
    Ok(report.failed.is_empty())
}

/// Makes schemas and streams that are missing.
fn fill(args: &AdminArgs) -> Result<Objects, RestError> {
    let rest = Rest { authority: &args.calls.http, api_key: args.calls.api_key.as_deref() };
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
    let share = streams.len().div_ceil(args.calls.connections as usize).max(1);
    let create_share = |part: usize| {
        streams.iter().enumerate().skip(part * share).take(share).try_for_each(|(n, name)| {
            create("/api/v1/streams", json!({ "name": name, "schema_id": schemas[n % schemas.len()] }))
        })
    };
    let failed = thread::scope(|scope| {
        let create_share = &create_share;
        let parts = 0..args.calls.connections as usize;
        let threads: Vec<_> = parts.map(|part| scope.spawn(move || create_share(part))).collect();
        threads.into_iter().find_map(|thread| thread.join().expect("a filling thread does not panic").err())
    });
    let run = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as u64);
    failed.map_or(Ok(Objects { streams, schemas, run }), Err)
}

struct AdminCall {
    what: &'static str,
    method: &'static str,
    path: String,
    body: Option<Value>,
}

impl AdminCall {
    /// Call `number` of a run.
    fn new(mix: Mix, number: u64, objects: &Objects) -> Self {
        let at = number as usize;
        let stream = &objects.streams[at % objects.streams.len()];
        if mix == Mix::Creates {
            let name = format!("created-{}-{number}", objects.run);
            let body = json!({ "name": name, "schema_id": objects.schemas[at % objects.schemas.len()] });
            return Self { what: CREATION, method: "POST", path: "/api/v1/streams".to_owned(), body: Some(body) };
        }
        if mix == Mix::Scrapes {
            return Self { what: "scrape", method: "GET", path: "/metrics".to_owned(), body: None };
        }
        if mix == Mix::Mixed && number.is_multiple_of(CHANGE_EVERY) {
            let body = Some(json!({ "description": format!("changed by call {number}") }));
            return Self { what: CHANGE, method: "PATCH", path: format!("/api/v1/streams/{stream}"), body };
        }
        let (what, path) = match number % 6 {
            1 => ("list 100 streams", "/api/v1/streams?page_size=100".to_owned()),
            2 => ("read a stream", format!("/api/v1/streams/{stream}")),
            3 => ("list 100 schemas", "/api/v1/schemas?page_size=100".to_owned()),
            4 => ("read the configuration", "/api/v1/config".to_owned()),
            5 => ("list keys", "/api/v1/api-keys".to_owned()),
            _ => ("read a stream", format!("/api/v1/streams/{stream}")),
        };
        Self { what, method: "GET", path, body: None }
    }
}

impl Call for AdminCall {
    fn what(&self) -> &'static str {
        self.what
    }

    fn method(&self) -> &'static str {
        self.method
    }

    fn path(&self) -> &str {
        &self.path
    }

    fn body(&self) -> Option<&Value> {
        self.body.as_ref()
    }
}

impl Report {
    fn new(args: &AdminArgs, counts: Counts) -> Self {
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
                Mix::Scrapes => "scrapes",
            },
            rate: args.calls.rate,
            seconds: args.calls.duration.as_secs_f64(),
            connections: args.calls.connections,
            schemas: args.schemas,
            streams: args.streams,
            latency_us: calls::latencies(&counts.latency),
            reads_us: reads(&counts.latency),
            undisturbed_reads_us: counts.stalls.is_some().then(|| reads(&counts.undisturbed)),
            stalls: counts.stalls,
            failed: counts.failed,
        }
    }
}
