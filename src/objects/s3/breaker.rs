//! Whether it is worth asking the store: after some failures in a row nobody asks for a while, then one request tries.
//!
//! So an outage costs each caller no time, and the store, when it is back, one request at first.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use prometheus_client::metrics::gauge::Gauge;

/// Failures in a row that open it.
const FAILURES: u32 = 5;
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// The breaker of one store.
#[derive(Debug)]
pub(super) struct Breaker {
    state: Mutex<State>,
    open: Gauge,
}

#[derive(Debug, Default)]
struct State {
    failures: u32,
    /// Nobody asks before this time.
    closed_until: Option<Instant>,
    pause: Duration,
    /// A request is under way that will tell.
    trying: bool,
    reason: String,
}

/// Leave to ask once. Dropped without a verdict, nothing is known of the store.
#[derive(Debug)]
pub(super) struct Leave<'a> {
    breaker: &'a Breaker,
    trial: bool,
}

impl Breaker {
    pub(super) fn new(open: Gauge) -> Self {
        Self { state: Mutex::default(), open }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leave to ask, or why not.
    pub(super) fn admit(&self) -> Result<Leave<'_>, String> {
        let mut state = self.state();
        let Some(until) = state.closed_until else { return Ok(Leave { breaker: self, trial: false }) };
        let left = until.saturating_duration_since(Instant::now());
        if state.trying || !left.is_zero() {
            return Err(format!("it failed {} times in a row, the last time so: {}", state.failures, state.reason));
        }
        state.trying = true;
        Ok(Leave { breaker: self, trial: true })
    }
}

impl Leave<'_> {
    /// The store answered.
    pub(super) fn succeeded(self) {
        let mut state = self.breaker.state();
        if state.closed_until.is_some() {
            tracing::info!(failures = state.failures, "the object store answers again");
        }
        *state = State { trying: state.trying, ..State::default() };
        self.breaker.open.set(0);
    }

    /// It did not, or failed.
    pub(super) fn failed(self, reason: &str) {
        let mut state = self.breaker.state();
        state.failures = state.failures.saturating_add(1);
        reason.clone_into(&mut state.reason);
        let opens = state.closed_until.is_none() && state.failures >= FAILURES;
        if opens || self.trial {
            state.pause = if opens { PAUSE_MIN } else { (state.pause * 2).min(PAUSE_MAX) };
            state.closed_until = Some(Instant::now() + state.pause);
        }
        if opens {
            tracing::warn!(%reason, failures = state.failures, "the object store fails: it is asked seldom until it is back");
            self.breaker.open.set(1);
        }
    }
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        if self.trial {
            self.breaker.state().trying = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fail(breaker: &Breaker, times: u32) {
        for _ in 0..times {
            breaker.admit().expect("leave").failed("down");
        }
    }

    /// As if the pause were over.
    fn pause_over(breaker: &Breaker) {
        breaker.state().closed_until = Some(Instant::now());
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_one_request_tries() {
        let breaker = Breaker::new(Gauge::default());
        fail(&breaker, FAILURES - 1);
        breaker.admit().expect("leave").succeeded();
        fail(&breaker, FAILURES);
        assert_eq!(breaker.open.get(), 1);
        let reason = breaker.admit().expect_err("open");
        assert!(reason.contains("down"), "{reason}");
        pause_over(&breaker);
        let trial = breaker.admit().expect("one tries");
        assert!(breaker.admit().is_err(), "and no other");
        trial.failed("still down");
        assert!(breaker.admit().expect_err("open").contains("still down"));
        assert_eq!(breaker.state().pause, PAUSE_MIN * 2);
        pause_over(&breaker);
        breaker.admit().expect("one tries").succeeded();
        assert_eq!(breaker.open.get(), 0);
        fail(&breaker, FAILURES - 1);
        drop(breaker.admit().expect("it counts anew"));
    }

    #[test]
    fn a_trial_that_was_given_up_lets_another_try() {
        let breaker = Breaker::new(Gauge::default());
        fail(&breaker, FAILURES);
        pause_over(&breaker);
        drop(breaker.admit().expect("one tries"));
        drop(breaker.admit().expect("another tries"));
        // A request from before it opened says nothing about the trial.
        let early = Leave { breaker: &breaker, trial: false };
        let trial = breaker.admit().expect("one tries");
        early.failed("late");
        assert!(breaker.admit().is_err());
        trial.succeeded();
        assert!(breaker.admit().is_ok());
    }
}
