//! One connection with its calls, as one task: read, send, flush, in one turn.

use std::{
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use h2::client::Connection;
use tokio::net::TcpStream;

use super::{call::Call, relay::Relay, shared::Shared, timer::Timer, unary::UnaryCalls};

/// Turns in one poll before others get theirs.
const TURNS_MAX: usize = 16;

/// What goes over a connection.
#[derive(Debug)]
pub enum Work {
    /// Bidirectional calls.
    Calls(Vec<Call>),
    /// Unary calls.
    Unary(Box<UnaryCalls>),
}

/// See the module's comment. Ends when its work has ended, the connection broke, or the run is over.
#[derive(Debug)]
pub struct Driver {
    connection: Connection<TcpStream, Bytes>,
    work: Work,
    timer: Timer,
    shared: Rc<Shared>,
    relay: Arc<Relay>,
    waker: Waker,
}

impl Driver {
    /// The driver of `connection`.
    #[must_use]
    pub fn new(connection: Connection<TcpStream, Bytes>, work: Work, timer: Timer, shared: Rc<Shared>) -> Self {
        let relay = Arc::new(Relay::default());
        let waker = Waker::from(relay.clone());
        shared.watch(waker.clone());
        Self { connection, work, timer, shared, relay, waker }
    }

    /// One turn. Whether all is over.
    fn turn(&mut self, cx: &mut Context<'_>) -> bool {
        // An error of the timer can only come of a runtime that goes down.
        let timer = self.timer.poll(cx);
        let connection = Pin::new(&mut self.connection).poll(cx);
        let over = match &mut self.work {
            Work::Calls(calls) => {
                // Each must be polled: no short circuit.
                calls.retain_mut(|call| !call.poll(cx, &self.shared));
                calls.is_empty()
            }
            Work::Unary(unary) => unary.poll(cx, &self.shared),
        };
        if over || timer.is_err() {
            return true;
        }
        // A connection that ended gave its error to each call, except to those that had not begun.
        connection.is_ready() || self.shared.is_over()
    }

    fn abandon(&mut self) {
        match &mut self.work {
            Work::Calls(calls) => calls.iter_mut().for_each(|call| call.abandon(&self.shared)),
            Work::Unary(unary) => unary.abandon(&self.shared),
        }
    }

    fn arm(&mut self) -> std::io::Result<()> {
        let now_ns = self.shared.now_ns();
        let next = match &self.work {
            Work::Calls(calls) => calls.iter().filter_map(|call| call.wake_ns(now_ns)).min(),
            Work::Unary(unary) => unary.wake_ns(now_ns),
        };
        self.timer.arm(next, now_ns)
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let relay = this.relay.clone();
        relay.enter(cx.waker());
        let waker = this.waker.clone();
        let mut inner = Context::from_waker(&waker);
        for _ in 0..TURNS_MAX {
            relay.take();
            if this.turn(&mut inner) {
                this.abandon();
                // The end of the calls goes out before the socket closes, if it can at once.
                let _ = Pin::new(&mut this.connection).poll(&mut inner);
                return Poll::Ready(());
            }
            if this.arm().is_err() {
                this.abandon();
                return Poll::Ready(());
            }
            if !relay.take() {
                relay.leave();
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        relay.leave();
        Poll::Pending
    }
}
