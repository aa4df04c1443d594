//! Tails over REST: a stream's rows from a place on, those that are there first and then each as it is synced, with the meaning
//! that `StreamingRead` has in gRPC.
//!
//! The home of a stream sends what it has synced to one feed here, in which all readers of the stream live. A reader catches up
//! from pages and then lives on the feed; one whose place is not in the feed any more catches up again. It follows the stream
//! before it asks for a page, so that no row falls between the two. What waits for all of them is charged to one pool, and a
//! reader has one piece and one page in hand.

mod feed;

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{self, Instant},
};
use ttdust_shards::{
    access::{Action, Principal},
    ids::{FIRST_SEQUENCE, StreamId},
    memory::Pool,
    message::QueryFailure,
    permitted,
    snapshot::{StreamEntry, StreamState},
    status::{Code, Status},
    tail::{
        page::{PageAsk, Position},
        piece::Piece,
    },
};

use crate::{link::ShardLink, publish::Publisher, query::Queries};
use feed::{Feed, Next};

/// The payload bytes of a page.
const PAGE_BYTES: usize = 256 << 10;
/// Before a page that found no room, or no worker, is asked for again.
const PAGE_PAUSE: Duration = Duration::from_millis(50);
/// Between looks at whether a reader may still read.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// Where a reader begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With what is synced from now on.
    Now,
    /// With this sequence number; one that is not there yet is waited for.
    Sequence(i64),
    /// With what was ingested at or after this time, Unix µs.
    Time(i64),
}

/// All tails over REST.
#[derive(Debug)]
pub struct Tails {
    link: ShardLink,
    publisher: Arc<Publisher>,
    queries: Arc<Queries>,
    pool: Arc<Pool>,
    feeds: Mutex<HashMap<StreamId, Weak<Feed>>>,
    readers: AtomicUsize,
    readers_max: usize,
    stopping: watch::Sender<bool>,
}

impl Tails {
    /// None yet; there may be `readers_max`, for whom `memory_bytes` may wait.
    #[must_use]
    pub fn new(
        link: ShardLink,
        publisher: Arc<Publisher>,
        queries: Arc<Queries>,
        memory_bytes: usize,
        readers_max: usize,
    ) -> Self {
        let (pool, feeds, readers) = (Pool::new(memory_bytes), Mutex::default(), AtomicUsize::new(0));
        Self { link, publisher, queries, pool, feeds, readers, readers_max, stopping: watch::Sender::new(false) }
    }

    /// Ends all readers: the server is going.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Begins to read for `caller`, who may: rows that are synced after it returns are delivered.
    ///
    /// # Errors
    /// There are too many readers, or the stream's shard is too busy.
    pub async fn open(
        self: &Arc<Self>,
        caller: Principal,
        stream: &Arc<StreamEntry>,
        start: Start,
    ) -> Result<Reader, Status> {
        check_state(stream)?;
        if let Start::Sequence(first) = start
            && first < FIRST_SEQUENCE
        {
            let message = format!("start_sequence {first} is below {FIRST_SEQUENCE}, the first of every stream");
            return Err(Status::new(Code::InvalidArgument, "BAD_START", message));
        }
        let seat = self.enter()?;
        let (feed, through) = self.feed(stream).await?;
        let changes = feed.changes();
        let position = match start {
            Start::Now => Position { after: through, not_before: None },
            Start::Sequence(first) => Position { after: first - 1, not_before: None },
            Start::Time(unix_micros) => Position { after: 0, not_before: Some(unix_micros) },
        };
        let is_there = position.not_before.is_none() && position.after >= through;
        Ok(Reader {
            seat,
            caller,
            stream: stream.id,
            feed,
            changes,
            stopping: self.stopping.subscribe(),
            position,
            // The rows that a retention has taken away may be missing at the beginning, and nowhere else.
            has_begun: is_there,
            stage: if is_there { Stage::Live } else { Stage::Pages(Pages::default()) },
            look_at: Instant::now() + LOOK_PAUSE,
        })
    }

    fn enter(self: &Arc<Self>) -> Result<Seat, Status> {
        let seat = Seat(Arc::clone(self));
        if self.readers.fetch_add(1, Relaxed) >= self.readers_max {
            let message = format!("there are {} tails over REST already (limits.tails)", self.readers_max);
            return Err(Status::new(Code::ResourceExhausted, "TOO_MANY_TAILS", message));
        }
        Ok(seat)
    }

    /// The feed of a stream, and which rows are there: those that were synced by now, also where the feed has others' readers and
    /// the rows are still on their way to it.
    async fn feed(&self, stream: &StreamEntry) -> Result<(Arc<Feed>, i64), Status> {
        let known = {
            let feeds = self.feeds.lock().unwrap_or_else(PoisonError::into_inner);
            feeds.get(&stream.id).and_then(Weak::upgrade)
        };
        if let Some(feed) = known {
            // Of two that began at once, the later waits for the earlier's answer.
            if let Some(through) = feed.begun().await {
                let figures = self.link.figures(stream.home, stream.id).await;
                let figures = figures.ok_or_else(|| Status::query(QueryFailure::Overloaded))?;
                return Ok((feed, through.max(figures.last_sequence)));
            }
        }
        let feed = Feed::open(&self.link, stream, &self.pool).map_err(Status::query)?;
        {
            let mut feeds = self.feeds.lock().unwrap_or_else(PoisonError::into_inner);
            feeds.retain(|_, feed| feed.strong_count() > 0);
            feeds.insert(stream.id, Arc::downgrade(&feed));
        }
        match feed.begun().await {
            Some(through) => Ok((feed, through)),
            None => Err(Status::query(QueryFailure::Internal(format!("shard {} gave no answer", stream.home)))),
        }
    }
}

/// A reader is counted for as long as it is there.
#[derive(Debug)]
struct Seat(Arc<Tails>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.readers.fetch_sub(1, Relaxed);
    }
}

fn check_state(stream: &StreamEntry) -> Result<(), Status> {
    match stream.state {
        StreamState::Active | StreamState::Paused => Ok(()),
        StreamState::Deleting => Err(Status::query(QueryFailure::Deleting)),
    }
}

/// One reader.
#[derive(Debug)]
pub struct Reader {
    seat: Seat,
    caller: Principal,
    stream: StreamId,
    feed: Arc<Feed>,
    changes: watch::Receiver<i64>,
    stopping: watch::Receiver<bool>,
    /// Where it goes on.
    position: Position,
    /// It has had a row: from now on none may be missing.
    has_begun: bool,
    stage: Stage,
    /// When its right to read is looked at again.
    look_at: Instant,
}

#[derive(Debug)]
enum Stage {
    /// Catches up.
    Pages(Pages),
    /// Has every row that was synced.
    Live,
}

/// What a reader that catches up has in hand.
#[derive(Debug, Default)]
struct Pages {
    pieces: VecDeque<Piece>,
    /// Where the page ends, and whether there was more; `None`: there is no page.
    end: Option<(i64, bool)>,
}

impl Reader {
    /// The next rows; `None`: there was nothing for this long.
    ///
    /// # Errors
    /// The reading is at its end.
    pub async fn next(&mut self, patience: Duration) -> Result<Option<Piece>, Status> {
        let until = Instant::now() + patience;
        loop {
            self.check()?;
            let piece = match &mut self.stage {
                Stage::Pages(_) => self.step_pages().await?,
                Stage::Live => match self.feed.next(self.position.after) {
                    Next::Piece(piece) => Some(piece),
                    Next::Behind => {
                        self.stage = Stage::Pages(Pages::default());
                        None
                    }
                    Next::Wait if Instant::now() >= until => return Ok(None),
                    Next::Wait => {
                        self.wait(until).await;
                        None
                    }
                },
            };
            let Some(piece) = piece else { continue };
            let last = piece.last;
            let wanted = match self.position.not_before {
                Some(start) => piece.since(start),
                None if self.has_begun && piece.first != self.position.after + 1 => return Err(self.gap(piece.first)),
                None => Some(piece),
            };
            self.position.after = last;
            if wanted.is_some() {
                self.position.not_before = None;
                self.has_begun = true;
                return Ok(wanted);
            }
        }
    }

    /// Whether it may go on. Its right to read is looked at each second.
    fn check(&mut self) -> Result<(), Status> {
        if *self.stopping.borrow() {
            let message = "the server is shutting down: go on elsewhere, after the last sequence number that came";
            return Err(Status { message: message.to_owned(), ..Status::draining() });
        }
        if Instant::now() < self.look_at {
            return Ok(());
        }
        self.look_at = Instant::now() + LOOK_PAUSE;
        let (catalog, text) = (self.seat.0.publisher.current(), self.stream.to_string());
        let stream = permitted(&mut self.caller, Action::ReadRecords, &catalog, &text)?;
        // Another stream may have the id for its name by now.
        if stream.id != self.stream {
            return Err(Status::unknown_stream(&text));
        }
        check_state(stream)
    }

    /// Waits for rows, for the next look, or until then.
    async fn wait(&mut self, until: Instant) {
        // The senders live as long as this reader's feed and seat.
        tokio::select! {
            _ = self.changes.changed() => {}
            _ = self.stopping.changed() => {}
            () = time::sleep_until(until.min(self.look_at)) => {}
        }
    }

    /// The record that should be next is gone, and `found` is the first that is there.
    fn gap(&self, found: i64) -> Status {
        let wanted = self.position.after + 1;
        let message = format!(
            "records {wanted} to {} are gone, before they were read: go on with start_sequence = {found}",
            found - 1
        );
        Status::new(Code::FailedPrecondition, "RECORDS_EXPIRED", message)
    }

    /// Rows of the page in hand; `None`: look again.
    async fn step_pages(&mut self) -> Result<Option<Piece>, Status> {
        let Stage::Pages(pages) = &mut self.stage else { unreachable!("only called while there are pages") };
        if let Some(piece) = pages.pieces.pop_front() {
            return Ok(Some(piece));
        }
        let Some((through, is_last)) = pages.end.take() else {
            self.fetch().await?;
            return Ok(None);
        };
        if self.has_begun && self.position.after < through {
            return Err(self.gap(through + 1));
        }
        self.position.after = through;
        if is_last {
            self.stage = Stage::Live;
        }
        Ok(None)
    }

    /// Gets the next page, or waits a little where there is no room for it.
    async fn fetch(&mut self) -> Result<(), Status> {
        let tails = &self.seat.0;
        let pool = &tails.pool;
        let Some(reserved) = pool.try_charge(2 * PAGE_BYTES, pool.limit() - pool.limit() / 4) else {
            time::sleep(PAGE_PAUSE).await;
            return Ok(());
        };
        let ask =
            PageAsk { stream: self.stream, from: self.position, bytes: PAGE_BYTES, pool: Arc::clone(pool), reserved };
        match tails.queries.tail_page(ask).await {
            Ok(page) => {
                let (pieces, end) = (page.pieces.into(), Some((page.through, page.is_last)));
                self.stage = Stage::Pages(Pages { pieces, end });
                Ok(())
            }
            Err(QueryFailure::Overloaded) => {
                time::sleep(PAGE_PAUSE).await;
                Ok(())
            }
            Err(failure) => Err(Status::query(failure)),
        }
    }
}
