//! The newest keys, in memory: a table with open addressing, 32 bytes a slot.
//!
//! A key's slot follows from the upper bits of its fingerprint, so that the table is all but sorted, and writing it out costs
//! little more than a walk over it. Invariants: no fingerprint is there twice; at least an eighth of the slots is free.

use super::{Seen, fingerprint::Fingerprint};

/// Slots of the smallest table, as a power of two.
const SMALLEST_BITS: u32 = 8;

/// Upper and lower half of the fingerprint, sequence number, timestamp. No fingerprint: free.
type Slot = [u64; 4];

/// A key and what it got.
pub type Entry = (Fingerprint, Seen);

/// Keys and what each got.
#[derive(Debug)]
pub struct Table {
    slots: Vec<Slot>,
    bits: u32,
    len: usize,
}

impl Table {
    /// An empty table that can take `keys` without growing.
    #[must_use]
    pub fn with_room(keys: usize) -> Self {
        let slots = (keys * 8).div_ceil(7);
        Self::with_bits(slots.next_power_of_two().ilog2().max(SMALLEST_BITS))
    }

    fn with_bits(bits: u32) -> Self {
        Self { slots: vec![[0; 4]; 1 << bits], bits, len: 0 }
    }

    /// How many keys it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of memory.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.slots.len() * size_of::<Slot>()
    }

    /// Where the key is, or the free slot where it belongs.
    fn slot(&self, key: Fingerprint) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = self.home(key.high());
        loop {
            let [high, low, ..] = self.slots[at];
            if (high, low) == (key.high(), key.low()) || (high, low) == (0, 0) {
                return at;
            }
            at = (at + 1) & mask;
        }
    }

    fn home(&self, high: u64) -> usize {
        (high >> (64 - self.bits)) as usize
    }

    /// What `key` got.
    #[must_use]
    pub fn get(&self, key: Fingerprint) -> Option<Seen> {
        let slot = self.slots[self.slot(key)];
        is_taken(&slot).then(|| seen(&slot))
    }

    /// What `key` got, or else remembers that it gets `seen`.
    pub fn get_or_insert(&mut self, key: Fingerprint, seen_now: Seen) -> Option<Seen> {
        let at = self.slot(key);
        let slot = &mut self.slots[at];
        if is_taken(slot) {
            return Some(seen(slot));
        }
        *slot = to_slot(key, seen_now);
        self.count_in();
        None
    }

    /// Remembers that `key` got `seen`, unless it is known to have got a larger sequence number.
    pub fn raise(&mut self, key: Fingerprint, seen_now: Seen) {
        let at = self.slot(key);
        let slot = &mut self.slots[at];
        if !is_taken(slot) {
            *slot = to_slot(key, seen_now);
            self.count_in();
        } else if seen(slot).sequence < seen_now.sequence {
            *slot = to_slot(key, seen_now);
        }
    }

    fn count_in(&mut self) {
        self.len += 1;
        if self.len * 8 > self.slots.len() * 7 {
            self.grow();
        }
    }

    fn grow(&mut self) {
        let mut larger = Self::with_bits(self.bits + 1);
        for slot in self.slots.iter().filter(|slot| is_taken(slot)) {
            let at = larger.slot(key(slot));
            larger.slots[at] = *slot;
        }
        larger.len = self.len;
        *self = larger;
    }

    /// Every key, in order of the fingerprints, by way of `visit`; ends with its first error.
    ///
    /// # Errors
    /// The visit's.
    pub fn for_each_in_order<E>(&self, mut visit: impl FnMut(Entry) -> Result<(), E>) -> Result<(), E> {
        // Slots in a row are those of neighbouring keys, so each row is sorted by itself. Keys that belong to the end and did
        // not fit there stand at the beginning.
        let first_free = self.slots.iter().position(|slot| !is_taken(slot)).expect("an eighth is free");
        let (mut row, wrapped): (Vec<Slot>, Vec<Slot>) =
            self.slots[..first_free].iter().partition(|slot| self.home(slot[0]) <= first_free);
        for slot in &self.slots[first_free..] {
            if is_taken(slot) {
                row.push(*slot);
            } else {
                emit(&mut row, &mut visit)?;
            }
        }
        row.extend(wrapped);
        emit(&mut row, &mut visit)
    }
}

fn emit<E>(row: &mut Vec<Slot>, visit: &mut impl FnMut(Entry) -> Result<(), E>) -> Result<(), E> {
    row.sort_unstable_by_key(|&[high, low, ..]| (high, low));
    row.drain(..).try_for_each(|slot| visit((key(&slot), seen(&slot))))
}

fn is_taken(slot: &Slot) -> bool {
    (slot[0], slot[1]) != (0, 0)
}

fn key(&[high, low, ..]: &Slot) -> Fingerprint {
    Fingerprint::from_bits(u128::from(high) << 64 | u128::from(low))
}

fn seen(&[.., sequence, timestamp]: &Slot) -> Seen {
    Seen { sequence: sequence.cast_signed(), timestamp_unix_micros: timestamp.cast_signed() }
}

fn to_slot(key: Fingerprint, seen: Seen) -> Slot {
    [key.high(), key.low(), seen.sequence.cast_unsigned(), seen.timestamp_unix_micros.cast_unsigned()]
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, convert::Infallible};

    use super::*;
    use crate::io::sim::SimRng;

    fn at(sequence: i64) -> Seen {
        Seen { sequence, timestamp_unix_micros: sequence * 3 - 7 }
    }

    fn listed(table: &Table) -> Vec<Entry> {
        let mut all = Vec::new();
        let Ok(()) = table.for_each_in_order(|entry| {
            all.push(entry);
            Ok::<_, Infallible>(())
        });
        all
    }

    /// Keys that are spread, or crowd at either end, so that rows of slots are long and wrap.
    fn random_key(rng: &mut SimRng, manner: u64) -> Fingerprint {
        let (high, low) = (rng.next_u64(), rng.next_u64());
        let high = match manner {
            0 => high,
            1 => !0 - high % 40,
            _ => [high % 40, !0 - high % 40, high][(low % 3) as usize],
        };
        Fingerprint::from_bits(u128::from(high) << 64 | u128::from(low % 8))
    }

    #[test]
    fn it_agrees_with_a_map_under_any_order_of_calls() {
        for seed in 0..60 {
            let mut rng = SimRng::new(seed);
            let mut model = BTreeMap::new();
            let mut table = Table::with_room(rng.below(300) as usize);
            for sequence in 1..rng.below(1500) as i64 {
                let key = random_key(&mut rng, seed % 3);
                assert_eq!(table.get(key), model.get(&key).copied());
                match rng.below(3) {
                    0 => {
                        assert_eq!(table.get_or_insert(key, at(sequence)), model.get(&key).copied());
                        model.entry(key).or_insert(at(sequence));
                    }
                    _ => {
                        let new = at(rng.below(1000) as i64);
                        table.raise(key, new);
                        let known = model.entry(key).or_insert(new);
                        if known.sequence < new.sequence {
                            *known = new;
                        }
                    }
                }
                assert_eq!(table.len(), model.len());
            }
            assert_eq!(listed(&table), model.into_iter().collect::<Vec<_>>(), "seed {seed}");
        }
    }

    #[test]
    fn it_does_not_grow_before_it_is_as_full_as_was_said() {
        for keys in [0, 1, 223, 224, 225, 1000, 7 << 17] {
            let mut table = Table::with_room(keys);
            let bytes = table.memory_bytes();
            let mut rng = SimRng::new(keys as u64);
            for sequence in 0..keys.min(5000) as i64 {
                table.raise(random_key(&mut rng, 0), at(sequence));
            }
            assert_eq!(table.memory_bytes(), bytes, "{keys} keys");
            assert!(bytes <= 32 * 256 + 32 * keys * 8 / 7 * 2, "{bytes} bytes for {keys} keys");
        }
    }
}
