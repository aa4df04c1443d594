//! Files that take the place of others, files that go, and what is to be done after it.

use rusqlite::{Connection, params};
use ttdust_shards::{ids::StreamId, parquet::PartitionHour};

use super::{
    CatalogError, Commit, FileTotals, ManifestDebt, Result, RetiredFile, StoredFile, StreamHour, failure,
    files::{self, FIELDS, several},
    parsed, streams,
};
use crate::catalog::rules;

/// The manifest of an hour is to be written.
pub(super) fn owe_manifest(connection: &Connection, stream: StreamId, hour: PartitionHour) -> Result<()> {
    connection
        .execute(
            "INSERT INTO manifest_debts VALUES (?1, ?2, 1) ON CONFLICT DO UPDATE SET changes = changes + 1",
            params![stream.to_string(), hour.0],
        )
        .map(drop)
        .map_err(failure)
}

pub(super) fn replace(
    connection: &mut Connection,
    id: StreamId,
    old: &[String],
    new: &StoredFile,
    now: i64,
) -> Result<Commit> {
    let transaction = connection.transaction().map_err(failure)?;
    if !takes_files(&transaction, id)? {
        return Ok(Commit::StreamGone);
    }
    let one = format!("SELECT {FIELDS} FROM files WHERE stream_id = ?1 AND path = ?2");
    let mut found = Vec::new();
    for key in old {
        found.extend(several(&transaction, &one, params![id.to_string(), key])?);
    }
    found.sort_by_key(|file| file.first_sequence);
    let there = several(&transaction, &one, params![id.to_string(), new.key])?;
    let retired = there.is_empty() && files::holds(&transaction, &new.key)?;
    if !rules::replaces(old, &found, new, there.first(), retired)? {
        return Ok(Commit::Done);
    }
    found.iter().try_for_each(|file| retire(&transaction, id, file, now))?;
    files::insert(&transaction, id, new, now)?;
    owe_manifest(&transaction, id, new.hour)?;
    transaction.commit().map_err(failure)?;
    Ok(Commit::Done)
}

pub(super) fn set(
    connection: &mut Connection,
    id: StreamId,
    files: &[StoredFile],
    through: i64,
    now: i64,
) -> Result<Commit> {
    let transaction = connection.transaction().map_err(failure)?;
    if !takes_files(&transaction, id)? {
        return Ok(Commit::StreamGone);
    }
    let run = |sql: &str, parameters: &[&dyn rusqlite::ToSql]| {
        transaction.execute(sql, parameters).map(drop).map_err(failure)
    };
    let stream = id.to_string();
    // The manifests of the hours that are left without files go.
    run(
        "INSERT INTO manifest_debts SELECT DISTINCT stream_id, hour, 1 FROM files WHERE stream_id = ?1 \
         ON CONFLICT DO UPDATE SET changes = changes + 1",
        &[&stream],
    )?;
    run("DELETE FROM files WHERE stream_id = ?1", &[&stream])?;
    for file in files {
        run("DELETE FROM retired_files WHERE path = ?1", &[&file.key])?;
        files::insert(&transaction, id, file, now)?;
        owe_manifest(&transaction, id, file.hour)?;
    }
    run("UPDATE streams SET flushed_through = max(flushed_through, ?2) WHERE id = ?1", &[&stream, &through])?;
    transaction.commit().map_err(failure)?;
    Ok(Commit::Done)
}

fn takes_files(connection: &Connection, id: StreamId) -> Result<bool> {
    match streams::get(connection, id) {
        Err(CatalogError::NotFound(_)) => Ok(false),
        stream => Ok(rules::takes_files(stream?.status)),
    }
}

fn retire(connection: &Connection, id: StreamId, file: &StoredFile, now: i64) -> Result<()> {
    let keep = format!(
        "INSERT INTO retired_files (stream_id, retired_at, {FIELDS}) SELECT stream_id, ?2, {FIELDS} FROM files \
         WHERE path = ?1"
    );
    connection.execute(&keep, params![file.key, now]).map_err(failure)?;
    connection.execute("DELETE FROM files WHERE path = ?1", [&file.key]).map_err(failure)?;
    owe_manifest(connection, id, file.hour)
}

pub(super) fn drop_through(connection: &mut Connection, id: StreamId, through: i64, now: i64) -> Result<FileTotals> {
    let transaction = connection.transaction().map_err(failure)?;
    let mut dropped = FileTotals::default();
    if !takes_files(&transaction, id)? {
        return Ok(dropped);
    }
    let sql =
        format!("SELECT {FIELDS} FROM files WHERE stream_id = ?1 AND first_sequence <= ?2 AND last_sequence <= ?2");
    for file in several(&transaction, &sql, params![id.to_string(), through])? {
        retire(&transaction, id, &file, now)?;
        dropped.add(&file);
    }
    transaction.commit().map_err(failure)?;
    Ok(dropped)
}

pub(super) fn page(connection: &Connection, id: StreamId, after: i64, limit: u32) -> Result<Vec<StoredFile>> {
    let sql = format!(
        "SELECT {FIELDS} FROM files WHERE stream_id = ?1 AND first_sequence > ?2 ORDER BY first_sequence LIMIT ?3"
    );
    several(connection, &sql, params![id.to_string(), after, limit])
}

pub(super) fn of_hour(connection: &Connection, of: StreamHour) -> Result<Vec<StoredFile>> {
    // Left to itself, SQLite reads all files of the stream.
    let sql = format!(
        "SELECT {FIELDS} FROM files INDEXED BY files_by_hour WHERE stream_id = ?1 AND hour = ?2 ORDER BY first_sequence"
    );
    several(connection, &sql, params![of.stream.to_string(), of.hour.0])
}

fn hours(connection: &Connection, sql: &str, parameters: impl rusqlite::Params) -> Result<Vec<(StreamHour, i64)>> {
    let mut statement = connection.prepare(sql).map_err(failure)?;
    let rows = statement.query_map(parameters, |row| {
        Ok((StreamHour { stream: parsed(row, 0)?, hour: PartitionHour(row.get(1)?) }, row.get(2)?))
    });
    rows.map_err(failure)?.collect::<rusqlite::Result<_>>().map_err(failure)
}

pub(super) fn to_merge(
    connection: &Connection,
    below_bytes: u64,
    after: Option<StreamHour>,
    limit: u32,
) -> Result<Vec<StreamHour>> {
    let (stream, hour) = after.map_or((String::new(), 0), |after| (after.stream.to_string(), after.hour.0));
    let found = hours(
        connection,
        "SELECT stream_id, hour, count(*) FROM files WHERE level < 2 AND (stream_id, hour) > (?1, ?2) AND bytes < ?3 \
         GROUP BY stream_id, hour HAVING count(*) >= 2 ORDER BY stream_id, hour LIMIT ?4",
        params![stream, hour, i64::try_from(below_bytes).unwrap_or(i64::MAX), limit],
    )?;
    Ok(found.into_iter().map(|(hour, _)| hour).collect())
}

pub(super) fn retired(connection: &Connection, before: i64, limit: u32) -> Result<Vec<RetiredFile>> {
    let sql = "SELECT path, stream_id, retired_at FROM retired_files WHERE retired_at < ?1 ORDER BY retired_at, path \
               LIMIT ?2";
    let mut statement = connection.prepare(sql).map_err(failure)?;
    let rows = statement.query_map(params![before, limit], |row| {
        Ok(RetiredFile { key: row.get(0)?, stream: parsed(row, 1)?, retired_at: row.get(2)? })
    });
    rows.map_err(failure)?.collect::<rusqlite::Result<_>>().map_err(failure)
}

pub(super) fn condemn(connection: &mut Connection, id: StreamId, found: &[StoredFile], now: i64) -> Result<u64> {
    let transaction = connection.transaction().map_err(failure)?;
    let stream = match streams::get(&transaction, id) {
        Err(CatalogError::NotFound(_)) => return Ok(0),
        stream => stream?,
    };
    let mut condemned = 0;
    for file in found.iter().filter(|file| rules::is_orphan(&stream, file)) {
        if files::holds(&transaction, &file.key)? {
            continue;
        }
        condemned += 1;
        let sql = format!(
            "INSERT INTO retired_files (stream_id, retired_at, {FIELDS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)"
        );
        let values = params![
            id.to_string(),
            now,
            file.key,
            file.hour.0,
            file.first_sequence,
            file.last_sequence,
            file.min_timestamp,
            file.max_timestamp,
            file.bytes.cast_signed(),
            file.checksum,
            file.level
        ];
        transaction.execute(&sql, values).map_err(failure)?;
    }
    transaction.commit().map_err(failure)?;
    Ok(condemned)
}

pub(super) fn forget_retired(connection: &mut Connection, keys: &[String]) -> Result<()> {
    let transaction = connection.transaction().map_err(failure)?;
    for key in keys {
        transaction.execute("DELETE FROM retired_files WHERE path = ?1", [key]).map_err(failure)?;
    }
    transaction.commit().map_err(failure)
}

pub(super) fn unreferenced(connection: &Connection, keys: Vec<String>) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for key in keys {
        if !files::holds(connection, &key)? {
            found.push(key);
        }
    }
    Ok(found)
}

pub(super) fn manifests_due(connection: &Connection, limit: u32) -> Result<Vec<ManifestDebt>> {
    let sql = "SELECT stream_id, hour, changes FROM manifest_debts ORDER BY stream_id, hour LIMIT ?1";
    let found = hours(connection, sql, [limit])?;
    Ok(found.into_iter().map(|(of, changes)| ManifestDebt { of, changes }).collect())
}

pub(super) fn manifest_written(connection: &mut Connection, debt: ManifestDebt) -> Result<()> {
    connection
        .execute(
            "DELETE FROM manifest_debts WHERE stream_id = ?1 AND hour = ?2 AND changes = ?3",
            params![debt.of.stream.to_string(), debt.of.hour.0, debt.changes],
        )
        .map(drop)
        .map_err(failure)
}

/// Nothing of a stream is left.
pub(super) fn forget_stream(connection: &Connection, id: StreamId) -> Result<()> {
    for table in ["files", "retired_files", "manifest_debts"] {
        let sql = format!("DELETE FROM {table} WHERE stream_id = ?1");
        connection.execute(&sql, [id.to_string()]).map_err(failure)?;
    }
    Ok(())
}
