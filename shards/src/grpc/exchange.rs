//! The loop of a streaming call: read what is there, hand it over in one go, send the answers that are ready.
//!
//! Everything that arrived together is submitted together, and all acks of a commit for one call leave in one DATA frame.
//! What is bounded: requests and bytes under way, and answers that the client does not read.

use std::{
    rc::Rc,
    task::{Context, Poll},
    time::Instant,
};

use bytes::{Bytes, BytesMut};
use h2::SendStream;

use super::{framing::MessageReader, status::Status};
use crate::reactor::{Bell, Reactor};

/// Messages handled in one turn before others on the thread have theirs.
const MESSAGES_PER_TURN: usize = 256;
/// Bytes of messages, likewise: about half a millisecond of validation.
const BYTES_PER_TURN: usize = 256 << 10;
/// Bytes of requests under way in one call past which no more is read.
const BYTES_IN_FLIGHT_MAX: usize = 16 << 20;
/// Bytes of answers waiting for the client past which no more is read.
const ANSWER_BYTES_MAX: usize = 256 << 10;

/// What a streaming method does with its messages.
pub trait Method {
    /// Takes one message. What it submits may wait for [`Method::flush`].
    ///
    /// # Errors
    /// The call ends with this status, after the answers to what came before.
    fn take(&mut self, message: Bytes, received: Instant) -> Result<(), Status>;

    /// Nothing more is at hand: submits what was taken.
    fn flush(&mut self);

    /// Appends every answer that is ready, in order.
    ///
    /// # Errors
    /// The call ends with this status, after the answers to what came before; see [`Method::settle`].
    fn put_answers(&mut self, out: &mut BytesMut) -> Result<(), Status>;

    /// After an error of [`Method::put_answers`]: whether anything of the requests that get no answer was, or may have been,
    /// taken all the same. `None`: some of them have no outcome yet.
    fn settle(&mut self) -> Option<bool>;

    /// Requests and bytes that are taken and not answered.
    fn in_flight(&self) -> (usize, usize);
}

/// Why a turn of reading ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stopped {
    /// Nothing is at hand (the reader wakes the call), or nothing more is wanted.
    Empty,
    /// Too much is under way.
    Full,
    /// Other tasks are due.
    ForOthers,
}

/// A streaming call.
#[derive(Debug)]
pub struct Exchange<M> {
    reactor: Rc<Reactor>,
    reader: MessageReader,
    send: SendStream<Bytes>,
    method: M,
    bell: Rc<Bell>,
    out: BytesMut,
    /// Set when nothing more is read; the call ends so when all is answered.
    ending: Option<Status>,
    /// Nothing more is answered either.
    failed: bool,
}

impl<M: Method> Exchange<M> {
    /// A call whose answers' slots ring `bell`.
    pub fn new(
        reactor: Rc<Reactor>,
        reader: MessageReader,
        send: SendStream<Bytes>,
        method: M,
        bell: Rc<Bell>,
    ) -> Self {
        Self { reactor, reader, send, method, bell, out: BytesMut::new(), ending: None, failed: false }
    }

    /// Runs the call to its end.
    pub async fn run(mut self) {
        let call = self.reactor.calls.enter(&self.bell);
        if let Some(status) = std::future::poll_fn(|cx| self.poll_end(cx)).await {
            // A client that is gone takes no trailers; there is nobody to tell.
            let _ = self.send.send_trailers(status.to_trailers());
        }
        drop(call);
    }

    /// `Some`: end with this status. `None`: the client is gone.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Option<Status>> {
        loop {
            let stopped = self.read(cx);
            if !self.failed
                && let Err(status) = self.method.put_answers(&mut self.out)
            {
                (self.ending, self.failed) = (Some(status), true);
            }
            if self.write(cx).is_err() {
                return Poll::Ready(None);
            }
            if let Some(status) = self.ended() {
                return Poll::Ready(Some(status));
            }
            // Answers may have made room for requests that were left unread, and those wake nobody.
            if stopped == Stopped::Full && self.has_room() || self.bell.poll_rung(cx).is_ready() {
                continue;
            }
            if stopped == Stopped::ForOthers {
                cx.waker().wake_by_ref();
            }
            return Poll::Pending;
        }
    }

    /// The status that the call ends with now, if it does. What was acked is with the client by then.
    fn ended(&mut self) -> Option<Status> {
        let in_doubt = match self.failed {
            true => self.method.settle()?,
            false if self.method.in_flight().0 == 0 => false,
            false => return None,
        };
        if !self.out.is_empty() {
            return None;
        }
        let status = self.ending.take()?;
        Some(if in_doubt { status.in_doubt() } else { status })
    }

    fn has_room(&self) -> bool {
        let (requests, bytes) = self.method.in_flight();
        requests < self.reactor.limits.requests_in_flight
            && bytes < BYTES_IN_FLIGHT_MAX
            && self.out.len() < ANSWER_BYTES_MAX
    }

    /// Takes what is at hand.
    fn read(&mut self, cx: &mut Context<'_>) -> Stopped {
        if self.ending.is_none() && self.reactor.is_draining() {
            self.ending = Some(Status::draining());
        }
        let (mut taken, mut bytes) = (0, 0);
        let mut received = None;
        let stopped = loop {
            if self.ending.is_some() {
                break Stopped::Empty;
            }
            if taken == MESSAGES_PER_TURN || bytes >= BYTES_PER_TURN {
                break Stopped::ForOthers;
            }
            if !self.has_room() {
                break Stopped::Full;
            }
            match self.reader.poll_message(cx) {
                Poll::Pending => break Stopped::Empty,
                Poll::Ready(None) => self.ending = Some(Status::ok()),
                Poll::Ready(Some(Err(status))) => self.ending = Some(status),
                Poll::Ready(Some(Ok(message))) => {
                    taken += 1;
                    bytes += message.len();
                    let received = *received.get_or_insert_with(Instant::now);
                    self.ending = self.method.take(message, received).err();
                }
            }
        };
        if taken > 0 {
            self.method.flush();
        }
        stopped
    }

    /// Sends as much of `out` as the client takes now.
    fn write(&mut self, cx: &mut Context<'_>) -> Result<(), h2::Error> {
        while !self.out.is_empty() {
            self.send.reserve_capacity(self.out.len());
            let mut room = self.send.capacity();
            if room == 0 {
                match self.send.poll_capacity(cx) {
                    Poll::Pending => break,
                    Poll::Ready(Some(capacity)) => room = capacity?,
                    Poll::Ready(None) => return Err(h2::Reason::CANCEL.into()),
                }
            }
            let data = self.out.split_to(room.min(self.out.len())).freeze();
            self.send.send_data(data, false)?;
        }
        Ok(())
    }
}
