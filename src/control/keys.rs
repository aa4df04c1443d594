//! API keys.

use std::io;

use ttdust_shards::access::{Access, Role};

use super::{Actor, Control, ControlError, names};
use crate::{
    access::new_key,
    calendar::now_unix_micros,
    catalog::{ApiKey, AuditFilter, Page},
};

/// The name of the key that the server makes by itself.
const BOOTSTRAP: &str = "bootstrap";

/// A key to create.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// For people.
    pub name: String,
    /// What its holder may do.
    pub role: Role,
    /// The streams of a writer or reader: ids, names, or patterns of names in which `*` stands for any text.
    pub streams: Vec<String>,
    /// When it ends, Unix µs; `None`: never.
    pub expires_at: Option<i64>,
}

/// A key and its text, which nobody can read again.
pub struct CreatedKey {
    /// What is stored.
    pub key: ApiKey,
    /// What its holder sends.
    pub text: String,
}

impl std::fmt::Debug for CreatedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CreatedKey").field("key", &self.key.id).finish_non_exhaustive()
    }
}

impl Control {
    /// Creates a key; it is taken everywhere once this is answered.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn create_key(&self, actor: &Actor, new: NewKey) -> Result<CreatedKey, ControlError> {
        names::description("/name", &new.name)?;
        names::stream_patterns("/streams", new.role, &new.streams)?;
        let now = now_unix_micros();
        if new.expires_at.is_some_and(|end| end <= now) {
            return Err(ControlError::field("/expires_at", "lies in the past"));
        }
        let (key, text) = new_key(new.name, new.role, new.streams, new.expires_at, now)
            .map_err(|e| ControlError::Unavailable(e.to_string()))?;
        let _changing = self.changing().await?;
        self.store_key(actor, &key).await?;
        Ok(CreatedKey { key, text })
    }

    async fn store_key(&self, actor: &Actor, key: &ApiKey) -> Result<(), ControlError> {
        let stored = self.parts.catalog.create_key(key.clone(), actor.did("key.create", "api_key", &key.id)).await;
        self.published(stored).await?;
        let (role, Actor { caller, trace_id }) = (key.role.name(), actor);
        tracing::info!(key = %key.id, role, actor = %caller.id, request_id = trace_id, "API key created");
        Ok(())
    }

    /// Keys, without their secrets.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn keys(&self, page: Page) -> Result<Vec<ApiKey>, ControlError> {
        Ok(self.parts.catalog.keys(page).await?)
    }

    /// Deletes a key; it is refused everywhere once this is answered.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn delete_key(&self, actor: &Actor, id: &str) -> Result<(), ControlError> {
        let _changing = self.changing().await?;
        let deleted = self.parts.catalog.delete_key(id.to_owned(), actor.did("key.delete", "api_key", id)).await;
        self.published(deleted).await?;
        let Actor { caller, trace_id } = actor;
        tracing::info!(key = %id, actor = %caller.id, request_id = trace_id, "API key deleted");
        Ok(())
    }

    /// With keys on and no admin's key left, makes one, so that there is a way in. `show` gets its text first: a key that is
    /// stored was shown, whatever comes in between. One that an earlier start made and nobody ever used is taken for one that
    /// nobody has seen, and replaced.
    ///
    /// # Errors
    /// `Conflict`: it cannot be shown. Others: see [`ControlError`].
    pub async fn bootstrap_key(&self, show: impl FnOnce(&str) -> io::Result<()>) -> Result<(), ControlError> {
        if matches!(self.current().access, Access::Open) || self.admin_keys().iter().any(|key| key.name != BOOTSTRAP) {
            return Ok(());
        }
        let _changing = self.changing().await?;
        // A start may be from the mirror. Nothing is shown in vain while the catalog is away.
        self.catch_up().await?;
        let (mut unused, used) = (Vec::new(), self.parts.publisher.last_uses());
        for key in self.admin_keys() {
            if used.iter().any(|(id, _)| *id == key.id) || !self.is_unused_bootstrap_key(&key.id).await? {
                return Ok(());
            }
            unused.push(key.id);
        }
        let system = Actor::system();
        let (key, text) = new_key(BOOTSTRAP.into(), Role::Admin, Vec::new(), None, now_unix_micros())
            .map_err(|e| ControlError::Unavailable(e.to_string()))?;
        show(&text).map_err(|e| ControlError::Conflict(format!("an admin key cannot be shown: {e}")))?;
        self.store_key(&system, &key).await?;
        for id in unused {
            let deleted = self.parts.catalog.delete_key(id.clone(), system.did("key.delete", "api_key", &id)).await;
            self.published(deleted).await?;
            tracing::warn!(key = %id, "the admin key of an earlier start was never used: it is void");
        }
        Ok(())
    }

    /// Keys of admins that are in force and have not ended.
    fn admin_keys(&self) -> Vec<ApiKey> {
        let now = now_unix_micros();
        let mut keys = self.parts.publisher.keys();
        keys.retain(|key| key.role == Role::Admin && key.expires_at.is_none_or(|end| now < end));
        keys
    }

    /// Whether the server made the key by itself and it was never used, as the catalog has it: no other store hears of uses.
    async fn is_unused_bootstrap_key(&self, id: &str) -> Result<bool, ControlError> {
        let key = self.parts.catalog.key(id.to_owned()).await?;
        if key.name != BOOTSTRAP || key.last_used_at.is_some() {
            return Ok(false);
        }
        let (object_id, actor) = (Some(id.to_owned()), Some(Actor::system().caller.id.to_string()));
        let filter = AuditFilter { object_id, actor, since: None };
        let made = self.parts.catalog.audit(filter, Page { after: String::new(), limit: 1 }).await?;
        Ok(!made.is_empty())
    }
}
