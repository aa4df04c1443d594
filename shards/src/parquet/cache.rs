//! What was read of files and is worth keeping: footers, heads of key indexes, and ranges of files that lie elsewhere.
//!
//! Bounded in bytes. What was not used for long goes first, and ranges, of which there can be any number, go before footers and
//! heads once they take half of the room: an absent key costs a look into the head of each file, so those are worth most. When
//! the events of files were is a few bytes each, and stays when the footers that told it have to go: until it takes an eighth of
//! the room. A file never changes under its name, so nothing kept is ever wrong. Shared by all threads that read.

use std::{
    collections::{HashMap, VecDeque},
    ops::Range,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;

use super::{
    index::Head,
    read::{EventSpan, Facts},
};

const PARTS: usize = 8;
/// What the bookkeeping of an entry takes, about.
const ENTRY_BYTES: usize = 160;
/// Of what a cache may hold: what event times may take before they are the first to go.
const EVENTS_SHARE: usize = 8;

/// The queues of a part of the cache.
const FOOTERS: usize = 0;
const RANGES: usize = 1;
const EVENTS: usize = 2;

/// Which part of a file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Part {
    Footer,
    /// Of the key index of the field with this number.
    Head(usize),
    Events,
    Range(Range<u64>),
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    Footer(Arc<Facts>),
    Head(Arc<Head>),
    Events(EventSpan),
    Range(Bytes),
}

impl Value {
    fn memory_bytes(&self) -> usize {
        match self {
            Self::Footer(facts) => facts.memory_bytes(),
            Self::Head(head) => head.memory_bytes(),
            Self::Events(_) => 0,
            Self::Range(bytes) => bytes.len(),
        }
    }

    fn queue(&self) -> usize {
        match self {
            Self::Footer(_) | Self::Head(_) => FOOTERS,
            Self::Range(_) => RANGES,
            Self::Events(_) => EVENTS,
        }
    }
}

/// The cache.
#[derive(Debug)]
pub struct FileCache {
    parts: [Mutex<Kept>; PARTS],
    hasher: ahash::RandomState,
}

/// The files whose names fall to one of the locks.
#[derive(Debug, Default)]
struct Kept {
    files: HashMap<Arc<Path>, Entries, ahash::RandomState>,
    /// Footers and heads, ranges, and event times: in the order in which they came, or were last passed over because they had
    /// been used.
    queues: [Queue; 3],
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct Queue {
    order: VecDeque<(Arc<Path>, Part)>,
    bytes: usize,
}

/// What is kept of a file.
#[derive(Debug, Default)]
struct Entries {
    /// Footer, heads and event times: few.
    few: Vec<(Part, Entry)>,
    ranges: HashMap<Range<u64>, Entry, ahash::RandomState>,
}

impl Entries {
    fn get_mut(&mut self, part: &Part) -> Option<&mut Entry> {
        match part {
            Part::Range(range) => self.ranges.get_mut(range),
            part => self.few.iter_mut().find(|(known, _)| known == part).map(|(_, entry)| entry),
        }
    }

    fn insert(&mut self, part: Part, entry: Entry) {
        match part {
            Part::Range(range) => drop(self.ranges.insert(range, entry)),
            part => self.few.push((part, entry)),
        }
    }

    fn remove(&mut self, part: &Part) {
        match part {
            Part::Range(range) => drop(self.ranges.remove(range)),
            part => self.few.retain(|(known, _)| known != part),
        }
    }

    fn is_empty(&self) -> bool {
        self.few.is_empty() && self.ranges.is_empty()
    }
}

#[derive(Debug)]
struct Entry {
    value: Value,
    bytes: usize,
    /// Since it was last passed over.
    used: bool,
}

impl FileCache {
    /// A cache of at most `bytes` bytes; what is larger than an eighth of it is not kept. 0: nothing is.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let part = || Mutex::new(Kept { bytes_max: bytes / PARTS, ..Kept::default() });
        Self { parts: std::array::from_fn(|_| part()), hasher: ahash::RandomState::new() }
    }

    /// Bytes that it holds.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(|part| part.lock().unwrap_or_else(PoisonError::into_inner).bytes()).sum()
    }

    pub(super) fn get(&self, file: &Path, part: &Part) -> Option<Value> {
        let mut kept = self.part(file);
        let entry = kept.files.get_mut(file)?.get_mut(part)?;
        entry.used = true;
        Some(entry.value.clone())
    }

    /// Whether no record of the file has a key with this hash in `field`; `None`: it is not known here.
    pub(super) fn lacks(&self, file: &Path, field: &str, hash: u64) -> Option<bool> {
        let mut kept = self.part(file);
        kept.files.get_mut(file)?.few.iter_mut().find_map(|(_, entry)| match &entry.value {
            Value::Head(head) if head.field() == field => {
                entry.used = true;
                Some(head.lacks(hash))
            }
            _ => None,
        })
    }

    /// When the events of a file's records were; `None`: it is not known here.
    pub(super) fn events(&self, file: &Path) -> Option<EventSpan> {
        match self.get(file, &Part::Events)? {
            Value::Events(span) => Some(span),
            _ => None,
        }
    }

    pub(super) fn put(&self, file: &Path, part: Part, value: Value) {
        self.part(file).put(file, part, value);
    }

    fn part(&self, file: &Path) -> MutexGuard<'_, Kept> {
        let part = self.hasher.hash_one(file) as usize % PARTS;
        // Nothing can panic between two changes that belong together, but for a broken invariant.
        self.parts[part].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn bytes(&self) -> usize {
        self.queues.iter().map(|queue| queue.bytes).sum()
    }

    fn put(&mut self, file: &Path, part: Part, value: Value) {
        let bytes = value.memory_bytes() + 2 * file.as_os_str().len() + ENTRY_BYTES;
        let is_known = self.files.get_mut(file).is_some_and(|entries| entries.get_mut(&part).is_some());
        if bytes > self.bytes_max || is_known {
            return;
        }
        let known = self.files.get_key_value(file).map(|(name, _)| Arc::clone(name));
        let name = known.unwrap_or_else(|| Arc::from(file));
        while self.bytes() + bytes > self.bytes_max {
            self.make_room();
        }
        let queue = &mut self.queues[value.queue()];
        queue.bytes += bytes;
        queue.order.push_back((Arc::clone(&name), part.clone()));
        self.files.entry(name).or_default().insert(part, Entry { value, bytes, used: false });
    }

    /// Takes one entry away, or passes one over. Each is passed over once at most for each time that it was used.
    fn make_room(&mut self) {
        let [footers, ranges, events] = &self.queues;
        let from = if ranges.bytes > self.bytes_max / 2 {
            RANGES
        } else if events.bytes > self.bytes_max / EVENTS_SHARE {
            EVENTS
        } else if !footers.order.is_empty() {
            FOOTERS
        } else if !ranges.order.is_empty() {
            RANGES
        } else {
            EVENTS
        };
        let queue = &mut self.queues[from];
        let (name, part) = queue.order.pop_front().expect("what takes bytes is an entry");
        let entries = self.files.get_mut(&name).expect("each place in a queue has an entry");
        let entry = entries.get_mut(&part).expect("as above");
        if std::mem::take(&mut entry.used) {
            queue.order.push_back((name, part));
            return;
        }
        queue.bytes -= entry.bytes;
        entries.remove(&part);
        if entries.is_empty() {
            self.files.remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(cache: &FileCache, file: &str, at: u64) -> Option<usize> {
        match cache.get(Path::new(file), &Part::Range(at..at + 1)) {
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
            put(&cache, &format!("cold {}", at % 100), at, 1000 + at as usize % 100);
            assert!(cache.bytes() <= PARTS * 100_000);
            assert_eq!(range(&cache, "hot", 0), Some(1000), "used all the while");
        }
        assert_eq!(range(&cache, "cold 0", 0), None);
        assert_eq!(range(&cache, "cold 99", 9999), Some(1099));
        assert!(cache.bytes() > PARTS * 90_000, "{}", cache.bytes());
    }

    #[test]
    fn many_ranges_leave_half_of_the_room_to_heads() {
        let cache = FileCache::new(PARTS * 100_000);
        let head = |n: u32| Value::Head(Arc::new(Head::of(&[format!("key {n}")])));
        for n in 0..100 {
            cache.put(Path::new(&format!("file {n}")), Part::Head(0), head(n));
        }
        for at in 0..10_000 {
            put(&cache, &format!("cold {}", at % 100), at, 1000);
        }
        let hash = |n: u32| super::super::index::hash_of(&format!("key {n}"));
        for n in 0..100 {
            let file = format!("file {n}");
            assert_eq!(cache.lacks(Path::new(&file), "k", hash(n)), Some(false), "{file}");
            assert_eq!(cache.lacks(Path::new(&file), "k", hash(n + 1)), Some(true), "{file}");
            assert_eq!(cache.lacks(Path::new(&file), "other", hash(n)), None);
        }
        assert_eq!(cache.lacks(Path::new("cold 1"), "k", hash(1)), None);
        assert!(cache.bytes() > PARTS * 90_000 && cache.bytes() <= PARTS * 100_000, "{}", cache.bytes());
    }

    #[test]
    fn event_times_stay_when_footers_go_but_take_an_eighth_at_most() {
        let cache = FileCache::new(PARTS * 100_000);
        let span = |at: i64| EventSpan { told_by: 1, first: at, last: at + 1 };
        let name = |kind: &str, at: i64| std::path::PathBuf::from(format!("{kind} {at}"));
        for at in 0..100 {
            cache.put(&name("early", at), Part::Events, Value::Events(span(at)));
        }
        for at in 0..2000 {
            let head = Head::of(&[format!("key {at}"), "x".repeat(100)]);
            cache.put(&name("late", at), Part::Head(0), Value::Head(Arc::new(head)));
            put(&cache, &format!("ranges {}", at % 100), at as u64, 1000);
        }
        for at in 0..100 {
            assert_eq!(cache.events(&name("early", at)), Some(span(at)));
        }
        assert_eq!(cache.events(&name("late", 0)), None);
        for at in 0..100_000 {
            cache.put(&name("many", at), Part::Events, Value::Events(span(at)));
            assert!(cache.bytes() <= PARTS * 100_000);
        }
        let events = |part: &Mutex<Kept>| part.lock().expect("not poisoned").queues[EVENTS].bytes;
        let bytes: usize = cache.parts.iter().map(events).sum();
        assert!((PARTS * 10_000..=PARTS * (100_000 / EVENTS_SHARE + 1000)).contains(&bytes), "{bytes}");
        assert!(cache.bytes() > PARTS * 80_000, "the others keep their room: {}", cache.bytes());
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
