//! The state owner of one shard: sequence numbers, dedup, log, buffer, and who waits for what. Synchronous, no I/O, no await:
//! it only puts the parts in sequence. The runtime performs [`Shard::next_write`] and tells [`Shard::written`]; likewise
//! [`Shard::next_question`] and [`Shard::next_key_job`].
//!
//! Invariants: an outcome is told only when every frame that it rests on is synced, and in the order of the frames. While one
//! submission of a stream waits for what files of keys say, the later ones of that stream wait behind it.

use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::Arc,
    time::Duration,
};

use crate::{
    buffer::{Buffer, Frozen, StreamFigures},
    config::EngineConfig,
    dedup::{
        Dedup, KeyFigures, KeysRefused, Looked, Seen,
        folder::OpenKeys,
        jobs::{KeyAnswer, KeyDone, KeyJob, KeyQuestion},
        writers::{Session, Taken},
    },
    ids::{FIRST_SEQUENCE, ShardId, StreamId},
    io::{Clock, Disk},
    message::{Committed, Outcome, OutcomeTo, Refusal, Submission, WriterRows},
    query::BufferSnapshot,
    snapshot::{CatalogSnapshot, StreamState},
    tail::followers::Followers,
    wal::{
        Lsn, Wal, WalPoisoned, WalUsage, WriteOp,
        batch::RowBatch,
        entry::EntryDraft,
        segment::{PreparedSegment, ReleasedSegment, Segment, SegmentRequest},
    },
};

/// Unsynced bytes past which a shard refuses more: the disk does not keep up.
const UNSYNCED_BYTES_MAX: usize = 64 << 20;
/// The log's quota in percent: past it, records are refused with a retry time.
const QUOTA_BACKPRESSURE_PERCENT: u64 = 85;
/// The log's quota in percent: past it, the answer is UNAVAILABLE.
const QUOTA_FULL_PERCENT: u64 = 95;
/// The log's quota in percent: past it, rows are frozen before their time, so that segments come free.
const QUOTA_HURRY_PERCENT: u64 = 40;
/// The log's quota in percent: past it, commits make pauses, the longer the nearer it comes to [`QUOTA_BACKPRESSURE_PERCENT`].
const QUOTA_PACE_PERCENT: u64 = 50;
/// The longest pause before a commit. Producers that wait for their acks have a commit of all that they may send at once in each.
const PACE_MAX: Duration = Duration::from_millis(20);
/// What a refused client is told to wait.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// Payload bytes that wait for files of keys, past which a shard refuses more.
const PARKED_BYTES_MAX: usize = 32 << 20;
/// What a client is told to wait when as many keys as may be are remembered.
const KEYS_RETRY_AFTER: Duration = Duration::from_secs(60);
/// The pause after a failed flush, in microseconds.
const FLUSH_RETRY_MICROS: u64 = 1_000_000;

/// What became of a submission at once.
#[derive(Debug)]
pub enum Submitted {
    /// Its outcome comes with a later [`Shard::written`].
    Waiting,
    /// Its outcome, now, and who waits for it.
    Done(OutcomeTo, Outcome),
}

/// One shard's state.
#[derive(Debug)]
pub struct Shard {
    id: ShardId,
    catalog: Arc<CatalogSnapshot>,
    sequencers: HashMap<StreamId, Sequencer, ahash::RandomState>,
    dedup: Dedup,
    wal: Wal,
    buffer: Buffer,
    followers: Followers,
    /// Outcomes in the order of the frames that they wait for.
    waiting: VecDeque<(Lsn, OutcomeTo, Committed)>,
    /// Bytes of the frame being written.
    writing_bytes: usize,
    clock: Arc<dyn Clock>,
    draining: bool,
    disk_full: bool,
    /// Payloads and keys that were not duplicates, reused from submission to submission.
    fresh_payloads: Vec<bytes::Bytes>,
    fresh_keys: Vec<bytes::Bytes>,
    /// What is known of the keys of the submission at hand, likewise.
    looked: Looked,
    /// Of each stream, the submission that waits for files of keys, and those behind it.
    parked: HashMap<StreamId, VecDeque<Parked>, ahash::RandomState>,
    parked_bytes: usize,
    /// Dead letters that were taken.
    dead_letters: u64,
    questions: VecDeque<KeyQuestion>,
}

/// A submission that waits.
#[derive(Debug)]
struct Parked {
    submission: Submission,
    bytes: usize,
    /// Of the first of its stream only.
    looked: Looked,
}

#[derive(Debug, Clone, Copy)]
struct Sequencer {
    next: i64,
    last_timestamp: i64,
    /// What `next` was at the start.
    recovered: i64,
}

impl Sequencer {
    fn after(sequence: i64) -> Self {
        Self { next: sequence + 1, last_timestamp: 0, recovered: sequence + 1 }
    }
}

impl Shard {
    /// A shard that goes on with `recovered` rows (those of its streams, oldest first) on top of files up to
    /// `flushed_through`, and with the idempotency keys of both `recovered` and `keys`. Blocking.
    ///
    /// # Errors
    /// A recovered batch's keys cannot be read, or not be written to files when there are too many for the memory.
    pub fn new(
        id: ShardId,
        config: &EngineConfig,
        wal: Wal,
        (recovered, flushed_through): (Vec<RowBatch>, &HashMap<StreamId, i64>),
        (disk, keys, is_home): (&dyn Disk, &OpenKeys, &dyn Fn(StreamId) -> bool),
        clock: Arc<dyn Clock>,
    ) -> io::Result<Self> {
        let mut shard = Self {
            id,
            catalog: Arc::default(),
            sequencers: HashMap::default(),
            dedup: Dedup::new(id, config.dedup, keys, is_home, clock.monotonic_micros()),
            wal,
            buffer: Buffer::new(config.buffer, flushed_through),
            followers: Followers::default(),
            waiting: VecDeque::new(),
            writing_bytes: 0,
            clock,
            draining: false,
            disk_full: false,
            fresh_payloads: Vec::new(),
            fresh_keys: Vec::new(),
            looked: Looked::default(),
            parked: HashMap::default(),
            parked_bytes: 0,
            dead_letters: 0,
            questions: VecDeque::new(),
        };
        for (&stream, &through) in flushed_through {
            shard.sequencers.insert(stream, Sequencer::after(through));
        }
        let now = shard.clock.monotonic_micros();
        for batch in recovered {
            shard.remember(&batch)?;
            shard.dedup.spill(disk, &keys.dir)?;
            if batch.header().count > 0 {
                shard.buffer.insert(batch, 0, now);
            }
        }
        shard.buffer.forget_rates();
        Ok(shard)
    }

    /// Takes a recovered batch's keys, sequence numbers and time.
    fn remember(&mut self, batch: &RowBatch) -> io::Result<()> {
        let header = batch.header();
        let sequencer = self.sequencer(header.stream);
        sequencer.next = sequencer.next.max(header.last_sequence() + 1);
        sequencer.recovered = sequencer.next;
        sequencer.last_timestamp = sequencer.last_timestamp.max(header.timestamp_unix_micros);
        if header.key_bytes == 0 && header.session_bytes == 0 {
            return Ok(());
        }
        let rows = batch.rows()?;
        if header.session_bytes > 0 {
            let unknown = || io::Error::new(io::ErrorKind::InvalidData, "the log tells of a session in no known form");
            let session = Session::decode(rows.session()).ok_or_else(unknown)?;
            self.dedup.take_session(header.stream, &session, header.first_sequence);
        }
        for index in 0..header.count as usize {
            let key = rows.key(index);
            if !key.is_empty() {
                let sequence = header.first_sequence + index as i64;
                let seen = Seen { sequence, timestamp_unix_micros: header.timestamp_unix_micros };
                self.dedup.replay(header.stream, key, seen);
            }
        }
        self.dedup.hold(batch.segment(), Lsn(0));
        Ok(())
    }

    /// The version of a stream's pipeline for records that come now. It is the home's to say, which has every version that it
    /// writes into its log.
    fn pipeline_version(&self, stream: StreamId) -> u16 {
        self.catalog.stream(stream).map_or(0, |stream| stream.pipelines.current())
    }

    fn sequencer(&mut self, stream: StreamId) -> &mut Sequencer {
        self.sequencers.entry(stream).or_insert(Sequencer::after(FIRST_SEQUENCE - 1))
    }

    /// Runs on a new catalog: forgets streams that are gone from it.
    pub fn set_catalog(&mut self, catalog: Arc<CatalogSnapshot>) {
        let gone: Vec<_> = self.buffer.streams().filter(|&stream| catalog.stream(stream).is_none()).collect();
        for stream in gone {
            self.buffer.remove(stream);
            self.sequencers.remove(&stream);
        }
        self.catalog = catalog;
    }

    /// Takes validated records: gives them sequence numbers and puts them into the open frame, at once or when files of keys
    /// were asked ([`Shard::next_question`]).
    pub fn submit(&mut self, submission: Submission) -> Submitted {
        if !self.parked.contains_key(&submission.stream) {
            return self.begin(submission);
        }
        let looked = Looked::default();
        match self.refusal(&submission) {
            Some(refusal) => refused(submission, refusal),
            None => self.park(submission, looked),
        }
    }

    /// Takes the next submission of a stream of which none waits.
    fn begin(&mut self, submission: Submission) -> Submitted {
        if let Some(refusal) = self.refusal(&submission) {
            return refused(submission, refusal);
        }
        if submission.writer.is_some() {
            return self.commit_session(submission);
        }
        if !has_keys(&submission) {
            return self.commit(submission, None);
        }
        let stream = submission.stream;
        let recovered = self.sequencer(stream).recovered;
        let mut looked = std::mem::take(&mut self.looked);
        let lookups = self.dedup.look(stream, &submission.keys, recovered, &mut looked);
        if !lookups.is_empty() {
            self.questions.push_back(KeyQuestion { stream, lookups });
            return self.park(submission, looked);
        }
        let submitted = self.commit(submission, Some(&looked));
        self.looked = looked;
        submitted
    }

    fn park(&mut self, submission: Submission, looked: Looked) -> Submitted {
        let bytes = submission.payloads.iter().chain(&submission.keys).map(bytes::Bytes::len).sum::<usize>();
        self.parked_bytes += bytes;
        self.parked.entry(submission.stream).or_default().push_back(Parked { submission, bytes, looked });
        Submitted::Waiting
    }

    /// Keys to look up in files, by another thread; the answer goes to [`Shard::answered`].
    pub fn next_question(&mut self) -> Option<KeyQuestion> {
        self.questions.pop_front()
    }

    /// Goes on with the submission that asked, and with those behind it; `tell` gets each outcome that stands at once.
    ///
    /// # Panics
    /// Nothing of that stream was asked.
    pub fn answered(&mut self, answer: &KeyAnswer, mut tell: impl FnMut(OutcomeTo, Outcome)) {
        let mut waiting = self.parked.remove(&answer.stream).expect("a stream that asked has a submission that waits");
        let Parked { submission, bytes, mut looked } = waiting.pop_front().expect("it is not empty");
        self.parked_bytes -= bytes;
        for &(index, seen) in &answer.found {
            let known = &mut looked.known[index as usize];
            // What is said of one key in several files: the newest counts.
            *known = (*known).into_iter().chain([seen]).max_by_key(|seen| seen.sequence);
        }
        let submitted = match self.refusal(&submission) {
            Some(refusal) => refused(submission, refusal),
            None => self.commit(submission, Some(&looked)),
        };
        if let Submitted::Done(reply, outcome) = submitted {
            tell(reply, outcome);
        }
        while let Some(Parked { submission, bytes, .. }) = waiting.pop_front() {
            self.parked_bytes -= bytes;
            let stream = submission.stream;
            if let Submitted::Done(reply, outcome) = self.begin(submission) {
                tell(reply, outcome);
            }
            if let Some(asking) = self.parked.get_mut(&stream) {
                asking.append(&mut waiting);
            }
        }
    }

    /// Puts a submission into the open frame, without what `looked` or the records before it show to be duplicates.
    fn commit(&mut self, mut submission: Submission, looked: Option<&Looked>) -> Submitted {
        let now = self.clock.unix_micros();
        let pipeline_version = self.pipeline_version(submission.stream);
        let sequencer = self.sequencer(submission.stream);
        let timestamp_unix_micros = now.max(sequencer.last_timestamp);
        let first_sequence = sequencer.next;
        sequencer.last_timestamp = timestamp_unix_micros;
        let marks = submission.marks.take();
        let mut committed = Committed { first_sequence, timestamp_unix_micros, marks, ..Committed::nothing() };
        let (payloads, keys): (&[_], &[_]) = match looked {
            Some(looked) => {
                self.drop_duplicates(&submission, looked, &mut committed);
                (&self.fresh_payloads, &self.fresh_keys)
            }
            None => (&submission.payloads, &[]),
        };
        committed.accepted = payloads.len() as u32;
        let lsn = if payloads.is_empty() {
            committed.first_sequence = 0;
            self.wal.last_lsn()
        } else {
            self.wal.append(&EntryDraft {
                stream: submission.stream,
                first_sequence,
                timestamp_unix_micros,
                schema_version: submission.schema_version,
                pipeline_version,
                payloads,
                keys,
                metadata: &submission.metadata,
                session: &[],
            })
        };
        let accepted = i64::from(committed.accepted);
        if self.catalog.stream(submission.stream).is_some_and(|stream| stream.is_dead_letters()) {
            self.dead_letters += u64::from(committed.accepted);
        }
        self.sequencer(submission.stream).next += accepted;
        self.fresh_payloads.clear();
        self.fresh_keys.clear();
        self.wait_for(lsn, submission.reply, committed)
    }

    /// Puts what is new of a writer's request into the open frame: its records, and which of its numbers are taken now.
    fn commit_session(&mut self, mut submission: Submission) -> Submitted {
        let rows: Box<WriterRows> = submission.writer.take().expect("it is a writer's");
        let (stream, sent) = (submission.stream, u64::from(rows.sent));
        let (again, is_new) = match self.dedup.writers().check(stream, &rows.id, rows.epoch, rows.first, sent) {
            Ok(checked) => checked,
            Err(why) => return refused(submission, Refusal::Writer(why)),
        };
        let now = self.clock.unix_micros();
        let sequencer = self.sequencer(stream);
        let timestamp_unix_micros = now.max(sequencer.last_timestamp);
        let first_sequence = sequencer.next;
        let skipped = rows.taken.partition_point(|&index| u64::from(index) < again);
        let payloads = &submission.payloads[skipped..];
        sequencer.last_timestamp = timestamp_unix_micros;
        sequencer.next += payloads.len() as i64;
        let marks = submission.marks.take();
        let mut committed = Committed { timestamp_unix_micros, marks, ..Committed::nothing() };
        for index in 0..again as u32 {
            let original = match self.dedup.writers().taken(stream, &rows.id, rows.first + u64::from(index)) {
                Taken::Rejected => {
                    committed.rejected.push(index);
                    continue;
                }
                Taken::As(sequence) => sequence,
                Taken::Unknown => 0,
            };
            committed.duplicates.push((index, Seen { sequence: original, timestamp_unix_micros: 0 }));
        }
        if !payloads.is_empty() {
            (committed.first_sequence, committed.accepted) = (first_sequence, payloads.len() as u32);
        }
        let lsn = if again == sent && !is_new {
            self.wal.last_lsn()
        } else {
            let runs = runs(again as u32..rows.sent, &rows.taken[skipped..]);
            let session = Session { writer: rows.id.clone(), epoch: rows.epoch, first: rows.first + again, runs };
            self.dedup.take_session(stream, &session, first_sequence);
            self.wal.append(&EntryDraft {
                stream,
                first_sequence,
                timestamp_unix_micros,
                schema_version: submission.schema_version,
                pipeline_version: self.pipeline_version(stream),
                payloads,
                keys: &[],
                metadata: &submission.metadata,
                session: &session.encode(),
            })
        };
        self.wait_for(lsn, submission.reply, committed)
    }

    /// What was committed is told when the frame at `lsn` is synced.
    fn wait_for(&mut self, lsn: Lsn, reply: OutcomeTo, committed: Committed) -> Submitted {
        if lsn <= self.wal.synced_lsn() {
            return Submitted::Done(reply, Outcome::Committed(committed));
        }
        self.waiting.push_back((lsn, reply, committed));
        Submitted::Waiting
    }

    /// Why `submission` cannot be admitted now.
    fn refusal(&self, submission: &Submission) -> Option<Refusal> {
        if self.wal.is_poisoned() {
            return Some(Refusal::Poisoned);
        }
        if self.draining {
            return Some(Refusal::Draining);
        }
        // It may have been paused while its records were on their way here from another shard.
        let stream = self.catalog.stream(submission.stream).filter(|stream| stream.home == self.id);
        let is_dead_letters = stream.is_some_and(|stream| stream.is_dead_letters());
        match stream.map(|stream| stream.state) {
            Some(StreamState::Active) => {}
            // No client is meant.
            Some(StreamState::Paused) if is_dead_letters => {}
            Some(StreamState::Paused) => return Some(Refusal::Paused),
            Some(StreamState::Deleting) | None => return Some(Refusal::NotHere),
        }
        // A flush waits for its dead letters: if they waited for room in the log, which the flush is to make, neither would end.
        let percent = |usage| if is_dead_letters { 0 } else { percent(usage) };
        let usage = self.wal.usage();
        if self.disk_full || percent(usage) >= QUOTA_FULL_PERCENT {
            return Some(Refusal::LogFull(RETRY_AFTER * 10));
        }
        let mut behind = self.wal.unsynced_bytes() >= UNSYNCED_BYTES_MAX || self.parked_bytes >= PARKED_BYTES_MAX;
        behind |= !self.wal.has_room(|| submission.entry_bytes_max());
        if has_keys(submission) {
            match self.dedup.refusal() {
                Some(KeysRefused::Full) => return Some(Refusal::KeysFull(KEYS_RETRY_AFTER)),
                refused => behind |= refused.is_some(),
            }
        }
        (behind || percent(usage) >= QUOTA_BACKPRESSURE_PERCENT).then_some(Refusal::Backpressure(RETRY_AFTER))
    }

    /// Sorts a submission's records into duplicates (told in `committed`) and fresh ones (left in `self.fresh_*`).
    fn drop_duplicates(&mut self, submission: &Submission, looked: &Looked, committed: &mut Committed) {
        for (index, (payload, key)) in submission.payloads.iter().zip(&submission.keys).enumerate() {
            let sequence = committed.first_sequence + self.fresh_payloads.len() as i64;
            let seen = Seen { sequence, timestamp_unix_micros: committed.timestamp_unix_micros };
            let first = match looked.known[index] {
                _ if key.is_empty() => None,
                None => self.dedup.get_or_insert(looked.keys[index], seen),
                known => known,
            };
            match first {
                Some(first) => committed.duplicates.push((index as u32, first)),
                None => {
                    self.fresh_payloads.push(payload.clone());
                    self.fresh_keys.push(key.clone());
                }
            }
        }
    }

    /// How long to put the next commit off, so that the flusher has the core meanwhile: producers then wait for an ack a little
    /// longer, each time, rather than being refused when the log is full. Zero while the log has room, or nothing waits.
    #[must_use]
    pub fn commit_pause(&self) -> Duration {
        const RANGE: u64 = QUOTA_BACKPRESSURE_PERCENT - QUOTA_PACE_PERCENT;
        let past = percent(self.wal.usage()).saturating_sub(QUOTA_PACE_PERCENT).min(RANGE);
        if past == 0 || self.draining || self.wal.unsynced_bytes() == 0 {
            return Duration::ZERO;
        }
        PACE_MAX * past as u32 / RANGE as u32
    }

    /// The next durable write, or `None`. See [`Wal::next_write`].
    pub fn next_write(&mut self) -> Option<WriteOp> {
        let write = self.wal.next_write()?;
        self.writing_bytes = write.data.len();
        Some(write)
    }

    /// Tells how a write ended; `tell` gets each outcome that now stands.
    ///
    /// # Errors
    /// The write failed: everything that waited was told [`Outcome::Unknown`], and the shard takes no more.
    pub fn written(
        &mut self,
        lsn: Lsn,
        result: io::Result<()>,
        mut tell: impl FnMut(OutcomeTo, Outcome),
    ) -> Result<u64, WalPoisoned> {
        let frame = match self.wal.written(lsn, result) {
            Ok(frame) => frame,
            Err(poisoned) => {
                self.waiting.drain(..).for_each(|(_, reply, _)| tell(reply, Outcome::Unknown));
                self.dedup.stop();
                return Err(poisoned);
            }
        };
        let now = self.clock.monotonic_micros();
        let entries: usize = frame.batches.iter().map(|batch| batch.header().entry_bytes as usize).sum();
        // The frame's header and padding stay in memory as long as its first batch does.
        let mut overhead = self.writing_bytes.saturating_sub(entries);
        let mut records = 0;
        for batch in frame.batches {
            records += u64::from(batch.header().count);
            if batch.header().key_bytes > 0 || batch.header().session_bytes > 0 {
                self.dedup.hold(batch.segment(), frame.lsn);
            }
            if batch.header().count == 0 {
                continue;
            }
            let memory_bytes = batch.header().entry_bytes as usize + std::mem::take(&mut overhead);
            if self.catalog.stream(batch.header().stream).is_some() {
                self.followers.note(&batch);
                self.buffer.insert(batch, memory_bytes, now);
            }
        }
        while self.waiting.front().is_some_and(|(waits_for, ..)| *waits_for <= frame.lsn) {
            if let Some((_, reply, committed)) = self.waiting.pop_front() {
                tell(reply, Outcome::Committed(committed));
            }
        }
        Ok(records)
    }

    /// A segment to prepare; see [`Wal::wants_segment`].
    pub fn wants_segment(&mut self) -> Option<SegmentRequest> {
        self.wal.wants_segment()
    }

    /// Takes a prepared segment, or learns that there is none (a full disk).
    pub fn segment_prepared(&mut self, prepared: io::Result<PreparedSegment>) {
        self.disk_full = prepared.is_err();
        match prepared {
            Ok(segment) => self.wal.offer_segment(segment),
            Err(_) => self.wal.segment_failed(),
        }
    }

    /// Segments to be archived; see [`Wal::take_sealed`].
    pub fn take_sealed(&mut self) -> Vec<Arc<Segment>> {
        self.wal.take_sealed()
    }

    /// Segments that nothing needs any more.
    pub fn release(&mut self) -> Vec<ReleasedSegment> {
        self.wal.release()
    }

    /// Freezes what is due, and returns the rows to flush next, if any.
    pub fn next_flush(&mut self) -> Option<Frozen> {
        let now = self.clock.monotonic_micros();
        self.buffer.freeze_aged(now);
        if percent(self.wal.usage()) >= QUOTA_HURRY_PERCENT {
            self.buffer.freeze_oldest();
        }
        self.buffer.next_flush(now)
    }

    /// See [`Buffer::freeze`].
    pub fn freeze(&mut self, stream: StreamId) {
        self.buffer.freeze(stream);
    }

    /// See [`Buffer::flushed`].
    pub fn flushed(&mut self, stream: StreamId, through: i64) {
        self.buffer.flushed(stream, through);
    }

    /// See [`Buffer::flush_failed`].
    pub fn flush_failed(&mut self, stream: StreamId) {
        let retry_at = self.clock.monotonic_micros() + FLUSH_RETRY_MICROS;
        self.buffer.flush_failed(stream, retry_at);
    }

    /// See [`Buffer::snapshot`]; with the pipelines that its rows are read by.
    #[must_use]
    pub fn snapshot(&self, stream: StreamId) -> BufferSnapshot {
        let snapshot = self.buffer.snapshot(stream);
        let next_sequence = self.sequencers.get(&stream).map_or(snapshot.next_sequence, |sequencer| sequencer.next);
        let pipelines = self.catalog.stream(stream).map(|stream| Arc::clone(&stream.pipelines)).unwrap_or_default();
        BufferSnapshot { next_sequence, pipelines, ..snapshot }
    }

    /// Dead letters that were taken since the start.
    #[must_use]
    pub fn dead_letters(&self) -> u64 {
        self.dead_letters
    }

    /// See [`Buffer::figures`].
    #[must_use]
    pub fn figures(&self, stream: StreamId) -> StreamFigures {
        self.buffer.figures(stream, self.clock.monotonic_micros())
    }

    /// The row buffer, for its figures.
    #[must_use]
    pub fn buffer(&self) -> &Buffer {
        &self.buffer
    }

    /// The shards whose readers follow this one's streams.
    pub fn followers(&mut self) -> &mut Followers {
        &mut self.followers
    }

    /// See [`Followers::look_after_subscribers`].
    pub fn look_after_subscribers(&mut self) {
        let buffer = &self.buffer;
        self.followers.look_after_subscribers(|stream| buffer.last_sequence(stream));
    }

    /// How full the log is.
    #[must_use]
    pub fn wal_usage(&self) -> WalUsage {
        self.wal.usage()
    }

    /// Lets time pass for the idempotency keys, and returns work on their files, if there is some: to be asked again until
    /// there is none. What comes of it goes to [`Shard::key_job_done`].
    pub fn next_key_job(&mut self) -> Option<KeyJob> {
        self.dedup.tend(self.clock.monotonic_micros(), self.wal.last_lsn(), self.wal.current_segment());
        if self.wal.is_poisoned() { None } else { self.dedup.next_job(self.wal.synced_lsn()) }
    }

    /// See [`Dedup::done`].
    pub fn key_job_done(&mut self, done: KeyDone) {
        self.dedup.done(done);
    }

    /// Figures of the idempotency keys.
    #[must_use]
    pub fn key_figures(&self) -> KeyFigures {
        self.dedup.figures()
    }

    /// From now on every submission is refused.
    pub fn drain(&mut self) {
        self.draining = true;
        self.dedup.stop();
    }

    /// Whether everything that was admitted is synced and told.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.waiting.is_empty() && self.parked.is_empty() && self.wal.unsynced_bytes() == 0
    }
}

fn refused(submission: Submission, why: Refusal) -> Submitted {
    Submitted::Done(submission.reply, Outcome::Refused(why))
}

/// How many of the records `range` of a request are `taken`, how many after them are not, and so on in turns.
fn runs(range: std::ops::Range<u32>, taken: &[u32]) -> Vec<u32> {
    let mut runs = vec![0];
    let mut next = taken.iter().copied().peekable();
    for index in range {
        let is_taken = next.next_if_eq(&index).is_some();
        if is_taken != (runs.len() % 2 == 1) {
            runs.push(0);
        }
        *runs.last_mut().expect("it is not empty") += 1;
    }
    runs
}

fn has_keys(submission: &Submission) -> bool {
    submission.keys.iter().any(|key| !key.is_empty())
}

fn percent(usage: WalUsage) -> u64 {
    usage.used_bytes * 100 / usage.quota_bytes.max(1)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        access::Access,
        config::{BufferConfig, DedupConfig, IoChoice, Limits, WalConfig},
        dedup::fingerprint::Seeds,
        ids::SchemaId,
        io::sim::{SimClock, SimDisk},
        message::ReplyTo,
        schema::CompiledSchema,
        snapshot::StreamEntry,
        wal::recovery::Recovered,
    };

    const ID: ShardId = ShardId(0);

    fn shard(wal: WalConfig) -> Shard {
        let config = EngineConfig {
            grpc_address: "127.0.0.1:0".parse().expect("an address"),
            shard_cores: vec![None],
            helper_cores: Vec::new(),
            io: IoChoice::Auto,
            wal_dir: "wal".into(),
            staging_dir: "staging".into(),
            limits: Limits::default(),
            wal,
            buffer: BufferConfig::default(),
            dedup: DedupConfig::default(),
            tail_memory_bytes: 1 << 20,
        };
        let log = Wal::new(ID, wal, Recovered::empty(ID).end);
        let disk = SimDisk::new(1);
        let keys = OpenKeys::open(&disk, Path::new("keys"), Seeds::from_bytes([1; 16])).expect("a folder");
        let clock = Arc::new(SimClock::new(1));
        Shard::new(ID, &config, log, (Vec::new(), &HashMap::new()), (&disk, &keys, &|_| true), clock).expect("a shard")
    }

    fn catalog(version: u64, stream: StreamId, state: Option<StreamState>) -> Arc<CatalogSnapshot> {
        let schema = Arc::new(CompiledSchema::compile(SchemaId::generate(), 1, "{}").expect("a schema"));
        let entry = |state| StreamEntry {
            id: stream,
            name: "s".into(),
            state,
            schema: Arc::clone(&schema),
            key_fields: Arc::default(),
            pipelines: Arc::default(),
            dead_letters: None,
            home: ID,
        };
        Arc::new(CatalogSnapshot::new(version, Access::Open, state.into_iter().map(entry).collect()))
    }

    fn submission(stream: StreamId) -> Submission {
        Submission {
            stream,
            schema_version: 1,
            payloads: vec![bytes::Bytes::from_static(b"{}")],
            keys: Vec::new(),
            metadata: bytes::Bytes::new(),
            writer: None,
            marks: None,
            reply: OutcomeTo::Call(ReplyTo { shard: ShardId(1), token: 0 }),
        }
    }

    #[test]
    fn records_that_come_from_another_shard_after_a_pause_are_refused() {
        let (mut shard, stream) = (shard(WalConfig::default()), StreamId::generate());
        let mut submit = |version, state: Option<StreamState>| {
            shard.set_catalog(catalog(version, stream, state));
            match shard.submit(submission(stream)) {
                Submitted::Done(_, Outcome::Refused(refusal)) => Some(refusal),
                _ => None,
            }
        };
        assert_eq!(submit(1, Some(StreamState::Active)), None);
        assert_eq!(submit(2, Some(StreamState::Paused)), Some(Refusal::Paused));
        assert_eq!(submit(3, Some(StreamState::Active)), None);
        assert_eq!(submit(4, Some(StreamState::Deleting)), Some(Refusal::NotHere));
        assert_eq!(submit(5, None), Some(Refusal::NotHere));
    }

    #[test]
    fn commits_make_pauses_once_the_log_is_more_than_half_full_and_something_waits() {
        // The log is one segment, which is so many percent of its quota.
        let wal = |percent: u64| WalConfig {
            segment_bytes: 64 << 10,
            quota_bytes: (64 << 10) * 100 / percent,
            frame_bytes: 16 << 10,
            ..WalConfig::default()
        };
        let pause = |percent, submits: bool| {
            let (mut shard, stream, disk) = (shard(wal(percent)), StreamId::generate(), SimDisk::new(1));
            shard.set_catalog(catalog(1, stream, Some(StreamState::Active)));
            let wanted = shard.wants_segment().expect("a log begins with a segment");
            shard.segment_prepared(crate::wal::segment::prepare(&disk, Path::new("wal"), wanted));
            shard.submit(submission(stream));
            // Its segment is in use now.
            let write = shard.next_write().expect("a record waits");
            shard.written(write.lsn, Ok(()), |_, _| ()).expect("it was written");
            if submits {
                shard.submit(submission(stream));
            }
            shard.commit_pause()
        };
        assert_eq!(pause(50, true), Duration::ZERO);
        assert_eq!(pause(60, false), Duration::ZERO);
        let pauses = [60, 70, 80].map(|percent| pause(percent, true));
        assert!(pauses.is_sorted() && pauses[0] > Duration::ZERO && pauses[2] < PACE_MAX, "{pauses:?}");
        assert_eq!(pause(100, true), Duration::ZERO, "it was refused, so nothing waits");
    }
}
