//! What a run tells: as JSON for programs, as text for people. Every figure is of the measured window unless it says otherwise.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::{
    args::{LoadArgs, Method},
    procfs::{self, Machine, ProcessSample, ThreadTime},
    stats::Stats,
    verify::Verdict,
};
use crate::{payload::Payloads, stalls::CoreStalls};

/// A load thread this busy may be what limits the result.
const SATURATED: f64 = 0.9;
/// A thread that waits for its core this much shares it with other work.
const CROWDED: f64 = 0.1;

/// Percentiles, in µs.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Latency {
    /// How many.
    pub count: u64,
    /// Their mean.
    pub mean: f64,
    /// Half are at most this.
    pub p50: f64,
    /// And so on.
    pub p90: f64,
    /// And so on.
    pub p99: f64,
    /// And so on.
    pub p999: f64,
    /// The longest.
    pub max: f64,
}

impl Latency {
    /// Of what was recorded in ns.
    #[must_use]
    pub fn of(histogram: &Histogram<u64>) -> Self {
        let us = |ns: f64| (ns / 100.0).round() / 10.0;
        let at = |percentile: f64| us(histogram.value_at_percentile(percentile) as f64);
        Self {
            count: histogram.len(),
            mean: us(histogram.mean()),
            p50: at(50.0),
            p90: at(90.0),
            p99: at(99.0),
            p999: at(99.9),
            max: us(histogram.max() as f64),
        }
    }
}

/// A thread of the generator.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct LoadThread {
    /// Where it was pinned.
    pub core: Option<usize>,
    /// CPU time, in µs.
    pub cpu_us: u64,
    /// CPU time over the window's, 0 to 1.
    pub busy: f64,
    /// Time ready to run while others had the core, over the window's, 0 to 1.
    pub waiting: f64,
}

impl LoadThread {
    /// A thread that used so much in a window of `measured`.
    #[must_use]
    pub fn new(core: Option<usize>, used: ThreadTime, measured: Duration) -> Self {
        let share = |ns: u64| ratio(ns as f64, measured.as_nanos() as f64);
        Self { core, cpu_us: used.cpu_ns / 1000, busy: share(used.cpu_ns), waiting: share(used.waiting_ns) }
    }
}

/// A thread of the server.
#[derive(Debug, Clone, Serialize)]
pub struct ServerThread {
    /// Its name.
    pub name: String,
    /// CPU time over the window's, 0 to 1.
    pub busy: f64,
    /// Time ready to run while others had the core, over the window's, 0 to 1.
    pub waiting: f64,
}

/// The server's process.
#[derive(Debug, Clone, Serialize)]
pub struct Server {
    /// Its id.
    pub pid: u32,
    /// CPU time of all threads, in µs.
    pub cpu_us: u64,
    /// Cores in use, on average.
    pub busy: f64,
    /// Memory in RAM when the window began, in bytes.
    pub rss_before_bytes: u64,
    /// Memory in RAM when it ended, in bytes.
    pub rss_after_bytes: u64,
    /// The most that was seen (four looks a second, the warm-up included), in bytes.
    pub rss_max_bytes: u64,
    /// The busy ones, busiest first.
    pub threads: Vec<ServerThread>,
}

impl Server {
    /// From a look at each end of the window.
    #[must_use]
    pub fn new(pid: u32, before: &ProcessSample, after: &ProcessSample, rss_max: u64, measured: Duration) -> Self {
        let cpu_us = after.cpu_us.saturating_sub(before.cpu_us);
        let thread = |(id, (name, used)): (&u32, &(String, ThreadTime))| {
            let used = used.since(before.threads.get(id).map_or(ThreadTime::default(), |(_, used)| *used));
            let share = |ns: u64| ratio(ns as f64, measured.as_nanos() as f64);
            ServerThread { name: name.clone(), busy: share(used.cpu_ns), waiting: share(used.waiting_ns) }
        };
        let mut threads: Vec<_> = after.threads.iter().map(thread).filter(|thread| thread.busy >= 0.005).collect();
        threads.sort_by(|one, other| other.busy.total_cmp(&one.busy));
        Self {
            pid,
            cpu_us,
            busy: ratio(cpu_us as f64, measured.as_micros() as f64),
            rss_before_bytes: before.rss_bytes,
            rss_after_bytes: after.rss_bytes,
            rss_max_bytes: rss_max.max(before.rss_bytes).max(after.rss_bytes),
            threads,
        }
    }
}

/// An error kind.
#[derive(Debug, Clone, Serialize)]
pub struct ErrorKind {
    /// Records where an answer told of records, else requests, calls or connections.
    pub count: u64,
    /// What the first one said.
    pub first: String,
}

/// See the module's comment.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// When, in seconds since the Unix epoch.
    pub unix_seconds: u64,
    /// The load's name; `null`: it has none.
    pub load: Option<String>,
    /// The machine that the load came from.
    pub machine: Machine,
    /// What the caller told of the run.
    pub notes: BTreeMap<String, String>,
    /// The method.
    pub method: &'static str,
    /// The payload.
    pub payload: String,
    /// Mean bytes a record.
    pub payload_bytes: f64,
    /// Connections.
    pub connections: u16,
    /// Requests in flight a connection.
    pub in_flight: u32,
    /// Records a request.
    pub batch: u32,
    /// Streams.
    pub streams: u16,
    /// Whether records had idempotency keys.
    pub keys: bool,
    /// Records a second wanted; `null`: a closed loop.
    pub rate: Option<f64>,
    /// How long the window was.
    pub seconds: f64,
    /// Whether the run ended before its time: Ctrl-C, or no call was left.
    pub interrupted: bool,
    /// Records acked a second.
    pub records_per_second: f64,
    /// Payload acked, in 10^6 bytes a second.
    pub mb_per_second: f64,
    /// Requests acked a second.
    pub requests_per_second: f64,
    /// From start to ack, in µs, one a request.
    pub ack_latency_us: Latency,
    /// The same of requests that no stall of the machine fell into; `null`: nobody watched.
    pub undisturbed_latency_us: Option<Latency>,
    /// Stalls of the machine; `null`: nobody watched.
    pub stalls: Option<Vec<CoreStalls>>,
    /// Records acked, second by second; the last may be a part of one.
    pub records_by_second: Vec<u64>,
    /// The longest that an ack in each second took, in µs.
    pub slowest_us_by_second: Vec<u64>,
    /// How late the generator itself sent, in µs; `null`: a closed loop.
    pub send_lag_us: Option<Latency>,
    /// The whole run, the warm-up included: records acked.
    pub acked: u64,
    /// The whole run: records answered as there already.
    pub duplicates: u64,
    /// The whole run: records refused for what they hold.
    pub rejected: u64,
    /// The whole run: records put into the dead-letter queue.
    pub dead_lettered: u64,
    /// The whole run: requests refused for now.
    pub rate_limited: u64,
    /// The whole run: of these, sent again.
    pub retries: u64,
    /// The whole run: requests without an answer, whose outcome is unknown.
    pub unanswered: u64,
    /// The whole run: requests due and never sent.
    pub unsent: u64,
    /// The whole run: errors by kind.
    pub errors: BTreeMap<String, ErrorKind>,
    /// The whole run: answers that break the contract.
    pub violations: u64,
    /// The server's process.
    pub server: Option<Server>,
    /// The server's CPU time, in µs a record acked.
    pub server_cpu_us_per_record: Option<f64>,
    /// The generator's CPU time, in µs a record acked.
    pub load_cpu_us_per_record: f64,
    /// The generator's threads.
    pub load_threads: Vec<LoadThread>,
    /// What reading back gave.
    pub verify: Option<Verdict>,
    #[serde(skip)]
    window_records: u64,
}

impl Report {
    /// Of what was counted.
    #[must_use]
    pub fn new(
        args: &LoadArgs,
        payloads: &Payloads,
        stats: &Stats,
        measured: Duration,
        threads: Vec<LoadThread>,
    ) -> Self {
        let seconds = measured.as_secs_f64();
        let load_cpu_us: u64 = threads.iter().map(|thread| thread.cpu_us).sum();
        let kind =
            |(kind, count, first): (&str, u64, &str)| (kind.to_owned(), ErrorKind { count, first: first.to_owned() });
        Self {
            unix_seconds: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            load: args.scenario.clone(),
            machine: procfs::machine(),
            notes: args.notes.iter().cloned().collect(),
            method: args.method.name(),
            payload: args.payload.to_string(),
            payload_bytes: (payloads.mean_bytes() * 10.0).round() / 10.0,
            connections: args.connections,
            in_flight: args.in_flight,
            batch: args.records_per_request(),
            streams: args.streams,
            keys: args.keys,
            rate: args.rate,
            seconds,
            interrupted: false,
            records_per_second: ratio(stats.window_records as f64, seconds),
            mb_per_second: ratio(stats.window_bytes as f64 / 1e6, seconds),
            requests_per_second: ratio(stats.window_requests as f64, seconds),
            ack_latency_us: Latency::of(&stats.latency),
            undisturbed_latency_us: None,
            stalls: None,
            records_by_second: stats.seconds.iter().map(|second| second.records).collect(),
            slowest_us_by_second: stats.seconds.iter().map(|second| second.slowest_ns / 1000).collect(),
            send_lag_us: args.rate.map(|_| Latency::of(&stats.lag)),
            acked: stats.acked,
            duplicates: stats.duplicates,
            rejected: stats.rejected,
            dead_lettered: stats.dead_lettered,
            rate_limited: stats.rate_limited,
            retries: stats.retries,
            unanswered: stats.unanswered,
            unsent: stats.unsent,
            errors: stats.errors.sorted().into_iter().map(kind).collect(),
            violations: stats.violations.total(),
            server: None,
            server_cpu_us_per_record: None,
            load_cpu_us_per_record: ratio(load_cpu_us as f64, stats.window_records as f64),
            load_threads: threads,
            verify: None,
            window_records: stats.window_records,
        }
    }

    /// Adds what was seen of the machine's stalls.
    pub fn set_stalls(&mut self, stalls: Option<Vec<CoreStalls>>, stats: &Stats) {
        self.undisturbed_latency_us = stalls.is_some().then(|| Latency::of(&stats.undisturbed));
        self.stalls = stalls;
    }

    /// Adds what the server used.
    pub fn set_server(&mut self, server: Option<Server>) {
        self.server_cpu_us_per_record =
            server.as_ref().map(|server| ratio(server.cpu_us as f64, self.window_records as f64));
        self.server = server;
    }

    /// Whether records were acked, none failed, and what was read back is right. A rate limit is no failure.
    #[must_use]
    pub fn is_good(&self) -> bool {
        let verified = self.verify.as_ref().is_none_or(|verdict| verdict.problems.is_empty());
        self.acked + self.duplicates > 0 && self.errors.is_empty() && self.violations == 0 && verified
    }

    /// For programs.
    #[must_use]
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("plain numbers and text")
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        self.write_text(&mut out).expect("a String grows");
        out
    }

    fn write_text(&self, out: &mut String) -> std::fmt::Result {
        let each =
            if self.method == Method::Append.name() { format!("{} a request, ", self.batch) } else { String::new() };
        let keys = if self.keys { ", keys" } else { "" };
        writeln!(
            out,
            "{} · {each}{} connections × {} in flight · {} ({:.0} B){keys} · {} stream{}",
            self.method,
            self.connections,
            self.in_flight,
            self.payload,
            self.payload_bytes,
            self.streams,
            if self.streams == 1 { "" } else { "s" },
        )?;
        let ended = if self.interrupted { ", ended before its time" } else { "" };
        match self.rate {
            Some(rate) => writeln!(out, "open loop at {rate} records/s, {:.1} s measured{ended}\n", self.seconds)?,
            None => writeln!(out, "closed loop, {:.1} s measured{ended}\n", self.seconds)?,
        }
        writeln!(
            out,
            "throughput   {:.0} records/s   {:.1} MB/s   {:.0} requests/s",
            self.records_per_second, self.mb_per_second, self.requests_per_second
        )?;
        write_latency(out, "ack latency", &self.ack_latency_us)?;
        if let Some(latency) = &self.undisturbed_latency_us {
            write_latency(out, "undisturbed", latency)?;
        }
        for CoreStalls { core, count, total_ms, max_ms } in self.stalls.iter().flatten() {
            writeln!(out, "core {core}      stalled {count} times, {total_ms:.1} ms in all, {max_ms:.1} ms at most")?;
        }
        if let Some(lag) = &self.send_lag_us {
            write_latency(out, "send lag", lag)?;
        }
        self.write_cpu(out)?;
        writeln!(
            out,
            "whole run    {} acked   {} duplicates   {} rejected   {} dead-lettered",
            self.acked, self.duplicates, self.rejected, self.dead_lettered
        )?;
        if self.rate_limited > 0 {
            writeln!(out, "rate limit   {} requests refused, {} sent again", self.rate_limited, self.retries)?;
        }
        if self.unanswered > 0 {
            writeln!(out, "unknown      {} requests without an answer", self.unanswered)?;
        }
        if self.unsent > 0 {
            writeln!(out, "unsent       {} requests were due and never sent: the server cannot keep up", self.unsent)?;
        }
        for (kind, error) in &self.errors {
            writeln!(out, "error        {} × {kind}: {}", error.count, error.first)?;
        }
        if self.violations > 0 {
            writeln!(out, "CONTRACT     {} answers out of order, with wrong counts or acked twice", self.violations)?;
        }
        if let Some(verdict) = &self.verify {
            out.push_str(&verdict.text());
        }
        Ok(())
    }

    fn write_cpu(&self, out: &mut String) -> std::fmt::Result {
        if let (Some(server), Some(each)) = (&self.server, self.server_cpu_us_per_record) {
            let mib = |bytes: u64| bytes >> 20;
            write!(
                out,
                "server       {each:.3} µs CPU/record   {:.0}% of a core   RSS {} → {} MiB, at most {}",
                server.busy * 100.0,
                mib(server.rss_before_bytes),
                mib(server.rss_after_bytes),
                mib(server.rss_max_bytes)
            )?;
            let threads: Vec<_> = server.threads.iter().take(6).map(|t| share(&t.name, t.busy, t.waiting)).collect();
            writeln!(out, "{}{}", if threads.is_empty() { "" } else { "   threads: " }, threads.join(", "))?;
        }
        write!(out, "load         {:.3} µs CPU/record", self.load_cpu_us_per_record)?;
        for thread in &self.load_threads {
            let name = thread.core.map_or_else(|| "thread".to_owned(), |core| format!("core {core}"));
            write!(out, "   {}", share(&name, thread.busy, thread.waiting))?;
        }
        out.push('\n');
        if self.load_threads.iter().any(|thread| thread.busy >= SATURATED) {
            writeln!(
                out,
                "             ← saturated: the generator may be the limit; give it more --threads and --cores"
            )?;
        }
        let waits = |waiting: f64| waiting >= CROWDED;
        let server_waits = self.server.iter().flat_map(|server| &server.threads).any(|thread| waits(thread.waiting));
        if server_waits || self.load_threads.iter().any(|thread| waits(thread.waiting)) {
            writeln!(out, "             ← other work had these cores: trust CPU/record, not throughput or latency")?;
        }
        Ok(())
    }
}

impl Verdict {
    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = format!(
            "verify       {}   {} acked, {} read back, {} payloads compared, {} not acked here\n",
            if self.problems.is_empty() { "OK" } else { "FAILED" },
            self.acked,
            self.read,
            self.samples_compared,
            self.not_ours
        );
        for problem in &self.problems {
            writeln!(out, "             {problem}").expect("a String grows");
        }
        out
    }
}

/// A line of percentiles, in ms.
///
/// # Errors
/// `out` takes no more.
pub fn write_latency(out: &mut String, name: &str, latency: &Latency) -> std::fmt::Result {
    let ms = |us: f64| us / 1e3;
    writeln!(
        out,
        "{name:<12} p50 {:.3}   p90 {:.3}   p99 {:.3}   p99.9 {:.3}   max {:.3} ms",
        ms(latency.p50),
        ms(latency.p90),
        ms(latency.p99),
        ms(latency.p999),
        ms(latency.max)
    )
}

fn share(name: &str, busy: f64, waiting: f64) -> String {
    let waits = if waiting >= 0.01 { format!(", {:.0}% waiting for it", waiting * 100.0) } else { String::new() };
    format!("{name} {:.0}% busy{waits}", busy * 100.0)
}

fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}
