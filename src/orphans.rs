//! Objects that no list names: what a crash left between an object and its commit.
//!
//! A listing is read first and the references after it, so what is committed meanwhile is seen. Nothing is taken for an orphan
//! that is younger than the grace, whose key is not one that this program gives to files, whose stream the catalog does not know
//! (it may be another catalog's, or this one was restored from an old copy), or whose rows are not all in files: a flush past
//! `flushed_through` may be on its way however long Postgres was away. So missing metadata never costs an object. An orphan is
//! given up in one step of the catalog, which looks once more, and only then its object is removed, after the same grace as any
//! other: so whoever was about to commit it finds that it cannot.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use ttdust_shards::ids::StreamId;

use crate::{
    calendar::now_unix_micros,
    catalog::{Catalog, CatalogError, CatalogPlace, PgFigures, StoredFile, StreamStatus},
    config::Config,
    data_dir::DataDir,
    objects::{FileName, ObjectEntry, ObjectError, Objects, S3Figures},
};

const OBJECTS_A_PAGE: usize = 1000;

/// Why a pass was not done to its end. What it did stays done.
#[derive(Debug, thiserror::Error)]
pub enum OrphanError {
    /// The catalog does not answer.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The object store does not.
    #[error(transparent)]
    Object(#[from] ObjectError),
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Files' objects looked at.
    pub files: u64,
    /// Orphans among them.
    pub orphans: u64,
    /// The orphans' bytes.
    pub bytes: u64,
    /// Objects of streams that the catalog does not know. They are never removed.
    pub unknown: u64,
}

/// `ttdust objects orphans`: prints the orphans, and gives them up if `give_up`. An embedded catalog has one user at a time, so its
/// server must not run.
///
/// # Errors
/// The catalog or the store cannot be used.
pub fn print(config: &Config, give_up: bool) -> Result<(), Box<dyn std::error::Error>> {
    let place = CatalogPlace::of(config);
    let locked = matches!(place, CatalogPlace::Embedded(_)).then(|| DataDir::lock(&config.settings().data_dir));
    let _locked = locked.transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let found = runtime.block_on(async {
        let catalog = Catalog::open(&place, PgFigures::default()).await?;
        let objects = Objects::open(config, S3Figures::default()).await?;
        let each = |file: &StoredFile| println!("{} {} bytes", file.key, file.bytes);
        pass(&catalog, &objects, config.settings().upkeep.orphans_grace, give_up, each).await
    })?;
    let done = if give_up { "given up" } else { "found" };
    println!("{} orphans of {} bytes {done} among {} files", found.orphans, found.bytes, found.files);
    if found.unknown > 0 {
        println!("{} objects are of streams that this catalog does not know, and stay", found.unknown);
    }
    Ok(())
}

/// Looks through all objects for orphans that are older than `grace`, hands each to `each`, and gives them up if `give_up`: then
/// none of them can become a file any more, and they are removed as retired files are.
///
/// # Errors
/// See [`OrphanError`].
pub async fn pass(
    catalog: &Catalog,
    objects: &Objects,
    grace: Duration,
    give_up: bool,
    mut each: impl FnMut(&StoredFile),
) -> Result<Found, OrphanError> {
    let mut found = Found::default();
    let mut after: Option<String> = None;
    let oldest = now_unix_micros().saturating_sub(i64::try_from(grace.as_micros()).unwrap_or(i64::MAX));
    loop {
        let page = objects.list("", after.as_deref(), OBJECTS_A_PAGE).await?;
        let last_page = page.len() < OBJECTS_A_PAGE;
        after = page.last().map(|object| object.key.clone());
        let mut old: BTreeMap<StreamId, Vec<StoredFile>> = BTreeMap::new();
        for object in page {
            let Some(name) = FileName::parse(&object.key) else { continue };
            found.files += 1;
            if object.modified_unix_micros < oldest {
                old.entry(name.stream).or_default().push(named(name, object));
            }
        }
        for (stream, files) in old {
            let orphans = orphans_of(catalog, stream, files, &mut found).await?;
            for orphan in &orphans {
                found.orphans += 1;
                found.bytes += orphan.bytes;
                each(orphan);
            }
            if give_up && !orphans.is_empty() {
                // It looks once more, in one step with giving them up.
                catalog.condemn(stream, orphans, now_unix_micros()).await?;
            }
        }
        if last_page {
            return Ok(found);
        }
    }
}

/// What an object would be as a file, as far as its name tells.
fn named(name: FileName, object: ObjectEntry) -> StoredFile {
    StoredFile {
        key: object.key,
        hour: name.hour,
        first_sequence: name.first_sequence,
        last_sequence: name.last_sequence,
        min_timestamp: 0,
        max_timestamp: 0,
        bytes: object.bytes,
        checksum: 0,
        level: name.merged.map_or(0, |mark| mark.level),
    }
}

/// Those of a stream's objects that are orphans.
async fn orphans_of(
    catalog: &Catalog,
    stream: StreamId,
    mut files: Vec<StoredFile>,
    found: &mut Found,
) -> Result<Vec<StoredFile>, CatalogError> {
    match catalog.stream(stream).await {
        Ok(stream) if stream.status == StreamStatus::Deleted => {}
        Ok(stream) => files.retain(|file| file.last_sequence <= stream.flushed_through),
        Err(CatalogError::NotFound(_)) => {
            found.unknown += files.len() as u64;
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    }
    let keys = files.iter().map(|file| file.key.clone()).collect();
    let unreferenced: HashSet<String> = catalog.unreferenced(keys).await?.into_iter().collect();
    files.retain(|file| unreferenced.contains(&file.key));
    Ok(files)
}
