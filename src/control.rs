//! Every admin operation as a method. REST sees only this.
//!
//! A change is durable in the catalog first, then published; it is answered when every shard runs on it. Changes follow one
//! another: one lock, held over both steps.

mod follow;
mod health;
mod keys;
mod names;
mod schemas;
mod streams;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::future::join_all;
use tokio::{
    sync::{Mutex, MutexGuard, oneshot},
    time,
};
use ttdust_shards::{
    ids::StreamId,
    message::{QueryFailure, ToShard},
    query::{TimeRangeAnswer, TimeRangeQuery},
    snapshot::{CatalogSnapshot, StreamEntry},
};

use crate::{
    access::{Caller, Unauthenticated, authenticate},
    calendar::now_unix_micros,
    catalog::{Catalog, CatalogError},
    config::Config,
    link::ShardLink,
    objects::{LocalObjects, ObjectError},
    publish::{PublishError, Publisher},
    query::{Queries, QueryParameterError},
    workers::{WorkerError, Workers},
};

pub use health::{Component, Readiness};
pub use keys::{CreatedKey, NewKey};
pub use schemas::{AddedVersion, NewSchema, NewVersion};
pub use streams::{NewStream, StreamStatistics};

/// How long a change waits until all shards run on it. The shards go on taking it after that.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(10);

/// A field of a request that is at fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// JSON Pointer into the request's body, or the parameter's name.
    pub pointer: String,
    /// What is wrong and what to do.
    pub detail: String,
}

/// Why an operation was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// What was named does not exist.
    #[error("{0} does not exist")]
    NotFound(String),
    /// The name is taken.
    #[error("{0} already exists")]
    AlreadyExists(String),
    /// The request is at fault.
    #[error("{detail}")]
    Invalid {
        /// What is wrong.
        detail: String,
        /// The fields.
        fields: Vec<FieldError>,
    },
    /// The object was changed since the caller read it.
    #[error("it was changed meanwhile and is now at version {0}: read it again")]
    Stale(i64),
    /// Not possible as things stand.
    #[error("{0}")]
    Conflict(String),
    /// This version cannot do it.
    #[error("{0}")]
    NotAvailable(String),
    /// Too much at once; try again.
    #[error("the server has too much to do; try again")]
    Overloaded,
    /// A part that is needed does not answer; try again.
    #[error("{0}")]
    Unavailable(String),
    /// A fault in the server or its data.
    #[error("{0}")]
    Internal(String),
}

impl ControlError {
    /// One field at fault.
    #[must_use]
    pub fn field(pointer: &str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        let fields = vec![FieldError { pointer: pointer.to_owned(), detail: detail.clone() }];
        Self::Invalid { detail, fields }
    }
}

impl From<CatalogError> for ControlError {
    fn from(error: CatalogError) -> Self {
        match error {
            CatalogError::NotFound(what) => Self::NotFound(what),
            CatalogError::AlreadyExists(what) => Self::AlreadyExists(what),
            CatalogError::Conflict(why) => Self::Conflict(why),
            CatalogError::Stale { current } => Self::Stale(current),
            CatalogError::Unavailable(_) => Self::Unavailable(error.to_string()),
            CatalogError::Corrupt(_) => Self::Internal(error.to_string()),
        }
    }
}

impl From<WorkerError> for ControlError {
    fn from(error: WorkerError) -> Self {
        match error {
            WorkerError::Overloaded => Self::Overloaded,
            WorkerError::Panicked => Self::Internal(error.to_string()),
        }
    }
}

impl From<PublishError> for ControlError {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Catalog(error) => error.into(),
            PublishError::Worker(error) => error.into(),
            PublishError::Schema { .. } => Self::Internal(error.to_string()),
        }
    }
}

impl From<ObjectError> for ControlError {
    fn from(error: ObjectError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl From<QueryParameterError> for ControlError {
    fn from(error: QueryParameterError) -> Self {
        Self::field(error.parameter, error.message)
    }
}

/// What the control plane is made of.
#[derive(Debug)]
pub struct Parts {
    /// The configuration.
    pub config: Arc<Config>,
    /// The catalog.
    pub catalog: Catalog,
    /// The objects.
    pub objects: LocalObjects,
    /// The shards.
    pub link: ShardLink,
    /// The worker threads.
    pub workers: Workers,
    /// The snapshot in force.
    pub publisher: Arc<Publisher>,
    /// Queries.
    pub queries: Arc<Queries>,
}

/// The control plane.
#[derive(Debug)]
pub struct Control {
    parts: Parts,
    changes: Mutex<()>,
    draining: AtomicBool,
}

impl Control {
    /// Of these parts.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self { parts, changes: Mutex::new(()), draining: AtomicBool::new(false) }
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.parts.config
    }

    /// Stops taking changes and reports not ready.
    pub fn start_draining(&self) {
        self.draining.store(true, Relaxed);
    }

    /// Who calls with this key.
    ///
    /// # Errors
    /// See [`Unauthenticated`].
    pub fn authenticate(&self, key: Option<&str>) -> Result<Caller, Unauthenticated> {
        authenticate(&self.parts.publisher.current().access, key, now_unix_micros())
    }

    /// The stream that `text`, an id or a name, means.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn resolve_stream(&self, text: &str) -> Result<Arc<StreamEntry>, ControlError> {
        let current = self.parts.publisher.current();
        current.resolve(text).cloned().ok_or_else(|| ControlError::NotFound(format!("stream {}", names::shown(text))))
    }

    /// Records of a stream.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn records(&self, query: TimeRangeQuery) -> Result<TimeRangeAnswer, ControlError> {
        self.parts.queries.time_range(query).await.map_err(|failure| match failure {
            QueryFailure::Overloaded => ControlError::Overloaded,
            QueryFailure::Internal(reason) => ControlError::Internal(reason),
        })
    }

    /// The right to change the catalog, until it is dropped.
    async fn changing(&self) -> Result<MutexGuard<'_, ()>, ControlError> {
        let guard = self.changes.lock().await;
        if self.draining.load(Relaxed) {
            return Err(ControlError::Unavailable("the server is shutting down".into()));
        }
        Ok(guard)
    }

    /// Puts what the catalog holds now in force and waits until every shard runs on it.
    async fn publish(&self) -> Result<(), ControlError> {
        let snapshot = self.parts.publisher.advance().await?;
        self.send(snapshot).await
    }

    /// Hands a snapshot to every shard and waits until all run on it.
    async fn send(&self, snapshot: Arc<CatalogSnapshot>) -> Result<(), ControlError> {
        let shards = self.parts.link.shards().map(|shard| {
            let (link, publisher, snapshot) =
                (self.parts.link.clone(), Arc::clone(&self.parts.publisher), Arc::clone(&snapshot));
            async move {
                let (answer, wait) = oneshot::channel();
                // An older snapshot must not come after a newer one.
                let version = snapshot.version;
                let newest = move || publisher.current().version == version;
                link.deliver_while(shard, ToShard::Catalog(snapshot, answer), newest).await?;
                // No answer: the shard has ended, or a newer snapshot took this one's place.
                let _ = wait.await;
                Ok::<_, crate::link::ShardGone>(())
            }
        });
        // On a task of its own, so that it goes on when the time is up.
        let published = tokio::spawn(join_all(shards.collect::<Vec<_>>()));
        match time::timeout(PUBLISH_TIMEOUT, published).await {
            Ok(Ok(outcomes)) => match outcomes.into_iter().find_map(Result::err) {
                None => Ok(()),
                Some(gone) => Err(ControlError::Unavailable(format!("it is saved, but {gone}"))),
            },
            Ok(Err(error)) => Err(ControlError::Internal(error.to_string())),
            Err(_) => Err(ControlError::Unavailable("it is saved, but not every shard runs on it yet".into())),
        }
    }

    /// The snapshot in force.
    #[must_use]
    pub fn current(&self) -> Arc<CatalogSnapshot> {
        self.parts.publisher.current()
    }

    /// Ends deletions that an earlier run began.
    pub async fn resume_deletions(&self) {
        let current = self.current();
        let deleting = |s: &&Arc<StreamEntry>| s.state == ttdust_shards::snapshot::StreamState::Deleting;
        let streams: Vec<StreamId> = current.streams().filter(deleting).map(|s| s.id).collect();
        for stream in streams {
            match self.delete_stream(stream, None).await {
                Ok(()) => tracing::info!(%stream, "ended a deletion that an earlier run began"),
                Err(error) => tracing::error!(%stream, %error, "cannot end a deletion; the next start tries again"),
            }
        }
    }
}
