//! The engine over its gRPC interface, on both I/O backends: what each method answers, and what each failure answers.

#[path = "engine/client.rs"]
mod client;
#[path = "engine/control.rs"]
mod control;

use std::{
    collections::HashMap,
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use client::{Client, framed_bytes};
use control::{Fixture, HELD, config};
use ttdust_proto::{
    admin,
    health::{HealthCheckRequest, HealthCheckResponse},
    ingestion::{AppendRequest, AppendResponse, IngestRequest, IngestResponse, OnInvalid, Status},
    path,
    query::{KeyLookupRequest, KeyLookupResponse, TimeRangeQueryRequest, TimeRangeQueryResponse},
};
use ttdust_shards::{
    access::{Access, Credentials, KeyEntry, Principal, Role, StreamPermissions, TokenCheck, Unauthenticated, digest},
    config::IoChoice,
    ids::{RecordId, SchemaId, ShardId},
    rate::RateLimits,
    snapshot::StreamState,
};

const BACKENDS: [IoChoice; 2] = [IoChoice::Auto, IoChoice::Epoll];

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

fn record(id: i64) -> Bytes {
    format!(r#"{{"id":{id},"name":"r{id}"}}"#).into()
}

fn ingest(payload: impl Into<Bytes>) -> IngestRequest {
    IngestRequest { stream_id: "events".to_owned(), payload: payload.into(), ..IngestRequest::default() }
}

fn append(payloads: Vec<Bytes>) -> AppendRequest {
    AppendRequest { stream_id: "events".to_owned(), payloads, ..AppendRequest::default() }
}

/// Every record of the stream, page by page.
async fn read_all(client: &mut Client) -> Vec<(i64, Bytes)> {
    let mut rows = Vec::new();
    let mut cursor = None;
    loop {
        let request = TimeRangeQueryRequest {
            stream_id: "events".to_owned(),
            start_time_unix_micros: 0,
            end_time_unix_micros: i64::MAX,
            limit: Some(700),
            cursor,
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

#[test]
fn what_is_acked_is_read_back_by_every_method_before_and_after_a_flush_and_a_restart() {
    for io in BACKENDS {
        for shards in [1, 3] {
            let dir = tempfile::tempdir().expect("a directory");
            let fixture = Fixture::start(config(dir.path(), shards, io));
            let (stream, schema) = (fixture.stream, fixture.schema);
            let expected: Vec<_> = (1..=2503).map(|id| (id, record(id))).collect();
            block_on(async {
                let mut client = Client::connect(fixture.engine.grpc_address()).await;
                let mut call = client.call(path::INGEST_STREAM).await;
                for id in 1..=500 {
                    call.send(&ingest(record(id))).await;
                }
                for id in 1..=500 {
                    let answer: IngestResponse = call.receive().await.expect("an answer");
                    assert_eq!((answer.status(), answer.sequence_number), (Status::Ok, id));
                    assert_eq!(answer.record_id, RecordId::of(stream, id).to_string());
                    assert!(answer.timestamp_unix_micros > 1_700_000_000_000_000);
                }
                call.finish();
                assert_eq!(call.receive::<IngestResponse>().await.expect_err("the end").code, 0);

                assert_eq!(read_all(&mut client).await, expected[..500]);
                fixture.flush().await;
                assert_eq!(read_all(&mut client).await, expected[..500]);

                let mut call = client.call(path::APPEND).await;
                for first in (501..=2500).step_by(100) {
                    call.send(&append((first..first + 100).map(record).collect())).await;
                    let answer: AppendResponse = call.receive().await.expect("an answer");
                    assert_eq!((answer.status(), answer.accepted), (Status::Ok, 100));
                    assert_eq!((answer.first_sequence, answer.last_sequence), (first, first + 99));
                    assert_eq!(answer.schema_version, 1);
                }
                for id in 2501..=2503 {
                    let answer: IngestResponse =
                        client.unary(path::INGEST, &ingest(record(id))).await.expect("an answer");
                    assert_eq!(answer.sequence_number, id);
                }
                assert_eq!(read_all(&mut client).await, expected);
            });
            let store = fixture.stop();
            assert!(store.ended.lock().expect("not poisoned").iter().all(|(_, outcome)| outcome.is_ok()));
            store.ended.lock().expect("not poisoned").clear();

            // More or fewer shards: what the old ones hold finds its new home.
            for shards in [2, 1] {
                let fixture = Fixture::start_with(config(dir.path(), shards, io), Arc::clone(&store), stream, schema);
                block_on(async {
                    let mut client = Client::connect(fixture.engine.grpc_address()).await;
                    assert_eq!(read_all(&mut client).await, expected);
                });
                fixture.stop();
                store.ended.lock().expect("not poisoned").clear();
            }
        }
    }
}

#[test]
fn idempotency_keys_hold_within_a_request_between_methods_and_over_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let fixture = Fixture::start(config(dir.path(), 2, IoChoice::Auto));
    let (stream, schema) = (fixture.stream, fixture.schema);
    let keyed = |id: i64, key: &str| IngestRequest { idempotency_key: Some(key.to_owned()), ..ingest(record(id)) };
    block_on(async {
        let mut client = Client::connect(fixture.engine.grpc_address()).await;
        let first: IngestResponse = client.unary(path::INGEST, &keyed(1, "a")).await.expect("an answer");
        assert_eq!((first.status(), first.sequence_number), (Status::Ok, 1));
        let again: IngestResponse = client.unary(path::INGEST, &keyed(9, "a")).await.expect("an answer");
        assert_eq!((again.status(), again.sequence_number), (Status::Duplicate, 1));
        assert_eq!(again.record_id, first.record_id);

        let mut call = client.call(path::APPEND).await;
        let idempotency_keys = ["b", "a", "", "b", "c"].map(str::to_owned).to_vec();
        let request = AppendRequest { idempotency_keys, ..append((2..=6).map(record).collect()) };
        call.send(&request).await;
        let answer: AppendResponse = call.receive().await.expect("an answer");
        assert_eq!((answer.accepted, answer.duplicates, answer.rejected), (3, 2, 0));
        let duplicates: Vec<_> = answer.duplicate_sequences.iter().map(|d| (d.index, d.sequence_number)).collect();
        assert_eq!(duplicates, [(1, 1), (3, 2)]);
        assert_eq!((answer.first_sequence, answer.last_sequence), (2, 4));

        let mut call = client.call(path::INGEST_STREAM).await;
        for (id, key) in [(10, "d"), (11, "a"), (12, "d")] {
            call.send(&keyed(id, key)).await;
        }
        let mut got = Vec::new();
        for _ in 0..3 {
            let answer: IngestResponse = call.receive().await.expect("an answer");
            got.push((answer.status(), answer.sequence_number));
        }
        assert_eq!(got, [(Status::Ok, 5), (Status::Duplicate, 1), (Status::Duplicate, 5)]);
    });
    let store = fixture.stop();
    store.ended.lock().expect("not poisoned").clear();
    let fixture = Fixture::start_with(config(dir.path(), 1, IoChoice::Auto), store, stream, schema);
    block_on(async {
        let mut client = Client::connect(fixture.engine.grpc_address()).await;
        let again: IngestResponse = client.unary(path::INGEST, &keyed(9, "c")).await.expect("an answer");
        assert_eq!((again.status(), again.sequence_number), (Status::Duplicate, 4));
        assert_eq!(read_all(&mut client).await.len(), 5);
    });
    fixture.stop();
}

#[test]
fn bad_records_are_told_field_by_field_and_the_call_goes_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let fixture = Fixture::start(config(dir.path(), 1, IoChoice::Auto));
    block_on(async {
        let mut client = Client::connect(fixture.engine.grpc_address()).await;
        let mut call = client.call(path::INGEST_STREAM).await;
        for payload in [r#"{"id":1}"#, r#"{"id":-1,"name":"much too long"}"#, "{", r#"{"id":2}"#] {
            call.send(&ingest(payload)).await;
        }
        let mut answers = Vec::new();
        for _ in 0..4 {
            answers.push(call.receive::<IngestResponse>().await.expect("an answer"));
        }
        let statuses: Vec<_> = answers.iter().map(IngestResponse::status).collect();
        assert_eq!(statuses, [Status::Ok, Status::ValidationError, Status::ValidationError, Status::Ok]);
        let error = answers[1].error.as_ref().expect("an error");
        assert_eq!(error.code, "SCHEMA_VIOLATION");
        let pointers: Vec<_> = error.field_errors.iter().map(|error| error.path.as_str()).collect();
        assert_eq!(pointers, ["/id", "/name"]);
        assert_eq!(answers[2].error.as_ref().expect("an error").code, "NOT_JSON");
        assert_eq!(answers[3].sequence_number, 2);

        let ended = client.unary::<IngestResponse>(path::INGEST, &ingest(r#"{"id":"x"}"#)).await.expect_err("refused");
        assert_eq!((ended.code, ended.reason.as_str()), (3, "SCHEMA_VIOLATION"));
        assert!(ended.violations.contains_key("/id"), "{ended:?}");

        let mixed = || vec![record(3), Bytes::from_static(b"nonsense"), record(4)];
        let mut call = client.call(path::APPEND).await;
        call.send(&append(mixed())).await;
        let answer: AppendResponse = call.receive().await.expect("an answer");
        assert_eq!((answer.status(), answer.accepted, answer.rejected), (Status::ValidationError, 0, 3));
        assert_eq!(answer.row_errors.iter().map(|row| row.index).collect::<Vec<_>>(), [1]);
        call.send(&AppendRequest { on_invalid: OnInvalid::Skip.into(), ..append(mixed()) }).await;
        let answer: AppendResponse = call.receive().await.expect("an answer");
        assert_eq!((answer.status(), answer.accepted, answer.rejected), (Status::Ok, 2, 1));
        assert_eq!((answer.first_sequence, answer.last_sequence), (3, 4));
        let read: Vec<_> = read_all(&mut client).await.into_iter().map(|(sequence, _)| sequence).collect();
        assert_eq!(read, [1, 2, 3, 4]);
    });
    fixture.stop();
}

#[test]
fn each_failure_ends_the_call_as_the_contract_says() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut config = config(dir.path(), 2, IoChoice::Auto);
    config.limits.message_bytes = 64 << 10;
    let fixture = Fixture::start(config);
    block_on(async {
        let mut client = Client::connect(fixture.engine.grpc_address()).await;
        let stream_id = || "nothing".to_owned();
        let other_schema = SchemaId::generate().to_string();
        let cases = [
            (IngestRequest { stream_id: stream_id(), ..ingest(record(1)) }, 5, "STREAM_NOT_FOUND"),
            (IngestRequest { stream_id: String::new(), ..ingest(record(1)) }, 3, "STREAM_REQUIRED"),
            (IngestRequest { schema_id: other_schema, ..ingest(record(1)) }, 9, "SCHEMA_MISMATCH"),
            (IngestRequest { idempotency_key: Some("k".repeat(257)), ..ingest(record(1)) }, 3, "KEY_TOO_LONG"),
            (ingest(vec![b' '; 65 << 10]), 8, "MESSAGE_TOO_LARGE"),
        ];
        for (request, code, reason) in cases {
            let ended = client.unary::<IngestResponse>(path::INGEST, &request).await.expect_err("refused");
            assert_eq!((ended.code, ended.reason.as_str()), (code, reason), "{}", ended.message);
            // In a stream: the records before it are answered, then the call ends the same way.
            let mut call = client.call(path::INGEST_STREAM).await;
            call.send(&ingest(record(1))).await;
            call.send(&request).await;
            assert_eq!(call.receive::<IngestResponse>().await.expect("an answer").status(), Status::Ok);
            let ended = call.receive::<IngestResponse>().await.expect_err("the end");
            assert_eq!((ended.code, ended.reason.as_str()), (code, reason), "{}", ended.message);
        }
        let mut call = client.call(path::INGEST_STREAM).await;
        call.send_bytes(framed_bytes(&[0xff; 16], 0)).await;
        let ended = call.receive::<IngestResponse>().await.expect_err("the end");
        assert_eq!((ended.code, ended.reason.as_str()), (3, "MALFORMED_MESSAGE"));

        let mut call = client.call("/ttdust.ingestion.v1.IngestionService/Nothing").await;
        call.finish();
        assert_eq!(call.receive::<IngestResponse>().await.expect_err("the end").code, 12);

        for (state, reason) in [(StreamState::Paused, "STREAM_PAUSED"), (StreamState::Deleting, "STREAM_DELETING")] {
            // A call that is under way sees the change too.
            fixture.publish(StreamState::Active, Access::Open).await;
            let mut call = client.call(path::APPEND).await;
            call.send(&append(vec![record(1)])).await;
            assert_eq!(call.receive::<AppendResponse>().await.expect("an answer").accepted, 1);
            fixture.publish(state, Access::Open).await;
            call.send(&append(vec![record(1)])).await;
            let ended = call.receive::<AppendResponse>().await.expect_err("the end");
            assert_eq!((ended.code, ended.reason.as_str()), (9, reason));
        }
    });
    fixture.stop();
}

#[test]
fn a_key_is_wanted_where_access_is_not_open_and_its_role_decides() {
    use sha2::Digest as _;
    let dir = tempfile::tempdir().expect("a directory");
    let fixture = Fixture::start(config(dir.path(), 1, IoChoice::Auto));
    let key = |id: &str| format!("ttd_live_{id}_secret");
    let entry = |id: &str, role, stream: &str| KeyEntry {
        sha256: sha2::Sha256::digest(key(id)).into(),
        role,
        streams: StreamPermissions::new(vec![stream.to_owned()]),
        expires_unix_micros: (id == "old").then_some(1),
        last_used: Arc::default(),
    };
    let keys = HashMap::from([
        ("w".to_owned(), entry("w", Role::Writer, "*")),
        ("elsewhere".to_owned(), entry("elsewhere", Role::Writer, "other*")),
        ("r".to_owned(), entry("r", Role::Reader, "*")),
        ("old".to_owned(), entry("old", Role::Writer, "*")),
    ]);
    let checked = |keys| Access::Checked(Credentials { keys, ..Credentials::default() });
    block_on(async {
        fixture.publish(StreamState::Active, checked(keys)).await;
        let cases = [
            (None, 16),
            (Some(("x-api-key", key("w"))), 0),
            (Some(("authorization", format!("Bearer {}", key("w")))), 0),
            (Some(("authorization", format!("Bearer {}x", key("w")))), 16),
            (Some(("x-api-key", key("unknown"))), 16),
            (Some(("x-api-key", key("old"))), 16),
            (Some(("x-api-key", key("r"))), 7),
            (Some(("x-api-key", key("elsewhere"))), 5),
        ];
        for (header, code) in cases {
            let mut client = Client::connect(fixture.engine.grpc_address()).await;
            client.headers.extend(header.clone());
            let outcome = client.unary::<IngestResponse>(path::INGEST, &ingest(record(1))).await;
            assert_eq!(outcome.err().map_or(0, |ended| ended.code), code, "{header:?}");
        }
        // A revoked key ends a call that is under way.
        let mut client = Client::connect(fixture.engine.grpc_address()).await;
        client.headers.push(("x-api-key", key("w")));
        let mut call = client.call(path::INGEST_STREAM).await;
        call.send(&ingest(record(1))).await;
        assert_eq!(call.receive::<IngestResponse>().await.expect("an answer").status(), Status::Ok);
        fixture.publish(StreamState::Active, checked(HashMap::new())).await;
        call.send(&ingest(record(1))).await;
        assert_eq!(call.receive::<IngestResponse>().await.expect_err("the end").code, 16);
    });
    fixture.stop();
}

#[test]
fn a_client_over_its_rate_is_told_when_to_come_back_and_another_is_not_hindered() {
    let dir = tempfile::tempdir().expect("a directory");
    let fixture = Fixture::start(config(dir.path(), 1, IoChoice::Auto));
    let key = |id: &str| format!("ttd_live_{id}_secret");
    let entry = |id: &str| KeyEntry {
        sha256: digest(&key(id)),
        role: Role::Admin,
        streams: StreamPermissions::default(),
        expires_unix_micros: None,
        last_used: Arc::default(),
    };
    let keys = ["a", "b", "c"].map(|id| (id.to_owned(), entry(id))).into();
    let access = Access::Checked(Credentials { keys, ..Credentials::default() });
    block_on(async {
        let rates = RateLimits { ingest_records_per_second: 100, ..RateLimits::default() };
        *fixture.rates.lock().expect("not poisoned") = rates;
        fixture.publish(StreamState::Active, access.clone()).await;
        let mut a = Client::connect(fixture.engine.grpc_address()).await;
        a.headers.push(("x-api-key", key("a")));
        let mut call = a.call(path::APPEND).await;
        let sixty = |first: i64| append((first..first + 60).map(record).collect());
        // Pipelined, so that all three are charged to one balance: its share is 100, and one request may overdraw it.
        call.send(&sixty(1)).await;
        call.send(&sixty(61)).await;
        call.send(&sixty(121)).await;
        let mut refused = 0;
        for _ in 0..3 {
            let answer: AppendResponse = call.receive().await.expect("an answer");
            if answer.status() == Status::Ok {
                assert_eq!((answer.accepted, refused), (60, 0));
                continue;
            }
            refused += 1;
            assert_eq!((answer.status(), answer.accepted, answer.rejected), (Status::RateLimited, 0, 60));
            assert_eq!(answer.error.as_ref().map(|error| error.code.as_str()), Some("RATE_LIMITED"));
            assert!((20..=2000).contains(&answer.retry_after_millis.expect("a time")), "{answer:?}");
        }
        assert!(refused > 0);
        let mut single = a.call(path::INGEST_STREAM).await;
        single.send(&ingest(record(1))).await;
        let answer: IngestResponse = single.receive().await.expect("the call goes on");
        let error = answer.error.clone().expect("an error");
        assert_eq!((answer.status(), error.code.as_str()), (Status::RateLimited, "RATE_LIMITED"));
        assert!(error.message.contains("retry after"), "{error:?}");
        let ended = a.unary::<IngestResponse>(path::INGEST, &ingest(record(1))).await.expect_err("refused");
        assert_eq!((ended.code, ended.reason.as_str()), (8, "RATE_LIMITED"));
        assert!(ended.retry_after.is_some());

        let mut b = Client::connect(fixture.engine.grpc_address()).await;
        b.headers.push(("x-api-key", key("b")));
        let answer: IngestResponse = b.unary(path::INGEST, &ingest(record(1))).await.expect("another client");
        assert_eq!(answer.status(), Status::Ok);
        let mut c = Client::connect(fixture.engine.grpc_address()).await;
        c.headers.push(("x-api-key", key("c")));
        assert_eq!(read_all(&mut c).await.len(), 60 * (3 - refused) + 1, "nothing of a refused request is there");

        *fixture.rates.lock().expect("not poisoned") = RateLimits::default();
        fixture.publish(StreamState::Active, access).await;
        call.send(&sixty(181)).await;
        assert_eq!(call.receive::<AppendResponse>().await.expect("an answer").accepted, 60, "the limit is gone");
    });
    let hits: u64 = fixture.engine.metrics(ShardId(0)).rate_limit_hits.iter().map(|counter| counter.get()).sum();
    assert!(hits >= 3);
    fixture.stop();
}

#[test]
fn admin_calls_are_decided_by_control() {
    let dir = tempfile::tempdir().expect("a directory");
    let fixture = Fixture::start(config(dir.path(), 1, IoChoice::Auto));
    block_on(async {
        let mut client = Client::connect(fixture.engine.grpc_address()).await;
        let get = admin::GetStreamRequest { stream_id: "x".to_owned() };
        let got = client.unary::<admin::GetStreamResponse>(path::GET_STREAM, &get).await.expect("an answer");
        assert_eq!(got.stream.map(|stream| stream.name), Some("x".to_owned()));
        let delete = admin::DeleteStreamRequest { stream_id: "x".to_owned(), force: true };
        let ended =
            client.unary::<admin::DeleteStreamResponse>(path::DELETE_STREAM, &delete).await.expect_err("refused");
        assert_eq!((ended.code, ended.message.as_str()), (9, "not here"));
        let empty = admin::CreateStreamRequest { config: None };
        let ended =
            client.unary::<admin::CreateStreamResponse>(path::CREATE_STREAM, &empty).await.expect_err("refused");
        assert_eq!(ended.code, 3);
    });
    fixture.stop();
}

#[test]
fn compressed_messages_are_taken_and_bombs_are_not() {
    let dir = tempfile::tempdir().expect("a directory");
    let fixture = Fixture::start(config(dir.path(), 1, IoChoice::Auto));
    type Compress<'a> = (&'static str, &'a dyn Fn(&[u8]) -> Vec<u8>);
    let gzip = |data: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(data).expect("memory");
        encoder.finish().expect("memory")
    };
    let zstd = |data: &[u8]| zstd::encode_all(data, 1).expect("memory");
    block_on(async {
        let encodings: [Compress<'_>; 2] = [("gzip", &gzip), ("zstd", &zstd)];
        for (name, compress) in encodings {
            let mut client = Client::connect(fixture.engine.grpc_address()).await;
            client.headers.push(("grpc-encoding", name.to_owned()));
            let mut call = client.call(path::INGEST_STREAM).await;
            let message = prost::Message::encode_to_vec(&ingest(record(7)));
            call.send_bytes(framed_bytes(&compress(&message), 1)).await;
            call.send_bytes(framed_bytes(&message, 0)).await;
            for _ in 0..2 {
                assert_eq!(call.receive::<IngestResponse>().await.expect("an answer").status(), Status::Ok);
            }
            let bomb = compress(&vec![0; 64 << 20]);
            assert!(bomb.len() < 1 << 20);
            call.send_bytes(framed_bytes(&bomb, 1)).await;
            let ended = call.receive::<IngestResponse>().await.expect_err("the end");
            assert_eq!((ended.code, ended.reason.as_str()), (8, "MESSAGE_TOO_LARGE"));
        }
        let mut client = Client::connect(fixture.engine.grpc_address()).await;
        client.headers.push(("grpc-encoding", "snappy".to_owned()));
        let mut call = client.call(path::INGEST_STREAM).await;
        assert_eq!(call.receive::<IngestResponse>().await.expect_err("the end").code, 12);
    });
    fixture.stop();
}

#[test]
fn a_drain_ends_idle_calls_and_answers_what_was_taken() {
    for io in BACKENDS {
        let dir = tempfile::tempdir().expect("a directory");
        let fixture = Fixture::start(config(dir.path(), 2, io));
        let address = fixture.engine.grpc_address();
        let store = block_on(async {
            let mut client = Client::connect(address).await;
            let health: HealthCheckResponse =
                client.unary(path::HEALTH_CHECK, &HealthCheckRequest::default()).await.expect("an answer");
            assert_eq!(health.status, 1);
            let mut idle = client.call(path::APPEND).await;
            idle.send(&append(vec![record(1)])).await;
            assert_eq!(idle.receive::<AppendResponse>().await.expect("an answer").accepted, 1);
            let stopping = tokio::task::spawn_blocking(|| fixture.stop());
            let ended = idle.receive::<AppendResponse>().await.expect_err("the end");
            assert_eq!((ended.code, ended.reason.as_str()), (14, "DRAINING"));
            assert!(ended.retry_after.is_some());
            drop((idle, client));
            stopping.await.expect("stopped")
        });
        let ended = store.ended.lock().expect("not poisoned");
        assert!(ended.iter().all(|(_, outcome)| outcome.is_ok()), "{ended:?}");
        assert!(std::net::TcpStream::connect(address).is_err(), "nothing listens any more");
    }
}

fn lookup(field: &str, value: &str) -> KeyLookupRequest {
    KeyLookupRequest { stream_id: "events".to_owned(), key_field: field.to_owned(), key_value: value.to_owned() }
}

fn wait_for(counter: &AtomicU64, count: u64) {
    let end = Instant::now() + Duration::from_secs(60);
    while counter.load(SeqCst) < count {
        assert!(Instant::now() < end, "{count} did not come");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_query_ends_when_its_client_gives_up_or_goes() {
    for io in BACKENDS {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let fixture = Fixture::start(config(dir.path(), 1, io));
        block_on(async {
            let mut client = Client::connect(fixture.engine.grpc_address()).await;
            client.unary::<IngestResponse>(path::INGEST, &ingest(record(1))).await.expect("taken");
            let found: KeyLookupResponse =
                client.unary(path::LOOKUP_BY_KEY, &lookup("/name", "r1")).await.expect("an answer");
            assert_eq!(found.record.map(|record| record.sequence_number), Some(1));
            // Reset.
            let mut call = client.call(path::LOOKUP_BY_KEY).await;
            call.send(&lookup("/name", HELD)).await;
            call.finish();
            tokio::task::yield_now().await;
            while fixture.store.held.load(SeqCst) < 1 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            call.send.send_reset(h2::Reason::CANCEL);
            while fixture.store.cancelled.load(SeqCst) < 1 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            // Its deadline passes.
            client.headers.push(("grpc-timeout", "20m".to_owned()));
            let ended = client.unary::<KeyLookupResponse>(path::LOOKUP_BY_KEY, &lookup("/name", HELD)).await;
            assert_eq!(ended.expect_err("no answer comes").reason, "DEADLINE_EXCEEDED");
        });
        wait_for(&fixture.store.cancelled, 2);
        // The connection ends with its runtime.
        block_on(async {
            let mut client = Client::connect(fixture.engine.grpc_address()).await;
            let mut call = client.call(path::LOOKUP_BY_KEY).await;
            call.send(&lookup("/name", HELD)).await;
            call.finish();
            while fixture.store.held.load(SeqCst) < 3 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        wait_for(&fixture.store.cancelled, 3);
        fixture.stop();
    }
}

/// What panicked may have left the state half changed: the shard ends, and with it the process.
#[test]
fn a_panic_in_a_call_ends_its_shard_and_control_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let fixture = Fixture::start(config(dir.path(), 1, IoChoice::Auto));
    block_on(async {
        let panics = |_: &str| -> Result<Principal, Unauthenticated> { panic!("made by a test") };
        let tokens: Arc<TokenCheck> = Arc::new(panics);
        let access = Access::Checked(Credentials { tokens: Some(tokens), ..Credentials::default() });
        fixture.publish(StreamState::Active, access).await;
        let mut client = Client::connect(fixture.engine.grpc_address()).await;
        client.headers = vec![("authorization", "Bearer token".to_owned())];
        let mut call = client.call(path::INGEST).await;
        assert!(call.try_receive::<IngestResponse>().await.is_none(), "no answer");
    });
    let end = Instant::now() + Duration::from_secs(60);
    let ended = loop {
        if let Some(ended) = fixture.store.ended.lock().expect("not poisoned").first().cloned() {
            break ended;
        }
        assert!(Instant::now() < end, "the shard ends");
        std::thread::sleep(Duration::from_millis(5));
    };
    assert_eq!(ended.0, ShardId(0));
    assert!(ended.1.as_ref().is_err_and(|reason| reason.contains("panicked")), "{ended:?}");
}
