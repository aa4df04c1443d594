//! A producer that keeps what was acked, and reads it back: sequence numbers of one producer are dense, so a list is enough.

#![allow(dead_code, reason = "each test that includes this file uses a part of it")]

use bytes::Bytes;
use ttdust_proto::{
    ingestion::{AppendRequest, AppendResponse, Status},
    path,
    query::{TimeRangeQueryRequest, TimeRangeQueryResponse},
};

use crate::client::{Client, Ended};

/// Runs to the end on a runtime of its own.
pub fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

/// The only producer of a stream.
pub struct Producer {
    pub client: Client,
    stream: String,
    /// Payloads; index n holds sequence number n + 1.
    pub acked: Vec<Bytes>,
}

/// What became of a batch that was not taken: nothing of it was.
#[derive(Debug)]
pub enum Refused {
    /// Inside the call, which goes on.
    Answered(Box<AppendResponse>),
    /// By the call's end.
    Ended(Ended),
}

impl Refused {
    /// The reason and the time after which to try again, in milliseconds.
    pub fn reason(&self) -> (&str, u64) {
        match self {
            Self::Answered(answer) => {
                let error = answer.error.as_ref().expect("a refusal has an error");
                (&error.code, u64::from(answer.retry_after_millis.expect("a refusal says when to try again")))
            }
            Self::Ended(ended) => {
                let after = ended.retry_after.expect("a refusal says when to try again");
                (&ended.reason, after.as_millis() as u64)
            }
        }
    }
}

impl Producer {
    /// A producer of an empty stream.
    pub async fn connect(grpc: &str, stream: &str) -> Self {
        Self::reconnect(grpc, stream, Vec::new()).await
    }

    /// The same after a restart of the server.
    pub async fn reconnect(grpc: &str, stream: &str, acked: Vec<Bytes>) -> Self {
        let client = Client::connect(grpc.parse().expect("an address")).await;
        Self { client, stream: stream.to_owned(), acked }
    }

    /// A producer of an empty stream, on a client that is connected.
    pub fn over(client: Client, stream: &str) -> Self {
        Self { client, stream: stream.to_owned(), acked: Vec::new() }
    }

    /// Sends a batch in a call of its own.
    pub async fn append(&mut self, payloads: Vec<Bytes>) -> Result<(), Refused> {
        let sent = payloads.len() as u32;
        let request =
            AppendRequest { stream_id: self.stream.clone(), payloads: payloads.clone(), ..AppendRequest::default() };
        let mut call = self.client.call(path::APPEND).await;
        call.send(&request).await;
        call.finish();
        let answer: AppendResponse = call.receive().await.map_err(Refused::Ended)?;
        let ended = call.receive::<AppendResponse>().await.expect_err("one answer a request");
        assert_eq!(ended.code, 0, "{ended:?}");
        assert_eq!(answer.accepted + answer.duplicates + answer.rejected + answer.dead_lettered, sent, "{answer:?}");
        if answer.status() == Status::RateLimited {
            assert_eq!(answer.rejected, sent, "nothing of a refused request is taken: {answer:?}");
            return Err(Refused::Answered(Box::new(answer)));
        }
        assert_eq!((answer.status(), answer.accepted), (Status::Ok, sent), "{answer:?}");
        assert_eq!(answer.first_sequence, self.acked.len() as i64 + 1, "sequence numbers are dense");
        self.acked.extend(payloads);
        Ok(())
    }

    /// Sends batches one after the other in one call, without waiting for an answer, and takes all answers; how the call ended.
    /// They must fit into the window of a call, 4 MiB.
    pub async fn pipeline(&mut self, batches: Vec<Vec<Bytes>>) -> Ended {
        let mut call = self.client.call(path::APPEND).await;
        for payloads in batches.clone() {
            let stream_id = self.stream.clone();
            call.send(&AppendRequest { stream_id, payloads, ..AppendRequest::default() }).await;
        }
        call.finish();
        for payloads in batches {
            match call.receive::<AppendResponse>().await {
                Ok(answer) if answer.status() == Status::Ok => {
                    assert_eq!(answer.first_sequence, self.acked.len() as i64 + 1, "sequence numbers are dense");
                    self.acked.extend(payloads);
                }
                Ok(answer) => assert_eq!((answer.status(), answer.accepted), (Status::RateLimited, 0), "{answer:?}"),
                Err(ended) => return ended,
            }
        }
        call.receive::<AppendResponse>().await.expect_err("one answer a request")
    }

    /// Everything that the server has in the stream.
    pub async fn read_all(&mut self) -> Vec<Bytes> {
        let mut rows = Vec::new();
        let mut cursor = None;
        loop {
            let request = TimeRangeQueryRequest {
                stream_id: self.stream.clone(),
                start_time_unix_micros: 0,
                end_time_unix_micros: i64::MAX,
                limit: Some(1000),
                cursor,
                order: None,
                time_field: None,
            };
            let answer: TimeRangeQueryResponse =
                self.client.unary(path::QUERY_TIME_RANGE, &request).await.expect("an answer");
            for record in answer.records {
                rows.push(record.payload);
                assert_eq!(record.sequence_number, rows.len() as i64, "sequence numbers are dense");
            }
            match answer.next_cursor {
                Some(next) => cursor = Some(next),
                None => return rows,
            }
        }
    }

    /// What is read is what was acked, byte for byte.
    #[track_caller]
    pub fn check(&self, read: &[Bytes]) {
        assert_eq!(read.len(), self.acked.len(), "acked records and no others are read");
        let differs = read.iter().zip(&self.acked).position(|(read, acked)| read != acked);
        assert_eq!(differs, None, "the index of a record that is not what was sent");
    }
}
