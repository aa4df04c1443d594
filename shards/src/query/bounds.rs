//! What a query may take: it ends at its deadline, and when nobody waits for it any more.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Instant,
};

use super::QueryError;
use crate::memory::Meter;

/// Tells a query on another thread that nobody waits for it. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Tells it.
    pub fn cancel(&self) {
        self.0.store(true, Relaxed);
    }

    /// Whether it was told.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Relaxed)
    }

    /// Whoever waits holds the guard: when it is dropped, nobody waits.
    #[must_use]
    pub fn on_drop(&self) -> CancelOnDrop {
        CancelOnDrop(self.clone())
    }
}

/// See [`Cancel::on_drop`].
#[derive(Debug)]
pub struct CancelOnDrop(Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// The bounds of one query.
#[derive(Debug, Clone, Default)]
pub struct Bounds {
    /// When it ends, done or not; `None`: never.
    pub deadline: Option<Instant>,
    /// Ends it at once.
    pub cancel: Cancel,
    /// What it may hold.
    pub meter: Meter,
}

impl Bounds {
    /// Looked at between batches, steps and files.
    ///
    /// # Errors
    /// `Cancelled` or `TimedOut`: the query is to end.
    pub fn check(&self) -> Result<(), QueryError> {
        if self.cancel.is_cancelled() {
            return Err(QueryError::Cancelled);
        }
        match self.deadline {
            Some(deadline) if Instant::now() >= deadline => Err(QueryError::TimedOut),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_ends_at_its_deadline_and_when_nobody_waits() {
        let bounds = Bounds::default();
        assert!(bounds.check().is_ok());
        let late = Bounds { deadline: Some(Instant::now()), ..Bounds::default() };
        assert!(matches!(late.check(), Err(QueryError::TimedOut)));
        drop(bounds.cancel.on_drop());
        assert!(matches!(bounds.check(), Err(QueryError::Cancelled)));
    }
}
