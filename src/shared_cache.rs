//! Parts of files that lie in an object store, kept in Redis as well: what a query asks the store for, it finds there sooner, and
//! so does another node, or this one after a restart.
//!
//! A part is a range of an object. Its name is made of the object's key, length and checksum and of the range, and an object
//! never changes under its key, so nothing kept is ever out of date; what was merged or removed is just not asked for any more. A
//! value carries a checksum of name and content: what Redis gives is looked at before it is used. Nothing waits for Redis longer
//! than `redis.timeout_ms`: while it is gone or slow, the store alone is asked. What is large is not kept, and nothing is kept
//! for longer than it was told to; how much there is in all is for Redis's own `maxmemory` to say.

use std::{
    io,
    ops::Range,
    path::Path,
    sync::{Arc, mpsc},
    time::Duration,
};

use bytes::Bytes;
use redis::{Pipeline, RedisError};
use tokio::{runtime::Handle, sync::Semaphore};
use ttdust_shards::parquet::source::{FileSource, RangeRead};

use crate::{
    config::RedisUrl,
    metrics::ControlMetrics,
    redis_link::{Purpose, RedisLink},
};

const PURPOSE: Purpose =
    Purpose { with: "it keeps parts of files for queries", without: "queries ask the object store alone" };
/// The longest part that is kept: the key index of a file of a million rows is about as long.
const PART_BYTES_MAX: u64 = 1 << 20;
/// Bytes of one ask: more of them might take longer than an answer may.
const ASK_BYTES_MAX: u64 = 2 << 20;
/// Parts that are on their way to Redis, by the reads that they come from. What comes meanwhile is not kept.
const STORING_MAX: usize = 8;
const CHECKSUM_BYTES: usize = 4;
const KEY_PREFIX: &str = "ttdust:part:1";
const LEVEL: &str = "redis";

/// The cache.
#[derive(Debug)]
pub struct SharedCache {
    link: RedisLink,
    runtime: Handle,
    kept: Duration,
    storing: Arc<Semaphore>,
    metrics: Arc<ControlMetrics>,
}

/// An object that is read through the cache.
#[derive(Debug)]
struct CachedObject {
    cache: Arc<SharedCache>,
    /// What the names of its parts begin with.
    name: String,
    object: Arc<dyn RangeRead>,
}

impl SharedCache {
    /// A cache in the Redis at `url`, each of whose answers may take `timeout`; it keeps a part for `kept`.
    ///
    /// # Errors
    /// The URL is none of a Redis.
    pub async fn start(
        url: &RedisUrl,
        timeout: Duration,
        kept: Duration,
        metrics: Arc<ControlMetrics>,
    ) -> Result<Arc<Self>, RedisError> {
        let link = RedisLink::start(url, timeout, PURPOSE, None, Arc::clone(&metrics)).await?;
        let storing = Arc::new(Semaphore::new(STORING_MAX));
        Ok(Arc::new(Self { link, runtime: Handle::current(), kept, storing, metrics }))
    }

    /// The file, read through the cache if it lies elsewhere; `checksum` is that of all of it.
    #[must_use]
    pub fn over(self: &Arc<Self>, source: FileSource, checksum: u32) -> FileSource {
        match source {
            FileSource::Local(path) => FileSource::Local(path),
            FileSource::Object { key, bytes, ranges } => {
                let name = name_of(&key, bytes, checksum);
                let cached = CachedObject { cache: Arc::clone(self), name, object: ranges };
                FileSource::Object { key, bytes, ranges: Arc::new(cached) }
            }
        }
    }

    /// What Redis has of these parts, by their names and lengths. Blocking.
    fn get(&self, parts: &[(String, u64)]) -> Vec<Option<Bytes>> {
        let nothing = || vec![None; parts.len()];
        let Some(mut connection) = self.link.connection().filter(|_| !parts.is_empty()) else { return nothing() };
        let mut ask = redis::cmd("MGET");
        for (name, _) in parts {
            ask.arg(name);
        }
        let (answer, wait) = mpsc::sync_channel(1);
        let link = self.link.clone();
        self.runtime.spawn(async move {
            let given = link.answered(ask.query_async::<Vec<Option<Vec<u8>>>>(&mut connection)).await;
            // Whoever waited may have given up.
            let _ = answer.send(given);
        });
        // The runtime may be busy: its own time limit is not enough.
        let given = wait.recv_timeout(self.link.timeout() * 2).ok().flatten();
        let given = given.filter(|given| given.len() == parts.len()).unwrap_or_else(|| vec![None; parts.len()]);
        let checked = |(given, (name, length)): (Option<Vec<u8>>, &(String, u64))| checked(name, *length, given?);
        let found: Vec<_> = given.into_iter().zip(parts).map(checked).collect();
        let hits = found.iter().flatten().count() as u64;
        self.metrics.cached(LEVEL, hits, parts.len() as u64 - hits);
        found
    }

    /// Gives parts to Redis, and waits for nothing.
    fn put(&self, parts: Vec<(String, Bytes)>) {
        let Some(mut connection) = self.link.connection().filter(|_| !parts.is_empty()) else { return };
        let Ok(turn) = Arc::clone(&self.storing).try_acquire_owned() else { return };
        let mut orders = Pipeline::new();
        for (name, content) in &parts {
            let value = sealed(name, content);
            orders.cmd("SET").arg(name).arg(value).arg("EX").arg(self.kept.as_secs().max(1)).ignore();
        }
        let link = self.link.clone();
        self.runtime.spawn(async move {
            let stored = async {
                match orders.query_async::<()>(&mut connection).await {
                    // It has no room, say: what it keeps can be read all the same.
                    Err(error) if error.is_io_error() || error.is_connection_dropped() => Err(error),
                    Err(error) => {
                        tracing::debug!(%error, "redis does not keep a part of a file");
                        Ok(())
                    }
                    Ok(()) => Ok(()),
                }
            };
            let _ = link.answered(stored).await;
            drop(turn);
        });
    }
}

impl RangeRead for CachedObject {
    fn read_ranges(&self, ranges: &[Range<u64>]) -> io::Result<Vec<Bytes>> {
        let mut left = ASK_BYTES_MAX;
        let mut small = |range: &Range<u64>| {
            let length = range.end.saturating_sub(range.start);
            let fits = (1..=PART_BYTES_MAX.min(left)).contains(&length);
            left -= if fits { length } else { 0 };
            fits
        };
        let kept: Vec<bool> = ranges.iter().map(&mut small).collect();
        let named = |range: &Range<u64>| format!("{}:{}-{}", self.name, range.start, range.end);
        let asked = ranges.iter().zip(&kept).filter(|(_, kept)| **kept);
        let asked: Vec<_> = asked.map(|(range, _)| (named(range), range.end - range.start)).collect();
        let mut known = self.cache.get(&asked).into_iter();
        let mut found: Vec<Option<Bytes>> =
            kept.iter().map(|kept| if *kept { known.next().flatten() } else { None }).collect();
        let missing: Vec<_> = (0..ranges.len()).filter(|at| found[*at].is_none()).collect();
        if !missing.is_empty() {
            let wanted: Vec<_> = missing.iter().map(|at| ranges[*at].clone()).collect();
            let read = self.object.read_ranges(&wanted)?;
            if read.len() != wanted.len() {
                return Ok(read);
            }
            let mut new = Vec::new();
            for (at, bytes) in missing.into_iter().zip(read) {
                if kept[at] && bytes.len() as u64 == ranges[at].end - ranges[at].start {
                    new.push((named(&ranges[at]), bytes.clone()));
                }
                found[at] = Some(bytes);
            }
            self.cache.put(new);
        }
        Ok(found.into_iter().flatten().collect())
    }
}

/// What the names of an object's parts begin with.
fn name_of(key: &Path, bytes: u64, checksum: u32) -> String {
    format!("{KEY_PREFIX}:{}:{bytes}:{checksum:08x}", key.display())
}

fn checksum_of(name: &str, content: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(name.as_bytes()), content)
}

/// The value of a part.
fn sealed(name: &str, content: &[u8]) -> Vec<u8> {
    [content, &checksum_of(name, content).to_le_bytes()].concat()
}

/// The part of a value; `None`: it is none of this name and length.
fn checked(name: &str, length: u64, mut value: Vec<u8>) -> Option<Bytes> {
    let (content, sum) = value.split_last_chunk::<CHECKSUM_BYTES>()?;
    let whole = content.len() as u64 == length && checksum_of(name, content) == u32::from_le_bytes(*sum);
    value.truncate(value.len() - CHECKSUM_BYTES);
    whole.then(|| value.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_taken_for_its_own_part_alone_and_only_whole() {
        let name = name_of(Path::new("str_1/a.parquet"), 100, 7);
        let value = sealed(&name, b"rows");
        assert_eq!(checked(&name, 4, value.clone()).as_deref(), Some(&b"rows"[..]));
        assert_eq!(checked(&name, 5, value.clone()), None);
        for other in [
            name_of(Path::new("str_1/a.parquet"), 100, 8),
            name_of(Path::new("str_1/b.parquet"), 100, 7),
            String::new(),
        ] {
            assert_eq!(checked(&other, 4, value.clone()), None, "{other}");
        }
        for cut in 0..value.len() {
            assert_eq!(checked(&name, 4, value[..cut].to_vec()), None);
        }
        for at in 0..value.len() {
            let mut damaged = value.clone();
            damaged[at] ^= 1;
            assert_eq!(checked(&name, 4, damaged), None, "byte {at}");
        }
    }
}
