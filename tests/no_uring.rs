//! A machine that refuses io_uring, as containers do: the server runs on epoll and says so, or refuses with the remedy.

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

use bytes::Bytes;
use process::Server;
use producer::{Producer, block_on};
use serde_json::json;

const SETTINGS: &[(&str, &str)] = &[("wal.quota_bytes", "256MiB"), ("shards.count", "1")];

/// A server that is starting under a seccomp filter which refuses io_uring.
fn spawn(dir: &std::path::Path, settings: &[(&str, &str)]) -> Server {
    let (python, script) = (python::interpreter(), python::script("without_io_uring.py"));
    let wrapper = [python.to_str().expect("UTF-8"), script.to_str().expect("UTF-8")];
    Server::spawn_under(&wrapper, dir, settings)
}

fn append(server: &Server, acked: Vec<Bytes>) -> Vec<Bytes> {
    block_on(async {
        let mut producer = Producer::reconnect(&server.grpc, "events", acked).await;
        for batch in 0..20 {
            let payloads = (0..50).map(|n| format!(r#"{{"n":{}}}"#, batch * 50 + n).into()).collect();
            producer.append(payloads).await.expect("taken");
        }
        let read = producer.read_all().await;
        producer.check(&read);
        producer.acked
    })
}

#[test]
fn without_io_uring_the_server_runs_on_epoll_and_says_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut server = spawn(dir.path(), SETTINGS);
    server.wait_until_ready();
    assert!(server.log().contains(r#""io_backend":"epoll""#), "{}", server.log());
    assert!(server.log().contains("io_uring_setup: Operation not permitted"), "{}", server.log());

    let (status, health) = rest::call(&server.http, "GET", "/health/ready", "");
    assert_eq!((status, &health["components"]["io"]["status"]), (200, &json!("ok")), "{health}");
    let detail = health["components"]["io"]["detail"].as_str().expect("a detail");
    assert!(detail.starts_with("epoll: io_uring_setup"), "{detail}");

    let (_, metrics) = rest::call(&server.http, "GET", "/metrics", "");
    let metrics = metrics.as_str().expect("text");
    let line = metrics.lines().find(|line| line.starts_with("ttdust_io_backend{")).expect("the metric");
    assert!(line.contains(r#"kind="epoll""#) && line.contains("io_uring_setup") && line.ends_with(" 1"), "{line}");

    rest::create_stream(&server.http, "events", &json!({"type": "object"}));
    let acked = append(&server, Vec::new());
    assert!(server.stop().success(), "a clean stop");

    // The log does not depend on what wrote it: with io_uring again, everything is there.
    let server = Server::start(dir.path(), SETTINGS);
    append(&server, acked);
    assert!(server.stop().success(), "a clean stop");
}

#[test]
fn io_uring_that_is_demanded_and_refused_ends_the_start_with_the_remedy() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut server = spawn(dir.path(), &[SETTINGS, &[("shards.io", "uring")]].concat());
    let status = server.wait();
    assert!(!status.success() && status.code().is_some(), "an error, not a crash: {status}");
    let log = server.log();
    for part in ["io_uring_setup: Operation not permitted", "seccomp", "kernel.io_uring_disabled", r#"io = "auto""#] {
        assert!(log.contains(part), "{part:?} is not in {log}");
    }
}
