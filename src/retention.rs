//! What goes: the first files of streams that are past their retention, and the objects of files that no list names any more.
//!
//! A file goes as a whole and only from the front, so a record lives at least as long as its stream's retention says, and at
//! most a file and a pass longer. By size, the oldest files go until the rest fits; the newest file always stays. A file leaves
//! the list first; its object stays for the grace, longer than the longest query and tail, and is removed then. What is in the
//! log or the buffer is not touched, nor are idempotency keys. Age is told by the clock of this machine: one that runs years ahead
//! takes files with it, once the grace is over.

use std::{sync::Arc, time::Duration};

use crate::{
    calendar::now_unix_micros,
    catalog::{Catalog, CatalogError, FileTotals, Page, Retention, StoredFile, Stream, StreamFilter, StreamStatus},
    file_lists::FileLists,
    metrics::ControlMetrics,
    objects::{ObjectError, Objects},
};

const DAY_MICROS: i64 = 24 * 3_600_000_000;
const STREAMS_A_PAGE: u32 = 500;
const FILES_A_PAGE: u32 = 1000;
const REMOVALS_A_PAGE: u32 = 200;
/// Objects that one call of [`Reaper::pass`] removes at most.
const REMOVALS_A_PASS: usize = 5000;

/// Why a pass was not done to its end. What it did stays done.
#[derive(Debug, thiserror::Error)]
pub enum RetentionError {
    /// The catalog does not answer.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The object store does not.
    #[error(transparent)]
    Object(#[from] ObjectError),
}

/// Drops what is past its retention, once over all streams.
///
/// # Errors
/// See [`RetentionError`].
pub async fn pass(catalog: &Catalog, lists: &FileLists, metrics: &ControlMetrics) -> Result<(), RetentionError> {
    let mut page = Page { after: String::new(), limit: STREAMS_A_PAGE };
    loop {
        let streams = catalog.streams(StreamFilter::default(), page.clone()).await?;
        let Some(last) = streams.last() else { return Ok(()) };
        page.after = last.id.to_string();
        for stream in streams.iter().filter(|stream| stream.status != StreamStatus::Deleting) {
            let Some(through) = expired_through(catalog, stream, now_unix_micros()).await? else { continue };
            let dropped = catalog.drop_files(stream.id, through, now_unix_micros()).await;
            // After an error too: it may have been done.
            lists.forget(stream.id);
            let dropped = dropped?;
            if dropped != FileTotals::default() {
                let FileTotals { files, bytes, rows } = dropped;
                tracing::info!(stream = %stream.id, through, files, bytes, rows, "files are past their retention");
                metrics.upkeep().dropped(files, bytes);
            }
        }
    }
}

/// The last sequence number of the files that are to go; `None`: none are.
async fn expired_through(catalog: &Catalog, stream: &Stream, now: i64) -> Result<Option<i64>, CatalogError> {
    let mut bound = match stream.retention {
        None => return Ok(None),
        Some(Retention::Time { retention_days }) => {
            Bound::Age(now.saturating_sub(i64::from(retention_days).saturating_mul(DAY_MICROS)))
        }
        Some(Retention::Size { max_bytes }) => {
            let over = catalog.file_totals(stream.id).await?.bytes.saturating_sub(max_bytes);
            if over == 0 {
                return Ok(None);
            }
            Bound::Excess(over)
        }
    };
    let (mut after, mut through) = (0, None);
    loop {
        let files = catalog.files_after(stream.id, after, FILES_A_PAGE).await?;
        let last_page = files.len() < FILES_A_PAGE as usize;
        for (at, file) in files.iter().enumerate() {
            let newest = last_page && at + 1 == files.len();
            if !bound.is_past(file, newest) {
                return Ok(through);
            }
            (after, through) = (file.first_sequence, Some(file.last_sequence));
        }
        if last_page {
            return Ok(through);
        }
    }
}

/// Which of a stream's first files are to go.
#[derive(Debug, Clone, Copy)]
enum Bound {
    /// Those with no row at or after this time, Unix µs.
    Age(i64),
    /// Those that make up these bytes.
    Excess(u64),
}

impl Bound {
    /// Whether the next file is to go.
    fn is_past(&mut self, file: &StoredFile, newest: bool) -> bool {
        match self {
            Self::Age(oldest) => file.max_timestamp < *oldest,
            Self::Excess(0) => false,
            Self::Excess(bytes) => {
                *bytes = bytes.saturating_sub(file.bytes);
                !newest
            }
        }
    }
}

/// Removes the objects of retired files once their grace is over.
#[derive(Debug)]
pub struct Reaper {
    /// Where retired files are remembered.
    pub catalog: Catalog,
    /// Where their objects are.
    pub objects: Objects,
    /// Where it is counted.
    pub metrics: Arc<ControlMetrics>,
    /// How long an object stays after its file was retired.
    pub grace: Duration,
}

impl Reaper {
    /// Removes what is due, and says whether there may be more.
    ///
    /// # Errors
    /// See [`RetentionError`].
    pub async fn pass(&self) -> Result<bool, RetentionError> {
        let grace = i64::try_from(self.grace.as_micros()).unwrap_or(i64::MAX);
        for _ in 0..REMOVALS_A_PASS / REMOVALS_A_PAGE as usize {
            let due = self.catalog.retired(now_unix_micros().saturating_sub(grace), REMOVALS_A_PAGE).await?;
            let last_page = due.len() < REMOVALS_A_PAGE as usize;
            let (mut removed, mut failed) = (Vec::new(), None);
            for file in due {
                match self.objects.remove(&file.key).await {
                    Ok(()) => removed.push(file.key),
                    // It is tried again; the others need not wait for it.
                    Err(error) => failed = Some(error),
                }
            }
            if !removed.is_empty() {
                self.metrics.upkeep().removed(removed.len() as u64);
                self.catalog.forget_retired(removed).await?;
            }
            if let Some(error) = failed {
                return Err(error.into());
            }
            if last_page {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use ttdust_shards::parquet::PartitionHour;

    use super::*;

    fn file(max_timestamp: i64, bytes: u64) -> StoredFile {
        StoredFile {
            key: "k".into(),
            hour: PartitionHour(0),
            first_sequence: 1,
            last_sequence: 1,
            min_timestamp: 0,
            max_timestamp,
            bytes,
            checksum: 0,
            level: 0,
        }
    }

    #[test]
    fn a_file_goes_when_its_newest_row_is_past_the_bound() {
        let mut bound = Bound::Age(100);
        assert!(bound.is_past(&file(99, 1), false) && bound.is_past(&file(99, 1), true));
        assert!(!bound.is_past(&file(100, 1), false));
    }

    #[test]
    fn files_go_until_the_rest_fits_but_never_the_newest() {
        let mut bound = Bound::Excess(25);
        let gone = [10, 10, 10, 10].map(|bytes| bound.is_past(&file(0, bytes), false));
        assert_eq!(gone, [true, true, true, false]);
        assert!(!Bound::Excess(5).is_past(&file(0, 10), true));
    }
}
