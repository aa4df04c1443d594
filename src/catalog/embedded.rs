//! The catalog in SQLite: one connection on one thread of its own, for SQLite blocks.
//!
//! Durable at every commit (`synchronous = FULL`). Callers wait on a bounded queue; a full queue is `Unavailable`.

mod files;
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

use rusqlite::{Connection, ErrorCode};
use tokio::sync::oneshot;

use super::{
    ApiKey, CatalogError, Commit, Everything, FileTotals, Page, Schema, SchemaVersion, StoredFile, Stream, StreamChange,
};
use ttdust_shards::{
    ids::{SchemaId, StreamId},
    snapshot::StreamState,
};

pub use migrations::{MigrationPlan, migrate, migration_plan};

/// Calls that wait for the catalog's thread at most.
const QUEUE: usize = 256;
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

type Job = Box<dyn FnOnce(&mut Connection) + Send>;
type Result<T> = std::result::Result<T, CatalogError>;

/// A handle to the catalog, cheap to clone. Its thread ends with the last handle.
#[derive(Debug, Clone)]
pub struct Catalog {
    jobs: SyncSender<Job>,
}

impl Catalog {
    /// Opens the file at `path`, makes it if it is missing, and brings it to this version. Blocking.
    ///
    /// # Errors
    /// The file cannot be opened, is damaged, or was written by a newer version.
    pub fn open(path: &Path) -> Result<Self> {
        let mut connection = connect(path)?;
        migrations::apply(&mut connection)?;
        let (jobs, queue) = sync_channel::<Job>(QUEUE);
        thread::Builder::new()
            .name("catalog".into())
            .spawn(move || {
                for job in queue {
                    job(&mut connection);
                }
            })
            .map_err(|e| CatalogError::Unavailable(format!("cannot start its thread: {e}")))?;
        Ok(Self { jobs })
    }

    async fn run<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&mut Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (answer, wait) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            // A caller that gave up is no fault.
            let _ = answer.send(operation(connection));
        });
        self.jobs.try_send(job).map_err(|_| CatalogError::Unavailable("too many calls wait for it".into()))?;
        wait.await.map_err(|_| CatalogError::Unavailable("its thread has ended".into()))?
    }

    /// Whether it answers.
    ///
    /// # Errors
    /// It does not.
    pub async fn ping(&self) -> Result<()> {
        self.run(|c| c.query_row("SELECT 1", [], |_| Ok(())).map_err(failure)).await
    }

    /// The id of this cluster, made with the catalog.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub async fn cluster_id(&self) -> Result<String> {
        self.run(|c| {
            c.query_row("SELECT value FROM meta WHERE key = 'cluster_id'", [], |row| row.get(0)).map_err(failure)
        })
        .await
    }

    /// Registers a schema with its first version.
    ///
    /// # Errors
    /// `AlreadyExists`: the namespace has the name.
    pub async fn create_schema(&self, schema: Schema, first: SchemaVersion) -> Result<()> {
        self.run(move |c| schemas::create(c, &schema, &first)).await
    }

    /// A schema.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn schema(&self, id: SchemaId) -> Result<Schema> {
        self.run(move |c| schemas::get(c, id)).await
    }

    /// Schemas in the order of their ids, filtered by namespace and name.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub async fn schemas(&self, namespace: Option<String>, name: Option<String>, page: Page) -> Result<Vec<Schema>> {
        self.run(move |c| schemas::list(c, namespace.as_deref(), name.as_deref(), &page)).await
    }

    /// Adds a version, numbered one past the newest, which must be `after`.
    ///
    /// # Errors
    /// `NotFound`; `Conflict`: another version was added meanwhile.
    pub async fn add_version(&self, version: SchemaVersion) -> Result<()> {
        self.run(move |c| schemas::add_version(c, &version)).await
    }

    /// The versions of a schema after `after`, oldest first.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn versions(&self, schema: SchemaId, after: u32, limit: u32) -> Result<Vec<SchemaVersion>> {
        self.run(move |c| schemas::versions(c, schema, after, limit)).await
    }

    /// Creates a stream.
    ///
    /// # Errors
    /// `AlreadyExists`: the name is taken. `NotFound`: no such schema.
    pub async fn create_stream(&self, stream: Stream) -> Result<()> {
        self.run(move |c| streams::create(c, &stream)).await
    }

    /// A stream.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn stream(&self, id: StreamId) -> Result<Stream> {
        self.run(move |c| streams::get(c, id)).await
    }

    /// Streams in the order of their ids, filtered by state.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub async fn streams(&self, state: Option<StreamState>, page: Page) -> Result<Vec<Stream>> {
        self.run(move |c| streams::list(c, state, &page)).await
    }

    /// Changes a stream and answers it as it is then.
    ///
    /// # Errors
    /// `NotFound`, `Stale`, or `Conflict`: it is being deleted.
    pub async fn change_stream(&self, id: StreamId, change: StreamChange, now: i64) -> Result<Stream> {
        self.run(move |c| streams::change(c, id, &change, now)).await
    }

    /// Removes a stream that is being deleted, and its files' entries.
    ///
    /// # Errors
    /// `NotFound`; `Conflict`: it is not being deleted.
    pub async fn remove_stream(&self, id: StreamId) -> Result<()> {
        self.run(move |c| streams::remove(c, id)).await
    }

    /// Commits files of a stream in one transaction. The same files again are no change.
    ///
    /// # Errors
    /// `Conflict`: another file overlaps, or the files leave a gap in the sequence numbers.
    pub async fn commit_files(&self, stream: StreamId, files: Vec<StoredFile>, now: i64) -> Result<Commit> {
        self.run(move |c| files::commit(c, stream, &files, now)).await
    }

    /// Whether a file with this key is committed.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub async fn holds_file(&self, key: String) -> Result<bool> {
        self.run(move |c| files::holds(c, &key)).await
    }

    /// The committed files of a stream that may hold rows of [`start`, `end`) Unix µs, in order.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub async fn files_in(&self, stream: StreamId, start: i64, end: i64) -> Result<Vec<StoredFile>> {
        self.run(move |c| files::within(c, stream, start, end)).await
    }

    /// What the committed files of a stream come to.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub async fn file_totals(&self, stream: StreamId) -> Result<FileTotals> {
        self.run(move |c| files::totals(c, Some(stream))).await
    }

    /// What all committed files come to.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub async fn all_file_totals(&self) -> Result<FileTotals> {
        self.run(|c| files::totals(c, None)).await
    }

    /// Stores a key.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub async fn create_key(&self, key: ApiKey) -> Result<()> {
        self.run(move |c| keys::create(c, &key)).await
    }

    /// Keys in the order of their ids.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub async fn keys(&self, page: Page) -> Result<Vec<ApiKey>> {
        self.run(move |c| keys::list(c, &page)).await
    }

    /// Removes a key.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn delete_key(&self, id: String) -> Result<()> {
        self.run(move |c| keys::delete(c, &id)).await
    }

    /// Everything that a snapshot for the shards is made of.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub async fn everything(&self) -> Result<Everything> {
        self.run(|c| {
            let transaction = c.transaction().map_err(failure)?;
            Ok(Everything {
                streams: streams::all(&transaction)?,
                schemas: schemas::newest_in_use(&transaction)?,
                keys: keys::all(&transaction)?,
            })
        })
        .await
    }
}

fn connect(path: &Path) -> Result<Connection> {
    let connection = Connection::open(path)
        .map_err(|e| CatalogError::Unavailable(format!("cannot open {}: {e}", path.display())))?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(failure)?;
    connection
        .execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;")
        .map_err(failure)?;
    Ok(connection)
}

/// What a failure of SQLite means to a caller that did nothing wrong.
fn failure(error: rusqlite::Error) -> CatalogError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => CatalogError::Corrupt(error.to_string()),
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

#[cfg(test)]
mod tests;
