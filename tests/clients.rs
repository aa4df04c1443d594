//! Other people's clients: gRPC from Python with stubs made from the contract's numbers, Parquet with DuckDB, pyarrow and
//! Polars; and the examples of `proto/examples` in Python and Rust.

#[path = "server/process.rs"]
mod process;
#[path = "server/python.rs"]
mod python;
#[path = "server/rest.rs"]
mod rest;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use process::{Server, wait_for};
use serde_json::{Value, json};

/// How `read_parquet.py` says that rows are still missing.
const NOT_YET: i32 = 3;

fn drive(io: &str, shards: &str) {
    let dir = tempfile::tempdir().expect("a directory");
    let settings = [
        ("shards.io", io),
        ("shards.count", shards),
        ("wal.quota_bytes", "256MiB"),
        ("wal.segment_bytes", "8MiB"),
        ("buffer.flush_interval_ms", "200"),
    ];
    let server = Server::start(dir.path(), &settings);
    let definition: Value = serde_json::from_str(include_str!("data/flights.schema.json")).expect("JSON");
    let stream = rest::create_stream(&server.http, "flights", &definition);
    let (sample, acked) =
        (Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/flights.jsonl.gz"), dir.path().join("acked.ndjson"));

    let produced = python::run("produce.py", &[Path::new(&server.grpc), Path::new("flights"), &sample, &acked]);
    assert!(produced.status.success(), "{}", python::said(&produced));
    let facts: Value = serde_json::from_slice(&produced.stdout).expect("JSON");
    let records = facts["acked"].as_u64().expect("a number");

    let objects = dir.path().join("data/objects").join(&stream);
    let read = wait_for("the records as Parquet", || {
        let read = python::run("read_parquet.py", &[&objects, &acked]);
        (read.status.code() != Some(NOT_YET)).then_some(read)
    });
    assert!(read.status.success(), "{}", python::said(&read));
    let found: Value = serde_json::from_slice(&read.stdout).expect("JSON");
    for reader in ["pyarrow", "duckdb", "polars"] {
        assert_eq!(found[reader].as_u64(), Some(records), "{found}");
    }
    assert!(server.stop().success(), "a clean stop");
}

#[test]
fn python_clients_work_from_the_contract_alone_on_io_uring() {
    drive("uring", "1");
}

#[test]
fn python_clients_work_from_the_contract_alone_on_epoll_with_two_shards() {
    drive("epoll", "2");
}

/// More than the limit lets in within a second: examples are told to come again.
const SENT: usize = 700;

fn with_limit(dir: &Path) -> Server {
    let settings = [
        ("shards.count", "1"),
        ("wal.quota_bytes", "256MiB"),
        ("rate.ingest_records_per_second", "200"),
        ("buffer.flush_interval_ms", "3600000"),
    ];
    let server = Server::start(dir, &settings);
    rest::create_stream(
        &server.http,
        "events",
        &json!({"type": "object", "properties": {"event_id": {"type": "string"}}}),
    );
    server
}

fn payload(n: usize) -> String {
    json!({"event_id": format!("event-{n}"), "n": n}).to_string()
}

/// Every record is there once, although some were refused for a while.
fn check(server: &Server) {
    let (_, text) = rest::call(&server.http, "GET", "/metrics", "");
    let hits = "ttdust_rate_limit_hits_total{category=\"ingest_records\"}";
    let refused = text.as_str().expect("text").lines().find_map(|line| line.strip_prefix(hits)).map(str::trim);
    assert!(refused.is_some_and(|count| count != "0"), "nothing was refused: {refused:?}");
    let mut read: Vec<u64> = rest::read_all(&server.http, "events", "limit=2000")
        .iter()
        .map(|record| record["payload"]["n"].as_u64().expect("a number"))
        .collect();
    read.sort_unstable();
    assert_eq!(read, (0..SENT as u64).collect::<Vec<_>>());
}

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Runs an example, which is given a server, its stream and a file of records.
#[track_caller]
fn sends_each_record_once_reads_and_follows(example: impl Fn() -> Command) {
    let dir = tempfile::tempdir().expect("a directory");
    let server = with_limit(dir.path());
    let records = dir.path().join("records.jsonl");
    let run = || example().arg(&server.grpc).arg("events").arg(&records).output().expect("the example starts");
    fs::write(&records, (0..SENT).map(|n| payload(n) + "\n").collect::<String>()).expect("written");
    let output = run();
    assert!(output.status.success(), "{}", python::said(&output));
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(said["outcomes"], json!({"OK": SENT}), "{said}");
    assert_eq!(said["followed"], json!((1..=10).collect::<Vec<_>>()), "{said}");
    check(&server);

    // The same again is a duplicate, and a record that its schema refuses is told of.
    fs::write(&records, payload(0) + "\n" + r#"{"event_id": 7}"# + "\n").expect("written");
    let said: Value = serde_json::from_slice(&run().stdout).expect("JSON");
    assert_eq!(said["outcomes"], json!({"DUPLICATE": 1, "VALIDATION_ERROR": 1}), "{said}");
    assert_eq!(said["rejects"], json!([["7", "SCHEMA_VIOLATION", ["/event_id"]]]), "{said}");
    assert!(server.stop().success());
}

#[test]
fn the_example_in_python_sends_each_record_once_reads_and_follows() {
    sends_each_record_once_reads_and_follows(|| {
        let mut command = Command::new(python::interpreter());
        command.arg("-B").arg(path("proto/examples/python/client.py"));
        command
    });
}

/// Built here, with the versions of its own lock file, beside what is built of the server.
fn rust_example() -> PathBuf {
    let target = path("target/examples");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--locked", "--quiet", "--manifest-path"]).arg(path("proto/examples/rust/Cargo.toml"));
    let built = cargo.arg("--target-dir").arg(&target).output().expect("cargo starts");
    assert!(built.status.success(), "{}", python::said(&built));
    target.join("debug/ttdust-example")
}

#[test]
fn the_example_in_rust_sends_each_record_once_reads_and_follows() {
    let program = rust_example();
    sends_each_record_once_reads_and_follows(|| Command::new(&program));
}
