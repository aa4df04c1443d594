//! API keys and roles: what a key looks like, how one is checked, what each role may do.
//!
//! A key is `ttd_live_<uuid>_<64 hex digits>`: the UUID of its id, `key_<uuid>`, finds it, 256 random bits prove it. Only the
//! SHA-256 of the whole text is stored. What a role may do is one table, default deny.

use sha2::{Digest, Sha256};
use ttdust_shards::snapshot::{Access, KeyEntry, Role};

use crate::catalog::ApiKey;

const PREFIX: &str = "ttd_live_";
const ID_PREFIX: &str = "key_";
const SECRET_BYTES: usize = 32;

/// What a caller wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Register schemas and versions.
    ChangeSchemas,
    /// List schemas.
    ListSchemas,
    /// Read a schema and its versions.
    ReadSchema,
    /// Create and delete streams, change what they are.
    ChangeStreams,
    /// Pause and resume streams.
    PauseStreams,
    /// Read streams.
    ReadStreams,
    /// Read records.
    ReadRecords,
    /// Create, list and delete keys.
    ManageKeys,
    /// Read the configuration.
    ReadConfig,
}

/// Whether `role` may do `action`.
#[must_use]
pub fn permits(role: Role, action: Action) -> bool {
    use Action::{ChangeSchemas, ListSchemas, PauseStreams, ReadConfig, ReadRecords, ReadSchema, ReadStreams};
    match role {
        Role::Admin => true,
        Role::Operator => matches!(action, ReadConfig | ReadStreams | ReadSchema | ListSchemas | PauseStreams),
        Role::SchemaAdmin => matches!(action, ChangeSchemas | ReadSchema | ListSchemas | ReadStreams),
        Role::Writer => matches!(action, ReadSchema | ReadStreams),
        Role::Reader => matches!(action, ReadSchema | ReadStreams | ReadRecords),
    }
}

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The key's id; `None` where authentication is off.
    pub key_id: Option<String>,
    /// What they may do.
    pub role: Role,
}

/// No key, or one that is unknown, wrong or past its end: all the same to the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("send a valid API key: authorization: Bearer <key>, or x-api-key: <key>")]
pub struct Unauthenticated;

/// Finds out who calls with this key text.
///
/// # Errors
/// [`Unauthenticated`].
pub fn authenticate(access: &Access, key: Option<&str>, now: i64) -> Result<Caller, Unauthenticated> {
    let keys = match access {
        Access::Open => return Ok(Caller { key_id: None, role: Role::Admin }),
        Access::Keys(keys) => keys,
    };
    let key = key.ok_or(Unauthenticated)?;
    let uuid = uuid_in(key).ok_or(Unauthenticated)?;
    let entry: &KeyEntry = keys.get(uuid).ok_or(Unauthenticated)?;
    let live = entry.expires_unix_micros.is_none_or(|end| now < end);
    if same(&digest(key), &entry.sha256) && live {
        Ok(Caller { key_id: Some(format!("{ID_PREFIX}{uuid}")), role: entry.role })
    } else {
        Err(Unauthenticated)
    }
}

/// The UUID in a key's text, by which the snapshot finds it.
fn uuid_in(key: &str) -> Option<&str> {
    key.strip_prefix(PREFIX)?.split_once('_').map(|(uuid, _)| uuid)
}

/// Compares in a time that does not depend on where the two differ.
fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    std::hint::black_box(a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b))) == 0
}

fn digest(key: &str) -> [u8; 32] {
    Sha256::digest(key).into()
}

/// A new key: what is stored, and its text, which is shown once.
///
/// # Errors
/// The system gives no random bytes.
pub fn new_key(name: String, role: Role, expires_at: Option<i64>, now: i64) -> std::io::Result<(ApiKey, String)> {
    let mut secret = [0u8; SECRET_BYTES];
    let mut filled = 0;
    while filled < SECRET_BYTES {
        filled += rustix::rand::getrandom(&mut secret[filled..], rustix::rand::GetRandomFlags::empty())?;
    }
    let uuid = uuid::Uuid::now_v7();
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let text = format!("{PREFIX}{uuid}_{hex}");
    let id = format!("{ID_PREFIX}{uuid}");
    let key = ApiKey {
        id,
        name,
        role,
        streams: Vec::new(),
        sha256: digest(&text),
        created_at: now,
        expires_at,
        last_used_at: None,
    };
    Ok((key, text))
}

/// A key as the shards see it, and what they find it by.
#[must_use]
pub fn entry_of(key: &ApiKey) -> (String, KeyEntry) {
    let uuid = key.id.strip_prefix(ID_PREFIX).unwrap_or(&key.id).to_owned();
    (uuid, KeyEntry { sha256: key.sha256, role: key.role, expires_unix_micros: key.expires_at })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(key: &ApiKey) -> Access {
        Access::Keys([entry_of(key)].into())
    }

    #[test]
    fn only_the_whole_key_before_its_end_is_let_in() {
        let (key, text) = new_key("k".into(), Role::Reader, Some(100), 1).expect("random bytes");
        let access = keys(&key);
        let caller = authenticate(&access, Some(&text), 99).expect("let in");
        assert_eq!((caller.key_id.as_deref(), caller.role), (Some(key.id.as_str()), Role::Reader));
        assert!(authenticate(&access, Some(&text), 100).is_err(), "it ends at its end");
        let (_, other) = new_key("k".into(), Role::Admin, None, 1).expect("random bytes");
        let mut swapped = text.clone();
        swapped.pop();
        swapped.push(if text.ends_with('0') { '1' } else { '0' });
        for wrong in [None, Some(""), Some("ttd_live_"), Some("ttd_live_x_y"), Some(other.as_str()), Some(&swapped)] {
            assert_eq!(authenticate(&access, wrong, 1), Err(Unauthenticated), "{wrong:?}");
        }
    }

    #[test]
    fn keys_are_long_random_and_never_stored() {
        let (a, first) = new_key("k".into(), Role::Admin, None, 1).expect("random bytes");
        let (_, second) = new_key("k".into(), Role::Admin, None, 1).expect("random bytes");
        assert_ne!(first[first.len() - 64..], second[second.len() - 64..]);
        assert!(!format!("{a:?}").contains(&first[first.len() - 64..]));
        assert_eq!(uuid_in(&first).map(|uuid| format!("key_{uuid}")), Some(a.id));
    }

    #[test]
    fn open_access_is_admin() {
        assert_eq!(authenticate(&Access::Open, None, 0).map(|c| c.role), Ok(Role::Admin));
    }

    #[test]
    fn roles_may_do_what_the_contract_says_and_no_more() {
        assert!(permits(Role::Admin, Action::ManageKeys));
        for role in [Role::Operator, Role::SchemaAdmin, Role::Writer, Role::Reader] {
            assert!(!permits(role, Action::ManageKeys) && !permits(role, Action::ChangeStreams), "{role:?}");
        }
        assert!(permits(Role::Operator, Action::PauseStreams) && !permits(Role::Operator, Action::ChangeSchemas));
        assert!(permits(Role::SchemaAdmin, Action::ChangeSchemas) && !permits(Role::SchemaAdmin, Action::ReadRecords));
        assert!(permits(Role::Reader, Action::ReadRecords) && !permits(Role::Writer, Action::ReadRecords));
        assert!(!permits(Role::Reader, Action::ReadConfig));
    }
}
