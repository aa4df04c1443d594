//! What a node that knows a generation hears of the rest.

use std::collections::BTreeMap;

use ttdust::catalog::{ApiKey, Catalog, Everything, SchemaChange, SchemaVersion, Stream, StreamChange, StreamStatus};

use crate::{
    keys::key,
    store::{Place, add, line, schema, stream, version, with_schema},
};

/// What the shards run on, in an order that can be compared.
#[derive(Debug, Default, PartialEq)]
struct Known {
    generation: i64,
    streams: BTreeMap<String, Stream>,
    schemas: BTreeMap<String, SchemaVersion>,
    keys: BTreeMap<String, ApiKey>,
}

impl Known {
    fn of(everything: Everything) -> Self {
        Self {
            generation: everything.generation,
            streams: everything.streams.into_iter().map(|stream| (stream.id.to_string(), stream)).collect(),
            schemas: everything.schemas.into_iter().map(|version| (version.schema.to_string(), version)).collect(),
            keys: everything.keys.into_iter().map(|key| (key.id.clone(), key)).collect(),
        }
    }

    /// Hears of what changed, and must know then what there is.
    async fn follow(&mut self, catalog: &Catalog) {
        let changes = catalog.changes_since(self.generation).await.expect("read").expect("remembered");
        self.generation = changes.generation;
        self.streams.extend(changes.streams.into_iter().map(|stream| (stream.id.to_string(), stream)));
        changes.streams_gone.iter().for_each(|id| drop(self.streams.remove(&id.to_string())));
        self.schemas.extend(changes.schemas.into_iter().map(|version| (version.schema.to_string(), version)));
        self.keys.extend(changes.keys.into_iter().map(|key| (key.id.clone(), key)));
        changes.keys_gone.iter().for_each(|id| drop(self.keys.remove(id)));
        let used: Vec<String> = self.streams.values().map(|stream| stream.schema.to_string()).collect();
        self.schemas.retain(|id, _| used.contains(id));
        assert_eq!(*self, Self::of(catalog.everything().await.expect("everything")));
    }
}

pub async fn what_changed_is_the_difference_of_what_there_is(place: Place) {
    let (catalog, other) = (place.open().await, place.open().await);
    let mut known = Known::of(catalog.everything().await.expect("everything"));
    let mut rarely = Known::of(other.everything().await.expect("everything"));
    let used = with_schema(&catalog).await;
    known.follow(&catalog).await;
    let clicks = stream("clicks", used);
    catalog.create_stream(clicks.clone(), line("x")).await.expect("created");
    known.follow(&catalog).await;
    add(&catalog, version(used, 2), "x").await.expect("added");
    known.follow(&catalog).await;
    catalog.retire_version(used, 1, 5, line("x")).await.expect("retired");
    known.follow(&catalog).await;
    let (unused, first) = schema("unused");
    catalog.create_schema(unused.clone(), first, line("x")).await.expect("created");
    let hatching = Stream { status: StreamStatus::Creating, ..stream("hatching", unused.id) };
    catalog.create_stream(hatching.clone(), line("x")).await.expect("created");
    known.follow(&catalog).await;
    let to = |status| StreamChange { status: Some(status), ..StreamChange::default() };
    catalog.change_stream(hatching.id, to(StreamStatus::Active), 6, line("x")).await.expect("active");
    catalog.create_key(key("key_1"), line("x")).await.expect("created");
    catalog.create_key(key("key_2"), line("x")).await.expect("created");
    known.follow(&catalog).await;
    catalog.change_stream(clicks.id, to(StreamStatus::Deleting), 7, line("x")).await.expect("deleting");
    catalog.delete_key("key_1".into(), line("x")).await.expect("deleted");
    known.follow(&catalog).await;
    catalog.end_deletion(clicks.id, 8, line("x")).await.expect("deleted");
    known.follow(&catalog).await;
    // Who heard of a stream that was going hears at once that it is gone and that another has its name.
    rarely.follow(&other).await;
    let twin = stream("hatching", used);
    catalog.change_stream(hatching.id, to(StreamStatus::Deleting), 9, line("x")).await.expect("deleting");
    rarely.follow(&other).await;
    catalog.end_deletion(hatching.id, 10, line("x")).await.expect("deleted");
    catalog.create_stream(twin, line("x")).await.expect("the name is free");
    known.follow(&catalog).await;
    rarely.follow(&other).await;
    assert!(known == rarely && known.streams.len() == 1 && known.keys.len() == 1, "{known:?}");
    known.follow(&catalog).await;
}

pub async fn what_is_too_long_ago_is_not_remembered(place: Place) {
    let (catalog, follower, sleeper) = (place.open().await, place.open().await, place.open().await);
    let from = follower.everything().await.expect("everything").generation;
    sleeper.everything().await.expect("everything");
    let schema = with_schema(&catalog).await;
    for _ in 0..999 {
        let change = SchemaChange { description: Some("x".into()), ..SchemaChange::default() };
        catalog.change_schema(schema, change, 1, line("x")).await.expect("changed");
    }
    let heard = follower.changes_since(from).await.expect("read").expect("remembered").generation;
    catalog.create_key(key("key_1"), line("x")).await.expect("created");
    assert_eq!(sleeper.changes_since(from).await, Ok(None));
    assert_eq!(follower.changes_since(heard + 5000).await, Ok(None), "a generation of another catalog");
    assert_eq!(follower.changes_since(heard).await.expect("read").expect("remembered").keys, [key("key_1")]);
}
