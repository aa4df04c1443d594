//! The archive of the log on a real server: its disk is lost, and all that was archived is there again.

#[path = "../shards/tests/engine/client.rs"]
mod client;
#[path = "server/postgres.rs"]
mod postgres;
#[path = "server/process.rs"]
mod process;
#[path = "server/producer.rs"]
mod producer;
#[path = "server/rest.rs"]
mod rest;

use std::{fs, path::Path, process::Command};

use bytes::Bytes;
use postgres::Database;
use process::{Server, wait_for};
use producer::{Producer, block_on};
use serde_json::json;

const BATCH: usize = 50;

fn settings(database: &Database, more: &[(&str, &str)]) -> Vec<(String, String)> {
    let options = database.options();
    let port = options.port.to_string();
    let base = [
        ("pg.host", options.host.as_str()),
        ("pg.port", &port),
        ("pg.database", &options.database),
        ("pg.user", &options.user),
        ("pg.tls", "disable"),
        ("wal.segment_bytes", "512KiB"),
        ("wal.quota_bytes", "64MiB"),
        ("wal.frame_bytes", "64KiB"),
        ("limits.message_bytes", "64KiB"),
        ("limits.record_bytes", "16KiB"),
        ("wal.archive", "true"),
        ("wal.archive_node", "one"),
    ];
    base.iter().chain(more).map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn start(dir: &Path, settings: &[(String, String)]) -> Server {
    let settings: Vec<_> = settings.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    Server::start(dir, &settings)
}

fn metric(server: &Server, name: &str) -> u64 {
    let (_, text) = rest::call(&server.http, "GET", "/metrics", "");
    let text = text.as_str().expect("text").to_owned();
    let value = text.lines().find_map(|line| line.strip_prefix(name)).expect("the metric");
    value.trim().parse().expect("a number")
}

async fn append(producer: &mut Producer) {
    let first = producer.acked.len() + 1;
    let payloads = (first..first + BATCH).map(|n| Bytes::from(format!("{{\"n\":{n},\"filler\":\"{:200}\"}}", n)));
    producer.append(payloads.collect()).await.expect("taken");
}

/// Runs `ttdust wal restore`; what it said.
fn restore(dir: &Path, settings: &[(String, String)], from: &str) -> Result<String, String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ttdust"));
    command.args(["wal", "restore", "--from", from, "--to"]).arg(dir.join("data/wal"));
    command.arg("--data-dir").arg(dir.join("data"));
    for (key, value) in settings {
        command.arg("--set").arg(format!("{key}={value}"));
    }
    let output = command.output().expect("it runs");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() { Ok(said) } else { Err(said) }
}

/// The records of all shards' logs, as `ttdust wal verify` counts them.
fn records_in(said: &str) -> usize {
    let counts = said.lines().filter_map(|line| line.split(", ").find_map(|part| part.strip_suffix(" records")));
    counts.map(|count| count.parse::<usize>().expect("a number")).sum()
}

#[test]
fn what_was_archived_outlives_the_disk() {
    let dir = tempfile::tempdir().expect("a directory");
    let database = Database::fresh();
    // No flush: the log and its archive are all there is.
    let no_flush = settings(&database, &[("shards.count", "2"), ("buffer.flush_interval_ms", "86400000")]);
    let server = start(dir.path(), &no_flush);
    rest::create_stream(&server.http, "events", &json!({"type": "object"}));
    let acked = block_on(async {
        let mut producer = Producer::connect(&server.grpc, "events").await;
        while metric(&server, "ttdust_wal_archived_segments_total") < 4 {
            append(&mut producer).await;
        }
        producer.acked
    });
    server.kill();

    // The disk is lost; the object store, which is elsewhere, is not, nor is Postgres.
    let (data, elsewhere) = (dir.path().join("data"), dir.path().join("elsewhere"));
    fs::rename(data.join("objects"), &elsewhere).expect("kept");
    fs::remove_dir_all(&data).expect("lost");
    fs::create_dir(&data).expect("a new disk");
    fs::rename(&elsewhere, data.join("objects")).expect("there");
    let none = restore(dir.path(), &no_flush, "another").expect_err("nothing is archived of it");
    assert!(none.contains("no log of another is archived"), "{none}");
    let said = restore(dir.path(), &no_flush, "one").expect("restored");
    let restored = records_in(&said);
    assert!(restored > 0 && restored <= acked.len(), "{restored} of {}: {said}", acked.len());
    let again = restore(dir.path(), &no_flush, "one").expect_err("it does not write over a log");
    assert!(again.contains("is not empty"), "{again}");

    // All that was archived is read, goes on to files, and is archived anew.
    let flush = settings(&database, &[("shards.count", "2"), ("buffer.flush_interval_ms", "50")]);
    let server = start(dir.path(), &flush);
    block_on(async {
        let kept = acked[..restored].to_vec();
        let mut producer = Producer::reconnect(&server.grpc, "events", kept).await;
        let read = producer.read_all().await;
        producer.check(&read);
        for _ in 0..100 {
            append(&mut producer).await;
        }
        let read = producer.read_all().await;
        producer.check(&read);
    });
    let segments = |log: &fs::DirEntry| fs::read_dir(log.path()).map_or(0, Iterator::count);
    wait_for("an archive of the new log", || {
        let logs = fs::read_dir(data.join("objects/wal/one")).ok()?;
        (logs.flatten().filter(|log| segments(log) > 0).count() == 2).then_some(())
    });
    assert!(server.stop().success());
}

#[test]
fn a_segment_is_kept_until_it_is_archived() {
    let dir = tempfile::tempdir().expect("a directory");
    let database = Database::fresh();
    let flush = settings(&database, &[("shards.count", "1"), ("buffer.flush_interval_ms", "20")]);
    let server = start(dir.path(), &flush);
    rest::create_stream(&server.http, "events", &json!({"type": "object"}));
    let archive = dir.path().join("data/objects/wal");
    // Where the archive's folder should be lies a file: nothing can be archived.
    let blocked = archive.join("one");
    fs::create_dir_all(&archive).expect("made");
    fs::write(&blocked, b"in the way").expect("written");
    let mut acked = block_on(async {
        let mut producer = Producer::connect(&server.grpc, "events").await;
        while metric(&server, "ttdust_wal_archive_backlog") < 4 {
            append(&mut producer).await;
        }
        producer.acked
    });
    // All of it is in files, and the log could go but for the archive.
    let rows = acked.len() as i64;
    let (_, streams) = rest::call(&server.http, "GET", "/api/v1/streams", "");
    let path = format!("/api/v1/streams/{}", streams["streams"][0]["id"].as_str().expect("an id"));
    wait_for("all in files", || {
        let (_, stream) = rest::call(&server.http, "GET", &path, "");
        (stream["statistics"]["flushed_through"] == json!(rows)).then_some(())
    });
    assert_eq!(metric(&server, "ttdust_wal_archived_segments_total"), 0);
    server.kill();
    let server = start(dir.path(), &flush);
    wait_for("the backlog of the run before", || (metric(&server, "ttdust_wal_archive_backlog") >= 3).then_some(()));
    fs::remove_file(&blocked).expect("out of the way");
    wait_for("the archive", || (metric(&server, "ttdust_wal_archived_segments_total") >= 4).then_some(()));
    acked = block_on(async {
        let mut producer = Producer::reconnect(&server.grpc, "events", acked).await;
        append(&mut producer).await;
        let read = producer.read_all().await;
        producer.check(&read);
        producer.acked
    });
    assert!(!acked.is_empty());
    assert!(server.stop().success());
}
