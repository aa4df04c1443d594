//! What lies in a server's directory: catalog, objects, manifests.

use std::{collections::BTreeSet, fs, path::Path};

use rusqlite::{Connection, OpenFlags};
use ttdust::{
    catalog::{Catalog, CatalogPlace, PgFigures, StoredFile, StreamHour},
    manifests::{Checkpoint, Manifest},
    objects::{FileName, checkpoint_key_of, manifest_key_of},
};
use ttdust_shards::ids::StreamId;

/// What the catalog of one stream says now.
#[derive(Debug, Clone, Copy)]
pub struct Counts {
    pub files: u64,
    /// Files of level 0.
    pub flushes: u64,
    /// Others.
    pub merged: u64,
    pub bytes: u64,
    pub retired: u64,
    pub debts: u64,
    pub first_sequence: i64,
    pub flushed_through: i64,
}

pub fn connect(dir: &Path) -> Connection {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(dir.join("data/catalog.sqlite"), flags).expect("a catalog");
    connection.busy_timeout(crate::process::DEADLINE).expect("set");
    connection
}

impl Counts {
    pub fn of(dir: &Path) -> Self {
        let sql = "SELECT count(*), count(*) FILTER (WHERE level = 0), coalesce(sum(bytes), 0), \
                   (SELECT count(*) FROM retired_files), (SELECT count(*) FROM manifest_debts), \
                   coalesce(min(first_sequence), 0), (SELECT coalesce(max(flushed_through), 0) FROM streams) FROM files";
        let row = connect(dir).query_row(sql, [], |row| {
            let number = |at: usize| row.get::<_, i64>(at);
            Ok([number(0)?, number(1)?, number(2)?, number(3)?, number(4)?, number(5)?, number(6)?])
        });
        let [files, flushes, bytes, retired, debts, first_sequence, flushed_through] = row.expect("one row");
        Self {
            files: files as u64,
            flushes: flushes as u64,
            merged: (files - flushes) as u64,
            bytes: bytes as u64,
            retired: retired as u64,
            debts: debts as u64,
            first_sequence,
            flushed_through,
        }
    }
}

/// Where each file begins.
pub fn firsts(catalog: &Connection) -> Vec<i64> {
    let mut statement = catalog.prepare("SELECT first_sequence FROM files ORDER BY first_sequence").expect("SQL");
    statement.query_map([], |row| row.get(0)).expect("rows").map(|row| row.expect("a number")).collect()
}

/// The keys of the files' objects of a stream that are there.
pub fn objects_of(dir: &Path, stream: &str) -> BTreeSet<String> {
    let root = dir.join("data/objects");
    let (mut waiting, mut found) = (vec![root.join(stream)], BTreeSet::new());
    while let Some(path) = waiting.pop() {
        // What goes while it is looked at is gone.
        for entry in fs::read_dir(&path).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                waiting.push(entry.path());
            } else if entry.path().extension().is_some_and(|extension| extension == "parquet") {
                let path = entry.path();
                found.insert(path.strip_prefix(&root).expect("below").display().to_string());
            }
        }
    }
    found
}

fn listed(dir: &Path, stream: &str) -> Vec<StoredFile> {
    let place = CatalogPlace::Embedded(dir.join("data/catalog.sqlite"));
    let stream: StreamId = stream.parse().expect("an id");
    crate::block_on(async {
        let catalog = Catalog::open(&place, PgFigures::default()).await.expect("a catalog");
        catalog.files_after(stream, 0, u32::MAX).await.expect("a list")
    })
}

/// The stream's files hold `first` to `last` without a gap, each object is there as the catalog says, and each key says what it
/// is. The keys.
pub fn check_store(dir: &Path, stream: &str, first: i64, last: i64) -> BTreeSet<String> {
    let files = listed(dir, stream);
    let mut next = first;
    for file in &files {
        assert_eq!(file.first_sequence, next, "{file:?}");
        next = file.last_sequence + 1;
        let bytes = fs::read(dir.join("data/objects").join(&file.key)).expect("an object");
        assert_eq!((bytes.len() as u64, crc32c::crc32c(&bytes)), (file.bytes, file.checksum), "{file:?}");
        let name = FileName::parse(&file.key).expect("a file's key");
        assert_eq!((name.first_sequence, name.last_sequence), (file.first_sequence, file.last_sequence));
        assert_eq!(name.merged.map_or(0, |mark| mark.level), file.level);
    }
    assert!(next > last, "files end at {next}, rows at {last}");
    files.into_iter().map(|file| file.key).collect()
}

/// Manifests and checkpoint say what the catalog says, where none is owed: the list can be made again from them alone.
pub fn check_manifests(dir: &Path, stream: &str) {
    let files = listed(dir, stream);
    let id: StreamId = stream.parse().expect("an id");
    let objects = dir.join("data/objects");
    let (mut found, mut waiting) = (Vec::new(), vec![objects.join(stream)]);
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(fs::read_dir(&path).expect("a listing").map(|entry| entry.expect("an entry").path()));
        } else if path.file_name().is_some_and(|name| name == "manifest.json") {
            let manifest: Manifest = serde_json::from_slice(&fs::read(&path).expect("read")).expect("a manifest");
            let of = StreamHour { stream: id, hour: ttdust_shards::parquet::PartitionHour(manifest.hour) };
            assert_eq!(objects.join(manifest_key_of(id, of.hour)), path);
            found.extend(manifest.stored());
        }
    }
    found.sort_by_key(|file| file.first_sequence);
    let owed = Counts::of(dir).debts > 0;
    if owed {
        // The server was stopped before it wrote the last ones: what there is, is true of its time.
        return;
    }
    assert_eq!(found, files, "the manifests are the list");
    let text = fs::read(objects.join(checkpoint_key_of(id))).expect("a checkpoint");
    let checkpoint: Checkpoint = serde_json::from_slice(&text).expect("a checkpoint");
    assert_eq!(checkpoint.first_sequence, files.first().map(|file| file.first_sequence));
    assert_eq!(checkpoint.flushed_through, Counts::of(dir).flushed_through);
    assert_eq!(checkpoint.files, files.len() as u64);
}
