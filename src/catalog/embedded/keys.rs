//! API keys.

use rusqlite::{Connection, Row, params};

use super::{ApiKey, CatalogError, Page, Result, column, failure, unique};
use crate::catalog::{role_name, role_of};

const COLUMNS: &str = "SELECT id, name, role, sha256, created_at, expires_at FROM api_keys";

fn read(row: &Row<'_>) -> rusqlite::Result<ApiKey> {
    Ok(ApiKey {
        id: row.get(0)?,
        name: row.get(1)?,
        role: column(row, 2, role_of)?,
        sha256: row.get(3)?,
        created_at: row.get(4)?,
        expires_at: row.get(5)?,
    })
}

pub(super) fn create(connection: &Connection, key: &ApiKey) -> Result<()> {
    connection
        .execute(
            "INSERT INTO api_keys VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![key.id, key.name, role_name(key.role), key.sha256, key.created_at, key.expires_at],
        )
        .map(|_| ())
        .map_err(|e| unique(e, || format!("key {}", key.id)))
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

pub(super) fn delete(connection: &Connection, id: &str) -> Result<()> {
    match connection.execute("DELETE FROM api_keys WHERE id = ?1", [id]).map_err(failure)? {
        0 => Err(CatalogError::NotFound(format!("key {id}"))),
        _ => Ok(()),
    }
}
