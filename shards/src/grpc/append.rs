//! `Append`: many records a message, one submission and one answer each.

use std::{collections::VecDeque, rc::Rc, sync::Arc, time::Instant};

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use ttdust_proto::ingestion::{
    AppendRequest, AppendResponse, DuplicateSequence, IngestError, OnInvalid, RowError, Status as RecordStatus,
};

use super::{
    exchange::Method,
    framing::put_message,
    intake::{Intake, in_stream, refused_in_stream, take_outcome},
    status::{Code, Status},
};
use crate::{
    dedup::writers::{ID_BYTES_MAX, WriterRefused},
    message::{Committed, Outcome, Refusal, WriterRows},
    reactor::{Bell, Slot},
    snapshot::StreamEntry,
};

/// Bad records that an answer describes; the others are only counted.
const ROW_ERRORS_MAX: usize = 100;

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
    stream: Arc<StreamEntry>,
    records: u32,
    rejected: u32,
    row_errors: Vec<RowError>,
    /// Index in the request of each submitted record; empty: all, in order.
    taken: Vec<u32>,
    bytes: usize,
    received: Instant,
    /// `None`: nothing was submitted.
    slot: Option<Rc<Slot>>,
    /// The caller was over a limit.
    limited: Option<Box<Status>>,
    /// It is a writer's, so that what is told of its records goes by their index in the request.
    is_writers: bool,
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

    /// Leaves the good records in `request` and tells which they were.
    fn sort_out(&self, request: &mut AppendRequest, answer: &mut Request) {
        let mut bad = Vec::new();
        for (index, payload) in request.payloads.iter().enumerate() {
            if answer.row_errors.len() == ROW_ERRORS_MAX {
                // The others are only counted, or not even that: an explanation costs many times what a check does.
                if request.on_invalid() == OnInvalid::Atomic {
                    break;
                }
                if !self.intake.accepts(&answer.stream, payload) {
                    bad.push(index as u32);
                }
            } else if let Err(invalid) = self.intake.check(&answer.stream, payload) {
                bad.push(index as u32);
                let error = Some(Status::invalid_record(&invalid).to_error());
                answer.row_errors.push(RowError { index: index as u32, error });
            }
        }
        if bad.is_empty() {
            return;
        }
        if request.on_invalid() == OnInvalid::Atomic {
            answer.rejected = answer.records;
            request.payloads.clear();
            request.idempotency_keys.clear();
            return;
        }
        answer.rejected = bad.len() as u32;
        answer.taken = (0..answer.records).filter(|index| bad.binary_search(index).is_err()).collect();
        request.payloads = answer.taken.iter().map(|&index| request.payloads[index as usize].clone()).collect();
        if !request.idempotency_keys.is_empty() {
            let keys = &mut request.idempotency_keys;
            *keys = answer.taken.iter().map(|&index| std::mem::take(&mut keys[index as usize])).collect();
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
        let mut answer = Request {
            stream,
            records: request.payloads.len() as u32,
            rejected: 0,
            row_errors: Vec::new(),
            taken: Vec::new(),
            bytes,
            received,
            slot: None,
            limited: None,
            is_writers: !request.writer_id.is_empty(),
        };
        match self.intake.charge(request.payloads.len(), bytes, received) {
            Ok(()) => self.sort_out(&mut request, &mut answer),
            Err(over) => {
                answer.limited = Some(Box::new(over));
                request.payloads.clear();
            }
        }
        // Rejected records take a number of their writer's too, but for those of a request that is refused whole.
        let refused = answer.limited.is_some() || (answer.rejected > 0 && request.on_invalid() == OnInvalid::Atomic);
        let writer = answer.is_writers.then(|| WriterRows {
            id: std::mem::take(&mut request.writer_id).into(),
            epoch: request.writer_epoch,
            first: request.first_writer_sequence,
            sent: answer.records,
            taken: if answer.rejected == 0 { (0..answer.records).collect() } else { answer.taken.clone() },
        });
        if !refused && (writer.is_some() || !request.payloads.is_empty()) {
            let keys = request.idempotency_keys.into_iter().map(Bytes::from).collect();
            let (stream, bell) = (&answer.stream, &self.bell);
            answer.slot =
                Some(self.intake.submit(stream, request.payloads, keys, metadata, writer.map(Box::new), bell));
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
            let response = match outcome {
                _ if request.limited.is_some() => {
                    let (error, retry_after_millis) = request.limited.as_deref().map(in_stream).unwrap_or_default();
                    request.refused(error, retry_after_millis)
                }
                Outcome::Unknown => return Err(Status::outcome_unknown()),
                Outcome::Refused(refusal @ Refusal::Writer(WriterRefused::Gap(_))) => AppendResponse {
                    status: RecordStatus::ValidationError.into(),
                    retry_after_millis: None,
                    ..request.refused(Status::refused(refusal).to_error(), 0)
                },
                Outcome::Refused(refusal) => {
                    let (error, retry_after_millis) = refused_in_stream(reactor, refusal)?;
                    request.refused(error, retry_after_millis)
                }
                Outcome::Committed(committed) => request.committed(committed),
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

impl Request {
    /// The answer when nothing was admitted: the whole request can be sent again.
    fn refused(&mut self, error: IngestError, retry_after_millis: u32) -> AppendResponse {
        AppendResponse {
            rejected: self.records,
            row_errors: std::mem::take(&mut self.row_errors),
            status: RecordStatus::RateLimited.into(),
            schema_version: self.stream.schema.version as i32,
            retry_after_millis: Some(retry_after_millis),
            error: Some(error),
            ..AppendResponse::default()
        }
    }

    fn committed(&mut self, committed: Committed) -> AppendResponse {
        if self.is_writers {
            self.settle_rejected(&committed);
        }
        let duplicates = committed.duplicates.len() as u32;
        let status = match committed.accepted {
            0 if self.rejected > 0 && duplicates == 0 => RecordStatus::ValidationError,
            0 if duplicates > 0 => RecordStatus::Duplicate,
            _ => RecordStatus::Ok,
        };
        let error = (status == RecordStatus::ValidationError).then(|| IngestError {
            code: "INVALID_RECORDS".to_owned(),
            message: format!("{} of {} records rejected: see row_errors", self.rejected, self.records),
            field_errors: Vec::new(),
        });
        let duplicate_sequences = committed
            .duplicates
            .iter()
            .filter(|(_, seen)| seen.sequence > 0)
            .map(|&(at, seen)| DuplicateSequence { index: self.index_of(at), sequence_number: seen.sequence })
            .collect();
        let last_sequence = match committed.accepted {
            0 => 0,
            accepted => committed.first_sequence + i64::from(accepted) - 1,
        };
        AppendResponse {
            first_sequence: committed.first_sequence,
            last_sequence,
            timestamp_unix_micros: match committed.duplicates.first() {
                Some((_, original)) if committed.accepted == 0 => original.timestamp_unix_micros,
                _ => committed.timestamp_unix_micros,
            },
            accepted: committed.accepted,
            duplicates,
            rejected: self.rejected,
            dead_lettered: 0,
            row_errors: std::mem::take(&mut self.row_errors),
            status: status.into(),
            schema_version: self.stream.schema.version as i32,
            retry_after_millis: None,
            error,
            duplicate_sequences,
        }
    }

    /// Of a writer's request, what was said of a record when its number was taken stands, whatever its schema says now.
    fn settle_rejected(&mut self, committed: &Committed) {
        self.rejected = self.records - committed.accepted - committed.duplicates.len() as u32;
        let is_duplicate = |index| committed.duplicates.binary_search_by_key(&index, |&(at, _)| at).is_ok();
        self.row_errors.retain(|error| !is_duplicate(error.index));
        for &index in &committed.rejected {
            let told = self.row_errors.iter().any(|error| error.index == index);
            if !told && self.row_errors.len() < ROW_ERRORS_MAX {
                let code = "WRITER_SEQUENCE_REJECTED".to_owned();
                let message =
                    "this number's record was rejected when it was first sent: send it under a new one".to_owned();
                let error = Some(IngestError { code, message, field_errors: Vec::new() });
                self.row_errors.push(RowError { index, error });
            }
        }
        self.row_errors.sort_by_key(|error| error.index);
    }

    /// The index in the request of the record that was submitted as number `submitted`.
    fn index_of(&self, submitted: u32) -> u32 {
        if self.is_writers || self.taken.is_empty() { submitted } else { self.taken[submitted as usize] }
    }
}
