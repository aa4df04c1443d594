//! Traces of what the control plane does: a span for a request or for work of the server's own, and spans under it for its parts.
//!
//! Which span what is done now is under goes with the task, not from function to function: [`Open::scope`] sets it, and
//! [`child`] asks for it, as does every line of the log. Where nothing is traced a span is nothing, and costs a look.

use std::{
    fmt::Display,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use prometheus_client::metrics::counter::Counter;
use tokio::sync::mpsc;
use ttdust_shards::trace::{
    Attributes, Begun, Span, SpanContext, SpanId, SpanKind, SpanQueue, Times, TraceId, TraceStart, Value,
    sampling::{Sampler, Sampling},
    w3c::Incoming,
};

/// Requests of all threads whose spans wait to be exported.
const QUEUE: usize = 2048;
/// What is told of why something failed, in characters.
const FAILURE_CHARS: usize = 1024;

tokio::task_local! {
    /// The span that what is done now is under.
    static CURRENT: Option<Current>;
}

#[derive(Debug, Clone)]
struct Current {
    traces: Arc<Inner>,
    context: SpanContext,
}

/// What became of spans.
#[derive(Debug, Clone, Default)]
pub struct TraceFigures {
    /// Spans that the collector took.
    pub exported: Counter,
    /// Spans that it did not get: no room in the queue of the control plane, or it was away for too long, or refused them.
    pub dropped: Counter,
    /// Requests to it that failed.
    pub failures: Counter,
}

/// Begins traces, or none.
#[derive(Debug, Clone, Default)]
pub struct Traces(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    sampler: Mutex<Sampler>,
    /// Whether the server's own work is traced.
    traces_itself: bool,
    started: Instant,
    queue: SpanQueue,
    times: Arc<Times>,
    figures: TraceFigures,
}

impl Traces {
    /// Traces as `sampling` says: with what the shards need for it, and the end of the queue from which spans are exported.
    #[must_use]
    pub fn start(sampling: Sampling, figures: TraceFigures) -> (Self, TraceStart, mpsc::Receiver<Vec<Span>>) {
        let (queue, spans) = mpsc::channel(QUEUE);
        let times = Arc::new(Times::new());
        let start = TraceStart { sampling, queue: queue.clone(), times: Arc::clone(&times) };
        let inner = Inner {
            sampler: Mutex::new(Sampler::new(sampling)),
            traces_itself: sampling.ratio > 0.0,
            started: Instant::now(),
            queue,
            times,
            figures,
        };
        (Self(Some(Arc::new(inner))), start, spans)
    }

    /// A span for a request that came with this, if it is traced.
    pub fn request(&self, incoming: &Incoming, name: impl FnOnce() -> String) -> Open {
        let Some(inner) = &self.0 else { return Open(None) };
        let begun = inner.sampler().begin(incoming, inner.second());
        let Some(Begun { context, parent }) = begun else { return Open(None) };
        inner.open(context, (parent, parent.is_some()), name().into(), SpanKind::Server)
    }

    /// A span under one of a shard's.
    pub fn continued(&self, under: Option<SpanContext>, name: &'static str) -> Open {
        match (&self.0, under) {
            (Some(inner), Some(under)) => Open::under(inner, &under, name.into(), SpanKind::Internal),
            _ => Open(None),
        }
    }

    /// A span for work that nobody asked for.
    pub fn own_work(&self, name: &'static str) -> Open {
        let Some(inner) = self.0.as_ref().filter(|inner| inner.traces_itself) else { return Open(None) };
        // It is seldom, and each tells of something: all of it is traced, but no more than may be.
        let Some(context) = inner.sampler().begin_own(inner.second()) else { return Open(None) };
        inner.open(context, (None, false), name.into(), SpanKind::Internal)
    }
}

impl Inner {
    fn sampler(&self) -> std::sync::MutexGuard<'_, Sampler> {
        self.sampler.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn second(&self) -> u64 {
        self.started.elapsed().as_secs()
    }

    fn open(
        self: &Arc<Self>,
        context: SpanContext,
        (parent, parent_is_remote): (Option<SpanId>, bool),
        name: Text,
        kind: SpanKind,
    ) -> Open {
        Open(Some(Box::new(Unfinished {
            current: Current { traces: Arc::clone(self), context },
            parent,
            parent_is_remote,
            name,
            kind,
            started: Instant::now(),
            ended: None,
            attributes: Vec::new(),
            failure: None,
        })))
    }
}

type Text = std::borrow::Cow<'static, str>;

/// A span that goes on; it ends when it is dropped. Or none, of which nothing is told.
#[derive(Debug, Default)]
#[must_use]
pub struct Open(Option<Box<Unfinished>>);

#[derive(Debug)]
struct Unfinished {
    current: Current,
    parent: Option<SpanId>,
    parent_is_remote: bool,
    name: Text,
    kind: SpanKind,
    started: Instant,
    ended: Option<Instant>,
    attributes: Attributes,
    failure: Option<Text>,
}

impl Open {
    fn under(traces: &Arc<Inner>, parent: &SpanContext, name: Text, kind: SpanKind) -> Self {
        let span = traces.sampler().span_id();
        let context = SpanContext { span, ..parent.clone() };
        traces.open(context, (Some(parent.span), false), name, kind)
    }

    /// Whether anything is told of it.
    #[must_use]
    pub fn is_traced(&self) -> bool {
        self.0.is_some()
    }

    /// Its trace.
    #[must_use]
    pub fn trace(&self) -> Option<TraceId> {
        self.0.as_ref().map(|open| open.current.context.trace)
    }

    /// Tells something of it.
    pub fn note(&mut self, key: &'static str, value: impl Into<Value>) {
        if let Some(open) = &mut self.0 {
            open.attributes.push((key, value.into()));
        }
    }

    /// It failed, for this reason.
    pub fn fail(&mut self, reason: impl Display) {
        if let Some(open) = &mut self.0 {
            open.failure = Some(reason.to_string().chars().take(FAILURE_CHARS).collect::<String>().into());
        }
    }

    /// It failed, if this did.
    pub fn note_end<T, E: Display>(&mut self, outcome: &Result<T, E>) {
        if let Err(error) = outcome {
            self.fail(error);
        }
    }

    /// It went on from then to then.
    pub fn at(mut self, (started, ended): (Instant, Instant)) -> Self {
        if let Some(open) = &mut self.0 {
            (open.started, open.ended) = (started, Some(ended));
        }
        self
    }

    /// It began then.
    pub fn since(&mut self, started: Instant) {
        if let Some(open) = &mut self.0 {
            open.started = started;
        }
    }

    /// A part of it.
    pub fn child(&self, name: &'static str) -> Self {
        let Some(open) = &self.0 else { return Self(None) };
        Self::under(&open.current.traces, &open.current.context, name.into(), SpanKind::Internal)
    }

    /// What `work` does is under it.
    pub fn scope<F: Future>(&self, work: F) -> impl Future<Output = F::Output> + use<F> {
        let current = self.0.as_ref().map(|open| open.current.clone());
        CURRENT.scope(current, work)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let Some(open) = self.0.take() else { return };
        let Unfinished { current: Current { traces, context }, started, ended, .. } = *open;
        let span = Span {
            trace: context.trace,
            id: context.span,
            parent: open.parent,
            parent_is_remote: open.parent_is_remote,
            state: context.state,
            name: open.name,
            kind: open.kind,
            start: traces.times.unix_nanos(started),
            end: traces.times.unix_nanos(ended.unwrap_or_else(Instant::now).max(started)),
            attributes: open.attributes,
            failure: open.failure,
        };
        if traces.queue.try_send(vec![span]).is_err() {
            traces.figures.dropped.inc();
        }
    }
}

fn current() -> Option<Current> {
    CURRENT.try_with(Clone::clone).ok().flatten()
}

/// A span under the one that this is done under, if that is traced.
pub fn child(name: &'static str) -> Open {
    child_of(SpanKind::Internal, || name.into())
}

/// The same for what another program is asked.
pub fn call(name: impl FnOnce() -> String) -> Open {
    child_of(SpanKind::Client, || name().into())
}

fn child_of(kind: SpanKind, name: impl FnOnce() -> Text) -> Open {
    match current() {
        Some(Current { traces, context }) => Open::under(&traces, &context, name(), kind),
        None => Open(None),
    }
}

/// Whether what is done now is traced.
#[must_use]
pub fn is_traced() -> bool {
    CURRENT.try_with(Option::is_some).unwrap_or(false)
}

/// Trace and span of what is done now, if it is traced.
#[must_use]
pub fn now() -> Option<(TraceId, SpanId)> {
    let ids = |current: &Option<Current>| current.as_ref().map(|Current { context, .. }| (context.trace, context.span));
    CURRENT.try_with(ids).ok().flatten()
}

/// The same work under the same span, for a task of its own.
pub fn carried<F: Future + Send + 'static>(work: F) -> impl Future<Output = F::Output> + Send + 'static {
    CURRENT.scope(current(), work)
}

/// The same work under the same span, for another thread.
pub fn carried_over<T>(work: impl FnOnce() -> T + Send + 'static) -> impl FnOnce() -> T + Send + 'static {
    let current = current();
    move || CURRENT.sync_scope(current, work)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
    }

    fn traces(ratio: f64) -> (Traces, mpsc::Receiver<Vec<Span>>, TraceFigures) {
        let figures = TraceFigures::default();
        let (traces, _, spans) = Traces::start(Sampling { ratio, per_second: 10_000 }, figures.clone());
        (traces, spans, figures)
    }

    #[test]
    fn parts_are_under_what_they_are_done_for_on_every_task_and_thread() {
        let (traces, mut spans, _) = traces(1.0);
        run(async {
            let root = traces.request(&Incoming::Undecided, || "root".into());
            let inner = async {
                let part = child("part");
                part.scope(async { drop(child("part of a part")) }).await;
                let spawned = tokio::spawn(carried(async { drop(call(|| "elsewhere".into())) }));
                spawned.await.expect("it ends");
                let thread = std::thread::spawn(carried_over(now));
                assert_eq!(thread.join().expect("it ends"), now());
            };
            root.scope(inner).await;
            assert!(!is_traced() && now().is_none());
        });
        let all: Vec<_> = std::iter::from_fn(|| spans.try_recv().ok()).flatten().collect();
        let names: Vec<_> = all.iter().map(|span| &*span.name).collect();
        assert_eq!(names, ["part of a part", "elsewhere", "part", "root"]);
        let (root, part) = (&all[3], &all[2]);
        assert_eq!((part.parent, all[1].parent, all[0].parent), (Some(root.id), Some(root.id), Some(part.id)));
        assert!(all.iter().all(|span| span.trace == root.trace && span.start <= span.end));
        assert_eq!((root.parent, root.kind, all[1].kind), (None, SpanKind::Server, SpanKind::Client));
    }

    #[test]
    fn what_is_not_traced_has_no_parts() {
        let (traces, mut spans, _) = traces(0.0);
        let root = traces.request(&Incoming::Undecided, || unreachable!("it has no name"));
        assert!(!root.is_traced() && !traces.own_work("flush").is_traced());
        run(root.scope(async { assert!(!child("part").is_traced()) }));
        drop(root);
        assert!(spans.try_recv().is_err());
        assert!(!Traces::default().own_work("flush").is_traced());
    }

    #[test]
    fn what_finds_no_room_is_counted() {
        let (traces, _spans, figures) = traces(1.0);
        for _ in 0..QUEUE + 3 {
            drop(traces.own_work("flush"));
        }
        assert_eq!(figures.dropped.get(), 3);
    }

    #[test]
    fn a_failure_is_told_in_short() {
        let (traces, mut spans, _) = traces(1.0);
        let mut span = traces.own_work("flush");
        span.note_end(&Err::<(), _>("ä".repeat(2 * FAILURE_CHARS)));
        drop(span);
        let told = spans.try_recv().expect("sent")[0].failure.clone().expect("it failed");
        assert_eq!(told, "ä".repeat(FAILURE_CHARS));
    }
}
