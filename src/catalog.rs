//! The catalog: what is registered, where each committed file lies, who holds a key. Postgres or SQLite later; SQLite now.
//!
//! Invariants: every change is one transaction; the files of a stream cover its sequence numbers from the first on without
//! gap or overlap; `flushed_through` of a stream never falls.

mod embedded;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use ttdust_shards::{
    ids::{SchemaId, StreamId},
    parquet::PartitionHour,
    snapshot::{Role, StreamState},
};

pub use embedded::{Catalog, MigrationPlan, migrate, migration_plan};

/// Why the catalog did not do what was asked. Nothing was changed, unless it says `Unavailable`: then it may have been.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogError {
    /// What was named does not exist.
    #[error("{0} does not exist")]
    NotFound(String),
    /// The name is taken.
    #[error("{0} already exists")]
    AlreadyExists(String),
    /// Not possible as things stand.
    #[error("{0}")]
    Conflict(String),
    /// The object was changed since the caller read it.
    #[error("it was changed meanwhile and is now at version {current}: read it again")]
    Stale {
        /// Its version now.
        current: i64,
    },
    /// The store cannot answer now.
    #[error("the catalog is unavailable: {0}")]
    Unavailable(String),
    /// The store is damaged or holds what this version does not understand.
    #[error("the catalog is damaged or not ours: {0}")]
    Corrupt(String),
}

/// A schema of the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    /// Its id.
    pub id: SchemaId,
    /// What its name is unique in.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// For people.
    pub description: String,
    /// How a new version must agree with those before it.
    pub compatibility_mode: String,
    /// Unix µs.
    pub created_at: i64,
    /// Its newest version.
    pub latest_version: u32,
}

/// One version of a schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaVersion {
    /// The schema.
    pub schema: SchemaId,
    /// From 1.
    pub version: u32,
    /// JSON Schema, draft-07, as JSON text.
    pub definition: String,
    /// Unix µs.
    pub created_at: i64,
}

/// How long a stream's records are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Retention {
    /// By age.
    Time {
        /// In days; at least 1.
        retention_days: u32,
    },
    /// By size.
    Size {
        /// In bytes of committed files; at least 1.
        max_bytes: u64,
    },
}

/// A stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Stream {
    /// Its id.
    pub id: StreamId,
    /// Its unique name.
    pub name: String,
    /// For people.
    pub description: String,
    /// The schema of its records.
    pub schema: SchemaId,
    /// Whether it takes records.
    pub state: StreamState,
    /// Fields that records can be looked up by.
    pub key_fields: Vec<String>,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
    /// How long records are kept; `None`: for ever.
    pub retention: Option<Retention>,
    /// As it was given.
    pub partition_config: Option<serde_json::Value>,
    /// Grows by one with every change.
    pub version: i64,
    /// The last sequence number that ever was in a committed file; 0: none.
    pub flushed_through: i64,
    /// Unix µs.
    pub created_at: i64,
    /// Unix µs.
    pub updated_at: i64,
}

/// What to change in a stream; `None` leaves a field as it is.
#[derive(Debug, Clone, Default)]
pub struct StreamChange {
    /// For people.
    pub description: Option<String>,
    /// How long records are kept; `Some(None)`: for ever.
    pub retention: Option<Option<Retention>>,
    /// Whether it takes records.
    pub state: Option<StreamState>,
    /// Only if the stream is at this version.
    pub if_version: Option<i64>,
}

/// A committed file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredFile {
    /// Its key in the object store.
    pub key: String,
    /// The hour.
    pub hour: PartitionHour,
    /// Its first sequence number.
    pub first_sequence: i64,
    /// Its last sequence number.
    pub last_sequence: i64,
    /// The time of its first row, Unix µs.
    pub min_timestamp: i64,
    /// The time of its last row, Unix µs.
    pub max_timestamp: i64,
    /// Its length in bytes.
    pub bytes: u64,
    /// CRC32C of the whole file.
    pub checksum: u32,
}

/// What the committed files of a stream come to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FileTotals {
    /// How many there are.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Their rows.
    pub rows: u64,
}

/// What became of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    /// The files are in the catalog now, or were before.
    Done,
    /// The stream is gone or going: its files are not wanted.
    StreamGone,
}

/// An API key, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// `key_…`.
    pub id: String,
    /// For people.
    pub name: String,
    /// What its holder may do.
    pub role: Role,
    /// SHA-256 of the whole key text.
    pub sha256: [u8; 32],
    /// Unix µs.
    pub created_at: i64,
    /// When it ends, Unix µs; `None`: never.
    pub expires_at: Option<i64>,
}

/// Everything that a snapshot for the shards is made of, read in one transaction.
#[derive(Debug, Clone, Default)]
pub struct Everything {
    /// All streams.
    pub streams: Vec<Stream>,
    /// The newest version of every schema that a stream uses.
    pub schemas: Vec<SchemaVersion>,
    /// All keys.
    pub keys: Vec<ApiKey>,
}

/// A part of a list: entries after `after`, in order, at most `limit`.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// The last id of the page before; empty: from the start.
    pub after: String,
    /// At most this many.
    pub limit: u32,
}

/// The name of a state in the catalog and in REST.
#[must_use]
pub fn state_name(state: StreamState) -> &'static str {
    match state {
        StreamState::Active => "active",
        StreamState::Paused => "paused",
        StreamState::Deleting => "deleting",
    }
}

/// The state of this name.
#[must_use]
pub fn state_of(name: &str) -> Option<StreamState> {
    [StreamState::Active, StreamState::Paused, StreamState::Deleting].into_iter().find(|&s| state_name(s) == name)
}

/// The name of a role in the catalog and in REST.
#[must_use]
pub fn role_name(role: Role) -> &'static str {
    match role {
        Role::Admin => "admin",
        Role::Operator => "operator",
        Role::SchemaAdmin => "schema_admin",
        Role::Writer => "writer",
        Role::Reader => "reader",
    }
}

/// The role of this name.
#[must_use]
pub fn role_of(name: &str) -> Option<Role> {
    [Role::Admin, Role::Operator, Role::SchemaAdmin, Role::Writer, Role::Reader]
        .into_iter()
        .find(|&r| role_name(r) == name)
}
