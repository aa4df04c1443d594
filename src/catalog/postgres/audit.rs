//! The audit log, the generation, and the answers to requests that may come again.

use tokio_postgres::{Client, GenericClient, Row, Transaction};

use super::{all, bytes32, failure, get, json_or_none, json_text, number, unique};
use crate::catalog::{AuditEntry, AuditFilter, CatalogError, Page, RememberedRequest, Result, model::Changed};

/// What every change of a schema, version, stream or key does besides, last of all: others wait from here to the commit. The
/// generation that it makes.
pub(super) async fn note(transaction: &Transaction<'_>, audit: &AuditEntry, changed: Changed<'_>) -> Result<i64> {
    append(transaction, audit).await?;
    let raised = "UPDATE meta SET value = (value::bigint + 1)::text WHERE key = 'generation' RETURNING value::bigint";
    let row = transaction.query_opt(raised, &[]).await.map_err(failure)?;
    let generation: i64 = get(&row.ok_or_else(|| CatalogError::Corrupt("it has no generation".into()))?, 0)?;
    let line = "INSERT INTO changes (generation, object_kind, object_id) VALUES ($1, $2, $3)";
    transaction.execute(line, &[&generation, &changed.kind(), &changed.id()]).await.map_err(failure)?;
    let old = "DELETE FROM changes WHERE generation <= $1";
    transaction.execute(old, &[&(generation - Changed::LINES_MAX)]).await.map_err(failure)?;
    Ok(generation)
}

/// A line that no change of the catalog belongs to.
pub(super) async fn append(client: &impl GenericClient, audit: &AuditEntry) -> Result<()> {
    client
        .execute(
            "INSERT INTO audit_log (id, at, actor, role, action, object_kind, object_id, trace_id, before, after) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            &[
                &audit.id,
                &audit.at,
                &audit.actor,
                &audit.role,
                &audit.action,
                &audit.object_kind,
                &audit.object_id,
                &audit.trace_id,
                &audit.before.as_ref().map(json_text),
                &audit.after.as_ref().map(json_text),
            ],
        )
        .await
        .map(drop)
        .map_err(|e| unique(e, || format!("audit entry {}", audit.id)))
}

pub(super) async fn append_alone(client: &mut Client, audit: AuditEntry) -> Result<()> {
    append(client, &audit).await
}

pub(super) async fn generation(client: &impl GenericClient) -> Result<i64> {
    let row = client.query_one("SELECT value::bigint FROM meta WHERE key = 'generation'", &[]).await;
    get(&row.map_err(failure)?, 0)
}

fn read(row: &Row) -> Result<AuditEntry> {
    Ok(AuditEntry {
        id: get(row, 0)?,
        at: get(row, 1)?,
        actor: get(row, 2)?,
        role: get(row, 3)?,
        action: get(row, 4)?,
        object_kind: get(row, 5)?,
        object_id: get(row, 6)?,
        trace_id: get(row, 7)?,
        before: json_or_none(row, 8)?,
        after: json_or_none(row, 9)?,
    })
}

pub(super) async fn list(client: &mut Client, filter: AuditFilter, page: Page) -> Result<Vec<AuditEntry>> {
    let rows = client
        .query(
            "SELECT id, at, actor, role, action, object_kind, object_id, trace_id, before, after FROM audit_log \
             WHERE ($1::text = '' OR id < $1) AND ($2::text IS NULL OR object_id = $2) \
             AND ($3::text IS NULL OR actor = $3) AND ($4::bigint IS NULL OR at >= $4) ORDER BY id DESC LIMIT $5",
            &[&page.after, &filter.object_id, &filter.actor, &filter.since, &i64::from(page.limit)],
        )
        .await
        .map_err(failure)?;
    all(&rows, read)
}

pub(super) async fn remember(client: &mut Client, request: RememberedRequest) -> Result<RememberedRequest> {
    client
        .execute(
            "INSERT INTO idempotent_requests (caller, key, request_sha256, status, body, created_at) \
             VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
            &[
                &request.caller,
                &request.key,
                &&request.request_sha256[..],
                &i64::from(request.status),
                &request.body,
                &request.created_at,
            ],
        )
        .await
        .map_err(failure)?;
    // No row: it was forgotten in between, and so is as new.
    Ok(remembered(client, request.caller.clone(), request.key.clone()).await?.unwrap_or(request))
}

pub(super) async fn answer(client: &mut Client, request: RememberedRequest) -> Result<()> {
    let answer = "UPDATE idempotent_requests SET status = $3, body = $4 WHERE caller = $1 AND key = $2 AND status = $5";
    let (status, begun) = (i64::from(request.status), i64::from(RememberedRequest::BEGUN));
    let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
        [&request.caller, &request.key, &status, &request.body, &begun];
    client.execute(answer, &parameters).await.map(drop).map_err(failure)
}

pub(super) async fn forget(client: &mut Client, caller: String, key: String) -> Result<()> {
    let forget = "DELETE FROM idempotent_requests WHERE caller = $1 AND key = $2 AND status = $3";
    let begun = i64::from(RememberedRequest::BEGUN);
    client.execute(forget, &[&caller, &key, &begun]).await.map(drop).map_err(failure)
}

pub(super) async fn remembered(client: &mut Client, caller: String, key: String) -> Result<Option<RememberedRequest>> {
    let row = client
        .query_opt(
            "SELECT caller, key, request_sha256, status, body, created_at FROM idempotent_requests \
             WHERE caller = $1 AND key = $2",
            &[&caller, &key],
        )
        .await
        .map_err(failure)?;
    let read = |row: Row| {
        Ok(RememberedRequest {
            caller: get(&row, 0)?,
            key: get(&row, 1)?,
            request_sha256: bytes32(&row, 2)?,
            status: number(&row, 3)?,
            body: get(&row, 4)?,
            created_at: get(&row, 5)?,
        })
    };
    row.map(read).transpose()
}

pub(super) async fn forget_before(client: &mut Client, time: i64) -> Result<u64> {
    client.execute("DELETE FROM idempotent_requests WHERE created_at < $1", &[&time]).await.map_err(failure)
}
