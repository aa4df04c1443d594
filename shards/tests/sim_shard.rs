//! Deterministic simulation of a whole shard with idempotency keys and writers over a disk that loses power, tears writes and
//! fails calls. Clients send again what they have no answer to. Over every crash: each key and each writer's number has at most
//! one row, every acknowledged one has the row that it was told, sequence numbers are dense. `TTDUST_SIM_SEEDS=n` runs n seeds.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use ttdust_shards::{
    access::Access,
    config::{BufferConfig, DedupConfig, EngineConfig, IoChoice, Limits, WalConfig},
    dedup::{
        fingerprint::Seeds,
        folder::OpenKeys,
        jobs::{KeyDone, KeyJob, KeyQuestion},
    },
    ids::{SchemaId, ShardId, StreamId},
    io::{
        Disk,
        sim::{Crash, SimClock, SimDisk, SimRng},
    },
    message::{Committed, Outcome, OutcomeTo, ReplyTo, Submission, WriterRows},
    schema::CompiledSchema,
    shard::{Shard, Submitted},
    snapshot::{CatalogSnapshot, StreamEntry, StreamState},
    wal::{
        Wal, WriteOp, recovery,
        segment::{self, ReleasedSegment, SegmentRequest},
    },
};

const SHARD: ShardId = ShardId(0);
const STREAMS: u8 = 2;
const KEYS: u64 = 150;
const WRITERS: usize = 2;
const EVENTS: usize = 700;
const SEEDS: u64 = 250;

fn stream(number: u8) -> StreamId {
    StreamId::from_bytes([number + 1; 16])
}

/// What was sent and has no answer yet: the payload of each record; of a writer, which, and its first number.
struct Sent {
    stream: StreamId,
    payloads: Vec<Bytes>,
    writer: Option<(usize, u64)>,
}

enum Work {
    Prepare(SegmentRequest),
    Remove(ReleasedSegment),
    Keys(KeyJob),
    Ask(KeyQuestion),
}

#[derive(Debug, Default)]
struct Tally {
    acks: u64,
    duplicates: u64,
    crashes: u64,
    written: u64,
    merged: u64,
    asked: u64,
    released: u64,
    unknown: u64,
}

struct World {
    rng: SimRng,
    disk: SimDisk,
    clock: SimClock,
    catalog: Arc<CatalogSnapshot>,
    config: EngineConfig,
    shard: Shard,
    write: Option<WriteOp>,
    work: VecDeque<Work>,
    sent: HashMap<u64, Sent>,
    next_token: u64,
    /// Of each stream, the payload of each row in files.
    files: BTreeMap<StreamId, BTreeMap<i64, Bytes>>,
    /// The row that each acknowledged record was told, by stream and payload.
    acked: BTreeMap<(StreamId, Bytes), i64>,
    /// The next number of each writer, and whether a request of it is under way.
    writers: [(u64, bool); WRITERS],
    epoch: u64,
    loses_key_files: bool,
    tally: Tally,
}

type Checked = Result<(), String>;

fn catalog() -> Arc<CatalogSnapshot> {
    let schema = CompiledSchema::compile(SchemaId::from_bytes([9; 16]), 1, "{}").expect("it compiles");
    let schema = Arc::new(schema);
    let entry = |number| {
        let (id, name, schema) = (stream(number), format!("s{number}"), Arc::clone(&schema));
        StreamEntry {
            id,
            name,
            state: StreamState::Active,
            schema,
            key_fields: Default::default(),
            pipelines: Default::default(),
            dead_letters: None,
            home: SHARD,
        }
    };
    Arc::new(CatalogSnapshot::new(1, Access::default(), (0..STREAMS).map(entry).collect()))
}

fn config(rng: &mut SimRng) -> EngineConfig {
    EngineConfig {
        grpc_address: SocketAddr::from(([127, 0, 0, 1], 0)),
        shard_cores: vec![None],
        helper_cores: Vec::new(),
        io: IoChoice::Epoll,
        wal_dir: PathBuf::from("/wal"),
        staging_dir: PathBuf::from("/staging"),
        limits: Limits::default(),
        wal: WalConfig {
            segment_bytes: 4096 * (4 + rng.below(8)),
            quota_bytes: 1 << 20,
            frame_bytes: 8192,
            segments_ahead: 2,
            archive: false,
        },
        buffer: BufferConfig { memory_bytes: 1 << 20, freeze_bytes: 1 << 20, freeze_age: Duration::from_secs(3600) },
        tail_memory_bytes: 16 << 20,
        dedup: DedupConfig { part_keys: 20 + rng.below(60) as usize, ..DedupConfig::default() },
    }
}

/// Starts a shard on what the disk holds.
fn recover(
    world: &SimDisk,
    config: &EngineConfig,
    clock: &SimClock,
    flushed: &HashMap<StreamId, i64>,
    salt: u32,
) -> io::Result<Shard> {
    let recovered = recovery::recover(world, &config.wal_dir, SHARD).map_err(io::Error::other)?;
    let keys = OpenKeys::open(world, &PathBuf::from("/keys"), Seeds::from_bytes([3; 16])).map_err(io::Error::other)?;
    assert_eq!(keys.damaged, 0, "a crash damages no file");
    let mut batches = recovered.batches;
    batches.sort_by_key(|batch| (batch.header().stream, batch.header().first_sequence));
    let wal = Wal::with_epoch_salt(SHARD, config.wal, recovered.end, salt);
    Shard::new(SHARD, config, wal, (batches, flushed), (world, &keys, &|_| true), Arc::new(clock.clone()))
}

impl World {
    fn run(seed: u64, loses_key_files: bool) -> Result<Tally, String> {
        let mut rng = SimRng::new(seed);
        let (disk, clock) = (SimDisk::new(rng.next_u64()), SimClock::new(1_700_000_000_000_000));
        let config = config(&mut rng);
        let mut shard = recover(&disk, &config, &clock, &HashMap::new(), 1).map_err(|error| error.to_string())?;
        let catalog = catalog();
        shard.set_catalog(Arc::clone(&catalog));
        let mut world = Self {
            rng,
            disk,
            clock,
            catalog,
            config,
            shard,
            write: None,
            work: VecDeque::new(),
            sent: HashMap::new(),
            next_token: 0,
            files: BTreeMap::new(),
            acked: BTreeMap::new(),
            writers: [(0, false); WRITERS],
            epoch: 0,
            loses_key_files,
            tally: Tally::default(),
        };
        for _ in 0..EVENTS {
            world.event()?;
        }
        world.crash(Crash::Power)?;
        Ok(world.tally)
    }

    fn event(&mut self) -> Checked {
        match self.rng.below(100) {
            0..24 => return self.send_keys(),
            24..34 => return self.send_numbers(),
            34..52 => self.write = self.write.take().or_else(|| self.shard.next_write()),
            52..72 => return self.finish_write(),
            72..78 => self.look_for_work(),
            78..92 => return self.do_work(),
            92..94 => return self.flush(),
            94..97 => self.clock.advance(self.rng.below(3_000_000)),
            97 => self.clock.jump(self.rng.below(1 << 40) as i64 - (1 << 39)),
            98 if self.rng.one_in(2) => self.disk.crash_after(1 + self.rng.below(10), Crash::Power),
            98 => self.disk.fail_after(1 + self.rng.below(10), io::ErrorKind::StorageFull),
            _ if self.rng.one_in(4) => {
                let crash = if self.rng.one_in(2) { Crash::Power } else { Crash::Kill };
                return self.crash(crash);
            }
            _ => {}
        }
        Ok(())
    }

    fn submit(&mut self, sent: Sent, keys: Vec<Bytes>, taken: Vec<u32>) -> Checked {
        self.next_token += 1;
        let token = self.next_token;
        let writer = sent.writer.map(|(writer, first)| WriterRows {
            id: Bytes::from(format!("w{writer}")),
            epoch: self.epoch,
            first,
            sent: sent.payloads.len() as u32,
            taken: taken.clone(),
        });
        let payloads = match &writer {
            Some(_) => taken.iter().map(|&index| sent.payloads[index as usize].clone()).collect(),
            None => sent.payloads.clone(),
        };
        let submission = Submission {
            stream: sent.stream,
            schema_version: 1,
            payloads,
            keys,
            metadata: Bytes::new(),
            writer: writer.map(Box::new),
            marks: None,
            reply: OutcomeTo::Call(ReplyTo { shard: SHARD, token }),
        };
        self.sent.insert(token, sent);
        match self.shard.submit(submission) {
            Submitted::Waiting => Ok(()),
            Submitted::Done(_, outcome) => self.told(token, outcome),
        }
    }

    /// A key's payload is the key, so that rows tell of theirs.
    fn send_keys(&mut self) -> Checked {
        let stream = stream(self.rng.below(u64::from(STREAMS)) as u8);
        let keys: Vec<Bytes> =
            (0..1 + self.rng.below(5)).map(|_| format!("key-{}", self.rng.below(KEYS)).into()).collect();
        self.submit(Sent { stream, payloads: keys.clone(), writer: None }, keys, Vec::new())
    }

    /// Every fifth number's record is bad. A request begins at times with numbers that were acknowledged.
    fn send_numbers(&mut self) -> Checked {
        let writer = self.rng.below(WRITERS as u64) as usize;
        let (next, under_way) = self.writers[writer];
        if under_way {
            return Ok(());
        }
        self.writers[writer].1 = true;
        let first = next - self.rng.below(6).min(next);
        let numbers = first..first + 1 + self.rng.below(8);
        let payloads: Vec<Bytes> = numbers.clone().map(|number| format!("w{writer}-{number}").into()).collect();
        let taken = (0..payloads.len() as u32).filter(|&index| (first + u64::from(index)) % 5 != 2).collect();
        self.submit(Sent { stream: stream(0), payloads, writer: Some((writer, first)) }, Vec::new(), taken)
    }

    fn told(&mut self, token: u64, outcome: Outcome) -> Checked {
        let sent = self.sent.remove(&token).expect("an outcome is told once");
        if let Some((writer, _)) = sent.writer {
            self.writers[writer].1 = false;
        }
        match outcome {
            Outcome::Refused(_) => Ok(()),
            Outcome::Unknown => {
                self.tally.unknown += 1;
                Ok(())
            }
            Outcome::Committed(committed) => self.committed(&sent, &committed),
        }
    }

    fn committed(&mut self, sent: &Sent, committed: &Committed) -> Checked {
        let duplicates: BTreeMap<_, _> = committed.duplicates.iter().copied().collect();
        let mut fresh = committed.first_sequence;
        for (index, payload) in sent.payloads.iter().enumerate() {
            if let Some((writer, first)) = sent.writer {
                let number = first + index as u64;
                self.writers[writer].0 = self.writers[writer].0.max(number + 1);
                if number % 5 == 2 {
                    continue;
                }
            }
            let id = (sent.stream, payload.clone());
            let known = self.acked.get(&id).copied();
            let got = match duplicates.get(&(index as u32)) {
                Some(seen) => {
                    self.tally.duplicates += 1;
                    seen.sequence
                }
                None if known.is_some() => return Err(format!("{payload:?} was row {known:?}, and was taken again")),
                None => {
                    fresh += 1;
                    fresh - 1
                }
            };
            if known.is_some_and(|known| known != got) {
                return Err(format!("{payload:?} was row {known:?}, and is said to be {got}"));
            }
            self.acked.insert(id, got);
            self.tally.acks += 1;
        }
        Ok(())
    }

    fn finish_write(&mut self) -> Checked {
        let Some(op) = self.write.take() else { return Ok(()) };
        let result = op.segment.file.write_durable(&op.data, op.offset);
        if self.disk.is_down() {
            return self.restart();
        }
        let mut outcomes = Vec::new();
        let written = self.shard.written(op.lsn, result, |reply, outcome| outcomes.push((token(&reply), outcome)));
        outcomes.into_iter().try_for_each(|(token, outcome)| self.told(token, outcome))?;
        if written.is_err() { self.crash(Crash::Kill) } else { Ok(()) }
    }

    fn look_for_work(&mut self) {
        self.work.extend(self.shard.wants_segment().map(Work::Prepare));
        while let Some(job) = self.shard.next_key_job() {
            self.work.push_back(Work::Keys(job));
        }
        let released = self.shard.release();
        self.work.extend(released.into_iter().map(Work::Remove));
        while let Some(question) = self.shard.next_question() {
            self.work.push_back(Work::Ask(question));
        }
    }

    /// Work of one kind is done in the order in which it was given out, and kinds mix.
    fn do_work(&mut self) -> Checked {
        let at = self.rng.below(self.work.len().max(1) as u64) as usize;
        let kind = |work: &Work| std::mem::discriminant(work);
        let is_log = |work: &Work| matches!(work, Work::Prepare(_) | Work::Remove(_));
        let Some(chosen) = self.work.get(at) else { return Ok(()) };
        let first = self.work.iter().position(|work| kind(work) == kind(chosen) || (is_log(work) && is_log(chosen)));
        match self.work.remove(first.unwrap_or(at)) {
            None => {}
            Some(Work::Prepare(request)) => {
                let prepared = segment::prepare(&self.disk, &self.config.wal_dir, request);
                if !self.disk.is_down() {
                    self.shard.segment_prepared(prepared);
                }
            }
            Some(Work::Remove(released)) => {
                self.tally.released += u64::from(segment::remove(&self.disk, &released).is_ok());
            }
            Some(Work::Keys(job)) => {
                let done = job.perform(&self.disk, &PathBuf::from("/keys"));
                if !self.disk.is_down() {
                    self.tally.written += u64::from(matches!(done, KeyDone::Written(Ok(_))));
                    self.tally.merged += u64::from(matches!(done, KeyDone::Merged(Ok(_))));
                    self.shard.key_job_done(done);
                }
            }
            Some(Work::Ask(question)) => {
                // A read that fails may let a duplicate pass, and says so: not here.
                if self.disk.is_down() {
                    return self.restart();
                }
                self.disk.clear_accidents();
                self.tally.asked += 1;
                let answer = question.answer();
                let mut outcomes = Vec::new();
                self.shard.answered(&answer, |reply, outcome| outcomes.push((token(&reply), outcome)));
                outcomes.into_iter().try_for_each(|(token, outcome)| self.told(token, outcome))?;
            }
        }
        if self.disk.is_down() { self.restart() } else { Ok(()) }
    }

    /// Commits a file of some stream's rows.
    fn flush(&mut self) -> Checked {
        let streams: Vec<_> = self.shard.buffer().streams().collect();
        streams.into_iter().for_each(|stream| self.shard.freeze(stream));
        let Some(frozen) = self.shard.next_flush() else { return Ok(()) };
        let files = self.files.entry(frozen.stream).or_default();
        for batch in &frozen.batches {
            let Ok(rows) = batch.rows() else {
                if self.disk.is_down() {
                    return self.restart();
                }
                self.shard.flush_failed(frozen.stream);
                return Ok(());
            };
            for index in 0..rows.count() {
                files.insert(batch.header().first_sequence + index as i64, rows.payload(index));
            }
        }
        self.shard.flushed(frozen.stream, frozen.through);
        Ok(())
    }

    fn crash(&mut self, crash: Crash) -> Checked {
        self.disk.crash(crash);
        self.restart()
    }

    fn restart(&mut self) -> Checked {
        self.tally.crashes += 1;
        self.work.clear();
        self.write = None;
        self.sent.clear();
        self.writers.iter_mut().for_each(|(_, under_way)| *under_way = false);
        self.epoch += self.rng.below(2);
        self.disk.restart();
        if self.loses_key_files {
            let names = self.disk.list(&PathBuf::from("/keys")).map_err(|error| error.to_string())?;
            if let Some(newest) = names.iter().rfind(|name| name.extension().is_some_and(|e| e == "keys")) {
                self.disk.lose(&PathBuf::from("/keys").join(newest));
            }
        }
        let last = |rows: &BTreeMap<i64, Bytes>| rows.last_key_value().map_or(0, |(&last, _)| last);
        let flushed: HashMap<_, _> = self.files.iter().map(|(&stream, rows)| (stream, last(rows))).collect();
        loop {
            if self.rng.one_in(4) {
                self.disk.crash_after(1 + self.rng.below(30), Crash::Power);
            }
            let salt = self.rng.next_u64() as u32;
            match recover(&self.disk, &self.config, &self.clock, &flushed, salt) {
                Ok(shard) => {
                    self.disk.clear_accidents();
                    self.shard = shard;
                    break;
                }
                Err(error) if !self.disk.is_down() => return Err(error.to_string()),
                Err(_) => self.disk.restart(),
            }
        }
        self.shard.set_catalog(Arc::clone(&self.catalog));
        self.check_rows()
    }

    /// Holds the rows in files and log against what clients were told.
    fn check_rows(&self) -> Checked {
        for stream in (0..STREAMS).map(stream) {
            let mut rows = self.files.get(&stream).cloned().unwrap_or_default();
            for batch in &self.shard.snapshot(stream).batches {
                let found = batch.rows().map_err(|error| error.to_string())?;
                for index in 0..found.count() {
                    let sequence = batch.header().first_sequence + index as i64;
                    let before = rows.insert(sequence, found.payload(index));
                    if before.is_some_and(|before| before != found.payload(index)) {
                        return Err(format!("row {sequence} of {stream} is another in the log than in a file"));
                    }
                }
            }
            if !rows.keys().copied().eq(1..=rows.len() as i64) {
                return Err(format!("the rows of {stream} have gaps"));
            }
            let mut by_payload = BTreeMap::new();
            for (&sequence, payload) in &rows {
                if let Some(before) = by_payload.insert(payload, sequence) {
                    return Err(format!("{payload:?} is row {before} and row {sequence} of {stream}"));
                }
            }
            for ((_, payload), sequence) in self.acked.iter().filter(|((its, _), _)| *its == stream) {
                if by_payload.get(payload) != Some(sequence) {
                    return Err(format!("{payload:?} was row {sequence}, and is {:?}", by_payload.get(payload)));
                }
            }
        }
        Ok(())
    }
}

fn token(reply: &OutcomeTo) -> u64 {
    match reply {
        OutcomeTo::Call(to) => to.token,
        OutcomeTo::Waiter(_) => unreachable!("all that is sent here is a call's"),
    }
}

#[test]
fn keys_and_numbers_are_taken_once_whatever_happens() {
    let seeds = std::env::var("TTDUST_SIM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(SEEDS);
    let mut total = Tally::default();
    for seed in 0..seeds {
        let tally = World::run(seed, false).unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
        total.acks += tally.acks;
        total.duplicates += tally.duplicates;
        total.crashes += tally.crashes;
        total.written += tally.written;
        total.merged += tally.merged;
        total.asked += tally.asked;
        total.released += tally.released;
        total.unknown += tally.unknown;
    }
    println!("{total:?}");
    let Tally { acks, duplicates, crashes, written, merged, asked, unknown, .. } = total;
    for seen in [acks, duplicates, crashes, written, merged, asked, unknown] {
        assert!(seen > 20, "too few of something: {total:?}");
    }
}

/// The mutation: the newest file of keys is gone after a crash, as if the log had been let go of before the file was synced.
#[test]
fn a_key_file_that_was_not_durable_is_caught() {
    let caught = (0..100).filter(|&seed| World::run(seed, true).is_err()).count();
    assert!(caught > 30, "a lost file of keys was caught by {caught} of 100 seeds only");
}
