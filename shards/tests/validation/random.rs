//! Random schemas of the keywords that programs know, and records for them: most are valid or nearly so, and they are spelt in
//! all the ways that JSON allows.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use crate::mutate::Random;

const NAMES: [&str; 14] = [
    "a",
    "b",
    "ab",
    "id",
    "kind",
    "é",
    "名前",
    "",
    "a b",
    "x/y~z",
    "thirteenchars",
    "sixteen_letters",
    "a_name_that_is_longer",
    "a_name_that_is_larger",
];

/// Patterns, and strings that match them or nearly.
const PATTERNS: [(&str, &[&str]); 9] = [
    ("^[A-Z]{3}$", &["ABC", "ABD", "AbC", "AB", "ABCD", "ABC\n"]),
    ("^u_[0-9]{1,12}$", &["u_1", "u_123456789012", "u_1234567890123", "u_", "u_1\""]),
    ("^s_[0-9a-f]{4}$", &["s_00ff", "s_00FF", "s_00f", "s_00fé"]),
    ("^/[a-z/]*$", &["/", "/a/b", "a/b", "/A"]),
    ("^a", &["a", "ab", "a\"", "b", "aé"]),
    ("b$", &["b", "ab", "éb", "ba"]),
    ("^[\\w.-]+@[\\w.-]+$", &["a@b", "a.b@c-d.e", "@", "é@b"]),
    ("^(on|off)$", &["on", "off", "offf", "On"]),
    ("^\"?[a-z\"]+$", &["\"a", "a\"", "a", "\""]),
];

/// Formats, and strings that have them or nearly.
const FORMATS: [(&str, &[&str]); 14] = [
    (
        "date-time",
        &[
            "2024-05-06T07:08:09Z",
            "2024-02-29T23:59:59.999+05:30",
            "2023-02-29T00:00:00Z",
            "2016-12-31T23:59:60Z",
            "2024-05-06t07:08:09z",
            "2024-05-06T07:08:09",
            "2024-05-06T07:08:09.Z",
            "2024-05-06T24:00:00Z",
            "2024-05-06T07:08:09-00:60",
        ],
    ),
    ("date", &["2024-05-06", "1900-02-29", "2000-02-29", "2024-13-01", "2024-04-31", "0000-01-01"]),
    ("time", &["07:08:09Z", "07:08:09.5+01:00", "23:59:60Z", "07:08Z"]),
    (
        "uuid",
        &[
            "018f4e3c-5b7a-7c21-9d3e-2f6a81c4b90d",
            "018F4E3C-5B7A-7C21-9D3E-2F6A81C4B90D",
            "018f4e3c-5b7a-7c21-9d3e-2f6a81c4b90g",
            "018f4e3c5b7a7c219d3e2f6a81c4b90d",
        ],
    ),
    (
        "email",
        &["a@b.example", "a.b+c@x-y.de", "a@b", "\"a b\"@c.de", "a@[127.0.0.1]", "a@-b.de", "é@b.de", "a..b@c.de"],
    ),
    ("hostname", &["a.example", "a", "xn--nxasmq6b", "-a", "a--b", "ab--c", "a_b", "a.", ""]),
    ("ipv4", &["192.0.2.1", "256.0.0.1", "1.2.3", "01.2.3.4", "1.2.3.4 "]),
    ("ipv6", &["::1", "2001:db8::1", "::ffff:1.2.3.4", "1::2::3", "::%1", ":"]),
    ("json-pointer", &["", "/a~0b~1", "/", "a", "/~2", "/é"]),
    (
        "uri",
        &["http://a.example/b?c#d", "urn:a:b", "http://[::1]/", "http://u:p@h:1/", "//a", "a b:c", "http://é/", "a:%4"],
    ),
    ("uri-reference", &["", "/a/b", "a:b", "1:b", "?a:b#c", "#a#b", "a%20b", "a%2", "\\", "//a@b/", "http://a:b/"]),
    ("iri", &["http://a.example/é", "http://a.example/b", "a"]),
    ("iri-reference", &["/é", "/a", "<"]),
    ("int64", &["anything"]),
];

const BOUNDS: [&str; 14] = [
    "0",
    "1",
    "-1",
    "5",
    "100",
    "0.5",
    "-0.5",
    "0.1",
    "1.5",
    "90.0",
    "1e2",
    "9007199254740991",
    "-9007199254740992",
    "1000000000000",
];

/// Makes schemas.
pub struct Schemas<'r>(pub &'r mut Random);

impl Schemas<'_> {
    /// A definition.
    pub fn definition(&mut self) -> Value {
        let mut definition = match self.0.below(8) {
            0 => self.schema(3),
            _ => self.object(3),
        };
        let definitions: Map<_, _> = (0..3).map(|number| (format!("d{number}"), self.schema(2))).collect();
        if let Some(keywords) = definition.as_object_mut() {
            keywords.insert("definitions".into(), Value::Object(definitions));
        }
        definition
    }

    fn one_in(&mut self, times: usize) -> bool {
        self.0.below(times) == 0
    }

    fn schema(&mut self, depth: usize) -> Value {
        match self.0.below(if depth == 0 { 13 } else { 22 }) {
            0..=4 => self.string(),
            5..=8 => self.number(),
            9 => json!({ "type": "boolean" }),
            10 => json!({ "type": ["null", "string", "integer"], "maxLength": 3, "minimum": 0 }),
            11 => self.listed(),
            12 => [json!(true), json!({}), json!(false), json!({ "x-of": 1 })][self.0.below(4)].clone(),
            13..=15 => self.object(depth - 1),
            16 => self.array(depth - 1),
            17 => json!({ "$ref": format!("#/definitions/d{}", self.0.below(3)) }),
            18 => json!({ "anyOf": [self.schema(depth - 1), self.schema(depth - 1)] }),
            19 => json!({ "oneOf": [self.string(), self.number(), { "type": "null" }] }),
            20 => {
                let mut kinds = [self.object(depth - 1), self.object(depth - 1)];
                for (kind, name) in kinds.iter_mut().zip(["a", "b"]) {
                    kind["properties"]["kind"] = json!({ "const": name });
                    kind["required"] = json!(["kind"]);
                }
                json!({ "oneOf": kinds })
            }
            _ => {
                let mut schema = self.object(depth - 1);
                schema["allOf"] = json!([self.schema(depth - 1), { "minProperties": 1 }]);
                schema
            }
        }
    }

    fn object(&mut self, depth: usize) -> Value {
        let count = if self.one_in(40) { 60 + self.0.below(90) } else { self.0.below(6) };
        let mut properties = Map::new();
        for number in 0..count {
            let name = if count > 10 { format!("member{number}") } else { NAMES[self.0.below(NAMES.len())].to_owned() };
            let schema = if count > 10 { self.number() } else { self.schema(depth) };
            properties.insert(name, schema);
        }
        let mut required: Vec<_> = properties.keys().filter(|_| self.0.below(2) == 0).cloned().collect();
        if self.one_in(8) {
            required.push(NAMES[self.0.below(NAMES.len())].to_owned());
            required.sort();
            required.dedup();
        }
        let mut schema = json!({ "properties": properties, "required": required });
        if !self.one_in(4) {
            schema["type"] = json!("object");
        }
        match self.0.below(5) {
            0 | 1 => schema["additionalProperties"] = json!(false),
            2 => schema["additionalProperties"] = self.schema(0),
            _ => {}
        }
        if self.one_in(8) {
            schema["minProperties"] = json!(self.0.below(3));
            schema["maxProperties"] = json!(2 + self.0.below(4));
        }
        schema
    }

    fn array(&mut self, depth: usize) -> Value {
        let mut schema = json!({ "type": "array", "items": self.schema(depth), "uniqueItems": self.one_in(3) });
        if self.one_in(3) {
            schema["minItems"] = json!(self.0.below(3));
            schema["maxItems"] = json!(1 + self.0.below(3));
        }
        schema
    }

    fn string(&mut self) -> Value {
        let mut schema = json!({ "type": "string" });
        match self.0.below(5) {
            0 | 1 => schema["format"] = json!(FORMATS[self.0.below(FORMATS.len())].0),
            2 | 3 => schema["pattern"] = json!(PATTERNS[self.0.below(PATTERNS.len())].0),
            _ => {}
        }
        if self.one_in(3) {
            schema["minLength"] = json!(self.0.below(5));
        }
        if self.one_in(3) {
            schema["maxLength"] = json!(self.0.below(30));
        }
        schema
    }

    fn number(&mut self) -> Value {
        let kind = ["integer", "number"][self.0.below(2)];
        let mut schema = json!({ "type": kind });
        for keyword in ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"] {
            if self.one_in(4) {
                let bound = BOUNDS[self.0.below(BOUNDS.len())];
                schema[keyword] = serde_json::from_str(bound).expect("a number");
            }
        }
        if self.one_in(12) {
            schema["multipleOf"] = json!(1 + self.0.below(4));
        }
        schema
    }

    fn listed(&mut self) -> Value {
        match self.0.below(4) {
            0 => json!({ "const": "a" }),
            1 => json!({ "const": self.0.below(3) }),
            2 => json!({ "enum": ["on", "off", "a/b", "é", "a rather long alternative", null] }),
            _ => json!({ "enum": [1, 2.0, 0.5, true, "1", [1], { "a": 1 }], "maxLength": self.0.below(3) }),
        }
    }
}

/// All keywords for one value.
#[derive(Default)]
struct Keywords<'d> {
    /// Of those that are there twice, the last counts.
    all: Vec<(&'d str, &'d Value)>,
    properties: Vec<(&'d str, &'d Value)>,
}

impl<'d> Keywords<'d> {
    fn get(&self, keyword: &str) -> Option<&'d Value> {
        self.all.iter().rev().find(|(name, _)| *name == keyword).map(|(_, value)| *value)
    }

    fn property(&self, name: &str) -> Option<&'d Value> {
        self.properties.iter().find(|(other, _)| *other == name).map(|(_, schema)| *schema)
    }

    fn count(&self, keyword: &str) -> Option<usize> {
        self.get(keyword)?.as_u64()?.try_into().ok()
    }
}

/// Makes records for one definition.
pub struct Records<'d> {
    definition: &'d Value,
    /// What may stand between tokens.
    blanks: &'static [&'static str],
    text: String,
}

impl<'d> Records<'d> {
    /// For `definition`.
    pub fn new(definition: &'d Value) -> Self {
        Self { definition, blanks: &[""], text: String::new() }
    }

    /// The next one.
    pub fn next(&mut self, random: &mut Random) -> &str {
        self.text.clear();
        self.blanks = [&[""][..], &[""], &[" "], &["", " ", "\n", "\t\r"]][random.below(4)];
        self.value(self.definition, random, 6);
        &self.text
    }

    fn blank(&mut self, random: &mut Random) {
        self.text.push_str(self.blanks[random.below(self.blanks.len())]);
    }

    /// A value for `schema`.
    fn value(&mut self, schema: &'d Value, random: &mut Random, depth: usize) {
        if depth == 0 || random.below(30) == 0 {
            return self.any(random);
        }
        let mut keywords = Keywords::default();
        self.collect(schema, &mut keywords, random, 8);
        let listed = keywords.get("enum").and_then(Value::as_array).map(|values| &values[random.below(values.len())]);
        if let Some(value) = keywords.get("const").or(listed) {
            return self.spell(value, random);
        }
        let by_chance = ["object", "string", "number", "array", "null"][random.below(5)];
        let kind = match keywords.get("type") {
            Some(Value::String(name)) => name,
            Some(Value::Array(names)) => names[random.below(names.len())].as_str().unwrap_or_default(),
            _ if !keywords.properties.is_empty() => "object",
            _ => by_chance,
        };
        match kind {
            "object" => self.object(&keywords, random, depth),
            "array" => self.array(&keywords, random, depth),
            "string" => self.string(&keywords, random),
            "integer" | "number" => self.number(&keywords, random),
            "boolean" => self.text.push_str(["true", "false"][random.below(2)]),
            _ => self.text.push_str("null"),
        }
    }

    /// Adds the keywords of `schema` and of its branches: of alternatives, those of one.
    fn collect(&self, schema: &'d Value, into: &mut Keywords<'d>, random: &mut Random, hops: usize) {
        let Some(keywords) = schema.as_object().filter(|_| hops > 0) else { return };
        if let Some(target) = keywords.get("$ref").and_then(Value::as_str) {
            if let Some(target) = self.definition.pointer(&target[1..]) {
                self.collect(target, into, random, hops - 1);
            }
            return;
        }
        for (keyword, value) in keywords {
            match (keyword.as_str(), value) {
                ("allOf", Value::Array(all)) => all.iter().for_each(|one| self.collect(one, into, random, hops - 1)),
                ("anyOf" | "oneOf", Value::Array(any)) => {
                    self.collect(&any[random.below(any.len())], into, random, hops - 1)
                }
                ("properties", Value::Object(properties)) => {
                    into.properties.extend(properties.iter().map(|(name, schema)| (name.as_str(), schema)));
                }
                _ => into.all.push((keyword, value)),
            }
        }
    }

    fn object(&mut self, keywords: &Keywords<'d>, random: &mut Random, depth: usize) {
        let required = keywords.get("required").and_then(Value::as_array);
        let required: Vec<&str> = required.into_iter().flatten().filter_map(Value::as_str).collect();
        let mut names: Vec<String> = keywords.properties.iter().map(|(name, _)| (*name).to_owned()).collect();
        names.extend(required.iter().map(|name| (*name).to_owned()));
        names.sort();
        names.dedup();
        names.retain(|name| random.below(if required.contains(&name.as_str()) { 60 } else { 3 }) > 0);
        if random.below(5) == 0 {
            (0..random.below(4)).for_each(|_| names.push(NAMES[random.below(NAMES.len())].to_owned()));
        }
        if random.below(60) == 0 {
            (0..random.below(80)).for_each(|number| names.push(format!("k{number}")));
        }
        for at in (1..names.len()).rev() {
            names.swap(at, random.below(at + 1));
        }
        if random.below(50) > 0 {
            let mut seen = HashSet::new();
            names.retain(|name| seen.insert(name.clone()));
        }
        self.text.push('{');
        for (at, name) in names.iter().enumerate() {
            self.text.push_str(if at == 0 { "" } else { "," });
            self.blank(random);
            self.string_of(name, random, 60);
            self.blank(random);
            self.text.push(':');
            self.blank(random);
            match keywords.property(name).or_else(|| keywords.get("additionalProperties")) {
                Some(schema) => self.value(schema, random, depth - 1),
                None => self.any(random),
            }
            self.blank(random);
        }
        self.text.push('}');
    }

    fn array(&mut self, keywords: &Keywords<'d>, random: &mut Random, depth: usize) {
        let fewest = keywords.count("minItems").unwrap_or(0);
        let count =
            fewest + random.below(keywords.count("maxItems").map_or(4, |most| (most + 1).saturating_sub(fewest)));
        self.text.push('[');
        for at in 0..count {
            self.text.push_str(if at == 0 { "" } else { "," });
            self.blank(random);
            match keywords.get("items") {
                Some(schema) => self.value(schema, random, depth - 1),
                None => self.any(random),
            }
            self.blank(random);
        }
        self.text.push(']');
    }

    fn string(&mut self, keywords: &Keywords<'d>, random: &mut Random) {
        let named = |keyword: &str, table: &[(&str, &'static [&'static str])]| {
            let name = keywords.get(keyword)?.as_str()?;
            table.iter().find(|(known, _)| *known == name).map(|(_, texts)| *texts)
        };
        if let Some(texts) = named("pattern", &PATTERNS).or_else(|| named("format", &FORMATS)) {
            // The first ones are good.
            let most = if random.below(4) == 0 { texts.len() } else { texts.len().min(2) };
            return self.string_of(texts[random.below(most)], random, 12);
        }
        let fewest = keywords.count("minLength").unwrap_or(0);
        let most = keywords.count("maxLength").unwrap_or(40).max(fewest);
        let length = match random.below(8) {
            0 => fewest.saturating_sub(1),
            1 => most + 1,
            2 => fewest,
            3 => most,
            _ => fewest + random.below(most - fewest + 1),
        };
        let plain = random.below(3) > 0;
        let text: String = (0..length)
            .map(|_| if plain { 'a' } else { ['a', 'Z', ' ', 'é', '漢', '😀', '/', '"', '\\', '\n'][random.below(10)] })
            .collect();
        self.string_of(&text, random, 12);
    }

    /// `text` between quotes; about once in `times` with more escapes than it needs.
    fn string_of(&mut self, text: &str, random: &mut Random, times: usize) {
        let escapes = random.below(times) == 0;
        self.text.push('"');
        for char in text.chars() {
            match char {
                '"' | '\\' => self.text.extend(['\\', char]),
                '\n' => self.text.push_str("\\n"),
                '/' if escapes => self.text.push_str("\\/"),
                _ if escapes && random.below(2) == 0 => {
                    char.encode_utf16(&mut [0; 2])
                        .iter()
                        .for_each(|unit| self.text.push_str(&format!("\\u{unit:04x}")));
                }
                _ => self.text.push(char),
            }
        }
        self.text.push('"');
    }

    /// A number near one of the bounds, if there are any.
    fn number(&mut self, keywords: &Keywords<'d>, random: &mut Random) {
        let bounds: Vec<f64> = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"]
            .iter()
            .filter_map(|keyword| keywords.get(keyword)?.as_f64())
            .collect();
        let near = if bounds.is_empty() { random.below(100) as f64 } else { bounds[random.below(bounds.len())] };
        let integer = near as i64 + [0, 0, 1, -1, 2, -2, 7][random.below(7)];
        let is_integer = keywords.get("type").is_some_and(|name| name == "integer");
        let text = match random.below(if is_integer { 9 } else { 16 }) {
            0..=6 => integer.to_string(),
            7 => format!("{integer}.0"),
            8 => format!("{integer}e{}", random.below(3)),
            9 => format!("{near}"),
            10 => format!("{integer}.{}", random.below(1000)),
            11 => format!("{integer}.{:016}", random.next() % 10_000_000_000_000_000),
            12 => {
                format!("{integer}.{}", ["00000000000000001", "99999999999999999", "5000", "00", "1"][random.below(5)])
            }
            13 => format!(
                "{}.{}",
                near as i64,
                ["0000000000000000001", "4999999999999999999", "5", "09999999999"][random.below(4)]
            ),
            14 => format!("{:e}", near + random.below(10) as f64 / 4.0),
            _ => ["-0", "-0.0", "1e400", "18446744073709551616", "1E-7", "0.1e1", "12345678901234567890.5"]
                [random.below(7)]
            .to_owned(),
        };
        self.text.push_str(&text);
    }

    fn any(&mut self, random: &mut Random) {
        const VALUES: [&str; 16] = [
            "null",
            "true",
            "false",
            "0",
            "-1",
            "1.5",
            "2.0",
            "\"\"",
            "\"a\"",
            "\"é\\n\"",
            "[]",
            "{}",
            "[1,[2,{}]]",
            "{\"a\":{\"b\":null}}",
            "[1,1]",
            "1e3",
        ];
        self.text.push_str(VALUES[random.below(VALUES.len())]);
    }

    fn spell(&mut self, value: &Value, random: &mut Random) {
        match value {
            Value::String(text) => self.string_of(text, random, 12),
            Value::Number(number) if random.below(6) == 0 => self.text.push_str(&format!("{number}.0")),
            value => self.text.push_str(&value.to_string()),
        }
    }
}
