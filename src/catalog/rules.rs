//! What a change makes of an object, and when it is refused: one home for both stores, which only read and write.

use ttdust_shards::ids::{FIRST_SEQUENCE, StreamId};

use super::{
    CatalogError, Result, Schema, SchemaChange, SchemaVersion, StoredFile, Stream, StreamChange, StreamPipelines,
    StreamStatus,
};

fn check_version(wanted: Option<i64>, current: i64) -> Result<()> {
    match wanted {
        Some(wanted) if wanted != current => Err(CatalogError::Stale { current }),
        _ => Ok(()),
    }
}

/// Whether a change that was held against all of the catalog at generation `judged` is the next after it, as which it made the
/// generation `raised`: what came between may be what speaks against it. `None`: it was not held against the rest.
pub(super) fn is_next(judged: Option<i64>, raised: i64) -> Result<()> {
    check_version(judged, raised - 1)
}

/// The schema after `change`.
pub(super) fn changed_schema(before: &Schema, change: SchemaChange, now: i64) -> Result<Schema> {
    check_version(change.if_version, before.version)?;
    let mut after = touched_schema(before, now);
    after.description = change.description.unwrap_or(after.description);
    after.compatibility_mode = change.compatibility_mode.unwrap_or(after.compatibility_mode);
    after.policy = change.policy.unwrap_or(after.policy);
    Ok(after)
}

fn touched_schema(before: &Schema, now: i64) -> Schema {
    Schema { version: before.version + 1, updated_at: now, ..before.clone() }
}

/// The schema with one version more, which was judged against the schema as it was at `judged`.
pub(super) fn with_version(before: &Schema, version: &SchemaVersion, judged: i64) -> Result<Schema> {
    check_version(Some(judged), before.version)?;
    if before.latest_version + 1 != version.version {
        let newest = before.latest_version;
        return Err(CatalogError::Conflict(format!("version {newest} of {} was added meanwhile", version.schema)));
    }
    Ok(Schema { latest_version: version.version, ..touched_schema(before, version.created_at) })
}

/// The schema and its version after the version was taken out of use; `None`: it was so before.
///
/// `in_force` is the newest version that is not retired, `used` says whether streams use the schema.
pub(super) fn retired(
    schema: &Schema,
    version: &SchemaVersion,
    in_force: Option<u32>,
    used: bool,
    now: i64,
) -> Result<Option<(Schema, SchemaVersion)>> {
    if version.retired_at.is_some() {
        return Ok(None);
    }
    if used && in_force == Some(version.version) {
        return Err(CatalogError::Conflict(format!(
            "version {} of {} is the one that streams are checked with: add a newer one first",
            version.version, version.schema
        )));
    }
    Ok(Some((touched_schema(schema, now), SchemaVersion { retired_at: Some(now), ..version.clone() })))
}

/// The stream after `change`; `None`: no change is needed.
pub(super) fn changed_stream(before: &Stream, change: StreamChange, now: i64) -> Result<Option<Stream>> {
    assert!(
        !matches!(change.status, Some(StreamStatus::Creating | StreamStatus::Deleted)),
        "a stream begins as creating, and ends by end_deletion"
    );
    if before.status == StreamStatus::Deleted {
        return Err(CatalogError::NotFound(format!("stream {}", before.id)));
    }
    check_version(change.if_version, before.version)?;
    // A deletion is never taken back: some of the data may be gone. Asking for it again is no fault.
    if before.status == StreamStatus::Deleting {
        return match change.status {
            Some(StreamStatus::Deleting) => Ok(None),
            _ => Err(CatalogError::Conflict(format!(
                "stream {} is deleting, and can only become deleted: wait for it, then create a new one",
                before.id
            ))),
        };
    }
    let mut after = touched_stream(before, now);
    after.description = change.description.unwrap_or(after.description);
    after.retention = change.retention.unwrap_or(after.retention);
    after.labels = change.labels.unwrap_or(after.labels);
    after.status = change.status.unwrap_or(after.status);
    after.pipelines = change.pipelines.unwrap_or(after.pipelines);
    after.dead_letters = change.dead_letters.or(after.dead_letters);
    Ok(Some(after))
}

fn touched_stream(before: &Stream, now: i64) -> Stream {
    Stream { version: before.version + 1, updated_at: now, ..before.clone() }
}

/// The tombstone of a stream.
pub(super) fn deleted(before: &Stream, now: i64) -> Result<Stream> {
    match before.status {
        // Nobody reads its rows any more.
        StreamStatus::Deleting => Ok(Stream {
            status: StreamStatus::Deleted,
            pipelines: StreamPipelines::default(),
            ..touched_stream(before, now)
        }),
        StreamStatus::Deleted => Err(CatalogError::NotFound(format!("stream {}", before.id))),
        status => Err(CatalogError::Conflict(format!(
            "stream {} is {}, and can only become deleted by way of deleting",
            before.id,
            status.name()
        ))),
    }
}

/// Whether files of such a stream are wanted.
pub(super) fn takes_files(status: StreamStatus) -> bool {
    !matches!(status, StreamStatus::Deleting | StreamStatus::Deleted)
}

/// Which of `files` are new to a stream whose files end at `flushed_through`, and where they end then.
///
/// `before` holds the stream's files that begin where one of `files` does, those that others took the place of included: a
/// commit whose answer was lost is tried again however late.
pub(super) fn new_files<'a>(
    flushed_through: i64,
    files: &'a [StoredFile],
    before: &[StoredFile],
) -> Result<(Vec<&'a StoredFile>, i64)> {
    let mut through = flushed_through.max(FIRST_SEQUENCE - 1);
    let mut new = Vec::new();
    for file in files {
        assert!(file.last_sequence >= file.first_sequence, "a file holds rows");
        if file.first_sequence <= through {
            // At or before the mark it must be one that was committed before.
            if !before.contains(file) {
                return Err(CatalogError::Conflict(format!(
                    "{} overlaps with other files of its stream, which are committed up to {through}",
                    file.key
                )));
            }
            continue;
        }
        if file.first_sequence != through + 1 {
            return Err(CatalogError::Conflict(format!(
                "{} begins at {}, but the files of its stream end at {through}: rows between would be lost",
                file.key, file.first_sequence
            )));
        }
        new.push(file);
        through = file.last_sequence;
    }
    Ok((new, through))
}

/// Whether the files `found`, in order, of the keys `wanted` can be replaced by `new`; `false`: they were before.
///
/// `there` is the committed file of the new one's key; `retired` says that the key is a retired file's, whose object goes.
pub(super) fn replaces(
    wanted: &[String],
    found: &[StoredFile],
    new: &StoredFile,
    there: Option<&StoredFile>,
    retired: bool,
) -> Result<bool> {
    let refused =
        |why: &str| Err(CatalogError::Conflict(format!("{} cannot take the place of others: {why}", new.key)));
    if found.is_empty() && there == Some(new) {
        return Ok(false);
    }
    let whole = found.len() == wanted.len() && found.iter().all(|file| wanted.contains(&file.key));
    let ([first, ..], [.., last]) = (found, found) else { return refused("none of them is there") };
    if !whole || retired || there.is_some() {
        return refused("its stream's files were changed meanwhile");
    }
    let side_by_side = found.windows(2).all(|pair| pair[0].last_sequence + 1 == pair[1].first_sequence);
    let same_rows = (new.first_sequence, new.last_sequence) == (first.first_sequence, last.last_sequence)
        && (new.min_timestamp, new.max_timestamp) == (first.min_timestamp, last.max_timestamp);
    let same_hour = found.iter().all(|file| file.hour == new.hour);
    if !(side_by_side && same_rows && same_hour && found.iter().all(|file| file.level < new.level)) {
        return refused("it does not hold their rows, of one hour and without a gap, at a higher level");
    }
    Ok(true)
}

/// Whether there may be another job beside so many that have not ended.
pub(super) fn has_room(unfinished: i64, most: u32) -> Result<()> {
    if unfinished < i64::from(most) {
        return Ok(());
    }
    Err(CatalogError::Full(format!(
        "{unfinished} jobs have not ended, as many as may be: wait until one has, or call one off"
    )))
}

/// Files that follow each other without a gap, up to `through` at most.
pub(super) fn is_list(files: &[StoredFile], through: i64) -> Result<()> {
    let gap = files.windows(2).find(|pair| pair[0].last_sequence + 1 != pair[1].first_sequence);
    if let Some([before, after]) = gap {
        return Err(CatalogError::Conflict(format!("{} does not follow {}", after.key, before.key)));
    }
    match files.iter().find(|file| file.last_sequence < file.first_sequence || file.last_sequence > through) {
        Some(file) => Err(CatalogError::Conflict(format!("{} is not within the files up to {through}", file.key))),
        None => Ok(()),
    }
}

/// Whether an object of a stream, named as one of its files and known to no list, is an orphan: its rows are in files, or its
/// stream is gone. One past the end of the files may be a flush that is still to be committed.
pub(super) fn is_orphan(stream: &Stream, file: &StoredFile) -> bool {
    stream.status == StreamStatus::Deleted || file.last_sequence <= stream.flushed_through
}

/// A stream can only be checked with a version that is in use.
pub(super) fn usable(stream: StreamId, schema: &Schema, in_force: Option<u32>) -> Result<()> {
    match in_force {
        Some(_) => Ok(()),
        None => Err(CatalogError::Conflict(format!(
            "every version of {} is retired: add one before stream {stream} uses it",
            schema.id
        ))),
    }
}
