//! What a tail (`StreamingRead`) is made of: encoded answers in pieces that many readers share, pages of them for those who
//! catch up, and what home shards send to the shards whose connections follow a stream.
//!
//! Invariants: a piece holds whole messages, and stands for a run of sequence numbers: those that have no message in it are
//! left out by the stream's pipeline; every byte that waits for a reader, and every row on its way
//! to one, is charged to the pool of the shard that the reader is on.

pub mod followers;
pub mod page;
pub mod piece;

use std::{sync::Arc, time::Instant};

use tokio::sync::{mpsc, oneshot};

use crate::{
    ids::StreamId,
    memory::{Charge, Pool},
    pipeline::{Pipelines, Verdict, rows::RowReader},
    transform::decode_metadata,
    wal::batch::RowBatch,
};
use piece::{Piece, PieceWriter};

/// What a row takes encoded, beside its payload and metadata, at most.
const ROW_BYTES: usize = 160;

/// Rows that were just synced, on their way from a stream's home to a shard with readers.
#[derive(Debug)]
pub struct LiveRows {
    /// The stream.
    pub stream: StreamId,
    /// The rows, without a gap among them. Empty: rows up to `through` were left out, because there was no room for them.
    pub batches: Vec<RowBatch>,
    /// The last sequence number that was synced.
    pub through: i64,
    /// What is seen of them.
    pub pipelines: Arc<Pipelines>,
    /// When that was.
    pub synced: Instant,
    /// What they take in the receiver's pool. `None`: the receiver is the home itself.
    pub charge: Option<Charge>,
}

impl LiveRows {
    /// The rows past `through`, encoded in memory of `pool`. `None`: they are not at hand, or would take more than `limit` bytes.
    #[must_use]
    pub fn encode(&self, through: i64, pool: &Arc<Pool>, limit: usize) -> Option<Vec<Piece>> {
        let first = self.batches.first().map_or(self.through + 1, |batch| batch.header().first_sequence);
        let place = (self.stream, first.max(through + 1));
        let mut writer = PieceWriter::new(place, false, Some(self.synced), pool);
        let mut reader = RowReader::new(&self.pipelines);
        let mut ahead: usize = self.batches.iter().map(|batch| batch.header().payload_bytes as usize).sum();
        let mut bytes = 0;
        for batch in &self.batches {
            let header = *batch.header();
            let read = batch.rows().inspect_err(|error| {
                tracing::warn!(stream = %self.stream, %error, "rows for live readers cannot be read: they catch up");
            });
            let read = read.ok()?;
            let metadata = read.metadata();
            bytes += header.payload_bytes as usize + header.count as usize * (ROW_BYTES + metadata.len());
            if bytes > limit {
                return None;
            }
            writer.set_metadata(&decode_metadata(&metadata));
            for index in 0..header.count as usize {
                let (sequence, payload) = (header.first_sequence + index as i64, read.payload_bytes(index));
                ahead -= payload.len();
                if sequence <= through {
                    continue;
                }
                let (time, expected) = (header.timestamp_unix_micros, ahead + payload.len());
                let seen = reader.run(header.pipeline_version, payload).inspect_err(|error| {
                    tracing::warn!(stream = %self.stream, %error, "rows for live readers cannot be read: they catch up");
                });
                match seen.ok()? {
                    Verdict::Same => writer.push(sequence, time, payload, expected),
                    Verdict::Changed(output) => writer.push(sequence, time, output, expected),
                    Verdict::Dropped | Verdict::Dead(_) => {}
                }
            }
        }
        Some(writer.finish(self.through))
    }
}

/// A way of a stream's rows to readers that are on no shard. It ends when the receiver of the rows goes.
#[derive(Debug)]
pub struct Subscription {
    /// Told the last sequence number that is there before the rows that are sent.
    pub begin: oneshot::Sender<i64>,
    /// Takes the rows. Without room they are left out, and it is told with what comes next.
    pub rows: mpsc::Sender<LiveRows>,
    /// Whose memory they take.
    pub pool: Arc<Pool>,
}
