//! `StreamingRead`: a stream's rows from a place on, those that are there first and then each as it is synced.
//!
//! A reader catches up from pages, which control's workers make, and then lives on its feed. Rows go out in order, without a gap
//! and once each, whichever of the two they come from; where that cannot be kept, the call ends and says so. It goes on to
//! follow the stream before it asks for a page, so that no row falls between the two. What waits for it is bounded by what
//! HTTP/2 takes, one piece, and two pages.

use std::{
    collections::VecDeque,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use h2::SendStream;
use prost::Message as _;
use ttdust_proto::query::StreamingReadRequest;

use super::{
    access::permitted,
    status::{Code, Status},
};
use crate::{
    access::{Action, Principal},
    ids::{FIRST_SEQUENCE, StreamId},
    message::QueryFailure,
    reactor::{
        Bell, Reactor, Reply, Slot,
        feeds::{Follower, NOT_LIVE, Next},
    },
    snapshot::{StreamEntry, StreamState},
    tail::{
        page::{Page, Position},
        piece::{self, Piece},
    },
    trace::SpanContext,
};

/// One call.
#[derive(Debug)]
pub struct Tail {
    reactor: Rc<Reactor>,
    caller: Principal,
    stream: StreamId,
    bell: Rc<Bell>,
    follower: Follower,
    /// Where it goes on once what is in `out` is sent.
    position: Position,
    /// It has had a row: from now on none may be missing.
    has_begun: bool,
    stage: Stage,
    page_bytes: usize,
    /// What is being sent, and how many bytes of it are gone.
    out: Option<(Piece, usize)>,
    ending: Option<Status>,
    /// The catalog and the second for which its right to read was looked at last.
    checked: (u64, u64),
}

#[derive(Debug)]
enum Stage {
    /// Catches up.
    Pages(Pages),
    /// Has every row that was synced.
    Live,
}

/// What a reader that catches up has at hand.
#[derive(Debug)]
struct Pages {
    /// What is left of the page that is being sent.
    pieces: VecDeque<Piece>,
    /// Where it ends; `None`: there is none.
    end: Option<Position>,
    is_last: bool,
    ahead: Ahead,
    /// The next page may well be the last: what comes in meanwhile is kept for it.
    is_near: bool,
    /// No page is ordered before this turn of the feeds: there were too many.
    not_before_turn: u64,
}

/// The page after the one that is being sent.
#[derive(Debug)]
enum Ahead {
    Nothing,
    Ordered(Rc<Slot>),
    There(Page),
}

impl Pages {
    fn begin() -> Self {
        Self {
            pieces: VecDeque::new(),
            end: None,
            is_last: false,
            ahead: Ahead::Nothing,
            is_near: true,
            not_before_turn: 0,
        }
    }
}

/// Opens a call: finds the stream and the place, asks the caller's limits, and follows the stream. Rows that are synced after it
/// returns are delivered.
///
/// # Errors
/// How the call ends.
pub async fn open(
    reactor: &Rc<Reactor>,
    mut caller: Principal,
    bell: &Rc<Bell>,
    (message, trace): (Bytes, Option<SpanContext>),
) -> Result<Tail, Status> {
    let request = StreamingReadRequest::decode(message).map_err(|error| Status::bad_message(&error))?;
    let stream = Arc::clone(permitted(&mut caller, Action::ReadRecords, &reactor.catalog(), &request.stream_id)?);
    check_state(&stream)?;
    let start = Start::of(&request)?;
    if reactor.feeds.readers() >= reactor.limits.tails {
        let message = format!("there are {} tails on this shard already (limits.tails)", reactor.limits.tails);
        return Err(Status::new(Code::ResourceExhausted, "TOO_MANY_TAILS", message));
    }
    let slot = reactor.open_tail(Arc::clone(&caller.id), trace, bell);
    let Reply::TailOpened(let_in) = wait(reactor, bell, || slot.take()).await? else {
        unreachable!("a tail's slot gets its answer")
    };
    let_in.map_err(Status::query)?;
    let follower = reactor.follow(&stream, bell);
    let there = wait(reactor, bell, || follower.there()).await?;
    let position = match start {
        Start::Now => Position { after: there, not_before: None },
        Start::Sequence(first) => Position { after: first - 1, not_before: None },
        Start::Time(unix_micros) => Position { after: 0, not_before: Some(unix_micros) },
    };
    let is_there = position.not_before.is_none() && position.after >= there;
    if is_there {
        follower.set_after(position.after);
    }
    Ok(Tail {
        reactor: Rc::clone(reactor),
        caller,
        stream: stream.id,
        bell: Rc::clone(bell),
        follower,
        position,
        // The rows that a retention has taken away may be missing at the beginning, and nowhere else.
        has_begun: is_there,
        stage: if is_there { Stage::Live } else { Stage::Pages(Pages::begin()) },
        page_bytes: 0,
        out: None,
        ending: None,
        checked: (0, 0),
    })
}

/// Waits for what the bell announces.
async fn wait<T>(reactor: &Reactor, bell: &Bell, mut take: impl FnMut() -> Option<T>) -> Result<T, Status> {
    loop {
        if let Some(taken) = take() {
            return Ok(taken);
        }
        if reactor.is_draining() {
            return Err(draining());
        }
        bell.rung().await;
    }
}

/// Where a reader wants to begin.
enum Start {
    Now,
    Sequence(i64),
    Time(i64),
}

impl Start {
    fn of(request: &StreamingReadRequest) -> Result<Self, Status> {
        let invalid = |message: String| Err(Status::new(Code::InvalidArgument, "BAD_START", message));
        match (request.start_sequence, request.start_time) {
            (None, None) => Ok(Self::Now),
            (Some(_), Some(_)) => invalid("start_sequence and start_time are both set: set one of them".to_owned()),
            (Some(sequence), None) if sequence < FIRST_SEQUENCE => {
                invalid(format!("start_sequence {sequence} is below {FIRST_SEQUENCE}, the first of every stream"))
            }
            (Some(sequence), None) => Ok(Self::Sequence(sequence)),
            (None, Some(unix_micros)) => Ok(Self::Time(unix_micros)),
        }
    }
}

fn check_state(stream: &StreamEntry) -> Result<(), Status> {
    match stream.state {
        StreamState::Active | StreamState::Paused => Ok(()),
        StreamState::Deleting => Err(Status::query(QueryFailure::Deleting)),
    }
}

fn draining() -> Status {
    Status {
        message: "the server is shutting down: go on elsewhere, after the last sequence number that came".to_owned(),
        ..Status::draining()
    }
}

/// What came of a look at what is at hand.
enum Step {
    Piece(Piece),
    /// Nothing yet.
    Wait,
    /// Look again: the reader is elsewhere now.
    Again,
}

impl Tail {
    /// Runs the call to its end.
    pub async fn run(mut self, mut send: SendStream<Bytes>) {
        if let Some(status) = std::future::poll_fn(|cx| self.poll_end(&mut send, cx)).await {
            // A client that is gone takes no trailers; there is nobody to tell.
            let _ = send.send_trailers(status.to_trailers());
        }
    }

    /// `Some`: end with this status. `None`: the client is gone, or was cut off.
    fn poll_end(&mut self, send: &mut SendStream<Bytes>, cx: &mut Context<'_>) -> Poll<Option<Status>> {
        if send.poll_reset(cx).is_ready() {
            return Poll::Ready(None);
        }
        loop {
            if let Some(status) = self.reason_to_give_up() {
                let is_whole = self.out.as_ref().is_none_or(|(piece, sent)| piece::unfinished(&piece.data, *sent) == 0);
                if is_whole {
                    return Poll::Ready(Some(status));
                }
                // What gRPC takes for RESOURCE_EXHAUSTED.
                send.send_reset(h2::Reason::ENHANCE_YOUR_CALM);
                return Poll::Ready(None);
            }
            if self.ending.is_none() {
                self.ending = self.reason_to_end();
            }
            if self.out.is_none() && self.ending.is_none() {
                match self.next_piece() {
                    Ok(piece) => self.out = piece.map(|piece| (piece, 0)),
                    Err(status) => self.ending = Some(status),
                }
            }
            if self.out.is_some() {
                match self.write(send, cx) {
                    Err(_) => return Poll::Ready(None),
                    Ok(Poll::Ready(())) if self.ending.is_none() => continue,
                    Ok(_) => {}
                }
            }
            if let Some(status) = self.ending.take_if(|_| self.out.is_none()) {
                return Poll::Ready(Some(status));
            }
            if self.bell.poll_rung(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// Why the call is to end at once, its last message whole or not.
    fn reason_to_give_up(&self) -> Option<Status> {
        let since = self.follower.blocked_since()?;
        let stall_seconds = self.reactor.limits.stall_seconds;
        let (reason, what) = if self.reactor.second() >= since + stall_seconds {
            ("READER_STALLED", format!("nothing was read for {stall_seconds} s"))
        } else if self.follower.is_evicted() {
            ("READER_TOO_SLOW", "memory for tails is short and nothing was read for seconds".to_owned())
        } else {
            return None;
        };
        self.reactor.metrics.tails_stalled.add(1);
        let message = format!("{what}: go on after the last sequence number that came");
        Some(Status::new(Code::ResourceExhausted, reason, message))
    }

    /// Why the call is to end after the message that is being sent.
    fn reason_to_end(&mut self) -> Option<Status> {
        if self.reactor.is_draining() {
            return Some(draining());
        }
        let now = (self.reactor.catalog_version(), self.reactor.second());
        if std::mem::replace(&mut self.checked, now) == now {
            return None;
        }
        let (catalog, text) = (self.reactor.catalog(), self.stream.to_string());
        match permitted(&mut self.caller, Action::ReadRecords, &catalog, &text) {
            // Another stream may have the id for its name by now.
            Ok(stream) if stream.id != self.stream => Some(Status::unknown_stream(&text)),
            Ok(stream) => check_state(stream).err(),
            Err(status) => Some(status),
        }
    }

    /// Sends what the client takes of what is at hand; of a call that ends, only the rest of the message under way.
    fn write(&mut self, send: &mut SendStream<Bytes>, cx: &mut Context<'_>) -> Result<Poll<()>, h2::Error> {
        while let Some((piece, sent)) = &mut self.out {
            let end = match self.ending {
                None => piece.data.len(),
                Some(_) => *sent + piece::unfinished(&piece.data, *sent),
            };
            if *sent == end {
                self.done_with(end);
                break;
            }
            send.reserve_capacity(end - *sent);
            let mut room = send.capacity();
            if room == 0 {
                match send.poll_capacity(cx) {
                    Poll::Ready(Some(capacity)) => room = capacity?,
                    Poll::Ready(None) => return Err(h2::Reason::CANCEL.into()),
                    Poll::Pending => {
                        let since = self.follower.blocked_since().unwrap_or_else(|| self.reactor.second());
                        self.follower.set_blocked(Some(since));
                        return Ok(Poll::Pending);
                    }
                }
            }
            let length = piece::cut(&piece.data[..end], *sent, room);
            send.send_data(piece.data.slice(*sent..*sent + length), false)?;
            *sent += length;
            self.follower.set_blocked(None);
        }
        Ok(Poll::Ready(()))
    }

    /// Counts what was sent of a piece, and lets go of it.
    fn done_with(&mut self, sent: usize) {
        let Some((piece, _)) = self.out.take() else { return };
        let metrics = &self.reactor.metrics;
        metrics.tail_bytes.add(sent as u64);
        metrics.tail_records.add(piece::messages(&piece.data[..sent]));
        if let Some(synced) = piece.synced {
            metrics.tail_latency.observe(synced.elapsed().as_micros() as u64);
        }
    }

    /// What to send next. `None`: nothing yet; the bell is rung when there may be something.
    fn next_piece(&mut self) -> Result<Option<Piece>, Status> {
        loop {
            let step = match self.stage {
                Stage::Live => self.step_live(),
                Stage::Pages(_) => self.step_pages()?,
            };
            let piece = match step {
                Step::Piece(piece) => piece,
                Step::Wait => return Ok(None),
                Step::Again => continue,
            };
            let last = piece.last;
            let wanted = match self.position.not_before {
                Some(start) => piece.since(start),
                None if self.has_begun && piece.first != self.position.after + 1 => return Err(self.gap(piece.first)),
                None => Some(piece),
            };
            self.go_to(last);
            if wanted.is_some() {
                self.position.not_before = None;
                self.has_begun = true;
                return Ok(wanted);
            }
        }
    }

    fn go_to(&mut self, sequence: i64) {
        self.position.after = sequence;
        if matches!(self.stage, Stage::Live) {
            self.follower.set_after(sequence);
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

    fn step_live(&mut self) -> Step {
        match self.follower.next(self.position.after) {
            Next::Piece(piece) => Step::Piece(piece),
            Next::Wait => Step::Wait,
            Next::Behind => {
                self.reactor.metrics.tail_fallbacks.add(1);
                self.page_bytes = 0;
                self.stage = Stage::Pages(Pages::begin());
                Step::Again
            }
        }
    }

    fn step_pages(&mut self) -> Result<Step, Status> {
        self.receive_page()?;
        let Stage::Pages(pages) = &mut self.stage else { unreachable!("only called while there are pages") };
        if let Some(piece) = pages.pieces.pop_front() {
            return Ok(Step::Piece(piece));
        }
        if let Some(end) = pages.end.take() {
            let is_last = pages.is_last;
            if self.has_begun && self.position.after < end.after {
                return Err(self.gap(end.after + 1));
            }
            self.position = Position { not_before: self.position.not_before, ..end };
            if is_last {
                self.leave_pages();
                return Ok(Step::Again);
            }
        }
        let Stage::Pages(pages) = &mut self.stage else { unreachable!("as above") };
        match std::mem::replace(&mut pages.ahead, Ahead::Nothing) {
            Ahead::There(page) => {
                self.take_page(page);
                Ok(Step::Again)
            }
            Ahead::Nothing => {
                self.order_page(self.position);
                Ok(Step::Wait)
            }
            ordered @ Ahead::Ordered(_) => {
                pages.ahead = ordered;
                Ok(Step::Wait)
            }
        }
    }

    /// Has had the last page: lives on the feed from here on, if it reaches back so far.
    fn leave_pages(&mut self) {
        self.stage = match self.follower.next(self.position.after) {
            Next::Behind => Stage::Pages(Pages::begin()),
            Next::Piece(_) | Next::Wait => Stage::Live,
        };
        if matches!(self.stage, Stage::Live) {
            self.follower.set_after(self.position.after);
        }
    }

    /// Looks whether the page on order is there.
    fn receive_page(&mut self) -> Result<(), Status> {
        let Stage::Pages(pages) = &mut self.stage else { return Ok(()) };
        let Ahead::Ordered(slot) = &pages.ahead else { return Ok(()) };
        let Some(reply) = slot.take() else { return Ok(()) };
        let Reply::Page(page) = reply else { unreachable!("a page's slot gets a page") };
        pages.ahead = match page {
            Ok(page) => {
                // What comes in from now on is kept for it after its last page, and only then.
                self.follower.set_after(if page.is_last { page.through } else { NOT_LIVE });
                Ahead::There(page)
            }
            Err(QueryFailure::Overloaded) => {
                pages.not_before_turn = self.reactor.feeds.turn() + 1;
                self.follower.wait();
                Ahead::Nothing
            }
            Err(failure) => return Err(Status::query(failure)),
        };
        Ok(())
    }

    /// Begins to send a page, and orders the next one.
    fn take_page(&mut self, page: Page) {
        let Stage::Pages(pages) = &mut self.stage else { return };
        let end = Position { after: page.through, not_before: None };
        let not_before = if page.pieces.is_empty() { self.position.not_before } else { None };
        pages.is_last = page.is_last;
        pages.is_near = false;
        pages.end = Some(end);
        pages.pieces = page.pieces.into();
        if !page.is_last && self.reactor.feeds.has_plenty() {
            self.order_page(Position { not_before, ..end });
        }
    }

    /// Orders the page that begins at `from`, now or when it is the reader's turn.
    fn order_page(&mut self, from: Position) {
        let Stage::Pages(pages) = &mut self.stage else { return };
        let feeds = &self.reactor.feeds;
        if feeds.turn() < pages.not_before_turn {
            return self.follower.wait();
        }
        let bytes = feeds.page_bytes(self.page_bytes);
        let Some(slot) = self.reactor.ask_page(&self.follower, self.stream, from, bytes, &self.bell) else { return };
        self.page_bytes = bytes;
        if pages.is_near {
            self.follower.set_after(self.follower.through().unwrap_or(NOT_LIVE));
        }
        pages.ahead = Ahead::Ordered(slot);
    }
}
