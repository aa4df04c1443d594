//! Everything that crosses a core, as closed enums. Each variant says what happens when the queue it goes through is full.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rustls::ServerConfig;
use tokio::sync::oneshot;
use ttdust_proto::{admin, ingestion};

use crate::{
    access::Principal,
    buffer::StreamFigures,
    dedup::{
        Seen,
        jobs::{KeyAnswer, KeyDone},
        writers::WriterRefused,
    },
    ids::{ShardId, StreamId},
    memory::MemoryShort,
    parquet::FileMeta,
    pipeline::rows::DeadLetter,
    query::{BufferSnapshot, Cancel, Query, QueryAnswer, QueryError},
    rate::{LeaseAsk, LeaseGrant, RateLimited},
    snapshot::CatalogSnapshot,
    tail::{
        LiveRows, Subscription,
        page::{Page, PageAsk},
    },
    trace::{Marks, SpanContext},
};

/// How long whoever found a shard's queue full waits.
pub const QUEUE_RETRY: Duration = Duration::from_millis(20);

/// Validated records of one stream on their way to its home shard.
#[derive(Debug)]
pub struct Submission {
    /// The stream.
    pub stream: StreamId,
    /// The schema version that they were checked with.
    pub schema_version: u32,
    /// The records; at least one, if there is no writer.
    pub payloads: Vec<Bytes>,
    /// Their idempotency keys: none, or one a record (empty: no key).
    pub keys: Vec<Bytes>,
    /// Encoded metadata that all of them share.
    pub metadata: Bytes,
    /// Whose they are, if they are of a writer that numbers them: then they have no keys.
    pub writer: Option<Box<WriterRows>>,
    /// Where the request is traced: when what happened to it.
    pub marks: Option<Box<Marks>>,
    /// Who waits for the outcome.
    pub reply: OutcomeTo,
}

impl Submission {
    /// Bytes of its records, keys and metadata.
    #[must_use]
    pub fn record_bytes(&self) -> usize {
        let bytes = |all: &[Bytes]| all.iter().map(Bytes::len).sum::<usize>();
        bytes(&self.payloads) + bytes(&self.keys) + self.metadata.len()
    }

    /// Bytes that its entry in the log has at most.
    #[must_use]
    pub fn entry_bytes_max(&self) -> usize {
        // A payload's end and its key's are four bytes each; a record may end two runs of a writer's numbers, of five each.
        let writer = self.writer.as_ref().map_or(0, |rows| rows.id.len());
        self.record_bytes() + 18 * (self.payloads.len() + 1) + writer + 1024
    }
}

/// Which of a writer's numbers a request takes.
#[derive(Debug)]
pub struct WriterRows {
    /// The writer.
    pub id: Bytes,
    /// Its epoch.
    pub epoch: u64,
    /// The number of the first record of the request.
    pub first: u64,
    /// How many records the request has, the rejected ones too.
    pub sent: u32,
    /// Index in the request of each record of the submission.
    pub taken: Vec<u32>,
}

/// A waiting call: which shard it runs on, and its token there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyTo {
    /// The shard that accepted the call.
    pub shard: ShardId,
    /// The call's slot on that shard.
    pub token: u64,
}

/// Who waits for what becomes of a [`Submission`].
#[derive(Debug)]
pub enum OutcomeTo {
    /// A call on a shard.
    Call(ReplyTo),
    /// Someone outside of the shards, who may be gone by then.
    Waiter(oneshot::Sender<Outcome>),
}

/// What became of a [`Submission`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// On stable storage.
    Committed(Committed),
    /// Never admitted: nothing of it was written.
    Refused(Refusal),
    /// A write or sync failed: it may or may not survive.
    Unknown,
}

impl Outcome {
    /// Whether records of the submission are in the log, or may be.
    #[must_use]
    pub fn may_stand(&self) -> bool {
        match self {
            Self::Committed(committed) => committed.accepted > 0,
            Self::Refused(_) => false,
            Self::Unknown => true,
        }
    }

    /// Notes the write that made it stand, where the request is traced.
    pub fn note_write(&mut self, began: Instant, synced: Instant) {
        if let Self::Committed(Committed { marks: Some(marks), .. }) = self {
            (marks.writing, marks.synced) = (Some(began), Some(synced));
        }
    }

    /// When what happened to a request that is traced.
    #[must_use]
    pub fn marks(&self) -> Option<&Marks> {
        match self {
            Self::Committed(committed) => committed.marks.as_deref(),
            Self::Refused(_) | Self::Unknown => None,
        }
    }
}

/// Records on stable storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The sequence number of the first accepted record; the others follow without gaps. 0 if all were duplicates.
    pub first_sequence: i64,
    /// How many were accepted.
    pub accepted: u32,
    /// When they were ingested, Unix µs.
    pub timestamp_unix_micros: i64,
    /// Index in the submission (of a writer: in the request) of each duplicate, in order, and what its original got. Of a
    /// writer's there is no time, and the number is 0 where it is not known any more.
    pub duplicates: Vec<(u32, Seen)>,
    /// Of a writer's request: index of each record that was rejected when its number was taken.
    pub rejected: Vec<u32>,
    /// See [`Submission::marks`].
    pub marks: Option<Box<Marks>>,
}

impl Committed {
    /// Of a group of requests none of which was good: nothing was submitted.
    #[must_use]
    pub fn nothing() -> Self {
        Self {
            first_sequence: 0,
            accepted: 0,
            timestamp_unix_micros: 0,
            duplicates: Vec::new(),
            rejected: Vec::new(),
            marks: None,
        }
    }
}

/// Why a submission was not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The row buffer or the log is over its mark: try again after this time.
    Backpressure(Duration),
    /// The log is all but full, or the disk is.
    LogFull(Duration),
    /// The queue to the home shard is full.
    QueueFull(Duration),
    /// The server is shutting down.
    Draining,
    /// An earlier write failed; the shard takes no more.
    Poisoned,
    /// As many idempotency keys as may be are remembered: without a key the records are taken.
    KeysFull(Duration),
    /// The writer's numbers do not fit.
    Writer(WriterRefused),
    /// The stream was paused while they were on their way.
    Paused,
    /// The stream is gone, or its home has moved: look it up again.
    NotHere,
}

/// To a shard.
#[derive(Debug)]
pub enum ToShard {
    /// Records from another shard's connection or from control. Queue full, by their number or their bytes: refused with a retry time.
    Submit(Submission),
    /// The outcome of a submission, back to the shard that accepted it. Never refused: bounded by what is in flight.
    Outcome(u64, Outcome),
    /// A new catalog; answered when the shard runs on it. Control retries while the queue is full.
    Catalog(Arc<CatalogSnapshot>, oneshot::Sender<()>),
    /// New certificates for connections that come from now on. Control retries while the queue is full.
    Tls(Arc<ServerConfig>),
    /// Rows of a stream that are in no committed file. Queue full: the query fails as overloaded.
    Snapshot(StreamId, oneshot::Sender<BufferSnapshot>),
    /// How a stream stands. Queue full: nobody can tell.
    Figures(StreamId, oneshot::Sender<StreamFigures>),
    /// Files up to this sequence number are committed: let go of the rows. Control retries while the queue is full.
    Flushed(StreamId, i64),
    /// Writing or committing a file failed: try the rows again after a pause. Control retries while the queue is full.
    FlushFailed(StreamId),
    /// Freeze and flush the rows of a stream that are there now; answered, with the last of them (0: there was none), when every
    /// file of them is committed. Control retries while the queue is full.
    Flush(StreamId, oneshot::Sender<i64>),
    /// The answer to a call's query. Never refused: bounded by the calls.
    Answer(u64, Result<QueryAnswer, QueryFailure>),
    /// The answer to an admin call. Never refused: bounded by the calls.
    Admin(u64, Box<Result<AdminReply, AdminFailure>>),
    /// The shard has readers of the stream from now on, or one more. A question with a number of the shard's, answered with
    /// [`ToShard::Following`]. Queue full: it asks again.
    Follow(StreamId, ShardId, u64),
    /// It has none any more. Queue full: it says so again.
    Unfollow(StreamId, ShardId),
    /// Readers that are on no shard get the rows of the stream from now on. Queue full: the reader cannot begin.
    Subscribe(StreamId, Subscription),
    /// Rows of the stream up to this one are there, and every row past it is sent. Never refused: one answer a question.
    Following(StreamId, i64, u64),
    /// Rows for readers. Queue full: left out, and the readers catch up from pages once they are told, with what comes next.
    Live(LiveRows),
    /// Whether a reader may begin. Never refused: bounded by the calls.
    TailOpened(u64, Result<(), QueryFailure>),
    /// A page for a reader. Never refused: bounded by the calls.
    TailPage(u64, Result<Page, QueryFailure>),
    /// The answer to a batch of asks. Never refused: one batch is under way at a time.
    Leases(Vec<LeaseGrant>),
    /// A prepared log segment, or why there is none. Never refused: one is on order at a time.
    Segment(std::io::Result<crate::wal::segment::PreparedSegment>),
    /// What files of keys say. Never refused: a submission of each stream asks at a time.
    Keys(KeyAnswer),
    /// What came of work on files of keys. Never refused: two are under way at a time, and removals.
    KeysDone(KeyDone),
    /// Stop taking records and connections, finish what is in flight, sync, stop. Control retries while the queue is full.
    Drain,
}

/// To control. The queue is bounded by what each sender has in flight: one file and one batch of asks a shard, one query or
/// page a call.
#[derive(Debug)]
pub enum ToControl {
    /// A flush is written: put each file into the object store, see to the dead letters, commit all in the catalog, then send
    /// [`ToShard::Flushed`]`(stream, through)` to `shard`.
    FilesReady {
        /// The shard.
        shard: ShardId,
        /// The stream.
        stream: StreamId,
        /// The files, one an hour, oldest first.
        files: Vec<FileMeta>,
        /// The last sequence number that they hold.
        through: i64,
        /// Records that are in none of them: to be put into the stream's dead letters before the files are committed.
        dead: Vec<DeadLetter>,
        /// When the flusher began with them, and when it was done.
        written: (Instant, Instant),
    },
    /// Answer with [`ToShard::Answer`].
    Query {
        /// Who asks, for its limits.
        client: Arc<str>,
        /// For what.
        query: Query,
        /// Tells that the caller waits no more.
        cancel: Cancel,
        /// The span that it is done under, where the call is traced.
        trace: Option<SpanContext>,
        /// Where the answer goes.
        reply: ReplyTo,
    },
    /// A client wants to begin to read: answer with [`ToShard::TailOpened`] whether its limits let it.
    OpenTail {
        /// Who asks, for its limits.
        client: Arc<str>,
        /// The span that it is done under, where the call is traced.
        trace: Option<SpanContext>,
        /// Where the answer goes.
        reply: ReplyTo,
    },
    /// Answer with [`ToShard::TailPage`].
    TailPage {
        /// Which page.
        ask: PageAsk,
        /// Where it goes.
        reply: ReplyTo,
    },
    /// Answer with [`ToShard::Leases`].
    Leases(ShardId, Vec<LeaseAsk>),
    /// Answer with [`ToShard::Admin`]. The caller is known; what it may do is for control to say.
    Admin {
        /// Who asks.
        caller: Principal,
        /// For what.
        request: AdminRequest,
        /// The span that it is done under, where the call is traced.
        trace: Option<SpanContext>,
        /// Where the answer goes.
        reply: ReplyTo,
    },
    /// Archive this segment, which takes no more frames: the log keeps it for as long as someone holds it. Full: it is told of
    /// later.
    Sealed(Arc<crate::wal::segment::Segment>),
    /// A shard ended: `Ok` after a drain, or why it cannot go on. After an error the process must exit non-zero.
    ShardEnded(ShardId, Result<(), String>),
}

/// An admin call, as it came over the wire.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // Each variant is the method of its name, with its request's fields.
pub enum AdminRequest {
    Create(admin::StreamConfig),
    Update(admin::StreamConfig),
    Get(String),
    Delete { stream: String, force: bool },
    List { limit: Option<i32>, cursor: Option<String> },
    IngestBatch(ingestion::IngestBatchRequest),
    GetBatchJob(String),
}

/// The answer to an [`AdminRequest`].
#[derive(Debug, Clone, PartialEq)]
pub enum AdminReply {
    /// The stream as it is now.
    Stream(admin::StreamConfig),
    /// It is deleted.
    Deleted,
    /// A part of the list, and the cursor of the next.
    Streams(Vec<admin::StreamConfig>, Option<String>),
    /// A job as it is now.
    Job(ingestion::BatchJobResponse),
}

/// Why an admin call was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminFailure {
    /// What kind of reason.
    pub kind: FailureKind,
    /// For programs: the same as in REST.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// Fields at fault: JSON Pointer and message.
    pub fields: Vec<(String, String)>,
}

/// Kinds of [`AdminFailure`], each with one code in gRPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // As in gRPC.
pub enum FailureKind {
    NotFound,
    AlreadyExists,
    Invalid,
    Conflict,
    Forbidden,
    NotAvailable,
    Overloaded,
    RateLimited(RateLimited),
    Unavailable,
    Internal,
}

/// What a client whose query took too long is told.
pub const QUERY_TIMEOUT_HINT: &str = "the query did not end within query.timeout_ms: ask for less at once, a shorter time \
                                      range or a smaller limit; a key in a field that was declared after the files were \
                                      written is looked for in all of their records";

/// A query that failed, in a form that crosses threads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QueryFailure {
    /// Too many queries; try again.
    Overloaded,
    /// The client is over its limit.
    RateLimited(RateLimited),
    /// The stream is being deleted.
    Deleting,
    /// It took longer than a query may.
    TimedOut,
    /// Nobody waits for it any more.
    Cancelled,
    /// The catalog cannot be reached now, and what is needed of it is not known here; try again.
    Unavailable(String),
    /// The store of the files cannot be reached now; try again.
    StoreAway(String),
    /// There is no memory for it.
    Memory(MemoryShort),
    /// It is by times of events, and nothing tells these of the stream's records; what to do.
    NoEventTime(String),
    /// Files or log could not be read.
    Internal(String),
}

impl From<QueryError> for QueryFailure {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::TimedOut => Self::TimedOut,
            QueryError::Cancelled => Self::Cancelled,
            QueryError::Memory(short) => Self::Memory(short),
            QueryError::NoEventTime => Self::NoEventTime(error.to_string()),
            error if error.is_of_a_store_that_is_away() => Self::StoreAway(error.to_string()),
            QueryError::File(_) | QueryError::Log(_) | QueryError::Pipeline(_) => Self::Internal(error.to_string()),
        }
    }
}
