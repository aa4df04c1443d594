//! What a tail (`StreamingRead`) is made of: encoded answers in pieces that many readers share, pages of them for those who
//! catch up, and what home shards send to the shards whose connections follow a stream.
//!
//! Invariants: a piece holds whole messages of rows without a gap; every byte that waits for a reader, and every row on its way
//! to one, is charged to the pool of the shard that the reader is on.

pub mod followers;
pub mod page;
pub mod piece;
pub mod pool;

use std::time::Instant;

use crate::{ids::StreamId, wal::batch::RowBatch};

/// Rows that were just synced, on their way from a stream's home to a shard with readers.
#[derive(Debug)]
pub struct LiveRows {
    /// The stream.
    pub stream: StreamId,
    /// The rows, without a gap among them. Empty: rows up to `through` were left out, because there was no room for them.
    pub batches: Vec<RowBatch>,
    /// The last sequence number that was synced.
    pub through: i64,
    /// When that was.
    pub synced: Instant,
    /// What they take in the receiver's pool. `None`: the receiver is the home itself.
    pub charge: Option<pool::Charge>,
}
