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

/// Tells a query on another thread that nobody waits for it, and for how long somebody does. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Cancel {
    is_cancelled: Arc<AtomicBool>,
    until: Option<Instant>,
}

impl Cancel {
    /// Of somebody who waits until then; `None`: for as long as it takes.
    #[must_use]
    pub fn waits_until(until: Option<Instant>) -> Self {
        Self { until, ..Self::default() }
    }

    /// Until when somebody waits.
    #[must_use]
    pub fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Tells it.
    pub fn cancel(&self) {
        self.is_cancelled.store(true, Relaxed);
    }

    /// Whether it was told.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Relaxed)
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
    /// When the page of a time range ends with what it has, if it has gone ahead at all; `None`: when it is full.
    pub page_until: Option<Instant>,
    /// Ends it at once.
    pub cancel: Cancel,
    /// What it may hold.
    pub meter: Meter,
}

impl Bounds {
    /// For work that begins now: a page may take half of the time that is left. The rest is for what is in hand then.
    #[must_use]
    pub fn begun(&self, now: Instant) -> Self {
        let left = |deadline: Instant| deadline.saturating_duration_since(now);
        Self { page_until: self.deadline.map(|deadline| now + left(deadline) / 2), ..self.clone() }
    }

    /// Whether a page that has gone ahead is to end.
    #[must_use]
    pub fn ends_pages(&self) -> bool {
        self.page_until.is_some_and(|until| Instant::now() >= until)
    }

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
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_query_ends_at_its_deadline_and_when_nobody_waits() {
        let bounds = Bounds::default();
        assert!(bounds.check().is_ok());
        let late = Bounds { deadline: Some(Instant::now()), ..Bounds::default() };
        assert!(matches!(late.check(), Err(QueryError::TimedOut)));
        let now = Instant::now();
        let ahead = Bounds { deadline: Some(now + Duration::from_secs(60)), ..Bounds::default() }.begun(now);
        assert_eq!(ahead.page_until, Some(now + Duration::from_secs(30)));
        assert!(!ahead.ends_pages() && late.begun(now).ends_pages() && !bounds.begun(now).ends_pages());
        drop(bounds.cancel.on_drop());
        assert!(matches!(bounds.check(), Err(QueryError::Cancelled)));
    }
}
