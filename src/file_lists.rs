//! The committed files of streams, in memory: what a query needs of the catalog, so that it goes on while Postgres is away.
//!
//! Invariants: a list that is answered holds every file up to the sequence number that was asked for. It is kept in step by
//! whoever changes it: the flusher adds what it committed, before the shard lets go of the rows; whoever replaces or drops
//! files has the list forgotten, after the catalog knows of it and before an object is removed. A list that a query was given
//! stays as it is. Bounded: the streams that were asked for longest ago go first.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ttdust_shards::{ids::StreamId, query::FileRef};

use crate::{
    catalog::{Catalog, CatalogError, StoredFile},
    objects::Objects,
    shared_cache::SharedCache,
};

/// Files in memory, of all streams: about 60 MB.
const FILES_MAX: usize = 200_000;

/// The lists.
#[derive(Debug)]
pub struct FileLists {
    catalog: Catalog,
    objects: Objects,
    /// Through which files are read.
    shared: Option<Arc<SharedCache>>,
    lists: Mutex<Lists>,
}

impl FileLists {
    /// Empty lists; their files are read through `shared`, if there is one.
    #[must_use]
    pub fn new(catalog: Catalog, objects: Objects, shared: Option<Arc<SharedCache>>) -> Self {
        Self { catalog, objects, shared, lists: Mutex::new(Lists::new(FILES_MAX)) }
    }

    /// The committed files of `stream` in order, at least all up to sequence number `through`.
    ///
    /// # Errors
    /// They are not in memory, and the catalog cannot be read.
    pub async fn get(&self, stream: StreamId, through: i64) -> Result<Arc<Vec<FileRef>>, CatalogError> {
        let reading = match self.lists().get(stream, through) {
            Ok(files) => return Ok(files),
            Err(reading) => reading,
        };
        let stored = self.catalog.files_in(stream, i64::MIN, i64::MAX).await?;
        let files = Arc::new(stored.iter().map(|file| self.file_ref(file)).collect::<Vec<_>>());
        self.lists().read(stream, reading, Arc::clone(&files), through);
        Ok(files)
    }

    /// The catalog has these files of `stream` now, which follow those before. The same again is no change.
    pub fn committed(&self, stream: StreamId, files: &[StoredFile]) {
        let files = files.iter().map(|file| self.file_ref(file)).collect();
        self.lists().committed(stream, files);
    }

    /// Files of `stream` were replaced or dropped in the catalog: the next query reads it anew.
    pub fn forget(&self, stream: StreamId) {
        self.lists().forget(stream);
    }

    fn lists(&self) -> MutexGuard<'_, Lists> {
        // Nothing can panic between two changes that belong together, but for a broken invariant.
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file_ref(&self, file: &StoredFile) -> FileRef {
        let source = self.objects.source(&file.key, file.bytes);
        FileRef {
            source: match &self.shared {
                Some(shared) => shared.over(source, file.checksum),
                None => source,
            },
            hour: file.hour,
            first_sequence: file.first_sequence,
            last_sequence: file.last_sequence,
            min_timestamp: file.min_timestamp,
            max_timestamp: file.max_timestamp,
            bytes: file.bytes,
        }
    }
}

/// The lists themselves; see [`FileLists`].
#[derive(Debug)]
struct Lists {
    streams: HashMap<StreamId, List>,
    /// Of all streams.
    files: usize,
    files_max: usize,
    clock: u64,
}

#[derive(Debug)]
enum List {
    /// It is being read from the catalog, by the reader with this number. A change meanwhile ends that: what is read may lack
    /// it.
    Reading(u64),
    Known {
        files: Arc<Vec<FileRef>>,
        through: i64,
        used: u64,
    },
}

impl Lists {
    fn new(files_max: usize) -> Self {
        Self { streams: HashMap::new(), files: 0, files_max, clock: 0 }
    }

    /// The list, or the number under which to read it.
    fn get(&mut self, stream: StreamId, wanted: i64) -> Result<Arc<Vec<FileRef>>, u64> {
        self.clock += 1;
        if let Some(List::Known { files, through, used }) = self.streams.get_mut(&stream)
            && *through >= wanted
        {
            *used = self.clock;
            return Ok(Arc::clone(files));
        }
        self.forget(stream);
        self.streams.insert(stream, List::Reading(self.clock));
        Err(self.clock)
    }

    /// Reader `number` has read `files`, which hold all up to `through`.
    fn read(&mut self, stream: StreamId, number: u64, files: Arc<Vec<FileRef>>, through: i64) {
        if !matches!(self.streams.get(&stream), Some(List::Reading(current)) if *current == number) {
            return;
        }
        self.streams.remove(&stream);
        let through = files.last().map_or(through, |last| through.max(last.last_sequence));
        self.files += files.len();
        self.streams.insert(stream, List::Known { files, through, used: number });
        self.make_room();
    }

    fn committed(&mut self, stream: StreamId, new: Vec<FileRef>) {
        let Some(List::Known { files, through, .. }) = self.streams.get_mut(&stream) else {
            return self.forget(stream);
        };
        let mut broken = false;
        for file in new {
            if file.last_sequence <= *through {
                continue;
            }
            broken |= file.first_sequence != *through + 1;
            *through = file.last_sequence;
            // A query that holds the list keeps what it has.
            Arc::make_mut(files).push(file);
            self.files += 1;
        }
        if broken {
            // It does not follow what is known: the catalog knows better.
            return self.forget(stream);
        }
        self.make_room();
    }

    fn forget(&mut self, stream: StreamId) {
        if let Some(List::Known { files, .. }) = self.streams.remove(&stream) {
            self.files -= files.len();
        }
    }

    fn make_room(&mut self) {
        while self.files > self.files_max {
            let used = |list: &List| match list {
                List::Known { used, .. } => Some(*used),
                List::Reading(_) => None,
            };
            let oldest = self.streams.iter().filter_map(|(stream, list)| Some((used(list)?, *stream))).min();
            let (_, oldest) = oldest.expect("files are of known lists");
            self.forget(oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use ttdust_shards::parquet::PartitionHour;

    use super::*;

    fn file(first: i64, last: i64) -> FileRef {
        FileRef {
            source: std::path::PathBuf::from(format!("{first}")).into(),
            hour: PartitionHour(0),
            first_sequence: first,
            last_sequence: last,
            min_timestamp: first,
            max_timestamp: last,
            bytes: 1,
        }
    }

    fn list(lists: &mut Lists, stream: StreamId, through: i64) -> Result<Vec<i64>, u64> {
        lists.get(stream, through).map(|files| files.iter().map(|file| file.first_sequence).collect())
    }

    fn load(lists: &mut Lists, stream: StreamId, files: Vec<FileRef>, through: i64) {
        let number = list(lists, stream, i64::MAX).expect_err("nothing goes so far");
        lists.read(stream, number, Arc::new(files), through);
    }

    #[test]
    fn what_is_committed_follows_what_is_known() {
        let (mut lists, stream) = (Lists::new(100), StreamId::generate());
        lists.committed(stream, vec![file(1, 10)]);
        assert!(list(&mut lists, stream, 0).is_err(), "a list that was never read has no beginning");
        load(&mut lists, stream, vec![file(1, 10)], 10);
        let held = lists.get(stream, 10).expect("known");
        lists.committed(stream, vec![file(11, 20), file(21, 30)]);
        lists.committed(stream, vec![file(11, 20), file(21, 30)]);
        assert_eq!(list(&mut lists, stream, 30), Ok(vec![1, 11, 21]));
        assert_eq!(held.len(), 1, "a query keeps what it was given");
        assert!(list(&mut lists, stream, 31).is_err(), "more is flushed than is known");
        // After files that were dropped by their age there is no gap.
        load(&mut lists, stream, vec![], 30);
        lists.committed(stream, vec![file(31, 40)]);
        assert_eq!(list(&mut lists, stream, 40), Ok(vec![31]));
        lists.committed(stream, vec![file(51, 60)]);
        assert!(list(&mut lists, stream, 0).is_err(), "a gap: read it anew");
    }

    #[test]
    fn a_change_while_the_catalog_is_read_makes_the_read_one_for_once() {
        let (mut lists, stream) = (Lists::new(100), StreamId::generate());
        let changes: [fn(&mut Lists, StreamId); 2] =
            [|lists, stream| lists.committed(stream, vec![file(11, 20)]), Lists::forget];
        for change in changes {
            let number = list(&mut lists, stream, 0).expect_err("not known");
            change(&mut lists, stream);
            lists.read(stream, number, Arc::new(vec![file(1, 10)]), 10);
            let newer = list(&mut lists, stream, 0).expect_err("what was read may lack the change");
            // A reader that was overtaken changes nothing.
            lists.read(stream, number, Arc::new(vec![file(1, 10)]), 10);
            assert!(list(&mut lists, stream, 0).is_err() && newer > number);
            lists.forget(stream);
        }
    }

    #[test]
    fn the_streams_used_longest_ago_make_room() {
        let mut lists = Lists::new(10);
        let streams: Vec<_> = (0..6).map(|_| StreamId::generate()).collect();
        for &stream in &streams {
            load(&mut lists, stream, vec![file(1, 1), file(2, 2), file(3, 3)], 3);
            assert!(lists.files <= 10);
            assert!(list(&mut lists, streams[0], 3).is_ok(), "used all the while");
        }
        assert_eq!(
            streams.iter().filter(|stream| matches!(lists.streams.get(*stream), Some(List::Known { .. }))).count(),
            3
        );
        // A list that is larger than all room is not kept, and the query has it all the same.
        load(&mut lists, streams[1], (1..=11).map(|n| file(n, n)).collect(), 11);
        assert_eq!((lists.files, list(&mut lists, streams[1], 11).is_err()), (0, true));
    }
}
