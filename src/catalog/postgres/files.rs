//! Committed files.

use tokio_postgres::{Client, Row, Transaction};
use ttdust_shards::{ids::StreamId, parquet::PartitionHour};

use super::{all, failure, file_sets, get as value, number, streams};
use crate::catalog::{CatalogError, Commit, FileTotals, Result, StoredFile, rules};

/// The columns of a file, as [`read`] takes them.
pub(super) const FIELDS: &str =
    "path, hour, first_sequence, last_sequence, min_timestamp, max_timestamp, bytes, checksum, level";

pub(super) fn read(row: &Row) -> Result<StoredFile> {
    Ok(StoredFile {
        key: value(row, 0)?,
        hour: PartitionHour(value(row, 1)?),
        first_sequence: value(row, 2)?,
        last_sequence: value(row, 3)?,
        min_timestamp: value(row, 4)?,
        max_timestamp: value(row, 5)?,
        bytes: value::<i64>(row, 6)?.cast_unsigned(),
        checksum: number(row, 7)?,
        level: number(row, 8)?,
    })
}

pub(super) async fn commit(client: &mut Client, id: StreamId, files: Vec<StoredFile>, now: i64) -> Result<Commit> {
    let transaction = client.transaction().await.map_err(failure)?;
    let stream = match streams::find_to_change(&transaction, id).await {
        Err(CatalogError::NotFound(_)) => return Ok(Commit::StreamGone),
        stream => stream?,
    };
    if !rules::takes_files(stream.status) {
        return Ok(Commit::StreamGone);
    }
    let firsts: Vec<i64> = files.iter().map(|file| file.first_sequence).collect();
    let sql = format!(
        "SELECT {FIELDS} FROM files WHERE stream_id = $1 AND first_sequence = ANY ($2) \
         UNION ALL SELECT {FIELDS} FROM retired_files WHERE stream_id = $1 AND first_sequence = ANY ($2)"
    );
    let before = transaction.query(&sql, &[&id.to_string(), &firsts]).await.map_err(failure)?;
    let (new, through) = rules::new_files(stream.flushed_through, &files, &all(&before, read)?)?;
    if !new.is_empty() {
        insert(&transaction, id, &new, now).await?;
        file_sets::owe_manifests(&transaction, id, new.iter().map(|file| file.hour)).await?;
        let flushed = "UPDATE streams SET flushed_through = $2 WHERE id = $1";
        transaction.execute(flushed, &[&id.to_string(), &through]).await.map_err(failure)?;
    }
    transaction.commit().await.map_err(failure)?;
    Ok(Commit::Done)
}

pub(super) async fn insert(transaction: &Transaction<'_>, id: StreamId, files: &[&StoredFile], now: i64) -> Result<()> {
    let sql = format!("INSERT INTO files (stream_id, committed_at, {FIELDS}) SELECT $1, $2, * FROM {GIVEN}");
    execute_with(transaction, &sql, id, files, now).await.map(drop)
}

/// The files given to [`execute_with`], as rows: the path, then the other columns in the order of [`FIELDS`].
pub(super) const GIVEN: &str = "unnest($3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[], \
                                $9::bigint[], $10::bigint[], $11::bigint[])";

/// Executes a statement with the stream as `$1`, the time as `$2` and the files as [`GIVEN`].
pub(super) async fn execute_with(
    transaction: &Transaction<'_>,
    sql: &str,
    id: StreamId,
    files: &[&StoredFile],
    now: i64,
) -> Result<u64> {
    let column = |read: fn(&StoredFile) -> i64| -> Vec<i64> { files.iter().map(|file| read(file)).collect() };
    let paths: Vec<&str> = files.iter().map(|file| file.key.as_str()).collect();
    transaction
        .execute(
            sql,
            &[
                &id.to_string(),
                &now,
                &paths,
                &column(|file| file.hour.0),
                &column(|file| file.first_sequence),
                &column(|file| file.last_sequence),
                &column(|file| file.min_timestamp),
                &column(|file| file.max_timestamp),
                &column(|file| file.bytes.cast_signed()),
                &column(|file| file.checksum.into()),
                &column(|file| file.level.into()),
            ],
        )
        .await
        .map_err(failure)
}

pub(super) async fn holds(client: &mut Client, key: String) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM files WHERE path = $1) \
               OR EXISTS (SELECT 1 FROM retired_files WHERE path = $1)";
    value(&client.query_one(sql, &[&key]).await.map_err(failure)?, 0)
}

pub(super) async fn within(client: &mut Client, id: StreamId, start: i64, end: i64) -> Result<Vec<StoredFile>> {
    let sql = format!(
        "SELECT {FIELDS} FROM files WHERE stream_id = $1 AND max_timestamp >= $2 AND min_timestamp < $3 \
         ORDER BY first_sequence"
    );
    all(&client.query(&sql, &[&id.to_string(), &start, &end]).await.map_err(failure)?, read)
}

pub(super) async fn totals(client: &mut Client, id: Option<StreamId>) -> Result<FileTotals> {
    let sql = "SELECT count(*), coalesce(sum(bytes), 0)::bigint, \
               coalesce(sum(last_sequence - first_sequence + 1), 0)::bigint FROM files \
               WHERE $1::text IS NULL OR stream_id = $1";
    let row = client.query_one(sql, &[&id.map(|id| id.to_string())]).await.map_err(failure)?;
    Ok(FileTotals { files: number(&row, 0)?, bytes: number(&row, 1)?, rows: number(&row, 2)? })
}
