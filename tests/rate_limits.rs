//! Rate limits of real servers: what a limited client is told, and what shards and nodes let in together, with Redis and
//! while it is gone.

#[path = "../shards/tests/engine/client.rs"]
mod client;
#[path = "server/process.rs"]
mod process;
#[path = "server/producer.rs"]
mod producer;
#[path = "server/redis.rs"]
mod redis;
#[path = "server/rest.rs"]
mod rest;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use client::Client;
use process::{Server, wait_for};
use producer::block_on;
use redis::Redis;
use serde_json::json;
use ttdust_proto::{
    admin,
    ingestion::{AppendRequest, AppendResponse, IngestRequest, IngestResponse, Status},
    path,
};

const SMALL: (&str, &str) = ("wal.quota_bytes", "256MiB");
/// Records a second of the tests with load.
const LIMIT: u64 = 2000;
const RECORDS_PER_REQUEST: u64 = 10;
/// Calls of which one must be refused, at a few a second.
const MANY: usize = 2000;

/// The value of a header of an answer's head in lower case.
fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

fn number(head: &str, name: &str) -> u64 {
    let value = header(head, name).unwrap_or_else(|| panic!("{name} is missing: {head}"));
    value.parse().unwrap_or_else(|_| panic!("{name}: {value}"))
}

/// The value of the first metric that begins so.
fn metric(server: &Server, begin: &str) -> f64 {
    let (_, _, text) = rest::call_with(&server.http, "GET", "/metrics", &[], "");
    let text = text.as_str().expect("text").to_owned();
    let line = text.lines().find(|line| line.starts_with(begin)).unwrap_or_else(|| panic!("{begin} in {text}"));
    line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a number")
}

fn coordination(server: &Server) -> String {
    let (_, ready) = rest::call(&server.http, "GET", "/health/ready", "");
    assert_eq!(ready["status"], "ok", "{ready}");
    ready["components"]["coordination"]["detail"].as_str().expect("a detail").to_owned()
}

#[test]
fn admin_calls_over_the_limit_are_told_when_to_come_back_and_let_in_then() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Server::start(dir.path(), &[SMALL, ("rate.admin_per_second", "2")]);
    let call = || rest::call_with(&server.http, "GET", "/api/v1/config", &[], "");
    let (_, head, _) = call();
    assert_eq!(number(&head, "ratelimit-limit"), 2, "{head}");
    assert_eq!((number(&head, "ratelimit-remaining"), number(&head, "ratelimit-reset")), (1, 1), "{head}");
    let refused = (0..MANY).map(|_| call()).find(|(status, ..)| *status != 200);
    let (status, head, problem) = refused.expect("one is refused");
    assert_eq!((status, problem["code"].as_str()), (429, Some("RATE_LIMITED")), "{problem}");
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("rate.admin_per_second")), "{problem}");
    let after = number(&head, "retry-after");
    assert!((1..=2).contains(&after), "{head}");
    assert_eq!((number(&head, "ratelimit-remaining"), number(&head, "ratelimit-reset")), (0, after), "{head}");

    // What is no admin call goes on meanwhile.
    assert_eq!(coordination(&server), "local");
    assert_eq!(rest::call(&server.http, "GET", "/api/v1/streams/nothing/records", "").0, 404);
    // What is under test is the time itself.
    std::thread::sleep(Duration::from_secs(after));
    assert_eq!(call().0, 200, "whoever waits as told is let in");

    // The same client, the same limit.
    let ended = block_on(async {
        let mut client = Client::connect(server.grpc.parse().expect("an address")).await;
        let list = admin::ListStreamsRequest::default();
        for _ in 0..MANY {
            if let Err(ended) = client.unary::<admin::ListStreamsResponse>(path::LIST_STREAMS, &list).await {
                return ended;
            }
        }
        panic!("none is refused")
    });
    assert_eq!((ended.code, ended.reason.as_str()), (8, "RATE_LIMITED"));
    assert!(ended.retry_after.is_some_and(|after| after <= Duration::from_secs(2)), "{ended:?}");
    assert!(metric(&server, "ttdust_rate_limit_hits_total{category=\"admin\"}") >= 2.0);
}

#[test]
fn wrong_credentials_from_one_address_are_soon_told_to_wait_and_lock_nobody_out() {
    let dir = tempfile::tempdir().expect("a directory");
    let settings = [SMALL, ("auth.mode", "keys"), ("rate.auth_failures_per_minute", "3")];
    let server = Server::start(dir.path(), &settings);
    let admin = server.admin_key();
    let call = |key: &str| rest::call_with(&server.http, "GET", "/api/v1/config", &[("x-api-key", key)], "");
    assert_eq!(call(&admin).0, 200);
    for _ in 0..10 {
        assert_eq!(rest::call(&server.http, "GET", "/api/v1/config", "").0, 401, "nothing shown is no try");
    }
    for _ in 0..3 {
        assert_eq!(call("ttd_live_x_wrong").0, 401);
    }
    for key in ["ttd_live_x_wrong", "a.b.c"] {
        let (status, head, problem) = call(key);
        assert_eq!((status, problem["code"].as_str()), (429, Some("RATE_LIMITED")), "{problem}");
        assert!((1..=120).contains(&number(&head, "retry-after")), "{head}");
    }
    assert_eq!(call(&admin).0, 200, "whoever is behind the same address goes on");
    let ingest = |key: &str| {
        let key = key.to_owned();
        block_on(async {
            let mut client = Client::connect(server.grpc.parse().expect("an address")).await;
            client.headers.push(("x-api-key", key));
            client.unary::<IngestResponse>(path::INGEST, &IngestRequest::default()).await.expect_err("refused")
        })
    };
    let ended = ingest("ttd_live_x_wrong");
    assert_eq!((ended.code, ended.reason.as_str()), (8, "RATE_LIMITED"), "both ports count together");
    assert!(ended.retry_after.is_some());
    assert_eq!(ingest(&admin).reason, "STREAM_REQUIRED", "the good key is let in");
    assert!(metric(&server, "ttdust_rate_limit_hits_total{category=\"auth_failures\"}") >= 3.0);
}

/// Producers that send as fast as they are answered, and come back when they are told to.
struct Load {
    acked: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
    /// The longest time to an ack, in ms.
    slowest: Arc<AtomicU64>,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    fn start(server: &Server, stream: &str, connections: usize) -> Self {
        let load = Self {
            acked: Arc::default(),
            refused: Arc::default(),
            slowest: Arc::default(),
            end: Arc::default(),
            thread: None,
        };
        let (acked, refused) = (Arc::clone(&load.acked), Arc::clone(&load.refused));
        let (slowest, end) = (Arc::clone(&load.slowest), Arc::clone(&load.end));
        let (grpc, stream) = (server.grpc.clone(), stream.to_owned());
        let run = move || {
            block_on(async {
                let one = || produce(&grpc, &stream, &acked, &refused, &slowest, &end);
                futures_util::future::join_all((0..connections).map(|_| one())).await;
            });
        };
        Self { thread: Some(std::thread::spawn(run)), ..load }
    }

    fn acked(&self) -> u64 {
        self.acked.load(Relaxed)
    }

    fn wait_for_acks(&self, more: u64) {
        let wanted = self.acked() + more;
        wait_for("acks", || (self.acked() >= wanted).then_some(()));
    }

    /// Waits until the clients are at their limit, and past what they begin with.
    fn settle(&self) {
        let before = self.refused.load(Relaxed);
        wait_for("a refusal", || (self.refused.load(Relaxed) > before).then_some(()));
        self.wait_for_acks(2 * LIMIT);
    }

    fn end(mut self) {
        self.end.store(true, Relaxed);
        self.thread.take().expect("running").join().expect("no producer failed");
    }
}

async fn produce(
    grpc: &str,
    stream: &str,
    acked: &AtomicU64,
    refused: &AtomicU64,
    slowest: &AtomicU64,
    end: &AtomicBool,
) {
    let mut client = Client::connect(grpc.parse().expect("an address")).await;
    let mut call = client.call(path::APPEND).await;
    let payloads = (0..RECORDS_PER_REQUEST).map(|n| format!("{{\"n\":{n}}}").into()).collect();
    let request = AppendRequest { stream_id: stream.to_owned(), payloads, ..AppendRequest::default() };
    while !end.load(Relaxed) {
        let sent = Instant::now();
        call.send(&request).await;
        let answer: AppendResponse = call.receive().await.expect("the call goes on");
        if answer.status() == Status::RateLimited {
            assert_eq!((answer.accepted, answer.rejected), (0, RECORDS_PER_REQUEST as u32));
            refused.fetch_add(1, Relaxed);
            let after = answer.retry_after_millis.expect("a time");
            assert!((1..=10_000).contains(&after), "{answer:?}");
            tokio::time::sleep(Duration::from_millis(after.into())).await;
        } else {
            assert_eq!(u64::from(answer.accepted), RECORDS_PER_REQUEST, "{answer:?}");
            acked.fetch_add(RECORDS_PER_REQUEST, Relaxed);
            slowest.fetch_max(sent.elapsed().as_millis() as u64, Relaxed);
        }
    }
    call.finish();
}

/// Records a second that these loads get together.
fn rate(loads: &[&Load]) -> f64 {
    let sum = || loads.iter().map(|load| load.acked()).sum::<u64>();
    let (start, before) = (Instant::now(), sum());
    let after = wait_for("acks", || Some(sum()).filter(|now| *now >= before + 3 * LIMIT));
    (after - before) as f64 / start.elapsed().as_secs_f64()
}

#[track_caller]
fn check_rate(loads: &[&Load]) {
    let part = rate(loads) / LIMIT as f64;
    assert!((0.8..=1.2).contains(&part), "{part} times the limit");
}

fn stream(server: &Server) -> String {
    rest::create_stream(&server.http, "events", &json!({"type": "object"}))
}

#[test]
fn two_shards_together_keep_to_one_limit() {
    let dir = tempfile::tempdir().expect("a directory");
    let limit = LIMIT.to_string();
    let settings = [SMALL, ("shards.count", "2"), ("rate.ingest_records_per_second", &limit)];
    let server = Server::start(dir.path(), &settings);
    let load = Load::start(&server, &stream(&server), 16);
    load.settle();
    check_rate(&[&load]);
    load.end();
    for shard in 0..2 {
        let received = metric(&server, &format!("ttdust_ingestion_records_received_total{{shard=\"{shard}\"}}"));
        assert!(received > 0.0, "shard {shard} took part");
    }
    assert!(metric(&server, "ttdust_rate_limit_hits_total{category=\"ingest_records\"}") > 0.0);
}

fn node(dir: &std::path::Path, url: &str, timeout_ms: &str) -> Server {
    let limit = LIMIT.to_string();
    let settings =
        [SMALL, ("redis.url", url), ("redis.timeout_ms", timeout_ms), ("rate.ingest_records_per_second", &limit)];
    Server::start(dir, &settings)
}

#[test]
fn two_nodes_that_share_a_redis_keep_one_client_to_one_limit() {
    let url = redis::shared(11);
    let dirs = [tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory")];
    // A slow machine must not make a node go on by itself.
    let servers = dirs.each_ref().map(|dir| node(dir.path(), &url, "5000"));
    let loads = servers.each_ref().map(|server| {
        wait_for("Redis", || (coordination(server) == "redis").then_some(()));
        Load::start(server, &stream(server), 2)
    });
    loads.iter().for_each(Load::settle);
    check_rate(&[&loads[0], &loads[1]]);
    loads.iter().for_each(|load| load.wait_for_acks(LIMIT / 4));
    for (load, server) in loads.into_iter().zip(&servers) {
        load.end();
        assert!(metric(server, "ttdust_redis_latency_seconds_count") > 0.0);
        assert_eq!(coordination(server), "redis");
    }
}

#[test]
fn no_record_waits_for_a_redis_that_hangs() {
    let redis = Redis::start();
    let dir = tempfile::tempdir().expect("a directory");
    // So long that an ack that waited for Redis would show.
    let server = node(dir.path(), &redis.url(), "10000");
    wait_for("Redis", || (coordination(&server) == "redis").then_some(()));
    let load = Load::start(&server, &stream(&server), 4);
    load.settle();
    redis.stop();
    let start = Instant::now();
    load.slowest.store(0, Relaxed);
    load.wait_for_acks(2 * LIMIT);
    let slowest = load.slowest.load(Relaxed);
    assert!(start.elapsed() >= Duration::from_millis(500), "still limited");
    assert!(slowest < 5000, "{slowest} ms to an ack");
    load.end();
    redis.go_on();
}

#[test]
fn without_redis_a_node_limits_by_itself_and_says_so_until_it_is_back() {
    let mut redis = Redis::start();
    let dir = tempfile::tempdir().expect("a directory");
    let server = node(dir.path(), &redis.url(), "200");
    let by_redis = || wait_for("Redis", || (coordination(&server) == "redis").then_some(()));
    let by_itself = || wait_for("the end of Redis", || coordination(&server).starts_with("local: ").then_some(()));
    by_redis();
    let load = Load::start(&server, &stream(&server), 4);
    load.settle();
    redis.stop();
    by_itself();
    check_rate(&[&load]);
    redis.go_on();
    by_redis();
    check_rate(&[&load]);
    let again = redis.kill();
    by_itself();
    check_rate(&[&load]);
    redis = again();
    by_redis();
    load.end();
    drop(redis);
    let log = server.log();
    assert!(log.contains("this node limits by itself") && log.contains("redis is there"), "{log}");
}

#[test]
fn the_password_of_redis_is_shown_nowhere() {
    let dir = tempfile::tempdir().expect("a directory");
    // Nothing listens there: the server starts all the same.
    let server = Server::start(dir.path(), &[SMALL, ("redis.url", "redis://user:s3cret@127.0.0.1:1/0")]);
    let (status, config) = rest::call(&server.http, "GET", "/api/v1/config", "");
    assert_eq!((status, &config["settings"]["redis.url"]["value"]), (200, &json!("redis://user:***@127.0.0.1:1/0")));
    assert!(coordination(&server).starts_with("local: "));
    assert!(!server.log().contains("s3cret"), "{}", server.log());
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_ttdust"))
        .args(["config", "show", "--set", "redis.url=redis://user:s3cret@cache"])
        .output()
        .expect("the program runs");
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(shown.contains("redis://user:***@cache") && !shown.contains("s3cret"), "{shown}");
}
