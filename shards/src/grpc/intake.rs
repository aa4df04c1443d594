//! What `IngestStream`, `Ingest` and `Append` have in common: which stream, may the caller, is the record good.

use std::{collections::BTreeMap, rc::Rc, sync::Arc, time::Instant};

use bytes::Bytes;
use ttdust_proto::ingestion::IngestError;

use super::{
    access::permitted,
    rows::{self, Checker, Checks, in_stream},
    status::{Code, Status},
    traced::Traced,
};
use crate::{
    access::{Action, Principal},
    ids::ShardId,
    message::{Outcome, OutcomeTo, ReplyTo, Submission, WriterRows},
    rate::budget::ClientBudget,
    reactor::{Reactor, Reply, Slot},
    schema::CompiledSchema,
    snapshot::{StreamEntry, names_schema},
    trace::{Marks, w3c::Incoming},
    validate::Invalid,
};

/// Where a call's records go: remembers the stream of the last message.
#[derive(Debug)]
pub struct Intake {
    /// The shard's shared state.
    pub reactor: Rc<Reactor>,
    caller: Principal,
    incoming: Incoming,
    last: Option<Target>,
    /// There once the caller was limited.
    budget: Option<Rc<ClientBudget>>,
}

/// A stream as a client named it, under one version of the catalog, in one second: a credential that ends is noticed.
#[derive(Debug)]
struct Target {
    stream_text: String,
    schema_text: String,
    catalog_version: u64,
    second: u64,
    stream: Arc<StreamEntry>,
}

impl Intake {
    /// Takes records of `caller`, whose call came with this of a trace.
    #[must_use]
    pub fn new(reactor: Rc<Reactor>, caller: Principal, incoming: Incoming) -> Self {
        Self { reactor, caller, incoming, last: None, budget: None }
    }

    /// What is told of a request of this method that came in at `received`, if it is traced.
    #[must_use]
    pub fn trace(&self, path: &'static str, received: Instant) -> Option<Box<Traced>> {
        Traced::begin(&self.reactor, &self.incoming, path, received)
    }

    /// The stream that the client means, if it may write to it now.
    ///
    /// # Errors
    /// How the call ends.
    pub fn stream(&mut self, stream_text: &str, schema_text: &str) -> Result<Arc<StreamEntry>, Status> {
        if let Some(last) = &self.last
            && last.catalog_version == self.reactor.catalog_version()
            && last.second == self.reactor.second()
            && last.stream_text == stream_text
            && last.schema_text == schema_text
        {
            return Ok(Arc::clone(&last.stream));
        }
        let catalog = self.reactor.catalog();
        let stream = permitted(&mut self.caller, Action::WriteRecords, &catalog, stream_text)?;
        if !names_schema(stream, schema_text) {
            let message = format!("the stream's schema is {}: leave schema_id empty or send that id", stream.schema.id);
            return Err(Status::new(Code::FailedPrecondition, "SCHEMA_MISMATCH", message));
        }
        rows::takes_records(stream)?;
        self.last = Some(Target {
            stream_text: stream_text.to_owned(),
            schema_text: schema_text.to_owned(),
            catalog_version: catalog.version,
            second: self.reactor.second(),
            stream: Arc::clone(stream),
        });
        Ok(Arc::clone(stream))
    }

    /// Whether the caller's limits let in a request of so many records and bytes; if so, it is counted.
    ///
    /// # Errors
    /// It is over a limit: the request is not looked at.
    pub fn charge(&mut self, records: usize, bytes: usize, received: Instant) -> Result<(), Status> {
        let budgets = &self.reactor.budgets;
        if !budgets.are_limited() {
            return Ok(());
        }
        let now = budgets.micros(received);
        let budget = self.budget.get_or_insert_with(|| budgets.client(&self.caller.id, now));
        let (verdict, news) = budgets.charge(budget, now, records as u64, bytes as u64);
        if news {
            self.reactor.ask_for_leases();
        }
        verdict.map_err(|over| {
            self.reactor.metrics.rate_limit_hits[over.category.index()].add(1);
            Status::rate_limited(over)
        })
    }

    /// Whether the record is good: its size, then JSON, then the schema.
    ///
    /// # Errors
    /// Why it is not.
    pub fn check(&self, stream: &StreamEntry, payload: &[u8]) -> Result<(), Box<Invalid>> {
        self.checks(stream).check(payload)
    }

    /// Checks records for a stream, and counts them.
    #[must_use]
    pub fn checks<'a>(&'a self, stream: &'a StreamEntry) -> Counted<'a> {
        Counted { reactor: &self.reactor, schema: &stream.schema }
    }

    /// Whether an idempotency key is short enough.
    ///
    /// # Errors
    /// It is not: the call ends.
    pub fn check_key(&self, key: &str) -> Result<(), Status> {
        rows::check_key(&self.reactor.limits, key)
    }

    /// A request's metadata, encoded; empty: none.
    ///
    /// # Errors
    /// It is over its limit: the call ends.
    pub fn metadata(&self, metadata: &BTreeMap<String, String>) -> Result<Bytes, Status> {
        rows::metadata(&self.reactor.limits, metadata)
    }

    /// Submits checked records of one stream; with marks, where their request is traced.
    pub fn submit(
        &self,
        stream: &StreamEntry,
        payloads: Vec<Bytes>,
        keys: Vec<Bytes>,
        metadata: Bytes,
        (writer, marks): (Option<Box<WriterRows>>, Option<Box<Marks>>),
        waiter: &Rc<crate::reactor::Bell>,
    ) -> Rc<Slot> {
        let submission = Submission {
            stream: stream.id,
            schema_version: stream.schema.version,
            payloads,
            keys,
            metadata,
            writer,
            marks,
            reply: OutcomeTo::Call(ReplyTo { shard: ShardId(0), token: 0 }),
        };
        self.reactor.submit(stream.home, submission, waiter)
    }
}

/// Checks the records of a shard's clients, and counts them.
#[derive(Debug)]
pub struct Counted<'a> {
    reactor: &'a Reactor,
    schema: &'a CompiledSchema,
}

impl Counted<'_> {
    fn counted<T>(&self, payload: &[u8], check: impl FnOnce(&mut Checker<'_>) -> (T, bool)) -> T {
        let metrics = &self.reactor.metrics;
        metrics.records_received.add(1);
        metrics.payload_bytes.add(payload.len() as u64);
        let mut validator = self.reactor.validator.borrow_mut();
        let record_bytes = self.reactor.limits.record_bytes;
        let (verdict, is_good) = check(&mut Checker { validator: &mut validator, schema: self.schema, record_bytes });
        if is_good {
            metrics.records_validated.add(1);
        } else {
            metrics.validation_errors.add(1);
        }
        verdict
    }
}

impl Checks for Counted<'_> {
    fn check(&mut self, payload: &[u8]) -> Result<(), Box<Invalid>> {
        self.counted(payload, |checker| {
            let verdict = checker.check(payload);
            let is_good = verdict.is_ok();
            (verdict, is_good)
        })
    }

    fn accepts(&mut self, payload: &[u8]) -> bool {
        self.counted(payload, |checker| {
            let accepted = checker.accepts(payload);
            (accepted, accepted)
        })
    }
}

/// The outcome in a slot, if it is there.
#[must_use]
pub fn take_outcome(slot: &Slot) -> Option<Outcome> {
    slot.take().map(|reply| match reply {
        Reply::Outcome(outcome) => outcome,
        _ => unreachable!("a submission's slot gets an outcome"),
    })
}

/// A refusal as an answer inside a stream, or as the end of the call where it is not RESOURCE_EXHAUSTED.
///
/// # Errors
/// The status that ends the call.
pub fn refused_in_stream(reactor: &Reactor, refusal: crate::message::Refusal) -> Result<(IngestError, u32), Status> {
    let status = Status::refused(refusal);
    if status.code != Code::ResourceExhausted {
        return Err(status);
    }
    reactor.metrics.backpressure.add(1);
    Ok(in_stream(&status))
}
