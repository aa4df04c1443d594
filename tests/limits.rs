//! Hostile input to a real server: whatever one client sends, it is refused or taken as the contract says, the server's memory
//! stays bounded, and an honest client beside it goes on being acked.

#[path = "../shards/tests/engine/client.rs"]
mod client;
#[path = "server/honest.rs"]
mod honest;
#[path = "server/process.rs"]
mod process;
#[path = "server/producer.rs"]
mod producer;
#[path = "server/rest.rs"]
mod rest;

use std::{
    fmt::Write as _,
    io::{Read as _, Write as _},
    net::TcpStream,
};

use bytes::Bytes;
use client::{Client, framed_bytes};
use honest::Honest;
use process::{DEADLINE, Server, wait_for};
use producer::{Producer, block_on};
use serde_json::json;
use ttdust_proto::{
    ingestion::{IngestRequest, IngestResponse, Status},
    path,
};

const MIB: u64 = 1 << 20;
/// What hostile input may cost at most.
const MEMORY_MAX: u64 = 256 * MIB;

struct Case {
    name: &'static str,
    payload: Bytes,
    /// The error's code; empty: taken.
    code: &'static str,
}

fn wide_object(members: usize) -> String {
    let mut text = String::from("{");
    for n in 0..members {
        let _ = write!(text, r#""k{n}":1,"#);
    }
    text.push_str(r#""last":1}"#);
    text
}

fn hostile_records() -> Vec<Case> {
    let case = |name, payload: Vec<u8>, code| Case { name, payload: payload.into(), code };
    let text = |name, payload: &str, code| case(name, payload.as_bytes().to_vec(), code);
    let string_of = |bytes: usize| format!(r#"{{"text":"{}"}}"#, "x".repeat(bytes - 11));
    let deep = |depth: usize| format!(r#"{{"any":{}1{}}}"#, "[".repeat(depth), "]".repeat(depth));
    vec![
        text("a record of the limit", &string_of(1 << 20), ""),
        text("a record over the limit", &string_of((1 << 20) + 1), "RECORD_TOO_LARGE"),
        text("blanks over the limit", &" ".repeat(3 << 20), "RECORD_TOO_LARGE"),
        text("nesting at the limit", &deep(63), ""),
        text("nesting over the limit", &deep(64), "TOO_DEEP"),
        text("20,000 open brackets", &"[".repeat(20_000), "TOO_DEEP"),
        text("500,000 open objects", &r#"{"":"#.repeat(200_000), "TOO_DEEP"),
        text("a duplicate key", r#"{"number":1,"number":2}"#, "DUPLICATE_KEY"),
        text("an escaped duplicate key", r#"{"number":1,"n\u0075mber":2}"#, "DUPLICATE_KEY"),
        text("a wide object", &wide_object(50_000), ""),
        text("a wide object with one key twice", &wide_object(50_000).replace(r#""last""#, r#""k7""#), "DUPLICATE_KEY"),
        case("invalid UTF-8", b"{\"text\":\"\xff\xfe\"}".to_vec(), "NOT_JSON"),
        case("an overlong encoding", b"{\"text\":\"\xc0\xaf\"}".to_vec(), "NOT_JSON"),
        text("NaN", r#"{"number":NaN}"#, "NOT_JSON"),
        text("infinity", r#"{"number":Infinity}"#, "NOT_JSON"),
        text("a number beyond f64", r#"{"number":1e999}"#, "NUMBER_OUT_OF_RANGE"),
        text("an integer beyond i64", r#"{"any":123456789012345678901234567890}"#, ""),
        text("a byte order mark", "\u{feff}{}", "NOT_JSON"),
        text("nothing", "", "NOT_JSON"),
        text("blanks", " \n\t ", "NOT_JSON"),
        text("two records", "{} {}", "NOT_JSON"),
        text("a trailing comma", r#"{"number":1,}"#, "NOT_JSON"),
        text("a comment", r#"{"number":1/*one*/}"#, "NOT_JSON"),
        text("a raw control character", "{\"text\":\"a\u{0}b\"}", "NOT_JSON"),
        text("an escaped NUL", r#"{"text":"a\u0000b"}"#, ""),
        text("a wrong type", r#"{"number":"one"}"#, "SCHEMA_VIOLATION"),
        text("no object", "[1]", "SCHEMA_VIOLATION"),
    ]
}

#[test]
fn hostile_records_are_judged_while_an_honest_client_is_served() {
    let dir = tempfile::tempdir().expect("a directory");
    let settings = [("shards.count", "1"), ("wal.quota_bytes", "256MiB"), ("buffer.flush_interval_ms", "200")];
    let server = Server::start(dir.path(), &settings);
    let definition = json!({
        "type": "object",
        "properties": {"text": {"type": "string"}, "number": {"type": "number"}, "any": {}},
    });
    rest::create_stream(&server.http, "hostile", &definition);
    let honest = Honest::start(&server);
    let (before, _) = server.memory();
    let taken = block_on(async {
        let mut producer = Producer::connect(&server.grpc, "hostile").await;
        let mut call = producer.client.call(path::INGEST_STREAM).await;
        for case in hostile_records() {
            let request = IngestRequest {
                stream_id: "hostile".to_owned(),
                payload: case.payload.clone(),
                ..IngestRequest::default()
            };
            call.send(&request).await;
            let answer: IngestResponse = call.receive().await.unwrap_or_else(|e| panic!("{}: {e:?}", case.name));
            let error = answer.error.as_ref();
            assert_eq!(error.map_or("", |error| &error.code), case.code, "{}: {error:?}", case.name);
            if case.code.is_empty() {
                assert_eq!(answer.status(), Status::Ok, "{}", case.name);
                producer.acked.push(case.payload);
            } else {
                assert_eq!(answer.status(), Status::ValidationError, "{}", case.name);
                assert!(error.is_some_and(|error| error.message.len() <= 2048), "{}: {error:?}", case.name);
            }
            honest.goes_on(case.name);
        }
        call.finish();
        assert_eq!(call.receive::<IngestResponse>().await.expect_err("the end").code, 0);
        let read = producer.read_all().await;
        producer.check(&read);
        producer.acked
    });
    let (_, peak) = server.memory();
    assert!(peak < before + MEMORY_MAX, "memory grew from {} to {} MiB", before / MIB, peak / MIB);
    honest.finish();
    assert!(server.stop().success(), "a clean stop");

    // What was taken of it does not hurt a recovery or a flush either.
    let server = Server::start(dir.path(), &settings);
    block_on(async {
        let mut producer = Producer::reconnect(&server.grpc, "hostile", taken).await;
        let read = producer.read_all().await;
        producer.check(&read);
    });
    assert!(server.stop().success(), "a clean stop");
}

/// A message of `zeros` bytes as gzip.
fn bomb(zeros: u64) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::copy(&mut std::io::repeat(0).take(zeros), &mut out).expect("a Vec takes all");
    out.finish().expect("a Vec takes all")
}

#[test]
fn hostile_messages_end_their_call_alone_and_take_no_memory() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Server::start(dir.path(), &[("shards.count", "1"), ("wal.quota_bytes", "256MiB")]);
    let honest = Honest::start(&server);
    let (before, _) = server.memory();
    let bomb = framed_bytes(&bomb(512 * MIB), 1);
    block_on(async {
        let address = server.grpc.parse().expect("an address");
        let mut client = Client::connect(address).await;
        let prefix = |flag: u8, length: u32| Bytes::from([&[flag][..], &length.to_be_bytes()[..]].concat());
        let cases = [
            ("a huge length", prefix(0, u32::MAX), 8, "MESSAGE_TOO_LARGE"),
            ("a length just over the limit", prefix(0, (4 << 20) + 1), 8, "MESSAGE_TOO_LARGE"),
            ("a huge compressed length", prefix(1, u32::MAX), 8, "MESSAGE_TOO_LARGE"),
            ("a gzip bomb", bomb.clone(), 8, "MESSAGE_TOO_LARGE"),
            ("a wrong flag", prefix(7, 1), 3, "MALFORMED_MESSAGE"),
            ("no gzip", framed_bytes(b"this is no gzip", 1), 3, "MALFORMED_MESSAGE"),
            ("no protobuf", framed_bytes(&[0xff; 64], 0), 3, "MALFORMED_MESSAGE"),
        ];
        for method in [path::INGEST_STREAM, path::APPEND, path::INGEST, path::QUERY_TIME_RANGE] {
            for (name, bytes, code, reason) in cases.clone() {
                client.headers = vec![("grpc-encoding", "gzip".to_owned())];
                let mut call = client.call(method).await;
                call.send_bytes(bytes).await;
                let ended = call.receive::<IngestResponse>().await.expect_err(name);
                assert_eq!((ended.code, ended.reason.as_str()), (code, reason), "{name} to {method}: {ended:?}");
                honest.goes_on(name);
            }
            // A message that never ends in a call that is let go holds nothing up.
            let mut call = client.call(method).await;
            call.send_bytes(prefix(0, 4 << 20)).await;
            drop(call);
        }
        // The connection outlives its calls.
        client.headers.clear();
        let ended = client.unary::<IngestResponse>(path::INGEST, &IngestRequest::default()).await.expect_err("refused");
        assert_eq!(ended.reason, "STREAM_REQUIRED");
    });
    let (_, peak) = server.memory();
    assert!(peak < before + MEMORY_MAX, "memory grew from {} to {} MiB", before / MIB, peak / MIB);
    honest.finish();
    assert!(server.stop().success(), "a clean stop");
}

/// Sends `bytes` and waits until the server closes.
fn until_closed(address: &str, name: &str, bytes: &[u8]) {
    let mut socket = TcpStream::connect(address).expect("connected");
    socket.set_read_timeout(Some(DEADLINE)).expect("set");
    // The server may close before it has read all of it.
    let _ = socket.write_all(bytes);
    let mut answer = Vec::new();
    match socket.take(MIB).read_to_end(&mut answer) {
        Ok(_) => assert!(answer.len() < 1 << 16, "{name}: {} bytes of answer", answer.len()),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("{name}: not closed"),
        // Reset: closed all the same.
        Err(_) => {}
    }
}

/// The body of what is answered, if anything is.
fn answered(address: &str, path: &str) -> Option<String> {
    let mut socket = TcpStream::connect(address).ok()?;
    socket.set_read_timeout(Some(DEADLINE)).expect("set");
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).ok()?;
    Some(answer.split_once("\r\n\r\n")?.1.to_owned())
}

#[test]
fn one_address_does_not_take_the_connections_of_all() {
    let dir = tempfile::tempdir().expect("a directory");
    let caps = [("limits.http_connections_per_address", "2"), ("limits.grpc_connections_per_address", "2")];
    let server =
        Server::start(dir.path(), &[&[("shards.count", "1"), ("wal.quota_bytes", "256MiB")], &caps[..]].concat());
    let refused = |metric: &str| {
        wait_for(metric, || {
            let text = answered(&server.http, "/metrics")?;
            let line = text.lines().find(|line| line.starts_with(metric))?.to_owned();
            (!line.ends_with(" 0")).then_some(())
        });
    };
    for (address, metric) in [
        (&server.grpc, "ttdust_grpc_connections_refused_total{"),
        (&server.http, "ttdust_http_connections_refused_total"),
    ] {
        let held = [(); 2].map(|()| TcpStream::connect(address).expect("connected"));
        until_closed(address, "one connection too many", b"");
        drop(held);
        refused(metric);
    }
    // Those that are gone count no more.
    wait_for("a connection", || answered(&server.http, "/health/live"));
    block_on(async {
        let mut client = Client::connect(server.grpc.parse().expect("an address")).await;
        let ended = client.unary::<IngestResponse>(path::INGEST, &IngestRequest::default()).await.expect_err("refused");
        assert_eq!(ended.reason, "STREAM_REQUIRED");
    });
    assert!(server.stop().success(), "a clean stop");
}

#[test]
fn connections_that_speak_no_http2_are_closed() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Server::start(dir.path(), &[("shards.count", "1"), ("wal.quota_bytes", "256MiB")]);
    let honest = Honest::start(&server);
    let (before, _) = server.memory();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let garbage: Vec<u8> = (0..200_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    // A frame of 16 MiB - 1 bytes, of a type that nobody knows.
    let huge_frame = [&preface[..], &[0, 0, 0, 4, 0, 0, 0, 0, 0], &[0xff, 0xff, 0xff, 0x77, 0, 0, 0, 0, 0]].concat();
    // DATA in a call that was never opened.
    let bad_frame = [&preface[..], &[0, 0, 0, 4, 0, 0, 0, 0, 0], &[0, 0, 1, 0, 0, 0, 0, 0, 1, 7]].concat();
    let cases: [(&str, &[u8]); 7] = [
        ("garbage", &garbage),
        ("HTTP/1.1", b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"),
        ("TLS", &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]),
        ("silence", b""),
        ("half a preface", &preface[..9]),
        ("a huge frame", &huge_frame),
        ("a wrong frame after the preface", &bad_frame),
    ];
    std::thread::scope(|scope| {
        for (name, bytes) in cases {
            let (address, honest) = (&server.grpc, &honest);
            scope.spawn(move || {
                until_closed(address, name, bytes);
                honest.goes_on(name);
            });
        }
    });
    until_closed(&server.http, "garbage to REST", &garbage);
    let (status, _) = rest::call(&server.http, "GET", "/health/ready", "");
    assert_eq!(status, 200);
    let (_, peak) = server.memory();
    assert!(peak < before + MEMORY_MAX, "memory grew from {} to {} MiB", before / MIB, peak / MIB);
    honest.finish();

    // All of them are gone, and the gauge says so.
    wait_for("no open connection", || {
        let (_, metrics) = rest::call(&server.http, "GET", "/metrics", "");
        let metrics = metrics.as_str().expect("text").to_owned();
        let line = metrics.lines().find(|line| line.starts_with("ttdust_grpc_connections_active{"))?.to_owned();
        line.ends_with(" 0").then_some(())
    });
    assert!(server.stop().success(), "a clean stop");
}
