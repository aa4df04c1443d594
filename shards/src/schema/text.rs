//! JSON text → [`Value`], stricter than `serde_json` alone: nesting is counted before anything recurses, and an object
//! that names a member twice is refused, because two readers of such a text may see two different records.

use std::fmt;

use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Why a text is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TextError {
    /// Not one JSON text.
    NotJson(Fault),
    /// JSON, but with a number beyond what an f64 can hold (`1e400`).
    NumberOutOfRange(Fault),
    /// More than `limit` objects and arrays inside each other, first passed at byte `offset`.
    TooDeep { limit: usize, offset: usize },
    /// The object at `pointer` names one member twice.
    DuplicateKey { pointer: String, fault: Fault },
}

/// Where a text stops being good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    /// What is wrong there, without the position.
    what: String,
    /// From 1; lines end at `\n`.
    line: usize,
    /// In bytes, from 1.
    column: usize,
    /// In bytes from the start of the text, from 0.
    offset: usize,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at line {} column {} (byte {})", self.what, self.line, self.column, self.offset)
    }
}

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotJson(fault) => write!(f, "not one JSON text: {fault}"),
            Self::NumberOutOfRange(fault) => write!(f, "{fault}: send numbers beyond ±1.8e308 as strings"),
            Self::TooDeep { limit, offset } => {
                write!(f, "more than {limit} objects and arrays inside each other, at byte {offset}")
            }
            Self::DuplicateKey { fault, .. } => write!(f, "{fault}: name each member of an object once"),
        }
    }
}

impl Fault {
    fn of(error: &serde_json::Error, text: &[u8]) -> Self {
        let rendered = error.to_string();
        // serde_json appends " at line L column C" to its own message.
        let what = rendered.split(" at line ").next().unwrap_or_default().to_owned();
        let (line, column) = (error.line().max(1), error.column().max(1));
        let line_start = text.split_inclusive(|&byte| byte == b'\n').take(line - 1).map(<[u8]>::len).sum::<usize>();
        Self { what, line, column, offset: (line_start + column - 1).min(text.len()) }
    }
}

/// The byte at which `text` first nests more than `limit` objects and arrays; `None`: it never does. One pass, no
/// recursion, and no judgement of whether `text` is JSON.
pub(crate) fn first_too_deep(text: &[u8], limit: usize) -> Option<usize> {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for (offset, &byte) in text.iter().enumerate() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => {
                depth += 1;
                if depth > limit {
                    return Some(offset);
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    None
}

/// Reads the one JSON text that `text` must be.
pub(crate) fn parse(text: &[u8], depth_limit: usize) -> Result<Value, TextError> {
    if let Some(offset) = first_too_deep(text, depth_limit) {
        return Err(TextError::TooDeep { limit: depth_limit, offset });
    }
    let mut reader = serde_json::Deserializer::from_slice(text);
    let mut duplicate = None;
    let read = Strict { duplicate: &mut duplicate }.deserialize(&mut reader);
    let error = match read.and_then(|value| reader.end().map(|()| value)) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    let fault = Fault::of(&error, text);
    Err(match duplicate {
        Some(pointer) => TextError::DuplicateKey { pointer, fault },
        None if fault.what.starts_with("number out of range") => TextError::NumberOutOfRange(fault),
        None => TextError::NotJson(fault),
    })
}

/// `token` as one step of a JSON Pointer, with its slash.
pub(crate) fn pointer_step(token: &str) -> String {
    format!("/{}", token.replace('~', "~0").replace('/', "~1"))
}

/// Reads a value; on a member named twice, fails and leaves the object's pointer in `duplicate`.
struct Strict<'a> {
    duplicate: &'a mut Option<String>,
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut read = Vec::new();
        loop {
            match items.next_element_seed(Strict { duplicate: self.duplicate }) {
                Ok(Some(item)) => read.push(item),
                Ok(None) => return Ok(Value::Array(read)),
                Err(error) => {
                    if let Some(pointer) = self.duplicate {
                        pointer.insert_str(0, &format!("/{}", read.len()));
                    }
                    return Err(error);
                }
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut read = Map::new();
        while let Some(Key(name)) = members.next_key()? {
            if read.contains_key(&name) {
                *self.duplicate = Some(String::new());
                return Err(de::Error::custom("a member is named twice"));
            }
            match members.next_value_seed(Strict { duplicate: self.duplicate }) {
                Ok(value) => read.insert(name, value),
                Err(error) => {
                    if let Some(pointer) = self.duplicate {
                        pointer.insert_str(0, &pointer_step(&name));
                    }
                    return Err(error);
                }
            };
        }
        Ok(Value::Object(read))
    }
}

/// A member's name.
struct Key(String);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Key)
    }
}

/// `message`, cut with an ellipsis at `limit` bytes; never renders more than that.
pub(crate) fn bounded(limit: usize, message: fmt::Arguments<'_>) -> String {
    let mut cut = Cut { text: String::new(), limit };
    if fmt::Write::write_fmt(&mut cut, message).is_err() {
        cut.text.push('…');
    }
    cut.text
}

/// Takes up to `limit` bytes, then fails, which ends the rendering.
struct Cut {
    text: String,
    limit: usize,
}

impl fmt::Write for Cut {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        let room = self.limit - self.text.len();
        if more.len() <= room {
            self.text.push_str(more);
            return Ok(());
        }
        let cut = (0..=room).rev().find(|&at| more.is_char_boundary(at)).unwrap_or(0);
        self.text.push_str(&more[..cut]);
        self.limit = self.text.len();
        Err(fmt::Error)
    }
}
