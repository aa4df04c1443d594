//! Streams.

use rusqlite::{Connection, Row, params};
use ttdust_shards::{ids::StreamId, snapshot::StreamState};

use super::{
    CatalogError, Page, Result, Stream, StreamChange, column, failure, found, json, json_or_none, json_text, parsed,
    schemas, unique,
};
use crate::catalog::{state_name, state_of};

const COLUMNS: &str = "SELECT id, name, description, schema_id, state, key_fields, labels, retention, \
                       partition_config, version, flushed_through, created_at, updated_at FROM streams";

fn read(row: &Row<'_>) -> rusqlite::Result<Stream> {
    Ok(Stream {
        id: parsed(row, 0)?,
        name: row.get(1)?,
        description: row.get(2)?,
        schema: parsed(row, 3)?,
        state: column(row, 4, state_of)?,
        key_fields: json(row, 5)?,
        labels: json(row, 6)?,
        retention: json_or_none(row, 7)?,
        partition_config: json_or_none(row, 8)?,
        version: row.get(9)?,
        flushed_through: row.get(10)?,
        created_at: row.get(11)?,
        updated_at: row.get(12)?,
    })
}

pub(super) fn create(connection: &mut Connection, stream: &Stream) -> Result<()> {
    let transaction = connection.transaction().map_err(failure)?;
    schemas::get(&transaction, stream.schema)?;
    transaction
        .execute(
            "INSERT INTO streams VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
            params![
                stream.id.to_string(),
                stream.name,
                stream.description,
                stream.schema.to_string(),
                state_name(stream.state),
                json_text(&stream.key_fields),
                json_text(&stream.labels),
                stream.retention.as_ref().map(json_text),
                stream.partition_config.as_ref().map(json_text),
                stream.version,
                stream.flushed_through,
                stream.created_at,
                stream.updated_at,
            ],
        )
        .map_err(|e| unique(e, || format!("a stream {}", stream.name)))?;
    transaction.commit().map_err(failure)
}

pub(super) fn get(connection: &Connection, id: StreamId) -> Result<Stream> {
    let row = connection.query_row(&format!("{COLUMNS} WHERE id = ?1"), [id.to_string()], read);
    found(row, || format!("stream {id}"))
}

pub(super) fn list(connection: &Connection, state: Option<StreamState>, page: &Page) -> Result<Vec<Stream>> {
    let sql = format!("{COLUMNS} WHERE id > ?1 AND (?2 IS NULL OR state = ?2) ORDER BY id LIMIT ?3");
    let mut statement = connection.prepare(&sql).map_err(failure)?;
    let rows = statement.query_map(params![page.after, state.map(state_name), page.limit], read).map_err(failure)?;
    rows.collect::<rusqlite::Result<_>>().map_err(failure)
}

pub(super) fn all(connection: &Connection) -> Result<Vec<Stream>> {
    let mut statement = connection.prepare(COLUMNS).map_err(failure)?;
    let rows = statement.query_map([], read).map_err(failure)?;
    rows.collect::<rusqlite::Result<_>>().map_err(failure)
}

pub(super) fn change(connection: &mut Connection, id: StreamId, change: &StreamChange, now: i64) -> Result<Stream> {
    let transaction = connection.transaction().map_err(failure)?;
    let mut stream = get(&transaction, id)?;
    if change.if_version.is_some_and(|wanted| wanted != stream.version) {
        return Err(CatalogError::Stale { current: stream.version });
    }
    // A deletion is never taken back: some of the data may be gone. Asking for it again is no fault.
    if stream.state == StreamState::Deleting {
        return match change.state {
            Some(StreamState::Deleting) => Ok(stream),
            _ => Err(CatalogError::Conflict(format!("stream {id} is being deleted"))),
        };
    }
    if let Some(description) = &change.description {
        stream.description.clone_from(description);
    }
    if let Some(retention) = &change.retention {
        stream.retention.clone_from(retention);
    }
    stream.state = change.state.unwrap_or(stream.state);
    stream.version += 1;
    stream.updated_at = now;
    transaction
        .execute(
            "UPDATE streams SET description = ?2, retention = ?3, state = ?4, version = ?5, updated_at = ?6 WHERE id = ?1",
            params![
                id.to_string(),
                stream.description,
                stream.retention.as_ref().map(json_text),
                state_name(stream.state),
                stream.version,
                stream.updated_at
            ],
        )
        .map_err(failure)?;
    transaction.commit().map_err(failure)?;
    Ok(stream)
}

pub(super) fn remove(connection: &mut Connection, id: StreamId) -> Result<()> {
    let transaction = connection.transaction().map_err(failure)?;
    if get(&transaction, id)?.state != StreamState::Deleting {
        return Err(CatalogError::Conflict(format!("stream {id} is not being deleted")));
    }
    transaction.execute("DELETE FROM files WHERE stream_id = ?1", [id.to_string()]).map_err(failure)?;
    transaction.execute("DELETE FROM streams WHERE id = ?1", [id.to_string()]).map_err(failure)?;
    transaction.commit().map_err(failure)
}
