//! API keys.

use ttdust::catalog::{ApiKey, CatalogError, Page};
use ttdust_shards::access::Role;

use crate::store::{Place, all, line};

pub fn key(id: &str) -> ApiKey {
    ApiKey {
        id: id.into(),
        name: "n".into(),
        role: Role::Writer,
        streams: vec!["clicks-*".into(), "orders".into()],
        sha256: [7; 32],
        created_at: 1,
        expires_at: Some(9),
        last_used_at: None,
    }
}

pub async fn keys_are_kept_until_they_are_deleted(place: Place) {
    let catalog = place.open().await;
    let bare = ApiKey { streams: vec![], expires_at: None, role: Role::SchemaAdmin, ..key("key_2") };
    catalog.create_key(key("key_1"), line("x")).await.expect("created");
    catalog.create_key(bare.clone(), line("x")).await.expect("created");
    assert!(matches!(catalog.create_key(bare.clone(), line("x")).await, Err(CatalogError::AlreadyExists(_))));
    assert_eq!(catalog.keys(all()).await, Ok(vec![key("key_1"), bare.clone()]));
    assert_eq!(catalog.keys(Page { after: "key_1".into(), limit: 1 }).await, Ok(vec![bare.clone()]));
    assert_eq!(catalog.key("key_1".into()).await, Ok(key("key_1")));
    let mut read = catalog.everything().await.expect("everything").keys;
    read.sort_by(|a, b| a.id.cmp(&b.id));
    assert_eq!(read, [key("key_1"), bare]);
    catalog.delete_key("key_1".into(), line("x")).await.expect("deleted");
    assert!(matches!(catalog.delete_key("key_1".into(), line("x")).await, Err(CatalogError::NotFound(_))));
    assert!(matches!(catalog.key("key_1".into()).await, Err(CatalogError::NotFound(_))));
}

pub async fn the_last_use_of_a_key_never_moves_backward(place: Place) {
    let catalog = place.open().await;
    for id in ["key_1", "key_2"] {
        catalog.create_key(key(id), line("x")).await.expect("created");
    }
    let generation = catalog.generation().await.expect("a generation");
    let used = |id: &str, at| (id.to_owned(), at);
    catalog.touch_keys(vec![used("key_1", 5), used("gone", 6), used("key_1", 4)]).await.expect("noted");
    catalog.touch_keys(vec![used("key_1", 3), used("key_2", 7)]).await.expect("noted");
    catalog.touch_keys(vec![]).await.expect("nothing to note");
    let times: Vec<_> = catalog.keys(all()).await.expect("keys").iter().map(|key| key.last_used_at).collect();
    assert_eq!(times, [Some(5), Some(7)]);
    assert_eq!(catalog.generation().await, Ok(generation), "the shards need not hear of it");
}
