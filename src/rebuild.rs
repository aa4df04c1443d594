//! `ttdust objects rebuild`: the catalog's lists of files made again from what lies beside the files, when the catalog was lost
//! and is there again from an older copy.
//!
//! Of each stream that the catalog knows, the files are those that the manifests name, in order, from the first on. A manifest
//! is a pass of the upkeep behind the catalog: where the objects go on past the manifests, or a manifest names what was merged
//! meanwhile, objects take over that begin where the list stands, for a file's key says which rows it holds. Each of those is
//! read whole, and told by its footer that it is what its key says. A list with a gap, or with an object that is not there, is
//! refused with the place, and nothing of that stream is changed. Objects are never removed; `flushed_through` never falls. Streams
//! that the catalog does not know are told of, and left alone: restore the catalog from a copy that knows them.

use std::{
    collections::{BTreeMap, HashSet},
    path::{Path, PathBuf},
};

use ttdust_shards::{
    ids::StreamId,
    parquet::{ParquetFileError, cache::FileCache, merge, read::FileReader, source::FileSource},
};

use crate::{
    calendar::now_unix_micros,
    catalog::{Catalog, CatalogError, CatalogPlace, Commit, PgFigures, StoredFile, Stream, StreamHour, StreamStatus},
    config::Config,
    data_dir::DataDir,
    manifests::{self, Checkpoint, Manifest},
    objects::{FileName, LIST_MAX, ObjectEntry, ObjectError, Objects, S3Figures, checkpoint_key_of, prefix_of},
};

/// A manifest or a checkpoint is not longer.
const BESIDE_BYTES_MAX: u64 = 64 << 20;
/// Bytes of an object that are read at once.
const FETCH_BYTES: u64 = 4 << 20;
/// Who claims a shared catalog meanwhile.
const CLAIMANT: &str = "ttdust objects rebuild";

/// Why a list cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// The catalog does not answer, or refuses.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The object store does not.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// An object cannot be read.
    #[error(transparent)]
    File(#[from] ParquetFileError),
    /// The system failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// What lies there makes no list.
    #[error("{0}")]
    Broken(String),
}

/// The list of a stream's files as it is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List {
    /// The files, in order and without a gap.
    pub files: Vec<StoredFile>,
    /// How many of them no manifest names.
    pub adopted: usize,
    /// The last sequence number that ever was in a file.
    pub flushed_through: i64,
}

/// What lies in a stream's folder.
#[derive(Debug, Default)]
struct Folder {
    /// Objects of files, by the first sequence number.
    objects: BTreeMap<i64, Vec<(FileName, ObjectEntry)>>,
    /// What the manifests say, by the key.
    named: BTreeMap<String, StoredFile>,
    checkpoint: Option<Checkpoint>,
}

/// Makes the lists of all streams again; says what is to be done, and does it if `apply`. No server may run on the catalog.
///
/// # Errors
/// The catalog or the store cannot be used; a list of some stream cannot be made.
pub fn print(config: &Config, apply: bool) -> Result<(), Box<dyn std::error::Error>> {
    let place = CatalogPlace::of(config);
    let locked = matches!(place, CatalogPlace::Embedded(_)).then(|| DataDir::lock(&config.settings().data_dir));
    let _locked = locked.transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let broken = runtime.block_on(async {
        let catalog = Catalog::open(&place, PgFigures::default()).await?;
        catalog.claim(CLAIMANT).await?;
        let objects = Objects::open(config, S3Figures::default()).await?;
        let scratch = tempfile::tempdir().map_err(io_error("cannot make a directory"))?;
        rebuild(&catalog, &objects, scratch.path(), apply).await
    })?;
    if broken > 0 {
        return Err(format!("the lists of {broken} streams cannot be made: see above").into());
    }
    Ok(())
}

fn io_error(what: &str) -> impl FnOnce(std::io::Error) -> RebuildError {
    let what = what.to_owned();
    move |source| RebuildError::Io { what, source }
}

/// All streams; how many of them have no list.
async fn rebuild(catalog: &Catalog, objects: &Objects, scratch: &Path, apply: bool) -> Result<usize, RebuildError> {
    let streams = catalog.everything().await?.streams;
    let mut broken = 0;
    for stream in streams.iter().filter(|stream| stream.status != StreamStatus::Deleting) {
        match rebuild_one(catalog, objects, stream, scratch, apply).await {
            Ok(()) => {}
            Err(RebuildError::Broken(reason)) => {
                println!("{} {}: no list can be made: {reason}", stream.id, stream.name);
                broken += 1;
            }
            Err(error) => return Err(error),
        }
    }
    let known: HashSet<StreamId> = streams.iter().map(|stream| stream.id).collect();
    for (stream, files) in strangers(catalog, objects, &known).await? {
        println!("{stream}: {files} files of a stream that this catalog does not know are left alone");
    }
    Ok(broken)
}

async fn rebuild_one(
    catalog: &Catalog,
    objects: &Objects,
    stream: &Stream,
    scratch: &Path,
    apply: bool,
) -> Result<(), RebuildError> {
    let listed = catalog.files_after(stream.id, 0, u32::MAX).await?;
    let list = list_of(objects, stream, scratch).await?;
    let (id, name) = (stream.id, &stream.name);
    if list.files == listed && list.flushed_through == stream.flushed_through {
        println!("{id} {name}: the list of {} files is as it should be", listed.len());
        return Ok(());
    }
    let (was, is): (HashSet<_>, HashSet<_>) = (keys(&listed).collect(), keys(&list.files).collect());
    println!(
        "{id} {name}: {} files up to {}, of which the catalog lists {}; {} others that it lists are none; {} are in no manifest",
        list.files.len(),
        list.flushed_through,
        is.intersection(&was).count(),
        was.difference(&is).count(),
        list.adopted
    );
    if apply && catalog.set_files(id, list.files, list.flushed_through, now_unix_micros()).await? == Commit::StreamGone
    {
        return Err(RebuildError::Broken("it is being deleted".to_owned()));
    }
    Ok(())
}

fn keys(files: &[StoredFile]) -> impl Iterator<Item = &str> {
    files.iter().map(|file| file.key.as_str())
}

/// Streams with files of which the catalog never heard, and how many files each has.
async fn strangers(
    catalog: &Catalog,
    objects: &Objects,
    known: &HashSet<StreamId>,
) -> Result<BTreeMap<String, u64>, RebuildError> {
    let mut found = BTreeMap::new();
    for object in list(objects, "").await? {
        let Some(name) = FileName::parse(&object.key).filter(|name| !known.contains(&name.stream)) else { continue };
        // A tombstone is known too: its objects are on their way out.
        if matches!(catalog.stream(name.stream).await, Err(CatalogError::NotFound(_))) {
            *found.entry(name.stream.to_string()).or_default() += 1;
        }
    }
    Ok(found)
}

async fn list(objects: &Objects, prefix: &str) -> Result<Vec<ObjectEntry>, RebuildError> {
    let mut found: Vec<ObjectEntry> = Vec::new();
    loop {
        let page = objects.list(prefix, found.last().map(|last| last.key.as_str()), LIST_MAX).await?;
        let last_page = page.len() < LIST_MAX;
        found.extend(page);
        if last_page {
            return Ok(found);
        }
    }
}

/// The list of a stream.
async fn list_of(objects: &Objects, stream: &Stream, scratch: &Path) -> Result<List, RebuildError> {
    let folder = Folder::read(objects, stream.id).await?;
    let chosen = folder.chosen()?;
    let (mut files, mut adopted) = (Vec::new(), 0);
    for (name, object) in chosen {
        files.push(match folder.named.get(&object.key) {
            Some(file) => file.clone(),
            None => {
                adopted += 1;
                adopt(objects, &name, &object, scratch).await?
            }
        });
    }
    let end = files.last().map_or(0, |file| file.last_sequence);
    let before = folder.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.flushed_through);
    Ok(List { files, adopted, flushed_through: end.max(before).max(stream.flushed_through) })
}

impl Folder {
    async fn read(objects: &Objects, stream: StreamId) -> Result<Self, RebuildError> {
        let mut folder = Self::default();
        for object in list(objects, &format!("{}/", prefix_of(stream))).await? {
            if let Some(name) = FileName::parse(&object.key) {
                folder.objects.entry(name.first_sequence).or_default().push((name, object));
            } else if object.key == checkpoint_key_of(stream) {
                folder.checkpoint = Some(parsed(&object.key, &objects.get(&object.key, BESIDE_BYTES_MAX).await?)?);
            } else if object.key.ends_with("/manifest.json") {
                let manifest: Manifest = parsed(&object.key, &objects.get(&object.key, BESIDE_BYTES_MAX).await?)?;
                folder.named.extend(manifest.stored().into_iter().map(|file| (file.key.clone(), file)));
            }
        }
        Ok(folder)
    }

    /// Where the list begins; `None`: there are no files.
    fn begin(&self) -> Result<Option<i64>, RebuildError> {
        let named = self.named.values().map(|file| file.first_sequence).min();
        let said = self.checkpoint.as_ref().and_then(|checkpoint| checkpoint.first_sequence);
        match (named.or(said), self.objects.first_key_value()) {
            (Some(first), _) => Ok(Some(first)),
            // What retention dropped may lie there still: without a word of the first one, only the very first is sure.
            (None, Some((&1, _))) if self.checkpoint.is_none() => Ok(Some(1)),
            (None, Some((first, _))) if self.checkpoint.is_none() => Err(RebuildError::Broken(format!(
                "its objects begin at record {first}, and no manifest says whether that is where its files begin"
            ))),
            // The checkpoint says that there are none; what is past it was flushed later.
            (None, Some(_)) => {
                let through = self.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.flushed_through);
                Ok(self.objects.contains_key(&(through + 1)).then_some(through + 1))
            }
            (None, None) => Ok(None),
        }
    }

    /// The objects of the list, in order.
    fn chosen(&self) -> Result<Vec<(FileName, ObjectEntry)>, RebuildError> {
        let mut chosen = Vec::new();
        let Some(mut next) = self.begin()? else { return Ok(chosen) };
        while let Some(found) = self.objects.get(&next).and_then(|found| self.best(found)) {
            next = found.0.last_sequence + 1;
            chosen.push(found.clone());
        }
        let last = self.named.values().map(|file| file.last_sequence).max().unwrap_or(0);
        match next <= last {
            true => Err(RebuildError::Broken(format!(
                "no object begins with record {next}, though its manifests go on up to {last}: put the object back, or give \
                 these records up by removing the manifests and objects past it"
            ))),
            false => Ok(chosen),
        }
    }

    /// Which of the objects that begin with the same record is the file: the one that a manifest names as it is, else the longest.
    fn best<'f>(&self, found: &'f [(FileName, ObjectEntry)]) -> Option<&'f (FileName, ObjectEntry)> {
        let is_named = |(_, object): &&(FileName, ObjectEntry)| {
            self.named.get(&object.key).is_some_and(|file| file.bytes == object.bytes)
        };
        let by_rows =
            |(name, _): &&(FileName, ObjectEntry)| (name.last_sequence, name.merged.map_or(0, |mark| mark.level));
        found.iter().filter(is_named).max_by_key(by_rows).or_else(|| found.iter().max_by_key(by_rows))
    }
}

fn parsed<T: serde::de::DeserializeOwned>(key: &str, text: &[u8]) -> Result<T, RebuildError> {
    /// What every version of the format has.
    #[derive(serde::Deserialize)]
    struct Versioned {
        format: u32,
    }
    let unreadable = |error| RebuildError::Broken(format!("{key} cannot be read: {error}"));
    let Versioned { format } = serde_json::from_slice(text).map_err(unreadable)?;
    if format > manifests::FORMAT {
        let known = manifests::FORMAT;
        let reason = format!("{key} has format {format}, this program knows {known}: use a newer program");
        return Err(RebuildError::Broken(reason));
    }
    serde_json::from_slice(text).map_err(unreadable)
}

/// A file that no manifest names, as the catalog is to know it.
async fn adopt(
    objects: &Objects,
    name: &FileName,
    object: &ObjectEntry,
    scratch: &Path,
) -> Result<StoredFile, RebuildError> {
    let (copy, checksum) = copied(objects, object, scratch).await?;
    let (key, name) = (object.key.clone(), *name);
    let read = tokio::task::spawn_blocking(move || facts_of(&copy, &key, &name));
    let (min_timestamp, max_timestamp) =
        read.await.map_err(|error| RebuildError::Broken(format!("{}: {error}", object.key)))??;
    if name.merged.is_some_and(|mark| mark.checksum != checksum) {
        return Err(RebuildError::Broken(format!("{} is damaged: its CRC32C is {checksum:08x}", object.key)));
    }
    Ok(StoredFile {
        key: object.key.clone(),
        hour: name.hour,
        first_sequence: name.first_sequence,
        last_sequence: name.last_sequence,
        min_timestamp,
        max_timestamp,
        bytes: object.bytes,
        checksum,
        level: name.merged.map_or(0, |mark| mark.level),
    })
}

/// The object as a file here, and its CRC32C.
async fn copied(objects: &Objects, object: &ObjectEntry, scratch: &Path) -> Result<(PathBuf, u32), RebuildError> {
    use std::io::Write as _;
    let path = scratch.join("object.parquet");
    let failed = |source| RebuildError::Io { what: format!("cannot write {}", path.display()), source };
    let mut file = std::fs::File::create(&path).map_err(failed)?;
    let (mut at, mut checksum) = (0, 0);
    while at < object.bytes {
        let end = object.bytes.min(at + FETCH_BYTES);
        #[allow(clippy::single_range_in_vec_init, reason = "a list of one range is meant")]
        for bytes in objects.read_ranges(&object.key, vec![at..end]).await? {
            checksum = crc32c::crc32c_append(checksum, &bytes);
            file.write_all(&bytes).map_err(failed)?;
        }
        at = end;
    }
    Ok((path, checksum))
}

/// The times of the first and the last row of a file that is what its key says. Blocking.
fn facts_of(path: &Path, key: &str, name: &FileName) -> Result<(i64, i64), RebuildError> {
    let footer = merge::footer(path)?;
    let said = (footer.stream, footer.first_sequence, footer.last_sequence);
    if said != (name.stream, name.first_sequence, name.last_sequence) {
        return Err(RebuildError::Broken(format!("{key} holds other rows than its name says")));
    }
    let (source, cache) = (FileSource::from(path.to_owned()), FileCache::new(0));
    let mut reader = FileReader::open(&source, &cache)?;
    let rows = reader.rows();
    if rows == 0 {
        // The stream's pipeline left them all out: they were of this hour.
        let start = name.hour.0.saturating_mul(StreamHour::MICROS);
        return Ok((start, start.saturating_add(StreamHour::MICROS - 1)));
    }
    let mut time = |row: usize| -> Result<i64, RebuildError> {
        let read = reader.read(row..row + 1)?.pop();
        read.map(|row| row.timestamp_unix_micros).ok_or_else(|| RebuildError::Broken(format!("{key} has no row {row}")))
    };
    Ok((time(0)?, time(rows - 1)?))
}

#[cfg(test)]
mod tests {
    use ttdust_shards::parquet::PartitionHour;

    use super::*;
    use crate::objects::MergeMark;

    /// A folder of one stream: objects by their ends and levels, and which of them the manifests name.
    fn folder(objects: &[(i64, i64, u32)], named: &[(i64, i64, u32)]) -> Folder {
        let stream = StreamId::generate();
        let mut folder = Folder::default();
        let name = |&(first, last, level): &(i64, i64, u32)| FileName {
            stream,
            hour: PartitionHour(0),
            first_sequence: first,
            last_sequence: last,
            merged: (level > 0).then_some(MergeMark { level, checksum: 7 }),
            version: 1,
        };
        for name in objects.iter().map(name) {
            let object = ObjectEntry { key: name.to_string(), bytes: 10, modified_unix_micros: 0 };
            folder.objects.entry(name.first_sequence).or_default().push((name, object));
        }
        for name in named.iter().map(name) {
            let file = StoredFile {
                key: name.to_string(),
                hour: name.hour,
                first_sequence: name.first_sequence,
                last_sequence: name.last_sequence,
                min_timestamp: 0,
                max_timestamp: 0,
                bytes: 10,
                checksum: 7,
                level: name.merged.map_or(0, |mark| mark.level),
            };
            folder.named.insert(file.key.clone(), file);
        }
        folder
    }

    fn chosen(folder: &Folder) -> Result<Vec<(i64, i64)>, String> {
        let chosen = folder.chosen().map_err(|error| error.to_string())?;
        Ok(chosen.iter().map(|(name, _)| (name.first_sequence, name.last_sequence)).collect())
    }

    fn checkpoint(first_sequence: Option<i64>, flushed_through: i64) -> Checkpoint {
        Checkpoint {
            format: 1,
            stream_id: String::new(),
            name: String::new(),
            schema_id: String::new(),
            key_fields: Vec::new(),
            written_at: 0,
            first_sequence,
            flushed_through,
            files: 0,
            bytes: 0,
            rows: 0,
        }
    }

    #[test]
    fn what_the_manifests_name_is_the_list_and_objects_go_on_where_they_end() {
        let flushes = [(11, 20, 0), (21, 30, 0), (31, 40, 0)];
        assert_eq!(chosen(&folder(&flushes, &flushes)), Ok(vec![(11, 20), (21, 30), (31, 40)]));
        assert_eq!(chosen(&folder(&flushes, &flushes[..2])), Ok(vec![(11, 20), (21, 30), (31, 40)]));
        // What was merged, or is past its retention, lies there still.
        let left = [&flushes[..], &[(1, 10, 0), (11, 30, 1)]].concat();
        assert_eq!(chosen(&folder(&left, &[(11, 30, 1), (31, 40, 0)])), Ok(vec![(11, 30), (31, 40)]));
        // A manifest that is behind names what is gone.
        assert_eq!(chosen(&folder(&[(11, 30, 1), (31, 40, 0)], &flushes)), Ok(vec![(11, 30), (31, 40)]));
        assert_eq!(chosen(&folder(&[], &[])), Ok(vec![]));
    }

    #[test]
    fn what_a_newer_program_wrote_is_refused() {
        let mut newer = serde_json::to_value(checkpoint(None, 3)).expect("JSON");
        assert_eq!(parsed::<Checkpoint>("k", newer.to_string().as_bytes()).expect("parsed").flushed_through, 3);
        newer["format"] = 2.into();
        // Of such a one nothing else need be as it was.
        newer["flushed_through"] = "3".into();
        let refused = parsed::<Checkpoint>("k", newer.to_string().as_bytes()).expect_err("refused").to_string();
        assert!(refused.contains("k has format 2") && refused.contains("use a newer program"), "{refused}");
    }

    #[test]
    fn a_gap_is_refused_and_so_is_a_beginning_of_which_nothing_is_known() {
        let named = [(1, 10, 0), (11, 20, 0), (21, 30, 0)];
        let refused = chosen(&folder(&[(1, 10, 0), (21, 30, 0)], &named)).expect_err("a gap");
        assert!(refused.contains("record 11") && refused.contains("30"), "{refused}");
        assert_eq!(chosen(&folder(&[(1, 10, 0), (11, 20, 0)], &[])), Ok(vec![(1, 10), (11, 20)]));
        let refused = chosen(&folder(&[(11, 20, 0)], &[])).expect_err("no word of 1 to 10");
        assert!(refused.contains("record 11"), "{refused}");
        // A checkpoint knows.
        let mut known = folder(&[(1, 10, 0), (11, 20, 0)], &[]);
        known.checkpoint = Some(checkpoint(Some(11), 20));
        assert_eq!(chosen(&known), Ok(vec![(11, 20)]));
        known.checkpoint = Some(checkpoint(None, 10));
        assert_eq!(chosen(&known), Ok(vec![(11, 20)]), "all before is past its retention");
        known.checkpoint = Some(checkpoint(None, 20));
        assert_eq!(chosen(&known), Ok(vec![]));
    }
}
