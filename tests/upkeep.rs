//! The upkeep of a real server's files: merges, retention, orphans and manifests, under load, while others read, and over
//! `kill -9` at any moment. Record n of a stream has sequence number n, so what is read can be told from what was sent.

#[path = "../shards/tests/engine/client.rs"]
mod client;
#[path = "server/process.rs"]
mod process;
#[path = "server/python.rs"]
mod python;
#[path = "server/rest.rs"]
mod rest;
#[path = "upkeep/store.rs"]
mod store;

use std::{cell::Cell, fs, net::SocketAddr, path::Path, time::Duration};

use bytes::Bytes;
use client::Client;
use process::{Server, wait_for};
use serde_json::json;
use store::{Counts, check_manifests, check_store, objects_of};
use ttdust_proto::{
    ingestion::{AppendRequest, AppendResponse, Status},
    path,
    query::{TimeRangeQueryRequest, TimeRangeQueryResponse},
};

const BATCH: usize = 20;
const KILL_ROUNDS: u64 = 20;

const SMALL: [(&str, &str); 9] = [
    ("shards.count", "1"),
    ("wal.segment_bytes", "512KiB"),
    ("wal.quota_bytes", "64MiB"),
    ("wal.frame_bytes", "64KiB"),
    ("limits.message_bytes", "64KiB"),
    ("limits.record_bytes", "16KiB"),
    ("buffer.memory_bytes", "2MiB"),
    ("buffer.freeze_bytes", "256KiB"),
    ("buffer.flush_interval_ms", "20"),
];

/// Everything as soon as it can be.
const AT_ONCE: [(&str, &str); 6] = [
    ("upkeep.interval_ms", "10"),
    ("compaction.min_age_ms", "0"),
    ("compaction.min_files", "4"),
    ("compaction.grace_ms", "0"),
    ("retention.interval_ms", "10"),
    ("orphans.interval_ms", "10"),
];

fn settings(more: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    [&SMALL[..], &AT_ONCE[..], more].concat()
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

/// Record n.
fn payload(n: usize) -> Bytes {
    let mut record = json!({"key": format!("key-{n}"), "s": format!("text {}", n % 7), "n": n});
    if !n.is_multiple_of(3) {
        record["extra"] = json!(n.is_multiple_of(2));
    }
    record.to_string().into()
}

fn first_version() -> serde_json::Value {
    json!({"type": "object", "required": ["key"], "properties": {"s": {"type": "string"}, "n": {"type": "integer"}}})
}

fn address(server: &Server) -> SocketAddr {
    server.grpc.parse().expect("an address")
}

/// Sends records, one request at a time, for as long as `goes_on` says so and the server is there.
async fn produce(address: SocketAddr, stream: &str, acked: &Cell<usize>, goes_on: impl Fn() -> bool) {
    let Some(mut client) = Client::try_connect(address).await else { return };
    let Some(mut call) = client.try_call(path::APPEND).await else { return };
    while goes_on() {
        let payloads = (acked.get() + 1..=acked.get() + BATCH).map(payload).collect();
        let request = AppendRequest { stream_id: stream.to_owned(), payloads, ..AppendRequest::default() };
        call.send(&request).await;
        let Some(answer) = call.try_receive::<AppendResponse>().await else { return };
        if answer.status() == Status::RateLimited {
            continue;
        }
        assert_eq!((answer.status(), answer.accepted), (Status::Ok, BATCH as u32), "{answer:?}");
        assert_eq!(answer.first_sequence, acked.get() as i64 + 1, "sequence numbers are dense");
        acked.set(acked.get() + BATCH);
        // Many flushes, not many rows.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// All rows of the stream, checked: they follow each other without a gap, and each is what was sent. The first and the last one.
async fn read(address: SocketAddr, stream: &str) -> (i64, i64) {
    read_by(address, stream, 500).await
}

/// The same, so many rows a page.
async fn read_by(address: SocketAddr, stream: &str, limit: i32) -> (i64, i64) {
    let mut client = Client::connect(address).await;
    let (mut first, mut last, mut cursor) = (0, 0, None);
    loop {
        let request = TimeRangeQueryRequest {
            stream_id: stream.to_owned(),
            start_time_unix_micros: 0,
            end_time_unix_micros: i64::MAX,
            limit: Some(limit),
            cursor: cursor.take(),
            ..TimeRangeQueryRequest::default()
        };
        let answer: TimeRangeQueryResponse = client.unary(path::QUERY_TIME_RANGE, &request).await.expect("an answer");
        for record in answer.records {
            if first == 0 {
                first = record.sequence_number;
            } else {
                assert_eq!(record.sequence_number, last + 1, "no gap and no double");
            }
            last = record.sequence_number;
            assert_eq!(record.payload, payload(last as usize), "record {last} is what was sent");
        }
        match answer.next_cursor {
            Some(next) => cursor = Some(next),
            None => return (first, last),
        }
    }
}

/// Reads over and over until `done`, and each time finds all that was acked before.
async fn watch(address: SocketAddr, stream: &str, acked: &Cell<usize>, done: &Cell<bool>) -> u64 {
    let mut times = 0;
    while !done.get() {
        let before = acked.get() as i64;
        let (first, last) = read(address, stream).await;
        assert!(before == 0 || (first == 1 && last >= before), "{first} to {last} of {before}");
        times += 1;
    }
    times
}

fn metric(server: &Server, line: &str) -> u64 {
    let (status, text) = rest::call(&server.http, "GET", "/metrics", "");
    assert_eq!(status, 200);
    let text = text.as_str().expect("text");
    let value = text.lines().find_map(|l| l.strip_prefix(line)).unwrap_or_else(|| panic!("{line} in {text}"));
    value.trim().parse().expect("a number")
}

const MERGES: &str = "ttdust_compaction_runs_total{outcome=\"ok\"}";
const FAILED_MERGES: &str = "ttdust_compaction_runs_total{outcome=\"error\"}";

#[test]
fn merged_files_are_read_by_all_as_their_pieces_were_over_a_change_of_the_schema() {
    let dir = tempfile::tempdir().expect("a directory");
    let acked = Cell::new(0);
    let server = Server::start(dir.path(), &settings(&[("compaction.enabled", "false")]));
    let id = rest::create_stream_with(&server.http, "events", &first_version(), &["key"]);
    let flushes = |least| {
        let path = dir.path().to_owned();
        move || Counts::of(&path).files < least
    };
    block_on(produce(address(&server), "events", &acked, flushes(12)));
    let (_, stream) = rest::call(&server.http, "GET", &format!("/api/v1/streams/{id}"), "");
    let versions = format!("/api/v1/schemas/{}/versions", stream["schema_id"].as_str().expect("an id"));
    let mut second = first_version();
    second["properties"]["extra"] = json!({"type": "boolean"});
    let (status, answer) = rest::call(&server.http, "POST", &versions, &json!({"definition": second}).to_string());
    assert_eq!(status, 201, "{answer}");
    block_on(produce(address(&server), "events", &acked, flushes(24)));
    assert!(server.stop().success());

    // All that was flushed is merged now, across the change, while records come in and others read.
    let server = Server::start(dir.path(), &settings(&[]));
    let done = Cell::new(false);
    let enough = acked.get() + 2000;
    let reads = block_on(async {
        let write = async {
            produce(address(&server), "events", &acked, || acked.get() < enough || metric(&server, MERGES) < 10).await;
            done.set(true);
        };
        let watching = watch(address(&server), "events", &acked, &done);
        futures_util::future::join(write, watching).await.1
    });
    assert!(reads > 1, "others read all the while");
    let rows = acked.get() as i64;
    wait_for("the last merges, removals and manifests", || {
        let counts = Counts::of(dir.path());
        (counts.flushed_through == rows && counts.flushes < 4 && counts.retired == 0 && counts.debts == 0).then_some(())
    });
    assert_eq!(metric(&server, FAILED_MERGES), 0, "{}", server.log());
    assert_eq!(block_on(read(address(&server), "events")), (1, rows));
    assert!(server.stop().success());
    let files = check_store(dir.path(), &id, 1, rows);
    assert_eq!(objects_of(dir.path(), &id), files, "what was merged is gone, and nothing else is there");
    check_manifests(dir.path(), &id);

    let sent = dir.path().join("sent.ndjson");
    let lines: Vec<u8> = (1..=acked.get()).flat_map(|n| [&payload(n)[..], b"\n"].concat()).collect();
    fs::write(&sent, lines).expect("written");
    let read = python::run("read_merged.py", &[&dir.path().join("data/objects").join(&id), &sent]);
    assert!(read.status.success(), "{}", python::said(&read));
}

/// SplitMix64 (Steele et al., 2014): the same seed, the same kills.
fn random(state: &mut u64, below: u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut x = *state;
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x ^ (x >> 31)) % below
}

#[test]
fn a_kill_9_in_the_middle_of_merges_loses_and_doubles_nothing() {
    let rounds = std::env::var("TTDUST_CRASH_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(KILL_ROUNDS);
    let dir = tempfile::tempdir().expect("a directory");
    // Objects that are left between put and commit are given up at once: a merge and a flush must not be taken for one.
    let settings = settings(&[("orphans.grace_ms", "0")]);
    let (acked, mut seed, mut id, mut merges) = (Cell::new(0), 7, String::new(), 0);
    for round in 0..rounds {
        let server = Server::start(dir.path(), &settings);
        if round == 0 {
            id = rest::create_stream(&server.http, "events", &first_version());
        }
        let (first, last) = block_on(read(address(&server), "events"));
        let unknown = last - acked.get() as i64;
        assert!(unknown == 0 || unknown == BATCH as i64, "acked {}, read {last}", acked.get());
        assert!(last == 0 || first == 1);
        acked.set(last as usize);
        let kill_after = Duration::from_millis(20 + random(&mut seed, 400));
        block_on(async {
            let killed = async {
                tokio::time::sleep(kill_after).await;
                merges += Counts::of(dir.path()).merged;
                server.kill();
            };
            futures_util::future::join(produce(address_of(dir.path()), "events", &acked, || true), killed).await;
        });
    }
    let server = Server::start(dir.path(), &settings);
    let (first, last) = block_on(read(address(&server), "events"));
    assert!(first == 1 && last >= acked.get() as i64, "acked {}, read {first} to {last}", acked.get());
    wait_for("the last merges and removals", || {
        let counts = Counts::of(dir.path());
        (counts.flushed_through == last && counts.flushes < 4 && counts.retired == 0 && counts.debts == 0).then_some(())
    });
    assert!(merges > 0, "there were merges to kill");
    wait_for("a look at all objects", || {
        (objects_of(dir.path(), &id).len() == Counts::of(dir.path()).files as usize).then_some(())
    });
    assert!(server.stop().success());
    let files = check_store(dir.path(), &id, 1, last);
    assert_eq!(objects_of(dir.path(), &id), files, "no object is left that no list names");
    check_manifests(dir.path(), &id);
    println!("{rounds} rounds, {last} rows, {} files", files.len());
}

/// Where the running server listens.
fn address_of(dir: &Path) -> SocketAddr {
    let text = fs::read(dir.join("ports.json")).expect("the port file");
    let ports: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    ports["grpc"].as_str().and_then(|text| text.parse().ok()).expect("an address")
}

#[test]
fn by_size_the_oldest_files_go_and_the_rest_is_read_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Server::start(dir.path(), &settings(&[("compaction.enabled", "false")]));
    let id = rest::create_stream(&server.http, "events", &first_version());
    let acked = Cell::new(0);
    block_on(produce(address(&server), "events", &acked, || Counts::of(dir.path()).files < 10));
    let bytes = Counts::of(dir.path()).bytes;
    let most = bytes / 2;
    let change = json!({"retention_policy": {"type": "size", "max_bytes": most}});
    let (status, answer) = rest::call(&server.http, "PATCH", &format!("/api/v1/streams/{id}"), &change.to_string());
    assert_eq!(status, 200, "{answer}");
    let fits = || {
        let counts = Counts::of(dir.path());
        (counts.bytes <= most && counts.retired == 0).then_some(counts)
    };
    let counts = wait_for("room", fits);
    assert!(counts.files > 0 && counts.first_sequence > 1, "{counts:?}");
    // It goes on while records come in and others read.
    let done = Cell::new(false);
    let enough = acked.get() + 3000;
    block_on(async {
        let write = async {
            produce(address(&server), "events", &acked, || acked.get() < enough).await;
            done.set(true);
        };
        let watching = async {
            let mut first_before = 0;
            while !done.get() {
                let before = acked.get() as i64;
                // In one page: between two, what is to come next may go.
                let (first, last) = read_by(address(&server), "events", 10_000).await;
                assert!(last >= before && first >= first_before, "{first} to {last}");
                first_before = first;
            }
        };
        futures_util::future::join(write, watching).await;
    });
    let rows = acked.get() as i64;
    wait_for("the last flush and removals", || {
        let counts = Counts::of(dir.path());
        (counts.flushed_through == rows && counts.bytes <= most && counts.retired == 0 && counts.debts == 0)
            .then_some(())
    });
    let (first, last) = block_on(read(address(&server), "events"));
    assert!(first > counts.first_sequence && last == rows);
    server.kill();
    let server = Server::start(dir.path(), &settings(&[("compaction.enabled", "false")]));
    assert_eq!(block_on(read(address(&server), "events")), (first, last), "a restart changes nothing");
    block_on(produce(address(&server), "events", &acked, || acked.get() < rows as usize + BATCH));
    assert_eq!(block_on(read(address(&server), "events")).1, rows + BATCH as i64);
    assert!(server.stop().success());
    let first_left = Counts::of(dir.path()).first_sequence;
    assert!(first_left >= first);
    check_store(dir.path(), &id, first_left, rows);
    check_manifests(dir.path(), &id);
}

#[test]
fn by_time_whole_files_go_when_their_newest_row_is_too_old() {
    let dir = tempfile::tempdir().expect("a directory");
    let off = [("compaction.enabled", "false"), ("retention.interval_ms", "86400000")];
    let server = Server::start(dir.path(), &settings(&off));
    let id = rest::create_stream(&server.http, "events", &first_version());
    let acked = Cell::new(0);
    block_on(produce(address(&server), "events", &acked, || Counts::of(dir.path()).files < 6));
    let change = json!({"retention_policy": {"type": "time", "retention_days": 2}});
    let (status, answer) = rest::call(&server.http, "PATCH", &format!("/api/v1/streams/{id}"), &change.to_string());
    assert_eq!(status, 200, "{answer}");
    assert!(server.stop().success());
    // Time passes for the first three files: the first two are too old whole, the third has a row that is not.
    let (days, catalog) = (24 * 3_600_000_000_i64, store::connect(dir.path()));
    let firsts = store::firsts(&catalog);
    for (first, newest_days) in firsts.iter().zip([3, 3, 1]) {
        let age = "UPDATE files SET min_timestamp = min_timestamp - ?2, max_timestamp = max_timestamp - ?3 \
                   WHERE first_sequence = ?1";
        catalog.execute(age, [*first, 3 * days, newest_days * days]).expect("aged");
    }
    drop(catalog);
    let server = Server::start(dir.path(), &settings(&off[..1]));
    let left = wait_for("the old files' end", || {
        let counts = Counts::of(dir.path());
        (counts.first_sequence > 1 && counts.retired == 0 && counts.debts == 0).then_some(counts)
    });
    assert_eq!(left.first_sequence, firsts[2], "not more than is past its time");
    assert_eq!(metric(&server, "ttdust_storage_dropped_files_total"), 2);
    assert_eq!(block_on(read(address(&server), "events")), (firsts[2], acked.get() as i64));
    assert!(server.stop().success());
    check_manifests(dir.path(), &id);
}

#[test]
fn only_what_is_surely_an_orphan_goes() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Server::start(dir.path(), &settings(&[("compaction.enabled", "false")]));
    let id = rest::create_stream(&server.http, "events", &first_version());
    let acked = Cell::new(0);
    block_on(produce(address(&server), "events", &acked, || Counts::of(dir.path()).files < 4));
    let rows = acked.get();
    wait_for("the last flush", || (Counts::of(dir.path()).flushed_through == rows as i64).then_some(()));
    let file = objects_of(dir.path(), &id).into_iter().next().expect("a file");
    let folder = file.rsplit_once('/').expect("a folder").0.to_owned();
    let stranger = folder.replace(&id, "str_00000000-0000-4000-8000-000000000000");
    let name = |first: usize, last: usize, more: &str| format!("{first:020}-{last:020}{more}.v1.parquet");
    let place = |key: &str, hours: u64| {
        let path = dir.path().join("data/objects").join(key);
        fs::create_dir_all(path.parent().expect("one")).expect("made");
        fs::write(&path, b"left behind").expect("written");
        let then = std::time::SystemTime::now() - Duration::from_secs(3600 * hours);
        fs::File::options().write(true).open(&path).and_then(|file| file.set_modified(then)).expect("aged");
        path
    };
    let gone = [
        place(&format!("{folder}/{}", name(2, 3, "")), 30),
        place(&format!("{folder}/{}", name(1, rows, ".m1-00000007")), 30),
    ];
    let stay = [
        place(&format!("{folder}/{}", name(2, 4, "")), 20),
        place(&format!("{folder}/{}", name(rows + 1, rows + BATCH, "")), 30),
        place(&format!("{folder}/{}", name(rows, rows + 1, ".m1-00000007")), 30),
        place(&format!("{stranger}/{}", name(2, 3, "")), 30),
        place(&format!("{folder}/notes.txt"), 30),
    ];
    wait_for("the orphans' end", || gone.iter().all(|path| !path.exists()).then_some(()));
    assert_eq!(metric(&server, "ttdust_storage_orphans_total"), 2);
    assert!(stay.iter().all(|path| path.exists()), "{stay:?}");
    assert_eq!(block_on(read(address(&server), "events")), (1, rows as i64));
    // A flush that finds its place taken by an object of a run that never committed it goes on all the same.
    block_on(produce(address(&server), "events", &acked, || acked.get() < rows + BATCH));
    let last = acked.get() as i64;
    wait_for("a flush", || (Counts::of(dir.path()).flushed_through == last).then_some(()));
    assert_eq!(block_on(read(address(&server), "events")), (1, last));
    assert!(server.stop().success());
    check_store(dir.path(), &id, 1, last);
}
