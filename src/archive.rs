//! The archive of the log: each segment that takes no more frames is copied to the object store before the log lets go of it.
//!
//! A segment is held as long as its copy is not made, so the backlog is bounded by `wal.quota_bytes`; a store that is away for
//! long ends as a full log does. What a lost disk takes with it is then the segment that was being filled, and what had not been
//! copied yet.
//!
//! A log has an id of its own, in the file `LOG` beside its shards' folders: a log that is begun anew never mixes with an older
//! one of the same node. Keys: `wal/{node}/{log}/shard-{shard}/{segment's file}.{bytes}.zst`, each a whole segment, compressed.
//! [`restore`] makes the shards' folders again, and a start reads them as it reads any log: rows that files hold are passed over.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{sync::mpsc, time};
use ttdust_shards::{
    ids::ShardId,
    io::Paced,
    wal::segment::{self, Segment},
};

use crate::{
    calendar::now_unix_micros,
    metrics::ControlMetrics,
    objects::{LIST_MAX, ObjectEntry, ObjectError, Objects},
    workers::{WorkerError, Workers},
};

const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Between looks at what is too old.
const TRIM_PAUSE: Duration = Duration::from_secs(600);
const LEVEL: i32 = 1;
/// Bytes of an object that are read at once.
const FETCH_BYTES: u64 = 4 << 20;
/// The file that holds a log's id.
const LOG_ID: &str = "LOG";

/// Why something was not archived or restored.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The object store does not answer, or holds something else.
    #[error(transparent)]
    Object(#[from] ObjectError),
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
    /// What is asked for cannot be.
    #[error("{0}")]
    Refused(String),
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ArchiveError {
    let path = path.display().to_string();
    move |source| ArchiveError::Io { what: format!("{what} {path}"), source }
}

/// A segment of an archive, by its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Archived {
    shard: ShardId,
    id: u64,
    epoch: Option<u64>,
    bytes: u64,
}

impl Archived {
    /// A segment lies in its shard's folder.
    fn of(segment: &Segment) -> Self {
        let folder = segment.path.parent().and_then(Path::file_name).and_then(|name| name.to_str());
        let shard = folder.and_then(|name| name.strip_prefix("shard-")?.parse().ok());
        let shard = ShardId(shard.expect("a segment's folder is named after its shard"));
        Self { shard, id: segment.id, epoch: segment.epoch, bytes: segment.bytes }
    }

    fn key(self, log: &str) -> String {
        format!("{log}/shard-{:05}/{}.{}.zst", self.shard.0, self.file_name(), self.bytes)
    }

    fn file_name(self) -> String {
        segment::file_name(self.id, self.epoch)
    }

    fn parse(key: &str, log: &str) -> Option<Self> {
        let (shard, name) = key.strip_prefix(log)?.strip_prefix("/shard-")?.split_once('/')?;
        let (name, bytes) = name.strip_suffix(".zst")?.rsplit_once('.')?;
        let (id, epoch) = segment::parse_file_name(Path::new(name))?;
        let parsed = Self { shard: ShardId(shard.parse().ok()?), id, epoch, bytes: bytes.parse().ok()? };
        (parsed.key(log) == key).then_some(parsed)
    }
}

/// What is archived where.
#[derive(Debug)]
pub struct ArchiveParts {
    /// Where copies go.
    pub objects: Objects,
    /// Where it is counted.
    pub metrics: Arc<ControlMetrics>,
    /// The node's name.
    pub node: String,
    /// The folder of the shards' folders.
    pub wal_dir: PathBuf,
    /// Where copies are made before they become objects.
    pub staging_dir: PathBuf,
    /// How long copies are kept.
    pub kept: Duration,
    /// Who does the work.
    pub thread: Workers,
}

/// Where an archiver is told of segments. The log's quota bounds how many wait.
#[derive(Debug, Clone)]
pub struct ArchiveQueue {
    sealed: mpsc::UnboundedSender<Arc<Segment>>,
    metrics: Arc<ControlMetrics>,
}

impl ArchiveQueue {
    /// Copies the segment when its turn comes.
    pub fn give(&self, segment: Arc<Segment>) {
        // The archiver ends with the server alone.
        if self.sealed.send(segment).is_ok() {
            self.metrics.upkeep().archive_backlog(1);
        }
    }
}

/// Copies segments, in the order in which they were sealed.
#[derive(Debug)]
pub struct Archiver {
    parts: ArchiveParts,
    /// `wal/{node}/{log}`.
    log: String,
    sealed: mpsc::UnboundedReceiver<Arc<Segment>>,
    /// Copied, and perhaps still needed by the log.
    copied: BTreeMap<Archived, Weak<Segment>>,
}

impl Archiver {
    /// An archiver, and where it is told of sealed segments. Blocking.
    ///
    /// # Errors
    /// The log's id cannot be read or made.
    pub fn new(parts: ArchiveParts) -> Result<(Self, ArchiveQueue), ArchiveError> {
        let id = log_id(&parts.wal_dir)?;
        let log = format!("wal/{}/{id}", parts.node);
        let (sender, sealed) = mpsc::unbounded_channel();
        let queue = ArchiveQueue { sealed: sender, metrics: Arc::clone(&parts.metrics) };
        Ok((Self { parts, log, sealed, copied: BTreeMap::new() }, queue))
    }

    /// Goes on for as long as the server runs.
    pub async fn run(mut self) {
        let mut pause = PAUSE_MIN;
        let there = loop {
            match self.there().await {
                Ok(there) => break there,
                Err(error) => self.put_off("to list the archive", error, &mut pause).await,
            }
        };
        let mut trim_due = time::Instant::now();
        loop {
            if time::Instant::now() >= trim_due {
                if let Err(error) = self.trim().await {
                    tracing::warn!(%error, "old copies of the log are not removed yet");
                }
                trim_due = time::Instant::now() + TRIM_PAUSE;
            }
            let next = time::timeout_at(trim_due, self.sealed.recv()).await;
            let segment = match next {
                Err(_) => continue,
                Ok(None) => return,
                Ok(Some(segment)) => segment,
            };
            let archived = Archived::of(&segment);
            if !there.contains(&archived) {
                let mut pause = PAUSE_MIN;
                while let Err(error) = self.copy(archived, &segment).await {
                    self.put_off("to copy a segment", error, &mut pause).await;
                }
            }
            self.copied.retain(|_, segment| segment.strong_count() > 0);
            self.copied.insert(archived, Arc::downgrade(&segment));
            self.parts.metrics.upkeep().archive_backlog(-1);
        }
    }

    /// Tells of a failure, and waits for longer each time: what is not done is tried until it is, for the log holds what is not
    /// copied.
    async fn put_off(&self, what: &'static str, error: ArchiveError, pause: &mut Duration) {
        tracing::error!(what, %error, retry_in_ms = pause.as_millis() as u64, "the log is not archived yet");
        self.parts.metrics.upkeep().failed("archive");
        time::sleep(*pause).await;
        *pause = (*pause * 2).min(PAUSE_MAX);
    }

    /// What earlier runs copied of this log.
    async fn there(&self) -> Result<BTreeSet<Archived>, ArchiveError> {
        let listed = list(&self.parts.objects, &format!("{}/", self.log)).await?;
        Ok(listed.iter().filter_map(|object| Archived::parse(&object.key, &self.log)).collect())
    }

    async fn copy(&self, archived: Archived, segment: &Segment) -> Result<(), ArchiveError> {
        let key = archived.key(&self.log);
        let from = segment.path.clone();
        let staged = self.parts.staging_dir.join(format!("archive-{}-{:016x}", archived.shard.0, archived.id));
        let into = staged.clone();
        let (bytes, checksum) = self.parts.thread.run(move || compress(&from, &into)).await??;
        match self.parts.objects.put(&staged, &key, bytes, checksum).await {
            // An object is whole or not there; compressed by another program it differs, and holds the same.
            Ok(()) | Err(ObjectError::Different { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        self.parts.metrics.upkeep().archived(bytes);
        Ok(())
    }

    /// Removes copies that are older than they are to be kept, of this log only those that it has let go of.
    async fn trim(&mut self) -> Result<(), ArchiveError> {
        let kept = i64::try_from(self.parts.kept.as_micros()).unwrap_or(i64::MAX);
        let oldest = now_unix_micros().saturating_sub(kept);
        self.copied.retain(|_, segment| segment.strong_count() > 0);
        for object in list(&self.parts.objects, &format!("wal/{}/", self.parts.node)).await? {
            let needed = Archived::parse(&object.key, &self.log).is_some_and(|key| self.copied.contains_key(&key));
            if object.modified_unix_micros < oldest && !needed {
                self.parts.objects.remove(&object.key).await?;
            }
        }
        Ok(())
    }
}

/// The id of the log in `dir`, made if there is none.
fn log_id(dir: &Path) -> Result<String, ArchiveError> {
    let path = dir.join(LOG_ID);
    match fs::read_to_string(&path) {
        Ok(id) => match uuid::Uuid::try_parse(id.trim()) {
            Ok(id) => return Ok(id.to_string()),
            Err(_) => return Err(ArchiveError::Refused(format!("{} holds no id of a log", path.display()))),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io_error("cannot read", &path)(error)),
    }
    let id = uuid::Uuid::now_v7().to_string();
    write_log_id(dir, &id)?;
    Ok(id)
}

fn write_log_id(dir: &Path, id: &str) -> Result<(), ArchiveError> {
    let (made, path) = (dir.join("LOG.new"), dir.join(LOG_ID));
    let written = File::create(&made).and_then(|mut file| {
        writeln!(file, "{id}")?;
        file.sync_all()
    });
    written
        .and_then(|()| fs::rename(&made, &path))
        .and_then(|()| File::open(dir)?.sync_all())
        .map_err(io_error("cannot write", &path))
}

async fn list(objects: &Objects, prefix: &str) -> Result<Vec<ObjectEntry>, ObjectError> {
    let mut found: Vec<ObjectEntry> = Vec::new();
    loop {
        let page = objects.list(prefix, found.last().map(|last| last.key.as_str()), LIST_MAX).await?;
        let last_page = page.len() < LIST_MAX;
        found.extend(page);
        if last_page {
            return Ok(found);
        }
    }
}

/// Counts and checksums what passes.
struct Summed<W> {
    inner: W,
    bytes: u64,
    checksum: u32,
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buf)?;
        self.bytes += written as u64;
        self.checksum = crc32c::crc32c_append(self.checksum, &buf[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// The length and CRC32C of the compressed copy. Blocking.
fn compress(from: &Path, into: &Path) -> Result<(u64, u32), ArchiveError> {
    let run = || {
        let mut source = File::open(from)?;
        let mut target =
            zstd::Encoder::new(Summed { inner: Paced::new(File::create(into)?), bytes: 0, checksum: 0 }, LEVEL)?;
        io::copy(&mut source, &mut target)?;
        let Summed { inner, bytes, checksum } = target.finish()?;
        inner.sync()?;
        Ok((bytes, checksum))
    };
    run().map_err(io_error("cannot copy the log segment", from))
}

/// What was restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The log.
    pub log: String,
    /// Segments.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Makes the log of a node again in `dir`, which must be empty or missing: the one of this id, or the one that was written to
/// last. It is a log of its own from then on, archived anew, whatever may still be written to the old one.
///
/// # Errors
/// There is none, `dir` is not empty, or the store or the system fails.
pub async fn restore(objects: &Objects, node: &str, log: Option<&str>, dir: &Path) -> Result<Restored, ArchiveError> {
    if fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(ArchiveError::Refused(format!("{} is not empty: nothing was changed", dir.display())));
    }
    let prefix = format!("wal/{node}/");
    let found = list(objects, &prefix).await?;
    let id_of = |object: &ObjectEntry| {
        object.key.strip_prefix(&prefix).and_then(|key| key.split('/').next().map(str::to_owned))
    };
    let newest = found.iter().max_by_key(|object| object.modified_unix_micros).and_then(id_of);
    let log = log.map(str::to_owned).or(newest);
    let Some(log) = log else { return Err(ArchiveError::Refused(format!("no log of {node} is archived"))) };
    let folder = format!("wal/{node}/{log}");
    let mut restored = Restored { log: log.clone(), segments: 0, bytes: 0 };
    for object in &found {
        let Some(archived) = Archived::parse(&object.key, &folder) else { continue };
        fetch(objects, object, archived, dir).await?;
        restored.segments += 1;
        restored.bytes += archived.bytes;
    }
    if restored.segments == 0 {
        return Err(ArchiveError::Refused(format!("no log {log} of {node} is archived")));
    }
    Ok(restored)
}

/// Makes a segment again.
async fn fetch(objects: &Objects, object: &ObjectEntry, archived: Archived, dir: &Path) -> Result<(), ArchiveError> {
    let folder = dir.join(format!("shard-{:05}", archived.shard.0));
    fs::create_dir_all(&folder).map_err(io_error("cannot make", &folder))?;
    let path = folder.join(archived.file_name());
    let failed = || io_error("cannot write", &path);
    let mut target = zstd::stream::write::Decoder::new(File::create(&path).map_err(failed())?).map_err(failed())?;
    let mut at = 0;
    while at < object.bytes {
        let end = object.bytes.min(at + FETCH_BYTES);
        for bytes in objects.read_ranges(&object.key, std::iter::once(at..end).collect()).await? {
            target.write_all(&bytes).map_err(failed())?;
        }
        at = end;
    }
    target.flush().map_err(failed())?;
    let file = target.into_inner();
    file.sync_all().map_err(failed())?;
    let bytes = file.metadata().map_err(failed())?.len();
    if bytes != archived.bytes {
        let message = format!("{} holds {bytes} bytes of a segment of {}", object.key, archived.bytes);
        return Err(ArchiveError::Refused(message));
    }
    File::open(&folder).and_then(|folder| folder.sync_all()).map_err(failed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_says_which_segment_it_is() {
        let archived = Archived { shard: ShardId(3), id: 0x2a, epoch: Some(7), bytes: 1 << 20 };
        let key = archived.key("wal/n/l");
        assert_eq!(key, "wal/n/l/shard-00003/000000000000002a-0000000000000007.wal.1048576.zst");
        assert_eq!(Archived::parse(&key, "wal/n/l"), Some(archived));
        for bad in ["wal/n/l/shard-3/000000000000002a-0000000000000007.wal.1048576.zst", "wal/n/m/x", "wal/n/l/LOG"] {
            assert_eq!(Archived::parse(bad, "wal/n/l"), None, "{bad}");
        }
    }

    #[test]
    fn a_log_keeps_its_id() {
        let dir = tempfile::tempdir().expect("a directory");
        let id = log_id(dir.path()).expect("made");
        assert_eq!(log_id(dir.path()).expect("read"), id);
        fs::write(dir.path().join(LOG_ID), "../x").expect("written");
        assert!(matches!(log_id(dir.path()), Err(ArchiveError::Refused(_))));
    }
}
