//! Rows by stream: filling, frozen, being flushed.
//!
//! Invariants: a stream's batches are in order of their sequence numbers and without gaps; `flushed_through <= frozen_through
//! <= last_sequence`. Memory is bounded: past the configured bytes the oldest batches are spilled, that is kept in the log
//! alone, and read back from there by whoever needs them.

mod meter;

use std::collections::{HashMap, VecDeque};

use crate::{config::BufferConfig, ids::StreamId, parquet::PartitionHour, query::BufferSnapshot, wal::batch::RowBatch};
use meter::Meter;

/// Microseconds in an hour.
const HOUR_MICROS: i64 = 3_600_000_000;

/// The rows of every stream of a shard.
#[derive(Debug)]
pub struct Buffer {
    config: BufferConfig,
    streams: HashMap<StreamId, StreamRows, ahash::RandomState>,
    /// Resident batches, oldest first: stream, first sequence number, bytes of memory that it stands for.
    resident: VecDeque<(StreamId, i64, usize)>,
    resident_bytes: usize,
    records: u64,
    /// The flush under way, of which there is one at a time.
    flushing: Option<StreamId>,
}

#[derive(Debug, Default)]
struct StreamRows {
    batches: VecDeque<RowBatch>,
    flushed_through: i64,
    frozen_through: i64,
    last_sequence: i64,
    /// Payload bytes past `frozen_through`, and since when (monotonic µs) there are some.
    filling_bytes: usize,
    filling_since: u64,
    /// Not to be flushed before this time (monotonic µs): the last attempt failed.
    retry_at: u64,
    /// Of all `batches`.
    records: u64,
    payload_bytes: u64,
    /// What comes in.
    meter: Meter,
}

/// How a stream's rows stand.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct StreamFigures {
    /// The last synced sequence number; 0: none.
    pub last_sequence: i64,
    /// Rows in no committed file; where a file ends within a batch, all of the batch.
    pub buffered_records: u64,
    /// Their payloads' bytes.
    pub buffered_bytes: u64,
    /// Records that came in a second, over about the last minute.
    pub records_per_second: f64,
    /// Their payloads' bytes a second.
    pub bytes_per_second: f64,
}

/// Rows of one hour of one stream, for the flusher.
#[derive(Debug)]
pub struct Frozen {
    /// The stream.
    pub stream: StreamId,
    /// The hour that all of them were ingested in.
    pub hour: PartitionHour,
    /// The rows, from the first that is in no file.
    pub batches: Vec<RowBatch>,
    /// The last sequence number among them.
    pub through: i64,
}

impl Buffer {
    /// An empty buffer; `flushed_through` says where each stream's files end.
    #[must_use]
    pub fn new(config: BufferConfig, flushed_through: &HashMap<StreamId, i64>) -> Self {
        let streams = flushed_through
            .iter()
            .map(|(&stream, &through)| {
                let rows = StreamRows {
                    flushed_through: through,
                    frozen_through: through,
                    last_sequence: through,
                    ..StreamRows::default()
                };
                (stream, rows)
            })
            .collect();
        Self { config, streams, resident: VecDeque::new(), resident_bytes: 0, records: 0, flushing: None }
    }

    /// The last synced or flushed sequence number of `stream`; 0: none.
    #[must_use]
    pub fn last_sequence(&self, stream: StreamId) -> i64 {
        self.streams.get(&stream).map_or(0, |rows| rows.last_sequence)
    }

    /// Takes a synced batch. `memory_bytes` is what it keeps alive if it is resident. Rows that are in files already are let
    /// go at once (a log may hold rows whose files were committed just before a crash).
    pub fn insert(&mut self, batch: RowBatch, memory_bytes: usize, now_micros: u64) {
        let header = *batch.header();
        assert!(header.count > 0, "a batch without records holds nothing to read");
        let rows = self.streams.entry(header.stream).or_default();
        if header.last_sequence() <= rows.flushed_through {
            return;
        }
        let expected = rows.last_sequence.max(rows.flushed_through) + 1;
        assert!(
            header.first_sequence <= expected && header.last_sequence() >= expected,
            "a stream's rows have no gap: {} follows {} in {}",
            header.first_sequence,
            expected - 1,
            header.stream
        );
        if rows.filling_bytes == 0 {
            rows.filling_since = now_micros;
        }
        rows.filling_bytes += header.payload_bytes as usize;
        rows.last_sequence = header.last_sequence();
        if rows.filling_bytes >= self.config.freeze_bytes {
            rows.freeze();
        }
        self.records += u64::from(header.count);
        rows.records += u64::from(header.count);
        rows.payload_bytes += u64::from(header.payload_bytes);
        rows.meter.count(header.count, header.payload_bytes, now_micros);
        if batch.is_resident() {
            self.resident.push_back((header.stream, header.first_sequence, memory_bytes));
            self.resident_bytes += memory_bytes;
        }
        rows.batches.push_back(batch);
        self.spill();
    }

    /// Lets go of the memory of the oldest batches until what is left is within bounds.
    fn spill(&mut self) {
        while self.resident_bytes > self.config.memory_bytes {
            let Some((stream, first, bytes)) = self.resident.pop_front() else { break };
            self.resident_bytes -= bytes;
            if let Some(batch) = self.streams.get_mut(&stream).and_then(|rows| rows.find(first)) {
                batch.spill();
            }
        }
    }

    /// Freezes what is old enough.
    pub fn freeze_aged(&mut self, now_micros: u64) {
        let age = self.config.freeze_age.as_micros() as u64;
        for rows in self.streams.values_mut() {
            if rows.filling_bytes > 0 && now_micros.saturating_sub(rows.filling_since) >= age {
                rows.freeze();
            }
        }
    }

    /// Freezes every row of a stream now.
    pub fn freeze(&mut self, stream: StreamId) {
        if let Some(rows) = self.streams.get_mut(&stream) {
            rows.freeze();
        }
    }

    /// Freezes the stream whose rows have waited longest: they hold the oldest segment of a log that is filling up.
    pub fn freeze_oldest(&mut self) {
        let oldest =
            self.streams.values_mut().filter(|rows| rows.unflushed()).min_by_key(|rows| rows.oldest_timestamp());
        if let Some(rows) = oldest {
            rows.freeze();
        }
    }

    /// The next rows to flush, oldest first, or `None`: nothing is frozen, or a flush is under way.
    pub fn next_flush(&mut self, now_micros: u64) -> Option<Frozen> {
        if self.flushing.is_some() {
            return None;
        }
        let (&stream, rows) = self
            .streams
            .iter()
            .filter(|(_, rows)| rows.frozen_through > rows.flushed_through && rows.retry_at <= now_micros)
            .min_by_key(|(_, rows)| rows.oldest_timestamp())?;
        let frozen = rows.take_frozen(stream, self.config.freeze_bytes);
        self.flushing = Some(stream);
        Some(frozen)
    }

    /// Rows of `stream` up to `through` are in committed files.
    pub fn flushed(&mut self, stream: StreamId, through: i64) {
        self.end_flush(stream);
        let Some(rows) = self.streams.get_mut(&stream) else { return };
        assert!(
            through >= rows.flushed_through && through <= rows.last_sequence,
            "flushed <= synced: {through} of {} in {stream}",
            rows.last_sequence
        );
        rows.flushed_through = through;
        rows.frozen_through = rows.frozen_through.max(through);
        while let Some(batch) = rows.batches.front().filter(|batch| batch.header().last_sequence() <= through) {
            self.records -= u64::from(batch.header().count);
            rows.records -= u64::from(batch.header().count);
            rows.payload_bytes -= u64::from(batch.header().payload_bytes);
            rows.batches.pop_front();
        }
        self.forget_released();
    }

    /// The flush of `stream` failed; its rows are tried again at `retry_at_micros`.
    pub fn flush_failed(&mut self, stream: StreamId, retry_at_micros: u64) {
        self.end_flush(stream);
        if let Some(rows) = self.streams.get_mut(&stream) {
            rows.retry_at = retry_at_micros;
        }
    }

    /// Drops the leading entries of `resident` whose rows are gone. Those further back go when they come to the front.
    fn forget_released(&mut self) {
        while let Some(&(stream, first, bytes)) = self.resident.front() {
            let held = self.streams.get_mut(&stream).is_some_and(|rows| rows.find(first).is_some());
            if held {
                break;
            }
            self.resident.pop_front();
            self.resident_bytes -= bytes;
        }
    }

    /// The flusher is free again, if it was `stream` that it was busy with: a stream may be told of twice, once by the catalog.
    fn end_flush(&mut self, stream: StreamId) {
        if self.flushing == Some(stream) {
            self.flushing = None;
        }
    }

    /// Forgets a deleted stream. A flush of it that is under way ends by itself, and is told of as every other.
    pub fn remove(&mut self, stream: StreamId) {
        if let Some(rows) = self.streams.remove(&stream) {
            self.records -= rows.records;
            self.forget_released();
        }
    }

    /// The streams that have rows or files.
    pub fn streams(&self) -> impl Iterator<Item = StreamId> {
        self.streams.keys().copied()
    }

    /// Where the files of `stream` end; a stream that is gone has nothing left to flush.
    #[must_use]
    pub fn flushed_through(&self, stream: StreamId) -> i64 {
        self.streams.get(&stream).map_or(i64::MAX, |rows| rows.flushed_through)
    }

    /// The rows of a stream that are in no committed file, and where the files end, in one step.
    #[must_use]
    pub fn snapshot(&self, stream: StreamId) -> BufferSnapshot {
        let empty = StreamRows::default();
        let rows = self.streams.get(&stream).unwrap_or(&empty);
        BufferSnapshot {
            stream,
            batches: rows.batches.iter().cloned().collect(),
            flushed_through: rows.flushed_through,
            last_sequence: rows.last_sequence,
            next_sequence: rows.last_sequence + 1,
            pipelines: Default::default(),
        }
    }

    /// What was inserted so far did not come in now: it was recovered.
    pub fn forget_rates(&mut self) {
        self.streams.values_mut().for_each(|rows| rows.meter = Meter::default());
    }

    /// How the rows of a stream stand at `now_micros`, monotonic.
    #[must_use]
    pub fn figures(&self, stream: StreamId, now_micros: u64) -> StreamFigures {
        let Some(rows) = self.streams.get(&stream) else { return StreamFigures::default() };
        let (records_per_second, bytes_per_second) = rows.meter.rates(now_micros);
        StreamFigures {
            last_sequence: rows.last_sequence,
            buffered_records: rows.records,
            buffered_bytes: rows.payload_bytes,
            records_per_second,
            bytes_per_second,
        }
    }

    /// Memory that rows keep alive, in bytes.
    #[must_use]
    pub fn resident_bytes(&self) -> usize {
        self.resident_bytes
    }

    /// Rows in no committed file.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.records
    }
}

impl StreamRows {
    fn freeze(&mut self) {
        self.frozen_through = self.last_sequence;
        self.filling_bytes = 0;
    }

    fn unflushed(&self) -> bool {
        !self.batches.is_empty()
    }

    fn oldest_timestamp(&self) -> i64 {
        self.batches.front().map_or(i64::MAX, |batch| batch.header().timestamp_unix_micros)
    }

    fn find(&mut self, first_sequence: i64) -> Option<&mut RowBatch> {
        let index = self.batches.partition_point(|batch| batch.header().first_sequence < first_sequence);
        self.batches.get_mut(index).filter(|batch| batch.header().first_sequence == first_sequence)
    }

    /// The first frozen rows of one hour, about `bytes` of payload at most.
    fn take_frozen(&self, stream: StreamId, bytes: usize) -> Frozen {
        let mut frozen = Frozen { stream, hour: PartitionHour(0), batches: Vec::new(), through: 0 };
        let mut taken = 0;
        for batch in self.batches.iter().take_while(|batch| batch.header().first_sequence <= self.frozen_through) {
            let hour = PartitionHour(batch.header().timestamp_unix_micros.div_euclid(HOUR_MICROS));
            if !frozen.batches.is_empty() && (hour != frozen.hour || taken >= bytes) {
                break;
            }
            frozen.hour = hour;
            frozen.through = batch.header().last_sequence();
            taken += batch.header().payload_bytes as usize;
            frozen.batches.push(batch.clone());
        }
        assert!(!frozen.batches.is_empty(), "a frozen stream has rows");
        frozen
    }
}
