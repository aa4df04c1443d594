//! Pages for readers of tails that catch up: a query whose answer is encoded where it was found, on the worker.

use std::{sync::Arc, time::Instant};

use tokio::time;
use ttdust_shards::{
    memory::MemoryShort,
    message::QueryFailure,
    query::{Bounds, BufferSnapshot, Cancel, QueryContext, QueryError, time_range_within},
    tail::page::{Page, PageAsk},
};

use super::{Queries, not_run};

/// A page, or why there is none and what was asked.
type Filled = Result<Page, Box<(QueryError, PageAsk)>>;

impl Queries {
    /// The page that a reader wants.
    ///
    /// # Errors
    /// As of [`Queries::run`].
    pub async fn tail_page(&self, ask: PageAsk) -> Result<Page, QueryFailure> {
        let cancel = Cancel::default();
        let _waiting = cancel.on_drop();
        let bounds = self.bounds(Instant::now(), cancel);
        let stream = ask.stream;
        let page =
            time::timeout(self.limits.timeout, self.page(ask, bounds)).await.unwrap_or(Err(QueryFailure::TimedOut));
        match page {
            // A deletion that began meanwhile takes files away.
            Err(QueryFailure::Internal(_)) if self.readable(stream).is_none() => Err(QueryFailure::Deleting),
            Err(QueryFailure::Internal(reason)) => {
                tracing::error!(%reason, %stream, "a page of a tail failed");
                Err(QueryFailure::Internal(reason))
            }
            // Its turn comes again, as when the workers have too much to do.
            Err(QueryFailure::Memory(MemoryShort::All)) => Err(QueryFailure::Overloaded),
            page => page,
        }
    }

    async fn page(&self, ask: PageAsk, bounds: Bounds) -> Result<Page, QueryFailure> {
        let stream = self.readable(ask.stream).ok_or(QueryFailure::Deleting)?;
        let buffer = Arc::new(self.link.snapshot(stream.home, stream.id).await?);
        let filled = match self.page_from_files(ask, &buffer, &bounds).await? {
            // As for queries: the list may name files that were replaced elsewhere.
            Err(failed) if matches!(failed.0, QueryError::File(_)) && !failed.0.is_of_a_store_that_is_away() => {
                let (error, ask) = *failed;
                tracing::warn!(stream = %stream.id, %error, "a file cannot be read: reading the list of files anew");
                self.lists.forget(stream.id);
                self.page_from_files(ask, &buffer, &bounds).await?
            }
            filled => filled,
        };
        filled.map_err(|failed| failed.0.into())
    }

    /// `Err`: no worker was at it.
    async fn page_from_files(
        &self,
        ask: PageAsk,
        buffer: &Arc<BufferSnapshot>,
        bounds: &Bounds,
    ) -> Result<Filled, QueryFailure> {
        let files = self.files_of(buffer).await?;
        let (cache, buffer, bounds) = (Arc::clone(&self.cache), Arc::clone(buffer), bounds.clone());
        let fill = move || {
            let bounds = bounds.begun(Instant::now());
            let context = QueryContext { cache: &cache, bounds: &bounds };
            match time_range_within(&ask.query(), ask.bytes, &buffer, &files, &context) {
                Ok(answer) => Ok(ask.fill(&buffer, answer)),
                Err(error) => Err(Box::new((error, ask))),
            }
        };
        self.workers.run(fill).await.map_err(not_run)
    }
}
