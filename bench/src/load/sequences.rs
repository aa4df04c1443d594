//! The sequence numbers that were acked: one bit each.

use std::collections::BTreeMap;

const WORDS: usize = 1 << 14;
const BITS: i64 = (WORDS * 64) as i64;

/// A set of sequence numbers, dense in memory where it is dense in number.
#[derive(Debug, Default, Clone)]
pub struct Sequences {
    chunks: BTreeMap<i64, Box<[u64]>>,
    len: u64,
}

impl Sequences {
    /// Adds `first..=last`; how many of them were there already.
    pub fn insert(&mut self, first: i64, last: i64) -> u64 {
        let mut twice = 0;
        let mut at = first;
        while at <= last {
            let (chunk, offset) = (at.div_euclid(BITS), at.rem_euclid(BITS));
            let words = self.chunks.entry(chunk).or_insert_with(|| vec![0; WORDS].into_boxed_slice());
            let (word, bit) = ((offset / 64) as usize, (offset % 64) as u32);
            let count = (last - at + 1).min(i64::from(64 - bit)) as u32;
            let mask = (u64::MAX >> (64 - count)) << bit;
            twice += u64::from((words[word] & mask).count_ones());
            words[word] |= mask;
            at += i64::from(count);
        }
        self.len += ((last - first + 1).max(0) as u64) - twice;
        twice
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Adds all of `other`; how many were there already.
    pub fn merge(&mut self, other: &Self) -> u64 {
        other.ranges().map(|(first, last)| self.insert(first, last)).sum()
    }

    /// Its runs, each as first and last, ascending.
    pub fn ranges(&self) -> impl Iterator<Item = (i64, i64)> {
        let mut words = self.chunks.iter().flat_map(|(&chunk, words)| {
            words.iter().enumerate().map(move |(index, &word)| (chunk * BITS + index as i64 * 64, word))
        });
        let mut current: Option<(i64, u64)> = None;
        let mut open: Option<(i64, i64)> = None;
        std::iter::from_fn(move || {
            loop {
                let (base, word) = match current.take().filter(|&(_, word)| word != 0).or_else(|| words.next()) {
                    Some(word) => word,
                    None => return open.take(),
                };
                if word == 0 {
                    continue;
                }
                let from = word.trailing_zeros();
                let len = (word >> from).trailing_ones();
                let (first, last) = (base + i64::from(from), base + i64::from(from + len) - 1);
                let left = if from + len >= 64 { 0 } else { word & (u64::MAX << (from + len)) };
                current = Some((base, left));
                match &mut open {
                    Some(run) if run.1 + 1 == first => run.1 = last,
                    _ => {
                        if let Some(run) = open.replace((first, last)) {
                            return Some(run);
                        }
                    }
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_come_back_joined_over_words_and_chunks() {
        let mut set = Sequences::default();
        let edges =
            [(1, 1), (3, 70), (71, 130), (BITS - 5, BITS + 5), (BITS * 3, BITS * 3 + 64), (BITS * 9 - 1, BITS * 9 - 1)];
        for (first, last) in edges.iter().rev() {
            assert_eq!(set.insert(*first, *last), 0);
        }
        let want = [(1, 1), (3, 130), (BITS - 5, BITS + 5), (BITS * 3, BITS * 3 + 64), (BITS * 9 - 1, BITS * 9 - 1)];
        assert_eq!(set.ranges().collect::<Vec<_>>(), want);
        assert_eq!(set.len(), edges.iter().map(|(first, last)| (last - first + 1) as u64).sum::<u64>());
    }

    #[test]
    fn what_comes_twice_is_counted() {
        let mut set = Sequences::default();
        set.insert(10, 200);
        assert_eq!(set.insert(150, 250), 51);
        assert_eq!(set.len(), 241);
        let mut other = Sequences::default();
        other.insert(250, 260);
        assert_eq!(set.merge(&other), 1);
        assert_eq!(set.ranges().collect::<Vec<_>>(), [(10, 260)]);
    }
}
