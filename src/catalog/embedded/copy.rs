//! A copy of what another catalog holds of what the shards run on. Its rows stand without those that they refer to.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, params};
use ttdust_shards::ids::StreamId;

use super::{Changes, Everything, Result, audit, failure, keys, schemas, streams};

/// Puts `everything` in the place of what is there. Where files end never moves backward.
pub(super) fn replace(connection: &mut Connection, everything: &Everything) -> Result<()> {
    // Only what is in force is copied: a version without its schema. SQLite knows the switch only outside of transactions.
    connection.pragma_update(None, "foreign_keys", false).map_err(failure)?;
    let transaction = connection.transaction().map_err(failure)?;
    let ends: HashMap<StreamId, i64> =
        streams::known(&transaction)?.into_iter().map(|stream| (stream.id, stream.flushed_through)).collect();
    transaction
        .execute_batch("DELETE FROM streams; DELETE FROM schema_versions; DELETE FROM api_keys;")
        .map_err(failure)?;
    for stream in &everything.streams {
        let end = ends.get(&stream.id).map_or(stream.flushed_through, |end| stream.flushed_through.max(*end));
        streams::insert(&transaction, stream, end).map_err(failure)?;
    }
    for version in &everything.schemas {
        schemas::insert_version(&transaction, version)?;
    }
    for key in &everything.keys {
        keys::insert(&transaction, key).map_err(failure)?;
    }
    set_generation(&transaction, everything.generation)?;
    transaction.execute("INSERT INTO meta VALUES ('copied', '') ON CONFLICT DO NOTHING", []).map_err(failure)?;
    transaction.commit().map_err(failure)
}

/// Puts `changes` since generation `from` in; `false`: another generation is there.
pub(super) fn advance(connection: &mut Connection, from: i64, changes: &Changes) -> Result<bool> {
    connection.pragma_update(None, "foreign_keys", false).map_err(failure)?;
    let transaction = connection.transaction().map_err(failure)?;
    if !is_one(&transaction)? || audit::generation(&transaction)? != from {
        return Ok(false);
    }
    if changes.generation == from {
        return Ok(true);
    }
    let remove = |sql: &str, id: &str| transaction.execute(sql, [id]).map(drop).map_err(failure);
    // Before those that came: one of them may have the name of one that is gone.
    for stream in &changes.streams_gone {
        remove("DELETE FROM streams WHERE id = ?1", &stream.to_string())?;
    }
    for stream in &changes.streams {
        let known = streams::get(&transaction, stream.id).map_or(0, |known| known.flushed_through);
        remove("DELETE FROM streams WHERE id = ?1", &stream.id.to_string())?;
        streams::insert(&transaction, stream, stream.flushed_through.max(known)).map_err(failure)?;
    }
    for version in &changes.schemas {
        remove("DELETE FROM schema_versions WHERE schema_id = ?1", &version.schema.to_string())?;
        schemas::insert_version(&transaction, version)?;
    }
    for key in &changes.keys {
        remove("DELETE FROM api_keys WHERE id = ?1", &key.id)?;
        keys::insert(&transaction, key).map_err(failure)?;
    }
    for key in &changes.keys_gone {
        remove("DELETE FROM api_keys WHERE id = ?1", key)?;
    }
    set_generation(&transaction, changes.generation)?;
    transaction.commit().map_err(failure)?;
    Ok(true)
}

fn set_generation(connection: &Connection, generation: i64) -> Result<()> {
    let sql = "INSERT INTO meta VALUES ('generation', ?1) ON CONFLICT (key) DO UPDATE SET value = ?1";
    connection.execute(sql, [generation.to_string()]).map(drop).map_err(failure)
}

/// Notes where the files of a stream end.
pub(super) fn flushed(connection: &mut Connection, stream: StreamId, through: i64) -> Result<()> {
    connection
        .execute(
            "UPDATE streams SET flushed_through = ?2 WHERE id = ?1 AND flushed_through < ?2",
            params![stream.to_string(), through],
        )
        .map(drop)
        .map_err(failure)
}

/// Whether anything was ever copied.
pub(super) fn is_one(connection: &Connection) -> Result<bool> {
    let row = connection.query_row("SELECT 1 FROM meta WHERE key = 'copied'", [], |_| Ok(()));
    row.optional().map(|row| row.is_some()).map_err(failure)
}

/// All that is there, in one transaction.
pub(super) fn everything(transaction: &Connection) -> Result<Everything> {
    Ok(Everything {
        generation: audit::generation(transaction)?,
        streams: streams::known(transaction)?,
        schemas: schemas::in_use(transaction)?,
        keys: keys::all(transaction)?,
    })
}
