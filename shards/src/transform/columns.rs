//! A draft-07 definition → typed columns.
//!
//! | schema | column |
//! |---|---|
//! | `string`, also with any `format`; an enum of strings | Utf8 |
//! | `integer` | Int64 |
//! | `number` | Float64 |
//! | `boolean` | Boolean |
//! | object with `properties` | Struct of them |
//! | array with one schema for its items | List |
//! | anything else: unions, free forms, recursion | Utf8, holding JSON text |
//!
//! A `date-time` stays text: it may carry any offset and any number of digits, which a timestamp of a fixed unit would lose;
//! readers can cast it. Every column is nullable. Columns stand in order of their names. Bounds: [`MAX_LEAVES`] leaves,
//! [`MAX_DEPTH`] levels, [`MAX_VISITS`] schemas looked at; what lies past them is JSON text, or at the leaf limit no column.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use arrow_schema::{DataType, Field, Fields};
use serde_json::{Map, Value};

/// The most leaf columns of a schema.
pub const MAX_LEAVES: usize = 1000;
/// The most levels of nesting that are typed.
pub const MAX_DEPTH: usize = 16;
/// The most (sub)schemas looked at, so that `$ref`s cannot grow without end.
pub const MAX_VISITS: usize = 20_000;

/// The key of a field's metadata that Parquet takes for the field's id.
pub const FIELD_ID_KEY: &str = "PARQUET:field_id";
/// Ids from here on are a typed column's; smaller ones are the server's own.
const FIRST_TYPED_ID: u32 = 1024;

/// What a column holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Utf8 {
        /// Whether the schema lists the values.
        is_enum: bool,
    },
    /// 64-bit integers.
    Int64,
    /// Doubles.
    Float64,
    /// Booleans.
    Boolean,
    /// Any value, as JSON text.
    Json,
    /// Named members; at least one.
    Struct(Vec<Column>),
    /// A list of such.
    List(Box<Kind>),
}

impl Kind {
    /// The one kind that holds the values of both, if they do not need JSON text for it.
    fn joined_with(self, other: Self) -> Option<Self> {
        match (self, other) {
            (Self::Utf8 { is_enum: a }, Self::Utf8 { is_enum: b }) => Some(Self::Utf8 { is_enum: a && b }),
            (Self::Int64 | Self::Float64, Self::Float64) | (Self::Float64, Self::Int64) => Some(Self::Float64),
            (a, b) => (a == b).then_some(a),
        }
    }
}

/// A member of an object as a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// The member's name in the record.
    pub key: String,
    /// The column's name, which differs where the member's name is taken or empty.
    pub name: String,
    /// What it holds.
    pub kind: Kind,
}

/// The typed columns of `definition`; none of the columns' names is equal to one of `reserved`, upper case or lower. A
/// definition that is no JSON, or does not describe objects, has none.
#[must_use]
pub fn typed_columns(definition: &str, reserved: &[&str]) -> Vec<Column> {
    named(declared_columns(definition), reserved)
}

/// The members that `definition` declares, as columns that bear their names.
#[must_use]
pub fn declared_columns(definition: &str) -> Vec<Column> {
    let Ok(root) = serde_json::from_str::<Value>(definition) else { return Vec::new() };
    let mut planner = Planner { root: &root, visits: 0, leaves: 0, open_refs: Vec::new() };
    match planner.kind(&root, 0) {
        Kind::Struct(columns) => columns,
        _ => Vec::new(),
    }
}

/// `columns` with names of which none is equal to one of `reserved`, upper case or lower.
#[must_use]
pub fn named(mut columns: Vec<Column>, reserved: &[&str]) -> Vec<Column> {
    name_columns(&mut columns, reserved);
    columns
}

/// The Arrow fields of `columns`, each with an id that depends on nothing but its path, so that it stays the same over schema
/// versions.
#[must_use]
pub fn fields(columns: &[Column]) -> Fields {
    let mut ids = FieldIds::default();
    columns.iter().map(|column| ids.field(&column.name, &column.kind, "")).collect()
}

#[derive(Default)]
struct FieldIds {
    taken: HashMap<u32, ()>,
}

impl FieldIds {
    fn field(&mut self, name: &str, kind: &Kind, parent: &str) -> Arc<Field> {
        let path = format!("{parent}/{}", name.replace('~', "~0").replace('/', "~1"));
        let mut id = FIRST_TYPED_ID + (crc32c::crc32c(path.as_bytes()) >> 2);
        while self.taken.insert(id, ()).is_some() {
            id += 1;
        }
        let data_type = match kind {
            Kind::Utf8 { .. } | Kind::Json => DataType::Utf8,
            Kind::Int64 => DataType::Int64,
            Kind::Float64 => DataType::Float64,
            Kind::Boolean => DataType::Boolean,
            Kind::Struct(columns) => {
                DataType::Struct(columns.iter().map(|column| self.field(&column.name, &column.kind, &path)).collect())
            }
            Kind::List(element) => DataType::List(self.field("element", element, &path)),
        };
        let metadata = HashMap::from([(FIELD_ID_KEY.to_owned(), id.to_string())]);
        Arc::new(Field::new(name, data_type, true).with_metadata(metadata))
    }
}

/// Gives each column a name that is not empty, not in `reserved` and not another's.
fn name_columns(columns: &mut [Column], reserved: &[&str]) {
    let keys: Vec<String> = columns.iter().map(|column| column.key.clone()).collect();
    let mut given: Vec<String> = Vec::new();
    for column in columns {
        let is_reserved = |name: &str| reserved.iter().any(|taken| taken.eq_ignore_ascii_case(name));
        if column.key.is_empty() || is_reserved(&column.key) {
            let mut name = format!("{}_", column.key);
            while is_reserved(&name) || keys.contains(&name) || given.contains(&name) {
                name.push('_');
            }
            given.push(name.clone());
            column.name = name;
        }
        name_members(&mut column.kind);
    }
}

fn name_members(kind: &mut Kind) {
    match kind {
        Kind::Struct(columns) => name_columns(columns, &[]),
        Kind::List(element) => name_members(element),
        _ => {}
    }
}

/// A set of JSON types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Types(u8);

impl Types {
    const STRING: Self = Self(1);
    const INTEGER: Self = Self(2);
    const NUMBER: Self = Self(4);
    const BOOLEAN: Self = Self(8);
    const OBJECT: Self = Self(16);
    const ARRAY: Self = Self(32);
    const NULL: Self = Self(64);
    const ANY_NUMBER: Self = Self(Self::INTEGER.0 | Self::NUMBER.0);

    fn named(name: &str) -> Self {
        match name {
            "string" => Self::STRING,
            "integer" => Self::INTEGER,
            "number" => Self::NUMBER,
            "boolean" => Self::BOOLEAN,
            "object" => Self::OBJECT,
            "array" => Self::ARRAY,
            "null" => Self::NULL,
            _ => Self::default(),
        }
    }

    fn of(value: &Value) -> Self {
        match value {
            Value::Null => Self::NULL,
            Value::Bool(_) => Self::BOOLEAN,
            Value::Number(number) if number.is_f64() => Self::NUMBER,
            Value::Number(_) => Self::INTEGER,
            Value::String(_) => Self::STRING,
            Value::Array(_) => Self::ARRAY,
            Value::Object(_) => Self::OBJECT,
        }
    }

    fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn without_null(self) -> Self {
        Self(self.0 & !Self::NULL.0)
    }
}

/// The types that `schema` itself declares, by `type`, by its values, or by the keywords of objects and arrays.
fn declared_types(schema: &Map<String, Value>) -> Option<Types> {
    match schema.get("type") {
        Some(Value::String(name)) => return Some(Types::named(name)),
        Some(Value::Array(names)) => {
            let names = names.iter().filter_map(Value::as_str);
            return Some(names.fold(Types::default(), |types, name| types.union(Types::named(name))));
        }
        _ => {}
    }
    if let Some(value) = schema.get("const") {
        return Some(Types::of(value));
    }
    if let Some(Value::Array(values)) = schema.get("enum") {
        return Some(values.iter().fold(Types::default(), |types, value| types.union(Types::of(value))));
    }
    if schema.contains_key("properties") {
        return Some(Types::OBJECT);
    }
    matches!(schema.get("items"), Some(Value::Object(_))).then_some(Types::ARRAY)
}

struct Planner<'a> {
    root: &'a Value,
    visits: usize,
    leaves: usize,
    /// The `$ref`s that are being followed, outermost first: one that comes again is a cycle.
    open_refs: Vec<&'a str>,
}

impl<'a> Planner<'a> {
    fn kind(&mut self, schema: &'a Value, depth: usize) -> Kind {
        let Some(schema) = schema.as_object() else { return self.leaf(Kind::Json) };
        self.visits += 1;
        if self.visits > MAX_VISITS || depth > MAX_DEPTH {
            return self.leaf(Kind::Json);
        }
        // Draft 7: what stands beside a `$ref` is ignored.
        if let Some(reference) = schema.get("$ref") {
            return match reference.as_str().and_then(|reference| self.enter(reference)) {
                Some(target) => {
                    let kind = self.kind(target, depth);
                    self.open_refs.pop();
                    kind
                }
                None => self.leaf(Kind::Json),
            };
        }
        let Some(types) = declared_types(schema) else { return self.composed(schema, depth) };
        match types.without_null() {
            Types::STRING => {
                self.leaf(Kind::Utf8 { is_enum: schema.contains_key("enum") || schema.contains_key("const") })
            }
            Types::INTEGER => self.leaf(Kind::Int64),
            Types::NUMBER | Types::ANY_NUMBER => self.leaf(Kind::Float64),
            Types::BOOLEAN => self.leaf(Kind::Boolean),
            Types::OBJECT => self.object(schema, depth),
            Types::ARRAY => match schema.get("items") {
                Some(items @ Value::Object(_)) => Kind::List(Box::new(self.kind(items, depth + 1))),
                _ => self.leaf(Kind::Json),
            },
            _ => self.leaf(Kind::Json),
        }
    }

    fn leaf(&mut self, kind: Kind) -> Kind {
        self.leaves += 1;
        kind
    }

    /// Where a local `$ref` points, now open; the caller pops it from `open_refs`.
    fn enter(&mut self, reference: &'a str) -> Option<&'a Value> {
        let pointer = percent_decoded(reference.strip_prefix('#')?)?;
        let target = self.root.pointer(&pointer)?;
        if self.open_refs.contains(&reference) || self.open_refs.len() >= MAX_DEPTH {
            return None;
        }
        self.open_refs.push(reference);
        Some(target)
    }

    /// A schema that declares no type of its own: what its branches agree on.
    fn composed(&mut self, schema: &'a Map<String, Value>, depth: usize) -> Kind {
        let before = self.leaves;
        let branches = |name: &str| schema.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        // All of them hold, so one that has a type is enough; the members of objects are joined.
        for branch in branches("allOf") {
            let kind = self.kind(branch, depth + 1);
            self.leaves = before;
            match kind {
                Kind::Json => {}
                Kind::Struct(_) => return self.object(schema, depth),
                kind => return self.leaf(kind),
            }
        }
        for name in ["anyOf", "oneOf"] {
            let mut kinds = branches(name).iter().filter(|branch| !is_null_only(branch));
            let Some(first) = kinds.next() else { continue };
            let first = self.kind(first, depth + 1);
            let after = self.leaves;
            let agreed = kinds.try_fold(first, |agreed, branch| agreed.joined_with(self.kind(branch, depth + 1)));
            if let Some(kind) = agreed {
                self.leaves = after;
                return kind;
            }
            self.leaves = before;
        }
        self.leaf(Kind::Json)
    }

    fn object(&mut self, schema: &'a Map<String, Value>, depth: usize) -> Kind {
        let mut members = BTreeMap::new();
        self.collect(schema, &mut members);
        let mut columns = Vec::new();
        for (key, member) in members {
            if self.leaves >= MAX_LEAVES {
                break;
            }
            let kind = self.kind(member, depth + 1);
            columns.push(Column { key: key.to_owned(), name: key.to_owned(), kind });
        }
        if columns.is_empty() { self.leaf(Kind::Json) } else { Kind::Struct(columns) }
    }

    /// The properties of `schema` and of all that must hold with it; where a name comes twice, the outer one counts.
    fn collect(&mut self, schema: &'a Map<String, Value>, members: &mut BTreeMap<&'a str, &'a Value>) {
        self.visits += 1;
        if self.visits > MAX_VISITS {
            return;
        }
        if let Some(reference) = schema.get("$ref") {
            if let Some(target) = reference.as_str().and_then(|reference| self.enter(reference)) {
                if let Some(target) = target.as_object() {
                    self.collect(target, members);
                }
                self.open_refs.pop();
            }
            return;
        }
        if let Some(Value::Object(properties)) = schema.get("properties") {
            for (key, member) in properties {
                // `false` forbids the member: no column.
                if *member != Value::Bool(false) {
                    members.entry(key).or_insert(member);
                }
            }
        }
        for branch in schema.get("allOf").and_then(Value::as_array).into_iter().flatten() {
            if let Some(branch) = branch.as_object() {
                self.collect(branch, members);
            }
        }
    }
}

fn is_null_only(schema: &Value) -> bool {
    schema.as_object().and_then(declared_types) == Some(Types::NULL)
}

/// A URI fragment as text; `None` if an escape is broken.
fn percent_decoded(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let [high, low, tail @ ..] = rest else { return None };
        let digit = |byte: u8| char::from(byte).to_digit(16);
        bytes.push(u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()?);
        rest = tail;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The columns in one line: `name:kind`, nested ones in brackets.
    fn outline(columns: &[Column]) -> String {
        fn word(kind: &Kind) -> String {
            match kind {
                Kind::Utf8 { is_enum: true } => "enum".to_owned(),
                Kind::Utf8 { is_enum: false } => "text".to_owned(),
                Kind::Int64 => "int".to_owned(),
                Kind::Float64 => "double".to_owned(),
                Kind::Boolean => "bool".to_owned(),
                Kind::Json => "json".to_owned(),
                Kind::Struct(columns) => format!("{{{}}}", outline(columns)),
                Kind::List(element) => format!("[{}]", word(element)),
            }
        }
        let columns: Vec<String> =
            columns.iter().map(|column| format!("{}:{}", column.name, word(&column.kind))).collect();
        columns.join(" ")
    }

    fn of(definition: &str) -> String {
        outline(&typed_columns(definition, &["_seq", "_payload"]))
    }

    fn of_member(schema: &str) -> String {
        of(&format!(r##"{{"properties":{{"a":{schema}}},"definitions":{{"b c":{{"type":"boolean"}}}}}}"##))
    }

    #[test]
    fn each_schema_has_its_column() {
        for (schema, expected) in [
            (r#"{"type":"string"}"#, "text"),
            (r#"{"type":"string","format":"date-time"}"#, "text"),
            (r#"{"type":["integer","null"]}"#, "int"),
            (r#"{"type":"number"}"#, "double"),
            (r#"{"type":["number","integer"]}"#, "double"),
            (r#"{"type":"boolean"}"#, "bool"),
            (r#"{"enum":["x","y",null]}"#, "enum"),
            (r#"{"enum":[1,2]}"#, "int"),
            (r#"{"enum":[1,"x"]}"#, "json"),
            (r#"{"const":"x"}"#, "enum"),
            (r#"{"type":["string","integer"]}"#, "json"),
            (r#"{"type":"null"}"#, "json"),
            (r#"{}"#, "json"),
            (r#"true"#, "json"),
            (r#"{"type":"object"}"#, "json"),
            (r#"{"type":"object","additionalProperties":{"type":"string"}}"#, "json"),
            (r#"{"type":"object","properties":{"z":{"type":"string"},"y":{"type":"number"}}}"#, "{y:double z:text}"),
            (r#"{"type":"array"}"#, "json"),
            (r#"{"type":"array","items":[{"type":"string"}]}"#, "json"),
            (r#"{"type":"array","items":{"type":"array","items":{"type":"integer"}}}"#, "[[int]]"),
            (r#"{"type":"array","items":{"properties":{"z":{"enum":["x"]}}}}"#, "[{z:enum}]"),
            (r##"{"$ref":"#/definitions/b%20c"}"##, "bool"),
            (r##"{"$ref":"#/definitions/none"}"##, "json"),
            (r##"{"$ref":"http://example.com/#/definitions/b"}"##, "json"),
            (r##"{"$ref":"#/definitions/b%2"}"##, "json"),
            (r#"{"anyOf":[{"type":"null"},{"type":"integer"}]}"#, "int"),
            (r#"{"oneOf":[{"type":"integer"},{"type":"number"}]}"#, "double"),
            (r#"{"oneOf":[{"type":"string"},{"enum":["x"]}]}"#, "text"),
            (r#"{"oneOf":[{"type":"string"},{"type":"number"}]}"#, "json"),
            (r#"{"allOf":[{"minLength":1},{"type":"string"}]}"#, "text"),
            (
                r#"{"allOf":[{"properties":{"x":{"type":"string"}}},{"properties":{"y":{"type":"integer"},"n":false}}]}"#,
                "{x:text y:int}",
            ),
        ] {
            assert_eq!(of_member(schema), format!("a:{expected}"), "{schema}");
        }
    }

    #[test]
    fn what_describes_no_objects_has_no_columns() {
        for definition in
            ["", "no JSON", "true", "[]", r#"{"type":"string"}"#, r#"{"type":"object"}"#, r##"{"$ref":"#"}"##]
        {
            assert_eq!(of(definition), "", "{definition}");
        }
    }

    #[test]
    fn recursion_ends_in_json_text() {
        let tree = r##"{"type":"object","properties":{"v":{"type":"integer"},
            "next":{"$ref":"#/definitions/tree"}},"definitions":{"tree":{"type":"object","properties":{
            "v":{"type":"integer"},"children":{"type":"array","items":{"$ref":"#/definitions/tree"}}}}}}"##;
        assert_eq!(of(tree), "next:{children:[json] v:int} v:int");
        assert_eq!(of(r##"{"properties":{"a":{"$ref":"#/properties/a"}}}"##), "a:json");
        assert_eq!(of(r##"{"properties":{"a":{"allOf":[{"$ref":"#/properties/a"}]}}}"##), "a:json");
    }

    #[test]
    fn a_schema_cannot_grow_without_end() {
        // Each level refers to the next twice: 2^40 leaves.
        let mut definitions = String::from(r#""d40":{"type":"string"}"#);
        for level in 0..40 {
            let next = level + 1;
            definitions += &format!(
                r##","d{level}":{{"properties":{{"a":{{"$ref":"#/definitions/d{next}"}},"b":{{"$ref":"#/definitions/d{next}"}}}}}}"##
            );
        }
        let bomb = format!(r##"{{"$ref":"#/definitions/d0","definitions":{{{definitions}}}}}"##);
        let columns = typed_columns(&bomb, &[]);
        assert!(outline(&columns).len() < 100_000);

        let wide: Vec<String> = (0..5000).map(|index| format!(r#""p{index:04}":{{"type":"string"}}"#)).collect();
        let columns = typed_columns(&format!(r#"{{"properties":{{{}}}}}"#, wide.join(",")), &[]);
        assert_eq!(columns.len(), MAX_LEAVES);
        // With the most columns that there can be, every field has an id of its own.
        let ids: std::collections::HashSet<String> =
            fields(&columns).iter().map(|field| field.metadata()[FIELD_ID_KEY].clone()).collect();
        assert_eq!(ids.len(), MAX_LEAVES);
    }

    #[test]
    fn names_that_are_taken_give_way() {
        let definition = r#"{"properties":{"_seq":{},"_SEQ_":{},"_seq_":{},"_Payload":{},"":{},"_":{},
            "in":{"properties":{"_seq":{},"":{}}}}}"#;
        assert_eq!(
            of(definition),
            "__:json _:json _Payload_:json _SEQ_:json _seq__:json _seq_:json in:{_:json _seq:json}"
        );
    }

    #[test]
    fn an_id_depends_on_the_path_alone() {
        let id = |definition: &str, name: &str| {
            let fields = fields(&typed_columns(definition, &[]));
            fields.iter().find(|field| field.name() == name).unwrap().metadata()[FIELD_ID_KEY].clone()
        };
        let old = r#"{"properties":{"b":{"type":"string"}}}"#;
        let new = r#"{"properties":{"a":{"type":"integer"},"b":{"type":"string"},"c":{}}}"#;
        assert_eq!(id(old, "b"), id(new, "b"));
        assert_ne!(id(new, "a"), id(new, "b"));
        assert!(id(new, "a").parse::<i32>().unwrap() >= FIRST_TYPED_ID as i32);
    }
}
