//! Idempotency keys on the real server: `kill -9` at any moment, the log released by flushes, another number of shards from run
//! to run. Every key that was ever acked is sent again after each restart and gets its first record's sequence number, id and
//! time. Likewise what numbering writers sent, without keys.

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
    ingestion::{AppendRequest, AppendResponse, IngestRequest, IngestResponse, OnInvalid, Status},
    path,
    query::{TimeRangeQueryRequest, TimeRangeQueryResponse},
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

/// What a numbering producer knows: with which sequence number each of its records was acked.
#[derive(Default)]
struct Numbered {
    acked: BTreeMap<u64, i64>,
    next: u64,
}

/// A writer's request; every seventh record is bad.
fn numbered(writer: &str, epoch: u64, first: u64, count: u64) -> AppendRequest {
    let payload = |number| {
        let text =
            if number % 7 == 3 { "not JSON".to_owned() } else { json!({"writer": writer, "n": number}).to_string() };
        Bytes::from(text)
    };
    AppendRequest {
        stream_id: "written".to_owned(),
        payloads: (first..first + count).map(payload).collect(),
        on_invalid: OnInvalid::Skip.into(),
        writer_id: writer.to_owned(),
        writer_epoch: epoch,
        first_writer_sequence: first,
        ..AppendRequest::default()
    }
}

impl Numbered {
    fn take(&mut self, first: u64, count: u64, answer: &AppendResponse) {
        assert_eq!(u64::from(answer.accepted + answer.duplicates + answer.rejected), count, "{answer:?}");
        let duplicates: BTreeMap<u32, i64> =
            answer.duplicate_sequences.iter().map(|d| (d.index, d.sequence_number)).collect();
        let rejected: Vec<_> = answer.row_errors.iter().map(|error| error.index).collect();
        let mut fresh = answer.first_sequence;
        for index in 0..count as u32 {
            let number = first + u64::from(index);
            assert_eq!(rejected.contains(&index), number % 7 == 3, "{answer:?}");
            if number % 7 == 3 {
                continue;
            }
            let sequence = duplicates.get(&index).copied().unwrap_or_else(|| {
                fresh += 1;
                fresh - 1
            });
            let before = self.acked.insert(number, sequence);
            assert!(before.is_none_or(|before| before == sequence), "{number} was {before:?} and is {sequence}");
        }
        self.next = self.next.max(first + count);
    }
}

/// Sends records in requests of changing sizes until the server is gone; begins with some that were acked before.
async fn write(address: SocketAddr, writer: &str, epoch: u64, known: &RefCell<Numbered>) {
    let Some(mut client) = Client::try_connect(address).await else { return };
    let Some(mut call) = client.try_call(path::APPEND).await else { return };
    let mut first = known.borrow().next.saturating_sub(20);
    loop {
        let count = 1 + (first * 5 + epoch) % 14;
        call.send(&numbered(writer, epoch, first, count)).await;
        match call.try_receive::<AppendResponse>().await {
            Some(answer) if answer.status() == Status::RateLimited => {}
            Some(answer) => {
                known.borrow_mut().take(first, count, &answer);
                first += count;
            }
            None => return,
        }
    }
}

/// Every record of the stream: its sequence number by writer and number.
async fn written(address: SocketAddr) -> BTreeMap<(String, u64), i64> {
    let mut client = Client::connect(address).await;
    let mut all = BTreeMap::new();
    let mut cursor = None;
    loop {
        let request = TimeRangeQueryRequest {
            stream_id: "written".to_owned(),
            start_time_unix_micros: 0,
            end_time_unix_micros: i64::MAX,
            limit: Some(5000),
            cursor: cursor.take(),
            order: None,
            time_field: None,
        };
        let answer: TimeRangeQueryResponse = client.unary(path::QUERY_TIME_RANGE, &request).await.expect("an answer");
        for record in answer.records {
            let value: Value = serde_json::from_slice(&record.payload).expect("what was taken is JSON");
            let key = (value["writer"].as_str().expect("a writer").to_owned(), value["n"].as_u64().expect("a number"));
            let twice = all.insert(key, record.sequence_number);
            assert_eq!(twice, None, "one row a number: {value}");
        }
        match answer.next_cursor {
            Some(next) => cursor = Some(next),
            None => return all,
        }
    }
}

#[test]
fn a_writers_numbers_are_taken_once_over_kills_flushes_and_other_numbers_of_shards() {
    const WRITERS: [&str; 3] = ["alpha", "beta", "gamma"];
    let dir = tempfile::tempdir().expect("a directory");
    let known = WRITERS.map(|_| RefCell::new(Numbered::default()));
    for round in 0..ROUNDS {
        let server = Server::start(dir.path(), &settings(["2", "3", "1"][round as usize % 3]));
        let address: SocketAddr = server.grpc.parse().expect("an address");
        if round == 0 {
            rest::create_stream(&server.http, "written", &json!({"type": "object"}));
        }
        let kill_after = Duration::from_millis(80 + 131 * round % 400);
        block_on(async {
            let killed = async {
                tokio::time::sleep(kill_after).await;
                server.kill();
            };
            // A producer that starts again goes on with its numbers under a higher epoch.
            let producers = WRITERS.iter().zip(&known).map(|(writer, known)| write(address, writer, round, known));
            futures_util::future::join(futures_util::future::join_all(producers), killed).await;
        });
    }
    let server = Server::start(dir.path(), &settings("2"));
    let address: SocketAddr = server.grpc.parse().expect("an address");
    let rows = block_on(written(address));
    let mut acked = 0;
    for (writer, known) in WRITERS.iter().zip(&known) {
        for (&number, sequence) in &known.borrow().acked {
            assert_eq!(rows.get(&((*writer).to_owned(), number)), Some(sequence), "acked ⊆ read: {writer} {number}");
            acked += 1;
        }
        let numbers: Vec<u64> = rows.keys().filter(|(its, _)| its == writer).map(|&(_, number)| number).collect();
        let good = (0..=numbers.last().copied().unwrap_or(0)).filter(|number| number % 7 != 3);
        assert!(numbers.iter().copied().eq(good), "no number is left out: {writer}");
    }
    println!("{acked} acked, {} read", rows.len());
    assert!(acked > 500, "the load was real");
    // A shard that was their home before may know them too.
    assert!(metric(&server, "ingestion_writers") >= 3.0, "each writer is known");
    // The log is let go of, and the writers are known all the same.
    wait_for("the log's end", || (metric(&server, "ingestion_buffer_records") == 0.0).then_some(()));
    assert!(server.stop().success());
    let server = Server::start(dir.path(), &settings("2"));
    block_on(async {
        let mut client = Client::connect(server.grpc.parse().expect("an address")).await;
        let mut call = client.call(path::APPEND).await;
        for (writer, known) in WRITERS.iter().zip(&known) {
            let next = known.borrow().next;
            call.send(&numbered(writer, ROUNDS, next - 10, 10)).await;
            let answer: AppendResponse = call.receive().await.expect("an answer");
            assert_eq!((answer.accepted, answer.status()), (0, Status::Duplicate), "{answer:?}");
            known.borrow_mut().take(next - 10, 10, &answer);
        }
    });
    assert_eq!(metric(&server, "dedup_damaged_total"), 0.0);
}

#[test]
fn a_gap_is_told_and_the_call_goes_on_and_an_old_epoch_is_fenced_even_after_a_crash() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Server::start(dir.path(), &settings("1"));
    rest::create_stream(&server.http, "written", &json!({"type": "object"}));
    block_on(async {
        let mut client = Client::connect(server.grpc.parse().expect("an address")).await;
        let mut call = client.call(path::APPEND).await;
        let mut ask = async |request: AppendRequest| {
            call.send(&request).await;
            call.receive::<AppendResponse>().await.expect("the call goes on")
        };
        let code = |answer: &AppendResponse| answer.error.as_ref().map(|error| error.code.clone()).unwrap_or_default();
        let gap = ask(numbered("w", 1, 1, 2)).await;
        assert_eq!((code(&gap).as_str(), gap.rejected), ("WRITER_SEQUENCE_GAP", 2), "a writer begins at 0");
        let first = ask(numbered("w", 1, 0, 3)).await;
        assert_eq!((first.accepted, first.first_sequence), (3, 1));
        let gap = ask(numbered("w", 1, 4, 2)).await;
        assert_eq!((code(&gap).as_str(), gap.accepted), ("WRITER_SEQUENCE_GAP", 0));
        let bad = ask(numbered("w", 1, 3, 1)).await;
        assert_eq!((bad.accepted, bad.rejected, bad.status()), (0, 1, Status::ValidationError));
        let half = ask(numbered("w", 1, 1, 5)).await;
        assert_eq!((half.duplicates, half.rejected, half.accepted, half.first_sequence), (2, 1, 2, 4));
        let sequences: Vec<_> = half.duplicate_sequences.iter().map(|d| (d.index, d.sequence_number)).collect();
        assert_eq!(sequences, [(0, 2), (1, 3)]);
        let atomic = AppendRequest { on_invalid: OnInvalid::Atomic.into(), ..numbered("w", 1, 6, 5) };
        assert_eq!(ask(atomic).await.rejected, 5, "a request that is refused whole takes no numbers");
        assert_eq!(ask(numbered("w", 1, 6, 1)).await.accepted, 1);
        let opened = ask(numbered("w", 2, 7, 0)).await;
        assert_eq!(opened.status(), Status::Ok, "a higher epoch alone fences the one before it");
    });
    server.kill();
    let server = Server::start(dir.path(), &settings("1"));
    block_on(async {
        let mut client = Client::connect(server.grpc.parse().expect("an address")).await;
        let mut call = client.call(path::APPEND).await;
        call.send(&numbered("w", 1, 7, 1)).await;
        let ended = call.receive::<AppendResponse>().await.expect_err("an old incarnation is told to stop");
        assert_eq!((ended.code, ended.reason.as_str()), (9, "WRITER_FENCED"), "{ended:?}");
        let mut call = client.call(path::APPEND).await;
        call.send(&AppendRequest { idempotency_keys: vec!["k".into()], ..numbered("w", 2, 7, 1) }).await;
        let ended = call.receive::<AppendResponse>().await.expect_err("keys and numbers do not go together");
        assert_eq!((ended.code, ended.reason.as_str()), (3, "WRITER_WITH_KEYS"), "{ended:?}");
        let mut call = client.call(path::APPEND).await;
        call.send(&numbered("w", 2, 7, 1)).await;
        assert_eq!(call.receive::<AppendResponse>().await.expect("an answer").accepted, 1);
    });
}
