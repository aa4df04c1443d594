//! A shard's helper threads, for what may block: the flusher writes Parquet, the preparer makes log segments, the reader looks
//! up idempotency keys in files, the keeper writes and removes those files, the merger merges them.
//!
//! All are started by the shard's thread. The reader, for whom a submission waits, runs on the shard's core. The flusher, the
//! preparer, the keeper and the merger run at lower priority, and wherever there is room: on what the shard leaves of its core, or
//! on cores of the control plane. Beside a shard under full load a flusher that may go elsewhere writes about a third more.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use tokio::sync::mpsc;

use crate::{
    dedup::jobs::{KeyDone, KeyJob, KeyQuestion},
    ids::{ShardId, StreamId},
    io::Disk,
    mailbox::MailboxSender,
    message::{ToControl, ToShard},
    metrics::ShardMetrics,
    parquet::{self, Processed, WriteJob, Written},
    threads::{Turns, give_way, pin},
    wal::segment::{self, ReleasedSegment, SegmentRequest},
};

/// How nice a thread is that works through something which its shard may soon wait for.
const NICE: i32 = 5;
/// And one whose work is for later. Where a core is busy all the time it has a tenth of it: less would let a log fill up beside any
/// other program that computes, and a shard whose log is half full makes room for it ([`crate::shard::Shard::commit_pause`]).
const FLUSHER_NICE: i32 = 10;

/// Makes the calling thread one that gives way, on any of `cores` (empty: where it is).
fn roam(cores: &[usize], nice: i32, turns: Turns) {
    give_way(nice, turns);
    if let Err(error) = pin(cores) {
        tracing::warn!(?cores, %error, "a background thread stays on its shard's core");
    }
}

/// Rows to write, and how far they go.
#[derive(Debug)]
pub struct FlushJob {
    /// The file.
    pub job: WriteJob,
    /// The last sequence number in it.
    pub through: i64,
}

/// What the preparer does.
#[derive(Debug)]
pub enum DiskJob {
    /// Make a segment and send it as [`ToShard::Segment`].
    Prepare(SegmentRequest),
    /// Remove a segment that nothing needs.
    Remove(ReleasedSegment),
}

/// A helper thread and the way to it. It ends, and is waited for, when this is dropped.
#[derive(Debug)]
pub struct Helper<J> {
    jobs: Option<Sender<J>>,
    thread: Option<JoinHandle<()>>,
    /// Nobody empties the shard's queue any more.
    ending: Arc<AtomicBool>,
}

impl<J> Helper<J> {
    /// Gives it a job.
    ///
    /// # Errors
    /// The job, when its queue is full or its thread has panicked.
    pub fn give(&self, job: J) -> Result<(), J> {
        self.jobs.as_ref().expect("open until the drop").try_send(job).map_err(TrySendError::into_inner)
    }
}

impl<J> Drop for Helper<J> {
    fn drop(&mut self) {
        self.jobs = None;
        self.ending.store(true, Ordering::Relaxed);
        // A panic on the thread was reported there, and the shard finds the queue closed.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Starts a shard's flusher, on any of `cores` (empty: on the caller's).
///
/// # Errors
/// No thread can be made.
pub fn start_flusher(
    shard: ShardId,
    cores: Vec<usize>,
    mailbox: MailboxSender,
    to_control: mpsc::Sender<ToControl>,
    metrics: Arc<ShardMetrics>,
) -> io::Result<Helper<FlushJob>> {
    let (sender, jobs) = bounded::<FlushJob>(1);
    let ending = Arc::new(AtomicBool::new(false));
    let is_ending = Arc::clone(&ending);
    let thread = std::thread::Builder::new().name(format!("flush-{shard}")).spawn(move || {
        roam(&cores, FLUSHER_NICE, Turns::Long);
        while let Ok(FlushJob { job, through }) = jobs.recv() {
            let started = std::time::Instant::now();
            metrics.flush_busy.set(1);
            let written = write(&job);
            metrics.flush_busy.set(0);
            match written {
                Ok(Written { file, dead, processed }) => {
                    let ended = std::time::Instant::now();
                    let micros = ended.duration_since(started).as_micros() as u64;
                    metrics.flush_latency.observe(micros);
                    count_processed(&metrics, processed, micros);
                    tracing::debug!(%shard, stream = %job.stream, rows = file.rows, bytes = file.bytes, "file written");
                    let (stream, written) = (job.stream, (started, ended));
                    let ready = ToControl::FilesReady { shard, stream, files: vec![file], through, dead, written };
                    // Control is gone: the process ends, and the log keeps the rows.
                    let _ = to_control.blocking_send(ready);
                }
                Err(reason) => {
                    tracing::error!(%shard, stream = %job.stream, %reason, "flush failed: trying again");
                    metrics.flush_failures.add(1);
                    send_until_taken(&mailbox, ToShard::FlushFailed(job.stream), &is_ending);
                }
            }
        }
    })?;
    Ok(Helper { jobs: Some(sender), thread: Some(thread), ending })
}

fn count_processed(metrics: &ShardMetrics, processed: Processed, micros: u64) {
    if processed.records == 0 {
        return;
    }
    metrics.processing_records.add(processed.records);
    metrics.processing_dropped.add(processed.dropped);
    metrics.processing_errors.add(processed.failed);
    metrics.processing_latency.observe(micros);
}

/// A panic fails one flush, which is tried again and seen in the metrics; a thread that died of it would let the log fill up.
fn write(job: &WriteJob) -> Result<Written, String> {
    match catch_unwind(AssertUnwindSafe(|| parquet::flush(job))) {
        Ok(written) => written.map_err(|error| error.to_string()),
        Err(_) => Err("the flusher panicked; the log says where".to_owned()),
    }
}

fn send_until_taken(mailbox: &MailboxSender, mut message: ToShard, is_ending: &AtomicBool) {
    while let Err(refused) = mailbox.send(message) {
        if is_ending.load(Ordering::Relaxed) {
            return;
        }
        message = refused;
        std::thread::yield_now();
    }
}

/// Starts a shard's preparer for the log in `dir`, on any of `cores` (empty: on the caller's).
///
/// # Errors
/// No thread can be made.
pub fn start_preparer(
    shard: ShardId,
    cores: Vec<usize>,
    dir: PathBuf,
    disk: Arc<dyn Disk>,
    mailbox: MailboxSender,
) -> io::Result<Helper<DiskJob>> {
    let (sender, jobs) = crossbeam_channel::unbounded();
    let ending = Arc::default();
    let thread = std::thread::Builder::new().name(format!("prepare-{shard}")).spawn(move || {
        // A shard that has no segment at hand waits for it.
        roam(&cores, NICE, Turns::Prompt);
        prepare(shard, &dir, &*disk, &mailbox, &jobs);
    })?;
    Ok(Helper { jobs: Some(sender), thread: Some(thread), ending })
}

fn prepare(shard: ShardId, dir: &Path, disk: &dyn Disk, mailbox: &MailboxSender, jobs: &Receiver<DiskJob>) {
    let mut failing = false;
    while let Ok(job) = jobs.recv() {
        match job {
            DiskJob::Prepare(request) => {
                let prepared = segment::prepare(disk, dir, request);
                // Once when it begins and once when it ends: it is tried again many times in between.
                match &prepared {
                    Err(error) if !std::mem::replace(&mut failing, true) => {
                        tracing::error!(%shard, %error, dir = %dir.display(), "no room for a log segment: refusing records");
                    }
                    Ok(_) if std::mem::replace(&mut failing, false) => {
                        tracing::warn!(%shard, dir = %dir.display(), "there is room for log segments again");
                    }
                    _ => {}
                }
                let sent = mailbox.send(ToShard::Segment(prepared));
                assert!(sent.is_ok(), "a prepared segment is never refused");
            }
            DiskJob::Remove(segment) => {
                let path = segment.path.clone();
                if let Err(error) = segment::remove(disk, &segment) {
                    tracing::warn!(%shard, %error, path = %path.display(), "a released segment stays on disk");
                }
            }
        }
    }
}

/// Starts a shard's reader of idempotency keys.
///
/// # Errors
/// No thread can be made.
pub fn start_key_reader(shard: ShardId, mailbox: MailboxSender) -> io::Result<Helper<KeyQuestion>> {
    // Bounded by the submissions that may wait.
    let (sender, jobs) = crossbeam_channel::unbounded::<KeyQuestion>();
    let thread = std::thread::Builder::new().name(format!("keys-{shard}")).spawn(move || {
        while let Ok(question) = jobs.recv() {
            let sent = mailbox.send(ToShard::Keys(question.answer()));
            assert!(sent.is_ok(), "an answer is never refused");
        }
    })?;
    Ok(Helper { jobs: Some(sender), thread: Some(thread), ending: Arc::default() })
}

/// Starts one of a shard's two threads that work on the files of keys in `dir`, on any of `cores` (empty: on the caller's).
///
/// # Errors
/// No thread can be made.
pub fn start_keeper(
    name: &str,
    shard: ShardId,
    cores: Vec<usize>,
    dir: PathBuf,
    disk: Arc<dyn Disk>,
    mailbox: MailboxSender,
) -> io::Result<Helper<KeyJob>> {
    // Bounded by the files that there are.
    let (sender, jobs) = crossbeam_channel::unbounded::<KeyJob>();
    let thread = std::thread::Builder::new().name(format!("{name}-{shard}")).spawn(move || {
        roam(&cores, NICE, Turns::Steady);
        let mut failing = false;
        while let Ok(job) = jobs.recv() {
            let done = job.perform(&*disk, &dir);
            let failed = match &done {
                KeyDone::Written(Err(error)) | KeyDone::Merged(Err(error)) => Some(error),
                _ => None,
            };
            // Once when it begins and once when it ends: it is tried again many times in between.
            match failed {
                Some(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Some(error) if !std::mem::replace(&mut failing, true) => {
                    tracing::error!(%shard, %error, dir = %dir.display(), "idempotency keys cannot be written: the log is kept");
                }
                None if std::mem::replace(&mut failing, false) => {
                    tracing::warn!(%shard, dir = %dir.display(), "idempotency keys can be written again");
                }
                _ => {}
            }
            let sent = mailbox.send(ToShard::KeysDone(done));
            assert!(sent.is_ok(), "what is done is never refused");
        }
    })?;
    Ok(Helper { jobs: Some(sender), thread: Some(thread), ending: Arc::default() })
}

/// Where the flusher writes the rows of `stream` from `first` on.
#[must_use]
pub fn staging_path(dir: &Path, stream: StreamId, first: i64, through: i64) -> PathBuf {
    dir.join(format!("{stream}-{first:020}-{through:020}.parquet"))
}
