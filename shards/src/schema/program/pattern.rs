//! A pattern as a program matches it: a row of classes of ASCII characters where the pattern is one, a regular expression
//! otherwise. Both read the translation that the reference matches, so only the way to match differs.

use regex::{Regex, RegexBuilder};

use super::super::PATTERN_BYTES_MAX;

/// The most classes in a row: each has a bit.
const CLASSES_MAX: usize = 8;

/// The most times that one class may be repeated.
const REPEATS_MAX: u32 = 4096;

/// A compiled `pattern`.
#[derive(Debug)]
pub(crate) enum Pattern {
    /// `^[A-Z]{3}-[0-9]+$` and its like.
    Row(Row),
    /// Any other.
    Expression(Regex),
}

/// Classes one after the other, from the start of the text.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    /// The classes that each byte is in.
    classes: Box<[u8; 256]>,
    runs: Box<[Run]>,
    /// Whether the text ends with the last run.
    to_end: bool,
}

/// From `min` to `max` characters of one class. What may come next is never of this class, if `min` and `max` differ: so to
/// take as many as there are is to take the right number.
#[derive(Debug, Clone, Copy)]
struct Run {
    class: u8,
    min: u32,
    max: u32,
}

impl Pattern {
    /// Compiles `pattern`, which remembers its matching in `cache_bytes`; `None` if it is no pattern.
    pub(crate) fn compile(pattern: &str, cache_bytes: usize) -> Option<Self> {
        let translated = jsonschema_regex::to_rust_regex(pattern).ok()?;
        if let Some(row) = Row::compile(&translated) {
            return Some(Self::Row(row));
        }
        let expression =
            RegexBuilder::new(&translated).size_limit(PATTERN_BYTES_MAX).dfa_size_limit(cache_bytes).build().ok()?;
        Some(Self::Expression(expression))
    }

    /// Whether it matches `text`, which is not, or not yet, known to be UTF-8.
    #[inline]
    pub(crate) fn matches(&self, text: &[u8]) -> bool {
        match self {
            Self::Row(row) => row.matches(text),
            Self::Expression(expression) => std::str::from_utf8(text).is_ok_and(|text| expression.is_match(text)),
        }
    }
}

impl Row {
    fn compile(pattern: &str) -> Option<Self> {
        let mut rest = pattern.strip_prefix('^')?.as_bytes();
        let mut sets: Vec<[bool; 256]> = Vec::new();
        let mut runs: Vec<Run> = Vec::new();
        let mut to_end = false;
        while let Some(&first) = rest.first() {
            if first == b'$' && rest.len() == 1 {
                to_end = true;
                break;
            }
            let set;
            (set, rest) = atom(rest)?;
            let (min, max);
            (min, max, rest) = repeats(rest)?;
            let number = match sets.iter().position(|other| *other == set) {
                Some(number) => number,
                None => {
                    sets.push(set);
                    sets.len() - 1
                }
            };
            if number >= CLASSES_MAX {
                return None;
            }
            runs.push(Run { class: 1 << number, min, max });
        }
        let mut classes = Box::new([0u8; 256]);
        for (byte, bits) in classes.iter_mut().enumerate() {
            for (number, set) in sets.iter().enumerate() {
                *bits |= u8::from(set[byte]) << number;
            }
        }
        let row = Self { classes, runs: runs.into(), to_end };
        row.is_plain().then_some(row)
    }

    /// Whether each run that may vary ends before anything that its class also takes.
    fn is_plain(&self) -> bool {
        self.runs.iter().enumerate().all(|(at, run)| {
            let shares = |other: &Run| self.classes.iter().any(|bits| bits & run.class != 0 && bits & other.class != 0);
            for next in &self.runs[at + 1..] {
                if run.min != run.max && shares(next) {
                    return false;
                }
                if next.min > 0 {
                    break;
                }
            }
            true
        })
    }

    fn matches(&self, text: &[u8]) -> bool {
        self.length(text).is_some_and(|length| length == text.len() || !self.to_end)
    }

    /// How many of the bytes that open `text` the row takes, which are ASCII; `None`: they do not match.
    #[inline]
    pub(crate) fn length(&self, text: &[u8]) -> Option<usize> {
        let mut rest = text;
        for run in &self.runs {
            let is_of_class = |byte: &&u8| self.classes[usize::from(**byte)] & run.class != 0;
            let taken = rest.iter().take(run.max as usize).take_while(is_of_class).count();
            if taken < run.min as usize {
                return None;
            }
            rest = rest.get(taken..)?;
        }
        Some(text.len() - rest.len())
    }

    /// Whether the row ends where the string does, and takes nothing that ends a string or stands for something else in one.
    pub(super) fn ends_strings(&self) -> bool {
        let stops = (0..0x20u8).chain([b'"', b'\\']);
        self.to_end && stops.into_iter().all(|byte| self.classes[usize::from(byte)] == 0)
    }
}

/// Characters that stand for themselves.
fn is_literal(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_-:/@,#%=; <>!~'\"".contains(&byte)
}

/// The class that opens `rest`, and what comes after it. Only ASCII, and only what means the same everywhere.
fn atom(rest: &[u8]) -> Option<([bool; 256], &[u8])> {
    let mut set = [false; 256];
    match *rest {
        [b'\\', byte, ref after @ ..] if b".-/+*?()[]{}^$|".contains(&byte) => {
            set[usize::from(byte)] = true;
            Some((set, after))
        }
        [b'[', ref inside @ ..] => {
            let end = inside.iter().position(|&byte| byte == b']')?;
            let mut left = &inside[..end];
            if left.is_empty() {
                return None;
            }
            while let Some(&byte) = left.first() {
                match *left {
                    [low, b'-', high, ref after @ ..] if low.is_ascii_alphanumeric() => {
                        if !high.is_ascii_alphanumeric() || high < low {
                            return None;
                        }
                        set[usize::from(low)..=usize::from(high)].fill(true);
                        left = after;
                    }
                    // A hyphen stands for itself only at the end.
                    [b'-'] => {
                        set[usize::from(b'-')] = true;
                        left = &[];
                    }
                    _ if byte.is_ascii_alphanumeric() || b"_.:/@ ".contains(&byte) => {
                        set[usize::from(byte)] = true;
                        left = &left[1..];
                    }
                    _ => return None,
                }
            }
            Some((set, &inside[end + 1..]))
        }
        [byte, ref after @ ..] if is_literal(byte) => {
            set[usize::from(byte)] = true;
            Some((set, after))
        }
        _ => None,
    }
}

/// How often the class before `rest` may come, and what comes after that.
fn repeats(rest: &[u8]) -> Option<(u32, u32, &[u8])> {
    let (min, max, after) = match rest {
        [b'?', after @ ..] => (0, 1, after),
        [b'*', after @ ..] => (0, u32::MAX, after),
        [b'+', after @ ..] => (1, u32::MAX, after),
        [b'{', inside @ ..] => {
            let end = inside.iter().position(|&byte| byte == b'}')?;
            let (counts, after) = (&inside[..end], &inside[end + 1..]);
            let (min, max) = match counts.iter().position(|&byte| byte == b',') {
                None => (number(counts)?, number(counts)?),
                Some(comma) if comma + 1 == counts.len() => (number(&counts[..comma])?, u32::MAX),
                Some(comma) => (number(&counts[..comma])?, number(&counts[comma + 1..])?),
            };
            (min, max, after)
        }
        _ => return Some((1, 1, rest)),
    };
    // Lazy or possessive, or repeated again.
    if matches!(after.first(), Some(b'?' | b'+' | b'*' | b'{')) || min > max || min > REPEATS_MAX {
        return None;
    }
    Some((min, max, after))
}

fn number(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() || digits.len() > 4 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `\d` and its like are translated to classes before.
    #[test]
    fn rows_and_expressions_agree() {
        let texts = [
            "",
            "a",
            "A",
            "ABC",
            "ABCD",
            "ABc",
            "u_1",
            "u_",
            "u_1234567890123",
            "UA1545-20130101-EWR",
            "12",
            "1.2",
            "1x2",
            "a-b",
            "é",
            "ABé",
            "\n",
            "ABC\n",
            "aab",
            "aaab",
            "ab",
            "-",
            "a b",
            "a/b",
        ];
        for (pattern, is_row) in [
            ("^[A-Z]{3}$", true),
            ("^[A-Z0-9]{2}[0-9]{1,4}-[0-9]{8}-[A-Z]{3}$", true),
            ("^u_[0-9]{1,12}$", true),
            ("^s_[0-9a-f]{16}$", true),
            (r"^\d+\.\d+$", true),
            ("^[a-z]*", true),
            ("^[A-Z]?", true),
            ("^$", true),
            ("^", true),
            ("^[A-Z-]+$", true),
            ("^a/b$", true),
            ("^a*ab$", false),
            ("^[a-z]?b?a$", false),
            ("^a|b$", false),
            ("[A-Z]{3}", false),
            ("^(ab)+$", false),
            ("^[^a]$", false),
            ("^.$", false),
            ("^a+?b", false),
            ("^é$", false),
        ] {
            let compiled = Pattern::compile(pattern, 1 << 20).expect(pattern);
            assert_eq!(matches!(compiled, Pattern::Row(_)), is_row, "{pattern}");
            let translated = jsonschema_regex::to_rust_regex(pattern).expect(pattern);
            let expression = Regex::new(&translated).expect(pattern);
            for text in texts {
                assert_eq!(compiled.matches(text.as_bytes()), expression.is_match(text), "{pattern} {text:?}");
            }
        }
    }
}
