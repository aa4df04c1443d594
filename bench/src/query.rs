//! Queries over REST at a steady rate, beside a load or alone: how long they take, and whether they answer what was stored.
//!
//! An open loop: each call counts from when it was due, whatever the calls before it took. The stream holds clicks, made by
//! `load --payload clicks@NUMBER`, so that which keys are there, and what their records are, is known without asking.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io, thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use clap::{Args, ValueEnum};
use hdrhistogram::Histogram;
use memchr::memmem;
use serde::Serialize;

use crate::{
    load::{
        args::{Cores, Output, duration},
        report::{Latency, write_latency},
        stats::histogram,
        worker,
    },
    micro::validate::click,
    rest::Connection,
    stalls::{self, CoreStalls, Watch},
};

/// Rows that a time range asks for.
const ROWS: usize = 1000;

/// Flags of `ttdust-bench query`.
#[derive(Debug, Clone, Args)]
pub struct QueryArgs {
    /// The server's HTTP address
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8080")]
    http: String,
    /// The API key, sent as a bearer token
    #[arg(long, value_name = "KEY", env = "TTDUST_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// The stream of clicks, which has event_id among its key fields
    #[arg(long, value_name = "NAME", default_value = "clicks")]
    stream: String,
    /// What is asked for; may be given again, and is then asked for in turn [default: all]
    #[arg(long, value_enum)]
    kind: Vec<Kind>,
    /// The clicks that are in the stream: such as 0..6000000
    #[arg(long, value_name = "FROM..TO", value_parser = numbers)]
    clicks: (u64, u64),
    /// Where time ranges begin: between these Unix microseconds
    #[arg(long, value_name = "FROM..TO", value_parser = numbers)]
    times: (u64, u64),
    /// Queries a second in all
    #[arg(long, value_name = "QUERIES/S", default_value_t = 100.0)]
    rate: f64,
    /// How long
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    duration: Duration,
    /// Connections, each with a thread
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=256))]
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

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Kind {
    /// The record of a click that is there
    Present,
    /// The record of a click that is not
    Absent,
    /// A thousand rows from a time on
    Range,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Present, Self::Absent, Self::Range];

    fn name(self) -> &'static str {
        match self {
            Self::Present => "a key that is there",
            Self::Absent => "a key that is not",
            Self::Range => "1,000 rows of a time range",
        }
    }
}

fn numbers(text: &str) -> Result<(u64, u64), String> {
    let parsed = text.split_once("..").and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
    parsed.filter(|(from, to)| from < to).ok_or_else(|| "want FROM..TO, such as 0..6000000".to_owned())
}

/// What a run tells.
#[derive(Debug, Serialize)]
struct Report {
    rate: f64,
    seconds: f64,
    connections: u32,
    /// From when a query was due to its answer, in µs, by what was asked for.
    latency_us: BTreeMap<&'static str, Latency>,
    /// The same of those that no stall of the machine fell into; as `latency_us` where nobody watched.
    undisturbed_us: BTreeMap<&'static str, Latency>,
    /// Stalls of the machine; `null`: nobody watched.
    stalls: Option<Vec<CoreStalls>>,
    /// Answers that were no success, by status (0: no answer).
    failed: BTreeMap<u16, u64>,
    /// Answers that are not what is stored.
    wrong: u64,
}

#[derive(Debug, Default)]
struct Counts {
    latency: BTreeMap<&'static str, Histogram<u64>>,
    undisturbed: BTreeMap<&'static str, Histogram<u64>>,
    failed: BTreeMap<u16, u64>,
    wrong: u64,
}

impl Counts {
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

/// Asks, reports on stdout, and says whether all was answered, and rightly.
///
/// # Errors
/// The server cannot be reached.
pub fn run(args: &QueryArgs) -> Result<bool, Box<dyn std::error::Error>> {
    if !(args.rate.is_finite() && args.rate > 0.0) {
        return Err("--rate wants queries per second, above 0".into());
    }
    let cores = match &args.cores {
        Cores::Unpinned => Vec::new(),
        Cores::List(cores) => cores.clone(),
    };
    let watch = stalls::watch(args.stalls.as_ref())?;
    let begin = Instant::now() + Duration::from_millis(50);
    let ask = |index: u32| {
        if let Some(&core) = cores.get(index as usize % cores.len().max(1)) {
            worker::pin(core).map_err(io::Error::other)?;
        }
        ask_at_rate(args, begin, index)
    };
    let counts = thread::scope(|scope| {
        let threads: Vec<_> = (0..args.connections).map(|index| scope.spawn(move || ask(index))).collect();
        threads.into_iter().map(|thread| thread.join().expect("an asking thread does not panic")).collect::<Vec<_>>()
    });
    let mut all = Counts::default();
    for counts in counts {
        all.merge(counts?);
    }
    let report = Report {
        rate: args.rate,
        seconds: args.duration.as_secs_f64(),
        connections: args.connections,
        latency_us: all.latency.iter().map(|(what, latency)| (*what, Latency::of(latency))).collect(),
        undisturbed_us: all.undisturbed.iter().map(|(what, latency)| (*what, Latency::of(latency))).collect(),
        stalls: watch.map(Watch::stop),
        failed: all.failed,
        wrong: all.wrong,
    };
    match args.output {
        Output::Text => print!("{}", report.text()),
        Output::Json => println!("{}", serde_json::to_string(&report)?),
    }
    Ok(report.failed.is_empty() && report.wrong == 0)
}

/// The queries of one connection: every `connections`-th of all, from the `index`-th on.
fn ask_at_rate(args: &QueryArgs, begin: Instant, index: u32) -> io::Result<Counts> {
    let kinds = if args.kind.is_empty() { Kind::ALL.to_vec() } else { args.kind.clone() };
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
        let kind = kinds[(number % kinds.len() as u64) as usize];
        let question = Question::new(args, kind, number);
        match connection.exchange("GET", &question.path, None) {
            Ok(Some((200, answer))) => {
                let took = due.elapsed().as_nanos() as u64;
                counts.latency.entry(kind.name()).or_insert_with(histogram).saturating_record(took);
                if !stalls::ended_within(took) {
                    counts.undisturbed.entry(kind.name()).or_insert_with(histogram).saturating_record(took);
                }
                counts.wrong += u64::from(!question.is_answered_by(&answer));
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

/// A query, and what its answer holds.
struct Question {
    kind: Kind,
    path: String,
    /// The record that is looked for.
    record: Bytes,
}

impl Question {
    /// The `number`-th of a run: another click and another time each.
    fn new(args: &QueryArgs, kind: Kind, number: u64) -> Self {
        // Spreads the numbers over the whole range, in no order.
        let spread = |(from, to): (u64, u64)| from + number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (to - from);
        let records = format!("/api/v1/streams/{}/records", args.stream);
        let (record, path) = match kind {
            Kind::Range => {
                let start = spread(args.times);
                (Bytes::new(), format!("{records}?start={start}&limit={ROWS}"))
            }
            Kind::Present | Kind::Absent => {
                let at = spread(args.clicks);
                // What was never sent: as many again, past the last.
                let number = if kind == Kind::Present { at } else { at + args.clicks.1 };
                let record = click(number);
                let path = format!("{records}?key_field=event_id&key_value={}", event_id(&record));
                (record, path)
            }
        };
        Self { kind, path, record }
    }

    fn is_answered_by(&self, answer: &[u8]) -> bool {
        match self.kind {
            Kind::Present => memmem::find(answer, &self.record).is_some(),
            Kind::Absent => answer.starts_with(b"{\"found\":false"),
            Kind::Range => memmem::find_iter(answer, "\"sequence_number\"").count() == ROWS,
        }
    }
}

/// The id of a click, as it stands in its JSON.
fn event_id(click: &[u8]) -> &str {
    const AT: usize = r#"{"event_id":""#.len();
    std::str::from_utf8(&click[AT..AT + 36]).expect("a UUID")
}

impl Report {
    fn text(&self) -> String {
        let mut out = String::new();
        for (what, latency) in &self.latency_us {
            write_latency(&mut out, what, latency).expect("a String grows");
        }
        for (status, count) in &self.failed {
            writeln!(out, "{count} queries failed with status {status}").expect("a String grows");
        }
        if self.wrong > 0 {
            writeln!(out, "{} answers were not what is stored", self.wrong).expect("a String grows");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> QueryArgs {
        QueryArgs {
            http: String::new(),
            api_key: None,
            stream: "clicks".to_owned(),
            kind: Vec::new(),
            clicks: (10, 20),
            times: (1000, 2000),
            rate: 1.0,
            duration: Duration::ZERO,
            connections: 1,
            cores: Cores::Unpinned,
            stalls: None,
            output: Output::Text,
        }
    }

    #[test]
    fn a_question_knows_its_answer() {
        let present = Question::new(&args(), Kind::Present, 3);
        let known = (10..20).map(click).find(|record| *record == present.record).expect("one that is there");
        assert!(present.path.ends_with(event_id(&known)), "{}", present.path);
        let answer = [b"{\"found\":true,\"record\":{\"payload\":", &known[..], b"}}"].concat();
        assert!(present.is_answered_by(&answer));
        assert!(!present.is_answered_by(b"{\"found\":false}"));
        let absent = Question::new(&args(), Kind::Absent, 3);
        assert!((10..20).map(click).all(|record| record != absent.record));
        assert!(absent.is_answered_by(b"{\"found\":false,"));
        assert!(!absent.is_answered_by(&answer));
        let range = Question::new(&args(), Kind::Range, 3);
        assert!(range.is_answered_by("\"sequence_number\"".repeat(ROWS).as_bytes()));
        assert!(!range.is_answered_by("\"sequence_number\"".repeat(ROWS - 1).as_bytes()));
    }

    #[test]
    fn ranges_of_numbers_are_read() {
        assert_eq!(numbers("3..9"), Ok((3, 9)));
        assert!(numbers("9..3").is_err() && numbers("3").is_err() && numbers("a..b").is_err());
    }
}
