//! The making of credentials: API keys, and the keys that tokens are checked by. The checking itself is the shards'
//! [`ttdust_shards::access`], for gRPC and REST alike.

pub mod tokens;

use ttdust_shards::access::{KEY_PREFIX, KeyEntry, Role, StreamPermissions, digest};

use crate::catalog::ApiKey;

const ID_PREFIX: &str = "key_";
const SECRET_BYTES: usize = 32;

/// A new key: what is stored, and its text, which is shown once.
///
/// # Errors
/// The system gives no random bytes.
pub fn new_key(
    name: String,
    role: Role,
    streams: Vec<String>,
    expires_at: Option<i64>,
    now: i64,
) -> std::io::Result<(ApiKey, String)> {
    let mut secret = [0u8; SECRET_BYTES];
    let mut filled = 0;
    while filled < SECRET_BYTES {
        filled += rustix::rand::getrandom(&mut secret[filled..], rustix::rand::GetRandomFlags::empty())?;
    }
    let uuid = uuid::Uuid::now_v7();
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let text = format!("{KEY_PREFIX}{uuid}_{hex}");
    let id = format!("{ID_PREFIX}{uuid}");
    let key =
        ApiKey { id, name, role, streams, sha256: digest(&text), created_at: now, expires_at, last_used_at: None };
    Ok((key, text))
}

/// The UUID by which a key is found.
#[must_use]
pub fn uuid_of(key: &ApiKey) -> &str {
    key.id.strip_prefix(ID_PREFIX).unwrap_or(&key.id)
}

/// A key as it is checked. `last_used` is shared with the entries of the same key in other snapshots.
#[must_use]
pub fn entry_of(key: &ApiKey, last_used: std::sync::Arc<std::sync::atomic::AtomicI64>) -> KeyEntry {
    KeyEntry {
        sha256: key.sha256,
        role: key.role,
        streams: StreamPermissions::new(key.streams.clone()),
        expires_unix_micros: key.expires_at,
        last_used,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_long_random_and_never_stored() {
        let new = || new_key("k".into(), Role::Admin, Vec::new(), None, 1).expect("random bytes");
        let ((a, first), (_, second)) = (new(), new());
        assert_ne!(first[first.len() - 64..], second[second.len() - 64..]);
        assert!(!format!("{a:?}").contains(&first[first.len() - 64..]));
        assert_eq!(
            first.strip_prefix(KEY_PREFIX).and_then(|rest| rest.split_once('_')).map(|p| p.0),
            Some(uuid_of(&a))
        );
    }
}
