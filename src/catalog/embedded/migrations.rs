//! Schema migrations: forward only, each in one transaction with its version number (`user_version`).

use std::path::Path;

use rusqlite::{Connection, OpenFlags, OptionalExtension, Transaction, params};

use super::{CatalogError, Result, connect, failure};
use crate::catalog::{MigrationPlan, canonical_fingerprint};

/// A step: its SQL, and what only the program can do after it.
struct Migration {
    name: &'static str,
    sql: &'static str,
    then: fn(&Transaction<'_>) -> Result<()>,
}

const MIGRATIONS: &[Migration] = &[
    Migration {
        name: "0001_init",
        sql: include_str!("../../../migrations/sqlite/0001_init.sql"),
        then: |transaction| {
            let cluster = uuid::Uuid::new_v4().to_string();
            let inserted = transaction.execute("INSERT INTO meta VALUES ('cluster_id', ?1)", [cluster]);
            inserted.map(drop).map_err(failure)
        },
    },
    Migration {
        name: "0002_control_plane",
        sql: include_str!("../../../migrations/sqlite/0002_control_plane.sql"),
        then: move_versions,
    },
    Migration {
        name: "0003_change_generations",
        sql: include_str!("../../../migrations/sqlite/0003_change_generations.sql"),
        then: |_| Ok(()),
    },
    Migration {
        name: "0004_file_sets",
        sql: include_str!("../../../migrations/sqlite/0004_file_sets.sql"),
        then: |_| Ok(()),
    },
    Migration {
        name: "0005_pipelines",
        sql: include_str!("../../../migrations/sqlite/0005_pipelines.sql"),
        then: |_| Ok(()),
    },
    Migration { name: "0006_jobs", sql: include_str!("../../../migrations/sqlite/0006_jobs.sql"), then: |_| Ok(()) },
];

fn plan(connection: &Connection) -> Result<MigrationPlan> {
    let from: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failure)?;
    let to = MIGRATIONS.len();
    let from = usize::try_from(from).unwrap_or(usize::MAX);
    if from > to {
        return Err(CatalogError::Corrupt(format!(
            "its version is {from}, this program knows {to}: run the newer program that wrote it"
        )));
    }
    Ok(MigrationPlan { from, to, steps: MIGRATIONS[from..].iter().map(|step| step.name).collect() })
}

/// Brings an open catalog to this version.
pub(super) fn apply(connection: &mut Connection) -> Result<MigrationPlan> {
    let plan = plan(connection)?;
    // Tables that others refer to are made anew; each step is checked as a whole. SQLite knows the switch only outside of
    // transactions.
    connection.pragma_update(None, "foreign_keys", false).map_err(failure)?;
    let done = (plan.from..plan.to).try_for_each(|at| run(connection, at));
    connection.pragma_update(None, "foreign_keys", true).map_err(failure)?;
    done.map(|()| plan)
}

fn run(connection: &mut Connection, at: usize) -> Result<()> {
    let Migration { name, sql, then } = &MIGRATIONS[at];
    let step = |error| CatalogError::Unavailable(format!("migration {name}: {error}"));
    let transaction = connection.transaction().map_err(step)?;
    transaction.execute_batch(sql).map_err(step)?;
    then(&transaction)?;
    let broken = transaction.query_row("PRAGMA foreign_key_check", [], |row| row.get::<_, String>(0)).optional();
    if let Some(table) = broken.map_err(step)? {
        return Err(CatalogError::Corrupt(format!("migration {name}: rows of {table} refer to what is not there")));
    }
    transaction.pragma_update(None, "user_version", (at + 1) as i64).map_err(step)?;
    transaction.commit().map_err(step)
}

/// The versions of schemas, with their fingerprints.
fn move_versions(transaction: &Transaction<'_>) -> Result<()> {
    let mut old = transaction
        .prepare("SELECT schema_id, version, definition, created_at FROM schema_versions_before")
        .map_err(failure)?;
    let mut rows = old.query([]).map_err(failure)?;
    while let Some(row) = rows.next().map_err(failure)? {
        let (schema, version, definition, created_at) =
            (|| Ok::<(String, i64, String, i64), _>((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))()
                .map_err(failure)?;
        let fingerprint = canonical_fingerprint(&definition)
            .map_err(|e| CatalogError::Corrupt(format!("version {version} of {schema} is no JSON: {e}")))?;
        transaction
            .execute(
                "INSERT INTO schema_versions (schema_id, version, definition, fingerprint, created_at) \
                 VALUES (?1, ?2, ?3, ?4, ?5)",
                params![schema, version, definition, fingerprint, created_at],
            )
            .map_err(failure)?;
    }
    drop(rows);
    drop(old);
    transaction.execute_batch("DROP TABLE schema_versions_before").map_err(failure)
}

/// What [`migrate`] would do to the catalog at `path`. Changes nothing. Blocking.
///
/// # Errors
/// The catalog cannot be read or is newer than this program.
pub(in crate::catalog) fn migration_plan(path: &Path) -> Result<MigrationPlan> {
    if !path.exists() {
        let steps = MIGRATIONS.iter().map(|step| step.name).collect();
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
pub(in crate::catalog) fn migrate(path: &Path) -> Result<MigrationPlan> {
    apply(&mut connect(path)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_catalog_of_the_first_version_is_carried_over_with_all_its_rows() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("catalog.sqlite");
        let mut old = connect(&path).expect("a new file");
        run(&mut old, 0).expect("the first version");
        old.execute_batch(
            "INSERT INTO schemas VALUES ('s', 'n', 'events', 'd', 'NONE', 1);
             INSERT INTO schema_versions VALUES ('s', 1, '{}', 1), ('s', 2, '{\"b\":1,\"a\":2}', 5);
             INSERT INTO streams VALUES ('a', 'clicks', 'd', 's', 'paused', '[\"k\"]', '{}', NULL, NULL, 3, 10, 1, 2),
                                        ('b', 'views', 'd', 's', 'deleting', '[]', '{}', NULL, NULL, 1, 0, 1, 1);
             INSERT INTO files VALUES ('a', 1, 10, 7, 'a/1-10', 100, 9, 1, 2, 3);
             INSERT INTO api_keys VALUES ('key_1', 'n', 'admin', zeroblob(32), 1, NULL);",
        )
        .expect("rows");
        drop(old);
        let steps = ["0002_control_plane", "0003_change_generations", "0004_file_sets", "0005_pipelines", "0006_jobs"];
        assert_eq!(migration_plan(&path).expect("a plan").steps, steps);
        assert_eq!(migrate(&path).expect("migrated").from, 1);
        let new = connect(&path).expect("the file");
        let text = |sql: &str| new.query_row(sql, [], |row| row.get::<_, String>(0)).expect(sql);
        assert_eq!(text("SELECT policy || version || ' ' || updated_at FROM schemas"), "strict2 5");
        assert_eq!(
            text("SELECT hex(fingerprint) FROM schema_versions WHERE version = 2").to_lowercase(),
            canonical_fingerprint(r#"{"a":2,"b":1}"#).expect("JSON").map(|byte| format!("{byte:02x}")).concat()
        );
        assert_eq!(
            text("SELECT group_concat(name || status || version || flushed_through, ' ') FROM streams"),
            "clickspaused310 viewsdeleting10"
        );
        assert_eq!(text("SELECT path || level FROM files JOIN streams ON id = stream_id"), "a/1-100");
        assert_eq!(
            text("SELECT stream_id || hour || changes FROM manifest_debts"),
            "a71",
            "its manifest is to be written"
        );
        assert_eq!(text("SELECT role || streams FROM api_keys WHERE last_used_at IS NULL"), "admin[]");
        let orphan = new.execute("INSERT INTO files VALUES ('none', 1, 2, 1, 'x', 1, 1, 1, 1, 1, 0)", []);
        assert!(orphan.is_err(), "foreign keys are on, and refer to the new table");
        let twin = "INSERT INTO streams (id, name, description, schema_id, status, key_fields, labels, retention, \
                    partition_config, version, flushed_through, created_at, updated_at) SELECT 'c', name, description, schema_id, 'active', key_fields, labels, retention, \
                    partition_config, 1, 0, 1, 1 FROM streams WHERE id = 'a'";
        assert!(new.execute(twin, []).is_err(), "names are unique");
        new.execute("UPDATE streams SET status = 'deleted' WHERE id = 'a'", []).expect("a tombstone");
        new.execute(twin, []).expect("its name is free");
    }

    #[test]
    fn a_newer_catalog_and_a_file_that_is_none_are_refused() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("catalog.sqlite");
        let steps = [
            "0001_init",
            "0002_control_plane",
            "0003_change_generations",
            "0004_file_sets",
            "0005_pipelines",
            "0006_jobs",
        ];
        assert_eq!(migration_plan(&path).expect("a plan").steps, steps);
        assert!(!path.exists(), "a plan changes nothing");
        assert_eq!(migrate(&path).expect("migrated").from, 0);
        assert!(migration_plan(&path).expect("a plan").steps.is_empty());
        connect(&path).expect("opened").pragma_update(None, "user_version", 99).expect("set");
        assert!(matches!(migrate(&path), Err(CatalogError::Corrupt(_))));
        let other = dir.path().join("other");
        std::fs::write(&other, vec![b'x'; 8192]).expect("written");
        assert!(matches!(migrate(&other), Err(CatalogError::Corrupt(_))));
    }
}
