//! How rows get from a stream's home to the readers on every shard: who asks, who sends, and what is made up for later.
//!
//! Invariant: rows that cannot be sent for want of room are never lost in silence: the receiving shard sees the gap in what
//! comes next, and is told of it if nothing does.

use std::{rc::Rc, sync::Arc, time::Instant};

use super::{Bell, Reactor, Reply, Slot, feeds::Follower};
use crate::{
    ids::{ShardId, StreamId},
    message::{QueryFailure, ReplyTo, ToControl, ToShard},
    pipeline::Pipelines,
    snapshot::StreamEntry,
    tail::{
        LiveRows, Subscription,
        page::{Page, PageAsk, Position},
    },
    trace::SpanContext,
    wal::batch::RowBatch,
};

impl Reactor {
    /// Asks control whether `client` may begin to read; the answer arrives in the slot.
    pub fn open_tail(&self, client: Arc<str>, trace: Option<SpanContext>, waiter: &Rc<Bell>) -> Rc<Slot> {
        let (slot, token) = self.new_slot(waiter);
        let reply = ReplyTo { shard: self.id, token };
        if self.to_control.try_send(ToControl::OpenTail { client, trace, reply }).is_err() {
            self.fill(token, Reply::TailOpened(Err(QueryFailure::Overloaded)));
        }
        slot
    }

    /// A new reader of `stream` on this shard. The home is asked what is there, also where others read the stream: a row is acked
    /// before it is on its way to readers.
    #[must_use]
    pub fn follow(&self, stream: &StreamEntry, bell: &Rc<Bell>) -> Follower {
        let follower = self.feeds.enter(stream.id, stream.home, bell);
        self.ask_homes();
        follower
    }

    /// Asks control for a page; it arrives in the slot. `None`: not now, the waiter is rung when it may be tried again.
    pub fn ask_page(
        &self,
        follower: &Follower,
        stream: StreamId,
        from: Position,
        bytes: usize,
        waiter: &Rc<Bell>,
    ) -> Option<Rc<Slot>> {
        let reserved = follower.order_page(bytes)?;
        let ask = PageAsk { stream, from, bytes, pool: Arc::clone(self.feeds.pool()), reserved };
        let (slot, token) = self.new_slot(waiter);
        let reply = ReplyTo { shard: self.id, token };
        if self.to_control.try_send(ToControl::TailPage { ask, reply }).is_err() {
            self.take_page(token, Err(QueryFailure::Overloaded));
        }
        Some(slot)
    }

    /// A page came in.
    pub fn take_page(&self, token: u64, page: Result<Page, QueryFailure>) {
        self.feeds.page_done();
        self.fill(token, Reply::Page(page));
    }

    /// On the home: `shard` has readers of `stream` from now on, or one more, and asks what is there.
    pub fn begin_following(&self, stream: StreamId, shard: ShardId, question: u64) {
        let through = {
            let mut state = self.shard.borrow_mut();
            state.followers().follow(stream, shard);
            state.buffer().last_sequence(stream)
        };
        if shard == self.id {
            self.feeds.answered(stream, through, question);
        } else {
            let sent = self.shards[shard.index()].send(ToShard::Following(stream, through, question));
            assert!(sent.is_ok(), "the answer to a question is never refused");
        }
    }

    /// On the home: readers that are on no shard get the rows of `stream` from now on.
    pub fn subscribe(&self, stream: StreamId, subscription: Subscription) {
        let mut state = self.shard.borrow_mut();
        let through = state.buffer().last_sequence(stream);
        state.followers().subscribe(stream, subscription, through);
    }

    /// On the home: `shard` has none any more.
    pub fn end_following(&self, stream: StreamId, shard: ShardId) {
        self.shard.borrow_mut().followers().unfollow(stream, shard);
    }

    /// On the home: rows were synced, at this time; their readers are due.
    pub fn synced_for_readers(&self, now: Instant) {
        if self.shard.borrow_mut().followers().has_fresh() {
            self.live_since.set(self.live_since.get().or(Some(now)));
            self.live.ring();
        }
    }

    /// On the home: sends what was synced to the shards that follow.
    pub fn send_live(&self) {
        let synced = self.live_since.take().unwrap_or_else(Instant::now);
        let fresh = self.shard.borrow_mut().followers().take_fresh();
        for (stream, batches, shards) in fresh {
            let through = batches.last().map_or(0, |batch| batch.header().last_sequence());
            let pipelines = self.pipelines(stream);
            for shard in shards {
                let pipelines = Arc::clone(&pipelines);
                let rows = LiveRows { stream, batches: batches.clone(), through, pipelines, synced, charge: None };
                if shard == self.id { self.feeds.take(&rows) } else { self.send_rows(shard, rows) }
            }
            self.shard.borrow_mut().followers().send(stream, (&batches, &pipelines), through, synced);
        }
    }

    /// What readers see of a stream's rows.
    fn pipelines(&self, stream: StreamId) -> Arc<Pipelines> {
        self.catalog().stream(stream).map(|stream| Arc::clone(&stream.pipelines)).unwrap_or_default()
    }

    fn send_rows(&self, shard: ShardId, rows: LiveRows) {
        let bytes = rows.batches.iter().map(RowBatch::memory_bytes).sum();
        let (stream, pool) = (rows.stream, &self.tail_pools[shard.index()]);
        let charge = pool.try_charge(bytes, pool.limit());
        let sent = charge.is_some_and(|charge| {
            let rows = LiveRows { charge: Some(charge), ..rows };
            self.shards[shard.index()].send(ToShard::Live(rows)).is_ok()
        });
        self.shard.borrow_mut().followers().set_missed(stream, shard, !sent);
    }

    /// Looks after readers; every slice of the upkeep.
    pub fn look_after_tails(&self) {
        self.tell_missed();
        self.shard.borrow_mut().look_after_subscribers();
        for (stream, home) in self.feeds.to_tell() {
            if home == self.id {
                self.end_following(stream, self.id);
                self.feeds.told(stream);
            } else if self.shards[home.index()].send(ToShard::Unfollow(stream, self.id)).is_ok() {
                self.feeds.told(stream);
            }
        }
        if self.feeds.readers() > 0 {
            self.ask_homes();
            self.feeds.look_after(self.second());
        }
    }

    fn tell_missed(&self) {
        let missed = self.shard.borrow_mut().followers().missed();
        for (stream, shard) in missed {
            let through = self.shard.borrow().buffer().last_sequence(stream);
            let rows = LiveRows {
                stream,
                batches: Vec::new(),
                through,
                pipelines: Arc::default(),
                synced: Instant::now(),
                charge: None,
            };
            let sent = self.shards[shard.index()].send(ToShard::Live(rows)).is_ok();
            self.shard.borrow_mut().followers().set_missed(stream, shard, !sent);
        }
    }

    fn ask_homes(&self) {
        for (stream, home, question) in self.feeds.to_ask() {
            if home == self.id {
                self.feeds.asked(stream, question);
                self.begin_following(stream, self.id, question);
            } else if self.shards[home.index()].send(ToShard::Follow(stream, self.id, question)).is_ok() {
                self.feeds.asked(stream, question);
            }
        }
    }
}
