//! Jobs that cannot go on now: each gives its place to others and gets another one later, the later the longer it has not got on.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// The shortest and the longest time that a job is let rest at most; each is twice the one before, until the job gets on.
const REST: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// How long a job keeps its place while it waits for what often passes soon.
const PATIENCE: Duration = Duration::from_secs(5);

/// Since when a job gets no further; see [`PATIENCE`].
#[derive(Debug, Default)]
pub(super) struct Patience(Option<Instant>);

impl Patience {
    /// It waits once more: whether that was long enough.
    pub(super) fn is_over(&mut self, now: Instant) -> bool {
        now.duration_since(*self.0.get_or_insert(now)) >= PATIENCE
    }

    /// It got further.
    pub(super) fn renew(&mut self) {
        self.0 = None;
    }
}

/// A job that rests, or that did and has not ended since.
#[derive(Debug)]
struct Rest {
    /// For what; `None`: for nothing that has a name.
    what: Option<String>,
    until: Instant,
    length: Duration,
    /// How many rows it had done then.
    processed: u64,
}

/// The jobs that rest.
#[derive(Debug)]
pub(super) struct Resting {
    since: Instant,
    all: Mutex<HashMap<String, Rest>>,
}

impl Resting {
    /// None, at this moment.
    pub(super) fn new(since: Instant) -> Self {
        Self { since, all: Mutex::default() }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<String, Rest>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A job rests from now on, having done so many rows.
    pub(super) fn begin(&self, id: &str, what: Option<String>, processed: u64, now: Instant) {
        let mut all = self.all();
        let before = all.get(id).filter(|rest| rest.processed >= processed);
        let length = before.map_or(REST.0, |rest| (rest.length * 2).min(REST.1));
        // Those that rest for as long are done at the same moments: a thousand of them are looked at together, not one by one.
        let whole = now.duration_since(self.since).as_micros() / length.as_micros() + 1;
        let until = self.since + Duration::from_micros((whole * length.as_micros()) as u64);
        all.insert(id.to_owned(), Rest { what, until, length, processed });
    }

    /// Whether a job is to be let rest.
    pub(super) fn has(&self, id: &str, now: Instant) -> bool {
        self.all().get(id).is_some_and(|rest| rest.until > now)
    }

    /// What a job waits for that has no place.
    pub(super) fn what(&self, id: &str) -> Option<String> {
        self.all().get(id)?.what.clone()
    }

    /// A job has ended.
    pub(super) fn forget(&self, id: &str) {
        self.all().remove(id);
    }

    /// Forgets all but those.
    pub(super) fn keep(&self, mut wanted: impl FnMut(&str) -> bool) {
        self.all().retain(|id, _| wanted(id));
    }

    /// When the next has rested; `None`: none rests.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        self.all().values().map(|rest| rest.until).filter(|&until| until > now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_grow_until_the_job_gets_on() {
        let start = Instant::now();
        let (resting, mut now) = (Resting::new(start), start);
        let mut lengths = Vec::new();
        for processed in [0, 0, 0, 0, 0, 0, 7, 7] {
            resting.begin("a", Some("rain".into()), processed, now);
            let next = resting.next(now).expect("it rests");
            assert!(resting.has("a", now) && !resting.has("a", next) && !resting.has("b", now));
            lengths.push(next.duration_since(now).as_millis());
            now = next;
        }
        assert_eq!(lengths, [250, 250, 500, 1000, 2000, 1000, 250, 250]);
        assert_eq!((resting.what("a").as_deref(), resting.next(now)), (Some("rain"), None));
        resting.keep(|id| id != "a");
        assert_eq!(resting.what("a"), None);
    }

    #[test]
    fn those_that_rest_for_as_long_are_done_at_the_same_moment() {
        let (start, millis) = (Instant::now(), Duration::from_millis);
        let resting = Resting::new(start);
        resting.begin("a", None, 0, start + millis(1010));
        resting.begin("b", None, 0, start + millis(1190));
        assert_eq!(resting.next(start + millis(1190)), Some(start + millis(1250)));
        assert!(!resting.has("a", start + millis(1250)) && !resting.has("b", start + millis(1250)));
        resting.forget("a");
        resting.forget("b");
        assert_eq!(resting.next(start), None);
    }

    #[test]
    fn patience_is_counted_from_when_it_stopped_getting_on() {
        let (mut patience, start) = (Patience::default(), Instant::now());
        assert!(!patience.is_over(start) && !patience.is_over(start + PATIENCE / 2));
        assert!(patience.is_over(start + PATIENCE));
        patience.renew();
        assert!(!patience.is_over(start + PATIENCE));
    }
}
