//! The control plane's end of the line to the shards: sends with patience where a message must arrive, at once where it may
//! be refused, and remembers which shards have ended.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{sync::oneshot, time};
use ttdust_shards::{
    buffer::StreamFigures,
    ids::{ShardId, StreamId},
    message::{QueryFailure, ToShard},
    query::BufferSnapshot,
    runtime::Engine,
    snapshot::home_shard,
};

use crate::config::Pin;

const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(50);
/// A shard that does not answer a snapshot for this long is stalled.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(5);
/// Between looks whether a shard that does not answer has ended.
const END_PAUSE: Duration = Duration::from_millis(100);

/// The shard has ended: the message went nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("shard {0} has ended")]
pub struct ShardGone(pub ShardId);

/// The line to all shards, cheap to clone.
#[derive(Debug, Clone)]
pub struct ShardLink {
    engine: Arc<Engine>,
    ended: Arc<[AtomicBool]>,
}

impl ShardLink {
    /// The line to the shards of `engine`.
    #[must_use]
    pub fn new(engine: Arc<Engine>) -> Self {
        let ended = (0..engine.shards()).map(|_| AtomicBool::new(false)).collect();
        Self { engine, ended }
    }

    /// The engine.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Every shard.
    pub fn shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..self.engine.shards()).map(ShardId)
    }

    /// Notes that a shard has ended.
    pub fn mark_ended(&self, shard: ShardId) {
        self.ended[shard.index()].store(true, Relaxed);
    }

    /// Whether a shard has ended.
    #[must_use]
    pub fn has_ended(&self, shard: ShardId) -> bool {
        self.ended[shard.index()].load(Relaxed)
    }

    /// Whether all have.
    #[must_use]
    pub fn all_ended(&self) -> bool {
        self.shards().all(|shard| self.has_ended(shard))
    }

    /// Sends, and tries again while the shard's queue is full.
    ///
    /// # Errors
    /// The shard has ended.
    pub async fn deliver(&self, shard: ShardId, message: ToShard) -> Result<(), ShardGone> {
        self.deliver_while(shard, message, || true).await
    }

    /// As [`ShardLink::deliver`], but gives up, and drops the message, when it is no longer `wanted`.
    ///
    /// # Errors
    /// The shard has ended.
    pub async fn deliver_while(
        &self,
        shard: ShardId,
        mut message: ToShard,
        wanted: impl Fn() -> bool,
    ) -> Result<(), ShardGone> {
        let mut pause = PAUSE_MIN;
        loop {
            if self.has_ended(shard) {
                return Err(ShardGone(shard));
            }
            if !wanted() {
                return Ok(());
            }
            match self.engine.send(shard, message) {
                Ok(()) => return Ok(()),
                Err(back) => message = back,
            }
            time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// The rows of a stream that are in no committed file.
    ///
    /// # Errors
    /// `Overloaded` when the shard's queue is full; `Internal` when the shard has ended or is stalled.
    pub async fn snapshot(&self, shard: ShardId, stream: StreamId) -> Result<BufferSnapshot, QueryFailure> {
        let (answer, wait) = oneshot::channel();
        if self.has_ended(shard) {
            return Err(QueryFailure::Internal(ShardGone(shard).to_string()));
        }
        self.engine.send(shard, ToShard::Snapshot(stream, answer)).map_err(|_| QueryFailure::Overloaded)?;
        match time::timeout(SNAPSHOT_TIMEOUT, wait).await {
            Ok(Ok(snapshot)) => Ok(snapshot),
            Ok(Err(_)) => Err(QueryFailure::Internal(format!("shard {shard} gave no answer"))),
            Err(_) => Err(QueryFailure::Internal(format!("shard {shard} did not answer in {SNAPSHOT_TIMEOUT:?}"))),
        }
    }

    /// How a stream's rows stand; `None`: its shard is too busy to tell, or gone.
    pub async fn figures(&self, shard: ShardId, stream: StreamId) -> Option<StreamFigures> {
        let (answer, wait) = oneshot::channel();
        if self.has_ended(shard) || self.engine.send(shard, ToShard::Figures(stream, answer)).is_err() {
            return None;
        }
        time::timeout(SNAPSHOT_TIMEOUT, wait).await.ok()?.ok()
    }

    /// Has the rows of a stream that are there now flushed, and waits until they are in committed files: up to which one.
    ///
    /// # Errors
    /// The shard has ended.
    pub async fn flush(&self, shard: ShardId, stream: StreamId) -> Result<i64, ShardGone> {
        let (answer, mut wait) = oneshot::channel();
        self.deliver(shard, ToShard::Flush(stream, answer)).await?;
        loop {
            match time::timeout(END_PAUSE, &mut wait).await {
                Ok(through) => return through.map_err(|_| ShardGone(shard)),
                // What lies in the queue of a shard that is gone is never looked at.
                Err(_) if self.has_ended(shard) => return wait.try_recv().map_err(|_| ShardGone(shard)),
                Err(_) => {}
            }
        }
    }

    /// Whether a shard takes and handles messages.
    ///
    /// # Errors
    /// Why not.
    pub async fn ping(&self, shard: ShardId, within: Duration) -> Result<(), String> {
        if self.has_ended(shard) {
            return Err("it has ended".into());
        }
        let (question, answer) = question();
        self.engine.send(shard, question).map_err(|_| "its queue is full".to_string())?;
        time::timeout(within, answer).await.map(|_| ()).map_err(|_| format!("no answer in {} ms", within.as_millis()))
    }

    /// Waits until the shard has handled a message, however full its queue is and however long it takes, or has ended.
    pub async fn heard(&self, shard: ShardId) {
        let (question, mut answer) = question();
        if self.deliver(shard, question).await.is_ok() {
            while !self.has_ended(shard) && time::timeout(END_PAUSE, &mut answer).await.is_err() {}
        }
    }
}

/// No stream has a fresh id: whether a shard answers with nothing or lets go of the question, it is at work.
fn question() -> (ToShard, oneshot::Receiver<BufferSnapshot>) {
    let (answer, wait) = oneshot::channel();
    (ToShard::Snapshot(StreamId::generate(), answer), wait)
}

/// Where each stream lives: where it is pinned by id or name, else by its hash.
#[derive(Debug)]
pub struct Homes {
    pins: HashMap<String, ShardId>,
    shards: u16,
}

impl Homes {
    /// Homes on `shards` shards, with these pins.
    #[must_use]
    pub fn new(pins: &[Pin], shards: u16) -> Self {
        Self { pins: pins.iter().map(|pin| (pin.stream.clone(), ShardId(pin.shard))).collect(), shards }
    }

    /// The home of a stream.
    #[must_use]
    pub fn of(&self, stream: StreamId, name: &str) -> ShardId {
        let pinned =
            (!self.pins.is_empty()).then(|| self.pins.get(&stream.to_string()).or_else(|| self.pins.get(name)));
        pinned.flatten().copied().unwrap_or_else(|| home_shard(stream, self.shards))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_by_id_beats_one_by_name_beats_the_hash() {
        let stream = StreamId::generate();
        let by_hash = home_shard(stream, 4);
        let pin = |stream: String, shard| Pin { stream, shard };
        let (by_name, by_id) = (pin("clicks".into(), 1), pin(stream.to_string(), 3));
        assert_eq!(Homes::new(&[], 4).of(stream, "clicks"), by_hash);
        assert_eq!(Homes::new(std::slice::from_ref(&by_name), 4).of(stream, "clicks"), ShardId(1));
        assert_eq!(Homes::new(std::slice::from_ref(&by_name), 4).of(stream, "orders"), by_hash);
        assert_eq!(Homes::new(&[by_name, by_id], 4).of(stream, "clicks"), ShardId(3));
    }
}
