//! `ttdust doctor` as an operator runs it: what it tells of a machine that is fit and of one that is not, beside a server too, and
//! that it leaves nothing behind.

#[path = "server/certificates.rs"]
mod certificates;
#[path = "cli/client.rs"]
mod client;
#[path = "server/disk.rs"]
mod disk;
#[path = "server/postgres.rs"]
mod postgres;
#[path = "server/process.rs"]
mod process;
#[path = "server/python.rs"]
mod python;
#[path = "server/redis.rs"]
mod redis_server;
#[path = "server/s3.rs"]
mod s3;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use certificates::Authority;
use client::{Client, Ended};
use disk::SmallDisk;
use postgres::Database;
use process::{Server, wait_for};
use redis_server::Redis;
use s3::Store;
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ttdust");

/// The command line for a server whose data is here.
fn arguments<'a>(data: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let usual = ["doctor", "--bind-address", "127.0.0.1:0", "--grpc-address", "127.0.0.1:0", "--data-dir", data];
    [&usual[..], &["--set", "wal.quota_bytes=64MiB", "--set", "shards.count=1"], more].concat()
}

fn doctor(data: &Path, more: &[&str]) -> Ended {
    let client = Client::new("").without_endpoint();
    client.run(&arguments(data.to_str().expect("UTF-8"), more))
}

/// The report of a run that ends with this status.
#[track_caller]
fn report(ended: Ended, status: i32) -> Value {
    let ended = ended.fails(status);
    assert_eq!(ended.out.lines().count(), 1, "one object: {}", ended.out);
    serde_json::from_str(&ended.out).expect("JSON")
}

#[track_caller]
fn check<'a>(report: &'a Value, name: &str) -> &'a Value {
    let found = report["checks"].as_array().expect("a list").iter().find(|check| check["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {report}"))
}

/// The check failed, says this, and what to do.
#[track_caller]
fn assert_told(report: &Value, name: &str, verdict: &str, found: &str, remedy: &str) {
    let check = check(report, name);
    assert_eq!(check["verdict"], verdict, "{check}");
    assert!(check["found"].as_str().expect("a text").contains(found), "{check}");
    assert!(check["remedy"].as_str().expect("a text").contains(remedy), "{check}");
}

/// Everything below a directory.
fn all_below(dir: &Path) -> Vec<PathBuf> {
    let (mut waiting, mut found) = (vec![dir.to_owned()], Vec::new());
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(dir).expect("a listing") {
            let path = entry.expect("an entry").path();
            found.push(path.clone());
            if path.is_dir() {
                waiting.push(path);
            }
        }
    }
    found
}

#[test]
fn a_fresh_directory_is_looked_at_and_left_as_it_was() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("deep/data");
    let json = report(doctor(&data, &["-o", "json"]), 0);
    let names: Vec<_> = json["checks"].as_array().expect("a list").iter().map(|check| &check["name"]).collect();
    assert_eq!(
        names,
        [
            "configuration",
            "server",
            "kernel",
            "data_dir",
            "file_system",
            "disk_space",
            "io_uring",
            "direct_io",
            "durable_writes",
            "memlock",
            "open_files",
            "cores",
            "clock",
            "memory",
            "cpu_quota",
            "http_port",
            "grpc_port",
            "tls"
        ]
    );
    for check in json["checks"].as_array().expect("a list") {
        let is_ok = check["verdict"] == "ok";
        assert!(!check["found"].as_str().expect("a text").is_empty(), "{check}");
        assert_eq!(check.get("remedy").is_none(), is_ok, "a remedy where something is to be done: {check}");
    }
    assert!(check(&json, "data_dir")["found"].as_str().expect("a text").contains("can be made"));
    assert!(check(&json, "durable_writes")["found"].as_str().expect("a text").contains("MB/s"));
    assert!(json.get("server_pid").is_none() && json["version"] == env!("CARGO_PKG_VERSION"));
    assert_eq!(all_below(dir.path()), Vec::<PathBuf>::new());

    let text = doctor(&data, &[]).ok();
    let lines: Vec<_> = text.lines().collect();
    let column = lines[0].find("configuration").expect("the first check");
    assert!(
        names.iter().all(|name| lines
            .iter()
            .any(|line| { line.get(column..).is_some_and(|rest| rest.split(' ').next() == name.as_str()) })),
        "{text}"
    );
    assert!(lines.last().expect("a line").ends_with(" 0 failed"), "{text}");
    assert_eq!(all_below(dir.path()), Vec::<PathBuf>::new());
}

#[test]
fn what_keeps_a_server_from_starting_fails_with_a_remedy() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("file");
    fs::write(&file, "").expect("written");
    let json = report(doctor(&file.join("data"), &["-o", "json"]), 1);
    assert_told(&json, "data_dir", "failed", "cannot be written", "data_dir");
    assert_told(&json, "io_uring", "warning", "not probed", "data_dir");
    assert_eq!(json["status"], "failed");

    let log = format!("wal.directory={}", file.join("wal").display());
    let json = report(doctor(dir.path(), &["-o", "json", "--set", &log]), 1);
    assert_eq!(check(&json, "data_dir")["verdict"], "ok");
    assert_told(&json, "wal_directory", "failed", "cannot be written", "wal.directory");

    let json = report(doctor(dir.path(), &["-o", "json", "--set", "shards.cores=1000", "--set", "shards.count=0"]), 1);
    assert_told(&json, "cores", "failed", "shards.cores names cores 1000", "cpuset");
    assert!(check(&json, "durable_writes")["found"].is_string(), "the rest is looked at all the same");

    let json = report(doctor(dir.path(), &["-o", "json", "--set", "limits.record_bytes=8MiB"]), 1);
    assert_told(&json, "configuration", "failed", "limits.record_bytes", "config reference");

    let text = doctor(&file.join("data"), &[]).fails(1).out;
    assert!(text.lines().any(|line| line.starts_with("FAILED") && line.contains("data_dir")), "{text}");
    assert!(text.contains("-> make it a directory that user"), "{text}");

    assert_eq!(all_below(dir.path()), [file]);
}

#[test]
fn what_cannot_be_read_is_the_caller_s_mistake() {
    let dir = tempfile::tempdir().expect("a directory");
    for more in [&["--set", "no.such=1"][..], &["--config", "/no/such/file"], &["--no-such"], &["-o", "xml"]] {
        let ended = doctor(dir.path(), more).fails(2);
        assert!(ended.out.is_empty() && !ended.err.is_empty(), "{ended:?}");
    }
}

#[test]
fn io_uring_that_is_refused_is_a_warning_that_says_why() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().to_str().expect("UTF-8").to_owned();
    let under_filter = |more: &[&str]| -> Ended {
        let mut command = Command::new(python::interpreter());
        command.arg(python::script("without_io_uring.py")).arg(PROGRAM).args(arguments(&data, more));
        command.output().expect("it starts").into()
    };
    let json = report(under_filter(&["-o", "json"]), 0);
    assert_told(&json, "io_uring", "warning", "io_uring_setup: Operation not permitted", "seccomp");
    assert_told(&json, "io_uring", "warning", "seccomp filter on", "io_uring_setup");
    assert_eq!(check(&json, "io_uring")["found"].as_str().expect("a text").matches("epoll").count(), 1);

    let json = report(under_filter(&["-o", "json", "--set", "shards.io=uring"]), 1);
    assert_told(&json, "io_uring", "failed", "refuses the start", "shards.io = auto");
    let json = report(under_filter(&["-o", "json", "--set", "shards.io=epoll"]), 0);
    assert_eq!(check(&json, "io_uring")["verdict"], "ok");
    assert_eq!(all_below(dir.path()), Vec::<PathBuf>::new());
}

#[test]
fn beside_a_server_it_says_so_and_disturbs_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Server::start(dir.path(), &[("wal.quota_bytes", "64MiB"), ("shards.count", "1")]);
    let data = dir.path().join("data");
    let (http, grpc) = (format!("bind_address={}", server.http), format!("grpc_address={}", server.grpc));
    let with_ports = |data: &Path| {
        let data = data.to_str().expect("UTF-8");
        let arguments = ["doctor", "-o", "json", "--data-dir", data, "--set", &http, "--set", &grpc];
        Client::new("").without_endpoint().run(&arguments)
    };
    let json = report(with_ports(&data), 0);
    assert_eq!(json["server_pid"], server.pid());
    assert!(check(&json, "server")["found"].as_str().expect("a text").contains(&server.pid().to_string()));
    for port in ["http_port", "grpc_port"] {
        assert!(check(&json, port)["found"].as_str().expect("a text").contains("taken"), "{json}");
    }
    assert!(check(&json, "durable_writes")["found"].is_string());
    let left: Vec<_> = all_below(&data).into_iter().filter(|path| path.to_string_lossy().contains("doctor")).collect();
    assert_eq!(left, Vec::<PathBuf>::new());

    // To another server its ports are taken.
    let json = report(with_ports(&dir.path().join("other")), 1);
    assert_told(&json, "http_port", "failed", "cannot listen", "bind_address");
    assert_told(&json, "grpc_port", "failed", "cannot listen", "grpc_address");

    assert!(server.stop().success(), "a clean stop");
    let json = report(doctor(&data, &["-o", "json"]), 0);
    assert!(json.get("server_pid").is_none(), "{json}");
    let again = Server::start(dir.path(), &[("wal.quota_bytes", "64MiB"), ("shards.count", "1")]);
    assert!(again.stop().success(), "nothing of it is in the way of the next start");
}

#[test]
fn services_that_are_away_are_told_of_without_their_secrets() {
    let dir = tempfile::tempdir().expect("a directory");
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    fs::write(&cert, "no certificate").expect("written");
    let settings = [
        "pg.host=127.0.0.1".to_owned(),
        "pg.port=1".to_owned(),
        "pg.password=s3cret-pg".to_owned(),
        "redis.url=redis://user:s3cret-redis@127.0.0.1:1".to_owned(),
        "s3.endpoint=http://127.0.0.1:1".to_owned(),
        "s3.access_key=a".to_owned(),
        "s3.secret_key=s3cret-s3".to_owned(),
        format!("tls.cert_path={}", cert.display()),
        format!("tls.key_path={}", key.display()),
    ];
    let mut more = vec!["-o", "json"];
    settings.iter().for_each(|setting| more.extend(["--set", setting]));
    let data = dir.path().join("data");
    let ended = doctor(&data, &more);
    assert!(!ended.out.contains("s3cret") && !ended.err.contains("s3cret"), "{ended:?}");
    let json = report(ended, 1);
    assert_told(&json, "postgres", "failed", "127.0.0.1:1/ttdust", "pg.host");
    assert_told(&json, "s3", "failed", "http://127.0.0.1:1 bucket ttdust-data", "s3.endpoint");
    assert_told(&json, "redis", "warning", "redis://user:***@127.0.0.1:1", "redis.url");
    assert_told(&json, "tls", "failed", "cert.pem", "tls.cert_path");
    assert!(!data.exists());
}

#[test]
fn services_that_are_there_are_looked_at_and_not_changed() {
    let dir = tempfile::tempdir().expect("a directory");
    let (database, store, redis) = (Database::fresh(), Store::start(), Redis::start());
    let own = Authority::new("a CA").server();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    fs::write(&cert, &own.cert_pem).expect("written");
    fs::write(&key, &own.key_pem).expect("written");
    let postgres = database.options();
    let mut settings = store.settings();
    settings.extend([
        ("pg.host", postgres.host),
        ("pg.port", postgres.port.to_string()),
        ("pg.database", postgres.database),
        ("pg.user", postgres.user),
        ("pg.tls", "disable".to_owned()),
        ("redis.url", redis.url()),
        ("redis.timeout_ms", "10000".to_owned()),
        ("tls.cert_path", cert.display().to_string()),
        ("tls.key_path", key.display().to_string()),
    ]);
    let settings: Vec<_> = settings.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let mut more = vec!["-o", "json"];
    settings.iter().for_each(|setting| more.extend(["--set", setting]));
    let data = dir.path().join("data");
    // The second finds all as the first did: nothing was made.
    for _ in 0..2 {
        let json = report(doctor(&data, &more), 0);
        let found = |name: &str| check(&json, name)["found"].as_str().expect("a text").to_owned();
        for name in ["postgres", "s3", "redis"] {
            assert_eq!(check(&json, name)["verdict"], "ok", "{json}");
        }
        assert!(found("postgres").contains("a start brings its catalog forward by"), "{json}");
        assert!(found("redis").contains("answers"), "{json}");
        assert_eq!(store.keys(), Vec::<String>::new());
        // The key's file may be read by others.
        assert_told(&json, "tls", "warning", "chmod 600", "SIGHUP");
    }
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("its owner's alone");
    let json = report(doctor(&data, &more), 0);
    assert!(check(&json, "tls")["found"].as_str().expect("a text").contains("valid until 20"), "{json}");
    assert!(!data.exists());
}

#[test]
fn the_disk_of_the_data_is_looked_at_where_the_log_has_its_own() {
    let dir = tempfile::tempdir().expect("a directory");
    let (data, log) = (dir.path().join("data"), dir.path().join("log"));
    let setting = format!("wal.directory={}", log.display());
    let json = report(doctor(&data, &["-o", "json", "--set", &setting]), 0);
    let is_there =
        |json: &Value, name: &str| json["checks"].as_array().expect("a list").iter().any(|c| c["name"] == name);
    assert!(is_there(&json, "disk_space") && !is_there(&json, "data_disk_space"), "one disk is told of once: {json}");

    let _disk = SmallDisk::mount(&data, "8m");
    let json = report(doctor(&data, &["-o", "json", "--set", &setting]), 1);
    assert_told(&json, "data_disk_space", "failed", "8 MiB free", "make room");
    assert_told(&json, "data_file_system", "warning", "tmpfs", "local disk");
    assert!(check(&json, "disk_space")["found"].as_str().is_some_and(|found| found.contains("wal.quota_bytes")));
    assert_eq!(all_below(&data), Vec::<PathBuf>::new());
}

#[test]
fn an_error_of_the_store_tells_no_access_key() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::start();
    for (key, value, code) in
        [("s3.access_key", "AKOTHER", "InvalidAccessKeyId"), ("s3.secret_key", "other", "SignatureDoesNotMatch")]
    {
        let mut settings: Vec<String> = store.settings().iter().map(|(key, value)| format!("{key}={value}")).collect();
        settings.push(format!("{key}={value}"));
        let mut more = vec!["-o", "json"];
        settings.iter().for_each(|setting| more.extend(["--set", setting]));
        let json = report(doctor(&dir.path().join("data"), &more), 1);
        assert_told(&json, "s3", "failed", code, "s3.access_key");
        for name in [s3::ACCESS_KEY, "AKOTHER"] {
            assert!(!json.to_string().contains(name), "{json}");
        }
    }
}

#[test]
fn broken_off_it_leaves_nothing_behind() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().to_str().expect("UTF-8");
    let mut command = Client::new("").without_endpoint().command(&arguments(data, &[]));
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    let mut ended = None;
    wait_for("its folder", || {
        ended = child.try_wait().expect("a status");
        (ended.is_some() || !all_below(dir.path()).is_empty()).then_some(())
    });
    if ended.is_none() {
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("sent");
    }
    let status = child.wait().expect("a status");
    assert!(matches!(status.code(), Some(0 | 1)), "it ends by itself: {status}");
    assert_eq!(all_below(dir.path()), Vec::<PathBuf>::new());
}
