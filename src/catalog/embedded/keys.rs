//! API keys.

use rusqlite::{Connection, Row, params};

use super::{
    ApiKey, AuditEntry, CatalogError, Page, Result, audit::note, column, failure, found, json, json_text, unique,
};
use crate::catalog::model::Changed;
use ttdust_shards::access::Role;

const COLUMNS: &str = "SELECT id, name, role, streams, sha256, created_at, expires_at, last_used_at FROM api_keys";

fn read(row: &Row<'_>) -> rusqlite::Result<ApiKey> {
    Ok(ApiKey {
        id: row.get(0)?,
        name: row.get(1)?,
        role: column(row, 2, Role::of_name)?,
        streams: json(row, 3)?,
        sha256: row.get(4)?,
        created_at: row.get(5)?,
        expires_at: row.get(6)?,
        last_used_at: row.get(7)?,
    })
}

pub(super) fn create(connection: &mut Connection, key: &ApiKey, audit: AuditEntry) -> Result<()> {
    let transaction = connection.transaction().map_err(failure)?;
    insert(&transaction, key).map_err(|e| unique(e, || format!("key {}", key.id)))?;
    note(&transaction, &audit.with(None, Some(key.audited())), Changed::Key(&key.id))?;
    transaction.commit().map_err(failure)
}

pub(super) fn insert(connection: &Connection, key: &ApiKey) -> rusqlite::Result<()> {
    connection
        .execute(
            "INSERT INTO api_keys (id, name, role, streams, sha256, created_at, expires_at, last_used_at) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            params![
                key.id,
                key.name,
                key.role.name(),
                json_text(&key.streams),
                key.sha256,
                key.created_at,
                key.expires_at,
                key.last_used_at
            ],
        )
        .map(drop)
}

pub(super) fn get(connection: &Connection, id: &str) -> Result<ApiKey> {
    let row = connection.query_row(&format!("{COLUMNS} WHERE id = ?1"), [id], read);
    found(row, || format!("key {id}"))
}

pub(super) fn list(connection: &Connection, page: &Page) -> Result<Vec<ApiKey>> {
    let sql = format!("{COLUMNS} WHERE id > ?1 ORDER BY id LIMIT ?2");
    let mut statement = connection.prepare(&sql).map_err(failure)?;
    let rows = statement.query_map(params![page.after, page.limit], read).map_err(failure)?;
    rows.collect::<rusqlite::Result<_>>().map_err(failure)
}

pub(super) fn all(connection: &Connection) -> Result<Vec<ApiKey>> {
    let mut statement = connection.prepare(COLUMNS).map_err(failure)?;
    let rows = statement.query_map([], read).map_err(failure)?;
    rows.collect::<rusqlite::Result<_>>().map_err(failure)
}

pub(super) fn delete(connection: &mut Connection, id: &str, audit: AuditEntry) -> Result<()> {
    let transaction = connection.transaction().map_err(failure)?;
    let before = get(&transaction, id)?;
    let deleted = transaction.execute("DELETE FROM api_keys WHERE id = ?1", [id]).map_err(failure)?;
    if deleted == 0 {
        return Err(CatalogError::NotFound(format!("key {id}")));
    }
    note(&transaction, &audit.with(Some(before.audited()), None), Changed::Key(id))?;
    transaction.commit().map_err(failure)
}

pub(super) fn touch(connection: &mut Connection, used: &[(String, i64)]) -> Result<()> {
    let transaction = connection.transaction().map_err(failure)?;
    {
        let sql = "UPDATE api_keys SET last_used_at = ?2 WHERE id = ?1 AND (last_used_at IS NULL OR last_used_at < ?2)";
        let mut statement = transaction.prepare(sql).map_err(failure)?;
        for (id, at) in used {
            statement.execute(params![id, at]).map_err(failure)?;
        }
    }
    transaction.commit().map_err(failure)
}
