//! Connections and dispatch: accept, HTTP/2 within explicit bounds, one task a call.

use std::{
    net::{IpAddr, TcpListener},
    rc::Rc,
    task::Poll,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use compio_runtime::{fd::PollFd, time};
use futures_util::future::{self, Either};
use h2::{Ping, RecvStream, SendStream, server::SendResponse};
use http::{HeaderMap, HeaderValue, Method as HttpMethod, Request, Response, StatusCode, header};
use tokio::io::{AsyncRead, AsyncWrite};
use ttdust_proto::path;

use super::{
    admin,
    answer::Answer,
    append::Append,
    exchange::{Exchange, Method},
    framing::{Encoding, MessageReader, put_message},
    health,
    ingest::{self, IngestStream},
    intake::Intake,
    line::Line,
    metered::Metered,
    opening, query,
    reflection::{Descriptors, Reflection},
    status::{Code, Status},
    tail,
    traced::{Traced, note_end},
    transport::Transport,
};
use crate::{
    access::{NotLetIn, Principal},
    io::{Clock as _, real::SystemClock},
    reactor::{Bell, PanicWatch, Reactor, yield_now},
    tls::PeerIdentity,
    trace::{SpanContext, w3c::Incoming},
};

/// Calls that one connection may have open.
const STREAMS_MAX: u32 = 128;
/// Header bytes of one request; h2's own default is 16 MiB.
const HEADER_LIST_BYTES: u32 = 16 << 10;
/// Calls that were reset before they were accepted, past which the connection is closed (rapid reset, CVE-2023-44487).
const PENDING_RESETS_MAX: usize = 20;
/// Resets by this side for the peer's faults, past which the connection is closed.
const ERROR_RESETS_MAX: usize = 1024;
/// Bytes of answers that one call may hold back in h2.
const SEND_BUFFER_BYTES: usize = 256 << 10;
/// Bytes that a client may send ahead in one call.
const CALL_WINDOW_BYTES: u32 = 4 << 20;
/// Bytes that a client may send ahead in one connection.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// The largest frame that a client may send: a request of a usual size then is one slice, not a copy.
const FRAME_BYTES: u32 = 1 << 20;
const PREFACE_TIMEOUT: Duration = Duration::from_secs(5);
const FIRST_MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client that floods is not read before it is closed, and keeps its place among the connections of its address: it must
/// not gain by coming back at once.
const FLOOD_PAUSE: Duration = Duration::from_secs(1);
/// How long it has to take the goodbye.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);
/// The pause after descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Accepts connections until the server drains.
///
/// # Errors
/// The listener cannot be waited for.
pub async fn accept(reactor: Rc<Reactor>, listener: TcpListener) -> std::io::Result<()> {
    let listener = PollFd::new(listener)?;
    let descriptors = Rc::new(Descriptors::load());
    let bell = Rc::new(Bell::default());
    let _guard = reactor.connections.enter(&bell);
    while !reactor.is_draining() {
        match listener.accept() {
            Ok((socket, peer)) => {
                let full = reactor.connections.len() > reactor.limits.connections;
                let Some(seat) = reactor.peers.enter(peer.ip()).filter(|_| !full) else {
                    reactor.metrics.connections_refused.add(1);
                    tracing::debug!(shard = %reactor.id, %peer, full, "connection refused: over a limit of connections");
                    drop(socket);
                    // A flood of them must not keep the thread from those that are in.
                    yield_now().await;
                    continue;
                };
                match Transport::new(socket) {
                    Ok(transport) => {
                        let served = serve(Rc::clone(&reactor), Rc::clone(&descriptors), transport, peer.ip());
                        let task = async move {
                            served.await;
                            drop(seat);
                        };
                        compio_runtime::spawn(task).detach();
                    }
                    Err(error) => tracing::debug!(%peer, %error, "connection lost before it began"),
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                let ready = listener.accept_ready();
                let rung = bell.rung();
                futures_util::pin_mut!(ready, rung);
                if let Either::Left((ready, _)) = future::select(ready, rung).await {
                    ready?;
                }
            }
            Err(error) => {
                tracing::warn!(shard = %reactor.id, %error, "accept failed: pausing");
                time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    Ok(())
}

fn http2() -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_LIST_BYTES)
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .max_local_error_reset_streams(Some(ERROR_RESETS_MAX))
        .max_send_buffer_size(SEND_BUFFER_BYTES)
        .initial_window_size(CALL_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES);
    builder
}

/// Serves one connection from its first byte to its end.
async fn serve(reactor: Rc<Reactor>, descriptors: Rc<Descriptors>, transport: Transport, address: IpAddr) {
    let bell = Rc::new(Bell::default());
    let _watch = PanicWatch::new(&reactor);
    let _guard = reactor.connections.enter(&bell);
    let _open = Open::count(&reactor);
    if let Some(config) = reactor.tls() {
        // Boxed: a plain connection's task is none the larger for it.
        let opened = Box::pin(opening::secure(&reactor, &bell, config, transport)).await;
        if let Some((stream, peer)) = opened {
            let peer = Peer { address, identity: peer, line: Line::new(&bell) };
            let connection = Connection { reactor, descriptors, peer, bell };
            Box::pin(connection.serve(stream, Instant::now() + PREFACE_TIMEOUT)).await;
        }
    } else {
        let deadline = Instant::now() + PREFACE_TIMEOUT;
        if let Some(transport) = opening::plain(&reactor, &bell, PREFACE_TIMEOUT, transport).await {
            let peer = Peer { address, identity: None, line: Line::new(&bell) };
            Connection { reactor, descriptors, peer, bell }.serve(transport, deadline).await;
        }
    }
}

/// What all calls of a connection share.
struct Connection {
    reactor: Rc<Reactor>,
    descriptors: Rc<Descriptors>,
    peer: Peer,
    bell: Rc<Bell>,
}

/// The other end of a connection.
#[derive(Clone)]
struct Peer {
    address: IpAddr,
    /// Whom the client's certificate names.
    identity: Option<PeerIdentity>,
    line: Line,
}

impl Connection {
    /// Serves HTTP/2 to its end; the preface must be there by `deadline`.
    async fn serve<S: AsyncRead + AsyncWrite + Unpin>(self, stream: S, deadline: Instant) {
        let Self { reactor, descriptors, peer, bell } = self;
        let stream = Metered::new(stream);
        let verdict = stream.verdict();
        let handshake = http2().handshake::<_, Bytes>(stream);
        let mut connection = match time::timeout_at(deadline, handshake).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return tracing::debug!(%error, "HTTP/2 preface refused"),
            Err(_) => return tracing::debug!("no HTTP/2 preface in time"),
        };
        let ping_pong = connection.ping_pong().expect("taken once");
        let mut silent = std::pin::pin!(keep_alive(ping_pong));
        let mut told = false;
        loop {
            let accepted = future::poll_fn(|cx| {
                if reactor.is_draining() && !std::mem::replace(&mut told, true) {
                    connection.graceful_shutdown();
                }
                if bell.poll_rung(cx).is_ready() {
                    // Once more, so that the task is woken by the next.
                    let _ = bell.poll_rung(cx);
                }
                if peer.line.is_cut() || verdict.is_flood() {
                    return Poll::Ready(None);
                }
                if silent.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(None);
                }
                connection.poll_accept(cx)
            });
            match accepted.await {
                Some(Ok((request, respond))) => {
                    let task = call(Rc::clone(&reactor), Rc::clone(&descriptors), peer.clone(), request, respond);
                    compio_runtime::spawn(task).detach();
                }
                Some(Err(error)) => {
                    tracing::debug!(%error, "connection ended");
                    if error.is_library() && error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM) {
                        reactor.metrics.connections_flooding.add(1);
                        drop(connection);
                        time::sleep(FLOOD_PAUSE).await;
                    }
                    return;
                }
                None => break,
            }
        }
        if verdict.is_flood() {
            reactor.metrics.connections_flooding.add(1);
            tracing::debug!(shard = %reactor.id, peer = %peer.address, "closed: a flood of frames that carry nothing");
            time::sleep(FLOOD_PAUSE).await;
            connection.abrupt_shutdown(h2::Reason::ENHANCE_YOUR_CALM);
            let _ = time::timeout(GOODBYE_TIMEOUT, future::poll_fn(|cx| connection.poll_closed(cx))).await;
        }
    }
}

/// An open connection in the gauge, however it ends. The registry counts the accepting task too.
struct Open(Rc<Reactor>);

impl Open {
    fn count(reactor: &Rc<Reactor>) -> Self {
        let gauge = &reactor.metrics.connections;
        gauge.set(gauge.get() + 1);
        Self(Rc::clone(reactor))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let gauge = &self.0.metrics.connections;
        gauge.set(gauge.get() - 1);
    }
}

/// Ends when the peer does not answer a ping in time.
async fn keep_alive(mut ping_pong: h2::PingPong) {
    loop {
        time::sleep(KEEPALIVE_INTERVAL).await;
        match time::timeout(KEEPALIVE_TIMEOUT, ping_pong.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => future::pending().await,
            Err(_) => return tracing::debug!("a peer does not answer pings: closed"),
        }
    }
}

/// Serves one call to its end.
async fn call(
    reactor: Rc<Reactor>,
    descriptors: Rc<Descriptors>,
    peer: Peer,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let _watch = PanicWatch::new(&reactor);
    let (head, body) = request.into_parts();
    if let Some(status) = refuse_http(&head) {
        let mut response = Response::new(());
        *response.status_mut() = status;
        let _ = respond.send_response(response, true);
        return;
    }
    let deadline = deadline_of(&head.headers);
    let work = dispatch(reactor, descriptors, peer, (head, deadline), body, &mut respond);
    let ended = match deadline {
        None => work.await,
        Some(deadline) => match time::timeout_at(deadline, work).await {
            Ok(ended) => ended,
            Err(_) => Err(deadline_exceeded()),
        },
    };
    if let Err(status) = ended {
        respond_status(&mut respond, &status);
    }
}

/// When the client gives the call up, as it says.
fn deadline_of(headers: &HeaderMap) -> Option<Instant> {
    let after = headers.get("grpc-timeout").and_then(|value| parse_timeout(value.to_str().ok()?));
    after.and_then(|after| Instant::now().checked_add(after))
}

fn deadline_exceeded() -> Status {
    let message = "the call's deadline passed; a write that was under way may have happened";
    Status::new(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", message)
}

/// What plain HTTP answers to a request that is not gRPC.
fn refuse_http(head: &http::request::Parts) -> Option<StatusCode> {
    if head.method != HttpMethod::POST {
        return Some(StatusCode::METHOD_NOT_ALLOWED);
    }
    let is_grpc = head
        .headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.starts_with("application/grpc"));
    (!is_grpc).then_some(StatusCode::UNSUPPORTED_MEDIA_TYPE)
}

/// `grpc-timeout`: up to eight digits and a unit.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let value: u64 = if digits.len() <= 8 { digits.parse().ok()? } else { return None };
    Some(match unit {
        "H" => Duration::from_secs(value * 3600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

/// Finds the method and runs it. `Err`: the call ends with this status and nothing was answered yet.
async fn dispatch(
    reactor: Rc<Reactor>,
    descriptors: Rc<Descriptors>,
    peer: Peer,
    (head, deadline): (http::request::Parts, Option<Instant>),
    body: RecvStream,
    respond: &mut SendResponse<Bytes>,
) -> Result<(), Status> {
    if reactor.is_draining() {
        return Err(Status::draining());
    }
    let encoding = Encoding::of_request(&head.headers)?;
    let incoming = reactor.tracer.incoming(&head.headers);
    let reader = MessageReader::new(body, encoding, reactor.limits.message_bytes);
    let bell = Rc::new(Bell::default());
    let caller = || {
        let certificate = peer.identity.as_ref();
        let now = SystemClock::new().unix_micros();
        let caller = reactor.catalog().access.authenticate(&head.headers, certificate, peer.address, now);
        caller.map_err(|refused| {
            if let NotLetIn::RateLimited(over) = refused {
                reactor.metrics.rate_limit_hits[over.category.index()].add(1);
            }
            Status::not_let_in(refused)
        })
    };
    match head.uri.path() {
        path::APPEND => {
            let method = Append::new(Intake::new(Rc::clone(&reactor), caller()?, incoming), Rc::clone(&bell));
            stream(&reactor, reader, respond, method, bell).await
        }
        path::INGEST_STREAM => {
            let method = IngestStream::new(Intake::new(Rc::clone(&reactor), caller()?, incoming), Rc::clone(&bell));
            stream(&reactor, reader, respond, method, bell).await
        }
        path::REFLECTION | path::REFLECTION_ALPHA => {
            stream(&reactor, reader, respond, Reflection::new(descriptors), bell).await
        }
        path::INGEST => {
            let _call = reactor.calls.enter(&bell);
            let intake = Intake::new(Rc::clone(&reactor), caller()?, incoming);
            let message = only_message(reader).await?;
            respond_message(respond, &ingest::ingest(intake, Rc::clone(&bell), message).await?)
        }
        path::QUERY_TIME_RANGE | path::LOOKUP_BY_KEY | path::STREAMING_READ => {
            let _call = reactor.calls.enter(&bell);
            let reading = Reading { caller: caller()?, message: only_message(reader).await?, incoming, deadline };
            // Boxed: the tasks of other calls are none the larger for it.
            Box::pin(read(&reactor, reading, head.uri.path(), respond, (&bell, &peer.line))).await
        }
        path::HEALTH_CHECK | path::HEALTH_WATCH => health_call(&reactor, head.uri.path(), reader, respond, &bell).await,
        other => {
            let path = admin::known(other).ok_or_else(|| unimplemented_method(other))?;
            let _call = reactor.calls.enter(&bell);
            let caller = caller()?;
            let message = only_message(reader).await?;
            let traced = Traced::begin(&reactor, &incoming, path, Instant::now());
            let message = (message, context_of(&traced));
            let answer = admin::call(&reactor, caller, &bell, path, message).await;
            note_end(traced, &answer);
            Box::pin(Answer::framed(answer?).send(respond_headers(respond)?, &peer.line)).await;
            Ok(())
        }
    }
}

/// What a call that reads has come with.
struct Reading {
    caller: Principal,
    message: Bytes,
    incoming: Incoming,
    deadline: Option<Instant>,
}

/// The methods that read records: what is traced of them is all until the answer, or the tail, begins to be sent.
async fn read(
    reactor: &Rc<Reactor>,
    Reading { caller, message, incoming, deadline }: Reading,
    path: &str,
    respond: &mut SendResponse<Bytes>,
    (bell, line): (&Rc<Bell>, &Line),
) -> Result<(), Status> {
    let begin = |path| Traced::begin(reactor, &incoming, path, Instant::now());
    match path {
        path::QUERY_TIME_RANGE => {
            let traced = begin(path::QUERY_TIME_RANGE);
            let message = (message, context_of(&traced));
            let asked = while_wanted(respond, query::time_range(reactor, caller, bell, message, deadline)).await;
            note_end(traced, &asked);
            let (answer, held) = asked?;
            Answer::new(answer, held).send(respond_headers(respond)?, line).await;
        }
        path::LOOKUP_BY_KEY => {
            let traced = begin(path::LOOKUP_BY_KEY);
            let message = (message, context_of(&traced));
            let asked = while_wanted(respond, query::lookup(reactor, caller, bell, message)).await;
            note_end(traced, &asked);
            let (answer, held) = asked?;
            Answer::new(answer, held).send(respond_headers(respond)?, line).await;
        }
        _ => {
            let traced = begin(path::STREAMING_READ);
            let message = (message, context_of(&traced));
            let opened = while_wanted(respond, tail::open(reactor, caller, bell, message)).await;
            note_end(traced, &opened);
            opened?.run(respond_headers(respond)?).await;
        }
    }
    Ok(())
}

fn context_of(traced: &Option<Box<Traced>>) -> Option<SpanContext> {
    traced.as_ref().and_then(|traced| traced.context())
}

async fn health_call(
    reactor: &Rc<Reactor>,
    path: &str,
    reader: MessageReader,
    respond: &mut SendResponse<Bytes>,
    bell: &Rc<Bell>,
) -> Result<(), Status> {
    if path == path::HEALTH_CHECK {
        let message = only_message(reader).await?;
        return respond_message(respond, &health::check(reactor, message)?);
    }
    let _call = reactor.calls.enter(bell);
    let message = only_message(reader).await?;
    let mut send = respond_headers(respond)?;
    let status = health::watch(reactor, bell, message, &mut send).await.err().unwrap_or_else(Status::ok);
    let _ = send.send_trailers(status.to_trailers());
    Ok(())
}

fn unimplemented_method(path: &str) -> Status {
    let shown: String = path.chars().take(128).collect();
    Status::new(Code::Unimplemented, "UNKNOWN_METHOD", format!("no method {shown:?}: ask the reflection service"))
}

async fn stream<M: Method>(
    reactor: &Rc<Reactor>,
    reader: MessageReader,
    respond: &mut SendResponse<Bytes>,
    method: M,
    bell: Rc<Bell>,
) -> Result<(), Status> {
    let send = respond_headers(respond)?;
    Exchange::new(Rc::clone(reactor), reader, send, method, bell).run().await;
    Ok(())
}

/// The one message of a call that takes one.
async fn only_message(mut reader: MessageReader) -> Result<Bytes, Status> {
    match time::timeout(FIRST_MESSAGE_TIMEOUT, future::poll_fn(|cx| reader.poll_message(cx))).await {
        Ok(Some(message)) => message,
        Ok(None) => {
            Err(Status::new(Code::InvalidArgument, "MALFORMED_MESSAGE", "the call ended without a request message"))
        }
        Err(_) => {
            let seconds = FIRST_MESSAGE_TIMEOUT.as_secs();
            Err(Status::message_stalled(format_args!("no whole request message came within {seconds} s")))
        }
    }
}

/// Does `work` for as long as the client wants its answer: it is dropped when the call is reset or its connection ends.
async fn while_wanted<T>(
    respond: &mut SendResponse<Bytes>,
    work: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    let mut work = std::pin::pin!(work);
    future::poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Pending => {
            respond.poll_reset(cx).map(|_| Err(Status::new(Code::Cancelled, "CANCELLED", "the client gave up")))
        }
        done => done,
    })
    .await
}

fn grpc_response() -> Response<()> {
    let mut response = Response::new(());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-accept-encoding", HeaderValue::from_static("identity,gzip,zstd"));
    response
}

fn respond_headers(respond: &mut SendResponse<Bytes>) -> Result<SendStream<Bytes>, Status> {
    respond
        .send_response(grpc_response(), false)
        .map_err(|error| Status::new(Code::Cancelled, "CONNECTION_LOST", error.to_string()))
}

/// Answers a unary call. A client that is gone is nobody to tell.
fn respond_message(respond: &mut SendResponse<Bytes>, message: &impl prost::Message) -> Result<(), Status> {
    let mut out = BytesMut::new();
    put_message(&mut out, message);
    let mut send = respond_headers(respond)?;
    // h2 holds what the client's window does not take yet: such answers are a few hundred bytes.
    if send.send_data(out.freeze(), false).is_ok() {
        let _ = send.send_trailers(Status::ok().to_trailers());
    }
    Ok(())
}

/// Ends a call with a status alone.
fn respond_status(respond: &mut SendResponse<Bytes>, status: &Status) {
    let mut response = grpc_response();
    let trailers: HeaderMap = status.to_trailers();
    response.headers_mut().extend(trailers);
    let _ = respond.send_response(response, true);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        assert_eq!(parse_timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse_timeout("1H"), Some(Duration::from_secs(3600)));
        for bad in ["", "m", "1", "123456789S", "1x", "é"] {
            assert_eq!(parse_timeout(bad), None, "{bad}");
        }
    }
}
