//! gRPC framing and just enough protobuf to write requests and to read answers in place.
//!
//! Invariant: nothing here allocates on the path of a good answer that arrives in one piece.

use bytes::{BufMut, BytesMut};
use prost::Message as _;
use ttdust_proto::ingestion::{AppendResponse, IngestResponse, Status};

/// Bytes before each gRPC message: a compression flag and a big-endian u32 length.
pub const HEADER_BYTES: usize = 5;
/// What [`Deframer`] takes at most for one message, in bytes: a query answer of 10,000 large records fits.
const MESSAGE_BYTES_MAX: usize = 1 << 30;

/// The peer sent what is not gRPC or not protobuf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A compressed message, though no compression was offered.
    #[error("the server sent a compressed message that was not asked for")]
    Compressed,
    /// A message over [`MESSAGE_BYTES_MAX`].
    #[error("the server announced a message of {0} bytes")]
    TooLong(usize),
    /// Bytes that are not protobuf.
    #[error("the server sent bytes that are not a protobuf message")]
    Malformed,
    /// An answer came when no request was open.
    #[error("the server answered a request that was not made")]
    Unasked,
}

/// Cuts a byte stream into gRPC messages.
#[derive(Debug, Default)]
pub struct Deframer {
    partial: Vec<u8>,
}

impl Deframer {
    /// Calls `each` with every message that `chunk` completes.
    ///
    /// # Errors
    /// The stream is not gRPC, or what `each` says; the deframer is of no more use then.
    pub fn feed(
        &mut self,
        chunk: &[u8],
        mut each: impl FnMut(&[u8]) -> Result<(), WireError>,
    ) -> Result<(), WireError> {
        if self.partial.is_empty() {
            let used = walk(chunk, &mut each)?;
            self.partial.extend_from_slice(&chunk[used..]);
            return Ok(());
        }
        self.partial.extend_from_slice(chunk);
        let used = walk(&self.partial, &mut each)?;
        self.partial.drain(..used);
        Ok(())
    }

    /// Whether the stream ended between messages.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.partial.is_empty()
    }
}

fn walk(bytes: &[u8], each: &mut impl FnMut(&[u8]) -> Result<(), WireError>) -> Result<usize, WireError> {
    let mut used = 0;
    while let Some((header, rest)) = bytes[used..].split_first_chunk::<HEADER_BYTES>() {
        if header[0] != 0 {
            return Err(WireError::Compressed);
        }
        let len = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
        if len > MESSAGE_BYTES_MAX {
            return Err(WireError::TooLong(len));
        }
        let Some(message) = rest.get(..len) else { break };
        each(message)?;
        used += HEADER_BYTES + len;
    }
    Ok(used)
}

/// Appends the header of a message of `len` bytes.
pub fn put_header(out: &mut BytesMut, len: usize) {
    out.put_u8(0);
    out.put_u32(u32::try_from(len).expect("requests are built from payloads far below 4 GiB"));
}

/// Appends a varint.
pub fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// Bytes of a varint.
#[must_use]
pub const fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Appends a length-delimited field with a number below 16.
pub fn put_field(out: &mut BytesMut, number: u8, bytes: &[u8]) {
    debug_assert!((1..16).contains(&number));
    out.put_u8(number << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.put_slice(bytes);
}

/// Bytes of a length-delimited field with a number below 16.
#[must_use]
pub const fn field_len(bytes: usize) -> usize {
    1 + varint_len(bytes as u64) + bytes
}

/// The value of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// Wire type 0.
    Varint(u64),
    /// Wire type 2.
    Bytes(&'a [u8]),
    /// Wire types 1 and 5: no answer has a field of these.
    Fixed,
}

/// Takes the next field off `rest`.
///
/// # Errors
/// [`WireError::Malformed`].
#[inline]
pub fn next_field<'a>(rest: &mut &'a [u8]) -> Result<Option<(u64, Value<'a>)>, WireError> {
    if rest.is_empty() {
        return Ok(None);
    }
    let tag = take_varint(rest)?;
    let value = match tag & 7 {
        0 => Value::Varint(take_varint(rest)?),
        1 => take(rest, 8).map(|_| Value::Fixed)?,
        2 => {
            let len = take_varint(rest)?;
            Value::Bytes(take(rest, usize::try_from(len).map_err(|_| WireError::Malformed)?)?)
        }
        5 => take(rest, 4).map(|_| Value::Fixed)?,
        _ => return Err(WireError::Malformed),
    };
    Ok(Some((tag >> 3, value)))
}

#[inline]
fn take<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8], WireError> {
    let (taken, left) = rest.split_at_checked(len).ok_or(WireError::Malformed)?;
    *rest = left;
    Ok(taken)
}

#[inline]
fn take_varint(rest: &mut &[u8]) -> Result<u64, WireError> {
    let mut value = 0;
    for (index, &byte) in rest.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            *rest = &rest[index + 1..];
            return Ok(value);
        }
    }
    Err(WireError::Malformed)
}

/// What an answer says, of either kind: an `IngestResponse` is an answer to a request of one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Answer {
    /// The `Status`.
    pub status: i32,
    /// Sequence number of the first record taken.
    pub first_sequence: i64,
    /// Sequence number of the last record taken.
    pub last_sequence: i64,
    /// When they were taken, Unix µs.
    pub timestamp_unix_micros: i64,
    /// Records taken: durable.
    pub accepted: u32,
    /// Records that were there already.
    pub duplicates: u32,
    /// Records refused for what they hold.
    pub rejected: u32,
    /// Records put into the dead-letter queue.
    pub dead_lettered: u32,
    /// When a refused request may come again, in milliseconds; 0: not said.
    pub retry_after_millis: u32,
}

impl Answer {
    /// Whether this is [`Status::RateLimited`], with nothing taken.
    #[must_use]
    pub fn is_rate_limited(&self) -> bool {
        self.status == Status::RateLimited as i32 && self.accepted == 0
    }
}

/// Which of the two answers a method gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerKind {
    /// `AppendResponse`.
    Append,
    /// `IngestResponse`.
    Ingest,
}

impl AnswerKind {
    /// Reads an answer in place.
    ///
    /// # Errors
    /// [`WireError::Malformed`].
    #[inline]
    pub fn read(self, message: &[u8]) -> Result<Answer, WireError> {
        match self {
            Self::Append => read_append(message),
            Self::Ingest => read_ingest(message),
        }
    }

    /// The reasons in an answer that is not wholly good, with the number of records that each concerns; `sent` records were
    /// in the request. Allocates: the cold path.
    ///
    /// # Errors
    /// [`WireError::Malformed`].
    pub fn reasons(self, message: &[u8], sent: u32) -> Result<Vec<(String, u64)>, WireError> {
        match self {
            Self::Append => AppendResponse::decode(message).map(|answer| append_reasons(&answer, sent)),
            Self::Ingest => IngestResponse::decode(message).map(|answer| {
                let code = answer.error.as_ref().map_or("", |error| error.code.as_str());
                vec![(reason(code, answer.status), 1)]
            }),
        }
        .map_err(|_| WireError::Malformed)
    }
}

#[inline]
fn read_append(mut rest: &[u8]) -> Result<Answer, WireError> {
    let mut answer = Answer::default();
    while let Some((number, value)) = next_field(&mut rest)? {
        let Value::Varint(value) = value else { continue };
        match number {
            1 => answer.first_sequence = value as i64,
            2 => answer.last_sequence = value as i64,
            3 => answer.timestamp_unix_micros = value as i64,
            4 => answer.accepted = value as u32,
            5 => answer.duplicates = value as u32,
            6 => answer.rejected = value as u32,
            7 => answer.dead_lettered = value as u32,
            9 => answer.status = value as i32,
            11 => answer.retry_after_millis = value as u32,
            _ => {}
        }
    }
    Ok(answer)
}

#[inline]
fn read_ingest(mut rest: &[u8]) -> Result<Answer, WireError> {
    let mut answer = Answer::default();
    while let Some((number, value)) = next_field(&mut rest)? {
        let Value::Varint(value) = value else { continue };
        match number {
            2 => answer.first_sequence = value as i64,
            3 => answer.timestamp_unix_micros = value as i64,
            4 => answer.status = value as i32,
            _ => {}
        }
    }
    answer.last_sequence = answer.first_sequence;
    match Status::try_from(answer.status) {
        Ok(Status::Ok) => answer.accepted = 1,
        Ok(Status::Duplicate) => answer.duplicates = 1,
        Ok(Status::ValidationError) => answer.rejected = 1,
        _ => {}
    }
    Ok(answer)
}

fn reason(code: &str, status: i32) -> String {
    if !code.is_empty() {
        return code.to_owned();
    }
    Status::try_from(status).map_or_else(|_| format!("status {status}"), |status| status.as_str_name().to_owned())
}

fn append_reasons(answer: &AppendResponse, sent: u32) -> Vec<(String, u64)> {
    let of_row = |error: &Option<_>| {
        let code = error.as_ref().map_or("", |error: &ttdust_proto::ingestion::IngestError| error.code.as_str());
        reason(code, answer.status)
    };
    let mut reasons: Vec<_> = answer.row_errors.iter().map(|row| (of_row(&row.error), 1)).collect();
    let told = reasons.len() as u64;
    let counted = u64::from(answer.rejected) + u64::from(answer.dead_lettered);
    let taken = u64::from(answer.accepted) + u64::from(answer.duplicates);
    let failed = if counted == 0 { u64::from(sent).saturating_sub(taken) } else { counted };
    if failed > told {
        reasons.push((of_row(&answer.error), failed - told));
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;
    use ttdust_proto::ingestion::{IngestError, RowError};

    fn framed(messages: &[Vec<u8>]) -> Vec<u8> {
        let mut out = BytesMut::new();
        for message in messages {
            put_header(&mut out, message.len());
            out.put_slice(message);
        }
        out.to_vec()
    }

    #[test]
    fn messages_survive_any_cut() {
        let messages: Vec<Vec<u8>> = [0, 1, 5, 200, 3].iter().map(|&len| vec![7; len]).collect();
        let stream = framed(&messages);
        for size in 1..=stream.len() {
            let mut deframer = Deframer::default();
            let mut seen = Vec::new();
            for chunk in stream.chunks(size) {
                deframer
                    .feed(chunk, |message| {
                        seen.push(message.to_vec());
                        Ok(())
                    })
                    .expect("well formed");
            }
            assert_eq!(seen, messages, "chunks of {size}");
            assert!(deframer.is_empty());
        }
    }

    #[test]
    fn a_compressed_or_absurd_message_is_refused() {
        let feed = |bytes: &[u8]| Deframer::default().feed(bytes, |_| Ok(()));
        assert_eq!(feed(&[1, 0, 0, 0, 0]), Err(WireError::Compressed));
        assert_eq!(feed(&[0, 255, 255, 255, 255]), Err(WireError::TooLong(u32::MAX as usize)));
    }

    #[test]
    fn the_walk_reads_what_prost_writes() {
        let append = AppendResponse {
            first_sequence: 1 << 40,
            last_sequence: (1 << 40) + 99,
            timestamp_unix_micros: 1_700_000_000_000_000,
            accepted: 100,
            duplicates: 1,
            rejected: 2,
            dead_lettered: 3,
            row_errors: vec![RowError { index: 4, error: Some(IngestError::default()) }],
            status: Status::Ok as i32,
            schema_version: 9,
            retry_after_millis: Some(250),
            error: Some(IngestError { code: "X".into(), ..Default::default() }),
            duplicate_sequences: Vec::new(),
        };
        let answer = AnswerKind::Append.read(&append.encode_to_vec()).expect("well formed");
        assert_eq!((answer.first_sequence, answer.last_sequence), (1 << 40, (1 << 40) + 99));
        assert_eq!((answer.accepted, answer.duplicates, answer.rejected, answer.dead_lettered), (100, 1, 2, 3));
        assert_eq!((answer.status, answer.retry_after_millis), (1, 250));
        assert_eq!(answer.timestamp_unix_micros, 1_700_000_000_000_000);

        let ingest = IngestResponse {
            record_id: "rec_0".into(),
            sequence_number: -1,
            timestamp_unix_micros: 5,
            status: Status::Duplicate as i32,
            error: None,
        };
        let answer = AnswerKind::Ingest.read(&ingest.encode_to_vec()).expect("well formed");
        assert_eq!((answer.first_sequence, answer.last_sequence, answer.duplicates, answer.accepted), (-1, -1, 1, 0));
    }

    #[test]
    fn cut_messages_are_malformed_and_never_panic() {
        let full = IngestResponse { record_id: "rec_0".into(), sequence_number: 300, ..Default::default() };
        let bytes = full.encode_to_vec();
        assert!(AnswerKind::Ingest.read(&bytes[..bytes.len() - 1]).is_err());
        for len in 0..bytes.len() {
            let _ = AnswerKind::Append.read(&bytes[..len]);
        }
        assert_eq!(AnswerKind::Ingest.read(&[0xff; 11]), Err(WireError::Malformed));
    }

    #[test]
    fn every_failed_record_gets_one_reason() {
        let error = |code: &str| Some(IngestError { code: code.into(), ..Default::default() });
        let answer = AppendResponse {
            accepted: 5,
            rejected: 3,
            row_errors: vec![RowError { index: 0, error: error("SCHEMA") }],
            error: error("ATOMIC"),
            status: Status::ValidationError as i32,
            ..Default::default()
        };
        assert_eq!(append_reasons(&answer, 8), [("SCHEMA".to_owned(), 1), ("ATOMIC".to_owned(), 2)]);
        let whole = AppendResponse { status: Status::InternalError as i32, ..Default::default() };
        assert_eq!(append_reasons(&whole, 8), [("STATUS_INTERNAL_ERROR".to_owned(), 8)]);
    }

    #[test]
    fn lengths_match_what_is_written() {
        for len in [0, 1, 127, 128, 16_383, 16_384] {
            let mut out = BytesMut::new();
            put_field(&mut out, 3, &vec![1; len]);
            assert_eq!(out.len(), field_len(len));
        }
    }
}
