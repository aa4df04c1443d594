//! The service, the same on every runtime: HTTP/2 by h2, one task a call, the acks of one commit and call in one DATA frame.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use h2::{RecvStream, SendStream, server::SendResponse};
use http::{HeaderMap, HeaderValue, Request, Response};
use prost::Message as _;
use tokio::io::{AsyncRead, AsyncWrite};
use ttdust_proto::{
    ingestion::{AppendRequest, AppendResponse, Status},
    path,
};

use crate::log::{Ack, Disk, Log};

/// As the server has them.
const CALL_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
const FRAME_BYTES: u32 = 1 << 20;
const STREAMS_MAX: u32 = 128;
/// The largest request.
const MESSAGE_BYTES: usize = 4 << 20;
/// Before each message: a compression flag and a length.
const PREFIX_BYTES: usize = 5;

/// A task, for a runtime to be spawned.
pub type Task = Pin<Box<dyn Future<Output = ()>>>;

/// Serves one connection to its end.
pub async fn serve<S, D>(io: S, log: Rc<Log<D>>, spawn: fn(Task))
where
    S: AsyncRead + AsyncWrite + Unpin,
    D: Disk,
{
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(CALL_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES)
        .max_concurrent_streams(STREAMS_MAX);
    // A connection that breaks is the client's to notice.
    let Ok(mut connection) = builder.handshake::<_, Bytes>(io).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        let log = Rc::clone(&log);
        spawn(Box::pin(async move { drop(call(log, request, respond).await) }));
    }
}

/// The acks of a call that are not sent yet.
#[derive(Debug, Default)]
pub struct Answers {
    state: RefCell<AnswersState>,
}

#[derive(Debug, Default)]
struct AnswersState {
    out: BytesMut,
    /// Requests without an ack.
    open: usize,
    waker: Option<Waker>,
}

impl Answers {
    /// Adds an ack.
    pub fn put(&self, ack: Ack) {
        let answer = AppendResponse {
            status: Status::Ok as i32,
            first_sequence: ack.first,
            last_sequence: ack.first + i64::from(ack.count) - 1,
            accepted: ack.count,
            ..AppendResponse::default()
        };
        let state = &mut *self.state.borrow_mut();
        state.open -= 1;
        state.put(&answer);
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    /// Gives the records of a request to `log`. False: it has no room now.
    pub fn append<D: Disk>(self: &Rc<Self>, log: &Log<D>, payloads: &[Bytes]) -> bool {
        let taken = log.append(self, payloads);
        self.state.borrow_mut().open += usize::from(taken);
        taken
    }

    /// Requests without an ack.
    pub fn open(&self) -> usize {
        self.state.borrow().open
    }

    /// Refuses a request for now.
    fn refuse(&self, count: u32) {
        let answer = AppendResponse {
            status: Status::RateLimited as i32,
            rejected: count,
            retry_after_millis: Some(1),
            ..AppendResponse::default()
        };
        self.state.borrow_mut().put(&answer);
    }

    /// What is to be sent; who asks is woken when there is more.
    fn take(&self, cx: &Context<'_>) -> Bytes {
        let state = &mut *self.state.borrow_mut();
        if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            state.waker = Some(cx.waker().clone());
        }
        state.out.split().freeze()
    }
}

impl AnswersState {
    fn put(&mut self, answer: &AppendResponse) {
        let len = answer.encoded_len();
        self.out.reserve(PREFIX_BYTES + len);
        self.out.put_u8(0);
        self.out.put_u32(len as u32);
        answer.encode(&mut self.out).expect("a BytesMut grows");
    }
}

/// Serves one call of `Append`.
async fn call<D: Disk>(
    log: Rc<Log<D>>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let head = Response::builder().header("content-type", "application/grpc").body(()).expect("constant");
    let served = request.uri().path() == path::APPEND;
    let mut body = request.into_body();
    let mut send = respond.send_response(head, false)?;
    if !served {
        return end(&mut send, 12, "only Append is served here");
    }
    let answers = Rc::new(Answers::default());
    let mut messages = Messages::default();
    let mut ended = false;
    let failed = std::future::poll_fn(|cx| {
        while !ended {
            match body.poll_data(cx) {
                Poll::Ready(Some(Ok(chunk))) => {
                    if let Err(error) = body.flow_control().release_capacity(chunk.len()) {
                        return Poll::Ready(Err(io::Error::other(error)));
                    }
                    messages.push(chunk);
                    while let Some(message) = messages.next()? {
                        take(&log, &answers, message)?;
                    }
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(io::Error::other(error))),
                Poll::Ready(None) => ended = true,
                Poll::Pending => break,
            }
        }
        let out = answers.take(cx);
        if !out.is_empty() {
            send.send_data(out, false).map_err(io::Error::other)?;
        }
        if ended && answers.open() == 0 { Poll::Ready(Ok(())) } else { Poll::Pending }
    });
    match failed.await {
        Ok(()) => end(&mut send, 0, ""),
        Err(_) => end(&mut send, 13, "the call is not gRPC, or broke"),
    }
}

/// One request.
fn take<D: Disk>(log: &Log<D>, answers: &Rc<Answers>, message: Bytes) -> io::Result<()> {
    let request = AppendRequest::decode(message).map_err(io::Error::other)?;
    if !answers.append(log, &request.payloads) {
        answers.refuse(request.payloads.len() as u32);
    }
    Ok(())
}

fn end(send: &mut SendStream<Bytes>, code: u32, message: &'static str) -> Result<(), h2::Error> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(code));
    if !message.is_empty() {
        trailers.insert("grpc-message", HeaderValue::from_static(message));
    }
    send.send_trailers(trailers)
}

/// Cuts chunks into messages; one that lies in one chunk is not copied.
#[derive(Debug, Default)]
struct Messages {
    chunk: Bytes,
    /// The beginning of a message whose end has not come.
    partial: BytesMut,
}

impl Messages {
    fn push(&mut self, chunk: Bytes) {
        if self.partial.is_empty() {
            self.chunk = chunk;
        } else {
            self.partial.extend_from_slice(&chunk);
            self.chunk = self.partial.split().freeze();
        }
    }

    /// The next whole message.
    fn next(&mut self) -> io::Result<Option<Bytes>> {
        let whole = match self.chunk.first_chunk::<PREFIX_BYTES>() {
            None => None,
            Some(&[0, a, b, c, d]) => Some(PREFIX_BYTES + u32::from_be_bytes([a, b, c, d]) as usize),
            Some(_) => return Err(io::Error::other("a compressed message")),
        };
        match whole {
            Some(len) if len > MESSAGE_BYTES => Err(io::Error::other("a message over the bound")),
            Some(len) if len <= self.chunk.len() => {
                let mut message = self.chunk.split_to(len);
                message.advance(PREFIX_BYTES);
                Ok(Some(message))
            }
            _ => {
                self.partial.extend_from_slice(&self.chunk);
                self.chunk.clear();
                Ok(None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_any_cut() {
        let mut stream = BytesMut::new();
        let wanted: Vec<Vec<u8>> = [0, 1, 300, 5].iter().map(|&len| vec![7; len]).collect();
        for message in &wanted {
            stream.put_u8(0);
            stream.put_u32(message.len() as u32);
            stream.extend_from_slice(message);
        }
        for size in 1..=stream.len() {
            let (mut messages, mut found) = (Messages::default(), Vec::new());
            for chunk in stream.chunks(size) {
                messages.push(Bytes::copy_from_slice(chunk));
                while let Some(message) = messages.next().expect("well formed") {
                    found.push(message.to_vec());
                }
            }
            assert_eq!(found, wanted, "chunks of {size}");
        }
        for bad in [[1, 0, 0, 0, 0], [0, 255, 255, 255, 255]] {
            let mut messages = Messages::default();
            messages.push(Bytes::copy_from_slice(&bad));
            assert!(messages.next().is_err());
        }
    }
}
