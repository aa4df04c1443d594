//! What the connections of one thread share: the clock, the window, the counters, and being told to stop.

use std::{
    cell::{Cell, RefCell},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::Waker,
    time::Instant,
};

use tokio::sync::Notify;

use super::stats::{Stats, Window};

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Connections are being opened.
    Connecting,
    /// Requests go out.
    Running {
        /// Time 0 of the run.
        origin: Instant,
        /// What is measured.
        window: Window,
    },
    /// No new requests; answers are awaited. The window ends here if it had not yet.
    Draining,
    /// What is not answered by now never will be.
    Over,
}

/// See the module's comment.
#[derive(Debug)]
pub struct Shared {
    origin: Instant,
    window: Cell<Window>,
    draining: Cell<bool>,
    over: Cell<bool>,
    /// The counters.
    pub stats: RefCell<Stats>,
    progress: Arc<AtomicU64>,
    wakers: RefCell<Vec<Waker>>,
    ended: Notify,
}

impl Shared {
    /// A run that begins at `origin`; acked records are also added to `progress`.
    #[must_use]
    pub fn new(origin: Instant, window: Window, stats: Stats, progress: Arc<AtomicU64>) -> Self {
        Self {
            origin,
            window: Cell::new(window),
            draining: Cell::new(false),
            over: Cell::new(false),
            stats: RefCell::new(stats),
            progress,
            wakers: RefCell::new(Vec::new()),
            ended: Notify::new(),
        }
    }

    /// Time since the run began, in ns.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }

    /// What is measured. At its end no request is started any more.
    #[must_use]
    pub fn window(&self) -> Window {
        self.window.get()
    }

    /// Whether waiting for answers is over too.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.over.get()
    }

    /// Adds a task to be woken by a change.
    pub fn watch(&self, waker: Waker) {
        self.wakers.borrow_mut().push(waker);
    }

    /// Takes the run to [`Phase::Draining`] or [`Phase::Over`].
    pub fn advance(&self, phase: Phase) {
        if !self.draining.replace(true) {
            let window = self.window.get();
            self.window.set(Window { to_ns: window.to_ns.min(self.now_ns()), ..window });
        }
        if phase == Phase::Over {
            self.over.set(true);
            self.ended.notify_one();
        }
        self.wakers.borrow().iter().for_each(Waker::wake_by_ref);
    }

    /// Waits for [`Phase::Over`]. For one task.
    pub async fn ended(&self) {
        self.ended.notified().await;
    }

    /// Adds acked records to what the progress line shows.
    pub fn progress(&self, records: u64) {
        self.progress.fetch_add(records, Ordering::Relaxed);
    }
}
