//! The catalog in Postgres, 15 or newer, shared by the nodes of a cluster.
//!
//! Each change is one transaction that locks the row of its object first, so that the rules judge what will still be so at
//! the commit, and `meta` last, for the generation. Whatever else Postgres says is told as `Unavailable`, and worth another try.

mod audit;
mod changes;
mod claim;
mod file_sets;
mod files;
mod jobs;
mod keys;
mod migrations;
mod password;
mod pool;
mod schemas;
mod streams;
mod tls;

use std::{path::Path, sync::Arc};

use serde::de::DeserializeOwned;
use tokio_postgres::{Client, IsolationLevel, Row, error::SqlState, types::FromSql};
use ttdust_shards::ids::{SchemaId, StreamId};

use super::{
    ApiKey, AuditEntry, AuditFilter, CatalogError, Changes, Commit, Everything, FileTotals, Job, JobChange, JobFilter,
    Judged, ManifestDebt, MigrationPlan, Page, RememberedRequest, Result, RetiredFile, Schema, SchemaChange,
    SchemaFilter, SchemaVersion, StoredFile, Stream, StreamChange, StreamFilter, StreamHour,
};
use crate::{catalog::mirror::Mirror, config::PgOptions};
use claim::Claim;
use password::Password;
use pool::{Connector, Pool};

pub use password::{FreshPassword, PasswordError};
pub use pool::PgFigures;

/// A handle, cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Postgres {
    pool: Pool,
    mirror: Mirror,
    options: Arc<PgOptions>,
    password: Password,
    claim: Claim,
}

/// A call of one of the parts, on a connection of the pool.
macro_rules! on_pool {
    ($self:ident, $call:path $(, $argument:expr)*) => {
        $self.pool.call(move |client| Box::pin($call(client $(, $argument)*))).await
    };
}

impl Postgres {
    /// Connects and brings the database to this version. If it cannot be reached, the handle is down until it can.
    ///
    /// # Errors
    /// `Unavailable`: it cannot be reached, and there is no mirror to go on with.
    pub(super) async fn connect(options: &PgOptions, mirror: &Path, figures: PgFigures) -> Result<Self> {
        let password = password_of(options)?;
        let (pool, mirror) = (Pool::new(options, password.clone(), figures)?, Mirror::open(mirror)?);
        match pool.begin().await {
            Ok(()) => {}
            Err(CatalogError::Unavailable(reason)) if mirror.load().await?.is_none() => {
                return Err(CatalogError::Unavailable(format!(
                    "{reason}. Under data_dir there is no mirror of it from an earlier run to start from: a first start needs \
                     Postgres"
                )));
            }
            Err(CatalogError::Unavailable(_)) => {}
            Err(error) => return Err(error),
        }
        Ok(Self { pool, mirror, options: Arc::new(options.clone()), password, claim: Claim::default() })
    }

    /// What was last read to be published, from the mirror.
    pub(super) async fn mirrored(&self) -> Result<Option<Everything>> {
        self.mirror.load().await
    }

    pub(super) fn place(&self) -> &str {
        self.pool.place()
    }

    pub(super) async fn claim(&self, node: &str) -> Result<()> {
        self.claim.make(&self.options, self.password.clone(), node, self.is_down()).await
    }

    pub(super) fn fresh_password(&self) -> std::result::Result<FreshPassword, PasswordError> {
        self.password.fresh()
    }

    pub(super) fn use_password(&self, fresh: FreshPassword) {
        self.password.set(fresh);
    }

    pub(super) fn is_down(&self) -> bool {
        self.pool.is_down()
    }

    // The methods of `Catalog`, which says what they do.

    pub(super) async fn ping(&self) -> Result<()> {
        on_pool!(self, ping)
    }

    pub(super) async fn cluster_id(&self) -> Result<String> {
        on_pool!(self, cluster_id)
    }

    pub(super) async fn generation(&self) -> Result<i64> {
        on_pool!(self, generation)
    }

    pub(super) async fn everything(&self) -> Result<Everything> {
        let read = on_pool!(self, everything)?;
        self.mirror.save(read.clone()).await?;
        Ok(read)
    }

    pub(super) async fn changes_since(&self, generation: i64) -> Result<Option<Changes>> {
        let read = on_pool!(self, changes::since, generation)?;
        match read {
            Some(changes) if self.mirror.advance(generation, changes.clone()).await? => Ok(Some(changes)),
            _ => Ok(None),
        }
    }

    pub(super) async fn create_schema(&self, schema: Schema, first: SchemaVersion, audit: AuditEntry) -> Result<()> {
        on_pool!(self, schemas::create, schema, first, audit)
    }

    pub(super) async fn schema(&self, id: SchemaId) -> Result<Schema> {
        on_pool!(self, schemas::get, id)
    }

    pub(super) async fn schemas(&self, filter: SchemaFilter, page: Page) -> Result<Vec<Schema>> {
        on_pool!(self, schemas::list, filter, page)
    }

    pub(super) async fn change_schema(
        &self,
        id: SchemaId,
        change: SchemaChange,
        now: i64,
        audit: AuditEntry,
    ) -> Result<Schema> {
        on_pool!(self, schemas::change, id, change, now, audit)
    }

    pub(super) async fn add_version(
        &self,
        version: SchemaVersion,
        judged: Judged,
        audit: AuditEntry,
    ) -> Result<Schema> {
        on_pool!(self, schemas::add_version, version, judged, audit)
    }

    pub(super) async fn versions(&self, schema: SchemaId, after: u32, limit: u32) -> Result<Vec<SchemaVersion>> {
        on_pool!(self, schemas::versions, schema, after, limit)
    }

    pub(super) async fn version(&self, schema: SchemaId, number: u32) -> Result<SchemaVersion> {
        on_pool!(self, schemas::version, schema, number)
    }

    pub(super) async fn version_by_fingerprint(
        &self,
        schema: SchemaId,
        fingerprint: [u8; 32],
    ) -> Result<Option<SchemaVersion>> {
        on_pool!(self, schemas::by_fingerprint, schema, fingerprint)
    }

    pub(super) async fn retire_version(
        &self,
        schema: SchemaId,
        number: u32,
        now: i64,
        audit: AuditEntry,
    ) -> Result<SchemaVersion> {
        on_pool!(self, schemas::retire, schema, number, now, audit)
    }

    pub(super) async fn create_stream(&self, stream: Stream, audit: AuditEntry) -> Result<()> {
        on_pool!(self, streams::create, stream, audit)
    }

    pub(super) async fn stream(&self, id: StreamId) -> Result<Stream> {
        on_pool!(self, streams::get, id)
    }

    pub(super) async fn streams(&self, filter: StreamFilter, page: Page) -> Result<Vec<Stream>> {
        on_pool!(self, streams::list, filter, page)
    }

    pub(super) async fn change_stream(
        &self,
        id: StreamId,
        change: StreamChange,
        now: i64,
        audit: AuditEntry,
    ) -> Result<Stream> {
        on_pool!(self, streams::change, id, change, now, audit)
    }

    pub(super) async fn end_deletion(&self, id: StreamId, now: i64, audit: AuditEntry) -> Result<()> {
        on_pool!(self, streams::end_deletion, id, now, audit)
    }

    pub(super) async fn commit_files(&self, stream: StreamId, files: Vec<StoredFile>, now: i64) -> Result<Commit> {
        self.claim.check()?;
        let through = files.iter().map(|file| file.last_sequence).max();
        let outcome = on_pool!(self, files::commit, stream, files, now)?;
        if let (Commit::Done, Some(through)) = (outcome, through) {
            // Before anyone lets go of the rows. If it fails, the same commit again is no change.
            self.mirror.flushed(stream, through).await?;
        }
        Ok(outcome)
    }

    pub(super) async fn holds_file(&self, key: String) -> Result<bool> {
        on_pool!(self, files::holds, key)
    }

    pub(super) async fn files_in(&self, stream: StreamId, start: i64, end: i64) -> Result<Vec<StoredFile>> {
        on_pool!(self, files::within, stream, start, end)
    }

    pub(super) async fn file_totals(&self, stream: StreamId) -> Result<FileTotals> {
        on_pool!(self, files::totals, Some(stream))
    }

    pub(super) async fn all_file_totals(&self) -> Result<FileTotals> {
        on_pool!(self, files::totals, None)
    }

    pub(super) async fn replace_files(
        &self,
        stream: StreamId,
        old: Vec<String>,
        new: StoredFile,
        now: i64,
    ) -> Result<Commit> {
        on_pool!(self, file_sets::replace, stream, old, new, now)
    }

    pub(super) async fn set_files(
        &self,
        stream: StreamId,
        files: Vec<StoredFile>,
        through: i64,
        now: i64,
    ) -> Result<Commit> {
        on_pool!(self, file_sets::set, stream, files, through, now)
    }

    pub(super) async fn drop_files(&self, stream: StreamId, through: i64, now: i64) -> Result<FileTotals> {
        on_pool!(self, file_sets::drop_through, stream, through, now)
    }

    pub(super) async fn files_after(&self, stream: StreamId, after: i64, limit: u32) -> Result<Vec<StoredFile>> {
        on_pool!(self, file_sets::page, stream, after, limit)
    }

    pub(super) async fn files_of_hour(&self, of: StreamHour) -> Result<Vec<StoredFile>> {
        on_pool!(self, file_sets::of_hour, of)
    }

    pub(super) async fn hours_to_merge(
        &self,
        below_bytes: u64,
        after: Option<StreamHour>,
        limit: u32,
    ) -> Result<Vec<StreamHour>> {
        on_pool!(self, file_sets::to_merge, below_bytes, after, limit)
    }

    pub(super) async fn retired(&self, before: i64, limit: u32) -> Result<Vec<RetiredFile>> {
        on_pool!(self, file_sets::retired, before, limit)
    }

    pub(super) async fn condemn(&self, stream: StreamId, found: Vec<StoredFile>, now: i64) -> Result<u64> {
        on_pool!(self, file_sets::condemn, stream, found, now)
    }

    pub(super) async fn forget_retired(&self, keys: Vec<String>) -> Result<()> {
        on_pool!(self, file_sets::forget_retired, keys)
    }

    pub(super) async fn unreferenced(&self, keys: Vec<String>) -> Result<Vec<String>> {
        on_pool!(self, file_sets::unreferenced, keys)
    }

    pub(super) async fn manifests_due(&self, limit: u32) -> Result<Vec<ManifestDebt>> {
        on_pool!(self, file_sets::manifests_due, limit)
    }

    pub(super) async fn manifest_written(&self, debt: ManifestDebt) -> Result<()> {
        on_pool!(self, file_sets::manifest_written, debt)
    }

    pub(super) async fn create_key(&self, key: ApiKey, audit: AuditEntry) -> Result<()> {
        on_pool!(self, keys::create, key, audit)
    }

    pub(super) async fn key(&self, id: String) -> Result<ApiKey> {
        on_pool!(self, keys::get, id)
    }

    pub(super) async fn keys(&self, page: Page) -> Result<Vec<ApiKey>> {
        on_pool!(self, keys::list, page)
    }

    pub(super) async fn delete_key(&self, id: String, audit: AuditEntry) -> Result<()> {
        on_pool!(self, keys::delete, id, audit)
    }

    pub(super) async fn touch_keys(&self, used: Vec<(String, i64)>) -> Result<()> {
        on_pool!(self, keys::touch, used)
    }

    pub(super) async fn append_audit(&self, entry: AuditEntry) -> Result<()> {
        on_pool!(self, audit::append_alone, entry)
    }

    pub(super) async fn audit(&self, filter: AuditFilter, page: Page) -> Result<Vec<AuditEntry>> {
        on_pool!(self, audit::list, filter, page)
    }

    pub(super) async fn remember_request(&self, request: RememberedRequest) -> Result<RememberedRequest> {
        on_pool!(self, audit::remember, request)
    }

    pub(super) async fn answer_request(&self, request: RememberedRequest) -> Result<()> {
        on_pool!(self, audit::answer, request)
    }

    pub(super) async fn forget_request(&self, caller: String, key: String) -> Result<()> {
        on_pool!(self, audit::forget, caller, key)
    }

    pub(super) async fn remembered_request(&self, caller: String, key: String) -> Result<Option<RememberedRequest>> {
        on_pool!(self, audit::remembered, caller, key)
    }

    pub(super) async fn forget_requests_before(&self, time: i64) -> Result<u64> {
        on_pool!(self, audit::forget_before, time)
    }

    pub(super) async fn create_job(&self, job: Job, most: u32, audit: AuditEntry) -> Result<()> {
        on_pool!(self, jobs::create, job, most, audit)
    }

    pub(super) async fn job(&self, id: String) -> Result<Job> {
        on_pool!(self, jobs::get, id)
    }

    pub(super) async fn jobs(&self, filter: JobFilter, page: Page) -> Result<Vec<Job>> {
        on_pool!(self, jobs::list, filter, page)
    }

    pub(super) async fn unfinished_jobs(&self) -> Result<Vec<Job>> {
        on_pool!(self, jobs::unfinished)
    }

    pub(super) async fn change_job(&self, change: JobChange, audit: Option<AuditEntry>) -> Result<Job> {
        on_pool!(self, jobs::change, change, audit)
    }

    pub(super) async fn forget_jobs_before(&self, time: i64) -> Result<u64> {
        on_pool!(self, jobs::forget_before, time)
    }
}

async fn ping(client: &mut Client) -> Result<()> {
    client.query_one("SELECT 1", &[]).await.map(drop).map_err(failure)
}

async fn cluster_id(client: &mut Client) -> Result<String> {
    get(&client.query_one("SELECT value FROM meta WHERE key = 'cluster_id'", &[]).await.map_err(failure)?, 0)
}

async fn generation(client: &mut Client) -> Result<i64> {
    audit::generation(client).await
}

async fn everything(client: &mut Client) -> Result<Everything> {
    let snapshot = client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true);
    let transaction = snapshot.start().await.map_err(failure)?;
    let read = Everything {
        generation: audit::generation(&transaction).await?,
        streams: streams::known(&transaction).await?,
        schemas: schemas::in_use(&transaction).await?,
        keys: keys::all(&transaction).await?,
    };
    transaction.commit().await.map_err(failure)?;
    Ok(read)
}

fn password_of(options: &PgOptions) -> Result<Password> {
    Password::read(&options.password).map_err(|error| CatalogError::Unavailable(error.to_string()))
}

/// What [`migrate`] would do. Changes nothing.
///
/// # Errors
/// The database cannot be reached or is newer than this program.
pub async fn migration_plan(options: &PgOptions) -> Result<MigrationPlan> {
    migrations::planned(&Connector::new(options, password_of(options)?)?.connect().await?).await
}

/// Brings the database to this version.
///
/// # Errors
/// The database cannot be changed or is newer than this program.
pub async fn migrate(options: &PgOptions) -> Result<MigrationPlan> {
    migrations::apply(&mut Connector::new(options, password_of(options)?)?.connect().await?).await
}

/// The error with what lies beneath it: by itself it says no more than `db error`.
fn reason_of(error: &tokio_postgres::Error) -> String {
    match (error.as_db_error(), std::error::Error::source(error)) {
        (Some(db), _) => format!("{} ({})", db.message(), db.code().code()),
        (None, Some(source)) => format!("{error}: {source}"),
        (None, None) => error.to_string(),
    }
}

/// What a failure of Postgres means to a caller that did nothing wrong.
fn failure(error: tokio_postgres::Error) -> CatalogError {
    let reason = reason_of(&error);
    match error.code() {
        // What SQLite takes, and Postgres cannot hold in a text.
        Some(&SqlState::CHARACTER_NOT_IN_REPERTOIRE | &SqlState::UNTRANSLATABLE_CHARACTER) => CatalogError::Conflict(
            "a text holds the character U+0000, which Postgres does not store: leave it out".into(),
        ),
        // No such table or column, or a rule that the program keeps is broken: not the database that we made.
        Some(state) if state.code().starts_with("42") || state.code().starts_with("23") => {
            CatalogError::Corrupt(reason)
        }
        _ => CatalogError::Unavailable(reason),
    }
}

/// `AlreadyExists` for a broken uniqueness, else as [`failure`].
fn unique(error: tokio_postgres::Error, what: impl FnOnce() -> String) -> CatalogError {
    match error.code() {
        Some(&SqlState::UNIQUE_VIOLATION) => CatalogError::AlreadyExists(what()),
        _ => failure(error),
    }
}

/// `NotFound` for no row.
fn found(row: Option<Row>, what: impl FnOnce() -> String) -> Result<Row> {
    row.ok_or_else(|| CatalogError::NotFound(what()))
}

/// A value of a row.
fn get<'r, T: FromSql<'r>>(row: &'r Row, at: usize) -> Result<T> {
    row.try_get(at).map_err(|error| CatalogError::Corrupt(format!("column {at}: {error}")))
}

/// A value that a column holds as text.
fn column<T>(row: &Row, at: usize, read: impl FnOnce(&str) -> Option<T>) -> Result<T> {
    let text: &str = get(row, at)?;
    read(text).ok_or_else(|| CatalogError::Corrupt(format!("column {at} holds {text:?}")))
}

fn parsed<T: std::str::FromStr>(row: &Row, at: usize) -> Result<T> {
    column(row, at, |text| text.parse().ok())
}

fn json<T: DeserializeOwned>(row: &Row, at: usize) -> Result<T> {
    column(row, at, |text| serde_json::from_str(text).ok())
}

fn json_or_none<T: DeserializeOwned>(row: &Row, at: usize) -> Result<Option<T>> {
    match get::<Option<&str>>(row, at)? {
        None => Ok(None),
        Some(_) => json(row, at).map(Some),
    }
}

fn json_text(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("maps with text keys, lists and numbers always serialise")
}

/// A number that is smaller in the program than in Postgres.
fn number<T: TryFrom<i64>>(row: &Row, at: usize) -> Result<T> {
    let number: i64 = get(row, at)?;
    T::try_from(number).map_err(|_| CatalogError::Corrupt(format!("column {at} holds {number}")))
}

fn bytes32(row: &Row, at: usize) -> Result<[u8; 32]> {
    let bytes: &[u8] = get(row, at)?;
    bytes.try_into().map_err(|_| CatalogError::Corrupt(format!("column {at} holds {} bytes", bytes.len())))
}

fn all<T>(rows: &[Row], read: impl Fn(&Row) -> Result<T>) -> Result<Vec<T>> {
    rows.iter().map(read).collect()
}
