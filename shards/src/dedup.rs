//! Idempotency keys that a shard remembers, with the sequence number and time that each got; and its writers.
//!
//! The newest are in a table in memory. When it is full, old, or the last that holds a segment of the log, it is sealed, and
//! written to a sorted file behind a filter once all its records are synced; files are merged as they grow in number. [`Dedup`]
//! does no I/O: it says what to do ([`Dedup::next_job`]) and what to look up ([`Dedup::look`]).
//!
//! Invariants: a key in a file is that of a synced record. A segment of the log is held until each of its keys is in a durable
//! file, so at any moment log and files together know every key of the window. The log is what is believed: a key of it that is
//! also in a file got what the log says, and a file of an earlier run that knows of records past the log's end is not believed.
//! Nothing is forgotten before its time: at a bound, records with keys are refused.
//!
//! Time is a clock of its own, which only runs while the server does and goes on from the latest time in a file: no jump of the
//! wall clock and no outage shortens the window. Files hold the keys of an eighth of the window each and are dropped whole.

pub mod file;
pub mod fingerprint;
pub mod folder;
pub mod jobs;
pub mod recent;
pub mod table;
pub mod writers;

use std::{
    collections::VecDeque,
    io, mem,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;

use crate::{
    config::DedupConfig,
    ids::{ShardId, StreamId},
    io::Disk,
    wal::{Lsn, segment::Segment},
};
use file::{Facts, KeyFile};
use fingerprint::{Fingerprint, Seeds};
use folder::OpenKeys;
use jobs::{KeyDone, KeyJob, Lookup};
use recent::Recent;
use table::Table;
use writers::{Session, Writers};

/// The window is divided into so many generations. More would mean more filters to ask, fewer keys that stay too long.
const GENERATIONS: u64 = 8;
/// So many files of one size become one of the next.
const MERGE_FILES: usize = 4;
/// The most files of a merge.
const MERGE_FILES_MAX: usize = 16;
/// The pause after a failed write or merge, in µs.
const RETRY_MICROS: u64 = 1_000_000;
/// Of the keys that may be remembered, so many have filters of the wide kind: one part in this.
const WIDE_SHARE: u64 = 8;

/// What a key's first record got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Its sequence number.
    pub sequence: i64,
    /// When it was ingested, Unix µs.
    pub timestamp_unix_micros: i64,
}

/// Why records with keys cannot be taken now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeysRefused {
    /// Keys come faster than they can be written to files: the disk is slow, or full.
    Behind,
    /// As many as may be are remembered: there is room again when the oldest are out of the window.
    Full,
}

/// What is known of a submission's keys.
#[derive(Debug, Default)]
pub struct Looked {
    /// The keys, one a record.
    pub keys: Vec<Fingerprint>,
    /// Whether each may have come in this run.
    pub recent: Vec<bool>,
    /// What each got, if that is known by now.
    pub known: Vec<Option<Seen>>,
}

/// Figures of a shard's keys.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeyFigures {
    /// Writers.
    pub writers: u64,
    /// Keys in memory.
    pub in_memory: u64,
    /// Keys in files; one that two files hold counts twice, until they are merged.
    pub in_files: u64,
    /// Files.
    pub files: u64,
    /// Bytes of memory of tables.
    pub table_bytes: u64,
    /// Bytes of memory of filters and indexes.
    pub filter_bytes: u64,
}

/// The keys that came since the last table was sealed.
#[derive(Debug)]
struct Active {
    table: Table,
    /// Segments that hold records of these keys.
    holds: Vec<Arc<Segment>>,
    /// Whether sessions of writers came too.
    has_sessions: bool,
    /// Some were found in the log at the start. Tables of other shards may hold their segments too, each of which would wait
    /// for the others to let go first.
    is_recovered: bool,
    /// When the first came.
    since: u64,
}

/// A table that takes no more.
#[derive(Debug)]
struct Sealed {
    table: Arc<Table>,
    /// The writers as they were then, if something of theirs had changed.
    writers: Option<Bytes>,
    holds: Vec<Arc<Segment>>,
    clock: (u64, u64),
    /// The last frame that one of its keys is in: it may only be written when that is synced.
    through: Lsn,
    is_being_written: bool,
    retry_at: u64,
}

/// The keys of one shard. See the module's comment.
#[derive(Debug)]
pub struct Dedup {
    shard: ShardId,
    config: DedupConfig,
    seeds: Seeds,
    /// The keys' clock and the process's monotonic one at the start, µs.
    started: (u64, u64),
    clock: u64,
    active: Active,
    sealed: Option<Sealed>,
    /// Every key of this run: those of tables, and of files that are not inherited.
    recent: Recent,
    /// Of this shard's present streams; it may merge and remove them.
    files: Vec<Arc<KeyFile>>,
    /// Of when streams had other homes; all shards read them, the first removes them.
    old_files: Vec<Arc<KeyFile>>,
    /// Keys of both.
    in_files: u64,
    next_number: u64,
    /// The files of the merge under way.
    merging: Option<Vec<Arc<KeyFile>>>,
    merge_retry_at: u64,
    writers: Writers,
    removals: VecDeque<PathBuf>,
    stop: Arc<AtomicBool>,
}

impl Dedup {
    /// The keys of `shard` that `open` holds, and the writers of the streams whose home it is, at `monotonic_micros` of the process's clock.
    #[must_use]
    pub fn new(
        shard: ShardId,
        config: DedupConfig,
        open: &OpenKeys,
        is_home: impl Fn(StreamId) -> bool,
        monotonic_micros: u64,
    ) -> Self {
        let at_home = |file: &&Arc<KeyFile>| file.facts().homes == config.homes;
        let files: Vec<_> = open.files.iter().filter(at_home).filter(|f| f.facts().shard == shard).cloned().collect();
        let old_files: Vec<_> = open.files.iter().filter(|file| !at_home(file)).cloned().collect();
        let last_number = open.files.iter().filter(|f| f.facts().shard == shard).map(|f| f.facts().number).max();
        Self {
            shard,
            config,
            seeds: open.seeds,
            started: (open.clock, monotonic_micros),
            clock: open.clock,
            active: Active {
                table: Table::with_room(0),
                holds: Vec::new(),
                has_sessions: false,
                is_recovered: false,
                since: open.clock,
            },
            sealed: None,
            recent: Recent::default(),
            in_files: files.iter().chain(&old_files).map(|file| file.len()).sum(),
            files,
            old_files,
            next_number: last_number.unwrap_or(0) + 1,
            merging: None,
            merge_retry_at: 0,
            writers: Writers::of(shard, &open.writers, is_home),
            removals: VecDeque::new(),
            stop: Arc::default(),
        }
    }

    /// Takes the key of a record that the log holds, at a start: what the log says stands.
    pub fn replay(&mut self, stream: StreamId, key: &[u8], seen: Seen) {
        let key = self.seeds.of_stream(stream).fingerprint(key);
        self.recent.insert(key);
        self.active.table.raise(key, seen);
    }

    /// Writes the table to a file now if it is full, at a start, when nothing else is under way.
    ///
    /// # Errors
    /// The system's.
    pub fn spill(&mut self, disk: &dyn Disk, dir: &std::path::Path) -> io::Result<()> {
        if self.active.table.len() < self.config.part_keys {
            return Ok(());
        }
        self.seal(Lsn(0));
        let job = self.next_job(Lsn(0)).expect("a table was just sealed");
        match job.perform(disk, dir) {
            KeyDone::Written(Err(error)) => Err(error),
            done => {
                self.done(done);
                Ok(())
            }
        }
    }

    /// Why `records` with keys cannot be taken now.
    #[must_use]
    pub fn refusal(&self) -> Option<KeysRefused> {
        if self.len() >= self.config.keys_max {
            return Some(KeysRefused::Full);
        }
        (self.active.table.len() >= 2 * self.config.part_keys).then_some(KeysRefused::Behind)
    }

    /// Keys remembered; one that two files hold counts twice, until they are merged.
    fn len(&self) -> u64 {
        self.in_files + self.in_tables() as u64
    }

    fn in_tables(&self) -> usize {
        self.active.table.len() + self.sealed.as_ref().map_or(0, |sealed| sealed.table.len())
    }

    /// Looks for a submission's `keys` (empty: none) in memory, and says in which files to look for the others. Of files of an
    /// earlier run, what they say of records from `recovered` on is not to be believed.
    pub fn look(&self, stream: StreamId, keys: &[Bytes], recovered: i64, looked: &mut Looked) -> Vec<Lookup> {
        let seeds = self.seeds.of_stream(stream);
        let absent = Fingerprint::from_bits(0);
        looked.keys.clear();
        looked.keys.extend(keys.iter().map(|key| if key.is_empty() { absent } else { seeds.fingerprint(key) }));
        looked.recent.clear();
        looked.recent.extend(looked.keys.iter().map(|&key| self.recent.may_hold(key)));
        let sealed = self.sealed.as_ref().map(|sealed| &*sealed.table);
        let in_tables = |key| self.active.table.get(key).or_else(|| sealed.and_then(|table| table.get(key)));
        looked.known.clear();
        looked
            .known
            .extend(looked.keys.iter().zip(&looked.recent).map(|(&key, recent)| recent.then(|| in_tables(key))?));
        let mut lookups = Vec::new();
        // File by file: the reads of one filter for many keys do not wait for each other.
        for file in self.files.iter().chain(&self.old_files) {
            for (index, &key) in looked.keys.iter().enumerate() {
                let may_be_there = looked.recent[index] || file.is_inherited();
                if may_be_there && looked.known[index].is_none() && file.may_hold(key) && !keys[index].is_empty() {
                    let believed_below = if file.is_inherited() { recovered } else { i64::MAX };
                    lookups.push(Lookup { index: index as u32, key, file: Arc::clone(file), believed_below });
                }
            }
        }
        lookups
    }

    /// What `key`, of which nothing was known before its submission, got in it, or else remembers that it gets `seen`.
    pub fn get_or_insert(&mut self, key: Fingerprint, seen: Seen) -> Option<Seen> {
        let first = self.active.table.get_or_insert(key, seen);
        if first.is_none() {
            self.recent.insert(key);
        }
        first
    }

    /// The writers.
    #[must_use]
    pub fn writers(&self) -> &Writers {
        &self.writers
    }

    /// Takes a session whose accepted records have the sequence numbers from `sequence` on: of an entry that was appended, or
    /// that the log holds at a start.
    pub fn take_session(&mut self, stream: StreamId, session: &Session, sequence: i64) {
        self.writers.take(stream, session, sequence, self.clock);
        self.active.has_sessions = true;
    }

    /// Holds a segment that a frame with keys or a session was synced to, until those are in a file. At a start: `Lsn(0)`.
    pub fn hold(&mut self, segment: &Arc<Segment>, lsn: Lsn) {
        hold(&mut self.active.holds, segment);
        self.active.is_recovered |= lsn == Lsn(0);
        if let Some(sealed) = self.sealed.as_mut().filter(|sealed| lsn <= sealed.through) {
            assert!(!sealed.is_being_written, "a table is written when all its frames are synced");
            hold(&mut sealed.holds, segment);
        }
    }

    /// Lets time pass: seals the table if that is due, drops files that are over. `appended` is the newest frame that holds an
    /// entry, `filling` the segment that the log goes on in.
    pub fn tend(&mut self, monotonic_micros: u64, appended: Lsn, filling: Option<&Arc<Segment>>) {
        let (clock, monotonic) = self.started;
        self.clock = self.clock.max(clock + monotonic_micros.saturating_sub(monotonic));
        let over = |file: &Arc<KeyFile>| file.facts().clock.1 + self.config.window_micros() <= self.clock;
        let is_merging = |file: &Arc<KeyFile>| {
            self.merging.as_ref().is_some_and(|files| files.iter().any(|merging| Arc::ptr_eq(merging, file)))
        };
        let gone: Vec<_> = self.files.extract_if(.., |file| over(file) && !is_merging(file)).collect();
        self.removals.extend(gone.iter().map(|file| file.path().to_owned()));
        let gone: Vec<_> = self.old_files.extract_if(.., |file| over(file)).collect();
        if self.shard == ShardId(0) {
            self.removals.extend(gone.iter().map(|file| file.path().to_owned()));
        }
        self.recent.turn(self.generation(self.clock), GENERATIONS);
        self.recount();
        if self.active.table.is_empty() && !self.active.has_sessions {
            self.active.holds.clear();
            self.active.since = self.clock;
        } else if self.sealed.is_none() && self.is_seal_due(filling) {
            self.seal(appended);
        }
    }

    fn is_seal_due(&self, filling: Option<&Arc<Segment>>) -> bool {
        let full = self.active.table.len() >= self.config.part_keys;
        let old = self.generation(self.active.since) < self.generation(self.clock);
        // Only the log's own list and this one have it: nothing but these keys keeps it from being released.
        let holds_up = |segment: &Arc<Segment>| {
            Arc::strong_count(segment) <= 2 && !filling.is_some_and(|filling| Arc::ptr_eq(filling, segment))
        };
        full || old || self.active.is_recovered || self.active.holds.iter().any(holds_up)
    }

    fn generation(&self, clock: u64) -> u64 {
        clock / (self.config.window_micros() / GENERATIONS).max(1)
    }

    fn seal(&mut self, through: Lsn) {
        // Like the last one, so that it will not have to grow.
        let next = Active {
            table: Table::with_room(self.active.table.len()),
            holds: Vec::new(),
            has_sessions: false,
            is_recovered: false,
            since: self.clock,
        };
        let Active { table, holds, since, .. } = mem::replace(&mut self.active, next);
        let clock = (since, self.clock);
        let table = Arc::new(table);
        self.writers.forget(self.clock);
        let writers = self.writers.snapshot();
        self.sealed = Some(Sealed { table, writers, holds, clock, through, is_being_written: false, retry_at: 0 });
    }

    /// Work for another thread, if there is some now: its end is told to [`Dedup::done`]. At most one [`KeyJob::Write`] and one
    /// [`KeyJob::Merge`] are under way at a time. `synced` is the newest frame on stable storage.
    pub fn next_job(&mut self, synced: Lsn) -> Option<KeyJob> {
        let (now, wide) = (self.clock, self.is_wide());
        if let Some(sealed) = &mut self.sealed
            && !sealed.is_being_written
            && sealed.through <= synced
            && sealed.retry_at <= now
        {
            sealed.is_being_written = true;
            let (table, clock, writers) = (Arc::clone(&sealed.table), sealed.clock, sealed.writers.clone());
            return Some(KeyJob::Write { table, facts: self.next_facts(clock), wide, writers });
        }
        if let Some(path) = self.removals.pop_front() {
            return Some(KeyJob::Remove(path));
        }
        if self.merging.is_some() || self.merge_retry_at > now || self.stop.load(Ordering::Relaxed) {
            return None;
        }
        let files = self.files_to_merge()?;
        let first = files.iter().map(|file| file.facts().clock.0).min()?;
        let last = files.iter().map(|file| file.facts().clock.1).max()?;
        self.merging = Some(files.clone());
        Some(KeyJob::Merge { files, facts: self.next_facts((first, last)), wide, stop: Arc::clone(&self.stop) })
    }

    fn is_wide(&self) -> bool {
        self.files.iter().map(|file| file.len()).sum::<u64>() < self.config.keys_max / WIDE_SHARE
    }

    fn next_facts(&mut self, clock: (u64, u64)) -> Facts {
        let number = self.next_number;
        self.next_number += 1;
        Facts { shard: self.shard, number, seeds: self.seeds.id(), homes: self.config.homes, clock }
    }

    /// Files of one generation and one run, of about the same size; or all of a generation that gets no more.
    fn files_to_merge(&self) -> Option<Vec<Arc<KeyFile>>> {
        let now = self.generation(self.clock);
        let mut classes: std::collections::BTreeMap<_, Vec<&Arc<KeyFile>>> = std::collections::BTreeMap::new();
        for file in &self.files {
            let generation = self.generation(file.facts().clock.1);
            let size = if generation < now { 0 } else { file.len().max(1).ilog2() / MERGE_FILES.ilog2() };
            classes.entry((generation, file.is_inherited(), size)).or_default().push(file);
        }
        let (_, files) = classes
            .into_iter()
            .find(|((generation, ..), files)| files.len() >= if *generation < now { 2 } else { MERGE_FILES })?;
        Some(files.into_iter().take(MERGE_FILES_MAX).cloned().collect())
    }

    /// Takes what came of a job.
    pub fn done(&mut self, done: KeyDone) {
        let retry_at = self.clock + RETRY_MICROS;
        match done {
            KeyDone::Removed => {}
            KeyDone::Written(Ok(file)) => {
                self.sealed = None;
                self.files.extend(file);
                self.recount();
            }
            KeyDone::Written(Err(_)) => {
                let sealed = self.sealed.as_mut().expect("a table is being written");
                (sealed.is_being_written, sealed.retry_at) = (false, retry_at);
            }
            KeyDone::Merged(Ok((merged, _))) => {
                let old = self.merging.take().expect("a merge is under way");
                self.files.retain(|file| !old.iter().any(|old| Arc::ptr_eq(old, file)));
                self.files.push(merged);
                self.recount();
                self.removals.extend(old.iter().map(|file| file.path().to_owned()));
            }
            KeyDone::Merged(Err(_)) => {
                self.merging = None;
                self.merge_retry_at = retry_at;
            }
        }
    }

    fn recount(&mut self) {
        self.in_files = self.files.iter().chain(&self.old_files).map(|file| file.len()).sum();
    }

    /// Ends a merge early, and begins no more: the shard is going to end.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Figures.
    #[must_use]
    pub fn figures(&self) -> KeyFigures {
        let sealed = self.sealed.as_ref().map(|sealed| &sealed.table);
        let files = || self.files.iter().chain(&self.old_files);
        KeyFigures {
            writers: self.writers.len() as u64,
            in_memory: self.in_tables() as u64,
            in_files: self.in_files,
            files: files().count() as u64,
            table_bytes: (self.active.table.memory_bytes() + sealed.map_or(0, |table| table.memory_bytes())) as u64,
            filter_bytes: files().map(|file| file.memory_bytes() as u64).sum::<u64>()
                + self.recent.memory_bytes() as u64,
        }
    }
}

fn hold(holds: &mut Vec<Arc<Segment>>, segment: &Arc<Segment>) {
    if !holds.iter().rev().any(|held| Arc::ptr_eq(held, segment)) {
        holds.push(Arc::clone(segment));
    }
}
