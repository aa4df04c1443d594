//! The rules of the catalog, on SQLite.

use ttdust_shards::{parquet::PartitionHour, snapshot::Role};

use super::*;
use crate::catalog::Retention;

struct Fixture {
    dir: tempfile::TempDir,
    catalog: Catalog,
}

fn fixture() -> Fixture {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let catalog = Catalog::open(&dir.path().join("catalog.sqlite")).expect("a new catalog");
    Fixture { dir, catalog }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

fn schema(name: &str) -> (Schema, SchemaVersion) {
    let id = SchemaId::generate();
    let schema = Schema {
        id,
        namespace: "default".into(),
        name: name.into(),
        description: String::new(),
        compatibility_mode: "NONE".into(),
        created_at: 1,
        latest_version: 1,
    };
    (schema, SchemaVersion { schema: id, version: 1, definition: "{}".into(), created_at: 1 })
}

fn stream(name: &str, schema: SchemaId) -> Stream {
    Stream {
        id: StreamId::generate(),
        name: name.into(),
        description: "d".into(),
        schema,
        state: StreamState::Active,
        key_fields: vec!["id".into()],
        labels: [("team".to_owned(), "a".to_owned())].into(),
        retention: Some(Retention::Time { retention_days: 7 }),
        partition_config: Some(serde_json::json!({"granularity": "hour"})),
        version: 1,
        flushed_through: 0,
        created_at: 1,
        updated_at: 1,
    }
}

fn file(first: i64, last: i64) -> StoredFile {
    StoredFile {
        key: format!("s/{first}-{last}"),
        hour: PartitionHour(1),
        first_sequence: first,
        last_sequence: last,
        min_timestamp: first * 10,
        max_timestamp: last * 10,
        bytes: 100,
        checksum: u32::MAX,
    }
}

async fn with_stream(catalog: &Catalog) -> Stream {
    let (schema, version) = schema("events");
    let stream = stream("clicks", schema.id);
    catalog.create_schema(schema, version).await.expect("created");
    catalog.create_stream(stream.clone()).await.expect("created");
    stream
}

fn everything() -> Page {
    Page { after: String::new(), limit: 100 }
}

#[test]
fn what_is_stored_is_read_back_after_a_restart() {
    run(async {
        let Fixture { dir, catalog } = fixture();
        let stream = with_stream(&catalog).await;
        let cluster = catalog.cluster_id().await.expect("an id");
        drop(catalog);
        let catalog = Catalog::open(&dir.path().join("catalog.sqlite")).expect("opened again");
        assert_eq!(catalog.stream(stream.id).await, Ok(stream.clone()));
        assert_eq!(catalog.cluster_id().await, Ok(cluster));
        let all = catalog.everything().await.expect("everything");
        assert_eq!(all.streams, [stream]);
        assert_eq!((all.schemas.len(), all.schemas[0].version), (1, 1));
    });
}

#[test]
fn names_are_unique_and_versions_follow_each_other() {
    run(async {
        let Fixture { catalog, .. } = fixture();
        let first = with_stream(&catalog).await;
        let (again, version) = schema("events");
        assert!(matches!(catalog.create_schema(again, version).await, Err(CatalogError::AlreadyExists(_))));
        let twin = stream("clicks", first.schema);
        assert!(matches!(catalog.create_stream(twin).await, Err(CatalogError::AlreadyExists(_))));
        let orphan = stream("orphan", SchemaId::generate());
        assert!(matches!(catalog.create_stream(orphan).await, Err(CatalogError::NotFound(_))));
        let second = SchemaVersion { schema: first.schema, version: 2, definition: "true".into(), created_at: 2 };
        catalog.add_version(second.clone()).await.expect("added");
        assert!(matches!(catalog.add_version(second.clone()).await, Err(CatalogError::Conflict(_))));
        assert_eq!(catalog.versions(first.schema, 1, 10).await, Ok(vec![second.clone()]));
        assert_eq!(catalog.schema(first.schema).await.expect("it").latest_version, 2);
        assert_eq!(catalog.everything().await.expect("everything").schemas, [second]);
    });
}

#[test]
fn lists_are_paged_and_filtered() {
    run(async {
        let Fixture { catalog, .. } = fixture();
        let first = with_stream(&catalog).await;
        for n in 0..4 {
            catalog.create_stream(stream(&format!("s{n}"), first.schema)).await.expect("created");
        }
        let page = catalog.streams(None, Page { after: String::new(), limit: 3 }).await.expect("a page");
        let rest = catalog.streams(None, Page { after: page[2].id.to_string(), limit: 3 }).await.expect("a page");
        assert_eq!((page.len(), rest.len()), (3, 2));
        let paused = StreamChange { state: Some(StreamState::Paused), ..StreamChange::default() };
        catalog.change_stream(first.id, paused, 9).await.expect("paused");
        let listed = catalog.streams(Some(StreamState::Paused), everything()).await.expect("a page");
        assert_eq!(listed.iter().map(|s| s.id).collect::<Vec<_>>(), [first.id]);
        let none = catalog.schemas(Some("other".into()), None, everything()).await.expect("a page");
        assert!(none.is_empty());
    });
}

#[test]
fn a_change_needs_the_version_that_was_read_and_deletion_is_final() {
    run(async {
        let Fixture { catalog, .. } = fixture();
        let stream = with_stream(&catalog).await;
        let change = StreamChange { description: Some("new".into()), if_version: Some(1), ..StreamChange::default() };
        let changed = catalog.change_stream(stream.id, change.clone(), 5).await.expect("changed");
        assert_eq!((changed.version, changed.description.as_str(), changed.updated_at), (2, "new", 5));
        assert_eq!(catalog.change_stream(stream.id, change, 6).await, Err(CatalogError::Stale { current: 2 }));
        assert!(matches!(catalog.remove_stream(stream.id).await, Err(CatalogError::Conflict(_))));
        let delete = StreamChange { state: Some(StreamState::Deleting), ..StreamChange::default() };
        catalog.change_stream(stream.id, delete.clone(), 7).await.expect("marked");
        catalog.change_stream(stream.id, delete, 8).await.expect("marked again");
        let resume = StreamChange { state: Some(StreamState::Active), ..StreamChange::default() };
        assert!(matches!(catalog.change_stream(stream.id, resume, 9).await, Err(CatalogError::Conflict(_))));
        catalog.remove_stream(stream.id).await.expect("removed");
        assert!(matches!(catalog.stream(stream.id).await, Err(CatalogError::NotFound(_))));
    });
}

#[test]
fn files_commit_once_without_gap_or_overlap() {
    run(async {
        let Fixture { catalog, .. } = fixture();
        let id = with_stream(&catalog).await.id;
        let both = vec![file(1, 10), file(11, 20)];
        assert_eq!(catalog.commit_files(id, both.clone(), 1).await, Ok(Commit::Done));
        assert_eq!(catalog.commit_files(id, both.clone(), 2).await, Ok(Commit::Done));
        for bad in [file(11, 21), file(5, 20), file(20, 30), file(22, 30)] {
            let refused = catalog.commit_files(id, vec![bad.clone()], 3).await;
            assert!(matches!(refused, Err(CatalogError::Conflict(_))), "{bad:?}");
        }
        let changed = StoredFile { checksum: 0, ..file(1, 10) };
        assert!(matches!(catalog.commit_files(id, vec![changed], 3).await, Err(CatalogError::Conflict(_))));
        assert_eq!(catalog.stream(id).await.expect("it").flushed_through, 20);
        assert_eq!(catalog.files_in(id, 0, i64::MAX).await, Ok(both.clone()));
        assert_eq!(catalog.files_in(id, 101, 110).await, Ok(vec![]));
        assert_eq!(catalog.files_in(id, 100, 110).await, Ok(vec![both[0].clone()]));
        assert_eq!(catalog.file_totals(id).await, Ok(FileTotals { files: 2, bytes: 200, rows: 20 }));
        assert_eq!(catalog.holds_file(both[1].key.clone()).await, Ok(true));
    });
}

#[test]
fn a_refused_commit_leaves_nothing_behind() {
    run(async {
        let Fixture { catalog, .. } = fixture();
        let id = with_stream(&catalog).await.id;
        let gap = vec![file(1, 10), file(12, 20)];
        assert!(matches!(catalog.commit_files(id, gap, 1).await, Err(CatalogError::Conflict(_))));
        assert_eq!(catalog.file_totals(id).await, Ok(FileTotals::default()));
        assert_eq!(catalog.stream(id).await.expect("it").flushed_through, 0);
    });
}

#[test]
fn files_of_a_stream_that_is_gone_or_going_are_not_wanted() {
    run(async {
        let Fixture { catalog, .. } = fixture();
        let gone = catalog.commit_files(StreamId::generate(), vec![file(1, 2)], 1).await;
        assert_eq!(gone, Ok(Commit::StreamGone));
        let id = with_stream(&catalog).await.id;
        let delete = StreamChange { state: Some(StreamState::Deleting), ..StreamChange::default() };
        catalog.change_stream(id, delete, 1).await.expect("marked");
        assert_eq!(catalog.commit_files(id, vec![file(1, 2)], 1).await, Ok(Commit::StreamGone));
    });
}

#[test]
fn keys_are_kept_until_they_are_deleted() {
    run(async {
        let Fixture { catalog, .. } = fixture();
        let key = ApiKey {
            id: "key_1".into(),
            name: "n".into(),
            role: Role::Writer,
            sha256: [7; 32],
            created_at: 1,
            expires_at: Some(9),
        };
        catalog.create_key(key.clone()).await.expect("created");
        assert_eq!(catalog.keys(everything()).await, Ok(vec![key]));
        catalog.delete_key("key_1".into()).await.expect("deleted");
        assert!(matches!(catalog.delete_key("key_1".into()).await, Err(CatalogError::NotFound(_))));
    });
}

#[test]
fn a_newer_catalog_and_a_file_that_is_none_are_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("catalog.sqlite");
    assert_eq!(migration_plan(&path).expect("a plan").steps, ["0001_init"]);
    assert_eq!(migrate(&path).expect("migrated").from, 0);
    assert!(migration_plan(&path).expect("a plan").steps.is_empty());
    Connection::open(&path).expect("opened").pragma_update(None, "user_version", 99).expect("set");
    assert!(matches!(Catalog::open(&path), Err(CatalogError::Corrupt(_))));
    let other = dir.path().join("other");
    std::fs::write(&other, vec![b'x'; 8192]).expect("written");
    assert!(matches!(Catalog::open(&other), Err(CatalogError::Corrupt(_))));
}
