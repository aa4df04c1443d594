//! Which keys surely did not come in this run of the program, in one place of memory a key, whatever the number of files.
//!
//! Split block Bloom filters (Putze, Sanders and Singler, "Cache-, hash- and space-efficient Bloom filters", ACM Journal of
//! Experimental Algorithmics 14, 2009; in the split form that Apache Parquet has): a key sets one bit in each of the eight words
//! of one block, so asking costs one cache line, where the filters of the files cost three each. Of each generation of keys
//! there is a first small filter, and larger ones as it fills.
//!
//! Invariant: a key that was put in and is within the window is never denied. Of others about one in 150 passes a filter.

use std::{array, collections::VecDeque};

use super::fingerprint::Fingerprint;

/// Keys of a generation's first filter.
const FIRST_KEYS: usize = 1 << 20;
/// How much larger the next filter is.
const GROWTH: usize = 8;
/// Bits of memory a key.
const BITS_PER_KEY: usize = 12;

type Block = [u32; 8];

/// The keys of this run, by generation.
#[derive(Debug, Default)]
pub struct Recent {
    /// The filters of keys that came no later than in this generation; oldest first.
    closed: VecDeque<(u64, Vec<Blocks>)>,
    /// Those of keys that come now; the last takes them.
    open: Vec<Blocks>,
    generation: u64,
}

/// A filter for so many keys.
#[derive(Debug)]
struct Blocks {
    blocks: Vec<Block>,
    /// Keys that it still takes.
    room: usize,
}

impl Recent {
    /// Puts a key in.
    pub fn insert(&mut self, key: Fingerprint) {
        if self.open.last().is_none_or(|filter| filter.room == 0) {
            self.open.push(Blocks::for_keys(FIRST_KEYS * GROWTH.pow(self.open.len() as u32)));
        }
        self.open.last_mut().expect("one was just there").insert(key);
    }

    /// Lets time pass, to `generation`; forgets keys that came more than `window` whole generations before it.
    pub fn turn(&mut self, generation: u64, window: u64) {
        if generation != self.generation && !self.open.is_empty() {
            // Since the last call keys may have come in any generation up to this one.
            self.closed.push_back((generation, std::mem::take(&mut self.open)));
        }
        self.generation = generation;
        while self.closed.front().is_some_and(|&(last, _)| last + window < generation) {
            self.closed.pop_front();
        }
    }

    fn filters(&self) -> impl Iterator<Item = &Blocks> {
        self.closed.iter().flat_map(|(_, filters)| filters).chain(&self.open)
    }

    /// Whether `key` may have been put in; `false` is certain.
    #[must_use]
    pub fn may_hold(&self, key: Fingerprint) -> bool {
        self.filters().any(|filter| filter.may_hold(key))
    }

    /// Bytes of memory.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.filters().map(|filter| size_of_val(&*filter.blocks)).sum()
    }
}

impl Blocks {
    fn for_keys(keys: usize) -> Self {
        Self { blocks: vec![[0; 8]; (keys * BITS_PER_KEY).div_ceil(size_of::<Block>() * 8)], room: keys }
    }

    fn insert(&mut self, key: Fingerprint) {
        let at = self.block_of(key);
        for (word, bit) in self.blocks[at].iter_mut().zip(bits(key)) {
            *word |= bit;
        }
        self.room = self.room.saturating_sub(1);
    }

    fn may_hold(&self, key: Fingerprint) -> bool {
        // No early end: all of it is in one cache line, and a branch would have to be guessed.
        self.blocks[self.block_of(key)].iter().zip(bits(key)).fold(true, |all, (word, bit)| all & (word & bit != 0))
    }

    fn block_of(&self, key: Fingerprint) -> usize {
        ((u128::from(key.high()) * self.blocks.len() as u128) >> 64) as usize
    }
}

/// A key's bit in each word of its block: of five bits of its fingerprint each.
fn bits(key: Fingerprint) -> Block {
    array::from_fn(|word| 1 << (key.low() >> (5 * word) & 31))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::sim::SimRng;

    fn keys(seed: u64, count: usize) -> impl Iterator<Item = Fingerprint> {
        let mut rng = SimRng::new(seed);
        (0..count).map(move |_| Fingerprint::from_bits(u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64())))
    }

    #[test]
    fn no_key_is_denied_over_growth_and_few_others_pass() {
        let mut recent = Recent::default();
        let count = FIRST_KEYS + FIRST_KEYS / 2;
        keys(1, count).for_each(|key| recent.insert(key));
        assert_eq!(recent.open.len(), 2, "it grew once");
        assert!(keys(1, count).all(|key| recent.may_hold(key)));
        let passed = keys(2, 100_000).filter(|&key| recent.may_hold(key)).count();
        assert!(passed < 1_500, "{passed} of 100,000 others pass");
        assert_eq!(recent.memory_bytes(), (FIRST_KEYS + GROWTH * FIRST_KEYS) * BITS_PER_KEY / 8);
    }

    #[test]
    fn a_key_is_kept_for_a_window_and_forgotten_with_its_generation() {
        let mut recent = Recent::default();
        let of = |generation| keys(generation, 1000);
        for generation in [4, 5, 9] {
            recent.turn(generation, 8);
            of(generation).for_each(|key| recent.insert(key));
        }
        // Those of 4 came before that was turned to 5, at which moment a key may have come.
        recent.turn(13, 8);
        assert!(of(4).chain(of(5)).chain(of(9)).all(|key| recent.may_hold(key)));
        recent.turn(14, 8);
        assert!(of(5).chain(of(9)).all(|key| recent.may_hold(key)));
        let passed = of(4).filter(|&key| recent.may_hold(key)).count();
        assert!(passed < 20, "{passed} of a thousand that are forgotten pass");
        recent.turn(30, 8);
        assert_eq!(recent.memory_bytes(), 0);
        assert!(!of(9).any(|key| recent.may_hold(key)));
    }
}
