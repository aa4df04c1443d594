//! Failed authentications by peer address: past a limit a minute, what is costly to check is not looked at any more.
//!
//! A count-min sketch (Cormode and Muthukrishnan, 2005) of sliding window counters, two rows by independent keyed hashes: its
//! size is fixed whatever addresses there are, and all shards and REST share it without a lock. An address is over the limit
//! when it is so in both rows. Others can only add to its count, so nobody gets more tries than the limit; that an innocent
//! address is counted with a guilty one in both rows is as unlikely as `(guilty addresses / BUCKETS)²`. IPv6 goes by its /64.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::peers::place_of;

const ROWS: usize = 2;
const BUCKETS: usize = 8192;
const MINUTE_MICROS: u64 = 60_000_000;

/// The counts, and their limit.
#[derive(Debug)]
pub struct AuthFailures {
    /// A minute; 0: none.
    limit: AtomicU32,
    hashers: [ahash::RandomState; ROWS],
    /// Each the minute (32 bits) and the counts in it and in the one before (16 bits each).
    buckets: Box<[AtomicU64]>,
}

/// A window of one minute and the one before it.
#[derive(Debug, Clone, Copy, Default)]
struct Window {
    minute: u32,
    current: u16,
    previous: u16,
}

impl Window {
    fn of(packed: u64, minute: u32) -> Self {
        let (then, current, previous) = ((packed >> 32) as u32, (packed >> 16) as u16, packed as u16);
        match minute.wrapping_sub(then) {
            0 => Self { minute, current, previous },
            1 => Self { minute, current: 0, previous: current },
            _ => Self { minute, current: 0, previous: 0 },
        }
    }

    fn packed(self) -> u64 {
        u64::from(self.minute) << 32 | u64::from(self.current) << 16 | u64::from(self.previous)
    }

    fn used(self, passed: u64) -> u64 {
        u64::from(self.current) + (u64::from(self.previous) * (MINUTE_MICROS - passed)).div_ceil(MINUTE_MICROS)
    }
}

impl Default for AuthFailures {
    fn default() -> Self {
        Self {
            limit: AtomicU32::new(0),
            hashers: [ahash::RandomState::new(), ahash::RandomState::new()],
            buckets: (0..ROWS * BUCKETS).map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

impl AuthFailures {
    /// So many a minute from now on; 0: no limit.
    pub fn set_limit(&self, limit: u64) {
        self.limit.store(u32::try_from(limit).unwrap_or(u32::MAX), Relaxed);
    }

    fn buckets(&self, peer: IpAddr) -> [&AtomicU64; ROWS] {
        let place = place_of(peer);
        std::array::from_fn(|row| {
            let at = self.hashers[row].hash_one(place) as usize % BUCKETS;
            &self.buckets[row * BUCKETS + at]
        })
    }

    /// Whether `peer` is over the limit at `now`, Unix µs: the limit, and when to try again.
    #[must_use]
    pub fn over(&self, peer: IpAddr, now: i64) -> Option<(u64, Duration)> {
        let limit = u64::from(self.limit.load(Relaxed));
        if limit == 0 {
            return None;
        }
        let now = now.max(0).unsigned_abs();
        let (minute, passed) = ((now / MINUTE_MICROS) as u32, now % MINUTE_MICROS);
        let windows = self.buckets(peer).map(|bucket| Window::of(bucket.load(Relaxed), minute));
        let least = windows.into_iter().min_by_key(|window| window.used(passed))?;
        if least.used(passed) < limit {
            return None;
        }
        // In this minute the earlier count fades; if that is not enough, this minute's count does in the next.
        let fades = |count: u64, room: u64| MINUTE_MICROS - (MINUTE_MICROS * room / count.max(1)).min(MINUTE_MICROS);
        let (current, previous) = (u64::from(least.current), u64::from(least.previous));
        let wait = match (limit - 1).checked_sub(current) {
            Some(room) => fades(previous, room).saturating_sub(passed),
            None => MINUTE_MICROS - passed + fades(current, limit - 1),
        };
        Some((limit, Duration::from_micros(wait.max(1))))
    }

    /// Counts a failure of `peer` at `now`, Unix µs.
    pub fn count(&self, peer: IpAddr, now: i64) {
        let minute = (now.max(0).unsigned_abs() / MINUTE_MICROS) as u32;
        for bucket in self.buckets(peer) {
            let more = |packed| {
                let window = Window::of(packed, minute);
                Some(Window { current: window.current.saturating_add(1), ..window }.packed())
            };
            // It never refuses: every value has a next.
            let _ = bucket.fetch_update(Relaxed, Relaxed, more);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn an_address_over_its_limit_is_let_in_again_when_told() {
        let failures = AuthFailures::default();
        let (peer, mut now) = (ip("192.0.2.1"), 60_000_000 * 100 + 7);
        for _ in 0..5 {
            failures.count(peer, now);
        }
        assert_eq!(failures.over(peer, now), None, "there is no limit yet");
        failures.set_limit(5);
        let (limit, wait) = failures.over(peer, now).expect("over it");
        assert_eq!(limit, 5);
        assert!(wait.as_secs() >= 60 && wait.as_secs() <= 120, "{wait:?}");
        assert_eq!(failures.over(ip("192.0.2.2"), now), None, "another address is not hindered");
        now += wait.as_micros() as i64;
        assert!(failures.over(peer, now - 2).is_some());
        assert_eq!(failures.over(peer, now), None);
        failures.count(peer, now);
        assert!(failures.over(peer, now).is_some(), "one try, not a whole minute's");
    }

    #[test]
    fn ipv6_goes_by_its_network_and_mapped_ipv4_is_ipv4() {
        let failures = AuthFailures::default();
        failures.set_limit(1);
        failures.count(ip("2001:db8::1"), 1);
        assert!(failures.over(ip("2001:db8::ffff"), 1).is_some());
        assert_eq!(failures.over(ip("2001:db8:0:1::1"), 1), None);
        failures.count(ip("::ffff:192.0.2.1"), 1);
        assert!(failures.over(ip("192.0.2.1"), 1).is_some());
    }
}
