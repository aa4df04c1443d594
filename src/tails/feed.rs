//! One stream's newest rows, encoded once for all of its readers here.
//!
//! Invariant: the ring is a run of rows without a gap that ends at `through`; a reader whose place is in the ring, or past it,
//! gets every row from there; one whose place is before it is told so.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::{mpsc, oneshot, watch};
use ttdust_shards::{
    memory::Pool,
    message::{QueryFailure, ToShard},
    snapshot::StreamEntry,
    tail::{LiveRows, Subscription, piece::Piece},
};

use crate::link::ShardLink;

/// Rows on their way from the home, in messages: one a turn of its commits.
const ON_THE_WAY_MAX: usize = 64;
/// What the ring of one stream may hold, as a part of the memory of all.
const RING_PART: usize = 8;
/// The part of the memory of all past which rings hold nothing but what has just come.
const SHORT_PART: usize = 2;

/// See the file's comment.
#[derive(Debug)]
pub(super) struct Feed {
    ring: Mutex<Ring>,
    /// The last row that was there before, or came in; below 0: the home has not said yet.
    through: watch::Sender<i64>,
    pool: Arc<Pool>,
    /// Tells who fills it that it is gone.
    _held: oneshot::Sender<()>,
}

#[derive(Debug, Default)]
struct Ring {
    pieces: VecDeque<Piece>,
    bytes: usize,
    through: i64,
}

/// What a feed has for a reader.
#[derive(Debug)]
pub(super) enum Next {
    /// Rows.
    Piece(Piece),
    /// Nothing yet.
    Wait,
    /// Its place is before the ring.
    Behind,
}

/// Before the home has said what is there.
const UNKNOWN: i64 = -1;
/// The home did not say.
const NEVER: i64 = -2;

impl Feed {
    /// Asks the stream's home for its rows. The feed is filled for as long as it is held.
    pub(super) fn open(link: &ShardLink, stream: &StreamEntry, pool: &Arc<Pool>) -> Result<Arc<Self>, QueryFailure> {
        let (begin, begun) = oneshot::channel();
        let (rows, incoming) = mpsc::channel(ON_THE_WAY_MAX);
        let subscription = Subscription { begin, rows, pool: Arc::clone(pool) };
        if link.has_ended(stream.home) {
            return Err(QueryFailure::Internal(format!("shard {} has ended", stream.home)));
        }
        let asked = link.engine().send(stream.home, ToShard::Subscribe(stream.id, subscription));
        asked.map_err(|_| QueryFailure::Overloaded)?;
        let (held, gone) = oneshot::channel();
        let (ring, through) = (Mutex::default(), watch::Sender::new(UNKNOWN));
        let feed = Arc::new(Self { ring, through, pool: Arc::clone(pool), _held: held });
        tokio::spawn(fill(Arc::downgrade(&feed), begun, incoming, gone));
        Ok(feed)
    }

    /// Which rows were there before or came in; `None`: the home does not say.
    pub(super) async fn begun(&self) -> Option<i64> {
        let through = *self.through.subscribe().wait_for(|through| *through != UNKNOWN).await.ok()?;
        (through != NEVER).then_some(through)
    }

    /// Tells of rows that come in.
    pub(super) fn changes(&self) -> watch::Receiver<i64> {
        self.through.subscribe()
    }

    /// The rows that follow `position`.
    pub(super) fn next(&self, position: i64) -> Next {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let covered_from = ring.pieces.front().map_or(ring.through + 1, |piece| piece.first);
        if position + 1 < covered_from {
            return Next::Behind;
        }
        let index = ring.pieces.partition_point(|piece| piece.last <= position);
        let piece = ring.pieces.get(index).and_then(|piece| piece.clone().after(position));
        piece.map_or(Next::Wait, Next::Piece)
    }

    fn begin(&self, through: i64) {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner).through = through;
        self.through.send_replace(through);
    }

    fn take(&self, rows: &LiveRows) {
        let through = {
            let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
            ring.take(rows, &self.pool);
            ring.through
        };
        self.through.send_replace(through);
    }
}

impl Ring {
    fn take(&mut self, rows: &LiveRows, pool: &Arc<Pool>) {
        let before = self.through;
        if rows.through <= before {
            return;
        }
        let first = rows.batches.first().map_or(rows.through + 1, |batch| batch.header().first_sequence);
        self.through = rows.through;
        // Rows that nobody has room for are not encoded either: their readers catch up when there is room again.
        let limit = pool.limit() / RING_PART;
        let pieces = (pool.used() < pool.limit()).then(|| rows.encode(before, pool, limit)).flatten();
        if pieces.is_none() || first > before + 1 {
            self.pieces.clear();
            self.bytes = 0;
        }
        let mut fresh = pieces.unwrap_or_default();
        // Where a pipeline leaves out all, what is left of it takes no place of its own.
        if let (Some(last), [only]) = (self.pieces.back_mut(), fresh.as_slice())
            && only.data.is_empty()
            && last.last + 1 == only.first
        {
            last.last = only.last;
            fresh.clear();
        }
        let kept = fresh.len();
        self.bytes += fresh.iter().map(|piece| piece.data.len()).sum::<usize>();
        self.pieces.extend(fresh);
        while self.bytes > limit || (pool.used() > pool.limit() / SHORT_PART && self.pieces.len() > kept) {
            let Some(piece) = self.pieces.pop_front() else { break };
            self.bytes -= piece.data.len();
        }
    }
}

/// Fills a feed until nobody holds it any more, or the home ends.
async fn fill(
    feed: Weak<Feed>,
    begun: oneshot::Receiver<i64>,
    mut incoming: mpsc::Receiver<LiveRows>,
    mut gone: oneshot::Receiver<()>,
) {
    let through = begun.await.unwrap_or(NEVER);
    match feed.upgrade() {
        Some(feed) => feed.begin(through),
        None => return,
    }
    if through == NEVER {
        return;
    }
    loop {
        let rows = tokio::select! {
            rows = incoming.recv() => rows,
            _ = &mut gone => return,
        };
        let (Some(rows), Some(feed)) = (rows, feed.upgrade()) else { return };
        feed.take(&rows);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use ttdust_shards::{ids::StreamId, tail::piece::PieceWriter};

    use super::*;

    fn pieces(rows: std::ops::RangeInclusive<i64>, pool: &Arc<Pool>) -> Vec<Piece> {
        let (first, last) = (*rows.start(), *rows.end());
        let mut writer = PieceWriter::new((StreamId::generate(), first), false, None, pool);
        rows.for_each(|row| writer.push(row, row, b"{}", 0));
        writer.finish(last)
    }

    fn feed(through: i64, pieces: Vec<Piece>, pool: &Arc<Pool>) -> Feed {
        let bytes = pieces.iter().map(|piece| piece.data.len()).sum();
        let ring = Mutex::new(Ring { pieces: pieces.into(), bytes, through });
        Feed { ring, through: watch::Sender::new(through), pool: Arc::clone(pool), _held: oneshot::channel().0 }
    }

    #[test]
    fn a_place_in_the_ring_goes_on_there_and_one_before_it_is_told() {
        let pool = Pool::new(1 << 20);
        let mut both = pieces(5..=7, &pool);
        both.extend(pieces(8..=9, &pool));
        let feed = feed(9, both, &pool);
        let of = |position| match feed.next(position) {
            Next::Piece(piece) => Some((piece.first, piece.last)),
            Next::Wait => None,
            Next::Behind => Some((0, 0)),
        };
        assert_eq!([of(3), of(4), of(6), of(7)], [Some((0, 0)), Some((5, 7)), Some((7, 7)), Some((8, 9))]);
        assert_eq!([of(9), of(100)], [None, None]);
    }

    #[test]
    fn what_was_left_out_empties_the_ring() {
        let pool = Pool::new(1 << 20);
        let feed = feed(9, pieces(8..=9, &pool), &pool);
        let left_out = |through| LiveRows {
            stream: StreamId::generate(),
            batches: Vec::new(),
            through,
            pipelines: Arc::default(),
            synced: Instant::now(),
            charge: None,
        };
        feed.take(&left_out(9));
        assert!(matches!(feed.next(8), Next::Piece(_)), "nothing new");
        feed.take(&left_out(12));
        assert!(matches!(feed.next(8), Next::Behind) && matches!(feed.next(11), Next::Behind));
        assert!(matches!(feed.next(12), Next::Wait));
        assert_eq!(pool.used(), 0, "its memory is given back");
    }
}
