//! Idempotency keys against a model, over a simulated disk: whatever is sealed, written, merged, dropped or cut short, every key
//! of the window gets what its first record got.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use ttdust_shards::{
    config::DedupConfig,
    dedup::{
        Dedup, Looked, Seen,
        file::{Facts, KeyFile, KeyFileWriter, OpenError},
        fingerprint::{Fingerprint, Seeds},
        folder::OpenKeys,
        jobs::{KeyDone, KeyJob, KeyQuestion},
        table::Entry,
    },
    ids::{ShardId, StreamId},
    io::{
        Disk, DiskFile,
        sim::{Crash, SimDisk, SimRng},
    },
    wal::{Lsn, segment::Segment},
};

const WINDOW_MICROS: u64 = 80_000;
const KEYS: u64 = 300;

fn dir() -> &'static Path {
    Path::new("keys")
}

fn config(homes: u64) -> DedupConfig {
    DedupConfig { window: Duration::from_micros(WINDOW_MICROS), keys_max: 1_000_000, part_keys: 40, homes }
}

fn seeds() -> Seeds {
    Seeds::from_bytes(*b"always the same!")
}

/// A record with a key, in the log.
struct Logged {
    lsn: Lsn,
    stream: StreamId,
    key: Bytes,
    seen: Seen,
}

/// One shard's keys, and of its log what they can see.
struct World {
    rng: SimRng,
    disk: SimDisk,
    dedup: Dedup,
    shard: ShardId,
    homes: u64,
    now: u64,
    streams: [StreamId; 2],
    next: HashMap<StreamId, i64>,
    /// What each key's newest record got, its frame, and when it came by a clock that counts the runs' time only.
    model: HashMap<(StreamId, Bytes), (Seen, Lsn, u64)>,
    uptime: u64,
    /// The unreleased part, a segment a list.
    log: Vec<(Arc<Segment>, Vec<Logged>)>,
    appended: Lsn,
    synced: Lsn,
    under_way: Vec<KeyJob>,
    lookups: u64,
    duplicates: u64,
    merges: u64,
    released: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let disk = SimDisk::new(seed);
        let open = OpenKeys::open(&disk, dir(), seeds()).expect("no accident is set");
        let mut world = Self {
            rng: SimRng::new(seed),
            dedup: Dedup::new(ShardId(1), config(0), &open, |_| true, 0),
            disk,
            shard: ShardId(1),
            homes: 0,
            now: 0,
            streams: [1, 2].map(|byte| StreamId::from_bytes([byte; 16])),
            next: HashMap::new(),
            model: HashMap::new(),
            uptime: 0,
            log: Vec::new(),
            appended: Lsn(0),
            synced: Lsn(0),
            under_way: Vec::new(),
            lookups: 0,
            duplicates: 0,
            merges: 0,
            released: 0,
        };
        world.begin_segment();
        world
    }

    fn begin_segment(&mut self) {
        let id = self.log.last().map_or(1, |(segment, _)| segment.id + 1);
        let path = PathBuf::from(format!("log/{id}-{}", self.now));
        let file = self.disk.create(&path, 4096).expect("no accident is set");
        self.log.push((Arc::new(Segment { id, path, file, bytes: 4096, epoch: None }), Vec::new()));
    }

    fn recovered(&self, stream: StreamId) -> i64 {
        self.next.get(&stream).copied().unwrap_or(1)
    }

    /// A submission of a few keys, some of them twice in it.
    fn submit(&mut self, recovered: &HashMap<StreamId, i64>) {
        let stream = self.streams[self.rng.below(2) as usize];
        let keys: Vec<Bytes> = (0..1 + self.rng.below(6))
            .map(|_| if self.rng.one_in(8) { Bytes::new() } else { format!("key-{}", self.rng.below(KEYS)).into() })
            .collect();
        let mut looked = Looked::default();
        let believed = recovered.get(&stream).copied().unwrap_or(1);
        let lookups = self.dedup.look(stream, &keys, believed, &mut looked);
        self.lookups += lookups.len() as u64;
        for (index, seen) in (KeyQuestion { stream, lookups }).answer().found {
            let known = &mut looked.known[index as usize];
            *known = (*known).into_iter().chain([seen]).max_by_key(|seen| seen.sequence);
        }
        // One entry, so one frame: the open one, or the next.
        let lsn =
            if self.appended == self.synced || self.rng.one_in(3) { Lsn(self.appended.0 + 1) } else { self.appended };
        let mut next = self.recovered(stream);
        for (index, key) in keys.into_iter().enumerate() {
            let seen = Seen { sequence: next, timestamp_unix_micros: self.now as i64 };
            let first = match looked.known[index] {
                _ if key.is_empty() => None,
                None => self.dedup.get_or_insert(looked.keys[index], seen),
                known => known,
            };
            if key.is_empty() {
                next += 1;
                self.appended = lsn;
                continue;
            }
            match (first, self.model.get(&(stream, key.clone()))) {
                (Some(first), Some((original, ..))) => {
                    assert_eq!(first, *original, "{key:?} got what its first record got");
                    self.duplicates += 1;
                }
                (Some(first), None) => panic!("{key:?} was never taken, but is said to have got {first:?}"),
                (None, original) => {
                    let forgotten = original.is_none_or(|(.., at)| self.uptime - at >= WINDOW_MICROS);
                    assert!(forgotten, "{key:?} was forgotten within the window: {original:?} at {}", self.uptime);
                    self.appended = lsn;
                    let logged = Logged { lsn, stream, key: key.clone(), seen };
                    self.log.last_mut().expect("a segment was begun").1.push(logged);
                    self.model.insert((stream, key), (seen, lsn, self.uptime));
                    next += 1;
                }
            }
        }
        self.next.insert(stream, next);
    }

    /// The frames up to the last are synced; at times the log goes on in a new segment.
    fn sync(&mut self) {
        let segment = Arc::clone(&self.log.last().expect("a segment was begun").0);
        for lsn in self.synced.0 + 1..=self.appended.0 {
            self.dedup.hold(&segment, Lsn(lsn));
        }
        self.synced = self.appended;
        if self.rng.one_in(3) {
            self.begin_segment();
        }
    }

    fn filling(&self) -> Arc<Segment> {
        Arc::clone(&self.log.last().expect("a segment was begun").0)
    }

    /// Begins what work there is and ends some of it, in any order.
    fn work(&mut self) {
        let filling = self.filling();
        self.dedup.tend(self.now, self.appended, Some(&filling));
        while let Some(job) = self.dedup.next_job(self.synced) {
            self.under_way.push(job);
        }
        while !self.under_way.is_empty() && !self.rng.one_in(3) {
            let at = self.rng.below(self.under_way.len() as u64) as usize;
            if self.rng.one_in(10) {
                self.disk.fail_after(1 + self.rng.below(6), io::ErrorKind::StorageFull);
            }
            let done = self.under_way.swap_remove(at).perform(&self.disk, dir());
            self.disk.clear_accidents();
            self.merges += u64::from(matches!(done, KeyDone::Merged(Ok(_))));
            self.dedup.done(done);
        }
        drop(filling);
        while self.log.len() > 1 && Arc::strong_count(&self.log[0].0) == 1 {
            self.log.remove(0);
            self.released += 1;
        }
    }

    fn pass(&mut self) {
        let micros = if self.rng.one_in(40) { self.rng.below(WINDOW_MICROS) } else { self.rng.below(300) };
        self.now += micros;
        self.uptime += micros;
    }

    /// The process ends, maybe in the middle of a write; what was not synced is gone.
    fn restart(&mut self) {
        let crash = if self.rng.one_in(2) { Crash::Power } else { Crash::Kill };
        for job in std::mem::take(&mut self.under_way) {
            if self.rng.one_in(2) {
                self.disk.crash_after(1 + self.rng.below(12), crash);
            }
            let _ = job.perform(&self.disk, dir());
            self.disk.clear_accidents();
        }
        self.disk.crash(crash);
        self.disk.restart();
        let synced = self.synced;
        self.model.retain(|_, (_, lsn, _)| *lsn <= synced);
        for (_, entries) in &mut self.log {
            entries.retain(|logged| logged.lsn <= synced);
        }
        self.appended = synced;
        for logged in self.log.iter().flat_map(|(_, entries)| entries) {
            // A key that was taken again since, in a frame that is lost, has its older record back.
            let lost = (logged.seen, logged.lsn, self.uptime);
            self.model.entry((logged.stream, logged.key.clone())).or_insert(lost);
        }
        self.now = self.rng.below(1000);
        if self.rng.one_in(4) {
            self.homes += 1;
            self.shard = ShardId(self.rng.below(3) as u16);
        }
        let open = OpenKeys::open(&self.disk, dir(), seeds()).expect("no accident is set");
        assert_eq!(open.damaged, 0, "a crash damages no file");
        self.dedup = Dedup::new(self.shard, config(self.homes), &open, |_| true, self.now);
        for (segment, entries) in &self.log {
            for Logged { stream, key, seen, .. } in entries {
                self.dedup.replay(*stream, key, *seen);
                self.dedup.spill(&self.disk, dir()).expect("no accident is set");
            }
            self.dedup.hold(segment, Lsn(0));
        }
        self.begin_segment();
    }
}

/// Sequence numbers of lost frames are given again, as the log gives them again.
fn lose_numbers(world: &mut World) {
    for stream in world.streams {
        let kept = |(&(its, _), (seen, ..)): (&(StreamId, Bytes), &(Seen, Lsn, u64))| {
            (its == stream).then_some(seen.sequence + 1)
        };
        let next = world.model.iter().filter_map(kept).max().unwrap_or(1);
        // Keyless records are not in the model; a gap does no harm here.
        let known = world.next.get(&stream).copied().unwrap_or(1);
        world.next.insert(stream, if world.rng.one_in(2) { next } else { known });
    }
}

fn run(seed: u64) -> World {
    let mut world = World::new(seed);
    let mut recovered = HashMap::new();
    for _ in 0..600 {
        match world.rng.below(20) {
            0..9 => world.submit(&recovered),
            9..13 => world.sync(),
            13..17 => world.work(),
            17..19 => world.pass(),
            _ if world.rng.one_in(5) => {
                world.restart();
                lose_numbers(&mut world);
                recovered = world.next.clone();
            }
            _ => {}
        }
    }
    world
}

#[test]
fn every_key_of_the_window_gets_what_its_first_record_got() {
    let mut totals = [0; 4];
    for seed in 0..300 {
        let world = run(seed);
        let figures = [world.lookups, world.duplicates, world.merges, world.released];
        totals.iter_mut().zip(figures).for_each(|(total, n)| *total += n);
    }
    println!("lookups, duplicates, merges, released segments: {totals:?}");
    assert!(totals.iter().all(|&total| total > 300), "too few of something: {totals:?}");
}

fn facts(number: u64) -> Facts {
    Facts { shard: ShardId(2), number, seeds: 7, homes: 0, clock: (3, 9) }
}

fn write(disk: &SimDisk, number: u64, entries: &[Entry]) -> KeyFile {
    let mut writer = KeyFileWriter::begin(disk, dir(), facts(number), entries.len() as u64, true).expect("it begins");
    entries.iter().for_each(|&entry| writer.push(entry).expect("it is taken"));
    writer.finish().expect("it is written")
}

fn seen(sequence: i64) -> Seen {
    Seen { sequence, timestamp_unix_micros: sequence << 20 }
}

/// Keys in order, many of which share the upper half of their fingerprints.
fn entries(count: u64, salt: u64) -> Vec<Entry> {
    let mut rng = SimRng::new(salt);
    let mut keys: Vec<_> = (0..count)
        .map(|i| {
            let high = if i % 3 == 0 { rng.next_u64() } else { 1 << 63 };
            Fingerprint::from_bits(u128::from(high) << 64 | u128::from(rng.next_u64()))
        })
        .collect();
    keys.sort_unstable();
    keys.into_iter().zip(1..).map(|(key, sequence)| (key, seen(sequence))).collect()
}

#[test]
fn a_file_reads_back_as_it_was_written() {
    let disk = SimDisk::new(1);
    for (number, count) in [0, 1, 126, 127, 128, 1000, 5000].into_iter().enumerate() {
        let entries = entries(count, number as u64);
        let written = write(&disk, number as u64, &entries);
        let opened = KeyFile::open(&disk, written.path()).expect("it opens");
        for file in [&written, &opened] {
            assert_eq!((file.len(), file.facts()), (count, &facts(number as u64)));
            for &(key, seen) in &entries {
                assert!(file.may_hold(key));
                assert_eq!(file.find(key).expect("it is read"), Some(seen));
                let other = Fingerprint::from_bits(key.bits() ^ 1);
                assert_eq!(file.find(other).expect("it is read"), None);
            }
        }
    }
}

#[test]
fn a_merge_keeps_the_newest_record_of_a_key_and_leaves_out_what_is_damaged() {
    let disk = SimDisk::new(1);
    let old = entries(1000, 5);
    let new: Vec<_> = old.iter().step_by(3).map(|&(key, Seen { sequence, .. })| (key, seen(sequence + 5000))).collect();
    let files = [write(&disk, 1, &new), write(&disk, 2, &old)].map(Arc::new);
    let job = |number| KeyJob::Merge { files: files.to_vec(), facts: facts(number), wide: true, stop: Arc::default() };
    let KeyDone::Merged(Ok((merged, 0))) = job(3).perform(&disk, dir()) else { panic!("it is merged") };
    assert_eq!(merged.len(), 1000);
    for (index, &(key, seen)) in old.iter().enumerate() {
        let newest = if index % 3 == 0 { new[index / 3].1 } else { seen };
        assert_eq!(merged.find(key).expect("it is read"), Some(newest));
    }
    let mut bytes = disk.contents(files[1].path()).expect("it is there");
    bytes[4096 + 77] ^= 1;
    disk.set_contents(files[1].path(), bytes);
    let KeyDone::Merged(Ok((merged, 1))) = job(4).perform(&disk, dir()) else { panic!("one block is damaged") };
    assert!(old.iter().skip(254).all(|&(key, _)| merged.find(key).expect("it is read").is_some()));
    assert_eq!(merged.len(), 1000 - 127 + 42, "of the block, what the other file has too is left");
}

#[test]
fn damage_is_told_and_never_a_wrong_answer() {
    let disk = SimDisk::new(1);
    let entries = entries(300, 9);
    let path = write(&disk, 1, &entries).path().to_owned();
    let whole = disk.contents(&path).expect("it is there");
    let mut rng = SimRng::new(3);
    for round in 0..3000 {
        let mut bytes = whole.clone();
        if round % 3 == 0 {
            bytes.truncate(rng.below(whole.len() as u64) as usize);
        } else {
            let bit = rng.below(whole.len() as u64 * 8) as usize;
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        disk.set_contents(&path, bytes);
        match KeyFile::open(&disk, &path) {
            Err(OpenError::Damaged(_)) => {}
            Err(error) => panic!("{error}"),
            Ok(file) => {
                for &(key, seen) in &entries {
                    let found = file.find(key);
                    assert!(found.as_ref().is_ok_and(|found| *found == Some(seen)) || found.is_err(), "{found:?}");
                }
            }
        }
    }
}

#[test]
fn a_damaged_file_is_set_aside_and_damaged_seeds_make_all_files_useless() {
    let disk = SimDisk::new(1);
    let open = || OpenKeys::open(&disk, dir(), seeds()).expect("it opens");
    let id = open().seeds.id();
    let files = [1, 2].map(|number| {
        let facts = Facts { seeds: id, ..facts(number) };
        KeyFileWriter::begin(&disk, dir(), facts, 0, true).and_then(KeyFileWriter::finish).expect("it is written")
    });
    assert_eq!((open().files.len(), open().damaged, open().clock), (2, 0, 9));
    disk.set_contents(files[0].path(), vec![1; 8192]);
    let opened = open();
    assert_eq!((opened.files.len(), opened.damaged), (1, 1));
    assert_eq!((open().files.len(), open().damaged), (1, 0), "it is out of the way");
    disk.set_contents(&dir().join("seeds"), vec![2; 4096]);
    let opened = OpenKeys::open(&disk, dir(), Seeds::from_bytes([3; 16])).expect("it opens");
    assert_eq!((opened.files.len(), opened.damaged), (0, 1));
    assert_eq!(opened.seeds, Seeds::from_bytes([3; 16]));
    let names = disk.list(dir()).expect("a list");
    assert_eq!(names.iter().filter(|name| name.extension().is_some_and(|e| e == "damaged")).count(), 3, "{names:?}");
    let _: Arc<dyn DiskFile> = disk.open(&dir().join("seeds")).expect("new ones were written");
}

#[test]
fn at_their_bounds_keys_are_refused_and_not_forgotten() {
    use ttdust_shards::dedup::KeysRefused;
    let disk = SimDisk::new(1);
    let open = OpenKeys::open(&disk, dir(), seeds()).expect("it opens");
    let stream = StreamId::from_bytes([1; 16]);
    let mut dedup = Dedup::new(
        ShardId(0),
        DedupConfig { keys_max: 200, window: Duration::from_secs(3600), ..config(0) },
        &open,
        |_| true,
        0,
    );
    let mut number = 0;
    let mut insert = |dedup: &mut Dedup, count| {
        for _ in 0..count {
            number += 1;
            let mut looked = Looked::default();
            let lookups = dedup.look(stream, &[Bytes::from(number.to_string())], 1, &mut looked);
            assert!((KeyQuestion { stream, lookups }).answer().found.is_empty());
            assert_eq!(dedup.get_or_insert(looked.keys[0], seen(number)), None);
        }
    };
    insert(&mut dedup, 79);
    assert_eq!(dedup.refusal(), None);
    insert(&mut dedup, 1);
    assert_eq!(dedup.refusal(), Some(KeysRefused::Behind), "twice as many as should be in memory");
    let write_all = |dedup: &mut Dedup| {
        dedup.tend(1, Lsn(1), None);
        while let Some(job) = dedup.next_job(Lsn(1)) {
            dedup.done(job.perform(&disk, dir()));
        }
    };
    dedup.tend(1, Lsn(2), None);
    assert!(dedup.next_job(Lsn(1)).is_none(), "a key is not written before its record is synced");
    let job = dedup.next_job(Lsn(2)).expect("now it is");
    disk.fail_after(1, io::ErrorKind::StorageFull);
    dedup.done(job.perform(&disk, dir()));
    assert_eq!(dedup.figures().in_memory, 80, "a full disk loses none");
    dedup.tend(2_000_000, Lsn(2), None);
    let job = dedup.next_job(Lsn(2)).expect("it is tried again");
    dedup.done(job.perform(&disk, dir()));
    assert_eq!((dedup.figures().in_memory, dedup.figures().in_files, dedup.refusal()), (0, 80, None));
    insert(&mut dedup, 60);
    write_all(&mut dedup);
    insert(&mut dedup, 60);
    assert_eq!(dedup.refusal(), Some(KeysRefused::Full));
}
