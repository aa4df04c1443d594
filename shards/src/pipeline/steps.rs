//! The steps of a pipeline, from their JSON to what is run.
//!
//! A field is named by a JSON Pointer through objects (`/user/id`) or by the name of a top-level member, as key fields are.

use jiff::tz::TimeZone;
use serde_json::{Map, Value};

use super::{
    StepError,
    convert::Conversion,
    members::{Kept, Name, Text},
    times::{Format, Target, Unit, Zone},
};

/// The most steps of a pipeline.
pub const STEPS_MAX: usize = 32;
/// The most fields of a step.
pub const FIELDS_MAX: usize = 256;
/// The most names on the way to a field.
const PATH_MAX: usize = 16;
/// The longest name, format or path, in bytes.
const TEXT_BYTES_MAX: usize = 512;
/// The most formats of a step.
const FORMATS_MAX: usize = 16;
/// What the catalog keeps beside the name of a time zone: its rules, so that a record is the same under the rules of next year.
pub(super) const ZONE_RULES: &str = "time_zone_rules";

/// What becomes of a record whose field cannot be converted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnError {
    /// The record goes to the dead letters.
    Dlq,
    /// The field becomes null.
    Null,
    /// The field stays as it is.
    Keep,
    /// The record is left out.
    Drop,
}

/// A field of a step.
#[derive(Debug, Clone)]
pub(super) struct Field {
    pub(super) path: Vec<Name>,
    /// As a JSON Pointer.
    pub(super) pointer: String,
}

/// A step, ready to run.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) fields: Vec<Field>,
    /// Of a rename: the fields as they were given, and their new names.
    pub(super) names_given: Vec<String>,
    pub(super) new_names: Vec<String>,
    pub(super) action: Action,
    /// Its one field tells when the record's event was.
    pub(super) is_event_time: bool,
}

#[derive(Debug, Clone)]
pub(super) enum Action {
    Select(Vec<Kept>),
    Exclude,
    /// The new name of each field: as it is, and with its quotes.
    Rename(Vec<(Text, Text)>),
    /// Objects, and the members that come first in each.
    Reorder(Vec<(Vec<Name>, Vec<Name>)>),
    Convert {
        to: Conversion,
        on_error: OnError,
    },
}

/// Reads the steps of a pipeline.
pub(super) struct Compiler {
    pub(super) steps: Vec<Step>,
    pub(super) errors: Vec<StepError>,
    pub(super) texts: Vec<u8>,
    pub(super) guesses: usize,
}

/// One step's JSON.
struct Source<'v> {
    number: usize,
    members: &'v Map<String, Value>,
}

impl Source<'_> {
    fn error(&self, pointer: impl std::fmt::Display, message: impl Into<String>) -> StepError {
        StepError { pointer: format!("/{}{pointer}", self.number), message: message.into() }
    }

    fn text(&self, name: &str) -> Result<Option<&str>, StepError> {
        match self.members.get(name) {
            None => Ok(None),
            Some(Value::String(text)) if text.len() <= TEXT_BYTES_MAX => Ok(Some(text)),
            Some(_) => {
                Err(self.error(format_args!("/{name}"), format!("{name} is a text of up to {TEXT_BYTES_MAX} bytes")))
            }
        }
    }
}

/// The names on the way to the field that `text` means.
pub(super) fn path_of(text: &str) -> Vec<String> {
    match text.strip_prefix('/') {
        None => vec![text.to_owned()],
        // `~01` is `~1`, so `~1` goes first.
        Some(pointer) => pointer.split('/').map(|step| step.replace("~1", "/").replace("~0", "~")).collect(),
    }
}

/// The JSON Pointer of the field that `names` lead to.
pub(super) fn pointer_of<S: AsRef<str>>(names: &[S]) -> String {
    names.iter().map(|name| format!("/{}", name.as_ref().replace('~', "~0").replace('/', "~1"))).collect()
}

impl Compiler {
    /// Reads `steps`, which is to be an array; what is wrong is in `errors`.
    pub(super) fn read(steps: &Value) -> Self {
        let mut compiler = Self { steps: Vec::new(), errors: Vec::new(), texts: Vec::new(), guesses: 0 };
        let whole = |message: String| StepError { pointer: String::new(), message };
        match steps.as_array() {
            None => compiler.errors.push(whole("the steps are an array of objects".to_owned())),
            Some(steps) if steps.is_empty() || steps.len() > STEPS_MAX => {
                compiler.errors.push(whole(format!("a pipeline has 1 to {STEPS_MAX} steps")));
            }
            Some(steps) => {
                for (number, step) in steps.iter().enumerate() {
                    match compiler.step(number, step) {
                        Ok(step) if step.is_event_time && compiler.steps.iter().any(|step| step.is_event_time) => {
                            let message = "an earlier step says already when the event was".to_owned();
                            compiler.errors.push(StepError { pointer: format!("/{number}/event_time"), message });
                        }
                        Ok(step) => compiler.steps.push(step),
                        Err(error) => compiler.errors.push(error),
                    }
                }
            }
        }
        compiler
    }

    fn step(&mut self, number: usize, step: &Value) -> Result<Step, StepError> {
        let empty = Map::new();
        let source = Source { number, members: step.as_object().unwrap_or(&empty) };
        let kind = source.text("type")?.unwrap_or_default();
        let conversion = ["formats", "time_zone", ZONE_RULES, "target", "event_time", "on_error"];
        let others: &[&str] = match kind {
            "select" | "exclude" | "rename" | "reorder" => &[],
            "timestamp" => &conversion,
            "coerce" => &["to", "formats", "time_zone", ZONE_RULES, "target", "event_time", "on_error"],
            _ => {
                let message = "a step's type is select, exclude, rename, reorder, timestamp or coerce";
                return Err(source.error("/type", message));
            }
        };
        for name in source.members.keys() {
            if !["type", "fields"].contains(&name.as_str()) && !others.contains(&name.as_str()) {
                let known: Vec<_> =
                    ["type", "fields"].iter().chain(others).filter(|name| **name != ZONE_RULES).copied().collect();
                let message = format!("a step of type {kind} has no {name:?}; it has {}", known.join(", "));
                return Err(source.error(pointer_of(&[name]), message));
            }
        }
        let fields = self.fields(&source, kind)?;
        let action = match kind {
            "select" => Action::Select(kept(&fields)),
            "exclude" => Action::Exclude,
            "rename" => Action::Rename(self.new_names(&source)?),
            "reorder" => Action::Reorder(by_object(&fields)),
            _ => Action::Convert { to: conversion_of(&source, kind)?, on_error: on_error_of(&source)? },
        };
        let is_event_time = is_event_time(&source, &fields, &action)?;
        let renames = source.members.get("fields").and_then(Value::as_object);
        let names_given = renames.into_iter().flat_map(Map::keys).cloned().collect();
        let new_names =
            renames.into_iter().flat_map(Map::values).filter_map(Value::as_str).map(str::to_owned).collect();
        Ok(Step { fields, names_given, new_names, action, is_event_time })
    }

    /// The fields of a step: an array of them, or the names of an object's members.
    fn fields(&mut self, source: &Source<'_>, kind: &str) -> Result<Vec<Field>, StepError> {
        let (is_object, is_order) = (kind == "rename", kind == "reorder");
        let texts: Option<Vec<(&str, String)>> = match source.members.get("fields") {
            Some(Value::Array(fields)) if !is_object => {
                let texts =
                    fields.iter().enumerate().map(|(at, field)| Some((field.as_str()?, format!("/fields/{at}"))));
                texts.collect()
            }
            Some(Value::Object(fields)) if is_object => {
                Some(fields.keys().map(|name| (name.as_str(), format!("/fields{}", pointer_of(&[name])))).collect())
            }
            _ => None,
        };
        let shape = if is_object { "an object: each field and its new name" } else { "an array of fields" };
        let texts = texts
            .filter(|texts| (1..=FIELDS_MAX).contains(&texts.len()))
            .ok_or_else(|| source.error("/fields", format!("fields is {shape}, 1 to {FIELDS_MAX} of them")))?;
        let mut fields: Vec<Field> = Vec::new();
        for (text, pointer) in texts {
            let names = path_of(text);
            if text.is_empty() || text.len() > TEXT_BYTES_MAX || names.len() > PATH_MAX {
                let message =
                    format!("a field is a name or a JSON Pointer of up to {PATH_MAX} names and {TEXT_BYTES_MAX} bytes");
                return Err(source.error(pointer, message));
            }
            let field = Field { pointer: pointer_of(&names), path: self.names(names) };
            // An object may have its place, and its members theirs.
            let are_apart = |other: &Field| is_order && other.path.len() != field.path.len();
            let is_same = |other: &&Field| overlap(&other.path, &field.path) && !are_apart(other);
            if let Some(other) = fields.iter().find(is_same) {
                let message =
                    format!("{} and {} are the same, or one is inside the other", other.pointer, field.pointer);
                return Err(source.error(pointer, message));
            }
            fields.push(field);
        }
        Ok(fields)
    }

    fn names(&mut self, names: Vec<String>) -> Vec<Name> {
        let mut name = |text: String| {
            self.guesses += 1;
            Name { text: text.into(), guess: self.guesses - 1 }
        };
        names.into_iter().map(&mut name).collect()
    }

    fn new_names(&mut self, source: &Source<'_>) -> Result<Vec<(Text, Text)>, StepError> {
        let fields = source.members.get("fields").and_then(Value::as_object).expect("they were read as an object");
        let mut names = Vec::new();
        for (field, name) in fields {
            let Some(name) = name.as_str().filter(|name| !name.is_empty() && name.len() <= TEXT_BYTES_MAX) else {
                let message = format!("the new name is a text of 1 to {TEXT_BYTES_MAX} bytes");
                return Err(source.error(format_args!("/fields{}", pointer_of(&[field])), message));
            };
            let written = Value::from(name).to_string();
            names.push((self.own_text(name), self.own_text(&written)));
        }
        Ok(names)
    }

    fn own_text(&mut self, text: &str) -> Text {
        let start = self.texts.len();
        self.texts.extend_from_slice(text.as_bytes());
        Text::made(start..self.texts.len())
    }
}

/// Whether one of the paths leads to or through the other's field.
fn overlap(a: &[Name], b: &[Name]) -> bool {
    a.iter().zip(b).all(|(a, b)| a.text == b.text)
}

/// The fields as a tree. None is inside another.
fn kept(fields: &[Field]) -> Vec<Kept> {
    let mut tree = Vec::new();
    for field in fields {
        let mut level = &mut tree;
        for (depth, name) in field.path.iter().enumerate() {
            let is_last = depth + 1 == field.path.len();
            let at = level.iter().position(|kept: &Kept| kept.name.text == name.text).unwrap_or_else(|| {
                level.push(Kept { name: name.clone(), inner: (!is_last).then(Vec::new) });
                level.len() - 1
            });
            match &mut level[at].inner {
                Some(inner) => level = inner,
                None => break,
            }
        }
    }
    tree
}

/// The fields by the object that they are in.
fn by_object(fields: &[Field]) -> Vec<(Vec<Name>, Vec<Name>)> {
    let mut objects: Vec<(Vec<Name>, Vec<Name>)> = Vec::new();
    for field in fields {
        let Some((last, object)) = field.path.split_last() else { continue };
        let is_same = |names: &[Name]| names.len() == object.len() && overlap(names, object);
        match objects.iter_mut().find(|(names, _)| is_same(names)) {
            Some((_, members)) => members.push(last.clone()),
            None => objects.push((object.to_vec(), vec![last.clone()])),
        }
    }
    objects
}

fn is_event_time(source: &Source<'_>, fields: &[Field], action: &Action) -> Result<bool, StepError> {
    let is_one_time = fields.len() == 1 && matches!(action, Action::Convert { to: Conversion::Timestamp { .. }, .. });
    match source.members.get("event_time") {
        None | Some(Value::Bool(false)) => Ok(false),
        Some(Value::Bool(true)) if is_one_time => Ok(true),
        Some(_) => Err(source.error("/event_time", "event_time is true or false, for timestamps, and of one field")),
    }
}

fn on_error_of(source: &Source<'_>) -> Result<OnError, StepError> {
    match source.text("on_error")? {
        Some("dlq") => Ok(OnError::Dlq),
        Some("null") => Ok(OnError::Null),
        None | Some("keep") => Ok(OnError::Keep),
        Some("drop") => Ok(OnError::Drop),
        Some(_) => Err(source.error("/on_error", "on_error is dlq, null, keep (the default) or drop")),
    }
}

fn conversion_of(source: &Source<'_>, kind: &str) -> Result<Conversion, StepError> {
    let to = if kind == "timestamp" { Some("timestamp") } else { source.text("to")? };
    let plain = match to {
        Some("timestamp") => {
            return Ok(Conversion::Timestamp {
                formats: formats_of(source)?,
                zone: zone_of(source)?,
                target: target_of(source)?,
            });
        }
        Some("string") => Conversion::String,
        Some("integer") => Conversion::Integer,
        Some("number") => Conversion::Number,
        Some("boolean") => Conversion::Boolean,
        _ => return Err(source.error("/to", "to is string, integer, number, boolean or timestamp")),
    };
    match ["formats", "time_zone", "target", "event_time"].iter().find(|name| source.members.contains_key(**name)) {
        Some(name) => Err(source.error(format_args!("/{name}"), format!("{name} is for timestamps"))),
        None => Ok(plain),
    }
}

fn formats_of(source: &Source<'_>) -> Result<Vec<Format>, StepError> {
    let Some(formats) = source.members.get("formats") else { return Ok(vec![Format::Rfc3339]) };
    let formats = formats.as_array().filter(|formats| (1..=FORMATS_MAX).contains(&formats.len()));
    let formats = formats.ok_or_else(|| {
        source.error("/formats", format!("formats is an array of 1 to {FORMATS_MAX} formats, tried in this order"))
    })?;
    let format = |(at, format): (usize, &Value)| {
        let text = format.as_str().filter(|text| text.len() <= TEXT_BYTES_MAX).unwrap_or_default();
        Format::parse(text).map_err(|message| source.error(format_args!("/formats/{at}"), message))
    };
    formats.iter().enumerate().map(format).collect()
}

fn target_of(source: &Source<'_>) -> Result<Target, StepError> {
    Ok(match source.text("target")? {
        None | Some("rfc3339") => Target::Rfc3339,
        Some("unix_s") => Target::Unix(Unit::Seconds),
        Some("unix_ms") => Target::Unix(Unit::Millis),
        Some("unix_us") => Target::Unix(Unit::Micros),
        Some("unix_ns") => Target::Unix(Unit::Nanos),
        Some(_) => {
            return Err(source.error("/target", "target is rfc3339, unix_s, unix_ms, unix_us or unix_ns"));
        }
    })
}

fn zone_of(source: &Source<'_>) -> Result<Zone, StepError> {
    let Some(name) = source.text("time_zone")? else { return Ok(Zone::Fixed(0)) };
    if let Some(zone) = Zone::offset(name) {
        return Ok(zone);
    }
    let rules = source.members.get(ZONE_RULES).and_then(Value::as_str).and_then(bytes_of_hex);
    let zone = rules.and_then(|rules| TimeZone::tzif(name, &rules).ok());
    let message = "the time zone is not known here: give an offset such as +02:00, UTC, or a name of the IANA time zone \
                   database such as Europe/Berlin, if the server's system has that database";
    zone.map(Zone::Named).ok_or_else(|| source.error("/time_zone", message))
}

fn bytes_of_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.chunks(2).map(byte).collect()
}

/// `steps` as a client gave them, made ready to be kept: `rules` tells the rules (TZif) of a time zone that is named.
///
/// # Errors
/// A step has what only the server adds.
pub fn with_time_zones(mut steps: Value, rules: impl Fn(&str) -> Option<Vec<u8>>) -> Result<Value, StepError> {
    for (number, step) in steps.as_array_mut().into_iter().flatten().enumerate() {
        let Some(step) = step.as_object_mut() else { continue };
        if step.contains_key(ZONE_RULES) {
            let message = format!("a step has no {ZONE_RULES}: name the time zone");
            return Err(StepError { pointer: format!("/{number}/{ZONE_RULES}"), message });
        }
        let Some(name) = step.get("time_zone").and_then(Value::as_str) else { continue };
        if Zone::offset(name).is_none()
            && is_zone_name(name)
            && let Some(rules) = rules(name)
        {
            let hex: String = rules.iter().map(|byte| format!("{byte:02x}")).collect();
            step.insert(ZONE_RULES.to_owned(), hex.into());
        }
    }
    Ok(steps)
}

/// `steps` as they were kept, as a client may see them.
#[must_use]
pub fn without_time_zones(mut steps: Value) -> Value {
    for step in steps.as_array_mut().into_iter().flatten() {
        if let Some(step) = step.as_object_mut() {
            step.remove(ZONE_RULES);
        }
    }
    steps
}

/// Whether a name can be one of the database's, and no way out of its folder.
fn is_zone_name(name: &str) -> bool {
    let is_part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic())
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_+-".contains(&byte))
    };
    name.len() <= 64 && name.split('/').all(is_part)
}
