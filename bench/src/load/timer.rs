//! A timer of ns, not of ms as the runtime's own: open-loop sends must not be late by the generator's fault.

use std::{
    io,
    os::fd::OwnedFd,
    task::{Context, Poll},
    time::Duration,
};

use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use tokio::io::unix::AsyncFd;

/// A one-shot timer. Arming it anew is what resets it, so its count is never read.
#[derive(Debug)]
pub struct Timer {
    fd: AsyncFd<OwnedFd>,
    armed_ns: Option<u64>,
}

impl Timer {
    /// A timer that is not armed. Needs a runtime.
    ///
    /// # Errors
    /// The system has no descriptor for it.
    pub fn new() -> io::Result<Self> {
        let fd =
            rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        #[expect(
            deprecated,
            reason = "an OwnedFd is always the same open descriptor, and what replaces this is unsafe"
        )]
        let fd = AsyncFd::new(fd)?;
        Ok(Self { fd, armed_ns: None })
    }

    /// Wakes the task of the last [`Timer::poll`] at `at_ns`, where it is `now_ns` now; `None`: never.
    ///
    /// # Errors
    /// What the system said.
    pub fn arm(&mut self, at_ns: Option<u64>, now_ns: u64) -> io::Result<()> {
        if self.armed_ns == at_ns {
            return Ok(());
        }
        self.armed_ns = at_ns;
        // Zero would disarm it.
        let after = at_ns.map_or(Duration::ZERO, |at| Duration::from_nanos(at.saturating_sub(now_ns).max(1)));
        let it_value = Timespec { tv_sec: after.as_secs() as i64, tv_nsec: i64::from(after.subsec_nanos()) };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
        rustix::time::timerfd_settime(&self.fd, TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }

    /// Takes note of an expiry, and registers for the next.
    ///
    /// # Errors
    /// The runtime is going down.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while let Poll::Ready(guard) = self.fd.poll_read_ready(cx) {
            guard?.clear_ready();
            self.armed_ns = None;
        }
        Ok(())
    }
}
