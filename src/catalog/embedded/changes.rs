//! What changed since a generation.

use rusqlite::{Connection, OptionalExtension, params};
use ttdust_shards::ids::SchemaId;

use super::{CatalogError, Result, SchemaVersion, audit, failure, keys, schemas, streams};
use crate::catalog::{Changes, StreamStatus, model::ChangedIds};

/// Everything that changed since `generation`, in one transaction; `None`: that is not remembered.
pub(super) fn since(connection: &mut Connection, generation: i64) -> Result<Option<Changes>> {
    let transaction = connection.transaction().map_err(failure)?;
    let mut changes = Changes { generation: audit::generation(&transaction)?, ..Changes::default() };
    let Some(mut changed) = changed(&transaction, generation, changes.generation)? else { return Ok(None) };
    for id in changed.streams {
        let stream = streams::get(&transaction, id)?;
        if matches!(stream.status, StreamStatus::Creating | StreamStatus::Deleted) {
            changes.streams_gone.push(id);
        } else {
            changed.schemas.insert(stream.schema);
            changes.streams.push(stream);
        }
    }
    for id in changed.schemas {
        changes.schemas.extend(in_use(&transaction, id)?);
    }
    for id in changed.keys {
        match keys::get(&transaction, &id) {
            Ok(key) => changes.keys.push(key),
            Err(CatalogError::NotFound(_)) => changes.keys_gone.push(id),
            Err(error) => return Err(error),
        }
    }
    Ok(Some(changes))
}

fn changed(transaction: &Connection, from: i64, to: i64) -> Result<Option<ChangedIds>> {
    let mut statement =
        transaction.prepare("SELECT object_kind, object_id FROM changes WHERE generation > ?1").map_err(failure)?;
    let mut rows = statement.query([from]).map_err(failure)?;
    let (mut ids, mut lines) = (ChangedIds::default(), 0);
    while let Some(row) = rows.next().map_err(failure)? {
        let kind: String = row.get(0).map_err(failure)?;
        ids.add(&kind, row.get(1).map_err(failure)?)?;
        lines += 1;
    }
    // Each generation has its line, but for old ones.
    Ok((lines == to - from).then_some(ids))
}

fn in_use(transaction: &Connection, id: SchemaId) -> Result<Option<SchemaVersion>> {
    let sql = "SELECT 1 FROM streams WHERE schema_id = ?1 AND status NOT IN ('creating', 'deleted') LIMIT 1";
    let used = transaction.query_row(sql, params![id.to_string()], |_| Ok(())).optional().map_err(failure)?;
    match (used, schemas::in_force(transaction, id)?) {
        (Some(()), Some(number)) => schemas::version(transaction, id, number).map(Some),
        _ => Ok(None),
    }
}
