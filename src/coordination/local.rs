//! Grants by this process alone: the limits hold over its shards, or, while Redis is gone, for this node.
//!
//! A grant is counted in its client's sliding window when it is made, so that all grants of one window's length are within the
//! limit, whatever becomes of them. What is free is divided by demand: an ask gets the part of it that its want is of what all
//! asked for in a slice. Little is granted whole. The same rules, in the same order, are in the script of
//! [`super::redis`].

use std::{collections::HashMap, sync::Arc};

use ttdust_shards::rate::{Category, LeaseAsk, RateLimits, SLICE_MICROS, SlidingWindow, WINDOW_MICROS};

/// Accounts that are remembered; more share one a category.
const ACCOUNTS_MAX: usize = 50_000;
/// Whose account clients share that are too many.
const CROWD: &str = "(others)";
/// An ask for at most this part of what is free is granted whole.
const WHOLE_PART: u64 = 4;

/// What clients were granted lately.
#[derive(Debug, Default)]
pub struct LocalLedger {
    accounts: HashMap<(Category, Arc<str>), Account>,
    swept_at: u64,
}

#[derive(Debug, Default)]
struct Account {
    granted: SlidingWindow,
    demand: SlidingWindow,
    used_at: u64,
}

/// What an ask got, and how its client stands after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Granted {
    /// How many permits.
    pub permits: u64,
    /// What was granted within one window's length.
    pub window: SlidingWindow,
    /// The time at which `window` was looked at, by its own clock, in µs.
    pub at: u64,
}

impl LocalLedger {
    /// Grants what an ask may have at `now`, µs of a clock that only goes on.
    pub fn grant(&mut self, limits: &RateLimits, ask: &LeaseAsk, now: u64) -> Granted {
        let limit = limits.of(ask.category);
        let account = self.account(ask, now);
        account.granted.give_back(ask.unused, now);
        account.demand.add(ask.want, now);
        let free = account.granted.free(limit, now);
        let in_a_slice = account.demand.used(now) / (WINDOW_MICROS / SLICE_MICROS);
        let permits = part(free, ask.want, in_a_slice);
        account.granted.add(permits, now);
        Granted { permits, window: account.granted, at: now }
    }

    /// Counts what was granted elsewhere, so that this ledger can take over at any time.
    pub fn note(&mut self, ask: &LeaseAsk, permits: u64, now: u64) {
        let account = self.account(ask, now);
        account.granted.give_back(ask.unused, now);
        account.granted.add(permits, now);
    }

    fn account(&mut self, ask: &LeaseAsk, now: u64) -> &mut Account {
        let mut key = (ask.category, Arc::clone(&ask.client));
        if self.accounts.len() >= ACCOUNTS_MAX && !self.accounts.contains_key(&key) {
            if now.saturating_sub(self.swept_at) >= WINDOW_MICROS {
                self.swept_at = now;
                self.accounts.retain(|_, account| now.saturating_sub(account.used_at) < 2 * WINDOW_MICROS);
            }
            if self.accounts.len() >= ACCOUNTS_MAX {
                key.1 = CROWD.into();
            }
        }
        let account = self.accounts.entry(key).or_default();
        account.used_at = now;
        account
    }
}

/// What an ask gets of what is free, if all together want `in_a_slice`.
fn part(free: u64, want: u64, in_a_slice: u64) -> u64 {
    if want <= free / WHOLE_PART {
        return want;
    }
    let part = (u128::from(free) * u128::from(want)).div_ceil(u128::from(want.max(in_a_slice).max(1)));
    want.min(u64::try_from(part).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(client: &str, want: u64, unused: u64) -> LeaseAsk {
        LeaseAsk { client: client.into(), category: Category::IngestRecords, want, unused }
    }

    fn limits(records: u64) -> RateLimits {
        RateLimits { ingest_records_per_second: records, ..RateLimits::default() }
    }

    #[test]
    fn one_client_gets_its_limit_and_another_is_not_hindered() {
        let mut ledger = LocalLedger::default();
        let (mut total, start) = (0, 5_000_000);
        for slice in 0..50 {
            total += ledger.grant(&limits(1000), &ask("a", 500, 0), start + slice * SLICE_MICROS).permits;
        }
        // The window fades evenly where the grants came early: a tenth stays unused.
        assert!((4500..=5500).contains(&total), "{total} in five seconds of 1000");
        assert_eq!(ledger.grant(&limits(1000), &ask("b", 500, 0), start + 49 * SLICE_MICROS).permits, 500);
    }

    #[test]
    fn shards_share_by_demand_and_together_keep_to_the_limit() {
        let mut ledger = LocalLedger::default();
        let mut got = [0, 0];
        for slice in 0..100 {
            let now = slice * SLICE_MICROS;
            for (shard, want) in [(0, 300), (1, 100)] {
                let permits = ledger.grant(&limits(1000), &ask("a", want, 0), now + shard).permits;
                if slice >= 20 {
                    got[shard as usize] += permits;
                }
            }
        }
        let total: u64 = got.iter().sum();
        assert!((6800..=8000).contains(&total), "{got:?} in eight seconds of 1000");
        // Who asks first has the better part, but nobody goes without.
        assert!(got[0] > got[1] && got[1] >= 400, "three to one: {got:?}");
    }

    #[test]
    fn no_window_holds_more_than_the_limit_by_more_than_it_fades() {
        let mut ledger = LocalLedger::default();
        let mut grants = Vec::new();
        for step in 0..400 {
            let now = step * 25_000;
            grants.push((now, ledger.grant(&limits(100), &ask("a", 1 + step % 7, 0), now).permits));
        }
        for &(start, _) in &grants {
            let within = grants.iter().filter(|(at, _)| (start..start + WINDOW_MICROS).contains(at));
            let sum: u64 = within.map(|(_, permits)| permits).sum();
            // The estimate takes the earlier window as even; a slice's worth is what it can be wrong by here.
            assert!(sum <= 110, "{sum} within a second from {start}");
        }
    }

    #[test]
    fn what_goes_back_or_was_granted_elsewhere_counts() {
        let mut ledger = LocalLedger::default();
        assert_eq!(ledger.grant(&limits(100), &ask("a", 100, 0), 10).permits, 100);
        assert_eq!(ledger.grant(&limits(100), &ask("a", 10, 60), 20).permits, 10);
        ledger.note(&ask("a", 50, 0), 45, 30);
        assert_eq!(ledger.grant(&limits(100), &ask("a", 50, 0), 40).permits, 5);
        assert_eq!(ledger.grant(&limits(100), &ask("a", 50, 0), 50).permits, 0);
    }
}
