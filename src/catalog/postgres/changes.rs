//! What changed since a generation.

use tokio_postgres::{Client, IsolationLevel, Transaction};
use ttdust_shards::ids::SchemaId;

use super::{audit, failure, get, keys, schemas, streams};
use crate::catalog::{Changes, Result, SchemaVersion, StreamStatus, model::ChangedIds};

/// Everything that changed since `generation`, in one transaction; `None`: that is not remembered.
pub(super) async fn since(client: &mut Client, generation: i64) -> Result<Option<Changes>> {
    let snapshot = client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true);
    let transaction = snapshot.start().await.map_err(failure)?;
    let mut changes = Changes { generation: audit::generation(&transaction).await?, ..Changes::default() };
    let Some(mut changed) = changed(&transaction, generation, changes.generation).await? else { return Ok(None) };
    for stream in streams::of_ids(&transaction, changed.streams).await? {
        if matches!(stream.status, StreamStatus::Creating | StreamStatus::Deleted) {
            changes.streams_gone.push(stream.id);
        } else {
            changed.schemas.insert(stream.schema);
            changes.streams.push(stream);
        }
    }
    for id in changed.schemas {
        changes.schemas.extend(in_use(&transaction, id).await?);
    }
    changes.keys = keys::of_ids(&transaction, changed.keys.iter().cloned().collect()).await?;
    changed.keys.retain(|id| changes.keys.iter().all(|key| key.id != *id));
    changes.keys_gone = changed.keys.into_iter().collect();
    transaction.commit().await.map_err(failure)?;
    Ok(Some(changes))
}

async fn changed(transaction: &Transaction<'_>, from: i64, to: i64) -> Result<Option<ChangedIds>> {
    let sql = "SELECT object_kind, object_id FROM changes WHERE generation > $1";
    let rows = transaction.query(sql, &[&from]).await.map_err(failure)?;
    // Each generation has its line, but for old ones.
    if i64::try_from(rows.len()) != Ok(to - from) {
        return Ok(None);
    }
    let mut ids = ChangedIds::default();
    rows.iter().try_for_each(|row| ids.add(get(row, 0)?, get(row, 1)?))?;
    Ok(Some(ids))
}

async fn in_use(transaction: &Transaction<'_>, id: SchemaId) -> Result<Option<SchemaVersion>> {
    let sql = "SELECT EXISTS (SELECT 1 FROM streams WHERE schema_id = $1 AND status NOT IN ('creating', 'deleted'))";
    let used: bool = get(&transaction.query_one(sql, &[&id.to_string()]).await.map_err(failure)?, 0)?;
    match schemas::in_force(transaction, id).await? {
        Some(number) if used => schemas::find_version(transaction, id, number).await.map(Some),
        _ => Ok(None),
    }
}
