//! A definition becomes numbered schemas.
//!
//! It is read with a list of what waits, not by recursion, so neither its depth nor a chain of `$ref`s costs stack. A keyword
//! whose value is not what draft-07 asks for makes its schema opaque.

use std::{
    collections::{BTreeMap, HashMap},
    rc::Rc,
};

use serde_json::{Map, Value};

use super::{
    canonical,
    definitions::{ALL, Definitions, Id, Keywords, NOTHING, OPAQUE, Plain, Schema, types},
    numbers::{Bound, End, Num},
};

/// Numbers `definition` and all schemas that it uses; the answer is the whole.
pub(super) fn definition(into: &mut Definitions, definition: &Value) -> Id {
    let mut reader = Reader {
        into,
        root: definition,
        // A `$ref` below another `$id` is relative to that, so it is not followed.
        is_one_resource: !has_inner_id(definition),
        known: HashMap::new(),
        waiting: Vec::new(),
    };
    let root = reader.number(definition, String::new());
    while let Some((id, value, pointer)) = reader.waiting.pop() {
        let schema = reader.schema(value, &pointer);
        reader.into.put(id, schema);
    }
    root
}

/// Whether anything below the root has an `$id` that changes what a `$ref` is relative to.
fn has_inner_id(definition: &Value) -> bool {
    let mut waiting: Vec<&Value> = match definition {
        Value::Object(members) => members.values().collect(),
        _ => Vec::new(),
    };
    while let Some(value) = waiting.pop() {
        match value {
            Value::Object(members) => {
                if members.get("$id").and_then(Value::as_str).is_some_and(|id| !id.starts_with('#')) {
                    return true;
                }
                waiting.extend(members.values());
            }
            Value::Array(elements) => waiting.extend(elements),
            _ => {}
        }
    }
    false
}

struct Reader<'a, 'd> {
    into: &'d mut Definitions,
    root: &'a Value,
    is_one_resource: bool,
    known: HashMap<String, Id>,
    waiting: Vec<(Id, &'a Value, String)>,
}

/// `None`: the value is not what the keyword asks for.
type Read<T> = Option<T>;

impl<'a> Reader<'a, '_> {
    /// The number of the schema `value` at `pointer`.
    fn number(&mut self, value: &'a Value, pointer: String) -> Id {
        match value {
            Value::Bool(true) => ALL,
            Value::Bool(false) => NOTHING,
            _ => {
                if let Some(&id) = self.known.get(&pointer) {
                    return id;
                }
                let id = self.into.reserve(pointer.as_str().into());
                self.known.insert(pointer.clone(), id);
                self.waiting.push((id, value, pointer));
                id
            }
        }
    }

    fn schema(&mut self, value: &'a Value, pointer: &str) -> Schema {
        let Some(members) = value.as_object() else { return Schema::Opaque };
        if let Some(target) = members.get("$ref") {
            return Schema::Reference(target.as_str().and_then(|target| self.target(target)).unwrap_or(OPAQUE));
        }
        match self.keywords(members, pointer) {
            None => Schema::Opaque,
            Some(keywords) if keywords == Keywords::default() => Schema::All,
            Some(keywords) => Schema::Keywords(Rc::new(keywords)),
        }
    }

    fn target(&mut self, reference: &str) -> Read<Id> {
        if !self.is_one_resource {
            return None;
        }
        let pointer = percent_decoded(reference.strip_prefix('#')?)?;
        if !pointer.is_empty() && !pointer.starts_with('/') {
            return None;
        }
        let target = self.root.pointer(&pointer)?;
        Some(self.number(target, pointer))
    }

    fn keywords(&mut self, members: &'a Map<String, Value>, pointer: &str) -> Read<Keywords> {
        let mut keywords = Keywords { plain: plain(members)?, ..Keywords::default() };
        match members.get("items") {
            Some(Value::Array(tuple)) => {
                keywords.tuple = self.list(tuple, &format!("{pointer}/items"));
                keywords.rest = self.one(members, "additionalItems", pointer)?.unwrap_or(ALL);
            }
            Some(_) => keywords.rest = self.one(members, "items", pointer)?.unwrap_or(ALL),
            None => {}
        }
        keywords.contains = self.one(members, "contains", pointer)?;
        keywords.properties = self.named(members, "properties", pointer)?;
        keywords.patterns = self.named(members, "patternProperties", pointer)?;
        keywords.others = self.one(members, "additionalProperties", pointer)?.unwrap_or(ALL);
        keywords.names = self.one(members, "propertyNames", pointer)?.unwrap_or(ALL);
        keywords.dependencies = self.dependencies(members, pointer)?;
        for (keyword, list) in
            [("allOf", &mut keywords.all_of), ("anyOf", &mut keywords.any_of), ("oneOf", &mut keywords.one_of)]
        {
            if let Some(value) = members.get(keyword) {
                *list = self.list(value.as_array()?, &format!("{pointer}/{keyword}"));
            }
        }
        keywords.not = self.one(members, "not", pointer)?;
        if let Some(condition) = self.one(members, "if", pointer)? {
            let then = self.one(members, "then", pointer)?.unwrap_or(ALL);
            let otherwise = self.one(members, "else", pointer)?.unwrap_or(ALL);
            if (then, otherwise) != (ALL, ALL) {
                keywords.condition = Some([condition, then, otherwise]);
            }
        }
        Some(keywords)
    }

    fn one(&mut self, members: &'a Map<String, Value>, keyword: &str, pointer: &str) -> Read<Option<Id>> {
        match members.get(keyword) {
            None => Some(None),
            Some(value @ (Value::Bool(_) | Value::Object(_))) => {
                Some(Some(self.number(value, format!("{pointer}/{keyword}"))))
            }
            Some(_) => None,
        }
    }

    fn list(&mut self, values: &'a [Value], pointer: &str) -> Vec<Id> {
        values.iter().enumerate().map(|(index, value)| self.number(value, format!("{pointer}/{index}"))).collect()
    }

    fn named(&mut self, members: &'a Map<String, Value>, keyword: &str, pointer: &str) -> Read<BTreeMap<Rc<str>, Id>> {
        let Some(value) = members.get(keyword) else { return Some(BTreeMap::new()) };
        let mut named = BTreeMap::new();
        for (name, value) in value.as_object()? {
            named.insert(name.as_str().into(), self.number(value, format!("{pointer}/{keyword}{}", step(name))));
        }
        Some(named)
    }

    fn dependencies(&mut self, members: &'a Map<String, Value>, pointer: &str) -> Read<BTreeMap<Rc<str>, Id>> {
        let Some(value) = members.get("dependencies") else { return Some(BTreeMap::new()) };
        let mut named = BTreeMap::new();
        for (name, value) in value.as_object()? {
            let at = format!("{pointer}/dependencies{}", step(name));
            let id = match value {
                Value::Array(names) if names.is_empty() => ALL,
                Value::Array(names) => {
                    let required = names.iter().map(|name| name.as_str().map(Into::into)).collect::<Option<_>>()?;
                    let plain = Plain { required, ..Plain::default() };
                    self.into.add(at.into(), Keywords { plain, ..Keywords::default() })
                }
                _ => self.number(value, at),
            };
            named.insert(name.as_str().into(), id);
        }
        Some(named)
    }
}

/// One step of a JSON Pointer.
pub(super) fn step(name: &str) -> String {
    format!("/{}", name.replace('~', "~0").replace('/', "~1"))
}

fn percent_decoded(text: &str) -> Read<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

fn plain(members: &Map<String, Value>) -> Read<Plain> {
    let mut plain = Plain { types: type_set(members.get("type"))?, values: enumerated(members)?, ..Plain::default() };
    for (keyword, end, open) in [
        ("minimum", End::Lower, false),
        ("exclusiveMinimum", End::Lower, true),
        ("maximum", End::Upper, false),
        ("exclusiveMaximum", End::Upper, true),
    ] {
        plain.range.tighten(end, number(members, keyword)?.map(|at| Bound { at, open }));
    }
    plain.multiple_of = number(members, "multipleOf")?;
    plain.min_length = count(members, "minLength")?.unwrap_or(0);
    plain.max_length = count(members, "maxLength")?;
    plain.pattern = text(members, "pattern")?;
    plain.format = text(members, "format")?;
    plain.content = (text(members, "contentEncoding")?, text(members, "contentMediaType")?);
    plain.min_items = count(members, "minItems")?.unwrap_or(0);
    plain.max_items = count(members, "maxItems")?;
    plain.unique_items = match members.get("uniqueItems") {
        None => false,
        Some(value) => value.as_bool()?,
    };
    if let Some(value) = members.get("required") {
        plain.required = value.as_array()?.iter().map(|name| name.as_str().map(Into::into)).collect::<Option<_>>()?;
    }
    plain.min_properties = count(members, "minProperties")?.unwrap_or(0);
    plain.max_properties = count(members, "maxProperties")?;
    Some(plain)
}

fn type_set(value: Option<&Value>) -> Read<u8> {
    let Some(value) = value else { return Some(types::ALL) };
    let names = match value {
        Value::Array(names) => names.as_slice(),
        name => std::slice::from_ref(name),
    };
    let mut set = 0;
    for name in names {
        set |= match name.as_str()? {
            "null" => types::NULL,
            "boolean" => types::BOOLEAN,
            "integer" => types::INTEGER,
            "number" => types::INTEGER | types::FRACTION,
            "string" => types::STRING,
            "array" => types::ARRAY,
            "object" => types::OBJECT,
            _ => return None,
        };
    }
    Some(set)
}

fn enumerated(members: &Map<String, Value>) -> Read<Option<BTreeMap<String, Value>>> {
    let by_text = |value: &Value| (canonical::text(value), value.clone());
    let listed: Option<BTreeMap<_, _>> = match members.get("enum") {
        None => None,
        Some(value) => Some(value.as_array()?.iter().map(by_text).collect()),
    };
    Some(match (listed, members.get("const").map(by_text)) {
        (listed, None) => listed,
        (None, Some(single)) => Some([single].into()),
        (Some(listed), Some(single)) => Some(listed.into_iter().filter(|member| member.0 == single.0).collect()),
    })
}

fn number(members: &Map<String, Value>, keyword: &str) -> Read<Option<Num>> {
    match members.get(keyword) {
        None => Some(None),
        Some(Value::Number(number)) => Some(Some(Num::of(number))),
        Some(_) => None,
    }
}

/// A length or a count; `2.0` is one, too. One beyond u64 is as good as the largest.
fn count(members: &Map<String, Value>, keyword: &str) -> Read<Option<u64>> {
    match number(members, keyword)? {
        None => Some(None),
        Some(Num::Int(int)) if int >= 0 => Some(Some(u64::try_from(int).unwrap_or(u64::MAX))),
        Some(Num::Float(float)) if float > 0.0 && float.fract() == 0.0 => Some(Some(u64::MAX)),
        Some(_) => None,
    }
}

fn text(members: &Map<String, Value>, keyword: &str) -> Read<Option<Rc<str>>> {
    match members.get(keyword) {
        None => Some(None),
        Some(value) => Some(Some(value.as_str()?.into())),
    }
}
