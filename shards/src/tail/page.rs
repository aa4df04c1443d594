//! A page: the next rows of a reader that catches up, read and encoded by a worker.

use std::sync::Arc;

use super::piece::{Piece, PieceWriter};
use crate::{
    ids::StreamId,
    memory::{Charge, Pool},
    query::{BufferSnapshot, Order, QueryAnswer, TimeField, TimeRangeQuery},
};

/// What a row takes in a page beside its payload and metadata, at least: a page's bytes bound its rows too.
const ROW_BYTES: usize = 96;

/// Where a reader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// It wants the rows past this sequence number.
    pub after: i64,
    /// Only those that were ingested at or after this time, Unix µs.
    pub not_before: Option<i64>,
}

/// Which page a reader wants.
#[derive(Debug)]
pub struct PageAsk {
    /// The stream.
    pub stream: StreamId,
    /// Where the page begins.
    pub from: Position,
    /// The page ends when its records take this many bytes of memory; encoded, it has about twice as many at most.
    pub bytes: usize,
    /// Where its pieces are charged.
    pub pool: Arc<Pool>,
    /// Room for it until it is there.
    pub reserved: Charge,
}

/// A page.
#[derive(Debug)]
pub struct Page {
    /// Its rows, in order. The first stands for the rows from the first that there still is, the last for those up to `through`.
    pub pieces: Vec<Piece>,
    /// A reader that has had the page has had every row up to this one that it wants.
    pub through: i64,
    /// Nothing more was there when it was made.
    pub is_last: bool,
}

impl PageAsk {
    /// The query whose answer, within [`PageAsk::bytes`], [`PageAsk::fill`] takes.
    #[must_use]
    pub fn query(&self) -> TimeRangeQuery {
        TimeRangeQuery {
            stream: self.stream,
            time_field: TimeField::Ingest,
            start_unix_micros: self.from.not_before.unwrap_or(i64::MIN),
            end_unix_micros: i64::MAX,
            limit: (self.bytes / ROW_BYTES).max(1),
            order: Order::Ascending,
            after_sequence: Some(self.from.after),
        }
    }

    /// The page, from the answer over this snapshot and the files that go with it.
    #[must_use]
    pub fn fill(self, buffer: &BufferSnapshot, answer: QueryAnswer) -> Page {
        let mut writer = PieceWriter::new((self.stream, answer.first_there), true, None, &self.pool);
        let mut ahead: usize = answer.records.iter().map(|record| record.payload.len()).sum();
        for record in &answer.records {
            writer.set_metadata(&record.metadata);
            writer.push(record.sequence, record.timestamp_unix_micros, &record.payload, ahead);
            ahead -= record.payload.len();
        }
        let is_last = answer.next_after.is_none();
        let through = answer.next_after.unwrap_or(buffer.last_sequence).max(self.from.after);
        Page { pieces: writer.finish(through), through, is_last }
    }
}
