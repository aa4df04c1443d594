//! Streams. Whoever changes a stream or its files has the row of the stream locked.

use std::collections::BTreeSet;

use tokio_postgres::{Client, GenericClient, Row, Transaction};
use ttdust_shards::ids::StreamId;

use super::{
    all, audit::note, column, failure, file_sets, found, get as value, json, json_or_none, json_text, parsed, schemas,
    unique,
};
use crate::catalog::{
    AuditEntry, Page, Result, Stream, StreamChange, StreamFilter, StreamPipelines, StreamStatus, model::Changed, rules,
};

const COLUMNS: &str = "SELECT id, name, description, schema_id, status, key_fields, labels::text, retention, \
                       partition_config, version, flushed_through, created_at, updated_at, pipelines, dead_letters FROM streams";

fn read(row: &Row) -> Result<Stream> {
    Ok(Stream {
        id: parsed(row, 0)?,
        name: value(row, 1)?,
        description: value(row, 2)?,
        schema: parsed(row, 3)?,
        status: column(row, 4, StreamStatus::of_name)?,
        key_fields: json(row, 5)?,
        labels: json(row, 6)?,
        retention: json_or_none(row, 7)?,
        partition_config: json_or_none(row, 8)?,
        version: value(row, 9)?,
        flushed_through: value(row, 10)?,
        created_at: value(row, 11)?,
        updated_at: value(row, 12)?,
        pipelines: json_or_none(row, 13)?.unwrap_or_default(),
        dead_letters: value::<Option<String>>(row, 14)?.map(|_| parsed(row, 14)).transpose()?,
    })
}

fn pipelines_text(pipelines: &StreamPipelines) -> Option<String> {
    (!pipelines.is_empty()).then(|| json_text(pipelines))
}

fn pipeline_id(pipelines: &StreamPipelines) -> Option<&str> {
    pipelines.current.as_ref().map(|current| current.id.as_str())
}

pub(super) async fn create(client: &mut Client, stream: Stream, audit: AuditEntry) -> Result<()> {
    let transaction = client.transaction().await.map_err(failure)?;
    let schema = schemas::find_to_use(&transaction, stream.schema).await?;
    rules::usable(stream.id, &schema, schemas::in_force(&transaction, schema.id).await?)?;
    transaction
        .execute(
            "INSERT INTO streams (id, name, description, schema_id, status, key_fields, labels, retention, \
             partition_config, version, flushed_through, created_at, updated_at, pipelines, dead_letters, pipeline_id) \
             VALUES ($1, $2, $3, $4, $5, $6, $7::text::jsonb, $8, $9, $10, $11, $12, $13, $14, $15, $16)",
            &[
                &stream.id.to_string(),
                &stream.name,
                &stream.description,
                &stream.schema.to_string(),
                &stream.status.name(),
                &json_text(&stream.key_fields),
                &json_text(&stream.labels),
                &stream.retention.as_ref().map(json_text),
                &stream.partition_config.as_ref().map(json_text),
                &stream.version,
                &stream.flushed_through,
                &stream.created_at,
                &stream.updated_at,
                &pipelines_text(&stream.pipelines),
                &stream.dead_letters.map(|id| id.to_string()),
                &pipeline_id(&stream.pipelines),
            ],
        )
        .await
        .map_err(|e| unique(e, || format!("a stream {}", stream.name)))?;
    note(&transaction, &audit.with(None, Some(stream.audited())), Changed::Stream(stream.id)).await?;
    transaction.commit().await.map_err(failure)
}

pub(super) async fn get(client: &mut Client, id: StreamId) -> Result<Stream> {
    let row = client.query_opt(&format!("{COLUMNS} WHERE id = $1"), &[&id.to_string()]).await.map_err(failure)?;
    read(&found(row, || format!("stream {id}"))?)
}

/// Those of `ids` that there are.
pub(super) async fn of_ids(client: &impl GenericClient, ids: BTreeSet<StreamId>) -> Result<Vec<Stream>> {
    let ids: Vec<String> = ids.iter().map(StreamId::to_string).collect();
    all(&client.query(&format!("{COLUMNS} WHERE id = ANY ($1)"), &[&ids]).await.map_err(failure)?, read)
}

/// The stream, which nobody else changes until the end of the transaction.
pub(super) async fn find_to_change(transaction: &Transaction<'_>, id: StreamId) -> Result<Stream> {
    let sql = format!("{COLUMNS} WHERE id = $1 FOR UPDATE");
    let row = transaction.query_opt(&sql, &[&id.to_string()]).await.map_err(failure)?;
    read(&found(row, || format!("stream {id}"))?)
}

pub(super) async fn list(client: &mut Client, filter: StreamFilter, page: Page) -> Result<Vec<Stream>> {
    let sql = format!(
        "{COLUMNS} WHERE id > $1 AND CASE WHEN $2::text IS NULL THEN status <> 'deleted' ELSE status = $2 END \
         AND ($3::text IS NULL OR starts_with(name, $3)) \
         AND (($4::text IS NULL AND $5::text IS NULL) OR EXISTS (SELECT 1 FROM jsonb_each_text(labels) AS label \
              WHERE ($4 IS NULL OR label.key = $4) AND ($5 IS NULL OR label.value = $5))) \
         AND ($7::text IS NULL OR pipeline_id = $7) AND (NOT $8::boolean OR pipeline_id IS NOT NULL) ORDER BY id LIMIT $6"
    );
    let status = filter.status.map(StreamStatus::name);
    let limit = i64::from(page.limit);
    let StreamFilter { name_prefix, label_key, label_value, pipeline, with_pipeline, .. } = filter;
    let rows = client
        .query(&sql, &[&page.after, &status, &name_prefix, &label_key, &label_value, &limit, &pipeline, &with_pipeline])
        .await
        .map_err(failure)?;
    all(&rows, read)
}

/// The streams that the shards know.
pub(super) async fn known(client: &impl GenericClient) -> Result<Vec<Stream>> {
    let sql = format!("{COLUMNS} WHERE status NOT IN ('creating', 'deleted')");
    all(&client.query(&sql, &[]).await.map_err(failure)?, read)
}

async fn update(transaction: &Transaction<'_>, stream: &Stream) -> Result<()> {
    transaction
        .execute(
            "UPDATE streams SET description = $2, retention = $3, labels = $4::text::jsonb, status = $5, version = $6, \
             updated_at = $7, pipelines = $8, dead_letters = $9, pipeline_id = $10 WHERE id = $1",
            &[
                &stream.id.to_string(),
                &stream.description,
                &stream.retention.as_ref().map(json_text),
                &json_text(&stream.labels),
                &stream.status.name(),
                &stream.version,
                &stream.updated_at,
                &pipelines_text(&stream.pipelines),
                &stream.dead_letters.map(|id| id.to_string()),
                &pipeline_id(&stream.pipelines),
            ],
        )
        .await
        .map(drop)
        .map_err(failure)
}

pub(super) async fn change(
    client: &mut Client,
    id: StreamId,
    change: StreamChange,
    now: i64,
    audit: AuditEntry,
) -> Result<Stream> {
    let transaction = client.transaction().await.map_err(failure)?;
    let before = find_to_change(&transaction, id).await?;
    let if_generation = change.if_generation;
    let Some(after) = rules::changed_stream(&before, change, now)? else {
        return Ok(before);
    };
    update(&transaction, &after).await?;
    let audit = audit.with(Some(before.audited()), Some(after.audited()));
    let raised = note(&transaction, &audit, Changed::Stream(id)).await?;
    rules::is_next(if_generation, raised)?;
    transaction.commit().await.map_err(failure)?;
    Ok(after)
}

pub(super) async fn end_deletion(client: &mut Client, id: StreamId, now: i64, audit: AuditEntry) -> Result<()> {
    let transaction = client.transaction().await.map_err(failure)?;
    let before = find_to_change(&transaction, id).await?;
    let after = rules::deleted(&before, now)?;
    file_sets::forget_stream(&transaction, id).await?;
    update(&transaction, &after).await?;
    note(&transaction, &audit.with(Some(before.audited()), Some(after.audited())), Changed::Stream(id)).await?;
    transaction.commit().await.map_err(failure)
}
