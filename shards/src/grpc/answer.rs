//! The answer to a query, sent as its client takes it. What it holds is memory that others may want, so a client that does not
//! take it is ended: also one that stopped when all of it had been handed to HTTP/2, which knows no such bound.
//!
//! Taken is what has left HTTP/2 for the socket: it is handed over in parts, and each tells when it is let go of.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::Poll,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use compio_runtime::time;
use futures_util::{future, task::AtomicWaker};
use h2::SendStream;

use super::{
    framing::put_message,
    line::Line,
    status::{Code, Status},
};
use crate::memory::{Held, Patience, TooSlow, held_bytes};

/// How often a client that takes nothing is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// Bytes that are handed over at a time.
const PART_BYTES: usize = 64 << 10;
/// After a call was ended its frame that is being written has so long to leave; else the connection is ended too.
const LAST_FRAME_TIMEOUT: Duration = Duration::from_secs(1);

/// An answer, ready to be sent.
#[derive(Debug)]
pub struct Answer {
    /// Holds its memory until the last of it is gone.
    message: Bytes,
    patience: Patience,
}

/// How much of an answer is let go of.
#[derive(Debug, Default)]
struct Gone {
    bytes: AtomicUsize,
    waker: AtomicWaker,
}

/// Bytes of an answer that tell when they are.
struct Part {
    bytes: Bytes,
    gone: Arc<Gone>,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.gone.bytes.fetch_add(self.bytes.len(), Relaxed);
        // What they hold goes before anybody looks.
        self.bytes.clear();
        self.gone.waker.wake();
    }
}

impl Answer {
    /// Of this message, which holds `held`.
    #[must_use]
    pub fn new(message: impl prost::Message, held: Held) -> Self {
        let patience = held.patience();
        let mut out = BytesMut::new();
        put_message(&mut out, &message);
        // Once is enough.
        drop(message);
        Self { message: held_bytes(out.into(), held), patience }
    }

    /// Of a message as it goes over the wire, which holds nothing else.
    #[must_use]
    pub fn framed(message: Bytes) -> Self {
        Self { message, patience: Held::default().patience() }
    }

    /// Sends it to its end, or to the end of the client's time.
    pub async fn send(self, send: SendStream<Bytes>, line: &Line) {
        let Self { message, mut patience } = self;
        let mut sending = Sending {
            send,
            whole: message.len(),
            rest: message,
            gone: Arc::default(),
            taken: 0,
            is_trailed: false,
            is_over: false,
        };
        loop {
            let now = Instant::now();
            sending.count(&mut patience, now);
            if sending.is_over {
                return;
            }
            if let Some(reason) = patience.is_over(now) {
                return sending.give_up(reason, &patience, line).await;
            }
            sending.hand_over();
            // Whether there was news or not: the next look tells.
            let _ = time::timeout(LOOK, sending.news()).await;
        }
    }
}

/// An answer that is being sent. Dropped before its end, it is reset.
struct Sending {
    send: SendStream<Bytes>,
    whole: usize,
    /// What is not handed over yet.
    rest: Bytes,
    gone: Arc<Gone>,
    /// Bytes that are gone and counted.
    taken: usize,
    /// Trailers are handed over too.
    is_trailed: bool,
    /// It is sent, or the client is gone: there is nobody to tell.
    is_over: bool,
}

impl Drop for Sending {
    fn drop(&mut self) {
        if !self.is_over {
            self.send.send_reset(h2::Reason::CANCEL);
        }
    }
}

impl Sending {
    fn count(&mut self, patience: &mut Patience, now: Instant) {
        let gone = self.gone.bytes.load(Relaxed);
        if gone > self.taken {
            patience.took(gone - self.taken, now);
            self.taken = gone;
        }
        self.is_over |= self.is_trailed && self.taken == self.whole;
    }

    /// Hands over what HTTP/2 has room for.
    fn hand_over(&mut self) {
        while !self.rest.is_empty() {
            self.send.reserve_capacity(self.rest.len());
            let room = self.send.capacity().min(PART_BYTES).min(self.rest.len());
            if room == 0 {
                return;
            }
            let part = Part { bytes: self.rest.split_to(room), gone: Arc::clone(&self.gone) };
            if self.send.send_data(Bytes::from_owner(part), false).is_err() {
                self.is_over = true;
                return;
            }
        }
        if !std::mem::replace(&mut self.is_trailed, true) {
            self.is_over = self.send.send_trailers(Status::ok().to_trailers()).is_err();
        }
    }

    /// Waits until there is room for more, or a part is gone, or the client.
    async fn news(&mut self) {
        future::poll_fn(|cx| {
            self.gone.waker.register(cx.waker());
            if self.is_over || self.gone.bytes.load(Relaxed) > self.taken {
                return Poll::Ready(());
            }
            if self.rest.is_empty() {
                return Poll::Pending;
            }
            self.send.poll_capacity(cx).map(|room| self.is_over = !matches!(room, Some(Ok(_))))
        })
        .await;
    }

    /// Ends a call whose message may be sent in part. Where the socket does not even take the frame that is being written, the
    /// answer stays in it, and the connection is of no use to other calls either.
    async fn give_up(mut self, reason: TooSlow, patience: &Patience, line: &Line) {
        tracing::debug!(%reason, sent = self.taken, of = self.whole, "a query's client was ended");
        self.is_over = true;
        let handed_over = self.whole - self.rest.len();
        if handed_over == 0 {
            let status = Status::new(Code::ResourceExhausted, "ANSWER_NOT_TAKEN", reason.to_string());
            let _ = self.send.send_trailers(status.to_trailers());
            return;
        }
        // What gRPC takes for RESOURCE_EXHAUSTED.
        self.send.send_reset(h2::Reason::ENHANCE_YOUR_CALM);
        self.rest.clear();
        let all_gone = future::poll_fn(|cx| {
            self.gone.waker.register(cx.waker());
            if self.gone.bytes.load(Relaxed) == handed_over { Poll::Ready(()) } else { Poll::Pending }
        });
        if time::timeout(LAST_FRAME_TIMEOUT, all_gone).await.is_err() && patience.has_cause() {
            tracing::debug!("its connection takes nothing: closed");
            line.cut();
        }
    }
}
