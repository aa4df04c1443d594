//! On a stream's home: which shards have readers of it, and what is to be sent to them.

use std::collections::{HashMap, HashSet};

use crate::{
    ids::{ShardId, StreamId},
    wal::batch::RowBatch,
};

/// The shards that follow streams of this one.
#[derive(Debug, Default)]
pub struct Followers {
    streams: HashMap<StreamId, Vec<ShardId>, ahash::RandomState>,
    /// Rows synced since they were last taken, by stream: bounded by what is committed in a turn of the shard.
    fresh: HashMap<StreamId, Vec<RowBatch>, ahash::RandomState>,
    /// Rows were left out for these.
    missed: HashSet<(StreamId, ShardId)>,
}

impl Followers {
    /// From now on `shard` gets the rows of `stream`.
    pub fn follow(&mut self, stream: StreamId, shard: ShardId) {
        let shards = self.streams.entry(stream).or_default();
        if !shards.contains(&shard) {
            shards.push(shard);
        }
    }

    /// `shard` has no reader of `stream` any more.
    pub fn unfollow(&mut self, stream: StreamId, shard: ShardId) {
        self.missed.remove(&(stream, shard));
        if let Some(shards) = self.streams.get_mut(&stream) {
            shards.retain(|&other| other != shard);
            if shards.is_empty() {
                self.streams.remove(&stream);
            }
        }
    }

    /// Takes note of a synced batch.
    pub fn note(&mut self, batch: &RowBatch) {
        let header = batch.header();
        if self.streams.is_empty() || header.count == 0 || !self.streams.contains_key(&header.stream) {
            return;
        }
        self.fresh.entry(header.stream).or_default().push(batch.clone());
    }

    /// Whether there is something to send.
    #[must_use]
    pub fn has_fresh(&self) -> bool {
        !self.fresh.is_empty()
    }

    /// What to send: each stream's rows, and to whom.
    pub fn take_fresh(&mut self) -> Vec<(StreamId, Vec<RowBatch>, Vec<ShardId>)> {
        let fresh = std::mem::take(&mut self.fresh);
        let shards = |stream| self.streams.get(&stream).cloned().unwrap_or_default();
        fresh.into_iter().map(|(stream, batches)| (stream, batches, shards(stream))).collect()
    }

    /// Rows of `stream` were left out for `shard`: it must be told, if no later rows tell it.
    pub fn set_missed(&mut self, stream: StreamId, shard: ShardId, missed: bool) {
        if missed {
            self.missed.insert((stream, shard));
        } else {
            self.missed.remove(&(stream, shard));
        }
    }

    /// The shards that must be told.
    #[must_use]
    pub fn missed(&self) -> Vec<(StreamId, ShardId)> {
        self.missed.iter().copied().collect()
    }
}
