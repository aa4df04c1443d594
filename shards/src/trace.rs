//! Traces of requests, in the terms of OpenTelemetry: a trace is a tree of spans, and a span is what was done from one moment to
//! another. Who is traced is decided once, where a request comes in ([`sampling`]); where it comes with a decision of its own
//! ([`w3c`]), by that.
//!
//! A request that is not traced costs a look at a flag, and a number drawn and compared where a part of all requests is traced.
//! One that is traced costs its spans, which go through a bounded queue to the control plane; what finds that full is dropped
//! and counted.

pub mod sampling;
pub mod w3c;

use std::{
    borrow::Cow,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use tokio::sync::mpsc;

use crate::ids::StreamId;
use sampling::{Sampler, Sampling};
use w3c::Incoming;

/// How often a clock is read to find how far it is from another: the pair between which least time went by counts.
const CLOCK_TRIES: usize = 5;

/// A trace, over all programs that take part in it. Never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceId(pub u128);

impl TraceId {
    /// A new one; a request's id is made so too, so that the two can be one.
    #[must_use]
    pub fn generate() -> Self {
        Self(uuid::Uuid::now_v7().as_u128())
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A span of a trace. Never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanId(pub u64);

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A span for those that begin under it. There is one only where something is traced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpanContext {
    /// Its trace.
    pub trace: TraceId,
    /// Itself.
    pub span: SpanId,
    /// What other tracing systems want to be handed on: `tracestate`.
    pub state: Option<Arc<str>>,
}

/// Whom a span is between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanKind {
    /// Inside of this program.
    Internal,
    /// Someone asked this program.
    Server,
    /// This program asked another.
    Client,
}

/// What an attribute says.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // Each variant is what its name says.
pub enum Value {
    Text(Cow<'static, str>),
    Number(i64),
    Flag(bool),
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(Cow::Owned(text))
    }
}

impl From<&String> for Value {
    fn from(text: &String) -> Self {
        text.clone().into()
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

impl From<u16> for Value {
    fn from(number: u16) -> Self {
        Self::Number(number.into())
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<StreamId> for Value {
    fn from(stream: StreamId) -> Self {
        stream.to_string().into()
    }
}

/// What is told of a span.
pub type Attributes = Vec<(&'static str, Value)>;

/// A span that has ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// Its trace.
    pub trace: TraceId,
    /// Itself.
    pub id: SpanId,
    /// The span that it is under; `None`: the trace begins with it.
    pub parent: Option<SpanId>,
    /// Whether that is of another program.
    pub parent_is_remote: bool,
    /// See [`SpanContext::state`].
    pub state: Option<Arc<str>>,
    /// What was done.
    pub name: Cow<'static, str>,
    /// Whom it is between.
    pub kind: SpanKind,
    /// When it began, Unix ns.
    pub start: u64,
    /// When it ended, Unix ns; no earlier.
    pub end: u64,
    /// What is told of it.
    pub attributes: Attributes,
    /// Why it failed, for people; `None`: it did not.
    pub failure: Option<Cow<'static, str>>,
}

/// Moments as Unix time. All spans of the process go by one of these, so that they stand in order to each other.
#[derive(Debug)]
pub struct Times {
    base: Instant,
    /// Unix ns at `base`.
    base_unix: AtomicU64,
}

impl Times {
    /// By the system's clock as it is now.
    #[must_use]
    pub fn new() -> Self {
        let times = Self { base: Instant::now(), base_unix: AtomicU64::new(0) };
        times.base_unix.store(times.read(), Relaxed);
        times
    }

    /// By the system's clock as it is now, if that was set since: a difference of less than a millisecond is not looked at.
    pub fn follow(&self) {
        let (old, new) = (self.base_unix.load(Relaxed), self.read());
        if old.abs_diff(new) > 1_000_000 {
            self.base_unix.store(new, Relaxed);
        }
    }

    /// Unix ns at `base`.
    fn read(&self) -> u64 {
        let pair = || {
            let before = Instant::now();
            let unix = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64);
            (before.elapsed(), unix.saturating_sub(before.duration_since(self.base).as_nanos() as u64))
        };
        let nearest = (0..CLOCK_TRIES).map(|_| pair()).min_by_key(|(apart, _)| *apart);
        nearest.map_or(0, |(_, unix)| unix)
    }

    /// A moment in Unix ns.
    #[must_use]
    pub fn unix_nanos(&self, moment: Instant) -> u64 {
        let base = self.base_unix.load(Relaxed);
        match moment.checked_duration_since(self.base) {
            Some(after) => base.saturating_add(after.as_nanos() as u64),
            None => base.saturating_sub(self.base.duration_since(moment).as_nanos() as u64),
        }
    }
}

impl Default for Times {
    fn default() -> Self {
        Self::new()
    }
}

/// Where spans go: those of one request together. Full: they are dropped, and counted by whoever has them.
pub type SpanQueue = mpsc::Sender<Vec<Span>>;

/// What each thread that traces is given.
#[derive(Debug, Clone)]
pub struct TraceStart {
    /// Who is traced.
    pub sampling: Sampling,
    /// Where spans go.
    pub queue: SpanQueue,
    /// The time that they tell.
    pub times: Arc<Times>,
}

/// Traces the requests of one thread, or none.
#[derive(Debug, Default)]
pub struct Tracer(Option<(Sampler, TraceStart)>);

/// A request that is traced from here on.
#[derive(Debug)]
pub struct Begun {
    /// The request's own span.
    pub context: SpanContext,
    /// The caller's.
    pub parent: Option<SpanId>,
}

impl Tracer {
    /// Traces as `start` says; `None`: nothing.
    #[must_use]
    pub fn new(start: Option<TraceStart>) -> Self {
        Self(start.map(|start| (Sampler::new(start.sampling), start)))
    }

    /// Whether anything is traced.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// What a request's headers say, where anything is traced.
    #[must_use]
    pub fn incoming(&self, headers: &http::HeaderMap) -> Incoming {
        if self.is_on() { Incoming::of(headers) } else { Incoming::Undecided }
    }

    /// The trace of a request that came with this, in this second of the thread, if it is traced.
    #[must_use]
    pub fn begin(&self, incoming: &Incoming, second: u64) -> Option<Begun> {
        let (sampler, _) = self.0.as_ref()?;
        sampler.begin(incoming, second)
    }

    /// Ends a request: its own span, and one for each of its `steps`.
    ///
    /// # Errors
    /// There was no room for so many spans.
    pub fn end(&self, begun: Begun, request: Finished) -> Result<(), u64> {
        let Some((sampler, start)) = &self.0 else { return Ok(()) };
        let Finished { name, kind, started, ended, attributes, failure, steps } = request;
        let times = &start.times;
        let Begun { context: SpanContext { trace, span, state }, parent } = begun;
        let of_step = |(name, from, to): (&'static str, Instant, Instant)| Span {
            trace,
            id: sampler.span_id(),
            parent: Some(span),
            parent_is_remote: false,
            state: state.clone(),
            name: Cow::Borrowed(name),
            kind: SpanKind::Internal,
            start: times.unix_nanos(from),
            end: times.unix_nanos(to.max(from)),
            attributes: Vec::new(),
            failure: None,
        };
        let mut spans: Vec<_> = steps.into_iter().map(of_step).collect();
        spans.push(Span {
            trace,
            id: span,
            parent,
            parent_is_remote: parent.is_some(),
            state: state.clone(),
            name,
            kind,
            start: times.unix_nanos(started),
            end: times.unix_nanos(ended.max(started)),
            attributes,
            failure,
        });
        start.queue.try_send(spans).map_err(|refused| refused.into_inner().len() as u64)
    }
}

/// A request at its end.
#[derive(Debug)]
pub struct Finished {
    /// What it was.
    pub name: Cow<'static, str>,
    /// Whom it was between.
    pub kind: SpanKind,
    /// When it came in.
    pub started: Instant,
    /// When it was answered.
    pub ended: Instant,
    /// What is told of it.
    pub attributes: Attributes,
    /// Why it failed.
    pub failure: Option<Cow<'static, str>>,
    /// What was done for it, from when to when.
    pub steps: Vec<(&'static str, Instant, Instant)>,
}

/// When what happened to records on their way to stable storage; it goes with them where their request is traced.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marks {
    /// Their home took them.
    pub admitted: Option<Instant>,
    /// The write of their frame began.
    pub writing: Option<Instant>,
    /// It was on stable storage.
    pub synced: Option<Instant>,
}

impl Marks {
    /// The steps of records that were submitted then.
    #[must_use]
    pub fn steps(&self, submitted: Instant) -> Vec<(&'static str, Instant, Instant)> {
        let Some(admitted) = self.admitted else { return Vec::new() };
        let mut steps = vec![("cross", submitted, admitted)];
        if let (Some(writing), Some(synced)) = (self.writing, self.synced) {
            // What came in after the write of its frame began is in the next one.
            steps.push(("wal_wait", admitted, writing.max(admitted)));
            steps.push(("sync", writing.max(admitted), synced));
        }
        steps
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn start(room: usize) -> (TraceStart, mpsc::Receiver<Vec<Span>>) {
        let (queue, spans) = mpsc::channel(room);
        let sampling = Sampling { ratio: 1.0, per_second: 100 };
        (TraceStart { sampling, queue, times: Arc::new(Times::new()) }, spans)
    }

    fn finished(started: Instant) -> Finished {
        let ended = started + Duration::from_millis(2);
        Finished {
            name: "r".into(),
            kind: SpanKind::Server,
            started,
            ended,
            attributes: vec![("a", 1u32.into())],
            failure: None,
            steps: vec![("one", started, started + Duration::from_millis(1)), ("two", ended, started)],
        }
    }

    #[test]
    fn a_request_and_its_steps_are_one_tree_in_the_order_of_time() {
        let (start, mut spans) = start(1);
        let tracer = Tracer::new(Some(start));
        let begun = tracer.begin(&Incoming::Undecided, 0).expect("all are traced");
        let context = begun.context.clone();
        tracer.end(begun, finished(Instant::now())).expect("there is room");
        let tree = spans.try_recv().expect("sent");
        let root = &tree[2];
        assert_eq!((root.trace, root.id, root.parent), (context.trace, context.span, None));
        assert_eq!(root.end - root.start, 2_000_000);
        for step in &tree[..2] {
            assert_eq!((step.trace, step.parent), (root.trace, Some(root.id)));
            assert!(root.start <= step.start && step.start <= step.end && step.end <= root.end, "{step:?}");
        }
        assert!(tree[0].id != tree[1].id && tree[0].id != root.id);
    }

    #[test]
    fn what_finds_no_room_is_told() {
        let (start, _spans) = start(1);
        let tracer = Tracer::new(Some(start));
        let end = || {
            let begun = tracer.begin(&Incoming::Undecided, 0).expect("all are traced");
            tracer.end(begun, finished(Instant::now()))
        };
        assert_eq!(end(), Ok(()));
        assert_eq!(end(), Err(3));
    }

    #[test]
    fn nothing_is_traced_without_a_start() {
        let tracer = Tracer::new(None);
        assert!(tracer.begin(&Incoming::Undecided, 0).is_none());
    }

    #[test]
    fn moments_are_near_the_systems_time_and_in_order() {
        let times = Times::new();
        let unix = || SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos() as u64;
        let (before, now, after) = (unix(), Instant::now(), unix());
        let told = times.unix_nanos(now);
        // As far as the two clocks can be read at once.
        let slack = 50_000_000;
        assert!(before - slack <= told && told <= after + slack, "{before} {told} {after}");
        times.follow();
        assert!(times.unix_nanos(now + Duration::from_nanos(1)) > times.unix_nanos(now));
        assert!(times.unix_nanos(now - Duration::from_secs(3600)) < told);
    }

    #[test]
    fn marks_become_steps_that_follow_one_another() {
        let at = |micros| Instant::now() + Duration::from_micros(micros);
        let (submitted, admitted, writing, synced) = (at(0), at(100), at(200), at(300));
        let marks = Marks { admitted: Some(admitted), writing: Some(writing), synced: Some(synced) };
        let names: Vec<_> = marks.steps(submitted).iter().map(|(name, ..)| *name).collect();
        assert_eq!(names, ["cross", "wal_wait", "sync"]);
        let steps = marks.steps(submitted);
        assert!(steps.windows(2).all(|pair| pair[0].2 == pair[1].1));
        assert!(Marks::default().steps(submitted).is_empty());
    }
}
