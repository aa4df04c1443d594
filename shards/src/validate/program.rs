//! Runs a program over the bytes of a record: one pass, no copy, nothing allocated but what a thread keeps.
//!
//! The run says [`Some`] only for what is surely one JSON text that the schema accepts: well-formed, in UTF-8, no deeper
//! than [`DEPTH_MAX`], each member named once, each value as its node wants it. Everything else is [`None`], which means
//! "not sure" and never "invalid": an escaped name, an integer as `1e2`, a number of many digits, a leap second, and of
//! course all that is wrong. The tape and the reference decide then.

use crate::schema::{
    DEPTH_MAX,
    program::{Bits, Members, NO_PROPERTY, Node, Program, Quoted, Values, types},
};

mod branches;
mod formats;
mod numbers;
mod others;
mod stops;
mod strings;
mod uris;

use others::Others;

/// How many programs a thread remembers.
const REMEMBERED_MAX: usize = 32;

/// What a thread keeps from record to record. It makes runs faster, and never changes what they say.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// By program: in which order members came, as the property that follows each.
    guesses: Vec<(u64, Box<[u8]>)>,
    /// Where in `guesses` the last program was.
    last: usize,
    /// What must differ from what comes after it, of the objects and arrays not yet closed.
    others: Others,
    /// A string without its escapes.
    unescaped: Vec<u8>,
}

impl Memory {
    /// Whether `payload` is surely valid.
    pub(super) fn accepts(&mut self, program: &Program, payload: &[u8]) -> bool {
        let place = self.place(program);
        let Some((_, guesses)) = self.guesses.get_mut(place) else { return false };
        self.others.clear();
        let mut run = Run {
            program,
            text: payload,
            depth: 0,
            high: 0,
            spent: 0,
            guesses,
            others: &mut self.others,
            unescaped: &mut self.unescaped,
        };
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
    /// Bytes that were looked at again.
    spent: usize,
    guesses: &'a mut [u8],
    others: &'a mut Others,
    unescaped: &'a mut Vec<u8>,
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
        if node.types & types::BRANCHED != 0 {
            return self.branched(at, node);
        }
        self.own(at, node)
    }

    /// A value as `node` says, its branches aside.
    #[inline]
    fn own(&mut self, at: usize, node: &'a Node) -> Option<usize> {
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
        let mut group = self.others.begin();
        let mut count = 0usize;
        if self.peek(at)? == b']' {
            at += 1;
        } else {
            loop {
                let from = at;
                at = self.value(at, elements.node)?;
                count += 1;
                if elements.unique
                    && !(self.is_only_itself(from, at) && self.others.add(&mut group, self.text, from, at))
                {
                    return None;
                }
                let goes_on;
                (at, goes_on) = self.goes_on(at, b']')?;
                if !goes_on {
                    break;
                }
            }
        }
        self.others.end(&group);
        (elements.count_min..=elements.count_max).contains(&count).then_some(at)
    }

    /// Whether the value from `from` to `to` equals no other that is written in another way.
    fn is_only_itself(&self, from: usize, to: usize) -> bool {
        let Some(value) = self.text.get(from..to) else { return false };
        match value.first() {
            Some(b'"') => !value.contains(&b'\\'),
            Some(b'-' | b'0'..=b'9') => !value.iter().any(|byte| matches!(byte, b'.' | b'e' | b'E')),
            Some(b'n' | b't' | b'f') => true,
            _ => false,
        }
    }

    fn object(&mut self, mut at: usize, node: &'a Node) -> Option<usize> {
        let members = &node.members;
        let (mut seen, mut count, mut slot) = (Bits::default(), 0usize, members.guesses_at);
        let mut group = self.others.begin();
        if self.peek(at)? == b'}' {
            at += 1;
        } else {
            loop {
                let name = self.name(at, members, slot)?;
                count += 1;
                let number;
                (at, number) = match name {
                    Name::Of(index, after) => {
                        if !seen.insert(index) {
                            return None;
                        }
                        slot = members.guesses_at + index + 1;
                        (after, members.properties.get(index)?.node)
                    }
                    Name::Other { from, to, after } => {
                        if !self.others.add(&mut group, self.text, from, to) {
                            return None;
                        }
                        (after, members.others?)
                    }
                };
                at = self.value(self.space(at), number)?;
                let goes_on;
                (at, goes_on) = self.goes_on(at, b'}')?;
                if !goes_on {
                    break;
                }
            }
        }
        self.others.end(&group);
        let fits = members.required.are_in(&seen, members.properties.len())
            && (members.count_min..=members.count_max).contains(&count);
        fits.then_some(at)
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

    /// Goes past a name and its colon.
    #[inline]
    fn name(&mut self, at: usize, members: &Members, slot: usize) -> Option<Name> {
        let window = self.window(at);
        let guess = usize::from(*self.guesses.get(slot)?);
        if let Some(property) = members.properties.get(guess) {
            if let Some(after) = self.meets(window, at, &property.quoted) {
                return Some(Name::Of(guess, after));
            }
            // One that is often left out: what usually comes after it.
            let next = usize::from(*self.guesses.get(members.guesses_at + guess + 1)?);
            if let Some(property) = members.properties.get(next)
                && let Some(after) = self.meets(window, at, &property.quoted)
            {
                return Some(Name::Of(next, after));
            }
        }
        self.search(window, at, members, slot)
    }

    /// The 16 bytes from `at` on, with zeros for what comes after the end.
    #[inline]
    fn window(&self, at: usize) -> u128 {
        let rest = self.text.get(at..).unwrap_or_default();
        match rest.first_chunk() {
            Some(bytes) => u128::from_le_bytes(*bytes),
            None => last_window(rest),
        }
    }

    /// Goes past `quoted`, if that is what comes next, in the window and after it.
    #[inline]
    fn meets(&mut self, window: u128, at: usize, quoted: &Quoted) -> Option<usize> {
        if (window ^ quoted.head) & quoted.head_mask != 0
            || (quoted.bytes.len() > 16 && !self.text.get(at..)?.starts_with(&quoted.bytes))
        {
            return None;
        }
        self.high |= quoted.high;
        Some(at + quoted.bytes.len())
    }

    /// What [`Self::name`] does, without a guess.
    #[inline(never)]
    fn search(&mut self, window: u128, at: usize, members: &Members, slot: usize) -> Option<Name> {
        for (index, property) in members.properties.iter().enumerate() {
            if let Some(after) = self.meets(window, at, &property.quoted) {
                *self.guesses.get_mut(slot)? = u8::try_from(index).ok()?;
                return Some(Name::Of(index, after));
            }
        }
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
                Some(Name::Of(index, colon + 1))
            }
            None => Some(Name::Other { from: scan.from, to: scan.to, after: colon + 1 }),
        }
    }
}

/// What a name is, and where the colon after it ends.
enum Name {
    /// That of a property.
    Of(usize, usize),
    /// One that the schema does not name.
    Other { from: usize, to: usize, after: usize },
}

/// Fewer than 16 bytes as a window.
#[inline(never)]
fn last_window(rest: &[u8]) -> u128 {
    rest.iter().take(16).rev().fold(0, |window, &byte| window << 8 | u128::from(byte))
}
