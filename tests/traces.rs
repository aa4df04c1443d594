//! Traces, as a collector gets them that is not ours: it decodes them with OpenTelemetry's own messages (`collector.py`), and the
//! calls over gRPC are made by a client that knows nothing of this server (`traced.py`).

#[path = "../shards/tests/engine/client.rs"]
mod client;
#[path = "server/process.rs"]
mod process;
#[path = "server/producer.rs"]
mod producer;
#[path = "server/python.rs"]
mod python;
#[path = "server/rest.rs"]
mod rest;

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Stdio},
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use process::{Server, wait_for};
use serde_json::{Value, json};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const OTHER: &str = "5bf92f3577b34da6a3ce929d0e0e4737";
const CALLER: &str = "00f067aa0ba902b7";
const APPEND: &str = "ttdust.ingestion.v1.IngestionService/Append";
const QUERY: &str = "ttdust.query.v1.QueryService/QueryTimeRange";
const DROPPED: &str = "ttdust_traces_dropped_total";
const EXPORTED: &str = "ttdust_traces_exported_total";
const FAILURES: &str = "ttdust_traces_export_failures_total";

/// A collector, and the spans that it has.
struct Collector {
    child: Child,
    port: u16,
    spans: Arc<Mutex<Vec<Value>>>,
}

impl Collector {
    /// On this port, 0: any; it refuses so many requests before it takes one.
    fn start(port: u16, refusals: u32) -> Self {
        let mut command = python::command("collector.py");
        command.args([port.to_string(), refusals.to_string()]);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the interpreter starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let port = lines.next().expect("a line").expect("UTF-8").parse().expect("a port");
        let spans = Arc::<Mutex<Vec<Value>>>::default();
        let kept = Arc::clone(&spans);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                kept.lock().expect("not poisoned").push(serde_json::from_str(&line).expect("JSON"));
            }
        });
        Self { child, port, spans }
    }

    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn spans(&self) -> Vec<Value> {
        self.spans.lock().expect("not poisoned").clone()
    }

    /// The spans of a trace, once one of this name is there, which comes after those under it.
    fn trace(&self, trace: &str, name: &str) -> Tree {
        wait_for(&format!("{name} of {trace}"), || {
            let spans: Vec<_> = self.spans().into_iter().filter(|span| span["trace"] == trace).collect();
            spans.iter().any(|span| span["name"] == name).then_some(Tree(spans))
        })
    }

    /// The spans of the first trace that begins with one of this name.
    fn trace_of(&self, name: &str) -> Tree {
        let begins = |span: &Value| span["name"] == name && span["parent"] == "";
        let first = wait_for(name, || self.spans().into_iter().find(begins));
        self.trace(first["trace"].as_str().expect("an id"), name)
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The spans of one trace.
struct Tree(Vec<Value>);

impl Tree {
    /// The one span of this name.
    fn one(&self, name: &str) -> &Value {
        let found: Vec<_> = self.0.iter().filter(|span| span["name"] == name).collect();
        assert_eq!(found.len(), 1, "{name}: {:#?}", self.0);
        found[0]
    }

    /// The names of the spans under this one, by when they began; each lies within it.
    fn under(&self, parent: &Value) -> Vec<&str> {
        let mut children: Vec<_> = self.0.iter().filter(|span| span["parent"] == parent["id"]).collect();
        children.sort_by_key(|span| (span["start"].as_u64(), span["end"].as_u64()));
        for child in &children {
            let times = [&parent["start"], &child["start"], &child["end"], &parent["end"]].map(|time| time.as_u64());
            assert!(times.is_sorted(), "{times:?}: {child} of {parent}");
        }
        children.into_iter().map(|span| span["name"].as_str().expect("a name")).collect()
    }
}

fn parent(trace: &str, flags: &str) -> String {
    format!("00-{trace}-{CALLER}-{flags}")
}

/// A server with one shard that sends its traces to `collector`.
fn start(dir: &Path, collector: &Collector, settings: &[(&str, &str)]) -> Server {
    let endpoint = collector.endpoint();
    let own = [("otlp.endpoint", endpoint.as_str()), ("shards.count", "1"), ("wal.quota_bytes", "256MiB")];
    Server::start(dir, &[&own, settings].concat())
}

fn create_stream(server: &Server) -> String {
    rest::create_stream(&server.http, "events", &json!({"type": "object"}))
}

/// Calls with these metadata, one after the other.
fn call_grpc(server: &Server, stream: &str, metadata: &[&str]) {
    let own = [server.grpc.as_str(), stream];
    let arguments: Vec<_> = own.iter().chain(metadata).map(Path::new).collect();
    let called = python::run("traced.py", &arguments);
    assert!(called.status.success(), "{}", python::said(&called));
}

fn check_append(tree: &Tree, stream: &str) {
    let append = tree.one(APPEND);
    assert_eq!(
        (&append["parent"], &append["kind"], &append["status"]),
        (&json!(CALLER), &json!("SERVER"), &json!("UNSET"))
    );
    // Sampled, and known to have a parent in another program.
    assert_eq!((&append["flags"], &append["state"]), (&json!(0x301), &json!("vendor=x")));
    assert_eq!(tree.under(append), ["decode", "validate", "cross", "wal_wait", "sync", "ack"]);
    let wanted = [
        ("rpc.system", json!("grpc")),
        ("rpc.service", json!("ttdust.ingestion.v1.IngestionService")),
        ("rpc.method", json!("Append")),
        ("rpc.grpc.status_code", json!(0)),
        ("ttdust.stream.id", json!(stream)),
        ("ttdust.stream.name", json!("events")),
        ("ttdust.shard", json!(0)),
        ("ttdust.batch.records", json!(2)),
        ("ttdust.records.accepted", json!(2)),
        ("ttdust.sequence.first", json!(1)),
        ("ttdust.sequence.last", json!(2)),
        ("ttdust.status", json!("STATUS_OK")),
    ];
    for (key, value) in wanted {
        assert_eq!(append["attributes"][key], value, "{key} of {append}");
    }
    let resource = &append["resource"];
    assert_eq!(
        (&resource["service.name"], &resource["service.version"]),
        (&json!("dust"), &json!(env!("CARGO_PKG_VERSION")))
    );
    assert!(resource["service.instance.id"].is_string() && resource["host.name"].is_string(), "{resource}");
    assert_eq!(append["tenant"], "seven", "the headers of the settings are sent");
}

fn check_query(tree: &Tree) {
    let rpc = tree.one(QUERY);
    assert_eq!((&rpc["parent"], &rpc["kind"]), (&json!(CALLER), &json!("SERVER")));
    assert_eq!(tree.under(rpc), ["control"]);
    assert_eq!(tree.under(tree.one("control")), ["query"]);
    let query = tree.one("query");
    let parts = tree.under(query);
    for part in ["snapshot", "list_files", "execute"] {
        assert!(parts.contains(&part), "{parts:?}");
    }
    for (key, value) in
        [("ttdust.status", json!("ok")), ("ttdust.query.rows", json!(2)), ("ttdust.query.files", json!(0))]
    {
        assert_eq!(query["attributes"][key], value, "{key} of {query}");
    }
    assert!(query["attributes"]["ttdust.query.cache_hits"].is_i64(), "{query}");
}

#[test]
fn what_a_caller_wants_traced_is_a_tree_under_its_span_and_nothing_else_is_told() {
    let (dir, collector) = (tempfile::tempdir().expect("a directory"), Collector::start(0, 0));
    let settings = [("otlp.sample_ratio", "0"), ("otlp.service_name", "dust"), ("otlp.headers", "x-tenant=seven")];
    let server = start(dir.path(), &collector, &settings);
    let stream = create_stream(&server);
    let sampled = format!("traceparent={};tracestate=vendor=x", parent(TRACE, "01"));
    call_grpc(&server, &stream, &[&sampled]);
    check_append(&collector.trace(TRACE, APPEND), &stream);
    check_query(&collector.trace(TRACE, QUERY));

    // Those that are not sampled, and those whose header is bad, over either.
    let unsampled = format!("traceparent={}", parent(OTHER, "00"));
    let bad = format!("traceparent={}", parent(OTHER, "01").replace("00-", "ff-"));
    call_grpc(&server, &stream, &["", &unsampled, &bad]);
    let records = format!("/api/v1/streams/{stream}/records?limit=1");
    for header in [unsampled, bad] {
        let (name, value) = header.split_once('=').expect("a pair");
        assert_eq!(rest::call_with(&server.http, "GET", &records, &[(name, value)], "").0, 200);
    }
    // What is told comes in the order in which it was done: whatever came before this is there with it.
    let fence = "6bf92f3577b34da6a3ce929d0e0e4738";
    rest::call_with(&server.http, "GET", &records, &[("traceparent", &parent(fence, "01"))], "");
    let route = "GET /api/v1/streams/{id}/records";
    let tree = collector.trace(fence, route);
    let traces: BTreeSet<_> = collector.spans().iter().map(|span| span["trace"].to_string()).collect();
    assert_eq!(traces.len(), 2, "{traces:?}");

    let root = tree.one(route);
    assert_eq!((&root["parent"], &root["kind"]), (&json!(CALLER), &json!("SERVER")));
    for (key, value) in [
        ("http.request.method", json!("GET")),
        ("http.route", json!("/api/v1/streams/{id}/records")),
        ("http.response.status_code", json!(200)),
        ("url.path", json!(format!("/api/v1/streams/{stream}/records"))),
    ] {
        assert_eq!(root["attributes"][key], value, "{key} of {root}");
    }
    assert!(tree.under(root).contains(&"query"), "{:?}", tree.under(root));
    assert!(server.stop().success(), "a clean stop");
    assert_eq!(collector.spans().iter().filter(|span| span["trace"] == OTHER).count(), 0);
}

#[test]
fn records_over_rest_are_traced_to_the_disk_and_changes_to_the_catalog_and_the_log_names_the_trace() {
    let (dir, collector) = (tempfile::tempdir().expect("a directory"), Collector::start(0, 0));
    let server = start(dir.path(), &collector, &[("otlp.sample_ratio", "0")]);
    let stream = create_stream(&server);
    let header = parent(TRACE, "01");
    let path = format!("/api/v1/streams/{stream}/records");
    let (status, head, _) = rest::call_with(&server.http, "POST", &path, &[("traceparent", &header)], r#"[{"n": 1}]"#);
    assert_eq!(status, 200);
    assert!(head.contains(&format!("x-request-id: {TRACE}")), "{head}");
    let tree = collector.trace(TRACE, "POST /api/v1/streams/{id}/records");
    let append = tree.one("append");
    assert_eq!(tree.under(append), ["cross", "wal_wait", "sync"]);
    assert_eq!(append["attributes"]["ttdust.sequence.last"], 1);

    let schema =
        json!({"name": "more", "namespace": "tests", "compatibility_mode": "none", "definition": {"type": "object"}});
    let header = parent(OTHER, "01");
    let headers = [("traceparent", header.as_str()), ("x-request-id", "mine")];
    let (status, head, _) = rest::call_with(&server.http, "POST", "/api/v1/schemas", &headers, &schema.to_string());
    assert_eq!((status, head.contains("x-request-id: mine")), (201, true), "{head}");
    let tree = collector.trace(OTHER, "POST /api/v1/schemas");
    let root = tree.one("POST /api/v1/schemas");
    assert_eq!(root["attributes"]["ttdust.request_id"], "mine");
    assert!(tree.under(root).contains(&"catalog create_schema"), "{:?}", tree.under(root));
    let call = tree.one("catalog create_schema");
    assert_eq!((&call["kind"], &call["attributes"]["db.system.name"]), (&json!("CLIENT"), &json!("sqlite")));
    let line = wait_for("the line", || {
        let lines = server.log();
        lines.lines().find(|line| line.contains(OTHER)).map(|line| serde_json::from_str::<Value>(line).expect("JSON"))
    });
    assert_eq!((&line["message"], &line["trace_id"]), (&json!("schema created"), &json!(OTHER)));
    assert_eq!((&line["component"], &line["request_id"]), (&json!("server::control::schemas"), &json!("mine")));

    // A failure of the caller's is none of the server's.
    let header = parent("7bf92f3577b34da6a3ce929d0e0e4739", "01");
    let (status, ..) = rest::call_with(&server.http, "GET", "/api/v1/streams/none", &[("traceparent", &header)], "");
    let tree = collector.trace("7bf92f3577b34da6a3ce929d0e0e4739", "GET /api/v1/streams/{id}");
    let root = tree.one("GET /api/v1/streams/{id}");
    assert_eq!(
        (status, &root["status"], &root["attributes"]["http.response.status_code"]),
        (404, &json!("UNSET"), &json!(404))
    );
    assert!(server.stop().success(), "a clean stop");
}

#[test]
fn the_servers_own_work_is_traced_where_a_part_of_requests_is() {
    let (dir, collector) = (tempfile::tempdir().expect("a directory"), Collector::start(0, 2));
    let files = dir.path().join("in");
    std::fs::create_dir(&files).expect("a directory");
    std::fs::write(files.join("one.jsonl"), "{\"n\": 1}\n{\"n\": 2}\n").expect("written");
    let roots = files.to_str().expect("UTF-8");
    let settings = [("otlp.sample_ratio", "1"), ("buffer.flush_interval_ms", "50"), ("import.roots", roots)];
    let server = start(dir.path(), &collector, &settings);
    let stream = create_stream(&server);
    call_grpc(&server, &stream, &[""]);

    let tree = collector.trace_of("flush");
    let flush = tree.one("flush");
    let parts = tree.under(flush);
    assert!(parts.starts_with(&["write"]) && parts.contains(&"upload"), "{parts:?}");
    assert!(parts.contains(&"catalog commit_files"), "{parts:?}");
    assert_eq!((&flush["kind"], &flush["attributes"]["ttdust.stream.id"]), (&json!("INTERNAL"), &json!(stream)));
    assert_eq!(
        (&flush["attributes"]["ttdust.sequence.first"], &flush["attributes"]["ttdust.flush.rows"]),
        (&json!(1), &json!(2))
    );
    // No caller has decided: each request is a trace of its own.
    let append = collector.trace_of(APPEND);
    assert_eq!((append.one(APPEND)["flags"].clone(), append.0.len()), (json!(0x101), 7), "{:#?}", append.0);

    let job = json!({"stream_id": stream, "source_uri": format!("file://{roots}/one.jsonl"), "format": "json_lines"});
    let (status, job) = rest::call(&server.http, "POST", "/api/v1/jobs", &job.to_string());
    assert_eq!(status, 201, "{job}");
    let tree = collector.trace_of("import");
    let import = tree.one("import");
    assert_eq!(import["attributes"]["ttdust.status"], "completed", "{import}");
    assert!(tree.under(import).contains(&"catalog change_job"), "{:#?}", tree.0);
    assert_eq!(
        (rest::metric::<u64>(&server.http, DROPPED), rest::metric::<u64>(&server.http, FAILURES)),
        (0, 2),
        "it was tried again"
    );
    assert!(rest::metric::<u64>(&server.http, EXPORTED) > 7);
    assert!(server.stop().success(), "a clean stop");
}

#[test]
fn without_its_collector_the_server_goes_on_and_drops_and_counts_and_comes_back_to_it() {
    let (dir, mut collector) = (tempfile::tempdir().expect("a directory"), Collector::start(0, 0));
    let port = collector.port;
    let settings = [("otlp.sample_ratio", "1"), ("otlp.max_traced_per_second", "100000")];
    let server = start(dir.path(), &collector, &settings);
    let stream = create_stream(&server);
    collector.child.kill().and_then(|()| collector.child.wait()).expect("ended");
    drop(collector);
    producer::block_on(async {
        let mut producer = producer::Producer::connect(&server.grpc, &stream).await;
        // More than may wait.
        let batches = (0..4000).map(|n| vec![Bytes::from(format!("{{\"n\": {n}}}"))]).collect();
        let ended = producer.pipeline(batches).await;
        assert_eq!((ended.code, producer.acked.len()), (0, 4000), "{ended:?}");
    });
    wait_for("spans that find no room", || (rest::metric::<u64>(&server.http, DROPPED) > 0).then_some(()));
    wait_for("failures", || (rest::metric::<u64>(&server.http, FAILURES) > 0).then_some(()));
    assert!(server.log().contains("the collector takes no traces now"), "{}", server.log());

    let collector = Collector::start(port, 0);
    wait_for("what had waited", || (rest::metric::<u64>(&server.http, EXPORTED) > 0).then_some(()));
    let header = parent(TRACE, "01");
    let again = || {
        rest::call_with(&server.http, "GET", "/api/v1/streams", &[("traceparent", &header)], "");
        collector.spans().iter().any(|span| span["trace"] == TRACE).then_some(())
    };
    wait_for("a new trace", again);
    assert!(server.log().contains("the collector takes traces again"), "{}", server.log());
    assert!(server.stop().success(), "a clean stop");
}

#[test]
fn the_last_spans_are_sent_before_the_end_and_a_collector_that_is_gone_holds_up_no_end() {
    let (dir, collector) = (tempfile::tempdir().expect("a directory"), Collector::start(0, 0));
    let server = start(dir.path(), &collector, &[("otlp.sample_ratio", "0")]);
    let stream = create_stream(&server);
    call_grpc(&server, &stream, &[&format!("traceparent={}", parent(TRACE, "01"))]);
    assert!(server.stop().success(), "a clean stop");
    collector.trace(TRACE, QUERY);

    let port = collector.port;
    drop(collector);
    let endpoint = format!("http://127.0.0.1:{port}");
    let dir = tempfile::tempdir().expect("a directory");
    let server = Server::start(dir.path(), &[("otlp.endpoint", &endpoint), ("otlp.sample_ratio", "1")]);
    create_stream(&server);
    assert!(server.stop().success(), "a clean stop");
}
