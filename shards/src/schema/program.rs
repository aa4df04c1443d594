//! A schema as a program for one pass over the bytes of a record.
//!
//! A program knows fewer keywords than draft-07: where a definition uses any other, there is no program, and the tape and
//! the reference do all the work. What is compiled here may be stricter than the definition (a bound rounded inwards, an
//! alternative of an `enum` left out), never laxer, because a program only ever accepts.
//!
//! Nodes refer to each other by number, so a recursive `$ref` is a loop of numbers. A run is bounded by the depth of the
//! record, and by what it may spend on looking at one value again (`allOf`, `anyOf`, `oneOf`).

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;

mod compiler;
mod disjoint;
mod pattern;

use compiler::Compiler;

pub(crate) use pattern::{Pattern, Row};

/// The most members that an object names: [`NO_PROPERTY`] is no index.
const PROPERTIES_MAX: usize = 255;

/// The most nodes in a program.
const NODES_MAX: usize = 4096;

/// The most `$ref`s that lead to each other.
const HOPS_MAX: usize = 32;

/// No such property.
pub(crate) const NO_PROPERTY: u8 = u8::MAX;

/// The node that takes any value.
pub(crate) const ANYTHING: usize = 0;

/// The node that takes none.
const NOTHING: usize = 1;

/// A number for each program, so that a thread finds what it remembers of it.
static NEXT_ID: AtomicU64 = AtomicU64::new(0);

/// Sets of JSON types.
pub(crate) mod types {
    /// `null`.
    pub(crate) const NULL: u8 = 1;
    /// `true` and `false`.
    pub(crate) const BOOLEAN: u8 = 2;
    /// A number without a fraction or an exponent, or with a fraction of zeros.
    pub(crate) const INTEGER: u8 = 4;
    /// Any other number.
    pub(crate) const DECIMAL: u8 = 8;
    /// A string.
    pub(crate) const STRING: u8 = 16;
    /// An array.
    pub(crate) const ARRAY: u8 = 32;
    /// An object.
    pub(crate) const OBJECT: u8 = 64;
    /// Any value.
    pub(crate) const ALL: u8 = 127;
    /// No type: the node has branches.
    pub(crate) const BRANCHED: u8 = 128;

    /// The types of a value that begins with `byte`.
    pub(crate) fn beginning_with(byte: u8) -> u8 {
        match byte {
            b'"' => STRING,
            b'-' | b'0'..=b'9' => INTEGER | DECIMAL,
            b'{' => OBJECT,
            b'[' => ARRAY,
            b'n' => NULL,
            b't' | b'f' => BOOLEAN,
            _ => 0,
        }
    }
}

/// A compiled definition.
#[derive(Debug)]
pub(crate) struct Program {
    /// Differs from that of any other program in the process.
    pub(crate) id: u64,
    pub(crate) nodes: Box<[Node]>,
    pub(crate) root: usize,
    /// How many guesses of the next member a thread remembers.
    pub(crate) guesses: usize,
}

/// What one value must be.
#[derive(Debug)]
pub(crate) struct Node {
    /// The set of types it may have, and [`types::BRANCHED`].
    pub(crate) types: u8,
    pub(crate) number: Bounds,
    pub(crate) text: Text,
    pub(crate) members: Members,
    pub(crate) elements: Elements,
    /// The values it may have, if it is none of all.
    pub(crate) values: Option<Box<Values>>,
    /// The nodes that it must be, too.
    pub(crate) branches: Option<Box<Branches>>,
}

/// What a number must be. Bounds are on the integers around it, `floor` and `ceil`, or, where those do not tell, on the number.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// `floor` is no less than this.
    pub(crate) floor_min: i64,
    /// `ceil` is no more than this.
    pub(crate) ceil_max: i64,
    /// `ceil` is more than this.
    pub(crate) ceil_over: i64,
    /// `floor` is less than this.
    pub(crate) floor_under: i64,
    /// The number is clearly more than this.
    pub(crate) low: f64,
    /// The number is clearly less than this.
    pub(crate) high: f64,
    /// Whether there are any bounds.
    pub(crate) any: bool,
    /// It is an integer, and a multiple of this; 0: of anything.
    pub(crate) multiple_of: i64,
}

/// What a string must be.
#[derive(Debug)]
pub(crate) struct Text {
    /// How most of the good ones are found.
    pub(crate) shortcut: Shortcut,
    /// The fewest code points.
    pub(crate) length_min: usize,
    /// The most code points.
    pub(crate) length_max: usize,
    pub(crate) pattern: Option<Pattern>,
    pub(crate) format: Option<Format>,
}

/// What finds the end of a string and says that it is good in one go. A string that it does not take may be good all the same.
#[derive(Debug)]
pub(crate) enum Shortcut {
    /// There is none: find the end, then look at the string.
    None,
    /// It is one of these, and of a good length.
    Words(Box<[Quoted]>),
    /// Its pattern, a row of classes to its end, is all that it must match.
    Row(Row),
    /// It is a UUID, and nothing more.
    Uuid,
    /// It is a time with its date, and nothing more.
    DateTime,
}

/// The formats that a program checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// The encoding of that name, which is as good as a format.
    Base64,
    Date,
    DateTime,
    Email,
    Hostname,
    Ipv4,
    Ipv6,
    JsonPointer,
    Time,
    Uri,
    UriReference,
    Uuid,
}

/// What an object must be.
#[derive(Debug)]
pub(crate) struct Members {
    pub(crate) properties: Box<[Property]>,
    /// The bits of the properties that must be there.
    pub(crate) required: Bits,
    /// The node of any other member; `None`: there is none.
    pub(crate) others: Option<usize>,
    pub(crate) count_min: usize,
    pub(crate) count_max: usize,
    /// Where this node's guesses begin: one for the first member, and one for the member after each property.
    pub(crate) guesses_at: usize,
}

/// A set of properties of one object, by their indexes. Most objects need the first word only.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Bits {
    first: u64,
    more: [u64; 3],
}

impl Bits {
    /// Adds `index`, which is below [`PROPERTIES_MAX`]; false if it was there.
    #[inline]
    pub(crate) fn insert(&mut self, index: usize) -> bool {
        let word = match index / 64 {
            0 => &mut self.first,
            more => &mut self.more[(more - 1).min(2)],
        };
        let bit = 1u64 << (index % 64);
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }

    /// Whether all of these are in `others`, as sets of the indexes of `count` properties.
    #[inline]
    pub(crate) fn are_in(&self, others: &Self, count: usize) -> bool {
        self.first & !others.first == 0
            && (count <= 64 || self.more.iter().zip(&others.more).all(|(ours, theirs)| ours & !theirs == 0))
    }
}

/// A member that the schema names.
#[derive(Debug)]
pub(crate) struct Property {
    pub(crate) node: usize,
    /// `"name":` as it stands in most records.
    pub(crate) quoted: Quoted,
}

impl Property {
    /// The name without its quotes.
    pub(crate) fn name(&self) -> &[u8] {
        self.quoted.bytes.get(1..self.quoted.bytes.len().saturating_sub(2)).unwrap_or_default()
    }
}

/// Some bytes of a record, none of which is 0.
#[derive(Debug)]
pub(crate) struct Quoted {
    /// The first 16 bytes, zeros after their end.
    pub(crate) head: u128,
    /// Ones where `head` counts.
    pub(crate) head_mask: u128,
    pub(crate) bytes: Box<[u8]>,
    /// All bits if they are not ASCII: then the record must be checked to be UTF-8.
    pub(crate) high: u64,
}

impl Quoted {
    /// `text` between quotes, and `after`; `None` if it cannot stand there as it is.
    fn new(text: &str, after: &str) -> Option<Self> {
        if text.bytes().any(|byte| byte < 0x20 || byte == b'"' || byte == b'\\') {
            return None;
        }
        let bytes: Box<[u8]> = format!("\"{text}\"{after}").into_bytes().into();
        let (mut head, mut head_mask) = ([0; 16], [0; 16]);
        for (at, &byte) in bytes.iter().take(16).enumerate() {
            (head[at], head_mask[at]) = (byte, 0xff);
        }
        Some(Self {
            head: u128::from_le_bytes(head),
            head_mask: u128::from_le_bytes(head_mask),
            bytes,
            high: if text.is_ascii() { 0 } else { u64::MAX },
        })
    }
}

/// What an array must be.
#[derive(Debug)]
pub(crate) struct Elements {
    pub(crate) node: usize,
    pub(crate) count_min: usize,
    pub(crate) count_max: usize,
    /// No two elements are equal.
    pub(crate) unique: bool,
}

/// The values of an `enum`.
#[derive(Debug, Default)]
pub(crate) struct Values {
    pub(crate) strings: Vec<Box<str>>,
    pub(crate) integers: Vec<i64>,
    pub(crate) null: bool,
    pub(crate) yes: bool,
    pub(crate) no: bool,
}

/// Nodes that a value must be besides its own.
#[derive(Debug)]
pub(crate) struct Branches {
    /// Whether its own node says anything.
    pub(crate) own: bool,
    /// It must be each of these.
    pub(crate) all: Box<[usize]>,
    /// It must be at least one of each row.
    pub(crate) any: Box<[Box<[usize]>]>,
}

impl Node {
    fn anything() -> Self {
        Self {
            types: types::ALL,
            number: Bounds {
                floor_min: i64::MIN,
                ceil_max: i64::MAX,
                ceil_over: i64::MIN,
                floor_under: i64::MAX,
                low: f64::NEG_INFINITY,
                high: f64::INFINITY,
                any: false,
                multiple_of: 0,
            },
            text: Text { shortcut: Shortcut::None, length_min: 0, length_max: usize::MAX, pattern: None, format: None },
            members: Members {
                properties: Box::default(),
                required: Bits::default(),
                others: Some(ANYTHING),
                count_min: 0,
                count_max: usize::MAX,
                guesses_at: 0,
            },
            elements: Elements { node: ANYTHING, count_min: 0, count_max: usize::MAX, unique: false },
            values: None,
            branches: None,
        }
    }
}

impl Program {
    /// The program for `definition`, which is a draft-07 schema without circles, and whose patterns each remember their matching
    /// in `cache_bytes`; `None` if it is beyond programs.
    pub(crate) fn compile(definition: &Value, cache_bytes: usize) -> Option<Self> {
        if has_references(definition) && names_below(definition, true) {
            return None;
        }
        let mut compiler = Compiler::new(definition, cache_bytes);
        let root = compiler.schema(definition)?;
        let (nodes, guesses) = compiler.end()?;
        Some(Self { id: NEXT_ID.fetch_add(1, Ordering::Relaxed), nodes, root, guesses })
    }
}

/// Whether anything in `value` may be a `$ref`.
fn has_references(value: &Value) -> bool {
    match value {
        Value::Object(members) => {
            members.get("$ref").is_some_and(Value::is_string) || members.values().any(has_references)
        }
        Value::Array(elements) => elements.iter().any(has_references),
        _ => false,
    }
}

/// Whether anything in `value`, except the root itself, may change what a `$ref` is relative to.
fn names_below(value: &Value, is_root: bool) -> bool {
    match value {
        Value::Object(members) => {
            // One that is no text is a property of that name.
            let named = members.get("$id").is_some_and(Value::is_string);
            (named && (!is_root || members.contains_key("$ref")))
                || members.values().any(|value| names_below(value, false))
        }
        Value::Array(elements) => elements.iter().any(|value| names_below(value, false)),
        _ => false,
    }
}
