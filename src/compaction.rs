//! Small files of an hour become larger ones, one merge at a time, on a thread of low priority.
//!
//! A merge reads files that are committed, checks each against the catalog's checksum, writes one file with the same rows, reads
//! that back, and only then puts it into the place of the others in one step of the catalog. They stay where they are for as
//! long as someone may still read them; see `retention`. Cut short anywhere, it is begun anew: the same files give the same
//! bytes under the same key.
//!
//! In an hour that goes on, files of flushes are merged when there are enough of them; when the hour is over, all that is small
//! in it, for good. So a row is rewritten about twice, however many flushes there were.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use ttdust_shards::{
    io::Paced,
    parquet::{
        FileMeta, ParquetFileError,
        merge::{self, FileFooter, MergeJob, Merged},
        source::FileSource,
    },
    pipeline::UnknownPipeline,
    record::keys::KeyField,
    threads::{Turns, give_way},
};

use crate::{
    calendar::now_unix_micros,
    catalog::{Catalog, CatalogError, Commit, StoredFile, StreamHour},
    file_lists::FileLists,
    metrics::ControlMetrics,
    objects::{ObjectError, Objects, merged_key_of},
    traces::{self, Traces},
    workers::{WorkerError, Workers},
};

/// How much nicer than all others a merge is: it takes what they leave of the cores.
const NICE: i32 = 15;
/// Rows of a merged file at most, whatever its bytes: its key index is made in memory.
const ROWS_MAX: u64 = 4_000_000;
/// Files of one merge at most.
const FILES_MAX: usize = 256;
/// Merges of one pass at most: other work gets its turn.
const MERGES_A_PASS: usize = 16;
/// Hours that one look into the catalog finds.
const HOURS_A_PAGE: u32 = 100;
/// How long an hour is left alone whose files could not be merged.
const FAILED_PAUSE: Duration = Duration::from_secs(600);
/// Such hours that are remembered at most; past it all are tried again.
const FAILED_MAX: usize = 1000;
/// Bytes of an object that are read at once.
const FETCH_BYTES: u64 = 4 << 20;

/// When files are merged.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// How large a merged file is to be, about.
    pub target_bytes: u64,
    /// How many files of flushes make a merge in an hour that goes on.
    pub files_min: usize,
    /// How old a file's newest row must be.
    pub age_min: Duration,
}

impl Policy {
    /// A file of this many bytes is large enough as it is.
    fn large(&self) -> u64 {
        (self.target_bytes / 2).max(1)
    }

    fn age_micros(&self) -> i64 {
        i64::try_from(self.age_min.as_micros()).unwrap_or(i64::MAX)
    }
}

/// Why a merge was not done.
#[derive(Debug, thiserror::Error)]
pub enum CompactionError {
    /// The catalog does not answer, or refuses.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The object store does not.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] ParquetFileError),
    /// Its rows are of a version of the stream's pipeline that is not known.
    #[error(transparent)]
    Pipeline(#[from] UnknownPipeline),
    /// An object is not what was committed.
    #[error("{key} is not what was committed: it has {bytes} bytes with CRC32C {checksum:08x}")]
    Damaged {
        /// Its key.
        key: String,
        /// How long it is.
        bytes: u64,
        /// Its checksum.
        checksum: u32,
    },
    /// The system failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The thread failed.
    #[error(transparent)]
    Worker(#[from] WorkerError),
}

impl CompactionError {
    /// Whether it says nothing of the files: the catalog or the store cannot be used now, for these or for others.
    fn is_of_a_part_that_is_away(&self) -> bool {
        match self {
            Self::Catalog(error) => matches!(error, CatalogError::Unavailable(_)),
            Self::Object(error) => matches!(error, ObjectError::Unavailable { .. } | ObjectError::Denied { .. }),
            Self::File(error) => error.is_of_a_store_that_is_away(),
            Self::Io { source, .. } => {
                use io::ErrorKind::{HostUnreachable, PermissionDenied, TimedOut};
                matches!(source.kind(), HostUnreachable | PermissionDenied | TimedOut)
            }
            Self::Damaged { .. } | Self::Pipeline(_) | Self::Worker(_) => false,
        }
    }
}

/// How a merge ended, if it did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Done,
    /// The files were changed meanwhile, or the stream is going.
    Overtaken,
}

/// Merges files.
#[derive(Debug)]
pub struct Compactor {
    catalog: Catalog,
    objects: Objects,
    lists: Arc<FileLists>,
    metrics: Arc<ControlMetrics>,
    policy: Policy,
    /// Under the staging directory: what is left there, the next start removes.
    dir: PathBuf,
    thread: Workers,
    traces: Traces,
    /// Where the last pass ended.
    after: Option<StreamHour>,
    /// Hours whose files could not be merged, and when.
    failed: HashMap<StreamHour, Instant>,
}

impl Compactor {
    /// From these parts; it writes files in `dir` before they become objects, and works on `thread`.
    #[must_use]
    pub fn new(
        catalog: Catalog,
        objects: Objects,
        lists: Arc<FileLists>,
        metrics: Arc<ControlMetrics>,
        policy: Policy,
        dir: PathBuf,
        (thread, traces): (Workers, Traces),
    ) -> Self {
        Self { catalog, objects, lists, metrics, policy, dir, thread, traces, after: None, failed: HashMap::new() }
    }

    /// Merges some of what can be merged, and says whether there may be more to do at once. A merge that fails for what its
    /// files are is left alone for a while, and the others are done.
    ///
    /// # Errors
    /// The catalog or the store is away: no merge can be done now.
    pub async fn pass(&mut self) -> Result<bool, CompactionError> {
        let mut merges = 0;
        loop {
            let hours = self.catalog.hours_to_merge(self.policy.large(), self.after, HOURS_A_PAGE).await?;
            if hours.is_empty() {
                self.after = None;
                return Ok(false);
            }
            self.failed.retain(|_, since| since.elapsed() < FAILED_PAUSE);
            for hour in hours {
                if self.failed.contains_key(&hour) {
                    self.after = Some(hour);
                    continue;
                }
                let files = self.catalog.files_of_hour(hour).await?;
                for group in plan(&files, hour, now_unix_micros(), self.policy) {
                    self.merge_and_count(hour, group).await?;
                    merges += 1;
                }
                self.after = Some(hour);
                if merges >= MERGES_A_PASS {
                    return Ok(true);
                }
            }
        }
    }

    async fn merge_and_count(&mut self, hour: StreamHour, group: Vec<StoredFile>) -> Result<(), CompactionError> {
        let (stream, files) = (hour.stream, group.len());
        let read: u64 = group.iter().map(|file| file.bytes).sum();
        let started = Instant::now();
        let mut span = self.traces.own_work("compaction");
        span.note("ttdust.stream.id", stream);
        span.note("ttdust.compaction.files", files);
        span.note("ttdust.compaction.bytes_read", read);
        let merged = span.scope(self.merge(hour, group)).await;
        span.note_end(&merged);
        let outcome = match merged {
            Ok((Outcome::Done, merged)) => {
                span.note("ttdust.compaction.bytes_written", merged.bytes);
                tracing::debug!(%stream, files, read, written = merged.bytes, "files merged");
                self.metrics.upkeep().compacted(files as u64, read, merged.bytes);
                "ok"
            }
            Ok((Outcome::Overtaken, _)) => "overtaken",
            Err(error) if error.is_of_a_part_that_is_away() => {
                self.metrics.upkeep().compaction_done("put_off", started.elapsed());
                return Err(error);
            }
            Err(error) => {
                tracing::error!(%stream, hour = hour.hour.0, files, %error, "files cannot be merged");
                if self.failed.len() >= FAILED_MAX {
                    self.failed.clear();
                }
                self.failed.insert(hour, Instant::now());
                "error"
            }
        };
        self.metrics.upkeep().compaction_done(outcome, started.elapsed());
        Ok(())
    }

    async fn merge(&self, hour: StreamHour, group: Vec<StoredFile>) -> Result<(Outcome, StoredFile), CompactionError> {
        let (first, last) = (group[0].first_sequence, group[group.len() - 1].last_sequence);
        let scratch = self.dir.join(format!("merge-{}-{first:020}-{last:020}", hour.stream));
        let merged = self.merge_in(&scratch, hour, &group).await;
        let outcome = match merged {
            Ok(merged) => self.put_in_place(hour, &group, &merged.file).await,
            Err(error) => Err(error),
        };
        let removed = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(&scratch)).await;
        if let Ok(Err(error)) = removed {
            tracing::warn!(%error, "a merge's own files stay until the next start");
        }
        outcome
    }

    /// Makes the merged file in a directory of its own.
    async fn merge_in(&self, dir: &Path, hour: StreamHour, group: &[StoredFile]) -> Result<Merged, CompactionError> {
        let stream = self.catalog.stream(hour.stream).await?;
        let sources: Vec<_> =
            group.iter().map(|file| (self.objects.source(&file.key, file.bytes), file.clone())).collect();
        let into = dir.to_owned();
        let inputs = traces::child("fetch").scope(self.thread.run(move || fetch_all(&into, &sources))).await??;
        let newest = inputs.iter().map(|(_, footer)| footer).max_by_key(|footer| footer.schema_version);
        let newest = newest.expect("a merge has inputs");
        let version = self.catalog.version(newest.schema, newest.schema_version).await?;
        // Of the pipeline the newest is the last, for none at all may have followed one.
        let pipeline = inputs.last().map_or(0, |(_, footer)| footer.pipeline_version);
        let pipeline = (pipeline > 0).then(|| stream.pipelines.for_shards().get(pipeline)).transpose()?;
        let job = MergeJob {
            stream: hour.stream,
            hour: hour.hour,
            schema: version.schema,
            schema_version: version.version,
            definition: version.definition.into(),
            pipeline,
            key_fields: stream.key_fields.iter().map(|field| KeyField::new(field)).collect(),
            path: dir.join("merged.parquet"),
            inputs: inputs.into_iter().map(|(path, _)| path).collect(),
        };
        Ok(traces::child("merge").scope(self.thread.run(move || merge::merge(&job))).await??)
    }

    async fn put_in_place(
        &self,
        hour: StreamHour,
        group: &[StoredFile],
        merged: &FileMeta,
    ) -> Result<(Outcome, StoredFile), CompactionError> {
        let new = stored(group, merged, is_over(hour, now_unix_micros(), self.policy));
        let mut span = traces::child("upload");
        span.note("ttdust.object.bytes", new.bytes);
        let put = span.scope(self.objects.put(&merged.path, &new.key, new.bytes, new.checksum)).await;
        span.note_end(&put);
        drop(span);
        match put {
            // The key says what it holds, so this is a damaged one, and nobody has read it.
            Err(ObjectError::Different { .. }) if !self.catalog.holds_file(new.key.clone()).await? => {
                self.objects.replace(&merged.path, &new.key, new.bytes, new.checksum).await?;
            }
            put => put?,
        }
        let old = group.iter().map(|file| file.key.clone()).collect();
        let replaced = self.catalog.replace_files(hour.stream, old, new.clone(), now_unix_micros()).await;
        // After an error too: it may have been done.
        self.lists.forget(hour.stream);
        match replaced {
            Ok(Commit::Done) => Ok((Outcome::Done, new)),
            Ok(Commit::StreamGone) => {
                self.objects.remove(&new.key).await?;
                Ok((Outcome::Overtaken, new))
            }
            // Another node was first, or retention. The object is an orphan now, if it is not that node's as well.
            Err(CatalogError::Conflict(reason)) => {
                tracing::info!(stream = %hour.stream, %reason, "a merge was overtaken");
                Ok((Outcome::Overtaken, new))
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether no more rows come to the hour.
fn is_over(hour: StreamHour, now: i64, policy: Policy) -> bool {
    let end = (hour.hour.0 + 1).saturating_mul(StreamHour::MICROS);
    now >= end.saturating_add(policy.age_micros())
}

/// Which of an hour's files, given in order, are to be merged with which. What it gives are neighbours, and fewer, larger files
/// come of it, so that it comes to an end.
fn plan(files: &[StoredFile], hour: StreamHour, now: i64, policy: Policy) -> Vec<Vec<StoredFile>> {
    let over = is_over(hour, now, policy);
    let old = now.saturating_sub(policy.age_micros());
    let wanted =
        |file: &StoredFile| file.bytes < policy.large() && file.max_timestamp <= old && (over || file.level == 0);
    let most = policy.target_bytes.saturating_add(policy.target_bytes / 4);
    let least = if over { 2 } else { policy.files_min.max(2) };
    let mut groups = Vec::new();
    for run in files.chunk_by(|a, b| wanted(a) && wanted(b) && a.last_sequence + 1 == b.first_sequence) {
        let mut group: Vec<StoredFile> = Vec::new();
        let (mut bytes, mut rows) = (0, 0);
        for file in run {
            if bytes + file.bytes > most || rows + file.rows() > ROWS_MAX || group.len() == FILES_MAX {
                // It is as large as it can get: there is nothing to wait for.
                groups.extend(Some(std::mem::take(&mut group)).filter(|group| group.len() >= 2));
                (bytes, rows) = (0, 0);
            }
            (bytes, rows) = (bytes + file.bytes, rows + file.rows());
            group.push(file.clone());
        }
        groups.extend(Some(group).filter(|group| group.len() >= least));
    }
    groups
}

/// The merged file as the catalog is to know it.
fn stored(group: &[StoredFile], merged: &FileMeta, over: bool) -> StoredFile {
    let level = group.iter().map(|file| file.level).max().unwrap_or(0) + 1;
    let level = if over { level.max(StoredFile::LEVEL_SETTLED) } else { level };
    StoredFile {
        key: merged_key_of(merged, level),
        hour: merged.hour,
        first_sequence: merged.first_sequence,
        last_sequence: merged.last_sequence,
        // Those of the records that they stand for, be they in them or not.
        min_timestamp: group[0].min_timestamp,
        max_timestamp: group[group.len() - 1].max_timestamp,
        bytes: merged.bytes,
        checksum: merged.checksum,
        level,
    }
}

/// The files on this machine, each as it was committed, with their footers. Blocking.
fn fetch_all(dir: &Path, sources: &[(FileSource, StoredFile)]) -> Result<Vec<(PathBuf, FileFooter)>, CompactionError> {
    give_way(NICE, Turns::Long);
    let io = |source| CompactionError::Io { what: format!("cannot make {}", dir.display()), source };
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
        _ => std::fs::create_dir_all(dir).map_err(io)?,
    }
    let fetched = sources.iter().enumerate().map(|(at, (source, file))| {
        let path = fetch(source, file, &dir.join(format!("{at}.parquet")))?;
        let footer = merge::footer(&path)?;
        Ok((path, footer))
    });
    fetched.collect()
}

/// The file on this machine: where it lies, or a copy at `copy`.
fn fetch(source: &FileSource, file: &StoredFile, copy: &Path) -> Result<PathBuf, CompactionError> {
    let failed = |source| CompactionError::Io { what: format!("cannot read {}", file.key), source };
    let (path, mut out) = match source {
        FileSource::Local(path) => (path.clone(), None),
        FileSource::Object { .. } => (copy.to_owned(), Some(Paced::new(std::fs::File::create(copy).map_err(failed)?))),
    };
    let open = source.open().map_err(failed)?;
    let (mut at, mut checksum) = (0, 0);
    while at < file.bytes {
        let end = file.bytes.min(at + FETCH_BYTES);
        for bytes in open.read_ranges(std::slice::from_ref(&(at..end))).map_err(failed)? {
            checksum = crc32c::crc32c_append(checksum, &bytes);
            if let Some(out) = &mut out {
                io::Write::write_all(out, &bytes).map_err(failed)?;
            }
        }
        at = end;
    }
    if checksum != file.checksum {
        return Err(CompactionError::Damaged { key: file.key.clone(), bytes: at, checksum });
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use ttdust_shards::{ids::StreamId, parquet::PartitionHour};

    use super::*;

    const POLICY: Policy = Policy { target_bytes: 100, files_min: 4, age_min: Duration::from_secs(1) };
    const SECOND: i64 = 1_000_000;

    /// Files of these bytes and levels, ten rows and a second each.
    fn files(of: &[(u64, u32)]) -> Vec<StoredFile> {
        let file = |(at, &(bytes, level)): (usize, &(u64, u32))| {
            let at = at as i64;
            StoredFile {
                key: format!("{at}"),
                hour: PartitionHour(0),
                first_sequence: at * 10 + 1,
                last_sequence: at * 10 + 10,
                min_timestamp: at * SECOND,
                max_timestamp: (at + 1) * SECOND - 1,
                bytes,
                checksum: 0,
                level,
            }
        };
        of.iter().enumerate().map(file).collect()
    }

    fn planned(of: &[(u64, u32)], now: i64) -> Vec<Vec<i64>> {
        let hour = StreamHour { stream: StreamId::generate(), hour: PartitionHour(0) };
        let groups = plan(&files(of), hour, now, POLICY);
        groups.iter().map(|group| group.iter().map(|file| file.first_sequence / 10).collect()).collect()
    }

    #[test]
    fn an_hour_that_goes_on_is_merged_when_there_are_enough_old_files_of_flushes() {
        let flushes = [(10, 0); 6];
        assert_eq!(planned(&flushes, 4 * SECOND), [[0; 0]; 0], "three are old enough");
        assert_eq!(planned(&flushes, 5 * SECOND), [[0, 1, 2, 3]]);
        assert_eq!(planned(&flushes, 60 * SECOND), [[0, 1, 2, 3, 4, 5]]);
        assert_eq!(planned(&[(40, 1), (10, 0), (10, 0), (10, 0)], 60 * SECOND), [[0; 0]; 0]);
        assert_eq!(planned(&[(40, 1), (10, 0), (10, 0), (10, 0), (10, 0)], 60 * SECOND), [[1, 2, 3, 4]]);
        assert_eq!(planned(&[(10, 0), (10, 0), (50, 0), (10, 0), (10, 0)], 60 * SECOND), [[0; 0]; 0]);
        // Large enough before there are enough.
        assert_eq!(planned(&[(49, 0), (49, 0), (49, 0)], 60 * SECOND), [[0, 1]]);
    }

    #[test]
    fn an_hour_that_is_over_is_merged_for_good() {
        let over = 3602 * SECOND;
        assert_eq!(planned(&[(10, 0), (40, 1), (10, 0)], over), [[0, 1, 2]]);
        assert_eq!(planned(&[(10, 0), (60, 1), (10, 0)], over), [[0; 0]; 0]);
        assert_eq!(
            planned(&[(49, 1), (49, 1), (49, 1), (49, 1), (60, 2), (1, 0), (1, 0)], over),
            [vec![0, 1], vec![2, 3], vec![5, 6]]
        );
        assert_eq!(planned(&[(10, 0)], over), [[0; 0]; 0]);
        assert_eq!(planned(&[], over), [[0; 0]; 0]);
    }

    #[test]
    fn a_gap_is_not_bridged() {
        let mut files = files(&[(10, 0); 8]);
        files.remove(4);
        let hour = StreamHour { stream: StreamId::generate(), hour: PartitionHour(0) };
        let groups = plan(&files, hour, 60 * SECOND, POLICY);
        assert_eq!(groups.len(), 1);
        assert_eq!(groups[0].last().map(|file| file.last_sequence), Some(40));
    }

    #[test]
    fn a_merged_file_has_its_own_key_and_a_higher_level() {
        let group = files(&[(10, 0), (40, 1)]);
        let merged = FileMeta {
            stream: StreamId::generate(),
            hour: PartitionHour(0),
            path: PathBuf::new(),
            first_sequence: 1,
            last_sequence: 20,
            rows: 20,
            min_timestamp: 0,
            max_timestamp: 2 * SECOND - 1,
            bytes: 45,
            checksum: 0xabc,
        };
        let (open, over) = (stored(&group, &merged, false), stored(&group[..1], &merged, true));
        assert_eq!((open.level, over.level), (2, 2));
        assert_eq!(stored(&group[..1], &merged, false).level, 1);
        assert!(open.key.ends_with("-00000000000000000020.m2-00000abc.v1.parquet"), "{}", open.key);
    }
}
