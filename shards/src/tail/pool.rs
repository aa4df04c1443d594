//! The memory of all tails of a shard: one number with a limit, counted from whichever thread a byte is made or dropped on.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

/// Bytes in use and how many there may be. The limit is kept by those who ask for room first; what must not be refused (a row
/// that is larger than its page) may go past it by itself.
#[derive(Debug)]
pub struct Pool {
    used: AtomicUsize,
    limit: usize,
}

/// Bytes in use, until it is dropped.
#[derive(Debug)]
pub struct Charge {
    pool: Arc<Pool>,
    bytes: usize,
}

impl Pool {
    /// An empty pool of `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), limit })
    }

    /// Bytes in use.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// Bytes that may be in use.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Takes `bytes` if no more than `limit` are in use then, or if nothing is in use.
    #[must_use]
    pub fn try_charge(self: &Arc<Self>, bytes: usize, limit: usize) -> Option<Charge> {
        let fits = |used: usize| (used == 0 || used.saturating_add(bytes) <= limit).then(|| used + bytes);
        self.used.fetch_update(Relaxed, Relaxed, fits).ok()?;
        Some(Charge { pool: Arc::clone(self), bytes })
    }

    /// Takes `bytes`, limit or not.
    #[must_use]
    pub fn charge(self: &Arc<Self>, bytes: usize) -> Charge {
        self.used.fetch_add(bytes, Relaxed);
        Charge { pool: Arc::clone(self), bytes }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.pool.used.fetch_sub(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_holds_for_all_but_the_first_and_room_comes_back() {
        let pool = Pool::new(100);
        let first = pool.try_charge(150, 100).expect("an empty pool takes anything");
        assert!(pool.try_charge(1, 100).is_none());
        drop(first);
        let held = pool.try_charge(60, 100).expect("room");
        assert!(pool.try_charge(41, 100).is_none());
        let other = pool.try_charge(40, 100).expect("just fits");
        let forced = pool.charge(7);
        assert_eq!(pool.used(), 107);
        drop((held, other, forced));
        assert_eq!(pool.used(), 0);
    }
}
