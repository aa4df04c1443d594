//! What the catalog holds, as plain values: the same for every store.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use ttdust_shards::{
    access::Role,
    ids::{SchemaId, StreamId},
    parquet::PartitionHour,
    pipeline::{Pipelines, steps},
    snapshot::StreamState,
};

use super::CatalogError;
use crate::calendar::now_unix_micros;

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
    /// How strictly records are checked: `strict` or `lenient`.
    pub policy: String,
    /// Grows by one with every change, a new or retired version included.
    pub version: i64,
    /// Unix µs.
    pub created_at: i64,
    /// Unix µs.
    pub updated_at: i64,
    /// The number of its newest version, retired or not.
    pub latest_version: u32,
}

/// What to change in a schema; `None` leaves a field as it is.
#[derive(Debug, Clone, Default)]
pub struct SchemaChange {
    /// For people.
    pub description: Option<String>,
    /// How a new version must agree with those before it.
    pub compatibility_mode: Option<String>,
    /// How strictly records are checked.
    pub policy: Option<String>,
    /// Only if the schema is at this version.
    pub if_version: Option<i64>,
}

/// Which schemas a list shows; `None`: all.
#[derive(Debug, Clone, Default)]
pub struct SchemaFilter {
    /// Those of this namespace.
    pub namespace: Option<String>,
    /// Those of this name.
    pub name: Option<String>,
    /// Those whose names begin so.
    pub name_prefix: Option<String>,
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
    /// The same for definitions that differ in nothing but how they are written.
    pub fingerprint: [u8; 32],
    /// Unix µs.
    pub created_at: i64,
    /// When it was taken out of use, Unix µs; `None`: it is in use.
    pub retired_at: Option<i64>,
}

/// How long a stream's records are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Retention {
    /// By age.
    Time {
        /// In days; at least 1.
        #[schemars(range(min = 1))]
        retention_days: u32,
    },
    /// By size.
    Size {
        /// In bytes of committed files; at least 1.
        #[schemars(range(min = 1, max = i64::MAX))]
        max_bytes: u64,
    },
}

/// How a stream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamStatus {
    /// Not yet known to the shards.
    Creating,
    /// Takes records.
    Active,
    /// Refuses records, answers queries.
    Paused,
    /// Refuses both; its data is being removed.
    Deleting,
    /// A tombstone: its data is gone, its name is free.
    Deleted,
}

impl StreamStatus {
    /// Every status.
    pub const ALL: [Self; 5] = [Self::Creating, Self::Active, Self::Paused, Self::Deleting, Self::Deleted];

    /// Its name in the catalog and in REST.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Deleting => "deleting",
            Self::Deleted => "deleted",
        }
    }

    /// The status of this name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.name() == name)
    }

    /// How the shards see it; `None`: they do not know such a stream.
    #[must_use]
    pub fn for_shards(self) -> Option<StreamState> {
        match self {
            Self::Active => Some(StreamState::Active),
            Self::Paused => Some(StreamState::Paused),
            Self::Deleting => Some(StreamState::Deleting),
            Self::Creating | Self::Deleted => None,
        }
    }
}

impl From<StreamState> for StreamStatus {
    fn from(state: StreamState) -> Self {
        match state {
            StreamState::Active => Self::Active,
            StreamState::Paused => Self::Paused,
            StreamState::Deleting => Self::Deleting,
        }
    }
}

/// A stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Stream {
    /// Its id.
    pub id: StreamId,
    /// Its name, unique among the streams that are not deleted.
    pub name: String,
    /// For people.
    pub description: String,
    /// The schema of its records.
    pub schema: SchemaId,
    /// How it stands.
    pub status: StreamStatus,
    /// Fields that records can be looked up by. They never change.
    pub key_fields: Vec<String>,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
    /// How long records are kept; `None`: for ever.
    pub retention: Option<Retention>,
    /// As it was given.
    pub partition_config: Option<serde_json::Value>,
    /// Grows by one with every change.
    pub version: i64,
    /// What readers see of its records.
    pub pipelines: StreamPipelines,
    /// The stream of its dead letters, if it has one.
    pub dead_letters: Option<StreamId>,
    /// The last sequence number that ever was in a committed file; 0: none.
    pub flushed_through: i64,
    /// Unix µs.
    pub created_at: i64,
    /// Unix µs.
    pub updated_at: i64,
}

/// A stream's pipeline, and what became of its records before.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StreamPipelines {
    /// The pipeline that it has now.
    pub current: Option<StreamPipeline>,
    /// Every version that the stream's pipelines have had, oldest first: rows in the log and in files are still of them. They
    /// are counted from 1 for the stream, and no number comes twice.
    pub versions: Vec<PipelineVersion>,
}

/// A stream's pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamPipeline {
    /// `pip_…`.
    pub id: String,
    /// For people.
    pub description: String,
    /// Which of the versions it is at.
    pub version: u16,
    /// Unix µs.
    pub created_at: i64,
    /// Unix µs.
    pub updated_at: i64,
}

/// A version of a stream's pipeline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PipelineVersion {
    /// From 1.
    pub version: u16,
    /// The steps, as they are run.
    pub steps: Value,
    /// Unix µs.
    pub created_at: i64,
}

impl StreamPipelines {
    /// Whether the stream never had any.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.current.is_none() && self.versions.is_empty()
    }

    /// The steps of a version.
    #[must_use]
    pub fn steps(&self, version: u16) -> Option<&Value> {
        self.versions.iter().find(|known| known.version == version).map(|known| &known.steps)
    }

    /// As the shards run them.
    #[must_use]
    pub fn for_shards(&self) -> Pipelines {
        let current = self.current.as_ref().map_or(0, |pipeline| pipeline.version);
        Pipelines::new(current, self.versions.iter().map(|known| (known.version, known.steps.to_string().into())))
    }

    /// As the audit log shows it.
    fn audited(&self) -> Option<Value> {
        let current = self.current.as_ref()?;
        let steps = self.steps(current.version).cloned().map(steps::without_time_zones);
        Some(json!({"id": current.id, "description": current.description, "version": current.version, "steps": steps}))
    }
}

/// What to change in a stream; `None` leaves a field as it is.
#[derive(Debug, Clone, Default)]
pub struct StreamChange {
    /// For people.
    pub description: Option<String>,
    /// How long records are kept; `Some(None)`: for ever.
    pub retention: Option<Option<Retention>>,
    /// Free labels, all of them.
    pub labels: Option<BTreeMap<String, String>>,
    /// `Active`, `Paused` or `Deleting`.
    pub status: Option<StreamStatus>,
    /// What readers see of its records from now on.
    pub pipelines: Option<StreamPipelines>,
    /// The stream of its dead letters.
    pub dead_letters: Option<StreamId>,
    /// Only if the stream is at this version.
    pub if_version: Option<i64>,
    /// Only if the catalog is at this generation: the change fits what is there then, such as the stream's schema.
    pub if_generation: Option<i64>,
}

/// How things were when a version was found to fit them.
#[derive(Debug, Clone, Copy)]
pub struct Judged {
    /// The version of its schema.
    pub schema: i64,
    /// The generation of the catalog, if it was held against the streams of its schema.
    pub generation: Option<i64>,
}

/// Which streams a list shows; `None`: all, but for `status`.
#[derive(Debug, Clone, Default)]
pub struct StreamFilter {
    /// Those that stand so; `None`: all that are not deleted.
    pub status: Option<StreamStatus>,
    /// Those whose names begin so.
    pub name_prefix: Option<String>,
    /// Those with a label of this name.
    pub label_key: Option<String>,
    /// Those with a label of this value: of the name `label_key`, or of any.
    pub label_value: Option<String>,
    /// That of this pipeline.
    pub pipeline: Option<String>,
    /// Those that have a pipeline.
    pub with_pipeline: bool,
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
    /// 0: written by a flush. Each merge gives a level more than its inputs have.
    pub level: u32,
}

impl StoredFile {
    /// Files of this level and above were merged for good.
    pub const LEVEL_SETTLED: u32 = 2;

    /// How many rows it has, with those that a pipeline left out.
    #[must_use]
    pub fn rows(&self) -> u64 {
        (self.last_sequence - self.first_sequence + 1).unsigned_abs()
    }
}

/// A file that no list names any more, and whose object may still be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetiredFile {
    /// Its key in the object store.
    pub key: String,
    /// The stream.
    pub stream: StreamId,
    /// Unix µs.
    pub retired_at: i64,
}

/// An hour of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamHour {
    /// The stream.
    pub stream: StreamId,
    /// The hour.
    pub hour: PartitionHour,
}

impl StreamHour {
    /// µs of an hour.
    pub const MICROS: i64 = 3_600_000_000;
}

/// An hour whose files changed since its manifest was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ManifestDebt {
    /// The hour.
    pub of: StreamHour,
    /// How often they changed.
    pub changes: i64,
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

impl FileTotals {
    /// Counts a file.
    pub fn add(&mut self, file: &StoredFile) {
        self.files += 1;
        self.bytes += file.bytes;
        self.rows += file.rows();
    }
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
    /// The streams of a writer or reader: ids and patterns of names. Other roles take no notice of them.
    pub streams: Vec<String>,
    /// SHA-256 of the whole key text.
    pub sha256: [u8; 32],
    /// Unix µs.
    pub created_at: i64,
    /// When it ends, Unix µs; `None`: never.
    pub expires_at: Option<i64>,
    /// When it was last used, Unix µs, as far as is known; `None`: never.
    pub last_used_at: Option<i64>,
}

/// Who did what to which object: a line of the audit log, which only grows.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditEntry {
    /// A UUID, version 7: lines follow each other in its order.
    pub id: String,
    /// Unix µs.
    pub at: i64,
    /// The id of a key, or `system`.
    pub actor: String,
    /// What the actor may do.
    pub role: String,
    /// What was done, such as `stream.create`.
    pub action: String,
    /// `schema`, `schema_version`, `stream` or `api_key`.
    pub object_kind: String,
    /// Which.
    pub object_id: String,
    /// The trace that it was part of; empty: none.
    pub trace_id: String,
    /// The object before; the catalog fills in what it changes where this and `after` are `None`.
    pub before: Option<Value>,
    /// The object after.
    pub after: Option<Value>,
}

impl AuditEntry {
    /// A line for what the server does by itself, now.
    #[must_use]
    pub fn system(action: &str, object_kind: &str, object_id: &str) -> Self {
        Self {
            id: uuid::Uuid::now_v7().to_string(),
            at: now_unix_micros(),
            actor: "system".into(),
            role: "system".into(),
            action: action.into(),
            object_kind: object_kind.into(),
            object_id: object_id.into(),
            trace_id: String::new(),
            before: None,
            after: None,
        }
    }

    /// The same, with what was changed, unless the caller knew better.
    pub(super) fn with(mut self, before: Option<Value>, after: Option<Value>) -> Self {
        if self.before.is_none() && self.after.is_none() {
            (self.before, self.after) = (before, after);
        }
        self
    }
}

/// Which lines of the audit log a list shows; `None`: all.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// Those of this object.
    pub object_id: Option<String>,
    /// Those of this actor.
    pub actor: Option<String>,
    /// Those at or after this time, Unix µs.
    pub since: Option<i64>,
}

/// A request that its client may send again, and the answer to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RememberedRequest {
    /// Who sent it.
    pub caller: String,
    /// The key that the client gave it.
    pub key: String,
    /// SHA-256 of the request: the same key with another request is a mistake.
    pub request_sha256: [u8; 32],
    /// The status that it was answered with; [`Self::BEGUN`]: there is no answer, so nobody knows what was done of it.
    pub status: u16,
    /// The body that it was answered with; without an answer, what tells it from others that began with the key.
    pub body: String,
    /// Unix µs.
    pub created_at: i64,
}

impl RememberedRequest {
    /// The status of a request without an answer.
    pub const BEGUN: u16 = 0;
}

/// Everything that a snapshot for the shards is made of, read in one transaction.
#[derive(Debug, Clone, Default)]
pub struct Everything {
    /// The generation that it is of.
    pub generation: i64,
    /// All streams that the shards know.
    pub streams: Vec<Stream>,
    /// The newest version, not retired, of every schema that one of them uses.
    pub schemas: Vec<SchemaVersion>,
    /// All keys.
    pub keys: Vec<ApiKey>,
}

/// What changed of [`Everything`] since a generation: each object as it is now.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Changes {
    /// The generation that it is known of now.
    pub generation: i64,
    /// Streams that the shards know, new or changed.
    pub streams: Vec<Stream>,
    /// Streams that the shards do not know, or no longer.
    pub streams_gone: Vec<StreamId>,
    /// The version in force of each schema that changed or whose streams did, if a stream that the shards know uses it.
    pub schemas: Vec<SchemaVersion>,
    /// Keys, new or changed.
    pub keys: Vec<ApiKey>,
    /// Keys that are gone.
    pub keys_gone: Vec<String>,
}

/// The object that a change is of.
#[derive(Debug, Clone, Copy)]
pub(super) enum Changed<'a> {
    Schema(SchemaId),
    Stream(StreamId),
    Key(&'a str),
}

impl Changed<'_> {
    /// Generations that are remembered with what they changed. Whoever is further behind reads everything anew, which then
    /// costs less.
    pub(super) const LINES_MAX: i64 = 1000;

    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::Schema(_) => "schema",
            Self::Stream(_) => "stream",
            Self::Key(_) => "key",
        }
    }

    pub(super) fn id(self) -> String {
        match self {
            Self::Schema(id) => id.to_string(),
            Self::Stream(id) => id.to_string(),
            Self::Key(id) => id.to_owned(),
        }
    }
}

/// The objects that changed since a generation.
#[derive(Debug, Default)]
pub(super) struct ChangedIds {
    pub(super) streams: BTreeSet<StreamId>,
    pub(super) schemas: BTreeSet<SchemaId>,
    pub(super) keys: BTreeSet<String>,
}

impl ChangedIds {
    /// Takes an object, by its kind and id.
    pub(super) fn add(&mut self, kind: &str, id: String) -> Result<(), CatalogError> {
        let unknown = || CatalogError::Corrupt(format!("it says that {kind} {id} changed, which is no id of ours"));
        match kind {
            "stream" => drop(self.streams.insert(id.parse().map_err(|_| unknown())?)),
            "schema" => drop(self.schemas.insert(id.parse().map_err(|_| unknown())?)),
            "key" => drop(self.keys.insert(id)),
            _ => return Err(unknown()),
        }
        Ok(())
    }
}

/// A part of a list: entries after `after`, in order, at most `limit`.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// The last id of the page before; empty: from the start.
    pub after: String,
    /// At most this many.
    pub limit: u32,
}

impl Schema {
    /// As the audit log shows it.
    pub(super) fn audited(&self) -> Value {
        json!({
            "namespace": self.namespace,
            "name": self.name,
            "description": self.description,
            "compatibility_mode": self.compatibility_mode,
            "policy": self.policy,
            "version": self.version,
            "latest_version": self.latest_version,
        })
    }
}

impl SchemaVersion {
    /// As the audit log shows it: definitions are in the registry, which forgets none.
    pub(super) fn audited(&self) -> Value {
        let fingerprint: String = self.fingerprint.iter().map(|byte| format!("{byte:02x}")).collect();
        json!({"version": self.version, "fingerprint": fingerprint, "retired_at": self.retired_at})
    }
}

impl Stream {
    /// As the audit log shows it.
    pub(super) fn audited(&self) -> Value {
        json!({
            "name": self.name,
            "description": self.description,
            "schema_id": self.schema.to_string(),
            "status": self.status.name(),
            "key_fields": self.key_fields,
            "labels": self.labels,
            "retention": self.retention,
            "partition_config": self.partition_config,
            "pipeline": self.pipelines.audited(),
            "dead_letters": self.dead_letters.map(|id| id.to_string()),
            "version": self.version,
        })
    }
}

impl ApiKey {
    /// As the audit log shows it: nothing that could be tried out.
    pub(super) fn audited(&self) -> Value {
        json!({
            "name": self.name,
            "role": self.role.name(),
            "streams": self.streams,
            "expires_at": self.expires_at,
        })
    }
}
