//! Schemas and their versions.

use ttdust::catalog::{
    CatalogError, Judged, Page, PipelineVersion, Schema, SchemaChange, SchemaFilter, StreamChange, StreamPipeline,
    StreamPipelines,
};
use ttdust_shards::ids::SchemaId;

use crate::store::{Place, add, all, judged, line, schema, stream, version, with_schema, with_stream};

pub async fn what_is_stored_is_read_back_after_a_restart(place: Place) {
    let catalog = place.open().await;
    let stream = with_stream(&catalog).await;
    let cluster = catalog.cluster_id().await.expect("an id");
    drop(catalog);
    let catalog = place.open().await;
    catalog.ping().await.expect("it answers");
    assert_eq!(catalog.stream(stream.id).await, Ok(stream.clone()));
    assert_eq!(catalog.cluster_id().await, Ok(cluster));
    let read = catalog.everything().await.expect("everything");
    assert_eq!((&read.schemas, read.keys.len()), (&vec![version(stream.schema, 1)], 0));
    assert_eq!(read.streams, [stream]);
}

pub async fn names_are_unique_in_their_namespace(place: Place) {
    let catalog = place.open().await;
    let first = with_schema(&catalog).await;
    let (again, of_again) = schema("events");
    let refused = catalog.create_schema(again, of_again, line("x")).await;
    assert!(matches!(refused, Err(CatalogError::AlreadyExists(what)) if what.contains("events")));
    let (elsewhere, of_elsewhere) = schema("events");
    let elsewhere = Schema { namespace: "other".into(), ..elsewhere };
    catalog.create_schema(elsewhere.clone(), of_elsewhere, line("x")).await.expect("another namespace");
    let (second, of_second) = schema("evening%");
    catalog.create_schema(second.clone(), of_second, line("x")).await.expect("another name");

    let listed = async |filter, page| -> Vec<SchemaId> {
        catalog.schemas(filter, page).await.expect("a page").iter().map(|schema: &Schema| schema.id).collect()
    };
    let none = SchemaFilter::default();
    assert_eq!(listed(none.clone(), all()).await, [first, elsewhere.id, second.id]);
    let page = Page { after: first.to_string(), limit: 1 };
    assert_eq!(listed(none.clone(), page).await, [elsewhere.id]);
    let other = SchemaFilter { namespace: Some("other".into()), ..none.clone() };
    assert_eq!(listed(other, all()).await, [elsewhere.id]);
    let named = SchemaFilter { namespace: Some("default".into()), name: Some("events".into()), ..none.clone() };
    assert_eq!(listed(named, all()).await, [first]);
    let prefix = |text: &str| SchemaFilter { name_prefix: Some(text.into()), ..none.clone() };
    assert_eq!(listed(prefix("even"), all()).await, [first, elsewhere.id, second.id]);
    assert_eq!(listed(prefix("evening%"), all()).await, [second.id]);
    assert_eq!(listed(prefix("%"), all()).await, []);
    assert_eq!(catalog.schema(elsewhere.id).await, Ok(elsewhere));
    let unknown = catalog.schema(SchemaId::generate()).await;
    assert!(matches!(unknown, Err(CatalogError::NotFound(_))));
}

pub async fn versions_follow_each_other_and_are_found(place: Place) {
    let catalog = place.open().await;
    let schema = with_stream(&catalog).await.schema;
    let second = version(schema, 2);
    let changed = add(&catalog, second.clone(), "x").await.expect("added");
    assert_eq!((changed.version, changed.latest_version, changed.updated_at), (2, 2, 2));
    assert_eq!(catalog.schema(schema).await, Ok(changed));
    for wrong in [version(schema, 2), version(schema, 4)] {
        let refused = add(&catalog, wrong, "x").await;
        assert!(matches!(refused, Err(CatalogError::Conflict(_))));
    }
    let late = catalog.add_version(version(schema, 3), judged(1), line("x")).await;
    assert_eq!(late, Err(CatalogError::Stale { current: 2 }), "it was judged before there was version 2");
    let orphan = catalog.add_version(version(SchemaId::generate(), 1), judged(1), line("x")).await;
    assert!(matches!(orphan, Err(CatalogError::NotFound(_))));
    assert_eq!(catalog.versions(schema, 1, 10).await, Ok(vec![second.clone()]));
    assert_eq!(catalog.versions(schema, 0, 1).await, Ok(vec![version(schema, 1)]));
    assert!(matches!(catalog.versions(SchemaId::generate(), 0, 1).await, Err(CatalogError::NotFound(_))));
    assert_eq!(catalog.version(schema, 2).await, Ok(second.clone()));
    assert!(matches!(catalog.version(schema, 3).await, Err(CatalogError::NotFound(_))));
    assert_eq!(catalog.version_by_fingerprint(schema, second.fingerprint).await, Ok(Some(second.clone())));
    assert_eq!(catalog.version_by_fingerprint(SchemaId::generate(), second.fingerprint).await, Ok(None));
    assert_eq!(catalog.version_by_fingerprint(schema, [0; 32]).await, Ok(None));
    assert_eq!(catalog.everything().await.expect("everything").schemas, [second]);
}

pub async fn a_version_and_a_pipeline_that_are_judged_by_each_other_do_not_both_come(place: Place) {
    let catalog = place.open().await;
    let stream = with_stream(&catalog).await;
    let pipelines = StreamPipelines {
        current: Some(StreamPipeline {
            id: "pip_1".into(),
            description: String::new(),
            version: 1,
            created_at: 1,
            updated_at: 1,
        }),
        versions: vec![PipelineVersion { version: 1, steps: serde_json::json!([]), created_at: 1 }],
    };
    for version_is_first in [true, false] {
        let generation = catalog.generation().await.expect("a generation");
        let of_schema = catalog.schema(stream.schema).await.expect("the schema");
        let judged = Judged { schema: of_schema.version, generation: Some(generation) };
        let next = version(stream.schema, of_schema.latest_version + 1);
        let change = StreamChange {
            pipelines: Some(pipelines.clone()),
            if_generation: Some(generation),
            ..StreamChange::default()
        };
        let before = catalog.everything().await.expect("everything");
        let stale = CatalogError::Stale { current: generation + 1 };
        if version_is_first {
            catalog.add_version(next.clone(), judged, line("x")).await.expect("added");
            let after = catalog.everything().await.expect("everything");
            assert_eq!((after.streams, after.schemas), (before.streams, vec![next]));
            assert_eq!(catalog.change_stream(stream.id, change, 9, line("x")).await, Err(stale));
        } else {
            catalog.change_stream(stream.id, change, 9, line("x")).await.expect("changed");
            assert_eq!(catalog.add_version(next, judged, line("x")).await, Err(stale));
            assert_eq!(catalog.everything().await.expect("everything").schemas, before.schemas, "nothing is left");
        }
        assert_eq!(catalog.generation().await, Ok(generation + 1));
    }
}

pub async fn a_schema_is_changed_at_the_version_that_was_read(place: Place) {
    let catalog = place.open().await;
    let id = with_schema(&catalog).await;
    let change = SchemaChange { policy: Some("lenient".into()), if_version: Some(1), ..SchemaChange::default() };
    let changed = catalog.change_schema(id, change.clone(), 7, line("x")).await.expect("changed");
    assert_eq!((changed.policy.as_str(), changed.version, changed.updated_at), ("lenient", 2, 7));
    assert_eq!((changed.description.as_str(), changed.compatibility_mode.as_str()), ("of events", "NONE"));
    assert_eq!(catalog.change_schema(id, change, 8, line("x")).await, Err(CatalogError::Stale { current: 2 }));
    let change = SchemaChange {
        description: Some("new".into()),
        compatibility_mode: Some("FULL".into()),
        ..SchemaChange::default()
    };
    let changed = catalog.change_schema(id, change.clone(), 9, line("x")).await.expect("changed");
    assert_eq!((changed.description.as_str(), changed.compatibility_mode.as_str()), ("new", "FULL"));
    assert_eq!(catalog.schema(id).await, Ok(changed));
    let judged_before = catalog.add_version(version(id, 2), judged(2), line("x")).await;
    assert_eq!(judged_before, Err(CatalogError::Stale { current: 3 }), "by a mode that is no longer its mode");
    assert_eq!(catalog.schema(id).await.expect("it").latest_version, 1);
    let unknown = catalog.change_schema(SchemaId::generate(), change, 9, line("x")).await;
    assert!(matches!(unknown, Err(CatalogError::NotFound(_))));
}

pub async fn the_version_in_force_is_retired_only_when_nothing_uses_it(place: Place) {
    let catalog = place.open().await;
    let schema = with_stream(&catalog).await.schema;
    let refused = catalog.retire_version(schema, 1, 5, line("x")).await;
    assert!(matches!(refused, Err(CatalogError::Conflict(_))), "a stream is checked with it");
    add(&catalog, version(schema, 2), "x").await.expect("added");
    let retired = catalog.retire_version(schema, 1, 5, line("x")).await.expect("an older one");
    assert_eq!(retired.retired_at, Some(5));
    assert_eq!(catalog.schema(schema).await.expect("it").version, 3);
    assert_eq!(catalog.retire_version(schema, 1, 9, line("x")).await, Ok(retired.clone()), "twice is no change");
    assert_eq!(catalog.version(schema, 1).await, Ok(retired));
    assert_eq!(catalog.schema(schema).await.expect("it").version, 3);
    add(&catalog, version(schema, 3), "x").await.expect("added");
    catalog.retire_version(schema, 2, 6, line("x")).await.expect("an older one");
    assert!(matches!(catalog.retire_version(schema, 3, 6, line("x")).await, Err(CatalogError::Conflict(_))));
    assert!(matches!(catalog.retire_version(schema, 4, 6, line("x")).await, Err(CatalogError::NotFound(_))));
    assert_eq!(catalog.everything().await.expect("everything").schemas, [version(schema, 3)]);

    let (unused, only) = crate::store::schema("unused");
    catalog.create_schema(unused.clone(), only, line("x")).await.expect("created");
    let unused = unused.id;
    catalog.retire_version(unused, 1, 6, line("x")).await.expect("nothing uses it");
    let refused = catalog.create_stream(stream("late", unused), line("x")).await;
    assert!(matches!(refused, Err(CatalogError::Conflict(_))), "it has no version in force");
    add(&catalog, version(unused, 2), "x").await.expect("added");
    catalog.create_stream(stream("late", unused), line("x")).await.expect("it has one again");
}

pub async fn of_two_that_add_the_same_version_one_wins(place: Place) {
    let (one, other) = (place.open().await, place.open().await);
    let schema = with_schema(&one).await;
    for number in 2..12 {
        let (a, b) = tokio::join!(
            one.add_version(version(schema, number), judged(i64::from(number) - 1), line("x")),
            other.add_version(version(schema, number), judged(i64::from(number) - 1), line("x")),
        );
        let lost = [&a, &b].into_iter().filter(|outcome| matches!(outcome, Err(CatalogError::Stale { .. }))).count();
        assert!(a.is_ok() != b.is_ok() && lost == 1, "{a:?} {b:?}");
    }
    let schema = one.schema(schema).await.expect("it");
    assert_eq!((schema.version, schema.latest_version), (11, 11));
}
