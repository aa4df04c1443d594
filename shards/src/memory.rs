//! Memory that is shared: one number with a limit, counted from whichever thread a byte is made or dropped on. All tails of a shard
//! have one, and so have all queries of the server, of which each has a limit of its own as well.
//!
//! What an answer holds it holds until its client has taken it, so a client that takes nothing is ended ([`Patience`]): soon, when
//! others are refused for want of what it holds.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// How long a client may take nothing of an answer.
const STALL_MAX: Duration = Duration::from_secs(30);
/// And how long while others are refused; a refusal counts for as long.
const STALL_MAX_IF_SHORT: Duration = Duration::from_secs(2);
/// What it has to take a second then, in bytes, after the first of these.
const RATE_MIN_IF_SHORT: u64 = 256 << 10;

/// Bytes in use and how many there may be. The limit is kept by those who ask for room first; what must not be refused (a row
/// that is larger than its page) may go past it by itself.
#[derive(Debug)]
pub struct Pool {
    used: AtomicUsize,
    limit: usize,
    made: Instant,
    /// When a query was last refused, ms after it was made and 1 more; 0: none was.
    refused_ms: AtomicU64,
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
        let (used, refused_ms) = (AtomicUsize::new(0), AtomicU64::new(0));
        Arc::new(Self { used, limit, made: Instant::now(), refused_ms })
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

    fn refused_at(&self, now: Instant) {
        self.refused_ms.store(self.millis(now) + 1, Relaxed);
    }

    /// Whether a query was refused lately.
    fn is_short(&self, now: Instant) -> bool {
        let refused = self.refused_ms.load(Relaxed);
        refused > 0 && self.millis(now) < refused + STALL_MAX_IF_SHORT.as_millis() as u64
    }

    fn millis(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.made).as_millis() as u64
    }

    /// Takes `bytes` if no more than `limit` are in use then, or if nothing is in use.
    #[must_use]
    pub fn try_charge(self: &Arc<Self>, bytes: usize, limit: usize) -> Option<Charge> {
        self.try_take(bytes, limit).then(|| Charge { pool: Arc::clone(self), bytes })
    }

    fn try_take(&self, bytes: usize, limit: usize) -> bool {
        let fits = |used: usize| (used == 0 || used.saturating_add(bytes) <= limit).then(|| used + bytes);
        self.used.fetch_update(Relaxed, Relaxed, fits).is_ok()
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

/// Why a query cannot have more memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MemoryShort {
    /// It would hold more at a time than one may.
    #[error(
        "the query needs {needs} bytes of memory at a time, and one query may have {may}: ask for less at once, a smaller limit or a \
         shorter time range, or raise query.memory_bytes"
    )]
    Own {
        /// Bytes that it would hold.
        needs: usize,
        /// Bytes that it may hold.
        may: usize,
    },
    /// The others hold what there is.
    #[error(
        "the queries under way, and answers that are being sent, hold what query.memory_total_bytes lets them: try again"
    )]
    All,
}

/// What one query may hold, of what all may. By itself it lets it hold anything.
#[derive(Debug, Clone, Default)]
pub struct Meter(Option<Arc<Metered>>);

#[derive(Debug)]
struct Metered {
    pool: Arc<Pool>,
    used: AtomicUsize,
    may: usize,
}

/// Bytes that a query holds, until this is dropped.
#[derive(Debug)]
pub struct Taken {
    meter: Option<Arc<Metered>>,
    bytes: usize,
}

impl Meter {
    /// Of a query that may hold `may` bytes, of those of `pool`.
    #[must_use]
    pub fn new(pool: Arc<Pool>, may: usize) -> Self {
        Self(Some(Arc::new(Metered { pool, used: AtomicUsize::new(0), may })))
    }

    /// Bytes that the query may hold at a time.
    #[must_use]
    pub fn may(&self) -> usize {
        self.0.as_ref().map_or(usize::MAX, |metered| metered.may)
    }

    /// Nothing yet.
    #[must_use]
    pub fn nothing(&self) -> Taken {
        Taken { meter: self.0.clone(), bytes: 0 }
    }

    /// Whether the query may hold `bytes` more.
    ///
    /// # Errors
    /// It may not.
    pub fn check(&self, bytes: usize) -> Result<(), MemoryShort> {
        let Some(metered) = &self.0 else { return Ok(()) };
        let needs = metered.used.load(Relaxed).saturating_add(bytes);
        if needs > metered.may { Err(MemoryShort::Own { needs, may: metered.may }) } else { Ok(()) }
    }
}

impl Taken {
    /// Takes `bytes` more.
    ///
    /// # Errors
    /// There is no room; what was taken before stays.
    pub fn more(&mut self, bytes: usize) -> Result<(), MemoryShort> {
        let Some(metered) = &self.meter else { return Ok(()) };
        let needs = metered.used.fetch_add(bytes, Relaxed).saturating_add(bytes);
        let outcome = if needs > metered.may {
            Err(MemoryShort::Own { needs, may: metered.may })
        } else if metered.pool.try_take(bytes, metered.pool.limit) {
            Ok(())
        } else {
            metered.pool.refused_at(Instant::now());
            Err(MemoryShort::All)
        };
        match outcome {
            Ok(()) => self.bytes += bytes,
            Err(_) => {
                metered.used.fetch_sub(bytes, Relaxed);
            }
        }
        outcome
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if let Some(metered) = &self.meter {
            metered.used.fetch_sub(self.bytes, Relaxed);
            metered.pool.used.fetch_sub(self.bytes, Relaxed);
        }
    }
}

/// What an answer holds, for as long as anyone has it. Says nothing of what the answer is.
#[derive(Debug, Clone, Default)]
pub struct Held(Option<Arc<Taken>>);

impl From<Taken> for Held {
    fn from(taken: Taken) -> Self {
        Self(Some(Arc::new(taken)))
    }
}

impl Held {
    /// For a client that begins to take what holds this.
    #[must_use]
    pub fn patience(&self) -> Patience {
        let held = self.0.as_ref();
        let pool = held.and_then(|taken| taken.meter.as_ref()).map(|metered| Arc::clone(&metered.pool));
        Patience::new(pool, held.map_or_else(Weak::new, Arc::downgrade), Instant::now())
    }
}

impl PartialEq for Held {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Held {}

/// For how long an answer is held for its client.
#[derive(Debug, Clone)]
pub struct Patience {
    pool: Option<Arc<Pool>>,
    held: Weak<Taken>,
    began: Instant,
    /// When something of it was taken last.
    taken_at: Instant,
    bytes: u64,
}

impl Patience {
    fn new(pool: Option<Arc<Pool>>, held: Weak<Taken>, now: Instant) -> Self {
        Self { pool, held, began: now, taken_at: now, bytes: 0 }
    }

    /// Whether anything is held any more.
    #[must_use]
    pub fn has_cause(&self) -> bool {
        self.held.strong_count() > 0
    }

    /// The client took `bytes` more.
    pub fn took(&mut self, bytes: usize, now: Instant) {
        self.bytes += bytes as u64;
        self.taken_at = now;
    }

    /// Whether the client is to be ended, and why.
    #[must_use]
    pub fn is_over(&self, now: Instant) -> Option<TooSlow> {
        let stalled = now.saturating_duration_since(self.taken_at);
        if stalled >= STALL_MAX {
            return Some(TooSlow::Stalled);
        }
        let is_short = self.pool.as_ref().is_some_and(|pool| pool.is_short(now));
        let due = self.bytes.saturating_mul(1000) / RATE_MIN_IF_SHORT;
        let is_slow = now.saturating_duration_since(self.began) >= STALL_MAX_IF_SHORT + Duration::from_millis(due);
        (is_short && (stalled >= STALL_MAX_IF_SHORT || is_slow)).then_some(TooSlow::WhileShort)
    }
}

/// Why a client was ended that did not take its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooSlow {
    /// It took nothing for long.
    #[error("nothing of the answer was taken for 30 s")]
    Stalled,
    /// Others needed what it holds.
    #[error(
        "memory for queries is short, and the answer was taken too slowly (nothing for 2 s, or less than 256 KiB a second): ask \
         again, for less at once"
    )]
    WhileShort,
}

/// Bytes that hold memory of a query for as long as anyone has them.
#[must_use]
pub fn held_bytes(bytes: Vec<u8>, held: Held) -> bytes::Bytes {
    struct Owner(Vec<u8>, #[allow(dead_code, reason = "kept to be dropped with the bytes")] Held);
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    bytes::Bytes::from_owner(Owner(bytes, held))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_has_a_limit_and_all_together_have_one() {
        let pool = Pool::new(100);
        let (one, other) = (Meter::new(Arc::clone(&pool), 60), Meter::new(Arc::clone(&pool), 60));
        let (mut rows, mut answer) = (one.nothing(), one.nothing());
        rows.more(40).expect("room");
        assert_eq!(answer.more(21), Err(MemoryShort::Own { needs: 61, may: 60 }));
        assert_eq!(one.check(21), Err(MemoryShort::Own { needs: 61, may: 60 }));
        answer.more(20).expect("just fits");
        let mut others = other.nothing();
        assert_eq!(others.more(41), Err(MemoryShort::All));
        others.more(40).expect("just fits");
        drop(rows);
        assert_eq!(pool.used(), 60);
        others.more(20).expect("what was given back");
        assert_eq!(others.more(1), Err(MemoryShort::Own { needs: 61, may: 60 }));
        // An answer that is sent holds its room until the last byte of it is gone.
        let sent = held_bytes(vec![1, 2, 3], answer.into());
        let last = sent.slice(2..);
        drop(sent);
        assert_eq!((&last[..], pool.used()), (&[3][..], 80));
        drop((last, others));
        assert_eq!(pool.used(), 0);
        assert!(Meter::default().nothing().more(usize::MAX).is_ok(), "no limit");
    }

    #[test]
    fn a_client_that_does_not_take_its_answer_is_ended_soon_if_others_are_refused() {
        let pool = Pool::new(100);
        let mut taken = Meter::new(Arc::clone(&pool), 80).nothing();
        taken.more(80).expect("room");
        let held = Held::from(taken);
        let slow = held.patience();
        let begin = slow.began;
        let after = |seconds: f64| begin + Duration::from_secs_f64(seconds);
        assert_eq!(slow.is_over(after(29.0)), None, "nobody else wants anything");
        assert_eq!(slow.is_over(after(30.5)), Some(TooSlow::Stalled));
        pool.refused_at(after(10.0));
        assert_eq!(slow.is_over(after(10.1)), Some(TooSlow::WhileShort));
        assert_eq!(slow.is_over(after(12.1)), None, "that is over");
        // Whoever takes enough is let, also while others are refused; a trickle is not enough.
        let (mut fair, mut trickling) = (slow.clone(), slow.clone());
        for second in 1..20 {
            let now = after(f64::from(second));
            pool.refused_at(now);
            fair.took(300 << 10, now);
            trickling.took(1 << 10, now);
            assert_eq!(fair.is_over(now), None, "after {second} s");
            let expected = (second > 2).then_some(TooSlow::WhileShort);
            assert_eq!(trickling.is_over(now), expected, "after {second} s");
        }
        assert_eq!(fair.is_over(after(19.0) + STALL_MAX_IF_SHORT - Duration::from_millis(5)), None);
        assert!(fair.has_cause());
        drop(held);
        assert!(!fair.has_cause());
        assert_eq!(Held::default().patience().is_over(Instant::now()), None);
    }

    #[test]
    fn a_query_that_is_refused_makes_memory_short() {
        let pool = Pool::new(100);
        let (mut one, mut other) =
            (Meter::new(Arc::clone(&pool), 80).nothing(), Meter::new(Arc::clone(&pool), 80).nothing());
        one.more(80).expect("room");
        assert!(other.more(81).is_err() && !pool.is_short(Instant::now()), "its own limit is nobody's fault");
        assert_eq!(other.more(21), Err(MemoryShort::All));
        assert!(pool.is_short(Instant::now()));
    }

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
