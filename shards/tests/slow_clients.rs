//! Clients that keep a call waiting, in the middle of a message or with acks that they do not read: they are ended, and others are
//! not.

#[path = "engine/client.rs"]
mod client;
#[path = "engine/control.rs"]
mod control;

use std::future::poll_fn;

use bytes::Bytes;
use client::{Client, framed};
use control::{Fixture, config};
use ttdust_proto::{
    ingestion::{AppendRequest, AppendResponse, IngestRequest, IngestResponse},
    path,
};
use ttdust_shards::config::IoChoice;

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

/// An engine that waits a second for its clients.
fn start(dir: &std::path::Path, shards: usize) -> Fixture {
    let mut config = config(dir, shards, IoChoice::Auto);
    config.limits.stall_seconds = 1;
    Fixture::start(config)
}

fn ingest(id: i64) -> IngestRequest {
    let payload = Bytes::from(format!(r#"{{"id":{id}}}"#));
    IngestRequest { stream_id: "events".to_owned(), payload, ..IngestRequest::default() }
}

fn append(id: i64) -> AppendRequest {
    AppendRequest { stream_id: "events".to_owned(), payloads: vec![ingest(id).payload], ..AppendRequest::default() }
}

#[test]
fn half_a_message_is_not_waited_for_and_the_next_message_is() {
    for shards in [1, 2] {
        let dir = tempfile::tempdir().expect("a directory");
        let fixture = start(dir.path(), shards);
        block_on(async {
            let mut client = Client::connect(fixture.engine.grpc_address()).await;
            // Between messages a call may wait: this one does until the others are ended.
            let mut idle = client.call(path::APPEND).await;
            idle.send(&append(1)).await;
            idle.receive::<AppendResponse>().await.expect("an answer");
            let mut silent = client.call(path::INGEST_STREAM).await;

            let (half, half_ingest) = (framed(&append(2)), framed(&ingest(2)));
            for cut in [1, 4, 5, half.len() - 1] {
                let mut call = client.call(path::APPEND).await;
                call.send(&append(1)).await;
                call.send_bytes(half.slice(..cut)).await;
                call.receive::<AppendResponse>().await.expect("what is whole is answered");
                let ended = call.receive::<AppendResponse>().await.expect_err("the end");
                assert_eq!((ended.code, ended.reason.as_str()), (4, "MESSAGE_STALLED"), "{ended:?}");
                assert!(ended.message.contains("for 1 s"), "{ended:?}");
            }
            let mut call = client.call(path::INGEST_STREAM).await;
            call.send_bytes(half_ingest.slice(..10)).await;
            let ended = call.receive::<IngestResponse>().await.expect_err("the end");
            assert_eq!((ended.code, ended.reason.as_str()), (4, "MESSAGE_STALLED"), "{ended:?}");

            idle.send_bytes(half.slice(..7)).await;
            idle.send_bytes(half.slice(7..)).await;
            idle.receive::<AppendResponse>().await.expect("an answer");
            silent.send(&ingest(3)).await;
            silent.receive::<IngestResponse>().await.expect("an answer");
        });
        fixture.stop();
    }
}

#[test]
fn acks_that_nobody_takes_end_the_call_and_it_is_told_that_records_may_have_been_taken() {
    let dir = tempfile::tempdir().expect("a directory");
    let fixture = start(dir.path(), 2);
    block_on(async {
        let address = fixture.engine.grpc_address();
        // No byte of an answer may be sent: the call ends between messages.
        for method in [path::APPEND, path::INGEST_STREAM] {
            let socket = tokio::net::TcpStream::connect(address).await.expect("connected");
            let mut client = Client::over_with(socket, 0, (1 << 16) - 1).await.expect("connected");
            let mut call = client.call(method).await;
            for id in 0..10 {
                let message = if method == path::APPEND { framed(&append(id)) } else { framed(&ingest(id)) };
                call.send_bytes(message).await;
            }
            let ended = call.receive::<IngestResponse>().await.expect_err("the end");
            assert_eq!((ended.code, ended.reason.as_str()), (14, "OUTCOME_UNKNOWN"), "{ended:?}");
            assert!(ended.message.contains("no answer was taken for 1 s"), "{ended:?}");
        }
        // What has begun to come is cut off in the middle: 64 KiB hold a thousand answers and a half.
        let mut client = Client::connect(address).await;
        let mut call = client.call(path::INGEST_STREAM).await;
        for id in 0..3000 {
            call.send(&ingest(id)).await;
        }
        let reset = poll_fn(|cx| call.send.poll_reset(cx)).await.expect("a reset");
        assert_eq!(reset, h2::Reason::ENHANCE_YOUR_CALM);

        let mut client = Client::connect(address).await;
        let mut call = client.call(path::APPEND).await;
        call.send(&append(1)).await;
        let answer: AppendResponse = call.receive().await.expect("an answer");
        assert_eq!(answer.first_sequence, 3021, "every record was taken");
    });
    fixture.stop();
}
