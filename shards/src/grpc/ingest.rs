//! `IngestStream` (one record a message) and `Ingest` (one record a call).

use std::{collections::VecDeque, rc::Rc, sync::Arc, time::Instant};

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message as _;
use ttdust_proto::{
    ingestion::{IngestError, IngestRequest, IngestResponse, Status as RecordStatus},
    path,
};

use super::{
    exchange::Method,
    framing::{PREFIX_BYTES, put_message},
    intake::{Intake, refused_in_stream, take_outcome},
    status::Status,
    traced::{Traced, note_end, note_request},
};
use crate::{
    dedup::Seen,
    ids::{RecordId, StreamId},
    message::{Committed, Outcome},
    reactor::{Bell, Reactor, Slot},
    snapshot::StreamEntry,
};

/// Records in one submission at most.
const GROUP_MAX: usize = 1024;
/// Bytes of requests past which a submission takes no more.
const GROUP_BYTES_MAX: usize = 1 << 20;

/// `IngestStream`.
#[derive(Debug)]
pub struct IngestStream {
    intake: Intake,
    bell: Rc<Bell>,
    /// Consecutive records of one stream that are not submitted yet.
    open: Option<Group>,
    submitted: VecDeque<Group>,
    requests: usize,
    bytes: usize,
    /// Something was taken that is not answered: see [`Method::settle`].
    in_doubt: bool,
}

/// Consecutive requests that share a submission.
#[derive(Debug)]
struct Group {
    stream: Arc<StreamEntry>,
    metadata: Bytes,
    payloads: Vec<Bytes>,
    /// Empty until a record has a key; from then on one a payload.
    keys: Vec<Bytes>,
    /// Requests in the group, the refused ones included.
    requests: u32,
    /// Position among the requests, and why; in order.
    refused: VecDeque<(u32, RecordStatus, IngestError)>,
    bytes: usize,
    received: Instant,
    /// `None`: every record was refused.
    slot: Option<Rc<Slot>>,
    /// They are traced as one.
    traced: Option<Box<Traced>>,
}

impl IngestStream {
    /// A call whose submissions ring `bell`.
    #[must_use]
    pub fn new(intake: Intake, bell: Rc<Bell>) -> Self {
        Self { intake, bell, open: None, submitted: VecDeque::new(), requests: 0, bytes: 0, in_doubt: false }
    }

    /// The open group, if the record can join it; else a new one.
    fn group(&mut self, stream: &Arc<StreamEntry>, metadata: &Bytes, received: Instant) -> &mut Group {
        let joins = self.open.as_ref().is_some_and(|group| {
            Arc::ptr_eq(&group.stream, stream)
                && group.metadata == *metadata
                && group.payloads.len() < GROUP_MAX
                && group.bytes < GROUP_BYTES_MAX
        });
        if !joins {
            self.flush();
        }
        let traced = || self.intake.trace(path::INGEST_STREAM, received);
        self.open.get_or_insert_with(|| Group {
            traced: traced(),
            stream: Arc::clone(stream),
            metadata: metadata.clone(),
            payloads: Vec::new(),
            keys: Vec::new(),
            requests: 0,
            refused: VecDeque::new(),
            bytes: 0,
            received,
            slot: None,
        })
    }
}

impl Method for IngestStream {
    fn take(&mut self, message: Bytes, received: Instant) -> Result<(), Status> {
        let bytes = message.len();
        let request = IngestRequest::decode(message).map_err(|error| Status::bad_message(&error))?;
        let stream = self.intake.stream(&request.stream_id, &request.schema_id)?;
        let metadata = self.intake.metadata(&request.metadata)?;
        let key = request.idempotency_key.unwrap_or_default();
        self.intake.check_key(&key)?;
        let verdict = match self.intake.charge(1, bytes, received) {
            Err(over) => Err((RecordStatus::RateLimited, over)),
            Ok(()) => self
                .intake
                .check(&stream, &request.payload)
                .map_err(|invalid| (RecordStatus::ValidationError, Status::invalid_record(&invalid))),
        };
        let group = self.group(&stream, &metadata, received);
        match verdict {
            Ok(()) => group.push(request.payload, Bytes::from(key)),
            Err((status, why)) => group.refused.push_back((group.requests, status, why.to_error())),
        }
        group.requests += 1;
        group.bytes += bytes;
        self.requests += 1;
        self.bytes += bytes;
        Ok(())
    }

    fn flush(&mut self) {
        let Some(mut group) = self.open.take() else { return };
        if let Some(traced) = &mut group.traced {
            traced.step("validate");
            note_request(traced, &group.stream, group.requests, group.bytes);
        }
        if !group.payloads.is_empty() {
            let (payloads, keys) = (std::mem::take(&mut group.payloads), std::mem::take(&mut group.keys));
            let metadata = std::mem::take(&mut group.metadata);
            let more = (None, group.traced.is_some().then(Box::default));
            group.slot = Some(self.intake.submit(&group.stream, payloads, keys, metadata, more, &self.bell));
        }
        self.submitted.push_back(group);
    }

    fn put_answers(&mut self, out: &mut BytesMut) -> Result<(), Status> {
        let mut now = None;
        while let Some(group) = self.submitted.front() {
            let outcome = match &group.slot {
                None => None,
                Some(slot) => match take_outcome(slot) {
                    None => break,
                    outcome => outcome,
                },
            };
            let Some(mut group) = self.submitted.pop_front() else { break };
            self.requests -= group.requests as usize;
            self.bytes -= group.bytes;
            let reactor = &self.intake.reactor;
            let mut traced = group.traced.take();
            let answered = group.put_answer(outcome, &mut traced, out, reactor);
            note_end(traced, &answered);
            answered?;
            reactor.observe_ack(group.received, *now.get_or_insert_with(Instant::now));
        }
        Ok(())
    }

    fn settle(&mut self) -> Option<bool> {
        while let Some(group) = self.submitted.front() {
            if let Some(slot) = &group.slot {
                self.in_doubt |= take_outcome(slot)?.may_stand();
            }
            self.requests -= group.requests as usize;
            self.bytes -= group.bytes;
            self.submitted.pop_front();
        }
        Some(self.in_doubt)
    }

    fn in_flight(&self) -> (usize, usize) {
        (self.requests, self.bytes)
    }
}

impl Group {
    /// Appends the answers to its requests.
    fn put_answer(
        &mut self,
        outcome: Option<Outcome>,
        traced: &mut Option<Box<Traced>>,
        out: &mut BytesMut,
        reactor: &Reactor,
    ) -> Result<(), Status> {
        let committed = match outcome {
            Some(Outcome::Unknown) => return Err(Status::outcome_unknown()),
            Some(Outcome::Refused(refusal)) => {
                let (error, _) = refused_in_stream(reactor, refusal)?;
                self.put_refused(&error, out);
                reactor.count_requests(RecordStatus::RateLimited, self.requests as usize);
                return Ok(());
            }
            Some(Outcome::Committed(committed)) => committed,
            None => Committed::nothing(),
        };
        if let Some(traced) = traced {
            traced.outcome(committed.marks.as_deref());
            traced.note_taken(committed.accepted, committed.duplicates.len() as u32, committed.first_sequence);
        }
        self.put_committed(&committed, out, reactor);
        Ok(())
    }

    fn push(&mut self, payload: Bytes, key: Bytes) {
        if !key.is_empty() && self.keys.is_empty() {
            self.keys.resize(self.payloads.len(), Bytes::new());
        }
        if !key.is_empty() || !self.keys.is_empty() {
            self.keys.push(key);
        }
        self.payloads.push(payload);
    }

    /// The refusal of the request at `position`, if it was refused.
    fn next_refused(&mut self, position: u32) -> Option<(RecordStatus, IngestError)> {
        if self.refused.front()?.0 != position {
            return None;
        }
        self.refused.pop_front().map(|(_, status, error)| (status, error))
    }

    fn put_refused(&mut self, error: &IngestError, out: &mut BytesMut) {
        for position in 0..self.requests {
            let (status, error) =
                self.next_refused(position).unwrap_or_else(|| (RecordStatus::RateLimited, error.clone()));
            put_error(out, error, status);
        }
    }

    fn put_committed(&mut self, committed: &Committed, out: &mut BytesMut, reactor: &Reactor) {
        let mut duplicates = committed.duplicates.iter().peekable();
        let mut sequence = committed.first_sequence;
        let (mut index, mut refused) = (0, [0; 2]);
        for position in 0..self.requests {
            if let Some((status, error)) = self.next_refused(position) {
                put_error(out, error, status);
                refused[usize::from(status == RecordStatus::RateLimited)] += 1;
                continue;
            }
            let timestamp = committed.timestamp_unix_micros;
            match duplicates.next_if(|(at, _)| *at == index) {
                Some(&(_, Seen { sequence, timestamp_unix_micros })) => {
                    put_record(out, self.stream.id, sequence, timestamp_unix_micros, RecordStatus::Duplicate);
                }
                None => {
                    put_record(out, self.stream.id, sequence, timestamp, RecordStatus::Ok);
                    sequence += 1;
                }
            }
            index += 1;
        }
        reactor.count_requests(RecordStatus::ValidationError, refused[0]);
        reactor.count_requests(RecordStatus::RateLimited, refused[1]);
        reactor.count_requests(RecordStatus::Duplicate, committed.duplicates.len());
        reactor.count_requests(RecordStatus::Ok, committed.accepted as usize);
    }
}

fn put_error(out: &mut BytesMut, error: IngestError, status: RecordStatus) {
    put_message(out, &IngestResponse { status: status.into(), error: Some(error), ..IngestResponse::default() });
}

/// An `IngestResponse` for a record that is on stable storage, encoded without building the message: the hot answer.
fn put_record(out: &mut BytesMut, stream: StreamId, sequence: i64, timestamp: i64, status: RecordStatus) {
    use prost::encoding::{encode_varint, encoded_len_varint};
    const ID_BYTES: usize = 40;
    let id = RecordId::of(stream, sequence).to_text();
    let (sequence, timestamp) = (sequence as u64, timestamp as u64);
    let length = 2 + ID_BYTES + 1 + encoded_len_varint(sequence) + 1 + encoded_len_varint(timestamp) + 2;
    out.reserve(PREFIX_BYTES + length);
    out.put_u8(0);
    out.put_u32(length as u32);
    // Field keys: number << 3 | wire type.
    out.put_slice(&[1 << 3 | 2, ID_BYTES as u8]);
    out.put_slice(&id);
    out.put_u8(2 << 3);
    encode_varint(sequence, out);
    out.put_u8(3 << 3);
    encode_varint(timestamp, out);
    out.put_slice(&[4 << 3, status as u8]);
}

/// One `Ingest` call.
///
/// # Errors
/// How the call ends.
pub async fn ingest(intake: Intake, bell: Rc<Bell>, message: Bytes) -> Result<IngestResponse, Status> {
    let received = Instant::now();
    let mut traced = intake.trace(path::INGEST, received);
    let answer = ingest_one(intake, bell, message, received, &mut traced).await;
    note_end(traced, &answer);
    answer
}

async fn ingest_one(
    mut intake: Intake,
    bell: Rc<Bell>,
    message: Bytes,
    received: Instant,
    traced: &mut Option<Box<Traced>>,
) -> Result<IngestResponse, Status> {
    let bytes = message.len();
    let request = IngestRequest::decode(message).map_err(|error| Status::bad_message(&error))?;
    let stream = intake.stream(&request.stream_id, &request.schema_id)?;
    let metadata = intake.metadata(&request.metadata)?;
    let key = request.idempotency_key.unwrap_or_default();
    intake.check_key(&key)?;
    if let Err(over) = intake.charge(1, bytes, received) {
        intake.reactor.count_requests(RecordStatus::RateLimited, 1);
        return Err(over);
    }
    if let Err(invalid) = intake.check(&stream, &request.payload) {
        intake.reactor.count_requests(RecordStatus::ValidationError, 1);
        return Err(Status::invalid_record(&invalid));
    }
    let keys = if key.is_empty() { Vec::new() } else { vec![Bytes::from(key)] };
    if let Some(traced) = traced {
        traced.step("validate");
        note_request(traced, &stream, 1, bytes);
    }
    let more = (None, traced.is_some().then(Box::default));
    let slot = intake.submit(&stream, vec![request.payload], keys, metadata, more, &bell);
    let outcome = loop {
        match take_outcome(&slot) {
            Some(outcome) => break outcome,
            None => bell.rung().await,
        }
    };
    let reactor = &intake.reactor;
    let committed = match outcome {
        Outcome::Committed(committed) => committed,
        Outcome::Unknown => return Err(Status::outcome_unknown()),
        Outcome::Refused(refusal) => {
            reactor.count_requests(RecordStatus::RateLimited, 1);
            reactor.metrics.backpressure.add(1);
            return Err(Status::refused(refusal));
        }
    };
    reactor.observe_ack(received, Instant::now());
    if let Some(traced) = traced {
        traced.outcome(committed.marks.as_deref());
        traced.note_taken(committed.accepted, committed.duplicates.len() as u32, committed.first_sequence);
    }
    let Committed { first_sequence: sequence, timestamp_unix_micros, .. } = committed;
    let (seen, status) = match committed.duplicates.first() {
        Some(&(_, original)) => (original, RecordStatus::Duplicate),
        None => (Seen { sequence, timestamp_unix_micros }, RecordStatus::Ok),
    };
    reactor.count_requests(status, 1);
    Ok(IngestResponse {
        record_id: RecordId::of(stream.id, seen.sequence).to_string(),
        sequence_number: seen.sequence,
        timestamp_unix_micros: seen.timestamp_unix_micros,
        status: status.into(),
        error: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hot_answer_is_encoded_as_prost_would() {
        let stream = StreamId::generate();
        for (sequence, timestamp) in [(1, 1), (300, 1_700_000_000_000_000), (i64::MAX >> 2, i64::MAX)] {
            let (mut ours, mut theirs) = (BytesMut::new(), BytesMut::new());
            put_record(&mut ours, stream, sequence, timestamp, RecordStatus::Duplicate);
            let response = IngestResponse {
                record_id: RecordId::of(stream, sequence).to_string(),
                sequence_number: sequence,
                timestamp_unix_micros: timestamp,
                status: RecordStatus::Duplicate.into(),
                error: None,
            };
            put_message(&mut theirs, &response);
            assert_eq!(ours, theirs);
        }
    }
}
