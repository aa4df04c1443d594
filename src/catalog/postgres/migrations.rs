//! Schema migrations: forward only, all that are missing in one transaction, under a lock that keeps other nodes waiting.

use tokio_postgres::{Client, GenericClient};

use super::{failure, get};
use crate::{
    calendar::now_unix_micros,
    catalog::{CatalogError, MigrationPlan, Result},
};

const MIGRATIONS: &[(&str, &str)] = &[
    ("0001_init", include_str!("../../../migrations/postgres/0001_init.sql")),
    ("0002_change_generations", include_str!("../../../migrations/postgres/0002_change_generations.sql")),
    ("0003_file_sets", include_str!("../../../migrations/postgres/0003_file_sets.sql")),
    ("0004_pipelines", include_str!("../../../migrations/postgres/0004_pipelines.sql")),
    ("0005_jobs", include_str!("../../../migrations/postgres/0005_jobs.sql")),
];

/// Of Postgres's advisory locks, the one that whoever migrates has: "ttdust" as a number.
const LOCK: i64 = 0x7474_6475_7374;

async fn plan(client: &impl GenericClient) -> Result<MigrationPlan> {
    let table = "SELECT to_regclass('catalog_migrations') IS NOT NULL";
    let exists: bool = get(&client.query_one(table, &[]).await.map_err(failure)?, 0)?;
    steps_after(if exists { version(client).await? } else { 0 })
}

async fn version(client: &impl GenericClient) -> Result<i64> {
    let newest = "SELECT coalesce(max(version), 0)::bigint FROM catalog_migrations";
    get(&client.query_one(newest, &[]).await.map_err(failure)?, 0)
}

fn steps_after(from: i64) -> Result<MigrationPlan> {
    let to = MIGRATIONS.len();
    let from = usize::try_from(from).unwrap_or(usize::MAX);
    if from > to {
        return Err(CatalogError::Corrupt(format!(
            "its version is {from}, this program knows {to}: run the newer program that wrote it"
        )));
    }
    Ok(MigrationPlan { from, to, steps: MIGRATIONS[from..].iter().map(|(name, _)| *name).collect() })
}

/// What [`apply`] would do. Changes nothing.
pub(super) async fn planned(client: &Client) -> Result<MigrationPlan> {
    plan(client).await
}

/// Brings the database to this version.
pub(super) async fn apply(client: &mut Client) -> Result<MigrationPlan> {
    // Nodes that find nothing to do need not wait for each other.
    let found = plan(client).await?;
    if found.steps.is_empty() {
        return Ok(found);
    }
    let transaction = client.transaction().await.map_err(failure)?;
    // Other nodes may take their time, and so may a large table.
    transaction.batch_execute("SET LOCAL statement_timeout = 0").await.map_err(failure)?;
    transaction.query_one("SELECT pg_advisory_xact_lock($1)::text", &[&LOCK]).await.map_err(failure)?;
    transaction
        .batch_execute(
            "CREATE TABLE IF NOT EXISTS catalog_migrations (version BIGINT PRIMARY KEY, name TEXT NOT NULL, \
             applied_at BIGINT NOT NULL)",
        )
        .await
        .map_err(failure)?;
    // Another node may have been first. Not by `plan`: Postgres may remember from before the lock that there was no table.
    let plan = steps_after(version(&transaction).await?)?;
    for (at, (name, sql)) in MIGRATIONS.iter().enumerate().skip(plan.from) {
        let step = |error| CatalogError::Unavailable(format!("migration {name}: {}", super::reason_of(&error)));
        transaction.batch_execute(sql).await.map_err(step)?;
        transaction
            .execute(
                "INSERT INTO catalog_migrations VALUES ($1, $2, $3)",
                &[&((at + 1) as i64), name, &now_unix_micros()],
            )
            .await
            .map_err(step)?;
    }
    transaction.commit().await.map_err(failure)?;
    Ok(plan)
}
