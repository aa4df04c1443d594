//! Records made worse, from a seed: what the differential tests of validation feed to both sides.

/// A small generator with a fixed seed: the same run each time.
pub struct Random(pub u64);

impl Random {
    /// Any number.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

const TOKENS: [&str; 40] = [
    "null",
    "true",
    "false",
    "0",
    "-0",
    "1.0",
    "1e2",
    "1e400",
    "-1",
    "0.5",
    "18446744073709551616",
    "9223372036854775808",
    "01",
    "\"\"",
    "\"a\"",
    "\"\\u0061\"",
    "\"\\ud800\"",
    "\"\\udc00\"",
    "\"\\ud83d\\ude00\"",
    "\"é\"",
    "\\",
    "\"",
    "{}",
    "[]",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    " ",
    "\n",
    "\"a\":1",
    "\"flight\":1",
    "\"delay\":{}",
    "\"departure\":1",
    "\u{0}",
    "\u{feff}",
    "[1,1.0]",
    "{\"a\":1,\"a\":2}",
];

/// `record` with one or two changes: bits, pieces, tokens, values, members of `donor`.
pub fn mutate(record: &[u8], donor: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = record.to_vec();
    for _ in 0..=random.below(2) {
        let at = random.below(bytes.len() + 1);
        let end = (at + random.below(12)).min(bytes.len());
        match random.below(7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 => drop(bytes.drain(at..end)),
            2 => drop(bytes.splice(at..end, TOKENS[random.below(TOKENS.len())].bytes())),
            3 => drop(bytes.splice(at..at, TOKENS[random.below(TOKENS.len())].bytes())),
            4 if bytes.contains(&b':') => {
                // One value for another: the text stays JSON.
                let colons: Vec<_> = (0..bytes.len()).filter(|&index| bytes[index] == b':').collect();
                let start = colons[random.below(colons.len())] + 1;
                let length = bytes[start..].iter().position(|byte| matches!(byte, b',' | b'}')).unwrap_or(0);
                drop(bytes.splice(start..start + length, TOKENS[random.below(TOKENS.len())].bytes()));
            }
            5 => {
                // A member twice, or one from another record: from after a comma to the next one.
                let commas: Vec<_> = (0..donor.len()).filter(|&index| donor[index] == b',').collect();
                let first = random.below(commas.len().saturating_sub(1));
                if let [from, to, ..] = commas[first..] {
                    let own: Vec<_> = (0..bytes.len()).filter(|&index| bytes[index] == b',').collect();
                    if !own.is_empty() {
                        let at = own[random.below(own.len())];
                        drop(bytes.splice(at..at, donor[from..to].iter().copied()));
                    }
                }
            }
            _ => {
                let from = random.below(donor.len());
                let to = (from + random.below(40)).min(donor.len());
                drop(bytes.splice(at..at, donor[from..to].iter().copied()));
            }
        }
    }
    bytes
}
