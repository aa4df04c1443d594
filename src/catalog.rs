//! The catalog: what is registered, where each committed file lies, who holds a key, who changed what.
//!
//! Invariants: every change is one transaction; the files of a stream cover its sequence numbers without gap or overlap, from
//! the first that is kept on up to `flushed_through`, which never falls; a file that others took the place of, or that went, is
//! remembered as retired until its object is gone; an hour whose files changed owes a manifest; whatever changes a schema, version, stream or key raises the
//! generation and leaves a line in the audit log, in the same transaction, or does nothing at all.

/// The same call on whichever store it is, with a span of its own where it is traced.
macro_rules! on_store {
    ($catalog:expr, $method:ident($($argument:expr),*)) => {
{
            let mut span = $catalog.span(stringify!($method));
            let outcome = match &$catalog.store {
                Store::Embedded(store) => store.$method($($argument),*).await,
                Store::Postgres(store) => store.$method($($argument),*).await,
            };
            span.note_end(&outcome);
            outcome
        }
    };
}

mod embedded;
mod file_sets;
mod fingerprint;
mod jobs;
mod mirror;
mod model;
mod postgres;
mod rules;

use std::{collections::HashSet, path::PathBuf};

use ttdust_shards::ids::{SchemaId, StreamId};

pub use fingerprint::canonical_fingerprint;
pub use jobs::{Job, JobChange, JobFilter, JobKind, JobStatus};
pub use model::{
    ApiKey, AuditEntry, AuditFilter, Changes, Commit, Everything, FileTotals, Judged, ManifestDebt, Page,
    PipelineVersion, RememberedRequest, Retention, RetiredFile, Schema, SchemaChange, SchemaFilter, SchemaVersion,
    StoredFile, Stream, StreamChange, StreamFilter, StreamHour, StreamPipeline, StreamPipelines, StreamStatus,
};
pub use postgres::{FreshPassword, PasswordError, PgFigures};

use crate::{
    config::{Config, PgOptions},
    traces::{self, Open},
};
use embedded::Embedded;
use postgres::Postgres;

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
    /// There are as many as may be.
    #[error("{0}")]
    Full(String),
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

type Result<T> = std::result::Result<T, CatalogError>;

/// A handle to the catalog, cheap to clone.
#[derive(Debug, Clone)]
pub struct Catalog {
    store: Store,
}

#[derive(Debug, Clone)]
enum Store {
    Embedded(Embedded),
    Postgres(Postgres),
}

/// What `ttdust migrate` would do or did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrationPlan {
    /// The version of the catalog; 0: empty or missing.
    pub from: usize,
    /// The version of this program.
    pub to: usize,
    /// The names of the steps between.
    pub steps: Vec<&'static str>,
}

/// Where a catalog lies.
#[derive(Debug, Clone)]
pub enum CatalogPlace {
    /// In the SQLite file at this path.
    Embedded(PathBuf),
    /// In Postgres.
    Postgres {
        /// How to get there.
        options: Box<PgOptions>,
        /// The file in which this node keeps what it needs to go on without it.
        mirror: PathBuf,
    },
}

impl CatalogPlace {
    /// Where the configuration puts it.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        match &config.postgres {
            None => Self::Embedded(config.catalog_path()),
            Some(options) => {
                Self::Postgres { options: Box::new(options.clone()), mirror: config.catalog_mirror_path() }
            }
        }
    }

    /// What [`Self::migrate`] would do. Changes nothing.
    ///
    /// # Errors
    /// The catalog cannot be read or is newer than this program.
    pub async fn migration_plan(&self) -> Result<MigrationPlan> {
        match self {
            Self::Embedded(path) => embedded::migration_plan(path),
            Self::Postgres { options, .. } => postgres::migration_plan(options).await,
        }
    }

    /// Brings the catalog to this version, as opening it does.
    ///
    /// # Errors
    /// The catalog cannot be changed or is newer than this program.
    pub async fn migrate(&self) -> Result<MigrationPlan> {
        match self {
            Self::Embedded(path) => embedded::migrate(path),
            Self::Postgres { options, .. } => postgres::migrate(options).await,
        }
    }
}

impl std::fmt::Display for CatalogPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Embedded(path) => write!(f, "SQLite {}", path.display()),
            Self::Postgres { options, .. } => f.write_str(&options.place()),
        }
    }
}

/// What a start is made from.
#[derive(Debug, Clone)]
pub struct Known {
    /// All of it.
    pub everything: Everything,
    /// Whether it is from the mirror: the catalog may have gone on since.
    pub mirrored: bool,
}

impl Catalog {
    /// Opens the catalog at `place`, makes it if it is missing, and brings it to this version. A file is opened at once,
    /// blocking; `figures` count what Postgres is asked. If Postgres cannot be reached and there is a mirror, the handle is
    /// good for [`Self::last_known`], and for the rest once Postgres is back.
    ///
    /// # Errors
    /// It cannot be reached, and there is no mirror; or it cannot be opened, is damaged, or was written by a newer version.
    pub async fn open(place: &CatalogPlace, figures: PgFigures) -> Result<Self> {
        let store = match place {
            CatalogPlace::Embedded(path) => Store::Embedded(Embedded::open(path)?),
            CatalogPlace::Postgres { options, mirror } => {
                Store::Postgres(Postgres::connect(options, mirror, figures).await?)
            }
        };
        Ok(Self { store })
    }

    /// Claims the catalog for this node, which `node` tells people of, for as long as the process runs. A file is kept by the lock
    /// on the data directory. If Postgres cannot be reached, the claim is made once it can; files are not committed before.
    ///
    /// # Errors
    /// `Conflict`: another node has it.
    pub async fn claim(&self, node: &str) -> Result<()> {
        match &self.store {
            Store::Embedded(_) => Ok(()),
            Store::Postgres(store) => store.claim(node).await,
        }
    }

    /// What the shards can start with: [`Self::everything`], or, while Postgres cannot be reached, what its mirror holds.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub async fn last_known(&self) -> Result<Known> {
        match (&self.store, self.everything().await) {
            (_, Ok(everything)) => Ok(Known { everything, mirrored: false }),
            (Store::Postgres(store), Err(CatalogError::Unavailable(reason))) => match store.mirrored().await? {
                Some(everything) => Ok(Known { everything, mirrored: true }),
                None => Err(CatalogError::Unavailable(reason)),
            },
            (_, Err(error)) => Err(error),
        }
    }

    /// Whether others change it too.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        matches!(self.store, Store::Postgres(_))
    }

    /// The password as it is now where it comes from; `None`: none is needed. Blocking.
    ///
    /// # Errors
    /// Its file cannot be used.
    pub fn fresh_password(&self) -> std::result::Result<Option<FreshPassword>, PasswordError> {
        match &self.store {
            Store::Embedded(_) => Ok(None),
            Store::Postgres(store) => store.fresh_password().map(Some),
        }
    }

    /// Connections that are opened from now on use this password.
    pub fn use_password(&self, fresh: FreshPassword) {
        match &self.store {
            Store::Embedded(_) => {}
            Store::Postgres(store) => store.use_password(fresh),
        }
    }

    /// Whether it is known not to answer now. The log tells of it then, once.
    #[must_use]
    pub fn is_down(&self) -> bool {
        matches!(&self.store, Store::Postgres(store) if store.is_down())
    }

    /// Which store it is, for people.
    #[must_use]
    pub fn store_name(&self) -> &str {
        match &self.store {
            Store::Embedded(_) => "SQLite",
            Store::Postgres(store) => store.place(),
        }
    }

    /// What is told of a call, where it is made for something that is traced.
    fn span(&self, method: &'static str) -> Open {
        let mut span = traces::call(|| format!("catalog {method}"));
        let system = if self.is_shared() { "postgresql" } else { "sqlite" };
        span.note("db.system.name", system);
        span.note("db.operation.name", method);
        span
    }

    /// Whether it answers.
    ///
    /// # Errors
    /// It does not.
    pub async fn ping(&self) -> Result<()> {
        on_store!(self, ping())
    }

    /// The id of this cluster, made with the catalog.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub async fn cluster_id(&self) -> Result<String> {
        on_store!(self, cluster_id())
    }

    /// Grows with every change of a schema, version, stream or key. Whoever knows what the catalog held at a generation knows
    /// it for as long as that is the generation.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub async fn generation(&self) -> Result<i64> {
        on_store!(self, generation())
    }

    /// Everything that a snapshot for the shards is made of, read in one transaction.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub async fn everything(&self) -> Result<Everything> {
        on_store!(self, everything())
    }

    /// What changed of [`Self::everything`] since `generation`, that of the last read, in one transaction; `None`: that is not
    /// remembered, read everything.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub async fn changes_since(&self, generation: i64) -> Result<Option<Changes>> {
        on_store!(self, changes_since(generation))
    }

    /// Registers a schema with its first version.
    ///
    /// # Errors
    /// `AlreadyExists`: the namespace has the name.
    pub async fn create_schema(&self, schema: Schema, first: SchemaVersion, audit: AuditEntry) -> Result<()> {
        on_store!(self, create_schema(schema, first, audit))
    }

    /// A schema.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn schema(&self, id: SchemaId) -> Result<Schema> {
        on_store!(self, schema(id))
    }

    /// Schemas in the order of their ids.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub async fn schemas(&self, filter: SchemaFilter, page: Page) -> Result<Vec<Schema>> {
        on_store!(self, schemas(filter, page))
    }

    /// Changes a schema and answers it as it is then.
    ///
    /// # Errors
    /// `NotFound`, `Stale`.
    pub async fn change_schema(
        &self,
        id: SchemaId,
        change: SchemaChange,
        now: i64,
        audit: AuditEntry,
    ) -> Result<Schema> {
        on_store!(self, change_schema(id, change, now, audit))
    }

    /// Adds a version, numbered one past the newest, and answers the schema as it is then.
    ///
    /// # Errors
    /// `NotFound`; `Stale`: what it was `judged` by was changed since then; `Conflict`: it has no such number.
    pub async fn add_version(&self, version: SchemaVersion, judged: Judged, audit: AuditEntry) -> Result<Schema> {
        on_store!(self, add_version(version, judged, audit))
    }

    /// The versions of a schema after `after`, oldest first, retired ones included.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn versions(&self, schema: SchemaId, after: u32, limit: u32) -> Result<Vec<SchemaVersion>> {
        on_store!(self, versions(schema, after, limit))
    }

    /// One version of a schema.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn version(&self, schema: SchemaId, number: u32) -> Result<SchemaVersion> {
        on_store!(self, version(schema, number))
    }

    /// The newest version of a schema with this fingerprint.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub async fn version_by_fingerprint(
        &self,
        schema: SchemaId,
        fingerprint: [u8; 32],
    ) -> Result<Option<SchemaVersion>> {
        on_store!(self, version_by_fingerprint(schema, fingerprint))
    }

    /// Takes a version out of use, for good, and answers it as it is then. Twice is no change.
    ///
    /// # Errors
    /// `NotFound`; `Conflict`: streams use the schema, and this is its newest version that is not retired.
    pub async fn retire_version(
        &self,
        schema: SchemaId,
        number: u32,
        now: i64,
        audit: AuditEntry,
    ) -> Result<SchemaVersion> {
        on_store!(self, retire_version(schema, number, now, audit))
    }

    /// Creates a stream.
    ///
    /// # Errors
    /// `AlreadyExists`: the name is taken. `NotFound`: no such schema. `Conflict`: all its versions are retired.
    pub async fn create_stream(&self, stream: Stream, audit: AuditEntry) -> Result<()> {
        on_store!(self, create_stream(stream, audit))
    }

    /// A stream, even if it is deleted.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn stream(&self, id: StreamId) -> Result<Stream> {
        on_store!(self, stream(id))
    }

    /// Streams in the order of their ids.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub async fn streams(&self, filter: StreamFilter, page: Page) -> Result<Vec<Stream>> {
        on_store!(self, streams(filter, page))
    }

    /// The ids of all streams that were deleted.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub async fn deleted_streams(&self) -> Result<HashSet<StreamId>> {
        const PAGE: u32 = 10_000;
        let filter = StreamFilter { status: Some(StreamStatus::Deleted), ..StreamFilter::default() };
        let (mut deleted, mut after) = (HashSet::new(), String::new());
        loop {
            let page = self.streams(filter.clone(), Page { after, limit: PAGE }).await?;
            deleted.extend(page.iter().map(|stream| stream.id));
            match page.last().filter(|_| page.len() == PAGE as usize) {
                Some(last) => after = last.id.to_string(),
                None => return Ok(deleted),
            }
        }
    }

    /// Changes a stream and answers it as it is then.
    ///
    /// # Errors
    /// `NotFound`; `Stale`: the stream, or the catalog, was changed since `if_version`, or `if_generation`; `Conflict`: it is being
    /// deleted.
    pub async fn change_stream(
        &self,
        id: StreamId,
        change: StreamChange,
        now: i64,
        audit: AuditEntry,
    ) -> Result<Stream> {
        on_store!(self, change_stream(id, change, now, audit))
    }

    /// Makes a stream that is being deleted a tombstone, and forgets its files.
    ///
    /// # Errors
    /// `NotFound`; `Conflict`: it is not being deleted.
    pub async fn end_deletion(&self, id: StreamId, now: i64, audit: AuditEntry) -> Result<()> {
        on_store!(self, end_deletion(id, now, audit))
    }

    /// Commits files of a stream in one transaction. The same files again are no change.
    ///
    /// # Errors
    /// `Conflict`: another file overlaps, or the files leave a gap in the sequence numbers.
    pub async fn commit_files(&self, stream: StreamId, files: Vec<StoredFile>, now: i64) -> Result<Commit> {
        on_store!(self, commit_files(stream, files, now))
    }

    /// Whether a file with this key is committed, or was and is retired.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub async fn holds_file(&self, key: String) -> Result<bool> {
        on_store!(self, holds_file(key))
    }

    /// The committed files of a stream that may hold rows of [`start`, `end`) Unix µs, in order.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub async fn files_in(&self, stream: StreamId, start: i64, end: i64) -> Result<Vec<StoredFile>> {
        on_store!(self, files_in(stream, start, end))
    }

    /// What the committed files of a stream come to.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub async fn file_totals(&self, stream: StreamId) -> Result<FileTotals> {
        on_store!(self, file_totals(stream))
    }

    /// What all committed files come to.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub async fn all_file_totals(&self) -> Result<FileTotals> {
        on_store!(self, all_file_totals())
    }

    /// Stores a key.
    ///
    /// # Errors
    /// `AlreadyExists`: the id is taken.
    pub async fn create_key(&self, key: ApiKey, audit: AuditEntry) -> Result<()> {
        on_store!(self, create_key(key, audit))
    }

    /// A key.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn key(&self, id: String) -> Result<ApiKey> {
        on_store!(self, key(id))
    }

    /// Keys in the order of their ids.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub async fn keys(&self, page: Page) -> Result<Vec<ApiKey>> {
        on_store!(self, keys(page))
    }

    /// Removes a key.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn delete_key(&self, id: String, audit: AuditEntry) -> Result<()> {
        on_store!(self, delete_key(id, audit))
    }

    /// Notes when keys were last used, Unix µs. A time never moves backward; keys that are gone are passed over.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub async fn touch_keys(&self, used: Vec<(String, i64)>) -> Result<()> {
        on_store!(self, touch_keys(used))
    }

    /// Adds a line to the audit log that no change of the catalog belongs to.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub async fn append_audit(&self, entry: AuditEntry) -> Result<()> {
        on_store!(self, append_audit(entry))
    }

    /// Lines of the audit log, newest first.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub async fn audit(&self, filter: AuditFilter, page: Page) -> Result<Vec<AuditEntry>> {
        on_store!(self, audit(filter, page))
    }

    /// Remembers the answer to a request, unless there is one for its key already, and gives the one that is kept.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub async fn remember_request(&self, request: RememberedRequest) -> Result<RememberedRequest> {
        on_store!(self, remember_request(request))
    }

    /// Keeps the answer to a request that was remembered as begun.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub async fn answer_request(&self, request: RememberedRequest) -> Result<()> {
        on_store!(self, answer_request(request))
    }

    /// Forgets a request that was remembered as begun, and of which nothing was done.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub async fn forget_request(&self, caller: String, key: String) -> Result<()> {
        on_store!(self, forget_request(caller, key))
    }

    /// The answer to an earlier request of `caller` with this key.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub async fn remembered_request(&self, caller: String, key: String) -> Result<Option<RememberedRequest>> {
        on_store!(self, remembered_request(caller, key))
    }

    /// Forgets the answers from before `time`, Unix µs, and says how many they were.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub async fn forget_requests_before(&self, time: i64) -> Result<u64> {
        on_store!(self, forget_requests_before(time))
    }

    /// Keeps a new job, if fewer than `most` have not ended.
    ///
    /// # Errors
    /// `AlreadyExists`: the id is taken; `Full`.
    pub async fn create_job(&self, job: Job, most: u32, audit: AuditEntry) -> Result<()> {
        on_store!(self, create_job(job, most, audit))
    }

    /// A job.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn job(&self, id: String) -> Result<Job> {
        on_store!(self, job(id))
    }

    /// Jobs, the newest first.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub async fn jobs(&self, filter: JobFilter, page: Page) -> Result<Vec<Job>> {
        on_store!(self, jobs(filter, page))
    }

    /// The jobs that have not ended, the oldest first.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub async fn unfinished_jobs(&self) -> Result<Vec<Job>> {
        on_store!(self, unfinished_jobs())
    }

    /// Keeps how far a job came, or that it ended, and answers it as it is then; a line in the audit log goes with it, if there is
    /// one.
    ///
    /// # Errors
    /// `NotFound`; `Conflict`: it had ended.
    pub async fn change_job(&self, change: JobChange, audit: Option<AuditEntry>) -> Result<Job> {
        on_store!(self, change_job(change, audit))
    }

    /// Forgets the jobs that ended before `time`, Unix µs, and says how many they were.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub async fn forget_jobs_before(&self, time: i64) -> Result<u64> {
        on_store!(self, forget_jobs_before(time))
    }
}
