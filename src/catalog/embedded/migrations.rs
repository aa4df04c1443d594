//! Schema migrations: forward only, each in one transaction with its version number (`user_version`).

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::{CatalogError, Result, connect, failure};

const MIGRATIONS: &[(&str, &str)] = &[("0001_init", include_str!("../../../migrations/sqlite/0001_init.sql"))];

/// What `ttdust migrate` would do or did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrationPlan {
    /// The version of the file; 0: empty or missing.
    pub from: usize,
    /// The version of this program.
    pub to: usize,
    /// The names of the steps between.
    pub steps: Vec<&'static str>,
}

fn plan(connection: &Connection) -> Result<MigrationPlan> {
    let from: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failure)?;
    let to = MIGRATIONS.len();
    let from = usize::try_from(from).unwrap_or(usize::MAX);
    if from > to {
        return Err(CatalogError::Corrupt(format!(
            "its version is {from}, this program knows {to}: run the newer program that wrote it"
        )));
    }
    Ok(MigrationPlan { from, to, steps: MIGRATIONS[from..].iter().map(|(name, _)| *name).collect() })
}

/// Brings an open catalog to this version.
pub(super) fn apply(connection: &mut Connection) -> Result<MigrationPlan> {
    let plan = plan(connection)?;
    for (at, (name, sql)) in MIGRATIONS.iter().enumerate().skip(plan.from) {
        let step = |error| CatalogError::Unavailable(format!("migration {name}: {error}"));
        let transaction = connection.transaction().map_err(step)?;
        transaction.execute_batch(sql).map_err(step)?;
        if at == 0 {
            let cluster = uuid::Uuid::new_v4().to_string();
            transaction.execute("INSERT INTO meta VALUES ('cluster_id', ?1)", [cluster]).map_err(step)?;
        }
        transaction.pragma_update(None, "user_version", (at + 1) as i64).map_err(step)?;
        transaction.commit().map_err(step)?;
    }
    Ok(plan)
}

/// What [`migrate`] would do to the catalog at `path`. Changes nothing. Blocking.
///
/// # Errors
/// The catalog cannot be read or is newer than this program.
pub fn migration_plan(path: &Path) -> Result<MigrationPlan> {
    if !path.exists() {
        let steps = MIGRATIONS.iter().map(|(name, _)| *name).collect();
        return Ok(MigrationPlan { from: 0, to: MIGRATIONS.len(), steps });
    }
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .map_err(|e| CatalogError::Unavailable(format!("cannot open {}: {e}", path.display())))?;
    plan(&connection)
}

/// Brings the catalog at `path` to this version. Blocking.
///
/// # Errors
/// The catalog cannot be changed or is newer than this program.
pub fn migrate(path: &Path) -> Result<MigrationPlan> {
    apply(&mut connect(path)?)
}
