//! A real server with its files in S3, and what happens when the store fails, lies, is slow or is gone: every acked record is
//! read, once, and everything goes on by itself (DURABILITY 12, 13, 21).

#[path = "server/certificates.rs"]
mod certificates;
#[path = "../shards/tests/engine/client.rs"]
mod client;
#[path = "server/noise.rs"]
mod noise;
#[path = "server/process.rs"]
mod process;
#[path = "server/producer.rs"]
mod producer;
#[path = "server/rest.rs"]
mod rest;
#[path = "server/s3.rs"]
mod s3;
#[path = "server/site.rs"]
mod site;

use std::{fs, path::Path, process::Command, sync::Arc, time::Duration};

use bytes::Bytes;
use client::Client;
use noise::{BATCH, Noise, RECORD_BYTES, append_at_last, fill};
use process::{Server, wait_for};
use producer::{Producer, block_on};
use rustls::pki_types::{PrivateKeyDer, pem::PemObject as _};
use s3::{Fault, Store};
use serde_json::{Value, json};
use site::{Site, wait_until_flushed};
use ttdust::objects::{FileName, ObjectError, Objects, S3Figures};
use ttdust_proto::{
    path,
    query::{Order, TimeField, TimeRangeQueryRequest, TimeRangeQueryResponse},
};

fn batch(from: usize) -> Vec<Bytes> {
    (from..from + 10).map(|n| Bytes::from(json!({"n": n, "filler": "x".repeat(100)}).to_string())).collect()
}

async fn append(producer: &mut Producer, batches: usize) {
    for _ in 0..batches {
        producer.append(batch(producer.acked.len())).await.expect("acked");
    }
}

fn ready(server: &Server) -> (u16, Value) {
    let (status, body) = rest::call(&server.http, "GET", "/health/ready", "");
    (status, body["components"]["objects"].clone())
}

async fn check_read(producer: &mut Producer) {
    let read = producer.read_all().await;
    producer.check(&read);
}

#[test]
fn records_go_to_s3_and_are_read_from_there_over_a_kill() {
    let site = Site::new(&[("s3.prefix", "prod")]);
    let server = site.start();
    let stream = rest::create_stream(&server.http, "clicks", &json!({"type": "object"}));
    let acked = block_on(async {
        let mut producer = Producer::connect(&server.grpc, &stream).await;
        for _ in 0..3 {
            append(&mut producer, 10).await;
            wait_until_flushed(&server, &stream, &producer);
        }
        check_read(&mut producer).await;
        append(&mut producer, 10).await;
        producer.acked
    });
    let (status, objects) = ready(&server);
    assert_eq!((status, objects["status"].as_str()), (200, Some("ok")), "{objects}");
    assert!(objects["detail"].as_str().is_some_and(|detail| detail.contains("ttdust-data")), "{objects}");
    let metrics = rest::call(&server.http, "GET", "/metrics", "").1;
    let metrics = metrics.as_str().expect("text");
    assert!(metrics.contains("ttdust_s3_operations_total{operation=\"put\",outcome=\"ok\"}"), "{metrics}");
    server.kill();
    assert!(site.store.keys().iter().all(|key| key.starts_with("prod/str_")), "{:?}", site.store.keys());

    let server = site.start();
    block_on(async {
        let mut producer = Producer::reconnect(&server.grpc, &stream, acked).await;
        check_read(&mut producer).await;
        append(&mut producer, 10).await;
        wait_until_flushed(&server, &stream, &producer);
        check_read(&mut producer).await;
    });
    let (status, answer) = rest::call(&server.http, "DELETE", &format!("/api/v1/streams/{stream}"), "");
    assert!((200..300).contains(&status), "{answer}");
    wait_for("the end of its objects", || site.store.keys().is_empty().then_some(()));
    assert!(server.stop().success());
    site.check_log();
}

/// What may happen to a request without harm, and how often.
fn faults() -> Vec<(&'static str, Fault)> {
    let mut faults = Vec::new();
    for operation in ["put", "head"] {
        faults.extend([
            (operation, Fault::Refuse(500, "InternalError")),
            (operation, Fault::Refuse(503, "SlowDown")),
            (operation, Fault::Refuse(409, "ConditionalRequestConflict")),
            (operation, Fault::DoThenRefuse(500, "InternalError")),
            (operation, Fault::Drop),
            (operation, Fault::DoThenDrop),
            (operation, Fault::Late(Duration::from_millis(900))),
        ]);
    }
    faults.push(("put", Fault::Refuse(412, "PreconditionFailed")));
    faults.push(("put", Fault::Refuse(400, "BadDigest")));
    faults.push(("put", Fault::Refuse(403, "AccessDenied")));
    faults.push(("put", Fault::Damage));
    faults
}

#[test]
fn no_fault_at_the_flush_loses_or_doubles_a_row() {
    // Each query asks the store: nothing is kept in memory.
    let site = Site::new(&[("s3.timeout_ms", "400"), ("query.cache_bytes", "0")]);
    let server = site.start();
    let stream = rest::create_stream(&server.http, "clicks", &json!({"type": "object"}));
    block_on(async {
        let mut producer = Producer::connect(&server.grpc, &stream).await;
        for (operation, fault) in faults() {
            for times in [1, 3] {
                site.store.fault(operation, times, fault.clone());
                append(&mut producer, 1).await;
                wait_until_flushed(&server, &stream, &producer);
                wait_for("the faults", || (site.store.faults_left() == 0).then_some(()));
            }
        }
        check_read(&mut producer).await;
        for (times, fault) in [(1, Fault::Cut), (2, Fault::Drop), (2, Fault::Refuse(503, "SlowDown"))] {
            site.store.fault("get", times, fault);
            check_read(&mut producer).await;
            assert_eq!(site.store.faults_left(), 0);
        }
        let rows = producer.acked.len();
        assert!(server.stop().success());
        site.check_files(&stream, rows);
    });
    site.check_log();
}

#[test]
fn a_crash_between_put_and_commit_leaves_each_row_in_one_file() {
    let site = Site::new(&[]);
    let mut acked = Vec::new();
    let mut stream = String::new();
    // Put, and not verified; refused although it was put; never put.
    let edges = [("head", Fault::Refuse(503, "")), ("put", Fault::DoThenDrop), ("put", Fault::Drop)];
    for (round, (operation, fault)) in edges.into_iter().enumerate() {
        let server = site.start();
        if round == 0 {
            stream = rest::create_stream(&server.http, "clicks", &json!({"type": "object"}));
        }
        site.store.fault(operation, usize::MAX, fault);
        let asked = site.store.count(operation);
        acked = block_on(async {
            let mut producer = Producer::reconnect(&server.grpc, &stream, acked).await;
            append(&mut producer, 5).await;
            producer.acked
        });
        wait_for("the edge", || (site.store.count(operation) > asked + 1).then_some(()));
        server.kill();
        site.store.clear_faults();
    }
    let server = site.start();
    block_on(async {
        let mut producer = Producer::reconnect(&server.grpc, &stream, acked).await;
        append(&mut producer, 5).await;
        wait_until_flushed(&server, &stream, &producer);
        check_read(&mut producer).await;
        let rows = producer.acked.len();
        assert!(server.stop().success());
        // What was put before a crash and never committed may stay; its name says what it is.
        assert!(site.orphans(&stream, rows).iter().all(|key| FileName::parse(key).is_some()));
    });
    site.check_log();
}

#[test]
fn an_outage_costs_no_ack_until_the_log_is_full_and_then_all_drains() {
    let small = [
        ("wal.quota_bytes", "4MiB"),
        ("wal.segment_bytes", "512KiB"),
        ("wal.frame_bytes", "64KiB"),
        ("limits.message_bytes", "256KiB"),
        ("limits.record_bytes", "64KiB"),
        ("buffer.freeze_bytes", "1MiB"),
        ("log.level", "info"),
    ];
    let (quota_bytes, mut noise) = (4 << 20, Noise(7));
    let site = Site::new(&small);
    let server = site.start();
    let stream = rest::create_stream(&server.http, "events", &json!({"type": "object"}));
    block_on(async {
        let mut producer = Producer::connect(&server.grpc, &stream).await;
        append_at_last(&mut producer, &mut noise).await;
        wait_until_flushed(&server, &stream, &producer);
        site.store.set_up(false);
        // Refusals are checked in there: each says when to try again.
        fill(&mut producer, &mut noise).await;
        let acked = producer.acked.len();
        assert!(acked * RECORD_BYTES > quota_bytes / 2, "the log took what fits: {acked} records");
        let (status, objects) = ready(&server);
        assert_eq!((status, objects["status"].as_str()), (200, Some("down")), "{objects}");
        let metrics = rest::call(&server.http, "GET", "/metrics", "").1;
        assert!(metrics.as_str().is_some_and(|text| text.contains("ttdust_s3_breaker_open 1")), "{metrics}");

        site.store.set_up(true);
        for _ in 0..2 * quota_bytes / (BATCH * RECORD_BYTES) {
            append_at_last(&mut producer, &mut noise).await;
        }
        wait_until_flushed(&server, &stream, &producer);
        check_read(&mut producer).await;
        let (status, objects) = ready(&server);
        assert_eq!((status, objects["status"].as_str()), (200, Some("ok")), "{objects}");
        let rows = producer.acked.len();
        assert!(server.stop().success());
        site.check_files(&stream, rows);
    });
    site.check_log();
}

#[test]
fn a_server_starts_while_the_store_is_down() {
    let site = Site::new(&[]);
    site.store.set_up(false);
    let server = site.start();
    let stream = rest::create_stream(&server.http, "clicks", &json!({"type": "object"}));
    block_on(async {
        let mut producer = Producer::connect(&server.grpc, &stream).await;
        append(&mut producer, 20).await;
        check_read(&mut producer).await;
        assert_eq!(ready(&server).1["status"].as_str(), Some("down"));
        site.store.set_up(true);
        wait_until_flushed(&server, &stream, &producer);
        check_read(&mut producer).await;
        let rows = producer.acked.len();
        assert!(server.stop().success());
        site.check_files(&stream, rows);
    });
    site.check_log();
}

/// The server does not start, and says this.
fn check_refused(site: &Site, wanted: &str) {
    let mut server = site.spawn();
    assert!(!server.wait().success());
    let log = server.log();
    assert!(log.contains(wanted), "{log}");
}

#[test]
fn wrong_credentials_or_no_bucket_refuse_the_start_and_say_what_to_do() {
    let mut site = Site::new(&[]);
    site.store.state().secret_key = "another".into();
    check_refused(&site, "check s3.access_key and s3.secret_key");
    site.store.state().secret_key = s3::SECRET_KEY.into();
    site.settings.push(("s3.bucket", "no-such-bucket".into()));
    check_refused(&site, "the bucket does not exist");
    site.check_log();
}

#[test]
fn new_credentials_are_taken_on_sighup_and_what_waited_is_flushed() {
    let mut site = Site::new(&[]);
    let path = s3::credentials_file(&site.dir.path().join("s3"), s3::ACCESS_KEY, s3::SECRET_KEY);
    site.settings.retain(|(key, _)| !["s3.access_key", "s3.secret_key"].contains(key));
    site.settings.push(("s3.credentials_path", path.to_str().expect("a path").to_owned()));
    let server = site.start();
    let stream = rest::create_stream(&server.http, "clicks", &json!({"type": "object"}));
    block_on(async {
        let mut producer = Producer::connect(&server.grpc, &stream).await;
        append(&mut producer, 5).await;
        wait_until_flushed(&server, &stream, &producer);
        site.store.state().secret_key = "rotated".into();
        append(&mut producer, 5).await;
        let down = || Some(ready(&server)).filter(|(_, objects)| objects["status"] == "down");
        let (status, objects) = wait_for("word of it", down);
        assert_eq!(status, 200);
        assert!(objects["detail"].as_str().is_some_and(|text| text.contains("s3.credentials_path")), "{objects}");

        let hangup = || server.signal(rustix::process::Signal::HUP);
        fs::write(&path, "half").expect("a file");
        hangup();
        wait_for("the refusal", || server.log().contains("reload refused").then_some(()));
        s3::credentials_file(&path, s3::ACCESS_KEY, "rotated");
        hangup();
        wait_until_flushed(&server, &stream, &producer);
        check_read(&mut producer).await;
        let rows = producer.acked.len();
        assert!(server.stop().success());
        site.check_files(&stream, rows);
    });
    site.check_log();
}

async fn open(store: &Store) -> Objects {
    Objects::s3(&store.options(), S3Figures::default()).await.expect("opened")
}

fn staged(dir: &Path, content: &[u8]) -> std::path::PathBuf {
    let path = dir.join("staged");
    fs::write(&path, content).expect("a staged file");
    path
}

#[test]
fn a_long_file_survives_faults_of_its_parts() {
    let (store, dir) = (Store::start(), tempfile::tempdir().expect("a directory"));
    let content: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let (bytes, checksum) = (content.len() as u64, crc32c::crc32c(&content));
    block_on(async {
        let objects = open(&store).await;
        let faults = [
            ("create_upload", Fault::Refuse(500, "InternalError")),
            ("put_part", Fault::Refuse(503, "SlowDown")),
            ("put_part", Fault::DoThenDrop),
            // The answer is a 200 that holds an error.
            ("complete_upload", Fault::Refuse(200, "InternalError")),
            ("complete_upload", Fault::DoThenDrop),
            ("complete_upload", Fault::Drop),
        ];
        for (at, (operation, fault)) in faults.into_iter().enumerate() {
            store.fault(operation, 1, fault);
            let key = format!("s/{at}");
            objects.put(&staged(dir.path(), &content), &key, bytes, checksum).await.expect("put");
            assert_eq!(store.faults_left(), 0);
            assert_eq!(store.state().objects[&key].content, content);
        }
        store.fault("complete_upload", 1, Fault::Refuse(200, "InvalidPart"));
        let refused = objects.put(&staged(dir.path(), &content), "s/refused", bytes, checksum).await;
        assert!(matches!(refused, Err(ObjectError::Denied { .. })), "{refused:?}");
        assert!(store.state().uploads.is_empty(), "what failed was aborted");
        assert!(!store.state().objects.contains_key("s/refused"));
    });
}

#[test]
fn an_outage_fails_fast_and_one_request_ends_it() {
    let store = Store::start();
    block_on(async {
        let objects = open(&store).await;
        objects.put_bytes("s/a", Bytes::from_static(b"rows")).await.expect("put");
        store.fault("get", usize::MAX, Fault::Refuse(500, "InternalError"));
        for _ in 0..20 {
            let failed = objects.get("s/a", 100).await;
            assert!(matches!(failed, Err(ObjectError::Unavailable { .. })), "{failed:?}");
        }
        assert!(store.count("get") < 20, "{} requests went to a store that is down", store.count("get"));
        store.clear_faults();
        let end = std::time::Instant::now() + process::DEADLINE;
        while objects.get("s/a", 100).await.is_err() {
            assert!(std::time::Instant::now() < end, "it never came back");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
}

#[test]
fn a_kept_connection_that_was_closed_is_opened_anew() {
    let store = Store::start();
    block_on(async {
        let objects = open(&store).await;
        for n in 0..5 {
            objects.put_bytes("s/a", Bytes::from(vec![n; 10])).await.expect("put");
            store.set_up(false);
            store.set_up(true);
            let read = wait_ready(&objects).await;
            assert_eq!(read, vec![n; 10]);
        }
    });
}

async fn wait_ready(objects: &Objects) -> Bytes {
    let end = std::time::Instant::now() + process::DEADLINE;
    loop {
        match objects.get("s/a", 100).await {
            Ok(read) => return read,
            Err(error) => assert!(std::time::Instant::now() < end, "{error}"),
        }
    }
}

#[test]
fn only_a_store_with_a_certificate_that_is_vouched_for_is_talked_to() {
    let (ca, other) = (certificates::Authority::new("store CA"), certificates::Authority::new("another CA"));
    let own = ca.server();
    let key = PrivateKeyDer::from_pem_slice(own.key_pem.as_bytes()).expect("a key");
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.clone()], key)
        .expect("a pair");
    let store = Store::start_with(Some(tokio_rustls::TlsAcceptor::from(Arc::new(config))));
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str, pem: &str| {
        fs::write(dir.path().join(name), pem).expect("a file");
        Some(dir.path().join(name))
    };
    block_on(async {
        let mut options = store.options();
        options.ca_path = at("ca.pem", &ca.pem);
        let objects = Objects::s3(&options, S3Figures::default()).await.expect("opened");
        objects.put_bytes("s/a", Bytes::from_static(b"rows")).await.expect("put");
        assert_eq!(objects.get("s/a", 100).await.expect("there"), &b"rows"[..]);
        options.ca_path = at("other.pem", &other.pem);
        let objects = Objects::s3(&options, S3Figures::default()).await.expect("opened, though it cannot be reached");
        let refused = objects.get("s/a", 100).await.expect_err("another CA").to_string();
        assert!(refused.contains("certificate"), "{refused}");
        options.ca_path = at("none.pem", "nothing");
        let refused = Objects::s3(&options, S3Figures::default()).await.expect_err("no CA").to_string();
        assert!(refused.contains("none.pem"), "{refused}");
    });
}

/// Files in each of which events are early and late, and in the first and the last file one between: (500, 600) finds them.
fn scattered(server: &Server, site: &Site, stream: &str) -> Vec<i64> {
    let steps = json!([{"type": "timestamp", "fields": ["at"], "formats": ["unix_us"], "target": "unix_us", "event_time": true}]);
    let pipeline = json!({"stream_id": stream, "steps": steps}).to_string();
    let (status, answer) = rest::call(&server.http, "POST", "/api/v1/pipelines", &pipeline);
    assert_eq!(status, 201, "{answer}");
    block_on(async {
        let mut producer = Producer::connect(&server.grpc, stream).await;
        for file in 0..8 {
            let middle = if file % 7 == 0 { 550 } else { 10 };
            let times = [1, middle, 1_000_000];
            let records = times.map(|at| Bytes::from(json!({"at": at, "file": file}).to_string()));
            producer.append(records.to_vec()).await.expect("acked");
            wait_until_flushed(server, stream, &producer);
        }
    });
    assert_eq!(site.store.keys().iter().filter(|key| key.ends_with(".parquet")).count(), 8);
    vec![2, 23]
}

#[test]
fn a_search_that_takes_longer_than_a_query_may_comes_to_its_end_call_by_call() {
    let settings = [("query.cache_bytes", "0"), ("query.timeout_ms", "1200"), ("upkeep.interval_ms", "3600000")];
    let mut site = Site::new(&settings);
    let server = site.start();
    let stream = rest::create_stream(&server.http, "clicks", &json!({"type": "object"}));
    let wanted = scattered(&server, &site, &stream);
    // A file is two such waits, and three if there is something in it: all of them are longer than a query may take.
    site.store.fault("get", usize::MAX, Fault::Late(Duration::from_millis(200)));

    let (mut found, mut partial, mut empty, mut cursor) = (Vec::new(), 0, 0, String::new());
    loop {
        let path = format!("/api/v1/streams/{stream}/records?time_field=event&start=500&end=600{cursor}");
        let (status, page) = rest::call(&server.http, "GET", &path, "");
        assert_eq!(status, 200, "{page}");
        let records = page["records"].as_array().expect("records");
        found.extend(records.iter().map(|record| record["sequence_number"].as_i64().expect("a number")));
        assert_eq!(page["metadata"]["partial"].as_bool(), Some(page["next_cursor"].is_string()), "{page}");
        let Some(next) = page["next_cursor"].as_str() else { break };
        partial += 1;
        empty += usize::from(records.is_empty());
        cursor = format!("&cursor={next}");
    }
    assert_eq!(found, wanted);
    assert!(partial >= 2 && empty >= 1, "{partial} pages ended early, {empty} of them without a record");

    let mut command = Command::new(env!("CARGO_BIN_EXE_ttdust"));
    command.args(["query", "clicks", "--all", "--time", "event", "--start", "500", "--end", "600"]);
    command.env("TTDUST_ENDPOINT", &server.http).env("XDG_CONFIG_HOME", site.dir.path());
    let printed = command.output().expect("it starts");
    let text = String::from_utf8(printed.stdout).expect("UTF-8");
    let rows: Vec<&str> = text.lines().filter_map(|line| line.split('\t').next()).collect();
    assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    assert_eq!(rows, ["SEQUENCE", "2", "23"], "it goes on by itself: {text}");
    assert!(server.stop().success());

    // Newest first, and by gRPC, where it is the client that has little time: the first page has the last file's.
    let timeout = site.settings.iter_mut().find(|(key, _)| *key == "query.timeout_ms").expect("a setting");
    timeout.1 = "60000".to_owned();
    let server = site.start();
    let request = TimeRangeQueryRequest {
        stream_id: stream.clone(),
        start_time_unix_micros: 500,
        end_time_unix_micros: 600,
        order: Some(Order::Desc.into()),
        time_field: Some(TimeField::Event.into()),
        ..TimeRangeQueryRequest::default()
    };
    let page: TimeRangeQueryResponse = block_on(async {
        let mut client = Client::connect(server.grpc.parse().expect("an address")).await;
        client.headers.push(("grpc-timeout", "1500m".to_owned()));
        client.unary(path::QUERY_TIME_RANGE, &request).await.expect("a page")
    });
    assert_eq!(page.records.iter().map(|record| record.sequence_number).collect::<Vec<_>>(), wanted[1..]);
    assert!(page.next_cursor.is_some() && page.metadata.is_some_and(|metadata| metadata.partial));
    assert!(server.stop().success());
}
