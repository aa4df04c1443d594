//! The loops of a shard's thread: commit, inbox, upkeep, accept. They end together, by a drain or by a failure.

use std::{
    cell::RefCell,
    collections::VecDeque,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use compio_runtime::time;
use futures_util::{
    FutureExt as _,
    future::{self, Either},
};
use tokio::sync::oneshot;

use super::Parts;
use crate::{
    background::{DiskJob, FlushJob, staging_path},
    dedup::jobs::{KeyDone, KeyJob},
    grpc::server,
    ids::StreamId,
    io::uring,
    mailbox::Mailbox,
    message::ToShard,
    metrics::STALL,
    parquet::WriteJob,
    reactor::{Bell, Reactor, Reply, yield_now},
    wal::segment::Segment,
};

/// Messages of others that are handled before the other tasks have their turn.
const MESSAGES_PER_TURN: u32 = 64;
/// How often gauges are set and ages are looked at.
const UPKEEP_INTERVAL: Duration = Duration::from_millis(100);
/// How long calls have to end by themselves in a drain.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);
/// How long answers have to leave the process after a failed write.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// A client of [`ToShard::Flush`].
struct FlushWait {
    stream: StreamId,
    /// The last row that must be in a file before it is answered.
    through: i64,
    done: oneshot::Sender<i64>,
}

/// What the loops share beside the reactor.
struct Loops {
    reactor: Rc<Reactor>,
    parts: Parts,
    flush_waits: RefCell<Vec<FlushWait>>,
    retired: RefCell<Vec<VecDeque<Arc<Segment>>>>,
    /// To be told of.
    sealed: RefCell<VecDeque<Arc<Segment>>>,
    drain: Bell,
}

/// Runs a shard until it is drained (`Ok`) or cannot go on.
pub(super) async fn run(mut parts: Parts, ready: &std::sync::mpsc::Sender<std::io::Result<()>>) -> Result<(), String> {
    let mailbox = match Mailbox::new(&parts.mailbox) {
        Ok(mailbox) => mailbox,
        Err(error) => {
            let reason = error.to_string();
            let _ = ready.send(Err(error));
            return Err(reason);
        }
    };
    let reactor = Rc::clone(&parts.reactor);
    let listener = parts.listener.take().expect("it was made with the shard");
    let retired = RefCell::new(std::mem::take(&mut parts.retired));
    // Of shards that are no more, and told of like our own.
    let sealed = match parts.archive {
        true => retired.borrow().iter().flatten().cloned().collect(),
        false => VecDeque::new(),
    };
    let (flush_waits, drain) = (RefCell::default(), Bell::default());
    let loops = Rc::new(Loops { reactor, parts, flush_waits, retired, sealed: RefCell::new(sealed), drain });
    loops.order_segments();
    let inbox = compio_runtime::spawn(inbox(Rc::clone(&loops), mailbox));
    let commit = compio_runtime::spawn(commit(Rc::clone(&loops)));
    let upkeep = compio_runtime::spawn(upkeep(Rc::clone(&loops)));
    let live = compio_runtime::spawn(live(Rc::clone(&loops)));
    let accept = compio_runtime::spawn(server::accept(Rc::clone(&loops.reactor), listener));
    // Only the first failure or the end of the drain gets through; control may be gone, and then the process ends anyway.
    let _ = ready.send(Ok(()));
    let panicked = async {
        loops.reactor.panicked.rung().await;
        "a call or connection of the shard panicked".to_owned()
    };
    let failed = future::select_all([
        flatten(inbox).boxed_local(),
        flatten(commit).boxed_local(),
        flatten(upkeep).boxed_local(),
        flatten(live).boxed_local(),
        flatten_io(accept, Rc::clone(&loops.reactor)).boxed_local(),
        panicked.boxed_local(),
    ]);
    let drained = Box::pin(drained(Rc::clone(&loops)));
    match future::select(drained, failed).await {
        Either::Left(((), _)) => Ok(()),
        Either::Right(((reason, ..), _)) => {
            time::sleep(LAST_WORDS).await;
            Err(reason)
        }
    }
}

/// The reason for which a loop ended that never should.
async fn flatten(task: compio_runtime::JoinHandle<String>) -> String {
    task.await.unwrap_or_else(|_| "a loop of the shard panicked".to_owned())
}

/// The same for the accept loop, which does end, in a drain.
async fn flatten_io(task: compio_runtime::JoinHandle<std::io::Result<()>>, reactor: Rc<Reactor>) -> String {
    match task.await {
        Ok(Ok(())) if reactor.is_draining() => future::pending().await,
        Ok(Ok(())) => "the accept loop ended".to_owned(),
        Ok(Err(error)) => format!("the accept loop failed: {error}"),
        Err(_) => "the accept loop panicked".to_owned(),
    }
}

/// Ends when a drain is asked for and done.
async fn drained(loops: Rc<Loops>) {
    loops.drain.rung().await;
    loops.reactor.drain();
    let deadline = Instant::now() + DRAIN_TIMEOUT;
    let done = || {
        let reactor = &loops.reactor;
        reactor.shard.borrow().is_quiet() && reactor.calls.is_empty() && reactor.connections.is_empty()
    };
    while !done() && Instant::now() < deadline {
        time::sleep(Duration::from_millis(10)).await;
    }
    // The calls of others may have records for this shard, which are refused with an answer, not left without one.
    let silent = &loops.parts.silent;
    silent.silent.fetch_add(1, Ordering::Relaxed);
    while silent.silent.load(Ordering::Relaxed) < silent.shards && Instant::now() < deadline {
        time::sleep(Duration::from_millis(5)).await;
    }
    // Writes are never dropped half-way: the frame under way is on disk before the thread ends.
    while !loops.reactor.shard.borrow().is_quiet() {
        time::sleep(Duration::from_millis(5)).await;
    }
}

/// Group commit: one durable write at a time; what comes in meanwhile is the next frame.
async fn commit(loops: Rc<Loops>) -> String {
    let reactor = &loops.reactor;
    loop {
        // A flusher that waits for the store of its files would gain nothing.
        let pause = match reactor.metrics.flush_busy.get() {
            0 => Duration::ZERO,
            _ => reactor.shard.borrow().commit_pause(),
        };
        if !pause.is_zero() {
            reactor.metrics.wal_pauses.add(1);
            time::sleep(pause).await;
        }
        let write = reactor.shard.borrow_mut().next_write();
        let Some(write) = write else {
            reactor.commit.rung().await;
            continue;
        };
        let started = Instant::now();
        let result = uring::write_durable(loops.parts.driver, &write).await;
        let synced = Instant::now();
        let micros = synced.duration_since(started).as_micros() as u64;
        let written = reactor.shard.borrow_mut().written(write.lsn, result, |to, mut outcome| {
            outcome.note_write(started, synced);
            reactor.tell(to, outcome);
        });
        let records = match written {
            Ok(records) => records,
            Err(poisoned) => {
                tracing::error!(shard = %reactor.id, error = %poisoned, "the shard stops: the log must be recovered");
                return poisoned.to_string();
            }
        };
        let metrics = &reactor.metrics;
        metrics.wal_writes.add(1);
        metrics.wal_bytes.add(write.data.len() as u64);
        metrics.wal_latency.observe(micros);
        metrics.wal_commit_records.set(records);
        metrics.records_accepted.add(records);
        reactor.synced_for_readers(Instant::now());
        loops.order_segments();
    }
}

/// Rows for readers: after a commit's acks, and not in their way.
async fn live(loops: Rc<Loops>) -> String {
    loop {
        loops.reactor.live.rung().await;
        loops.reactor.send_live();
    }
}

/// Messages from other threads.
async fn inbox(loops: Rc<Loops>, mailbox: Mailbox) -> String {
    loop {
        if let Err(error) = mailbox.ready().await {
            return format!("the shard's queue cannot be waited for: {error}");
        }
        loops.reactor.metrics.queue_depth.set(mailbox.depth() as u64);
        let mut handled = 0;
        while let Some(message) = mailbox.pop() {
            loops.handle(message);
            handled += 1;
            if handled % MESSAGES_PER_TURN == 0 {
                // While others keep the queue filled, commits and calls must have their turn all the same.
                yield_now().await;
            }
        }
    }
}

/// What is done now and then: flush what is due, let go of segments, set gauges.
async fn upkeep(loops: Rc<Loops>) -> String {
    let started = Instant::now();
    let mut turned = started;
    loop {
        turned = loops.note_turn(started, turned);
        loops.reactor.set_second(started.elapsed().as_secs());
        loops.order_flush();
        loops.order_key_jobs();
        loops.report_sealed();
        loops.release_segments();
        loops.set_gauges();
        loops.reactor.look_after_leases();
        loops.reactor.look_after_tails();
        let rung = loops.reactor.flush.rung();
        futures_util::pin_mut!(rung);
        let _ = time::timeout(UPKEEP_INTERVAL, rung).await;
    }
}

impl Loops {
    fn handle(&self, message: ToShard) {
        let reactor = &self.reactor;
        match message {
            ToShard::Submit(submission) => reactor.admit(submission),
            ToShard::Outcome(token, outcome) => reactor.fill(token, Reply::Outcome(outcome)),
            ToShard::Admin(token, answer) => reactor.fill(token, Reply::Admin(*answer)),
            ToShard::Answer(token, answer) => reactor.fill(token, Reply::Answer(answer)),
            ToShard::Catalog(catalog, done) => {
                reactor.set_catalog(catalog);
                // A stream that is gone has nothing left to flush.
                self.answer_flush_waits();
                // Control does not wait any more: it has it all the same.
                let _ = done.send(());
            }
            ToShard::Follow(stream, shard, question) => reactor.begin_following(stream, shard, question),
            ToShard::Unfollow(stream, shard) => reactor.end_following(stream, shard),
            ToShard::Subscribe(stream, subscription) => reactor.subscribe(stream, subscription),
            ToShard::Following(stream, through, question) => reactor.feeds.answered(stream, through, question),
            ToShard::Live(rows) => reactor.feeds.take(&rows),
            ToShard::TailOpened(token, answer) => reactor.fill(token, Reply::TailOpened(answer)),
            ToShard::TailPage(token, page) => reactor.take_page(token, page),
            ToShard::Leases(grants) => reactor.take_leases(&grants),
            ToShard::Tls(config) => reactor.set_tls(config),
            ToShard::Snapshot(stream, reply) => {
                let _ = reply.send(reactor.shard.borrow().snapshot(stream));
            }
            ToShard::Figures(stream, reply) => {
                let _ = reply.send(reactor.shard.borrow().figures(stream));
            }
            ToShard::Flushed(stream, through) => {
                reactor.shard.borrow_mut().flushed(stream, through);
                self.answer_flush_waits();
                reactor.flush.ring();
            }
            ToShard::FlushFailed(stream) => reactor.shard.borrow_mut().flush_failed(stream),
            ToShard::Flush(stream, done) => {
                reactor.shard.borrow_mut().freeze(stream);
                let through = reactor.shard.borrow().buffer().last_sequence(stream);
                self.flush_waits.borrow_mut().push(FlushWait { stream, through, done });
                self.answer_flush_waits();
                reactor.flush.ring();
            }
            ToShard::Segment(prepared) => {
                let more = prepared.is_ok();
                reactor.shard.borrow_mut().segment_prepared(prepared);
                // After a failure the upkeep asks again, with a pause.
                if more {
                    self.order_segments();
                }
                reactor.commit.ring();
            }
            ToShard::Keys(answer) => reactor.take_key_answer(&answer),
            ToShard::KeysDone(done) => {
                if let KeyDone::Merged(Ok((_, damaged))) = &done {
                    reactor.metrics.dedup_damaged.add(*damaged);
                }
                reactor.shard.borrow_mut().key_job_done(done);
                self.order_key_jobs();
            }
            ToShard::Drain => self.drain.ring(),
        }
    }

    /// Notes that the upkeep has its turn: whoever watches the shard sees by it that its tasks go on.
    fn note_turn(&self, started: Instant, last: Instant) -> Instant {
        let (now, metrics) = (Instant::now(), &self.reactor.metrics);
        if now.duration_since(last) >= STALL {
            metrics.stalls.add(1);
        }
        metrics.turned_micros.set(now.duration_since(started).as_micros() as u64);
        now
    }

    /// Answers those whose rows are in files, and forgets those who wait no more.
    fn answer_flush_waits(&self) {
        let shard = self.reactor.shard.borrow();
        let mut waits = self.flush_waits.borrow_mut();
        let reached = |wait: &mut FlushWait| shard.buffer().flushed_through(wait.stream) >= wait.through;
        for FlushWait { through, done, .. } in waits.extract_if(.., reached) {
            let _ = done.send(through);
        }
        waits.retain(|wait| !wait.done.is_closed());
    }

    /// Gives the flusher the next rows, if it is idle and there are any.
    fn order_flush(&self) {
        let reactor = &self.reactor;
        let Some(frozen) = reactor.shard.borrow_mut().next_flush() else { return };
        let Some(stream) = reactor.catalog().stream(frozen.stream).cloned() else {
            return reactor.shard.borrow_mut().flush_failed(frozen.stream);
        };
        let first = frozen.batches.first().map_or(0, |batch| batch.header().first_sequence);
        let job = WriteJob {
            stream: frozen.stream,
            schema: Arc::clone(&stream.schema),
            pipelines: Arc::clone(&stream.pipelines),
            hour: frozen.hour,
            batches: frozen.batches,
            key_fields: Arc::clone(&stream.key_fields),
            path: staging_path(&self.parts.staging_dir, frozen.stream, first, frozen.through),
        };
        let sent = self.parts.flusher.give(FlushJob { job, through: frozen.through });
        assert!(sent.is_ok(), "one flush is under way at a time, so the flusher takes it");
    }

    fn order_segments(&self) {
        let wanted = self.reactor.shard.borrow_mut().wants_segment();
        if let Some(request) = wanted {
            let sent = self.parts.preparer.give(DiskJob::Prepare(request));
            assert!(sent.is_ok(), "the preparer lives as long as the shard");
        }
    }

    fn order_key_jobs(&self) {
        loop {
            let job = self.reactor.shard.borrow_mut().next_key_job();
            let sent = match job {
                None => return,
                // A merge takes long, and keys that wait to be written keep the log from being released.
                Some(merge @ KeyJob::Merge { .. }) => self.parts.key_merger.give(merge),
                Some(job) => self.parts.key_keeper.give(job),
            };
            assert!(sent.is_ok(), "the keepers of keys live as long as the shard");
        }
    }

    /// Tells control of segments to archive. Those that find no room in its queue are held, and told of later.
    fn report_sealed(&self) {
        let mut waiting = self.sealed.borrow_mut();
        waiting.extend(self.reactor.shard.borrow_mut().take_sealed());
        while let Some(segment) = waiting.pop_front() {
            if let Err(segment) = self.reactor.report_sealed(segment) {
                waiting.push_front(segment);
                return;
            }
        }
    }

    fn release_segments(&self) {
        let mut released = self.reactor.shard.borrow_mut().release();
        for folder in self.retired.borrow_mut().iter_mut() {
            // Oldest first, so that what is left on disk stays one unbroken chain.
            while folder.front().is_some_and(|segment| Arc::strong_count(segment) == 1) {
                released.extend(folder.pop_front().map(|segment| segment.as_released()));
            }
        }
        for segment in released {
            let sent = self.parts.preparer.give(DiskJob::Remove(segment));
            assert!(sent.is_ok(), "the preparer lives as long as the shard");
        }
        self.order_segments();
    }

    fn set_gauges(&self) {
        let reactor = &self.reactor;
        let shard = reactor.shard.borrow();
        let metrics = &reactor.metrics;
        let usage = shard.wal_usage();
        metrics.wal_segments.set(usage.segments_active as u64);
        metrics.wal_used_bytes.set(usage.used_bytes);
        metrics.wal_quota_bytes.set(usage.quota_bytes);
        metrics.buffer_bytes.set(shard.buffer().resident_bytes() as u64);
        metrics.buffer_records.set(shard.buffer().records());
        metrics.dead_letters.set(shard.dead_letters());
        metrics.tails.set(reactor.feeds.readers() as u64);
        metrics.tail_queue_bytes.set(reactor.feeds.pool().used() as u64);
        let keys = shard.key_figures();
        metrics.dedup_keys_in_memory.set(keys.in_memory);
        metrics.dedup_keys_in_files.set(keys.in_files);
        metrics.dedup_files.set(keys.files);
        metrics.writers.set(keys.writers);
        metrics.dedup_table_bytes.set(keys.table_bytes);
        metrics.dedup_filter_bytes.set(keys.filter_bytes);
        let busy = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        metrics.busy_micros.set(busy.tv_sec as u64 * 1_000_000 + busy.tv_nsec as u64 / 1000);
    }
}
