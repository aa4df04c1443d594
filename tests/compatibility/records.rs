//! Records for two definitions: such as either may take, and the same a little spoilt. What the comparison says is held
//! against what the product's own validator says of them.

use serde_json::{Map, Value, json};
use ttdust_shards::{ids::SchemaId, schema::CompiledSchema, validate::Validator};

/// A small generator: one seed, one run.
pub struct Random(pub u64);

impl Random {
    /// Any number.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// True once in `times`.
    pub fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// One of `choices`, which are some.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }
}

/// Patterns, and strings that match them.
const MATCHING: [(&str, &[&str]); 8] = [
    ("^a", &["a", "ab", "abc", "a1"]),
    ("b$", &["b", "ab", "xb"]),
    ("^[0-9]+$", &["0", "12", "123456"]),
    ("^x-", &["x-a", "x-1", "x-"]),
    ("^y-", &["y-a", "y-1"]),
    ("^[a-z]+$", &["a", "b", "abc", "p"]),
    ("^p", &["p", "p1"]),
    ("^[a-fA-F0-9]{8}(-[a-fA-F0-9]{4}){3}-[a-fA-F0-9]{12}$", &["018f4e3c-5b7a-7c21-9d3e-2f6a81c4b90d"]),
];

/// Formats, and strings that have them.
const FORMATTED: [(&str, &str); 9] = [
    ("date-time", "2024-05-06T07:08:09Z"),
    ("date", "2024-05-06"),
    ("time", "07:08:09Z"),
    ("uuid", "018f4e3c-5b7a-7c21-9d3e-2f6a81c4b90d"),
    ("email", "a@b.example"),
    ("ipv4", "192.0.2.1"),
    ("uri", "http://a.example/b"),
    ("uri-reference", "/a/b"),
    ("hostname", "a.example"),
];

/// All that both definitions mention.
struct Words {
    names: Vec<String>,
    values: Vec<Value>,
}

impl Words {
    fn of(definitions: [&Value; 2]) -> Self {
        let mut words = Self { names: vec!["extra".into(), "x-1".into(), "b".into()], values: Vec::new() };
        for definition in definitions {
            words.collect(definition);
        }
        let plain = [json!(null), json!(true), json!(0), json!(1), json!(1.0), json!(-1), json!(0.5), json!(1e300)];
        words.values.extend(plain.into_iter().chain([
            json!(""),
            json!("a"),
            json!("e30="),
            json!("zzzzzzzz"),
            json!([]),
            json!({}),
        ]));
        words.names.sort();
        words.names.dedup();
        words
    }

    fn collect(&mut self, schema: &Value) {
        let Some(members) = schema.as_object() else { return };
        for (keyword, value) in members {
            match (keyword.as_str(), value) {
                ("properties" | "definitions", Value::Object(named)) => {
                    self.names.extend(named.keys().cloned());
                    named.values().for_each(|schema| self.collect(schema));
                }
                ("patternProperties", Value::Object(named)) => {
                    let matching = named.keys().filter_map(|pattern| matching(pattern)).flatten();
                    self.names.extend(matching.map(|&name| name.to_owned()));
                    named.values().for_each(|schema| self.collect(schema));
                }
                ("dependencies", Value::Object(named)) => {
                    self.names.extend(named.keys().cloned());
                    self.names.extend(named.values().filter_map(Value::as_array).flatten().filter_map(text));
                    named.values().for_each(|schema| self.collect(schema));
                }
                ("required", Value::Array(names)) => self.names.extend(names.iter().filter_map(text)),
                ("enum", Value::Array(values)) => {
                    self.names.extend(values.iter().filter_map(text));
                    self.values.extend(values.iter().cloned());
                }
                ("const", value) => self.values.push(value.clone()),
                ("pattern", Value::String(pattern)) => {
                    self.values.extend(matching(pattern).into_iter().flatten().map(|&text| json!(text)));
                }
                ("format", Value::String(format)) => self.values.extend(formatted(format).map(Value::from)),
                (_, Value::Number(number)) => self.values.push(Value::Number(number.clone())),
                (_, Value::Array(schemas)) => schemas.iter().for_each(|schema| self.collect(schema)),
                (_, schema) => self.collect(schema),
            }
        }
    }
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn matching(pattern: &str) -> Option<&'static [&'static str]> {
    MATCHING.iter().find(|(known, _)| *known == pattern).map(|(_, matching)| *matching)
}

fn formatted(format: &str) -> Option<&'static str> {
    FORMATTED.iter().find(|(known, _)| *known == format).map(|(_, text)| *text)
}

/// Makes records for two definitions.
pub struct Records<'a> {
    definitions: [&'a Value; 2],
    words: Words,
    random: Random,
}

impl<'a> Records<'a> {
    /// For `old` and `new`.
    pub fn new(old: &'a Value, new: &'a Value, seed: u64) -> Self {
        let definitions = [old, new];
        // A xorshift that starts from 0 stays there.
        Self { definitions, words: Words::of(definitions), random: Random(seed | 1) }
    }

    /// One more.
    pub fn next(&mut self) -> Value {
        if self.random.one_in(12) {
            return self.any();
        }
        let root = *self.random.pick(&self.definitions);
        let mut record = self.fitting(root, root, 0);
        for _ in 0..[0, 0, 1, 1, 2][self.random.below(5)] {
            self.spoil(&mut record);
        }
        record
    }

    fn any(&mut self) -> Value {
        let value = self.random.pick(&self.words.values).clone();
        self.near(value)
    }

    /// A value itself or one next to it.
    fn near(&mut self, value: Value) -> Value {
        match &value {
            Value::Number(number) => match (number.as_i64(), number.as_f64(), self.random.below(6)) {
                (Some(int), _, 0) => json!(int.saturating_add(1)),
                (Some(int), _, 1) => json!(int.saturating_sub(1)),
                (_, Some(float), 2) => json!(float + 0.5),
                (_, Some(float), 3) => json!(float),
                (_, Some(float), 4) => json!(float - 0.01),
                _ => value,
            },
            Value::String(text) => match self.random.below(5) {
                0 => json!(format!("{text}z")),
                1 => json!(text.chars().skip(1).collect::<String>()),
                2 => json!(format!("z{text}")),
                _ => value,
            },
            _ => value,
        }
    }

    /// A value that `schema` takes, mostly.
    fn fitting(&mut self, root: &Value, schema: &Value, depth: usize) -> Value {
        let mut keywords = Map::new();
        self.merge(root, schema, &mut keywords, 0);
        if let Some(value) = keywords.get("const") {
            return value.clone();
        }
        if let Some(Value::Array(values)) = keywords.get("enum")
            && !values.is_empty()
        {
            return self.random.pick(values).clone();
        }
        let named = match keywords.get("type") {
            Some(Value::String(name)) => name.clone(),
            Some(Value::Array(names)) if !names.is_empty() => text(self.random.pick(names)).unwrap_or_default(),
            _ => self.guessed_type(&keywords).to_owned(),
        };
        match named.as_str() {
            "integer" | "number" => self.number(&keywords, named == "integer"),
            "string" => self.string(&keywords),
            "boolean" => json!(self.random.one_in(2)),
            "array" if depth < 5 => self.array(root, &keywords, depth),
            "object" if depth < 5 => self.object(root, &keywords, depth),
            "array" => json!([]),
            "object" => json!({}),
            _ => Value::Null,
        }
    }

    fn guessed_type(&mut self, keywords: &Map<String, Value>) -> &'static str {
        let has = |names: &[&str]| names.iter().any(|&name| keywords.contains_key(name));
        let hints = [
            ("object", has(&["properties", "required", "additionalProperties", "patternProperties", "minProperties"])),
            ("object", has(&["propertyNames", "maxProperties", "dependencies"])),
            ("array", has(&["items", "minItems", "maxItems", "contains", "uniqueItems"])),
            ("string", has(&["minLength", "maxLength", "pattern", "format"])),
            ("number", has(&["minimum", "maximum", "multipleOf", "exclusiveMinimum", "exclusiveMaximum"])),
        ];
        let hinted: Vec<_> = hints.iter().filter(|(_, hinted)| *hinted).map(|(name, _)| *name).collect();
        if hinted.is_empty() || self.random.one_in(4) {
            self.random.pick::<&str>(&["null", "boolean", "integer", "number", "string", "array", "object"])
        } else {
            self.random.pick::<&str>(&hinted)
        }
    }

    /// The keywords of `schema` and of the schemas that hold with it, one case of each choice.
    fn merge(&mut self, root: &Value, schema: &Value, into: &mut Map<String, Value>, hops: usize) {
        let Some(members) = schema.as_object() else { return };
        if hops > 8 {
            return;
        }
        if let Some(Value::String(target)) = members.get("$ref") {
            if let Some(target) = target.strip_prefix('#').and_then(|pointer| root.pointer(pointer)) {
                self.merge(root, target, into, hops + 1);
            }
            return;
        }
        for (keyword, value) in members {
            match (keyword.as_str(), value) {
                ("allOf", Value::Array(schemas)) => {
                    schemas.iter().for_each(|schema| self.merge(root, schema, into, hops + 1));
                }
                ("anyOf" | "oneOf", Value::Array(schemas)) => {
                    let case = self.random.pick(schemas).clone();
                    self.merge(root, &case, into, hops + 1);
                }
                ("if", schema) => {
                    let is_met = self.random.one_in(2);
                    let next = if is_met { members.get("then") } else { members.get("else") };
                    if is_met {
                        self.merge(root, schema, into, hops + 1);
                    }
                    next.into_iter().for_each(|next| self.merge(root, next, into, hops + 1));
                }
                ("properties", Value::Object(named)) => {
                    if let Some(Value::Object(known)) = into.get_mut("properties") {
                        named.iter().for_each(|(name, schema)| drop(known.insert(name.clone(), schema.clone())));
                    } else {
                        into.insert("properties".into(), value.clone());
                    }
                }
                ("required", Value::Array(names)) => {
                    if let Some(Value::Array(known)) = into.get_mut("required") {
                        known.extend(names.iter().cloned());
                    } else {
                        into.insert("required".into(), value.clone());
                    }
                }
                ("dependencies", Value::Object(named)) => {
                    let schemas: Vec<_> = named.values().filter(|schema| schema.is_object()).cloned().collect();
                    schemas.iter().for_each(|schema| self.merge(root, schema, into, hops + 1));
                    into.insert("dependencies".into(), value.clone());
                }
                _ => drop(into.insert(keyword.clone(), value.clone())),
            }
        }
    }

    fn number(&mut self, keywords: &Map<String, Value>, is_integer: bool) -> Value {
        let bound = |name: &str| keywords.get(name).and_then(Value::as_f64);
        let low = bound("minimum").or(bound("exclusiveMinimum").map(|low| low + if is_integer { 1.0 } else { 0.25 }));
        let high =
            bound("maximum").or(bound("exclusiveMaximum").map(|high| high - if is_integer { 1.0 } else { 0.25 }));
        let mut number = match (low, high, self.random.below(4)) {
            (Some(low), _, 0) => low,
            (_, Some(high), 1) => high,
            (Some(low), Some(high), _) => low + (high - low) * (self.random.below(9) as f64 / 8.0),
            (Some(low), None, _) => low + self.random.below(40) as f64 / 2.0,
            (None, Some(high), _) => high - self.random.below(40) as f64 / 2.0,
            (None, None, 3) => *self.random.pick(&[1e18, -1e18, 1e300, 0.1, -7.0]),
            (None, None, _) => self.random.below(41) as f64 / 2.0 - 10.0,
        };
        if let Some(divisor) = bound("multipleOf") {
            number = (number / divisor).round() * divisor;
        }
        if is_integer {
            number = number.round();
        }
        if number.fract() == 0.0 && number.abs() < 9e15 && !self.random.one_in(6) {
            json!(number as i64)
        } else {
            json!(number)
        }
    }

    fn string(&mut self, keywords: &Map<String, Value>) -> Value {
        if let Some(Value::String(pattern)) = keywords.get("pattern")
            && let Some(matching) = matching(pattern)
        {
            return json!(*self.random.pick(matching));
        }
        if let Some(text) = keywords.get("format").and_then(Value::as_str).and_then(formatted) {
            return json!(text);
        }
        let length = self.count(keywords, "minLength", "maxLength", 8);
        json!(self.random.pick(&["a", "é", "b", "0"]).repeat(length))
    }

    /// A length or a count between two bounds, at most `spread` above the lower.
    fn count(&mut self, keywords: &Map<String, Value>, min: &str, max: &str, spread: u64) -> usize {
        let bound = |name: &str| keywords.get(name).and_then(Value::as_u64);
        let low = bound(min).unwrap_or(0);
        let high = bound(max).unwrap_or(low + spread).max(low).min(low + 10_000);
        let count = match self.random.below(3) {
            0 => low,
            1 if bound(max).is_some() => high,
            _ => low + self.random.next() % ((high - low).min(spread) + 1),
        };
        count as usize
    }

    fn array(&mut self, root: &Value, keywords: &Map<String, Value>, depth: usize) -> Value {
        let length = self.count(keywords, "minItems", "maxItems", 3).min(40);
        let mut elements = Vec::new();
        for index in 0..length {
            let schema = match keywords.get("items") {
                Some(Value::Array(tuple)) => tuple.get(index).or(keywords.get("additionalItems")),
                items => items,
            };
            let closed = schema == Some(&Value::Bool(false));
            if closed && !self.random.one_in(4) {
                break;
            }
            elements.push(match (schema, keywords.get("contains")) {
                (_, Some(contains)) if index == 0 && self.random.one_in(2) => self.fitting(root, contains, depth + 1),
                (Some(schema), _) => self.fitting(root, schema, depth + 1),
                (None, _) => self.any(),
            });
        }
        Value::Array(elements)
    }

    fn object(&mut self, root: &Value, keywords: &Map<String, Value>, depth: usize) -> Value {
        let empty = Map::new();
        let map = |keyword: &str| keywords.get(keyword).and_then(Value::as_object).unwrap_or(&empty);
        let required: Vec<_> =
            keywords.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(text).collect();
        let sparse = self.random.below(4) + 1;
        let mut members = Map::new();
        for (name, schema) in map("properties") {
            if required.contains(name) || self.random.one_in(sparse) {
                members.insert(name.clone(), self.fitting(root, schema, depth + 1));
            }
        }
        for (pattern, schema) in map("patternProperties") {
            if let (Some(names), true) = (matching(pattern), self.random.one_in(2)) {
                members.insert((*self.random.pick(names)).into(), self.fitting(root, schema, depth + 1));
            }
        }
        for name in &required {
            if !members.contains_key(name) {
                members.insert(name.clone(), self.any());
            }
        }
        let others = keywords.get("additionalProperties").unwrap_or(&Value::Bool(true));
        let wanted = keywords.get("minProperties").and_then(Value::as_u64).unwrap_or(0);
        while *others != Value::Bool(false) && (members.len() as u64) < wanted.min(12) || self.random.one_in(3) {
            let name = match self.random.one_in(2) {
                true => self.random.pick(&self.words.names).clone(),
                false => format!("e{}", self.random.below(20)),
            };
            let value = if others.is_object() { self.fitting(root, others, depth + 1) } else { self.any() };
            members.entry(name).or_insert(value);
        }
        Value::Object(members)
    }

    /// Changes one thing somewhere inside.
    fn spoil(&mut self, value: &mut Value) {
        let goes_inside = !self.random.one_in(3);
        match value {
            Value::Array(elements) if !elements.is_empty() && goes_inside => {
                let index = self.random.below(elements.len());
                self.spoil(&mut elements[index]);
            }
            Value::Object(members) if !members.is_empty() && goes_inside => {
                let name = members.keys().nth(self.random.below(members.len())).expect("it is below the count").clone();
                self.spoil(&mut members[&name]);
            }
            Value::Array(elements) => match self.random.below(4) {
                0 => drop(elements.pop()),
                1 => elements.extend(elements.first().cloned()),
                2 => elements.push(self.any()),
                _ => *value = self.any(),
            },
            Value::Object(members) => match self.random.below(5) {
                0 | 1 if !members.is_empty() => {
                    let name = members.keys().nth(self.random.below(members.len())).expect("below the count").clone();
                    members.remove(&name);
                }
                2 | 3 => {
                    let (name, member) = (self.random.pick(&self.words.names).clone(), self.any());
                    members.insert(name, member);
                }
                _ => *value = self.any(),
            },
            scalar if self.random.one_in(3) => *scalar = self.any(),
            scalar => *scalar = self.near(scalar.take()),
        }
    }
}

/// Both definitions, compiled as the product does it.
pub struct Judges {
    schemas: [CompiledSchema; 2],
    validator: Validator,
}

/// A record that shows that two definitions do not fit.
#[derive(Debug, Default)]
pub struct Counterexamples {
    /// The older takes it, the newer does not.
    pub backward: Option<Value>,
    /// The newer takes it, the older does not.
    pub forward: Option<Value>,
}

impl Judges {
    /// `None`: one of them does not compile.
    pub fn new(old: &Value, new: &Value) -> Option<Self> {
        let compile =
            |definition: &Value| CompiledSchema::compile(SchemaId::generate(), 1, &definition.to_string()).ok();
        Some(Self { schemas: [compile(old)?, compile(new)?], validator: Validator::default() })
    }

    /// Whether the older and the newer take `record`.
    pub fn take(&mut self, record: &Value) -> [bool; 2] {
        let bytes = record.to_string().into_bytes();
        [0, 1].map(|side| self.validator.check(&self.schemas[side], &bytes).is_ok())
    }

    /// Looks for counterexamples among `count` records; stops when there is one for each of `wanted`.
    pub fn search(&mut self, records: &mut Records<'_>, count: usize, wanted: [bool; 2]) -> Counterexamples {
        let mut found = Counterexamples::default();
        for _ in 0..count {
            if (found.backward.is_some() || !wanted[0]) && (found.forward.is_some() || !wanted[1]) {
                break;
            }
            let record = records.next();
            match self.take(&record) {
                [true, false] => found.backward = Some(record),
                [false, true] => found.forward = Some(record),
                _ => {}
            }
        }
        found
    }
}
