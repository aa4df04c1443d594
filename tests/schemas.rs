//! The schema registry of a real server: versions that may follow each other, and what is told of those that may not.

#[path = "../shards/tests/engine/client.rs"]
mod client;
#[path = "server/process.rs"]
mod process;
#[path = "server/producer.rs"]
mod producer;
#[path = "server/rest.rs"]
mod rest;

use std::path::Path;

use client::Client;
use process::Server;
use producer::block_on;
use serde_json::{Value, json};
use ttdust::catalog::{AuditEntry, Catalog, CatalogPlace, Judged, PgFigures, SchemaVersion, canonical_fingerprint};
use ttdust_proto::{
    ingestion::{AppendRequest, AppendResponse, OnInvalid},
    path,
};

fn post(server: &Server, path: &str, body: &Value) -> (u16, Value) {
    rest::call(&server.http, "POST", path, &body.to_string())
}

fn schema(server: &Server, name: &str, mode: &str, policy: &str, definition: &Value) -> String {
    let body = json!({"name": name, "compatibility_mode": mode, "policy": policy, "definition": definition});
    let (status, schema) = post(server, "/api/v1/schemas", &body);
    assert_eq!(status, 201, "{schema}");
    schema["id"].as_str().expect("an id").to_owned()
}

fn closed(properties: &Value, required: &[&str]) -> Value {
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

/// The answer to one record.
fn append(server: &Server, stream: &str, payload: &'static str) -> AppendResponse {
    block_on(async {
        let mut client = Client::connect(server.grpc.parse().expect("an address")).await;
        let mut call = client.call(path::APPEND).await;
        call.send(&AppendRequest {
            stream_id: stream.to_owned(),
            payloads: vec![bytes::Bytes::from_static(payload.as_bytes())],
            on_invalid: OnInvalid::Skip.into(),
            ..AppendRequest::default()
        })
        .await;
        call.finish();
        call.receive::<AppendResponse>().await.expect("an answer")
    })
}

#[test]
fn a_version_that_breaks_its_mode_is_refused_with_every_reason() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Server::start(dir.path(), &[]);
    let first = closed(&json!({"id": {"type": "integer"}, "name": {"type": "string"}}), &["id"]);
    let id = schema(&server, "clicks", "backward", "strict", &first);
    let versions = format!("/api/v1/schemas/{id}/versions");
    let dry = format!("{versions}?dry_run=true");
    let optional =
        closed(&json!({"id": {"type": "integer"}, "name": {"type": "string"}, "at": {"type": "string"}}), &["id"]);
    let narrower = closed(&json!({"id": {"type": "integer", "minimum": 0}}), &["id", "name"]);

    let (status, verdict) = post(&server, &dry, &json!({"definition": narrower}));
    assert_eq!((status, &verdict["compatible"]), (200, &json!(false)));
    let pointers: Vec<_> =
        verdict["violations"].as_array().expect("violations").iter().map(|v| &v["pointer"]).collect();
    assert!(pointers.iter().any(|p| p.as_str().is_some_and(|p| p.starts_with("/properties/id"))), "{verdict}");
    assert!(verdict["violations"].as_array().expect("some").iter().all(|v| v["reason"].is_string()), "{verdict}");
    let (status, refused) = post(&server, &versions, &json!({"definition": narrower}));
    assert_eq!((status, refused["code"].as_str()), (409, Some("INCOMPATIBLE_SCHEMA")), "{refused}");
    assert!(refused["errors"].as_array().is_some_and(|errors| !errors.is_empty()), "{refused}");

    let (status, verdict) = post(&server, &dry, &json!({"definition": optional}));
    assert_eq!((status, &verdict["compatible"]), (200, &json!(true)), "{verdict}");
    let (status, added) = post(&server, &versions, &json!({"definition": optional}));
    assert_eq!((status, &added["version"]), (201, &json!(2)), "{added}");
    // The same meaning written otherwise is the same version.
    let reordered: Value = serde_json::from_str(
        r#"{"required":["id"],"additionalProperties":false,"type":"object",
            "properties":{"name":{"type":"string"},"at":{"type":"string"},"id":{"type":"integer"}}}"#,
    )
    .expect("JSON");
    let (status, again) = post(&server, &versions, &json!({"definition": reordered}));
    assert_eq!((status, &again["version"], &again["fingerprint"]), (200, &json!(2), &added["fingerprint"]));

    let one = format!("/api/v1/schemas/{id}");
    let patch = |body: Value| rest::call(&server.http, "PATCH", &one, &body.to_string());
    assert_eq!(patch(json!({"compatibility_mode": "sideways"})).0, 400);
    assert_eq!(patch(json!({"compatibility_mode": "none"})).1["compatibility_mode"], "NONE");
    assert_eq!(post(&server, &versions, &json!({"definition": narrower})).0, 201);
}

#[test]
fn members_added_to_open_objects_are_judged_by_the_policy() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Server::start(dir.path(), &[]);
    let open = |properties: Value| json!({"type": "object", "properties": properties});
    for (policy, compatible) in [("strict", false), ("lenient", true)] {
        let id = schema(&server, policy, "BACKWARD", policy, &open(json!({"a": {"type": "integer"}})));
        let more = open(json!({"a": {"type": "integer"}, "b": {"type": "string"}}));
        let dry = format!("/api/v1/schemas/{id}/versions?dry_run=true");
        assert_eq!(post(&server, &dry, &json!({"definition": more})).1["compatible"], json!(compatible), "{policy}");
    }
}

#[test]
fn a_new_version_is_in_force_everywhere_from_the_sequence_that_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Server::start(dir.path(), &[("shards.count", "2")]);
    let first = closed(&json!({"a": {"type": "integer"}}), &[]);
    let id = schema(&server, "clicks", "backward", "strict", &first);
    let (_, stream) = post(&server, "/api/v1/streams", &json!({"name": "clicks", "schema_id": id}));
    let stream = stream["id"].as_str().expect("an id").to_owned();
    let append = |payload| append(&server, &stream, payload);
    assert_eq!(append(r#"{"a":1,"b":1}"#).rejected, 1);
    assert_eq!(append(r#"{"a":1}"#).schema_version, 1);
    let second = closed(&json!({"a": {"type": "integer"}, "b": {"type": "integer"}}), &[]);
    let versions = format!("/api/v1/schemas/{id}/versions");
    let (status, added) = post(&server, &versions, &json!({"definition": second}));
    assert_eq!(status, 201, "{added}");
    assert_eq!(added["effective_from"], json!([{"stream_id": stream, "sequence": 2}]));
    // Connections spread over the shards; each runs on the version once it was answered.
    for sequence in 2..12 {
        let answer = append(r#"{"a":1,"b":1}"#);
        assert_eq!((answer.accepted, answer.schema_version, answer.first_sequence), (1, 2, sequence));
    }
    let retire = |number: u32| post(&server, &format!("{versions}/{number}/retire"), &Value::Null);
    assert_eq!(retire(2).0, 409, "streams run on it");
    let (status, retired) = retire(1);
    assert_eq!((status, retired["retired_at"].is_string()), (200, true), "{retired}");
    let (_, one) = rest::call(&server.http, "GET", &format!("{versions}/1"), "");
    assert_eq!(one["retired_at"], retired["retired_at"]);
    assert_eq!(rest::call(&server.http, "GET", &format!("{versions}/9"), "").0, 404);
}

/// Saves a version past the server: as another node would, or itself before a crash.
fn save(dir: &Path, id: &str, version: u32, definition: &Value) {
    block_on(async {
        let place = CatalogPlace::Embedded(dir.join("data/catalog.sqlite"));
        let catalog = Catalog::open(&place, PgFigures::default()).await.expect("the catalog");
        let (schema, definition) = (id.parse().expect("an id"), definition.to_string());
        let fingerprint = canonical_fingerprint(&definition).expect("JSON");
        let judged = Judged { schema: catalog.schema(schema).await.expect("the schema").version, generation: None };
        let saved = SchemaVersion { schema, version, definition, fingerprint, created_at: 1, retired_at: None };
        catalog.add_version(saved, judged, AuditEntry::system("x", "schema", id)).await.expect("saved");
    });
}

#[test]
fn a_pipeline_must_fit_the_version_that_another_node_has_just_added() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Server::start(dir.path(), &[]);
    let text = json!({"type": "string"});
    let of = |names: &[&str]| closed(&names.iter().map(|&name| (name.to_owned(), text.clone())).collect(), &[]);
    let id = schema(&server, "clicks", "none", "strict", &of(&["a"]));
    let (status, _) = post(&server, "/api/v1/streams", &json!({"name": "clicks", "schema_id": id}));
    assert_eq!(status, 201);
    let steps = |name: &str| json!([{"type": "coerce", "fields": [name], "to": "integer"}]);
    let create = |name: &str| post(&server, "/api/v1/pipelines", &json!({"stream_id": "clicks", "steps": steps(name)}));
    save(dir.path(), &id, 2, &of(&["b"]));
    let (status, refused) = create("a");
    assert_eq!((status, &refused["code"]), (400, &json!("INVALID_ARGUMENT")), "{refused}");
    let (status, pipeline) = create("b");
    assert_eq!(status, 201, "{pipeline}");
    let path = format!("/api/v1/pipelines/{}", pipeline["id"].as_str().expect("an id"));
    let change = |name: &str| rest::call(&server.http, "PATCH", &path, &json!({"steps": steps(name)}).to_string()).0;
    save(dir.path(), &id, 3, &of(&["b", "c"]));
    assert_eq!((change("a"), change("c")), (400, 200));
    // A dry run looks at the same.
    save(dir.path(), &id, 4, &of(&["c", "d"]));
    let dry = |name: &str| {
        let body = json!({"definition": of(&[name])});
        post(&server, &format!("/api/v1/schemas/{id}/versions?dry_run=true"), &body).1
    };
    let (broken, fits) = (dry("d"), dry("c"));
    assert_eq!((&broken["compatible"], &fits["compatible"]), (&json!(false), &json!(true)), "{broken} {fits}");
}

#[test]
fn an_earlier_definition_comes_back_as_a_new_version() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Server::start(dir.path(), &[]);
    let (a, b) = (closed(&json!({"a": {}}), &[]), closed(&json!({"b": {}}), &[]));
    let id = schema(&server, "clicks", "none", "strict", &a);
    let (_, stream) = post(&server, "/api/v1/streams", &json!({"name": "clicks", "schema_id": id}));
    let stream = stream["id"].as_str().expect("an id").to_owned();
    let add = |definition: &Value| {
        let body = json!({"definition": definition});
        let (status, version) = post(&server, &format!("/api/v1/schemas/{id}/versions"), &body);
        (status, version["version"].as_u64().unwrap_or_else(|| panic!("{version}")))
    };
    let taken = |payload| {
        let answer = append(&server, &stream, payload);
        (answer.accepted, answer.schema_version)
    };
    assert_eq!(add(&b), (201, 2));
    assert_eq!((taken(r#"{"a":1}"#), taken(r#"{"b":1}"#)), ((0, 2), (1, 2)));
    assert_eq!(add(&a), (201, 3));
    assert_eq!((taken(r#"{"a":1}"#), taken(r#"{"b":1}"#)), ((1, 3), (0, 3)));
    assert_eq!(add(&a), (200, 3), "it is in force");

    // As if the server had saved it and could not put it in force: trying again makes it good.
    save(dir.path(), &id, 4, &b);
    assert_eq!(add(&b), (200, 4));
    assert_eq!(taken(r#"{"b":1}"#), (1, 4));
}
