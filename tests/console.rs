//! The console: how its files are served, and what a browser shows of a live server.
//!
//! The browser is Chromium, driven by `python/console.py`. Tests wait for what is shown, never for time to pass.

#[path = "server/process.rs"]
mod process;
#[path = "server/python.rs"]
mod python;
#[path = "server/rest.rs"]
mod rest;

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use process::{Server, wait_for};
use serde_json::{Value, json};

const HOSTILE: &str = r#"<img src=x onerror="window.hit=1">"#;
const POLICY: &str = "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

fn get(server: &Server, path: &str, headers: &[(&str, &str)]) -> (u16, String, String) {
    let (status, head, body) = rest::call_with(&server.http, "GET", path, headers, "");
    (status, head, body.as_str().map_or_else(|| body.to_string(), str::to_owned))
}

/// The value of a header of an answer's head.
fn header<'a>(head: &'a str, name: &str) -> &'a str {
    let mut lines = head.lines();
    lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).unwrap_or_else(|| panic!("no {name}: {head}"))
}

/// What a text names between these, such as the files that a page loads.
fn named<'a>(text: &'a str, before: &str) -> Vec<&'a str> {
    text.split(before).skip(1).filter_map(|rest| rest.split('"').next()).collect()
}

#[track_caller]
fn create(server: &Server, path: &str, headers: &[(&str, &str)], body: &Value) -> Value {
    let (status, _, answer) = rest::call_with(&server.http, "POST", path, headers, &body.to_string());
    assert_eq!(status, 201, "{path}: {answer}");
    answer
}

/// Runs the browser on a server. Where `CONSOLE_PICTURES` names a directory, what it looked like is put there: light, dark, narrow.
#[track_caller]
fn browse(server: &Server, what: &str, dir: &Path, more: &[&str]) {
    let pictures = std::env::var_os("CONSOLE_PICTURES").map_or_else(|| dir.to_owned(), |dir| dir.into());
    fs::create_dir_all(&pictures).expect("a directory");
    let given = [Path::new(what), Path::new(&server.http), &pictures];
    let output = python::run("console.py", &[&given[..], &more.iter().map(Path::new).collect::<Vec<_>>()].concat());
    assert!(output.status.success(), "{}\n{}", python::said(&output), server.log());
}

#[test]
fn the_page_is_served_to_anyone_and_holds_its_policy() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Server::start(dir.path(), &[("auth.mode", "keys"), ("wal.quota_bytes", "256MiB")]);
    let (status, head, page) = get(&server, "/ui", &[]);
    assert_eq!((status, header(&head, "content-type")), (200, "text/html; charset=utf-8"), "{page}");
    let files = named(&page, "href=\"ui/").into_iter().chain(named(&page, "src=\"ui/"));
    let mut files: Vec<_> = files.map(str::to_owned).collect();
    assert!(files.len() >= 4, "{files:?}");
    // All that is loaded from there on.
    let mut seen = Vec::new();
    while let Some(name) = files.pop() {
        if seen.contains(&name) {
            continue;
        }
        let (status, head, text) = get(&server, &format!("/ui/{name}"), &[]);
        let kind = header(&head, "content-type");
        let wanted = match name.rsplit('.').next() {
            Some("js") => "text/javascript; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            _ => "image/svg+xml",
        };
        assert_eq!((status, kind), (200, wanted), "{name}");
        assert!(head.contains(POLICY) && head.contains("x-content-type-options: nosniff"), "{head}");
        files.extend(named(&text, "from \"./").into_iter().map(str::to_owned));
        let tag = header(&head, "etag").to_owned();
        let (status, head, text) = get(&server, &format!("/ui/{name}"), &[("if-none-match", &tag)]);
        assert_eq!((status, text.as_str(), header(&head, "etag")), (304, "", tag.as_str()), "{name}");
        assert!(head.contains(POLICY), "{head}");
        seen.push(name);
    }
    let (status, head, _) = get(&server, "/ui/", &[]);
    assert_eq!((status, header(&head, "location")), (308, "../ui"));
    assert_eq!(get(&server, "/ui/nothing.js", &[]).0, 404);
    assert_eq!(get(&server, "/ui/%2e%2e/health.rs", &[]).0, 404);
    let (status, head, body) = rest::call_with(&server.http, "HEAD", "/ui", &[], "");
    assert_eq!((status, body), (200, json!("")), "{head}");
    assert_eq!(rest::call(&server.http, "POST", "/ui", "").0, 405);
    assert!(server.stop().success(), "a clean stop");
}

#[test]
fn with_access_open_a_page_from_elsewhere_gets_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Server::start(dir.path(), &[("wal.quota_bytes", "256MiB")]);
    let own = format!("http://{}", server.http);
    for (origin, wanted) in [(own.as_str(), 200), ("https://evil.example", 403)] {
        assert_eq!(get(&server, "/ui", &[("origin", origin)]).0, wanted, "{origin}");
        assert_eq!(get(&server, "/api/v1/streams", &[("origin", origin)]).0, wanted, "{origin}");
    }
    assert!(server.stop().success(), "a clean stop");
}

/// Runs a program of ours, which puts records in.
#[track_caller]
fn produce(server: &Server, stream: &str, file: &Path, more: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ttdust"));
    command.args(["produce", stream]).arg(file).args(["--endpoint", &format!("http://{}", server.http)]).args(more);
    let output = command.stdin(Stdio::null()).output().expect("it runs");
    assert!(output.status.code() <= Some(1), "{}", python::said(&output));
}

/// What the browser is to find.
fn furnish(server: &Server, input: &Path) {
    let flights: Value = serde_json::from_str(include_str!("data/flights.schema.json")).expect("JSON");
    let schema = json!({"name": "flights", "namespace": "demo", "policy": "lenient", "description": HOSTILE, "definition": flights});
    let schema = create(server, "/api/v1/schemas", &[], &schema);
    let id = schema["id"].as_str().expect("an id");
    let mut newer = flights;
    newer["properties"]["gate"] = json!({"type": ["string", "null"], "description": "Where one boards"});
    create(server, &format!("/api/v1/schemas/{id}/versions"), &[], &json!({"definition": newer}));
    let stream = json!({"name": "flights", "schema_id": id, "key_fields": ["event_id"], "description": "Departures from New York City",
        "dlq": {"retention_days": 7}, "retention_policy": {"type": "time", "retention_days": 30}});
    create(server, "/api/v1/streams", &[], &stream);
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/flights.jsonl.gz");
    produce(server, "flights", &sample, &[]);
    let bad = input.join("bad.jsonl");
    fs::write(&bad, "{\"event_id\": 1}\n").expect("written");
    produce(server, "flights", &bad, &["--on-invalid", "dlq"]);
    rest::wait_for_flush(&server.http, "flights", 20_000);

    let open = create(server, "/api/v1/schemas", &[], &json!({"name": "open", "definition": {"type": "object"}}));
    let stream = |name: &str, more: Value| {
        let mut stream = json!({"name": name, "schema_id": open["id"], "description": HOSTILE});
        stream.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        create(server, "/api/v1/streams", &[], &stream);
    };
    stream("hostile", json!({"labels": {"team": HOSTILE, "tier": "gold"}}));
    stream("numbers", json!({}));
    let path = "/api/v1/streams/numbers/records";
    let (status, answer) = rest::call(&server.http, "POST", path, r#"{"n": 12345678901234567890.10}"#);
    assert_eq!(status, 200, "{answer}");

    let job = |name: &str, content: &str| {
        let file = input.join(name);
        fs::write(&file, content).expect("written");
        let uri = format!("file://{}", file.display());
        let job = json!({"stream_id": "numbers", "source_uri": uri, "format": "json_lines"});
        create(server, "/api/v1/jobs", &[], &job)["id"].as_str().expect("an id").to_owned()
    };
    let done = job("rows.jsonl", "{\"n\": 1}\nnonsense\n{\"n\": 2}\n{\"n\": 3}\n");
    wait_for("the import", || {
        let (_, job) = rest::call(&server.http, "GET", &format!("/api/v1/jobs/{done}"), "");
        (job["status"] == "completed").then_some(())
    });
    // One that waits, for its stream is paused.
    let (status, answer) = rest::call(&server.http, "PATCH", "/api/v1/streams/numbers", r#"{"status": "paused"}"#);
    assert_eq!(status, 200, "{answer}");
    job("more.jsonl", "{\"n\": 4}\n");
}

#[test]
fn a_browser_shows_a_server_and_goes_on_when_it_was_away() {
    let dir = tempfile::tempdir().expect("a directory");
    let input = dir.path().join("input");
    fs::create_dir(&input).expect("made");
    let roots = input.to_str().expect("UTF-8");
    let settings = [
        ("shards.count", "2"),
        ("wal.quota_bytes", "256MiB"),
        ("wal.segment_bytes", "8MiB"),
        ("buffer.flush_interval_ms", "1000"),
        ("import.roots", roots),
    ];
    let server = Server::start(dir.path(), &settings);
    furnish(&server, &input);
    browse(&server, "open", &dir.path().join("browser"), &[]);
    assert!(server.stop().success(), "a clean stop");
}

#[test]
fn a_browser_shows_what_a_pasted_key_may_see() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Server::start(dir.path(), &[("auth.mode", "keys"), ("wal.quota_bytes", "256MiB")]);
    let admin = server.admin_key();
    let credential = [("x-api-key", admin.as_str())];
    let schema = json!({"name": "open", "definition": {"type": "object"}});
    let schema = create(&server, "/api/v1/schemas", &credential, &schema);
    for name in ["web.clicks", "private"] {
        create(&server, "/api/v1/streams", &credential, &json!({"name": name, "schema_id": schema["id"]}));
    }
    let key = json!({"name": "reader", "role": "reader", "streams": ["web.*"]});
    let key = create(&server, "/api/v1/api-keys", &credential, &key);
    let reader = key["api_key"].as_str().expect("a key");
    browse(&server, "keys", &dir.path().join("browser"), &[&admin, reader]);
    assert!(server.stop().success(), "a clean stop");
}
