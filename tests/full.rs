//! A full log and a full disk, in a real server: writes are refused with a time to try again, nothing acked is lost, reads go
//! on, and once there is room again so do writes.

#[path = "../shards/tests/engine/client.rs"]
mod client;
#[path = "server/disk.rs"]
mod disk;
#[path = "server/noise.rs"]
mod noise;
#[path = "server/process.rs"]
mod process;
#[path = "server/producer.rs"]
mod producer;
#[path = "server/rest.rs"]
mod rest;

use std::{fs, path::Path, time::Instant};

use disk::SmallDisk;
use noise::{BATCH, Noise, RECORD_BYTES, append_at_last, fill};
use process::{DEADLINE, Server};
use producer::{Producer, block_on};
use serde_json::json;

fn check_alive(server: &Server) {
    let (status, body) = rest::call(&server.http, "GET", "/health/live", "");
    assert_eq!((status, &body["status"]), (200, &json!("ok")), "{body}");
}

/// Small limits, so that small segments are allowed.
fn settings<'a>(io: &'a str, quota: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        ("shards.io", io),
        ("shards.count", "1"),
        ("wal.quota_bytes", quota),
        ("wal.segment_bytes", "512KiB"),
        ("wal.frame_bytes", "64KiB"),
        ("limits.message_bytes", "256KiB"),
        ("limits.record_bytes", "64KiB"),
        ("buffer.freeze_bytes", "1MiB"),
        ("buffer.flush_interval_ms", "500"),
    ]
}

fn log_bytes(wal: &Path) -> u64 {
    let mut bytes = 0;
    let entries = fs::read_dir(wal).expect("a listing").map(|entry| entry.expect("an entry"));
    for shard in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("shard-")) {
        for segment in fs::read_dir(shard.path()).expect("a listing") {
            bytes += segment.expect("an entry").metadata().map_or(0, |meta| meta.len());
        }
    }
    bytes
}

/// The log reaches its quota because no flush succeeds: a file stands where the stream's folder should.
fn quota(io: &str) {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut noise, quota_bytes) = (Noise(1), 4 << 20);
    let server = Server::start(dir.path(), &settings(io, "4MiB"));
    let stream = rest::create_stream(&server.http, "events", &json!({"type": "object"}));
    let obstacle = dir.path().join("data/objects").join(stream);
    fs::write(&obstacle, "in the way").expect("written");
    let acked = block_on(async {
        let mut producer = Producer::connect(&server.grpc, "events").await;
        fill(&mut producer, &mut noise).await;
        let acked = producer.acked.len();
        assert!(acked * RECORD_BYTES > quota_bytes / 2, "the log took what fits: {acked} records");
        fill(&mut producer, &mut noise).await;
        assert_eq!(producer.acked.len(), acked, "it stays refused");
        let read = producer.read_all().await;
        producer.check(&read);
        producer.acked
    });
    // A segment may be prepared ahead.
    assert!(log_bytes(&dir.path().join("data/wal")) <= quota_bytes as u64 + (512 << 10), "the quota holds");
    check_alive(&server);
    server.kill();

    // Still no flush, but more room.
    let server = Server::start(dir.path(), &settings(io, "64MiB"));
    let acked = block_on(async {
        let mut producer = Producer::reconnect(&server.grpc, "events", acked).await;
        let read = producer.read_all().await;
        producer.check(&read);
        append_at_last(&mut producer, &mut noise).await;
        producer.acked
    });
    server.kill();

    // Flushes succeed again: with the small quota too, there is room for more than it holds.
    fs::remove_file(&obstacle).expect("removed");
    let server = Server::start(dir.path(), &settings(io, "4MiB"));
    block_on(async {
        let mut producer = Producer::reconnect(&server.grpc, "events", acked).await;
        for _ in 0..2 * quota_bytes / (BATCH * RECORD_BYTES) {
            append_at_last(&mut producer, &mut noise).await;
        }
        let read = producer.read_all().await;
        producer.check(&read);
    });
    assert!(server.stop().success(), "a clean stop");
}

#[test]
fn a_full_log_refuses_writes_and_keeps_what_was_acked_on_io_uring() {
    quota("uring");
}

#[test]
fn a_full_log_refuses_writes_and_keeps_what_was_acked_on_epoll() {
    quota("epoll");
}

fn full_disk(io: &str) {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = SmallDisk::mount(&dir.path().join("data"), "24m");
    let mut noise = Noise(2);
    let server = Server::start(dir.path(), &settings(io, "1GiB"));
    rest::create_stream(&server.http, "events", &json!({"type": "object"}));
    let acked = block_on(async {
        let mut producer = Producer::connect(&server.grpc, "events").await;
        let last = fill(&mut producer, &mut noise).await;
        assert_eq!(last.reason().0, "LOG_FULL", "{last:?}");
        let read = producer.read_all().await;
        producer.check(&read);
        check_alive(&server);

        // The operator makes room; the server needs no hint.
        disk.resize("80m");
        for _ in 0..100 {
            append_at_last(&mut producer, &mut noise).await;
        }
        let read = producer.read_all().await;
        producer.check(&read);

        // Full once more, under requests that nobody waits for: the acks of those before the refusal come all the same, and
        // "refused" means that nothing of it and of those after it was taken.
        // (They come to less than the segments at hand hold: what is admitted then has its place.)
        let end = Instant::now() + DEADLINE;
        let ended = loop {
            let ended = producer.pipeline((0..6).map(|_| noise.batch()).collect()).await;
            if ended.code != 0 {
                break ended;
            }
            assert!(Instant::now() < end, "the disk never filled");
        };
        assert!(["LOG_FULL", "OUTCOME_UNKNOWN"].contains(&ended.reason.as_str()), "{ended:?}");
        let read = producer.read_all().await;
        if ended.reason == "OUTCOME_UNKNOWN" {
            assert!(read.starts_with(&producer.acked), "what was acked is there");
            producer.acked = read;
        } else {
            producer.check(&read);
        }

        // And killed like that.
        fill(&mut producer, &mut noise).await;
        producer.acked
    });
    server.kill();

    disk.resize("256m");
    let server = Server::start(dir.path(), &settings(io, "1GiB"));
    block_on(async {
        let mut producer = Producer::reconnect(&server.grpc, "events", acked).await;
        let read = producer.read_all().await;
        producer.check(&read);
        append_at_last(&mut producer, &mut noise).await;
    });
    assert!(server.stop().success(), "a clean stop");
}

#[test]
fn a_full_disk_refuses_writes_and_heals_by_itself_on_io_uring() {
    full_disk("uring");
}

#[test]
fn a_full_disk_refuses_writes_and_heals_by_itself_on_epoll() {
    full_disk("epoll");
}
