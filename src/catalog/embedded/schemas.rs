//! Schemas and their versions.

use rusqlite::{Connection, Row, params};
use ttdust_shards::ids::SchemaId;

use super::{CatalogError, Page, Result, Schema, SchemaVersion, failure, found, parsed, unique};

const COLUMNS: &str = "SELECT s.id, s.namespace, s.name, s.description, s.compatibility_mode, s.created_at, \
                       (SELECT max(version) FROM schema_versions v WHERE v.schema_id = s.id) FROM schemas s";

fn read(row: &Row<'_>) -> rusqlite::Result<Schema> {
    Ok(Schema {
        id: parsed(row, 0)?,
        namespace: row.get(1)?,
        name: row.get(2)?,
        description: row.get(3)?,
        compatibility_mode: row.get(4)?,
        created_at: row.get(5)?,
        latest_version: row.get(6)?,
    })
}

fn read_version(row: &Row<'_>) -> rusqlite::Result<SchemaVersion> {
    Ok(SchemaVersion {
        schema: parsed(row, 0)?,
        version: row.get(1)?,
        definition: row.get(2)?,
        created_at: row.get(3)?,
    })
}

fn insert_version(connection: &Connection, version: &SchemaVersion) -> rusqlite::Result<usize> {
    connection.execute(
        "INSERT INTO schema_versions VALUES (?1, ?2, ?3, ?4)",
        params![version.schema.to_string(), version.version, version.definition, version.created_at],
    )
}

pub(super) fn create(connection: &mut Connection, schema: &Schema, first: &SchemaVersion) -> Result<()> {
    assert!(first.schema == schema.id && first.version == 1, "a schema begins with its own version 1");
    let transaction = connection.transaction().map_err(failure)?;
    transaction
        .execute(
            "INSERT INTO schemas VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![
                schema.id.to_string(),
                schema.namespace,
                schema.name,
                schema.description,
                schema.compatibility_mode,
                schema.created_at
            ],
        )
        .map_err(|e| unique(e, || format!("a schema {} in namespace {}", schema.name, schema.namespace)))?;
    insert_version(&transaction, first).map_err(failure)?;
    transaction.commit().map_err(failure)
}

pub(super) fn get(connection: &Connection, id: SchemaId) -> Result<Schema> {
    let row = connection.query_row(&format!("{COLUMNS} WHERE s.id = ?1"), [id.to_string()], read);
    found(row, || format!("schema {id}"))
}

pub(super) fn list(
    connection: &Connection,
    namespace: Option<&str>,
    name: Option<&str>,
    page: &Page,
) -> Result<Vec<Schema>> {
    let sql = format!(
        "{COLUMNS} WHERE s.id > ?1 AND (?2 IS NULL OR s.namespace = ?2) AND (?3 IS NULL OR s.name = ?3) \
         ORDER BY s.id LIMIT ?4"
    );
    let mut statement = connection.prepare(&sql).map_err(failure)?;
    let rows = statement.query_map(params![page.after, namespace, name, page.limit], read).map_err(failure)?;
    rows.collect::<rusqlite::Result<_>>().map_err(failure)
}

pub(super) fn add_version(connection: &mut Connection, version: &SchemaVersion) -> Result<()> {
    let transaction = connection.transaction().map_err(failure)?;
    let newest = get(&transaction, version.schema)?.latest_version;
    if newest + 1 != version.version {
        return Err(CatalogError::Conflict(format!("version {newest} of {} was added meanwhile", version.schema)));
    }
    insert_version(&transaction, version).map_err(failure)?;
    transaction.commit().map_err(failure)
}

pub(super) fn versions(connection: &Connection, id: SchemaId, after: u32, limit: u32) -> Result<Vec<SchemaVersion>> {
    get(connection, id)?;
    let mut statement = connection
        .prepare(
            "SELECT schema_id, version, definition, created_at FROM schema_versions \
             WHERE schema_id = ?1 AND version > ?2 ORDER BY version LIMIT ?3",
        )
        .map_err(failure)?;
    let rows = statement.query_map(params![id.to_string(), after, limit], read_version).map_err(failure)?;
    rows.collect::<rusqlite::Result<_>>().map_err(failure)
}

pub(super) fn newest_in_use(connection: &Connection) -> Result<Vec<SchemaVersion>> {
    let mut statement = connection
        .prepare(
            "SELECT schema_id, version, definition, created_at FROM schema_versions v \
             WHERE schema_id IN (SELECT schema_id FROM streams) \
             AND version = (SELECT max(version) FROM schema_versions w WHERE w.schema_id = v.schema_id)",
        )
        .map_err(failure)?;
    let rows = statement.query_map([], read_version).map_err(failure)?;
    rows.collect::<rusqlite::Result<_>>().map_err(failure)
}
