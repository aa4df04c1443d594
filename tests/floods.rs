//! Floods of HTTP/2 frames, with an honest client beside them: whoever floods is closed, the server's memory stays bounded, and
//! each call of the honest client is answered as ever.

#[path = "../bench/src/flood/attack.rs"]
mod attack;
#[path = "../shards/tests/engine/client.rs"]
mod client;
#[path = "../bench/src/flood/frames.rs"]
mod frames;
#[path = "server/honest.rs"]
mod honest;
#[path = "server/process.rs"]
mod process;
#[path = "server/producer.rs"]
mod producer;
#[path = "server/rest.rs"]
mod rest;

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use attack::{ATTACKS, Attack, Closed, Flooder};
use client::Client;
use frames::{PREFACE, Walk, put};
use honest::Honest;
use process::{DEADLINE, Server, wait_for};
use producer::block_on;
use ttdust_proto::{
    health::{HealthCheckRequest, HealthCheckResponse},
    ingestion::{IngestRequest, IngestResponse},
    path,
};

const MIB: u64 = 1 << 20;
/// What a flood may cost at most.
const MEMORY_MAX: u64 = 256 * MIB;
/// The reason of a goodbye to those who do too much.
const ENHANCE_YOUR_CALM: u32 = 11;
/// Connections that flood at a time.
const FLOODERS: usize = 4;

fn start(dir: &std::path::Path) -> Server {
    Server::start(dir, &[("shards.count", "1"), ("wal.quota_bytes", "256MiB")])
}

/// Floods until the server closes.
fn flooded(server: &Server, attack: &Attack) -> Closed {
    let mut flooder = Flooder::open(attack, server.grpc.parse().expect("an address")).expect("connected");
    let closed = flooder.flood(Instant::now() + DEADLINE).expect("a socket");
    closed.unwrap_or_else(|| panic!("{} was not closed, after {} MiB", attack.name, flooder.sent / MIB))
}

/// Open connections, as the server counts them.
fn connections(server: &Server) -> i64 {
    rest::metric(&server.http, "ttdust_grpc_connections_active{shard=\"0\"}")
}

/// Memory is bounded and the honest client served, whatever `flood` does; and in the end nobody is left.
fn beside_an_honest_client(name: &str, flood: impl FnOnce(&Server, &Attack, &Honest)) {
    let attack = ATTACKS.iter().find(|attack| attack.name == name).expect("a flood of this name");
    let dir = tempfile::tempdir().expect("a directory");
    let server = start(dir.path());
    let honest = Honest::start(&server);
    honest.goes_on("nothing");
    let (before, _) = server.memory();
    flood(&server, attack, &honest);
    let (_, peak) = server.memory();
    assert!(peak < before + MEMORY_MAX, "{name}: from {} to {} MiB", before / MIB, peak / MIB);
    honest.finish();
    wait_for("no open connection", || (connections(&server) == 0).then_some(()));
    assert!(server.stop().success(), "a clean stop");
}

/// Flooders of one kind, each closed, while others are served.
fn floods(name: &str) {
    beside_an_honest_client(name, |server, attack, honest| {
        std::thread::scope(|scope| {
            for _ in 0..FLOODERS {
                scope.spawn(|| {
                    let closed = flooded(server, attack);
                    let calm = [Closed::Goodbye(ENHANCE_YOUR_CALM), Closed::Cut];
                    assert!(calm.contains(&closed), "{}: {closed:?}", attack.name);
                    honest.goes_on(attack.name);
                });
            }
        });
    });
}

#[test]
fn rapid_resets_are_closed() {
    floods("rapid-reset");
}

#[test]
fn endless_headers_are_closed() {
    floods("continuation");
}

#[test]
fn floods_of_settings_are_closed() {
    floods("settings");
}

#[test]
fn floods_of_pings_are_closed() {
    floods("ping");
}

#[test]
fn floods_of_empty_data_are_closed() {
    floods("empty-data");
}

#[test]
fn floods_of_window_updates_are_closed() {
    floods("window-update");
}

#[test]
fn windows_of_a_byte_are_closed() {
    floods("tiny-window");
}

/// They do not hear that they are closed: what they did not take lies before it.
#[test]
fn readers_that_take_nothing_are_closed() {
    beside_an_honest_client("slow-reader", |server, attack, honest| {
        let address = server.grpc.parse().expect("an address");
        let mut held: Vec<_> = (0..FLOODERS).map(|_| Flooder::open(attack, address).expect("connected")).collect();
        for flooder in &mut held {
            // Closed for what it asks meanwhile, or after half a minute for what it does not take.
            flooder.flood(Instant::now() + Duration::from_secs(1)).expect("a socket");
        }
        honest.goes_on(attack.name);
        wait_for("the end of all but the honest client", || (connections(server) == 1).then_some(()));
        honest.goes_on(attack.name);
    });
}

#[test]
fn every_flood_is_tried() {
    for attack in &ATTACKS {
        let call = format!("(\"{}\"", attack.name);
        assert!(include_str!("floods.rs").contains(&call), "{} is tried by no test", attack.name);
    }
}

/// What an honest client sends is never taken for a flood: many calls one after the other, also ones that it gives up.
#[test]
fn an_honest_client_is_never_taken_for_a_flood() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = start(dir.path());
    block_on(async {
        let mut client = Client::connect(server.grpc.parse().expect("an address")).await;
        for number in 0..5_000 {
            let checked = client.unary::<HealthCheckResponse>(path::HEALTH_CHECK, &HealthCheckRequest::default()).await;
            checked.unwrap_or_else(|ended| panic!("call {number}: {ended:?}"));
        }
        for _ in 0..400 {
            let mut call = client.call(path::HEALTH_WATCH).await;
            call.send(&HealthCheckRequest::default()).await;
            call.receive::<HealthCheckResponse>().await.expect("an answer");
            call.send.send_reset(h2::Reason::CANCEL);
        }
        let ended = client.unary::<IngestResponse>(path::INGEST, &IngestRequest::default()).await.expect_err("refused");
        assert_eq!(ended.reason, "STREAM_REQUIRED", "the connection is there");
    });
    assert!(server.stop().success(), "a clean stop");
}

/// A client that is there and answers no ping is closed after half a minute and ten seconds.
#[test]
fn a_client_that_answers_no_ping_is_closed() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = start(dir.path());
    let mut socket = TcpStream::connect(&server.grpc).expect("connected");
    socket.set_read_timeout(Some(DEADLINE)).expect("set");
    let mut hello = PREFACE.to_vec();
    put(&mut hello, frames::SETTINGS, 0, 0, b"");
    put(&mut hello, frames::SETTINGS, frames::ACK, 0, b"");
    socket.write_all(&hello).expect("sent");
    let (begun, mut walk, mut taken) = (Instant::now(), Walk::default(), [0; 4096]);
    loop {
        match socket.read(&mut taken) {
            Ok(0) => break,
            Ok(n) => walk.feed(&taken[..n]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => panic!("not closed: {error}"),
        }
    }
    assert!(begun.elapsed() >= Duration::from_secs(30), "it had its time");
    assert!(walk.frames >= 3, "settings, their ack, and a ping came first");
    assert!(server.stop().success(), "a clean stop");
}
