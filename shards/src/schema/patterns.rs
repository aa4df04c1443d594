//! What the patterns of one definition cost together, in memory.
//!
//! A short pattern can become a large automaton, and a definition holds many, each compiled once for every way to check a
//! record. So a new definition is measured before it is compiled: pattern by pattern, each within what the ones before it left,
//! so that the measuring is bounded as well. What is stored already is never measured: it must go on working.

use regex_automata::meta;

use super::{PATTERN_BYTES_MAX, PATTERN_CACHE_BYTES_MAX, SchemaError};

/// How large the compiled patterns of a new definition may be together, in bytes.
pub(super) const PATTERNS_BYTES_MAX: usize = 16 << 20;

/// How much memory the patterns of one definition may use together to remember their matching, in bytes, a thread.
const CACHES_BYTES_MAX: usize = 64 << 20;

/// The patterns of a definition, with where each stands.
#[derive(Debug)]
pub(crate) struct Patterns(pub(super) Vec<(String, String)>);

impl Patterns {
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How much memory each may use to remember its matching, in bytes, a thread. One that gets too little for the fast way is
    /// matched in a slower one.
    pub(super) fn cache_bytes(&self) -> usize {
        (CACHES_BYTES_MAX / self.0.len().max(1)).min(PATTERN_CACHE_BYTES_MAX)
    }

    /// Whether they are within `budget` bytes together, compiled.
    pub(super) fn check_size(&self, budget: usize) -> Result<(), SchemaError> {
        let mut left = budget;
        for (pattern, pointer) in &self.0 {
            // What is no pattern is refused with its reason when it is compiled.
            let Ok(translated) = jsonschema_regex::to_rust_regex(pattern) else { continue };
            let limits = meta::Config::new().nfa_size_limit(Some(left.min(PATTERN_BYTES_MAX)));
            let size = match meta::Builder::new().configure(limits).build(&translated) {
                Ok(compiled) => compiled.memory_usage(),
                Err(error) if error.size_limit().is_some() => usize::MAX,
                Err(_) => continue,
            };
            left = left.checked_sub(size).ok_or_else(|| SchemaError {
                pointer: pointer.clone(),
                message: format!(
                    "with this pattern, those of the definition take more than {} MiB of memory, or it alone more than {} \
                     MiB: repeat less in it ({{n,m}}), name fewer characters (\\p{{L}}), or use maxLength and format in its \
                     place",
                    budget >> 20,
                    PATTERN_BYTES_MAX >> 20
                ),
            })?;
        }
        Ok(())
    }
}
