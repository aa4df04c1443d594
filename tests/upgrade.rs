//! Data of earlier versions: this program starts on it, and everything is there. Data of newer ones: it is refused, and says why.
//! `tests/data/upgrade/make.sh` makes the archives of the former.

#[path = "../shards/tests/engine/client.rs"]
mod client;
#[path = "server/process.rs"]
mod process;
#[path = "server/rest.rs"]
mod rest;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use bytes::Bytes;
use client::Client;
use process::{Server, wait_for};
use serde_json::{Value, json};
use ttdust_proto::{
    ingestion::{AppendRequest, AppendResponse, Status},
    path,
};

/// What a checksum of a block of key files covers, and the block.
const BLOCK: usize = 4096;

/// A data directory as an earlier version left it, and what that version said of it.
struct Old {
    dir: tempfile::TempDir,
    expected: Value,
}

impl Old {
    fn unpack(archive: &Path) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let status = Command::new("tar").arg("xzf").arg(archive).arg("-C").arg(dir.path()).status().expect("tar");
        assert!(status.success(), "{}", archive.display());
        let expected = fs::read_to_string(dir.path().join("expected.json")).expect("what is expected");
        Self { expected: serde_json::from_str(&expected).expect("JSON"), dir }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn settings(&self, more: &[(&str, &str)]) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let own = self.expected["settings"].as_object().expect("settings");
        let own = own.iter().map(|(key, value)| (key.clone(), text(value)));
        own.chain(more.iter().map(|&(key, value)| (key.to_owned(), value.to_owned()))).collect()
    }

    fn spawn(&self, more: &[(&str, &str)]) -> Server {
        let settings = self.settings(more);
        let settings: Vec<_> = settings.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        Server::spawn(self.dir.path(), &settings)
    }

    fn start(&self, more: &[(&str, &str)]) -> Server {
        let mut server = self.spawn(more);
        server.wait_until_ready();
        server
    }

    /// Files with this ending, anywhere in the data.
    fn files(&self, ending: &str) -> Vec<PathBuf> {
        let mut waiting = vec![self.data()];
        let mut found = Vec::new();
        while let Some(path) = waiting.pop() {
            if path.is_dir() {
                waiting.extend(fs::read_dir(&path).expect("a listing").map(|entry| entry.expect("an entry").path()));
            } else if path.to_str().is_some_and(|path| path.ends_with(ending)) {
                found.push(path);
            }
        }
        found.sort();
        found
    }
}

/// All archives; the newest versions come last.
fn archives() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/upgrade");
    let entries = fs::read_dir(folder).expect("a listing").map(|entry| entry.expect("an entry").path());
    let mut archives: Vec<_> = entries.filter(|path| path.to_string_lossy().ends_with(".tar.gz")).collect();
    archives.sort();
    assert!(!archives.is_empty(), "there is no data of an earlier version");
    archives
}

fn newest() -> Old {
    Old::unpack(archives().last().expect("an archive"))
}

/// Whether everything that was said is said still; more may be.
#[track_caller]
fn assert_holds(now: &Value, then: &Value, what: &str) {
    match (now, then) {
        (Value::Object(now), Value::Object(then)) => {
            for (name, value) in then {
                assert_holds(now.get(name).unwrap_or(&Value::Null), value, &format!("{what}/{name}"));
            }
        }
        (Value::Array(now), Value::Array(then)) => {
            assert_eq!(now.len(), then.len(), "{what}");
            now.iter()
                .zip(then)
                .enumerate()
                .for_each(|(at, (now, then))| assert_holds(now, then, &format!("{what}/{at}")));
        }
        _ => assert_eq!(now, then, "{what}"),
    }
}

fn check_catalog(server: &Server, expected: &Value) {
    let (_, streams) = rest::call(&server.http, "GET", "/api/v1/streams", "");
    assert_holds(&streams["streams"], &expected["streams"], "streams");
    let (_, pipelines) = rest::call(&server.http, "GET", "/api/v1/pipelines", "");
    assert_holds(&pipelines["pipelines"], &expected["pipelines"], "pipelines");
    assert_eq!(pipelines["pipelines"][0]["version"], 2, "{pipelines}");
    let schema = expected["schemas"][0]["schema_id"].as_str().expect("a schema");
    let (_, versions) = rest::call(&server.http, "GET", &format!("/api/v1/schemas/{schema}/versions"), "");
    assert_holds(&versions["versions"], &expected["schemas"], "schemas");
    let (_, keys) = rest::call(&server.http, "GET", "/api/v1/api-keys", "");
    let keys: Vec<_> = keys["api_keys"].as_array().expect("keys").iter().map(|key| &key["key_id"]).collect();
    assert_eq!(json!(keys), expected["api_keys"]);
}

fn check_records(server: &Server, expected: &Value) {
    for (stream, records) in expected["records"].as_object().expect("records") {
        let read = Value::Array(rest::read_all(&server.http, stream, "limit=1000"));
        assert_holds(&read, records, stream);
        for record in records.as_array().expect("a list").iter().filter(|_| stream == "events") {
            let id = record["payload"]["id"].as_str().expect("an id");
            let path = format!("/api/v1/streams/events/records?key_field=id&key_value={id}");
            let (_, found) = rest::call(&server.http, "GET", &path, "");
            assert_holds(&found["record"], record, id);
        }
    }
}

fn append(server: &Server, request: AppendRequest) -> AppendResponse {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut client = Client::connect(server.grpc.parse().expect("an address")).await;
        let mut call = client.call(path::APPEND).await;
        call.send(&AppendRequest { stream_id: "events".into(), ..request }).await;
        call.finish();
        call.receive().await.expect("an answer")
    })
}

fn payloads(count: usize) -> Vec<Bytes> {
    (0..count).map(|n| Bytes::from(json!({"id": format!("new-{n}"), "n": "1"}).to_string())).collect()
}

/// Every key and every number that was taken is known, with the sequence number that its record got.
fn check_duplicates(server: &Server, expected: &Value) {
    let keys: BTreeMap<String, i64> = serde_json::from_value(expected["keys"].clone()).expect("keys");
    let request = AppendRequest {
        payloads: payloads(keys.len()),
        idempotency_keys: keys.keys().cloned().collect(),
        ..Default::default()
    };
    let answer = append(server, request);
    assert_eq!((answer.duplicates as usize, answer.accepted), (keys.len(), 0), "{answer:?}");
    let got: Vec<_> = answer.duplicate_sequences.iter().map(|duplicate| duplicate.sequence_number).collect();
    assert_eq!(got, keys.values().copied().collect::<Vec<_>>());

    let taken: Vec<Option<i64>> = serde_json::from_value(expected["writer"].clone()).expect("numbers");
    let writer = |epoch, first, count| AppendRequest {
        payloads: payloads(count),
        writer_id: "tower".into(),
        writer_epoch: epoch,
        first_writer_sequence: first,
        ..AppendRequest::default()
    };
    let answer = append(server, writer(3, 0, taken.len()));
    assert_eq!(answer.accepted, 0, "{answer:?}");
    let got: Vec<_> = answer.duplicate_sequences.iter().map(|d| (d.index as usize, d.sequence_number)).collect();
    let wanted: Vec<_> = taken.iter().enumerate().filter_map(|(at, sequence)| Some((at, (*sequence)?))).collect();
    assert_eq!(got, wanted);
    let gap = append(server, writer(3, taken.len() as u64 + 1, 1));
    assert_eq!(gap.error.map(|error| error.code).as_deref(), Some("WRITER_SEQUENCE_GAP"));
}

/// The contents of all files, but for SQLite's index of its own log, which each reader makes anew.
fn contents(old: &Old) -> BTreeMap<PathBuf, Vec<u8>> {
    let kept = old.files("").into_iter().filter(|path| !path.to_string_lossy().ends_with("-shm"));
    kept.map(|path| (path.clone(), fs::read(&path).expect("a file"))).collect()
}

#[test]
fn data_of_an_earlier_version_is_all_there_in_the_log_and_in_files() {
    for archive in archives() {
        let old = Old::unpack(&archive);
        assert!(archive.metadata().expect("a file").len() < 200 << 10, "{} is too large to be kept", archive.display());
        let server = old.start(&[("buffer.flush_interval_ms", "3600000")]);
        check_catalog(&server, &old.expected);
        check_records(&server, &old.expected);
        check_duplicates(&server, &old.expected);
        server.kill();

        // What that left, and what the log held, goes to files; then all of it is there still, and more can come.
        let server = old.start(&[("buffer.flush_interval_ms", "20")]);
        for (stream, records) in old.expected["records"].as_object().expect("records") {
            let last = records.as_array().and_then(|records| records.last()).expect("a record");
            rest::wait_for_flush(&server.http, stream, last["sequence_number"].as_i64().expect("a number"));
        }
        check_records(&server, &old.expected);
        check_duplicates(&server, &old.expected);
        let answer = append(&server, AppendRequest { payloads: payloads(2), ..AppendRequest::default() });
        assert_eq!((answer.status(), answer.accepted), (Status::Ok, 2));
        assert!(server.stop().success());
    }
}

#[test]
fn a_dry_run_says_what_a_migration_would_do_and_changes_nothing() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations/sqlite");
    let mut steps: Vec<_> = fs::read_dir(folder)
        .expect("a listing")
        .map(|entry| entry.expect("an entry").path().file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    steps.sort();
    for archive in archives() {
        let (old, another) = (Old::unpack(&archive), Old::unpack(&archive));
        let connection = rusqlite::Connection::open(another.data().join("catalog.sqlite")).expect("opened");
        let from: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).expect("a version");
        let from = from as usize;
        let before = contents(&old);
        let mut command = Command::new(env!("CARGO_BIN_EXE_ttdust"));
        let output = command.args(["migrate", "--dry-run", "--data-dir"]).arg(old.data()).output().expect("run");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        let wanted = format!("version {from} of {}; would run {:?}", steps.len(), &steps[from..]);
        assert!(said.contains(&wanted), "{said} instead of {wanted}");
        assert_eq!(contents(&old).len(), before.len());
        assert!(contents(&old) == before, "the dry run changed something");
    }
}

/// Makes a change to a file and starts a server, which must be refused; what it said.
#[track_caller]
fn refused_after(file: impl FnOnce(&Old) -> PathBuf, change: impl FnOnce(&mut Vec<u8>)) -> String {
    let old = newest();
    let path = file(&old);
    let mut bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    change(&mut bytes);
    fs::write(&path, &bytes).expect("written");
    let before = contents(&old);
    let mut server = old.spawn(&[]);
    assert!(!server.wait().success(), "{} was taken", path.display());
    let after = contents(&old);
    // Who has the catalog is written down there before the log is looked at.
    for (path, bytes) in before.iter().filter(|(path, _)| !path.to_string_lossy().contains("catalog.sqlite")) {
        assert!(after.get(path) == Some(bytes), "{} was changed or removed", path.display());
    }
    server.log()
}

/// Seals a block of a file of keys anew.
fn seal(block: &mut [u8]) {
    let checksum = crc32c::crc32c(&block[..BLOCK - 4]);
    block[BLOCK - 4..BLOCK].copy_from_slice(&checksum.to_le_bytes());
}

fn only(old: &Old, ending: &str) -> PathBuf {
    old.files(ending).into_iter().next().unwrap_or_else(|| panic!("no {ending}"))
}

#[test]
fn a_data_directory_of_a_newer_version_is_refused() {
    let said = refused_after(|old| old.data().join("FORMAT"), |bytes| *bytes = b"2\n".to_vec());
    assert!(said.contains("says format"), "{said}");
    assert!(said.contains("run the program that wrote it"), "{said}");
}

#[test]
fn a_catalog_of_a_newer_version_is_refused() {
    let old = newest();
    let connection = rusqlite::Connection::open(old.data().join("catalog.sqlite")).expect("opened");
    connection.pragma_update(None, "user_version", 99).expect("set");
    drop(connection);
    let mut server = old.spawn(&[]);
    assert!(!server.wait().success());
    assert!(server.log().contains("its version is 99") && server.log().contains("newer program"), "{}", server.log());
}

#[test]
fn a_frame_of_a_newer_version_is_refused_and_not_cut_off() {
    let first = |old: &Old| {
        let with_frames = |path: &PathBuf| fs::read(path).expect("a file").starts_with(b"TTDw");
        old.files(".wal").into_iter().rfind(with_frames).expect("a segment with frames")
    };
    let said = refused_after(first, |bytes| {
        bytes[4..6].copy_from_slice(&900u16.to_le_bytes());
        let body = u32::from_le_bytes(bytes[8..12].try_into().expect("four bytes")) as usize;
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&bytes[..60]), &bytes[64..64 + body]);
        bytes[60..64].copy_from_slice(&checksum.to_le_bytes());
    });
    assert!(said.contains("format version 900") && said.contains("use a newer program"), "{said}");
}

#[test]
fn files_of_keys_and_writers_of_a_newer_version_are_refused_and_not_set_aside() {
    let in_footer = |bytes: &mut Vec<u8>| {
        let at = bytes.len() - BLOCK;
        bytes[at + 8..at + 12].copy_from_slice(&900u32.to_le_bytes());
        seal(&mut bytes[at..]);
    };
    let said = refused_after(|old| only(old, ".keys"), in_footer);
    assert!(said.contains("format version 900") && said.contains("use a newer program"), "{said}");
    let in_head = |bytes: &mut Vec<u8>| {
        bytes[8..12].copy_from_slice(&900u32.to_le_bytes());
        seal(&mut bytes[..BLOCK]);
    };
    let said = refused_after(|old| only(old, ".writers"), in_head);
    assert!(said.contains("format version 900") && said.contains("use a newer program"), "{said}");
    let in_seeds = |bytes: &mut Vec<u8>| {
        bytes[8] = 90;
        seal(&mut bytes[..BLOCK]);
    };
    let said = refused_after(|old| only(old, "keys/seeds"), in_seeds);
    assert!(said.contains("format version 90") && said.contains("use a newer program"), "{said}");
}

#[test]
fn a_parquet_file_of_a_newer_version_is_named_by_the_query() {
    let old = newest();
    let changed = old.files(".parquet").into_iter().filter(|path| {
        let mut bytes = fs::read(path).expect("a file");
        // The footer's key, and behind it the tag and the length of its value.
        let Some(at) = bytes.windows(21).position(|window| window == b"ttdust.format_version") else { return false };
        assert_eq!(bytes[at + 23], b'1');
        bytes[at + 23] = b'2';
        fs::write(path, bytes).is_ok()
    });
    assert!(changed.count() > 0);
    let server = old.start(&[("buffer.flush_interval_ms", "3600000")]);
    let everything = "start=2020-01-01T00:00:00Z&end=2100-01-01T00:00:00Z";
    let (status, _) = rest::call(&server.http, "GET", &format!("/api/v1/streams/events/records?{everything}"), "");
    assert_eq!(status, 500);
    wait_for("the log line", || {
        let log = server.log();
        (log.contains("format_version 2") && log.contains("use a newer program")).then_some(())
    });
    // Nothing else is the worse for it.
    let answer = append(&server, AppendRequest { payloads: payloads(1), ..AppendRequest::default() });
    assert_eq!(answer.accepted, 1);
    assert!(server.stop().success());
}
