//! Requests, encoded ahead: a ring of framed messages, of which any run is one slice and so one DATA frame without a copy.
//!
//! Message `m` holds `batch` records from record `(m % count) * batch` on, cycled. `IngestRequest` and `AppendRequest` have the
//! same field numbers for stream, payload and key, so one encoder serves both.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::{
    payload::Payloads,
    wire::{HEADER_BYTES, field_len, put_field, put_header},
};

const STREAM_FIELD: u8 = 1;
const PAYLOAD_FIELD: u8 = 3;
const KEY_FIELD: u8 = 4;
const KEY_BYTES: usize = 24;

/// What requests are made of.
#[derive(Debug, Clone)]
pub struct Messages {
    payloads: Arc<Payloads>,
    batch: u32,
    /// Sets the keys of this run apart from those of any other; `None`: no keys.
    key_run: Option<u32>,
    count: u64,
    bytes: Vec<u32>,
}

impl Messages {
    /// Requests of `batch` records.
    ///
    /// # Panics
    /// If `batch` is 0.
    #[must_use]
    pub fn new(payloads: Arc<Payloads>, batch: u32, key_run: Option<u32>) -> Self {
        assert!(batch > 0, "a request holds at least one record");
        let count = (payloads.len() as u64).div_ceil(u64::from(batch));
        let mut messages = Self { payloads, batch, key_run, count, bytes: Vec::new() };
        messages.bytes = (0..count)
            .map(|message| messages.records(message).map(|record| record.len() as u64).sum::<u64>())
            .map(|bytes| u32::try_from(bytes).unwrap_or(u32::MAX))
            .collect();
        messages
    }

    /// Records a request.
    #[must_use]
    pub fn batch(&self) -> u32 {
        self.batch
    }

    /// How many messages differ.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Whether each record carries a key, so that no two messages are the same.
    #[must_use]
    pub fn has_keys(&self) -> bool {
        self.key_run.is_some()
    }

    /// Bytes of the payloads of a message.
    #[must_use]
    pub fn payload_bytes(&self, message: u64) -> u32 {
        self.bytes[(message % self.count) as usize]
    }

    /// The index, in the set of payloads, of a message's record `row`.
    #[must_use]
    pub fn payload_index(&self, message: u64, row: u32) -> u64 {
        ((message % self.count) * u64::from(self.batch) + u64::from(row)) % self.payloads.len() as u64
    }

    fn records(&self, message: u64) -> impl Iterator<Item = &Bytes> {
        let first = (message % self.count) * u64::from(self.batch);
        (first..first + u64::from(self.batch)).map(|index| self.payloads.get(index))
    }

    /// Appends message `message` of call `call` with its header; `stream` is left out where an earlier message named it.
    pub fn encode(&self, out: &mut BytesMut, message: u64, call: u16, stream: Option<&str>) {
        let mut len = stream.map_or(0, |stream| field_len(stream.len()));
        len += self.records(message).map(|record| field_len(record.len())).sum::<usize>();
        if self.key_run.is_some() {
            len += field_len(KEY_BYTES) * self.batch as usize;
        }
        out.reserve(HEADER_BYTES + len);
        put_header(out, len);
        if let Some(stream) = stream {
            put_field(out, STREAM_FIELD, stream.as_bytes());
        }
        for record in self.records(message) {
            put_field(out, PAYLOAD_FIELD, record);
        }
        if let Some(run) = self.key_run {
            for row in 0..self.batch {
                put_field(out, KEY_FIELD, &key(run, call, message, row));
            }
        }
    }

    /// Bytes of the ring for a stream whose name is of `stream` bytes.
    #[must_use]
    pub fn ring_bytes(&self, stream: usize) -> u64 {
        let records: u64 = self.bytes.iter().map(|&bytes| u64::from(bytes)).sum();
        records + self.count * (HEADER_BYTES + field_len(stream) + 4 * self.batch as usize) as u64
    }

    /// All messages that differ, encoded for `stream` (see [`Messages::encode`]). Only without keys.
    ///
    /// # Panics
    /// If the messages have keys.
    #[must_use]
    pub fn ring(&self, stream: Option<&str>) -> Ring {
        assert!(!self.has_keys(), "messages with keys are never the same twice");
        let mut data = BytesMut::new();
        let mut starts = Vec::with_capacity(self.count as usize + 1);
        for message in 0..self.count {
            starts.push(data.len());
            self.encode(&mut data, message, 0, stream);
        }
        starts.push(data.len());
        Ring { data: data.freeze(), starts }
    }
}

/// 24 characters: run, call, message, row.
fn key(run: u32, call: u16, message: u64, row: u32) -> [u8; KEY_BYTES] {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let wide =
        u128::from(run) << 64 | u128::from(call) << 48 | u128::from(message as u32) << 16 | u128::from(row as u16);
    let mut text = [0; KEY_BYTES];
    for (index, digit) in text.iter_mut().enumerate() {
        *digit = HEX[(wide >> (4 * (KEY_BYTES - 1 - index))) as usize & 15];
    }
    text
}

/// Encoded messages, one after the other.
#[derive(Debug)]
pub struct Ring {
    data: Bytes,
    starts: Vec<usize>,
}

impl Ring {
    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// Messages `from..from + count` as they go on the wire.
    ///
    /// # Panics
    /// If there are not that many.
    #[must_use]
    pub fn slice(&self, from: usize, count: usize) -> Bytes {
        self.data.slice(self.starts[from]..self.starts[from + count])
    }
}

/// Puts a run of messages of one call into as few DATA frames as can be.
#[derive(Debug, Default)]
pub struct Coalescer {
    pending: BytesMut,
    /// First message and length of a run in the ring.
    run: Option<(usize, usize)>,
}

impl Coalescer {
    /// Adds a message of the ring; what must be sent before it, if it does not follow the last one there.
    pub fn push_ring(&mut self, ring: &Ring, message: u64) -> Option<Bytes> {
        let index = (message % ring.len() as u64) as usize;
        match &mut self.run {
            Some((first, len)) if *first + *len == index => {
                *len += 1;
                None
            }
            _ => {
                let before = self.finish(Some(ring));
                self.run = Some((index, 1));
                before
            }
        }
    }

    /// Where to encode a message to; what must be sent before it is returned.
    pub fn push_encoded(&mut self, ring: Option<&Ring>) -> (Option<Bytes>, &mut BytesMut) {
        let before = if self.run.is_some() { self.finish(ring) } else { None };
        (before, &mut self.pending)
    }

    /// What was added and not yet returned.
    ///
    /// # Panics
    /// If messages of a ring wait and it is not given.
    pub fn finish(&mut self, ring: Option<&Ring>) -> Option<Bytes> {
        if let Some((first, len)) = self.run.take() {
            return Some(ring.expect("a run is only made of a ring").slice(first, len));
        }
        if self.pending.is_empty() {
            return None;
        }
        Some(self.pending.split().freeze())
    }
}

#[cfg(test)]
mod tests {
    use ttdust_proto::ingestion::{AppendRequest, IngestRequest};

    use super::*;
    use crate::wire::Deframer;

    fn payloads(count: usize) -> Arc<Payloads> {
        Arc::new(Payloads::new((0..count).map(|index| Bytes::from(format!("{{\"n\":{index}}}"))).collect()))
    }

    fn decode<M: prost::Message + Default>(bytes: &[u8]) -> Vec<M> {
        let mut all = Vec::new();
        Deframer::default()
            .feed(bytes, |message| {
                all.push(M::decode(message).expect("a message"));
                Ok(())
            })
            .expect("framed");
        all
    }

    #[test]
    fn a_ring_holds_what_prost_decodes_and_cycles_the_payloads() {
        let messages = Messages::new(payloads(5), 2, None);
        let ring = messages.ring(None);
        assert_eq!((ring.len(), messages.count()), (3, 3));
        let all: Vec<AppendRequest> = decode(&ring.slice(0, 3));
        let rows: Vec<Vec<&[u8]>> = all.iter().map(|m| m.payloads.iter().map(|p| &p[..]).collect()).collect();
        assert_eq!(rows[0], [b"{\"n\":0}", b"{\"n\":1}"]);
        assert_eq!(rows[2], [b"{\"n\":4}", b"{\"n\":0}"]);
        assert!(all.iter().all(|m| m.stream_id.is_empty()));
        assert_eq!(messages.payload_index(2, 1), 0);
        assert_eq!(messages.payload_index(5, 0), 4);
        assert_eq!(messages.payload_bytes(5), 14);
        assert!(messages.ring_bytes(0) >= ring.slice(0, 3).len() as u64);
    }

    #[test]
    fn keys_differ_by_call_message_and_row_and_repeat_on_a_retry() {
        let messages = Messages::new(payloads(4), 2, Some(7));
        let mut seen = std::collections::HashSet::new();
        for (call, message) in [(0, 0), (0, 1), (1, 0), (0, 1 << 20)] {
            let mut out = BytesMut::new();
            messages.encode(&mut out, message, call, Some("s"));
            let mut again = BytesMut::new();
            messages.encode(&mut again, message, call, Some("s"));
            assert_eq!(out, again);
            let [request]: [AppendRequest; 1] = decode(&out).try_into().expect("one");
            assert_eq!((request.stream_id.as_str(), request.idempotency_keys.len()), ("s", 2));
            assert!(request.idempotency_keys.into_iter().all(|key| seen.insert(key)));
        }
        let single = Messages::new(payloads(4), 1, Some(7));
        let mut out = BytesMut::new();
        single.encode(&mut out, 3, 9, Some("s"));
        let [request]: [IngestRequest; 1] = decode(&out).try_into().expect("one");
        assert_eq!(request.idempotency_key.as_deref(), Some("000000070009000000030000"));
        assert_eq!(request.payload, "{\"n\":3}");
    }

    #[test]
    fn runs_are_joined_across_all_but_the_rings_end_and_keep_order() {
        let messages = Messages::new(payloads(4), 1, None);
        let ring = messages.ring(Some("s"));
        let mut coalescer = Coalescer::default();
        let mut frames = Vec::new();
        let (before, out) = coalescer.push_encoded(Some(&ring));
        assert!(before.is_none());
        messages.encode(out, 1, 0, Some("s"));
        for message in [2, 3, 4, 5, 7] {
            frames.extend(coalescer.push_ring(&ring, message));
        }
        let (before, out) = coalescer.push_encoded(Some(&ring));
        messages.encode(out, 0, 0, Some("s"));
        frames.extend(before);
        frames.extend(coalescer.finish(Some(&ring)));
        assert!(coalescer.finish(Some(&ring)).is_none());
        let counts: Vec<usize> = frames.iter().map(|frame| decode::<IngestRequest>(frame).len()).collect();
        assert_eq!(counts, [1, 2, 2, 1, 1]);
        let sent: Vec<Bytes> = frames.iter().flat_map(|f| decode::<IngestRequest>(f)).map(|r| r.payload).collect();
        assert_eq!(sent, [1, 2, 3, 0, 1, 3, 0].map(|n| Bytes::from(format!("{{\"n\":{n}}}"))));
    }
}
