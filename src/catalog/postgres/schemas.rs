//! Schemas and their versions. Whoever changes a schema or its versions has the row of the schema locked.

use tokio_postgres::{Client, GenericClient, Row, Transaction};
use ttdust_shards::ids::SchemaId;

use super::{all, audit::note, bytes32, failure, found, get as value, number, parsed, unique};
use crate::catalog::{
    AuditEntry, Judged, Page, Result, Schema, SchemaChange, SchemaFilter, SchemaVersion, model::Changed, rules,
};

const COLUMNS: &str = "SELECT s.id, s.namespace, s.name, s.description, s.compatibility_mode, s.policy, s.version, \
                       s.created_at, s.updated_at, \
                       (SELECT max(version) FROM schema_versions v WHERE v.schema_id = s.id) FROM schemas s";

const VERSION_COLUMNS: &str =
    "SELECT v.schema_id, v.version, v.definition, v.fingerprint, v.created_at, v.retired_at FROM schema_versions v";

fn read(row: &Row) -> Result<Schema> {
    Ok(Schema {
        id: parsed(row, 0)?,
        namespace: value(row, 1)?,
        name: value(row, 2)?,
        description: value(row, 3)?,
        compatibility_mode: value(row, 4)?,
        policy: value(row, 5)?,
        version: value(row, 6)?,
        created_at: value(row, 7)?,
        updated_at: value(row, 8)?,
        latest_version: number(row, 9)?,
    })
}

fn read_version(row: &Row) -> Result<SchemaVersion> {
    Ok(SchemaVersion {
        schema: parsed(row, 0)?,
        version: number(row, 1)?,
        definition: value(row, 2)?,
        fingerprint: bytes32(row, 3)?,
        created_at: value(row, 4)?,
        retired_at: value(row, 5)?,
    })
}

async fn insert_version(transaction: &Transaction<'_>, version: &SchemaVersion) -> Result<()> {
    transaction
        .execute(
            "INSERT INTO schema_versions (schema_id, version, definition, fingerprint, created_at, retired_at) \
             VALUES ($1, $2, $3, $4, $5, $6)",
            &[
                &version.schema.to_string(),
                &i64::from(version.version),
                &version.definition,
                &&version.fingerprint[..],
                &version.created_at,
                &version.retired_at,
            ],
        )
        .await
        .map(drop)
        .map_err(failure)
}

async fn update(transaction: &Transaction<'_>, schema: &Schema) -> Result<()> {
    transaction
        .execute(
            "UPDATE schemas SET description = $2, compatibility_mode = $3, policy = $4, version = $5, updated_at = $6 \
             WHERE id = $1",
            &[
                &schema.id.to_string(),
                &schema.description,
                &schema.compatibility_mode,
                &schema.policy,
                &schema.version,
                &schema.updated_at,
            ],
        )
        .await
        .map(drop)
        .map_err(failure)
}

pub(super) async fn create(client: &mut Client, schema: Schema, first: SchemaVersion, audit: AuditEntry) -> Result<()> {
    assert!(first.schema == schema.id && first.version == 1, "a schema begins with its own version 1");
    let transaction = client.transaction().await.map_err(failure)?;
    transaction
        .execute(
            "INSERT INTO schemas (id, namespace, name, description, compatibility_mode, policy, version, created_at, \
             updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            &[
                &schema.id.to_string(),
                &schema.namespace,
                &schema.name,
                &schema.description,
                &schema.compatibility_mode,
                &schema.policy,
                &schema.version,
                &schema.created_at,
                &schema.updated_at,
            ],
        )
        .await
        .map_err(|e| unique(e, || format!("a schema {} in namespace {}", schema.name, schema.namespace)))?;
    insert_version(&transaction, &first).await?;
    note(&transaction, &audit.with(None, Some(schema.audited())), Changed::Schema(schema.id)).await?;
    transaction.commit().await.map_err(failure)
}

async fn find(client: &impl GenericClient, id: SchemaId) -> Result<Schema> {
    let row = client.query_opt(&format!("{COLUMNS} WHERE s.id = $1"), &[&id.to_string()]).await.map_err(failure)?;
    read(&found(row, || format!("schema {id}"))?)
}

/// The schema, which nobody else changes until the end of the transaction.
async fn find_to_change(transaction: &Transaction<'_>, id: SchemaId) -> Result<Schema> {
    // First the lock, then the row: read with it, the newest version could be from before the wait.
    let locked = "SELECT 1 FROM schemas WHERE id = $1 FOR UPDATE";
    transaction.execute(locked, &[&id.to_string()]).await.map_err(failure)?;
    find(transaction, id).await
}

/// The schema, whose versions nobody retires until the end of the transaction.
pub(super) async fn find_to_use(transaction: &Transaction<'_>, id: SchemaId) -> Result<Schema> {
    let locked = "SELECT 1 FROM schemas WHERE id = $1 FOR SHARE";
    transaction.execute(locked, &[&id.to_string()]).await.map_err(failure)?;
    find(transaction, id).await
}

pub(super) async fn get(client: &mut Client, id: SchemaId) -> Result<Schema> {
    find(client, id).await
}

pub(super) async fn list(client: &mut Client, filter: SchemaFilter, page: Page) -> Result<Vec<Schema>> {
    let sql = format!(
        "{COLUMNS} WHERE s.id > $1 AND ($2::text IS NULL OR s.namespace = $2) AND ($3::text IS NULL OR s.name = $3) \
         AND ($4::text IS NULL OR starts_with(s.name, $4)) ORDER BY s.id LIMIT $5"
    );
    let limit = i64::from(page.limit);
    let rows = client.query(&sql, &[&page.after, &filter.namespace, &filter.name, &filter.name_prefix, &limit]).await;
    all(&rows.map_err(failure)?, read)
}

pub(super) async fn change(
    client: &mut Client,
    id: SchemaId,
    change: SchemaChange,
    now: i64,
    audit: AuditEntry,
) -> Result<Schema> {
    let transaction = client.transaction().await.map_err(failure)?;
    let before = find_to_change(&transaction, id).await?;
    let after = rules::changed_schema(&before, change, now)?;
    update(&transaction, &after).await?;
    note(&transaction, &audit.with(Some(before.audited()), Some(after.audited())), Changed::Schema(id)).await?;
    transaction.commit().await.map_err(failure)?;
    Ok(after)
}

pub(super) async fn add_version(
    client: &mut Client,
    version: SchemaVersion,
    judged: Judged,
    audit: AuditEntry,
) -> Result<Schema> {
    let transaction = client.transaction().await.map_err(failure)?;
    let after = rules::with_version(&find_to_change(&transaction, version.schema).await?, &version, judged.schema)?;
    insert_version(&transaction, &version).await?;
    update(&transaction, &after).await?;
    let raised =
        note(&transaction, &audit.with(None, Some(version.audited())), Changed::Schema(version.schema)).await?;
    rules::is_next(judged.generation, raised)?;
    transaction.commit().await.map_err(failure)?;
    Ok(after)
}

pub(super) async fn versions(client: &mut Client, id: SchemaId, after: u32, limit: u32) -> Result<Vec<SchemaVersion>> {
    find(client, id).await?;
    let sql = format!("{VERSION_COLUMNS} WHERE v.schema_id = $1 AND v.version > $2 ORDER BY v.version LIMIT $3");
    let rows = client.query(&sql, &[&id.to_string(), &i64::from(after), &i64::from(limit)]).await.map_err(failure)?;
    all(&rows, read_version)
}

pub(super) async fn find_version(client: &impl GenericClient, id: SchemaId, number: u32) -> Result<SchemaVersion> {
    let sql = format!("{VERSION_COLUMNS} WHERE v.schema_id = $1 AND v.version = $2");
    let row = client.query_opt(&sql, &[&id.to_string(), &i64::from(number)]).await.map_err(failure)?;
    read_version(&found(row, || format!("version {number} of schema {id}"))?)
}

pub(super) async fn version(client: &mut Client, id: SchemaId, number: u32) -> Result<SchemaVersion> {
    find_version(client, id, number).await
}

pub(super) async fn by_fingerprint(
    client: &mut Client,
    id: SchemaId,
    fingerprint: [u8; 32],
) -> Result<Option<SchemaVersion>> {
    let sql =
        format!("{VERSION_COLUMNS} WHERE v.schema_id = $1 AND v.fingerprint = $2 ORDER BY v.version DESC LIMIT 1");
    let row = client.query_opt(&sql, &[&id.to_string(), &&fingerprint[..]]).await.map_err(failure)?;
    row.as_ref().map(read_version).transpose()
}

/// The newest version that is not retired.
pub(super) async fn in_force(client: &impl GenericClient, id: SchemaId) -> Result<Option<u32>> {
    let sql = "SELECT version FROM schema_versions WHERE schema_id = $1 AND retired_at IS NULL \
               ORDER BY version DESC LIMIT 1";
    let row = client.query_opt(sql, &[&id.to_string()]).await.map_err(failure)?;
    row.as_ref().map(|row| number(row, 0)).transpose()
}

pub(super) async fn retire(
    client: &mut Client,
    id: SchemaId,
    number: u32,
    now: i64,
    audit: AuditEntry,
) -> Result<SchemaVersion> {
    let transaction = client.transaction().await.map_err(failure)?;
    let schema = find_to_change(&transaction, id).await?;
    let before = find_version(&transaction, id, number).await?;
    let used = "SELECT EXISTS (SELECT 1 FROM streams WHERE schema_id = $1 AND status <> 'deleted')";
    let used = value(&transaction.query_one(used, &[&id.to_string()]).await.map_err(failure)?, 0)?;
    let in_force = in_force(&transaction, id).await?;
    let Some((schema, after)) = rules::retired(&schema, &before, in_force, used, now)? else {
        return Ok(before);
    };
    let retire = "UPDATE schema_versions SET retired_at = $3 WHERE schema_id = $1 AND version = $2";
    let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
        [&id.to_string(), &i64::from(number), &after.retired_at];
    transaction.execute(retire, &parameters).await.map_err(failure)?;
    update(&transaction, &schema).await?;
    note(&transaction, &audit.with(Some(before.audited()), Some(after.audited())), Changed::Schema(id)).await?;
    transaction.commit().await.map_err(failure)?;
    Ok(after)
}

/// What the streams that the shards know are checked with.
pub(super) async fn in_use(client: &impl GenericClient) -> Result<Vec<SchemaVersion>> {
    let sql = format!(
        "{VERSION_COLUMNS} WHERE v.schema_id IN \
         (SELECT schema_id FROM streams WHERE status NOT IN ('creating', 'deleted')) AND v.version = \
         (SELECT max(version) FROM schema_versions w WHERE w.schema_id = v.schema_id AND w.retired_at IS NULL)"
    );
    all(&client.query(&sql, &[]).await.map_err(failure)?, read_version)
}
