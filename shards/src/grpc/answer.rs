//! The answer to a query, sent as its client takes it. What it holds is memory that others may want, so a client that does not
//! take it is ended.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use compio_runtime::time;
use futures_util::future;
use h2::SendStream;

use super::{
    framing::put_message,
    status::{Code, Status},
};
use crate::memory::{Held, Patience, TooSlow, held_bytes};

/// How often a client that takes nothing is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// An answer, ready to be sent.
#[derive(Debug)]
pub struct Answer {
    /// Holds its memory until the last of it is gone.
    message: Bytes,
    patience: Patience,
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

    /// Sends it to its end, or to the end of the client's time.
    pub async fn send(self, mut send: SendStream<Bytes>) {
        let Self { message: mut rest, mut patience } = self;
        let whole = rest.len();
        while !rest.is_empty() {
            if let Some(reason) = patience.is_over(Instant::now()) {
                tracing::debug!(%reason, sent = whole - rest.len(), of = whole, "a query's client was ended");
                return give_up(send, reason, rest.len() < whole);
            }
            send.reserve_capacity(rest.len());
            let mut room = send.capacity();
            if room == 0 {
                match time::timeout(LOOK, future::poll_fn(|cx| send.poll_capacity(cx))).await {
                    Ok(Some(Ok(capacity))) => room = capacity,
                    // The client is gone: there is nobody to tell.
                    Ok(Some(Err(_)) | None) => return,
                    Err(_) => continue,
                }
            }
            let part = rest.split_to(room.min(rest.len()));
            if part.is_empty() {
                continue;
            }
            patience.took(part.len(), Instant::now());
            if send.send_data(part, false).is_err() {
                return;
            }
        }
        let _ = send.send_trailers(Status::ok().to_trailers());
    }
}

/// Ends a call whose message may be sent in part.
fn give_up(mut send: SendStream<Bytes>, reason: TooSlow, is_begun: bool) {
    if is_begun {
        // What gRPC takes for RESOURCE_EXHAUSTED.
        send.send_reset(h2::Reason::ENHANCE_YOUR_CALM);
    } else {
        let status = Status::new(Code::ResourceExhausted, "ANSWER_NOT_TAKEN", reason.to_string());
        let _ = send.send_trailers(status.to_trailers());
    }
}
