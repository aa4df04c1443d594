//! Who calls, and what that caller may do.
//!
//! The same answer is given for a stream that is missing and for one that the caller may not use.

use http::HeaderMap;
use sha2::{Digest as _, Sha256};

use super::status::{Code, Status};
use crate::snapshot::{Access, CatalogSnapshot, Role};

/// What every API key begins with; a key id and a secret follow, with `_` between them.
const KEY_PREFIX: &str = "ttd_live_";

/// What a call wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Ingest records.
    Write,
    /// Query records.
    Read,
}

impl Role {
    /// Whether the role may do `action` on a data stream.
    #[must_use]
    pub fn may(self, action: Action) -> bool {
        matches!((self, action), (Self::Admin, _) | (Self::Writer, Action::Write) | (Self::Reader, Action::Read))
    }
}

/// A caller that showed who it is.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The key's id; `None`: access is open.
    key_id: Option<String>,
}

impl Caller {
    /// The caller that `headers` show.
    ///
    /// # Errors
    /// UNAUTHENTICATED: no credential, or one that is not known, wrong, or over its time.
    pub fn of(headers: &HeaderMap, catalog: &CatalogSnapshot, now_unix_micros: i64) -> Result<Self, Status> {
        let Access::Keys(keys) = &catalog.access else { return Ok(Self { key_id: None }) };
        let key = credential(headers).ok_or_else(|| {
            unauthenticated("no credential: send `authorization: Bearer <API key>` or `x-api-key: <API key>`")
        })?;
        // One answer for an unknown key and a wrong secret.
        let refused = || unauthenticated("the API key is not valid, or it has expired or was revoked");
        let id = key.strip_prefix(KEY_PREFIX).and_then(|rest| rest.split_once('_')).map(|(id, _)| id);
        let id = id.ok_or_else(refused)?;
        let entry = keys.get(id).ok_or_else(refused)?;
        let digest: [u8; 32] = Sha256::digest(key.as_bytes()).into();
        let differs = digest.iter().zip(&entry.sha256).fold(0u8, |differs, (a, b)| differs | (a ^ b));
        if differs != 0 || entry.expires_unix_micros.is_some_and(|end| end <= now_unix_micros) {
            return Err(refused());
        }
        Ok(Self { key_id: Some(id.to_owned()) })
    }

    /// Whether the caller may do `action` under `catalog`, which may be newer than the one it showed its key to.
    ///
    /// # Errors
    /// PERMISSION_DENIED, or UNAUTHENTICATED when the key is gone.
    pub fn check(&self, action: Action, catalog: &CatalogSnapshot, now_unix_micros: i64) -> Result<(), Status> {
        let Access::Keys(keys) = &catalog.access else { return Ok(()) };
        let entry = self.key_id.as_ref().and_then(|id| keys.get(id));
        let entry = entry.filter(|entry| entry.expires_unix_micros.is_none_or(|end| end > now_unix_micros));
        let entry = entry.ok_or_else(|| unauthenticated("the API key was revoked or has expired"))?;
        if entry.role.may(action) {
            return Ok(());
        }
        let message = format!("a key with the role {:?} may not {action:?} records", entry.role);
        Err(Status::new(Code::PermissionDenied, "PERMISSION_DENIED", message))
    }
}

fn credential(headers: &HeaderMap) -> Option<&str> {
    if let Some(value) = headers.get(http::header::AUTHORIZATION) {
        let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
        return scheme.eq_ignore_ascii_case("bearer").then(|| key.trim());
    }
    headers.get("x-api-key")?.to_str().ok()
}

fn unauthenticated(message: &str) -> Status {
    Status::new(Code::Unauthenticated, "UNAUTHENTICATED", message)
}
