//! Other people's clients: gRPC from Python with stubs made from the contract's numbers, Parquet with DuckDB, pyarrow and
//! Polars.

#[path = "server/process.rs"]
mod process;
#[path = "server/python.rs"]
mod python;
#[path = "server/rest.rs"]
mod rest;

use std::path::Path;

use process::{Server, wait_for};
use serde_json::Value;

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
