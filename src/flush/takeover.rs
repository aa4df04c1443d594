//! A start from the mirror: what an earlier run committed, and the mirror does not say.
//!
//! Between a commit in Postgres and its note in the mirror a crash may come. The rows of that commit are in files then, and come
//! back from the log. So no flush is committed until the catalog was read once, and a flush of such rows ends as done.
//! Until then a query is right as well: it takes no file that begins past what the buffer takes for flushed.

use std::{collections::HashMap, sync::Arc};

use tokio::sync::watch;
use ttdust_shards::ids::StreamId;

use crate::catalog::Stream;

type Ends = HashMap<StreamId, i64>;

/// What flushes wait for.
#[derive(Debug, Clone)]
pub struct Takeover(watch::Receiver<Option<Arc<Ends>>>);

/// Whoever has it ends the wait.
#[derive(Debug)]
pub struct TakeoverPending {
    ends: watch::Sender<Option<Arc<Ends>>>,
    started_from: Ends,
}

impl Takeover {
    /// After a start from the catalog itself.
    #[must_use]
    pub fn not_needed() -> Self {
        Self(watch::channel(Some(Arc::default())).1)
    }

    /// After a start from `streams` of the mirror.
    #[must_use]
    pub fn needed(streams: &[Stream]) -> (Self, TakeoverPending) {
        let (ends, wait) = watch::channel(None);
        (Self(wait), TakeoverPending { ends, started_from: ends_of(streams) })
    }

    /// Where the files of `stream` ended before this run, if rows from `first_sequence` on are in them.
    pub(super) async fn committed_before(&self, stream: StreamId, first_sequence: i64) -> Option<i64> {
        let mut wait = self.0.clone();
        let ends = wait.wait_for(Option::is_some).await.ok().map(|ends| ends.clone());
        let ends = match ends {
            Some(ends) => ends,
            // The server ends; the log keeps the rows.
            None => std::future::pending().await,
        };
        ends.and_then(|ends| ends.get(&stream).copied()).filter(|end| first_sequence <= *end)
    }
}

impl TakeoverPending {
    /// The catalog was read, and holds `streams`.
    pub fn end(&self, streams: &[Stream]) {
        let mut ahead = ends_of(streams);
        // A stream that the mirror does not know had its rows from elsewhere: what is in its files is not in our log.
        ahead.retain(|stream, end| self.started_from.get(stream).is_some_and(|started| *end > *started));
        tracing::info!(streams_ahead = ahead.len(), "the catalog is taken over: flushes are committed again");
        self.ends.send_replace(Some(Arc::new(ahead)));
    }
}

fn ends_of(streams: &[Stream]) -> Ends {
    streams.iter().map(|stream| (stream.id, stream.flushed_through)).collect()
}

#[cfg(test)]
mod tests {
    use ttdust_shards::ids::SchemaId;

    use super::*;
    use crate::catalog::StreamStatus;

    fn stream(id: StreamId, flushed_through: i64) -> Stream {
        Stream {
            id,
            name: id.to_string(),
            description: String::new(),
            schema: SchemaId::generate(),
            status: StreamStatus::Active,
            key_fields: vec![],
            labels: [].into(),
            retention: None,
            partition_config: None,
            version: 1,
            pipelines: Default::default(),
            dead_letters: None,
            flushed_through,
            created_at: 1,
            updated_at: 1,
        }
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
    }

    #[test]
    fn flushes_wait_for_the_catalog_and_those_of_an_earlier_run_are_known() {
        let (same, ahead) = (StreamId::generate(), StreamId::generate());
        let (takeover, pending) = Takeover::needed(&[stream(same, 10), stream(ahead, 10)]);
        run(async {
            let mut waiting = Box::pin(takeover.committed_before(ahead, 11));
            let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(waiting.as_mut().poll(cx))).await;
            assert!(polled.is_pending());
            pending.end(&[stream(same, 10), stream(ahead, 20)]);
            assert_eq!(waiting.await, Some(20));
            assert_eq!(takeover.committed_before(ahead, 20).await, Some(20));
            assert_eq!(takeover.committed_before(ahead, 21).await, None);
            assert_eq!(takeover.committed_before(same, 11).await, None);
        });
    }

    #[test]
    fn a_start_from_the_catalog_waits_for_nothing() {
        assert_eq!(run(Takeover::not_needed().committed_before(StreamId::generate(), 1)), None);
    }
}
