//! A waker that does not wake its task while that task runs: the task looks at a flag and goes round once more instead.
//!
//! h2 wakes the connection whenever a call has something to send. Connection and calls are one task here, so each such wake-up
//! would cost a turn of the runtime for nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Wake, Waker},
};

use futures_util::task::AtomicWaker;

/// See the module's comment.
#[derive(Debug, Default)]
pub struct Relay {
    task: AtomicWaker,
    running: AtomicBool,
    woken: AtomicBool,
}

impl Relay {
    /// The task begins a poll.
    pub fn enter(&self, task: &Waker) {
        self.task.register(task);
        self.running.store(true, Ordering::SeqCst);
    }

    /// Whether someone woke it since this was last asked.
    pub fn take(&self) -> bool {
        self.woken.swap(false, Ordering::SeqCst)
    }

    /// The task ends its poll; what woke it since [`Relay::take`] wakes it again.
    pub fn leave(&self) {
        self.running.store(false, Ordering::SeqCst);
        if self.woken.load(Ordering::SeqCst) {
            self.task.wake();
        }
    }
}

impl Wake for Relay {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::SeqCst);
        if !self.running.load(Ordering::SeqCst) {
            self.task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicU64);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn no_wake_is_lost_and_none_goes_out_while_running() {
        let count = Arc::new(Count::default());
        let task = Waker::from(count.clone());
        let relay = Arc::new(Relay::default());
        let waker = Waker::from(relay.clone());
        relay.enter(&task);
        waker.wake_by_ref();
        assert_eq!(count.0.load(Ordering::SeqCst), 0);
        assert!(relay.take() && !relay.take());
        relay.leave();
        assert_eq!(count.0.load(Ordering::SeqCst), 0);
        waker.wake_by_ref();
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        relay.enter(&task);
        relay.take();
        waker.wake_by_ref();
        relay.leave();
        assert_eq!(count.0.load(Ordering::SeqCst), 2);
    }
}
