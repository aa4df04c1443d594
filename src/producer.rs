//! Records that do not come over gRPC: the control plane and its workers submit them here. They go the way of all others, by the
//! same checks, idempotency keys and log, and are answered as `Append` answers.
//!
//! Records are checked on the thread that has them ([`Checked::of`]), sent to their stream's home ([`Producer::send`]), and what
//! became of them is waited for ([`Sent`]). What is refused for now comes back with a time to try again: whether to wait for it
//! ([`pause`]) or to tell a client is the caller's choice.

use std::{
    cell::RefCell,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::oneshot,
    time::{self, Instant},
};
use ttdust_proto::ingestion::{AppendResponse, OnInvalid};
use ttdust_shards::{
    config::Limits,
    ids::{ShardId, StreamId},
    message::{Committed, Outcome, OutcomeTo, QUEUE_RETRY, Refusal, Submission, ToShard, WriterRows},
    rows::{Checker, KnownBy, Letters, Rows, takes_records},
    snapshot::StreamEntry,
    status::{Code, Status},
    validate::Validator,
};

use crate::{
    link::ShardLink,
    metrics::ControlMetrics,
    publish::Publisher,
    traces::{self, Open},
    workers::{WorkerError, Workers},
};

/// Requests of at most so many bytes are checked where they come in: a worker would take longer to be woken.
const INLINE_BYTES_MAX: usize = 64 << 10;
/// Between looks at whether the shard that owes an outcome is still there.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// The shortest and the longest wait before another try.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(2));

thread_local! {
    /// That of the thread, for it reuses its buffers from record to record.
    static VALIDATOR: RefCell<Validator> = RefCell::default();
}

/// Where records come from, for the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // Each says it.
pub enum Source {
    Http,
    Import,
    DeadLetters,
}

impl Source {
    /// Every source.
    pub const ALL: [Self; 3] = [Self::Http, Self::Import, Self::DeadLetters];

    /// Its name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Import => "import",
            Self::DeadLetters => "dead_letters",
        }
    }
}

/// Records of one stream, as they came.
#[derive(Debug, Clone, Default)]
pub struct Records {
    /// One JSON text each.
    pub payloads: Vec<Bytes>,
    /// Their idempotency keys: none, or one a payload (empty: no key).
    pub keys: Vec<Bytes>,
    /// Encoded metadata that all of them share; see [`ttdust_shards::rows::metadata`].
    pub metadata: Bytes,
    /// What becomes of the good ones when there are bad ones.
    pub on_invalid: OnInvalid,
    /// Their numbers, if they are of a writer: then they have no keys.
    pub numbers: Option<Numbers>,
}

/// Which of a writer's numbers records have.
#[derive(Debug, Clone)]
pub struct Numbers {
    /// The writer.
    pub writer: Bytes,
    /// Its epoch.
    pub epoch: u64,
    /// The number of the first.
    pub first: u64,
}

/// A submission that is ready to be sent, and where its outcome comes in.
#[derive(Debug)]
struct Parcel {
    home: ShardId,
    submission: Submission,
    waiter: oneshot::Receiver<Outcome>,
}

impl Parcel {
    fn new(
        to: &StreamEntry,
        payloads: Vec<Bytes>,
        keys: Vec<Bytes>,
        metadata: Bytes,
        writer: Option<Box<WriterRows>>,
    ) -> Self {
        let (tell, waiter) = oneshot::channel();
        let submission = Submission {
            stream: to.id,
            schema_version: to.schema.version,
            payloads,
            keys,
            metadata,
            writer,
            marks: None,
            reply: OutcomeTo::Waiter(tell),
        };
        Self { home: to.home, submission, waiter }
    }
}

/// Records that were checked, the bad ones sorted out.
#[derive(Debug)]
pub struct Checked {
    rows: Rows,
    /// `None`: there is nothing to submit.
    good: Option<Parcel>,
    /// Of the bad ones, if they are to be dead letters.
    letters: Vec<Parcel>,
}

impl Checked {
    /// Checks records, on the calling thread. Bad ones become dead letters of the stream `letters`, if the records ask for it.
    ///
    /// # Panics
    /// They do, and there is no such stream.
    #[must_use]
    pub fn of(stream: &StreamEntry, letters: Option<&StreamEntry>, limits: &Limits, records: Records) -> Self {
        let Records { mut payloads, mut keys, metadata, on_invalid, numbers } = records;
        assert!(on_invalid != OnInvalid::Dlq || letters.is_some(), "dead letters need a stream");
        let mut rows = Rows::new(stream, payloads.len(), numbers.is_some());
        // Of what is not taken, the keys are wanted too.
        let sent_keys = if on_invalid == OnInvalid::Dlq { keys.clone() } else { Vec::new() };
        VALIDATOR.with_borrow_mut(|validator| {
            let mut checker = Checker { validator, schema: &stream.schema, record_bytes: limits.record_bytes };
            rows.sort_out(on_invalid, &mut payloads, &mut keys, &mut checker);
        });
        let known_by = match &numbers {
            Some(numbers) => KnownBy::Numbers(&numbers.writer, numbers.first),
            None => KnownBy::Keys(&sent_keys),
        };
        let parcel = |to, Letters { payloads, keys }| Parcel::new(to, payloads, keys, Bytes::new(), None);
        let letters = letters.map_or_else(Vec::new, |to| {
            rows.letters(stream, known_by, &metadata).into_iter().map(|letters| parcel(to, letters)).collect()
        });
        let is_empty = payloads.is_empty() && numbers.is_none();
        let writer = numbers.map(|numbers| {
            Box::new(WriterRows {
                id: numbers.writer,
                epoch: numbers.epoch,
                first: numbers.first,
                sent: rows.records(),
                taken: rows.taken(),
            })
        });
        let is_sent = !is_empty && !rows.are_refused(on_invalid);
        let good = is_sent.then(|| Parcel::new(stream, payloads, keys, metadata, writer));
        Self { rows, good, letters }
    }
}

/// A submission that was sent.
#[derive(Debug)]
struct Posted {
    home: ShardId,
    posted: std::time::Instant,
    /// There already: it did not get there.
    known: Option<Outcome>,
    waiter: oneshot::Receiver<Outcome>,
}

/// Records on their way.
#[derive(Debug)]
pub struct Sent {
    rows: Rows,
    /// `None`: there was nothing to submit.
    good: Option<Posted>,
    /// They follow once the good records are taken.
    letters: Vec<Parcel>,
}

impl Sent {
    /// What became of them, for threads that may block.
    ///
    /// # Errors
    /// Nothing was admitted, or nobody knows: the status says which. See [`pause`].
    ///
    /// # Panics
    /// Dead letters are to follow: for these there is [`Producer::answer`].
    pub fn wait(self) -> Result<AppendResponse, Status> {
        assert!(self.letters.is_empty(), "nobody sends dead letters here");
        let outcome = match self.good {
            None => Outcome::Committed(Committed::nothing()),
            Some(Posted { known: Some(known), .. }) => known,
            Some(Posted { waiter, .. }) => waiter.blocking_recv().unwrap_or(Outcome::Unknown),
        };
        answer(self.rows, outcome, Vec::new())
    }
}

/// What is told of records and of the dead letters among them. An error that says that nothing was admitted is true of both;
/// where something was, and a letter was refused, the answer has the error in it.
fn answer(mut rows: Rows, good: Outcome, letters: Vec<Outcome>) -> Result<AppendResponse, Status> {
    if let Outcome::Refused(refusal) = good {
        return Err(Status::refused(refusal));
    }
    let refused = letters.iter().find_map(|outcome| match outcome {
        Outcome::Refused(refusal) => Some(*refusal),
        Outcome::Committed(_) | Outcome::Unknown => None,
    });
    match refused {
        Some(refusal) if !letters.iter().chain([&good]).any(Outcome::may_stand) => Err(Status::refused(refusal)),
        _ => rows.answer_with_letters(good, letters),
    }
}

/// Submits records.
#[derive(Debug)]
pub struct Producer {
    link: ShardLink,
    publisher: Arc<Publisher>,
    limits: Limits,
    checkers: Workers,
    metrics: Arc<ControlMetrics>,
    /// Records that clients sent over REST.
    of_clients: AtomicU64,
}

impl Producer {
    /// To the shards of `link`. What is too long to be checked where it comes in is checked on `checkers`.
    #[must_use]
    pub fn new(
        link: ShardLink,
        publisher: Arc<Publisher>,
        limits: Limits,
        checkers: Workers,
        metrics: Arc<ControlMetrics>,
    ) -> Self {
        Self { link, publisher, limits, checkers, metrics, of_clients: AtomicU64::new(0) }
    }

    /// Bounds on what clients send.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Threads for what takes long on the way of records.
    #[must_use]
    pub fn checkers(&self) -> &Workers {
        &self.checkers
    }

    /// How many records clients have sent, over gRPC and REST: whoever can wait gives way to them.
    #[must_use]
    pub fn sent_by_clients(&self) -> u64 {
        let grpc = self.link.shards().map(|shard| self.link.engine().metrics(shard).records_received.get());
        grpc.sum::<u64>() + self.of_clients.load(Relaxed)
    }

    /// The stream, as it is now.
    ///
    /// # Errors
    /// NOT_FOUND.
    pub fn stream(&self, id: StreamId) -> Result<Arc<StreamEntry>, Status> {
        self.publisher.current().stream(id).cloned().ok_or_else(|| Status::refused(Refusal::NotHere))
    }

    /// Sends checked records to their home. They are there in the order in which they were sent from here.
    #[must_use]
    pub fn send(&self, checked: Checked) -> Sent {
        let Checked { rows, good, letters } = checked;
        Sent { rows, good: good.map(|parcel| self.post(parcel)), letters }
    }

    fn post(&self, parcel: Parcel) -> Posted {
        let Parcel { home, mut submission, waiter } = parcel;
        submission.marks = traces::is_traced().then(Box::default);
        let posted = std::time::Instant::now();
        let known = if self.link.has_ended(home) {
            Some(Outcome::Refused(Refusal::Draining))
        } else {
            let sent = self.link.engine().send(home, ToShard::Submit(submission));
            sent.is_err().then_some(Outcome::Refused(Refusal::QueueFull(QUEUE_RETRY)))
        };
        Posted { home, posted, known, waiter }
    }

    /// What became of records that were sent.
    ///
    /// # Errors
    /// Nothing was admitted, or nobody knows: the status says which. See [`pause`].
    pub async fn answer(&self, sent: Sent) -> Result<AppendResponse, Status> {
        let Sent { rows, good, letters: unsent } = sent;
        let good = match good {
            Some(posted) => self.outcome(posted).await,
            None => Outcome::Committed(Committed::nothing()),
        };
        let mut letters = Vec::new();
        // What is sent again whole would make second ones, where it has no keys.
        if matches!(good, Outcome::Committed(_)) {
            let posted: Vec<Posted> = unsent.into_iter().map(|parcel| self.post(parcel)).collect();
            for posted in posted {
                letters.push(self.outcome(posted).await);
            }
        }
        answer(rows, good, letters)
    }

    async fn outcome(&self, posted: Posted) -> Outcome {
        let Posted { home, posted, known, mut waiter } = posted;
        if let Some(known) = known {
            return known;
        }
        loop {
            tokio::select! {
                outcome = &mut waiter => return told(posted, outcome.unwrap_or(Outcome::Unknown)),
                () = time::sleep(LOOK_PAUSE) => {}
            }
            // What lies in the queue of a shard that is gone is never looked at.
            if self.link.has_ended(home) {
                return waiter.try_recv().unwrap_or(Outcome::Unknown);
            }
        }
    }

    /// The stream of the dead letters of `stream`.
    fn letters_of(&self, stream: &StreamEntry) -> Result<Arc<StreamEntry>, Status> {
        let letters = stream.dead_letters.and_then(|id| self.publisher.current().stream(id).cloned());
        letters.ok_or_else(Status::dlq_missing)
    }

    /// Checks and submits records, and waits for what becomes of them.
    ///
    /// # Errors
    /// The stream takes no records, or has no dead letters and they ask for such; or see [`Producer::answer`].
    pub async fn append(
        &self,
        source: Source,
        stream: &Arc<StreamEntry>,
        records: Records,
    ) -> Result<AppendResponse, Status> {
        let started = Instant::now();
        takes_records(stream)?;
        let letters = (records.on_invalid == OnInvalid::Dlq).then(|| self.letters_of(stream)).transpose()?;
        if source == Source::Http {
            self.of_clients.fetch_add(records.payloads.len() as u64, Relaxed);
        }
        let count = records.payloads.len() as u32;
        let bytes: usize = records.payloads.iter().map(Bytes::len).sum();
        let checked = if bytes <= INLINE_BYTES_MAX {
            Checked::of(stream, letters.as_deref(), &self.limits, records)
        } else {
            let (stream, limits) = (Arc::clone(stream), self.limits);
            let check = move || Checked::of(&stream, letters.as_deref(), &limits, records);
            self.checkers.run(check).await.map_err(not_checked)?
        };
        let mut span = traces::child("append");
        span.note("ttdust.stream.id", stream.id);
        span.note("ttdust.home_shard", stream.home.0);
        span.note("ttdust.batch.records", count);
        span.note("ttdust.batch.bytes", bytes);
        let answering = async { self.answer(self.send(checked)).await };
        let answer = span.scope(answering).await;
        note_answer(&mut span, &answer);
        drop(span);
        self.count(source, count, &answer);
        self.metrics.produced_in(source.name(), started.elapsed());
        answer
    }

    /// Counts what became of so many records.
    pub fn count(&self, source: Source, records: u32, answer: &Result<AppendResponse, Status>) {
        let counts = match answer {
            Ok(answer) => vec![
                ("accepted", answer.accepted),
                ("duplicate", answer.duplicates),
                ("rejected", answer.rejected),
                ("dead_letter", answer.dead_lettered),
            ],
            Err(_) => vec![("refused", records)],
        };
        counts.into_iter().for_each(|(outcome, count)| self.metrics.produced(source.name(), outcome, count));
    }
}

fn note_answer(span: &mut Open, answer: &Result<AppendResponse, Status>) {
    match answer {
        Ok(answer) => {
            span.note("ttdust.records.accepted", answer.accepted);
            span.note("ttdust.records.duplicate", answer.duplicates);
            span.note("ttdust.records.rejected", answer.rejected);
            if answer.accepted > 0 {
                span.note("ttdust.sequence.first", answer.first_sequence);
                span.note("ttdust.sequence.last", answer.last_sequence);
            }
        }
        Err(status) => span.fail(&status.message),
    }
}

/// An outcome; where it is of something that is traced, its way is told of.
fn told(posted: std::time::Instant, outcome: Outcome) -> Outcome {
    if let Some(marks) = outcome.marks() {
        for (step, from, to) in marks.steps(posted) {
            drop(traces::child(step).at((from, to)));
        }
    }
    outcome
}

/// How long to wait before the same is sent again; `None`: that does not help.
#[must_use]
pub fn pause(status: &Status) -> Option<Duration> {
    // What else has a retry time does not pass while this server runs.
    let passes = status.code == Code::ResourceExhausted || status.reason == "LOG_FULL";
    status.retry_after.filter(|_| passes).map(|after| after.clamp(PATIENCE.0, PATIENCE.1))
}

/// Why records were not even checked.
fn not_checked(error: WorkerError) -> Status {
    match error {
        WorkerError::Overloaded => Status {
            retry_after: Some(QUEUE_RETRY),
            ..Status::new(
                Code::ResourceExhausted,
                "CHECKERS_BUSY",
                "too many requests wait to be checked: nothing was admitted",
            )
        },
        WorkerError::Panicked => Status::new(Code::Internal, "INTERNAL", error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_passes_by_itself_is_waited_for() {
        let after = |outcome| {
            pause(&answer(Rows::new(&stream(), 1, false), outcome, Vec::new()).expect_err("nothing was admitted"))
        };
        let second = Duration::from_secs(1);
        assert_eq!(after(Outcome::Refused(Refusal::Backpressure(second))), Some(second));
        assert_eq!(after(Outcome::Refused(Refusal::QueueFull(Duration::ZERO))), Some(PATIENCE.0));
        assert_eq!(after(Outcome::Refused(Refusal::LogFull(second * 60))), Some(PATIENCE.1));
        for refusal in [Refusal::Draining, Refusal::Poisoned, Refusal::Paused, Refusal::NotHere] {
            assert_eq!(after(Outcome::Refused(refusal)), None, "{refusal:?}");
        }
        assert_eq!(after(Outcome::Unknown), None);
        assert_eq!(pause(&not_checked(WorkerError::Overloaded)), Some(QUEUE_RETRY));
    }

    #[test]
    fn what_is_all_bad_is_not_sent_but_a_writers_numbers_are() {
        let stream = stream();
        let records = |numbers, on_invalid| Records {
            payloads: vec![Bytes::from_static(b"{}"), Bytes::from_static(b"[")],
            on_invalid,
            numbers,
            ..Records::default()
        };
        let of = |numbers, on_invalid| {
            let checked = Checked::of(&stream, None, &Limits::default(), records(numbers, on_invalid));
            checked.good.map(|parcel| parcel.submission)
        };
        assert!(of(None, OnInvalid::Atomic).is_none());
        assert_eq!(of(None, OnInvalid::Skip).expect("one is good").payloads, ["{}"]);
        let numbers = Numbers { writer: Bytes::from_static(b"w"), epoch: 1, first: 5 };
        assert!(of(Some(numbers.clone()), OnInvalid::Atomic).is_none(), "what is refused whole takes no numbers");
        let rows = of(Some(numbers), OnInvalid::Skip).expect("sent").writer.expect("a writer's");
        assert_eq!((rows.first, rows.sent, rows.taken.as_slice()), (5, 2, &[0][..]));
    }

    #[test]
    fn what_is_refused_goes_to_the_dead_letters_and_nothing_is_said_to_be_untouched_that_is_not() {
        let (stream, letters) = (stream(), stream());
        let payloads = vec![Bytes::from_static(b"{}"), Bytes::from_static(b"[")];
        let checked = || {
            let (payloads, keys) = (payloads.clone(), vec![Bytes::from_static(b"a"), Bytes::from_static(b"b")]);
            let records = Records { payloads, keys, on_invalid: OnInvalid::Dlq, ..Records::default() };
            Checked::of(&stream, Some(&letters), &Limits::default(), records)
        };
        let Checked { good, letters: dead, .. } = checked();
        let (good, dead) = (good.expect("one is good"), &dead[0].submission);
        assert_eq!((good.submission.stream, good.submission.keys), (stream.id, vec![Bytes::from_static(b"a")]));
        assert_eq!((dead.stream, dead.payloads.len()), (letters.id, 1));
        assert_eq!(dead.keys, [format!("key/{}/b", stream.id)]);
        let of = |good, letters| answer(checked().rows, good, vec![letters]);
        let taken = |accepted| Outcome::Committed(Committed { first_sequence: 1, accepted, ..Committed::nothing() });
        let answer = of(taken(1), taken(1)).expect("an answer");
        assert_eq!((answer.accepted, answer.dead_lettered, answer.rejected), (1, 1, 0));
        let full = || Outcome::Refused(Refusal::QueueFull(QUEUE_RETRY));
        let partly = of(taken(1), full()).expect("the good one is taken");
        assert_eq!((partly.accepted, partly.dead_lettered, partly.rejected), (1, 0, 1));
        assert_eq!(
            (partly.error.expect("why").code.as_str(), partly.retry_after_millis.is_some()),
            ("BACKPRESSURE", true)
        );
        let reason = |good, letters| of(good, letters).expect_err("not all of it").reason;
        assert_eq!(reason(taken(0), full()), "BACKPRESSURE", "nothing is");
        assert_eq!(reason(full(), taken(0)), "BACKPRESSURE");
        assert_eq!(reason(taken(1), Outcome::Unknown), "OUTCOME_UNKNOWN");
    }

    fn stream() -> StreamEntry {
        use ttdust_shards::{ids::SchemaId, schema::CompiledSchema, snapshot::StreamState};
        StreamEntry {
            id: StreamId::generate(),
            name: "s".into(),
            state: StreamState::Active,
            schema: Arc::new(CompiledSchema::compile(SchemaId::generate(), 1, "{}").expect("a schema")),
            key_fields: Arc::default(),
            pipelines: Arc::default(),
            dead_letters: None,
            home: ShardId(0),
        }
    }
}
