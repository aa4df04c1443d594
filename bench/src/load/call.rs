//! One bidirectional call (`Append`, `IngestStream`): sends what is due in as few DATA frames as can be, reads answers in place.
//!
//! Invariant: answers come in the order of their requests, so a queue tells which request an answer is for.

use std::{
    collections::VecDeque,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use h2::{RecvStream, SendStream, client::ResponseFuture};
use ttdust_proto::ingestion::Status;

use super::{
    flight::{Flight, Sent},
    shared::Shared,
};
use crate::{
    client::GrpcStatus,
    messages::{Coalescer, Messages, Ring},
    wire::{Answer, AnswerKind, Deframer, WireError},
};

/// What a refused request waits where the answer does not say, in ms.
pub const RETRY_MILLIS: u32 = 20;

/// What a call sends.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Sets it apart from all other calls of the run.
    pub number: u16,
    /// The index of its stream.
    pub stream: usize,
    /// The stream's id or name.
    pub stream_id: Rc<str>,
    /// The requests.
    pub messages: Rc<Messages>,
    /// The same, encoded.
    pub ring: Option<Rc<Ring>>,
    /// Which answers come.
    pub kind: AnswerKind,
}

#[derive(Debug)]
enum Answers {
    Head(ResponseFuture),
    Body(RecvStream),
    Ended,
}

/// See the module's comment.
#[derive(Debug)]
pub struct Call {
    plan: Plan,
    flight: Flight,
    sent: VecDeque<Sent>,
    send: SendStream<Bytes>,
    answers: Answers,
    deframer: Deframer,
    coalescer: Coalescer,
    last_sequence: i64,
    named_stream: bool,
    half_closed: bool,
}

impl Call {
    /// A call whose head was sent.
    #[must_use]
    pub fn new(plan: Plan, flight: Flight, head: ResponseFuture, send: SendStream<Bytes>) -> Self {
        Self {
            plan,
            flight,
            sent: VecDeque::new(),
            send,
            answers: Answers::Head(head),
            deframer: Deframer::default(),
            coalescer: Coalescer::default(),
            last_sequence: i64::MIN,
            named_stream: false,
            half_closed: false,
        }
    }

    /// Reads what came, and sends what is due. Whether the call has ended.
    pub fn poll(&mut self, cx: &mut Context<'_>, shared: &Shared) -> bool {
        if let Err(failure) = self.read(cx, shared) {
            self.fail(shared, &failure.0, &failure.1);
        }
        if matches!(self.answers, Answers::Ended) {
            return true;
        }
        if let Err(error) = self.pump(shared) {
            self.fail(shared, "connection", &error.to_string());
        }
        matches!(self.answers, Answers::Ended)
    }

    /// When to poll again without anything coming in, in ns since the run began.
    #[must_use]
    pub fn wake_ns(&self, now_ns: u64) -> Option<u64> {
        self.flight.wake_ns(now_ns)
    }

    /// Ends the call: what is not answered is lost.
    pub fn abandon(&mut self, shared: &Shared) {
        let mut stats = shared.stats.borrow_mut();
        stats.unanswered += self.sent.len() as u64;
        self.sent.clear();
        let now_ns = shared.now_ns();
        self.flight.stop(shared.window().to_ns);
        stats.never_sent(self.flight.unsent(), now_ns, shared.window());
        self.answers = Answers::Ended;
    }

    fn fail(&mut self, shared: &Shared, kind: &str, message: &str) {
        shared.stats.borrow_mut().errors.add(kind, 1, message);
        // A schedule that nobody serves any more is not a latency.
        shared.stats.borrow_mut().unanswered += self.sent.len() as u64;
        self.sent.clear();
        self.answers = Answers::Ended;
    }

    fn read(&mut self, cx: &mut Context<'_>, shared: &Shared) -> Result<(), (String, String)> {
        let connection = |error: h2::Error| ("connection".to_owned(), error.to_string());
        loop {
            match &mut self.answers {
                Answers::Ended => return Ok(()),
                Answers::Head(head) => {
                    let Poll::Ready(head) = std::pin::Pin::new(head).poll(cx) else { return Ok(()) };
                    let head = head.map_err(connection)?;
                    if head.status() != http::StatusCode::OK {
                        let status = head.status().as_u16();
                        return Err((format!("HTTP {status}"), "is this the gRPC port?".to_owned()));
                    }
                    if let Some(status) = GrpcStatus::read(head.headers()) {
                        return self.ended(Some(status), shared);
                    }
                    self.answers = Answers::Body(head.into_body());
                }
                Answers::Body(body) => match body.poll_data(cx) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Some(chunk)) => {
                        let chunk = chunk.map_err(connection)?;
                        body.flow_control().release_capacity(chunk.len()).map_err(connection)?;
                        self.take_answers(&chunk, shared)
                            .map_err(|error| ("protocol".to_owned(), error.to_string()))?;
                    }
                    Poll::Ready(None) => {
                        let Poll::Ready(trailers) = body.poll_trailers(cx) else { return Ok(()) };
                        let status = trailers.map_err(connection)?.as_ref().and_then(GrpcStatus::read);
                        return self.ended(status, shared);
                    }
                },
            }
        }
    }

    fn ended(&mut self, status: Option<GrpcStatus>, shared: &Shared) -> Result<(), (String, String)> {
        match status {
            Some(status) if status.code != 0 => Err((status.kind(), status.message)),
            None => Err(("protocol".to_owned(), "the call ended without a grpc-status".to_owned())),
            Some(_) if !self.half_closed || !self.sent.is_empty() || !self.deframer.is_empty() => {
                Err(("protocol".to_owned(), "the server ended the call though requests were open".to_owned()))
            }
            Some(_) => {
                self.abandon(shared);
                Ok(())
            }
        }
    }

    fn take_answers(&mut self, chunk: &[u8], shared: &Shared) -> Result<(), WireError> {
        let now_ns = shared.now_ns();
        let window = shared.window();
        let mut stats = shared.stats.borrow_mut();
        let before = stats.acked;
        let Self { plan, flight, sent: queue, deframer, last_sequence, .. } = self;
        let fed = deframer.feed(chunk, |message| {
            let sent = queue.pop_front().ok_or(WireError::Unasked)?;
            let answer = plan.kind.read(message)?;
            if answer.is_rate_limited() {
                stats.rate_limited += 1;
                stats.retries += u64::from(flight.refused(sent, again_ns(&answer, now_ns)));
                return Ok(());
            }
            flight.done();
            stats.answered(&answer, sent, plan.stream, &plan.messages, now_ns, window);
            if answer.accepted > 0 {
                stats.violations.order += u64::from(answer.first_sequence <= *last_sequence);
                *last_sequence = answer.last_sequence;
            }
            let good = answer.status == Status::Ok as i32 || answer.status == Status::Duplicate as i32;
            if !good || answer.rejected + answer.dead_lettered > 0 {
                let text = first_text(plan.kind, message);
                for (reason, count) in plan.kind.reasons(message, plan.messages.batch())? {
                    stats.errors.add(&reason, count, &text);
                }
            }
            Ok(())
        });
        shared.progress(stats.acked - before);
        fed
    }

    fn pump(&mut self, shared: &Shared) -> Result<(), h2::Error> {
        let now_ns = shared.now_ns();
        self.flight.stop(shared.window().to_ns);
        let Self { plan, flight, coalescer, send, .. } = self;
        let window = shared.window();
        while let Some(due) = flight.take(now_ns) {
            if let Some(lag_ns) = due.lag_ns.filter(|_| window.holds(due.sent.start_ns)) {
                shared.stats.borrow_mut().lag.saturating_record(lag_ns);
            }
            self.sent.push_back(due.sent);
            let message = due.sent.message;
            let before = match plan.ring.as_deref() {
                Some(ring) if self.named_stream => coalescer.push_ring(ring, message),
                ring => {
                    let (before, out) = coalescer.push_encoded(ring);
                    // Sticky in `Append`; each `IngestRequest` names it.
                    let name = plan.kind == AnswerKind::Ingest || !self.named_stream;
                    plan.messages.encode(out, message, plan.number, name.then_some(&*plan.stream_id));
                    self.named_stream = true;
                    before
                }
            };
            if let Some(before) = before {
                send.send_data(before, false)?;
            }
        }
        if let Some(rest) = coalescer.finish(plan.ring.as_deref()) {
            send.send_data(rest, false)?;
        }
        if !self.half_closed && flight.is_over(now_ns) {
            send.send_data(Bytes::new(), true)?;
            self.half_closed = true;
        }
        Ok(())
    }
}

/// When a refused request goes again.
#[must_use]
pub fn again_ns(answer: &Answer, now_ns: u64) -> u64 {
    let told = if answer.retry_after_millis == 0 { RETRY_MILLIS } else { answer.retry_after_millis };
    now_ns + u64::from(told) * 1_000_000
}

/// What an answer says to people about its first error. Allocates: the cold path.
#[must_use]
pub fn first_text(kind: AnswerKind, message: &[u8]) -> String {
    use prost::Message as _;
    use ttdust_proto::ingestion::{AppendResponse, IngestError, IngestResponse};
    let text = |error: IngestError| match error.field_errors.first() {
        Some(field) => format!("{} (at {:?}: {})", error.message, field.path, field.message),
        None => error.message,
    };
    let error = match kind {
        AnswerKind::Ingest => IngestResponse::decode(message).ok().and_then(|answer| answer.error),
        AnswerKind::Append => AppendResponse::decode(message)
            .ok()
            .and_then(|answer| answer.error.or_else(|| answer.row_errors.into_iter().next().and_then(|row| row.error))),
    };
    error.map_or_else(String::new, text)
}
