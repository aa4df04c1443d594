//! Streams.

use rusqlite::{Connection, Row, params};
use ttdust_shards::ids::StreamId;

use super::{
    AuditEntry, Page, Result, Stream, StreamChange, StreamFilter, audit::note, column, failure, file_sets, found, json,
    json_or_none, json_text, parsed, schemas, unique,
};
use crate::catalog::{StreamPipelines, StreamStatus, model::Changed, rules};

const COLUMNS: &str = "SELECT id, name, description, schema_id, status, key_fields, labels, retention, \
                       partition_config, version, flushed_through, created_at, updated_at, pipelines, dead_letters FROM streams";

fn read(row: &Row<'_>) -> rusqlite::Result<Stream> {
    Ok(Stream {
        id: parsed(row, 0)?,
        name: row.get(1)?,
        description: row.get(2)?,
        schema: parsed(row, 3)?,
        status: column(row, 4, StreamStatus::of_name)?,
        key_fields: json(row, 5)?,
        labels: json(row, 6)?,
        retention: json_or_none(row, 7)?,
        partition_config: json_or_none(row, 8)?,
        version: row.get(9)?,
        flushed_through: row.get(10)?,
        created_at: row.get(11)?,
        updated_at: row.get(12)?,
        pipelines: json_or_none(row, 13)?.unwrap_or_default(),
        dead_letters: parsed_or_none(row, 14)?,
    })
}

fn parsed_or_none(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<StreamId>> {
    match row.get_ref(at)? {
        rusqlite::types::ValueRef::Null => Ok(None),
        _ => parsed(row, at).map(Some),
    }
}

fn pipelines_text(pipelines: &StreamPipelines) -> Option<String> {
    (!pipelines.is_empty()).then(|| json_text(pipelines))
}

fn pipeline_id(pipelines: &StreamPipelines) -> Option<&str> {
    pipelines.current.as_ref().map(|current| current.id.as_str())
}

pub(super) fn create(connection: &mut Connection, stream: &Stream, audit: AuditEntry) -> Result<()> {
    let transaction = connection.transaction().map_err(failure)?;
    let schema = schemas::get(&transaction, stream.schema)?;
    rules::usable(stream.id, &schema, schemas::in_force(&transaction, schema.id)?)?;
    insert(&transaction, stream, stream.flushed_through)
        .map_err(|e| unique(e, || format!("a stream {}", stream.name)))?;
    note(&transaction, &audit.with(None, Some(stream.audited())), Changed::Stream(stream.id))?;
    transaction.commit().map_err(failure)
}

pub(super) fn insert(connection: &Connection, stream: &Stream, flushed_through: i64) -> rusqlite::Result<()> {
    connection
        .execute(
            "INSERT INTO streams (id, name, description, schema_id, status, key_fields, labels, retention, \
             partition_config, version, flushed_through, created_at, updated_at, pipelines, dead_letters, pipeline_id) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)",
            params![
                stream.id.to_string(),
                stream.name,
                stream.description,
                stream.schema.to_string(),
                stream.status.name(),
                json_text(&stream.key_fields),
                json_text(&stream.labels),
                stream.retention.as_ref().map(json_text),
                stream.partition_config.as_ref().map(json_text),
                stream.version,
                flushed_through,
                stream.created_at,
                stream.updated_at,
                pipelines_text(&stream.pipelines),
                stream.dead_letters.map(|id| id.to_string()),
                pipeline_id(&stream.pipelines),
            ],
        )
        .map(drop)
}

pub(super) fn get(connection: &Connection, id: StreamId) -> Result<Stream> {
    let row = connection.query_row(&format!("{COLUMNS} WHERE id = ?1"), [id.to_string()], read);
    found(row, || format!("stream {id}"))
}

pub(super) fn list(connection: &Connection, filter: &StreamFilter, page: &Page) -> Result<Vec<Stream>> {
    let sql = format!(
        "{COLUMNS} WHERE id > ?1 AND CASE WHEN ?2 IS NULL THEN status <> 'deleted' ELSE status = ?2 END \
         AND (?3 IS NULL OR substr(name, 1, length(?3)) = ?3) \
         AND ((?4 IS NULL AND ?5 IS NULL) OR EXISTS (SELECT 1 FROM json_each(labels) AS label \
              WHERE (?4 IS NULL OR label.key = ?4) AND (?5 IS NULL OR label.value = ?5))) \
         AND (?7 IS NULL OR pipeline_id = ?7) AND (NOT ?8 OR pipeline_id IS NOT NULL) ORDER BY id LIMIT ?6"
    );
    let mut statement = connection.prepare(&sql).map_err(failure)?;
    let status = filter.status.map(StreamStatus::name);
    let StreamFilter { name_prefix, label_key, label_value, pipeline, with_pipeline, .. } = filter;
    let parameters =
        params![page.after, status, name_prefix, label_key, label_value, page.limit, pipeline, with_pipeline];
    let rows = statement.query_map(parameters, read).map_err(failure)?;
    rows.collect::<rusqlite::Result<_>>().map_err(failure)
}

/// The streams that the shards know.
pub(super) fn known(connection: &Connection) -> Result<Vec<Stream>> {
    let sql = format!("{COLUMNS} WHERE status NOT IN ('creating', 'deleted')");
    let mut statement = connection.prepare(&sql).map_err(failure)?;
    let rows = statement.query_map([], read).map_err(failure)?;
    rows.collect::<rusqlite::Result<_>>().map_err(failure)
}

fn update(connection: &Connection, stream: &Stream) -> Result<()> {
    connection
        .execute(
            "UPDATE streams SET description = ?2, retention = ?3, labels = ?4, status = ?5, version = ?6, \
             updated_at = ?7, pipelines = ?8, dead_letters = ?9, pipeline_id = ?10 WHERE id = ?1",
            params![
                stream.id.to_string(),
                stream.description,
                stream.retention.as_ref().map(json_text),
                json_text(&stream.labels),
                stream.status.name(),
                stream.version,
                stream.updated_at,
                pipelines_text(&stream.pipelines),
                stream.dead_letters.map(|id| id.to_string()),
                pipeline_id(&stream.pipelines),
            ],
        )
        .map(|_| ())
        .map_err(failure)
}

pub(super) fn change(
    connection: &mut Connection,
    id: StreamId,
    change: StreamChange,
    now: i64,
    audit: AuditEntry,
) -> Result<Stream> {
    let transaction = connection.transaction().map_err(failure)?;
    let before = get(&transaction, id)?;
    let if_generation = change.if_generation;
    let Some(after) = rules::changed_stream(&before, change, now)? else {
        return Ok(before);
    };
    update(&transaction, &after)?;
    let audit = audit.with(Some(before.audited()), Some(after.audited()));
    let raised = note(&transaction, &audit, Changed::Stream(id))?;
    rules::is_next(if_generation, raised)?;
    transaction.commit().map_err(failure)?;
    Ok(after)
}

pub(super) fn end_deletion(connection: &mut Connection, id: StreamId, now: i64, audit: AuditEntry) -> Result<()> {
    let transaction = connection.transaction().map_err(failure)?;
    let before = get(&transaction, id)?;
    let after = rules::deleted(&before, now)?;
    file_sets::forget_stream(&transaction, id)?;
    update(&transaction, &after)?;
    note(&transaction, &audit.with(Some(before.audited()), Some(after.audited())), Changed::Stream(id))?;
    transaction.commit().map_err(failure)
}
