//! Definition → nodes.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::{
    ANYTHING, Bounds, Branches, Format, HOPS_MAX, Members, NODES_MAX, NOTHING, Node, PROPERTIES_MAX, Pattern, Property,
    Quoted, Shortcut, Text, Values, disjoint, types,
};

/// The most words that a string is compared with from the first to the last.
const WORDS_MAX: usize = 16;

/// Keywords that say nothing of the value.
const SILENT: [&str; 15] = [
    "$comment",
    "$defs",
    "$id",
    "$schema",
    "default",
    "definitions",
    "deprecated",
    "description",
    "else",
    "example",
    "examples",
    "readOnly",
    "then",
    "title",
    "writeOnly",
];

pub(super) struct Compiler<'a> {
    definition: &'a Value,
    /// `None` while a node is being compiled.
    nodes: Vec<Option<Node>>,
    /// The node of each schema that was begun.
    known: HashMap<*const Value, usize>,
    guesses: usize,
    cache_bytes: usize,
}

impl<'a> Compiler<'a> {
    pub(super) fn new(definition: &'a Value, cache_bytes: usize) -> Self {
        let nothing = Node { types: 0, ..Node::anything() };
        let nodes = vec![Some(Node::anything()), Some(nothing)];
        Self { definition, nodes, known: HashMap::new(), guesses: 1, cache_bytes }
    }

    /// The nodes, and how many guesses they make.
    pub(super) fn end(self) -> Option<(Box<[Node]>, usize)> {
        let nodes = self.nodes.into_iter().collect::<Option<Vec<_>>>()?;
        Some((nodes.into(), self.guesses))
    }

    /// The node of `schema`; `None`: it is beyond programs.
    pub(super) fn schema(&mut self, schema: &'a Value) -> Option<usize> {
        let schema = follow(self.definition, schema)?;
        let keywords = match schema {
            Value::Bool(true) => return Some(ANYTHING),
            Value::Bool(false) => return Some(NOTHING),
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
        node.text.shortcut = shortcut(&node);
        node.branches = self.branches(keywords)?;
        if node.branches.is_some() {
            node.types |= types::BRANCHED;
        }
        self.nodes[number] = Some(node);
        Some(number)
    }

    /// All keywords but those of [`Self::members`] and [`Self::branches`].
    fn keyword(&mut self, node: &mut Node, keyword: &str, value: &'a Value) -> Option<()> {
        match keyword {
            "type" => node.types = named_types(value)?,
            "enum" => restrict(node, value.as_array()?)?,
            "const" => restrict(node, std::slice::from_ref(value))?,
            "minLength" => node.text.length_min = count(value)?,
            "maxLength" => node.text.length_max = count(value)?,
            "pattern" => node.text.pattern = Some(Pattern::compile(value.as_str()?, self.cache_bytes)?),
            "format" => node.text.add(format(value.as_str()?)?)?,
            "contentEncoding" if value == "base64" => node.text.add(Some(Format::Base64))?,
            "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" => bound(&mut node.number, keyword, value)?,
            "multipleOf" => node.number.multiple_of = divisor(value)?,
            "items" => node.elements.node = self.schema(value)?,
            "minItems" => node.elements.count_min = count(value)?,
            "maxItems" => node.elements.count_max = count(value)?,
            "uniqueItems" => node.elements.unique = value.as_bool()?,
            "properties" | "required" | "additionalProperties" | "minProperties" | "maxProperties" => {}
            "allOf" | "anyOf" | "oneOf" => {}
            // It is about what comes after a row of `items`, of which programs know nothing.
            "additionalItems" => {}
            _ if SILENT.contains(&keyword) || keyword.starts_with("x-") => {}
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
                    named.push((name, members.others.unwrap_or(NOTHING)));
                    named.len() - 1
                }
            };
            if at >= PROPERTIES_MAX {
                return None;
            }
            members.required.insert(at);
        }
        if named.len() > PROPERTIES_MAX {
            return None;
        }
        let property = |(name, node)| Some(Property { node, quoted: Quoted::new(name, ":")? });
        members.properties = named.into_iter().map(property).collect::<Option<Vec<_>>>()?.into();
        members.guesses_at = self.guesses;
        self.guesses += members.properties.len() + 1;
        Some(members)
    }

    /// What else a value must be. A `oneOf` is an `anyOf` if no value can be two of its schemas, and beyond programs if any may.
    fn branches(&mut self, keywords: &'a Map<String, Value>) -> Option<Option<Box<Branches>>> {
        let (mut all, mut any) = (Vec::new(), Vec::new());
        for (keyword, value) in keywords {
            let is_all = match keyword.as_str() {
                "allOf" => true,
                "anyOf" => false,
                "oneOf" if disjoint::are_apart(self.definition, value.as_array()?) => false,
                "oneOf" => return None,
                _ => continue,
            };
            let nodes = value.as_array()?.iter().map(|schema| self.schema(schema)).collect::<Option<Vec<_>>>()?;
            if is_all {
                all = nodes;
            } else {
                any.push(nodes.into_boxed_slice());
            }
        }
        if all.is_empty() && any.is_empty() {
            return Some(None);
        }
        let is_branch = |keyword: &str| matches!(keyword, "allOf" | "anyOf" | "oneOf");
        let own = keywords.keys().any(|keyword| !is_branch(keyword) && !SILENT.contains(&keyword.as_str()));
        Some(Some(Box::new(Branches { own, all: all.into(), any: any.into() })))
    }
}

/// `schema`, or what its `$ref` leads to. What is beside a `$ref` is not looked at.
pub(super) fn follow<'a>(definition: &'a Value, mut schema: &'a Value) -> Option<&'a Value> {
    for _ in 0..HOPS_MAX {
        let Some(target) = schema.get("$ref") else { return Some(schema) };
        let pointer = target.as_str()?.strip_prefix('#')?;
        if pointer.contains('%') {
            return None;
        }
        schema = definition.pointer(pointer)?;
    }
    None
}

/// The shortest way to find that a string is what `node` asks for.
fn shortcut(node: &Node) -> Shortcut {
    let Text { pattern, format, length_min, length_max, .. } = &node.text;
    match (&node.values, pattern, format) {
        (Some(values), None, None) if values.strings.len() <= WORDS_MAX => {
            let lengths = *length_min..=*length_max;
            let good = values.strings.iter().filter(|word| lengths.contains(&word.chars().count()));
            Shortcut::Words(good.filter_map(|word| Quoted::new(word, "")).collect())
        }
        (None, Some(Pattern::Row(row)), None) if row.ends_strings() => Shortcut::Row(row.clone()),
        (None, None, Some(Format::Uuid)) => Shortcut::Uuid,
        (None, None, Some(Format::DateTime)) => Shortcut::DateTime,
        _ => Shortcut::None,
    }
}

impl Text {
    /// Asks for `format`, too; `None`: two are beyond programs.
    fn add(&mut self, format: Option<Format>) -> Option<()> {
        if self.format.is_some() && format.is_some() {
            return None;
        }
        self.format = self.format.or(format);
        Some(())
    }
}

/// What `type` names.
pub(super) fn named_types(value: &Value) -> Option<u8> {
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
            Value::String(text) => values.strings.push(text.as_str().into()),
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

/// What `name` asks for, which may be nothing: only the formats of draft-07 and `uuid` are checked.
fn format(name: &str) -> Option<Option<Format>> {
    Some(Some(match name {
        "date" => Format::Date,
        "date-time" => Format::DateTime,
        "email" => Format::Email,
        "hostname" => Format::Hostname,
        "ipv4" => Format::Ipv4,
        "ipv6" => Format::Ipv6,
        "json-pointer" => Format::JsonPointer,
        "time" => Format::Time,
        // An IRI of ASCII is a URI.
        "iri" | "uri" => Format::Uri,
        "iri-reference" | "uri-reference" => Format::UriReference,
        "uuid" => Format::Uuid,
        "idn-email" | "idn-hostname" | "regex" | "relative-json-pointer" | "uri-template" => return None,
        _ => return Some(None),
    }))
}

/// Integers up to here have a neighbour in f64 for each of theirs.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// Adds a bound, rounded inwards to an integer, and as it is.
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
    let float = value.as_f64()?;
    if lower {
        bounds.low = bounds.low.max(float);
    } else {
        bounds.high = bounds.high.min(float);
    }
    match keyword {
        "exclusiveMinimum" if whole => bounds.ceil_over = integer,
        "exclusiveMaximum" if whole => bounds.floor_under = integer,
        "minimum" | "exclusiveMinimum" => bounds.floor_min = bounds.floor_min.max(integer),
        _ => bounds.ceil_max = bounds.ceil_max.min(integer),
    }
    Some(())
}

/// An integer of which a number must be a multiple; `None` if it is not one that an f64 holds exactly.
fn divisor(value: &Value) -> Option<i64> {
    let divisor = value.as_i64()?;
    (divisor > 0 && divisor as f64 <= EXACT_MAX).then_some(divisor)
}
