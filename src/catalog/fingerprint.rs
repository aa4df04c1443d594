//! What makes two definitions of a schema the same.

use crate::compatibility;

/// The fingerprint of a definition.
///
/// # Errors
/// It is no JSON.
pub fn canonical_fingerprint(definition: &str) -> Result<[u8; 32], serde_json::Error> {
    Ok(compatibility::fingerprint(&serde_json::from_str(definition)?))
}
