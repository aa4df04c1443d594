//! Queries: the buffer's snapshot first, then the files, merged on a worker. For REST and for the shards' gRPC.
//!
//! The order is what makes an answer whole: rows that move from buffer to file after the snapshot are still in it, and files
//! committed after it are left out. A query ends at its time limit, and when its caller has gone.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time;
use ttdust_shards::{
    ids::StreamId,
    message::QueryFailure,
    parquet::cache::FileCache,
    query::{
        Bounds, Cancel, FileRef, LIMIT_DEFAULT, LIMIT_MAX, Order, Query, QueryAnswer, QueryContext, TimeRangeQuery,
        decode_cursor,
    },
    snapshot::{StreamEntry, StreamState},
};

use crate::{
    catalog::{Catalog, CatalogError, StoredFile},
    link::ShardLink,
    metrics::ControlMetrics,
    objects::Objects,
    publish::Publisher,
    workers::{WorkerError, Workers},
};

/// What a client asked for that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct QueryParameterError {
    /// The parameter.
    pub parameter: &'static str,
    /// What is wrong and what to do.
    pub message: String,
}

/// The number of records that a client may get.
///
/// # Errors
/// It is no number from 1 to [`LIMIT_MAX`].
pub fn limit(text: Option<&str>) -> Result<usize, QueryParameterError> {
    let Some(text) = text else {
        return Ok(LIMIT_DEFAULT);
    };
    text.parse().ok().filter(|n| (1..=LIMIT_MAX).contains(n)).ok_or_else(|| QueryParameterError {
        parameter: "limit",
        message: format!("limit is a number from 1 to {LIMIT_MAX}"),
    })
}

/// The order that a client asks for.
///
/// # Errors
/// It is none.
pub fn order(text: Option<&str>) -> Result<Order, QueryParameterError> {
    match text {
        None | Some("asc") => Ok(Order::Ascending),
        Some("desc") => Ok(Order::Descending),
        Some(_) => Err(QueryParameterError { parameter: "order", message: "order is asc or desc".to_owned() }),
    }
}

/// The sequence number that a cursor goes on after in this order.
///
/// # Errors
/// It is not one of ours, or of the other order.
pub fn after_cursor(text: Option<&str>, order: Order) -> Result<Option<i64>, QueryParameterError> {
    let Some(text) = text else {
        return Ok(None);
    };
    decode_cursor(text, order)
        .map(Some)
        .map_err(|error| QueryParameterError { parameter: "cursor", message: error.to_string() })
}

/// Answers queries.
#[derive(Debug)]
pub struct Queries {
    catalog: Catalog,
    objects: Objects,
    link: ShardLink,
    workers: Workers,
    publisher: Arc<Publisher>,
    metrics: Arc<ControlMetrics>,
    cache: Arc<FileCache>,
    timeout: Duration,
}

/// The parts that queries work with.
#[derive(Debug)]
pub struct QueryParts {
    /// Where files are registered.
    pub catalog: Catalog,
    /// Where they lie.
    pub objects: Objects,
    /// The way to the buffers.
    pub link: ShardLink,
    /// Who does the work.
    pub workers: Workers,
    /// Which streams there are.
    pub publisher: Arc<Publisher>,
    /// Where it is counted.
    pub metrics: Arc<ControlMetrics>,
}

impl Queries {
    /// From these parts; a query may take `timeout`, and what is read of files is kept in `cache_bytes` of memory.
    #[must_use]
    pub fn new(parts: QueryParts, timeout: Duration, cache_bytes: usize) -> Self {
        let QueryParts { catalog, objects, link, workers, publisher, metrics } = parts;
        let cache = Arc::new(FileCache::new(cache_bytes));
        Self { catalog, objects, link, workers, publisher, metrics, cache, timeout }
    }

    /// The answer to a query. `cancel` ends it, and so does dropping this.
    ///
    /// # Errors
    /// `Overloaded`, `Unavailable`: try again. `Deleting`. `TimedOut`. `Cancelled`. `Internal`: the log says more.
    pub async fn run(&self, query: Query, cancel: Cancel) -> Result<QueryAnswer, QueryFailure> {
        let start = Instant::now();
        let _waiting = cancel.on_drop();
        let asked = Asked { metrics: &self.metrics, start, counted: false };
        let stream = query.stream();
        let bounds = Bounds { deadline: Some(start + self.timeout), cancel };
        let mut answer = match time::timeout(self.timeout, self.answer(query, bounds)).await {
            Ok(answer) => answer,
            Err(_) => Err(QueryFailure::TimedOut),
        };
        // A deletion that began meanwhile takes files away.
        if matches!(answer, Err(QueryFailure::Internal(_))) && self.readable(stream).is_none() {
            answer = Err(QueryFailure::Deleting);
        }
        let outcome = match &answer {
            Ok(_) => "ok",
            Err(QueryFailure::Overloaded | QueryFailure::RateLimited(_)) => "overloaded",
            Err(QueryFailure::TimedOut) => "timeout",
            Err(QueryFailure::Cancelled) => "cancelled",
            Err(QueryFailure::Unavailable(_)) => "unavailable",
            Err(QueryFailure::Deleting) => "error",
            Err(QueryFailure::Internal(reason)) => {
                tracing::error!(%reason, "a query failed");
                "error"
            }
        };
        asked.count(outcome, answer.as_ref().ok());
        answer
    }

    fn readable(&self, stream: StreamId) -> Option<Arc<StreamEntry>> {
        self.publisher.current().stream(stream).filter(|stream| stream.state != StreamState::Deleting).cloned()
    }

    async fn answer(&self, query: Query, bounds: Bounds) -> Result<QueryAnswer, QueryFailure> {
        let stream = self.readable(query.stream()).ok_or(QueryFailure::Deleting)?;
        let buffer = self.link.snapshot(stream.home, stream.id).await?;
        let (start, end) = match &query {
            Query::TimeRange(query) => (query.start_unix_micros, query.end_unix_micros),
            Query::Lookup(_) => (i64::MIN, i64::MAX),
        };
        let files = self.catalog.files_in(stream.id, start, end).await.map_err(|error| match error {
            CatalogError::Unavailable(reason) => QueryFailure::Unavailable(reason),
            error => QueryFailure::Internal(error.to_string()),
        })?;
        let files = wanted(&self.objects, files, &query, buffer.flushed_through);
        let (metrics, cache) = (Arc::clone(&self.metrics), Arc::clone(&self.cache));
        let run = move || {
            let start = Instant::now();
            let answer = query.answer(&buffer, &files, &QueryContext { cache: &cache, bounds: &bounds });
            metrics.query_executed(start.elapsed());
            answer
        };
        match self.workers.run(run).await {
            Ok(answer) => answer.map_err(QueryFailure::from),
            Err(WorkerError::Overloaded) => Err(QueryFailure::Overloaded),
            Err(error @ WorkerError::Panicked) => Err(QueryFailure::Internal(error.to_string())),
        }
    }
}

/// A query that is counted however it ends.
struct Asked<'m> {
    metrics: &'m ControlMetrics,
    start: Instant,
    counted: bool,
}

impl Asked<'_> {
    fn count(mut self, outcome: &'static str, answer: Option<&QueryAnswer>) {
        self.counted = true;
        self.metrics.query_done(outcome, self.start.elapsed(), answer);
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if !self.counted {
            self.metrics.query_done("cancelled", self.start.elapsed(), None);
        }
    }
}

/// The files that an answer may be in: none that was committed after the buffer's snapshot, whose rows are in the snapshot,
/// and none that the page before went past.
fn wanted(objects: &Objects, files: Vec<StoredFile>, query: &Query, flushed_through: i64) -> Vec<FileRef> {
    let sequences = match query {
        Query::TimeRange(TimeRangeQuery { after_sequence: Some(after), order: Order::Ascending, .. }) => {
            after.saturating_add(1)..=flushed_through
        }
        Query::TimeRange(TimeRangeQuery { after_sequence: Some(before), order: Order::Descending, .. }) => {
            0..=flushed_through.min(before.saturating_sub(1))
        }
        _ => 0..=flushed_through,
    };
    files
        .into_iter()
        .filter(|file| file.first_sequence <= *sequences.end() && file.last_sequence >= *sequences.start())
        .map(|file| FileRef {
            source: objects.source(&file.key, file.bytes),
            hour: file.hour,
            first_sequence: file.first_sequence,
            last_sequence: file.last_sequence,
            min_timestamp: file.min_timestamp,
            max_timestamp: file.max_timestamp,
            bytes: file.bytes,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use ttdust_shards::{ids::StreamId, parquet::PartitionHour, query::encode_cursor};

    use super::*;

    #[test]
    fn limits_and_cursors_are_checked() {
        assert_eq!(limit(None), Ok(LIMIT_DEFAULT));
        assert_eq!(limit(Some("10000")), Ok(10_000));
        for text in ["0", "10001", "-1", "x", ""] {
            assert!(limit(Some(text)).is_err(), "{text}");
        }
        for order in [Order::Ascending, Order::Descending] {
            assert_eq!(after_cursor(Some(&encode_cursor(42, order)), order), Ok(Some(42)));
            assert!(after_cursor(Some("-1"), order).is_err() && after_cursor(Some("abc"), order).is_err());
        }
        assert_eq!(order(None), Ok(Order::Ascending));
        assert_eq!(order(Some("desc")), Ok(Order::Descending));
        assert!(order(Some("DESC")).is_err());
    }

    #[test]
    fn files_past_the_snapshot_or_before_the_cursor_are_left_out() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let objects = Objects::local(dir.path().join("objects")).expect("opened");
        let file = |first, last| StoredFile {
            key: format!("{first}"),
            hour: PartitionHour(0),
            first_sequence: first,
            last_sequence: last,
            min_timestamp: 0,
            max_timestamp: 0,
            bytes: 0,
            checksum: 0,
            level: 0,
        };
        let chosen = |order, after_sequence| {
            let query = Query::TimeRange(TimeRangeQuery {
                stream: StreamId::generate(),
                start_unix_micros: 0,
                end_unix_micros: 1,
                limit: 1,
                order,
                after_sequence,
            });
            let chosen = wanted(&objects, vec![file(1, 10), file(11, 20), file(21, 30)], &query, 20);
            chosen.iter().map(|f| f.first_sequence).collect::<Vec<_>>()
        };
        assert_eq!(chosen(Order::Ascending, Some(10)), [11]);
        assert_eq!(chosen(Order::Descending, Some(11)), [1]);
        assert_eq!(chosen(Order::Descending, Some(12)), [1, 11]);
        assert_eq!(chosen(Order::Descending, None), [1, 11]);
    }
}
