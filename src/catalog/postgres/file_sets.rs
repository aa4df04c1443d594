//! Files that take the place of others, files that go, and what is to be done after it.

use std::collections::{BTreeSet, HashSet};

use tokio_postgres::{Client, Row, Transaction};
use ttdust_shards::{ids::StreamId, parquet::PartitionHour};

use super::{
    all, failure,
    files::{self, FIELDS, GIVEN, read},
    get as value, parsed, streams,
};
use crate::catalog::{
    CatalogError, Commit, FileTotals, ManifestDebt, Result, RetiredFile, StoredFile, StreamHour, rules,
};

/// The manifests of these hours are to be written.
pub(super) async fn owe_manifests(
    transaction: &Transaction<'_>,
    stream: StreamId,
    hours: impl Iterator<Item = PartitionHour>,
) -> Result<()> {
    let hours: BTreeSet<i64> = hours.map(|hour| hour.0).collect();
    let hours: Vec<i64> = hours.into_iter().collect();
    transaction
        .execute(
            "INSERT INTO manifest_debts SELECT $1, hour, 1 FROM unnest($2::bigint[]) AS hour \
             ON CONFLICT (stream_id, hour) DO UPDATE SET changes = manifest_debts.changes + 1",
            &[&stream.to_string(), &hours],
        )
        .await
        .map(drop)
        .map_err(failure)
}

pub(super) async fn replace(
    client: &mut Client,
    id: StreamId,
    old: Vec<String>,
    new: StoredFile,
    now: i64,
) -> Result<Commit> {
    let transaction = client.transaction().await.map_err(failure)?;
    if !takes_files(&transaction, id).await? {
        return Ok(Commit::StreamGone);
    }
    let these = format!("SELECT {FIELDS} FROM files WHERE stream_id = $1 AND path = ANY ($2) ORDER BY first_sequence");
    let found = transaction.query(&these, &[&id.to_string(), &old]).await.map_err(failure)?;
    let found = all(&found, read)?;
    let there = transaction.query(&these, &[&id.to_string(), &[&new.key].as_slice()]).await.map_err(failure)?;
    let sql = "SELECT EXISTS (SELECT 1 FROM retired_files WHERE path = $1)";
    let retired = value(&transaction.query_one(sql, &[&new.key]).await.map_err(failure)?, 0)?;
    if !rules::replaces(&old, &found, &new, all(&there, read)?.first(), retired)? {
        return Ok(Commit::Done);
    }
    retire(&transaction, id, &found, now).await?;
    files::insert(&transaction, id, &[&new], now).await?;
    transaction.commit().await.map_err(failure)?;
    Ok(Commit::Done)
}

pub(super) async fn set(
    client: &mut Client,
    id: StreamId,
    files: Vec<StoredFile>,
    through: i64,
    now: i64,
) -> Result<Commit> {
    let transaction = client.transaction().await.map_err(failure)?;
    if !takes_files(&transaction, id).await? {
        return Ok(Commit::StreamGone);
    }
    let stream = id.to_string();
    // The manifests of the hours that are left without files go.
    let gone = "WITH gone AS (DELETE FROM files WHERE stream_id = $1 RETURNING hour) SELECT DISTINCT hour FROM gone";
    let gone: Vec<i64> = all(&transaction.query(gone, &[&stream]).await.map_err(failure)?, |row| value(row, 0))?;
    let keys: Vec<&str> = files.iter().map(|file| file.key.as_str()).collect();
    let back = "DELETE FROM retired_files WHERE path = ANY ($1)";
    transaction.execute(back, &[&keys]).await.map_err(failure)?;
    files::insert(&transaction, id, &files.iter().collect::<Vec<_>>(), now).await?;
    let hours = gone.into_iter().map(PartitionHour).chain(files.iter().map(|file| file.hour));
    owe_manifests(&transaction, id, hours).await?;
    let flushed = "UPDATE streams SET flushed_through = greatest(flushed_through, $2) WHERE id = $1";
    transaction.execute(flushed, &[&stream, &through]).await.map_err(failure)?;
    transaction.commit().await.map_err(failure)?;
    Ok(Commit::Done)
}

/// Whether the stream, which nobody else changes until the end of the transaction, takes files.
async fn takes_files(transaction: &Transaction<'_>, id: StreamId) -> Result<bool> {
    match streams::find_to_change(transaction, id).await {
        Err(CatalogError::NotFound(_)) => Ok(false),
        stream => Ok(rules::takes_files(stream?.status)),
    }
}

async fn retire(transaction: &Transaction<'_>, id: StreamId, files: &[StoredFile], now: i64) -> Result<()> {
    let keys: Vec<&str> = files.iter().map(|file| file.key.as_str()).collect();
    let keep = format!(
        "INSERT INTO retired_files (stream_id, retired_at, {FIELDS}) SELECT stream_id, $2, {FIELDS} FROM files \
         WHERE path = ANY ($1)"
    );
    transaction.execute(&keep, &[&keys, &now]).await.map_err(failure)?;
    transaction.execute("DELETE FROM files WHERE path = ANY ($1)", &[&keys]).await.map_err(failure)?;
    owe_manifests(transaction, id, files.iter().map(|file| file.hour)).await
}

pub(super) async fn drop_through(client: &mut Client, id: StreamId, through: i64, now: i64) -> Result<FileTotals> {
    let transaction = client.transaction().await.map_err(failure)?;
    let mut dropped = FileTotals::default();
    if !takes_files(&transaction, id).await? {
        return Ok(dropped);
    }
    let sql =
        format!("SELECT {FIELDS} FROM files WHERE stream_id = $1 AND first_sequence <= $2 AND last_sequence <= $2");
    let found = all(&transaction.query(&sql, &[&id.to_string(), &through]).await.map_err(failure)?, read)?;
    retire(&transaction, id, &found, now).await?;
    transaction.commit().await.map_err(failure)?;
    found.iter().for_each(|file| dropped.add(file));
    Ok(dropped)
}

pub(super) async fn page(client: &mut Client, id: StreamId, after: i64, limit: u32) -> Result<Vec<StoredFile>> {
    let sql = format!(
        "SELECT {FIELDS} FROM files WHERE stream_id = $1 AND first_sequence > $2 ORDER BY first_sequence LIMIT $3"
    );
    let rows = client.query(&sql, &[&id.to_string(), &after, &i64::from(limit)]).await.map_err(failure)?;
    all(&rows, read)
}

pub(super) async fn of_hour(client: &mut Client, of: StreamHour) -> Result<Vec<StoredFile>> {
    let sql = format!("SELECT {FIELDS} FROM files WHERE stream_id = $1 AND hour = $2 ORDER BY first_sequence");
    all(&client.query(&sql, &[&of.stream.to_string(), &of.hour.0]).await.map_err(failure)?, read)
}

fn hour(row: &Row) -> Result<StreamHour> {
    Ok(StreamHour { stream: parsed(row, 0)?, hour: PartitionHour(value(row, 1)?) })
}

pub(super) async fn to_merge(
    client: &mut Client,
    below_bytes: u64,
    after: Option<StreamHour>,
    limit: u32,
) -> Result<Vec<StreamHour>> {
    let (stream, from) = after.map_or((String::new(), 0), |after| (after.stream.to_string(), after.hour.0));
    let sql = "SELECT stream_id, hour FROM files WHERE level < 2 AND (stream_id, hour) > ($1, $2) AND bytes < $3 \
               GROUP BY stream_id, hour HAVING count(*) >= 2 ORDER BY stream_id, hour LIMIT $4";
    let below = i64::try_from(below_bytes).unwrap_or(i64::MAX);
    all(&client.query(sql, &[&stream, &from, &below, &i64::from(limit)]).await.map_err(failure)?, hour)
}

pub(super) async fn retired(client: &mut Client, before: i64, limit: u32) -> Result<Vec<RetiredFile>> {
    let sql = "SELECT path, stream_id, retired_at FROM retired_files WHERE retired_at < $1 ORDER BY retired_at, path \
               LIMIT $2";
    all(&client.query(sql, &[&before, &i64::from(limit)]).await.map_err(failure)?, |row| {
        Ok(RetiredFile { key: value(row, 0)?, stream: parsed(row, 1)?, retired_at: value(row, 2)? })
    })
}

pub(super) async fn condemn(client: &mut Client, id: StreamId, found: Vec<StoredFile>, now: i64) -> Result<u64> {
    let transaction = client.transaction().await.map_err(failure)?;
    let stream = match streams::find_to_change(&transaction, id).await {
        Err(CatalogError::NotFound(_)) => return Ok(0),
        stream => stream?,
    };
    let found: Vec<&StoredFile> = found.iter().filter(|file| rules::is_orphan(&stream, file)).collect();
    let sql = format!(
        "INSERT INTO retired_files (stream_id, retired_at, {FIELDS}) SELECT $1, $2, * FROM {GIVEN} AS found (key) \
         WHERE NOT EXISTS (SELECT 1 FROM files WHERE path = found.key) ON CONFLICT (path) DO NOTHING"
    );
    let condemned = files::execute_with(&transaction, &sql, id, &found, now).await?;
    transaction.commit().await.map_err(failure)?;
    Ok(condemned)
}

pub(super) async fn forget_retired(client: &mut Client, keys: Vec<String>) -> Result<()> {
    let sql = "DELETE FROM retired_files WHERE path = ANY ($1)";
    client.execute(sql, &[&keys]).await.map(drop).map_err(failure)
}

pub(super) async fn unreferenced(client: &mut Client, mut keys: Vec<String>) -> Result<Vec<String>> {
    let sql = "SELECT path FROM files WHERE path = ANY ($1) \
               UNION ALL SELECT path FROM retired_files WHERE path = ANY ($1)";
    let held = client.query(sql, &[&keys]).await.map_err(failure)?;
    let held: HashSet<String> = all(&held, |row| value(row, 0))?.into_iter().collect();
    keys.retain(|key| !held.contains(key));
    Ok(keys)
}

pub(super) async fn manifests_due(client: &mut Client, limit: u32) -> Result<Vec<ManifestDebt>> {
    let sql = "SELECT stream_id, hour, changes FROM manifest_debts ORDER BY stream_id, hour LIMIT $1";
    all(&client.query(sql, &[&i64::from(limit)]).await.map_err(failure)?, |row| {
        Ok(ManifestDebt { of: hour(row)?, changes: value(row, 2)? })
    })
}

pub(super) async fn manifest_written(client: &mut Client, debt: ManifestDebt) -> Result<()> {
    let sql = "DELETE FROM manifest_debts WHERE stream_id = $1 AND hour = $2 AND changes = $3";
    let of = debt.of;
    client.execute(sql, &[&of.stream.to_string(), &of.hour.0, &debt.changes]).await.map(drop).map_err(failure)
}

/// Nothing of a stream is left.
pub(super) async fn forget_stream(transaction: &Transaction<'_>, id: StreamId) -> Result<()> {
    for table in ["files", "retired_files", "manifest_debts"] {
        let sql = format!("DELETE FROM {table} WHERE stream_id = $1");
        transaction.execute(&sql, &[&id.to_string()]).await.map_err(failure)?;
    }
    Ok(())
}
