//! `StreamingRead` over the engine: what was there and what comes, in order, once; slow readers; how calls end. And a model:
//! random producers, flushes and readers.

#[path = "engine/client.rs"]
mod client;
#[path = "engine/control.rs"]
mod control;
#[path = "tail/model.rs"]
mod model;
#[path = "tail/reader.rs"]
mod reader;

use std::{collections::HashMap, sync::Arc, time::Duration};

use client::{Client, framed_bytes};
use control::{Fixture, config};
use reader::{Producer, Reader, block_on, from, metric, start_at, wait_until};
use ttdust_proto::{path, query::StreamingReadRequest};
use ttdust_shards::{
    access::{Access, Credentials, KeyEntry, Role, StreamPermissions, digest},
    config::IoChoice,
    snapshot::StreamState,
};

#[test]
fn a_reader_gets_what_is_there_and_then_what_comes_on_every_shard_and_backend() {
    for io in [IoChoice::Auto, IoChoice::Epoll] {
        for shards in [1, 3] {
            let dir = tempfile::tempdir().expect("a directory");
            let fixture = Fixture::start(config(dir.path(), shards, io));
            block_on(async {
                let mut producer = Producer::connect(&fixture).await;
                producer.append(1500, 0).await;
                fixture.flush().await;
                producer.append(1000, 0).await;
                let middle = producer.times[1999];
                let by_time = producer.times.iter().position(|&time| time >= middle).expect("there") as i64 + 1;

                // Each on a connection of its own, so that they land on all shards.
                let mut readers = Vec::new();
                for _ in 0..shards {
                    readers.push(Reader::open(&fixture, start_at(1), 1).await);
                    readers.push(Reader::open(&fixture, start_at(1400), 1400).await);
                    readers.push(Reader::open(&fixture, start_at(2501), 2501).await);
                    let request = StreamingReadRequest { start_time: Some(middle), ..from(None) };
                    readers.push(Reader::open(&fixture, request, by_time).await);
                    readers.push(Reader::open(&fixture, from(None), 2501).await);
                    // In the middle of what will come in one go.
                    readers.push(Reader::open(&fixture, start_at(2550), 2550).await);
                }
                for reader in &mut readers {
                    reader.read_through(2500, &producer, Some(true)).await;
                }
                producer.append(300, 700).await;
                for reader in &mut readers {
                    reader.read_through(2800, &producer, Some(false)).await;
                }
                // Flushed or not makes no difference to who is live, nor does a start in the future.
                let future = producer.times[2799] + 60_000_000;
                let request = StreamingReadRequest { start_time: Some(future), ..from(None) };
                let waiting = Reader::open(&fixture, request, 0).await;
                fixture.flush().await;
                producer.append(10, 0).await;
                for reader in &mut readers {
                    reader.read_through(2810, &producer, Some(false)).await;
                }
                assert_eq!(metric(&fixture, |m| m.tail_fallbacks.get()), 0);
                assert_eq!(metric(&fixture, |m| m.tails.get()), readers.len() as u64 + 1);
                drop((readers, waiting));
                wait_until("every reader is gone", || metric(&fixture, |m| m.tails.get()) == 0).await;
                wait_until("their memory too", || metric(&fixture, |m| m.tail_queue_bytes.get()) == 0).await;
            });
            fixture.stop();
        }
    }
}

#[test]
fn metadata_comes_from_files_from_the_buffer_and_live_alike() {
    let dir = tempfile::tempdir().expect("a directory");
    let fixture = Fixture::start(config(dir.path(), 2, IoChoice::Auto));
    block_on(async {
        let mut producer = Producer::connect(&fixture).await;
        let pairs = [("source", "a"), ("", "ü")];
        producer.append_with(3, 0, &pairs).await;
        fixture.flush().await;
        producer.append_with(3, 0, &pairs).await;
        let mut reader = Reader::open(&fixture, start_at(1), 1).await;
        let mut records = Vec::new();
        for _ in 0..6 {
            records.push(reader.receive().await);
        }
        producer.append_with(3, 0, &pairs).await;
        for _ in 0..3 {
            records.push(reader.receive().await);
        }
        let expected = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        for (record, index) in records.iter().zip(0..) {
            assert_eq!(record.metadata, expected);
            assert_eq!(record.stream_id, fixture.stream.to_string());
            assert_eq!(record.record_id, ttdust_shards::ids::RecordId::of(fixture.stream, index + 1).to_string());
            assert_eq!(record.timestamp_unix_micros, producer.times[index as usize]);
        }
    });
    fixture.stop();
}

#[test]
fn a_thousand_readers_get_each_row_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let fixture = Fixture::start(config(dir.path(), 2, IoChoice::Auto));
    block_on(async {
        let mut producer = Producer::connect(&fixture).await;
        producer.append(10, 0).await;
        let mut readers = Vec::new();
        for _ in 0..10 {
            let mut client = Client::connect(fixture.engine.grpc_address()).await;
            for _ in 0..100 {
                readers.push(Reader::over(&mut client, start_at(1), 1).await);
            }
        }
        assert_eq!(readers.len(), 1000);
        for (through, more) in [(10, 20), (30, 30), (60, 0)] {
            let all = readers.iter_mut().map(|reader| reader.read_through(through, &producer, None));
            futures_util::future::join_all(all).await;
            producer.append(more, 0).await;
        }
        assert_eq!(metric(&fixture, |m| m.tail_records.get()), 1000 * 60);
        assert_eq!(metric(&fixture, |m| m.tail_fallbacks.get()), 0);
    });
    fixture.stop();
}

#[test]
fn a_slow_reader_falls_back_to_storage_without_a_gap_and_holds_up_nobody() {
    for shards in [1, 2] {
        let dir = tempfile::tempdir().expect("a directory");
        let mut config = config(dir.path(), shards, IoChoice::Auto);
        config.tail_memory_bytes = 2 << 20;
        let fixture = Fixture::start(config);
        block_on(async {
            let mut producer = Producer::connect(&fixture).await;
            let mut slow = Vec::new();
            for _ in 0..3 {
                slow.push(Reader::open(&fixture, from(None), 1).await);
            }
            let mut fast = Reader::open(&fixture, from(None), 1).await;
            for round in 1..=40 {
                producer.append(200, 2000).await;
                if round == 20 {
                    fixture.flush().await;
                }
                fast.read_through(round * 200, &producer, None).await;
            }
            assert!(metric(&fixture, |m| m.tail_queue_bytes.get()) <= shards as u64 * (2 << 20) + (1 << 20));
            for reader in &mut slow {
                reader.read_through(8000, &producer, None).await;
                assert!(reader.historical > 0, "it is told that it catches up");
                assert!(reader.live > 0, "it was live at first");
            }
            assert!(metric(&fixture, |m| m.tail_fallbacks.get()) >= 3);
            // Caught up again, they are live again.
            producer.append(10, 0).await;
            for reader in &mut slow {
                reader.read_through(8010, &producer, Some(false)).await;
            }
        });
        fixture.stop();
    }
}

#[test]
fn readers_that_take_nothing_are_ended_when_others_need_the_memory() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut config = config(dir.path(), 1, IoChoice::Auto);
    config.tail_memory_bytes = 1 << 20;
    let fixture = Fixture::start(config);
    block_on(async {
        let mut producer = Producer::connect(&fixture).await;
        for _ in 0..20 {
            producer.append(100, 2000).await;
        }
        let mut stuck = Vec::new();
        for n in 0..12 {
            stuck.push(Reader::open(&fixture, start_at(1 + 90 * n), 1 + 90 * n).await);
        }
        wait_until("memory is short", || metric(&fixture, |m| m.tail_queue_bytes.get()) > 500 << 10).await;
        let mut reader = Reader::open(&fixture, start_at(1), 1).await;
        reader.read_through(2000, &producer, Some(true)).await;
        let ended = metric(&fixture, |m| m.tails_stalled.get());
        assert!(ended > 0);
        assert!(metric(&fixture, |m| m.tail_queue_bytes.get()) <= 2 << 20);
        // Whoever is ended is told, after what came whole, and can go on.
        let mut told = 0;
        for mut reader in stuck {
            while let Some(outcome) = reader.try_receive(&producer).await {
                if let Err(ended) = outcome {
                    assert_eq!((ended.code, ended.reason.as_str()), (8, "READER_TOO_SLOW"), "{ended:?}");
                    told += 1;
                    break;
                }
                if reader.next > 2000 {
                    break;
                }
            }
        }
        assert!(told <= ended);
    });
    fixture.stop();
}

#[test]
fn what_is_asked_for_wrongly_or_without_a_right_to_it_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut config = config(dir.path(), 1, IoChoice::Auto);
    config.limits.tails = 2;
    let fixture = Fixture::start(config);
    let key = |id: &str| format!("ttd_live_{id}_secret");
    let entry = |id: &str, role, stream: &str| KeyEntry {
        sha256: digest(&key(id)),
        role,
        streams: StreamPermissions::new(vec![stream.to_owned()]),
        expires_unix_micros: None,
        last_used: Arc::default(),
    };
    let keys = HashMap::from([
        ("w".to_owned(), entry("w", Role::Writer, "*")),
        ("elsewhere".to_owned(), entry("elsewhere", Role::Reader, "other*")),
    ]);
    block_on(async {
        let mut client = Client::connect(fixture.engine.grpc_address()).await;
        let both = StreamingReadRequest { start_time: Some(1), ..start_at(1) };
        let nowhere = StreamingReadRequest { stream_id: "nothing".to_owned(), ..start_at(1) };
        let cases = [
            (both, 3, "BAD_START"),
            (start_at(0), 3, "BAD_START"),
            (start_at(i64::MIN), 3, "BAD_START"),
            (nowhere, 5, "STREAM_NOT_FOUND"),
        ];
        for (request, code, reason) in cases {
            let ended = Reader::over(&mut client, request, 1).await.end().await;
            assert_eq!((ended.code, ended.reason.as_str()), (code, reason), "{}", ended.message);
        }
        let mut call = client.call(path::STREAMING_READ).await;
        call.send_bytes(framed_bytes(&[0xff; 16], 0)).await;
        let ended = call.receive::<ttdust_proto::query::StreamingReadResponse>().await.expect_err("the end");
        assert_eq!((ended.code, ended.reason.as_str()), (3, "MALFORMED_MESSAGE"));

        let first = Reader::open(&fixture, start_at(i64::MAX), 1).await;
        let second = Reader::open(&fixture, from(None), 1).await;
        let ended = Reader::over(&mut client, from(None), 1).await.end().await;
        assert_eq!((ended.code, ended.reason.as_str()), (8, "TOO_MANY_TAILS"));
        drop((first, second));
        wait_until("they are gone", || metric(&fixture, |m| m.tails.get()) == 0).await;

        fixture.publish(StreamState::Active, Access::Checked(Credentials { keys, ..Credentials::default() })).await;
        for (header, code) in [(None, 16), (Some(key("w")), 7), (Some(key("elsewhere")), 5)] {
            let mut client = Client::connect(fixture.engine.grpc_address()).await;
            client.headers.extend(header.map(|key| ("x-api-key", key)));
            assert_eq!(Reader::over(&mut client, start_at(1), 1).await.end().await.code, code);
        }
    });
    fixture.stop();
}

#[test]
fn a_tail_ends_with_its_right_its_stream_or_its_server() {
    let dir = tempfile::tempdir().expect("a directory");
    let fixture = Fixture::start(config(dir.path(), 2, IoChoice::Auto));
    let key = "ttd_live_r_secret".to_owned();
    let entry = |expires_unix_micros| KeyEntry {
        sha256: digest(&key),
        role: Role::Reader,
        streams: StreamPermissions::new(vec!["*".to_owned()]),
        expires_unix_micros,
        last_used: Arc::default(),
    };
    let access = |expires| {
        let keys = HashMap::from([("r".to_owned(), entry(expires))]);
        Access::Checked(Credentials { keys, ..Credentials::default() })
    };
    let (fixture, key) = (fixture, key.clone());
    block_on(async {
        let mut producer = Producer::connect(&fixture).await;
        producer.append(5, 0).await;
        let open = async || {
            let mut client = Client::connect(fixture.engine.grpc_address()).await;
            client.headers.push(("x-api-key", key.clone()));
            Reader::over(&mut client, start_at(1), 1).await
        };
        let soon = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970")
            + Duration::from_secs(2);
        let ends: [(Access, StreamState, u32, &str); 3] = [
            (Access::Checked(Credentials::default()), StreamState::Active, 16, "UNAUTHENTICATED"),
            (access(None), StreamState::Deleting, 9, "STREAM_DELETING"),
            (access(Some(soon.as_micros() as i64)), StreamState::Active, 16, "UNAUTHENTICATED"),
        ];
        for (then, state, code, reason) in ends {
            fixture.publish(StreamState::Active, access(None)).await;
            let mut reader = open().await;
            reader.read_through(5, &producer, Some(true)).await;
            // A pause is none of a reader's business.
            fixture.publish(StreamState::Paused, access(None)).await;
            fixture.publish(state, then).await;
            let ended = reader.end().await;
            assert_eq!((ended.code, ended.reason.as_str()), (code, reason));
        }
        fixture.publish(StreamState::Active, access(None)).await;
        let mut reader = open().await;
        reader.read_through(5, &producer, Some(true)).await;
        let stopping = tokio::task::spawn_blocking(|| fixture.stop());
        let ended = reader.end().await;
        assert_eq!((ended.code, ended.reason.as_str()), (14, "DRAINING"));
        drop((reader, producer));
        let store = stopping.await.expect("stopped");
        assert!(store.ended.lock().expect("not poisoned").iter().all(|(_, outcome)| outcome.is_ok()));
    });
}

#[test]
fn a_drain_ends_a_reader_that_does_not_read_after_whole_messages() {
    let dir = tempfile::tempdir().expect("a directory");
    let fixture = Fixture::start(config(dir.path(), 1, IoChoice::Auto));
    block_on(async {
        let mut producer = Producer::connect(&fixture).await;
        for _ in 0..10 {
            producer.append(100, 3000).await;
        }
        let mut reader = Reader::open(&fixture, start_at(1), 1).await;
        reader.receive().await;
        let producer_rows = producer.take_rows();
        drop(producer);
        let stopping = tokio::task::spawn_blocking(|| fixture.stop());
        // What it gets until its end is whole, in order, and a part.
        let ended = loop {
            match reader.try_receive_rows(&producer_rows).await.expect("an end, not a cut") {
                Ok(_) => assert!(reader.next <= 1001),
                Err(ended) => break ended,
            }
        };
        assert_eq!((ended.code, ended.reason.as_str()), (14, "DRAINING"));
        drop(reader);
        stopping.await.expect("stopped");
    });
}

#[test]
fn a_record_larger_than_a_page_and_than_a_window_arrives() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut config = config(dir.path(), 1, IoChoice::Auto);
    config.tail_memory_bytes = 1 << 20;
    let fixture = Fixture::start(config);
    block_on(async {
        let mut producer = Producer::connect(&fixture).await;
        producer.append(3, 900_000).await;
        fixture.flush().await;
        producer.append(2, 900_000).await;
        let mut reader = Reader::open(&fixture, start_at(2), 2).await;
        reader.read_through(5, &producer, Some(true)).await;
        producer.append(2, 900_000).await;
        reader.read_through(7, &producer, None).await;
    });
    fixture.stop();
}

#[test]
fn random_readers_see_every_row_from_their_start_once_and_in_order() {
    for seed in [1, 2, 3] {
        println!("seed {seed}");
        model::run(seed);
    }
}
