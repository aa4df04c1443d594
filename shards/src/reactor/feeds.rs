//! The streams that readers on this shard follow: the newest rows of each, encoded once for all of them, and who reads.
//!
//! Invariants: a feed's ring is a run of rows without a gap that ends at `through`; a reader whose place is in the ring, or
//! past it, gets every row from there; one whose place is before it is told so, and catches up from pages. No row is put in a
//! queue a reader: a slow one costs what it has in hand.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    rc::Rc,
    sync::Arc,
};

use super::Bell;
use crate::{
    ids::{ShardId, StreamId},
    memory::{Charge, Pool},
    tail::{LiveRows, piece::Piece},
};

/// Pages that a shard has on order at a time: enough to keep the workers busy, few enough to leave room for other queries.
const PAGES_ON_ORDER_MAX: usize = 4;
/// The payload bytes of a page for a reader that just began, or where memory is short.
pub const PAGE_BYTES_MIN: usize = 256 << 10;
/// And of one that reads fast.
const PAGE_BYTES_MAX: usize = 4 << 20;
/// Seconds after which a reader that takes nothing may be ended if memory is short.
const PATIENCE_SECONDS: u64 = 2;
/// The place of a reader that needs nothing of the ring.
pub const NOT_LIVE: i64 = i64::MAX;

/// All feeds of a shard.
#[derive(Debug)]
pub struct Feeds {
    pool: Arc<Pool>,
    feeds: RefCell<HashMap<StreamId, Rc<Feed>, ahash::RandomState>>,
    /// Every piece in a ring, oldest first: its stream and number.
    order: RefCell<VecDeque<(StreamId, u64)>>,
    ring_bytes: Cell<usize>,
    last_number: Cell<u64>,
    /// Homes that are to be told that nobody here follows a stream any more.
    left: RefCell<HashMap<StreamId, ShardId, ahash::RandomState>>,
    pages_on_order: Cell<usize>,
    /// Readers that wait for their turn to order a page.
    waiting: RefCell<VecDeque<Rc<Place>>>,
    turn: Cell<u64>,
    /// A page was not ordered for want of room.
    is_short: Cell<bool>,
    readers: Cell<usize>,
}

/// One stream's.
#[derive(Debug)]
struct Feed {
    stream: StreamId,
    home: ShardId,
    /// The home was asked, by a reader each, what is there: the first question of all, the last, the last that was sent, and the
    /// last that was answered.
    first_question: u64,
    last_question: Cell<u64>,
    sent: Cell<u64>,
    answered: Cell<u64>,
    /// The last row that the home said was there.
    there: Cell<i64>,
    /// Rows up to this one were there before, or came in; `None` until the home says where they begin. It is behind what is
    /// there while rows are on their way.
    through: Cell<Option<i64>>,
    ring: RefCell<VecDeque<(u64, Piece)>>,
    places: RefCell<HashMap<u64, Rc<Place>, ahash::RandomState>>,
}

/// A reader's, as its feed sees it.
#[derive(Debug)]
struct Place {
    bell: Rc<Bell>,
    /// It needs the rows past this one, if they are in the ring.
    after: Cell<i64>,
    /// The second of the shard since when it has taken nothing.
    blocked_since: Cell<Option<u64>>,
    is_evicted: Cell<bool>,
    /// It is in the list of those that wait.
    is_waiting: Cell<bool>,
}

/// A reader in a feed, until it is dropped.
#[derive(Debug)]
pub struct Follower {
    feeds: Rc<Feeds>,
    feed: Rc<Feed>,
    place: Rc<Place>,
    /// Its place among the feed's, and its question for the home.
    key: u64,
}

/// What a feed has for a reader.
#[derive(Debug)]
pub enum Next {
    /// Rows.
    Piece(Piece),
    /// Nothing yet: its bell is rung when there is.
    Wait,
    /// Its place is before the ring.
    Behind,
}

impl Feeds {
    /// None yet; what they hold is charged to `pool`.
    #[must_use]
    pub fn new(pool: Arc<Pool>) -> Self {
        Self {
            pool,
            feeds: RefCell::default(),
            order: RefCell::default(),
            ring_bytes: Cell::new(0),
            last_number: Cell::new(0),
            left: RefCell::default(),
            pages_on_order: Cell::new(0),
            waiting: RefCell::default(),
            turn: Cell::new(0),
            is_short: Cell::new(false),
            readers: Cell::new(0),
        }
    }

    /// How many readers there are.
    #[must_use]
    pub fn readers(&self) -> usize {
        self.readers.get()
    }

    /// The memory of all.
    #[must_use]
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// A new reader of `stream`.
    #[must_use]
    pub fn enter(self: &Rc<Self>, stream: StreamId, home: ShardId, bell: &Rc<Bell>) -> Follower {
        let key = self.next_number();
        let feed = Rc::clone(self.feeds.borrow_mut().entry(stream).or_insert_with(|| {
            self.left.borrow_mut().remove(&stream);
            Rc::new(Feed {
                stream,
                home,
                first_question: key,
                last_question: Cell::new(key),
                sent: Cell::new(0),
                answered: Cell::new(0),
                there: Cell::new(0),
                through: Cell::new(None),
                ring: RefCell::default(),
                places: RefCell::default(),
            })
        }));
        let place = Rc::new(Place {
            bell: Rc::clone(bell),
            after: Cell::new(NOT_LIVE),
            blocked_since: Cell::new(None),
            is_evicted: Cell::new(false),
            is_waiting: Cell::new(false),
        });
        feed.last_question.set(key);
        feed.places.borrow_mut().insert(key, Rc::clone(&place));
        self.readers.set(self.readers.get() + 1);
        Follower { feeds: Rc::clone(self), feed, place, key }
    }

    fn next_number(&self) -> u64 {
        self.last_number.set(self.last_number.get() + 1);
        self.last_number.get()
    }

    /// Feeds with readers for whom the home was not asked yet, the homes, and the question's number. The caller asks, and tells of
    /// each that it could.
    #[must_use]
    pub fn to_ask(&self) -> Vec<(StreamId, ShardId, u64)> {
        let feeds = self.feeds.borrow();
        let is_due = |feed: &&Rc<Feed>| feed.sent.get() < feed.last_question.get();
        feeds.values().filter(is_due).map(|feed| (feed.stream, feed.home, feed.last_question.get())).collect()
    }

    /// The home of `stream` was asked this question.
    pub fn asked(&self, stream: StreamId, question: u64) {
        if let Some(feed) = self.feeds.borrow().get(&stream) {
            feed.sent.set(question);
        }
    }

    /// Streams that nobody follows any more, and their homes. The caller tells them, and says [`Feeds::told`] of each that it could.
    #[must_use]
    pub fn to_tell(&self) -> Vec<(StreamId, ShardId)> {
        self.left.borrow().iter().map(|(&stream, &home)| (stream, home)).collect()
    }

    /// The home of `stream` was told.
    pub fn told(&self, stream: StreamId) {
        self.left.borrow_mut().remove(&stream);
    }

    /// The home's answer to a question: rows up to `through` are there, and it sends every row past it. Of those before it, some may
    /// be on their way yet, if it was asked before.
    pub fn answered(&self, stream: StreamId, through: i64, question: u64) {
        // What the readers before these asked says nothing of what the home sends now.
        let Some(feed) = self.feed(stream).filter(|feed| question >= feed.first_question) else { return };
        if feed.through.get().is_none() {
            feed.through.set(Some(through));
        }
        feed.there.set(feed.there.get().max(through));
        let before = feed.answered.get();
        feed.answered.set(before.max(question));
        // The others have waited for no answer, or have had theirs.
        let asked = |key: &u64| (before + 1..=question).contains(key);
        feed.places.borrow().iter().filter(|(key, _)| asked(key)).for_each(|(_, place)| place.bell.ring());
    }

    fn feed(&self, stream: StreamId) -> Option<Rc<Feed>> {
        self.feeds.borrow().get(&stream).cloned()
    }

    /// Takes rows from a stream's home.
    pub fn take(&self, rows: &LiveRows) {
        let Some(feed) = self.feed(rows.stream) else { return };
        // What was sent before the home was asked anew is none of this feed's.
        let Some(through) = feed.through.get().filter(|&through| rows.through > through) else { return };
        let first = rows.batches.first().map_or(rows.through + 1, |batch| batch.header().first_sequence);
        feed.through.set(Some(rows.through));
        // Rows that nobody could be sent are not encoded either: their readers catch up when there is room again.
        let has_room = self.pool.used() < self.pool.limit();
        let pieces =
            if has_room && feed.is_wanted() { rows.encode(through, &self.pool, self.ring_limit()) } else { None };
        match pieces {
            Some(pieces) if first <= through + 1 => self.put(&feed, pieces),
            Some(pieces) => {
                self.clear(&feed);
                self.put(&feed, pieces);
            }
            None => self.clear(&feed),
        }
        feed.ring_live();
    }

    fn put(&self, feed: &Feed, pieces: Vec<Piece>) {
        for piece in pieces {
            let mut ring = feed.ring.borrow_mut();
            // Where a pipeline leaves out all, what is left of it takes no place of its own.
            if let Some((_, last)) =
                ring.back_mut().filter(|(_, last)| piece.data.is_empty() && last.last + 1 == piece.first)
            {
                last.last = piece.last;
                continue;
            }
            let number = self.next_number();
            self.ring_bytes.set(self.ring_bytes.get() + piece.data.len());
            self.order.borrow_mut().push_back((feed.stream, number));
            ring.push_back((number, piece));
        }
        self.trim();
    }

    fn clear(&self, feed: &Feed) {
        let bytes: usize = feed.ring.borrow().iter().map(|(_, piece)| piece.data.len()).sum();
        self.ring_bytes.set(self.ring_bytes.get() - bytes);
        feed.ring.borrow_mut().clear();
    }

    /// What all rings may hold.
    fn ring_limit(&self) -> usize {
        self.pool.limit() / 4
    }

    /// Drops the oldest pieces of all rings until what is left is within bounds.
    fn trim(&self) {
        while self.ring_bytes.get() > self.ring_limit() {
            let Some((stream, number)) = self.order.borrow_mut().pop_front() else { break };
            if let Some(feed) = self.feed(stream) {
                self.drop_front(&feed, |piece_number, _| piece_number == number);
            }
        }
    }

    /// Drops the oldest piece of a ring, if it is one of those.
    fn drop_front(&self, feed: &Feed, is_due: impl Fn(u64, &Piece) -> bool) -> bool {
        let mut ring = feed.ring.borrow_mut();
        let due = ring.front().is_some_and(|(number, piece)| is_due(*number, piece));
        if due && let Some((_, piece)) = ring.pop_front() {
            self.ring_bytes.set(self.ring_bytes.get() - piece.data.len());
        }
        due
    }

    /// Every 100 ms or so: lets go of what every reader has had, and wakes those that wait for room.
    pub fn look_after(&self, second: u64) {
        for feed in self.feeds.borrow().values() {
            let needed = feed.places.borrow().values().map(|place| place.after.get()).min().unwrap_or(NOT_LIVE);
            while self.drop_front(feed, |_, piece| piece.last <= needed) {}
        }
        // Those that are no longer in a ring go too, so that the list is no longer than the rings are.
        let feeds = self.feeds.borrow();
        let is_held = |(stream, number): &(StreamId, u64)| {
            let feed = feeds.get(stream);
            feed.is_some_and(|feed| feed.ring.borrow().front().is_some_and(|(front, _)| front <= number))
        };
        self.order.borrow_mut().retain(is_held);
        drop(feeds);
        self.turn.set(self.turn.get() + 1);
        self.waiting.borrow_mut().drain(..).for_each(|place| place.stop_waiting());
        if self.is_short.take() || self.pool.used() >= self.pool.limit() {
            self.evict(second);
        }
    }

    /// Ends the reader that has taken nothing for longest: it holds memory that others wait for.
    fn evict(&self, second: u64) {
        let feeds = self.feeds.borrow();
        let places = feeds.values().flat_map(|feed| feed.places.borrow().values().cloned().collect::<Vec<_>>());
        let blocked = places.filter_map(|place| Some((place.blocked_since.get()?, place)));
        if let Some((since, place)) =
            blocked.filter(|(_, place)| !place.is_evicted.get()).min_by_key(|(since, _)| *since)
            && second >= since + PATIENCE_SECONDS
        {
            place.is_evicted.set(true);
            place.bell.ring();
        }
    }

    /// Wakes every reader: its right to read may have changed.
    pub fn ring_all(&self) {
        self.feeds.borrow().values().for_each(|feed| feed.ring_all());
    }

    /// Counts the calls of [`Feeds::look_after`].
    #[must_use]
    pub fn turn(&self) -> u64 {
        self.turn.get()
    }

    /// A page that was ordered is there, or will not come.
    pub fn page_done(&self) {
        self.pages_on_order.set(self.pages_on_order.get() - 1);
        if let Some(place) = self.waiting.borrow_mut().pop_front() {
            place.stop_waiting();
        }
    }

    /// Whether a reader may have a page ahead of the one that it is sent.
    #[must_use]
    pub fn has_plenty(&self) -> bool {
        self.pool.used() <= self.pool.limit() / 2
    }

    /// How large a page should be for a reader whose last one had `before` bytes; 0: its first.
    #[must_use]
    pub fn page_bytes(&self, before: usize) -> usize {
        let limit = self.pool.limit();
        let most = if self.has_plenty() { PAGE_BYTES_MAX } else { PAGE_BYTES_MIN };
        (2 * before).clamp(PAGE_BYTES_MIN, most.max(PAGE_BYTES_MIN)).min(limit / 8).max(1)
    }
}

impl Feed {
    fn ring_all(&self) {
        self.places.borrow().values().for_each(|place| place.bell.ring());
    }

    /// Wakes those that live on the ring.
    fn ring_live(&self) {
        let places = self.places.borrow();
        places.values().filter(|place| place.after.get() != NOT_LIVE).for_each(|place| place.bell.ring());
    }

    /// Whether a reader needs rows of the ring.
    fn is_wanted(&self) -> bool {
        self.places.borrow().values().any(|place| place.after.get() != NOT_LIVE)
    }
}

impl Place {
    fn stop_waiting(&self) {
        self.is_waiting.set(false);
        self.bell.ring();
    }
}

impl Follower {
    /// Room for a page of `bytes` of payload, if one may be ordered now; else as [`Follower::wait`].
    pub fn order_page(&self, bytes: usize) -> Option<Charge> {
        let (feeds, pool) = (&self.feeds, &self.feeds.pool);
        let is_turn = feeds.pages_on_order.get() < PAGES_ON_ORDER_MAX;
        let charge = is_turn.then(|| pool.try_charge(2 * bytes, pool.limit() - pool.limit() / 4));
        if matches!(charge, Some(None)) {
            feeds.is_short.set(true);
        }
        let charge = charge.flatten();
        match charge {
            Some(_) => feeds.pages_on_order.set(feeds.pages_on_order.get() + 1),
            None => self.wait(),
        }
        charge
    }

    /// The bell is rung when a page came in, or after a while.
    pub fn wait(&self) {
        if !self.place.is_waiting.replace(true) {
            self.feeds.waiting.borrow_mut().push_back(Rc::clone(&self.place));
        }
    }

    /// Rows up to this one were there before, or came in; `None` until the home says where they begin.
    #[must_use]
    pub fn through(&self) -> Option<i64> {
        self.feed.through.get()
    }

    /// What was there when the reader came, or a moment later: every row that was synced by then is up to this one. `None` until the
    /// home says so.
    #[must_use]
    pub fn there(&self) -> Option<i64> {
        (self.feed.answered.get() >= self.key).then(|| self.feed.there.get())
    }

    /// Says that the reader needs the rows past `sequence`, as far as they are in the ring; [`NOT_LIVE`]: none.
    pub fn set_after(&self, sequence: i64) {
        self.place.after.set(sequence);
    }

    /// The rows that follow `position`.
    #[must_use]
    pub fn next(&self, position: i64) -> Next {
        let Some(through) = self.feed.through.get() else { return Next::Wait };
        let ring = self.feed.ring.borrow();
        let covered_from = ring.front().map_or(through + 1, |(_, piece)| piece.first);
        if position + 1 < covered_from {
            return Next::Behind;
        }
        let index = ring.partition_point(|(_, piece)| piece.last <= position);
        let piece = ring.get(index).and_then(|(_, piece)| piece.clone().after(position));
        piece.map_or(Next::Wait, Next::Piece)
    }

    /// Since when, in the shard's seconds, the reader takes nothing of what is at hand for it.
    pub fn set_blocked(&self, since: Option<u64>) {
        self.place.blocked_since.set(since);
    }

    /// See [`Follower::set_blocked`].
    #[must_use]
    pub fn blocked_since(&self) -> Option<u64> {
        self.place.blocked_since.get()
    }

    /// Whether it must end, for others' sake.
    #[must_use]
    pub fn is_evicted(&self) -> bool {
        self.place.is_evicted.get()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let (feeds, feed) = (&self.feeds, &self.feed);
        feeds.readers.set(feeds.readers.get() - 1);
        feed.places.borrow_mut().remove(&self.key);
        if feed.places.borrow().is_empty() {
            feeds.clear(feed);
            feeds.feeds.borrow_mut().remove(&feed.stream);
            feeds.left.borrow_mut().insert(feed.stream, feed.home);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const HOME: ShardId = ShardId(0);

    #[test]
    fn what_was_there_when_a_reader_came_is_asked_for_each_though_the_rows_are_on_their_way() {
        let feeds = Rc::new(Feeds::new(Pool::new(1 << 20)));
        let (stream, bell) = (StreamId::generate(), Rc::new(Bell::default()));
        let ask = || {
            let asked = feeds.to_ask();
            let [(_, HOME, question)] = asked[..] else { panic!("one question: {asked:?}") };
            feeds.asked(stream, question);
            question
        };
        let first = feeds.enter(stream, HOME, &bell);
        let question = ask();
        assert_eq!((first.there(), first.through(), feeds.to_ask()), (None, None, vec![]));
        feeds.answered(stream, 10, question);
        assert_eq!((first.there(), first.through()), (Some(10), Some(10)));

        // Rows 11 to 15 are acked, and not here yet.
        let second = feeds.enter(stream, HOME, &bell);
        assert_eq!((second.there(), second.through()), (None, Some(10)));
        let question = ask();
        feeds.answered(stream, 15, question);
        assert_eq!((second.there(), second.through()), (Some(15), Some(10)), "15 rows were there, and 10 are here");
        assert!(matches!(second.next(15), Next::Wait) && matches!(first.next(10), Next::Wait));
        let came = |through| LiveRows {
            stream,
            batches: Vec::new(),
            through,
            pipelines: Arc::default(),
            synced: Instant::now(),
            charge: None,
        };
        feeds.take(&came(15));
        assert_eq!((second.through(), feeds.to_ask()), (Some(15), vec![]));

        // Who comes when all are gone does not take the answer to an earlier reader's question for its own.
        let third = feeds.enter(stream, HOME, &bell);
        let late = ask();
        drop((first, second, third));
        let last = feeds.enter(stream, HOME, &bell);
        let question = ask();
        feeds.answered(stream, 15, late);
        assert_eq!((last.there(), last.through()), (None, None));
        feeds.answered(stream, 20, question);
        assert_eq!((last.there(), last.through()), (Some(20), Some(20)));
    }
}
