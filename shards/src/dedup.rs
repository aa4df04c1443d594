//! Idempotency keys that a shard remembers, with the sequence number that each got.
//!
//! Hourly generations; the oldest is dropped whole when the window has passed it, or when the shard holds too many keys. Time
//! is the largest that was seen, so a clock that jumps back only lengthens the window.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use crate::ids::StreamId;

const GENERATION_MICROS: i64 = 3_600_000_000;

/// What a key's first record got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Its sequence number.
    pub sequence: i64,
    /// When it was ingested, Unix µs.
    pub timestamp_unix_micros: i64,
}

/// The keys of one shard.
#[derive(Debug)]
pub struct Dedup {
    generations: VecDeque<Generation>,
    window_micros: i64,
    keys_max: usize,
    keys: usize,
    /// Two seeds of this process: 128 bits of keyed hash, so that a client cannot choose keys that collide.
    seeds: [ahash::RandomState; 2],
}

#[derive(Debug)]
struct Generation {
    hour: i64,
    keys: HashMap<u128, Seen, ahash::RandomState>,
}

impl Dedup {
    /// Remembers keys for `window`, at most `keys_max` of them.
    #[must_use]
    pub fn new(window: Duration, keys_max: usize) -> Self {
        Self {
            generations: VecDeque::new(),
            window_micros: window.as_micros() as i64,
            keys_max: keys_max.max(1),
            keys: 0,
            seeds: [ahash::RandomState::new(), ahash::RandomState::new()],
        }
    }

    /// What `key` got in `stream` within the window, or else remembers that it gets `seen` now.
    pub fn check(&mut self, stream: StreamId, key: &[u8], seen: Seen) -> Option<Seen> {
        let [high, low] = [0, 1].map(|i| self.seeds[i].hash_one((stream, key)));
        let fingerprint = u128::from(high) << 64 | u128::from(low);
        if let Some(&first) = self.generations.iter().rev().find_map(|generation| generation.keys.get(&fingerprint)) {
            return Some(first);
        }
        self.current(seen.timestamp_unix_micros).keys.insert(fingerprint, seen);
        self.keys += 1;
        None
    }

    /// The generation of the newest hour seen; drops what the window has passed.
    fn current(&mut self, timestamp_unix_micros: i64) -> &mut Generation {
        let newest = self.generations.back().map_or(i64::MIN, |generation| generation.hour);
        let hour = timestamp_unix_micros.div_euclid(GENERATION_MICROS).max(newest);
        if hour > newest {
            self.generations.push_back(Generation { hour, keys: HashMap::default() });
        }
        let expired = |generation: &Generation| (generation.hour + 1) * GENERATION_MICROS + self.window_micros;
        while self.generations.len() > 1
            && self
                .generations
                .front()
                .is_some_and(|oldest| self.keys >= self.keys_max || expired(oldest) <= hour * GENERATION_MICROS)
        {
            self.keys -= self.generations.pop_front().map_or(0, |oldest| oldest.keys.len());
        }
        if self.keys >= self.keys_max {
            // Even the newest hour alone is over the bound: it starts anew.
            self.keys = 0;
            self.generations.iter_mut().for_each(|generation| generation.keys.clear());
        }
        self.generations.back_mut().expect("a generation was pushed above or was there")
    }

    /// How many keys are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = GENERATION_MICROS;

    fn at(sequence: i64, timestamp_unix_micros: i64) -> Seen {
        Seen { sequence, timestamp_unix_micros }
    }

    #[test]
    fn a_key_is_remembered_for_the_window_and_per_stream() {
        let mut dedup = Dedup::new(Duration::from_secs(24 * 3600), 1000);
        let (a, b) = (StreamId::generate(), StreamId::generate());
        assert_eq!(dedup.check(a, b"k", at(1, 0)), None);
        assert_eq!(dedup.check(a, b"k", at(2, 23 * HOUR)), Some(at(1, 0)));
        assert_eq!(dedup.check(b, b"k", at(1, 23 * HOUR)), None);
        assert_eq!(dedup.check(a, b"other", at(2, 24 * HOUR)), None);
        assert_eq!(dedup.check(a, b"k", at(3, 24 * HOUR)), Some(at(1, 0)), "the whole hour lives 24 h from its end");
        assert_eq!(dedup.check(a, b"more", at(3, 25 * HOUR)), None);
        assert_eq!(dedup.check(a, b"k", at(4, 25 * HOUR)), None);
    }

    #[test]
    fn a_clock_that_jumps_back_forgets_nothing() {
        let mut dedup = Dedup::new(Duration::from_secs(24 * 3600), 1000);
        let stream = StreamId::generate();
        assert_eq!(dedup.check(stream, b"k", at(1, 100 * HOUR)), None);
        assert_eq!(dedup.check(stream, b"l", at(2, 3 * HOUR)), None);
        assert_eq!(dedup.check(stream, b"k", at(3, 3 * HOUR)), Some(at(1, 100 * HOUR)));
    }

    #[test]
    fn the_number_of_keys_is_bounded() {
        let mut dedup = Dedup::new(Duration::from_secs(24 * 3600), 100);
        let stream = StreamId::generate();
        for i in 0..1000i64 {
            dedup.check(stream, &i.to_le_bytes(), at(i + 1, i * HOUR / 20));
            assert!(dedup.len() <= 100);
        }
        assert_eq!(dedup.check(stream, &999i64.to_le_bytes(), at(0, 50 * HOUR)).map(|seen| seen.sequence), Some(1000));
    }
}
