//! Committed files.

use rusqlite::{Connection, Params, Row, params};
use ttdust_shards::{ids::StreamId, parquet::PartitionHour};

use super::{CatalogError, Commit, FileTotals, Result, StoredFile, failure, file_sets, streams};
use crate::catalog::rules;

/// The columns of a file, as [`read`] takes them.
pub(super) const FIELDS: &str =
    "path, hour, first_sequence, last_sequence, min_timestamp, max_timestamp, bytes, checksum, level";

pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<StoredFile> {
    Ok(StoredFile {
        key: row.get(0)?,
        hour: PartitionHour(row.get(1)?),
        first_sequence: row.get(2)?,
        last_sequence: row.get(3)?,
        min_timestamp: row.get(4)?,
        max_timestamp: row.get(5)?,
        bytes: row.get::<_, i64>(6)?.cast_unsigned(),
        checksum: row.get(7)?,
        level: row.get(8)?,
    })
}

pub(super) fn commit(connection: &mut Connection, id: StreamId, files: &[StoredFile], now: i64) -> Result<Commit> {
    let transaction = connection.transaction().map_err(failure)?;
    let stream = match streams::get(&transaction, id) {
        Err(CatalogError::NotFound(_)) => return Ok(Commit::StreamGone),
        stream => stream?,
    };
    if !rules::takes_files(stream.status) {
        return Ok(Commit::StreamGone);
    }
    let mut before = Vec::new();
    for file in files.iter().filter(|file| file.first_sequence <= stream.flushed_through) {
        before.extend(beginning_at(&transaction, id, file.first_sequence)?);
    }
    let (new, through) = rules::new_files(stream.flushed_through, files, &before)?;
    for file in new {
        insert(&transaction, id, file, now)?;
        file_sets::owe_manifest(&transaction, id, file.hour)?;
    }
    transaction
        .execute("UPDATE streams SET flushed_through = ?2 WHERE id = ?1", params![id.to_string(), through])
        .map_err(failure)?;
    transaction.commit().map_err(failure)?;
    Ok(Commit::Done)
}

/// The files that begin there, those included that others took the place of.
fn beginning_at(connection: &Connection, id: StreamId, first: i64) -> Result<Vec<StoredFile>> {
    let sql = format!(
        "SELECT {FIELDS} FROM files WHERE stream_id = ?1 AND first_sequence = ?2 \
         UNION ALL SELECT {FIELDS} FROM retired_files WHERE stream_id = ?1 AND first_sequence = ?2"
    );
    several(connection, &sql, params![id.to_string(), first])
}

/// Files that a query finds.
pub(super) fn several(connection: &Connection, sql: &str, parameters: impl Params) -> Result<Vec<StoredFile>> {
    let mut statement = connection.prepare(sql).map_err(failure)?;
    let rows = statement.query_map(parameters, read).map_err(failure)?;
    rows.collect::<rusqlite::Result<_>>().map_err(failure)
}

pub(super) fn insert(connection: &Connection, id: StreamId, file: &StoredFile, now: i64) -> Result<()> {
    connection
        .execute(
            "INSERT INTO files (stream_id, first_sequence, last_sequence, hour, path, bytes, checksum, min_timestamp, \
             max_timestamp, committed_at, level) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
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
                now,
                file.level
            ],
        )
        .map(|_| ())
        .map_err(failure)
}

pub(super) fn holds(connection: &Connection, key: &str) -> Result<bool> {
    let sql =
        "SELECT EXISTS (SELECT 1 FROM files WHERE path = ?1) OR EXISTS (SELECT 1 FROM retired_files WHERE path = ?1)";
    connection.query_row(sql, [key], |row| row.get(0)).map_err(failure)
}

pub(super) fn within(connection: &Connection, id: StreamId, start: i64, end: i64) -> Result<Vec<StoredFile>> {
    let sql = format!(
        "SELECT {FIELDS} FROM files WHERE stream_id = ?1 AND max_timestamp >= ?2 AND min_timestamp < ?3 \
         ORDER BY first_sequence"
    );
    several(connection, &sql, params![id.to_string(), start, end])
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
