//! A call's request that is traced: its span, by OpenTelemetry's conventions for RPC, and the steps of what was done for it.

use std::{borrow::Cow, rc::Rc, time::Instant};

use super::status::{Code, Status};
use crate::{
    reactor::Reactor,
    snapshot::StreamEntry,
    trace::{Begun, Finished, Marks, SpanContext, SpanKind, Value, w3c::Incoming},
};

/// One request. It is told of when this is dropped, so also when its client has gone.
#[derive(Debug)]
pub struct Traced {
    reactor: Rc<Reactor>,
    begun: Option<Begun>,
    /// The method's `:path`.
    path: &'static str,
    started: Instant,
    ended: Option<Instant>,
    /// The end of the last step.
    at: Instant,
    steps: Vec<(&'static str, Instant, Instant)>,
    attributes: Vec<(&'static str, Value)>,
    code: Option<Code>,
    failure: Option<Cow<'static, str>>,
}

impl Traced {
    /// A request of the method `path` that came in at `started` with this, if it is traced.
    pub fn begin(
        reactor: &Rc<Reactor>,
        incoming: &Incoming,
        path: &'static str,
        started: Instant,
    ) -> Option<Box<Self>> {
        let begun = reactor.tracer.begin(incoming, reactor.second())?;
        Some(Box::new(Self {
            reactor: Rc::clone(reactor),
            begun: Some(begun),
            path,
            started,
            ended: None,
            at: Instant::now(),
            steps: Vec::new(),
            attributes: Vec::new(),
            code: None,
            failure: None,
        }))
    }

    /// The span, for what others do for the request.
    #[must_use]
    pub fn context(&self) -> Option<SpanContext> {
        self.begun.as_ref().map(|begun| begun.context.clone())
    }

    /// A step was done, from the end of the one before until now.
    pub fn step(&mut self, name: &'static str) {
        let now = Instant::now();
        self.steps.push((name, self.at, now));
        self.at = now;
    }

    /// Tells something of it.
    pub fn note(&mut self, key: &'static str, value: impl Into<Value>) {
        self.attributes.push((key, value.into()));
    }

    /// Its records have an outcome, with these marks of their way if they are known.
    pub fn outcome(&mut self, marks: Option<&Marks>) {
        let Some(marks) = marks else { return };
        self.steps.extend(marks.steps(self.at));
        self.at = marks.synced.or(marks.admitted).unwrap_or(self.at);
    }

    /// How many of its records were taken, and from which sequence number on.
    pub fn note_taken(&mut self, accepted: u32, duplicates: u32, first_sequence: i64) {
        self.note("ttdust.records.accepted", accepted);
        self.note("ttdust.records.duplicate", duplicates);
        if accepted > 0 {
            self.note("ttdust.sequence.first", first_sequence);
            self.note("ttdust.sequence.last", first_sequence + i64::from(accepted) - 1);
        }
    }

    /// It was answered now: where there were steps, that is the last.
    pub fn answered(&mut self) {
        if !self.steps.is_empty() {
            self.step("ack");
        }
        (self.code, self.ended) = (Some(Code::Ok), Some(Instant::now()));
    }

    /// It ends with this status.
    pub fn failed(&mut self, status: &Status) {
        self.code = Some(status.code);
        self.note("error.type", status.reason);
        // By the conventions other codes are the caller's to judge.
        if matches!(status.code, Code::DeadlineExceeded | Code::Unimplemented | Code::Internal | Code::Unavailable) {
            self.failure = Some(Cow::Owned(status.message.clone()));
        }
    }
}

/// Notes what a request to write records is.
pub fn note_request(traced: &mut Traced, stream: &StreamEntry, records: u32, bytes: usize) {
    traced.note("ttdust.stream.id", stream.id);
    traced.note("ttdust.stream.name", stream.name.clone());
    traced.note("ttdust.home_shard", stream.home.0);
    traced.note("ttdust.batch.records", records);
    traced.note("ttdust.batch.bytes", bytes);
}

/// Ends a request's span with how it ended, if it is traced.
pub fn note_end<T>(traced: Option<Box<Traced>>, outcome: &Result<T, Status>) {
    let Some(mut traced) = traced else { return };
    match outcome {
        Ok(_) => traced.answered(),
        Err(status) => traced.failed(status),
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        let Some(begun) = self.begun.take() else { return };
        let name = self.path.trim_start_matches('/');
        let (service, method) = name.split_once('/').unwrap_or((name, ""));
        let mut attributes = std::mem::take(&mut self.attributes);
        attributes.extend([
            ("rpc.system", "grpc".into()),
            ("rpc.service", service.into()),
            ("rpc.method", method.into()),
        ]);
        // Whoever went without waiting for the end has cancelled.
        let code = self.code.unwrap_or(Code::Cancelled);
        attributes.push(("rpc.grpc.status_code", i64::from(code as u8).into()));
        attributes.push(("ttdust.shard", self.reactor.id.0.into()));
        let request = Finished {
            name: Cow::Borrowed(name),
            kind: SpanKind::Server,
            started: self.started,
            ended: self.ended.unwrap_or_else(Instant::now),
            attributes,
            failure: self.failure.take(),
            steps: std::mem::take(&mut self.steps),
        };
        if let Err(spans) = self.reactor.tracer.end(begun, request) {
            self.reactor.metrics.spans_dropped.add(spans);
        }
    }
}
