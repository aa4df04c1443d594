//! From a shard's staged files to committed ones: put each object, verify it, commit all in the catalog, tell the shard.
//!
//! What the stream's pipeline could make nothing of is a dead letter by then. The order is what makes a crash at any edge harmless: until the commit, the log holds the rows, and the object that a crash
//! left is an orphan; the first flush of the stream afterwards begins with the same row, and takes the orphan away. After the
//! commit, the same commit again is no change. Only then may the shard let
//! go of the rows. What fails is tried again for as long as the process runs.

mod takeover;

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{task::spawn_blocking, time};
use ttdust_shards::{
    ids::{ShardId, StreamId},
    message::ToShard,
    parquet::FileMeta,
    pipeline::rows::DeadLetter,
};

use crate::{
    calendar::now_unix_micros,
    catalog::{Catalog, CatalogError, Commit, StoredFile},
    dead_letters::{DeadLetters, UndeliveredError},
    file_lists::FileLists,
    link::ShardLink,
    metrics::ControlMetrics,
    objects::{ObjectError, Objects, hour_of, key_of},
    traces::{self, Traces},
};

pub use takeover::{Takeover, TakeoverPending};

const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Files that begin with one row: a crash leaves one, and a run begins after each.
const ORPHANS_MAX: usize = 1000;

/// Why a flush is not committed.
#[derive(Debug, thiserror::Error)]
enum FlushError {
    #[error(transparent)]
    Object(#[from] ObjectError),
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error(transparent)]
    DeadLetters(#[from] UndeliveredError),
}

/// What a shard has written.
#[derive(Debug)]
pub struct Flush {
    /// The shard.
    pub shard: ShardId,
    /// The stream.
    pub stream: StreamId,
    /// The files, one an hour, oldest first.
    pub files: Vec<FileMeta>,
    /// The last sequence number that they hold.
    pub through: i64,
    /// Records that are in none of them.
    pub dead: Vec<DeadLetter>,
    /// When the shard's flusher began with them, and when it was done.
    pub written: (Instant, Instant),
}

/// Commits flushes.
#[derive(Debug, Clone)]
pub struct Flusher {
    catalog: Catalog,
    objects: Objects,
    lists: Arc<FileLists>,
    metrics: Arc<ControlMetrics>,
    takeover: Takeover,
    dead_letters: DeadLetters,
    traces: Traces,
    /// Streams of which this run has committed files: an earlier run's orphans of theirs are gone.
    swept: Arc<Mutex<HashSet<StreamId>>>,
}

impl Flusher {
    /// From these parts.
    #[must_use]
    pub fn new(
        catalog: Catalog,
        objects: Objects,
        lists: Arc<FileLists>,
        metrics: Arc<ControlMetrics>,
        takeover: Takeover,
        (dead_letters, traces): (DeadLetters, Traces),
    ) -> Self {
        Self { catalog, objects, lists, metrics, takeover, dead_letters, traces, swept: Arc::default() }
    }

    /// Commits a flush and tells the shard.
    pub async fn flush(&self, link: &ShardLink, flush: Flush) {
        let mut span = self.traces.own_work("flush");
        span.since(flush.written.0);
        span.note("ttdust.stream.id", flush.stream);
        span.note("ttdust.shard", flush.shard.0);
        span.note("ttdust.sequence.first", flush.files[0].first_sequence);
        span.note("ttdust.sequence.last", flush.through);
        span.note("ttdust.flush.rows", flush.files.iter().map(|file| file.rows).sum::<u64>());
        span.note("ttdust.flush.bytes", flush.files.iter().map(|file| file.bytes).sum::<u64>());
        span.note("ttdust.flush.dead_letters", flush.dead.len());
        drop(span.child("write").at(flush.written));
        if let Err(reason) = span.scope(self.flush_staged(link, flush)).await {
            span.fail(reason);
        }
    }

    /// `Err`: the rows are written anew.
    async fn flush_staged(&self, link: &ShardLink, flush: Flush) -> Result<(), String> {
        let Flush { shard, stream, files, through, dead, .. } = flush;
        // Rows that an earlier run committed are not committed anew.
        if let Some(end) = self.takeover.committed_before(stream, files[0].first_sequence).await {
            tracing::info!(%stream, through, end, "rows of a flush are in files already");
            discard_staged(files).await;
            self.tell(link, shard, stream, ToShard::Flushed(stream, end.min(through))).await;
            return Ok(());
        }
        let committed = self.commit_with_patience(stream, &files, &dead).await;
        let message = match &committed {
            Ok(()) => ToShard::Flushed(stream, through),
            Err(reason) => {
                tracing::warn!(%stream, through, %reason, "staged rows are lost; they are written anew from the log");
                ToShard::FlushFailed(stream)
            }
        };
        self.tell(link, shard, stream, message).await;
        committed
    }

    async fn tell(&self, link: &ShardLink, shard: ShardId, stream: StreamId, message: ToShard) {
        if let Err(gone) = link.deliver(shard, message).await {
            tracing::warn!(%stream, %gone, "nobody is left to hear of a flush");
        }
    }

    /// Tries until it is done; `Err` only when the staged files cannot be used, whatever one does.
    async fn commit_with_patience(
        &self,
        stream: StreamId,
        files: &[FileMeta],
        mut dead: &[DeadLetter],
    ) -> Result<(), String> {
        let mut pause = PAUSE_MIN;
        loop {
            match self.commit(stream, files, &mut dead).await {
                Ok(()) => return Ok(()),
                Err(FlushError::Object(lost @ ObjectError::StagedLost { .. })) => return Err(lost.to_string()),
                Err(error) => {
                    self.metrics.flush_retried();
                    tracing::error!(%stream, %error, retry_in_ms = pause.as_millis() as u64, "cannot commit a flush");
                }
            }
            time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn commit(&self, stream: StreamId, files: &[FileMeta], dead: &mut &[DeadLetter]) -> Result<(), FlushError> {
        if !self.swept.lock().unwrap_or_else(PoisonError::into_inner).contains(&stream) {
            self.remove_orphans(&files[0]).await?;
            self.swept.lock().unwrap_or_else(PoisonError::into_inner).insert(stream);
        }
        for file in files {
            let mut span = traces::child("upload");
            span.note("ttdust.object.bytes", file.bytes);
            let put = span.scope(self.put(file)).await;
            span.note_end(&put);
            put?;
        }
        // As late as can be: the log must remember their keys until the commit. Once they are there, a commit that is tried
        // again leaves them alone.
        traces::child("dead_letters").scope(self.dead_letters.deliver(stream, dead)).await?;
        *dead = &[];
        let stored: Vec<_> = files.iter().map(stored).collect();
        let keys: Vec<_> = stored.iter().map(|file| file.key.clone()).collect();
        let bytes = stored.iter().map(|file| file.bytes).sum();
        match self.catalog.commit_files(stream, stored.clone(), now_unix_micros()).await? {
            Commit::Done => {
                // Before the shard lets go of the rows: from then on queries look for them there.
                self.lists.committed(stream, &stored);
                self.metrics.files_committed(files.len() as u64, bytes);
            }
            Commit::StreamGone => self.discard(stream, keys).await?,
        }
        Ok(())
    }

    async fn put(&self, file: &FileMeta) -> Result<(), FlushError> {
        let key = key_of(file);
        let different = match self.objects.put(&file.path, &key, file.bytes, file.checksum).await {
            Err(different @ ObjectError::Different { .. }) => different,
            outcome => return Ok(outcome?),
        };
        if self.catalog.holds_file(key.clone()).await? {
            return Err(different.into());
        }
        // A crash between put and commit left it; the same rows came back from the log and were written again, with a
        // newer schema, say. Nobody can have read it.
        tracing::warn!(%key, "replacing an object that was never committed");
        Ok(self.objects.replace(&file.path, &key, file.bytes, file.checksum).await?)
    }

    /// Removes what a crash between put and commit left: it begins with the row that `next` begins with and lies in the same
    /// hour, but it may end elsewhere. A stream has one flush under way at a time, so it is nobody's.
    async fn remove_orphans(&self, next: &FileMeta) -> Result<(), FlushError> {
        let folder = format!("{}/", hour_of(next.stream, next.hour));
        let from = format!("{folder}{:020}", next.first_sequence);
        let own = key_of(next);
        for found in self.objects.list(&from, None, ORPHANS_MAX).await? {
            if found.key != own && !self.catalog.holds_file(found.key.clone()).await? {
                tracing::warn!(key = %found.key, "removing an object that was never committed");
                self.objects.remove(&found.key).await?;
            }
        }
        Ok(())
    }

    /// The stream was deleted while its rows were flushed: what this flush put goes again, and nothing else does.
    async fn discard(&self, stream: StreamId, keys: Vec<String>) -> Result<(), FlushError> {
        tracing::info!(%stream, files = keys.len(), "discarding a flush of a deleted stream");
        for key in &keys {
            self.objects.remove(key).await?;
        }
        Ok(())
    }
}

/// What stays behind, the next start removes.
async fn discard_staged(files: Vec<FileMeta>) {
    let remove = move || files.iter().try_for_each(|file| std::fs::remove_file(&file.path));
    if let Ok(Err(error)) = spawn_blocking(remove).await {
        tracing::warn!(%error, "cannot remove a staged file");
    }
}

fn stored(file: &FileMeta) -> StoredFile {
    StoredFile {
        key: key_of(file),
        hour: file.hour,
        first_sequence: file.first_sequence,
        last_sequence: file.last_sequence,
        min_timestamp: file.min_timestamp,
        max_timestamp: file.max_timestamp,
        bytes: file.bytes,
        checksum: file.checksum,
        level: 0,
    }
}
