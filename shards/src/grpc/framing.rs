//! gRPC messages out of HTTP/2 data and into it: five bytes of prefix, then the message, compressed or not.
//!
//! Invariants: a length over the limit is refused from the prefix, before anything is allocated for it; decompression stops
//! at the same limit. A message that lies in one DATA frame is a slice of it, not a copy.

use std::{
    io::Read,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::RecvStream;
use http::HeaderMap;

use super::status::{Code, Status};

/// Bytes of a message's prefix: a flag and a big-endian length.
pub const PREFIX_BYTES: usize = 5;

/// How a call's messages may be compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Not.
    Identity,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
}

impl Encoding {
    /// What a client says in `grpc-encoding`.
    ///
    /// # Errors
    /// An encoding that this server has not: UNIMPLEMENTED.
    pub fn of_request(headers: &HeaderMap) -> Result<Self, Status> {
        match headers.get("grpc-encoding").map(|value| value.as_bytes()) {
            None | Some(b"identity") => Ok(Self::Identity),
            Some(b"gzip") => Ok(Self::Gzip),
            Some(b"zstd") => Ok(Self::Zstd),
            Some(other) => {
                let other = String::from_utf8_lossy(other);
                let message = format!("grpc-encoding {other:?} is not supported: use identity, gzip or zstd");
                Err(Status::new(Code::Unimplemented, "UNSUPPORTED_ENCODING", message))
            }
        }
    }

    fn decompress(self, data: &[u8], limit: usize) -> Result<Bytes, Status> {
        let mut out = BytesMut::new().writer();
        let bound = limit as u64 + 1;
        let copied = match self {
            Self::Identity => {
                let message = "a message is flagged as compressed, but the call has no grpc-encoding";
                return Err(Status::new(Code::Internal, "MALFORMED_MESSAGE", message));
            }
            Self::Gzip => std::io::copy(&mut flate2::read::MultiGzDecoder::new(data).take(bound), &mut out),
            Self::Zstd => zstd::stream::read::Decoder::with_buffer(data)
                .and_then(|decoder| std::io::copy(&mut decoder.take(bound), &mut out)),
        };
        match copied {
            Ok(n) if n > limit as u64 => Err(too_large("is larger", limit)),
            Ok(_) => Ok(out.into_inner().freeze()),
            Err(error) => {
                let message = format!("a message does not decompress: {error}");
                Err(Status::new(Code::InvalidArgument, "MALFORMED_MESSAGE", message))
            }
        }
    }
}

fn too_large(size: impl std::fmt::Display, limit: usize) -> Status {
    let message = format!("a message {size} than the limit of {limit} bytes: send smaller batches");
    Status::new(Code::ResourceExhausted, "MESSAGE_TOO_LARGE", message)
}

/// The messages of a request's body, in order.
#[derive(Debug)]
pub struct MessageReader {
    body: RecvStream,
    messages: Messages,
    /// Bytes and messages that came.
    received: (u64, u64),
    ended: bool,
}

impl MessageReader {
    /// Reads messages of at most `limit` bytes.
    #[must_use]
    pub fn new(body: RecvStream, encoding: Encoding, limit: usize) -> Self {
        Self { body, messages: Messages::new(encoding, limit), received: (0, 0), ended: false }
    }

    /// The next message, or `None` at the end of the body.
    ///
    /// # Errors
    /// A message over the limit, a broken one, or a broken connection: the call ends.
    pub fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        loop {
            match self.messages.take() {
                Ok(Some(message)) => {
                    self.received.1 += 1;
                    return Poll::Ready(Some(Ok(message)));
                }
                Ok(None) => {}
                Err(status) => return Poll::Ready(Some(Err(status))),
            }
            if self.ended {
                return Poll::Ready(self.messages.end().err().map(Err));
            }
            match ready!(self.body.poll_data(cx)) {
                Some(Ok(data)) => {
                    // The bytes are taken out of h2's buffer here; how many messages are under way is bounded by the caller.
                    let released = self.body.flow_control().release_capacity(data.len());
                    debug_assert!(released.is_ok(), "no more is released than was received");
                    self.received.0 += data.len() as u64;
                    self.messages.put(data);
                }
                Some(Err(error)) => {
                    self.ended = true;
                    let status =
                        Status::new(Code::Cancelled, "CONNECTION_LOST", format!("the call was broken off: {error}"));
                    return Poll::Ready(Some(Err(status)));
                }
                None => self.ended = true,
            }
        }
    }

    /// In the middle of a message: how many bytes came so far, of all messages, and how many whole ones. `None` between messages.
    #[must_use]
    pub fn within_message(&self) -> Option<(u64, u64)> {
        (!self.messages.partial.is_empty()).then_some(self.received)
    }
}

/// Cuts bytes into messages.
#[derive(Debug)]
pub struct Messages {
    encoding: Encoding,
    limit: usize,
    /// What the last piece still holds.
    chunk: Bytes,
    /// A message that began in an earlier piece: prefix and what there is of it.
    partial: BytesMut,
}

impl Messages {
    /// Of at most `limit` bytes each.
    #[must_use]
    pub fn new(encoding: Encoding, limit: usize) -> Self {
        Self { encoding, limit, chunk: Bytes::new(), partial: BytesMut::new() }
    }

    /// The next piece, once [`Self::take`] has none left.
    pub fn put(&mut self, piece: Bytes) {
        debug_assert!(self.chunk.is_empty(), "a piece is taken before the next");
        self.chunk = piece;
    }

    /// There are no more.
    ///
    /// # Errors
    /// A message was begun.
    pub fn end(&mut self) -> Result<(), Status> {
        let whole = self.partial.is_empty() && self.chunk.is_empty();
        self.partial.clear();
        self.chunk.clear();
        let cut = || Status::new(Code::InvalidArgument, "MALFORMED_MESSAGE", "the last message is cut short");
        if whole { Ok(()) } else { Err(cut()) }
    }

    /// A message that is at hand.
    ///
    /// # Errors
    /// One over the limit, or a broken one.
    pub fn take(&mut self) -> Result<Option<Bytes>, Status> {
        if self.partial.is_empty() {
            let Some(length) = self.length_of(&self.chunk)? else {
                if !self.chunk.is_empty() {
                    self.partial.extend_from_slice(&self.chunk);
                    self.chunk.clear();
                }
                return Ok(None);
            };
            if self.chunk.len() >= PREFIX_BYTES + length {
                let mut message = self.chunk.split_to(PREFIX_BYTES + length);
                let compressed = message[0] == 1;
                message.advance(PREFIX_BYTES);
                return self.decoded(message, compressed).map(Some);
            }
        }
        self.take_split_message()
    }

    /// Puts together a message that lies in more than one frame.
    fn take_split_message(&mut self) -> Result<Option<Bytes>, Status> {
        if self.partial.len() < PREFIX_BYTES {
            let wanted = (PREFIX_BYTES - self.partial.len()).min(self.chunk.len());
            self.partial.extend_from_slice(&self.chunk.split_to(wanted));
        }
        let Some(length) = self.length_of(&self.partial)? else { return Ok(None) };
        let total = PREFIX_BYTES + length;
        self.partial.reserve(total - self.partial.len().min(total));
        let wanted = (total - self.partial.len()).min(self.chunk.len());
        self.partial.extend_from_slice(&self.chunk.split_to(wanted));
        if self.partial.len() < total {
            return Ok(None);
        }
        let mut message = std::mem::take(&mut self.partial).freeze();
        let compressed = message[0] == 1;
        message.advance(PREFIX_BYTES);
        self.decoded(message, compressed).map(Some)
    }

    /// The length that a prefix tells, if it is whole.
    fn length_of(&self, data: &[u8]) -> Result<Option<usize>, Status> {
        let Some(&[flag, a, b, c, d]) = data.first_chunk() else { return Ok(None) };
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if flag > 1 {
            let message = format!("a message's first byte is {flag}, not 0 or 1: this is not gRPC");
            return Err(Status::new(Code::InvalidArgument, "MALFORMED_MESSAGE", message));
        }
        if length > self.limit {
            return Err(too_large(format_args!("of {length} bytes is larger"), self.limit));
        }
        Ok(Some(length))
    }

    fn decoded(&self, message: Bytes, compressed: bool) -> Result<Bytes, Status> {
        if compressed { self.encoding.decompress(&message, self.limit) } else { Ok(message) }
    }
}

/// Appends `message` to `out` with its prefix.
pub fn put_message(out: &mut BytesMut, message: &impl prost::Message) {
    let length = message.encoded_len();
    out.reserve(PREFIX_BYTES + length);
    out.put_u8(0);
    out.put_u32(length as u32);
    message.encode(out).expect("room was reserved");
}
