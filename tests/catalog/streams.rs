//! Streams.

use std::time::{Duration, Instant};

use ttdust::catalog::{
    CatalogError, Page, PipelineVersion, Retention, Stream, StreamChange, StreamFilter, StreamPipeline,
    StreamPipelines, StreamStatus,
};
use ttdust_shards::ids::{SchemaId, StreamId};

use crate::store::{Place, all, line, stream, version, with_schema, with_stream};

fn to(status: StreamStatus) -> StreamChange {
    StreamChange { status: Some(status), ..StreamChange::default() }
}

pub async fn names_are_unique_and_schemas_exist(place: Place) {
    let catalog = place.open().await;
    let first = with_stream(&catalog).await;
    let twin = stream("clicks", first.schema);
    assert!(matches!(
        catalog.create_stream(twin, line("x")).await,
        Err(CatalogError::AlreadyExists(what)) if what.contains("clicks")
    ));
    let orphan = stream("orphan", SchemaId::generate());
    assert!(matches!(catalog.create_stream(orphan, line("x")).await, Err(CatalogError::NotFound(_))));
    assert!(matches!(catalog.stream(StreamId::generate()).await, Err(CatalogError::NotFound(_))));
    let bare = Stream { retention: None, partition_config: None, labels: [].into(), ..stream("bare", first.schema) };
    catalog.create_stream(bare.clone(), line("x")).await.expect("created");
    assert_eq!(catalog.stream(bare.id).await, Ok(bare));
    let sized = Stream { retention: Some(Retention::Size { max_bytes: 1 << 40 }), ..stream("sized", first.schema) };
    catalog.create_stream(sized.clone(), line("x")).await.expect("created");
    assert_eq!(catalog.stream(sized.id).await, Ok(sized));
}

pub async fn lists_are_paged_and_filtered(place: Place) {
    let catalog = place.open().await;
    let first = with_stream(&catalog).await;
    for n in 0..4 {
        let labels = [("team".to_owned(), format!("{n}")), (format!("only-{n}"), "yes".into())].into();
        let one = Stream { labels, ..stream(&format!("s_{n}"), first.schema) };
        catalog.create_stream(one, line("x")).await.expect("created");
    }
    let none = StreamFilter::default();
    let names = async |filter, page| -> Vec<String> {
        let streams = catalog.streams(filter, page).await.expect("a page");
        streams.into_iter().map(|stream| stream.name).collect()
    };
    let page = catalog.streams(none.clone(), Page { after: String::new(), limit: 3 }).await.expect("a page");
    let rest = Page { after: page[2].id.to_string(), limit: 3 };
    assert_eq!((page.len(), names(none.clone(), rest).await), (3, vec!["s_2".to_owned(), "s_3".to_owned()]));
    catalog.change_stream(first.id, to(StreamStatus::Paused), 9, line("x")).await.expect("paused");
    let paused = StreamFilter { status: Some(StreamStatus::Paused), ..none.clone() };
    assert_eq!(names(paused, all()).await, ["clicks"]);
    let prefix = |text: &str| StreamFilter { name_prefix: Some(text.into()), ..none.clone() };
    assert_eq!(names(prefix("s_"), all()).await, ["s_0", "s_1", "s_2", "s_3"]);
    assert_eq!(names(prefix("_"), all()).await, Vec::<String>::new());
    let label = |key: Option<&str>, value: Option<&str>| StreamFilter {
        label_key: key.map(str::to_owned),
        label_value: value.map(str::to_owned),
        ..none.clone()
    };
    assert_eq!(names(label(Some("only-2"), None), all()).await, ["s_2"]);
    assert_eq!(names(label(Some("team"), Some("a")), all()).await, ["clicks"]);
    assert_eq!(names(label(Some("team"), Some("yes")), all()).await, Vec::<String>::new());
    assert_eq!(names(label(None, Some("yes")), all()).await, ["s_0", "s_1", "s_2", "s_3"]);
    let both = StreamFilter { name_prefix: Some("s".into()), ..label(Some("team"), Some("a")) };
    assert_eq!(names(both, all()).await, Vec::<String>::new());
}

pub async fn a_change_needs_the_version_that_was_read(place: Place) {
    let catalog = place.open().await;
    let stream = with_stream(&catalog).await;
    let change = StreamChange { description: Some("new".into()), if_version: Some(1), ..StreamChange::default() };
    let changed = catalog.change_stream(stream.id, change.clone(), 5, line("x")).await.expect("changed");
    assert_eq!((changed.version, changed.description.as_str(), changed.updated_at), (2, "new", 5));
    assert_eq!((&changed.labels, &changed.retention), (&stream.labels, &stream.retention));
    let again = catalog.change_stream(stream.id, change, 6, line("x")).await;
    assert_eq!(again, Err(CatalogError::Stale { current: 2 }));
    let change = StreamChange {
        labels: Some([("team".to_owned(), "b".to_owned())].into()),
        retention: Some(None),
        status: Some(StreamStatus::Paused),
        ..StreamChange::default()
    };
    let changed = catalog.change_stream(stream.id, change, 7, line("x")).await.expect("changed");
    assert_eq!((changed.labels["team"].as_str(), &changed.retention), ("b", &None));
    assert_eq!((changed.status, changed.version), (StreamStatus::Paused, 3));
    assert_eq!(catalog.stream(stream.id).await, Ok(changed));
}

pub async fn a_stream_keeps_every_version_of_its_pipelines(place: Place) {
    let catalog = place.open().await;
    let first = with_stream(&catalog).await;
    let other = stream("other", first.schema);
    catalog.create_stream(other.clone(), line("x")).await.expect("created");
    let pipeline = |id: &str, version: u16| StreamPipeline {
        id: id.to_owned(),
        description: "d".into(),
        version,
        created_at: 5,
        updated_at: 6,
    };
    let version = |version| PipelineVersion { version, steps: serde_json::json!([{"type": "x"}]), created_at: 7 };
    let put = async |id, pipelines: &StreamPipelines| {
        let change = StreamChange { pipelines: Some(pipelines.clone()), ..StreamChange::default() };
        catalog.change_stream(id, change, 8, line("x")).await
    };
    let mut pipelines = StreamPipelines { current: Some(pipeline("pip_a", 1)), versions: vec![version(1)] };
    assert_eq!(put(first.id, &pipelines).await.expect("changed").pipelines, pipelines);
    let twin = StreamPipelines { current: Some(pipeline("pip_a", 1)), versions: vec![version(1)] };
    assert!(put(other.id, &twin).await.is_err(), "a pipeline is of one stream");
    let of = async |filter: StreamFilter| -> Vec<StreamId> {
        catalog.streams(filter, all()).await.expect("streams").into_iter().map(|stream| stream.id).collect()
    };
    let by_id = |id: &str| StreamFilter { pipeline: Some(id.into()), ..StreamFilter::default() };
    let with = || StreamFilter { with_pipeline: true, ..StreamFilter::default() };
    assert_eq!((of(by_id("pip_a")).await, of(with()).await), (vec![first.id], vec![first.id]));
    assert_eq!(of(by_id("pip_b")).await, []);
    pipelines.versions.push(version(2));
    pipelines.current = None;
    put(first.id, &pipelines).await.expect("changed");
    assert_eq!((of(by_id("pip_a")).await, of(with()).await), (vec![], vec![]));
    let everything = catalog.everything().await.expect("everything").streams;
    let kept = everything.iter().find(|stream| stream.id == first.id).expect("there");
    assert_eq!(kept.pipelines, pipelines, "rows are still of them");
    let change = StreamChange { dead_letters: Some(other.id), ..StreamChange::default() };
    let changed = catalog.change_stream(first.id, change, 9, line("x")).await.expect("changed");
    assert_eq!((changed.dead_letters, &changed.pipelines), (Some(other.id), &pipelines));
    assert_eq!(catalog.stream(first.id).await, Ok(changed));
}

pub async fn a_deletion_is_final_and_leaves_a_tombstone(place: Place) {
    let catalog = place.open().await;
    let first = with_stream(&catalog).await;
    let refused = catalog.end_deletion(first.id, 6, line("x")).await;
    let names_the_way = |why: &str| why.contains("is active") && why.contains("by way of deleting");
    assert!(matches!(&refused, Err(CatalogError::Conflict(why)) if names_the_way(why)), "{refused:?}");
    let marked = catalog.change_stream(first.id, to(StreamStatus::Deleting), 7, line("x")).await.expect("marked");
    let again = catalog.change_stream(first.id, to(StreamStatus::Deleting), 8, line("x")).await;
    assert_eq!(again, Ok(marked), "asking again is no fault");
    let resumed = catalog.change_stream(first.id, to(StreamStatus::Active), 9, line("x")).await;
    let names_the_rest = |why: &str| why.contains("is deleting") && why.contains("can only become deleted");
    assert!(matches!(&resumed, Err(CatalogError::Conflict(why)) if names_the_rest(why)), "{resumed:?}");
    let twin = stream("clicks", first.schema);
    let early = catalog.create_stream(twin.clone(), line("x")).await;
    assert!(matches!(early, Err(CatalogError::AlreadyExists(_))), "the name is free only at the end");
    assert_eq!(catalog.everything().await.expect("everything").streams.len(), 1, "the shards must know of it");

    catalog.end_deletion(first.id, 10, line("x")).await.expect("ended");
    let tombstone = catalog.stream(first.id).await.expect("a tombstone");
    assert_eq!((tombstone.status, tombstone.updated_at), (StreamStatus::Deleted, 10));
    assert!(catalog.everything().await.expect("everything").streams.is_empty());
    assert!(matches!(catalog.end_deletion(first.id, 11, line("x")).await, Err(CatalogError::NotFound(_))));
    let resumed = catalog.change_stream(first.id, to(StreamStatus::Active), 11, line("x")).await;
    assert!(matches!(resumed, Err(CatalogError::NotFound(_))));
    assert_eq!(catalog.streams(StreamFilter::default(), all()).await, Ok(vec![]));
    let deleted = StreamFilter { status: Some(StreamStatus::Deleted), ..StreamFilter::default() };
    assert_eq!(catalog.streams(deleted, all()).await, Ok(vec![tombstone]));
    catalog.create_stream(twin, line("x")).await.expect("the name is free");
}

pub async fn a_stream_that_is_being_created_is_not_for_the_shards(place: Place) {
    let catalog = place.open().await;
    let schema = with_schema(&catalog).await;
    let creating = Stream { status: StreamStatus::Creating, ..stream("clicks", schema) };
    catalog.create_stream(creating.clone(), line("x")).await.expect("created");
    let read = catalog.everything().await.expect("everything");
    assert!(read.streams.is_empty() && read.schemas.is_empty());
    assert_eq!(catalog.streams(StreamFilter::default(), all()).await, Ok(vec![creating.clone()]));
    let refused = catalog.retire_version(schema, 1, 2, line("x")).await;
    assert!(matches!(refused, Err(CatalogError::Conflict(_))), "it will need the version");
    catalog.change_stream(creating.id, to(StreamStatus::Active), 2, line("x")).await.expect("active");
    let read = catalog.everything().await.expect("everything");
    assert_eq!((read.streams.len(), read.schemas), (1, vec![version(schema, 1)]));
}

pub async fn of_two_that_take_the_same_name_one_wins(place: Place) {
    let (one, other) = (place.open().await, place.open().await);
    let schema = with_schema(&one).await;
    for n in 0..10 {
        let name = format!("s{n}");
        let (a, b) = tokio::join!(
            one.create_stream(stream(&name, schema), line("x")),
            other.create_stream(stream(&name, schema), line("x")),
        );
        let lost = [&a, &b].into_iter().filter(|o| matches!(o, Err(CatalogError::AlreadyExists(_)))).count();
        assert!(a.is_ok() != b.is_ok() && lost == 1, "{a:?} {b:?}");
    }
    assert_eq!(one.streams(StreamFilter::default(), all()).await.expect("a page").len(), 10);
}

pub async fn of_two_changes_of_the_same_version_one_wins(place: Place) {
    let (one, other) = (place.open().await, place.open().await);
    let id = with_stream(&one).await.id;
    for seen in 1..11 {
        let change =
            StreamChange { if_version: Some(seen), description: Some("new".into()), ..StreamChange::default() };
        let (a, b) = tokio::join!(
            one.change_stream(id, change.clone(), 2, line("x")),
            other.change_stream(id, change.clone(), 2, line("x")),
        );
        let stale = Err(CatalogError::Stale { current: seen + 1 });
        assert!((a.is_ok() && b == stale) || (b.is_ok() && a == stale), "{a:?} {b:?}");
    }
}

pub async fn ten_thousand_streams_are_read_at_once(place: Place) {
    let catalog = place.open().await;
    let first = with_stream(&catalog).await;
    // Straight into the store: the test is of reading. Every tenth stream has a schema of its own.
    let mut sql = String::from("BEGIN;");
    let mut schema = first.schema;
    for n in 1..10_000 {
        if n % 10 == 0 {
            schema = SchemaId::generate();
            sql += &format!(
                "INSERT INTO schemas (id, namespace, name, description, compatibility_mode, policy, version, created_at, \
                 updated_at) SELECT '{schema}', namespace, 'schema{n}', description, compatibility_mode, policy, version, \
                 created_at, updated_at FROM schemas WHERE id = '{0}';
                 INSERT INTO schema_versions (schema_id, version, definition, fingerprint, created_at) \
                 SELECT '{schema}', 1, definition, fingerprint, created_at FROM schema_versions WHERE schema_id = '{0}';",
                first.schema
            );
        }
        sql += &format!(
            "INSERT INTO streams (id, name, description, schema_id, status, key_fields, labels, retention, \
             partition_config, version, flushed_through, created_at, updated_at) SELECT '{}', 'stream{n}', description, \
             '{schema}', status, key_fields, labels, retention, partition_config, version, {n}, created_at, updated_at \
             FROM streams WHERE id = '{}';",
            StreamId::generate(),
            first.id
        );
    }
    place.execute(&(sql + "COMMIT;")).await.expect("rows");
    let start = Instant::now();
    let read = catalog.everything().await.expect("everything");
    let elapsed = start.elapsed();
    assert_eq!((read.streams.len(), read.schemas.len()), (10_000, 1_000));
    assert_eq!(read.streams.iter().map(|stream| stream.flushed_through).sum::<i64>(), (1..10_000).sum::<i64>());
    // It takes a small part of this; a query for each stream or schema would take many times as long.
    assert!(elapsed < Duration::from_secs(5), "{elapsed:?}");
}
