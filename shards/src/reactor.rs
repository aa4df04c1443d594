//! What all tasks of one shard's thread share: the shard's state, the calls that wait, the ways to others.
//!
//! Invariant: no borrow of a cell is held over an await.

pub mod feeds;
mod tails;

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Instant,
};

use feeds::Feeds;
use rustls::ServerConfig;
use tokio::sync::mpsc;

use crate::{
    access::Principal,
    background::Helper,
    config::Limits,
    dedup::jobs::{KeyAnswer, KeyQuestion},
    ids::ShardId,
    mailbox::MailboxSender,
    memory::Pool,
    message::{
        AdminFailure, AdminReply, AdminRequest, FailureKind, Outcome, OutcomeTo, QUEUE_RETRY, QueryFailure, Refusal,
        ReplyTo, Submission, ToControl, ToShard,
    },
    metrics::ShardMetrics,
    peers::Peers,
    query::{Cancel, Query, QueryAnswer},
    rate::{LeaseGrant, budget::Budgets},
    shard::{Shard, Submitted},
    snapshot::CatalogSnapshot,
    tail::page::Page,
    tls::HandshakeOutcome,
    trace::{SpanContext, Tracer},
    validate::Validator,
    wal::segment::Segment,
};

/// The shared state of one shard's thread.
#[derive(Debug)]
pub struct Reactor {
    /// Which shard this is.
    pub id: ShardId,
    /// Bounds on what clients send.
    pub limits: Limits,
    /// The state owner.
    pub shard: RefCell<Shard>,
    /// Checks records.
    pub validator: RefCell<Validator>,
    /// Counters.
    pub metrics: Arc<ShardMetrics>,
    /// Rung when there may be something to write.
    pub commit: Bell,
    /// Rung when there may be something to flush.
    pub flush: Bell,
    /// Rung when there are rows for readers that follow a stream of this shard.
    pub live: Bell,
    live_since: Cell<Option<Instant>>,
    /// The streams that readers on this shard follow.
    pub feeds: Rc<Feeds>,
    /// The memory of every shard's readers.
    tail_pools: Vec<Arc<Pool>>,
    /// Traces requests.
    pub tracer: Tracer,
    /// What clients may ingest.
    pub budgets: Budgets,
    catalog: RefCell<Arc<CatalogSnapshot>>,
    tls: RefCell<Option<Arc<ServerConfig>>>,
    slots: RefCell<Slots>,
    shards: Vec<MailboxSender>,
    to_control: mpsc::Sender<ToControl>,
    key_reader: Helper<KeyQuestion>,
    draining: Cell<bool>,
    /// The calls that serve requests now.
    pub calls: Rc<Registry>,
    /// Those of them that look at the time: each is rung every second.
    pub timed: Rc<Registry>,
    /// The open connections.
    pub connections: Rc<Registry>,
    /// How many of them each address has.
    pub peers: Arc<Peers>,
    catalog_version: Cell<u64>,
    second: Cell<u64>,
    /// Rung when a task panicked: the state may be half changed, so the shard ends.
    pub panicked: Bell,
}

/// Held by a task of the shard. Should the task panic, which its executor would pass over, the shard hears of it.
#[derive(Debug)]
pub struct PanicWatch(Rc<Reactor>);

impl PanicWatch {
    /// For a task of this shard.
    #[must_use]
    pub fn new(reactor: &Rc<Reactor>) -> Self {
        Self(Rc::clone(reactor))
    }
}

impl Drop for PanicWatch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.panicked.ring();
        }
    }
}

/// What a slot waits for.
#[derive(Debug)]
pub enum Reply {
    /// Of a submission.
    Outcome(Outcome),
    /// Of a query.
    Answer(Result<QueryAnswer, QueryFailure>),
    /// Of an admin call.
    Admin(Result<AdminReply, AdminFailure>),
    /// Of a reader that wants to begin.
    TailOpened(Result<(), QueryFailure>),
    /// A page for a reader.
    Page(Result<Page, QueryFailure>),
}

/// Where a reply arrives; the call that waits for it holds it too.
#[derive(Debug)]
pub struct Slot {
    reply: RefCell<Option<Reply>>,
    waiter: Rc<Bell>,
}

impl Slot {
    /// Takes the reply, once it is there.
    #[must_use]
    pub fn take(&self) -> Option<Reply> {
        self.reply.borrow_mut().take()
    }
}

#[derive(Debug, Default)]
struct Slots {
    next: u64,
    waiting: HashMap<u64, Rc<Slot>, ahash::RandomState>,
}

/// A flag that one task of the thread waits for.
#[derive(Debug, Default)]
pub struct Bell {
    rung: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Bell {
    /// Raises the flag and wakes the task.
    pub fn ring(&self) {
        self.rung.set(true);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Lowers the flag if it is up; otherwise the task is woken when it is raised.
    pub fn poll_rung(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.rung.replace(false) {
            return Poll::Ready(());
        }
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Waits for the flag, and lowers it.
    pub async fn rung(&self) {
        std::future::poll_fn(|cx| self.poll_rung(cx)).await;
    }
}

/// Lets the other tasks of the thread have their turn.
pub async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

impl Reactor {
    /// The shared state of shard `id`, with the queues and readers' pools of all shards.
    #[must_use]
    pub fn new(
        id: ShardId,
        limits: Limits,
        shard: Shard,
        metrics: Arc<ShardMetrics>,
        (shards, tail_pools): (Vec<MailboxSender>, Vec<Arc<Pool>>),
        (to_control, tracer): (mpsc::Sender<ToControl>, Tracer),
        key_reader: Helper<KeyQuestion>,
    ) -> Self {
        Self {
            id,
            limits,
            shard: RefCell::new(shard),
            validator: RefCell::default(),
            metrics,
            commit: Bell::default(),
            flush: Bell::default(),
            live: Bell::default(),
            live_since: Cell::new(None),
            feeds: Rc::new(Feeds::new(Arc::clone(&tail_pools[id.index()]))),
            tail_pools,
            tracer,
            budgets: Budgets::new(shards.len()),
            catalog: RefCell::default(),
            tls: RefCell::default(),
            slots: RefCell::default(),
            shards,
            to_control,
            key_reader,
            draining: Cell::new(false),
            calls: Rc::default(),
            timed: Rc::default(),
            connections: Rc::default(),
            peers: Peers::new(limits.connections_per_address),
            catalog_version: Cell::new(0),
            second: Cell::new(0),
            panicked: Bell::default(),
        }
    }

    /// The catalog that this shard runs on.
    #[must_use]
    pub fn catalog(&self) -> Arc<CatalogSnapshot> {
        Arc::clone(&self.catalog.borrow())
    }

    /// Runs on a new catalog from now on.
    pub fn set_catalog(&self, catalog: Arc<CatalogSnapshot>) {
        self.shard.borrow_mut().set_catalog(Arc::clone(&catalog));
        self.budgets.set_limits(catalog.rates);
        self.catalog_version.set(catalog.version);
        *self.catalog.borrow_mut() = catalog;
        self.feeds.ring_all();
    }

    /// How connections are secured that come now; `None`: plain text.
    #[must_use]
    pub fn tls(&self) -> Option<Arc<ServerConfig>> {
        self.tls.borrow().clone()
    }

    /// Secures connections that come from now on in this way; those that are open go on as they are.
    pub fn set_tls(&self, config: Arc<ServerConfig>) {
        *self.tls.borrow_mut() = Some(config);
    }

    /// The version of the catalog that this shard runs on.
    #[must_use]
    pub fn catalog_version(&self) -> u64 {
        self.catalog_version.get()
    }

    /// Seconds of the shard's upkeep: what is looked at once a second goes by it, without a clock.
    #[must_use]
    pub fn second(&self) -> u64 {
        self.second.get()
    }

    /// Tells the time since the shard's start.
    pub fn set_second(&self, second: u64) {
        if self.second.replace(second) != second {
            self.feeds.ring_all();
            self.timed.ring_all();
        }
    }

    /// Sends validated records to their home; the outcome arrives in the slot, whose waiter is rung.
    pub fn submit(&self, home: ShardId, mut submission: Submission, waiter: &Rc<Bell>) -> Rc<Slot> {
        let (slot, token) = self.new_slot(waiter);
        submission.reply = OutcomeTo::Call(ReplyTo { shard: self.id, token });
        if home == self.id {
            self.admit(submission);
        } else if self.shards[home.index()].send(ToShard::Submit(submission)).is_err() {
            self.fill(token, Reply::Outcome(Outcome::Refused(Refusal::QueueFull(QUEUE_RETRY))));
        }
        slot
    }

    /// Puts a submission, from here or from elsewhere, before this shard's state.
    pub fn admit(&self, mut submission: Submission) {
        if let Some(marks) = &mut submission.marks {
            marks.admitted = Some(Instant::now());
        }
        let submitted = self.shard.borrow_mut().submit(submission);
        match submitted {
            Submitted::Waiting => {
                self.ask_key_files();
                self.commit.ring();
            }
            Submitted::Done(reply, outcome) => self.tell(reply, outcome),
        }
    }

    /// Has files of keys read, if submissions wait for it.
    fn ask_key_files(&self) {
        while let Some(question) = self.next_key_question() {
            self.metrics.dedup_lookups.add(question.lookups.len() as u64);
            let sent = self.key_reader.give(question);
            assert!(sent.is_ok(), "the reader of keys lives as long as the shard");
        }
    }

    fn next_key_question(&self) -> Option<KeyQuestion> {
        self.shard.borrow_mut().next_question()
    }

    /// Takes what files of keys say.
    pub fn take_key_answer(&self, answer: &KeyAnswer) {
        self.metrics.dedup_damaged.add(answer.failed);
        let mut outcomes = Vec::new();
        self.shard.borrow_mut().answered(answer, |reply, outcome| outcomes.push((reply, outcome)));
        outcomes.into_iter().for_each(|(reply, outcome)| self.tell(reply, outcome));
        self.ask_key_files();
        self.commit.ring();
    }

    /// Brings an outcome to whoever waits for it: a call here or on another shard, or control.
    pub fn tell(&self, to: OutcomeTo, outcome: Outcome) {
        match to {
            OutcomeTo::Call(to) if to.shard == self.id => self.fill(to.token, Reply::Outcome(outcome)),
            OutcomeTo::Call(to) => {
                let sent = self.shards[to.shard.index()].send(ToShard::Outcome(to.token, outcome));
                assert!(sent.is_ok(), "outcomes are never refused");
            }
            // Who waited may have given up.
            OutcomeTo::Waiter(to) => drop(to.send(outcome)),
        }
    }

    /// Asks control; the answer arrives in the slot. `cancel` tells that nobody waits for it.
    pub fn query(
        &self,
        client: Arc<str>,
        query: Query,
        cancel: Cancel,
        trace: Option<SpanContext>,
        waiter: &Rc<Bell>,
    ) -> Rc<Slot> {
        let (slot, token) = self.new_slot(waiter);
        let reply = ReplyTo { shard: self.id, token };
        if self.to_control.try_send(ToControl::Query { client, query, cancel, trace, reply }).is_err() {
            self.fill(token, Reply::Answer(Err(QueryFailure::Overloaded)));
        }
        slot
    }

    /// Asks control to do an admin call; the answer arrives in the slot.
    pub fn administer(
        &self,
        caller: Principal,
        request: AdminRequest,
        trace: Option<SpanContext>,
        waiter: &Rc<Bell>,
    ) -> Rc<Slot> {
        let (slot, token) = self.new_slot(waiter);
        let reply = ReplyTo { shard: self.id, token };
        if self.to_control.try_send(ToControl::Admin { caller, request, trace, reply }).is_err() {
            let failure = AdminFailure {
                kind: FailureKind::Overloaded,
                reason: "RESOURCE_EXHAUSTED",
                message: "the control plane has too much to do: try again".into(),
                fields: Vec::new(),
            };
            self.fill(token, Reply::Admin(Err(failure)));
        }
        slot
    }

    /// Tells control of a segment to archive.
    ///
    /// # Errors
    /// The segment: control has no room now.
    pub fn report_sealed(&self, segment: Arc<Segment>) -> Result<(), Arc<Segment>> {
        self.to_control.try_send(ToControl::Sealed(segment)).map_err(|refused| match refused.into_inner() {
            ToControl::Sealed(segment) => segment,
            _ => unreachable!("it is what was sent"),
        })
    }

    /// Asks control for leases, if there is something to ask for now.
    pub fn ask_for_leases(&self) {
        let Some(asks) = self.budgets.next_asks(self.budgets.micros(Instant::now())) else { return };
        if self.to_control.try_send(ToControl::Leases(self.id, asks)).is_err() {
            self.budgets.unsent();
        }
    }

    /// Takes leases.
    pub fn take_leases(&self, grants: &[LeaseGrant]) {
        self.budgets.granted(self.budgets.micros(Instant::now()), grants);
        self.ask_for_leases();
    }

    /// Looks after leases; every slice or so.
    pub fn look_after_leases(&self) {
        self.budgets.tidy(self.budgets.micros(Instant::now()));
        self.ask_for_leases();
    }

    fn new_slot(&self, waiter: &Rc<Bell>) -> (Rc<Slot>, u64) {
        let slot = Rc::new(Slot { reply: RefCell::default(), waiter: Rc::clone(waiter) });
        let mut slots = self.slots.borrow_mut();
        slots.next += 1;
        let token = slots.next;
        slots.waiting.insert(token, Rc::clone(&slot));
        (slot, token)
    }

    /// Puts a reply into its slot. A slot whose call is gone takes it all the same, and is dropped.
    pub fn fill(&self, token: u64, reply: Reply) {
        let slot = self.slots.borrow_mut().waiting.remove(&token);
        let slot = slot.expect("a reply comes once, to a slot that was made for it");
        *slot.reply.borrow_mut() = Some(reply);
        slot.waiter.ring();
    }

    /// Whether the shard takes no more.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// From now on nothing is taken: not here, not from other shards.
    pub fn drain(&self) {
        self.draining.set(true);
        self.shard.borrow_mut().drain();
        self.commit.ring();
        self.flush.ring();
        self.calls.ring_all();
        self.connections.ring_all();
    }

    /// Counts answers to requests.
    pub fn count_requests(&self, status: ttdust_proto::ingestion::Status, count: usize) {
        let index = (status as usize).saturating_sub(1);
        self.metrics.requests[index].add(count as u64);
    }

    /// Counts how the start of a connection ended.
    pub fn count_handshake(&self, outcome: HandshakeOutcome) {
        self.metrics.tls_handshakes[outcome.index()].add(1);
    }

    /// Counts an ack that was handed to the socket now.
    pub fn observe_ack(&self, received: Instant, now: Instant) {
        self.metrics.ack_latency.observe(now.saturating_duration_since(received).as_micros() as u64);
    }
}

/// Tasks of one kind that run now, with a bell each, so that a drain reaches the idle ones.
#[derive(Debug, Default)]
pub struct Registry {
    bells: RefCell<HashMap<u64, Rc<Bell>, ahash::RandomState>>,
    next: Cell<u64>,
}

impl Registry {
    /// Counts a task in for as long as the guard lives.
    #[must_use]
    pub fn enter(self: &Rc<Self>, bell: &Rc<Bell>) -> Guard {
        let key = self.next.get();
        self.next.set(key + 1);
        self.bells.borrow_mut().insert(key, Rc::clone(bell));
        Guard { registry: Rc::clone(self), key }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bells.borrow().len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Rings every bell.
    pub fn ring_all(&self) {
        self.bells.borrow().values().for_each(|bell| bell.ring());
    }
}

/// A task that is counted in.
#[derive(Debug)]
pub struct Guard {
    registry: Rc<Registry>,
    key: u64,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.registry.bells.borrow_mut().remove(&self.key);
    }
}
