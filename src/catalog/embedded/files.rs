//! Committed files.

use rusqlite::{Connection, OptionalExtension, Row, params};
use ttdust_shards::{
    ids::{FIRST_SEQUENCE, StreamId},
    parquet::PartitionHour,
    snapshot::StreamState,
};

use super::{CatalogError, Commit, FileTotals, Result, StoredFile, failure, streams};

const COLUMNS: &str = "SELECT path, hour, first_sequence, last_sequence, min_timestamp, max_timestamp, bytes, checksum \
                       FROM files";

fn read(row: &Row<'_>) -> rusqlite::Result<StoredFile> {
    Ok(StoredFile {
        key: row.get(0)?,
        hour: PartitionHour(row.get(1)?),
        first_sequence: row.get(2)?,
        last_sequence: row.get(3)?,
        min_timestamp: row.get(4)?,
        max_timestamp: row.get(5)?,
        bytes: row.get::<_, i64>(6)?.cast_unsigned(),
        checksum: row.get(7)?,
    })
}

pub(super) fn commit(connection: &mut Connection, id: StreamId, files: &[StoredFile], now: i64) -> Result<Commit> {
    let transaction = connection.transaction().map_err(failure)?;
    let stream = match streams::get(&transaction, id) {
        Err(CatalogError::NotFound(_)) => return Ok(Commit::StreamGone),
        stream => stream?,
    };
    if stream.state == StreamState::Deleting {
        return Ok(Commit::StreamGone);
    }
    let mut through = stream.flushed_through.max(FIRST_SEQUENCE - 1);
    for file in files {
        assert!(file.last_sequence >= file.first_sequence, "a file holds rows");
        if file.first_sequence <= through {
            same_as_before(&transaction, id, file, through)?;
            continue;
        }
        if file.first_sequence != through + 1 {
            return Err(CatalogError::Conflict(format!(
                "{} begins at {}, but the files of its stream end at {through}: rows between would be lost",
                file.key, file.first_sequence
            )));
        }
        insert(&transaction, id, file, now)?;
        through = file.last_sequence;
    }
    transaction
        .execute("UPDATE streams SET flushed_through = ?2 WHERE id = ?1", params![id.to_string(), through])
        .map_err(failure)?;
    transaction.commit().map_err(failure)?;
    Ok(Commit::Done)
}

/// A file at or before the mark must be one that was committed before.
fn same_as_before(connection: &Connection, id: StreamId, file: &StoredFile, through: i64) -> Result<()> {
    let before = connection
        .query_row(
            &format!("{COLUMNS} WHERE stream_id = ?1 AND first_sequence = ?2"),
            params![id.to_string(), file.first_sequence],
            read,
        )
        .optional()
        .map_err(failure)?;
    match before {
        Some(before) if before == *file => Ok(()),
        _ => Err(CatalogError::Conflict(format!(
            "{} overlaps with other files of its stream, which are committed up to {through}",
            file.key
        ))),
    }
}

fn insert(connection: &Connection, id: StreamId, file: &StoredFile, now: i64) -> Result<()> {
    connection
        .execute(
            "INSERT INTO files (stream_id, first_sequence, last_sequence, hour, path, bytes, checksum, min_timestamp, \
             max_timestamp, committed_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            params![
                id.to_string(),
                file.first_sequence,
                file.last_sequence,
                file.hour.0,
                file.key,
                file.bytes.cast_signed(),
                file.checksum,
                file.min_timestamp,
                file.max_timestamp,
                now
            ],
        )
        .map(|_| ())
        .map_err(failure)
}

pub(super) fn holds(connection: &Connection, key: &str) -> Result<bool> {
    connection
        .query_row("SELECT EXISTS (SELECT 1 FROM files WHERE path = ?1)", [key], |row| row.get(0))
        .map_err(failure)
}

pub(super) fn within(connection: &Connection, id: StreamId, start: i64, end: i64) -> Result<Vec<StoredFile>> {
    let sql = format!(
        "{COLUMNS} WHERE stream_id = ?1 AND max_timestamp >= ?2 AND min_timestamp < ?3 ORDER BY first_sequence"
    );
    let mut statement = connection.prepare(&sql).map_err(failure)?;
    let rows = statement.query_map(params![id.to_string(), start, end], read).map_err(failure)?;
    rows.collect::<rusqlite::Result<_>>().map_err(failure)
}

pub(super) fn totals(connection: &Connection, id: Option<StreamId>) -> Result<FileTotals> {
    connection
        .query_row(
            "SELECT count(*), coalesce(sum(bytes), 0), coalesce(sum(last_sequence - first_sequence + 1), 0) FROM files \
             WHERE ?1 IS NULL OR stream_id = ?1",
            [id.map(|id| id.to_string())],
            |row| {
                Ok(FileTotals {
                    files: row.get::<_, i64>(0)?.cast_unsigned(),
                    bytes: row.get::<_, i64>(1)?.cast_unsigned(),
                    rows: row.get::<_, i64>(2)?.cast_unsigned(),
                })
            },
        )
        .map_err(failure)
}
