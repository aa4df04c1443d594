//! A gRPC client of the tests' own, on h2: what it sends and gets is plain messages, headers and trailers.

#![allow(dead_code, reason = "each test that includes this file uses a part of it")]

use std::{
    collections::BTreeMap,
    future::poll_fn,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use h2::{RecvStream, SendStream, client};
use http::{HeaderMap, Request};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use ttdust_proto::rpc;

/// One connection.
pub struct Client {
    send: client::SendRequest<Bytes>,
    pub headers: Vec<(&'static str, String)>,
}

/// A socket that only writes.
struct Deaf(tokio::net::TcpStream);

impl AsyncRead for Deaf {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Deaf {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, data)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    pub code: u32,
    pub message: String,
    pub reason: String,
    pub retry_after: Option<Duration>,
    pub violations: BTreeMap<String, String>,
}

/// A call that is open.
pub struct Call {
    pub send: SendStream<Bytes>,
    response: Option<client::ResponseFuture>,
    body: Option<RecvStream>,
    head: HeaderMap,
    received: BytesMut,
}

/// A message as it stands on the wire.
pub fn framed(message: &impl Message) -> Bytes {
    framed_bytes(&message.encode_to_vec(), 0)
}

/// Bytes as a message, with a flag for compression.
pub fn framed_bytes(message: &[u8], flag: u8) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(flag);
    frame.put_u32(message.len() as u32);
    frame.put_slice(message);
    frame.freeze()
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).await.expect("the server listens and speaks HTTP/2")
    }

    /// `None`: the server is gone.
    pub async fn try_connect(address: SocketAddr) -> Option<Self> {
        let socket = tokio::net::TcpStream::connect(address).await.ok()?;
        socket.set_nodelay(true).ok()?;
        Self::over(socket).await
    }

    /// On a connection that stands; `None`: the server is gone or speaks no HTTP/2.
    pub async fn over<S>(socket: S) -> Option<Self>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        Self::over_with(socket, 1 << 20, (1 << 16) - 1).await
    }

    /// The same; the server may send so many bytes ahead in a call, and in the connection.
    pub async fn over_with<S>(socket: S, window: u32, connection_window: u32) -> Option<Self>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let mut builder = client::Builder::new();
        builder.initial_window_size(window).initial_connection_window_size(connection_window);
        let (send, connection) = builder.handshake(socket).await.ok()?;
        tokio::spawn(connection);
        Some(Self { send, headers: Vec::new() })
    }

    /// A client that asks for much and never reads a byte of the answers.
    pub async fn deaf(address: SocketAddr) -> Self {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        // What the kernel takes for it is little.
        socket.set_recv_buffer_size(16 << 10).expect("a small buffer");
        let socket = socket.connect(address).await.expect("connected");
        Self::over_with(Deaf(socket), 16 << 20, 1 << 30).await.expect("it need not hear to speak")
    }

    /// Opens a call.
    pub async fn call(&mut self, path: &str) -> Call {
        self.try_call(path).await.expect("the server takes calls")
    }

    /// `None`: the server is gone.
    pub async fn try_call(&mut self, path: &str) -> Option<Call> {
        let mut send = self.send.clone().ready().await.ok()?;
        let mut request = Request::post(format!("http://ttdust{path}")).header("te", "trailers");
        if !self.headers.iter().any(|(name, _)| *name == "content-type") {
            request = request.header("content-type", "application/grpc");
        }
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        let (response, send) = send.send_request(request.body(()).expect("a request"), false).ok()?;
        Some(Call { send, response: Some(response), body: None, head: HeaderMap::new(), received: BytesMut::new() })
    }

    /// A call of one message and one answer.
    pub async fn unary<A: Message + Default + std::fmt::Debug>(
        &mut self,
        path: &str,
        message: &impl Message,
    ) -> Result<A, Ended> {
        let mut call = self.call(path).await;
        call.send_bytes(framed(message)).await;
        call.finish();
        let answer = call.receive().await?;
        let ended = call.receive::<A>().await.expect_err("one answer");
        assert_eq!(ended.code, 0, "{ended:?}");
        Ok(answer)
    }
}

impl Call {
    pub async fn send(&mut self, message: &impl Message) {
        self.send_bytes(framed(message)).await;
    }

    /// Sends raw bytes; stops early if the server has ended the call.
    pub async fn send_bytes(&mut self, mut data: Bytes) {
        while !data.is_empty() {
            self.send.reserve_capacity(data.len());
            if self.send.capacity() == 0 {
                match poll_fn(|cx| self.send.poll_capacity(cx)).await {
                    Some(Ok(_)) => continue,
                    _ => return,
                }
            }
            let part = data.split_to(self.send.capacity().min(data.len()));
            if self.send.send_data(part, false).is_err() {
                return;
            }
        }
    }

    /// Says that no more messages come.
    pub fn finish(&mut self) {
        // A call that the server has ended takes nothing more.
        let _ = self.send.send_data(Bytes::new(), true);
    }

    /// Waits until the server has answered with headers.
    pub async fn opened(&mut self) {
        if let Some(response) = self.response.take() {
            let (head, body) = response.await.expect("a response").into_parts();
            assert_eq!(head.status, 200);
            self.head = head.headers;
            self.body = Some(body);
        }
    }

    /// The next answer; `None`: the server is gone.
    pub async fn try_receive<A: Message + Default>(&mut self) -> Option<A> {
        if let Some(response) = self.response.take() {
            self.body = Some(response.await.ok()?.into_body());
        }
        let body = self.body.as_mut()?;
        loop {
            if let Some(message) = take_message(&mut self.received) {
                return Some(A::decode(message).expect("an answer decodes"));
            }
            let data = poll_fn(|cx| body.poll_data(cx)).await?.ok()?;
            body.flow_control().release_capacity(data.len()).ok()?;
            self.received.extend_from_slice(&data);
        }
    }

    /// The next answer, or how the call ended; `None`: it was cut off without an end.
    pub async fn receive_or_cut<A: Message + Default + std::fmt::Debug>(&mut self) -> Option<Result<A, Ended>> {
        self.opened().await;
        let body = self.body.as_mut().expect("the response has come");
        loop {
            if let Some(message) = take_message(&mut self.received) {
                return Some(Ok(A::decode(message).expect("an answer decodes")));
            }
            match poll_fn(|cx| body.poll_data(cx)).await {
                Some(data) => {
                    let data = data.ok()?;
                    body.flow_control().release_capacity(data.len()).expect("received");
                    self.received.extend_from_slice(&data);
                }
                None => {
                    let trailers = body.trailers().await.ok()?.unwrap_or_else(|| self.head.clone());
                    assert!(self.received.is_empty(), "a message is cut short");
                    return Some(Err(Ended::of(&trailers)));
                }
            }
        }
    }

    /// The next answer, or how the call ended.
    pub async fn receive<A: Message + Default + std::fmt::Debug>(&mut self) -> Result<A, Ended> {
        self.opened().await;
        let body = self.body.as_mut().expect("the response has come");
        loop {
            if let Some(message) = take_message(&mut self.received) {
                return Ok(A::decode(message).expect("an answer decodes"));
            }
            match poll_fn(|cx| body.poll_data(cx)).await {
                Some(data) => {
                    let data = data.expect("data");
                    body.flow_control().release_capacity(data.len()).expect("received");
                    self.received.extend_from_slice(&data);
                }
                None => {
                    let trailers = body.trailers().await.expect("trailers").unwrap_or_else(|| self.head.clone());
                    return Err(Ended::of(&trailers));
                }
            }
        }
    }
}

/// The first whole message of what was received.
fn take_message(received: &mut BytesMut) -> Option<BytesMut> {
    let length = u32::from_be_bytes(*received.get(1..)?.first_chunk()?) as usize;
    if received.len() < 5 + length {
        return None;
    }
    received.advance(5);
    Some(received.split_to(length))
}

impl Ended {
    fn of(trailers: &HeaderMap) -> Self {
        let text = |name: &str| trailers.get(name).map(|value| value.to_str().expect("ASCII").to_owned());
        let code = text("grpc-status").expect("grpc-status").parse().expect("a number");
        let message = text("grpc-message").unwrap_or_default();
        let mut ended = Self { code, message, reason: String::new(), retry_after: None, violations: BTreeMap::new() };
        if let Some(details) = text("grpc-status-details-bin") {
            let status = rpc::Status::decode(&*unbase64(&details)).expect("details decode");
            assert_eq!(status.code as u32, code);
            for detail in status.details {
                ended.take(&detail);
            }
        }
        ended
    }

    fn take(&mut self, detail: &prost_types::Any) {
        match detail.type_url.as_str() {
            "type.googleapis.com/google.rpc.ErrorInfo" => {
                let info = rpc::ErrorInfo::decode(&*detail.value).expect("decodes");
                assert_eq!(info.domain, "ttdust");
                self.reason = info.reason;
            }
            "type.googleapis.com/google.rpc.RetryInfo" => {
                let delay = rpc::RetryInfo::decode(&*detail.value).expect("decodes").retry_delay.expect("a delay");
                self.retry_after = Some(Duration::new(delay.seconds as u64, delay.nanos as u32));
            }
            "type.googleapis.com/google.rpc.BadRequest" => {
                let bad = rpc::BadRequest::decode(&*detail.value).expect("decodes");
                self.violations.extend(bad.field_violations.into_iter().map(|v| (v.field, v.description)));
            }
            other => panic!("unknown detail {other}"),
        }
    }
}

fn unbase64(text: &str) -> Vec<u8> {
    const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bits, mut count, mut out) = (0u32, 0, Vec::new());
    for digit in text.trim_end_matches('=').chars() {
        bits = bits << 6 | ALPHABET.find(digit).expect("base64") as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    out
}
