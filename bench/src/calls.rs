//! Calls of a server's REST interface at a steady rate, and how long they take.
//!
//! An open loop: each call counts from when it was due, whatever the calls before it took.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io, thread,
    time::{Duration, Instant},
};

use clap::Args;
use hdrhistogram::Histogram;
use serde::Serialize;
use serde_json::Value;

use crate::{
    load::{
        args::{Cores, Output, duration},
        report::{Latency, write_latency},
        stats::histogram,
        worker,
    },
    rest::Connection,
    stalls::{self, CoreStalls, Watch},
};

/// Which server is called, how often, from where.
#[derive(Debug, Clone, Args)]
pub struct CallArgs {
    /// The server's HTTP address
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8080")]
    pub http: String,
    /// The API key, sent as a bearer token
    #[arg(long, value_name = "KEY", env = "TTDUST_API_KEY", hide_env_values = true)]
    pub api_key: Option<String>,
    /// Calls a second in all
    #[arg(long, value_name = "CALLS/S", default_value_t = 100.0)]
    pub rate: f64,
    /// How long
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub duration: Duration,
    /// Connections, each with a thread
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub connections: u32,
    /// Cores of the threads, such as 0,2-3, or none
    #[arg(long, value_name = "LIST", default_value = "none")]
    pub cores: Cores,
    /// Watch these cores for stalls of the machine under this one, and tell latencies without them too (takes root)
    #[arg(long, value_name = "LIST")]
    pub stalls: Option<Cores>,
    /// The format of the report on stdout
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// One call.
pub trait Call {
    /// What it is, for the report.
    fn what(&self) -> &'static str;
    /// Its HTTP method.
    fn method(&self) -> &'static str {
        "GET"
    }
    /// Path and query.
    fn path(&self) -> &str;
    /// Its JSON body.
    fn body(&self) -> Option<&Value> {
        None
    }
    /// Whether the body of a success is what it must be.
    fn is_answered_by(&self, _answer: &[u8]) -> bool {
        true
    }
}

/// What the calls of a run came to.
#[derive(Debug, Default)]
pub struct Counts {
    /// From when a call was due to its success, in ns, by what was called.
    pub latency: BTreeMap<&'static str, Histogram<u64>>,
    /// The same of those that no stall of the machine fell into.
    pub undisturbed: BTreeMap<&'static str, Histogram<u64>>,
    /// Answers that were no success, by status; 0: no answer.
    pub failed: BTreeMap<u16, u64>,
    /// Successes that are not what they must be.
    pub wrong: u64,
    /// Stalls of the machine; `None`: nobody watched.
    pub stalls: Option<Vec<CoreStalls>>,
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
        self.wrong += other.wrong;
    }
}

/// What a run of calls tells.
#[derive(Debug, Serialize)]
pub struct Report {
    rate: f64,
    seconds: f64,
    connections: u32,
    /// From when a call was due to its answer, in µs, by what was called.
    latency_us: BTreeMap<&'static str, Latency>,
    /// The same of those that no stall of the machine fell into; as `latency_us` where nobody watched.
    undisturbed_us: BTreeMap<&'static str, Latency>,
    /// Stalls of the machine; `null`: nobody watched.
    stalls: Option<Vec<CoreStalls>>,
    /// Answers that were no success, by status (0: no answer).
    failed: BTreeMap<u16, u64>,
    /// Answers that are not what they must be.
    wrong: u64,
}

impl Report {
    /// Of a run with these flags.
    pub fn new(args: &CallArgs, counts: Counts) -> Self {
        Self {
            rate: args.rate,
            seconds: args.duration.as_secs_f64(),
            connections: args.connections,
            latency_us: latencies(&counts.latency),
            undisturbed_us: latencies(&counts.undisturbed),
            stalls: counts.stalls,
            failed: counts.failed,
            wrong: counts.wrong,
        }
    }

    /// Whether all was answered, and rightly.
    pub fn is_good(&self) -> bool {
        self.failed.is_empty() && self.wrong == 0
    }

    /// For people.
    pub fn text(&self) -> String {
        text(&self.latency_us, &self.failed, self.wrong)
    }
}

/// Calls at the rate: `call` makes the call with this number, from 0 on. Returns what came of all.
///
/// # Errors
/// The rate is none, the server cannot be reached, a core cannot be pinned to or watched.
pub fn run<C: Call>(args: &CallArgs, call: impl Fn(u64) -> C + Sync) -> Result<Counts, Box<dyn std::error::Error>> {
    if !(args.rate.is_finite() && args.rate > 0.0) {
        return Err("--rate wants calls per second, above 0".into());
    }
    let cores = match &args.cores {
        Cores::Unpinned => Vec::new(),
        Cores::List(cores) => cores.clone(),
    };
    let watch = stalls::watch(args.stalls.as_ref())?;
    let begin = Instant::now() + Duration::from_millis(50);
    let share = |index: u32| {
        if let Some(&core) = cores.get(index as usize % cores.len().max(1)) {
            worker::pin(core).map_err(io::Error::other)?;
        }
        call_share(args, &call, begin, index)
    };
    let shares = thread::scope(|scope| {
        let share = &share;
        let threads: Vec<_> = (0..args.connections).map(|index| scope.spawn(move || share(index))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a calling thread does not panic")).collect::<Vec<_>>()
    });
    let mut all = Counts::default();
    for share in shares {
        all.merge(share?);
    }
    all.stalls = watch.map(Watch::stop);
    Ok(all)
}

/// The calls of one connection: every `connections`-th of all, from the `index`-th on.
fn call_share<C: Call>(args: &CallArgs, call: &impl Fn(u64) -> C, begin: Instant, index: u32) -> io::Result<Counts> {
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
        let call = call(number);
        match connection.exchange(call.method(), call.path(), call.body()) {
            Ok(Some((200..300, answer))) => {
                counts.record(call.what(), due.elapsed().as_nanos() as u64);
                counts.wrong += u64::from(!call.is_answered_by(&answer));
            }
            Ok(Some((status, _))) => *counts.failed.entry(status).or_default() += 1,
            Ok(None) | Err(_) => {
                connection = Connection::open(&args.http, args.api_key.as_deref())?;
                *counts.failed.entry(0).or_default() += 1;
            }
        }
    }
    Ok(counts)
}

/// The percentiles of each kind of call.
pub fn latencies(of: &BTreeMap<&'static str, Histogram<u64>>) -> BTreeMap<&'static str, Latency> {
    of.iter().map(|(what, latency)| (*what, Latency::of(latency))).collect()
}

/// Prints a report in the format that was asked for.
///
/// # Errors
/// It is not JSON, which a report always is.
pub fn print(output: Output, report: &impl Serialize, text: impl FnOnce() -> String) -> serde_json::Result<()> {
    match output {
        Output::Text => print!("{}", text()),
        Output::Json => println!("{}", serde_json::to_string(report)?),
    }
    Ok(())
}

/// Latencies and failures, for people.
pub fn text(latency_us: &BTreeMap<&'static str, Latency>, failed: &BTreeMap<u16, u64>, wrong: u64) -> String {
    let mut out = String::new();
    for (what, latency) in latency_us {
        write_latency(&mut out, what, latency).expect("a String grows");
    }
    for (status, count) in failed {
        writeln!(out, "{count} calls failed with status {status}").expect("a String grows");
    }
    if wrong > 0 {
        writeln!(out, "{wrong} answers were not what is stored").expect("a String grows");
    }
    out
}
