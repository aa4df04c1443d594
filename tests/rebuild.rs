//! `ttdust objects rebuild`: a catalog that came back from an old copy, and one that forgot its files, get their lists again, and
//! every acked record is read; what makes no list is refused and left as it is.

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

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use bytes::Bytes;
use process::wait_for;
use producer::{Producer, block_on};
use rusqlite::Connection;
use serde_json::json;
use site::{Site, wait_until_flushed};
use ttdust::manifests::Manifest;

const UPKEEP: [(&str, &str); 6] = [
    ("log.level", "info"),
    ("buffer.flush_interval_ms", "20"),
    ("upkeep.interval_ms", "10"),
    ("compaction.min_age_ms", "0"),
    ("compaction.min_files", "4"),
    ("compaction.grace_ms", "0"),
];

fn rebuild(site: &Site, how: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ttdust"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TTDUST_")) {
        command.env_remove(name);
    }
    command.args(["objects", "rebuild", how, "--data-dir"]).arg(site.dir.path().join("data"));
    for (key, value) in &site.settings {
        command.arg("--set").arg(format!("{key}={value}"));
    }
    command.output().expect("it starts")
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn batch(from: usize) -> Vec<Bytes> {
    (from..from + 50).map(|n| Bytes::from(json!({"n": n, "filler": "x".repeat(n % 200)}).to_string())).collect()
}

/// Flushes some records, until this is so.
async fn fill(server: &process::Server, stream: &str, producer: &mut Producer, mut is_so: impl FnMut() -> bool) {
    loop {
        producer.append(batch(producer.acked.len())).await.expect("acked");
        wait_until_flushed(server, stream, producer);
        if is_so() {
            return;
        }
    }
}

fn catalog(site: &Site) -> Connection {
    let catalog = Connection::open(site.dir.path().join("data/catalog.sqlite")).expect("a catalog");
    catalog.busy_timeout(process::DEADLINE).expect("set");
    catalog
}

fn number(site: &Site, sql: &str) -> i64 {
    catalog(site).query_row(sql, [], |row| row.get(0)).expect("a number")
}

/// The files of a catalog that nobody has open.
fn copy_catalog(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    for name in ["catalog.sqlite", "catalog.sqlite-wal", "catalog.sqlite-shm"] {
        match fs::copy(from.join(name), to.join(name)) {
            Ok(_) => {}
            Err(_) => drop(fs::remove_file(to.join(name))),
        }
    }
}

/// A site whose catalog is as it was at the third flush; the stream, and all that was acked since then too.
fn site_with_an_old_catalog() -> (Site, String, Vec<Bytes>) {
    let site = Site::new(&UPKEEP);
    let (data, kept) = (site.dir.path().join("data"), site.dir.path().join("kept"));
    let server = site.start();
    let stream = rest::create_stream(&server.http, "clicks", &json!({"type": "object"}));
    let acked = block_on(async {
        let mut producer = Producer::connect(&server.grpc, &stream).await;
        let mut flushes = 0;
        let three = || {
            flushes += 1;
            flushes == 3
        };
        fill(&server, &stream, &mut producer, three).await;
        producer.acked
    });
    assert!(server.stop().success());
    copy_catalog(&data, &kept);
    let server = site.start();
    let acked = block_on(async {
        let mut producer = Producer::reconnect(&server.grpc, &stream, acked).await;
        fill(&server, &stream, &mut producer, || site.store.keys().iter().any(|key| key.contains(".m1-"))).await;
        let mut more = 0;
        let two = || {
            more += 1;
            more == 2
        };
        fill(&server, &stream, &mut producer, two).await;
        wait_for("the manifests", || (number(&site, "SELECT count(*) FROM manifest_debts") == 0).then_some(()));
        producer.acked
    });
    server.kill();
    copy_catalog(&kept, &data);
    (site, stream, acked)
}

fn check_read(site: &Site, stream: &str, acked: Vec<Bytes>) {
    let server = site.start();
    block_on(async {
        let mut producer = Producer::reconnect(&server.grpc, stream, acked).await;
        let read = producer.read_all().await;
        producer.check(&read);
        producer.append(batch(producer.acked.len())).await.expect("it goes on");
        wait_until_flushed(&server, stream, &producer);
        let read = producer.read_all().await;
        producer.check(&read);
        let rows = producer.acked.len();
        wait_for("the manifests", || (number(site, "SELECT count(*) FROM manifest_debts") == 0).then_some(()));
        assert!(server.stop_meanwhile().await.success());
        assert!(site.orphans(stream, rows).iter().all(|key| ttdust::objects::FileName::parse(key).is_some()));
    });
    let again = rebuild(site, "--dry-run");
    assert!(again.status.success() && said(&again).contains("as it should be"), "{}", said(&again));
}

#[test]
fn an_old_catalog_gets_its_lists_again() {
    let (site, stream, acked) = site_with_an_old_catalog();
    // What no manifest names is adopted: here all of it, from where the checkpoint says that files begin.
    site.store.state().objects.retain(|key, _| !key.ends_with("/manifest.json"));
    let before = number(&site, "SELECT flushed_through FROM streams");
    let dry = rebuild(&site, "--dry-run");
    assert!(dry.status.success(), "{}", said(&dry));
    assert!(said(&dry).contains(&stream) && said(&dry).contains("files up to"), "{}", said(&dry));
    assert_eq!(number(&site, "SELECT flushed_through FROM streams"), before, "nothing is changed");
    let done = rebuild(&site, "--apply");
    assert!(done.status.success(), "{}", said(&done));
    assert_eq!(number(&site, "SELECT flushed_through FROM streams"), acked.len() as i64);
    check_read(&site, &stream, acked);
}

#[test]
fn a_list_that_was_emptied_comes_back_and_what_is_missing_is_named() {
    let (site, stream, acked) = site_with_an_old_catalog();
    catalog(&site)
        .execute_batch("DELETE FROM files; DELETE FROM manifest_debts; UPDATE streams SET flushed_through = 0")
        .expect("emptied");
    // An object that its manifest names and that is gone, as far as can be seen.
    let middle = {
        let state = site.store.state();
        let manifests = state.objects.iter().filter(|(key, _)| key.ends_with("/manifest.json"));
        let named = manifests.flat_map(|(_, text)| {
            let manifest: Manifest = serde_json::from_slice(&text.content).expect("a manifest");
            manifest.stored()
        });
        let mut named: Vec<_> = named.map(|file| file.key).collect();
        named.sort_unstable();
        named[named.len() / 2].clone()
    };
    let object = site.store.state().objects.remove(&middle).expect("it is there");
    let refused = rebuild(&site, "--apply");
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    let first = middle.rsplit('/').next().and_then(|name| name.split('-').next()).expect("a number");
    let first: i64 = first.parse().expect("a number");
    assert!(said(&refused).contains(&format!("record {first}")), "{}", said(&refused));
    assert_eq!(number(&site, "SELECT count(*) FROM files"), 0, "nothing is changed");
    site.store.state().objects.insert(middle, object);
    let done = rebuild(&site, "--apply");
    assert!(done.status.success(), "{}", said(&done));
    check_read(&site, &stream, acked);
}

#[test]
fn a_server_that_runs_and_a_stream_that_is_unknown_are_left_alone() {
    let site = Site::new(&UPKEEP);
    let server = site.start();
    let stream = rest::create_stream(&server.http, "clicks", &json!({"type": "object"}));
    block_on(async {
        let mut producer = Producer::connect(&server.grpc, &stream).await;
        fill(&server, &stream, &mut producer, || true).await;
    });
    let refused = rebuild(&site, "--apply");
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(server.stop().success());
    fs::remove_file(site.dir.path().join("data/catalog.sqlite")).expect("lost");
    let told = rebuild(&site, "--apply");
    assert!(told.status.success(), "{}", said(&told));
    assert!(said(&told).contains(&stream) && said(&told).contains("does not know"), "{}", said(&told));
    assert!(site.store.keys().iter().any(|key| key.ends_with(".parquet")), "its files stay");
}
