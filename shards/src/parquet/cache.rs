//! What was read of files and is worth keeping: footers, heads of key indexes, and ranges of files that lie elsewhere.
//!
//! Bounded in bytes; what was used longest ago goes first. A file never changes under its name, so nothing kept is ever
//! wrong. Shared by all threads that read.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;

use super::{index::Head, read::Facts};

const PARTS: usize = 8;
/// What the bookkeeping of an entry takes, about.
const ENTRY_BYTES: usize = 160;

/// Which part of a file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Part {
    Footer,
    /// Of the key index of the field with this number.
    Head(usize),
    Range(Range<u64>),
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    Footer(Arc<Facts>),
    Head(Arc<Head>),
    Range(Bytes),
}

impl Value {
    fn memory_bytes(&self) -> usize {
        match self {
            Self::Footer(facts) => facts.memory_bytes(),
            Self::Head(head) => head.memory_bytes(),
            Self::Range(bytes) => bytes.len(),
        }
    }
}

/// The cache.
#[derive(Debug)]
pub struct FileCache {
    parts: [Mutex<Lru>; PARTS],
    hasher: ahash::RandomState,
}

#[derive(Debug, Default)]
struct Lru {
    entries: HashMap<(PathBuf, Part), Entry, ahash::RandomState>,
    /// By the time of the last use.
    by_use: BTreeMap<u64, (PathBuf, Part)>,
    clock: u64,
    bytes: usize,
    bytes_max: usize,
}

#[derive(Debug)]
struct Entry {
    value: Value,
    bytes: usize,
    used: u64,
}

impl FileCache {
    /// A cache of at most `bytes` bytes; what is larger than an eighth of it is not kept. 0: nothing is.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let part = || Mutex::new(Lru { bytes_max: bytes / PARTS, ..Lru::default() });
        Self { parts: std::array::from_fn(|_| part()), hasher: ahash::RandomState::new() }
    }

    /// Bytes that it holds.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(|part| part.lock().unwrap_or_else(PoisonError::into_inner).bytes).sum()
    }

    pub(super) fn get(&self, file: &Path, part: Part) -> Option<Value> {
        let key = (file.to_owned(), part);
        let mut lru = self.part(&key);
        lru.clock += 1;
        let now = lru.clock;
        let Lru { entries, by_use, .. } = &mut *lru;
        let entry = entries.get_mut(&key)?;
        let name = by_use.remove(&entry.used).expect("each entry has a time of use");
        by_use.insert(now, name);
        entry.used = now;
        Some(entry.value.clone())
    }

    pub(super) fn put(&self, file: &Path, part: Part, value: Value) {
        let key = (file.to_owned(), part);
        let bytes = value.memory_bytes() + 2 * key.0.as_os_str().len() + ENTRY_BYTES;
        let mut lru = self.part(&key);
        if bytes > lru.bytes_max || lru.entries.contains_key(&key) {
            return;
        }
        while lru.bytes + bytes > lru.bytes_max {
            let (_, oldest) = lru.by_use.pop_first().expect("what takes bytes is an entry");
            let gone = lru.entries.remove(&oldest).expect("each time of use has an entry");
            lru.bytes -= gone.bytes;
        }
        lru.clock += 1;
        let used = lru.clock;
        lru.bytes += bytes;
        lru.by_use.insert(used, key.clone());
        lru.entries.insert(key, Entry { value, bytes, used });
    }

    fn part(&self, key: &(PathBuf, Part)) -> std::sync::MutexGuard<'_, Lru> {
        let part = self.hasher.hash_one(key) as usize % PARTS;
        // Nothing can panic between two changes that belong together, but for a broken invariant.
        self.parts[part].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(cache: &FileCache, file: &str, at: u64) -> Option<usize> {
        match cache.get(Path::new(file), Part::Range(at..at + 1)) {
            Some(Value::Range(bytes)) => Some(bytes.len()),
            Some(_) => panic!("a range"),
            None => None,
        }
    }

    fn put(cache: &FileCache, file: &str, at: u64, bytes: usize) {
        cache.put(Path::new(file), Part::Range(at..at + 1), Value::Range(vec![1; bytes].into()));
    }

    #[test]
    fn it_never_holds_more_than_it_may_and_forgets_what_was_used_longest_ago() {
        let cache = FileCache::new(PARTS * 100_000);
        put(&cache, "hot", 0, 1000);
        for at in 0..10_000 {
            put(&cache, "cold", at, 1000 + at as usize % 100);
            assert!(cache.bytes() <= PARTS * 100_000);
            assert_eq!(range(&cache, "hot", 0), Some(1000), "used all the while");
        }
        assert_eq!(range(&cache, "cold", 0), None);
        assert_eq!(range(&cache, "cold", 9999), Some(1099));
        assert!(cache.bytes() > PARTS * 90_000, "{}", cache.bytes());
    }

    #[test]
    fn what_is_too_large_is_not_kept() {
        let cache = FileCache::new(PARTS * 1000);
        put(&cache, "a", 0, 1000);
        assert_eq!((range(&cache, "a", 0), cache.bytes()), (None, 0));
        let none = FileCache::new(0);
        put(&none, "a", 0, 0);
        assert_eq!(range(&none, "a", 0), None);
    }
}
