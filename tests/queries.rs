//! Queries against a whole server: key lookups and both orders, over REST and from Python, while rows move to files and over
//! a restart; what ends a query early, and a client that does not take its answer.

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
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    time::{Duration, Instant},
};

use bytes::Bytes;
use client::Client;
use process::{Server, wait_for};
use producer::{Producer, block_on};
use serde_json::{Value, json};
use ttdust_proto::{
    path,
    query::{KeyLookupRequest, KeyLookupResponse, TimeRangeQueryRequest, TimeRangeQueryResponse},
};

const SMALL: (&str, &str) = ("wal.quota_bytes", "256MiB");
/// Little memory for queries, and all rows in the buffer.
const SCARCE: [(&str, &str); 4] = [
    SMALL,
    ("query.memory_bytes", "8MiB"),
    ("query.memory_total_bytes", "20MiB"),
    ("buffer.flush_interval_ms", "3600000"),
];

/// Creates a stream with these key fields; returns its id.
fn create_stream(server: &Server, name: &str, key_fields: &[&str]) -> String {
    let schema =
        json!({"name": name, "namespace": "tests", "compatibility_mode": "none", "definition": {"type": "object"}});
    let (status, schema) = rest::call(&server.http, "POST", "/api/v1/schemas", &schema.to_string());
    assert_eq!(status, 201, "{schema}");
    let stream = json!({"name": name, "schema_id": schema["id"], "key_fields": key_fields});
    let (status, stream) = rest::call(&server.http, "POST", "/api/v1/streams", &stream.to_string());
    assert_eq!(status, 201, "{stream}");
    stream["id"].as_str().expect("an id").to_owned()
}

fn get(server: &Server, stream: &str, query: &str) -> (u16, Value) {
    rest::call(&server.http, "GET", &format!("/api/v1/streams/{stream}/records?{query}"), "")
}

/// The sequence number of the latest record with a key. The value is as it stands in a URL.
fn find(server: &Server, stream: &str, field: &str, value: &str) -> Option<i64> {
    let (status, answer) = get(server, stream, &format!("key_field={field}&key_value={value}"));
    assert_eq!(status, 200, "{answer}");
    let found = answer["record"]["sequence_number"].as_i64();
    assert_eq!(answer["found"], found.is_some(), "{answer}");
    found
}

fn record(row: i64) -> Bytes {
    let text = json!({"id": format!("id-{row}"), "n": row % 7, "deep": {"city": "Zürich"}, "even": row % 2 == 0});
    Bytes::from(text.to_string())
}

/// What a stream of records 1 to `last` answers.
fn check(server: &Server, stream: &str, last: i64) {
    for row in [1, 2, last / 2, last - 1, last] {
        assert_eq!(find(server, stream, "id", &format!("id-{row}")), Some(row));
    }
    assert_eq!(find(server, stream, "id", &format!("id-{}", last + 1)), None);
    assert_eq!(find(server, stream, "id", ""), None);
    for rest in 0..7 {
        let latest = (1..=last).rev().find(|row| row % 7 == rest);
        assert_eq!(find(server, stream, "n", &rest.to_string()), latest);
    }
    assert_eq!(find(server, stream, "%2Fdeep%2Fcity", "Z%C3%BCrich"), Some(last));
    assert_eq!(find(server, stream, "even", "true"), Some(last - last % 2));
    // Newest first, page by page, is the same as oldest first from the other end.
    let pages = |order: &str| {
        let (mut rows, mut cursor) = (Vec::new(), String::new());
        loop {
            let (status, page) = get(server, stream, &format!("order={order}&limit=61{cursor}"));
            assert_eq!(status, 200, "{page}");
            let records = page["records"].as_array().expect("a list");
            rows.extend(records.iter().map(|record| record["sequence_number"].as_i64().expect("a number")));
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break rows,
            }
        }
    };
    assert!(pages("asc").into_iter().eq(1..=last));
    assert!(pages("desc").into_iter().eq((1..=last).rev()));
}

/// The sum of a metric over its labels.
fn metric(server: &Server, begin: &str) -> f64 {
    let (_, _, text) = rest::call_with(&server.http, "GET", "/metrics", &[], "");
    let text = text.as_str().expect("text").to_owned();
    let values = text.lines().filter(|line| line.starts_with(begin)).filter_map(|line| line.rsplit(' ').next());
    values.map(|value| value.parse::<f64>().expect("a number")).sum()
}

#[test]
fn lookups_and_both_orders_hold_from_the_ack_on_over_flushes_and_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let settings = [SMALL, ("wal.segment_bytes", "8MiB"), ("buffer.flush_interval_ms", "50")];
    let server = Server::start(dir.path(), &settings);
    let stream = create_stream(&server, "s", &["id", "n", "/deep/city", "even"]);
    let other = create_stream(&server, "other", &["id"]);
    let acked = block_on(async {
        let mut producer = Producer::connect(&server.grpc, "s").await;
        for batch in 0..20 {
            let rows = (1..=25).map(|row| record(batch * 25 + row)).collect();
            producer.append(rows).await.expect("taken");
            let last = (batch + 1) * 25;
            assert_eq!(find(&server, &stream, "id", &format!("id-{last}")), Some(last), "read your writes");
        }
        producer.acked
    });
    let last = acked.len() as i64;
    check(&server, &stream, last);
    rest::wait_for_flush(&server.http, &stream, last);
    check(&server, &stream, last);

    // By id, which no other stream answers.
    let (_, page) = get(&server, &stream, "limit=1&order=desc");
    let newest = &page["records"][0];
    let id = newest["record_id"].as_str().expect("an id");
    assert_eq!(find(&server, &stream, "_record_id", id), Some(last));
    assert_eq!(find(&server, &other, "_record_id", id), None);
    let (_, answer) = get(&server, &stream, &format!("key_field=_record_id&key_value={id}"));
    assert_eq!(&answer["record"], newest);
    assert!(metric(&server, "ttdust_query_cache_hits_total{cache_level=\"memory\"}") > 0.0);
    assert!(answer["metadata"]["cache_hits"].as_i64() > Some(0), "{answer}");

    // From Python, with stubs made from the contract.
    let said = python::run("lookup.py", &[Path::new(&server.grpc), Path::new("s"), Path::new(&last.to_string())]);
    assert!(said.status.success(), "{}", python::said(&said));

    assert!(server.stop().success(), "a clean stop");
    let server = Server::start(dir.path(), &settings);
    check(&server, &stream, last);
    assert!(server.stop().success(), "a clean stop");
}

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Server::start(dir.path(), &[SMALL]);
    let stream = create_stream(&server, "s", &["id", "n"]);
    for (query, pointer) in [
        ("key_field=other&key_value=1", "key_field"),
        ("key_field=id", "key_value"),
        ("key_value=1", "key_field"),
        ("key_field=id&key_value=1&limit=5", "limit"),
        ("key_field=_record_id&key_value=rec_1", "key_value"),
        ("order=up", "order"),
    ] {
        let (status, problem) = get(&server, &stream, query);
        assert_eq!((status, &problem["code"]), (400, &json!("INVALID_ARGUMENT")), "{query}: {problem}");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{query}: {problem}");
    }
    let (_, problem) = get(&server, &stream, "key_field=other&key_value=1");
    assert!(problem["detail"].as_str().is_some_and(|text| text.contains("\"id\", \"n\"")), "{problem}");
    block_on(async {
        let mut producer = Producer::connect(&server.grpc, "s").await;
        producer.append((1..=5).map(record).collect()).await.expect("taken");
    });
    // A cursor goes on in its own order alone.
    let (_, page) = get(&server, &stream, "limit=2&order=desc");
    let cursor = page["next_cursor"].as_str().expect("there is more").to_owned();
    let (status, problem) = get(&server, &stream, &format!("limit=2&cursor={cursor}"));
    assert_eq!((status, &problem["errors"][0]["pointer"]), (400, &json!("cursor")), "{problem}");
    assert_eq!(get(&server, &stream, &format!("limit=2&order=desc&cursor={cursor}")).0, 200);
}

#[test]
fn a_query_that_takes_too_long_is_told_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let server =
        Server::start(dir.path(), &[SMALL, ("query.timeout_ms", "1"), ("buffer.flush_interval_ms", "3600000")]);
    let stream = create_stream(&server, "s", &["n"]);
    block_on(async {
        let mut producer = Producer::connect(&server.grpc, "s").await;
        // What is escaped may be anything.
        let record = |row: i64| Bytes::from(json!({"n": row % 7, "text": format!("{row}\n")}).to_string());
        for batch in 0..100 {
            producer.append((0..500).map(|row| record(batch * 500 + row)).collect()).await.expect("taken");
        }
        // 50,000 records are looked through for a number, one by one.
        let (status, problem) = get(&server, &stream, "key_field=n&key_value=99");
        assert_eq!((status, &problem["code"]), (504, &json!("QUERY_TIMEOUT")), "{problem}");
        assert!(problem["detail"].as_str().is_some_and(|text| text.contains("query.timeout_ms")), "{problem}");
        let lookup = KeyLookupRequest { stream_id: "s".into(), key_field: "n".into(), key_value: "99".into() };
        let ended = producer.client.unary::<KeyLookupResponse>(path::LOOKUP_BY_KEY, &lookup).await;
        let ended = ended.expect_err("it takes too long");
        assert_eq!((ended.code, ended.reason.as_str()), (4, "QUERY_TIMEOUT"), "{ended:?}");
    });
    assert!(metric(&server, "ttdust_query_requests_total{status=\"timeout\"}") >= 2.0);
}

/// A record of about so many bytes.
fn large(row: usize, bytes: usize) -> Bytes {
    Bytes::from(json!({"id": format!("id-{row}"), "n": row, "filler": "x".repeat(bytes)}).to_string())
}

/// All records, a page at a time; the most records of a page.
fn read_large(server: &Server, stream: &str, order: &str) -> (Vec<i64>, usize) {
    let (mut rows, mut most, mut cursor) = (Vec::new(), 0, String::new());
    loop {
        let (status, page) = get(server, stream, &format!("order={order}&limit=1000{cursor}"));
        assert_eq!(status, 200, "{page}");
        let records = page["records"].as_array().expect("a list");
        most = most.max(records.len());
        rows.extend(records.iter().map(|record| record["sequence_number"].as_i64().expect("a number")));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return (rows, most),
        }
    }
}

/// More than all queries together may hold.
async fn append_large(producer: &mut Producer) {
    for row in 0..40 {
        producer.append(vec![large(row, 600_000)]).await.expect("taken");
    }
}

#[test]
fn a_query_holds_no_more_memory_than_it_may_nor_do_all_together() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Server::start(dir.path(), &SCARCE);
    let stream = create_stream(&server, "s", &["id"]);
    let acked = block_on(async {
        let mut producer = Producer::connect(&server.grpc, "s").await;
        append_large(&mut producer).await;
        producer.acked.len() as i64
    });
    let check = |server: &Server| {
        let (rows, most) = read_large(server, &stream, "asc");
        assert!(rows.into_iter().eq(1..=acked));
        // 8 MiB are 13 of them; what is decoded takes its part.
        assert!((2..=13).contains(&most), "{most} records in a page");
        let (rows, most) = read_large(server, &stream, "desc");
        assert!(rows.into_iter().eq((1..=acked).rev()) && (2..=13).contains(&most), "{most} records in a page");
        assert_eq!(find(server, &stream, "id", "id-7"), Some(8));
    };
    check(&server);
    assert!(server.stop().success(), "a clean stop");
    let server = Server::start(dir.path(), &[&SCARCE[..3], &[("buffer.flush_interval_ms", "50")]].concat());
    rest::wait_for_flush(&server.http, &stream, acked);
    check(&server);

    // Answers that nobody takes hold their memory, and then there is none for others.
    block_on(async {
        let request = TimeRangeQueryRequest {
            stream_id: "s".into(),
            end_time_unix_micros: i64::MAX,
            limit: Some(1000),
            ..TimeRangeQueryRequest::default()
        };
        let (mut held, mut by_rest, mut by_grpc) = (Vec::new(), None, None);
        // Those that hold it are ended after a while, and then there is room again for a moment.
        while by_rest.is_none() || by_grpc.is_none() {
            assert!(held.len() < 50, "50 answers are held, and there is memory for more");
            let mut client = Client::connect(server.grpc.parse().expect("an address")).await;
            let mut call = client.call(path::QUERY_TIME_RANGE).await;
            call.send(&request).await;
            call.finish();
            call.opened().await;
            held.push((client, call));
            let path = format!("/api/v1/streams/{stream}/records?limit=1");
            let (status, head, answer) = rest::call_with(&server.http, "GET", &path, &[], "");
            if status != 200 {
                assert_eq!(status, 429, "{answer}");
                by_rest = Some((answer, head));
            }
            let mut client = Client::connect(server.grpc.parse().expect("an address")).await;
            by_grpc = client.unary::<TimeRangeQueryResponse>(path::QUERY_TIME_RANGE, &request).await.err().or(by_grpc);
        }
        let (problem, head) = by_rest.expect("seen above");
        assert_eq!(problem["code"], "RESOURCE_EXHAUSTED", "{problem}");
        assert!(problem["detail"].as_str().is_some_and(|text| text.contains("query.memory_total_bytes")), "{problem}");
        assert!(head.contains("retry-after:"), "{head}");
        let ended = by_grpc.expect("seen above");
        assert_eq!((ended.code, ended.reason.as_str()), (8, "QUERY_MEMORY_FULL"), "{ended:?}");
        assert!(ended.retry_after.is_some(), "{ended:?}");
        assert!(metric(&server, "ttdust_query_requests_total{status=\"memory\"}") >= 2.0);
        // Clients that go away make room.
        drop(held);
    });
    wait_for("room", || (get(&server, &stream, "limit=1").0 == 200).then_some(()));
    wait_for("all memory back", || (metric(&server, "ttdust_query_memory_bytes ") == 0.0).then_some(()));
    check(&server);
    assert!(server.stop().success(), "a clean stop");
}

#[test]
fn clients_that_take_nothing_are_ended_for_those_who_do() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Server::start(dir.path(), &SCARCE);
    let stream = create_stream(&server, "s", &["id"]);
    let memory = || metric(&server, "ttdust_query_memory_bytes ");
    assert_eq!(metric(&server, "ttdust_query_memory_limit_bytes "), f64::from(20 << 20));
    block_on(async {
        let mut producer = Producer::connect(&server.grpc, "s").await;
        append_large(&mut producer).await;
        // One that asks by REST and does not read, and as many by gRPC as there is memory for.
        let mut unread = TcpStream::connect(&server.http).expect("connected");
        let path = format!("/api/v1/streams/{stream}/records?limit=1000");
        unread.write_all(format!("GET {path} HTTP/1.1\r\nhost: {}\r\n\r\n", server.http).as_bytes()).expect("sent");
        wait_for("its answer", || (memory() > 4e6).then_some(()));
        let request = TimeRangeQueryRequest {
            stream_id: "s".into(),
            end_time_unix_micros: i64::MAX,
            limit: Some(1000),
            ..TimeRangeQueryRequest::default()
        };
        let mut held = Vec::new();
        loop {
            assert!(held.len() < 20, "20 answers are held, and there is memory for more");
            let mut client = Client::connect(server.grpc.parse().expect("an address")).await;
            let mut call = client.call(path::QUERY_TIME_RANGE).await;
            call.send(&request).await;
            call.finish();
            call.opened().await;
            held.push((client, call));
            if get(&server, &stream, "limit=1").0 == 429 {
                break;
            }
        }
        // Whoever asks again, as it was told to, is answered while the others are still there.
        wait_for("an answer", || (get(&server, &stream, "limit=1").0 == 200).then_some(()));
        wait_for("all memory back", || (memory() == 0.0).then_some(()));
        let answer = producer.client.unary::<TimeRangeQueryResponse>(path::QUERY_TIME_RANGE, &request).await;
        assert!(answer.expect("an answer").records.len() > 2);
        for (_client, mut call) in held {
            let ended = call.receive_or_cut::<TimeRangeQueryResponse>().await;
            assert!(ended.is_none(), "cut off, and not at its end: {ended:?}");
        }
        let mut answer = Vec::new();
        // The connection may have been reset.
        let _ = unread.read_to_end(&mut answer);
        let head = String::from_utf8_lossy(&answer[..answer.len().min(1000)]).to_lowercase();
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
        assert!(
            length.is_some_and(|length: usize| answer.len() < length),
            "cut off: {} bytes of {length:?}",
            answer.len()
        );
    });
    assert!(server.stop().success(), "a clean stop");
}

#[test]
fn answers_that_wait_for_a_client_that_reads_nothing_are_given_up_for_others() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Server::start(dir.path(), &[&SCARCE[..], &[("shards.count", "1")]].concat());
    let stream = create_stream(&server, "s", &["id"]);
    let memory = || metric(&server, "ttdust_query_memory_bytes ");
    block_on(async {
        let mut producer = Producer::connect(&server.grpc, "s").await;
        append_large(&mut producer).await;
        create_stream(&server, "small", &["id"]);
        let mut small = Producer::connect(&server.grpc, "small").await;
        small.append((0..3).map(|row| large(row, 66_000)).collect()).await.expect("taken");
        // Each of these answers is less than HTTP/2 holds for a call: all of it is handed over, trailers and all.
        let began = Instant::now();
        let mut deaf = Client::deaf(server.grpc.parse().expect("an address")).await;
        let request = TimeRangeQueryRequest {
            stream_id: "small".into(),
            end_time_unix_micros: i64::MAX,
            limit: Some(3),
            ..TimeRangeQueryRequest::default()
        };
        let mut held = Vec::new();
        for _ in 0..100 {
            let mut call = deaf.call(path::QUERY_TIME_RANGE).await;
            call.send(&request).await;
            call.finish();
            held.push(call);
            while metric(&server, "ttdust_query_requests_total") < held.len() as f64 {
                tokio::task::yield_now().await;
            }
        }
        assert!(memory() > 9e6, "they hold {} bytes", memory());
        // Others need it. The socket takes not even what is being written: the connection ends too, long before a ping tells.
        wait_for("all memory back", || {
            let (status, answer) = get(&server, &stream, "limit=1000");
            assert!(status == 200 || status == 429, "{answer}");
            (memory() == 0.0).then_some(())
        });
        assert!(began.elapsed() < Duration::from_secs(25), "it took {:?}", began.elapsed());
        drop(held);
    });
    assert!(server.stop().success(), "a clean stop");
}

#[test]
fn a_record_that_is_larger_than_a_query_may_hold_is_refused_by_name() {
    let dir = tempfile::tempdir().expect("a directory");
    let settings =
        [SMALL, ("query.memory_bytes", "1MiB"), ("limits.record_bytes", "4MiB"), ("buffer.flush_interval_ms", "50")];
    let server = Server::start(dir.path(), &settings);
    let stream = create_stream(&server, "s", &["id"]);
    block_on(async {
        let mut producer = Producer::connect(&server.grpc, "s").await;
        producer.append((1..=20).map(record).collect()).await.expect("taken");
        producer.append(vec![large(21, 2_000_000)]).await.expect("taken");
        rest::wait_for_flush(&server.http, &stream, 21);
        // What comes before it is an answer; it is not.
        let (status, page) = get(&server, &stream, "limit=1000");
        assert_eq!((status, page["records"].as_array().map(Vec::len)), (200, Some(20)), "{page}");
        let cursor = page["next_cursor"].as_str().expect("there is more").to_owned();
        let (status, problem) = get(&server, &stream, &format!("cursor={cursor}"));
        assert_eq!((status, &problem["code"]), (429, &json!("RESOURCE_EXHAUSTED")), "{problem}");
        assert!(problem["detail"].as_str().is_some_and(|text| text.contains("query.memory_bytes")), "{problem}");
        let lookup = KeyLookupRequest { stream_id: "s".into(), key_field: "id".into(), key_value: "id-21".into() };
        let ended = producer.client.unary::<KeyLookupResponse>(path::LOOKUP_BY_KEY, &lookup).await;
        let ended = ended.expect_err("it is too large");
        assert_eq!((ended.code, ended.reason.as_str()), (8, "QUERY_TOO_LARGE"), "{ended:?}");
        assert_eq!(find(&server, &stream, "id", "id-20"), Some(20), "others are found");
    });
    assert!(server.stop().success(), "a clean stop");
}
