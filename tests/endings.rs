//! How a server comes to its end, and what it does when it runs out of descriptors: asked once it drains, asked twice it goes at
//! once, and neither loses what was acked.

#[path = "../shards/tests/engine/client.rs"]
mod client;
#[path = "../bench/src/flood/frames.rs"]
mod frames;
#[path = "server/process.rs"]
mod process;
#[path = "server/producer.rs"]
mod producer;
#[path = "server/rest.rs"]
mod rest;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    time::{Duration, Instant},
};

use bytes::Bytes;
use frames::{PREFACE, put};
use process::{DEADLINE, Server, wait_for};
use producer::{Producer, block_on};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};
use serde_json::json;

const SETTINGS: [(&str, &str); 2] = [("shards.count", "1"), ("wal.quota_bytes", "256MiB")];
/// What two signals must lie apart to be two wishes.
const WISHES_APART: Duration = Duration::from_millis(1100);

fn with_records(dir: &Path) -> (Server, Vec<Bytes>) {
    let server = Server::start(dir, &SETTINGS);
    rest::create_stream(&server.http, "events", &json!({"type": "object"}));
    let acked = block_on(async {
        let mut producer = Producer::connect(&server.grpc, "events").await;
        for n in 0..20 {
            producer.append(vec![format!(r#"{{"n":{n}}}"#).into()]).await.expect("taken");
        }
        producer.acked
    });
    (server, acked)
}

fn check(server: &Server, acked: Vec<Bytes>) {
    block_on(async {
        let mut producer = Producer::reconnect(&server.grpc, "events", acked).await;
        let read = producer.read_all().await;
        producer.check(&read);
        producer.append(vec![Bytes::from_static(b"{}")]).await.expect("taken");
    });
}

/// A client that has said hello and answers nothing from then on: a drain waits for it.
fn silent(server: &Server) -> TcpStream {
    let mut socket = TcpStream::connect(&server.grpc).expect("connected");
    socket.set_read_timeout(Some(DEADLINE)).expect("set");
    let mut hello = PREFACE.to_vec();
    put(&mut hello, frames::SETTINGS, 0, 0, b"");
    put(&mut hello, frames::SETTINGS, frames::ACK, 0, b"");
    socket.write_all(&hello).expect("sent");
    let mut first = [0; 9];
    socket.read_exact(&mut first).expect("the server's settings");
    socket
}

fn wait_for_drain(server: &Server) {
    wait_for("the drain", || server.log().contains("draining").then_some(()));
}

#[test]
fn asked_once_a_server_is_not_ready_waits_for_its_clients_and_ends_well() {
    let dir = tempfile::tempdir().expect("a directory");
    let (server, acked) = with_records(dir.path());
    let held = silent(&server);
    server.signal(Signal::TERM);
    wait_for_drain(&server);
    let (status, _) = rest::call(&server.http, "GET", "/health/ready", "");
    assert_eq!(status, 503, "not ready");
    let (status, _) = rest::call(&server.http, "GET", "/health/live", "");
    assert_eq!(status, 200, "and alive");
    drop(held);
    let mut server = server;
    assert!(server.wait().success(), "a clean stop");
    let server = Server::start(dir.path(), &SETTINGS);
    check(&server, acked);
    assert!(server.stop().success(), "a clean stop");
}

#[test]
fn asked_twice_a_server_ends_at_once_and_loses_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut server, acked) = with_records(dir.path());
    let held = silent(&server);
    server.signal(Signal::TERM);
    wait_for_drain(&server);
    // A wish that is repeated within a second is the same: this sleep is what the test is about.
    std::thread::sleep(WISHES_APART);
    let asked = Instant::now();
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(130), "the crash path");
    assert!(asked.elapsed() < Duration::from_secs(5), "at once");
    drop(held);
    let server = Server::start(dir.path(), &SETTINGS);
    check(&server, acked);
    assert!(server.stop().success(), "a clean stop");
}

/// How many descriptors the server has open.
fn descriptors(server: &Server) -> u64 {
    fs::read_dir(format!("/proc/{}/fd", server.pid())).expect("the server runs").count() as u64
}

/// `None`: as many as it may have.
fn limit_descriptors(server: &Server, limit: Option<u64>) {
    let pid = Pid::from_raw(server.pid() as i32).expect("a process");
    // The server has this one's hard limit.
    let maximum = getrlimit(Resource::Nofile).maximum;
    prlimit(Some(pid), Resource::Nofile, Rlimit { current: limit.or(maximum), maximum })
        .expect("within the hard limit");
}

#[test]
fn descriptors_that_run_out_stop_nothing_but_new_connections() {
    let dir = tempfile::tempdir().expect("a directory");
    let (server, acked) = with_records(dir.path());
    for (address, said) in [(&server.grpc, "accept failed: pausing"), (&server.http, "cannot accept a REST connection")]
    {
        limit_descriptors(&server, Some(descriptors(&server) + 8));
        let crowd: Vec<_> = (0..40).map(|_| TcpStream::connect(address).expect("the kernel takes it")).collect();
        wait_for("the pause", || server.log().contains(said).then_some(()));
        drop(crowd);
        limit_descriptors(&server, None);
        wait_for("an answer", || {
            let mut socket = TcpStream::connect(&server.http).ok()?;
            socket.set_read_timeout(Some(DEADLINE)).ok()?;
            let ask = format!("GET /health/ready HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", server.http);
            socket.write_all(ask.as_bytes()).ok()?;
            let mut answer = String::new();
            socket.read_to_string(&mut answer).ok()?;
            answer.starts_with("HTTP/1.1 200").then_some(())
        });
    }
    check(&server, acked);
    assert!(server.stop().success(), "a clean stop");
}
