//! What the write-ahead log costs: appending and framing in memory, and durable commits by size on a real disk.

use std::{
    io,
    path::Path,
    time::{Duration, Instant},
};

use bytes::Bytes;
use hdrhistogram::Histogram;
use ttdust_shards::{
    config::WalConfig,
    ids::{FIRST_SEQUENCE, ShardId, StreamId},
    io::{Disk, real::RealDisk},
    wal::{Wal, WriteOp, entry::EntryDraft, recovery::LogEnd, segment},
};

const SHARD: ShardId = ShardId(0);
const MIB: f64 = (1 << 20) as f64;

/// One row of the table.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// Records an append.
    pub batch: usize,
    /// Records a commit.
    pub commit: usize,
    /// Time in the log's own methods, ns a record.
    pub append_ns_per_record: f64,
    /// From the seal of a frame to its durability, in µs: half of them at most this.
    pub commit_p50_us: f64,
    /// And all but one in a hundred.
    pub commit_p99_us: f64,
    /// Records made durable a second, with one commit under way at a time.
    pub records_per_second: f64,
    /// Bytes written a second, padding included, in MiB.
    pub mib_per_second: f64,
}

/// A log under measurement: its segments are recycled as soon as they are sealed.
struct Bench<'a> {
    wal: Wal,
    disk: RealDisk,
    dir: &'a Path,
    stream: StreamId,
    sequence: i64,
    next: usize,
    records: &'a [Bytes],
}

impl<'a> Bench<'a> {
    fn new(records: &'a [Bytes], dir: &'a Path) -> io::Result<Self> {
        let config = WalConfig { segment_bytes: 64 << 20, ..WalConfig::default() };
        let disk = RealDisk::default();
        disk.create_dir(dir)?;
        let wal = Wal::new(SHARD, config, LogEnd::default());
        let stream = StreamId::generate();
        let mut bench = Self { wal, disk, dir, stream, sequence: FIRST_SEQUENCE, next: 0, records };
        bench.prepare()?;
        Ok(bench)
    }

    fn prepare(&mut self) -> io::Result<()> {
        for released in self.wal.release() {
            segment::remove(&self.disk, &released)?;
        }
        while let Some(request) = self.wal.wants_segment() {
            let prepared = segment::prepare(&self.disk, self.dir, request)?;
            self.wal.offer_segment(prepared);
        }
        Ok(())
    }

    /// Appends `commit` records in appends of `batch`, and seals the frame.
    fn fill(&mut self, batch: usize, commit: usize) -> Option<WriteOp> {
        for _ in 0..commit / batch {
            if self.next + batch > self.records.len() {
                self.next = 0;
            }
            let draft = EntryDraft {
                stream: self.stream,
                first_sequence: self.sequence,
                timestamp_unix_micros: 1_700_000_000_000_000 + self.sequence,
                schema_version: 1,
                pipeline_version: 0,
                payloads: &self.records[self.next..self.next + batch],
                keys: &[],
                metadata: &[],
                session: &[],
            };
            self.wal.append(&draft);
            self.next += batch;
            self.sequence += batch as i64;
        }
        self.wal.next_write()
    }

    fn done(&mut self, write: &WriteOp, result: io::Result<()>) -> io::Result<()> {
        // The batches are dropped: no buffer holds them here.
        drop(self.wal.written(write.lsn, result).map_err(io::Error::other)?);
        Ok(())
    }

    /// Time in the log's methods for `budget`, without any write.
    fn in_memory(&mut self, batch: usize, commit: usize, budget: Duration) -> io::Result<f64> {
        let (mut spent, mut records) = (Duration::ZERO, 0);
        while spent < budget {
            let began = Instant::now();
            let mut write = self.fill(batch, commit);
            while let Some(op) = write {
                self.done(&op, Ok(()))?;
                write = self.wal.next_write();
            }
            spent += began.elapsed();
            records += commit;
            self.prepare()?;
        }
        Ok(spent.as_nanos() as f64 / records as f64)
    }

    fn durable(
        &mut self,
        batch: usize,
        commit: usize,
        budget: Duration,
    ) -> io::Result<(Histogram<u64>, Duration, u64)> {
        let mut latency = Histogram::new_with_bounds(1, 600_000_000, 3).expect("constant bounds");
        let (mut spent, mut bytes) = (Duration::ZERO, 0);
        while spent < budget {
            let began = Instant::now();
            let mut write = self.fill(batch, commit);
            while let Some(op) = write {
                let sealed = Instant::now();
                let result = op.segment.file.write_durable(&op.data, op.offset);
                latency.saturating_record(sealed.elapsed().as_micros() as u64);
                bytes += op.data.len() as u64;
                self.done(&op, result)?;
                write = self.wal.next_write();
            }
            spent += began.elapsed();
            self.prepare()?;
        }
        Ok((latency, spent, bytes))
    }
}

/// Measures each size of commit for `budget` in memory and again on disk, in a folder below `dir` that is removed at the end, and
/// prints a table.
///
/// # Errors
/// The folder cannot be used.
///
/// # Panics
/// There are not enough records for one append.
pub fn run(records: &[Bytes], dir: &Path, budget: Duration) -> io::Result<Vec<Measured>> {
    let mean = records.iter().map(Bytes::len).sum::<usize>() as f64 / records.len() as f64;
    println!("wal: records of {mean:.0} bytes; one durable write at a time in {}\n", dir.display());
    println!(
        "| records an append | a commit | append + seal ns/record | commit p50 µs | p99 µs | records/s durable | MiB/s |"
    );
    println!("|---|---|---|---|---|---|---|");
    let folder = tempfile::Builder::new().prefix("ttdust-bench-wal-").tempdir_in(dir)?;
    let mut all = Vec::new();
    for (batch, commit) in [(1, 64), (1, 512), (16, 256), (100, 1600), (100, 3200)] {
        assert!(records.len() >= batch, "an append of {batch} needs as many records");
        let path = folder.path().join(format!("{batch}-{commit}"));
        let mut bench = Bench::new(records, &path)?;
        let append_ns_per_record = bench.in_memory(batch, commit, budget)?;
        let before = bench.sequence;
        let (latency, spent, bytes) = bench.durable(batch, commit, budget)?;
        let measured = Measured {
            batch,
            commit,
            append_ns_per_record,
            commit_p50_us: latency.value_at_quantile(0.5) as f64,
            commit_p99_us: latency.value_at_quantile(0.99) as f64,
            records_per_second: (bench.sequence - before) as f64 / spent.as_secs_f64(),
            mib_per_second: bytes as f64 / MIB / spent.as_secs_f64(),
        };
        println!(
            "| {batch} | {commit} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} |",
            measured.append_ns_per_record,
            measured.commit_p50_us,
            measured.commit_p99_us,
            measured.records_per_second,
            measured.mib_per_second,
        );
        all.push(measured);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_measured_and_nothing_is_left_behind() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let records: Vec<Bytes> = (0..200).map(|number| crate::clicks::click(number).into()).collect();
        let rows = run(&records, dir.path(), Duration::from_millis(5)).expect("measured");
        assert_eq!(rows.len(), 5);
        assert!(rows.iter().all(|row| row.append_ns_per_record > 0.0 && row.records_per_second > 0.0));
        // 318 bytes a record and more: what is written cannot be less than what is kept.
        assert!(rows.iter().all(|row| row.mib_per_second * MIB >= row.records_per_second * 300.0));
        assert_eq!(std::fs::read_dir(dir.path()).expect("there").count(), 0);
    }
}
