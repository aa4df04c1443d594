//! Frames that carry nothing: what a connection may send of them, and that others have their turn meanwhile.
//!
//! HTTP/2 has frames that cost a client a few bytes and ask for nothing that is bounded elsewhere: pings, settings, resets,
//! empty data, windows that grow by a byte. h2 reads on for as long as the socket has bytes, so a client that sends nothing but
//! these would keep a shard's thread to itself. Here each is charged to its connection, which has so many to begin with and so
//! many a second, and earns more by what it really sends and is sent. One that has spent all is told to calm down, and closed.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Instant,
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a connection has at the beginning, and at most.
const BUDGET: i64 = 1_000;
/// What it gets back.
const PER_SECOND: f64 = 500.0;
/// Bytes of answers that earn one.
const BYTES_SENT: u64 = 128;
/// Frames that carry nothing, or begin a call, after which others have their turn.
const FRAMES_PER_TURN: u32 = 100;

const PREFACE_BYTES: usize = 24;
const HEAD_BYTES: usize = 9;
/// A padded frame of no more than this may hold nothing but padding.
const PADDING_BYTES: usize = 256;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const END_STREAM: u8 = 1;
const PADDED: u8 = 8;

/// What a frame costs; what is below zero is earned.
fn cost(kind: u8, flags: u8, length: usize) -> i64 {
    match kind {
        DATA if flags & END_STREAM == 0 && (length == 0 || (flags & PADDED != 0 && length <= PADDING_BYTES)) => 1,
        DATA => -1,
        HEADERS => -2,
        // What the call that it ends has earned with its message: one that is begun without, only to be ended, is a flood too.
        RST_STREAM => 3,
        // All open calls are gone through for one.
        SETTINGS => 8,
        _ => 1,
    }
}

/// Where in the bytes of a connection frames begin.
#[derive(Debug)]
struct Frames {
    /// Bytes that belong to no head.
    skip: usize,
    head: [u8; HEAD_BYTES],
    have: usize,
}

impl Frames {
    fn new() -> Self {
        Self { skip: PREFACE_BYTES, head: [0; HEAD_BYTES], have: 0 }
    }

    /// Calls `each` with type, flags and length of every frame whose head ends in `bytes`.
    fn walk(&mut self, mut bytes: &[u8], mut each: impl FnMut(u8, u8, usize)) {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            if bytes.is_empty() {
                return;
            }
            let taken = (HEAD_BYTES - self.have).min(bytes.len());
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == HEAD_BYTES {
                let [a, b, c, kind, flags, ..] = self.head;
                self.skip = u32::from_be_bytes([0, a, b, c]) as usize;
                self.have = 0;
                each(kind, flags, self.skip);
            }
        }
    }
}

/// What is left to a connection.
#[derive(Debug)]
struct Budget {
    left: i64,
    counted: Instant,
}

impl Budget {
    fn new(now: Instant) -> Self {
        Self { left: BUDGET, counted: now }
    }

    /// Takes `cost`, or adds what was earned; whether there was enough.
    fn take(&mut self, cost: i64, now: impl FnOnce() -> Instant) -> bool {
        self.left = (self.left - cost).min(BUDGET);
        if self.left < 0 {
            let now = now();
            let back = (now.saturating_duration_since(self.counted).as_secs_f64() * PER_SECOND) as i64;
            // What is lost by rounding is no matter: the clock is read anew when all is spent again.
            self.left = (self.left + back).min(BUDGET);
            self.counted = now;
        }
        self.left >= 0
    }
}

/// Whether a connection has sent too much of nothing.
#[derive(Debug, Clone, Default)]
pub struct Verdict(Rc<Cell<bool>>);

impl Verdict {
    /// Whether it is to be closed.
    #[must_use]
    pub fn is_flood(&self) -> bool {
        self.0.get()
    }
}

/// A connection whose frames are charged.
#[derive(Debug)]
pub struct Metered<S> {
    stream: S,
    frames: Frames,
    budget: Budget,
    /// Frames of this turn.
    turn: u32,
    /// Bytes that were sent and have earned nothing yet.
    sent: u64,
    verdict: Verdict,
}

impl<S> Metered<S> {
    /// Meters a connection from its first byte on.
    #[must_use]
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            frames: Frames::new(),
            budget: Budget::new(Instant::now()),
            turn: 0,
            sent: 0,
            verdict: Verdict::default(),
        }
    }

    /// What is found of it.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.verdict.clone()
    }

    fn count(&mut self, bytes: &[u8]) {
        let Self { frames, budget, turn, sent, verdict, .. } = self;
        let earned = *sent / BYTES_SENT;
        *sent %= BYTES_SENT;
        budget.take(-(earned as i64), Instant::now);
        frames.walk(bytes, |kind, flags, length| {
            let cost = cost(kind, flags, length);
            *turn += u32::from(cost > 0 || kind == HEADERS);
            if !budget.take(cost, Instant::now) {
                verdict.0.set(true);
            }
        });
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.turn >= FRAMES_PER_TURN || self.verdict.is_flood() {
            self.turn = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if read.is_pending() {
            self.turn = 0;
        }
        ready!(read)?;
        self.count(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, data))?;
        self.sent += written as u64;
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, data))?;
        self.sent += written as u64;
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const PING: u8 = 6;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = (payload as u32).to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        frame.resize(HEAD_BYTES + payload, 0x55);
        frame
    }

    #[test]
    fn frames_are_found_however_the_bytes_are_cut() {
        let sent = [(SETTINGS, 0, 6), (HEADERS, 4, 300), (DATA, 0, 0), (DATA, 1, 70_000), (PING, 0, 8), (DATA, 1, 0)];
        let mut bytes = vec![b'P'; PREFACE_BYTES];
        sent.iter().for_each(|&(kind, flags, length)| bytes.extend(frame(kind, flags, length)));
        for piece in [1, 2, 7, 9, 10, 4096, bytes.len()] {
            let (mut frames, mut found) = (Frames::new(), Vec::new());
            bytes.chunks(piece).for_each(|piece| frames.walk(piece, |a, b, c| found.push((a, b, c))));
            assert_eq!(found, sent, "in pieces of {piece}");
        }
    }

    #[test]
    fn what_carries_nothing_costs_and_what_carries_something_earns() {
        assert!(cost(DATA, 0, 0) > 0 && cost(DATA, PADDED, 9) > 0 && cost(PING, 0, 8) > 0 && cost(99, 0, 0) > 0);
        assert!(cost(DATA, 0, 1) < 0 && cost(DATA, END_STREAM, 0) < 0 && cost(DATA, PADDED, 5000) < 0);
        assert!(cost(HEADERS, 4, 40) + cost(RST_STREAM, 0, 4) > 0, "calls that are reset are a flood");
    }

    #[test]
    fn a_budget_is_spent_comes_back_and_is_earned() {
        let begin = Instant::now();
        let mut budget = Budget::new(begin);
        assert!((0..BUDGET).all(|_| budget.take(1, || begin)));
        assert!(!budget.take(1, || begin), "all is spent");
        // So many a second are never too many.
        let mut budget = Budget::new(begin);
        for n in 0..60 * PER_SECOND as u64 {
            let now = begin + Duration::from_secs_f64(n as f64 / PER_SECOND);
            assert!(budget.take(1, || now), "the {n}th");
        }
        // Nor are any that come with records.
        let mut budget = Budget::new(begin);
        assert!((0..100_000).all(|_| budget.take(-1, || begin) && budget.take(1, || begin)));
    }
}
