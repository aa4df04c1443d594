//! The audit log, the generation, and the answers to requests that may come again.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{AuditEntry, AuditFilter, Page, RememberedRequest, Result, failure, json_or_none, json_text, unique};
use crate::catalog::model::Changed;

/// What every change of a schema, version, stream or key does besides, in its transaction; the generation that it makes.
pub(super) fn note(transaction: &Connection, audit: &AuditEntry, changed: Changed<'_>) -> Result<i64> {
    transaction
        .execute("UPDATE meta SET value = CAST(value AS INTEGER) + 1 WHERE key = 'generation'", [])
        .map_err(failure)?;
    let generation = generation(transaction)?;
    let line = "INSERT INTO changes (generation, object_kind, object_id) VALUES (?1, ?2, ?3)";
    transaction.execute(line, params![generation, changed.kind(), changed.id()]).map_err(failure)?;
    let old = "DELETE FROM changes WHERE generation <= ?1";
    transaction.execute(old, [generation - Changed::LINES_MAX]).map_err(failure)?;
    append(transaction, audit)?;
    Ok(generation)
}

/// A line that no change of the catalog belongs to.
pub(super) fn append(connection: &Connection, audit: &AuditEntry) -> Result<()> {
    connection
        .execute(
            "INSERT INTO audit_log (id, at, actor, role, action, object_kind, object_id, trace_id, before, after) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            params![
                audit.id,
                audit.at,
                audit.actor,
                audit.role,
                audit.action,
                audit.object_kind,
                audit.object_id,
                audit.trace_id,
                audit.before.as_ref().map(json_text),
                audit.after.as_ref().map(json_text),
            ],
        )
        .map(|_| ())
        .map_err(|e| unique(e, || format!("audit entry {}", audit.id)))
}

pub(super) fn generation(connection: &Connection) -> Result<i64> {
    connection
        .query_row("SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'generation'", [], |row| row.get(0))
        .map_err(failure)
}

fn read(row: &Row<'_>) -> rusqlite::Result<AuditEntry> {
    Ok(AuditEntry {
        id: row.get(0)?,
        at: row.get(1)?,
        actor: row.get(2)?,
        role: row.get(3)?,
        action: row.get(4)?,
        object_kind: row.get(5)?,
        object_id: row.get(6)?,
        trace_id: row.get(7)?,
        before: json_or_none(row, 8)?,
        after: json_or_none(row, 9)?,
    })
}

pub(super) fn list(connection: &Connection, filter: &AuditFilter, page: &Page) -> Result<Vec<AuditEntry>> {
    let mut statement = connection
        .prepare(
            "SELECT id, at, actor, role, action, object_kind, object_id, trace_id, before, after FROM audit_log \
             WHERE (?1 = '' OR id < ?1) AND (?2 IS NULL OR object_id = ?2) AND (?3 IS NULL OR actor = ?3) \
             AND (?4 IS NULL OR at >= ?4) ORDER BY id DESC LIMIT ?5",
        )
        .map_err(failure)?;
    let parameters = params![page.after, filter.object_id, filter.actor, filter.since, page.limit];
    let rows = statement.query_map(parameters, read).map_err(failure)?;
    rows.collect::<rusqlite::Result<_>>().map_err(failure)
}

pub(super) fn remember(connection: &Connection, request: &RememberedRequest) -> Result<RememberedRequest> {
    connection
        .execute(
            "INSERT INTO idempotent_requests (caller, key, request_sha256, status, body, created_at) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING",
            params![
                request.caller,
                request.key,
                request.request_sha256,
                request.status,
                request.body,
                request.created_at
            ],
        )
        .map_err(failure)?;
    // No row: it was forgotten in between, and so is as new.
    Ok(remembered(connection, &request.caller, &request.key)?.unwrap_or_else(|| request.clone()))
}

pub(super) fn answer(connection: &Connection, request: &RememberedRequest) -> Result<()> {
    let answer = "UPDATE idempotent_requests SET status = ?3, body = ?4 WHERE caller = ?1 AND key = ?2 AND status = ?5";
    let parameters = params![request.caller, request.key, request.status, request.body, RememberedRequest::BEGUN];
    connection.execute(answer, parameters).map(drop).map_err(failure)
}

pub(super) fn forget(connection: &Connection, caller: &str, key: &str) -> Result<()> {
    let forget = "DELETE FROM idempotent_requests WHERE caller = ?1 AND key = ?2 AND status = ?3";
    connection.execute(forget, params![caller, key, RememberedRequest::BEGUN]).map(drop).map_err(failure)
}

pub(super) fn remembered(connection: &Connection, caller: &str, key: &str) -> Result<Option<RememberedRequest>> {
    connection
        .query_row(
            "SELECT caller, key, request_sha256, status, body, created_at FROM idempotent_requests \
             WHERE caller = ?1 AND key = ?2",
            [caller, key],
            |row| {
                Ok(RememberedRequest {
                    caller: row.get(0)?,
                    key: row.get(1)?,
                    request_sha256: row.get(2)?,
                    status: row.get(3)?,
                    body: row.get(4)?,
                    created_at: row.get(5)?,
                })
            },
        )
        .optional()
        .map_err(failure)
}

pub(super) fn forget_before(connection: &Connection, time: i64) -> Result<u64> {
    let forgotten = connection.execute("DELETE FROM idempotent_requests WHERE created_at < ?1", [time]);
    forgotten.map(|count| count as u64).map_err(failure)
}
