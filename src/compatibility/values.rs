//! Single values, and whether a schema takes one, where that can be told. Two values are equal if their canonical texts are.
//!
//! Patterns, formats, content and multiples are asked of the validator's own library, with the validator's own options, so
//! that there is one meaning for each.

use std::collections::{HashMap, HashSet};

use jsonschema::{Draft, PatternOptions};
use serde_json::{Value, json};

use super::{
    canonical,
    definitions::{Definitions, Id, Keywords, Plain, Schema, types},
    numbers::{End, Num},
};

/// The most schemas that one question may go through.
const VISITS_MAX: usize = 20_000;

/// How deep values and the schemas for them may nest, in one question.
const DEPTH_MAX: usize = 256;

/// Compiled assertions beyond this many are forgotten, and compiled anew when asked for.
const ASSERTIONS_MAX: usize = 1024;

/// The type of a value, as a set of one.
pub(super) fn type_of(value: &Value) -> u8 {
    match value {
        Value::Null => types::NULL,
        Value::Bool(_) => types::BOOLEAN,
        Value::Number(number) if Num::of(number).is_integer() => types::INTEGER,
        Value::Number(_) => types::FRACTION,
        Value::String(_) => types::STRING,
        Value::Array(_) => types::ARRAY,
        Value::Object(_) => types::OBJECT,
    }
}

/// True only if all are, false as soon as one is; `None`: it cannot be told.
fn all(verdicts: impl IntoIterator<Item = Option<bool>>) -> Option<bool> {
    let mut known = Some(true);
    for verdict in verdicts {
        match verdict {
            Some(true) => {}
            Some(false) => return Some(false),
            None => known = None,
        }
    }
    known
}

fn not(verdict: Option<bool>) -> Option<bool> {
    verdict.map(|verdict| !verdict)
}

/// The validator's own single assertions, compiled on demand.
#[derive(Default)]
pub(super) struct Assertions {
    compiled: HashMap<String, Option<jsonschema::Validator>>,
}

impl Assertions {
    /// Whether `pattern` matches somewhere in `text`.
    pub(super) fn matches(&mut self, pattern: &str, text: &str) -> Option<bool> {
        self.holds(&json!({ "pattern": pattern }), &Value::from(text))
    }

    fn holds(&mut self, assertion: &Value, value: &Value) -> Option<bool> {
        let key = assertion.to_string();
        if self.compiled.len() >= ASSERTIONS_MAX && !self.compiled.contains_key(&key) {
            self.compiled.clear();
        }
        let compiled = self.compiled.entry(key).or_insert_with(|| {
            jsonschema::options()
                .with_draft(Draft::Draft7)
                .should_validate_formats(true)
                .with_format("uuid", |text: &str| text.len() == 36 && uuid::Uuid::try_parse(text).is_ok())
                .with_pattern_options(PatternOptions::regex())
                .offline()
                .build(assertion)
                .ok()
        });
        compiled.as_ref().map(|compiled| compiled.is_valid(value))
    }
}

/// Asks one question: whether a schema takes a value.
pub(super) struct Question<'a> {
    definitions: &'a Definitions,
    assertions: &'a mut Assertions,
    visits: usize,
}

impl<'a> Question<'a> {
    /// A new one.
    pub(super) fn new(definitions: &'a Definitions, assertions: &'a mut Assertions) -> Self {
        Self { definitions, assertions, visits: 0 }
    }

    /// How many schemas it went through.
    pub(super) fn visits(&self) -> usize {
        self.visits
    }

    /// Whether `schema` takes `value`; `None`: it cannot be told.
    pub(super) fn takes(&mut self, schema: Id, value: &Value) -> Option<bool> {
        self.at_depth(schema, value, 0)
    }

    fn at_depth(&mut self, schema: Id, value: &Value, depth: usize) -> Option<bool> {
        self.visits += 1;
        if self.visits > VISITS_MAX || depth > DEPTH_MAX {
            return None;
        }
        let id = self.definitions.resolve(schema);
        let keywords = match self.definitions.schema(id) {
            Schema::All => return Some(true),
            Schema::Nothing => return Some(false),
            Schema::Opaque | Schema::Reference(_) => return None,
            Schema::Keywords(keywords) => keywords,
        };
        let depth = depth + 1;
        let verdicts = [
            self.plain(&keywords.plain, value),
            self.elements(&keywords, value, depth),
            self.members(&keywords, value, depth),
            self.combined(&keywords, value, depth),
        ];
        all(verdicts)
    }

    fn plain(&mut self, plain: &Plain, value: &Value) -> Option<bool> {
        if plain.types & type_of(value) == 0 {
            return Some(false);
        }
        if let Some(values) = &plain.values
            && !values.contains_key(&canonical::text(value))
        {
            return Some(false);
        }
        match value {
            Value::Number(number) => {
                let inside = |end| plain.range.bound(end).is_none_or(|bound| bound.admits(Num::of(number), end));
                if !inside(End::Lower) || !inside(End::Upper) {
                    return Some(false);
                }
                match plain.multiple_of {
                    None => Some(true),
                    Some(Num::Int(divisor)) => {
                        self.assertions.holds(&json!({ "multipleOf": u64::try_from(divisor).ok()? }), value)
                    }
                    Some(Num::Float(divisor)) => self.assertions.holds(&json!({ "multipleOf": divisor }), value),
                }
            }
            Value::String(text) => self.string(plain, text, value),
            Value::Array(elements) => {
                let count = elements.len() as u64;
                let unique = || elements.iter().map(canonical::text).collect::<HashSet<_>>().len() == elements.len();
                let inside = plain.min_items <= count && plain.max_items.is_none_or(|max| count <= max);
                Some(inside && (!plain.unique_items || unique()))
            }
            Value::Object(members) => {
                let count = members.len() as u64;
                let inside = plain.min_properties <= count && plain.max_properties.is_none_or(|max| count <= max);
                Some(inside && plain.required.iter().all(|name| members.contains_key(&**name)))
            }
            Value::Null | Value::Bool(_) => Some(true),
        }
    }

    fn string(&mut self, plain: &Plain, text: &str, value: &Value) -> Option<bool> {
        let length = text.chars().count() as u64;
        if length < plain.min_length || plain.max_length.is_some_and(|max| length > max) {
            return Some(false);
        }
        let pattern = plain.pattern.as_ref().map_or(Some(true), |pattern| self.assertions.matches(pattern, text));
        let format = plain
            .format
            .as_ref()
            .map_or(Some(true), |format| self.assertions.holds(&json!({ "format": **format }), value));
        let content = match &plain.content {
            (None, None) => Some(true),
            (Some(encoding), None) => self.assertions.holds(&json!({ "contentEncoding": **encoding }), value),
            (None, Some(media)) => self.assertions.holds(&json!({ "contentMediaType": **media }), value),
            (Some(encoding), Some(media)) => {
                self.assertions.holds(&json!({ "contentEncoding": **encoding, "contentMediaType": **media }), value)
            }
        };
        all([pattern, format, content])
    }

    fn elements(&mut self, keywords: &Keywords, value: &Value, depth: usize) -> Option<bool> {
        let Some(elements) = value.as_array() else { return Some(true) };
        let mut verdicts = Vec::new();
        for (index, element) in elements.iter().enumerate() {
            let schema = keywords.tuple.get(index).copied().unwrap_or(keywords.rest);
            verdicts.push(self.at_depth(schema, element, depth));
        }
        if let Some(contains) = keywords.contains {
            let none = all(elements.iter().map(|element| not(self.at_depth(contains, element, depth))));
            verdicts.push(not(none));
        }
        all(verdicts)
    }

    fn members(&mut self, keywords: &Keywords, value: &Value, depth: usize) -> Option<bool> {
        let Some(members) = value.as_object() else { return Some(true) };
        let mut verdicts = Vec::new();
        for (name, member) in members {
            let named = keywords.properties.get(name.as_str());
            let mut is_other = Some(named.is_none());
            if let Some(&schema) = named {
                verdicts.push(self.at_depth(schema, member, depth));
            }
            for (pattern, &schema) in &keywords.patterns {
                match self.assertions.matches(pattern, name) {
                    Some(false) => {}
                    Some(true) => {
                        is_other = Some(false);
                        verdicts.push(self.at_depth(schema, member, depth));
                    }
                    None => {
                        is_other = is_other.filter(|is_other| !is_other);
                        verdicts.push(None);
                    }
                }
            }
            match is_other {
                Some(true) => verdicts.push(self.at_depth(keywords.others, member, depth)),
                Some(false) => {}
                None => verdicts.push(None),
            }
            verdicts.push(self.at_depth(keywords.names, &Value::from(name.as_str()), depth));
        }
        for (name, &schema) in &keywords.dependencies {
            if members.contains_key(&**name) {
                verdicts.push(self.at_depth(schema, value, depth));
            }
        }
        all(verdicts)
    }

    fn combined(&mut self, keywords: &Keywords, value: &Value, depth: usize) -> Option<bool> {
        let mut verdicts: Vec<_> = keywords.all_of.iter().map(|&schema| self.at_depth(schema, value, depth)).collect();
        if !keywords.any_of.is_empty() {
            verdicts.push(not(all(keywords.any_of.iter().map(|&schema| not(self.at_depth(schema, value, depth))))));
        }
        if !keywords.one_of.is_empty() {
            let taking: Vec<_> = keywords.one_of.iter().map(|&schema| self.at_depth(schema, value, depth)).collect();
            let (sure, unsure) = (
                taking.iter().filter(|&&taken| taken == Some(true)).count(),
                taking.iter().filter(|taken| taken.is_none()).count(),
            );
            verdicts.push(match (sure, unsure) {
                (1, 0) => Some(true),
                (0 | 1, 1..) => None,
                _ => Some(false),
            });
        }
        if let Some(schema) = keywords.not {
            verdicts.push(not(self.at_depth(schema, value, depth)));
        }
        if let Some([condition, then, otherwise]) = keywords.condition {
            verdicts.push(match self.at_depth(condition, value, depth) {
                Some(true) => self.at_depth(then, value, depth),
                Some(false) => self.at_depth(otherwise, value, depth),
                None => None,
            });
        }
        all(verdicts)
    }
}
