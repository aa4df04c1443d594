//! A static set of 64-bit keys that answers "surely not" or "perhaps", in about 9 bits a key, or 18 for one wrong "perhaps"
//! in 65,536 instead of 256: a binary fuse filter (Graf and Lemire, "Binary Fuse Filters: Fast and Smaller Than Xor Filters",
//! ACM Journal of Experimental Algorithmics 27, 2022), with three places a key.
//!
//! Invariants: a key that was built in is never denied. The same keys make the same bytes. What [`Filter::from_bytes`] takes
//! can be asked without a further check. Keys should be well mixed hashes; whoever can choose them at will can make a filter
//! say "perhaps" more often, never wrongly "no".
//!
//! Little endian: u32 magic · u8 version (1) · u8 bytes a place (1 or 2) · u16 zero · u64 seed · u32 segment length · u32
//! segments · the places · u32 CRC32C of all before it.

use std::collections::BTreeSet;

const MAGIC: u32 = 0x4653_4642;
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 24;
const CHECKSUM_BYTES: usize = 4;
/// A key has a place in each of so many neighbouring segments.
const ARITY: u32 = 3;
const SEGMENT_LENGTH_MAX: u32 = 1 << 18;
/// Seeds that are tried. One fails with a probability of a few percent, so this many never do.
const ATTEMPTS_MAX: u64 = 100;

/// A set of keys. See the module's comment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    seed: u64,
    /// A power of two.
    segment_length: u32,
    /// In which a key's first place can be; two more follow them. 0: the set is empty.
    segments: u32,
    /// Bytes of a place: 1 or 2.
    width: u8,
    places: Box<[u8]>,
}

/// Bytes that are not a whole filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// Fewer or more bytes than the header asks for.
    #[error("the filter's length is wrong")]
    Length,
    /// A header field has a value that no writer gives it.
    #[error("the filter's {0} is wrong")]
    Field(&'static str),
    /// The checksum does not match.
    #[error("the filter's checksum is wrong")]
    Checksum,
}

impl Filter {
    /// A set of `keys` that says "perhaps" to one in 256 of the others. Keys may come twice. Takes about 100 ns and, for as
    /// long as it runs, 25 bytes a key.
    ///
    /// # Panics
    /// There are more than 2³⁰ keys.
    #[must_use]
    pub fn build(keys: &[u64]) -> Self {
        Self::build_with(keys, 1)
    }

    /// The same of twice the size, that says "perhaps" to one in 65,536.
    ///
    /// # Panics
    /// There are more than 2³⁰ keys.
    #[must_use]
    pub fn build_wide(keys: &[u64]) -> Self {
        Self::build_with(keys, 2)
    }

    fn build_with(keys: &[u64], width: u8) -> Self {
        assert!(keys.len() <= 1 << 30, "a filter of {} keys: divide them", keys.len());
        let mut distinct = std::borrow::Cow::Borrowed(keys);
        for attempt in 0..ATTEMPTS_MAX {
            if attempt == 1 {
                // Keys that come twice are the likely reason: no seed tells them apart.
                distinct = distinct.iter().copied().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().into();
            }
            let mut filter = Self::empty(distinct.len(), mix(attempt + 1), width);
            if let Some(order) = filter.peel(&distinct) {
                filter.assign(&order);
                return filter;
            }
        }
        unreachable!("{ATTEMPTS_MAX} seeds in a row fail with a probability below 2^-300");
    }

    /// A filter of the size for `keys` keys, its places zero.
    fn empty(keys: usize, seed: u64, width: u8) -> Self {
        if keys == 0 {
            return Self { seed, segment_length: 1, segments: 0, width, places: Box::default() };
        }
        // The constants are the paper's, for three places a key.
        let n = keys as f64;
        let segment_length = 1 << ((n.ln() / 3.33f64.ln() + 2.25).floor() as u32).min(SEGMENT_LENGTH_MAX.ilog2());
        let factor = if keys == 1 { 2.0 } else { (0.875 + 0.25 * 1e6f64.ln() / n.ln()).max(1.125) };
        let capacity = (n * factor).round() as u32;
        let segments = capacity.div_ceil(segment_length).saturating_sub(ARITY - 1).max(1);
        let places = (segments + ARITY - 1) as usize * segment_length as usize;
        Self { seed, segment_length, segments, width, places: vec![0; places * usize::from(width)].into() }
    }

    /// The places of the key with this hash.
    fn places_of(&self, hash: u64) -> [usize; ARITY as usize] {
        let range = u64::from(self.segments) * u64::from(self.segment_length);
        let first = ((u128::from(hash) * u128::from(range)) >> 64) as usize;
        let (length, mask) = (self.segment_length as usize, self.segment_length as usize - 1);
        [first, (first + length) ^ ((hash >> 18) as usize & mask), (first + 2 * length) ^ (hash as usize & mask)]
    }

    /// Finds an order in which each key has a place that no later one has: hash and which of its places. `None`: there is no
    /// such order under this seed.
    fn peel(&self, keys: &[u64]) -> Option<Vec<(u64, u8)>> {
        let places = self.places.len() / usize::from(self.width);
        // Of each place: how many keys have it, times 4, with the exclusive or of which place of theirs it is; and the
        // exclusive or of their hashes. So the hash of a place's only key can be read off.
        let mut counts = vec![0u8; places];
        let mut hashes = vec![0u64; places];
        for &key in keys {
            let hash = mix(key.wrapping_add(self.seed));
            for (which, place) in self.places_of(hash).into_iter().enumerate() {
                counts[place] = counts[place].checked_add(4)? ^ which as u8;
                hashes[place] ^= hash;
            }
        }
        let mut alone: Vec<u32> = (0..places as u32).filter(|&place| counts[place as usize] >> 2 == 1).collect();
        let mut order = Vec::with_capacity(keys.len());
        while let Some(place) = alone.pop() {
            if counts[place as usize] >> 2 != 1 {
                continue;
            }
            let (hash, its) = (hashes[place as usize], counts[place as usize] & 3);
            order.push((hash, its));
            for (which, place) in self.places_of(hash).into_iter().enumerate() {
                counts[place] = (counts[place] - 4) ^ which as u8;
                hashes[place] ^= hash;
                if counts[place] >> 2 == 1 {
                    alone.push(place as u32);
                }
            }
        }
        (order.len() == keys.len()).then_some(order)
    }

    /// Gives each key's own place the value that makes its three places come out as its fingerprint, last key first.
    fn assign(&mut self, order: &[(u64, u8)]) {
        for &(hash, its) in order.iter().rev() {
            let places = self.places_of(hash);
            let mut value = fingerprint(hash);
            for (which, &place) in places.iter().enumerate() {
                if which != usize::from(its) {
                    value ^= self.value(place);
                }
            }
            let at = places[usize::from(its)] * usize::from(self.width);
            let width = usize::from(self.width);
            self.places[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
        }
    }

    fn value(&self, place: usize) -> u16 {
        if self.width == 1 {
            u16::from(self.places[place])
        } else {
            u16::from_le_bytes([self.places[2 * place], self.places[2 * place + 1]])
        }
    }

    /// Whether `key` may be in the set; `false` is certain.
    #[must_use]
    pub fn contains(&self, key: u64) -> bool {
        if self.segments == 0 {
            return false;
        }
        let hash = mix(key.wrapping_add(self.seed));
        let [a, b, c] = self.places_of(hash);
        let rest = fingerprint(hash) ^ self.value(a) ^ self.value(b) ^ self.value(c);
        if self.width == 1 { rest as u8 == 0 } else { rest == 0 }
    }

    /// Bytes of memory.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.places.len()
    }

    /// Its form on disk, `places + 28` bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.places.len() + CHECKSUM_BYTES);
        bytes.extend_from_slice(&MAGIC.to_le_bytes());
        bytes.extend_from_slice(&[VERSION, self.width, 0, 0]);
        bytes.extend_from_slice(&self.seed.to_le_bytes());
        bytes.extend_from_slice(&self.segment_length.to_le_bytes());
        bytes.extend_from_slice(&self.segments.to_le_bytes());
        bytes.extend_from_slice(&self.places);
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        bytes
    }

    /// The filter that [`Filter::to_bytes`] gave; nothing may follow it.
    ///
    /// # Errors
    /// The bytes are no filter, or a damaged one.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FilterError> {
        let end =
            bytes.len().checked_sub(CHECKSUM_BYTES).filter(|&end| end >= HEADER_BYTES).ok_or(FilterError::Length)?;
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("a slice of 4"));
        if u32_at(0) != MAGIC {
            return Err(FilterError::Field("magic"));
        }
        if bytes[4] != VERSION || bytes[6..8] != [0, 0] {
            return Err(FilterError::Field("version"));
        }
        if crc32c::crc32c(&bytes[..end]) != u32_at(end) {
            return Err(FilterError::Checksum);
        }
        let (width, segment_length, segments) = (bytes[5], u32_at(16), u32_at(20));
        if !matches!(width, 1 | 2) {
            return Err(FilterError::Field("width"));
        }
        if !segment_length.is_power_of_two() || segment_length > SEGMENT_LENGTH_MAX {
            return Err(FilterError::Field("segment length"));
        }
        let places =
            if segments == 0 { 0 } else { (u64::from(segments) + u64::from(ARITY) - 1) * u64::from(segment_length) };
        if places * u64::from(width) != (end - HEADER_BYTES) as u64 {
            return Err(FilterError::Length);
        }
        let seed = u64::from_le_bytes(bytes[8..16].try_into().expect("a slice of 8"));
        Ok(Self { seed, segment_length, segments, width, places: bytes[HEADER_BYTES..end].into() })
    }
}

/// What a key's places come out as.
fn fingerprint(hash: u64) -> u16 {
    (hash ^ (hash >> 32)) as u16
}

/// The finaliser of MurmurHash3, as in the paper.
fn mix(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(count: u64, salt: u64) -> Vec<u64> {
        (0..count).map(|i| mix(i << 8 | salt)).collect()
    }

    #[test]
    fn every_key_is_found_at_every_size() {
        let sizes = (0..70).chain([100, 255, 256, 1000, 4096, 10_007, 65_536, 300_000]);
        for count in sizes {
            let keys = keys(count, 1);
            for filter in [Filter::build(&keys), Filter::build_wide(&keys)] {
                assert!(keys.iter().all(|&key| filter.contains(key)), "{count} keys");
            }
        }
    }

    #[test]
    fn others_are_denied_but_for_the_promised_share() {
        let (inside, outside) = (keys(100_000, 1), keys(1_000_000, 2));
        let narrow = Filter::build(&inside);
        let wrong = outside.iter().filter(|&&key| narrow.contains(key)).count();
        assert!((3_600..4_250).contains(&wrong), "{wrong} of 1,000,000: about 3,906 were expected");
        let wide = Filter::build_wide(&inside);
        let wrong = outside.iter().filter(|&&key| wide.contains(key)).count();
        assert!((1..45).contains(&wrong), "{wrong} of 1,000,000: about 15 were expected");
        assert!(!Filter::build(&[]).contains(0));
    }

    #[test]
    fn it_is_as_small_as_the_paper_says() {
        for count in [250_000, 1_000_000] {
            let bits = Filter::build(&keys(count, 3)).memory_bytes() as f64 * 8.0 / count as f64;
            assert!(bits < 9.6, "{bits} bits a key at {count} keys");
        }
    }

    #[test]
    fn keys_that_come_twice_or_in_a_row_do_no_harm() {
        let mut twice = keys(5000, 4);
        twice.extend_from_within(..2500);
        let filter = Filter::build(&twice);
        assert!(twice.iter().all(|&key| filter.contains(key)));
        assert!(filter.memory_bytes() < 5000 * 2, "they take no room");
        assert!(Filter::build(&vec![7; 1000]).contains(7));
        let row: Vec<_> = (0..100_000).collect();
        let filter = Filter::build(&row);
        assert!(row.iter().all(|&key| filter.contains(key)));
    }

    #[test]
    fn it_reads_back_and_any_damage_is_an_error() {
        for count in [0, 1, 2, 500] {
            for filter in [Filter::build(&keys(count, 5)), Filter::build_wide(&keys(count, 5))] {
                let bytes = filter.to_bytes();
                assert_eq!(Filter::from_bytes(&bytes), Ok(filter.clone()));
                assert_eq!(
                    bytes,
                    Filter::build_with(&keys(count, 5), filter.width).to_bytes(),
                    "the same keys, the same bytes"
                );
                for len in 0..bytes.len() {
                    assert!(Filter::from_bytes(&bytes[..len]).is_err(), "cut at {len}");
                }
                for bit in 0..bytes.len() * 8 {
                    let mut flipped = bytes.clone();
                    flipped[bit / 8] ^= 1 << (bit % 8);
                    assert!(Filter::from_bytes(&flipped).is_err(), "bit {bit}");
                }
            }
        }
    }

    #[test]
    fn a_header_that_lies_under_a_right_checksum_is_refused() {
        let bytes = Filter::build(&keys(500, 6)).to_bytes();
        for at in [4, 5, 16, 17, 18, 19, 20, 21, 22, 23] {
            for value in [0, 3, 0x80, 0xff] {
                let mut lying = bytes.clone();
                if lying[at] == value {
                    continue;
                }
                lying[at] = value;
                let end = lying.len() - CHECKSUM_BYTES;
                let checksum = crc32c::crc32c(&lying[..end]);
                lying[end..].copy_from_slice(&checksum.to_le_bytes());
                assert!(Filter::from_bytes(&lying).is_err(), "{value} at {at}");
            }
        }
    }
}
