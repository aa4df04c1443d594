//! A shard's queue, and the wake-up that goes with it: one eventfd a shard, written once for a burst of messages.
//!
//! Invariant: a message that is in a queue is seen. The sender queues, then raises the flag and writes the eventfd if the flag
//! was down; the shard lowers the flag before it empties the queues.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use compio_runtime::fd::PollFd;
use crossbeam_queue::{ArrayQueue, SegQueue};
use rustix::event::{EventfdFlags, eventfd};

use crate::message::{Submission, ToShard};

/// Requests that can wait for a shard.
const REQUESTS_MAX: usize = 4096;
/// Bytes of records that can wait for a shard; one request more may be on top of them.
const RECORD_BYTES_MAX: usize = 64 << 20;

#[derive(Debug)]
struct Shared {
    /// What may be refused.
    requests: ArrayQueue<ToShard>,
    /// What is bounded by what the shard itself has asked for, and so is never refused.
    replies: SegQueue<ToShard>,
    /// Of the records in `requests`.
    record_bytes: AtomicUsize,
    notified: AtomicBool,
    event: OwnedFd,
}

/// The sending end; one for every thread that sends.
#[derive(Debug, Clone)]
pub struct MailboxSender(Arc<Shared>);

impl MailboxSender {
    /// Queues a message for the shard.
    ///
    /// # Errors
    /// The message, if it may be refused and the queue is full.
    #[allow(clippy::result_large_err, reason = "what was not taken goes back by value, and rarely")]
    pub fn send(&self, message: ToShard) -> Result<(), ToShard> {
        match message {
            ToShard::Outcome(..)
            | ToShard::Answer(..)
            | ToShard::Admin(..)
            | ToShard::Following(..)
            | ToShard::TailOpened(..)
            | ToShard::TailPage(..)
            | ToShard::Leases(_)
            | ToShard::Segment(_)
            | ToShard::Keys(_)
            | ToShard::KeysDone(_) => self.0.replies.push(message),
            ToShard::Submit(submission) => self.queue_records(submission)?,
            request => self.0.requests.push(request)?,
        }
        if !self.0.notified.swap(true, Ordering::AcqRel) {
            // An eventfd's counter cannot overflow here: it is written once for each time that the shard reads it.
            let written = rustix::io::write(&self.0.event, &1u64.to_ne_bytes());
            assert!(written.is_ok(), "an eventfd takes a write: {written:?}");
        }
        Ok(())
    }
}

impl MailboxSender {
    #[allow(clippy::result_large_err, reason = "what was not taken goes back by value, and rarely")]
    fn queue_records(&self, submission: Submission) -> Result<(), ToShard> {
        let bytes = submission.record_bytes();
        if self.0.record_bytes.fetch_add(bytes, Ordering::Relaxed) > RECORD_BYTES_MAX {
            self.0.record_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(ToShard::Submit(submission));
        }
        let queued = self.0.requests.push(ToShard::Submit(submission));
        if queued.is_err() {
            self.0.record_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        queued
    }
}

/// The receiving end, on the shard's thread.
#[derive(Debug)]
pub struct Mailbox {
    shared: Arc<Shared>,
    readiness: PollFd<OwnedFd>,
}

/// A new queue; [`MailboxSender`] is for others, and the descriptor goes to [`Mailbox::new`] on the shard's thread.
///
/// # Errors
/// No descriptor is left.
pub fn channel() -> io::Result<MailboxSender> {
    let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let requests = ArrayQueue::new(REQUESTS_MAX);
    let (replies, record_bytes, notified) = (SegQueue::new(), AtomicUsize::new(0), AtomicBool::new(false));
    Ok(MailboxSender(Arc::new(Shared { requests, replies, record_bytes, notified, event })))
}

impl Mailbox {
    /// The receiving end of `sender`. Must be made inside the shard's runtime, and once.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new(sender: &MailboxSender) -> io::Result<Self> {
        let event = sender.0.event.as_fd().try_clone_to_owned()?;
        Ok(Self { shared: Arc::clone(&sender.0), readiness: PollFd::new(event)? })
    }

    /// Waits until there are messages, and lowers the flag: empty the queue with [`Mailbox::pop`] after it.
    ///
    /// # Errors
    /// The eventfd cannot be waited for.
    pub async fn ready(&self) -> io::Result<()> {
        self.readiness.read_ready().await?;
        let mut count = [0u8; 8];
        match rustix::io::read(&self.shared.event, &mut count) {
            Ok(_) | Err(rustix::io::Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
        // A swap, not a store: it takes up what every sender did before it found the flag raised.
        self.shared.notified.swap(false, Ordering::AcqRel);
        Ok(())
    }

    /// The next message: replies before requests.
    #[must_use]
    pub fn pop(&self) -> Option<ToShard> {
        let message = self.shared.replies.pop().or_else(|| self.shared.requests.pop());
        if let Some(ToShard::Submit(submission)) = &message {
            self.shared.record_bytes.fetch_sub(submission.record_bytes(), Ordering::Relaxed);
        }
        message
    }

    /// How many messages wait.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.shared.replies.len() + self.shared.requests.len()
    }
}
