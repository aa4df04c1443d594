//! The flags of `ttdust-bench load`.

use std::{path::PathBuf, str::FromStr, time::Duration};

use clap::{Args, ValueEnum};

use crate::payload::PayloadKind;

/// Flags of the load generator.
#[derive(Debug, Clone, Args)]
#[command(
    args_override_self = true,
    after_help = "Examples:
  ttdust-bench load --scenario append100 --create -o json >full.json   # `ttdust-bench scenarios` lists them
  ttdust-bench load --create --duration 10s --server-pid $(pidof ttdust)
  ttdust-bench load --method ingest-stream --connections 8 --in-flight 64 --verify
  ttdust-bench load --rate 200000 --batch 16 --hgrm latency.hgrm -o json   # open loop

Closed loop (no --rate): a request goes when an answer frees a slot; latency counts from its sending.
Open loop (--rate): requests go on a schedule; latency counts from when each was due, so a stall shows in every request
that it delays.
A RATE_LIMITED answer is counted as such and, in a closed loop, its request goes again after the told time."
)]
pub struct LoadArgs {
    /// A load that has a name; flags change it. `ttdust-bench scenarios` lists them
    #[arg(long, value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(crate::scenario::names()),
        hide_possible_values = true)]
    pub scenario: Option<String>,
    /// The server's gRPC address
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:50051")]
    pub grpc: String,
    /// The server's REST address: for --create
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8080")]
    pub http: String,
    /// Create the schema and the streams first, where they do not exist
    #[arg(long)]
    pub create: bool,
    /// The stream's name or id [default: the payload's name]; with --streams N: NAME-0, NAME-1, …
    #[arg(long, value_name = "NAME")]
    pub stream: Option<String>,
    /// Spread the load over this many streams
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub streams: u16,
    /// The API key, sent as a bearer token
    #[arg(long, value_name = "KEY", env = "TTDUST_API_KEY", hide_env_values = true)]
    pub api_key: Option<String>,

    /// The gRPC method
    #[arg(long, value_enum, default_value_t = Method::Append)]
    pub method: Method,
    /// Connections, spread over the threads
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub connections: u16,
    /// Requests in flight a connection
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub in_flight: u32,
    /// Records a request, for append
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub batch: u32,
    /// With --create: a field that the streams can be looked up by; may be given again
    #[arg(long, value_name = "FIELD")]
    pub key_field: Vec<String>,
    /// Records to send: flights, clicks, clicks@NUMBER (from that one on) or file:PATH (NDJSON, also .gz)
    #[arg(long, value_name = "KIND", default_value = "flights")]
    pub payload: PayloadKind,
    /// How many records of the payload to cycle through (at most 64 MiB)
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub payload_records: u32,
    /// The JSON Schema of a payload of one's own: for --create
    #[arg(long, value_name = "PATH")]
    pub schema: Option<PathBuf>,
    /// Give each record an idempotency key of its own
    #[arg(long)]
    pub keys: bool,

    /// How long to measure, such as 10s, 2m or 500ms
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub duration: Duration,
    /// How long to run before measuring
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration)]
    pub warmup: Duration,
    /// How long to wait for open answers at the end
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub drain: Duration,
    /// Open loop at this many records a second in all
    #[arg(long, value_name = "RECORDS/S", value_parser = rate)]
    pub rate: Option<f64>,

    /// Load threads
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: u16,
    /// Cores of the threads, such as 0,2-3, or none [default: the first ones this process may use]
    #[arg(long, value_name = "LIST")]
    pub cores: Option<Cores>,
    /// The server's process: its CPU and memory are measured along
    #[arg(long, value_name = "PID")]
    pub server_pid: Option<u32>,

    /// Watch these cores for stalls of the machine under this one, and tell latencies without them too (takes root)
    #[arg(long, value_name = "LIST")]
    pub stalls: Option<Cores>,
    /// Read all acked records back at the end and compare
    #[arg(long)]
    pub verify: bool,
    /// Write what was acked to this file, for `ttdust-bench verify` later (after a crash, say)
    #[arg(long, value_name = "FILE")]
    pub acked: Option<PathBuf>,
    /// The format of the report on stdout
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
    /// Write the latencies as an HdrHistogram percentile file (ms)
    #[arg(long, value_name = "FILE")]
    pub hgrm: Option<PathBuf>,
    /// A condition of the run that the report is to tell, such as commit=1a2b3c or disk=nvme; may be given again
    #[arg(long = "note", value_name = "NAME=VALUE", value_parser = note)]
    pub notes: Vec<(String, String)>,
    /// No progress on stderr
    #[arg(short, long)]
    pub quiet: bool,
}

impl LoadArgs {
    /// Records a request: 1 where the method knows no more.
    #[must_use]
    pub fn records_per_request(&self) -> u32 {
        if self.method == Method::Append { self.batch } else { 1 }
    }

    /// The streams' names.
    #[must_use]
    pub fn stream_names(&self) -> Vec<String> {
        let name = self.stream.clone().unwrap_or_else(|| self.payload.name().to_owned());
        if self.streams == 1 {
            return vec![name];
        }
        (0..self.streams).map(|index| format!("{name}-{index}")).collect()
    }
}

/// A method of the ingestion service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Method {
    /// Many records a message, one call a connection and stream
    Append,
    /// One record a message, one call a connection and stream
    IngestStream,
    /// One record a call
    Ingest,
}

impl Method {
    /// As on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::IngestStream => "ingest-stream",
            Self::Ingest => "ingest",
        }
    }
}

/// The format of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    Text,
    /// For programs
    Json,
}

/// Where threads run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cores {
    /// Wherever the kernel likes.
    Unpinned,
    /// On these, one a thread, round.
    List(Vec<usize>),
}

impl FromStr for Cores {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self::Unpinned);
        }
        let wrong = || format!("{text:?} is no list of cores: want something like 0,2-3, or none");
        let mut cores = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): (usize, usize) =
                (first.trim().parse().map_err(|_| wrong())?, last.trim().parse().map_err(|_| wrong())?);
            if first > last || last >= 1024 {
                return Err(wrong());
            }
            cores.extend(first..=last);
        }
        Ok(Self::List(cores))
    }
}

/// Reads a time with its unit.
///
/// # Errors
/// What was wanted.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time: want a number and a unit (ms, s or m), such as 10s");
    let split = text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(split);
    let number: f64 = number.trim().parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "ms" => number / 1e3,
        "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err(wrong()),
    };
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong()).and_then(|duration| {
        if duration > Duration::from_secs(7 * 86_400) {
            Err("that is more than a week".to_owned())
        } else {
            Ok(duration)
        }
    })
}

fn note(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("want NAME=VALUE, such as commit=1a2b3c")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (1e-3..=1e9).contains(&rate) => Ok(rate),
        _ => Err("want records per second, above 0".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_want_a_unit() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for bad in ["10", "", "s", "-1s", "1d", "9999h", "1e400s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn cores_are_lists_of_ranges() {
        assert_eq!("0,2-4".parse(), Ok(Cores::List(vec![0, 2, 3, 4])));
        assert_eq!("none".parse(), Ok(Cores::Unpinned));
        for bad in ["", "a", "3-1", "0-99999999", "1,,2"] {
            assert!(bad.parse::<Cores>().is_err(), "{bad}");
        }
    }

    #[test]
    fn rates_are_positive() {
        assert!(rate("200000").is_ok());
        for bad in ["0", "-1", "nan", "inf", "x"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }
}
