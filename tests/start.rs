//! What a start finds beside a log that is whole: a catalog that does not know it, another process that has it, what a crash left.

#[path = "../shards/tests/engine/client.rs"]
mod client;
#[path = "server/process.rs"]
mod process;
#[path = "server/producer.rs"]
mod producer;
#[path = "server/rest.rs"]
mod rest;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use bytes::Bytes;
use process::{Server, wait_for};
use producer::{Producer, block_on};
use serde_json::json;

const NEVER_FLUSHED: (&str, &str) = ("buffer.flush_interval_ms", "3600000");

/// A stream whose records are in the log alone, and a server that was killed; the stream's id.
fn with_records(dir: &Path) -> (String, Vec<Bytes>) {
    let server = Server::start(dir, &[NEVER_FLUSHED]);
    let stream = rest::create_stream(&server.http, "events", &json!({"type": "object"}));
    let acked = block_on(async {
        let mut producer = Producer::connect(&server.grpc, "events").await;
        let batch = (0..20).map(|n| Bytes::from(format!(r#"{{"n":{n}}}"#))).collect();
        producer.append(batch).await.expect("taken");
        producer.acked
    });
    server.kill();
    (stream, acked)
}

fn check(server: &Server, acked: Vec<Bytes>) {
    block_on(async {
        let mut producer = Producer::reconnect(&server.grpc, "events", acked).await;
        let read = producer.read_all().await;
        producer.check(&read);
    });
}

#[test]
fn records_that_the_catalog_does_not_know_are_not_thrown_away() {
    let dir = tempfile::tempdir().expect("a directory");
    let (stream, acked) = with_records(dir.path());
    let data = dir.path().join("data");
    let aside = dir.path().join("aside");
    fs::create_dir(&aside).expect("a directory");
    let catalog: Vec<PathBuf> = fs::read_dir(&data)
        .expect("a listing")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("catalog")))
        .collect();
    assert!(!catalog.is_empty());
    for path in &catalog {
        fs::rename(path, aside.join(path.file_name().expect("a name"))).expect("moved");
    }
    let mut refused = Server::spawn(dir.path(), &[]);
    assert!(!refused.wait().success());
    let log = refused.log();
    assert!(log.contains(&format!("20 records of stream {stream}")), "{log}");

    // The right catalog is back: so is everything.
    for path in &catalog {
        let _ = fs::remove_file(path);
        fs::rename(aside.join(path.file_name().expect("a name")), path).expect("moved back");
    }
    let server = Server::start(dir.path(), &[NEVER_FLUSHED]);
    check(&server, acked);
    // A stream that was deleted is known to be: its records may go.
    assert_eq!(rest::call(&server.http, "DELETE", &format!("/api/v1/streams/{stream}"), "").0, 202);
    wait_for("the deletion", || {
        let (_, list) = rest::call(&server.http, "GET", "/api/v1/streams?status=deleted", "");
        (list["streams"][0]["id"] == json!(stream)).then_some(())
    });
    server.kill();
    let server = Server::start(dir.path(), &[]);
    assert!(server.stop().success());
}

#[test]
fn records_of_unknown_streams_are_given_up_on_demand_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    with_records(dir.path());
    for entry in fs::read_dir(dir.path().join("data")).expect("a listing") {
        let path = entry.expect("an entry").path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("catalog")) {
            fs::remove_file(path).expect("removed");
        }
    }
    let server = Server::start(dir.path(), &[("wal.unknown_streams", "discard")]);
    assert!(server.log().contains("discarded"), "{}", server.log());
    assert!(server.stop().success());
    assert!(
        !Server::spawn(dir.path(), &[]).wait().success(),
        "they are in the log for as long as nothing follows them"
    );
    assert!(Server::start(dir.path(), &[("wal.unknown_streams", "discard")]).stop().success());
}

#[test]
fn a_log_has_one_process() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_, acked) = with_records(dir.path());
    let wal = dir.path().join("data/wal");
    let server = Server::start(dir.path(), &[NEVER_FLUSHED]);
    let other = dir.path().join("other");
    fs::create_dir(&other).expect("a directory");
    let mut refused = Server::spawn(&other, &[("wal.directory", wal.to_str().expect("UTF-8"))]);
    assert!(!refused.wait().success());
    assert!(refused.log().contains("another process has this log"), "{}", refused.log());

    let tool = |command: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_ttdust")).args(["wal", command]).arg(&wal).output().expect("run");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (done, said) = tool("repair");
    assert!(!done && said.contains("another process has this log"), "{said}");
    let (done, said) = tool("verify");
    assert!(done && said.contains("a server is writing this log"), "{said}");
    check(&server, acked);
    server.kill();
    assert_eq!(tool("repair"), (true, String::new()));
}

#[test]
fn an_object_that_a_crash_left_uncommitted_goes_with_the_next_flush() {
    let dir = tempfile::tempdir().expect("a directory");
    let (stream, acked) = with_records(dir.path());
    let objects = dir.path().join("data/objects");
    let server = Server::start(dir.path(), &[NEVER_FLUSHED]);
    let (_, page) = rest::call(&server.http, "GET", "/api/v1/streams/events/records?limit=1", "");
    server.kill();
    // In the hour of the records, beginning with the first of them and ending elsewhere than the flush to come.
    let hour = page["records"][0]["ingested_at"].as_str().expect("a time")[..13].replace(['-', 'T'], "/");
    let left = objects.join(&stream).join(hour).join(format!("{:020}-{:020}.v1.parquet", 1, 7));
    fs::create_dir_all(left.parent().expect("a folder")).expect("made");
    fs::write(&left, "rows").expect("written");

    let server = Server::start(dir.path(), &[("buffer.flush_interval_ms", "50")]);
    let path = format!("/api/v1/streams/{stream}");
    wait_for("the flush", || {
        let (_, stream) = rest::call(&server.http, "GET", &path, "");
        (stream["statistics"]["flushed_through"] == acked.len()).then_some(())
    });
    assert!(!left.exists(), "readers of the folder would count its rows twice");
    check(&server, acked);
    assert!(server.stop().success());
}

/// The cores that a thread may run on, as the kernel writes them; `None`: it has ended.
fn cores_of(task: &Path) -> Option<String> {
    let status = fs::read_to_string(task.join("status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).map(|list| list.trim().to_owned())
}

#[test]
fn a_shard_has_its_core_and_its_helpers_that_of_the_control_plane_too() {
    let own = cores_of(Path::new("/proc/thread-self")).expect("this thread's");
    let first_two: Vec<&str> = own.split([',', '-']).take(2).collect();
    let [control, shard] = first_two[..] else { panic!("this test needs two cores, and has {own}") };
    let dir = tempfile::tempdir().expect("a directory");
    let server = Server::start(dir.path(), &[("control.cores", control), ("shards.cores", shard)]);
    let (low, high) = (control.min(shard), control.max(shard));
    let both = [format!("{low}-{high}"), format!("{low},{high}")];
    let belongs = |name: &str, cores: &String| match name {
        "shard-0" | "keys-0" => cores == shard,
        "flush-0" | "prepare-0" | "keep-keys-0" | "merge-keys-0" => both.contains(cores),
        _ => cores == control,
    };
    // A thread goes there itself, once it runs.
    wait_for("each thread to be where it belongs", || {
        let tasks = fs::read_dir(format!("/proc/{}/task", server.pid())).expect("a listing");
        let numbered = tasks.filter_map(|task| {
            let task = task.expect("an entry").path();
            let name = fs::read_to_string(task.join("comm")).ok()?.trim().to_owned();
            name.ends_with("-0").then_some(())?;
            Some((cores_of(&task)?, name))
        });
        let numbered: Vec<_> = numbered.collect();
        (numbered.len() >= 6 && numbered.iter().all(|(cores, name)| belongs(name, cores))).then_some(())
    });
}
