//! The unary `Ingest` calls of one connection: up to as many at a time as may be in flight.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use h2::{
    RecvStream,
    client::{ResponseFuture, SendRequest},
};

use super::{
    call::{Plan, RETRY_MILLIS, first_text},
    flight::{Flight, Sent},
    shared::Shared,
};
use crate::{
    client::{GrpcStatus, Target},
    wire::{Answer, AnswerKind, Deframer, WireError},
};

const RESOURCE_EXHAUSTED: u32 = 8;
const INVALID_ARGUMENT: u32 = 3;

#[derive(Debug)]
enum Stage {
    Head(ResponseFuture),
    Body(RecvStream),
}

#[derive(Debug)]
struct Open {
    sent: Sent,
    stage: Stage,
    deframer: Deframer,
    answer: Option<Answer>,
    reasons: Vec<(String, u64)>,
    text: String,
}

/// See the module's comment.
#[derive(Debug)]
pub struct UnaryCalls {
    plan: Plan,
    target: Target,
    flight: Flight,
    send: SendRequest<Bytes>,
    open: Vec<Open>,
    /// The server takes no more calls at a time: its answers wake us, no timer.
    full: bool,
}

impl UnaryCalls {
    /// Calls over the connection of `send`.
    #[must_use]
    pub fn new(plan: Plan, target: Target, flight: Flight, send: SendRequest<Bytes>) -> Self {
        Self { plan, target, flight, send, open: Vec::new(), full: false }
    }

    /// Reads what came, and calls what is due. Whether all is over.
    pub fn poll(&mut self, cx: &mut Context<'_>, shared: &Shared) -> bool {
        let mut index = 0;
        while index < self.open.len() {
            match self.open[index].poll(cx) {
                Poll::Pending => index += 1,
                Poll::Ready(end) => {
                    let open = self.open.swap_remove(index);
                    self.finish(open, end, shared);
                }
            }
        }
        self.flight.stop(shared.window().to_ns);
        if let Err(error) = self.pump(cx, shared) {
            let mut stats = shared.stats.borrow_mut();
            stats.errors.add("connection", 1, &error.to_string());
            stats.unanswered += self.open.len() as u64;
            self.open.clear();
            return true;
        }
        if self.flight.is_over(shared.now_ns()) {
            self.abandon(shared);
            return true;
        }
        false
    }

    /// See [`super::call::Call::wake_ns`].
    #[must_use]
    pub fn wake_ns(&self, now_ns: u64) -> Option<u64> {
        if self.full { None } else { self.flight.wake_ns(now_ns) }
    }

    /// See [`super::call::Call::abandon`].
    pub fn abandon(&mut self, shared: &Shared) {
        let mut stats = shared.stats.borrow_mut();
        stats.unanswered += self.open.len() as u64;
        self.open.clear();
        self.flight.stop(shared.window().to_ns);
        stats.never_sent(self.flight.unsent(), shared.now_ns(), shared.window());
    }

    fn pump(&mut self, cx: &mut Context<'_>, shared: &Shared) -> Result<(), h2::Error> {
        let now_ns = shared.now_ns();
        let window = shared.window();
        loop {
            let ready = self.send.poll_ready(cx);
            self.full = ready.is_pending();
            match ready {
                Poll::Pending => return Ok(()),
                Poll::Ready(ready) => ready?,
            }
            let Some(due) = self.flight.take(now_ns) else { return Ok(()) };
            if let Some(lag_ns) = due.lag_ns.filter(|_| window.holds(due.sent.start_ns)) {
                shared.stats.borrow_mut().lag.saturating_record(lag_ns);
            }
            let Plan { messages, ring, number, stream_id, .. } = &self.plan;
            let body = match ring {
                Some(ring) => ring.slice((due.sent.message % ring.len() as u64) as usize, 1),
                None => {
                    let mut out = BytesMut::new();
                    messages.encode(&mut out, due.sent.message, *number, Some(stream_id));
                    out.freeze()
                }
            };
            let (head, mut stream) = self.send.send_request(self.target.request(ttdust_proto::path::INGEST), false)?;
            stream.send_data(body, true)?;
            self.open.push(Open {
                sent: due.sent,
                stage: Stage::Head(head),
                deframer: Deframer::default(),
                answer: None,
                reasons: Vec::new(),
                text: String::new(),
            });
        }
    }

    fn finish(&mut self, open: Open, end: Result<GrpcStatus, (String, String)>, shared: &Shared) {
        let now_ns = shared.now_ns();
        let mut stats = shared.stats.borrow_mut();
        let (status, answer) = match end {
            Ok(status) => (status, open.answer),
            Err((kind, message)) => {
                stats.errors.add(&kind, 1, &message);
                stats.unanswered += 1;
                return self.flight.done();
            }
        };
        let limited = answer.is_some_and(|answer| answer.is_rate_limited());
        // Without RetryInfo it is a limit that no retry gets past, such as the size of a message.
        if limited || (status.code == RESOURCE_EXHAUSTED && status.retry_after.is_some()) {
            let wait = status.retry_after.map_or(u64::from(RETRY_MILLIS) * 1_000_000, |wait| wait.as_nanos() as u64);
            stats.rate_limited += 1;
            stats.retries += u64::from(self.flight.refused(open.sent, now_ns + wait));
            return;
        }
        self.flight.done();
        let answer = match (status.code, answer) {
            (0, Some(answer)) => answer,
            (0, None) => {
                stats.unanswered += 1;
                return stats.errors.add("protocol", 1, "OK without an answer");
            }
            (code, _) => {
                stats.errors.add(&status.kind(), 1, &status.message);
                Answer { rejected: u32::from(code == INVALID_ARGUMENT), ..Answer::default() }
            }
        };
        let before = stats.acked;
        stats.answered(&answer, open.sent, self.plan.stream, &self.plan.messages, now_ns, shared.window());
        shared.progress(stats.acked - before);
        for (reason, count) in open.reasons {
            stats.errors.add(&reason, count, &open.text);
        }
    }
}

impl Open {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<GrpcStatus, (String, String)>> {
        let connection = |error: h2::Error| ("connection".to_owned(), error.to_string());
        loop {
            match &mut self.stage {
                Stage::Head(head) => {
                    let Poll::Ready(head) = Pin::new(head).poll(cx) else { return Poll::Pending };
                    let head = head.map_err(connection)?;
                    if head.status() != http::StatusCode::OK {
                        let kind = format!("HTTP {}", head.status().as_u16());
                        return Poll::Ready(Err((kind, "is this the gRPC port?".to_owned())));
                    }
                    if let Some(status) = GrpcStatus::read(head.headers()) {
                        return Poll::Ready(Ok(status));
                    }
                    self.stage = Stage::Body(head.into_body());
                }
                Stage::Body(body) => match body.poll_data(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Some(chunk)) => {
                        let chunk = chunk.map_err(connection)?;
                        body.flow_control().release_capacity(chunk.len()).map_err(connection)?;
                        let Self { deframer, answer, reasons, text, .. } = self;
                        let fed = deframer.feed(&chunk, |message| read(message, answer, reasons, text));
                        fed.map_err(|error| ("protocol".to_owned(), error.to_string()))?;
                    }
                    Poll::Ready(None) => {
                        let Poll::Ready(trailers) = body.poll_trailers(cx) else { return Poll::Pending };
                        let status = trailers.map_err(connection)?.as_ref().and_then(GrpcStatus::read);
                        let missing = ("protocol".to_owned(), "the call ended without a grpc-status".to_owned());
                        return Poll::Ready(status.ok_or(missing));
                    }
                },
            }
        }
    }
}

fn read(
    message: &[u8],
    answer: &mut Option<Answer>,
    reasons: &mut Vec<(String, u64)>,
    text: &mut String,
) -> Result<(), WireError> {
    let read = AnswerKind::Ingest.read(message)?;
    if read.accepted + read.duplicates == 0 && !read.is_rate_limited() {
        *reasons = AnswerKind::Ingest.reasons(message, 1)?;
        *text = first_text(AnswerKind::Ingest, message);
    }
    *answer = Some(read);
    Ok(())
}
