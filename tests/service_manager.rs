//! What a service manager is told by systemd's protocol: that the server is ready, that it lives as long as every shard does, and
//! that it stops. The test is the manager: it binds the socket.

#[path = "server/process.rs"]
mod process;
#[path = "server/python.rs"]
mod python;
#[path = "server/rest.rs"]
mod rest;

use std::{
    io::{BufRead as _, BufReader, ErrorKind},
    os::unix::net::UnixDatagram,
    path::Path,
    process::{Child, Command, Stdio},
};

use process::{DEADLINE, Server};
use serde_json::json;

const SETTINGS: &[(&str, &str)] = &[("wal.quota_bytes", "256MiB"), ("shards.count", "1")];
const READY: &str = "READY=1";
const ALIVE: &str = "WATCHDOG=1";
const STOPPING: &str = "STOPPING=1";

/// The manager's end.
struct Told(UnixDatagram);

impl Told {
    /// What comes next, however long that takes.
    fn next(&self) -> String {
        self.0.set_nonblocking(false).expect("a socket");
        self.0.set_read_timeout(Some(DEADLINE)).expect("a socket");
        self.received().expect("told")
    }

    /// What came and was not looked at yet.
    fn waiting(&self) -> Vec<String> {
        self.0.set_nonblocking(true).expect("a socket");
        let next = || match self.received() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            told => Some(told.expect("a socket")),
        };
        std::iter::from_fn(next).collect()
    }

    fn received(&self) -> std::io::Result<String> {
        let mut bytes = [0; 256];
        let length = self.0.recv(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
    }
}

/// A server that is starting, and what it tells a manager which gives up after so long without a sign of life.
fn spawn(dir: &Path, variables: &[&str]) -> (Server, Told) {
    let path = dir.join("notify");
    let told = Told(UnixDatagram::bind(&path).expect("a socket"));
    let socket = format!("NOTIFY_SOCKET={}", path.display());
    (Server::spawn_under(&[&["env", socket.as_str()][..], variables].concat(), dir, SETTINGS), told)
}

/// A thread that does not run, until this is dropped.
struct Held(Child);

impl Held {
    fn new(server: &Server, thread: &str) -> Self {
        let mut command = Command::new(python::interpreter());
        command.arg("-B").arg(python::script("hold_thread.py")).arg(server.pid().to_string()).arg(thread);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the interpreter starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        assert_eq!(line, "held\n");
        Self(child)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // It ends with its input, and with it the hold.
        let _ = self.0.wait();
    }
}

#[test]
fn a_manager_is_told_of_the_start_of_life_and_of_the_end() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut server, told) = spawn(dir.path(), &["WATCHDOG_USEC=1200000"]);
    assert_eq!(told.next(), READY);
    // Who is told that the server is ready can call it.
    assert!(dir.path().join("ports.json").exists());
    server.wait_until_ready();
    assert_eq!(rest::call(&server.http, "GET", "/health/ready", "").0, 200);
    for _ in 0..3 {
        assert_eq!(told.next(), ALIVE);
    }
    assert!(server.stop().success(), "a clean stop");
    let mut last = told.waiting();
    last.retain(|state| state != ALIVE);
    assert_eq!(last, [STOPPING]);
}

#[test]
fn a_shard_that_stands_still_ends_the_signs_of_life_until_it_goes_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut server, told) = spawn(dir.path(), &["WATCHDOG_USEC=600000"]);
    assert_eq!(told.next(), READY);
    server.wait_until_ready();
    let health = || rest::call(&server.http, "GET", "/health/ready", "");
    assert_eq!(told.next(), ALIVE);
    let held = Held::new(&server, "shard-0");
    // The check takes a second, in which ten signs would have come: what was under way has come by then.
    let (status, body) = health();
    assert_eq!((status, &body["components"]["shard_0"]["status"]), (503, &json!("down")), "{body}");
    told.waiting();
    assert_eq!(health().0, 503);
    assert_eq!(told.waiting(), Vec::<String>::new());
    let stalled = || rest::metric::<f64>(&server.http, "ttdust_shard_stall_seconds{shard=\"0\"}");
    process::wait_for("the stall in the metrics", || (stalled() >= 1.0).then_some(()));
    assert!(server.log().contains("a shard stands still"), "{}", server.log());
    drop(held);
    assert_eq!(told.next(), ALIVE);
    process::wait_for("the end of the stall", || (stalled() == 0.0).then_some(()));
    assert!(server.log().contains("the shard goes on again"), "{}", server.log());
    assert_eq!(rest::metric::<f64>(&server.http, "ttdust_shard_stalls_total{shard=\"0\"}"), 1.0);
    assert!(server.stop().success(), "a clean stop");
}

#[test]
fn signs_of_life_are_for_whoever_asks_for_them() {
    let dir = tempfile::tempdir().expect("a directory");
    // Another process is watched, by a number that no process has.
    let (server, told) = spawn(dir.path(), &["WATCHDOG_USEC=1000", "WATCHDOG_PID=4194305"]);
    assert_eq!(told.next(), READY);
    assert!(server.stop().success(), "a clean stop");
    assert_eq!(told.waiting(), [STOPPING]);
}
