//! A run from its flags to its report: set up, start the threads, keep time, gather.

use std::{
    io::{IsTerminal as _, Write as _},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{
    acked::AckedRun,
    args::{Cores, LoadArgs, Output},
    procfs::{self, ProcessSample},
    report::{LoadThread, Report, Server},
    shared::Phase,
    stats::{Stats, Window, hgrm},
    verify::{VerifyError, verify},
    worker::{self, Harvest, Orders, WorkerError},
};
use crate::{
    client::{Target, TargetError},
    messages::Messages,
    payload::{self, PayloadError, Payloads},
    rest::{Rest, RestError},
    stalls::{self, Watch},
};

/// A run that did not take place, or could not be reported.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// No records.
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// No server.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The schema or the streams could not be made.
    #[error("--create failed: {0}")]
    Create(#[from] RestError),
    /// A thread failed.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// Flags that do not go together.
    #[error("{0}")]
    Flags(String),
    /// The process to measure.
    #[error("cannot look at process {pid} of --server-pid: {source}")]
    Pid {
        /// The process.
        pid: u32,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file or a runtime.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Reading back.
    #[error("--verify could not read back: {0}")]
    Verify(#[from] VerifyError),
}

/// Runs, reports on stdout, and says whether all was good.
///
/// # Errors
/// See [`LoadError`].
pub fn run(args: &LoadArgs) -> Result<bool, LoadError> {
    let report = measure(args)?;
    let text = match args.output {
        Output::Text => report.text(),
        Output::Json => format!("{}\n", report.json()),
    };
    let written = std::io::stdout().write_all(text.as_bytes());
    written.map_err(|source| LoadError::Io { what: "cannot write the report".to_owned(), source })?;
    Ok(report.is_good())
}

/// Runs.
///
/// # Errors
/// See [`LoadError`].
pub fn measure(args: &LoadArgs) -> Result<Report, LoadError> {
    if args.duration.is_zero() {
        return Err(LoadError::Flags("--duration must be more than 0".to_owned()));
    }
    if args.threads > args.connections {
        return Err(LoadError::Flags(format!(
            "--threads {} needs at least as many --connections, not {}",
            args.threads, args.connections
        )));
    }
    let payloads = Arc::new(Payloads::load(&args.payload, args.payload_records as usize)?);
    let target = Target::new(&args.grpc, args.api_key.as_deref())?;
    let mut streams = args.stream_names();
    if args.create {
        let schema = payload::schema(&args.payload, args.schema.as_deref())?;
        let name = args.stream.clone().unwrap_or_else(|| args.payload.name().to_owned());
        let rest = Rest { authority: &args.http, api_key: args.api_key.as_deref() };
        streams = rest.create(&name, &schema, &streams, &args.key_field)?;
    }
    if let Some(pid) = args.server_pid {
        procfs::sample(pid).map_err(|source| LoadError::Pid { pid, source })?;
    }
    let watch =
        stalls::watch(args.stalls.as_ref()).map_err(|source| LoadError::Io { what: "--stalls".to_owned(), source })?;
    let orders = orders(args, target.clone(), streams.clone(), &payloads);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| LoadError::Io { what: "cannot start a runtime".to_owned(), source })?;
    let (mut outcome, harvests) = drive(args, &orders, &runtime)?;
    let mut stats = Stats::new(if orders[0].remember { streams.len() } else { 0 });
    let mut threads = Vec::new();
    for harvest in harvests {
        threads.push(LoadThread::new(harvest.core, harvest.used, outcome.measured));
        stats.merge(harvest.stats);
    }
    let acked = std::mem::take(&mut stats.acked_of);
    let run = AckedRun::new(&args.payload, args.payload_records, stats.unanswered, &streams, acked);
    let io = |what: &str, path: &std::path::Path| {
        let what = format!("cannot write {what} {}", path.display());
        move |source| LoadError::Io { what, source }
    };
    if let Some(path) = &args.hgrm {
        std::fs::write(path, hgrm(&stats.latency)).map_err(io("--hgrm", path))?;
    }
    if let Some(path) = &args.acked {
        run.write(path).map_err(io("--acked", path))?;
    }
    let mut report = Report::new(args, &payloads, &stats, outcome.measured, threads);
    report.interrupted = outcome.interrupted;
    report.set_stalls(watch.map(Watch::stop), &stats);
    report.set_server(outcome.server.take());
    if args.verify {
        let mut line = Line::new(args.quiet);
        let verdict = runtime.block_on(verify(&target, &run.streams, &payloads, |read| {
            line.show(|| format!("verify: {read} records read back"));
        }))?;
        report.verify = Some(verdict);
    }
    Ok(report)
}

fn orders(args: &LoadArgs, target: Target, streams: Vec<String>, payloads: &Arc<Payloads>) -> Vec<Orders> {
    let threads = usize::from(args.threads);
    let batch = args.records_per_request();
    let key_run = args.keys.then(|| uuid::Uuid::new_v4().as_fields().0);
    let cores = match &args.cores {
        Some(Cores::Unpinned) => Vec::new(),
        Some(Cores::List(cores)) => cores.clone(),
        None => worker::usable_cores(),
    };
    let one = Orders {
        index: 0,
        threads,
        core: None,
        target,
        streams,
        method: args.method,
        connections: usize::from(args.connections),
        in_flight: args.in_flight as usize,
        messages: Messages::new(payloads.clone(), batch, key_run),
        requests_per_second: args.rate.map(|rate| rate / f64::from(batch)),
        remember: args.verify || args.acked.is_some(),
    };
    let core = |index: usize| (!cores.is_empty()).then(|| cores[index % cores.len()]);
    (0..threads).map(|index| Orders { index, core: core(index), ..one.clone() }).collect()
}

struct Outcome {
    /// The window, as long as it was in the end.
    measured: Duration,
    interrupted: bool,
    server: Option<Server>,
}

/// Starts the threads, and leads them through the phases.
fn drive(
    args: &LoadArgs,
    orders: &[Orders],
    runtime: &tokio::runtime::Runtime,
) -> Result<(Outcome, Vec<Harvest>), LoadError> {
    let (phase, _) = watch::channel(Phase::Connecting);
    let (ready, is_ready) = mpsc::channel();
    let progress: Vec<Arc<AtomicU64>> = orders.iter().map(|_| Arc::default()).collect();
    let (ended, mut has_ended) = watch::channel(0usize);
    let ended = Arc::new(ended);
    let mut threads = Vec::new();
    for (orders, progress) in orders.iter().zip(&progress) {
        let (orders, progress) = (orders.clone(), progress.clone());
        let (phase, ready, ended) = (phase.subscribe(), ready.clone(), ended.clone());
        let work = move || {
            let harvest = worker::run(&orders, phase, progress, || {
                // Whoever waits for this is there until all have sent or failed.
                let _ = ready.send(());
            });
            ended.send_modify(|count| *count += 1);
            harvest
        };
        let spawned = thread::Builder::new().name("load".to_owned()).spawn(work);
        threads.push(spawned.map_err(|source| LoadError::Io { what: "cannot start a thread".to_owned(), source })?);
    }
    drop(ready);
    // Ends early if a thread fails: then it has dropped its sender.
    let all_ready = orders.iter().all(|_| is_ready.recv().is_ok());
    let outcome = if all_ready {
        Some(runtime.block_on(keep_time(args, &phase, &mut has_ended, orders.len(), &progress)))
    } else {
        phase.send_replace(Phase::Over);
        None
    };
    let mut harvests = Vec::new();
    for thread in threads {
        harvests.push(thread.join().expect("a load thread does not panic")?);
    }
    let outcome = outcome.expect("a thread that is not ready has returned an error");
    Ok((outcome, harvests))
}

async fn keep_time(
    args: &LoadArgs,
    phase: &watch::Sender<Phase>,
    has_ended: &mut watch::Receiver<usize>,
    threads: usize,
    progress: &[Arc<AtomicU64>],
) -> Outcome {
    let origin = Instant::now();
    let from_ns = args.warmup.as_nanos() as u64;
    let window = Window { from_ns, to_ns: from_ns + args.duration.as_nanos() as u64 };
    phase.send_replace(Phase::Running { origin, window });
    let mut line = Line::new(args.quiet);
    let mut before: Option<ProcessSample> = None;
    let mut rss_max = 0;
    let mut tick = tokio::time::interval(Duration::from_millis(250));
    let mut interrupted = false;
    let total = args.warmup + args.duration;
    let (mut shown, mut shown_at) = (0, origin);
    loop {
        let now = origin.elapsed();
        let next = if now < args.warmup { args.warmup } else { total };
        tokio::select! {
            () = tokio::time::sleep_until((origin + next).into()) => {}
            _ = tick.tick() => {}
            _ = tokio::signal::ctrl_c() => { interrupted = true; break }
            _ = has_ended.wait_for(|&count| count >= threads) => {
                interrupted = origin.elapsed() < total;
                break;
            }
        }
        if let Some(pid) = args.server_pid {
            rss_max = procfs::rss(pid).unwrap_or(0).max(rss_max);
            if before.is_none() && origin.elapsed() >= args.warmup {
                before = procfs::sample(pid).ok();
            }
        }
        if origin.elapsed() >= total {
            break;
        }
        if shown_at.elapsed() >= Duration::from_secs(1) {
            let acked: u64 = progress.iter().map(|count| count.load(Ordering::Relaxed)).sum();
            let rate = (acked - shown) as f64 / shown_at.elapsed().as_secs_f64();
            let part = if origin.elapsed() < args.warmup { "warm-up" } else { "measuring" };
            line.show(|| format!("{part} {:5.1} s  {rate:>9.0} records/s", origin.elapsed().as_secs_f64()));
            (shown, shown_at) = (acked, Instant::now());
        }
    }
    let measured = origin.elapsed().min(total).saturating_sub(args.warmup);
    phase.send_replace(Phase::Draining);
    let server = args.server_pid.and_then(|pid| {
        let after = procfs::sample(pid).ok()?;
        Some(Server::new(pid, &before?, &after, rss_max, measured))
    });
    tokio::select! {
        _ = has_ended.wait_for(|&count| count >= threads) => {}
        () = tokio::time::sleep(args.drain) => {}
        _ = tokio::signal::ctrl_c() => interrupted = true,
    }
    phase.send_replace(Phase::Over);
    line.clear();
    Outcome { measured, interrupted, server }
}

/// The progress line on stderr; none where stderr is no terminal.
struct Line {
    on: bool,
    last: Option<Instant>,
}

impl Line {
    fn new(quiet: bool) -> Self {
        Self { on: !quiet && std::io::stderr().is_terminal(), last: None }
    }

    fn show(&mut self, text: impl FnOnce() -> String) {
        let due = self.last.is_none_or(|last| last.elapsed() >= Duration::from_millis(200));
        if self.on && due {
            self.last = Some(Instant::now());
            eprint!("\r\x1b[K{}", text());
        }
    }

    fn clear(&self) {
        if self.on {
            eprint!("\r\x1b[K");
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.clear();
    }
}
