//! A server that keeps nothing: answers `Append`, `IngestStream`, `Ingest` and `QueryTimeRange` as the contract says. The tests'
//! counterpart, and as `ttdust-bench sink` a way to see what the generator itself can do.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use h2::{RecvStream, SendStream, server::SendResponse};
use http::{HeaderMap, HeaderValue, Response};
use prost::Message;
use tokio::net::{TcpListener, TcpStream};
use ttdust_proto::{
    ingestion::{AppendRequest, AppendResponse, IngestError, IngestRequest, IngestResponse, Status},
    path,
    query::{Record, TimeRangeQueryRequest, TimeRangeQueryResponse},
};

use crate::wire::{Deframer, HEADER_BYTES, WireError, put_header};

const WINDOW_BYTES: u32 = 16 << 20;
const FRAME_BYTES: u32 = 1 << 20;
const RETRY_MILLIS: u32 = 1;

/// What the server does wrong, by the number of the request over all calls, from 1.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// Each `n`th request is refused for now; 0: none.
    pub rate_limit_every: u64,
    /// Each `n`th request is refused for what it holds; 0: none.
    pub reject_every: u64,
    /// The request before which the server stands still once, and for how long.
    pub stall: Option<(u64, Duration)>,
    /// The request at which the call ends with UNAVAILABLE.
    pub end_at: Option<u64>,
    /// Each `n`th accepted request is acked and not kept; 0: none.
    pub lose_every: u64,
}

/// A record as kept: sequence number, time, payload.
type Kept = (i64, i64, Bytes);

#[derive(Debug, Default)]
struct State {
    requests: u64,
    accepted: u64,
    next: HashMap<String, i64>,
    kept: HashMap<String, Vec<Kept>>,
    keys: HashMap<String, i64>,
    stalled: bool,
}

/// See the module's comment.
#[derive(Debug, Clone)]
pub struct Fake {
    faults: Faults,
    keep: bool,
    state: Arc<Mutex<State>>,
}

enum Verdict {
    Ack { first: i64, duplicate: bool },
    RateLimited,
    Rejected,
    End,
}

impl Fake {
    /// A server with `faults`; `keep`: holds all records in memory, and remembers keys.
    #[must_use]
    pub fn new(faults: Faults, keep: bool) -> Self {
        Self { faults, keep, state: Arc::default() }
    }

    /// Requests so far, and records accepted.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        let state = self.state();
        (state.requests, state.accepted)
    }

    /// Serves for ever at `address`; `bound` is told the real one.
    ///
    /// # Errors
    /// The address cannot be had.
    pub async fn serve(self, address: SocketAddr, bound: impl FnOnce(SocketAddr)) -> io::Result<()> {
        let listener = TcpListener::bind(address).await?;
        bound(listener.local_addr()?);
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let fake = self.clone();
            // A connection that breaks is the client's to notice.
            tokio::spawn(async move { drop(fake.connection(stream).await) });
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connection(self, stream: TcpStream) -> Result<(), h2::Error> {
        let mut builder = h2::server::Builder::new();
        builder
            .initial_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .max_frame_size(FRAME_BYTES)
            .max_concurrent_streams(10_000);
        let mut connection = builder.handshake::<_, Bytes>(stream).await?;
        while let Some(accepted) = connection.accept().await {
            let (request, answer) = accepted?;
            let fake = self.clone();
            tokio::spawn(async move {
                let called = request.uri().path().to_owned();
                drop(fake.call(&called, request.into_body(), answer).await);
            });
        }
        Ok(())
    }

    async fn call(&self, called: &str, mut body: RecvStream, mut answer: SendResponse<Bytes>) -> Result<(), h2::Error> {
        let head = Response::builder().header("content-type", "application/grpc").body(()).expect("constant");
        let mut send = answer.send_response(head, false)?;
        let mut deframer = Deframer::default();
        let mut stream = String::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk?;
            body.flow_control().release_capacity(chunk.len())?;
            let mut messages = Vec::new();
            let fed = deframer.feed(&chunk, |message| {
                messages.push(Bytes::copy_from_slice(message));
                Ok(())
            });
            if fed.is_err() {
                return end(&mut send, 13, "not gRPC");
            }
            let mut out = BytesMut::new();
            for message in messages {
                self.stall().await;
                match self.answer(called, message, &mut stream, &mut out) {
                    Ok(true) => {}
                    Ok(false) => {
                        send.send_data(out.freeze(), false)?;
                        return end(&mut send, 14, "the fake goes away");
                    }
                    Err(_) => return end(&mut send, 12, "not served by the fake"),
                }
            }
            if !out.is_empty() {
                send.send_data(out.freeze(), false)?;
            }
        }
        end(&mut send, 0, "")
    }

    async fn stall(&self) {
        let Some((at, time)) = self.faults.stall else { return };
        let due = {
            let mut state = self.state();
            let due = !state.stalled && state.requests + 1 >= at;
            state.stalled |= due;
            due
        };
        if due {
            tokio::time::sleep(time).await;
        }
    }

    /// Appends the answer to `message`. False: the call ends.
    fn answer(&self, called: &str, message: Bytes, stream: &mut String, out: &mut BytesMut) -> Result<bool, WireError> {
        let malformed = |_| WireError::Malformed;
        match called {
            path::APPEND => {
                let request = AppendRequest::decode(message).map_err(malformed)?;
                if !request.stream_id.is_empty() {
                    stream.clone_from(&request.stream_id);
                }
                let verdict = self.judge(stream, &request.payloads, &request.idempotency_keys);
                let Some(answer) = append_answer(&verdict, request.payloads.len() as u32) else { return Ok(false) };
                put(out, &answer);
            }
            path::INGEST_STREAM | path::INGEST => {
                let request = IngestRequest::decode(message).map_err(malformed)?;
                let keys: Vec<String> = request.idempotency_key.into_iter().collect();
                let verdict = self.judge(&request.stream_id, &[request.payload], &keys);
                let Some(answer) = ingest_answer(&verdict) else { return Ok(false) };
                put(out, &answer);
            }
            path::QUERY_TIME_RANGE => {
                put(out, &self.query(&TimeRangeQueryRequest::decode(message).map_err(malformed)?));
            }
            _ => return Err(WireError::Malformed),
        }
        Ok(true)
    }

    fn judge(&self, stream: &str, payloads: &[Bytes], keys: &[String]) -> Verdict {
        let mut state = self.state();
        state.requests += 1;
        let (number, faults) = (state.requests, self.faults);
        let every = |n: u64| n > 0 && number.is_multiple_of(n);
        if faults.end_at.is_some_and(|at| number >= at) {
            return Verdict::End;
        }
        if every(faults.rate_limit_every) {
            return Verdict::RateLimited;
        }
        if every(faults.reject_every) {
            return Verdict::Rejected;
        }
        if self.keep
            && let Some(&first) = keys.first().and_then(|key| state.keys.get(key))
        {
            return Verdict::Ack { first, duplicate: true };
        }
        let count = payloads.len() as i64;
        let first = match state.next.get_mut(stream) {
            Some(next) => std::mem::replace(next, *next + count),
            None => {
                state.next.insert(stream.to_owned(), 1 + count);
                1
            }
        };
        state.accepted += count as u64;
        if self.keep {
            state.keys.extend(keys.iter().zip(first..).map(|(key, sequence)| (key.clone(), sequence)));
            if !every(faults.lose_every) {
                let kept = state.kept.entry(stream.to_owned()).or_default();
                kept.extend(
                    payloads.iter().zip(first..).map(|(record, sequence)| (sequence, time(first), record.clone())),
                );
            }
        }
        Verdict::Ack { first, duplicate: false }
    }

    fn query(&self, request: &TimeRangeQueryRequest) -> TimeRangeQueryResponse {
        let state = self.state();
        let after: i64 = request.cursor.as_ref().and_then(|cursor| cursor.parse().ok()).unwrap_or(0);
        let range = request.start_time_unix_micros..request.end_time_unix_micros;
        let limit = request.limit.unwrap_or(1000) as usize;
        let kept = state.kept.get(&request.stream_id).map_or(&[][..], Vec::as_slice);
        let records: Vec<Record> = kept
            .iter()
            .filter(|(sequence, time, _)| *sequence > after && range.contains(time))
            .take(limit)
            .map(|(sequence, time, payload)| Record {
                sequence_number: *sequence,
                timestamp_unix_micros: *time,
                payload: payload.clone(),
                ..Record::default()
            })
            .collect();
        let next_cursor =
            if records.len() == limit { records.last().map(|record| record.sequence_number.to_string()) } else { None };
        TimeRangeQueryResponse { records, next_cursor, metadata: None }
    }
}

/// The time of all records of a request, by the first: made up, so that runs are alike.
fn time(sequence: i64) -> i64 {
    1_700_000_000_000_000 + sequence / 7
}

fn append_answer(verdict: &Verdict, count: u32) -> Option<AppendResponse> {
    let answer = match *verdict {
        Verdict::End => return None,
        Verdict::RateLimited => AppendResponse {
            status: Status::RateLimited as i32,
            rejected: count,
            retry_after_millis: Some(RETRY_MILLIS),
            ..AppendResponse::default()
        },
        Verdict::Rejected => AppendResponse {
            status: Status::ValidationError as i32,
            rejected: count,
            error: Some(rejection()),
            ..AppendResponse::default()
        },
        Verdict::Ack { first, duplicate } => AppendResponse {
            status: if duplicate { Status::Duplicate } else { Status::Ok } as i32,
            first_sequence: first,
            last_sequence: first + i64::from(count) - 1,
            timestamp_unix_micros: time(first),
            accepted: if duplicate { 0 } else { count },
            duplicates: if duplicate { count } else { 0 },
            schema_version: 1,
            ..AppendResponse::default()
        },
    };
    Some(answer)
}

fn ingest_answer(verdict: &Verdict) -> Option<IngestResponse> {
    let (status, sequence, error) = match *verdict {
        Verdict::End => return None,
        Verdict::RateLimited => (Status::RateLimited, 0, None),
        Verdict::Rejected => (Status::ValidationError, 0, Some(rejection())),
        Verdict::Ack { first, duplicate } => (if duplicate { Status::Duplicate } else { Status::Ok }, first, None),
    };
    Some(IngestResponse {
        record_id: "rec_018f4e3c-0000-8000-8000-000000000000".to_owned(),
        sequence_number: sequence,
        timestamp_unix_micros: time(sequence),
        status: status as i32,
        error,
    })
}

fn rejection() -> IngestError {
    IngestError {
        code: "SCHEMA_VIOLATION".to_owned(),
        message: "the fake does not like it".to_owned(),
        field_errors: Vec::new(),
    }
}

fn put(out: &mut BytesMut, message: &impl Message) {
    let len = message.encoded_len();
    out.reserve(HEADER_BYTES + len);
    put_header(out, len);
    message.encode(out).expect("a BytesMut grows");
}

fn end(send: &mut SendStream<Bytes>, code: u32, message: &'static str) -> Result<(), h2::Error> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(code));
    if !message.is_empty() {
        trailers.insert("grpc-message", HeaderValue::from_static(message));
    }
    send.send_trailers(trailers)
}
