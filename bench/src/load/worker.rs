//! One load thread: pins itself, opens its connections, drives them, returns what it counted.

use std::{
    collections::HashMap,
    io,
    rc::Rc,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use tokio::{sync::watch, task::LocalSet};

use super::{
    args::Method,
    call::{Call, Plan},
    connection::{Driver, Work},
    flight::{Flight, Pace},
    procfs::{ThreadTime, this_thread},
    shared::{Phase, Shared},
    stats::Stats,
    timer::Timer,
    unary::UnaryCalls,
};
use crate::{
    client::{ConnectError, Target},
    messages::Messages,
    wire::AnswerKind,
};

/// Memory for encoded requests a thread, in bytes; past it each request is encoded when it is sent.
const RINGS_BYTES_MAX: u64 = 256 << 20;

/// What a thread is to do.
#[derive(Debug, Clone)]
pub struct Orders {
    /// Its number, from 0.
    pub index: usize,
    /// How many threads there are.
    pub threads: usize,
    /// Where it runs.
    pub core: Option<usize>,
    /// The server.
    pub target: Target,
    /// Ids or names of the streams.
    pub streams: Vec<String>,
    /// The method.
    pub method: Method,
    /// Connections of all threads.
    pub connections: usize,
    /// Requests in flight a connection.
    pub in_flight: usize,
    /// The requests.
    pub messages: Messages,
    /// Requests per second of all threads; `None`: a closed loop.
    pub requests_per_second: Option<f64>,
    /// Whether to remember sequence numbers.
    pub remember: bool,
}

/// A call, before there is a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slot {
    number: usize,
    stream: usize,
    in_flight: usize,
}

/// A thread failed before its run began.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The core is not there, or not ours.
    #[error("cannot run on core {core}: {source}; see --cores")]
    Pin {
        /// The core.
        core: usize,
        /// What the system said.
        source: io::Error,
    },
    /// No runtime or timer.
    #[error("cannot start a load thread: {0}")]
    Start(#[source] io::Error),
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

/// What a thread returns.
#[derive(Debug)]
pub struct Harvest {
    /// What it counted.
    pub stats: Stats,
    /// Its core.
    pub core: Option<usize>,
    /// What it used in the measured window.
    pub used: ThreadTime,
}

impl Orders {
    /// How many calls there are in all: each connection has one, or more where there are more streams than connections.
    #[must_use]
    pub fn calls(&self) -> usize {
        match self.method {
            Method::Ingest => self.connections,
            Method::Append | Method::IngestStream => self.connections.max(self.streams.len()),
        }
    }

    /// The calls of connection `connection`.
    fn slots(&self, connection: usize) -> Vec<Slot> {
        let numbers: Vec<usize> = (connection..self.calls()).step_by(self.connections).collect();
        let share = (self.in_flight / numbers.len().max(1)).max(1);
        let slot = |&number: &usize| Slot { number, stream: number % self.streams.len(), in_flight: share };
        numbers.iter().map(slot).collect()
    }

    fn pace(&self, number: usize) -> Pace {
        match self.requests_per_second {
            None => Pace::Closed,
            Some(rate) => {
                let interval_ns = self.calls() as f64 * 1e9 / rate;
                Pace::Open { first_ns: interval_ns * number as f64 / self.calls() as f64, interval_ns }
            }
        }
    }

    fn flight(&self, slot: Slot) -> Flight {
        // Calls begin at different payloads, so that they do not send the same at the same time.
        let first = self.messages.count() * slot.number as u64 / self.calls() as u64;
        Flight::new(self.pace(slot.number), slot.in_flight, first)
    }

    fn plans(&self) -> impl FnMut(Slot) -> Plan {
        let messages = Rc::new(self.messages.clone());
        let kind = if self.method == Method::Append { AnswerKind::Append } else { AnswerKind::Ingest };
        let longest = self.streams.iter().map(String::len).max().unwrap_or(0);
        // `Append` names its stream once, so one ring serves all streams.
        let rings_needed = if kind == AnswerKind::Append { 1 } else { self.streams.len() as u64 };
        let use_rings = !messages.has_keys() && messages.ring_bytes(longest) * rings_needed <= RINGS_BYTES_MAX;
        let names: Vec<Rc<str>> = self.streams.iter().map(|name| Rc::from(name.as_str())).collect();
        let mut rings = HashMap::new();
        move |slot| {
            let stream_id = names[slot.stream].clone();
            let ring = use_rings.then(|| {
                let named = (kind == AnswerKind::Ingest).then_some(&*stream_id);
                let key = if named.is_some() { slot.stream } else { 0 };
                rings.entry(key).or_insert_with(|| Rc::new(messages.ring(named))).clone()
            });
            Plan { number: slot.number as u16, stream: slot.stream, stream_id, messages: messages.clone(), ring, kind }
        }
    }
}

/// Runs a thread to its end. `ready` is called once all connections are open; then `phase` goes on.
///
/// # Errors
/// See [`WorkerError`].
pub fn run(
    orders: &Orders,
    mut phase: watch::Receiver<Phase>,
    progress: Arc<AtomicU64>,
    ready: impl FnOnce(),
) -> Result<Harvest, WorkerError> {
    if let Some(core) = orders.core {
        pin(core)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(WorkerError::Start)?;
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        let mut plans = orders.plans();
        let mut prepared = Vec::new();
        for connection in (orders.index..orders.connections).step_by(orders.threads) {
            let (mut send, link) = orders.target.connect().await?;
            let slots = orders.slots(connection);
            let work = match orders.method {
                Method::Ingest => {
                    let plan = plans(slots[0]);
                    let unary = UnaryCalls::new(plan, orders.target.clone(), orders.flight(slots[0]), send);
                    Work::Unary(Box::new(unary))
                }
                Method::Append => Work::Calls(open(orders, &mut plans, &slots, &mut send, ttdust_proto::path::APPEND)?),
                Method::IngestStream => {
                    Work::Calls(open(orders, &mut plans, &slots, &mut send, ttdust_proto::path::INGEST_STREAM)?)
                }
            };
            prepared.push((link, work, Timer::new().map_err(WorkerError::Start)?));
        }
        ready();
        let (origin, window) = loop {
            if let Phase::Running { origin, window } = *phase.borrow_and_update() {
                break (origin, window);
            }
            if phase.changed().await.is_err() || *phase.borrow() == Phase::Over {
                return Ok(Harvest { stats: Stats::new(0), core: orders.core, used: ThreadTime::default() });
            }
        };
        let remembered = if orders.remember { orders.streams.len() } else { 0 };
        let shared = Rc::new(Shared::new(origin, window, Stats::new(remembered), progress));
        let drivers: Vec<_> = prepared
            .into_iter()
            .map(|(link, work, timer)| tokio::task::spawn_local(Driver::new(link, work, timer, shared.clone())))
            .collect();
        let clerk = tokio::task::spawn_local(follow(phase, shared.clone()));
        for driver in drivers {
            driver.await.expect("a driver does not panic and is not cancelled");
        }
        // All calls may have ended before the run did; the clerk has then nothing more to follow.
        shared.advance(Phase::Over);
        let used = clerk.await.expect("the clerk does not panic and is not cancelled");
        let shared = Rc::into_inner(shared).expect("drivers and clerk have ended");
        Ok(Harvest { stats: shared.stats.into_inner(), core: orders.core, used })
    })
}

fn open(
    orders: &Orders,
    plans: &mut impl FnMut(Slot) -> Plan,
    slots: &[Slot],
    send: &mut h2::client::SendRequest<bytes::Bytes>,
    path: &'static str,
) -> Result<Vec<Call>, ConnectError> {
    let open = |&slot: &Slot| {
        let (head, body) = send
            .send_request(orders.target.request(path), false)
            .map_err(|source| ConnectError::Http2 { authority: orders.target.authority().to_owned(), source })?;
        Ok(Call::new(plans(slot), orders.flight(slot), head, body))
    };
    slots.iter().map(open).collect()
}

/// Passes the phases of the run on to the connections, and returns what the thread used in the window.
async fn follow(mut phase: watch::Receiver<Phase>, shared: Rc<Shared>) -> ThreadTime {
    let until_window = Duration::from_nanos(shared.window().from_ns.saturating_sub(shared.now_ns()));
    let mut start = this_thread();
    let mut end = None;
    tokio::select! {
        () = tokio::time::sleep(until_window) => start = this_thread(),
        _ = phase.wait_for(|phase| matches!(phase, Phase::Draining | Phase::Over)) => {}
        () = shared.ended() => return ThreadTime::default(),
    }
    loop {
        let now = *phase.borrow_and_update();
        if matches!(now, Phase::Draining | Phase::Over) {
            end.get_or_insert_with(this_thread);
            shared.advance(now);
        }
        if now == Phase::Over || shared.is_over() {
            break;
        }
        tokio::select! {
            changed = phase.changed() => if changed.is_err() { break },
            () = shared.ended() => break,
        }
    }
    end.unwrap_or_else(this_thread).since(start)
}

/// Pins the calling thread.
///
/// # Errors
/// The core is not ours.
pub fn pin(core: usize) -> Result<(), WorkerError> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(core);
    rustix::thread::sched_setaffinity(None, &set).map_err(|source| WorkerError::Pin { core, source: source.into() })
}

/// The cores that this process may use.
#[must_use]
pub fn usable_cores() -> Vec<usize> {
    let set = rustix::thread::sched_getaffinity(None).unwrap_or_else(|_| rustix::thread::CpuSet::new());
    (0..rustix::thread::CpuSet::MAX_CPU).filter(|&core| set.is_set(core)).collect()
}
