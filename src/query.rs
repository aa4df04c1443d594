//! Queries: the buffer's snapshot first, then the files, merged on a worker. For REST and for the shards' gRPC.
//!
//! The order is what makes an answer whole: rows that move from buffer to file after the snapshot are still in it, and files
//! committed after it are left out. A query ends at its time limit, and when its caller has gone.

mod tail;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time;
use ttdust_shards::{
    ids::StreamId,
    memory::{Meter, Pool},
    message::QueryFailure,
    parquet::cache::FileCache,
    query::{
        Bounds, BufferSnapshot, Cancel, FileRef, LIMIT_DEFAULT, LIMIT_MAX, Order, Query, QueryAnswer, QueryContext,
        QueryError, TimeField, decode_cursor,
    },
    snapshot::{StreamEntry, StreamState},
};

use crate::{
    catalog::CatalogError,
    file_lists::FileLists,
    link::ShardLink,
    metrics::ControlMetrics,
    publish::Publisher,
    traces::{self, Open},
    workers::{WorkerError, Workers},
};

/// How often a query lists its files at most, when one was gone before it could be read: once more is enough where files stay for
/// longer than a query may take.
const LISTS_MAX: usize = 8;

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

/// Which time a range is of.
///
/// # Errors
/// It is none.
pub fn time_field(text: Option<&str>) -> Result<TimeField, QueryParameterError> {
    match text {
        None | Some("ingest") => Ok(TimeField::Ingest),
        Some("event") => Ok(TimeField::Event),
        Some(_) => {
            let message = "time_field is ingest or event".to_owned();
            Err(QueryParameterError { parameter: "time_field", message })
        }
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
    lists: Arc<FileLists>,
    link: ShardLink,
    workers: Workers,
    publisher: Arc<Publisher>,
    metrics: Arc<ControlMetrics>,
    cache: Arc<FileCache>,
    memory: Arc<Pool>,
    limits: QueryLimits,
}

/// What queries may take.
#[derive(Debug, Clone, Copy)]
pub struct QueryLimits {
    /// How long one may take.
    pub timeout: Duration,
    /// What is kept of files that were read.
    pub cache_bytes: usize,
    /// What one may hold at a time.
    pub memory_bytes: usize,
    /// What all may, with answers that are being sent.
    pub memory_total_bytes: usize,
}

/// The parts that queries work with.
#[derive(Debug)]
pub struct QueryParts {
    /// Which files there are.
    pub lists: Arc<FileLists>,
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
    /// From these parts, within these limits.
    #[must_use]
    pub fn new(parts: QueryParts, limits: QueryLimits) -> Self {
        let QueryParts { lists, link, workers, publisher, metrics } = parts;
        let cache = Arc::new(FileCache::new(limits.cache_bytes));
        let memory = Pool::new(limits.memory_total_bytes);
        metrics.query_memory_is(&memory);
        Self { lists, link, workers, publisher, metrics, cache, memory, limits }
    }

    /// What one more query may take, that begins now.
    fn bounds(&self, now: Instant, cancel: Cancel) -> Bounds {
        let meter = Meter::new(Arc::clone(&self.memory), self.limits.memory_bytes);
        let most = now + self.limits.timeout;
        let deadline = cancel.until().map_or(most, |until| until.min(most));
        Bounds { deadline: Some(deadline), page_until: None, cancel, meter }
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
        let bounds = self.bounds(start, cancel);
        let timeout = bounds.deadline.map_or(self.limits.timeout, |deadline| deadline.saturating_duration_since(start));
        let mut span = traces::child(if matches!(query, Query::Lookup(_)) { "lookup" } else { "query" });
        span.note("ttdust.stream.id", stream);
        let answering = span.scope(self.answer(query, bounds));
        let mut answer = match time::timeout(timeout, answering).await {
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
            Err(QueryFailure::Memory(_)) => "memory",
            Err(QueryFailure::TimedOut) => "timeout",
            Err(QueryFailure::Cancelled) => "cancelled",
            Err(QueryFailure::Unavailable(_) | QueryFailure::StoreAway(_)) => "unavailable",
            Err(QueryFailure::Deleting | QueryFailure::NoEventTime(_)) => "error",
            Err(QueryFailure::Internal(reason)) => {
                tracing::error!(%reason, "a query failed");
                "error"
            }
        };
        asked.count(outcome, answer.as_ref().ok());
        note_answer(&mut span, outcome, &answer);
        answer
    }

    fn readable(&self, stream: StreamId) -> Option<Arc<StreamEntry>> {
        self.publisher.current().stream(stream).filter(|stream| stream.state != StreamState::Deleting).cloned()
    }

    async fn answer(&self, query: Query, bounds: Bounds) -> Result<QueryAnswer, QueryFailure> {
        let stream = self.readable(query.stream()).ok_or(QueryFailure::Deleting)?;
        let buffer = traces::child("snapshot").scope(self.link.snapshot(stream.home, stream.id)).await?;
        let (query, buffer) = (Arc::new(query), Arc::new(buffer));
        let mut tries = 1;
        loop {
            let answer = self.answer_from_files(&query, &buffer, &bounds).await?;
            match answer {
                // Merged or past its retention since it was listed, here or elsewhere: the catalog knows.
                Err(error) if error.is_of_a_file_that_is_gone() && tries < LISTS_MAX => {
                    tracing::debug!(stream = %stream.id, %error, "a file is gone: reading the list of files anew");
                }
                Err(error) if error.is_of_a_store_that_is_away() => return Err(error.into()),
                Err(QueryError::File(error)) if tries == 1 => {
                    tracing::warn!(stream = %stream.id, %error, "a file cannot be read: reading the list of files anew");
                }
                answer => return answer.map_err(QueryFailure::from),
            }
            self.lists.forget(stream.id);
            tries += 1;
        }
    }

    /// `Err`: the query was not run.
    async fn answer_from_files(
        &self,
        query: &Arc<Query>,
        buffer: &Arc<BufferSnapshot>,
        bounds: &Bounds,
    ) -> Result<Result<QueryAnswer, QueryError>, QueryFailure> {
        let listing = traces::child("list_files");
        let files = listing.scope(self.files_of(buffer)).await?;
        drop(listing);
        let executing = traces::child("execute");
        let (metrics, cache) = (Arc::clone(&self.metrics), Arc::clone(&self.cache));
        let (query, buffer, bounds) = (Arc::clone(query), Arc::clone(buffer), bounds.clone());
        let run = move || {
            let start = Instant::now();
            // The wait for a worker is none of a page's time: it goes ahead, however long that was.
            let bounds = bounds.begun(start);
            let answer = query.answer(&buffer, &files, &QueryContext { cache: &cache, bounds: &bounds });
            metrics.query_executed(start.elapsed());
            answer
        };
        executing.scope(self.workers.run(run)).await.map_err(not_run)
    }

    /// The committed files of the snapshot's stream that hold its rows up to the flush.
    async fn files_of(&self, buffer: &BufferSnapshot) -> Result<Arc<Vec<FileRef>>, QueryFailure> {
        self.lists.get(buffer.stream, buffer.flushed_through).await.map_err(|error| match error {
            CatalogError::Unavailable(reason) => {
                QueryFailure::Unavailable(format!("which files the stream has is not known here, and {reason}"))
            }
            error => QueryFailure::Internal(error.to_string()),
        })
    }
}

/// What a query came to.
fn note_answer(span: &mut Open, outcome: &'static str, answer: &Result<QueryAnswer, QueryFailure>) {
    span.note("ttdust.status", outcome);
    match answer {
        Ok(answer) => {
            span.note("ttdust.query.rows", answer.records.len());
            span.note("ttdust.query.rows_scanned", answer.rows_scanned);
            span.note("ttdust.query.partitions", answer.partitions_scanned);
            span.note("ttdust.query.files", answer.files_opened);
            span.note("ttdust.query.cache_hits", answer.cache_hits);
            span.note("ttdust.query.cache_misses", answer.cache_misses);
        }
        Err(QueryFailure::Internal(_)) => span.fail("the query failed; the log says why"),
        Err(_) => span.fail(outcome),
    }
}

/// Why no worker was at it.
fn not_run(error: WorkerError) -> QueryFailure {
    match error {
        WorkerError::Overloaded => QueryFailure::Overloaded,
        WorkerError::Panicked => QueryFailure::Internal(error.to_string()),
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

#[cfg(test)]
mod tests {
    use ttdust_shards::query::encode_cursor;

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
        assert_eq!(time_field(None), Ok(TimeField::Ingest));
        assert_eq!(time_field(Some("event")), Ok(TimeField::Event));
        assert!(time_field(Some("")).is_err());
    }
}
