//! The upkeep of files that lie in an S3 store, merges, removals, manifests and the log's archive, with each fault of the store
//! at each of its edges, and with a `kill -9` there: what is read is what was acked, each record once.

#[path = "../shards/tests/engine/client.rs"]
mod client;
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

use std::time::{Duration, Instant};

use bytes::Bytes;
use process::{DEADLINE, Server, wait_for};
use producer::{Producer, block_on};
use rusqlite::{Connection, OpenFlags};
use s3::Fault;
use serde_json::json;
use site::{Site, wait_until_flushed};
use ttdust_proto::{path, query::TimeRangeQueryRequest, query::TimeRangeQueryResponse};

/// Where a flush, a merge, a removal, the manifests and the archive ask the store: an operation, and what the key holds.
const EDGES: [(&str, &str); 10] = [
    ("put", ".v1.parquet"),
    ("head", ".v1.parquet"),
    ("get", ".v1.parquet"),
    ("put", ".m"),
    ("head", ".m"),
    ("put", "/manifest.json"),
    ("put", "/checkpoint.json"),
    ("put", "wal/"),
    ("delete", ".v1.parquet"),
    ("list", ""),
];

/// Everything as soon as it can be, and as small.
const AT_ONCE: [(&str, &str); 15] = [
    ("wal.segment_bytes", "256KiB"),
    ("wal.quota_bytes", "16MiB"),
    ("wal.frame_bytes", "16KiB"),
    ("wal.archive", "true"),
    ("limits.message_bytes", "64KiB"),
    ("limits.record_bytes", "8KiB"),
    ("buffer.freeze_bytes", "256KiB"),
    ("buffer.flush_interval_ms", "20"),
    ("upkeep.interval_ms", "10"),
    ("compaction.min_age_ms", "0"),
    ("compaction.min_files", "4"),
    ("compaction.grace_ms", "0"),
    ("orphans.interval_ms", "20"),
    ("orphans.grace_ms", "0"),
    // Each query asks the store: nothing is kept in memory.
    ("query.cache_bytes", "0"),
];

fn site(more: &[(&'static str, &'static str)]) -> Site {
    Site::new(&[&AT_ONCE[..], &[("log.level", "debug")], more].concat())
}

fn batch(from: usize) -> Vec<Bytes> {
    (from..from + 20).map(|n| Bytes::from(json!({"n": n, "filler": "x".repeat(n % 700)}).to_string())).collect()
}

/// Sends records, one batch at a time, until this is so.
async fn produce_until(producer: &mut Producer, what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < end, "{what} did not come");
        // A log that is full for a moment, because the store is slow, is no fault.
        if let Err(refused) = producer.append(batch(producer.acked.len())).await {
            refused.reason();
        }
        // Many flushes, not many rows.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn check_read(producer: &mut Producer) {
    let read = producer.read_all().await;
    producer.check(&read);
}

/// Files of flushes, retired files and manifests that are owed.
fn left(site: &Site) -> (i64, i64, i64) {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let catalog = Connection::open_with_flags(site.dir.path().join("data/catalog.sqlite"), flags).expect("a catalog");
    catalog.busy_timeout(DEADLINE).expect("set");
    let sql = "SELECT (SELECT count(*) FROM files WHERE level = 0), (SELECT count(*) FROM retired_files), \
               (SELECT count(*) FROM manifest_debts)";
    catalog.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).expect("a row")
}

/// All is merged, removed and written down, and nothing is left that no list names.
async fn check_end(site: &Site, server: Server, stream: &str, producer: &Producer) {
    wait_until_flushed(&server, stream, producer);
    // Three flushes at the end of each of two hours.
    wait_for("the upkeep", || {
        let (flushes, retired, owed) = left(site);
        (flushes < 7 && retired == 0 && owed == 0).then_some(())
    });
    let (rows, log) = (producer.acked.len(), server.log());
    assert!(!log.contains("files cannot be merged"), "nothing was wrong with a file: {log}");
    wait_for("the end of orphans", || (files_in_store(site) == files_in_catalog(site)).then_some(()));
    assert!(server.stop_meanwhile().await.success(), "a clean stop");
    let others = site.orphans(stream, rows);
    assert!(others.iter().all(|key| key.starts_with("wal/")), "{others:?}");
    assert!(!others.is_empty(), "the log is archived");
    site.check_log();
}

fn files_in_store(site: &Site) -> i64 {
    site.store.keys().iter().filter(|key| key.ends_with(".parquet")).count() as i64
}

fn files_in_catalog(site: &Site) -> i64 {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let catalog = Connection::open_with_flags(site.dir.path().join("data/catalog.sqlite"), flags).expect("a catalog");
    catalog.busy_timeout(DEADLINE).expect("set");
    catalog.query_row("SELECT count(*) FROM files", [], |row| row.get(0)).expect("a number")
}

#[test]
fn no_fault_at_any_edge_loses_or_doubles_a_record() {
    let site = site(&[("s3.timeout_ms", "150")]);
    let server = site.start();
    let stream = rest::create_stream(&server.http, "clicks", &json!({"type": "object"}));
    let faults = [
        // Time is up, and it was done; or was not.
        Fault::DoThenHang,
        Fault::Hang,
        Fault::Refuse(412, "PreconditionFailed"),
        Fault::Refuse(409, "ConditionalRequestConflict"),
        Fault::Refuse(500, "InternalError"),
        Fault::DoThenRefuse(500, "InternalError"),
        Fault::Refuse(503, "SlowDown"),
        Fault::Late(Duration::from_millis(100)),
    ];
    block_on(async {
        let mut producer = Producer::connect(&server.grpc, &stream).await;
        for (operation, part) in EDGES {
            for fault in &faults {
                site.store.fault_at(operation, part, 1, fault.clone());
                let what = format!("{fault:?} of {operation} {part}");
                produce_until(&mut producer, &what, || site.store.faults_left() == 0).await;
            }
            check_read(&mut producer).await;
        }
        check_end(&site, server, &stream, &producer).await;
    });
}

#[test]
fn a_crash_at_any_edge_loses_or_doubles_no_record() {
    // A request that is not answered holds the server at the edge.
    let site = site(&[("s3.timeout_ms", "60000")]);
    let (mut acked, mut stream) = (Vec::new(), String::new());
    for (round, (operation, part)) in EDGES.into_iter().enumerate() {
        for fault in [Fault::Hang, Fault::DoThenHang] {
            let server = site.start();
            if stream.is_empty() {
                assert_eq!(round, 0);
                stream = rest::create_stream(&server.http, "clicks", &json!({"type": "object"}));
            }
            acked = block_on(async {
                let mut producer = Producer::reconnect(&server.grpc, &stream, acked).await;
                check_read(&mut producer).await;
                site.store.fault_at(operation, part, 1, fault);
                let what = format!("{operation} {part}");
                produce_until(&mut producer, &what, || site.store.faults_left() == 0).await;
                producer.acked
            });
            server.kill();
            site.store.clear_faults();
        }
    }
    let server = site.start();
    block_on(async {
        let mut producer = Producer::reconnect(&server.grpc, &stream, acked).await;
        let puts = site.store.count("put");
        produce_until(&mut producer, "more flushes", || site.store.count("put") > puts + 10).await;
        check_read(&mut producer).await;
        check_end(&site, server, &stream, &producer).await;
    });
}

#[test]
fn an_outage_puts_upkeep_off_and_queries_say_so() {
    let site = site(&[("s3.timeout_ms", "200")]);
    let server = site.start();
    let stream = rest::create_stream(&server.http, "clicks", &json!({"type": "object"}));
    block_on(async {
        let mut producer = Producer::connect(&server.grpc, &stream).await;
        produce_until(&mut producer, "merges", || site.store.keys().iter().any(|key| key.contains(".m1-"))).await;
        for _ in 0..3 {
            wait_until_flushed(&server, &stream, &producer);
            site.store.set_up(false);
            let enough = producer.acked.len() + 200;
            for _ in 0..10 {
                producer.append(batch(producer.acked.len())).await.expect("acks go on");
            }
            assert_eq!(producer.acked.len(), enough);
            // What lies in the store cannot be read now, which is nobody's fault but the store's.
            let request = TimeRangeQueryRequest {
                stream_id: stream.clone(),
                end_time_unix_micros: i64::MAX,
                ..TimeRangeQueryRequest::default()
            };
            let read = producer.client.unary::<TimeRangeQueryResponse>(path::QUERY_TIME_RANGE, &request).await;
            let ended = read.expect_err("the store is away");
            assert_eq!((ended.code, ended.reason.as_str()), (14, "OBJECTS_UNAVAILABLE"), "{ended:?}");
            assert!(ended.retry_after.is_some(), "{ended:?}");
            let records = format!("/api/v1/streams/{stream}/records");
            let (status, problem) = rest::call(&server.http, "GET", &records, "");
            assert_eq!((status, &problem["code"]), (503, &json!("UNAVAILABLE")), "{problem}");
            let put_off = server.log().matches("upkeep is put off").count();
            wait_for("a pass", || (server.log().matches("upkeep is put off").count() > put_off).then_some(()));
            site.store.set_up(true);
        }
        let merged = site.store.keys().iter().filter(|key| key.contains(".m")).count();
        produce_until(&mut producer, "more merges", || {
            let asked =
                site.store.state().asked.iter().filter(|(asked, key)| *asked == "put" && key.contains(".m")).count();
            asked > merged + 1
        })
        .await;
        wait_until_flushed(&server, &stream, &producer);
        check_read(&mut producer).await;
        check_end(&site, server, &stream, &producer).await;
    });
}
