//! The audit log, the generation, and remembered requests.

use serde_json::json;
use ttdust::catalog::{
    AuditEntry, AuditFilter, Catalog, CatalogError, Page, RememberedRequest, SchemaChange, StreamChange, StreamStatus,
};

use crate::{
    keys::key,
    store::{Place, add, all, line, schema, stream, version, with_stream},
};

async fn actions(catalog: &Catalog) -> Vec<String> {
    let lines = catalog.audit(AuditFilter::default(), all()).await.expect("lines");
    lines.into_iter().rev().map(|line| line.action).collect()
}

pub async fn every_change_leaves_a_line_and_raises_the_generation(place: Place) {
    let catalog = place.open().await;
    let before = catalog.generation().await.expect("a generation");
    let (schema, first) = schema("events");
    let clicks = stream("clicks", schema.id);
    let to = |status| StreamChange { status: Some(status), ..StreamChange::default() };
    catalog.create_schema(schema.clone(), first, line("a")).await.expect("created");
    catalog.change_schema(schema.id, SchemaChange::default(), 2, line("b")).await.expect("changed");
    add(&catalog, version(schema.id, 2), "c").await.expect("added");
    catalog.retire_version(schema.id, 1, 3, line("d")).await.expect("retired");
    catalog.create_stream(clicks.clone(), line("e")).await.expect("created");
    catalog.change_stream(clicks.id, to(StreamStatus::Paused), 4, line("f")).await.expect("changed");
    catalog.change_stream(clicks.id, to(StreamStatus::Deleting), 5, line("g")).await.expect("changed");
    catalog.end_deletion(clicks.id, 6, line("h")).await.expect("ended");
    catalog.create_key(key("key_1"), line("i")).await.expect("created");
    catalog.delete_key("key_1".into(), line("j")).await.expect("deleted");
    assert_eq!(actions(&catalog).await.concat(), "abcdefghij");
    assert_eq!(catalog.generation().await, Ok(before + 10));

    let lines = catalog.audit(AuditFilter::default(), all()).await.expect("lines");
    let of = |action: &str| lines.iter().find(|line| line.action == action).expect("it").clone();
    assert_eq!((of("a").before, of("a").after.expect("it")["name"].clone()), (None, json!("events")));
    assert_eq!(
        (of("d").before.expect("it")["retired_at"].clone(), of("d").after.expect("it")["retired_at"].clone()),
        (json!(null), json!(3))
    );
    assert_eq!(
        (of("f").before.expect("it")["status"].clone(), of("f").after.expect("it")["status"].clone()),
        (json!("active"), json!("paused"))
    );
    assert_eq!(of("h").after.expect("it")["status"], "deleted");
    assert!(of("j").after.is_none());
    let key_before = of("j").before.expect("it");
    assert_eq!(key_before["role"], "writer");
    assert!(key_before.get("sha256").is_none(), "nothing secret");
}

pub async fn what_is_refused_leaves_no_line(place: Place) {
    let catalog = place.open().await;
    let clicks = with_stream(&catalog).await;
    let (lines, generation) = (actions(&catalog).await, catalog.generation().await);
    let stale = StreamChange { if_version: Some(9), ..StreamChange::default() };
    assert!(catalog.change_stream(clicks.id, stale, 2, line("x")).await.is_err());
    assert!(catalog.create_stream(stream("clicks", clicks.schema), line("x")).await.is_err());
    assert!(add(&catalog, version(clicks.schema, 7), "x").await.is_err());
    assert!(catalog.retire_version(clicks.schema, 1, 2, line("x")).await.is_err());
    assert!(catalog.delete_key("none".into(), line("x")).await.is_err());
    assert!(catalog.end_deletion(clicks.id, 2, line("x")).await.is_err());
    let delete = StreamChange { status: Some(StreamStatus::Deleting), ..StreamChange::default() };
    catalog.change_stream(clicks.id, delete.clone(), 3, line("deleted")).await.expect("marked");
    catalog.change_stream(clicks.id, delete, 3, line("again")).await.expect("no change");
    let expected: Vec<_> = lines.into_iter().chain(["deleted".to_owned()]).collect();
    assert_eq!(actions(&catalog).await, expected);
    assert_eq!(catalog.generation().await, generation.map(|g| g + 1));
}

pub async fn lines_are_listed_newest_first_and_filtered(place: Place) {
    let catalog = place.open().await;
    for n in 0..5 {
        let id = format!("key_{n}");
        let entry = AuditEntry {
            at: 100 + n,
            actor: if n % 2 == 0 { "even" } else { "odd" }.into(),
            trace_id: "t".into(),
            ..AuditEntry::system("api_key.create", "api_key", &id)
        };
        catalog.create_key(key(&id), entry).await.expect("created");
    }
    let ids = async |filter, page| -> Vec<String> {
        let lines = catalog.audit(filter, page).await.expect("lines");
        lines.into_iter().map(|line| line.object_id).collect()
    };
    let none = AuditFilter::default();
    assert_eq!(ids(none.clone(), all()).await, ["key_4", "key_3", "key_2", "key_1", "key_0"]);
    let first = catalog.audit(none.clone(), Page { after: String::new(), limit: 2 }).await.expect("a page");
    assert_eq!((first[0].at, first[0].trace_id.as_str(), first[0].role.as_str()), (104, "t", "system"));
    assert_eq!(ids(none.clone(), Page { after: first[1].id.clone(), limit: 2 }).await, ["key_2", "key_1"]);
    assert_eq!(ids(AuditFilter { actor: Some("odd".into()), ..none.clone() }, all()).await, ["key_3", "key_1"]);
    assert_eq!(ids(AuditFilter { object_id: Some("key_2".into()), ..none.clone() }, all()).await, ["key_2"]);
    assert_eq!(ids(AuditFilter { since: Some(103), ..none }, all()).await, ["key_4", "key_3"]);
}

pub async fn a_line_of_no_change_raises_no_generation(place: Place) {
    let catalog = place.open().await;
    let generation = catalog.generation().await;
    let entry = AuditEntry { before: Some(json!({"a": 1})), after: Some(json!({"a": 2})), ..line("config.change") };
    catalog.append_audit(entry.clone()).await.expect("appended");
    assert_eq!(catalog.audit(AuditFilter::default(), all()).await, Ok(vec![entry.clone()]));
    assert_eq!(catalog.generation().await, generation);
    assert!(matches!(catalog.append_audit(entry).await, Err(CatalogError::AlreadyExists(_))), "a line is written once");
}

pub async fn what_the_caller_says_of_the_object_is_kept(place: Place) {
    let catalog = place.open().await;
    let entry = AuditEntry { after: Some(json!({"seen": [1, null]})), ..line("x") };
    catalog.create_key(key("key_1"), entry.clone()).await.expect("created");
    assert_eq!(catalog.audit(AuditFilter::default(), all()).await, Ok(vec![entry.clone()]));
    let twice = catalog.create_key(key("key_2"), entry).await;
    assert!(matches!(twice, Err(CatalogError::AlreadyExists(_))), "a line is written once");
    assert!(catalog.key("key_2".into()).await.is_err(), "and what it would stand for is not done");
}

fn request(key: &str, created_at: i64) -> RememberedRequest {
    RememberedRequest {
        caller: "key_1".into(),
        key: key.into(),
        request_sha256: [3; 32],
        status: 201,
        body: r#"{"id": 1}"#.into(),
        created_at,
    }
}

pub async fn the_first_answer_to_a_request_is_the_one_that_is_remembered(place: Place) {
    let catalog = place.open().await;
    let generation = catalog.generation().await;
    let first = request("k", 5);
    assert_eq!(catalog.remembered_request("key_1".into(), "k".into()).await, Ok(None));
    assert_eq!(catalog.remember_request(first.clone()).await, Ok(first.clone()));
    let later = RememberedRequest { request_sha256: [4; 32], status: 409, ..request("k", 6) };
    assert_eq!(catalog.remember_request(later).await, Ok(first.clone()));
    assert_eq!(catalog.remembered_request("key_1".into(), "k".into()).await, Ok(Some(first)));
    assert_eq!(catalog.remembered_request("key_2".into(), "k".into()).await, Ok(None), "each caller has its own");
    assert_eq!(catalog.generation().await, generation, "the shards need not hear of it");
}

pub async fn a_request_is_remembered_from_its_beginning_and_answered_or_forgotten_once(place: Place) {
    let catalog = place.open().await;
    let known = async |key: &str| catalog.remembered_request("key_1".into(), key.into()).await.expect("asked");
    let begun = |key: &str, body: &str| RememberedRequest {
        status: RememberedRequest::BEGUN,
        body: body.into(),
        ..request(key, 5)
    };
    for key in ["a", "b"] {
        assert_eq!(catalog.remember_request(begun(key, "one")).await, Ok(begun(key, "one")));
        assert_eq!(catalog.remember_request(begun(key, "two")).await, Ok(begun(key, "one")), "it was begun before");
    }
    catalog.answer_request(request("a", 5)).await.expect("answered");
    assert_eq!(known("a").await, Some(request("a", 5)));
    catalog.forget_request("key_1".into(), "a".into()).await.expect("no fault");
    catalog.answer_request(RememberedRequest { status: 202, ..request("a", 5) }).await.expect("no fault");
    assert_eq!(known("a").await, Some(request("a", 5)), "an answer stays");
    catalog.forget_request("key_1".into(), "b".into()).await.expect("forgotten");
    assert_eq!(known("b").await, None);
    catalog.answer_request(request("b", 5)).await.expect("no fault");
    assert_eq!(known("b").await, None, "what was never begun has no answer");
}

pub async fn old_answers_are_forgotten(place: Place) {
    let catalog = place.open().await;
    for (key, at) in [("a", 1), ("b", 2), ("c", 3)] {
        catalog.remember_request(request(key, at)).await.expect("remembered");
    }
    assert_eq!(catalog.forget_requests_before(3).await, Ok(2));
    assert_eq!(catalog.remembered_request("key_1".into(), "b".into()).await, Ok(None));
    assert!(catalog.remembered_request("key_1".into(), "c".into()).await.expect("asked").is_some());
    assert_eq!(catalog.forget_requests_before(3).await, Ok(0));
}

pub async fn the_log_only_grows(place: Place) {
    let catalog = place.open().await;
    catalog.create_key(key("key_1"), line("x")).await.expect("created");
    for sql in ["UPDATE audit_log SET actor = 'nobody'", "DELETE FROM audit_log"] {
        let refused = place.execute(sql).await.expect_err(sql);
        assert!(refused.contains("the audit log only grows"), "{refused}");
    }
    assert_eq!(actions(&catalog).await, ["x"]);
}
