//! Time-range queries: the buffer's snapshot first, then the files, merged on a worker. For REST and for the shards' gRPC.
//!
//! The order is what makes an answer whole: rows that move from buffer to file after the snapshot are still in it, and files
//! committed after it are left out.

use std::{sync::Arc, time::Instant};

use ttdust_shards::{
    ids::StreamId,
    message::QueryFailure,
    query::{FileRef, LIMIT_DEFAULT, LIMIT_MAX, TimeRangeAnswer, TimeRangeQuery, decode_cursor, time_range},
    snapshot::{StreamEntry, StreamState},
};

use crate::{
    catalog::{Catalog, StoredFile},
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

/// The sequence number that a cursor goes on after.
///
/// # Errors
/// It is not one of ours.
pub fn after_cursor(text: Option<&str>) -> Result<Option<i64>, QueryParameterError> {
    let Some(text) = text else {
        return Ok(None);
    };
    decode_cursor(text)
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
}

impl Queries {
    /// From these parts.
    #[must_use]
    pub fn new(
        catalog: Catalog,
        objects: Objects,
        link: ShardLink,
        workers: Workers,
        publisher: Arc<Publisher>,
        metrics: Arc<ControlMetrics>,
    ) -> Self {
        Self { catalog, objects, link, workers, publisher, metrics }
    }

    /// The answer to a query.
    ///
    /// # Errors
    /// `Overloaded`: try again. `Deleting`. `Internal`: the log says more.
    pub async fn time_range(&self, query: TimeRangeQuery) -> Result<TimeRangeAnswer, QueryFailure> {
        let start = Instant::now();
        let stream = query.stream;
        let mut answer = self.answer(query).await;
        // A deletion that began meanwhile takes files away.
        if matches!(answer, Err(QueryFailure::Internal(_))) && self.readable(stream).is_none() {
            answer = Err(QueryFailure::Deleting);
        }
        let outcome = match &answer {
            Ok(_) => "ok",
            Err(QueryFailure::Overloaded | QueryFailure::RateLimited(_)) => "overloaded",
            Err(QueryFailure::Deleting) => "error",
            Err(QueryFailure::Internal(reason)) => {
                tracing::error!(%reason, "a query failed");
                "error"
            }
        };
        self.metrics.query_done(outcome, start.elapsed(), answer.as_ref().ok());
        answer
    }

    fn readable(&self, stream: StreamId) -> Option<Arc<StreamEntry>> {
        self.publisher.current().stream(stream).filter(|stream| stream.state != StreamState::Deleting).cloned()
    }

    async fn answer(&self, query: TimeRangeQuery) -> Result<TimeRangeAnswer, QueryFailure> {
        let stream = self.readable(query.stream).ok_or(QueryFailure::Deleting)?;
        let buffer = self.link.snapshot(stream.home, stream.id).await?;
        let files = self
            .catalog
            .files_in(query.stream, query.start_unix_micros, query.end_unix_micros)
            .await
            .map_err(|e| QueryFailure::Internal(e.to_string()))?;
        let files = wanted(&self.objects, files, &query, buffer.flushed_through);
        let metrics = Arc::clone(&self.metrics);
        let run = move || {
            let start = Instant::now();
            let answer = time_range(&query, &buffer, &files);
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

/// The files that an answer may be in: none that was committed after the buffer's snapshot, whose rows are in the snapshot,
/// and none that the page before went past.
fn wanted(objects: &Objects, files: Vec<StoredFile>, query: &TimeRangeQuery, flushed_through: i64) -> Vec<FileRef> {
    let after = query.after_sequence.unwrap_or(0);
    files
        .into_iter()
        .filter(|file| file.first_sequence <= flushed_through && file.last_sequence > after)
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
        assert_eq!(after_cursor(Some(&encode_cursor(42))), Ok(Some(42)));
        assert!(after_cursor(Some("-1")).is_err() && after_cursor(Some("abc")).is_err());
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
        };
        let query = TimeRangeQuery {
            stream: StreamId::generate(),
            start_unix_micros: 0,
            end_unix_micros: 1,
            limit: 1,
            after_sequence: Some(10),
        };
        let chosen = wanted(&objects, vec![file(1, 10), file(11, 20), file(21, 30)], &query, 20);
        assert_eq!(chosen.iter().map(|f| f.first_sequence).collect::<Vec<_>>(), [11]);
    }
}
