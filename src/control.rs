//! Every admin operation as a method. REST sees only this.
//!
//! A change is durable in the catalog first, then published; it is answered when every shard runs on it. Changes follow one
//! another: one lock, held over both steps. A change that was saved and could not be published is published by whoever tries
//! it again, before he is told that there is nothing to change, and in any case by [`Control::follow_catalog`].

mod admin;
mod config;
mod dead_letters;
mod follow;
mod health;
mod jobs;
mod keys;
mod names;
mod pipelines;
mod requests;
mod schemas;
mod streams;

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, RwLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::future::join_all;
use tokio::{
    sync::{Mutex, MutexGuard, mpsc, oneshot, watch},
    time,
};
use ttdust_shards::{
    access::Principal,
    ids::StreamId,
    memory::MemoryShort,
    message::{QUERY_TIMEOUT_HINT, QueryFailure, ToShard},
    query::{Cancel, KeyLookup, Query, QueryAnswer, TimeRangeQuery},
    rate::{Category, LeaseAsk, LeaseGrant, RateLimited, RateLimits},
    snapshot::{CatalogSnapshot, StreamEntry},
};

use crate::{
    calendar::now_unix_micros,
    catalog::{AuditEntry, Catalog, CatalogError, Page, Stream, StreamFilter, StreamStatus},
    compatibility::Violation,
    config::{Config, Loaded},
    coordination::{Coordinator, Standing},
    imports::Imports,
    link::ShardLink,
    objects::{ObjectError, Objects},
    publish::{Checks, PublishError, Publisher},
    query::{Queries, QueryParameterError},
    traces,
    workers::{WorkerError, Workers},
};

pub use config::Reload;
pub use dead_letters::RETENTION_DAYS;
pub use health::{Component, Readiness};
pub use jobs::{JobPage, JobsAsked};
pub use keys::{CreatedKey, NewKey};
pub use pipelines::{
    NewPipeline, PipelineChange, PipelineFault, PipelineTest, PipelineTested, SAMPLES_MAX, Sample, SampleEnd,
    WholePipeline,
};
pub use schemas::{AddedVersion, NewSchema, NewVersion, policy_name, policy_of};
pub use streams::{NewStream, StreamPage, StreamStatistics};

/// How long a change waits until all shards run on it. The shards go on taking it after that.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(10);
/// Between looks at what is to be saved.
const HOUSEKEEPING_PAUSE: Duration = Duration::from_secs(2);
/// How long the answer to a request with an `Idempotency-Key` is kept.
const REQUESTS_KEPT: Duration = Duration::from_secs(24 * 3600);
const FORGET_PAUSE: Duration = Duration::from_secs(600);
/// How long the end of the server waits for the times of last use to be saved.
const LAST_USES_TIMEOUT: Duration = Duration::from_secs(2);
/// Half-done streams that one start goes on with.
const RESUME_MAX: u32 = 10_000;

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
    /// A definition that may not follow the versions before it.
    #[error("the definition is not compatible under mode {mode}: {}", first_reason(violations))]
    Incompatible {
        /// The schema's mode.
        mode: String,
        /// Why.
        violations: Vec<Violation>,
    },
    /// A definition that steps of pipelines do not fit.
    #[error("{}", first_fault(.0))]
    BreaksPipelines(Vec<PipelineFault>),
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
    /// As many jobs as may be have not ended.
    #[error("{0}")]
    TooManyJobs(String),
    /// There is no memory for a query.
    #[error(transparent)]
    NoMemory(MemoryShort),
    /// The caller is over a limit.
    #[error(transparent)]
    RateLimited(#[from] RateLimited),
    /// It took longer than it may.
    #[error("{0}")]
    TimedOut(&'static str),
    /// Nothing is changed any more.
    #[error("the server is shutting down")]
    Draining,
    /// A part that is needed does not answer, or not yet: it may have been done. Try again.
    #[error("{0}")]
    Unavailable(String),
    /// A fault in the server or its data.
    #[error("{0}")]
    Internal(String),
}

impl ControlError {
    /// The machine-readable reason, the same in gRPC and REST.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "NOT_FOUND",
            Self::AlreadyExists(_) => "ALREADY_EXISTS",
            Self::Invalid { .. } => "INVALID_ARGUMENT",
            Self::Incompatible { .. } => "INCOMPATIBLE_SCHEMA",
            Self::BreaksPipelines(_) => "BREAKS_PIPELINE",
            Self::Stale(_) => "VERSION_MISMATCH",
            Self::Conflict(_) => "FAILED_PRECONDITION",
            Self::NotAvailable(_) => "UNIMPLEMENTED",
            Self::Overloaded | Self::NoMemory(_) => "RESOURCE_EXHAUSTED",
            Self::TooManyJobs(_) => "TOO_MANY_JOBS",
            Self::RateLimited(_) => "RATE_LIMITED",
            Self::TimedOut(_) => "QUERY_TIMEOUT",
            Self::Unavailable(_) | Self::Draining => "UNAVAILABLE",
            Self::Internal(_) => "INTERNAL",
        }
    }

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
            // Nothing else has such a bound.
            CatalogError::Full(why) => Self::TooManyJobs(why),
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
            // By then it is in the catalog.
            PublishError::Worker(error @ WorkerError::Overloaded) => {
                Self::Unavailable(format!("it is saved, but not in force yet: {error}"))
            }
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

/// The uses of keys that are not among `saved`; keys that are gone are forgotten there.
fn unsaved(saved: &mut HashMap<String, i64>, uses: &[(String, i64)]) -> Vec<(String, i64)> {
    let there: HashSet<&str> = uses.iter().map(|(id, _)| id.as_str()).collect();
    saved.retain(|id, _| there.contains(id.as_str()));
    uses.iter().filter(|(id, at)| saved.get(id) != Some(at)).cloned().collect()
}

fn not_everywhere() -> ControlError {
    ControlError::Unavailable("it is saved, but not every shard runs on it yet".into())
}

fn first_reason(violations: &[Violation]) -> &str {
    violations.first().map_or("", |violation| &violation.reason)
}

fn first_fault(faults: &[PipelineFault]) -> String {
    let fault = faults.first().map(PipelineFault::to_string).unwrap_or_default();
    format!("the definition breaks a pipeline, which is to be changed first: {fault}")
}

/// Who does a change, for the audit log.
#[derive(Debug, Clone)]
pub struct Actor {
    /// The caller.
    pub caller: Principal,
    /// The request's id.
    pub trace_id: String,
}

impl Actor {
    /// The server itself.
    #[must_use]
    pub fn system() -> Self {
        Self { caller: Principal::of_the_server(), trace_id: String::new() }
    }

    /// A line for the audit log: `action`, now, on an object.
    fn did(&self, action: &str, object_kind: &str, object_id: &str) -> AuditEntry {
        let mut entry = AuditEntry::system(action, object_kind, object_id);
        entry.actor = self.caller.id.to_string();
        self.caller.role.name().clone_into(&mut entry.role);
        entry.trace_id.clone_from(&self.trace_id);
        entry
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
    pub objects: Objects,
    /// The shards.
    pub link: ShardLink,
    /// The worker threads.
    pub workers: Workers,
    /// The snapshot in force.
    pub publisher: Arc<Publisher>,
    /// Queries.
    pub queries: Arc<Queries>,
    /// To whoever puts changed settings in force.
    pub reloads: mpsc::Sender<Reload>,
    /// What clients may do.
    pub coordinator: Arc<Coordinator>,
    /// Jobs.
    pub imports: Arc<Imports>,
}

/// The control plane.
#[derive(Debug)]
pub struct Control {
    parts: Parts,
    settings: RwLock<Arc<Loaded>>,
    changes: Mutex<()>,
    /// The version of the newest snapshot that every shard runs on.
    delivered: watch::Sender<u64>,
    checked: health::Latest,
    draining: AtomicBool,
}

impl Control {
    /// Of these parts.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let settings = RwLock::new(Arc::new(parts.config.loaded.clone()));
        // The shards began with it.
        let delivered = watch::Sender::new(parts.publisher.current().version);
        let draining = AtomicBool::new(false);
        Self { parts, settings, changes: Mutex::new(()), delivered, checked: health::Latest::default(), draining }
    }

    /// Stops taking changes and reports not ready.
    pub fn start_draining(&self) {
        self.draining.store(true, Relaxed);
    }

    /// Counts a call of `client`. `None`: there is no limit.
    ///
    /// # Errors
    /// The client is over its limit.
    pub async fn admit(&self, category: Category, client: &Arc<str>) -> Result<Option<Standing>, RateLimited> {
        self.parts.coordinator.admit(&self.current().rates, category, client).await
    }

    /// Counts a request of `client` with records. `None`: there is no limit of records.
    ///
    /// # Errors
    /// The client is over its limit.
    pub async fn admit_records(
        &self,
        client: &Arc<str>,
        records: usize,
        bytes: usize,
    ) -> Result<Option<Standing>, RateLimited> {
        self.parts.coordinator.admit_records(&self.current().rates, client, records as u64, bytes as u64).await
    }

    /// Answers a shard's asks.
    pub async fn lease(&self, asks: Vec<LeaseAsk>) -> Vec<LeaseGrant> {
        self.parts.coordinator.lease(&self.current().rates, asks).await
    }

    /// The stream that `text`, an id or a name, means to `caller`: one that it may not use does not exist.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn resolve_stream(&self, caller: &Principal, text: &str) -> Result<Arc<StreamEntry>, ControlError> {
        let current = self.parts.publisher.current();
        let stream = current.resolve(text).filter(|stream| caller.sees(stream.id, &stream.name));
        stream.cloned().ok_or_else(|| ControlError::NotFound(format!("stream {}", names::shown(text))))
    }

    /// As [`Self::resolve_stream`], but an id that the shards do not know, yet or any more, is looked for in the catalog as
    /// well: what was created and could not be put in force can be read and deleted. Callers that are confined to streams are
    /// told of what is in force alone: the time of the answer would tell them what else there is.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable`: the catalog, which has to be asked.
    pub async fn find_stream(&self, caller: &Principal, text: &str) -> Result<StreamId, ControlError> {
        let unknown = match self.resolve_stream(caller, text) {
            Ok(stream) => return Ok(stream.id),
            Err(unknown) => unknown,
        };
        match text.parse() {
            Ok(id) if !caller.role.is_confined() => match self.parts.catalog.stream(id).await? {
                Stream { status: StreamStatus::Deleted, .. } => Err(unknown),
                stream => Ok(stream.id),
            },
            _ => Err(unknown),
        }
    }

    /// Records of a stream. Dropped, the query is cancelled.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn records(&self, query: TimeRangeQuery) -> Result<QueryAnswer, ControlError> {
        self.query(Query::TimeRange(query)).await
    }

    /// The latest record of a stream with a key, or none. Dropped, the query is cancelled.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn lookup(&self, query: KeyLookup) -> Result<QueryAnswer, ControlError> {
        self.query(Query::Lookup(query)).await
    }

    async fn query(&self, query: Query) -> Result<QueryAnswer, ControlError> {
        let cancel = Cancel::default();
        let _waiting = cancel.on_drop();
        self.parts.queries.run(query, cancel).await.map_err(|failure| match failure {
            QueryFailure::Overloaded => ControlError::Overloaded,
            QueryFailure::RateLimited(over) => ControlError::RateLimited(over),
            QueryFailure::Deleting => ControlError::Conflict("the stream is being deleted".into()),
            QueryFailure::TimedOut => ControlError::TimedOut(QUERY_TIMEOUT_HINT),
            QueryFailure::Memory(short) => ControlError::NoMemory(short),
            QueryFailure::Cancelled => ControlError::Internal("a query was cancelled, and its caller was not".into()),
            QueryFailure::Unavailable(reason) | QueryFailure::StoreAway(reason) => ControlError::Unavailable(reason),
            QueryFailure::NoEventTime(detail) => ControlError::field("time_field", detail),
            QueryFailure::Internal(reason) => ControlError::Internal(reason),
        })
    }

    /// The right to change the catalog, until it is dropped.
    async fn changing(&self) -> Result<MutexGuard<'_, ()>, ControlError> {
        let guard = self.changes.lock().await;
        if self.draining.load(Relaxed) {
            return Err(ControlError::Draining);
        }
        Ok(guard)
    }

    /// Puts new ways to check credentials, and new limits, in force, be the catalog there or not: on every shard once this is
    /// answered, but for those that are too busy, which the log tells.
    ///
    /// # Errors
    /// `Unavailable`: the server is shutting down, and nothing was changed.
    pub async fn set_checks(&self, checks: Checks, rates: RateLimits) -> Result<(), ControlError> {
        let _changing = self.changing().await?;
        self.parts.publisher.set_checks(checks);
        self.parts.publisher.set_rates(rates);
        if let Err(error) = self.send(self.parts.publisher.republish()).await {
            // On its way to all, and in force here: nothing takes it back.
            tracing::warn!(%error, "not every shard runs on the new checks and limits yet");
        }
        Ok(())
    }

    /// Puts what the catalog holds now in force and waits until every shard runs on it. For whoever has the right to change.
    async fn publish(&self) -> Result<(), ControlError> {
        let snapshot = self.parts.publisher.advance().await?;
        self.send(snapshot).await
    }

    /// What a change of the catalog came to, in force on every shard. If there was nothing to change, an earlier try may have
    /// been saved, and not published: that is made good before anyone is told.
    async fn published<T>(&self, change: Result<T, CatalogError>) -> Result<T, ControlError> {
        match change {
            Ok(done) => self.publish().await.map(|()| done),
            Err(error @ CatalogError::Unavailable(_)) => Err(error.into()),
            Err(error) => self.catch_up().await.and(Err(error.into())),
        }
    }

    /// Waits until every shard runs on what the catalog holds, and puts it in force if it is not yet. For whoever has the right
    /// to change.
    async fn catch_up(&self) -> Result<(), ControlError> {
        if !self.is_in_force().await? {
            return self.publish().await;
        }
        // It may still be under way to a shard.
        let version = self.current().version;
        let mut delivered = self.delivered.subscribe();
        let wait = delivered.wait_for(|delivered| *delivered >= version);
        time::timeout(PUBLISH_TIMEOUT, wait).await.map(drop).map_err(|_| not_everywhere())
    }

    /// Whether the snapshot in force is of all that the catalog holds now.
    async fn is_in_force(&self) -> Result<bool, ControlError> {
        Ok(self.parts.catalog.generation().await? == self.parts.publisher.generation())
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
        let (shards, delivered, version) =
            (join_all(shards.collect::<Vec<_>>()), self.delivered.clone(), snapshot.version);
        // On a task of its own, so that it goes on when the time is up.
        let publishing = traces::child("publish");
        let published = tokio::spawn(async move {
            let _publishing = publishing;
            let gone = shards.await.into_iter().find_map(Result::err);
            if gone.is_none() {
                delivered.send_modify(|delivered| *delivered = version.max(*delivered));
            }
            gone
        });
        match time::timeout(PUBLISH_TIMEOUT, published).await {
            Ok(Ok(None)) => Ok(()),
            Ok(Ok(Some(gone))) => Err(ControlError::Unavailable(format!("it is saved, but {gone}"))),
            Ok(Err(error)) => Err(ControlError::Internal(error.to_string())),
            Err(_) => Err(not_everywhere()),
        }
    }

    /// The snapshot in force.
    #[must_use]
    pub fn current(&self) -> Arc<CatalogSnapshot> {
        self.parts.publisher.current()
    }

    /// What is done now and then, for as long as the server runs: times of last use are saved, old answers forgotten.
    pub async fn keep_house(&self) {
        let mut saved = HashMap::<String, i64>::new();
        let mut forget_at = time::Instant::now();
        loop {
            time::sleep(HOUSEKEEPING_PAUSE).await;
            self.save_uses(&mut saved).await;
            if time::Instant::now() >= forget_at {
                let before = now_unix_micros() - REQUESTS_KEPT.as_micros() as i64;
                if let Err(error) = self.parts.catalog.forget_requests_before(before).await {
                    tracing::warn!(%error, "old answers are not forgotten yet");
                }
                forget_at = time::Instant::now() + FORGET_PAUSE;
            }
        }
    }

    /// Saves when keys were last used, but for what `saved` knows to be saved.
    async fn save_uses(&self, saved: &mut HashMap<String, i64>) {
        let uses = self.parts.publisher.last_uses();
        let unsaved = unsaved(saved, &uses);
        if !unsaved.is_empty() && self.parts.catalog.touch_keys(unsaved).await.is_ok() {
            *saved = uses.into_iter().collect();
        }
    }

    /// Saves when keys were last used, for the end of the server; gives up if that takes long.
    pub async fn save_last_uses(&self) {
        // A catalog that is away learns of the next use.
        let _ = time::timeout(LAST_USES_TIMEOUT, self.save_uses(&mut HashMap::new())).await;
    }

    /// Goes on with what an earlier run left half done: deletions, and streams that an earlier version created in two steps.
    pub async fn resume(self: &Arc<Self>) {
        let of_status = |status| StreamFilter { status: Some(status), ..StreamFilter::default() };
        let page = || Page { after: String::new(), limit: RESUME_MAX };
        match self.parts.catalog.streams(of_status(StreamStatus::Deleting), page()).await {
            Ok(streams) => streams.iter().for_each(|stream| self.end_deletion(stream.id)),
            Err(error) => tracing::error!(%error, "cannot look for deletions to end; the next start tries again"),
        }
        if let Err(error) = self.activate_created(&of_status(StreamStatus::Creating), page()).await {
            tracing::error!(%error, "cannot put a half-created stream in force; the next start tries again");
        }
    }

    async fn activate_created(&self, filter: &StreamFilter, page: Page) -> Result<(), ControlError> {
        let created = self.parts.catalog.streams(filter.clone(), page).await?;
        if created.is_empty() {
            return Ok(());
        }
        let _changing = self.changing().await?;
        for stream in created {
            self.activate(stream.id, &Actor::system()).await?;
        }
        self.publish().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_keys_that_are_gone_nothing_is_kept() {
        let used = |id: &str, at| (id.to_owned(), at);
        let mut saved = HashMap::from([used("a", 1), used("b", 1), used("c", 1)]);
        assert_eq!(unsaved(&mut saved, &[used("a", 1), used("b", 2), used("d", 3)]), [used("b", 2), used("d", 3)]);
        assert_eq!(saved, HashMap::from([used("a", 1), used("b", 1)]));
    }
}
