//! Whom a real server lets in, and where to: roles, streams, tokens, revocation, the audit log, creation that happens once.

#[path = "../shards/tests/engine/client.rs"]
mod client;
#[path = "server/process.rs"]
mod process;
#[path = "server/producer.rs"]
mod producer;
#[path = "server/rest.rs"]
mod rest;

use std::{
    io::Write as _,
    net::TcpStream,
    time::{Instant, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use client::Client;
use process::{DEADLINE, Server, wait_for};
use producer::block_on;
use ring::{
    rand::SystemRandom,
    signature::{RSA_PKCS1_SHA256, RsaKeyPair},
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use ttdust::catalog::{AuditEntry, Catalog, CatalogPlace, PgFigures, Stream, StreamStatus};
use ttdust_proto::{
    admin,
    ingestion::{IngestRequest, IngestResponse},
    path,
    query::{TimeRangeQueryRequest, TimeRangeQueryResponse},
};

/// A server that wants credentials, and its first admin's.
struct House {
    server: Server,
    admin: String,
}

impl House {
    fn start(dir: &std::path::Path, settings: &[(&str, &str)]) -> Self {
        let settings = [&[("auth.mode", "keys"), ("wal.quota_bytes", "256MiB")], settings].concat();
        let server = Server::start(dir, &settings);
        Self { admin: server.admin_key(), server }
    }

    fn call(&self, credential: &str, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let bearer = format!("Bearer {credential}");
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let (status, _, body) = rest::call_with(&self.server.http, method, path, &[("authorization", &bearer)], &body);
        (status, body)
    }

    fn created(&self, path: &str, body: &Value) -> Value {
        let (status, answer) = self.call(&self.admin, "POST", path, body);
        assert_eq!(status, 201, "{answer}");
        answer
    }

    /// A stream of this name with a schema of its own; returns their ids.
    fn stream(&self, name: &str) -> (String, String) {
        let schema = self.created("/api/v1/schemas", &json!({"name": name, "definition": {"type": "object"}}));
        let stream = self.created("/api/v1/streams", &json!({"name": name, "schema_id": schema["id"]}));
        let text = |value: &Value| value["id"].as_str().expect("an id").to_owned();
        (text(&stream), text(&schema))
    }

    fn key(&self, role: &str, streams: &[&str]) -> (String, String) {
        let key = self.created("/api/v1/api-keys", &json!({"name": role, "role": role, "streams": streams}));
        let text = |field: &str| key[field].as_str().expect("text").to_owned();
        (text("key_id"), text("api_key"))
    }

    async fn client(&self, credential: &str) -> Client {
        let mut client = Client::connect(self.server.grpc.parse().expect("an address")).await;
        client.headers.push(("authorization", format!("Bearer {credential}")));
        client
    }

    /// gRPC's code for one record of `credential` into `stream`; 0: taken.
    fn ingest(&self, credential: &str, stream: &str) -> u32 {
        block_on(async {
            let request = IngestRequest {
                stream_id: stream.to_owned(),
                payload: bytes::Bytes::from_static(b"{}"),
                ..IngestRequest::default()
            };
            let outcome = self.client(credential).await.unary::<IngestResponse>(path::INGEST, &request).await;
            outcome.err().map_or(0, |ended| ended.code)
        })
    }

    /// gRPC's code for a query of `stream` by `credential`; 0: answered.
    fn query(&self, credential: &str, stream: &str) -> u32 {
        block_on(async {
            let request = TimeRangeQueryRequest {
                stream_id: stream.to_owned(),
                end_time_unix_micros: i64::MAX,
                ..TimeRangeQueryRequest::default()
            };
            let client = &mut self.client(credential).await;
            let outcome = client.unary::<TimeRangeQueryResponse>(path::QUERY_TIME_RANGE, &request).await;
            outcome.err().map_or(0, |ended| ended.code)
        })
    }
}

#[test]
fn a_key_reaches_its_streams_and_the_others_do_not_exist_for_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let house = House::start(dir.path(), &[]);
    let ((web, web_schema), (app, app_schema)) = (house.stream("web.clicks"), house.stream("app.clicks"));
    let (_, writer) = house.key("writer", &["web.*"]);
    let (_, reader) = house.key("reader", &[&web]);
    for stream in [web.as_str(), "web.clicks"] {
        assert_eq!((house.ingest(&writer, stream), house.query(&reader, stream)), (0, 0));
    }
    for stream in [app.as_str(), "app.clicks", "nothing"] {
        assert_eq!((house.ingest(&writer, stream), house.query(&reader, stream)), (5, 5), "NOT_FOUND");
    }
    // What is forbidden answers as what is missing, word for word but for the name that was asked for.
    let without = |answer: Value, name: &str| {
        let mut answer = answer;
        answer["trace_id"] = Value::Null;
        answer.to_string().replace(name, "X")
    };
    for path in ["", "/records"] {
        let of = |id: &str| house.call(&reader, "GET", &format!("/api/v1/streams/{id}{path}"), &Value::Null);
        let missing = "str_01a20f8b-416d-7279-a8b2-4cbd982452ac";
        let ((forbidden_status, forbidden), (missing_status, absent)) = (of(&app), of(missing));
        assert_eq!((forbidden_status, missing_status), (404, 404));
        assert_eq!(without(forbidden, &app), without(absent, missing));
        assert_eq!(of(&web).0, 200);
    }
    let schema = |id: &str| house.call(&reader, "GET", &format!("/api/v1/schemas/{id}"), &Value::Null).0;
    assert_eq!((schema(&web_schema), schema(&app_schema)), (200, 404));
    let (_, listed) = house.call(&writer, "GET", "/api/v1/streams", &Value::Null);
    assert_eq!(listed["streams"].as_array().map(Vec::len), Some(1), "{listed}");
    for bad in [json!({"role": "writer"}), json!({"role": "writer", "streams": ["A"]}), json!({"role": "root"})] {
        assert_eq!(house.call(&house.admin, "POST", "/api/v1/api-keys", &bad).0, 400, "{bad}");
    }
}

#[test]
fn pages_of_a_confined_reader_tell_nothing_of_other_streams() {
    let dir = tempfile::tempdir().expect("a directory");
    let house = House::start(dir.path(), &[]);
    let names = ["a.hidden", "web.one", "b.hidden", "c.hidden", "web.two", "d.hidden"];
    let ids: Vec<_> = names.iter().map(|name| house.stream(name).0).collect();
    let (_, reader) = house.key("reader", &["web.*"]);
    let (_, operator) = house.key("operator", &[]);
    // The ids of each page of this size, and the token that it ends with.
    let pages = |key: &str, size: usize| {
        let (mut pages, mut after) = (Vec::new(), String::new());
        loop {
            let path = format!("/api/v1/streams?page_size={size}{after}");
            let (status, page) = house.call(key, "GET", &path, &Value::Null);
            assert_eq!(status, 200, "{page}");
            let text = |value: &Value| value.as_str().expect("text").to_owned();
            let shown: Vec<_> = page["streams"].as_array().expect("streams").iter().map(|s| text(&s["id"])).collect();
            let next = page["next_page_token"].as_str().map(str::to_owned);
            pages.push((shown, next.clone()));
            match next {
                Some(next) => after = format!("&page_token={next}"),
                None => return pages,
            }
        }
    };
    let (one, two) = (ids[1].clone(), ids[4].clone());
    assert_eq!(pages(&reader, 1), [(vec![one.clone()], Some(one.clone())), (vec![two.clone()], None)]);
    assert_eq!(pages(&reader, 2), [(vec![one.clone(), two.clone()], None)]);
    assert_eq!(pages(&operator, 4), [(ids[..4].to_vec(), Some(ids[3].clone())), (ids[4..].to_vec(), None)]);
    assert_eq!(pages(&operator, 6), [(ids.clone(), None)]);

    let list = |cursor: Option<String>| {
        let list = admin::ListStreamsRequest { limit: Some(1), cursor };
        block_on(async {
            house.client(&reader).await.unary::<admin::ListStreamsResponse>(path::LIST_STREAMS, &list).await
        })
    };
    let first = list(None).expect("a page");
    assert_eq!((&first.streams[0].stream_id, first.next_cursor.as_ref()), (&one, Some(&one)));
    let second = list(first.next_cursor).expect("a page");
    assert_eq!((&second.streams[0].stream_id, second.next_cursor), (&two, None));
    assert_eq!(list(Some("\0".into())).expect_err("no cursor").code, 3, "INVALID_ARGUMENT");
}

/// As if the server had saved a change and could not put it in force.
#[test]
fn a_change_that_was_saved_is_put_in_force_by_another_try_or_soon() {
    let dir = tempfile::tempdir().expect("a directory");
    let house = House::start(dir.path(), &[]);
    let (clicks, schema) = house.stream("clicks");
    let ((first, first_key), (second, second_key)) = (house.key("writer", &["*"]), house.key("writer", &["*"]));
    assert_eq!((house.ingest(&first_key, &clicks), house.ingest(&second_key, &clicks)), (0, 0));
    let place = CatalogPlace::Embedded(dir.path().join("data/catalog.sqlite"));
    let catalog = block_on(Catalog::open(&place, PgFigures::default())).expect("the catalog");
    let line = |object: &str| AuditEntry::system("x", "test", object);
    let known = block_on(catalog.stream(clicks.parse().expect("an id"))).expect("a stream");
    let save = |name: &str, status: StreamStatus| {
        let id = ttdust_shards::ids::StreamId::generate();
        let stream = Stream { id, name: name.into(), status, ..known.clone() };
        block_on(catalog.create_stream(stream, line(name))).expect("saved");
        id.to_string()
    };

    block_on(catalog.delete_key(first.clone(), line(&first))).expect("saved");
    let (status, gone) = house.call(&house.admin, "DELETE", &format!("/api/v1/api-keys/{first}"), &Value::Null);
    assert_eq!((status, house.ingest(&first_key, &clicks)), (404, 16), "{gone}");
    let orders = save("orders", StreamStatus::Active);
    let body = json!({"name": "orders", "schema_id": schema});
    let (status, taken) = house.call(&house.admin, "POST", "/api/v1/streams", &body);
    assert_eq!((status, house.ingest(&second_key, &orders)), (409, 0), "{taken}");
    block_on(catalog.delete_key(second.clone(), line(&second))).expect("saved");
    wait_for("the end of a key", || (house.ingest(&second_key, &clicks) == 16).then_some(()));

    // What the shards do not know is read and deleted all the same, by those to whom all is shown.
    let stuck = format!("/api/v1/streams/{}", save("stuck", StreamStatus::Creating));
    let (_, reader) = house.key("reader", &["*"]);
    assert_eq!(house.call(&reader, "GET", &stuck, &Value::Null).0, 404);
    let (status, read) = house.call(&house.admin, "GET", &stuck, &Value::Null);
    assert_eq!((status, read["status"].as_str()), (200, Some("creating")), "{read}");
    assert_eq!(house.call(&house.admin, "DELETE", &stuck, &Value::Null).0, 202);
    wait_for("the end of the stream", || {
        (house.call(&house.admin, "GET", &stuck, &Value::Null).0 == 404).then_some(())
    });
}

/// Every role against every operation of REST: let in (anything but 401 and 403), or 403.
#[test]
fn every_role_may_do_what_the_contract_says_over_rest_and_no_more() {
    let dir = tempfile::tempdir().expect("a directory");
    let house = House::start(dir.path(), &[]);
    let (stream, schema) = house.stream("clicks");
    let missing = "str_01a20f8b-416d-7279-a8b2-4cbd982452ac";
    let (one, one_schema) = (format!("/api/v1/streams/{stream}"), format!("/api/v1/schemas/{schema}"));
    let (versions, records) = (format!("{one_schema}/versions"), format!("{one}/records"));
    let (gone, retire) = (format!("/api/v1/streams/{missing}"), format!("{versions}/9/retire"));
    // Of one that is there, it would have no end.
    let (tail, flush) = (format!("{gone}/tail"), format!("{one}/flush"));
    let replay = format!("{one}/dlq/replay");
    let replay_job = format!("{replay}?job_id=job_x");
    let pause = json!({"status": "active"});
    // Bodies that change nothing: whoever is let in is told of their fault.
    let operations = [
        ("POST", "/api/v1/schemas", json!({"name": "", "definition": {}}), "A-S--"),
        ("GET", "/api/v1/schemas", Value::Null, "AOS--"),
        ("GET", &one_schema, Value::Null, "AOSWR"),
        ("POST", &versions, json!({"definition": 1}), "A-S--"),
        ("GET", &versions, Value::Null, "AOSWR"),
        ("POST", "/api/v1/streams", json!({"name": "", "schema_id": ""}), "A----"),
        ("GET", "/api/v1/streams", Value::Null, "AOSWR"),
        ("GET", &one, Value::Null, "AOSWR"),
        ("PATCH", &one, pause, "AO---"),
        ("PATCH", &one, json!({"description": "x"}), "A----"),
        ("DELETE", &gone, Value::Null, "A----"),
        ("POST", &flush, Value::Null, "AO---"),
        ("GET", &records, Value::Null, "A---R"),
        ("POST", &records, json!([]), "A--W-"),
        ("GET", &tail, Value::Null, "A---R"),
        ("POST", "/api/v1/jobs", json!({"stream_id": "clicks", "source_uri": "", "format": ""}), "A--W-"),
        ("GET", "/api/v1/jobs", Value::Null, "AOSWR"),
        ("GET", "/api/v1/jobs/job_x", Value::Null, "AOSWR"),
        ("POST", "/api/v1/jobs/job_x/cancel", Value::Null, "AO-W-"),
        ("POST", "/api/v1/pipelines", json!({"stream_id": "x", "steps": []}), "A-S--"),
        ("GET", "/api/v1/pipelines", Value::Null, "AOS--"),
        ("GET", "/api/v1/pipelines/pip_x", Value::Null, "AOS--"),
        ("PATCH", "/api/v1/pipelines/pip_x", json!({}), "A-S--"),
        ("DELETE", "/api/v1/pipelines/pip_x", Value::Null, "A-S--"),
        ("POST", "/api/v1/pipelines:test", json!({"steps": [], "records": []}), "AOS--"),
        ("POST", &replay, json!({"start": "x"}), "AO---"),
        ("GET", &replay_job, Value::Null, "AO---"),
        ("POST", "/api/v1/api-keys", json!({"role": "root"}), "A----"),
        ("GET", "/api/v1/api-keys", Value::Null, "A----"),
        ("DELETE", "/api/v1/api-keys/key_x", Value::Null, "A----"),
        ("GET", "/api/v1/config", Value::Null, "AO---"),
        ("PATCH", "/api/v1/config", json!({"settings": {}}), "A----"),
        ("PATCH", &one_schema, json!({"policy": ""}), "A-S--"),
        ("POST", &retire, Value::Null, "A-S--"),
        ("GET", "/api/v1/audit-log", Value::Null, "A----"),
    ];
    let roles = [("admin", 'A'), ("operator", 'O'), ("schema_admin", 'S'), ("writer", 'W'), ("reader", 'R')];
    for (role, mark) in roles {
        let (_, key) = house.key(role, &["*"]);
        for (method, path, body, row) in &operations {
            let (status, answer) = house.call(&key, method, path, body);
            assert_ne!(status, 401, "{role} {method} {path}");
            assert_eq!(status != 403, row.contains(mark), "{role} {method} {path}: {status} {answer}");
        }
        let may = |permitted: bool| if permitted { 0 } else { 7 };
        assert_eq!(house.ingest(&key, &stream), may("AW".contains(mark)), "{role} ingests");
        assert_eq!(house.query(&key, &stream), may("AR".contains(mark)), "{role} queries");
        let get = admin::GetStreamRequest { stream_id: stream.clone() };
        let update = admin::UpdateStreamRequest {
            config: Some(admin::StreamConfig { stream_id: stream.clone(), ..admin::StreamConfig::default() }),
        };
        block_on(async {
            let mut client = house.client(&key).await;
            client.unary::<admin::GetStreamResponse>(path::GET_STREAM, &get).await.expect("all may read streams");
            let updated = client.unary::<admin::UpdateStreamResponse>(path::UPDATE_STREAM, &update).await;
            assert_eq!(updated.err().map_or(0, |ended| ended.code), may(mark == 'A'), "{role} updates");
        });
    }
}

#[test]
fn streams_are_administered_over_grpc() {
    let dir = tempfile::tempdir().expect("a directory");
    let house = House::start(dir.path(), &[]);
    let (_, schema) = house.stream("clicks");
    block_on(async {
        let mut client = house.client(&house.admin).await;
        let config = admin::StreamConfig {
            name: "orders".into(),
            schema_id: schema.clone(),
            labels: [("team".to_owned(), "web".to_owned())].into(),
            retention: Some(admin::RetentionConfig { retention_days: 3 }),
            ..admin::StreamConfig::default()
        };
        let create = admin::CreateStreamRequest { config: Some(config.clone()) };
        let created = client.unary::<admin::CreateStreamResponse>(path::CREATE_STREAM, &create).await.expect("created");
        let created = created.stream.expect("a stream");
        assert_eq!(admin::StreamConfig { stream_id: String::new(), ..created.clone() }, config);
        let again = client.unary::<admin::CreateStreamResponse>(path::CREATE_STREAM, &create).await;
        assert_eq!(again.expect_err("taken").code, 6, "ALREADY_EXISTS");

        let list = admin::ListStreamsRequest { limit: Some(1), cursor: None };
        let first = client.unary::<admin::ListStreamsResponse>(path::LIST_STREAMS, &list).await.expect("a list");
        assert_eq!((first.streams.len(), first.next_cursor.is_some()), (1, true));
        let list = admin::ListStreamsRequest { limit: None, cursor: first.next_cursor };
        let rest = client.unary::<admin::ListStreamsResponse>(path::LIST_STREAMS, &list).await.expect("a list");
        assert_eq!((rest.streams, rest.next_cursor), (vec![created.clone()], None));

        let renamed = admin::StreamConfig { name: "other".into(), ..created.clone() };
        let update = admin::UpdateStreamRequest { config: Some(renamed) };
        let refused = client.unary::<admin::UpdateStreamResponse>(path::UPDATE_STREAM, &update).await;
        assert_eq!(refused.expect_err("a name stays").code, 3, "INVALID_ARGUMENT");

        let delete = admin::DeleteStreamRequest { stream_id: created.stream_id.clone(), force: false };
        let deleted = client.unary::<admin::DeleteStreamResponse>(path::DELETE_STREAM, &delete).await.expect("deleted");
        assert!(deleted.success);
    });
    let gone = || (house.call(&house.admin, "GET", "/api/v1/streams/orders", &Value::Null).0 == 404).then_some(());
    wait_for("the end of the deletion", gone);
}

#[test]
fn a_deleted_key_is_refused_and_what_was_done_is_on_record() {
    let dir = tempfile::tempdir().expect("a directory");
    let house = House::start(dir.path(), &[]);
    let (stream, _) = house.stream("clicks");
    let (id, writer) = house.key("writer", &["clicks"]);
    assert_eq!(house.ingest(&writer, &stream), 0);
    let listed = || house.call(&house.admin, "GET", "/api/v1/api-keys", &Value::Null).1["api_keys"].clone();
    let used = wait_for("the time of the key's last use", || {
        let keys = listed();
        let key = keys.as_array()?.iter().find(|key| key["key_id"] == json!(id))?.clone();
        key["last_used_at"].is_string().then_some(key)
    });
    assert_eq!((used["role"].as_str(), &used["streams"]), (Some("writer"), &json!(["clicks"])));
    assert_eq!(house.call(&house.admin, "DELETE", &format!("/api/v1/api-keys/{id}"), &Value::Null).0, 204);
    // Every shard runs on it before the deletion is answered.
    assert_eq!(house.ingest(&writer, &stream), 16, "UNAUTHENTICATED");

    let of = |object: &str| {
        house.call(&house.admin, "GET", &format!("/api/v1/audit-log?object_id={object}"), &Value::Null).1
    };
    let entries = of(&id)["entries"].clone();
    let actions: Vec<_> = entries.as_array().expect("entries").iter().map(|entry| entry["action"].clone()).collect();
    assert_eq!(actions, ["key.delete", "key.create"], "the newest first");
    let uuid = house.admin.split('_').nth(2).expect("a key's uuid");
    assert!(entries.as_array().expect("entries").iter().all(|entry| entry["actor"] == json!(format!("key_{uuid}"))));
    assert!(!entries.to_string().contains("ttd_live_"), "no secret: {entries}");
    assert!(of(&stream).to_string().contains("stream.create"));
}

#[test]
fn a_creation_with_an_idempotency_key_happens_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let house = House::start(dir.path(), &[]);
    let bearer = format!("Bearer {}", house.admin);
    let post = |path: &str, key: &str, body: &Value| {
        let headers = [("authorization", bearer.as_str()), ("idempotency-key", key)];
        rest::call_with(&house.server.http, "POST", path, &headers, &body.to_string())
    };
    let schema = json!({"name": "a", "definition": {"type": "object"}});
    let (status, _, first) = post("/api/v1/schemas", "one", &schema);
    assert_eq!(status, 201, "{first}");
    let (status, head, again) = post("/api/v1/schemas", "one", &schema);
    assert_eq!((status, &again), (201, &first));
    assert!(head.contains("idempotent-replayed: true") && head.contains("location: /api/v1/schemas/"), "{head}");
    let (status, _, reused) = post("/api/v1/schemas", "one", &json!({"name": "b", "definition": {}}));
    assert_eq!((status, reused["code"].as_str()), (422, Some("IDEMPOTENCY_KEY_REUSED")));
    assert_eq!(post("/api/v1/schemas", "two", &schema).0, 409, "without the key the name is taken");
    assert_eq!(post("/api/v1/schemas", &"k".repeat(257), &schema).0, 400);

    let key = json!({"role": "operator"});
    let (_, _, first) = post("/api/v1/api-keys", "three", &key);
    let (status, _, again) = post("/api/v1/api-keys", "three", &key);
    assert_eq!((status, &again["key_id"]), (201, &first["key_id"]));
    assert!(first["api_key"].is_string() && again.get("api_key").is_none(), "its text is shown once: {again}");
}

#[test]
fn a_creation_whose_client_goes_away_happens_once_all_the_same() {
    let dir = tempfile::tempdir().expect("a directory");
    let house = House::start(dir.path(), &[]);
    let bearer = format!("Bearer {}", house.admin);
    for n in 0..5 {
        let (name, key) = (format!("gone-{n}"), format!("key-{n}"));
        let body = json!({"name": name, "role": "operator"}).to_string();
        let mut socket = TcpStream::connect(&house.server.http).expect("connected");
        let request = format!(
            "POST /api/v1/api-keys HTTP/1.1\r\nhost: x\r\nauthorization: {bearer}\r\nidempotency-key: {key}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        socket.write_all(request.as_bytes()).expect("sent");
        drop(socket);
        let headers = [("authorization", bearer.as_str()), ("idempotency-key", &*key)];
        let again = || rest::call_with(&house.server.http, "POST", "/api/v1/api-keys", &headers, &body);
        let (status, _, created) =
            wait_for("the end of the first", || Some(again()).filter(|(status, ..)| *status != 409));
        assert_eq!((status, created["name"].as_str()), (201, Some(&*name)), "{created}");
        let (_, all) = house.call(&house.admin, "GET", "/api/v1/api-keys", &Value::Null);
        let of_name = all["api_keys"].as_array().expect("keys").iter().filter(|key| key["name"] == json!(name)).count();
        assert_eq!(of_name, 1, "{all}");
    }
}

#[test]
fn a_creation_of_which_nobody_knows_how_it_ended_is_not_done_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let house = House::start(dir.path(), &[]);
    let admin = house.admin.clone();
    // One that nobody has used would be another's at the next start.
    assert_eq!(house.call(&admin, "GET", "/api/v1/api-keys", &Value::Null).0, 200);
    assert!(house.server.stop().success());
    let body = r#"{"name":"lost","role":"operator"}"#;
    // What is left of a server that was killed in the middle of it.
    let (path, caller) = ("/api/v1/api-keys", format!("key_{}", admin.split('_').nth(2).expect("a key's uuid")));
    let sha256 = Sha256::digest(format!("POST\0{path}\0{body}"));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_micros() as i64;
    let catalog = rusqlite::Connection::open(dir.path().join("data/catalog.sqlite")).expect("the catalog");
    let begun = "INSERT INTO idempotent_requests VALUES (?1, 'k', ?2, 0, 'x', ?3)";
    catalog.execute(begun, rusqlite::params![caller, &sha256[..], now]).expect("a row");
    drop(catalog);
    let server = Server::start(dir.path(), &[("auth.mode", "keys"), ("wal.quota_bytes", "256MiB")]);
    let bearer = format!("Bearer {admin}");
    let headers = |key: &'static str| [("authorization", bearer.clone()), ("idempotency-key", key.to_owned())];
    let post = |key: &'static str, body: &str| {
        let headers = headers(key);
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let (status, _, answer) = rest::call_with(&server.http, "POST", path, &headers, body);
        (status, answer["code"].as_str().map(str::to_owned))
    };
    assert_eq!(post("k", body), (409, Some("IDEMPOTENCY_KEY_IN_USE".into())));
    assert_eq!(post("k", r#"{"role":"admin"}"#), (422, Some("IDEMPOTENCY_KEY_REUSED".into())));
    // What was refused was not begun.
    assert_eq!(post("l", r#"{"role":"root"}"#).0, 400);
    assert_eq!(post("l", r#"{"role":"root"}"#).0, 400);
    assert_eq!(post("l", body).0, 201);
}

fn token(claims: &Value) -> String {
    let pair =
        RsaKeyPair::from_pkcs8(include_bytes!("../src/access/tokens/test_key_a.pk8")).expect("a key of the tests");
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(&json!({"alg": "RS256", "typ": "JWT"})), part(claims));
    let mut signature = vec![0; pair.public().modulus_len()];
    pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature).expect("signed");
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

#[test]
fn tokens_let_in_by_their_role_on_both_ports() {
    let dir = tempfile::tempdir().expect("a directory");
    let key = concat!(env!("CARGO_MANIFEST_DIR"), "/src/access/tokens/test_key_a.pub.pem");
    let house = House::start(dir.path(), &[("jwt.public_key_path", key), ("jwt.issuer", "https://id.example")]);
    let (stream, _) = house.stream("clicks");
    let claims = |role: &str, aud: &str| {
        json!({"iss": "https://id.example", "aud": aud, "sub": "ana", "exp": 4_000_000_000_u64, "role": role,
               "streams": ["clicks"]})
    };
    let (admin, writer) = (token(&claims("admin", "ttdust")), token(&claims("writer", "ttdust")));
    assert_eq!(house.call(&admin, "GET", "/api/v1/api-keys", &Value::Null).0, 200);
    assert_eq!(house.call(&writer, "GET", "/api/v1/api-keys", &Value::Null).0, 403);
    assert_eq!((house.ingest(&writer, &stream), house.query(&writer, &stream)), (0, 7));
    let other = token(&claims("admin", "another service"));
    assert_eq!(house.call(&other, "GET", "/api/v1/api-keys", &Value::Null).0, 401);
    assert_eq!(house.ingest(&other, &stream), 16);
    let schema = json!({"name": "by-token", "definition": {}});
    let created = house.call(&admin, "POST", "/api/v1/schemas", &schema).1;
    let path = format!("/api/v1/audit-log?object_id={}", created["id"].as_str().expect("an id"));
    assert_eq!(house.call(&admin, "GET", &path, &Value::Null).1["entries"][0]["actor"], "jwt:ana");
}

#[test]
fn settings_change_while_the_server_runs_all_or_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let key_file = dir.path().join("key.pem");
    std::fs::write(&key_file, include_bytes!("../src/access/tokens/test_key_a.pub.pem")).expect("a file");
    let key = key_file.to_str().expect("UTF-8");
    let house = House::start(dir.path(), &[("jwt.public_key_path", key), ("jwt.issuer", "https://id.example")]);
    let patch = |settings: Value| house.call(&house.admin, "PATCH", "/api/v1/config", &json!({"settings": settings}));
    let (status, changed) = patch(json!({"log.level": "debug"}));
    assert_eq!((status, &changed["settings"]["log.level"]["value"]), (200, &json!("debug")), "{changed}");
    wait_for("a line at level debug", || {
        house.call("ttd_live_x_y", "GET", "/api/v1/config", &Value::Null);
        house.call("a.b.c", "GET", "/api/v1/config", &Value::Null);
        house.server.log().contains("\"level\":\"DEBUG\"").then_some(())
    });
    for (settings, pointer) in [
        (json!({"wal.quota_bytes": "1GiB"}), "/settings/wal.quota_bytes"),
        (json!({"log.levle": "info"}), "/settings/log.levle"),
        (json!({"log.level": "info", "jwt.public_key_path": "/nothing"}), "/settings"),
        (json!({"log.level": ["info"]}), "/settings/log.level"),
        // The next start would refuse it.
        (json!({"jwt.issuer": ""}), "/settings"),
    ] {
        let (status, problem) = patch(settings);
        assert_eq!((status, problem["errors"][0]["pointer"].as_str()), (400, Some(pointer)), "{problem}");
    }
    let (_, lines) = house.call(&house.admin, "GET", "/api/v1/audit-log?object_id=config", &Value::Null);
    let line = &lines["entries"][0];
    assert_eq!(line["action"], "config.change", "{lines}");
    assert_eq!((&line["before"]["log.level"], &line["after"]["log.level"]), (&json!("info"), &json!("debug")));
    assert!(lines["entries"][1].is_null(), "what is refused leaves no line: {lines}");
    let (_, now) = house.call(&house.admin, "GET", "/api/v1/config", &Value::Null);
    assert_eq!(now["settings"]["log.level"]["value"], "debug", "a refused change changes nothing");

    let claims =
        json!({"iss": "https://id.example", "aud": "ttdust", "sub": "ana", "exp": 4_000_000_000_u64, "role": "admin"});
    let ana = token(&claims);
    let status = || house.call(&ana, "GET", "/api/v1/config", &Value::Null).0;
    assert_eq!(status(), 200);
    let hang_up = || house.server.signal(rustix::process::Signal::HUP);
    // A bad file is refused, and the old key stays.
    std::fs::write(&key_file, "no key").expect("a file");
    hang_up();
    wait_for("the refusal", || house.server.log().contains("reload refused").then_some(()));
    assert_eq!(status(), 200);
    // Another key: what the old one signed is refused, and so is the rest of a call that it opened.
    let (stream, _) = house.stream("clicks");
    let request = IngestRequest { stream_id: stream, payload: "{}".into(), ..IngestRequest::default() };
    block_on(async {
        let mut client = house.client(&ana).await;
        let mut call = client.call(path::INGEST_STREAM).await;
        call.send(&request).await;
        call.receive::<IngestResponse>().await.expect("taken");
        std::fs::write(&key_file, include_bytes!("../src/access/tokens/test_key_b.pub.pem")).expect("a file");
        hang_up();
        wait_for("the new key", || (status() == 401).then_some(()));
        let end = Instant::now() + DEADLINE;
        let ended = loop {
            assert!(Instant::now() < end, "the call goes on");
            call.send(&request).await;
            if let Err(ended) = call.receive::<IngestResponse>().await {
                break ended;
            }
        };
        assert_eq!(ended.code, 16, "UNAUTHENTICATED");
    });
}
