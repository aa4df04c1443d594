//! `Append`: many records a message, one submission and one answer each.

use std::{collections::VecDeque, rc::Rc, time::Instant};

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use ttdust_proto::ingestion::{AppendRequest, OnInvalid, Status as RecordStatus};

use super::{
    exchange::Method,
    framing::put_message,
    intake::{Intake, take_outcome},
    rows::Rows,
    status::{Code, Status},
};
use crate::{
    dedup::writers::ID_BYTES_MAX,
    message::{Committed, Outcome, WriterRows},
    reactor::{Bell, Slot},
};

/// `Append`.
#[derive(Debug)]
pub struct Append {
    intake: Intake,
    bell: Rc<Bell>,
    /// The stream of the last message that named one.
    stream_id: String,
    submitted: VecDeque<Request>,
    bytes: usize,
    /// Something was taken that is not answered: see [`Method::settle`].
    in_doubt: bool,
}

/// A request that is not answered yet.
#[derive(Debug)]
struct Request {
    rows: Rows,
    bytes: usize,
    received: Instant,
    /// `None`: nothing was submitted.
    slot: Option<Rc<Slot>>,
    /// The caller was over a limit.
    limited: Option<Box<Status>>,
}

impl Append {
    /// A call whose submissions ring `bell`.
    #[must_use]
    pub fn new(intake: Intake, bell: Rc<Bell>) -> Self {
        Self { intake, bell, stream_id: String::new(), submitted: VecDeque::new(), bytes: 0, in_doubt: false }
    }

    /// Whether the request is one that this server takes.
    fn check_request(&self, request: &AppendRequest) -> Result<(), Status> {
        let invalid = |reason, message: String| Err(Status::new(Code::InvalidArgument, reason, message));
        let (payloads, keys) = (request.payloads.len(), request.idempotency_keys.len());
        let limit = self.intake.reactor.limits.records_per_request;
        if payloads > limit {
            return invalid("TOO_MANY_RECORDS", format!("{payloads} records in a request, over the limit of {limit}"));
        }
        if keys != 0 && keys != payloads {
            return invalid(
                "KEY_COUNT",
                format!("{keys} idempotency keys for {payloads} payloads: send none, or one each"),
            );
        }
        if request.writer_id.is_empty() && (request.writer_epoch, request.first_writer_sequence) != (0, 0) {
            return invalid("WRITER_ID_MISSING", "writer_epoch and first_writer_sequence need a writer_id".to_owned());
        }
        if request.writer_id.len() > ID_BYTES_MAX {
            let message =
                format!("a writer_id has {} bytes, over the limit of {ID_BYTES_MAX}", request.writer_id.len());
            return invalid("WRITER_ID_TOO_LONG", message);
        }
        if !request.writer_id.is_empty() && keys != 0 {
            let message = "a writer numbers its records: it needs no idempotency_keys".to_owned();
            return invalid("WRITER_WITH_KEYS", message);
        }
        if request.first_writer_sequence.checked_add(payloads as u64).is_none() {
            return invalid("WRITER_SEQUENCE_OVERFLOW", "first_writer_sequence is too large".to_owned());
        }
        match OnInvalid::try_from(request.on_invalid) {
            Ok(OnInvalid::Atomic | OnInvalid::Skip) => Ok(()),
            Ok(OnInvalid::Dlq) => {
                let message = "on_invalid DLQ is not available in this version: use ATOMIC or SKIP";
                Err(Status::new(Code::Unimplemented, "DLQ_UNAVAILABLE", message))
            }
            Err(_) => invalid("MALFORMED_MESSAGE", format!("on_invalid {} is not a known value", request.on_invalid)),
        }
    }
}

impl Method for Append {
    fn take(&mut self, message: Bytes, received: Instant) -> Result<(), Status> {
        let bytes = message.len();
        let mut request = AppendRequest::decode(message).map_err(|error| Status::bad_message(&error))?;
        if !request.stream_id.is_empty() {
            self.stream_id = std::mem::take(&mut request.stream_id);
        }
        self.check_request(&request)?;
        let stream = self.intake.stream(&self.stream_id, &request.schema_id)?;
        let metadata = self.intake.metadata(&request.metadata)?;
        request.idempotency_keys.iter().try_for_each(|key| self.intake.check_key(key))?;
        let is_writers = !request.writer_id.is_empty();
        let rows = Rows::new(&stream, request.payloads.len(), is_writers);
        let mut answer = Request { rows, bytes, received, slot: None, limited: None };
        let on_invalid = request.on_invalid();
        let (payloads, keys) = (&mut request.payloads, &mut request.idempotency_keys);
        match self.intake.charge(payloads.len(), bytes, received) {
            Ok(()) => answer.rows.sort_out(on_invalid, payloads, keys, &mut self.intake.checks(&stream)),
            Err(over) => answer.limited = Some(Box::new(over)),
        }
        // Rejected records take a number of their writer's too, but for those of a request that is refused whole.
        let refused = answer.limited.is_some() || answer.rows.are_refused(on_invalid);
        let writer = is_writers.then(|| WriterRows {
            id: std::mem::take(&mut request.writer_id).into(),
            epoch: request.writer_epoch,
            first: request.first_writer_sequence,
            sent: answer.rows.records(),
            taken: answer.rows.taken(),
        });
        if !refused && (writer.is_some() || !request.payloads.is_empty()) {
            let keys = request.idempotency_keys.into_iter().map(Bytes::from).collect();
            let bell = &self.bell;
            answer.slot =
                Some(self.intake.submit(&stream, request.payloads, keys, metadata, writer.map(Box::new), bell));
        }
        self.bytes += bytes;
        self.submitted.push_back(answer);
        Ok(())
    }

    fn flush(&mut self) {}

    fn put_answers(&mut self, out: &mut BytesMut) -> Result<(), Status> {
        let mut now = None;
        while let Some(request) = self.submitted.front() {
            let outcome = match &request.slot {
                None => Outcome::Committed(Committed::nothing()),
                Some(slot) => match take_outcome(slot) {
                    None => break,
                    Some(outcome) => outcome,
                },
            };
            let Some(mut request) = self.submitted.pop_front() else { break };
            self.bytes -= request.bytes;
            let reactor = &self.intake.reactor;
            let response = match &request.limited {
                Some(over) => request.rows.refused(over),
                None => {
                    let was_refused = matches!(outcome, Outcome::Refused(_));
                    let response = request.rows.answer(outcome)?;
                    if was_refused && response.status() == RecordStatus::RateLimited {
                        reactor.metrics.backpressure.add(1);
                    }
                    response
                }
            };
            reactor.count_requests(response.status(), 1);
            put_message(out, &response);
            reactor.observe_ack(request.received, *now.get_or_insert_with(Instant::now));
        }
        Ok(())
    }

    fn settle(&mut self) -> Option<bool> {
        while let Some(request) = self.submitted.front() {
            if let Some(slot) = &request.slot {
                self.in_doubt |= take_outcome(slot)?.may_stand();
            }
            self.bytes -= request.bytes;
            self.submitted.pop_front();
        }
        Some(self.in_doubt)
    }

    fn in_flight(&self) -> (usize, usize) {
        (self.submitted.len(), self.bytes)
    }
}
