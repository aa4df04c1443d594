//! Idempotency keys on the real server: `kill -9` at any moment, the log released by flushes, another number of shards from run
//! to run. Every key that was ever acked is sent again after each restart and gets its first record's sequence number, id and
//! time.

#[path = "../shards/tests/engine/client.rs"]
mod client;
#[path = "server/process.rs"]
mod process;
#[path = "server/rest.rs"]
mod rest;

use std::{cell::RefCell, collections::BTreeMap, net::SocketAddr, time::Duration};

use bytes::Bytes;
use client::Client;
use process::{Server, wait_for};
use serde_json::{Value, json};
use ttdust_proto::{
    ingestion::{AppendRequest, AppendResponse, IngestRequest, IngestResponse, Status},
    path,
};
use ttdust_shards::ids::{RecordId, StreamId};

const ROUNDS: u64 = 12;
const BATCH: u64 = 25;
const STREAMS: usize = 4;

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

/// What one stream's producer knows.
#[derive(Default)]
struct Journal {
    /// The sequence number and time that each acked key got.
    acked: BTreeMap<u64, (i64, i64)>,
    sent: u64,
}

fn request(stream: usize, keys: &[u64]) -> AppendRequest {
    let payload = |key: &u64| Bytes::from(json!({"key": key, "filler": "x".repeat(200)}).to_string());
    AppendRequest {
        stream_id: format!("keys-{stream}"),
        payloads: keys.iter().map(payload).collect(),
        idempotency_keys: keys.iter().map(|key| format!("key-{key}")).collect(),
        ..AppendRequest::default()
    }
}

impl Journal {
    fn take(&mut self, keys: &[u64], answer: &AppendResponse) {
        let duplicates: BTreeMap<u32, i64> =
            answer.duplicate_sequences.iter().map(|d| (d.index, d.sequence_number)).collect();
        assert_eq!(answer.accepted + answer.duplicates, keys.len() as u32, "{answer:?}");
        let mut fresh = answer.first_sequence;
        for (index, &key) in keys.iter().enumerate() {
            match (duplicates.get(&(index as u32)), self.acked.get(&key)) {
                (Some(again), Some((first, _))) => assert_eq!(again, first, "key {key}"),
                (None, Some(first)) => panic!("key {key} was {first:?} and was taken again"),
                // Not acked before: the answer was lost, so its time is not known here.
                (Some(&sequence), None) => drop(self.acked.insert(key, (sequence, 0))),
                (None, None) => {
                    self.acked.insert(key, (fresh, answer.timestamp_unix_micros));
                    fresh += 1;
                }
            }
        }
    }
}

/// Sends keys that are new, over and over, until the server is gone.
async fn produce(address: SocketAddr, stream: usize, journal: &RefCell<Journal>) {
    let Some(mut client) = Client::try_connect(address).await else { return };
    let Some(mut call) = client.try_call(path::APPEND).await else { return };
    loop {
        let first = journal.borrow().sent;
        let keys: Vec<_> = (first..first + BATCH).collect();
        journal.borrow_mut().sent += BATCH;
        call.send(&request(stream, &keys)).await;
        match call.try_receive::<AppendResponse>().await {
            Some(answer) if answer.status() == Status::RateLimited => {}
            Some(answer) => journal.borrow_mut().take(&keys, &answer),
            None => return,
        }
    }
}

/// Sends every key again, the ones whose answer was lost too.
async fn send_again(address: SocketAddr, stream: usize, id: StreamId, journal: &RefCell<Journal>) {
    let mut client = Client::connect(address).await;
    let mut call = client.call(path::APPEND).await;
    let sent = journal.borrow().sent;
    for keys in (0..sent).collect::<Vec<_>>().chunks(100) {
        loop {
            call.send(&request(stream, keys)).await;
            let answer: AppendResponse = call.receive().await.expect("an answer");
            if answer.status() != Status::RateLimited {
                journal.borrow_mut().take(keys, &answer);
                break;
            }
        }
    }
    assert_eq!(journal.borrow().acked.len() as u64, sent);
    let dated: Vec<_> =
        journal.borrow().acked.iter().map(|(&key, &seen)| (key, seen)).filter(|(_, s)| s.1 > 0).collect();
    for &(key, (sequence, timestamp)) in dated.iter().step_by(dated.len() / 10 + 1) {
        let AppendRequest { stream_id, payloads, idempotency_keys, .. } = request(stream, &[key]);
        let request = IngestRequest {
            stream_id,
            payload: payloads[0].clone(),
            idempotency_key: idempotency_keys.first().cloned(),
            ..IngestRequest::default()
        };
        let answer: IngestResponse = client.unary(path::INGEST, &request).await.expect("an answer");
        assert_eq!(answer.status(), Status::Duplicate);
        assert_eq!((answer.sequence_number, answer.timestamp_unix_micros), (sequence, timestamp), "key {key}");
        assert_eq!(answer.record_id, RecordId::of(id, sequence).to_string());
    }
}

fn metric(server: &Server, name: &str) -> f64 {
    let (_, text) = rest::call(&server.http, "GET", "/metrics", "");
    let Value::String(text) = text else { panic!("{text}") };
    let values = text.lines().filter(|line| line.starts_with(&format!("ttdust_{name}")));
    values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

fn settings(shards: &'static str) -> [(&'static str, &'static str); 8] {
    [
        ("shards.count", shards),
        ("wal.segment_bytes", "512KiB"),
        ("wal.quota_bytes", "64MiB"),
        ("wal.frame_bytes", "64KiB"),
        ("limits.message_bytes", "64KiB"),
        ("limits.record_bytes", "16KiB"),
        ("buffer.freeze_bytes", "256KiB"),
        ("buffer.flush_interval_ms", "50"),
    ]
}

#[test]
fn a_key_gets_what_its_first_record_got_over_kills_flushes_and_other_numbers_of_shards() {
    let dir = tempfile::tempdir().expect("a directory");
    let journals: Vec<_> = (0..STREAMS).map(|_| RefCell::new(Journal::default())).collect();
    let mut ids: Vec<StreamId> = Vec::new();
    let mut in_files = 0.0;
    for round in 0..ROUNDS {
        let server = Server::start(dir.path(), &settings(["2", "2", "3", "1"][round as usize % 4]));
        let address: SocketAddr = server.grpc.parse().expect("an address");
        if round == 0 {
            let create =
                |stream| rest::create_stream(&server.http, &format!("keys-{stream}"), &json!({"type": "object"}));
            ids = (0..STREAMS).map(|stream| create(stream).parse().expect("an id")).collect();
        }
        block_on(async {
            for (stream, journal) in journals.iter().enumerate() {
                send_again(address, stream, ids[stream], journal).await;
            }
        });
        let kill_after = Duration::from_millis(100 + 97 * round % 400);
        block_on(async {
            let killed = async {
                tokio::time::sleep(kill_after).await;
                in_files = metric(&server, "dedup_keys_in_files");
                server.kill();
            };
            let producers = journals.iter().enumerate().map(|(stream, journal)| produce(address, stream, journal));
            futures_util::future::join(futures_util::future::join_all(producers), killed).await;
        });
    }
    assert!(in_files > 0.0, "keys are in files by now");
    // Once all rows are in files, the log is let go of, and the keys are known all the same.
    let server = Server::start(dir.path(), &settings("2"));
    wait_for("the log's end", || (metric(&server, "ingestion_buffer_records") == 0.0).then_some(()));
    wait_for("the release of the log", || (metric(&server, "wal_segments_active") <= 4.0).then_some(()));
    assert_eq!(metric(&server, "dedup_damaged_total"), 0.0);
    assert!(server.stop().success());
    let server = Server::start(dir.path(), &settings("2"));
    let address: SocketAddr = server.grpc.parse().expect("an address");
    block_on(async {
        for (stream, journal) in journals.iter().enumerate() {
            send_again(address, stream, ids[stream], journal).await;
        }
    });
    let keys: u64 = journals.iter().map(|journal| journal.borrow().sent).sum();
    let lookups = metric(&server, "dedup_lookups_total");
    println!("{keys} keys, {in_files} in files before the last kill, {lookups} looked up in files at the end");
    assert!(keys > 2000 && lookups > 0.0, "the load was real");
    assert_eq!(metric(&server, "dedup_damaged_total"), 0.0);
}

#[test]
fn at_the_bound_records_with_keys_are_refused_and_others_are_taken() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Server::start(dir.path(), &[("shards.count", "1"), ("dedup.keys_max", "1000")]);
    rest::create_stream(&server.http, "keys-0", &json!({"type": "object"}));
    block_on(async {
        let mut client = Client::connect(server.grpc.parse().expect("an address")).await;
        let mut call = client.call(path::APPEND).await;
        let all: Vec<u64> = (0..1100).collect();
        for keys in all.chunks(100).take(10) {
            call.send(&request(0, keys)).await;
            assert_eq!(call.receive::<AppendResponse>().await.expect("an answer").accepted, 100);
        }
        call.send(&request(0, &all[1000..])).await;
        let refused: AppendResponse = call.receive().await.expect("the call goes on");
        assert_eq!((refused.status(), refused.accepted), (Status::RateLimited, 0));
        assert_eq!(refused.error.map(|error| error.code).as_deref(), Some("IDEMPOTENCY_KEYS_FULL"));
        call.send(&AppendRequest { idempotency_keys: Vec::new(), ..request(0, &all[1000..]) }).await;
        assert_eq!(call.receive::<AppendResponse>().await.expect("an answer").accepted, 100);
    });
}
