//! `ttdust wal inspect | verify | repair | restore`: the log, for people. Only `repair` changes anything, and only while no server
//! has it; `restore` makes it anew.
//!
//! A path is a shard's folder (`wal/shard-00000`), the folder of all of them (`wal`), or, for `inspect`, one segment.

use std::path::{Path, PathBuf};

use ttdust_shards::{
    ids::ShardId,
    io::real::RealDisk,
    wal::{
        inspect::{self, FrameInfo, Report},
        lock::LogLock,
        recovery::RecoveryError,
    },
};

use crate::{
    archive,
    config::Config,
    objects::{Objects, S3Figures},
};

/// Why a log could not be looked at, or is not sound.
#[derive(Debug, thiserror::Error)]
pub enum WalToolError {
    /// Damaged, or not readable.
    #[error(transparent)]
    Log(#[from] RecoveryError),
    /// Another process has it.
    #[error("{}: {source}", path.display())]
    InUse {
        /// The folder of all shards' logs.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Nothing of that kind is there.
    #[error("{}: no log is here: want a segment, a shard's folder such as wal/shard-00000, or the folder of all shards", .0.display())]
    NoLog(PathBuf),
}

/// The shard whose folder `path` is, by its name.
fn shard_of(path: &Path) -> Option<ShardId> {
    path.file_name()?.to_str()?.strip_prefix("shard-")?.parse().ok().map(ShardId)
}

/// The shards' folders that `path` stands for, in order.
fn folders(path: &Path) -> Result<Vec<(ShardId, PathBuf)>, WalToolError> {
    let none = || WalToolError::NoLog(path.to_owned());
    let path = path.canonicalize().map_err(|_| none())?;
    if let Some(shard) = shard_of(&path) {
        return Ok(vec![(shard, path)]);
    }
    let entries = std::fs::read_dir(&path).map_err(|_| none())?;
    let mut found: Vec<_> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            Some((shard_of(&path)?, path))
        })
        .collect();
    found.sort();
    if found.is_empty() { Err(none()) } else { Ok(found) }
}

/// Prints what a log holds; with `frames`, every frame of it. Goes on past damage.
///
/// # Errors
/// See [`WalToolError`].
pub fn inspect(path: &Path, frames: bool) -> Result<(), WalToolError> {
    let mut print = |frame: &FrameInfo| {
        if frames {
            println!(
                "lsn {} segment {:016x} offset {} bytes {} entries {} records {} streams {:?}",
                frame.lsn.0, frame.segment, frame.offset, frame.bytes, frame.entries, frame.records, frame.streams
            );
        }
    };
    let disk = RealDisk::default();
    if path.is_file() {
        print_report(path, &inspect::inspect(&disk, path, None, &mut print)?);
        return Ok(());
    }
    for (shard, folder) in folders(path)? {
        print_report(&folder, &inspect::inspect(&disk, &folder, Some(shard), &mut print)?);
    }
    Ok(())
}

/// Checks a log as a start would.
///
/// # Errors
/// The log is damaged or cannot be read.
pub fn verify(path: &Path) -> Result<(), WalToolError> {
    let folders = folders(path)?;
    if folders[0].1.parent().is_some_and(LogLock::is_taken) {
        eprintln!("a server is writing this log: what is wrong at its end may be what it is writing just now");
    }
    for (shard, folder) in folders {
        print_report(&folder, &inspect::verify(&RealDisk::default(), &folder, shard)?);
    }
    Ok(())
}

/// Makes the log of `node` again in `to` from its archive, checks it, and says what it holds.
///
/// # Errors
/// There is none, `to` is not empty, or what is there is not a whole log.
pub fn restore(config: &Config, node: &str, log: Option<&str>, to: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let restored = runtime.block_on(async {
        let objects = Objects::open(config, S3Figures::default()).await?;
        archive::restore(&objects, node, log, to).await
    })?;
    println!(
        "log {}: {} segments of {} bytes restored to {}",
        restored.log,
        restored.segments,
        restored.bytes,
        to.display()
    );
    verify(to)?;
    Ok(())
}

/// Cuts each log at its first damage, so that the server starts again, and says what was given up.
///
/// # Errors
/// The log cannot be read or changed.
pub fn repair(path: &Path) -> Result<(), WalToolError> {
    let folders = folders(path)?;
    let wal_dir = folders[0].1.parent().unwrap_or(Path::new("/")).to_owned();
    let _lock = LogLock::take(&wal_dir).map_err(|source| WalToolError::InUse { path: wal_dir, source })?;
    for (shard, folder) in folders {
        match inspect::repair(&RealDisk::default(), &folder, shard)? {
            None => println!("{}: no damage, nothing was changed", folder.display()),
            Some(repaired) => {
                println!("{}: cut at {}", folder.display(), repaired.damage);
                println!("  kept up to lsn {}", repaired.last_lsn.0);
                println!("  given up: {} whole frames with {} records", repaired.frames_lost, repaired.records_lost);
                repaired.aside.iter().for_each(|file| println!("  set aside: {}", file.display()));
            }
        }
    }
    Ok(())
}

/// What [`inspect()`] prints of the logs under `wal_dir`, without their frames.
///
/// # Errors
/// See [`WalToolError`].
pub fn summary(wal_dir: &Path) -> Result<String, WalToolError> {
    let mut text = String::new();
    for (shard, folder) in folders(wal_dir)? {
        let report = inspect::inspect(&RealDisk::default(), &folder, Some(shard), &mut |_| {})?;
        text.push_str(&shown(&folder, &report));
    }
    Ok(text)
}

fn print_report(path: &Path, report: &Report) {
    print!("{}", shown(path, report));
}

/// A report for people.
fn shown(path: &Path, report: &Report) -> String {
    let mut lines = vec![format!(
        "{}: {} segments, {} frames up to lsn {}, {} records, {} payload bytes, {} bytes read\n",
        path.display(),
        report.segments.len(),
        report.frames,
        report.last_lsn.0,
        report.records,
        report.payload_bytes,
        report.bytes_read
    )];
    lines.extend(report.segments.iter().map(|segment| {
        format!(
            "  {} bytes {} used {} frames {} lsn {} to {}\n",
            segment.path.display(),
            segment.bytes,
            segment.used_bytes,
            segment.frames,
            segment.first_lsn.0,
            segment.last_lsn.0
        )
    }));
    lines.extend(report.torn.iter().map(|torn| format!("  torn tail, never acked: {torn}\n")));
    lines.extend(report.damage.iter().map(|damage| format!("  DAMAGED: {damage}\n")));
    lines.concat()
}
