//! On a stream's home: which shards have readers of it, and who else, and what is to be sent to them.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Instant,
};

use tokio::sync::mpsc;

use super::{LiveRows, Subscription};
use crate::{
    ids::{ShardId, StreamId},
    memory::Pool,
    pipeline::Pipelines,
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
    /// Those that are on no shard.
    subscribers: HashMap<StreamId, Vec<Subscriber>, ahash::RandomState>,
}

/// Where rows go for readers that are on no shard.
#[derive(Debug)]
struct Subscriber {
    rows: mpsc::Sender<LiveRows>,
    pool: Arc<Pool>,
    /// Rows were left out.
    missed: bool,
}

impl Subscriber {
    fn send(&mut self, rows: LiveRows) {
        let bytes = rows.batches.iter().map(RowBatch::memory_bytes).sum();
        let charge = self.pool.try_charge(bytes, self.pool.limit());
        let sent = charge.is_some_and(|charge| self.rows.try_send(LiveRows { charge: Some(charge), ..rows }).is_ok());
        self.missed = !sent;
    }
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
        if (self.streams.is_empty() && self.subscribers.is_empty()) || header.count == 0 {
            return;
        }
        if !self.streams.contains_key(&header.stream) && !self.subscribers.contains_key(&header.stream) {
            return;
        }
        self.fresh.entry(header.stream).or_default().push(batch.clone());
    }

    /// From now on a subscriber gets the rows of `stream`, which has those up to `through`.
    pub fn subscribe(&mut self, stream: StreamId, subscription: Subscription, through: i64) {
        let Subscription { begin, rows, pool } = subscription;
        // Who gave up meanwhile is let go of with those that went.
        let _ = begin.send(through);
        self.subscribers.entry(stream).or_default().push(Subscriber { rows, pool, missed: false });
    }

    /// Sends rows to the subscribers of their stream.
    pub fn send(
        &mut self,
        stream: StreamId,
        (batches, pipelines): (&[RowBatch], &Arc<Pipelines>),
        through: i64,
        synced: Instant,
    ) {
        for subscriber in self.subscribers.get_mut(&stream).into_iter().flatten() {
            let (batches, pipelines) = (batches.to_vec(), Arc::clone(pipelines));
            subscriber.send(LiveRows { stream, batches, through, pipelines, synced, charge: None });
        }
    }

    /// Lets go of subscribers that went, and tells those for whom rows were left out.
    pub fn look_after_subscribers(&mut self, last_sequence: impl Fn(StreamId) -> i64) {
        self.subscribers.retain(|&stream, subscribers| {
            subscribers.retain(|subscriber| !subscriber.rows.is_closed());
            for subscriber in subscribers.iter_mut().filter(|subscriber| subscriber.missed) {
                let (through, synced) = (last_sequence(stream), Instant::now());
                let (batches, pipelines) = (Vec::new(), Arc::default());
                subscriber.send(LiveRows { stream, batches, through, pipelines, synced, charge: None });
            }
            !subscribers.is_empty()
        });
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
