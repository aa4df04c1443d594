//! Where the data and the log are to lie: whether it can be written, on what, how much room is left, and how long a write to the
//! log takes. Also io_uring, whose probe writes a file there. Where the log has a disk of its own, that of the rest is looked at too.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::fs::{OFlags, fcntl_getfl, statfs, statvfs};
use tempfile::TempDir;
use ttdust_shards::io::{BLOCK_BYTES, Disk as _, DiskFile, aligned_buffer, real::RealDisk};

use super::{Check, Subject, kernel, memory::size};

const DATA: &str = "data_dir";
const LOG: &str = "wal_directory";
const SYSTEM: &str = "file_system";
const SPACE: &str = "disk_space";
const DATA_SYSTEM: &str = "data_file_system";
const DATA_SPACE: &str = "data_disk_space";
const DIRECT: &str = "direct_io";
const WRITES: &str = "durable_writes";
/// Every folder of the doctor's begins so.
const PREFIX: &str = ".ttdust-doctor-";
/// A shard does not run with fewer segments.
const SEGMENTS_MIN: u64 = 4;
/// The catalog wants as much at least.
const DATA_LEAST: u64 = 64 << 20;
/// No disk has it on stable storage sooner.
const TOO_QUICK: Duration = Duration::from_micros(20);
const TOO_SLOW: Duration = Duration::from_millis(20);
const SMALL_WRITES: usize = 200;
const LARGE_WRITES: usize = 50;
const LARGE_BYTES: usize = 1 << 20;
/// Large enough for all small writes; large ones begin anew at its end.
const FILE_BYTES: usize = 8 * LARGE_BYTES;

pub(super) fn check(subject: &Subject) -> Vec<Check> {
    let settings = &subject.loaded.settings;
    let wal_dir = settings.wal_dir();
    let (data, of_data) = place(DATA, &settings.data_dir);
    let (log, folder) = place(LOG, &wal_dir);
    // The log lies deeper than data_dir, and may be on another disk. What fails for both is told once.
    let tells_more = settings.wal_directory.is_some() || (log.verdict != data.verdict);
    let mut checks = vec![data];
    checks.extend(Some(log).filter(|_| tells_more));
    let (base, data_base) = (ground(&wal_dir), ground(&settings.data_dir));
    if folder.is_some() {
        checks.push(file_system(SYSTEM, &base));
        checks.push(space(subject, &wal_dir, &base));
    }
    if of_data.is_some() && device(&data_base) != device(&base) {
        checks.push(file_system(DATA_SYSTEM, &data_base));
        checks.push(data_space(subject, &data_base));
    }
    checks.push(kernel::uring(settings.shard_io, folder.as_ref().map(TempDir::path)));
    checks.extend(folder.map(writes).unwrap_or_default());
    checks
}

/// The directory, or what of its parents is there.
fn ground(dir: &Path) -> PathBuf {
    let whole = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    let there = whole.ancestors().find(|path| path.symlink_metadata().is_ok());
    there.unwrap_or(Path::new("/")).to_owned()
}

/// What tells one disk from another.
fn device(base: &Path) -> Option<u64> {
    fs::metadata(base).ok().map(|found| found.dev())
}

/// Whether it is there or can be made, and can be written; and a folder in it, or where it would be.
fn place(name: &'static str, dir: &Path) -> (Check, Option<TempDir>) {
    let (base, shown) = (ground(dir), dir.display());
    let is_there = dir.exists();
    match tempfile::Builder::new().prefix(PREFIX).tempdir_in(&base) {
        Ok(made) => {
            let found = if is_there {
                format!("{shown} can be written")
            } else {
                format!("{shown} is not there yet, and can be made")
            };
            (Check::ok(name, found), Some(made))
        }
        Err(error) => {
            let found = format!("{shown} cannot be written: {}: {}", base.display(), reason(&error));
            let user = rustix::process::geteuid().as_raw();
            let remedy = format!("make it a directory that user {user} may write, or set {} to another", key(name));
            (Check::failed(name, found, remedy), None)
        }
    }
}

/// The system's words; what stands around them names a file of chance.
fn reason(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| std::error::Error::source(inner)) {
        Some(source) => source.to_string(),
        None => io::Error::from(error.kind()).to_string(),
    }
}

fn key(name: &str) -> &'static str {
    if name == LOG { "wal.directory" } else { "data_dir" }
}

/// Kinds of file systems by their numbers (statfs(2)), and what speaks against them.
const SYSTEMS: &[(u32, &str, Option<&str>)] = &[
    (0xEF53, "ext4", None),
    (0x5846_5342, "xfs", None),
    (0x9123_683E, "btrfs", None),
    (0x2FC1_2FC1, "zfs", None),
    (0xF2F5_2010, "f2fs", None),
    (0xCA45_1A4E, "bcachefs", None),
    (0x0102_1994, "tmpfs", Some("it is memory, and gone after a restart of the machine: nothing is durable there")),
    (0x8584_58F6, "ramfs", Some("it is memory, and gone after a restart of the machine: nothing is durable there")),
    (0x794C_7630, "overlay", Some("it is a container's own layer, which goes with the container")),
    (0x6969, "nfs", Some("a lock and a sync over a network hold less than the server promises")),
    (0xFF53_4D42, "cifs", Some("a lock and a sync over a network hold less than the server promises")),
    (0xFE53_4D42, "smb2", Some("a lock and a sync over a network hold less than the server promises")),
    (0x0102_1997, "9p", Some("a lock and a sync over it hold less than the server promises")),
    (0x6573_5546, "fuse", Some("whether a sync is one is up to a program")),
];

fn file_system(name: &'static str, base: &Path) -> Check {
    match statfs(base) {
        Ok(found) => judged(name, base, found.f_type as u32),
        Err(error) => not_told(name, base, error),
    }
}

fn not_told(name: &'static str, base: &Path, error: rustix::io::Errno) -> Check {
    Check::warning(name, format!("{}: {error}", base.display()), "look at what is mounted there")
}

fn judged(name: &'static str, base: &Path, kind: u32) -> Check {
    let shown = base.display();
    match SYSTEMS.iter().find(|(number, ..)| *number == kind) {
        None => Check::ok(name, format!("{shown} is on a file system of the kind {kind:#x}")),
        Some((_, system, None)) => Check::ok(name, format!("{shown} is on {system}")),
        Some((_, system, Some(against))) => {
            let remedy = "put data_dir and wal.directory on a local disk with ext4 or xfs; in a container, on a volume";
            Check::warning(name, format!("{shown} is on {system}: {against}"), remedy)
        }
    }
}

fn free(base: &Path) -> Result<u64, rustix::io::Errno> {
    statvfs(base).map(|found| found.f_bavail.saturating_mul(found.f_frsize))
}

/// Of the disk of `data_dir`, where it is not the log's.
fn data_space(subject: &Subject, base: &Path) -> Check {
    let shards = subject.config.as_ref().map_or(1, |config| config.engine.shard_cores.len() as u64);
    let flush = subject.loaded.settings.buffer_freeze_bytes.saturating_mul(shards);
    let is_local = subject.config.as_ref().is_none_or(|config| config.s3.is_none());
    free(base).map_or_else(|error| not_told(DATA_SPACE, base, error), |free| data_room(free, flush, is_local))
}

/// Whether `free` bytes are enough for the catalog and for files as they are made, of which there may be `flush` at a time.
fn data_room(free: u64, flush: u64, is_local: bool) -> Check {
    let what = if is_local { "all committed files" } else { "files on their way to S3" };
    let found =
        format!("{} free for the catalog and {what}; a flush of every shard makes up to {}", size(free), size(flush));
    if free < DATA_LEAST {
        let remedy =
            format!("make room: the catalog cannot be changed on a full disk, and {} are the least", size(DATA_LEAST));
        return Check::failed(DATA_SPACE, found, remedy);
    }
    if free < flush.saturating_add(DATA_LEAST) {
        let remedy = "make room, or lower buffer.freeze_bytes: where files cannot be written the log fills up, and refuses records then";
        return Check::warning(DATA_SPACE, found, remedy);
    }
    Check::ok(DATA_SPACE, found)
}

fn space(subject: &Subject, wal_dir: &Path, base: &Path) -> Check {
    let free = match free(base) {
        Ok(free) => free,
        Err(error) => return not_told(SPACE, base, error),
    };
    let quota = subject.loaded.settings.wal_quota_bytes;
    let least = subject
        .config
        .as_ref()
        .map_or(0, |config| SEGMENTS_MIN * config.engine.wal.segment_bytes * config.engine.shard_cores.len() as u64);
    room(free, bytes_under(wal_dir), quota, least)
}

/// Whether `free` bytes are enough for a log that has `used` already and may grow to `quota`.
fn room(free: u64, used: u64, quota: u64, least: u64) -> Check {
    let found = format!(
        "{} free; the log has {} of wal.quota_bytes = {} (at 85 % of them records are refused for a while)",
        size(free),
        size(used),
        size(quota)
    );
    if free < least.saturating_sub(used) {
        let remedy =
            format!("make room: {} are the least that the shards need, or lower wal.segment_bytes", size(least));
        return Check::failed(SPACE, found, remedy);
    }
    if free < quota.saturating_sub(used) {
        let remedy = "make room, or lower wal.quota_bytes: a full disk refuses records before the log is full";
        return Check::warning(SPACE, found, remedy);
    }
    Check::ok(SPACE, found)
}

/// What the log's files take. Those that come and go meanwhile count or not.
fn bytes_under(wal_dir: &Path) -> u64 {
    let entries = |dir: &Path| fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    let files = entries(wal_dir).flat_map(|shard| entries(&shard.path()));
    files.filter_map(|file| file.metadata().ok()).filter(fs::Metadata::is_file).map(|file| file.len()).sum()
}

/// Writes as a shard does, and takes the folder away.
fn writes(folder: TempDir) -> Vec<Check> {
    const REMEDY: &str = "look at the disk and its mount: the log must be able to write here";
    let opened = opened(folder);
    let measured = opened.and_then(|file| {
        let direct = match file.write_fd() {
            Some(fd) => fcntl_getfl(fd)?.contains(OFlags::DIRECT),
            None => false,
        };
        let small = durations(&*file, BLOCK_BYTES, SMALL_WRITES)?;
        let large = durations(&*file, LARGE_BYTES, LARGE_WRITES)?;
        Ok((direct, file.writes_are_durable(), small, large))
    });
    match measured {
        Err(error) => vec![Check::failed(WRITES, format!("a durable write failed: {error}"), REMEDY)],
        Ok((direct, synced, small, large)) => vec![flags(direct, synced), latency(&small, &large)],
    }
}

/// A file without a name: whatever ends this process ends the file too.
fn opened(folder: TempDir) -> io::Result<std::sync::Arc<dyn DiskFile>> {
    let (disk, path) = (RealDisk::default(), folder.path().join("writes"));
    let file = disk.create(&path, FILE_BYTES as u64)?;
    disk.remove(&path)?;
    folder.close()?;
    Ok(file)
}

/// How long each of so many durable writes took, sorted.
fn durations(file: &dyn DiskFile, bytes: usize, count: usize) -> io::Result<Vec<Duration>> {
    let mut data = aligned_buffer(bytes);
    // Zeros over zeros are what a disk may make light of.
    data.extend((0..bytes).map(|at| (at.wrapping_mul(2_654_435_761) >> 7) as u8));
    let mut taken = Vec::with_capacity(count);
    for at in 0..count {
        let offset = at * bytes % FILE_BYTES;
        let begun = Instant::now();
        file.write_durable(&data, offset as u64)?;
        taken.push(begun.elapsed());
    }
    taken.sort_unstable();
    Ok(taken)
}

fn flags(direct: bool, synced: bool) -> Check {
    let how = if synced { "O_DSYNC" } else { "a sync after each write" };
    if direct {
        return Check::ok(DIRECT, format!("log writes go with O_DIRECT and {how}"));
    }
    let remedy = "put the log on ext4 or xfs: without O_DIRECT each write goes through the page cache";
    Check::warning(DIRECT, format!("the file system refuses O_DIRECT; log writes go with {how}"), remedy)
}

fn latency(small: &[Duration], large: &[Duration]) -> Check {
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    let seconds: f64 = large.iter().map(Duration::as_secs_f64).sum();
    let rate = (large.len() * LARGE_BYTES) as f64 / 1e6 / seconds.max(f64::MIN_POSITIVE);
    let (p50, p99) = (quantile(small, 50), quantile(small, 99));
    let found = format!(
        "4 KiB: p50 {:.3} ms, p99 {:.3} ms; 1 MiB: p50 {:.2} ms, p99 {:.2} ms, {rate:.0} MB/s",
        millis(p50),
        millis(p99),
        millis(quantile(large, 50)),
        millis(quantile(large, 99))
    );
    if p50 < TOO_QUICK {
        let remedy = "no disk is so quick: turn off write caches that a power cut empties, and use no RAM disk";
        return Check::warning(WRITES, found, remedy);
    }
    if p99 > TOO_SLOW {
        let remedy = "each ack waits for such a write: use a quicker disk, or one that does nothing else";
        return Check::warning(WRITES, found, remedy);
    }
    Check::ok(WRITES, found)
}

/// Of sorted times, of which there is one at least.
fn quantile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn a_place_is_there_or_can_be_made_and_nothing_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let deep = dir.path().join("not/there");
        for (path, part) in [(dir.path(), "can be written"), (deep.as_path(), "can be made")] {
            let (check, folder) = place(DATA, path);
            assert!(check.verdict == Verdict::Ok && check.found.contains(part), "{check:?}");
            let checks = writes(folder.expect("a folder"));
            assert_eq!(checks.iter().map(|check| check.name).collect::<Vec<_>>(), [DIRECT, WRITES]);
            assert!(checks.iter().all(|check| check.verdict != Verdict::Failed), "{checks:?}");
        }
        assert_eq!(fs::read_dir(dir.path()).expect("a listing").count(), 0);

        let file = dir.path().join("file");
        fs::write(&file, "").expect("written");
        let (check, folder) = place(LOG, &file.join("wal"));
        assert!(folder.is_none() && check.verdict == Verdict::Failed && check.found.contains("cannot"), "{check:?}");
        assert!(check.remedy.expect("one").contains("wal.directory"));
    }

    #[test]
    fn file_systems_that_are_no_disks_are_told_of() {
        let verdict = |kind| judged(SYSTEM, Path::new("/x"), kind).verdict;
        assert_eq!([0xEF53, 0x1234].map(verdict), [Verdict::Ok; 2]);
        assert_eq!([0x0102_1994, 0x794C_7630, 0x6969].map(verdict), [Verdict::Warning; 3]);
    }

    #[test]
    fn room_is_what_the_log_still_wants() {
        let verdict = |free, used| room(free, used, 1000, 400).verdict;
        assert_eq!(verdict(1000, 0), Verdict::Ok);
        assert_eq!(verdict(100, 900), Verdict::Ok, "the log has it already");
        assert_eq!(verdict(999, 0), Verdict::Warning);
        assert_eq!(verdict(399, 0), Verdict::Failed);
    }

    #[test]
    fn where_the_log_is_elsewhere_room_is_for_what_is_flushed() {
        let verdict = |free, flush| data_room(free, flush, true).verdict;
        assert_eq!(verdict(DATA_LEAST + 1000, 1000), Verdict::Ok);
        assert_eq!(verdict(DATA_LEAST + 999, 1000), Verdict::Warning);
        assert_eq!(verdict(DATA_LEAST - 1, 0), Verdict::Failed);
        assert!(data_room(0, 0, false).found.contains("S3"));
    }

    #[test]
    fn a_disk_that_lies_or_lags_is_told_of() {
        let verdict = |micros: u64, worst: u64| {
            let mut small = vec![Duration::from_micros(micros); 199];
            small.extend([Duration::from_micros(worst); 3]);
            latency(&small, &[Duration::from_millis(5)]).verdict
        };
        assert_eq!(verdict(300, 900), Verdict::Ok);
        assert_eq!(verdict(5, 900), Verdict::Warning);
        assert_eq!(verdict(300, 25_000), Verdict::Warning);
        assert!(latency(&[TOO_QUICK], &[Duration::from_millis(5)]).found.contains("210 MB/s"));
    }
}
