//! A schema as a program for one pass over the bytes of a record.
//!
//! A program knows fewer keywords than draft-07: where a definition uses any other, there is no program, and the tape and
//! the reference do all the work. What is compiled here may be stricter than the definition (a bound rounded inwards, an
//! alternative of an `enum` left out), never laxer, because a program only ever accepts.
//!
//! Nodes refer to each other by number, so a recursive `$ref` is a loop of numbers. A run is bounded by the depth of the
//! record.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
};

use serde_json::{Map, Value};

mod pattern;

pub(crate) use pattern::Pattern;

/// The most members that an object names: they are counted in the bits of a word.
const PROPERTIES_MAX: usize = 64;

/// The most nodes in a program.
const NODES_MAX: usize = 4096;

/// The most `$ref`s that lead to each other.
const HOPS_MAX: usize = 32;

/// No such property.
pub(crate) const NO_PROPERTY: u8 = u8::MAX;

/// The node that takes any value.
pub(crate) const ANYTHING: usize = 0;

/// A number for each program, so that a thread finds what it remembers of it.
static NEXT_ID: AtomicU64 = AtomicU64::new(0);

/// Sets of JSON types.
pub(crate) mod types {
    /// `null`.
    pub(crate) const NULL: u8 = 1;
    /// `true` and `false`.
    pub(crate) const BOOLEAN: u8 = 2;
    /// A number without a fraction or an exponent.
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
    /// The set of types it may have.
    pub(crate) types: u8,
    pub(crate) number: Bounds,
    pub(crate) text: Text,
    pub(crate) members: Members,
    pub(crate) elements: Elements,
    /// The values it may have, if it is none of all.
    pub(crate) values: Option<Box<Values>>,
}

/// Bounds on a number between the integers `floor` and `ceil`.
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
    /// Whether there are any.
    pub(crate) any: bool,
}

/// What a string must be.
#[derive(Debug)]
pub(crate) struct Text {
    /// The fewest code points.
    pub(crate) length_min: usize,
    /// The most code points.
    pub(crate) length_max: usize,
    pub(crate) pattern: Option<Pattern>,
    pub(crate) format: Option<Format>,
}

/// The formats that a program checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Date,
    DateTime,
    Email,
    Time,
    Uuid,
}

/// What an object must be.
#[derive(Debug)]
pub(crate) struct Members {
    pub(crate) properties: Box<[Property]>,
    /// The bits of the properties that must be there.
    pub(crate) required: u64,
    /// The node of any other member; `None`: there is none.
    pub(crate) others: Option<usize>,
    pub(crate) count_min: usize,
    pub(crate) count_max: usize,
    /// Where this node's guesses begin: one for the first member, and one for the member after each property.
    pub(crate) guesses_at: usize,
}

/// A member that the schema names.
#[derive(Debug)]
pub(crate) struct Property {
    pub(crate) node: usize,
    /// `"name":`, the first 16 bytes, zeros after its end.
    pub(crate) head: [u64; 2],
    /// Ones where `head` counts.
    pub(crate) head_mask: [u64; 2],
    /// `"name":` as it stands in most records.
    pub(crate) quoted: Box<[u8]>,
    /// All bits if the name is not ASCII: then the record must be checked to be UTF-8.
    pub(crate) high: u64,
}

impl Property {
    /// The name without its quotes.
    pub(crate) fn name(&self) -> &[u8] {
        self.quoted.get(1..self.quoted.len().saturating_sub(2)).unwrap_or_default()
    }
}

/// What an array must be.
#[derive(Debug)]
pub(crate) struct Elements {
    pub(crate) node: usize,
    pub(crate) count_min: usize,
    pub(crate) count_max: usize,
}

/// The values of an `enum`.
#[derive(Debug, Default)]
pub(crate) struct Values {
    pub(crate) strings: Vec<Box<[u8]>>,
    pub(crate) integers: Vec<i64>,
    pub(crate) null: bool,
    pub(crate) yes: bool,
    pub(crate) no: bool,
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
                any: false,
            },
            text: Text { length_min: 0, length_max: usize::MAX, pattern: None, format: None },
            members: Members {
                properties: Box::default(),
                required: 0,
                others: Some(ANYTHING),
                count_min: 0,
                count_max: usize::MAX,
                guesses_at: 0,
            },
            elements: Elements { node: ANYTHING, count_min: 0, count_max: usize::MAX },
            values: None,
        }
    }
}

impl Program {
    /// The program for `definition`, which is a draft-07 schema without circles, and whose patterns each remember their matching
    /// in `cache_bytes`; `None` if it is beyond programs.
    pub(crate) fn compile(definition: &Value, cache_bytes: usize) -> Option<Self> {
        if names_below(definition, true) {
            return None;
        }
        let mut compiler = Compiler {
            definition,
            nodes: vec![Some(Node::anything())],
            known: HashMap::new(),
            guesses: 1,
            cache_bytes,
        };
        let root = compiler.schema(definition)?;
        let nodes = compiler.nodes.into_iter().collect::<Option<Vec<_>>>()?.into();
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Some(Self { id, nodes, root, guesses: compiler.guesses })
    }
}

/// Whether anything in `value`, except the root itself, may change what a `$ref` is relative to.
fn names_below(value: &Value, is_root: bool) -> bool {
    match value {
        Value::Object(members) => {
            let named = members.contains_key("$id");
            (named && (!is_root || members.contains_key("$ref")))
                || members.values().any(|value| names_below(value, false))
        }
        Value::Array(elements) => elements.iter().any(|value| names_below(value, false)),
        _ => false,
    }
}

struct Compiler<'a> {
    definition: &'a Value,
    /// `None` while a node is being compiled.
    nodes: Vec<Option<Node>>,
    /// The node of each schema that was begun.
    known: HashMap<*const Value, usize>,
    guesses: usize,
    cache_bytes: usize,
}

impl<'a> Compiler<'a> {
    fn schema(&mut self, schema: &'a Value) -> Option<usize> {
        let schema = self.follow(schema)?;
        let keywords = match schema {
            Value::Bool(true) => return Some(ANYTHING),
            Value::Object(keywords) if keywords.is_empty() => return Some(ANYTHING),
            Value::Object(keywords) => keywords,
            _ => return None,
        };
        let key = std::ptr::from_ref(schema);
        if let Some(&node) = self.known.get(&key) {
            return Some(node);
        }
        if self.nodes.len() >= NODES_MAX {
            return None;
        }
        let number = self.nodes.len();
        self.nodes.push(None);
        self.known.insert(key, number);
        let mut node = Node::anything();
        for (keyword, value) in keywords {
            self.keyword(&mut node, keyword, value)?;
        }
        node.members = self.members(keywords)?;
        self.nodes[number] = Some(node);
        Some(number)
    }

    /// `schema`, or what its `$ref` leads to. What is beside a `$ref` is not looked at.
    fn follow(&self, mut schema: &'a Value) -> Option<&'a Value> {
        for _ in 0..HOPS_MAX {
            let Some(target) = schema.get("$ref") else { return Some(schema) };
            let pointer = target.as_str()?.strip_prefix('#')?;
            if pointer.contains('%') {
                return None;
            }
            schema = self.definition.pointer(pointer)?;
        }
        None
    }

    /// All keywords but those of [`Self::members`].
    fn keyword(&mut self, node: &mut Node, keyword: &str, value: &'a Value) -> Option<()> {
        match keyword {
            "type" => node.types = named_types(value)?,
            "enum" => restrict(node, value.as_array()?)?,
            "const" => restrict(node, std::slice::from_ref(value))?,
            "minLength" => node.text.length_min = count(value)?,
            "maxLength" => node.text.length_max = count(value)?,
            "pattern" => node.text.pattern = Some(Pattern::compile(value.as_str()?, self.cache_bytes)?),
            "format" => node.text.format = Some(format(value.as_str()?)?),
            "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" => bound(&mut node.number, keyword, value)?,
            "items" => node.elements.node = self.schema(value)?,
            "minItems" => node.elements.count_min = count(value)?,
            "maxItems" => node.elements.count_max = count(value)?,
            "properties" | "required" | "additionalProperties" | "minProperties" | "maxProperties" => {}
            "title" | "description" | "$schema" | "$id" | "default" | "examples" | "$comment" | "definitions"
            | "readOnly" | "writeOnly" => {}
            _ => return None,
        }
        Some(())
    }

    fn members(&mut self, keywords: &'a Map<String, Value>) -> Option<Members> {
        let mut members = Node::anything().members;
        if let Some(value) = keywords.get("minProperties") {
            members.count_min = count(value)?;
        }
        if let Some(value) = keywords.get("maxProperties") {
            members.count_max = count(value)?;
        }
        members.others = match keywords.get("additionalProperties") {
            None => Some(ANYTHING),
            Some(Value::Bool(false)) => None,
            Some(schema) => Some(self.schema(schema)?),
        };
        let mut named: Vec<(&str, usize)> = Vec::new();
        if let Some(properties) = keywords.get("properties") {
            for (name, schema) in properties.as_object()? {
                named.push((name, self.schema(schema)?));
            }
        }
        let mut required = Vec::new();
        if let Some(names) = keywords.get("required") {
            for name in names.as_array()? {
                required.push(name.as_str()?);
            }
        }
        for name in required {
            let at = match named.iter().position(|(other, _)| *other == name) {
                Some(at) => at,
                None => {
                    // Demanded and forbidden: nothing is ever valid.
                    named.push((name, members.others?));
                    named.len() - 1
                }
            };
            members.required |= 1u64.checked_shl(u32::try_from(at).ok()?)?;
        }
        if named.len() > PROPERTIES_MAX {
            return None;
        }
        members.properties =
            named.into_iter().map(|(name, node)| property(name, node)).collect::<Option<Vec<_>>>()?.into();
        members.guesses_at = self.guesses;
        self.guesses += members.properties.len() + 1;
        Some(members)
    }
}

/// A property; `None` if its name cannot stand between quotes as it is.
fn property(name: &str, node: usize) -> Option<Property> {
    if name.bytes().any(|byte| byte < 0x20 || byte == b'"' || byte == b'\\') {
        return None;
    }
    let quoted: Box<[u8]> = format!("\"{name}\":").into_bytes().into();
    let high = if name.is_ascii() { 0 } else { u64::MAX };
    let (mut head, mut head_mask) = ([0u64; 2], [0u64; 2]);
    for (at, &byte) in quoted.iter().take(16).enumerate() {
        head[at / 8] |= u64::from(byte) << (at % 8 * 8);
        head_mask[at / 8] |= 0xff << (at % 8 * 8);
    }
    Some(Property { node, head, head_mask, quoted, high })
}

fn named_types(value: &Value) -> Option<u8> {
    let one = |name: &Value| {
        Some(match name.as_str()? {
            "null" => types::NULL,
            "boolean" => types::BOOLEAN,
            "integer" => types::INTEGER,
            "number" => types::INTEGER | types::DECIMAL,
            "string" => types::STRING,
            "array" => types::ARRAY,
            "object" => types::OBJECT,
            _ => return None,
        })
    };
    match value {
        Value::Array(names) => names.iter().try_fold(0, |set, name| Some(set | one(name)?)),
        name => one(name),
    }
}

/// Leaves `node` only the `allowed` values that a program can compare: not decimals, arrays or objects.
fn restrict(node: &mut Node, allowed: &[Value]) -> Option<()> {
    if node.values.is_some() {
        return None;
    }
    let mut values = Values::default();
    for value in allowed {
        match value {
            Value::Null => values.null = true,
            Value::Bool(true) => values.yes = true,
            Value::Bool(false) => values.no = true,
            Value::String(text) => values.strings.push(text.as_bytes().into()),
            Value::Number(number) => values.integers.extend(number.as_i64()),
            Value::Array(_) | Value::Object(_) => {}
        }
    }
    node.values = Some(values.into());
    Some(())
}

/// A count; the meta-schema also takes `2.0`.
fn count(value: &Value) -> Option<usize> {
    usize::try_from(value.as_u64()?).ok()
}

fn format(name: &str) -> Option<Format> {
    Some(match name {
        "date" => Format::Date,
        "date-time" => Format::DateTime,
        "email" => Format::Email,
        "time" => Format::Time,
        "uuid" => Format::Uuid,
        _ => return None,
    })
}

/// Integers up to here have a neighbour in f64 for each of theirs.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// Adds a bound, rounded inwards to an integer.
fn bound(bounds: &mut Bounds, keyword: &str, value: &Value) -> Option<()> {
    bounds.any = true;
    let lower = keyword.ends_with("inimum");
    let (integer, whole) = match (value.as_i64(), value.as_f64()) {
        (Some(integer), _) => (integer, true),
        (None, Some(float)) if float.abs() <= EXACT_MAX => {
            let rounded = if lower { float.ceil() } else { float.floor() };
            (rounded as i64, rounded == float)
        }
        _ => return None,
    };
    match keyword {
        "exclusiveMinimum" if whole => bounds.ceil_over = integer,
        "exclusiveMaximum" if whole => bounds.floor_under = integer,
        "minimum" | "exclusiveMinimum" => bounds.floor_min = bounds.floor_min.max(integer),
        _ => bounds.ceil_max = bounds.ceil_max.min(integer),
    }
    Some(())
}
