//! Answers of `StreamingRead`, encoded once for all readers that are at the same place.
//!
//! A piece is a run of whole gRPC messages in one allocation of about [`PIECE_BYTES`]: what a slow reader holds on to is one
//! piece and what HTTP/2 holds of others, not a page. The encoding is that of [`ttdust_proto::query::StreamingReadResponse`],
//! written by hand: no message is built a record.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use prost::{
    Message as _,
    encoding::{encode_varint, encoded_len_varint},
};
use ttdust_proto::query::StreamingReadResponse;

use crate::{
    ids::{RecordId, StreamId},
    memory::{Charge, Pool},
};

/// A piece is closed at this size, in bytes. A larger record is a piece by itself.
pub const PIECE_BYTES: usize = 64 << 10;

/// Bytes of a message's prefix: a flag and a big-endian length.
const PREFIX_BYTES: usize = 5;
/// Bytes of an id as text, of a record or a stream.
const ID_BYTES: usize = 40;

/// Whole messages of the rows of a run of sequence numbers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Piece {
    /// The first sequence number that it stands for.
    pub first: i64,
    /// The last.
    pub last: i64,
    /// Framed messages, of all of them or of fewer, or of none.
    pub data: Bytes,
    /// How many.
    pub messages: u64,
    /// The last row that has one.
    pub last_row: i64,
    /// When the rows were synced; `None`: they are from a page.
    pub synced: Option<Instant>,
}

/// Memory that gives its bytes back to the pool when the last reader lets go of it.
struct Pooled {
    data: Vec<u8>,
    _charge: Charge,
}

impl AsRef<[u8]> for Pooled {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

/// The length of the first message in `data`, with its prefix. `data` begins with a whole message.
fn message_bytes(data: &[u8]) -> usize {
    let length =
        data.get(1..PREFIX_BYTES).and_then(|length| length.first_chunk()).expect("a piece holds whole messages");
    PREFIX_BYTES + u32::from_be_bytes(*length) as usize
}

impl Piece {
    /// Its messages, decoded.
    pub fn decoded(&self) -> impl Iterator<Item = StreamingReadResponse> {
        let mut rest = self.data.clone();
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let message = rest.split_to(message_bytes(&rest)).slice(PREFIX_BYTES..);
            Some(StreamingReadResponse::decode(message).expect("a piece holds whole messages"))
        })
    }

    /// What it has past `position`; `None`: it ends there.
    #[must_use]
    pub fn after(mut self, position: i64) -> Option<Self> {
        if self.last <= position {
            return None;
        }
        if position >= self.last_row {
            self.data.clear();
            self.messages = 0;
        } else if self.messages == (self.last - self.first + 1) as u64 {
            (self.first..=position).for_each(|_| self.drop_first());
        } else {
            while self.first_record().is_some_and(|(sequence, _)| sequence <= position) {
                self.drop_first();
            }
        }
        self.first = self.first.max(position + 1);
        Some(self)
    }

    /// The rows that were ingested at or after `unix_micros`; `None`: there are none.
    #[must_use]
    pub fn since(mut self, unix_micros: i64) -> Option<Self> {
        loop {
            let (sequence, timestamp) = self.first_record()?;
            if timestamp >= unix_micros {
                self.first = sequence;
                return Some(self);
            }
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        let _ = self.data.split_to(message_bytes(&self.data));
        self.messages -= 1;
    }

    /// Sequence number and time of its first row.
    fn first_record(&self) -> Option<(i64, i64)> {
        if self.data.is_empty() {
            return None;
        }
        let message = StreamingReadResponse::decode(&self.data[PREFIX_BYTES..message_bytes(&self.data)]);
        let record = message.ok().and_then(|message| message.record);
        Some(record.map_or((i64::MAX, i64::MAX), |record| (record.sequence_number, record.timestamp_unix_micros)))
    }
}

/// How many bytes of `data`, a run of whole messages of which the first `sent` bytes are gone, to send into a room of `room`
/// bytes: up to the last message that ends there; if none does, as much as fits.
#[must_use]
pub fn cut(data: &[u8], sent: usize, room: usize) -> usize {
    let limit = sent + room;
    if data.len() <= limit {
        return data.len() - sent;
    }
    let mut end = 0;
    loop {
        let next = end + message_bytes(&data[end..]);
        if next > limit {
            break;
        }
        end = next;
    }
    if end > sent { end - sent } else { room }
}

/// How many messages there are in `data`, a run of whole ones.
#[must_use]
pub fn messages(data: &[u8]) -> u64 {
    let (mut at, mut count) = (0, 0);
    while at < data.len() {
        at += message_bytes(&data[at..]);
        count += 1;
    }
    count
}

/// How many bytes after the first `sent` of `data` belong to a message that is sent in part.
#[must_use]
pub fn unfinished(data: &[u8], sent: usize) -> usize {
    let mut end = 0;
    while end < sent {
        end += message_bytes(&data[end..]);
    }
    end - sent
}

/// Encodes rows of one stream into pieces.
#[derive(Debug)]
pub struct PieceWriter {
    stream: StreamId,
    stream_text: [u8; ID_BYTES],
    is_historical: bool,
    synced: Option<Instant>,
    pool: Arc<Pool>,
    /// The piece that fills, from `first`.
    data: Vec<u8>,
    messages: u64,
    first: i64,
    /// The last row that was added.
    last: i64,
    metadata: Vec<(String, String)>,
    encoded_metadata: Vec<u8>,
    pieces: Vec<Piece>,
}

impl PieceWriter {
    /// Of `stream`, with this mark on each record. What is there begins with `first`: rows from there on that are not added are
    /// left out.
    #[must_use]
    pub fn new(
        (stream, first): (StreamId, i64),
        is_historical: bool,
        synced: Option<Instant>,
        pool: &Arc<Pool>,
    ) -> Self {
        let mut stream_text = [0; ID_BYTES];
        stream_text.copy_from_slice(stream.to_string().as_bytes());
        Self {
            stream,
            stream_text,
            is_historical,
            synced,
            pool: Arc::clone(pool),
            data: Vec::new(),
            messages: 0,
            first,
            last: first - 1,
            metadata: Vec::new(),
            encoded_metadata: Vec::new(),
            pieces: Vec::new(),
        }
    }

    /// The metadata of the rows that come now.
    pub fn set_metadata(&mut self, metadata: &[(String, String)]) {
        if self.metadata == metadata {
            return;
        }
        self.metadata = metadata.to_vec();
        self.encoded_metadata.clear();
        for (name, value) in metadata {
            let entry = length_delimited(name.len()) + length_delimited(value.len());
            put_length(&mut self.encoded_metadata, 6, entry);
            put_bytes(&mut self.encoded_metadata, 1, name.as_bytes());
            put_bytes(&mut self.encoded_metadata, 2, value.as_bytes());
        }
    }

    /// Adds a row. `expected_bytes` of payloads are to come with it and after it, as far as the caller knows.
    pub fn push(&mut self, sequence: i64, timestamp_unix_micros: i64, payload: &[u8], expected_bytes: usize) {
        assert!(sequence > self.last, "rows come in order");
        if self.data.is_empty() {
            let likely = expected_bytes + expected_bytes / 2 + 256;
            self.data.reserve_exact(likely.min(PIECE_BYTES + PIECE_BYTES / 8));
        }
        self.last = sequence;
        self.messages += 1;
        let record = 2 * length_delimited(ID_BYTES)
            + 1
            + encoded_len_varint(sequence as u64)
            + 1
            + encoded_len_varint(timestamp_unix_micros as u64)
            + length_delimited(payload.len())
            + self.encoded_metadata.len();
        let message = length_delimited(record) + if self.is_historical { 2 } else { 0 };
        let out = &mut self.data;
        out.push(0);
        out.extend_from_slice(&u32::try_from(message).expect("a record is far below 4 GiB").to_be_bytes());
        put_length(out, 1, record);
        put_bytes(out, 1, &RecordId::of(self.stream, sequence).to_text());
        put_bytes(out, 2, &self.stream_text);
        put_varint(out, 3, sequence as u64);
        put_varint(out, 4, timestamp_unix_micros as u64);
        put_bytes(out, 5, payload);
        out.extend_from_slice(&self.encoded_metadata);
        if self.is_historical {
            put_varint(out, 2, 1);
        }
        if out.len() >= PIECE_BYTES {
            self.close();
        }
    }

    fn close(&mut self) {
        if self.data.is_empty() {
            return;
        }
        let mut data = std::mem::take(&mut self.data);
        if data.capacity() > data.len() + data.len() / 4 {
            data.shrink_to_fit();
        }
        let charge = self.pool.charge(data.capacity());
        let data = Bytes::from_owner(Pooled { data, _charge: charge });
        let messages = std::mem::take(&mut self.messages);
        self.pieces.push(Piece {
            first: self.first,
            last: self.last,
            data,
            messages,
            last_row: self.last,
            synced: self.synced,
        });
        self.first = self.last + 1;
    }

    /// All pieces, which stand for every row up to `through`, whether it was added or not.
    #[must_use]
    pub fn finish(mut self, through: i64) -> Vec<Piece> {
        self.close();
        match self.pieces.last_mut() {
            Some(last) => last.last = last.last.max(through),
            None if through >= self.first => {
                let (first, synced) = (self.first, self.synced);
                self.pieces.push(Piece {
                    first,
                    last: through,
                    data: Bytes::new(),
                    messages: 0,
                    last_row: first - 1,
                    synced,
                });
            }
            None => {}
        }
        self.pieces
    }
}

/// Bytes of a field of `length` bytes with a tag of one byte and its length.
fn length_delimited(length: usize) -> usize {
    1 + encoded_len_varint(length as u64) + length
}

fn put_length(out: &mut Vec<u8>, field: u8, length: usize) {
    out.push(field << 3 | 2);
    encode_varint(length as u64, out);
}

fn put_bytes(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    put_length(out, field, bytes.len());
    out.extend_from_slice(bytes);
}

fn put_varint(out: &mut Vec<u8>, field: u8, value: u64) {
    out.push(field << 3);
    encode_varint(value, out);
}

#[cfg(test)]
mod tests {
    use ttdust_proto::query::Record;

    use super::*;

    fn decoded(mut data: &[u8]) -> Vec<StreamingReadResponse> {
        let mut messages = Vec::new();
        while !data.is_empty() {
            let (message, rest) = data.split_at(message_bytes(data));
            messages.push(StreamingReadResponse::decode(&message[PREFIX_BYTES..]).expect("decodes"));
            data = rest;
        }
        messages
    }

    fn payload(n: i64) -> Vec<u8> {
        format!("{{\"n\":{n},\"pad\":\"{}\"}}", "x".repeat(n as usize % 700)).into_bytes()
    }

    #[test]
    fn pieces_decode_to_what_was_put_in_and_their_memory_comes_back() {
        let (stream, pool) = (StreamId::generate(), Pool::new(1 << 20));
        for is_historical in [false, true] {
            let mut writer = PieceWriter::new((stream, 1), is_historical, None, &pool);
            let pairs = [("a".to_owned(), "ü".to_owned()), (String::new(), "2".to_owned())];
            let mut expected = Vec::new();
            for sequence in 1..=1000 {
                let metadata = if sequence > 500 { &pairs[..] } else { &[] };
                writer.set_metadata(metadata);
                writer.push(sequence, 1_700_000_000_000_000 + sequence, &payload(sequence), 0);
                let record = Record {
                    record_id: RecordId::of(stream, sequence).to_string(),
                    stream_id: stream.to_string(),
                    sequence_number: sequence,
                    timestamp_unix_micros: 1_700_000_000_000_000 + sequence,
                    payload: payload(sequence).into(),
                    metadata: metadata.iter().cloned().collect(),
                };
                expected.push(StreamingReadResponse { record: Some(record), is_historical });
            }
            let pieces = writer.finish(1000);
            assert!(pieces.len() > 3 && pieces.iter().all(|piece| piece.data.len() < PIECE_BYTES + 2000));
            let total: usize = pieces.iter().map(|piece| piece.data.len()).sum();
            assert!((total..=total + total / 4).contains(&pool.used()), "{} of {total}", pool.used());
            let mut next = 1;
            for piece in &pieces {
                assert_eq!((piece.first, piece.messages), (next, decoded(&piece.data).len() as u64));
                next = piece.last + 1;
            }
            let all: Vec<_> = pieces.iter().flat_map(|piece| decoded(&piece.data)).collect();
            assert_eq!(all, expected);
            let held = pieces[1].data.slice(..1);
            drop(pieces);
            assert!(pool.used() >= PIECE_BYTES, "a byte keeps its piece");
            drop(held);
            assert_eq!(pool.used(), 0);
        }
    }

    #[test]
    fn a_piece_is_cut_by_row_by_time_and_by_room_only_between_messages_where_one_fits() {
        let pool = Pool::new(1 << 20);
        let mut writer = PieceWriter::new((StreamId::generate(), 1), false, None, &pool);
        (1..=50).for_each(|n| writer.push(n, 10 * n, &payload(n), 0));
        let piece = writer.finish(50).pop().expect("one piece");
        assert_eq!(piece.clone().after(0).map(|p| (p.first, p.data.len())), Some((1, piece.data.len())));
        let rest = piece.clone().after(20).expect("rows");
        assert_eq!(decoded(&rest.data)[0].record.as_ref().map(|r| r.sequence_number), Some(21));
        assert!(piece.clone().after(50).is_none());
        assert_eq!(piece.clone().since(205).map(|p| p.first), Some(21));
        assert_eq!(piece.clone().since(-5).map(|p| p.first), Some(1));
        assert!(piece.clone().since(501).is_none());

        let data = &piece.data;
        for room in [1, 3, 50, 200, 777, 100_000] {
            let mut sent = 0;
            while sent < data.len() {
                let n = cut(data, sent, room);
                assert!(n > 0 && n <= room);
                sent += n;
                let next = message_bytes(&data[sent - unfinished_start(data, sent)..]);
                assert!(unfinished(data, sent) == 0 || n == room || next > room, "a whole message would have fitted");
            }
            assert_eq!((sent, unfinished(data, sent)), (data.len(), 0));
        }
    }

    /// How far `sent` is past the start of its message.
    fn unfinished_start(data: &[u8], sent: usize) -> usize {
        let mut start = 0;
        while start < data.len() && start + message_bytes(&data[start..]) <= sent {
            start += message_bytes(&data[start..]);
        }
        if start == data.len() { message_bytes_of_last(data) } else { sent - start }
    }

    fn message_bytes_of_last(data: &[u8]) -> usize {
        let (mut start, mut last) = (0, 0);
        while start < data.len() {
            last = message_bytes(&data[start..]);
            start += last;
        }
        last
    }
}
