//! Jobs.

use tokio_postgres::{Client, GenericClient, Row};

use super::{all, audit::append, column, failure, found, get as value, json, json_text, parsed, unique};
use crate::catalog::{AuditEntry, CatalogError, Job, JobChange, JobFilter, JobStatus, Page, Result, rules};

const COLUMNS: &str = "SELECT id, stream_id, status, spec, objects, progress, created_at, completed_at FROM jobs";

/// Of Postgres's advisory locks, the one that whoever creates a job has: one past that of nodes.
const LOCK: i64 = 0x7474_6475_7376;

fn read(row: &Row) -> Result<Job> {
    Ok(Job {
        id: value(row, 0)?,
        stream: parsed(row, 1)?,
        status: column(row, 2, JobStatus::of_name)?,
        spec: json(row, 3)?,
        objects: json(row, 4)?,
        progress: json(row, 5)?,
        created_at: value(row, 6)?,
        completed_at: value(row, 7)?,
    })
}

pub(super) async fn create(client: &mut Client, job: Job, most: u32, audit: AuditEntry) -> Result<()> {
    let transaction = client.transaction().await.map_err(failure)?;
    // Else those that are created at one moment do not count each other.
    transaction.query_one("SELECT pg_advisory_xact_lock($1)::text", &[&LOCK]).await.map_err(failure)?;
    let unfinished = "SELECT count(*) FROM jobs WHERE status IN ('pending', 'running')";
    rules::has_room(value(&transaction.query_one(unfinished, &[]).await.map_err(failure)?, 0)?, most)?;
    transaction
        .execute(
            "INSERT INTO jobs (id, stream_id, status, spec, objects, progress, created_at, completed_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            &[
                &job.id,
                &job.stream.to_string(),
                &job.status.name(),
                &json_text(&job.spec),
                &json_text(&job.objects),
                &json_text(&job.progress),
                &job.created_at,
                &job.completed_at,
            ],
        )
        .await
        .map_err(|e| unique(e, || format!("job {}", job.id)))?;
    append(&transaction, &audit.with(None, Some(job.audited()))).await?;
    transaction.commit().await.map_err(failure)
}

pub(super) async fn get(client: &mut Client, id: String) -> Result<Job> {
    one(client, &id).await
}

async fn one(client: &impl GenericClient, id: &str) -> Result<Job> {
    let row = client.query_opt(&format!("{COLUMNS} WHERE id = $1"), &[&id]).await.map_err(failure)?;
    read(&found(row, || format!("job {id}"))?)
}

pub(super) async fn list(client: &mut Client, filter: JobFilter, page: Page) -> Result<Vec<Job>> {
    let sql = format!(
        "{COLUMNS} WHERE ($1::text = '' OR id < $1) AND ($2::text IS NULL OR stream_id = $2) \
         AND ($3::text IS NULL OR status = $3) ORDER BY id DESC LIMIT $4"
    );
    let (stream, status) = (filter.stream.map(|stream| stream.to_string()), filter.status.map(JobStatus::name));
    let rows = client.query(&sql, &[&page.after, &stream, &status, &i64::from(page.limit)]).await;
    all(&rows.map_err(failure)?, read)
}

pub(super) async fn unfinished(client: &mut Client) -> Result<Vec<Job>> {
    let sql = format!("{COLUMNS} WHERE status IN ('pending', 'running') ORDER BY id");
    all(&client.query(&sql, &[]).await.map_err(failure)?, read)
}

pub(super) async fn change(client: &mut Client, change: JobChange, audit: Option<AuditEntry>) -> Result<Job> {
    let transaction = client.transaction().await.map_err(failure)?;
    let changed = transaction
        .execute(
            "UPDATE jobs SET status = $2, objects = coalesce($3, objects), progress = $4, completed_at = $5 \
             WHERE id = $1 AND status IN ('pending', 'running')",
            &[
                &change.id,
                &change.status.name(),
                &change.objects.as_ref().map(json_text),
                &json_text(&change.progress),
                &change.completed_at,
            ],
        )
        .await
        .map_err(failure)?;
    let job = one(&transaction, &change.id).await?;
    if changed == 0 {
        return Err(CatalogError::Conflict(format!("job {} has ended: it is {}", job.id, job.status.name())));
    }
    if let Some(audit) = audit {
        append(&transaction, &audit).await?;
    }
    transaction.commit().await.map_err(failure)?;
    Ok(job)
}

pub(super) async fn forget_before(client: &mut Client, time: i64) -> Result<u64> {
    client.execute("DELETE FROM jobs WHERE completed_at < $1", &[&time]).await.map_err(failure)
}
