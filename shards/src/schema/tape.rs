//! The tape of one record as `jsonschema` sees it: the fast path of validation.
//!
//! A [`Document`] exists only for a tape in which every object names each member once ([`Wide::index`] says so), so the
//! tape and a map of members mean the same. Lookups scan an object of up to [`NARROW`] members and hash in a wider one,
//! so no record makes validation quadratic.

use std::{borrow::Cow, ops::ControlFlow, sync::LazyLock};

use ahash::RandomState;
use jsonschema::{
    JsonType,
    json::{Array, Json, JsonNumber, Node, NodeIdentity, Object, SerdeJson},
};
use serde_json::{Number, Value};
use simd_json::{Node as Entry, StaticNode};

/// The most members an object may have for lookups to scan it.
pub(crate) const NARROW: usize = 32;

/// One hasher for schemas and records, seeded when the process starts: clients cannot aim for collisions.
static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// How many entries of the tape the value at `entry` takes.
fn span(entry: &Entry<'_>) -> usize {
    match entry {
        Entry::Object { count, .. } | Entry::Array { count, .. } => count + 1,
        _ => 1,
    }
}

/// An object names one member twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DuplicateKey;

/// Where the members of a record's wide objects are: a hash table with open addressing, kept from record to record.
#[derive(Debug, Default)]
pub(crate) struct Wide {
    slots: Vec<Slot>,
}

/// A member: the entries of its object and of its name. Entry 0 is no name, so it marks a free slot.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    object: u32,
    name: u32,
}

impl Wide {
    /// Indexes the wide objects of `entries` and makes sure that no object names a member twice.
    pub(crate) fn index(&mut self, entries: &[Entry<'_>]) -> Result<(), DuplicateKey> {
        self.slots.clear();
        let mut wide_members = 0;
        for (at, entry) in entries.iter().enumerate() {
            match entry {
                Entry::Object { len: 0 | 1, .. } => {}
                Entry::Object { len, .. } if *len > NARROW => wide_members += len,
                Entry::Object { len, .. } => check_narrow(&entries[at + 1..], *len)?,
                _ => {}
            }
        }
        if wide_members > 0 {
            self.fill(entries, wide_members)?;
        }
        Ok(())
    }

    #[cold]
    fn fill(&mut self, entries: &[Entry<'_>], members: usize) -> Result<(), DuplicateKey> {
        self.slots.resize((members * 2).next_power_of_two(), Slot::default());
        for (object, entry) in entries.iter().enumerate() {
            let &Entry::Object { len, .. } = entry else { continue };
            if len <= NARROW {
                continue;
            }
            let mut name = object + 1;
            for _ in 0..len {
                let Entry::String(text) = entries[name] else { unreachable!("a member begins with its name") };
                let (slot, taken) = self.find(entries, object, text, HASHER.hash_one(text));
                if taken.is_some() {
                    return Err(DuplicateKey);
                }
                // A tape has fewer entries than its text has bytes, which simd-json holds under 2^32.
                self.slots[slot] = Slot { object: object as u32, name: name as u32 };
                name += 1 + span(&entries[name + 1]);
            }
        }
        Ok(())
    }

    /// The slot for member `text` of the wide object at `object`, and the entry of its name if it is there.
    fn find(&self, entries: &[Entry<'_>], object: usize, text: &str, hash: u64) -> (usize, Option<usize>) {
        let mask = self.slots.len() - 1;
        let mut slot = (hash as usize ^ object.wrapping_mul(0x9e37_79b9)) & mask;
        loop {
            let Slot { object: owner, name } = self.slots[slot];
            if name == 0 {
                return (slot, None);
            }
            if owner as usize == object && matches!(entries[name as usize], Entry::String(other) if other == text) {
                return (slot, Some(name as usize));
            }
            slot = (slot + 1) & mask;
        }
    }
}

/// Makes sure that the object of `len` members whose first name opens `entries` names each once. Names fall into 256
/// buckets; only one that meets a used bucket is compared with those before it.
#[inline]
fn check_narrow(entries: &[Entry<'_>], len: usize) -> Result<(), DuplicateKey> {
    let mut seen = [0u64; 4];
    let mut at = 0;
    for _ in 0..len {
        let [Entry::String(name), value, ..] = &entries[at..] else { unreachable!("a member is a name and a value") };
        let bucket = bucket(name.as_bytes());
        let (word, bit) = (usize::from(bucket >> 6), 1u64 << (bucket & 63));
        if seen[word] & bit != 0 && holds_name(&entries[..at], name) {
            return Err(DuplicateKey);
        }
        seen[word] |= bit;
        at += 1 + span(value);
    }
    Ok(())
}

/// A cheap hash of a name: its length and its ends.
#[inline]
fn bucket(name: &[u8]) -> u8 {
    let length = name.len() as u32;
    let mixed = match (name.first_chunk(), name.last_chunk()) {
        (Some(head), Some(tail)) => u32::from_le_bytes(*head).rotate_left(7) ^ u32::from_le_bytes(*tail) ^ length,
        _ => name.iter().fold(length, |mixed, &byte| mixed << 8 | u32::from(byte)),
    };
    (mixed.wrapping_mul(0x9e37_79b1) >> 24) as u8
}

/// Whether the members that `entries` holds one after the other include one of this name.
#[cold]
fn holds_name(entries: &[Entry<'_>], name: &str) -> bool {
    let mut at = 0;
    while let [Entry::String(other), value, ..] = &entries[at..] {
        if *other == name {
            return true;
        }
        at += 1 + span(value);
    }
    false
}

/// A parsed record.
#[derive(Debug)]
pub(crate) struct Document<'a> {
    /// The tape; the record is the value at entry 0.
    pub(crate) entries: &'a [Entry<'a>],
    /// The index of the tape's wide objects.
    pub(crate) wide: &'a Wide,
}

/// The value at one entry of a tape.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TapeNode<'a> {
    document: &'a Document<'a>,
    at: usize,
}

impl<'a> TapeNode<'a> {
    /// The whole record.
    pub(crate) fn root(document: &'a Document<'a>) -> Self {
        Self { document, at: 0 }
    }

    fn entry(self) -> &'a Entry<'a> {
        &self.document.entries[self.at]
    }
}

/// [`Json`] over simd-json's tape.
#[derive(Debug)]
pub(crate) struct TapeJson;

/// A member's name as a schema looks it up.
#[derive(Debug)]
pub(crate) struct PreparedKey {
    text: Box<str>,
    hash: u64,
}

impl Json for TapeJson {
    type Node<'a> = TapeNode<'a>;
    type PreparedKey = PreparedKey;
    type StringBuffer = ();

    // A lookup walks the members, so one walk replaces any number of lookups.
    const KEYS_PER_LOOKUP: usize = 16;
    const ACYCLIC: bool = true;

    fn prepare_key(key: &str) -> PreparedKey {
        PreparedKey { text: key.into(), hash: HASHER.hash_one(key) }
    }

    fn with_string_node<T>((): &mut (), string: &str, f: impl FnOnce(TapeNode<'_>) -> T) -> T {
        let (entries, wide) = ([Entry::String(string)], Wide::default());
        f(TapeNode::root(&Document { entries: &entries, wide: &wide }))
    }
}

impl<'a> Node<'a, TapeJson> for TapeNode<'a> {
    type Object = Members<'a>;
    type Array = Elements<'a>;
    type Number = TapeNumber;

    fn as_object(&self) -> Option<Members<'a>> {
        match self.entry() {
            &Entry::Object { len, .. } => Some(Members { document: self.document, at: self.at, len }),
            _ => None,
        }
    }

    fn as_array(&self) -> Option<Elements<'a>> {
        match self.entry() {
            &Entry::Array { len, .. } => Some(Elements { document: self.document, at: self.at + 1, len }),
            _ => None,
        }
    }

    fn as_string(&self) -> Option<Cow<'a, str>> {
        match self.entry() {
            Entry::String(text) => Some(Cow::Borrowed(text)),
            _ => None,
        }
    }

    fn as_number(&self) -> Option<TapeNumber> {
        match self.entry() {
            Entry::Static(StaticNode::I64(value)) => Some(TapeNumber::Signed(*value)),
            Entry::Static(StaticNode::U64(value)) => Some(TapeNumber::Unsigned(*value)),
            Entry::Static(StaticNode::F64(value)) => Some(TapeNumber::Float(*value)),
            _ => None,
        }
    }

    fn as_boolean(&self) -> Option<bool> {
        match self.entry() {
            Entry::Static(StaticNode::Bool(value)) => Some(*value),
            _ => None,
        }
    }

    fn is_null(&self) -> bool {
        matches!(self.entry(), Entry::Static(StaticNode::Null))
    }

    fn is_string(&self) -> bool {
        matches!(self.entry(), Entry::String(_))
    }

    fn json_type(&self) -> JsonType {
        match self.entry() {
            Entry::String(_) => JsonType::String,
            Entry::Object { .. } => JsonType::Object,
            Entry::Array { .. } => JsonType::Array,
            Entry::Static(StaticNode::Null) => JsonType::Null,
            Entry::Static(StaticNode::Bool(_)) => JsonType::Boolean,
            Entry::Static(_) => JsonType::Number,
        }
    }

    fn string_length_within(&self, min: u64, max: u64) -> Option<bool> {
        let Entry::String(text) = self.entry() else { return None };
        // A code point takes one to four bytes: often that decides without counting.
        let (most, fewest) = (text.len() as u64, (text.len() as u64).div_ceil(4));
        Some(if most < min || fewest > max {
            false
        } else if min <= fewest && most <= max {
            true
        } else {
            (min..=max).contains(&(text.chars().count() as u64))
        })
    }

    fn equals_value(&self, expected: &Value) -> bool {
        match (self.entry(), expected) {
            (Entry::String(text), Value::String(expected)) => text == expected,
            (Entry::Static(StaticNode::Bool(value)), Value::Bool(expected)) => value == expected,
            (Entry::Static(StaticNode::Null), Value::Null) => true,
            (Entry::Static(_), Value::Number(_))
            | (Entry::Object { .. }, Value::Object(_))
            | (Entry::Array { .. }, Value::Array(_)) => {
                let value: &Value = &self.to_value();
                Node::<SerdeJson>::equals_value(&value, expected)
            }
            _ => false,
        }
    }

    /// Recurses no deeper than the record nests, which the parser bounds.
    fn to_value(&self) -> Cow<'a, Value> {
        Cow::Owned(match self.entry() {
            Entry::String(text) => Value::String((*text).to_owned()),
            Entry::Static(StaticNode::Null) => Value::Null,
            Entry::Static(StaticNode::Bool(value)) => Value::Bool(*value),
            Entry::Static(_) => Value::Number(self.as_number().expect("every other static entry is a number").number()),
            &Entry::Object { len, .. } => Value::Object(
                Members { document: self.document, at: self.at, len }
                    .members()
                    .map(|(name, value)| (name.to_owned(), value.to_value().into_owned()))
                    .collect(),
            ),
            &Entry::Array { len, .. } => Value::Array(
                Elements { document: self.document, at: self.at + 1, len }
                    .elements()
                    .map(|element| element.to_value().into_owned())
                    .collect(),
            ),
        })
    }

    fn identity(&self) -> Option<NodeIdentity> {
        Some(NodeIdentity::new(std::ptr::from_ref(self.entry()) as usize))
    }
}

/// An object.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Members<'a> {
    document: &'a Document<'a>,
    at: usize,
    len: usize,
}

impl<'a> Object<'a, TapeJson> for Members<'a> {
    type Node = TapeNode<'a>;
    type MemberName = &'a str;
    type MembersIter = MembersIter<'a>;

    fn len(&self) -> usize {
        self.len
    }

    fn get(&self, key: &PreparedKey) -> Option<TapeNode<'a>> {
        let Document { entries, wide } = *self.document;
        if self.len > NARROW {
            let (_, name) = wide.find(entries, self.at, &key.text, key.hash);
            return name.map(|name| TapeNode { document: self.document, at: name + 1 });
        }
        let mut at = self.at + 1;
        for _ in 0..self.len {
            if matches!(entries[at], Entry::String(name) if *name == *key.text) {
                return Some(TapeNode { document: self.document, at: at + 1 });
            }
            at += 1 + span(&entries[at + 1]);
        }
        None
    }

    fn members(&self) -> MembersIter<'a> {
        MembersIter { document: self.document, at: self.at + 1, left: self.len }
    }

    fn try_for_each_name_node<B>(
        &self,
        (): &mut (),
        mut f: impl FnMut(TapeNode<'_>) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        for (_, value) in self.members() {
            // A name is an entry of its own, just before its value.
            f(TapeNode { document: self.document, at: value.at - 1 })?;
        }
        ControlFlow::Continue(())
    }
}

/// The members of an object in the order of the text.
#[derive(Debug)]
pub(crate) struct MembersIter<'a> {
    document: &'a Document<'a>,
    at: usize,
    left: usize,
}

impl<'a> Iterator for MembersIter<'a> {
    type Item = (&'a str, TapeNode<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let Entry::String(name) = self.document.entries[self.at] else { unreachable!("a member begins with its name") };
        let value = TapeNode { document: self.document, at: self.at + 1 };
        self.at += 1 + span(value.entry());
        Some((name, value))
    }
}

/// An array, or what is left of one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Elements<'a> {
    document: &'a Document<'a>,
    at: usize,
    len: usize,
}

impl<'a> Array<'a, TapeJson> for Elements<'a> {
    type Node = TapeNode<'a>;
    type ElementsIter = Self;

    fn len(&self) -> usize {
        self.len
    }

    fn elements(&self) -> Self {
        *self
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = TapeNode<'a>;

    fn next(&mut self) -> Option<TapeNode<'a>> {
        self.len = self.len.checked_sub(1)?;
        let element = TapeNode { document: self.document, at: self.at };
        self.at += span(element.entry());
        Some(element)
    }
}

/// A number: what `serde_json` would hold for the same text.
#[derive(Debug, Clone, Copy)]
pub(crate) enum TapeNumber {
    Signed(i64),
    Unsigned(u64),
    Float(f64),
}

impl TapeNumber {
    fn number(self) -> Number {
        match self {
            Self::Signed(value) => value.into(),
            Self::Unsigned(value) => value.into(),
            Self::Float(value) => Number::from_f64(value).expect("the parser refuses what is beyond an f64"),
        }
    }
}

impl JsonNumber for TapeNumber {
    fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::Signed(value) => value.try_into().ok(),
            Self::Unsigned(value) => Some(value),
            Self::Float(_) => None,
        }
    }

    fn as_i64(&self) -> Option<i64> {
        match *self {
            Self::Signed(value) => Some(value),
            Self::Unsigned(value) => value.try_into().ok(),
            Self::Float(_) => None,
        }
    }

    fn as_f64(&self) -> Option<f64> {
        Some(match *self {
            Self::Signed(value) => value as f64,
            Self::Unsigned(value) => value as f64,
            Self::Float(value) => value,
        })
    }

    fn as_str(&self) -> Cow<'_, str> {
        Cow::Owned(self.number().to_string())
    }

    fn to_number(&self) -> Cow<'_, Number> {
        Cow::Owned(self.number())
    }

    fn is_integer(&self) -> bool {
        match *self {
            Self::Float(value) => value.fract() == 0.0,
            _ => true,
        }
    }
}
