//! `StreamingRead` on the real program: from Python, over a crash, and within the caller's limits.

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
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
    path::Path,
    process::{Command, Stdio},
};

use bytes::Bytes;
use client::{Call, Client};
use process::Server;
use producer::{Producer, block_on};
use serde_json::{Value, json};
use ttdust_proto::{
    path,
    query::{StreamingReadRequest, StreamingReadResponse},
};

fn schema() -> Value {
    json!({"type": "object", "properties": {"id": {"type": "integer"}}})
}

fn records(from: i64, count: i64) -> Vec<Bytes> {
    (from..from + count).map(|id| format!("{{\"id\":{id},\"pad\":\"{}\"}}", "x".repeat(300)).into()).collect()
}

async fn open(grpc: &str, start_sequence: Option<i64>) -> Call {
    let mut client = Client::connect(grpc.parse().expect("an address")).await;
    let mut call = client.call(path::STREAMING_READ).await;
    call.send(&StreamingReadRequest { stream_id: "events".to_owned(), start_sequence, start_time: None }).await;
    call.finish();
    call.opened().await;
    call
}

/// Reads the records from `first` on that are in `acked`, in order.
async fn read(call: &mut Call, first: usize, acked: &[Bytes]) {
    for (index, payload) in acked.iter().enumerate().skip(first - 1) {
        let answer: StreamingReadResponse = call.receive().await.expect("a record");
        let record = answer.record.expect("a record");
        assert_eq!((record.sequence_number, &record.payload), (index as i64 + 1, payload));
    }
}

#[test]
fn python_reads_what_is_there_and_what_comes_until_the_server_stops() {
    let dir = tempfile::tempdir().expect("a directory");
    let settings = [("shards.count", "2"), ("buffer.flush_interval_ms", "100"), ("wal.quota_bytes", "256MiB")];
    let server = Server::start(dir.path(), &settings);
    let definition: Value = serde_json::from_str(include_str!("data/flights.schema.json")).expect("JSON");
    rest::create_stream(&server.http, "flights", &definition);
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/flights.jsonl.gz");
    let mut command = Command::new(python::interpreter());
    command.arg("-B").arg(python::script("tail.py")).arg(&server.grpc).arg("flights").arg(sample);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("the interpreter starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let sent: Value = serde_json::from_str(&lines.next().expect("a line").expect("text")).expect("JSON");
    assert_eq!(sent["sent"], 450);
    assert!(server.stop().success(), "a clean stop");
    assert!(lines.next().expect("a line").expect("text").contains("ended"));
    assert!(child.wait().expect("a status").success());
}

#[test]
fn a_reader_that_goes_on_after_a_crash_misses_nothing_that_was_acked() {
    let dir = tempfile::tempdir().expect("a directory");
    let settings = [("shards.count", "2"), ("buffer.flush_interval_ms", "50"), ("wal.quota_bytes", "256MiB")];
    let mut server = Server::start(dir.path(), &settings);
    rest::create_stream(&server.http, "events", &schema());
    let (mut acked, mut next) = (Vec::new(), 1);
    for round in 0..4 {
        acked = block_on(async {
            let mut producer = Producer::reconnect(&server.grpc, "events", acked).await;
            let mut call = open(&server.grpc, Some(next as i64)).await;
            // What the crash left, then what comes.
            read(&mut call, next, &producer.acked).await;
            next = producer.acked.len() + 1;
            for _ in 0..20 {
                producer.append(records(producer.acked.len() as i64, 100)).await.expect("taken");
                read(&mut call, next, &producer.acked).await;
                next = producer.acked.len() + 1;
            }
            // Some that nobody has read when the server dies.
            for _ in 0..round {
                producer.append(records(producer.acked.len() as i64, 333)).await.expect("taken");
            }
            producer.acked
        });
        server.kill();
        server = Server::start(dir.path(), &settings);
    }
    block_on(async {
        let mut call = open(&server.grpc, Some(1)).await;
        read(&mut call, 1, &acked).await;
    });
    assert!(server.stop().success(), "a clean stop");
}

#[test]
fn a_start_counts_as_a_query_and_metrics_tell_of_tails() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Server::start(dir.path(), &[("shards.count", "1"), ("rate.queries_per_second", "2")]);
    rest::create_stream(&server.http, "events", &schema());
    block_on(async {
        let mut producer = Producer::connect(&server.grpc, "events").await;
        producer.append(records(0, 10)).await.expect("taken");
        let mut reader = open(&server.grpc, Some(1)).await;
        read(&mut reader, 1, &producer.acked).await;
        let mut opened = Vec::new();
        let ended = loop {
            let mut call = open(&server.grpc, Some(1)).await;
            match call.receive::<StreamingReadResponse>().await {
                Ok(_) => opened.push(call),
                Err(ended) => break ended,
            }
        };
        assert_eq!((ended.code, ended.reason.as_str()), (8, "RATE_LIMITED"));
        assert!(ended.retry_after.is_some());
        let text = process::wait_for("the gauge", || {
            let (_, metrics) = rest::call(&server.http, "GET", "/metrics", "");
            let text = metrics.as_str().expect("text").to_owned();
            let active = format!("ttdust_tail_active{{shard=\"0\"}} {}", opened.len() + 1);
            text.lines().any(|line| line == active).then_some(text)
        });
        assert!(text.contains("ttdust_shard_memory_bytes{shard=\"0\",pool=\"tails\"}"), "{text}");
    });
    assert!(server.stop().success(), "a clean stop");
}

/// A reader over REST from this place on, or from now; its lines.
fn follow(server: &Server, start: &str) -> impl Iterator<Item = String> + use<> {
    let mut socket = TcpStream::connect(&server.http).expect("connected");
    socket.set_read_timeout(Some(process::DEADLINE)).expect("a socket");
    let head = format!("GET /api/v1/streams/events/tail{start} HTTP/1.1\r\nhost: {}\r\n\r\n", server.http);
    socket.write_all(head.as_bytes()).expect("sent");
    let mut lines = BufReader::new(socket).lines().map(|line| line.expect("a line"));
    // It has begun once its head is there.
    lines.by_ref().find(String::is_empty).expect("a head");
    lines
}

/// The next event: its sequence number, and whether it was there before.
fn event(lines: &mut impl Iterator<Item = String>) -> (i64, bool) {
    let data = lines.find_map(|line| line.strip_prefix("data: ").map(str::to_owned)).expect("an event");
    let record: Value = serde_json::from_str(&data).expect("JSON");
    (record["sequence_number"].as_i64().expect("a number"), record["is_historical"].as_bool().expect("true or false"))
}

#[test]
fn what_was_acked_before_a_reader_came_was_there_also_where_others_read_already() {
    let dir = tempfile::tempdir().expect("a directory");
    let settings = [("shards.count", "3"), ("wal.quota_bytes", "256MiB"), ("buffer.flush_interval_ms", "3600000")];
    let server = Server::start(dir.path(), &settings);
    rest::create_stream(&server.http, "events", &schema());
    block_on(async {
        let mut producer = Producer::connect(&server.grpc, "events").await;
        // Others read on each shard, and over REST.
        let mut others = Vec::new();
        for _ in 0..12 {
            others.push(open(&server.grpc, None).await);
        }
        let _other = follow(&server, "");
        for round in 0..60 {
            producer.append(records(producer.acked.len() as i64, 50)).await.expect("taken");
            let last = producer.acked.len() as i64;
            let mut by_grpc = if round % 2 == 0 { Some(open(&server.grpc, Some(last)).await) } else { None };
            let mut there = follow(&server, &format!("?start_sequence={last}"));
            let mut from_now = follow(&server, "");
            let mut from_now_by_grpc = open(&server.grpc, None).await;
            if let Some(call) = &mut by_grpc {
                let answer: StreamingReadResponse = call.receive().await.expect("a record");
                assert!(answer.is_historical, "row {last} was there");
            }
            assert_eq!(event(&mut there), (last, true));
            producer.append(records(last, 1)).await.expect("taken");
            assert_eq!(event(&mut from_now), (last + 1, false));
            read(&mut from_now_by_grpc, last as usize + 1, &producer.acked).await;
        }
    });
    assert!(server.stop().success(), "a clean stop");
}
