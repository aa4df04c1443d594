//! Stalls of the machine under this one: times when a core ran nothing at all, whoever wanted it.
//!
//! A virtual core is taken away now and then, for as long as 50 ms, and the kernel in it cannot always tell (Firecracker reports
//! no stolen time). A latency with such a stall in it says nothing of a server. A watcher on each core, before which no other
//! thread comes, wakes up a thousand times a second: when it is late, everyone was.

use std::{
    io,
    process::{Command, Stdio},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::load::{args::Cores, worker};

/// How often a watcher wakes up.
const TICK: Duration = Duration::from_millis(1);
/// Later than this is a stall: the kernel's own work on a core takes less.
const STALL: Duration = Duration::from_millis(1);

/// When the last stall ended, in ns since [`begin`]; 0: there was none.
static LAST_END_NANOS: AtomicU64 = AtomicU64::new(0);

fn begin() -> Instant {
    static BEGIN: OnceLock<Instant> = OnceLock::new();
    *BEGIN.get_or_init(Instant::now)
}

/// Whether a stall that a watcher saw ended within the last `nanos`.
#[must_use]
pub fn ended_within(nanos: u64) -> bool {
    let last = LAST_END_NANOS.load(Relaxed);
    last > 0 && (begin().elapsed().as_nanos() as u64).saturating_sub(last) <= nanos
}

/// The stalls of a core.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct CoreStalls {
    /// The core.
    pub core: usize,
    /// How many of more than a millisecond.
    pub count: u64,
    /// All of them together, in ms.
    pub total_ms: f64,
    /// The longest, in ms.
    pub max_ms: f64,
}

/// Watches `cores`, if any are given.
///
/// # Errors
/// See [`Watch::start`].
pub fn watch(cores: Option<&Cores>) -> io::Result<Option<Watch>> {
    match cores {
        Some(Cores::List(cores)) => Watch::start(cores).map(Some),
        Some(Cores::Unpinned) | None => Ok(None),
    }
}

/// Watchers, until this is dropped.
#[derive(Debug)]
pub struct Watch {
    over: Arc<AtomicBool>,
    watchers: Vec<JoinHandle<CoreStalls>>,
}

impl Watch {
    /// Watches these cores.
    ///
    /// # Errors
    /// A core is not there, or the watcher may not go before others: that takes root, and util-linux.
    pub fn start(cores: &[usize]) -> io::Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let mut watchers = Vec::new();
        for &core in cores {
            let (told, ready) = std::sync::mpsc::channel();
            let is_over = Arc::clone(&over);
            watchers.push(thread::Builder::new().name("stalls".to_owned()).spawn(move || {
                let ready = worker::pin(core).map_err(io::Error::other).and_then(|()| go_first());
                let good = ready.is_ok();
                // Who started it waits for this.
                let _ = told.send(ready);
                if good { look(core, &is_over) } else { CoreStalls { core, count: 0, total_ms: 0.0, max_ms: 0.0 } }
            })?);
            ready.recv().map_err(io::Error::other)??;
        }
        Ok(Self { over, watchers })
    }

    /// Ends it, and tells what was seen.
    #[must_use]
    pub fn stop(self) -> Vec<CoreStalls> {
        self.over.store(true, Relaxed);
        self.watchers.into_iter().map(|watcher| watcher.join().expect("a watcher does not panic")).collect()
    }
}

/// Puts the calling thread before all that are not of real time.
fn go_first() -> io::Result<()> {
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    let chrt = Command::new("chrt").args(["--fifo", "--pid", "50", &thread]).stdout(Stdio::null()).status()?;
    let refused = "--stalls: chrt refused; it takes root, or CAP_SYS_NICE";
    if chrt.success() { Ok(()) } else { Err(io::Error::other(refused)) }
}

fn look(core: usize, is_over: &AtomicBool) -> CoreStalls {
    let mut seen = CoreStalls { core, count: 0, total_ms: 0.0, max_ms: 0.0 };
    while !is_over.load(Relaxed) {
        let due = Instant::now() + TICK;
        thread::sleep(TICK);
        let late = due.elapsed();
        if late > STALL {
            LAST_END_NANOS.store(begin().elapsed().as_nanos() as u64, Relaxed);
            let ms = late.as_secs_f64() * 1e3;
            seen =
                CoreStalls { core, count: seen.count + 1, total_ms: seen.total_ms + ms, max_ms: seen.max_ms.max(ms) };
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_is_remembered_for_as_long_as_is_asked() {
        begin();
        assert!(!ended_within(u64::MAX), "nobody watches in a test");
        thread::sleep(TICK);
        LAST_END_NANOS.store(begin().elapsed().as_nanos() as u64, Relaxed);
        assert!(ended_within(u64::MAX));
        thread::sleep(TICK);
        assert!(!ended_within(1000));
    }

    #[test]
    fn a_core_that_is_not_there_cannot_be_watched() {
        assert!(Watch::start(&[1023]).is_err());
    }
}
