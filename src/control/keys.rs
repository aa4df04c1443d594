//! API keys.

use ttdust_shards::access::{Access, Role};

use super::{Actor, Control, ControlError, names};
use crate::{
    access::new_key,
    calendar::now_unix_micros,
    catalog::{ApiKey, Page},
};

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
        self.parts.catalog.create_key(key.clone(), actor.did("key.create", "api_key", &key.id)).await?;
        self.publish().await?;
        let (role, Actor { caller, trace_id }) = (key.role.name(), actor);
        tracing::info!(key = %key.id, role, actor = %caller.id, trace_id, "API key created");
        Ok(CreatedKey { key, text })
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
        self.parts.catalog.delete_key(id.to_owned(), actor.did("key.delete", "api_key", id)).await?;
        self.publish().await?;
        let Actor { caller, trace_id } = actor;
        tracing::info!(key = %id, actor = %caller.id, trace_id, "API key deleted");
        Ok(())
    }

    /// With keys on and no admin's key left, makes one, so that there is a way in.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn bootstrap_key(&self) -> Result<Option<CreatedKey>, ControlError> {
        let current = self.current();
        let Access::Checked(credentials) = &current.access else {
            return Ok(None);
        };
        let now = now_unix_micros();
        let live = |end: Option<i64>| end.is_none_or(|end| now < end);
        if credentials.keys.values().any(|key| key.role == Role::Admin && live(key.expires_unix_micros)) {
            return Ok(None);
        }
        self.create_key(
            &Actor::system(),
            NewKey { name: "bootstrap".into(), role: Role::Admin, streams: Vec::new(), expires_at: None },
        )
        .await
        .map(Some)
    }
}
