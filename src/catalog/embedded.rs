//! The catalog in SQLite: a connection that changes and one that reads, each on a thread of its own, for SQLite blocks.
//!
//! Durable at every commit (`synchronous = FULL`). A reader sees all that was answered before it asked, and never waits for
//! the sync of a change. Callers wait on a bounded queue; a full queue is `Unavailable`.

mod audit;
mod changes;
mod copy;
mod file_sets;
mod files;
mod jobs;
mod keys;
mod migrations;
mod schemas;
mod streams;

use std::{
    path::Path,
    sync::mpsc::{SyncSender, sync_channel},
    thread,
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, TransactionBehavior};
use tokio::sync::oneshot;

use super::{
    ApiKey, AuditEntry, AuditFilter, CatalogError, Changes, Commit, Everything, FileTotals, JobChange, JobFilter,
    Judged, ManifestDebt, Page, RememberedRequest, Result, RetiredFile, Schema, SchemaChange, SchemaFilter,
    SchemaVersion, StoredFile, Stream, StreamChange, StreamFilter, StreamHour,
};
use ttdust_shards::ids::{SchemaId, StreamId};

pub(super) use migrations::{migrate, migration_plan};

/// Calls that wait for the catalog's thread at most.
const QUEUE: usize = 256;
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// A handle, cheap to clone. Its threads end with the last handle.
#[derive(Debug, Clone)]
pub(super) struct Embedded {
    changes: SyncSender<Job>,
    reads: SyncSender<Job>,
}

impl Embedded {
    /// Opens the file at `path`, makes it if it is missing, and brings it to this version. Blocking.
    ///
    /// # Errors
    /// The file cannot be opened, is damaged, or was written by a newer version.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let mut connection = connect(path)?;
        migrations::apply(&mut connection)?;
        let mut reader = connect(path)?;
        reader.set_transaction_behavior(TransactionBehavior::Deferred);
        reader.pragma_update(None, "query_only", true).map_err(failure)?;
        Ok(Self { changes: start("catalog", connection)?, reads: start("catalog-read", reader)? })
    }

    async fn run<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&mut Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        run_on(&self.changes, operation).await
    }

    async fn read<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&mut Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        run_on(&self.reads, operation).await
    }

    // What a mirror does.

    pub(super) async fn replace(&self, everything: Everything) -> Result<()> {
        self.run(move |c| copy::replace(c, &everything)).await
    }

    pub(super) async fn advance(&self, from: i64, changes: Changes) -> Result<bool> {
        self.run(move |c| copy::advance(c, from, &changes)).await
    }

    pub(super) async fn flushed(&self, stream: StreamId, through: i64) -> Result<()> {
        self.run(move |c| copy::flushed(c, stream, through)).await
    }

    pub(super) async fn copied(&self) -> Result<Option<Everything>> {
        self.read(|c| {
            let transaction = c.transaction().map_err(failure)?;
            if copy::is_one(&transaction)? { copy::everything(&transaction).map(Some) } else { Ok(None) }
        })
        .await
    }

    // The methods of `Catalog`, which says what they do.

    pub(super) async fn ping(&self) -> Result<()> {
        self.read(|c| c.query_row("SELECT 1", [], |_| Ok(())).map_err(failure)).await
    }

    pub(super) async fn cluster_id(&self) -> Result<String> {
        self.read(|c| {
            c.query_row("SELECT value FROM meta WHERE key = 'cluster_id'", [], |row| row.get(0)).map_err(failure)
        })
        .await
    }

    pub(super) async fn generation(&self) -> Result<i64> {
        self.read(|c| audit::generation(c)).await
    }

    pub(super) async fn everything(&self) -> Result<Everything> {
        self.read(|c| {
            let transaction = c.transaction_with_behavior(TransactionBehavior::Deferred).map_err(failure)?;
            copy::everything(&transaction)
        })
        .await
    }

    pub(super) async fn changes_since(&self, generation: i64) -> Result<Option<Changes>> {
        self.read(move |c| changes::since(c, generation)).await
    }

    pub(super) async fn create_schema(&self, schema: Schema, first: SchemaVersion, audit: AuditEntry) -> Result<()> {
        self.run(move |c| schemas::create(c, &schema, &first, audit)).await
    }

    pub(super) async fn schema(&self, id: SchemaId) -> Result<Schema> {
        self.read(move |c| schemas::get(c, id)).await
    }

    pub(super) async fn schemas(&self, filter: SchemaFilter, page: Page) -> Result<Vec<Schema>> {
        self.read(move |c| schemas::list(c, &filter, &page)).await
    }

    pub(super) async fn change_schema(
        &self,
        id: SchemaId,
        change: SchemaChange,
        now: i64,
        audit: AuditEntry,
    ) -> Result<Schema> {
        self.run(move |c| schemas::change(c, id, change, now, audit)).await
    }

    pub(super) async fn add_version(
        &self,
        version: SchemaVersion,
        judged: Judged,
        audit: AuditEntry,
    ) -> Result<Schema> {
        self.run(move |c| schemas::add_version(c, &version, judged, audit)).await
    }

    pub(super) async fn versions(&self, schema: SchemaId, after: u32, limit: u32) -> Result<Vec<SchemaVersion>> {
        self.read(move |c| schemas::versions(c, schema, after, limit)).await
    }

    pub(super) async fn version(&self, schema: SchemaId, number: u32) -> Result<SchemaVersion> {
        self.read(move |c| schemas::version(c, schema, number)).await
    }

    pub(super) async fn version_by_fingerprint(
        &self,
        schema: SchemaId,
        fingerprint: [u8; 32],
    ) -> Result<Option<SchemaVersion>> {
        self.read(move |c| schemas::by_fingerprint(c, schema, fingerprint)).await
    }

    pub(super) async fn retire_version(
        &self,
        schema: SchemaId,
        number: u32,
        now: i64,
        audit: AuditEntry,
    ) -> Result<SchemaVersion> {
        self.run(move |c| schemas::retire(c, schema, number, now, audit)).await
    }

    pub(super) async fn create_stream(&self, stream: Stream, audit: AuditEntry) -> Result<()> {
        self.run(move |c| streams::create(c, &stream, audit)).await
    }

    pub(super) async fn stream(&self, id: StreamId) -> Result<Stream> {
        self.read(move |c| streams::get(c, id)).await
    }

    pub(super) async fn streams(&self, filter: StreamFilter, page: Page) -> Result<Vec<Stream>> {
        self.read(move |c| streams::list(c, &filter, &page)).await
    }

    pub(super) async fn change_stream(
        &self,
        id: StreamId,
        change: StreamChange,
        now: i64,
        audit: AuditEntry,
    ) -> Result<Stream> {
        self.run(move |c| streams::change(c, id, change, now, audit)).await
    }

    pub(super) async fn end_deletion(&self, id: StreamId, now: i64, audit: AuditEntry) -> Result<()> {
        self.run(move |c| streams::end_deletion(c, id, now, audit)).await
    }

    pub(super) async fn commit_files(&self, stream: StreamId, files: Vec<StoredFile>, now: i64) -> Result<Commit> {
        self.run(move |c| files::commit(c, stream, &files, now)).await
    }

    pub(super) async fn holds_file(&self, key: String) -> Result<bool> {
        self.read(move |c| files::holds(c, &key)).await
    }

    pub(super) async fn files_in(&self, stream: StreamId, start: i64, end: i64) -> Result<Vec<StoredFile>> {
        self.read(move |c| files::within(c, stream, start, end)).await
    }

    pub(super) async fn file_totals(&self, stream: StreamId) -> Result<FileTotals> {
        self.read(move |c| files::totals(c, Some(stream))).await
    }

    pub(super) async fn all_file_totals(&self) -> Result<FileTotals> {
        self.read(|c| files::totals(c, None)).await
    }

    pub(super) async fn replace_files(
        &self,
        stream: StreamId,
        old: Vec<String>,
        new: StoredFile,
        now: i64,
    ) -> Result<Commit> {
        self.run(move |c| file_sets::replace(c, stream, &old, &new, now)).await
    }

    pub(super) async fn set_files(
        &self,
        stream: StreamId,
        files: Vec<StoredFile>,
        through: i64,
        now: i64,
    ) -> Result<Commit> {
        self.run(move |c| file_sets::set(c, stream, &files, through, now)).await
    }

    pub(super) async fn drop_files(&self, stream: StreamId, through: i64, now: i64) -> Result<FileTotals> {
        self.run(move |c| file_sets::drop_through(c, stream, through, now)).await
    }

    pub(super) async fn files_after(&self, stream: StreamId, after: i64, limit: u32) -> Result<Vec<StoredFile>> {
        self.read(move |c| file_sets::page(c, stream, after, limit)).await
    }

    pub(super) async fn files_of_hour(&self, of: StreamHour) -> Result<Vec<StoredFile>> {
        self.read(move |c| file_sets::of_hour(c, of)).await
    }

    pub(super) async fn hours_to_merge(
        &self,
        below_bytes: u64,
        after: Option<StreamHour>,
        limit: u32,
    ) -> Result<Vec<StreamHour>> {
        self.read(move |c| file_sets::to_merge(c, below_bytes, after, limit)).await
    }

    pub(super) async fn retired(&self, before: i64, limit: u32) -> Result<Vec<RetiredFile>> {
        self.read(move |c| file_sets::retired(c, before, limit)).await
    }

    pub(super) async fn condemn(&self, stream: StreamId, found: Vec<StoredFile>, now: i64) -> Result<u64> {
        self.run(move |c| file_sets::condemn(c, stream, &found, now)).await
    }

    pub(super) async fn forget_retired(&self, keys: Vec<String>) -> Result<()> {
        self.run(move |c| file_sets::forget_retired(c, &keys)).await
    }

    pub(super) async fn unreferenced(&self, keys: Vec<String>) -> Result<Vec<String>> {
        self.read(move |c| file_sets::unreferenced(c, keys)).await
    }

    pub(super) async fn manifests_due(&self, limit: u32) -> Result<Vec<ManifestDebt>> {
        self.read(move |c| file_sets::manifests_due(c, limit)).await
    }

    pub(super) async fn manifest_written(&self, debt: ManifestDebt) -> Result<()> {
        self.run(move |c| file_sets::manifest_written(c, debt)).await
    }

    pub(super) async fn create_key(&self, key: ApiKey, audit: AuditEntry) -> Result<()> {
        self.run(move |c| keys::create(c, &key, audit)).await
    }

    pub(super) async fn key(&self, id: String) -> Result<ApiKey> {
        self.read(move |c| keys::get(c, &id)).await
    }

    pub(super) async fn keys(&self, page: Page) -> Result<Vec<ApiKey>> {
        self.read(move |c| keys::list(c, &page)).await
    }

    pub(super) async fn delete_key(&self, id: String, audit: AuditEntry) -> Result<()> {
        self.run(move |c| keys::delete(c, &id, audit)).await
    }

    pub(super) async fn touch_keys(&self, used: Vec<(String, i64)>) -> Result<()> {
        self.run(move |c| keys::touch(c, &used)).await
    }

    pub(super) async fn append_audit(&self, entry: AuditEntry) -> Result<()> {
        self.run(move |c| audit::append(c, &entry)).await
    }

    pub(super) async fn audit(&self, filter: AuditFilter, page: Page) -> Result<Vec<AuditEntry>> {
        self.read(move |c| audit::list(c, &filter, &page)).await
    }

    pub(super) async fn remember_request(&self, request: RememberedRequest) -> Result<RememberedRequest> {
        self.run(move |c| audit::remember(c, &request)).await
    }

    pub(super) async fn answer_request(&self, request: RememberedRequest) -> Result<()> {
        self.run(move |c| audit::answer(c, &request)).await
    }

    pub(super) async fn forget_request(&self, caller: String, key: String) -> Result<()> {
        self.run(move |c| audit::forget(c, &caller, &key)).await
    }

    pub(super) async fn remembered_request(&self, caller: String, key: String) -> Result<Option<RememberedRequest>> {
        self.read(move |c| audit::remembered(c, &caller, &key)).await
    }

    pub(super) async fn forget_requests_before(&self, time: i64) -> Result<u64> {
        self.run(move |c| audit::forget_before(c, time)).await
    }

    pub(super) async fn create_job(&self, job: super::Job, most: u32, audit: AuditEntry) -> Result<()> {
        self.run(move |c| jobs::create(c, &job, most, audit)).await
    }

    pub(super) async fn job(&self, id: String) -> Result<super::Job> {
        self.read(move |c| jobs::get(c, &id)).await
    }

    pub(super) async fn jobs(&self, filter: JobFilter, page: Page) -> Result<Vec<super::Job>> {
        self.read(move |c| jobs::list(c, &filter, &page)).await
    }

    pub(super) async fn unfinished_jobs(&self) -> Result<Vec<super::Job>> {
        self.read(|c| jobs::unfinished(c)).await
    }

    pub(super) async fn change_job(&self, change: JobChange, audit: Option<AuditEntry>) -> Result<super::Job> {
        self.run(move |c| jobs::change(c, &change, audit)).await
    }

    pub(super) async fn forget_jobs_before(&self, time: i64) -> Result<u64> {
        self.run(move |c| jobs::forget_before(c, time)).await
    }
}

/// A thread that runs what is sent on `connection`.
fn start(name: &str, mut connection: Connection) -> Result<SyncSender<Job>> {
    let (jobs, queue) = sync_channel::<Job>(QUEUE);
    let work = move || queue.into_iter().for_each(|job| job(&mut connection));
    let started = thread::Builder::new().name(name.into()).spawn(work);
    started.map_err(|e| CatalogError::Unavailable(format!("cannot start its thread: {e}")))?;
    Ok(jobs)
}

async fn run_on<T: Send + 'static>(
    jobs: &SyncSender<Job>,
    operation: impl FnOnce(&mut Connection) -> Result<T> + Send + 'static,
) -> Result<T> {
    let (answer, wait) = oneshot::channel();
    let job: Job = Box::new(move |connection| {
        // A caller that gave up is no fault.
        let _ = answer.send(operation(connection));
    });
    jobs.try_send(job).map_err(|_| CatalogError::Unavailable("too many calls wait for it".into()))?;
    wait.await.map_err(|_| CatalogError::Unavailable("its thread has ended".into()))?
}

fn connect(path: &Path) -> Result<Connection> {
    let mut connection = Connection::open(path)
        .map_err(|e| CatalogError::Unavailable(format!("cannot open {}: {e}", path.display())))?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(failure)?;
    // A change reads before it writes: with a tool at work on the same file, a reader could not become a writer.
    connection.set_transaction_behavior(TransactionBehavior::Immediate);
    connection
        .execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;")
        .map_err(failure)?;
    Ok(connection)
}

/// What a failure of SQLite means to a caller that did nothing wrong.
fn failure(error: rusqlite::Error) -> CatalogError {
    match error.sqlite_error_code() {
        // A rule that the program keeps is broken: another try breaks it again.
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::ConstraintViolation) => {
            CatalogError::Corrupt(error.to_string())
        }
        Some(_) => CatalogError::Unavailable(error.to_string()),
        // Not from SQLite itself: a column does not hold what it should.
        None => CatalogError::Corrupt(error.to_string()),
    }
}

/// `AlreadyExists` for a broken uniqueness, else as [`failure`].
fn unique(error: rusqlite::Error, what: impl FnOnce() -> String) -> CatalogError {
    match error.sqlite_error_code() {
        Some(ErrorCode::ConstraintViolation) => CatalogError::AlreadyExists(what()),
        _ => failure(error),
    }
}

/// `NotFound` for no row, else as [`failure`].
fn found<T>(row: rusqlite::Result<T>, what: impl FnOnce() -> String) -> Result<T> {
    row.map_err(|error| match error {
        rusqlite::Error::QueryReturnedNoRows => CatalogError::NotFound(what()),
        error => failure(error),
    })
}

/// A value that a column holds as text.
fn column<T>(row: &rusqlite::Row<'_>, at: usize, read: impl FnOnce(&str) -> Option<T>) -> rusqlite::Result<T> {
    let text: String = row.get(at)?;
    read(&text).ok_or_else(|| {
        let reason = format!("column {at} holds {text:?}");
        rusqlite::Error::FromSqlConversionFailure(at, rusqlite::types::Type::Text, reason.into())
    })
}

fn parsed<T: std::str::FromStr>(row: &rusqlite::Row<'_>, at: usize) -> rusqlite::Result<T> {
    column(row, at, |text| text.parse().ok())
}

fn json<T: serde::de::DeserializeOwned>(row: &rusqlite::Row<'_>, at: usize) -> rusqlite::Result<T> {
    column(row, at, |text| serde_json::from_str(text).ok())
}

fn json_or_none<T: serde::de::DeserializeOwned>(row: &rusqlite::Row<'_>, at: usize) -> rusqlite::Result<Option<T>> {
    match row.get_ref(at)? {
        rusqlite::types::ValueRef::Null => Ok(None),
        _ => json(row, at).map(Some),
    }
}

fn json_text(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("maps with text keys, lists and numbers always serialise")
}
