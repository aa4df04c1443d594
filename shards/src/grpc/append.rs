//! `Append`: many records a message, one submission and one answer each.

use std::{collections::VecDeque, rc::Rc, sync::Arc, time::Instant};

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use ttdust_proto::{
    ingestion::{AppendRequest, AppendResponse, OnInvalid, Status as RecordStatus},
    path,
};

use super::{
    exchange::Method,
    framing::put_message,
    intake::{Intake, take_outcome},
    rows::{KnownBy, Letters, Rows},
    status::{Code, Status},
    traced::{Traced, note_request},
};
use crate::{
    dedup::writers::ID_BYTES_MAX,
    message::{Committed, Outcome, WriterRows},
    reactor::{Bell, Slot},
    snapshot::StreamEntry,
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
    /// Requests whose dead letters are not sent yet.
    unsent: usize,
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
    /// What became of the records, once it is known.
    outcome: Option<Outcome>,
    /// Dead letters, and what became of them.
    letters: Vec<(Rc<Slot>, Option<Outcome>)>,
    /// Those that follow once the records are taken, and their stream.
    unsent: Option<(Arc<StreamEntry>, Vec<Letters>)>,
    /// The caller was over a limit.
    limited: Option<Box<Status>>,
    traced: Option<Box<Traced>>,
}

impl Append {
    /// A call whose submissions ring `bell`.
    #[must_use]
    pub fn new(intake: Intake, bell: Rc<Bell>) -> Self {
        Self {
            intake,
            bell,
            stream_id: String::new(),
            submitted: VecDeque::new(),
            bytes: 0,
            unsent: 0,
            in_doubt: false,
        }
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
            Ok(OnInvalid::Atomic | OnInvalid::Skip | OnInvalid::Dlq) => Ok(()),
            Err(_) => invalid("MALFORMED_MESSAGE", format!("on_invalid {} is not a known value", request.on_invalid)),
        }
    }
}

impl Append {
    /// The stream of a stream's dead letters.
    fn letters_of(&self, stream: &StreamEntry) -> Option<Arc<StreamEntry>> {
        stream.dead_letters.and_then(|id| self.intake.reactor.catalog().stream(id).cloned())
    }

    /// Sends the dead letters of requests whose records are taken. Of records that are not, there are none: what is sent again
    /// whole would make second ones, where it has no keys.
    fn send_letters(&mut self) {
        if self.unsent == 0 {
            return;
        }
        for request in &mut self.submitted {
            request.look();
            let is_known = request.slot.is_none() || request.outcome.is_some();
            let Some((stream, letters)) = request.unsent.take_if(|_| is_known) else { continue };
            self.unsent -= 1;
            if matches!(&request.outcome, None | Some(Outcome::Committed(_))) {
                let submit = |Letters { payloads, keys }| {
                    (self.intake.submit(&stream, payloads, keys, Bytes::new(), (None, None), &self.bell), None)
                };
                request.letters = letters.into_iter().map(submit).collect();
            }
        }
    }
}

impl Request {
    /// Takes note of what is known by now.
    fn look(&mut self) {
        if let (Some(slot), None) = (&self.slot, &self.outcome) {
            self.outcome = take_outcome(slot);
        }
        for (slot, outcome) in &mut self.letters {
            if outcome.is_none() {
                *outcome = take_outcome(slot);
            }
        }
    }

    /// Whether it is known what became of it; takes note of what is.
    fn is_done(&mut self) -> bool {
        self.look();
        self.unsent.is_none()
            && (self.slot.is_none() || self.outcome.is_some())
            && self.letters.iter().all(|(_, outcome)| outcome.is_some())
    }

    /// What became of the records, and of the letters.
    fn take_outcomes(&mut self) -> (Outcome, Vec<Outcome>) {
        let letters = self.letters.drain(..).filter_map(|(_, outcome)| outcome).collect();
        (self.outcome.take().unwrap_or_else(|| Outcome::Committed(Committed::nothing())), letters)
    }
}

impl Append {
    fn take_request(
        &mut self,
        message: Bytes,
        received: Instant,
        traced: &mut Option<Box<Traced>>,
    ) -> Result<(), Status> {
        let bytes = message.len();
        let mut request = AppendRequest::decode(message).map_err(|error| Status::bad_message(&error))?;
        step(traced, "decode");
        if !request.stream_id.is_empty() {
            self.stream_id = std::mem::take(&mut request.stream_id);
        }
        self.check_request(&request)?;
        let stream = self.intake.stream(&self.stream_id, &request.schema_id)?;
        let metadata = self.intake.metadata(&request.metadata)?;
        request.idempotency_keys.iter().try_for_each(|key| self.intake.check_key(key))?;
        let is_writers = !request.writer_id.is_empty();
        let rows = Rows::new(&stream, request.payloads.len(), is_writers);
        let mut answer = Request {
            rows,
            bytes,
            received,
            slot: None,
            outcome: None,
            letters: Vec::new(),
            unsent: None,
            limited: None,
            traced: None,
        };
        let on_invalid = request.on_invalid();
        let to_letters = match on_invalid {
            OnInvalid::Dlq => Some(self.letters_of(&stream).ok_or_else(Status::dlq_missing)?),
            OnInvalid::Atomic | OnInvalid::Skip => None,
        };
        // Of what is not taken, the keys are wanted too.
        let sent_keys = if on_invalid == OnInvalid::Dlq { request.idempotency_keys.clone() } else { Vec::new() };
        let (payloads, keys) = (&mut request.payloads, &mut request.idempotency_keys);
        match self.intake.charge(payloads.len(), bytes, received) {
            Ok(()) => answer.rows.sort_out(on_invalid, payloads, keys, &mut self.intake.checks(&stream)),
            Err(over) => answer.limited = Some(Box::new(over)),
        }
        let known_by = if is_writers {
            KnownBy::Numbers(request.writer_id.as_bytes(), request.first_writer_sequence)
        } else {
            KnownBy::Keys(&sent_keys)
        };
        let letters = answer.rows.letters(&stream, known_by, &metadata);
        answer.unsent = to_letters.filter(|_| !letters.is_empty()).map(|to| (to, letters));
        // Rejected records take a number of their writer's too, but for those of a request that is refused whole.
        let refused = answer.limited.is_some() || answer.rows.are_refused(on_invalid);
        let writer = is_writers.then(|| WriterRows {
            id: std::mem::take(&mut request.writer_id).into(),
            epoch: request.writer_epoch,
            first: request.first_writer_sequence,
            sent: answer.rows.records(),
            taken: answer.rows.taken(),
        });
        if let Some(traced) = traced {
            traced.step("validate");
            note_request(traced, &stream, answer.rows.records(), bytes);
        }
        if !refused && (writer.is_some() || !request.payloads.is_empty()) {
            let keys = request.idempotency_keys.into_iter().map(Bytes::from).collect();
            let more = (writer.map(Box::new), traced.is_some().then(Box::default));
            answer.slot = Some(self.intake.submit(&stream, request.payloads, keys, metadata, more, &self.bell));
        }
        answer.traced = traced.take();
        self.bytes += bytes;
        self.unsent += usize::from(answer.unsent.is_some());
        self.submitted.push_back(answer);
        Ok(())
    }
}

/// A step of a request was done.
fn step(traced: &mut Option<Box<Traced>>, name: &'static str) {
    if let Some(traced) = traced {
        traced.step(name);
    }
}

fn note_answer(traced: &mut Traced, response: &AppendResponse) {
    traced.note("ttdust.status", response.status().as_str_name());
    traced.note_taken(response.accepted, response.duplicates, response.first_sequence);
    traced.note("ttdust.records.rejected", response.rejected);
    traced.answered();
}

impl Method for Append {
    fn take(&mut self, message: Bytes, received: Instant) -> Result<(), Status> {
        let mut traced = self.intake.trace(path::APPEND, received);
        let taken = self.take_request(message, received, &mut traced);
        if let (Err(status), Some(traced)) = (&taken, &mut traced) {
            traced.failed(status);
        }
        taken
    }

    fn flush(&mut self) {}

    fn put_answers(&mut self, out: &mut BytesMut) -> Result<(), Status> {
        self.send_letters();
        let mut now = None;
        while let Some(request) = self.submitted.front_mut() {
            if !request.is_done() {
                break;
            }
            let Some(mut request) = self.submitted.pop_front() else { break };
            let (outcome, letters) = request.take_outcomes();
            if let Some(traced) = &mut request.traced {
                traced.outcome(outcome.marks());
            }
            self.bytes -= request.bytes;
            let reactor = &self.intake.reactor;
            let response = match &request.limited {
                Some(over) => request.rows.refused(over),
                None => {
                    let was_refused = matches!(outcome, Outcome::Refused(_));
                    let answered = request.rows.answer_with_letters(outcome, letters);
                    if let (Err(status), Some(traced)) = (&answered, &mut request.traced) {
                        traced.failed(status);
                    }
                    let response = answered?;
                    if was_refused && response.status() == RecordStatus::RateLimited {
                        reactor.metrics.backpressure.add(1);
                    }
                    response
                }
            };
            reactor.count_requests(response.status(), 1);
            put_message(out, &response);
            if let Some(traced) = &mut request.traced {
                note_answer(traced, &response);
            }
            reactor.observe_ack(request.received, *now.get_or_insert_with(Instant::now));
        }
        Ok(())
    }

    fn settle(&mut self) -> Option<bool> {
        // Who gets no answer sends again.
        self.submitted.iter_mut().for_each(|request| request.unsent = None);
        self.unsent = 0;
        while let Some(request) = self.submitted.front_mut() {
            if !request.is_done() {
                return None;
            }
            let letters = request.letters.iter().filter_map(|(_, outcome)| outcome.as_ref());
            self.in_doubt |= request.outcome.iter().chain(letters).any(Outcome::may_stand);
            self.bytes -= request.bytes;
            self.submitted.pop_front();
        }
        Some(self.in_doubt)
    }

    fn in_flight(&self) -> (usize, usize) {
        (self.submitted.len(), self.bytes)
    }
}
