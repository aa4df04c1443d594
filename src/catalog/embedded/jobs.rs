//! Jobs.

use rusqlite::{Connection, Row, params};

use super::{AuditEntry, CatalogError, Page, Result, audit::append, column, failure, found, json, json_text, unique};
use crate::catalog::{Job, JobChange, JobFilter, JobStatus, rules};

const COLUMNS: &str = "SELECT id, stream_id, status, spec, objects, progress, created_at, completed_at FROM jobs";

fn read(row: &Row<'_>) -> rusqlite::Result<Job> {
    Ok(Job {
        id: row.get(0)?,
        stream: column(row, 1, |text| text.parse().ok())?,
        status: column(row, 2, JobStatus::of_name)?,
        spec: json(row, 3)?,
        objects: json(row, 4)?,
        progress: json(row, 5)?,
        created_at: row.get(6)?,
        completed_at: row.get(7)?,
    })
}

pub(super) fn create(connection: &mut Connection, job: &Job, most: u32, audit: AuditEntry) -> Result<()> {
    let transaction = connection.transaction().map_err(failure)?;
    let unfinished = "SELECT count(*) FROM jobs WHERE status IN ('pending', 'running')";
    rules::has_room(transaction.query_row(unfinished, [], |row| row.get(0)).map_err(failure)?, most)?;
    transaction
        .execute(
            "INSERT INTO jobs (id, stream_id, status, spec, objects, progress, created_at, completed_at) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            params![
                job.id,
                job.stream.to_string(),
                job.status.name(),
                json_text(&job.spec),
                json_text(&job.objects),
                json_text(&job.progress),
                job.created_at,
                job.completed_at
            ],
        )
        .map_err(|e| unique(e, || format!("job {}", job.id)))?;
    append(&transaction, &audit.with(None, Some(job.audited())))?;
    transaction.commit().map_err(failure)
}

pub(super) fn get(connection: &Connection, id: &str) -> Result<Job> {
    let row = connection.query_row(&format!("{COLUMNS} WHERE id = ?1"), [id], read);
    found(row, || format!("job {id}"))
}

pub(super) fn list(connection: &Connection, filter: &JobFilter, page: &Page) -> Result<Vec<Job>> {
    let sql = format!(
        "{COLUMNS} WHERE (?1 = '' OR id < ?1) AND (?2 IS NULL OR stream_id = ?2) AND (?3 IS NULL OR status = ?3) \
         ORDER BY id DESC LIMIT ?4"
    );
    let mut statement = connection.prepare(&sql).map_err(failure)?;
    let stream = filter.stream.map(|stream| stream.to_string());
    let parameters = params![page.after, stream, filter.status.map(JobStatus::name), page.limit];
    let rows = statement.query_map(parameters, read).map_err(failure)?;
    rows.collect::<rusqlite::Result<_>>().map_err(failure)
}

pub(super) fn unfinished(connection: &Connection) -> Result<Vec<Job>> {
    let sql = format!("{COLUMNS} WHERE status IN ('pending', 'running') ORDER BY id");
    let mut statement = connection.prepare(&sql).map_err(failure)?;
    let rows = statement.query_map([], read).map_err(failure)?;
    rows.collect::<rusqlite::Result<_>>().map_err(failure)
}

pub(super) fn change(connection: &mut Connection, change: &JobChange, audit: Option<AuditEntry>) -> Result<Job> {
    let transaction = connection.transaction().map_err(failure)?;
    let changed = transaction
        .execute(
            "UPDATE jobs SET status = ?2, objects = coalesce(?3, objects), progress = ?4, completed_at = ?5 \
             WHERE id = ?1 AND status IN ('pending', 'running')",
            params![
                change.id,
                change.status.name(),
                change.objects.as_ref().map(json_text),
                json_text(&change.progress),
                change.completed_at
            ],
        )
        .map_err(failure)?;
    let job = get(&transaction, &change.id)?;
    if changed == 0 {
        return Err(CatalogError::Conflict(format!("job {} has ended: it is {}", job.id, job.status.name())));
    }
    if let Some(audit) = audit {
        append(&transaction, &audit)?;
    }
    transaction.commit().map_err(failure)?;
    Ok(job)
}

pub(super) fn forget_before(connection: &mut Connection, time: i64) -> Result<u64> {
    let forgotten = connection.execute("DELETE FROM jobs WHERE completed_at < ?1", [time]).map_err(failure)?;
    Ok(forgotten as u64)
}
