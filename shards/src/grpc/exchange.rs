//! The loop of a streaming call: read what is there, hand it over in one go, send the answers that are ready.
//!
//! Everything that arrived together is submitted together, and all acks of a commit for one call leave in one DATA frame.
//! What is bounded: requests and bytes under way, and answers that the client does not read; and the time for which it may keep
//! the call waiting with them, or in the middle of a message. A call between messages may wait for ever: it holds next to nothing.

use std::{
    rc::Rc,
    task::{Context, Poll},
    time::Instant,
};

use bytes::{Bytes, BytesMut};
use h2::SendStream;

use super::{framing::MessageReader, status::Status};
use crate::{
    reactor::{Bell, Guard, Reactor},
    tail::piece,
};

/// Messages handled in one turn before others on the thread have theirs.
const MESSAGES_PER_TURN: usize = 256;
/// Bytes of messages, likewise: about half a millisecond of validation.
const BYTES_PER_TURN: usize = 256 << 10;
/// Bytes of requests under way in one call past which no more is read.
const BYTES_IN_FLIGHT_MAX: usize = 16 << 20;
/// Bytes of answers waiting for the client past which no more is read.
const ANSWER_BYTES_MAX: usize = 256 << 10;

/// A message that was begun must be whole after so many times the seconds in which something of it must come: it holds memory.
const MESSAGE_STALLS: u64 = 10;

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

/// What comes of a look at how long the client has kept the call waiting.
enum Waited {
    Little,
    /// For the rest of a message: the call ends so, once all before it is answered.
    ForMessage(Status),
    /// For its answers.
    Enough,
}

/// Since when something waits for the client, in the shard's seconds, and how far the client was then.
#[derive(Debug, Default)]
struct Stall(Option<(u64, u64)>);

impl Stall {
    /// For how many seconds it waits, now that the client is so far; `None`: nothing waits.
    fn seconds(&mut self, progress: Option<u64>, now: u64) -> u64 {
        match (progress, self.0) {
            (Some(progress), Some((since, before))) if progress == before => now - since,
            _ => {
                self.0 = progress.map(|progress| (now, progress));
                0
            }
        }
    }
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
    /// Bytes at the beginning of `out` of a message that is sent in part.
    unfinished: usize,
    /// Bytes of answers that the client took.
    sent: u64,
    /// In the middle of a message: of bytes, and of the whole of it. With answers at hand.
    stalls: [Stall; 3],
    /// Rung every second, once anything waited.
    timed: Option<Guard>,
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
        Self {
            reactor,
            reader,
            send,
            method,
            bell,
            out: BytesMut::new(),
            unfinished: 0,
            sent: 0,
            stalls: Default::default(),
            timed: None,
            ending: None,
            failed: false,
        }
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

    /// `Some`: end with this status. `None`: the client is gone, or was cut off.
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
            match self.waited_for(stopped) {
                Waited::Enough if self.unfinished == 0 => {
                    let seconds = self.reactor.limits.stall_seconds;
                    return Poll::Ready(Some(Status::answers_not_taken(seconds)));
                }
                Waited::Enough => {
                    // What gRPC takes for RESOURCE_EXHAUSTED.
                    self.send.send_reset(h2::Reason::ENHANCE_YOUR_CALM);
                    return Poll::Ready(None);
                }
                Waited::ForMessage(status) => {
                    self.ending = Some(status);
                    continue;
                }
                Waited::Little => {}
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

    /// Whether the client has kept the call waiting for too long.
    fn waited_for(&mut self, stopped: Stopped) -> Waited {
        // What is not read is not waited for.
        let within = self.reader.within_message().filter(|_| stopped == Stopped::Empty && self.ending.is_none());
        let unsent = (!self.out.is_empty()).then_some(self.sent);
        if self.timed.is_none() && (within.is_some() || unsent.is_some()) {
            self.timed = Some(self.reactor.timed.enter(&self.bell));
        }
        let (now, most) = (self.reactor.second(), self.reactor.limits.stall_seconds);
        let [bytes, message, answers] = &mut self.stalls;
        // The first of these seconds may have been all but over.
        if answers.seconds(unsent, now) > most {
            return Waited::Enough;
        }
        let of_bytes = bytes.seconds(within.map(|(bytes, _)| bytes), now);
        let of_message = message.seconds(within.map(|(_, messages)| messages), now);
        let whole = most * MESSAGE_STALLS;
        if of_bytes > most {
            let what = format_args!("a message was begun, and nothing more of it came for {most} s");
            Waited::ForMessage(Status::message_stalled(what))
        } else if of_message > whole {
            let what = format_args!("a message was begun, and it was not whole after {whole} s");
            Waited::ForMessage(Status::message_stalled(what))
        } else {
            Waited::Little
        }
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
            let length = room.min(self.out.len());
            self.unfinished = if length < self.unfinished {
                self.unfinished - length
            } else if length == self.out.len() {
                0
            } else {
                piece::unfinished(&self.out[self.unfinished..], length - self.unfinished)
            };
            self.send.send_data(self.out.split_to(length).freeze(), false)?;
            self.sent += length as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_is_counted_from_the_last_progress() {
        let mut stall = Stall::default();
        assert_eq!(stall.seconds(None, 5), 0);
        assert_eq!([7, 8, 20].map(|now| stall.seconds(Some(100), now)), [0, 1, 13]);
        assert_eq!([21, 50].map(|now| stall.seconds(Some(101), now)), [0, 29]);
        assert_eq!(stall.seconds(None, 51), 0);
        assert_eq!([52, 53].map(|now| stall.seconds(Some(101), now)), [0, 1], "begun anew");
    }
}
