//! The REST interface of a real server process: what it answers, what it keeps over a restart, whom it lets in.
//!
//! Each test has a server of its own, in a fresh directory and on free ports. It waits on what the server shows, never on time
//! alone; the deadlines only end a test that would hang.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message as _;
use serde_json::{Value, json};
use ttdust_proto::{
    ingestion::{IngestRequest, IngestResponse},
    path,
};

const DEADLINE: Duration = Duration::from_secs(60);

/// Waits until `ready` gives something.
fn wait_for<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(Instant::now() < end, "{what} did not come");
        std::thread::sleep(Duration::from_millis(10));
    }
}

struct Server {
    child: Child,
    http: String,
    grpc: String,
    stderr: PathBuf,
}

fn command(dir: &Path, extra: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ttdust"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TTDUST_") {
            command.env_remove(name);
        }
    }
    command.args(["serve", "--bind-address", "127.0.0.1:0", "--grpc-address", "127.0.0.1:0", "--data-dir"]);
    command.arg(dir.join("data")).args(["--set", "wal.quota_bytes=256MiB"]).args(extra);
    command
}

impl Server {
    fn start(dir: &Path, extra: &[&str]) -> Self {
        let (ports, stderr) = (dir.join("ports.json"), dir.join("stderr.log"));
        // A file of an earlier run is not ours.
        let _ = fs::remove_file(&ports);
        let log = fs::OpenOptions::new().create(true).append(true).open(&stderr).expect("a log file");
        let mut command = command(dir, extra);
        let child = command.arg("--port-file").arg(&ports).stderr(log).stdout(Stdio::null()).spawn().expect("started");
        let mut server = Self { child, http: String::new(), grpc: String::new(), stderr };
        let text = wait_for("the port file", || {
            if let Some(status) = server.child.try_wait().expect("a status") {
                panic!("the server ended with {status}: {}", server.log());
            }
            fs::read_to_string(&ports).ok()
        });
        let ports: Value = serde_json::from_str(&text).expect("JSON");
        server.http = ports["http"].as_str().expect("an address").to_owned();
        server.grpc = ports["grpc"].as_str().expect("an address").to_owned();
        server
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("sent");
    }

    fn stop(mut self) -> ExitStatus {
        self.signal(rustix::process::Signal::TERM);
        wait_for("the end of the server", || self.child.try_wait().expect("a status"))
    }

    fn call(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut stream = TcpStream::connect(&self.http).expect("connected");
        stream.set_read_timeout(Some(DEADLINE)).expect("set");
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n", self.http);
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
        stream.write_all(head.as_bytes()).expect("sent");
        // A server that refuses a large body may close before it has read all of it.
        let _ = stream.write_all(body.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        Answer::parse(&answer)
    }

    fn get(&self, path: &str) -> Answer {
        self.call("GET", path, &[], "")
    }

    fn post(&self, path: &str, body: &Value) -> Answer {
        self.call("POST", path, &[("content-type", "application/json")], &body.to_string())
    }

    /// A schema that takes any object, and a stream of it.
    fn stream(&self, name: &str) -> String {
        let schema = self.post("/api/v1/schemas", &json!({"name": name, "definition": {"type": "object"}})).expect(201);
        let stream = json!({"name": name, "schema_id": schema["id"], "key_fields": ["n"]});
        self.post("/api/v1/streams", &stream).expect(201)["id"].as_str().expect("an id").to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8(bytes.to_vec()).expect("UTF-8");
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head in {text:?}"));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        Self { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    fn header(&self, name: &str) -> Option<&str> {
        let value = |line: &'_ str| line.strip_prefix(name).and_then(|rest| rest.strip_prefix(": ")).map(str::len);
        self.head.lines().find_map(|line| value(line).map(|len| &line[line.len() - len..]))
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    #[track_caller]
    fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        if self.body.is_empty() { Value::Null } else { self.json() }
    }

    /// A problem with all members of the contract.
    #[track_caller]
    fn problem(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let body = self.json();
        assert_eq!((&body["code"], &body["status"]), (&json!(code), &json!(status)), "{body}");
        for member in ["type", "title", "detail", "trace_id"] {
            assert!(body[member].as_str().is_some_and(|text| !text.is_empty()), "{member} of {body}");
        }
        assert_eq!(self.header("x-request-id"), body["trace_id"].as_str());
        body
    }
}

/// The answers of unary `Ingest` calls, or the gRPC status of the first that failed.
fn ingest(grpc: &str, key: Option<&str>, requests: Vec<IngestRequest>) -> Result<Vec<IngestResponse>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let socket = tokio::net::TcpStream::connect(grpc).await.expect("connected");
        let (mut send, connection) = h2::client::handshake(socket).await.expect("HTTP/2");
        tokio::spawn(connection);
        let mut answers = Vec::new();
        for request in requests {
            let mut call = http::Request::post(format!("http://{grpc}{}", path::INGEST))
                .header("content-type", "application/grpc")
                .header("te", "trailers");
            if let Some(key) = key {
                call = call.header("authorization", format!("Bearer {key}"));
            }
            let (response, mut body) = send.send_request(call.body(()).expect("a request"), false).expect("sent");
            let mut frame = BytesMut::new();
            frame.put_u8(0);
            frame.put_u32(request.encoded_len() as u32);
            request.encode(&mut frame).expect("a BytesMut grows");
            body.send_data(frame.freeze(), true).expect("sent");
            let response = response.await.expect("a response");
            let status = |headers: &http::HeaderMap| {
                headers.get("grpc-status").and_then(|status| status.to_str().ok()).map(str::to_owned)
            };
            let at_once = status(response.headers());
            let mut body = response.into_body();
            let mut message = BytesMut::new();
            while let Some(data) = body.data().await {
                let data = data.expect("data");
                body.flow_control().release_capacity(data.len()).expect("released");
                message.extend_from_slice(&data);
            }
            let trailers = body.trailers().await.expect("trailers");
            let status = trailers.as_ref().and_then(status).or(at_once).expect("a gRPC status");
            if status != "0" {
                return Err(status);
            }
            answers.push(IngestResponse::decode(&message[5..]).expect("an answer"));
        }
        Ok(answers)
    })
}

fn record(stream: &str, payload: impl Into<Bytes>) -> IngestRequest {
    let metadata = [("source".to_owned(), "te\"st".to_owned())].into();
    IngestRequest { stream_id: stream.to_owned(), payload: payload.into(), metadata, ..IngestRequest::default() }
}

/// All records of a stream, read in pages of `limit`.
fn read_all(server: &Server, stream: &str, limit: usize) -> Vec<Value> {
    let mut records = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = server.get(&format!("/api/v1/streams/{stream}/records?limit={limit}{cursor}")).expect(200);
        let rows = page["records"].as_array().expect("records");
        assert!(rows.len() <= limit);
        records.extend(rows.iter().cloned());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return records,
        }
    }
}

#[test]
fn schemas_are_registered_versioned_and_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Server::start(dir.path(), &[]);
    let definition = json!({"type": "object", "properties": {"n": {"type": "integer"}}});
    let new = json!({"name": "events", "namespace": "web", "description": "d", "definition": definition});
    let schema = server.post("/api/v1/schemas", &new).expect(201);
    assert_eq!((&schema["definition"], &schema["compatibility_mode"]), (&definition, &json!("NONE")));
    let path = format!("/api/v1/schemas/{}", schema["id"].as_str().expect("an id"));
    assert_eq!(server.get(&path).expect(200), schema);
    server.post("/api/v1/schemas", &new).problem(409, "ALREADY_EXISTS");
    server.get("/api/v1/schemas/sch_none").problem(404, "NOT_FOUND");
    let versions = format!("{path}/versions");
    let verdict = server.post(&format!("{versions}?dry_run=true"), &json!({"definition": {}})).expect(200);
    assert_eq!(verdict["compatible"], true);
    assert_eq!(server.post(&versions, &json!({"definition": {}})).expect(201)["version"], 2);
    let page = server.get(&format!("{versions}?page_size=1")).expect(200);
    assert_eq!(page["versions"][0]["definition"], definition);
    let next = page["next_page_token"].as_str().expect("a token");
    let page = server.get(&format!("{versions}?page_size=1&page_token={next}")).expect(200);
    assert_eq!(page["versions"][0]["version"], 2);
    let bad = json!({"name": "bad", "definition": {"properties": {"n": {"type": "intger"}}}});
    let problem = server.post("/api/v1/schemas", &bad).problem(400, "INVALID_ARGUMENT");
    assert!(problem["errors"][0]["pointer"].as_str().expect("a pointer").starts_with("/definition"), "{problem}");
    // What JSON would make one of is seen as it was sent.
    let twice = r#"{"name": "twice", "definition": {"type": "object", "type": "string"}}"#;
    let typed = [("content-type", "application/json")];
    let problem = server.call("POST", "/api/v1/schemas", &typed, twice).problem(400, "INVALID_ARGUMENT");
    assert_eq!(problem["errors"][0]["pointer"], "/definition", "{problem}");
    assert!(problem["detail"].as_str().expect("text").contains("twice"), "{problem}");
    let twice = r#"{"definition": {"a": {"b": 1, "\u0062": 2}}}"#;
    server.call("POST", &versions, &typed, twice).problem(400, "INVALID_ARGUMENT");
    let costly = (0..60).map(|n| (format!("p{n}"), json!({"pattern": format!("^\\p{{L}}{{10}}{n}$")})));
    let costly = json!({"name": "costly", "definition": {"properties": costly.collect::<serde_json::Map<_, _>>()}});
    let problem = server.post("/api/v1/schemas", &costly).problem(400, "INVALID_ARGUMENT");
    assert!(problem["errors"][0]["pointer"].as_str().expect("a pointer").ends_with("/pattern"), "{problem}");
    let mode = json!({"name": "mode", "definition": {}, "compatibility_mode": "SIDEWAYS"});
    server.post("/api/v1/schemas", &mode).problem(400, "INVALID_ARGUMENT");
    assert_eq!(server.get("/api/v1/schemas?namespace=web").expect(200)["schemas"][0]["name"], "events");
    assert_eq!(server.get("/api/v1/schemas?name=none").expect(200)["schemas"], json!([]));
}

#[test]
fn streams_are_created_changed_paused_and_deleted() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Server::start(dir.path(), &[]);
    let id = server.stream("clicks");
    let path = format!("/api/v1/streams/{id}");
    let found = server.get(&path);
    assert_eq!(found.header("etag"), Some("\"1\""));
    assert_eq!(found.expect(200)["statistics"]["last_sequence"], 0);
    assert_eq!(server.get("/api/v1/streams/clicks").expect(200)["id"], json!(id));
    let schema = found.json()["schema_id"].clone();
    server.post("/api/v1/streams", &json!({"name": "clicks", "schema_id": schema})).problem(409, "ALREADY_EXISTS");
    server.post("/api/v1/streams", &json!({"name": "Clicks", "schema_id": schema})).problem(400, "INVALID_ARGUMENT");
    let unknown = json!({"name": "x", "schema_id": "sch_01a20f8b-416d-7279-a8b2-4cbd982452ac"});
    server.post("/api/v1/streams", &unknown).problem(404, "NOT_FOUND");

    let patch = |tag: &str, body: Value| {
        server.call("PATCH", &path, &[("content-type", "application/json"), ("if-match", tag)], &body.to_string())
    };
    let paused = patch("\"1\"", json!({"status": "paused", "retention_policy": {"type": "time", "retention_days": 3}}));
    assert_eq!(paused.expect(200)["retention_policy"]["retention_days"], 3);
    patch("\"1\"", json!({"description": "late"})).problem(412, "VERSION_MISMATCH");
    assert_eq!(ingest(&server.grpc, None, vec![record(&id, "{}")]), Err("9".into()), "FAILED_PRECONDITION");
    assert_eq!(
        patch("*", json!({"status": "active", "retention_policy": null})).expect(200)["retention_policy"],
        Value::Null
    );
    assert_eq!(ingest(&server.grpc, None, vec![record(&id, "{}")]).expect("taken").len(), 1);

    server.stream("orders");
    let page = server.get("/api/v1/streams?page_size=1&status=active").expect(200);
    let next = page["next_page_token"].as_str().expect("a token");
    let page = server.get(&format!("/api/v1/streams?page_token={next}")).expect(200);
    assert_eq!(page["streams"][0]["name"], "orders");

    server.call("DELETE", &path, &[("if-match", "\"1\"")], "").problem(412, "VERSION_MISMATCH");
    let page = server.get("/api/v1/streams?name_prefix=ord").expect(200);
    assert_eq!(page["streams"].as_array().map(Vec::len), Some(1), "{page}");
    assert_eq!(patch("*", json!({"labels": {"team": "web"}})).expect(200)["labels"]["team"], "web");
    for (label, found) in [("team=web", 1), ("team", 1), ("team=app", 0), ("colour", 0)] {
        let page = server.get(&format!("/api/v1/streams?label={label}")).expect(200);
        assert_eq!(page["streams"].as_array().map(Vec::len), Some(found), "{label}: {page}");
    }

    assert_eq!(server.call("DELETE", &path, &[], "").expect(202)["status"], "deleting");
    wait_for("the end of the deletion", || (server.get(&path).status == 404).then_some(()));
    let deleted = server.get("/api/v1/streams?status=deleted").expect(200);
    assert_eq!(deleted["streams"][0]["id"], json!(id));
    server.post("/api/v1/streams", &json!({"name": "clicks", "schema_id": schema})).expect(201);
    assert_eq!(ingest(&server.grpc, None, vec![record(&id, "{}")]), Err("5".into()), "NOT_FOUND");
}

#[test]
fn every_failure_is_a_problem() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Server::start(dir.path(), &["--set", "limits.http_body_bytes=1KiB"]);
    let json_type = ("content-type", "application/json");
    server.get("/nowhere").problem(404, "NOT_FOUND");
    let wrong = server.call("PUT", "/api/v1/streams", &[], "");
    wrong.problem(405, "METHOD_NOT_ALLOWED");
    assert!(wrong.header("allow").is_some_and(|allow| allow.contains("post")), "{wrong:?}");
    for body in ["", "{", "[]", "{\"name\":\"a\"}", "{\"name\":\"a\",\"definition\":{},\"colour\":1}"] {
        server.call("POST", "/api/v1/schemas", &[json_type], body).problem(400, "INVALID_ARGUMENT");
    }
    let form = ("content-type", "application/x-www-form-urlencoded");
    server.call("POST", "/api/v1/schemas", &[form], "{}").problem(415, "INVALID_ARGUMENT");
    server.call("POST", "/api/v1/schemas", &[], "{}").problem(415, "INVALID_ARGUMENT");
    let large = format!("{{\"name\":\"{}\"}}", "x".repeat(2048));
    server.call("POST", "/api/v1/schemas", &[json_type], &large).problem(413, "RESOURCE_EXHAUSTED");
    server.get("/api/v1/streams?page_size=0").problem(400, "INVALID_ARGUMENT");
    server.get("/api/v1/streams?colour=red").problem(400, "INVALID_ARGUMENT");
    let id = server.stream("s");
    for query in ["start=5&end=5", "start=x", "limit=0", "limit=10001", "cursor=zzz"] {
        server.get(&format!("/api/v1/streams/{id}/records?{query}")).problem(400, "INVALID_ARGUMENT");
    }
    let lookup = server.get(&format!("/api/v1/streams/{id}/records?key_field=n&key_value=1")).expect(200);
    assert_eq!((&lookup["found"], &lookup["record"]), (&json!(false), &Value::Null));
    server.get("/api/v1/streams/none/records").problem(404, "NOT_FOUND");
    let traced = server.call("GET", "/nowhere", &[("x-request-id", "trace-7")], "").problem(404, "NOT_FOUND");
    assert_eq!(traced["trace_id"], "trace-7");
}

#[test]
fn where_access_is_open_a_web_page_cannot_call() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Server::start(dir.path(), &[]);
    let id = server.stream("clicks");
    let path = format!("/api/v1/streams/{id}");
    for header in [("origin", "https://evil.example"), ("origin", "null"), ("host", "evil.example")] {
        server.call("DELETE", &path, &[header], "").problem(403, "PERMISSION_DENIED");
        server.call("GET", "/api/v1/streams", &[header], "").problem(403, "PERMISSION_DENIED");
        server.call("GET", "/metrics", &[header], "").problem(403, "PERMISSION_DENIED");
        server.call("OPTIONS", "/api/v1/streams", &[header], "").problem(403, "PERMISSION_DENIED");
    }
    server.get(&path).expect(200);
    server.call("GET", &path, &[("origin", "http://localhost:3000")], "").expect(200);
    drop(server);
    let server = Server::start(dir.path(), &["--set", "auth.mode=keys"]);
    let page = [("origin", "https://evil.example"), ("host", "dust.example")];
    server.call("GET", "/api/v1/streams", &page, "").problem(401, "UNAUTHENTICATED");
    server.call("GET", "/health/live", &page, "").expect(200);
}

#[test]
fn records_are_read_from_buffer_files_and_after_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let flags = ["--set", "buffer.flush_interval_ms=100"];
    let server = Server::start(dir.path(), &flags);
    let id = server.stream("clicks");
    let payload = |n: usize| format!("{{ \"n\": {n}, \"exact\": 1.50, \"text\": \"\\u00e9 é\" }}");
    let requests = (0..25).map(|n| record(&id, payload(n))).collect();
    let acked = ingest(&server.grpc, None, requests).expect("acked");
    assert_eq!(acked.iter().map(|ack| ack.sequence_number).collect::<Vec<_>>(), (1..=25).collect::<Vec<_>>());

    let raw = server.get(&format!("/api/v1/streams/{id}/records"));
    assert!((0..25).all(|n| raw.body.contains(&payload(n))), "payloads are byte for byte what was sent");
    let check = |server: &Server| {
        let records = read_all(server, &id, 10);
        let numbers: Vec<_> = records.iter().map(|r| r["sequence_number"].as_i64().expect("a number")).collect();
        assert_eq!(numbers, (1..=25).collect::<Vec<_>>());
        for (record, ack) in records.iter().zip(&acked) {
            assert_eq!(record["record_id"], json!(ack.record_id));
            assert_eq!(record["metadata"], json!({"source": "te\"st"}));
        }
    };
    check(&server);
    let until = acked[9].timestamp_unix_micros;
    let part = server.get(&format!("/api/v1/streams/{id}/records?end={until}")).expect(200);
    assert!(part["records"].as_array().expect("records").len() < 10);

    let path = format!("/api/v1/streams/{id}");
    let statistics = server.get(&path).expect(200)["statistics"].clone();
    let rate = statistics["records_per_second"].as_f64().expect("a rate");
    assert!(rate > 0.0 && rate <= 25.0 / 60.0 + 1e-9, "{statistics}");
    assert!(statistics["bytes_per_second"].as_f64().expect("a rate") > rate, "{statistics}");
    wait_for("a flush of all", || (server.get(&path).expect(200)["statistics"]["flushed_through"] == 25).then_some(()));
    check(&server);
    let statistics = server.get(&path).expect(200)["statistics"].clone();
    assert_eq!((&statistics["buffered_records"], &statistics["buffered_bytes"]), (&json!(0), &json!(0)));
    assert_eq!(statistics["file_records"], 25);
    assert!(server.stop().success(), "a drain ends well");

    let server = Server::start(dir.path(), &flags);
    check(&server);
    let more = ingest(&server.grpc, None, vec![record(&id, payload(25))]).expect("acked");
    assert_eq!(more[0].sequence_number, 26, "sequence numbers go on");
    let objects = dir.path().join("data/objects").join(&id);
    assert!(objects.exists());
    server.call("DELETE", &path, &[], "").expect(202);
    // A flush that was under way may put an object after the removal; it takes it away again.
    wait_for("the end of its objects", || (!objects.exists()).then_some(()));
}

#[test]
fn acked_records_survive_a_kill() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut server = Server::start(dir.path(), &[]);
    let id = server.stream("clicks");
    let requests = (0..100).map(|n| record(&id, format!("{{\"n\":{n}}}"))).collect();
    assert_eq!(ingest(&server.grpc, None, requests).expect("acked").len(), 100);
    server.child.kill().expect("killed");
    server.child.wait().expect("ended");
    let server = Server::start(dir.path(), &[]);
    let records = read_all(&server, &id, 1000);
    assert_eq!(
        records.iter().map(|r| r["payload"]["n"].clone()).collect::<Vec<_>>(),
        (0..100).map(Value::from).collect::<Vec<_>>()
    );
}

#[test]
fn keys_let_in_by_role_until_they_are_deleted() {
    let dir = tempfile::tempdir().expect("a directory");
    let flags = ["--set", "auth.mode=keys"];
    let server = Server::start(dir.path(), &flags);
    let log = server.log();
    let admin = log.split_whitespace().find(|word| word.starts_with("ttd_live_")).expect("a bootstrap key").to_owned();
    let call = |key: &str, method: &str, path: &str, body: &str| {
        let headers = [("content-type", "application/json"), ("authorization", &format!("Bearer {key}"))];
        server.call(method, path, &headers, body)
    };
    server.get("/api/v1/streams").problem(401, "UNAUTHENTICATED");
    call("ttd_live_x_y", "GET", "/api/v1/streams", "").problem(401, "UNAUTHENTICATED");
    server.get("/health/live").expect(200);
    let schema = call(&admin, "POST", "/api/v1/schemas", "{\"name\":\"a\",\"definition\":{}}").expect(201);
    let stream = json!({"name": "a", "schema_id": schema["id"]}).to_string();
    let id = call(&admin, "POST", "/api/v1/streams", &stream).expect(201)["id"].as_str().expect("an id").to_owned();

    let key = |role: &str| {
        let created = call(
            &admin,
            "POST",
            "/api/v1/api-keys",
            &json!({"name": role, "role": role, "streams": ["*"]}).to_string(),
        )
        .expect(201);
        let text = |field: &str| created[field].as_str().expect("text").to_owned();
        (text("key_id"), text("api_key"))
    };
    let ((writer_id, writer), (_, reader)) = (key("writer"), key("reader"));
    let records = format!("/api/v1/streams/{id}/records");
    call(&reader, "GET", &records, "").expect(200);
    call(&writer, "GET", &records, "").problem(403, "PERMISSION_DENIED");
    call(&reader, "POST", "/api/v1/streams", &stream).problem(403, "PERMISSION_DENIED");
    call(&reader, "GET", "/api/v1/api-keys", "").problem(403, "PERMISSION_DENIED");
    assert_eq!(ingest(&server.grpc, None, vec![record(&id, "{}")]), Err("16".into()), "UNAUTHENTICATED");
    assert_eq!(ingest(&server.grpc, Some(&reader), vec![record(&id, "{}")]), Err("7".into()), "PERMISSION_DENIED");
    assert_eq!(ingest(&server.grpc, Some(&writer), vec![record(&id, "{}")]).expect("taken").len(), 1);

    let listed = call(&admin, "GET", "/api/v1/api-keys", "");
    assert_eq!(listed.expect(200)["api_keys"].as_array().expect("keys").len(), 3);
    assert!(!listed.body.contains("ttd_live_"), "a secret is shown once");
    call(&admin, "DELETE", &format!("/api/v1/api-keys/{writer_id}"), "").expect(204);
    call(&writer, "GET", "/api/v1/streams", "").problem(401, "UNAUTHENTICATED");
    assert_eq!(ingest(&server.grpc, Some(&writer), vec![record(&id, "{}")]), Err("16".into()), "UNAUTHENTICATED");

    assert!(server.stop().success());
    let server = Server::start(dir.path(), &flags);
    let again = server.call("GET", "/api/v1/streams", &[("x-api-key", &admin)], "");
    again.expect(200);
    assert_eq!(server.log().matches("ttd_live_").count(), 1, "the bootstrap key is shown once");
}

#[test]
fn an_admin_key_that_nobody_can_have_is_not_the_last_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let flags = ["--set", "auth.mode=keys"];
    // Nobody reads what this one says.
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let ports = dir.path().join("ports.json");
    let mut silent = command(dir.path(), &flags);
    let mut silent =
        silent.arg("--port-file").arg(&ports).stderr(writer).stdout(Stdio::null()).spawn().expect("started");
    wait_for("the port file", || {
        assert_eq!(silent.try_wait().expect("a status"), None, "a server must not end because nobody listens to it");
        ports.exists().then_some(())
    });
    silent.kill().expect("killed");
    silent.wait().expect("ended");

    let shown = |server: &Server| -> Vec<String> {
        server.log().split_whitespace().filter(|word| word.starts_with("ttd_live_")).map(str::to_owned).collect()
    };
    let lets_in = |server: &Server, key: &str| server.call("GET", "/api/v1/api-keys", &[("x-api-key", key)], "").status;
    let server = Server::start(dir.path(), &flags);
    assert_eq!(shown(&server).len(), 1, "{}", server.log());
    assert!(server.stop().success());
    // It was never used: perhaps nobody has it.
    let server = Server::start(dir.path(), &flags);
    let keys = shown(&server);
    assert_eq!(keys.len(), 2, "{}", server.log());
    assert_eq!((lets_in(&server, &keys[0]), lets_in(&server, &keys[1])), (401, 200));
    assert!(server.stop().success());
    let server = Server::start(dir.path(), &flags);
    assert_eq!((shown(&server), lets_in(&server, &keys[1])), (keys.clone(), 200), "it was used, and stays");
}

#[test]
fn health_metrics_and_configuration_are_shown() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Server::start(dir.path(), &["--set", "shards.count=2"]);
    assert_eq!(server.get("/health/live").expect(200), json!({"status": "ok"}));
    let ready = server.get("/health/ready").expect(200);
    for part in ["catalog", "objects", "shard_0", "shard_1", "io"] {
        assert_eq!(ready["components"][part]["status"], "ok", "{ready}");
    }
    let id = server.stream("clicks");
    ingest(&server.grpc, None, vec![record(&id, "{}"), record(&id, "{}")]).expect("acked");
    let text = server.get("/metrics").body;
    let value = |name: &str| -> f64 {
        let of = |line: &str| line.strip_prefix(name)?.split_whitespace().last()?.parse::<f64>().ok();
        text.lines().filter_map(of).sum()
    };
    assert!((value("ttdust_ingestion_records_received_total{") - 2.0).abs() < f64::EPSILON, "{text}");
    assert!(value("ttdust_wal_bytes_total{") > 0.0 && value("process_resident_memory_bytes") > 0.0, "{text}");
    for metric in ttdust::metrics::metrics() {
        assert!(text.contains(&format!("# TYPE {} {}", metric.name, metric.kind)), "{} is missing", metric.name);
    }
    let open = server.call("GET", "/metrics", &[("accept", "application/openmetrics-text")], "");
    assert!(open.body.ends_with("# EOF\n"));
    let config = server.get("/api/v1/config").expect(200);
    assert_eq!(config["settings"]["shards.count"], json!({"value": "2", "source": "flag", "reloadable": false}));
    assert_eq!(config["settings"]["shards.io"]["source"], "default");
}

#[test]
fn what_cannot_be_started_says_why() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Server::start(dir.path(), &[]);
    let failure = |command: &mut Command| {
        let output = command.output().expect("run");
        assert!(!output.status.success());
        String::from_utf8(output.stderr).expect("UTF-8")
    };
    let locked = failure(&mut command(dir.path(), &[]));
    assert!(locked.contains("in use by another process"), "{locked}");
    let unknown = failure(command(dir.path(), &[]).env("TTDUST_LOG_LEVLE", "info"));
    assert!(unknown.contains("did you mean TTDUST_LOG_LEVEL"), "{unknown}");
    let half = failure(command(dir.path(), &[]).env("TTDUST_S3_ENDPOINT", "http://s3"));
    assert!(half.contains("set s3.access_key"), "{half}");
    let open = failure(&mut command(dir.path(), &["--set", "bind_address=0.0.0.0:0", "--set", "auth.mode=off"]));
    assert!(!open.is_empty());
    assert!(server.stop().success());
}
