//! Runs a program over the bytes of a record: one pass, no copy, nothing allocated but what a thread keeps.
//!
//! The run says [`Some`] only for what is surely one JSON text that the schema accepts: well-formed, in UTF-8, no deeper
//! than [`DEPTH_MAX`], each member named once, each value as its node wants it. Everything else is [`None`], which means
//! "not sure" and never "invalid": an escaped name, an integer as `1.0`, a number of many digits, a leap second, and of
//! course all that is wrong. The tape and the reference decide then.

use crate::schema::{
    DEPTH_MAX,
    program::{Members, NO_PROPERTY, Node, Program, Property, Values, types},
};

mod formats;
mod numbers;
mod strings;

/// The most members that the schema does not name in one object: each is compared with those before it.
const OTHERS_MAX: usize = 16;

/// How many programs a thread remembers.
const REMEMBERED_MAX: usize = 32;

/// What a thread keeps from record to record. It makes runs faster, and never changes what they say.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// By program: in which order members came, as the property that follows each.
    guesses: Vec<(u64, Box<[u8]>)>,
    /// Where in `guesses` the last program was.
    last: usize,
    /// Where the names are that the schema does not name, of the objects not yet closed.
    others: Vec<(usize, usize)>,
}

impl Memory {
    /// Whether `payload` is surely valid.
    pub(super) fn accepts(&mut self, program: &Program, payload: &[u8]) -> bool {
        let place = self.place(program);
        let Some((_, guesses)) = self.guesses.get_mut(place) else { return false };
        self.others.clear();
        let mut run = Run { program, text: payload, depth: 0, high: 0, guesses, others: &mut self.others };
        run.whole().is_some()
    }

    /// Where the guesses for `program` are.
    fn place(&mut self, program: &Program) -> usize {
        if self.guesses.get(self.last).is_some_and(|(id, _)| *id == program.id) {
            return self.last;
        }
        let found = self.guesses.iter().position(|(id, _)| *id == program.id);
        self.last = found.unwrap_or_else(|| {
            let fresh = (program.id, vec![NO_PROPERTY; program.guesses].into_boxed_slice());
            if self.guesses.len() < REMEMBERED_MAX {
                self.guesses.push(fresh);
                return self.guesses.len() - 1;
            }
            let place = (self.last + 1) % REMEMBERED_MAX;
            self.guesses[place] = fresh;
            place
        });
        self.last
    }
}

/// A run in progress. Its functions take the next byte to look at and give the one after what they went past: a number that
/// stays in a register.
struct Run<'a> {
    program: &'a Program,
    text: &'a [u8],
    /// Objects and arrays not yet closed.
    depth: usize,
    /// All bytes of strings, or-ed: their top bits say whether any is beyond ASCII.
    high: u64,
    guesses: &'a mut [u8],
    others: &'a mut Vec<(usize, usize)>,
}

/// The top bit of each byte.
const HIGH_BITS: u64 = 0x8080_8080_8080_8080;

impl<'a> Run<'a> {
    fn whole(&mut self) -> Option<()> {
        let at = self.space(0);
        let at = self.value(at, self.program.root)?;
        if self.space(at) != self.text.len() || (self.high & HIGH_BITS != 0 && std::str::from_utf8(self.text).is_err())
        {
            return None;
        }
        Some(())
    }

    #[inline]
    fn peek(&self, at: usize) -> Option<u8> {
        self.text.get(at).copied()
    }

    /// Goes past white space, of which there is usually none.
    #[inline]
    fn space(&self, mut at: usize) -> usize {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek(at) {
            at += 1;
        }
        at
    }

    fn value(&mut self, at: usize, number: usize) -> Option<usize> {
        let node = self.program.nodes.get(number)?;
        match self.peek(at)? {
            b'"' => self.string(at, node),
            b'-' | b'0'..=b'9' => self.number(at, node),
            b'{' => self.nested(at, node, types::OBJECT, Self::object),
            b'[' => self.nested(at, node, types::ARRAY, Self::array),
            b'n' => self.word(at, node, b"null", types::NULL, |values| values.null),
            b't' => self.word(at, node, b"true", types::BOOLEAN, |values| values.yes),
            b'f' => self.word(at, node, b"false", types::BOOLEAN, |values| values.no),
            _ => None,
        }
    }

    #[inline]
    fn word<const N: usize>(
        &self,
        at: usize,
        node: &Node,
        word: &[u8; N],
        wanted: u8,
        allowed: fn(&Values) -> bool,
    ) -> Option<usize> {
        let fits = node.types & wanted != 0
            && node.values.as_deref().is_none_or(allowed)
            && self.text.get(at..)?.first_chunk() == Some(word);
        fits.then_some(at + N)
    }

    /// An object or an array, by what goes past its inside and the closing bracket.
    #[inline]
    fn nested(
        &mut self,
        at: usize,
        node: &'a Node,
        wanted: u8,
        inside: fn(&mut Self, usize, &'a Node) -> Option<usize>,
    ) -> Option<usize> {
        if node.types & wanted == 0 || node.values.is_some() || self.depth >= DEPTH_MAX {
            return None;
        }
        self.depth += 1;
        let at = inside(self, self.space(at + 1), node)?;
        self.depth -= 1;
        Some(at)
    }

    fn array(&mut self, mut at: usize, node: &'a Node) -> Option<usize> {
        let elements = &node.elements;
        let mut count = 0usize;
        if self.peek(at)? == b']' {
            at += 1;
        } else {
            loop {
                at = self.value(at, elements.node)?;
                count += 1;
                let goes_on;
                (at, goes_on) = self.goes_on(at, b']')?;
                if !goes_on {
                    break;
                }
            }
        }
        (elements.count_min..=elements.count_max).contains(&count).then_some(at)
    }

    fn object(&mut self, mut at: usize, node: &'a Node) -> Option<usize> {
        let members = &node.members;
        let (others_from, mut seen, mut count, mut slot) = (self.others.len(), 0u64, 0usize, members.guesses_at);
        if self.peek(at)? == b'}' {
            at += 1;
        } else {
            loop {
                let index;
                (at, index) = self.name(at, members, slot)?;
                at = self.space(at);
                count += 1;
                let number = if let Some(property) = members.properties.get(index) {
                    let bit = 1u64 << (index & 63);
                    if seen & bit != 0 {
                        return None;
                    }
                    seen |= bit;
                    slot = members.guesses_at + index + 1;
                    property.node
                } else {
                    self.is_new(others_from).then_some(())?;
                    members.others?
                };
                at = self.value(at, number)?;
                let goes_on;
                (at, goes_on) = self.goes_on(at, b'}')?;
                if !goes_on {
                    break;
                }
            }
        }
        self.others.truncate(others_from);
        let fits = members.required & !seen == 0 && (members.count_min..=members.count_max).contains(&count);
        fits.then_some(at)
    }

    /// Whether the last of `others` differs from those before it of the same object, which begin at `from`.
    fn is_new(&self, from: usize) -> bool {
        let Some((last, before)) = self.others.get(from..).and_then(<[_]>::split_last) else { return false };
        let name = self.text.get(last.0..last.1);
        before.len() < OTHERS_MAX && before.iter().all(|&(from, to)| self.text.get(from..to) != name)
    }

    /// Goes past what comes after a member or an element: false if that is `close`.
    #[inline]
    fn goes_on(&self, at: usize, close: u8) -> Option<(usize, bool)> {
        let at = self.space(at);
        let byte = self.peek(at)?;
        if byte == b',' {
            return Some((self.space(at + 1), true));
        }
        (byte == close).then_some((at + 1, false))
    }

    /// Goes past a name and its colon: the property's index, or [`usize::MAX`] for a new entry of `others`.
    #[inline]
    fn name(&mut self, at: usize, members: &Members, slot: usize) -> Option<(usize, usize)> {
        let guess = usize::from(*self.guesses.get(slot)?);
        if let Some(property) = members.properties.get(guess) {
            if let Some(after) = self.meets(at, property) {
                return Some((after, guess));
            }
            // One that is often left out: what usually comes after it.
            let next = usize::from(*self.guesses.get(members.guesses_at + guess + 1)?);
            if let Some(after) = members.properties.get(next).and_then(|property| self.meets(at, property)) {
                return Some((after, next));
            }
        }
        self.search(at, members, slot)
    }

    /// Goes past the name of `property` and its colon, if they come next.
    #[inline]
    fn meets(&mut self, at: usize, property: &Property) -> Option<usize> {
        let rest = self.text.get(at..)?;
        let [head, more, ..] = rest.as_chunks::<8>().0 else { return None };
        let differs = ((u64::from_le_bytes(*head) ^ property.head[0]) & property.head_mask[0])
            | ((u64::from_le_bytes(*more) ^ property.head[1]) & property.head_mask[1]);
        if differs != 0 || (property.quoted.len() > 16 && !rest.starts_with(&property.quoted)) {
            return None;
        }
        self.high |= property.high;
        Some(at + property.quoted.len())
    }

    /// What [`Self::name`] does, without a guess.
    #[inline(never)]
    fn search(&mut self, at: usize, members: &Members, slot: usize) -> Option<(usize, usize)> {
        if self.peek(at)? != b'"' {
            return None;
        }
        let scan = self.scan(at)?;
        if scan.escaped {
            return None;
        }
        let colon = self.space(scan.to + 1);
        if self.peek(colon)? != b':' {
            return None;
        }
        let name = self.text.get(scan.from..scan.to)?;
        match members.properties.iter().position(|property| property.name() == name) {
            Some(index) => {
                *self.guesses.get_mut(slot)? = u8::try_from(index).ok()?;
                Some((colon + 1, index))
            }
            None => {
                self.others.push((scan.from, scan.to));
                Some((colon + 1, usize::MAX))
            }
        }
    }
}
