//! Schemas and their versions.

use rusqlite::{Connection, OptionalExtension, Row, params};
use ttdust_shards::ids::SchemaId;

use super::{
    AuditEntry, Judged, Page, Result, Schema, SchemaChange, SchemaFilter, SchemaVersion, audit::note, failure, found,
    parsed, unique,
};
use crate::catalog::model::Changed;
use crate::catalog::rules;

const COLUMNS: &str = "SELECT s.id, s.namespace, s.name, s.description, s.compatibility_mode, s.policy, s.version, \
                       s.created_at, s.updated_at, \
                       (SELECT max(version) FROM schema_versions v WHERE v.schema_id = s.id) FROM schemas s";

const VERSION_COLUMNS: &str =
    "SELECT v.schema_id, v.version, v.definition, v.fingerprint, v.created_at, v.retired_at FROM schema_versions v";

fn read(row: &Row<'_>) -> rusqlite::Result<Schema> {
    Ok(Schema {
        id: parsed(row, 0)?,
        namespace: row.get(1)?,
        name: row.get(2)?,
        description: row.get(3)?,
        compatibility_mode: row.get(4)?,
        policy: row.get(5)?,
        version: row.get(6)?,
        created_at: row.get(7)?,
        updated_at: row.get(8)?,
        latest_version: row.get(9)?,
    })
}

fn read_version(row: &Row<'_>) -> rusqlite::Result<SchemaVersion> {
    Ok(SchemaVersion {
        schema: parsed(row, 0)?,
        version: row.get(1)?,
        definition: row.get(2)?,
        fingerprint: row.get(3)?,
        created_at: row.get(4)?,
        retired_at: row.get(5)?,
    })
}

pub(super) fn insert_version(connection: &Connection, version: &SchemaVersion) -> Result<()> {
    connection
        .execute(
            "INSERT INTO schema_versions (schema_id, version, definition, fingerprint, created_at, retired_at) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![
                version.schema.to_string(),
                version.version,
                version.definition,
                version.fingerprint,
                version.created_at,
                version.retired_at
            ],
        )
        .map(|_| ())
        .map_err(failure)
}

fn update(connection: &Connection, schema: &Schema) -> Result<()> {
    connection
        .execute(
            "UPDATE schemas SET description = ?2, compatibility_mode = ?3, policy = ?4, version = ?5, updated_at = ?6 \
             WHERE id = ?1",
            params![
                schema.id.to_string(),
                schema.description,
                schema.compatibility_mode,
                schema.policy,
                schema.version,
                schema.updated_at
            ],
        )
        .map(|_| ())
        .map_err(failure)
}

pub(super) fn create(
    connection: &mut Connection,
    schema: &Schema,
    first: &SchemaVersion,
    audit: AuditEntry,
) -> Result<()> {
    assert!(first.schema == schema.id && first.version == 1, "a schema begins with its own version 1");
    let transaction = connection.transaction().map_err(failure)?;
    transaction
        .execute(
            "INSERT INTO schemas (id, namespace, name, description, compatibility_mode, policy, version, created_at, \
             updated_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            params![
                schema.id.to_string(),
                schema.namespace,
                schema.name,
                schema.description,
                schema.compatibility_mode,
                schema.policy,
                schema.version,
                schema.created_at,
                schema.updated_at
            ],
        )
        .map_err(|e| unique(e, || format!("a schema {} in namespace {}", schema.name, schema.namespace)))?;
    insert_version(&transaction, first)?;
    note(&transaction, &audit.with(None, Some(schema.audited())), Changed::Schema(schema.id))?;
    transaction.commit().map_err(failure)
}

pub(super) fn get(connection: &Connection, id: SchemaId) -> Result<Schema> {
    let row = connection.query_row(&format!("{COLUMNS} WHERE s.id = ?1"), [id.to_string()], read);
    found(row, || format!("schema {id}"))
}

pub(super) fn list(connection: &Connection, filter: &SchemaFilter, page: &Page) -> Result<Vec<Schema>> {
    let sql = format!(
        "{COLUMNS} WHERE s.id > ?1 AND (?2 IS NULL OR s.namespace = ?2) AND (?3 IS NULL OR s.name = ?3) \
         AND (?4 IS NULL OR substr(s.name, 1, length(?4)) = ?4) ORDER BY s.id LIMIT ?5"
    );
    let mut statement = connection.prepare(&sql).map_err(failure)?;
    let parameters = params![page.after, filter.namespace, filter.name, filter.name_prefix, page.limit];
    let rows = statement.query_map(parameters, read).map_err(failure)?;
    rows.collect::<rusqlite::Result<_>>().map_err(failure)
}

pub(super) fn change(
    connection: &mut Connection,
    id: SchemaId,
    change: SchemaChange,
    now: i64,
    audit: AuditEntry,
) -> Result<Schema> {
    let transaction = connection.transaction().map_err(failure)?;
    let before = get(&transaction, id)?;
    let after = rules::changed_schema(&before, change, now)?;
    update(&transaction, &after)?;
    note(&transaction, &audit.with(Some(before.audited()), Some(after.audited())), Changed::Schema(id))?;
    transaction.commit().map_err(failure)?;
    Ok(after)
}

pub(super) fn add_version(
    connection: &mut Connection,
    version: &SchemaVersion,
    judged: Judged,
    audit: AuditEntry,
) -> Result<Schema> {
    let transaction = connection.transaction().map_err(failure)?;
    let after = rules::with_version(&get(&transaction, version.schema)?, version, judged.schema)?;
    insert_version(&transaction, version)?;
    update(&transaction, &after)?;
    let raised = note(&transaction, &audit.with(None, Some(version.audited())), Changed::Schema(version.schema))?;
    rules::is_next(judged.generation, raised)?;
    transaction.commit().map_err(failure)?;
    Ok(after)
}

pub(super) fn versions(connection: &Connection, id: SchemaId, after: u32, limit: u32) -> Result<Vec<SchemaVersion>> {
    get(connection, id)?;
    let sql = format!("{VERSION_COLUMNS} WHERE v.schema_id = ?1 AND v.version > ?2 ORDER BY v.version LIMIT ?3");
    let mut statement = connection.prepare(&sql).map_err(failure)?;
    let rows = statement.query_map(params![id.to_string(), after, limit], read_version).map_err(failure)?;
    rows.collect::<rusqlite::Result<_>>().map_err(failure)
}

pub(super) fn version(connection: &Connection, id: SchemaId, number: u32) -> Result<SchemaVersion> {
    let sql = format!("{VERSION_COLUMNS} WHERE v.schema_id = ?1 AND v.version = ?2");
    let row = connection.query_row(&sql, params![id.to_string(), number], read_version);
    found(row, || format!("version {number} of schema {id}"))
}

pub(super) fn by_fingerprint(
    connection: &Connection,
    id: SchemaId,
    fingerprint: [u8; 32],
) -> Result<Option<SchemaVersion>> {
    let sql =
        format!("{VERSION_COLUMNS} WHERE v.schema_id = ?1 AND v.fingerprint = ?2 ORDER BY v.version DESC LIMIT 1");
    connection.query_row(&sql, params![id.to_string(), fingerprint], read_version).optional().map_err(failure)
}

/// The newest version that is not retired.
pub(super) fn in_force(connection: &Connection, id: SchemaId) -> Result<Option<u32>> {
    let sql = "SELECT max(version) FROM schema_versions WHERE schema_id = ?1 AND retired_at IS NULL";
    connection.query_row(sql, [id.to_string()], |row| row.get(0)).map_err(failure)
}

pub(super) fn retire(
    connection: &mut Connection,
    id: SchemaId,
    number: u32,
    now: i64,
    audit: AuditEntry,
) -> Result<SchemaVersion> {
    let transaction = connection.transaction().map_err(failure)?;
    let (schema, before) = (get(&transaction, id)?, version(&transaction, id, number)?);
    let used = transaction
        .query_row(
            "SELECT EXISTS (SELECT 1 FROM streams WHERE schema_id = ?1 AND status <> 'deleted')",
            [id.to_string()],
            |row| row.get(0),
        )
        .map_err(failure)?;
    let Some((schema, after)) = rules::retired(&schema, &before, in_force(&transaction, id)?, used, now)? else {
        return Ok(before);
    };
    transaction
        .execute(
            "UPDATE schema_versions SET retired_at = ?3 WHERE schema_id = ?1 AND version = ?2",
            params![id.to_string(), number, after.retired_at],
        )
        .map_err(failure)?;
    update(&transaction, &schema)?;
    note(&transaction, &audit.with(Some(before.audited()), Some(after.audited())), Changed::Schema(id))?;
    transaction.commit().map_err(failure)?;
    Ok(after)
}

/// What the streams that the shards know are checked with.
pub(super) fn in_use(connection: &Connection) -> Result<Vec<SchemaVersion>> {
    let sql = format!(
        "{VERSION_COLUMNS} WHERE v.schema_id IN \
         (SELECT schema_id FROM streams WHERE status NOT IN ('creating', 'deleted')) AND v.version = \
         (SELECT max(version) FROM schema_versions w WHERE w.schema_id = v.schema_id AND w.retired_at IS NULL)"
    );
    let mut statement = connection.prepare(&sql).map_err(failure)?;
    let rows = statement.query_map([], read_version).map_err(failure)?;
    rows.collect::<rusqlite::Result<_>>().map_err(failure)
}
