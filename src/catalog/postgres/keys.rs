//! API keys.

use tokio_postgres::{Client, GenericClient, Row, Transaction};

use super::{all as read_all, audit::note, bytes32, column, failure, found, get as value, json, json_text, unique};
use ttdust_shards::access::Role;

use crate::catalog::{ApiKey, AuditEntry, Page, Result, model::Changed};

const COLUMNS: &str = "SELECT id, name, role, streams, sha256, created_at, expires_at, last_used_at FROM api_keys";

fn read(row: &Row) -> Result<ApiKey> {
    Ok(ApiKey {
        id: value(row, 0)?,
        name: value(row, 1)?,
        role: column(row, 2, Role::of_name)?,
        streams: json(row, 3)?,
        sha256: bytes32(row, 4)?,
        created_at: value(row, 5)?,
        expires_at: value(row, 6)?,
        last_used_at: value(row, 7)?,
    })
}

pub(super) async fn create(client: &mut Client, key: ApiKey, audit: AuditEntry) -> Result<()> {
    let transaction = client.transaction().await.map_err(failure)?;
    transaction
        .execute(
            "INSERT INTO api_keys (id, name, role, streams, sha256, created_at, expires_at, last_used_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            &[
                &key.id,
                &key.name,
                &key.role.name(),
                &json_text(&key.streams),
                &&key.sha256[..],
                &key.created_at,
                &key.expires_at,
                &key.last_used_at,
            ],
        )
        .await
        .map_err(|e| unique(e, || format!("key {}", key.id)))?;
    note(&transaction, &audit.with(None, Some(key.audited())), Changed::Key(&key.id)).await?;
    transaction.commit().await.map_err(failure)
}

pub(super) async fn get(client: &mut Client, id: String) -> Result<ApiKey> {
    let row = client.query_opt(&format!("{COLUMNS} WHERE id = $1"), &[&id]).await.map_err(failure)?;
    read(&found(row, || format!("key {id}"))?)
}

pub(super) async fn list(client: &mut Client, page: Page) -> Result<Vec<ApiKey>> {
    let sql = format!("{COLUMNS} WHERE id > $1 ORDER BY id LIMIT $2");
    read_all(&client.query(&sql, &[&page.after, &i64::from(page.limit)]).await.map_err(failure)?, read)
}

pub(super) async fn all(client: &impl GenericClient) -> Result<Vec<ApiKey>> {
    read_all(&client.query(COLUMNS, &[]).await.map_err(failure)?, read)
}

/// Those of `ids` that there are.
pub(super) async fn of_ids(client: &impl GenericClient, ids: Vec<String>) -> Result<Vec<ApiKey>> {
    read_all(&client.query(&format!("{COLUMNS} WHERE id = ANY ($1)"), &[&ids]).await.map_err(failure)?, read)
}

pub(super) async fn delete(client: &mut Client, id: String, audit: AuditEntry) -> Result<()> {
    let transaction: Transaction<'_> = client.transaction().await.map_err(failure)?;
    let sql = format!("{COLUMNS} WHERE id = $1 FOR UPDATE");
    let row = transaction.query_opt(&sql, &[&id]).await.map_err(failure)?;
    let before = read(&found(row, || format!("key {id}"))?)?;
    transaction.execute("DELETE FROM api_keys WHERE id = $1", &[&id]).await.map_err(failure)?;
    note(&transaction, &audit.with(Some(before.audited()), None), Changed::Key(&id)).await?;
    transaction.commit().await.map_err(failure)
}

pub(super) async fn touch(client: &mut Client, used: Vec<(String, i64)>) -> Result<()> {
    let (ids, times): (Vec<_>, Vec<_>) = used.into_iter().unzip();
    // In the order of the ids, so that two nodes do not wait for each other.
    client
        .execute(
            "WITH used AS (SELECT id, max(at) AS at FROM unnest($1::text[], $2::bigint[]) AS used (id, at) GROUP BY id), \
             locked AS (SELECT api_keys.id, used.at FROM api_keys JOIN used USING (id) \
                        WHERE last_used_at IS NULL OR last_used_at < used.at ORDER BY id FOR UPDATE OF api_keys) \
             UPDATE api_keys SET last_used_at = greatest(api_keys.last_used_at, locked.at) FROM locked \
             WHERE api_keys.id = locked.id",
            &[&ids, &times],
        )
        .await
        .map(drop)
        .map_err(failure)
}
