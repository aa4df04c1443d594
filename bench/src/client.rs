//! A gRPC client straight on h2: connecting, requests, the status of an answer. No retries, no pools, no compression.

use std::{collections::BTreeMap, io, net::SocketAddr, time::Duration};

use bytes::{Bytes, BytesMut};
use h2::client::{Connection, SendRequest};
use http::{HeaderMap, HeaderValue, Request};
use prost::Message;
use tokio::net::{TcpSocket, TcpStream};

use crate::wire::{Deframer, WireError, put_header};

/// Acks are small and never to be held back by a window.
const WINDOW_BYTES: u32 = 16 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A server, and how to show oneself to it.
#[derive(Debug, Clone)]
pub struct Target {
    address: SocketAddr,
    authority: String,
    authorization: Option<HeaderValue>,
}

/// The address or the key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The name is not known.
    #[error("cannot resolve {authority}: {source}; want HOST:PORT, such as 127.0.0.1:50051")]
    Resolve {
        /// What was given.
        authority: String,
        /// What the system said.
        source: io::Error,
    },
    /// Not a header value.
    #[error("the API key holds characters that cannot be sent in a header")]
    Key,
}

impl Target {
    /// The server at `authority` (`HOST:PORT`).
    ///
    /// # Errors
    /// See [`TargetError`].
    pub fn new(authority: &str, api_key: Option<&str>) -> Result<Self, TargetError> {
        let address = crate::rest::resolve(authority)
            .map_err(|source| TargetError::Resolve { authority: authority.to_owned(), source })?;
        let authorization = match api_key {
            None => None,
            Some(key) => {
                let mut value = HeaderValue::try_from(format!("Bearer {key}")).map_err(|_| TargetError::Key)?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        Ok(Self { address, authority: authority.to_owned(), authorization })
    }

    /// `HOST:PORT`.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Opens a connection. Its two halves: who drives the second, makes the first work.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn connect(&self) -> Result<(SendRequest<Bytes>, Connection<TcpStream, Bytes>), ConnectError> {
        let wrap = |source| ConnectError::Socket { authority: self.authority.clone(), source };
        let socket = if self.address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(wrap)?;
        socket.set_nodelay(true).map_err(wrap)?;
        let connecting = tokio::time::timeout(CONNECT_TIMEOUT, socket.connect(self.address));
        let stream = connecting.await.map_err(|_| wrap(io::ErrorKind::TimedOut.into()))?.map_err(wrap)?;
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .max_frame_size(1 << 20)
            .enable_push(false);
        builder
            .handshake(stream)
            .await
            .map_err(|source| ConnectError::Http2 { authority: self.authority.clone(), source })
    }

    /// The head of a call.
    #[must_use]
    pub fn request(&self, path: &'static str) -> Request<()> {
        let mut request = Request::post(format!("http://{}{path}", self.authority))
            .version(http::Version::HTTP_2)
            .header(http::header::CONTENT_TYPE, "application/grpc")
            .header(http::header::TE, "trailers")
            .header(http::header::USER_AGENT, concat!("ttdust-bench/", env!("CARGO_PKG_VERSION")))
            .body(())
            .expect("made of an authority that resolved and of constants");
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(http::header::AUTHORIZATION, authorization.clone());
        }
        request
    }
}

/// No connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The server is not there.
    #[error("cannot connect to {authority}: {source}; is the server running, and is this its gRPC port?")]
    Socket {
        /// The server.
        authority: String,
        /// What the system said.
        source: io::Error,
    },
    /// It does not speak HTTP/2.
    #[error("{authority} does not speak HTTP/2 in clear text ({source}); is this its gRPC port?")]
    Http2 {
        /// The server.
        authority: String,
        /// What h2 said.
        source: h2::Error,
    },
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GrpcStatus {
    /// The code; 0 is OK.
    pub code: u32,
    /// The text for people.
    pub message: String,
    /// `ErrorInfo.reason`, or empty.
    pub reason: String,
    /// `RetryInfo.retry_delay`.
    pub retry_after: Option<Duration>,
}

impl GrpcStatus {
    /// The status in `headers`, if one is there.
    #[must_use]
    pub fn read(headers: &HeaderMap) -> Option<Self> {
        let code = headers.get("grpc-status")?.to_str().ok()?.parse().unwrap_or(2);
        let message = headers.get("grpc-message").map_or_else(String::new, |value| percent_decode(value.as_bytes()));
        let mut status = Self { code, message, ..Self::default() };
        let details = headers.get("grpc-status-details-bin").and_then(|value| base64_decode(value.as_bytes()));
        if let Some(details) = details.and_then(|bytes| ttdust_proto::rpc::Status::decode(&bytes[..]).ok()) {
            for any in details.details {
                if any.type_url.ends_with("/google.rpc.ErrorInfo") {
                    let info = ttdust_proto::rpc::ErrorInfo::decode(&any.value[..]).unwrap_or_default();
                    status.reason = info.reason;
                } else if any.type_url.ends_with("/google.rpc.RetryInfo") {
                    let info = ttdust_proto::rpc::RetryInfo::decode(&any.value[..]).unwrap_or_default();
                    status.retry_after = info.retry_delay.and_then(|delay| Duration::try_from(delay).ok());
                }
            }
        }
        Some(status)
    }

    /// What errors are counted by: the reason if there is one, else the code's name.
    #[must_use]
    pub fn kind(&self) -> String {
        let name = CODES.get(self.code as usize).copied().unwrap_or("UNKNOWN");
        if self.reason.is_empty() { name.to_owned() } else { format!("{name}/{}", self.reason) }
    }
}

const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

fn percent_decode(text: &[u8]) -> String {
    let hex = |digit: u8| (digit as char).to_digit(16).map(|value| value as u8);
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        let escaped = match after {
            [high, low, ..] if first == b'%' => hex(*high).zip(hex(*low)),
            _ => None,
        };
        match escaped {
            Some((high, low)) => {
                out.push(high << 4 | low);
                rest = &after[2..];
            }
            None => out.push(first),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn base64_decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut held) = (0u32, 0);
    for &byte in text.iter().filter(|&&byte| byte != b'=') {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(six);
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
    }
    Some(out)
}

/// A unary call failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The connection broke.
    #[error("the connection failed: {0}")]
    Http2(#[from] h2::Error),
    /// Not gRPC.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// Not HTTP 200.
    #[error("the server answered HTTP {0}: is this its gRPC port?")]
    Http(u16),
    /// The server says no.
    #[error("{}: {}", .0.kind(), .0.message)]
    Status(GrpcStatus),
    /// OK, but no message.
    #[error("the server ended the call without an answer")]
    NoAnswer,
}

/// One request, one answer.
///
/// # Errors
/// See [`CallError`].
pub async fn unary<A: Message + Default>(
    send: &mut SendRequest<Bytes>,
    target: &Target,
    path: &'static str,
    request: &impl Message,
) -> Result<A, CallError> {
    std::future::poll_fn(|cx| send.poll_ready(cx)).await?;
    let (answer, mut body) = send.send_request(target.request(path), false)?;
    let mut framed = BytesMut::new();
    put_header(&mut framed, request.encoded_len());
    request.encode(&mut framed).expect("a BytesMut grows");
    body.send_data(framed.freeze(), true)?;
    let answer = answer.await?;
    if answer.status() != http::StatusCode::OK {
        return Err(CallError::Http(answer.status().as_u16()));
    }
    if let Some(status) = GrpcStatus::read(answer.headers()) {
        return Err(CallError::Status(status));
    }
    let mut body = answer.into_body();
    let (mut deframer, mut message) = (Deframer::default(), None);
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        deframer.feed(&chunk, |bytes| {
            message = Some(A::decode(bytes).map_err(|_| WireError::Malformed)?);
            Ok(())
        })?;
    }
    match body.trailers().await?.as_ref().and_then(GrpcStatus::read) {
        Some(status) if status.code != 0 => Err(CallError::Status(status)),
        _ => message.ok_or(CallError::NoAnswer),
    }
}

/// Errors by kind: how many, and what the first of them said.
#[derive(Debug, Clone, Default)]
pub struct Errors(BTreeMap<String, (u64, String)>);

impl Errors {
    /// Counts `count` of `kind`.
    pub fn add(&mut self, kind: &str, count: u64, message: &str) {
        match self.0.get_mut(kind) {
            Some((total, _)) => *total += count,
            None => {
                self.0.insert(kind.to_owned(), (count, message.to_owned()));
            }
        }
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: Self) {
        for (kind, (count, message)) in other.0 {
            self.add(&kind, count, &message);
        }
    }

    /// Kind, count and first message, by kind.
    #[must_use]
    pub fn sorted(&self) -> Vec<(&str, u64, &str)> {
        self.0.iter().map(|(kind, (count, text))| (kind.as_str(), *count, text.as_str())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_with_its_details() {
        let mut headers = HeaderMap::new();
        assert_eq!(GrpcStatus::read(&headers), None);
        headers.insert("grpc-status", HeaderValue::from_static("8"));
        headers.insert("grpc-message", HeaderValue::from_static("slow%20down%C3%A4%"));
        // Status{8, "x", [ErrorInfo{reason: "RATE"}, RetryInfo{1.5 s}]}
        let any = |name: &str, value: Vec<u8>| prost_types_any(name, value);
        let info = ttdust_proto::rpc::ErrorInfo { reason: "RATE".into(), ..Default::default() };
        let retry = {
            // retry_delay { seconds: 1, nanos: 500_000_000 }
            vec![0x0a, 0x08, 0x08, 0x01, 0x10, 0x80, 0xca, 0xb5, 0xee, 0x01]
        };
        let mut status = vec![0x08, 8];
        for any in [any("ErrorInfo", info.encode_to_vec()), any("RetryInfo", retry)] {
            status.extend([0x1a, any.len() as u8]);
            status.extend(any);
        }
        headers.insert("grpc-status-details-bin", HeaderValue::try_from(base64(&status)).expect("ASCII"));
        let status = GrpcStatus::read(&headers).expect("there is one");
        assert_eq!((status.code, status.message.as_str()), (8, "slow down\u{e4}%"));
        assert_eq!(status.kind(), "RESOURCE_EXHAUSTED/RATE");
        assert_eq!(status.retry_after, Some(Duration::from_millis(1500)));
    }

    fn prost_types_any(name: &str, value: Vec<u8>) -> Vec<u8> {
        let url = format!("type.googleapis.com/google.rpc.{name}");
        let mut out = vec![0x0a, url.len() as u8];
        out.extend(url.as_bytes());
        out.extend([0x12, value.len() as u8]);
        out.extend(value);
        out
    }

    fn base64(bytes: &[u8]) -> String {
        const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let six = |chunk: &[u8], index: usize| {
            let wide = chunk.iter().chain([0, 0].iter()).take(3).fold(0u32, |wide, &byte| wide << 8 | u32::from(byte));
            ALPHABET[(wide >> (18 - 6 * index)) as usize & 63] as char
        };
        bytes.chunks(3).flat_map(|chunk| (0..=chunk.len()).map(move |index| six(chunk, index))).collect()
    }

    #[test]
    fn base64_comes_back_with_or_without_padding() {
        for len in 0..20u8 {
            let bytes: Vec<u8> = (0..len).map(|n| n.wrapping_mul(37)).collect();
            let text = base64(&bytes);
            assert_eq!(base64_decode(text.as_bytes()), Some(bytes.clone()));
            let padded = format!("{text}{}", "=".repeat((4 - text.len() % 4) % 4));
            assert_eq!(base64_decode(padded.as_bytes()), Some(bytes));
        }
        assert_eq!(base64_decode(b"a*"), None);
    }

    #[test]
    fn bad_targets_are_told() {
        assert!(matches!(Target::new("no-port", None), Err(TargetError::Resolve { .. })));
        assert!(matches!(Target::new("127.0.0.1:1", Some("a\nb")), Err(TargetError::Key)));
    }
}
