//! Signals that end the server: the first drains it, the second ends it at once.

use std::{io, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::Instant,
};

use crate::telemetry;

/// `timeout`, a terminal and process managers signal both a process and its group: what comes this soon after the first is
/// the same wish.
const SAME_WISH: Duration = Duration::from_secs(1);

/// SIGTERM and SIGINT.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn install() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next of either that is not an echo of the one at `first`.
    pub(super) async fn next_after(&mut self, first: Instant) {
        loop {
            self.next().await;
            if first.elapsed() >= SAME_WISH {
                return;
            }
        }
    }

    /// Waits for the next of either.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// The crash path: what was acked is in the log.
pub(super) fn exit_at_once() -> ! {
    tracing::warn!("ended at once by a signal; what was acked is in the log");
    telemetry::flush();
    std::process::exit(130)
}
