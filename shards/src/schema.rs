//! A compiled schema: what a registered draft-07 definition becomes before a shard sees it.
//!
//! A definition is compiled twice, for the tape of a record (the fast path) and for its `serde_json` value (the reference,
//! which decides on all that the tape does not accept). Both hold the same rules: draft-07 only, formats checked (those of
//! draft-07, and `uuid`), nothing fetched, patterns matched in linear time.

use std::{fmt, sync::Arc};

use jsonschema::{Draft, PatternOptions, json::Json};
use serde_json::Value;

use crate::ids::SchemaId;

use self::{patterns::PATTERNS_BYTES_MAX, program::Program, reference::ReferenceJson, tape::TapeJson, text::TextError};

mod chains;
mod patterns;
pub(crate) mod program;
pub(crate) mod reference;
mod rules;
pub(crate) mod tape;
pub(crate) mod text;

/// The longest definition, in bytes.
pub const DEFINITION_BYTES_MAX: usize = 1 << 20;

/// The most objects and arrays inside each other, in a definition and in a record.
pub const DEPTH_MAX: usize = 64;

/// How large one compiled pattern may be, in bytes.
const PATTERN_BYTES_MAX: usize = 4 << 20;

/// How much memory one pattern may use to remember its matching, in bytes, a thread.
const PATTERN_CACHE_BYTES_MAX: usize = 1 << 20;

/// The longest message of a [`SchemaError`], in bytes.
const MESSAGE_BYTES_MAX: usize = 512;

/// Why a definition cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} (at {pointer:?})")]
pub struct SchemaError {
    /// JSON Pointer into the definition; empty: the whole.
    pub pointer: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl SchemaError {
    fn whole(message: impl fmt::Display) -> Self {
        Self { pointer: String::new(), message: message.to_string() }
    }
}

/// One version of a schema, ready to check records on any thread.
pub struct CompiledSchema {
    /// The schema.
    pub id: SchemaId,
    /// The version, from 1.
    pub version: u32,
    /// The definition as it was registered.
    pub definition: Arc<str>,
    /// Accepts, or leaves the verdict to `tape`; `None` where the definition is beyond it.
    pub(crate) program: Option<Program>,
    /// Accepts, or leaves the verdict to `reference`.
    pub(crate) tape: jsonschema::Validator<TapeJson>,
    /// Decides, and says what is wrong.
    pub(crate) reference: jsonschema::Validator<ReferenceJson>,
}

impl fmt::Debug for CompiledSchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompiledSchema").field("id", &self.id).field("version", &self.version).finish_non_exhaustive()
    }
}

impl CompiledSchema {
    /// Compiles `definition`. Slow (milliseconds): never on a shard's reactor.
    ///
    /// # Errors
    /// The definition is no draft-07 schema, goes over a bound ([`DEFINITION_BYTES_MAX`], [`DEPTH_MAX`], 1024 `$ref`s, 1024
    /// patterns, 32 schemas that one value runs through), or uses a refused feature: a `$ref` that does not begin with `#` or
    /// leads back to itself without going into a member, or a pattern with look-around or back-references.
    pub fn compile(id: SchemaId, version: u32, definition: &str) -> Result<Self, SchemaError> {
        Self::within(usize::MAX, id, version, definition)
    }

    /// The same for a definition that is not stored yet, whose patterns are also bounded together (16 MiB, compiled).
    ///
    /// # Errors
    /// Those of [`Self::compile`], and its patterns are too large.
    pub fn compile_new(id: SchemaId, version: u32, definition: &str) -> Result<Self, SchemaError> {
        Self::within(PATTERNS_BYTES_MAX, id, version, definition)
    }

    fn within(patterns_bytes: usize, id: SchemaId, version: u32, definition: &str) -> Result<Self, SchemaError> {
        if definition.len() > DEFINITION_BYTES_MAX {
            return Err(SchemaError::whole(format_args!(
                "the definition has {} bytes, but at most {DEFINITION_BYTES_MAX} are taken: split it",
                definition.len()
            )));
        }
        let mut parsed = text::parse(definition.as_bytes(), DEPTH_MAX).map_err(|error| match &error {
            TextError::DuplicateKey { pointer, .. } => {
                SchemaError { pointer: pointer.clone(), message: error.to_string() }
            }
            _ => SchemaError::whole(error),
        })?;
        if !parsed.is_object() && !parsed.is_boolean() {
            return Err(SchemaError::whole("a schema is a JSON object, or true or false"));
        }
        let patterns = rules::apply(&mut parsed)?;
        chains::check(&parsed)?;
        if patterns_bytes < usize::MAX {
            patterns.check_size(patterns_bytes)?;
        }
        let cache_bytes = patterns.cache_bytes();
        let (tape, reference) = (build(&parsed, cache_bytes)?, build(&parsed, cache_bytes)?);
        let program = Program::compile(&parsed, cache_bytes);
        Ok(Self { id, version, definition: definition.into(), program, tape, reference })
    }
}

/// Compiles `definition` for one way to hold records; a pattern of it remembers its matching in `cache_bytes`.
fn build<F: Json>(definition: &Value, cache_bytes: usize) -> Result<jsonschema::Validator<F>, SchemaError> {
    let patterns = PatternOptions::regex().size_limit(PATTERN_BYTES_MAX).dfa_size_limit(cache_bytes);
    jsonschema::options_for::<F>()
        .with_draft(Draft::Draft7)
        .should_validate_formats(true)
        // Newer than draft-07, but whoever writes it means it.
        .with_format("uuid", |text: &str| text.len() == 36 && uuid::Uuid::try_parse(text).is_ok())
        .with_pattern_options(patterns)
        .offline()
        .build(definition)
        .map_err(|error| SchemaError {
            pointer: error.instance_path().as_str().to_owned(),
            message: text::bounded(MESSAGE_BYTES_MAX, format_args!("no valid draft-07 schema: {error}")),
        })
}
