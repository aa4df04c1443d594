//! REST's description of itself, against the live server: the document is OpenAPI 3.1, and schemathesis, which knows nothing
//! but the document, finds no server error, no answer that is not described and no bad request that is taken.

#[path = "server/postgres.rs"]
mod postgres;
#[path = "server/process.rs"]
mod process;
#[path = "server/python.rs"]
mod python;
#[path = "server/rest.rs"]
mod rest;

use std::{path::Path, process::Command};

use postgres::Database;
use process::Server;
use serde_json::{Value, json};

/// A schema and a stream; their ids.
fn furnish(server: &Server, headers: &[(&str, &str)]) -> (String, String) {
    let create = |path: &str, body: Value| {
        let (status, _, answer) = rest::call_with(&server.http, "POST", path, headers, &body.to_string());
        assert_eq!(status, 201, "{answer}");
        answer["id"].as_str().expect("an id").to_owned()
    };
    let schema = create("/api/v1/schemas", json!({"name": "known", "definition": {"type": "object"}}));
    let stream = create("/api/v1/streams", json!({"name": "known", "schema_id": schema}));
    (schema, stream)
}

#[track_caller]
fn fuzz(server: &Server, arguments: &[&str]) {
    let arguments: Vec<_> = [&[server.http.as_str()], arguments].concat().into_iter().map(Path::new).collect();
    let output = python::run("fuzz_rest.py", &arguments);
    assert!(output.status.success(), "{}\n{}", python::said(&output), server.log());
}

#[test]
fn the_document_is_served_to_anyone_printed_and_valid() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Server::start(
        dir.path(),
        &[("auth.mode", "keys"), ("rate.auth_failures_per_minute", "0"), ("wal.quota_bytes", "256MiB")],
    );
    let (status, head, served) = rest::call_with(&server.http, "GET", "/openapi.json", &[], "");
    assert_eq!(status, 200, "{served}");
    assert!(head.contains("content-type: application/json"), "{head}");
    let printed = Command::new(env!("CARGO_BIN_EXE_ttdust")).arg("openapi").output().expect("printed");
    assert_eq!(serde_json::from_slice::<Value>(&printed.stdout).expect("JSON"), served);
    assert_eq!(
        (served["openapi"].as_str(), served["info"]["version"].as_str()),
        (Some("3.1.0"), Some(env!("CARGO_PKG_VERSION")))
    );

    let file = dir.path().join("openapi.json");
    std::fs::write(&file, &printed.stdout).expect("a file");
    let mut validator = Command::new(python::interpreter());
    let checked = validator.args(["-m", "openapi_spec_validator", "--schema", "3.1"]).arg(&file).output().expect("run");
    assert!(checked.status.success(), "{}", python::said(&checked));
    assert!(server.stop().success(), "a clean stop");
}

/// With the catalog in Postgres, which refuses more than SQLite does.
#[test]
fn nothing_but_what_is_described_is_answered_to_anyone() {
    let (dir, database) = (tempfile::tempdir().expect("a directory"), Database::fresh());
    let options = database.options();
    let port = options.port.to_string();
    let postgres = [
        ("pg.host", options.host.as_str()),
        ("pg.port", &port),
        ("pg.database", &options.database),
        ("pg.user", &options.user),
    ];
    let server = Server::start(dir.path(), &[&postgres[..], &[("wal.quota_bytes", "256MiB")]].concat());
    let (schema, stream) = furnish(&server, &[]);
    fuzz(&server, &[&schema, &stream]);
    assert!(server.stop().success(), "a clean stop");
}

#[test]
fn nothing_but_what_is_described_is_answered_to_a_reader() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Server::start(
        dir.path(),
        &[("auth.mode", "keys"), ("rate.auth_failures_per_minute", "0"), ("wal.quota_bytes", "256MiB")],
    );
    let admin = server.admin_key();
    let (schema, stream) = furnish(&server, &[("x-api-key", &admin)]);
    let key = json!({"role": "reader", "streams": [stream]}).to_string();
    let (status, _, key) = rest::call_with(&server.http, "POST", "/api/v1/api-keys", &[("x-api-key", &admin)], &key);
    assert_eq!(status, 201, "{key}");
    fuzz(&server, &[&schema, &stream, key["api_key"].as_str().expect("a key")]);
    assert!(server.stop().success(), "a clean stop");
}

#[test]
fn what_no_route_takes_is_a_problem_too() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Server::start(dir.path(), &[("wal.quota_bytes", "256MiB")]);
    for (method, path, status, header) in [
        ("GET", "/nowhere", 404, ""),
        ("GET", "/api/v1/streams/%ff", 400, ""),
        ("DELETE", "/api/v1/api-keys/%ff", 400, ""),
        // Postgres can hold no U+0000, and look for none.
        ("GET", "/api/v1/streams?name_prefix=%00", 400, ""),
        ("GET", "/api/v1/schemas?page_token=a%00b", 400, ""),
        ("GET", "/api/v1/streams/%00", 400, ""),
        ("DELETE", "/api/v1/api-keys/key_%00", 400, ""),
        ("GET", "/api/v1/schemas/%00/versions/1", 400, ""),
        ("PUT", "/api/v1/streams", 405, "allow: "),
        ("OPTIONS", "/api/v1/streams", 405, "allow: "),
        ("TRACE", "/openapi.json", 405, "allow: "),
        ("GET", "/api/v1/config?colour=red", 400, ""),
        ("GET", "/api/v1/streams?colour=red", 400, ""),
    ] {
        let (answered, head, body) = rest::call_with(&server.http, method, path, &[("x-request-id", "mine")], "");
        assert_eq!((answered, body["status"].as_u64()), (status, Some(status.into())), "{method} {path}: {body}");
        assert_eq!(body["trace_id"], "mine", "{method} {path}");
        for wanted in ["content-type: application/problem+json", "x-request-id: mine", header] {
            assert!(head.contains(wanted), "{method} {path}: {head}");
        }
        if path.contains("colour") {
            assert!(body["detail"].as_str().is_some_and(|detail| detail.contains("colour")), "{body}");
        }
    }
    let (status, head, body) = rest::call_with(&server.http, "HEAD", "/nowhere", &[], "");
    assert_eq!((status, body), (404, json!("")), "{head}");
    assert!(head.contains("content-type: application/problem+json"), "{head}");
    assert!(server.stop().success(), "a clean stop");
}
