//! What a change makes of an object, and when it is refused: one home for both stores, which only read and write.

use std::collections::HashMap;

use ttdust_shards::ids::{FIRST_SEQUENCE, StreamId};

use super::{
    CatalogError, Result, Schema, SchemaChange, SchemaVersion, StoredFile, Stream, StreamChange, StreamStatus,
};

fn check_version(wanted: Option<i64>, current: i64) -> Result<()> {
    match wanted {
        Some(wanted) if wanted != current => Err(CatalogError::Stale { current }),
        _ => Ok(()),
    }
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

/// The schema with one version more.
pub(super) fn with_version(before: &Schema, version: &SchemaVersion) -> Result<Schema> {
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
            _ => Err(CatalogError::Conflict(format!("stream {} is being deleted", before.id))),
        };
    }
    let mut after = touched_stream(before, now);
    after.description = change.description.unwrap_or(after.description);
    after.retention = change.retention.unwrap_or(after.retention);
    after.labels = change.labels.unwrap_or(after.labels);
    after.status = change.status.unwrap_or(after.status);
    Ok(Some(after))
}

fn touched_stream(before: &Stream, now: i64) -> Stream {
    Stream { version: before.version + 1, updated_at: now, ..before.clone() }
}

/// The tombstone of a stream.
pub(super) fn deleted(before: &Stream, now: i64) -> Result<Stream> {
    match before.status {
        StreamStatus::Deleting => Ok(Stream { status: StreamStatus::Deleted, ..touched_stream(before, now) }),
        StreamStatus::Deleted => Err(CatalogError::NotFound(format!("stream {}", before.id))),
        _ => Err(CatalogError::Conflict(format!("stream {} is not being deleted", before.id))),
    }
}

/// Whether files of such a stream are wanted.
pub(super) fn takes_files(status: StreamStatus) -> bool {
    !matches!(status, StreamStatus::Deleting | StreamStatus::Deleted)
}

/// Which of `files` are new to a stream whose files end at `flushed_through`, and where they end then.
///
/// `before` holds the stream's committed files that begin where one of `files` does, by their first sequence number.
pub(super) fn new_files<'a>(
    flushed_through: i64,
    files: &'a [StoredFile],
    before: &HashMap<i64, StoredFile>,
) -> Result<(Vec<&'a StoredFile>, i64)> {
    let mut through = flushed_through.max(FIRST_SEQUENCE - 1);
    let mut new = Vec::new();
    for file in files {
        assert!(file.last_sequence >= file.first_sequence, "a file holds rows");
        if file.first_sequence <= through {
            // At or before the mark it must be one that was committed before.
            if before.get(&file.first_sequence) != Some(file) {
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
