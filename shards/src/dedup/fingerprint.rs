//! Keys as 128-bit fingerprints: SipHash-1-3 with 128 bits of output (Aumasson and Bernstein, "SipHash: a fast short-input
//! PRF", 2012) of stream and key, under seeds that are drawn once for a data directory and kept in it.
//!
//! So a client cannot choose keys that collide, the files of an earlier process can be read, and no machine computes another
//! fingerprint than the one before. Two of 864 million keys share a fingerprint with a probability of about 10⁻²¹.

use crate::ids::StreamId;

/// What fingerprints are made with. Whoever knows them can make keys collide.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Seeds([u64; 2]);

/// A key of a stream. Never zero, and as good as random.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(u128);

impl std::fmt::Debug for Seeds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Seeds({:08x})", self.id())
    }
}

impl Seeds {
    /// New ones.
    #[must_use]
    pub fn draw() -> Self {
        let halves = || {
            let drawn = uuid::Uuid::new_v4().as_u128();
            // Six of a version 4 UUID's bits are fixed: two of them make 128 that are not.
            (drawn >> 64) as u64 ^ (drawn as u64).rotate_left(32)
        };
        Self([halves(), halves()])
    }

    /// Those with these bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        let [low, high] = [0, 8].map(|at| word(&bytes[at..at + 8]));
        Self([low, high])
    }

    /// Their bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        (u128::from(self.0[1]) << 64 | u128::from(self.0[0])).to_le_bytes()
    }

    /// A number by which files tell whether they were made with these seeds; it does not give them away.
    #[must_use]
    pub fn id(self) -> u64 {
        let mut state = State::new(self.0);
        state.word::<1>(u64::from_le_bytes(*b"seeds id"));
        state.finish::<1, 3>(&[], 8) as u64
    }

    /// For keys of one stream.
    #[must_use]
    pub fn of_stream(self, stream: StreamId) -> StreamSeeds {
        let mut state = State::new(self.0);
        for half in stream.as_bytes().chunks_exact(8) {
            state.word::<1>(word(half));
        }
        StreamSeeds(state)
    }
}

/// Makes the fingerprints of one stream's keys.
#[derive(Debug, Clone, Copy)]
pub struct StreamSeeds(State);

impl StreamSeeds {
    /// The fingerprint of `key`.
    #[must_use]
    pub fn fingerprint(&self, key: &[u8]) -> Fingerprint {
        let mut state = self.0;
        let words = key.chunks_exact(8);
        let rest = words.remainder();
        for bytes in words {
            state.word::<1>(word(bytes));
        }
        Fingerprint::from_bits(state.finish::<1, 3>(rest, 16 + key.len()))
    }
}

impl Fingerprint {
    /// The one with these bits; 0 is made 1.
    #[must_use]
    pub fn from_bits(bits: u128) -> Self {
        Self(bits.max(1))
    }

    /// Its bits.
    #[must_use]
    pub fn bits(self) -> u128 {
        self.0
    }

    /// The upper half, by which keys are ordered.
    #[must_use]
    pub fn high(self) -> u64 {
        (self.0 >> 64) as u64
    }

    /// The lower half, which goes into filters.
    #[must_use]
    pub fn low(self) -> u64 {
        self.0 as u64
    }
}

fn word(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("a slice of 8"))
}

/// The state of SipHash.
#[derive(Debug, Clone, Copy)]
struct State([u64; 4]);

impl State {
    fn new([k0, k1]: [u64; 2]) -> Self {
        Self([
            k0 ^ 0x736f_6d65_7073_6575,
            k1 ^ 0x646f_7261_6e64_6f6d ^ 0xee,
            k0 ^ 0x6c79_6765_6e65_7261,
            k1 ^ 0x7465_6462_7974_6573,
        ])
    }

    fn rounds<const N: usize>(&mut self) {
        let [mut a, mut b, mut c, mut d] = self.0;
        for _ in 0..N {
            a = a.wrapping_add(b);
            b = b.rotate_left(13) ^ a;
            a = a.rotate_left(32);
            c = c.wrapping_add(d);
            d = d.rotate_left(16) ^ c;
            a = a.wrapping_add(d);
            d = d.rotate_left(21) ^ a;
            c = c.wrapping_add(b);
            b = b.rotate_left(17) ^ c;
            c = c.rotate_left(32);
        }
        self.0 = [a, b, c, d];
    }

    fn word<const C: usize>(&mut self, word: u64) {
        self.0[3] ^= word;
        self.rounds::<C>();
        self.0[0] ^= word;
    }

    /// Takes the last bytes, fewer than 8, of an input of `len`, and gives 128 bits: the first 64 in the lower half.
    fn finish<const C: usize, const D: usize>(mut self, rest: &[u8], len: usize) -> u128 {
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.word::<C>(u64::from_le_bytes(last) | (len as u64) << 56);
        self.0[2] ^= 0xee;
        self.rounds::<D>();
        let low = self.0[0] ^ self.0[1] ^ self.0[2] ^ self.0[3];
        self.0[1] ^= 0xdd;
        self.rounds::<D>();
        let high = self.0[0] ^ self.0[1] ^ self.0[2] ^ self.0[3];
        u128::from(high) << 64 | u128::from(low)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The designers' own test vectors are of SipHash-2-4: the same code with more rounds.
    #[test]
    fn it_is_siphash() {
        let key: [u8; 16] = std::array::from_fn(|i| i as u8);
        let vectors = [
            "a3817f04ba25a8e66df67214c7550293",
            "da87c1d86b99af44347659119b22fc45",
            "8177228da4a45dc7fca38bdef60affe4",
            "9c70b60c5267a94e5f33b6b02985ed51",
        ];
        for (len, expected) in vectors.into_iter().enumerate() {
            let input: Vec<u8> = (0..len as u8).collect();
            let hash = State::new(Seeds::from_bytes(key).0).finish::<2, 4>(&input, len);
            let text: String = hash.to_le_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(text, expected, "{len} bytes");
        }
    }

    #[test]
    fn a_fingerprint_depends_on_seeds_stream_and_every_byte_of_the_key() {
        let seeds = Seeds::draw();
        assert_eq!(Seeds::from_bytes(seeds.to_bytes()), seeds);
        assert_ne!(seeds.id(), Seeds::draw().id());
        let stream = StreamId::generate();
        let of = |key: &[u8]| seeds.of_stream(stream).fingerprint(key);
        let key = b"a key of some length, over two words";
        assert_eq!(of(key), of(key));
        let mut seen: Vec<_> = (0..key.len() * 8)
            .map(|bit| {
                let mut flipped = *key;
                flipped[bit / 8] ^= 1 << (bit % 8);
                of(&flipped)
            })
            .chain((0..=key.len()).map(|len| of(&key[..len])))
            .chain([of(b"\0"), of(b"\0\0"), seeds.of_stream(StreamId::generate()).fingerprint(key)])
            .chain([Seeds::draw().of_stream(stream).fingerprint(key)])
            .collect();
        let count = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), count);
    }

    #[test]
    fn it_never_changes() {
        let seeds = Seeds::from_bytes(*b"sixteen of them!");
        let stream = StreamId::from_bytes([7; 16]);
        let bits = seeds.of_stream(stream).fingerprint(b"order-000000000042").bits();
        // Files of earlier processes hold such numbers.
        assert_eq!(format!("{bits:032x}"), "3095cd517e3182e30d9ab5f03ffa9e78");
    }
}
