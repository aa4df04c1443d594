//! `kill -9` of the real server under load, over and over, on both I/O backends. An outside client logs every attempt and every
//! ack. After each restart: acked ⊆ read ⊆ attempted, sequence numbers dense, one row a key.
//!
//! The client sends what was not acked again with the same keys, as the contract tells it to. Small segments and a short flush
//! interval make the kills fall into flushes, commits and the recycling of segments too. Some kills come while the server is
//! still recovering. `TTDUST_CRASH_ROUNDS` runs more rounds than the default.

#[path = "../shards/tests/engine/client.rs"]
mod client;
#[path = "server/process.rs"]
mod process;
#[path = "server/rest.rs"]
mod rest;

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    time::Duration,
};

use bytes::Bytes;
use client::Client;
use process::Server;
use serde_json::json;
use ttdust_proto::{
    ingestion::{AppendRequest, AppendResponse, Status},
    path,
    query::{TimeRangeQueryRequest, TimeRangeQueryResponse},
};

const ROUNDS: u64 = 50;
const CONNECTIONS: u64 = 3;
const IN_FLIGHT: usize = 4;
const BATCH: usize = 20;

/// SplitMix64 (Steele et al., 2014): the same seed, the same kills.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % bound
    }
}

/// What the outside client knows.
#[derive(Default)]
struct Journal {
    /// Every key that was sent at least once, with its payload.
    attempted: HashMap<String, Bytes>,
    /// Every key that was acked, with its sequence number.
    acked: HashMap<String, i64>,
    /// Batches that were sent and not acked: sent again first.
    unacked: Vec<Vec<String>>,
    next_key: u64,
}

impl Journal {
    fn next_batch(&mut self) -> Vec<String> {
        if let Some(batch) = self.unacked.pop() {
            return batch;
        }
        let batch: Vec<_> = (self.next_key..self.next_key + BATCH as u64).map(|n| format!("key-{n}")).collect();
        self.next_key += BATCH as u64;
        for key in &batch {
            let payload = json!({"key": key, "filler": "x".repeat(key.len() * 20)}).to_string();
            self.attempted.insert(key.clone(), payload.into());
        }
        batch
    }

    /// Takes the answer to `batch`: which sequence number each key has.
    fn take(&mut self, batch: Vec<String>, answer: &AppendResponse) {
        if answer.status() == Status::RateLimited {
            return self.unacked.push(batch);
        }
        assert!(matches!(answer.status(), Status::Ok | Status::Duplicate), "{answer:?}");
        assert_eq!(answer.accepted + answer.duplicates, batch.len() as u32, "{answer:?}");
        let duplicates: BTreeMap<u32, i64> =
            answer.duplicate_sequences.iter().map(|d| (d.index, d.sequence_number)).collect();
        let mut fresh = answer.first_sequence;
        for (index, key) in batch.into_iter().enumerate() {
            let sequence = duplicates.get(&(index as u32)).copied().unwrap_or_else(|| {
                fresh += 1;
                fresh - 1
            });
            let before = self.acked.insert(key.clone(), sequence);
            assert!(before.is_none_or(|before| before == sequence), "{key} was {before:?} and is {sequence}");
        }
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

/// Produces over one connection until the server is gone.
async fn produce(address: SocketAddr, journal: &std::cell::RefCell<Journal>) {
    let Some(mut client) = Client::try_connect(address).await else { return };
    let Some(mut call) = client.try_call(path::APPEND).await else { return };
    let mut sent: std::collections::VecDeque<Vec<String>> = std::collections::VecDeque::new();
    loop {
        while sent.len() < IN_FLIGHT {
            let batch = journal.borrow_mut().next_batch();
            let payloads = batch.iter().map(|key| journal.borrow().attempted[key].clone()).collect();
            let request = AppendRequest {
                stream_id: "crash".to_owned(),
                payloads,
                idempotency_keys: batch.clone(),
                ..AppendRequest::default()
            };
            sent.push_back(batch);
            call.send(&request).await;
        }
        match call.try_receive::<AppendResponse>().await {
            Some(answer) => {
                let batch = sent.pop_front().expect("one answer a request");
                journal.borrow_mut().take(batch, &answer);
            }
            None => {
                // Not acked, so unknown: each may or may not have happened.
                journal.borrow_mut().unacked.extend(sent);
                return;
            }
        }
    }
}

/// Rows after sequence number `after`, in order.
async fn read(address: SocketAddr, after: i64) -> Vec<(i64, Bytes)> {
    let mut client = Client::connect(address).await;
    let mut rows: Vec<(i64, Bytes)> = Vec::new();
    let mut cursor =
        (after > 0).then(|| ttdust_shards::query::encode_cursor(after, ttdust_shards::query::Order::Ascending));
    loop {
        let request = TimeRangeQueryRequest {
            stream_id: "crash".to_owned(),
            start_time_unix_micros: 0,
            end_time_unix_micros: i64::MAX,
            limit: Some(5000),
            cursor: cursor.take(),
            order: None,
            time_field: None,
        };
        let answer: TimeRangeQueryResponse = client.unary(path::QUERY_TIME_RANGE, &request).await.expect("an answer");
        rows.extend(answer.records.into_iter().map(|record| (record.sequence_number, record.payload)));
        match answer.next_cursor {
            Some(next) => cursor = Some(next),
            None => return rows,
        }
    }
}

/// What was found after the restarts so far.
#[derive(Default)]
struct Seen {
    by_key: HashMap<String, i64>,
    last: i64,
}

impl Seen {
    fn check(&mut self, rows: Vec<(i64, Bytes)>, journal: &Journal) {
        for (sequence, payload) in rows {
            assert_eq!(sequence, self.last + 1, "sequence numbers are dense");
            self.last = sequence;
            let value: serde_json::Value = serde_json::from_slice(&payload).expect("what was sent was JSON");
            let key = value["key"].as_str().expect("what was sent has a key");
            assert_eq!(journal.attempted.get(key), Some(&payload), "read ⊆ attempted, byte for byte");
            let twice = self.by_key.insert(key.to_owned(), sequence);
            assert_eq!(twice, None, "one row a key: {key} is row {sequence} too");
        }
        for (key, sequence) in &journal.acked {
            assert_eq!(self.by_key.get(key), Some(sequence), "acked ⊆ read: {key}");
        }
    }
}

fn crash_loop(io: &str, seed: u64) {
    let rounds = std::env::var("TTDUST_CRASH_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(ROUNDS);
    println!("seed {seed}, {rounds} rounds on {io}");
    let dir = tempfile::tempdir().expect("a directory");
    let settings = [
        ("shards.io", io),
        ("shards.count", "2"),
        ("wal.segment_bytes", "512KiB"),
        ("wal.quota_bytes", "64MiB"),
        ("wal.frame_bytes", "64KiB"),
        ("limits.message_bytes", "64KiB"),
        ("limits.record_bytes", "16KiB"),
        ("buffer.memory_bytes", "2MiB"),
        ("buffer.freeze_bytes", "256KiB"),
        ("buffer.flush_interval_ms", "60"),
    ];
    let mut random = Random(seed);
    let journal = std::cell::RefCell::new(Journal::default());
    let mut seen = Seen::default();
    for round in 0..rounds {
        if round % 5 == 4 {
            let starting = Server::spawn(dir.path(), &settings);
            std::thread::sleep(Duration::from_millis(random.below(120)));
            starting.kill();
        }
        let server = Server::start(dir.path(), &settings);
        let address: SocketAddr = server.grpc.parse().expect("an address");
        if round == 0 {
            rest::create_stream(&server.http, "crash", &json!({"type": "object", "required": ["key"]}));
        }
        let rows = block_on(read(address, seen.last));
        seen.check(rows, &journal.borrow());
        let kill_after = Duration::from_millis(5 + random.below(250));
        block_on(async {
            let killed = async {
                tokio::time::sleep(kill_after).await;
                server.kill();
            };
            let producers = (0..CONNECTIONS).map(|_| produce(address, &journal));
            futures_util::future::join(futures_util::future::join_all(producers), killed).await;
        });
    }
    let server = Server::start(dir.path(), &settings);
    let mut whole = Seen::default();
    whole.check(block_on(read(server.grpc.parse().expect("an address"), 0)), &journal.borrow());
    assert!(server.stop().success(), "a clean stop at the end");
    let journal = journal.into_inner();
    println!("{} attempted, {} acked, {} read", journal.attempted.len(), journal.acked.len(), whole.last);
    assert!(journal.acked.len() as u64 > rounds, "the load was real");
}

#[test]
fn nothing_acked_is_lost_by_kill_9_on_io_uring() {
    crash_loop("uring", 1);
}

#[test]
fn nothing_acked_is_lost_by_kill_9_on_epoll() {
    crash_loop("epoll", 2);
}
