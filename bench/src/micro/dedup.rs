//! What idempotency keys cost: remembering new ones, with the files that they become; then, with many in the window, asking for
//! new ones and for old duplicates.

use std::{
    collections::VecDeque,
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

use bytes::Bytes;
use ttdust_shards::{
    config::DedupConfig,
    dedup::{
        Dedup, Looked, Seen,
        fingerprint::Seeds,
        folder::OpenKeys,
        jobs::{KeyDone, KeyJob, KeyQuestion},
    },
    ids::{ShardId, StreamId},
    io::real::RealDisk,
    wal::Lsn,
};

/// Keys a submission.
const BATCH: usize = 100;
const MIB: f64 = (1 << 20) as f64;

/// The figures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// Keys in the window.
    pub keys: u64,
    /// Asking for a key that is new and remembering it, while the window fills; ns a key, on the shard's thread.
    pub insert_ns: f64,
    /// Writing and merging files; ns a key, on other threads.
    pub files_ns: f64,
    /// Files at the end.
    pub files: u64,
    /// Their size, in MiB.
    pub disk_mib: f64,
    /// Memory of tables, filters and indexes, in MiB.
    pub accounted_mib: f64,
    /// What the process's resident memory grew by, in MiB.
    pub resident_mib: f64,
    /// Asking for a new key with the window full; ns a key.
    pub new_ns: f64,
    /// Reads of files a new key took, for nothing.
    pub reads_per_new: f64,
    /// Asking for an old duplicate, its read (of the page cache) included; ns a key.
    pub duplicate_ns: f64,
}

struct Bench<'a> {
    dedup: Dedup,
    dir: &'a Path,
    stream: StreamId,
    merge: VecDeque<KeyJob>,
    asked: Duration,
    worked: Duration,
    looked: Looked,
}

fn key(number: u64) -> Bytes {
    Bytes::from(format!("order-{number:016x}"))
}

fn seen(number: u64) -> Seen {
    Seen { sequence: number as i64 + 1, timestamp_unix_micros: 1_700_000_000_000_000 + number as i64 }
}

fn resident_mib() -> f64 {
    let pages = fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split(' ').nth(1)?.parse::<f64>().ok()).unwrap_or(0.0);
    pages * 4096.0 / MIB
}

impl Bench<'_> {
    fn insert(&mut self, first: u64) -> io::Result<()> {
        let keys: Vec<_> = (first..first + BATCH as u64).map(key).collect();
        let began = Instant::now();
        let lookups = self.dedup.look(self.stream, &keys, i64::MAX, &mut self.looked);
        let looked = began.elapsed();
        let found = KeyQuestion { stream: self.stream, lookups }.answer().found;
        assert!(found.is_empty(), "new keys are new");
        let began = Instant::now();
        for (index, &key) in self.looked.keys.iter().enumerate() {
            let first = self.dedup.get_or_insert(key, seen(first + index as u64));
            assert_eq!(first, None, "new keys are new");
        }
        self.asked += looked + began.elapsed();
        if self.dedup.refusal().is_some() {
            return Err(io::Error::other("keys are refused"));
        }
        Ok(())
    }

    /// Does the work on files that there is.
    fn work(&mut self, clock: u64) {
        let began = Instant::now();
        self.dedup.tend(clock, Lsn(1), None);
        while let Some(job) = self.dedup.next_job(Lsn(1)) {
            self.merge.push_back(job);
            while let Some(job) = self.merge.pop_front() {
                let done = job.perform(&RealDisk::default(), self.dir);
                assert!(!matches!(done, KeyDone::Written(Err(_)) | KeyDone::Merged(Err(_))), "{done:?}");
                self.dedup.done(done);
            }
        }
        self.worked += began.elapsed();
    }
}

/// Fills a window with `keys` keys, spread over its time, in files in `dir`; then asks.
///
/// # Errors
/// The folder cannot be used.
pub fn measure(keys: u64, dir: &Path) -> io::Result<Measured> {
    let resident = resident_mib();
    let open = OpenKeys::open(&RealDisk::default(), dir, Seeds::draw()).map_err(io::Error::other)?;
    let config = DedupConfig::default();
    let dedup = Dedup::new(ShardId(0), config, &open, |_| true, 0);
    let (stream, merge, looked) = (StreamId::generate(), VecDeque::new(), Looked::default());
    let (asked, worked) = (Duration::ZERO, Duration::ZERO);
    let mut bench = Bench { dedup, dir, stream, merge, asked, worked, looked };
    let step = (config.part_keys as u64 / BATCH as u64) * BATCH as u64;
    let window = config.window_micros() as f64 * 0.95;
    let mut first = 0;
    while first < keys {
        bench.insert(first)?;
        first += BATCH as u64;
        if first % step == 0 {
            bench.work((first as f64 / keys as f64 * window) as u64);
        }
    }
    bench.work(window as u64);
    let (insert_ns, files_ns) = (nanos(bench.asked, keys), nanos(bench.worked, keys));
    let figures = bench.dedup.figures();
    let mut reads = 0;
    let asks = keys.min(4_000_000);
    let began = Instant::now();
    let mut making = Duration::ZERO;
    for batch in 0..asks / BATCH as u64 {
        let made = Instant::now();
        let new: Vec<_> = (0..BATCH as u64).map(|i| key(1 << 60 | batch << 8 | i)).collect();
        making += made.elapsed();
        reads += bench.dedup.look(bench.stream, &new, i64::MAX, &mut bench.looked).len();
    }
    let new_ns = nanos(began.elapsed() - making, asks);
    let (duplicate_ns, asks) = (ask_old(&mut bench, keys, asks / 4), asks as f64);
    Ok(Measured {
        keys,
        insert_ns,
        files_ns,
        files: figures.files,
        disk_mib: size(dir)? as f64 / MIB,
        accounted_mib: (figures.table_bytes + figures.filter_bytes) as f64 / MIB,
        resident_mib: resident_mib() - resident,
        new_ns,
        reads_per_new: reads as f64 / asks,
        duplicate_ns,
    })
}

/// Asks for `asks` old keys, each of which must get what it got; ns a key.
fn ask_old(bench: &mut Bench<'_>, keys: u64, asks: u64) -> f64 {
    let mut spent = Duration::ZERO;
    for batch in 0..asks / BATCH as u64 {
        let number = |index: u64| (batch * BATCH as u64 + index).wrapping_mul(0x9e37_79b9_7f4a_7c15) % keys;
        let old: Vec<_> = (0..BATCH as u64).map(|index| key(number(index))).collect();
        let began = Instant::now();
        let lookups = bench.dedup.look(bench.stream, &old, i64::MAX, &mut bench.looked);
        let found = KeyQuestion { stream: bench.stream, lookups }.answer().found;
        spent += began.elapsed();
        let mut known = bench.looked.known.clone();
        found.into_iter().for_each(|(index, seen)| known[index as usize] = Some(seen));
        for (index, known) in known.into_iter().enumerate() {
            assert_eq!(known, Some(seen(number(index as u64))), "a duplicate gets what its first record got");
        }
    }
    nanos(spent, asks)
}

fn nanos(spent: Duration, keys: u64) -> f64 {
    spent.as_nanos() as f64 / keys.max(1) as f64
}

fn size(dir: &Path) -> io::Result<u64> {
    fs::read_dir(dir)?.map(|entry| Ok(entry?.metadata()?.len())).sum()
}

/// Measures in a folder below `dir`, which is removed again, and prints.
///
/// # Errors
/// See [`measure`].
pub fn run(keys: u64, dir: &Path) -> io::Result<()> {
    let dir = dir.join(format!("ttdust-bench-keys-{}", std::process::id()));
    let measured = measure(keys, &dir);
    // The first error is the one to report.
    let _ = fs::remove_dir_all(&dir);
    let m = measured?;
    println!("{} keys in the window, {} files, {:.0} MiB on disk", m.keys, m.files, m.disk_mib);
    println!("memory: {:.0} MiB accounted, {:.0} MiB resident more than before", m.accounted_mib, m.resident_mib);
    println!("filling: {:.0} ns a key on the shard's thread, {:.0} ns a key on others", m.insert_ns, m.files_ns);
    println!("a new key: {:.0} ns, {:.6} reads", m.new_ns, m.reads_per_new);
    println!("an old duplicate: {:.0} ns with its read", m.duplicate_ns);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_kept_and_found() -> io::Result<()> {
        let dir = std::env::temp_dir().join(format!("ttdust-bench-keys-test-{}", std::process::id()));
        let measured = measure(30_000, &dir)?;
        fs::remove_dir_all(&dir)?;
        assert_eq!(measured.keys, 30_000);
        assert!(measured.new_ns > 0.0 && measured.duplicate_ns > 0.0 && measured.accounted_mib > 0.0);
        Ok(())
    }
}
