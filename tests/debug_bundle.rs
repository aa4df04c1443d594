//! `ttdust debug bundle`: an archive that the system's `tar` reads, without secrets and records, beside a server and without one.

#[path = "cli/client.rs"]
mod client;
#[path = "server/process.rs"]
mod process;
#[path = "server/rest.rs"]
mod rest;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use client::{Client, Ended};
use process::{Server, wait_for};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use ttdust_shards::wal::segment::file_name;

const SETTINGS: &[(&str, &str)] =
    &[("wal.quota_bytes", "64MiB"), ("shards.count", "1"), ("redis.url", "redis://user:s3cret-redis@127.0.0.1:1")];

/// Makes a bundle at `out`, and returns what is in it by name, without the folder that all is in.
fn bundle(client: &Client, data: &Path, out: &Path, more: &[(&str, &str)]) -> BTreeMap<String, String> {
    let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    let mut arguments = ["debug", "bundle", "--out"].map(str::to_owned).to_vec();
    arguments.extend([text(out), "--data-dir".into(), text(data)]);
    for (key, value) in [SETTINGS, more].concat() {
        arguments.extend(["--set".to_owned(), format!("{key}={value}")]);
    }
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let said = client.run(&arguments).ok();
    assert!(said.contains(out.to_str().expect("UTF-8")) && said.contains("notes.txt"), "{said}");
    assert_eq!(fs::metadata(out).expect("the bundle").permissions().mode() & 0o777, 0o600);
    unpacked(out)
}

fn unpacked(archive: &Path) -> BTreeMap<String, String> {
    let dir = tempfile::tempdir().expect("a directory");
    let tar = Command::new("tar").arg("-xzvf").arg(archive).arg("-C").arg(dir.path()).output().expect("tar starts");
    assert!(tar.status.success() && tar.stderr.is_empty(), "{tar:?}");
    let listed = String::from_utf8(tar.stdout).expect("UTF-8");
    let file = |name: &str| {
        let (folder, rest) = name.split_once('/').expect("a folder");
        assert!(folder.starts_with("ttdust-debug-20"), "{name}");
        (rest.to_owned(), fs::read_to_string(dir.path().join(name)).expect("extracted"))
    };
    listed.lines().map(file).collect()
}

fn json_of(parts: &BTreeMap<String, String>, name: &str) -> Value {
    serde_json::from_str(&parts[name]).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[track_caller]
fn assert_nothing_secret(parts: &BTreeMap<String, String>) {
    for (name, content) in parts {
        assert!(!content.contains("s3cret"), "a secret is in {name}: {content}");
    }
}

#[test]
fn beside_a_server_all_of_it_is_in() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Server::start(dir.path(), SETTINGS);
    let stream = rest::create_stream(&server.http, "clicks", &json!({"type": "object"}));
    let path = format!("/api/v1/streams/{stream}/records");
    let (status, answer) = rest::call(&server.http, "POST", &path, r#"[{"n": "s3cret-record"}]"#);
    assert_eq!(status, 200, "{answer}");

    let mut client = Client::new(&server.http);
    client.variable("TTDUST_API_KEY", "s3cret-key");
    let out = dir.path().join("one.tar.gz");
    let parts = bundle(&client, &dir.path().join("data"), &out, &[]);
    let names: Vec<_> = parts.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "config.toml",
            "data/files.txt",
            "data/wal.txt",
            "doctor.json",
            "notes.txt",
            "process/limits",
            "process/log.txt",
            "process/sched",
            "process/stacks.txt",
            "process/status",
            "process/threads.txt",
            "server/config.json",
            "server/jobs.jsonl",
            "server/metrics.txt",
            "server/ready.json",
            "server/streams.jsonl",
            "version.txt"
        ],
        "{}",
        parts["notes.txt"]
    );
    assert_nothing_secret(&parts);
    assert_eq!(parts["notes.txt"], "nothing is missing\n");
    assert!(parts["config.toml"].contains("redis://user:***@127.0.0.1:1"), "{}", parts["config.toml"]);
    assert_eq!(json_of(&parts, "doctor.json")["server_pid"], server.pid());
    assert!(parts["data/wal.txt"].contains("shard-00000: ") && parts["data/wal.txt"].contains(" 1 records"));
    assert!(parts["data/files.txt"].lines().any(|line| line.ends_with("/data/LOCK")), "{}", parts["data/files.txt"]);
    assert!(parts["process/status"].contains(&format!("Pid:\t{}\n", server.pid())));
    assert!(parts["process/threads.txt"].lines().count() > 2, "{}", parts["process/threads.txt"]);
    assert!(parts["process/stacks.txt"].contains(" shard-"), "{}", parts["process/stacks.txt"]);
    assert!(server.log().starts_with(&parts["process/log.txt"]) && !parts["process/log.txt"].is_empty());
    assert!(parts["server/metrics.txt"].contains("ttdust_io_backend"));
    assert_eq!(json_of(&parts, "server/streams.jsonl")["statistics"]["last_sequence"], 1);
    assert!(json_of(&parts, "server/ready.json")["components"].is_object());
    assert!(json_of(&parts, "server/config.json")["settings"].is_object());
    assert!(parts["version.txt"].contains(env!("CARGO_PKG_VERSION")));

    // What is there already stays.
    let before = fs::read(&out).expect("the bundle");
    let again = client.run(&["debug", "bundle", "--out", out.to_str().expect("UTF-8")]).fails(1);
    assert!(again.err.contains("one.tar.gz"), "{}", again.err);
    assert_eq!(fs::read(&out).expect("the bundle"), before);
    assert!(server.stop().success(), "a clean stop");
}

#[test]
fn without_a_server_the_notes_say_what_is_missing() {
    let dir = tempfile::tempdir().expect("a directory");
    // Nobody listens on port 1.
    let client = Client::new("http://127.0.0.1:1");
    let secrets = [
        ("pg.host", "127.0.0.1"),
        ("pg.port", "1"),
        ("pg.password", "s3cret-pg"),
        ("s3.endpoint", "http://127.0.0.1:1"),
        ("s3.access_key", "a"),
        ("s3.secret_key", "s3cret-s3"),
    ];
    let data = dir.path().join("data");
    let parts = bundle(&client, &data, &dir.path().join("one.tar.gz"), &secrets);
    let names: Vec<_> = parts.keys().map(String::as_str).collect();
    assert_eq!(names, ["config.toml", "doctor.json", "notes.txt", "version.txt"]);
    assert_nothing_secret(&parts);
    let notes = &parts["notes.txt"];
    for missing in ["data/wal.txt: ", "data/files.txt: ", "process: no server", "server: ttdust: cannot connect"] {
        assert!(notes.contains(missing), "{missing}: {notes}");
    }
    assert_eq!(json_of(&parts, "doctor.json")["status"], "failed");
    assert!(!data.exists(), "nothing is made");

    let nowhere = dir.path().join("none/one.tar.gz");
    let ended = client.run(&["debug", "bundle", "--out", nowhere.to_str().expect("UTF-8")]).fails(1);
    assert!(ended.err.contains("none/one.tar.gz"), "{}", ended.err);
}

/// The process has a file open whose name ends so.
fn reads(pid: u32, name: &str) -> bool {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().filter_map(Result::ok);
    open.filter_map(|entry| fs::read_link(entry.path()).ok()).any(|path: PathBuf| path.ends_with(name))
}

#[test]
fn broken_off_it_ends_at_once_and_leaves_no_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let (data, out) = (dir.path().join("data"), dir.path().join("one.tar.gz"));
    let shard = data.join("wal/shard-00000");
    fs::create_dir_all(&shard).expect("a folder");
    // A log that takes minutes to read, and next to no room.
    let segment = file_name(1, None);
    let log = fs::File::create(shard.join(&segment)).expect("a file");
    log.set_len(1 << 39).expect("a file with a hole");
    let client = Client::new("http://127.0.0.1:1");
    for (signal, begun) in [(Signal::INT, true), (Signal::TERM, true), (Signal::INT, false)] {
        let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
        let mut command = client.command(&["debug", "bundle", "--out", &text(&out), "--data-dir", &text(&data)]);
        command.args(["--set", "wal.quota_bytes=64MiB", "--set", "shards.count=1"]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        // In the middle of the log, or while the doctor is at work.
        wait_for("its beginning", || (if begun { reads(child.id(), &segment) } else { out.exists() }).then_some(()));
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("an id")).expect("an id");
        kill_process(pid, signal).expect("sent");
        let ended: Ended = child.wait_with_output().expect("its end").into();
        assert!(ended.fails(1).err.contains("broken off"), "{signal:?}");
        assert!(!out.exists(), "{signal:?}");
        let left: Vec<_> = fs::read_dir(&data).expect("a listing").filter_map(Result::ok).collect();
        assert_eq!(left.len(), 1, "the doctor leaves nothing either: {left:?}");
    }
}
