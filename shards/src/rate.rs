//! Rate limits: what is limited, and the counting of it. A client is a principal's id.
//!
//! The counter is the well-known sliding window counter (described for instance by Cloudflare, "How we built rate limiting
//! capable of scaling to millions of domains", 2017): two fixed windows, of which the earlier counts by the part of it that
//! still lies within one length of now. What is ingested is counted by leases ([`budget`]); calls that go to control anyway
//! are counted there.

pub mod budget;

use std::{sync::Arc, time::Duration};

/// The length of the window that rates a second are counted in, in µs.
pub const WINDOW_MICROS: u64 = 1_000_000;
/// For how long a lease is meant to last, in µs: a tenth of a window.
pub const SLICE_MICROS: u64 = 100_000;

/// What is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Category {
    /// Records ingested.
    IngestRecords,
    /// Bytes of requests with records.
    IngestBytes,
    /// Queries.
    Query,
    /// REST and `AdminService` calls.
    Admin,
    /// Failed authentications of a peer address.
    AuthFailures,
}

impl Category {
    /// Every category.
    pub const ALL: [Self; 5] = [Self::IngestRecords, Self::IngestBytes, Self::Query, Self::Admin, Self::AuthFailures];

    /// Its name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::IngestRecords => "ingest_records",
            Self::IngestBytes => "ingest_bytes",
            Self::Query => "query",
            Self::Admin => "admin",
            Self::AuthFailures => "auth_failures",
        }
    }

    /// What is counted, and the setting that limits it, for a message.
    const fn unit(self) -> (&'static str, &'static str) {
        match self {
            Self::IngestRecords => ("records a second", "rate.ingest_records_per_second"),
            Self::IngestBytes => ("bytes a second", "rate.ingest_bytes_per_second"),
            Self::Query => ("queries a second", "rate.queries_per_second"),
            Self::Admin => ("admin calls a second", "rate.admin_per_second"),
            Self::AuthFailures => ("failed authentications a minute", "rate.auth_failures_per_minute"),
        }
    }

    /// Its place in [`Category::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// The limits of every client; 0: none. Published with the catalog, so that they can change while the server runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RateLimits {
    /// Records a second.
    pub ingest_records_per_second: u64,
    /// Bytes of requests with records a second.
    pub ingest_bytes_per_second: u64,
    /// Queries a second.
    pub queries_per_second: u64,
    /// REST and `AdminService` calls a second.
    pub admin_per_second: u64,
    /// Failed authentications of a peer address a minute.
    pub auth_failures_per_minute: u64,
}

impl RateLimits {
    /// The limit of a category; 0: none.
    #[must_use]
    pub const fn of(&self, category: Category) -> u64 {
        match category {
            Category::IngestRecords => self.ingest_records_per_second,
            Category::IngestBytes => self.ingest_bytes_per_second,
            Category::Query => self.queries_per_second,
            Category::Admin => self.admin_per_second,
            Category::AuthFailures => self.auth_failures_per_minute,
        }
    }
}

/// Over a limit: nothing was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("over the limit of {limit} {} ({})", category.unit().0, category.unit().1)]
pub struct RateLimited {
    /// Of what.
    pub category: Category,
    /// The limit.
    pub limit: u64,
    /// When to try again.
    pub retry_after: Duration,
}

/// A shard's request for permits of one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseAsk {
    /// The client.
    pub client: Arc<str>,
    /// Of what.
    pub category: Category,
    /// How many are wanted; those that were used ahead of a lease are among them.
    pub want: u64,
    /// How many of earlier grants were not used and go back.
    pub unused: u64,
}

/// The answer to a [`LeaseAsk`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseGrant {
    /// The client.
    pub client: Arc<str>,
    /// Of what.
    pub category: Category,
    /// How many are granted.
    pub permits: u64,
    /// Whether they are fewer than wanted: the client is at its limit.
    pub short: bool,
}

/// A sliding window counter. Times are µs of any clock that only goes on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SlidingWindow {
    /// Which window `current` counts.
    number: u64,
    current: u64,
    previous: u64,
}

impl SlidingWindow {
    /// A counter as another keeper has it: its two counts in the window that holds `now`.
    #[must_use]
    pub fn with_counts(now: u64, current: u64, previous: u64) -> Self {
        Self { number: now / WINDOW_MICROS, current, previous }
    }

    fn advance(&mut self, now: u64) {
        let number = now / WINDOW_MICROS;
        if number <= self.number {
            return;
        }
        self.previous = if number == self.number + 1 { self.current } else { 0 };
        self.current = 0;
        self.number = number;
    }

    /// How much was counted within one length before `now`, rounded up.
    pub fn used(&mut self, now: u64) -> u64 {
        self.advance(now);
        let left = u128::from(WINDOW_MICROS - now.max(self.number * WINDOW_MICROS) % WINDOW_MICROS);
        let previous = (u128::from(self.previous) * left).div_ceil(u128::from(WINDOW_MICROS));
        self.current.saturating_add(u64::try_from(previous).unwrap_or(u64::MAX))
    }

    /// How much may still be counted now under `limit`.
    pub fn free(&mut self, limit: u64, now: u64) -> u64 {
        limit.saturating_sub(self.used(now))
    }

    /// Counts `n`.
    pub fn add(&mut self, n: u64, now: u64) {
        self.advance(now);
        self.current = self.current.saturating_add(n);
    }

    /// Takes back `n` that were counted lately.
    pub fn give_back(&mut self, n: u64, now: u64) {
        self.advance(now);
        let of_current = n.min(self.current);
        self.current -= of_current;
        self.previous = self.previous.saturating_sub(n - of_current);
    }

    /// Until one more fits under `limit`, in µs, if nothing else is counted meanwhile.
    pub fn wait(&mut self, limit: u64, now: u64) -> u64 {
        if self.free(limit, now) > 0 {
            return 0;
        }
        let passed = now % WINDOW_MICROS;
        // When a count that is in the earlier window has faded to `room`, in µs from the later window's begin.
        let fades = |count: u64, room: u64| {
            let kept = u128::from(WINDOW_MICROS) * u128::from(room) / u128::from(count.max(1));
            WINDOW_MICROS.saturating_sub(u64::try_from(kept).unwrap_or(WINDOW_MICROS))
        };
        match limit.checked_sub(self.current.saturating_add(1)) {
            Some(room) => fades(self.previous, room).saturating_sub(passed).max(1),
            None => WINDOW_MICROS - passed + fades(self.current, limit.saturating_sub(1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earlier_window_counts_by_what_lies_within_reach() {
        let mut window = SlidingWindow::default();
        window.add(100, 5_000_000);
        assert_eq!(window.used(5_999_999), 100);
        assert_eq!(window.used(6_250_000), 75);
        window.add(10, 6_250_000);
        assert_eq!((window.used(6_250_000), window.free(100, 6_250_000)), (85, 15));
        assert_eq!(window.used(7_500_000), 5);
        assert_eq!(window.used(9_000_000), 0, "two lengths later nothing is left");
    }

    #[test]
    fn whoever_waits_as_told_fits_in_and_not_long_before() {
        for (limit, counts) in [(5, vec![(0, 5)]), (5, vec![(990_000, 5)]), (100, vec![(300_000, 60), (1_100_000, 58)])]
        {
            let mut window = SlidingWindow::default();
            let mut now = 0;
            for (at, n) in counts {
                now = at;
                window.add(n, at);
            }
            let wait = window.wait(limit, now);
            assert!(wait > 0 && wait <= 2 * WINDOW_MICROS, "{wait}");
            assert_eq!(window.clone().free(limit, now + wait - 2), 0);
            assert!(window.free(limit, now + wait) >= 1, "limit {limit}: {window:?} after {wait}");
        }
    }

    #[test]
    fn what_is_given_back_may_be_of_the_earlier_window() {
        let mut window = SlidingWindow::default();
        window.add(50, 900_000);
        window.add(10, 1_000_000);
        window.give_back(20, 1_000_000);
        assert_eq!(window.used(1_000_000), 40);
        window.give_back(1000, 1_000_000);
        assert_eq!(window.used(1_000_000), 0);
    }
}
