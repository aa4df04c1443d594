//! A producer that knows what it sent, and readers that check each row against it.

use std::{sync::atomic::AtomicI64, time::Duration};

use bytes::Bytes;
use ttdust_proto::{
    ingestion::{AppendRequest, AppendResponse, Status},
    path,
    query::{Record, StreamingReadRequest, StreamingReadResponse},
};
use ttdust_shards::{ids::ShardId, metrics::ShardMetrics};

use crate::{
    client::{Call, Client, Ended},
    control::Fixture,
};

/// Ends a test that would hang.
const DEADLINE: Duration = Duration::from_secs(60);

/// Runs to the end on a runtime of its own.
pub fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

/// A figure over all shards.
pub fn metric(fixture: &Fixture, read: impl Fn(&ShardMetrics) -> u64) -> u64 {
    (0..fixture.engine.shards()).map(|shard| read(fixture.engine.metrics(ShardId(shard)))).sum()
}

pub async fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(DEADLINE, waiting).await.unwrap_or_else(|_| panic!("{what}: not so"));
}

pub fn from(start_sequence: Option<i64>) -> StreamingReadRequest {
    StreamingReadRequest { stream_id: "events".to_owned(), start_sequence, start_time: None }
}

pub fn start_at(sequence: i64) -> StreamingReadRequest {
    from(Some(sequence))
}

/// The only producer of the stream.
pub struct Producer {
    client: Client,
    /// Payloads; index n holds sequence number n + 1.
    pub rows: Vec<Bytes>,
    /// When each was ingested.
    pub times: Vec<i64>,
}

static NUMBER: AtomicI64 = AtomicI64::new(0);

/// A record of about `bytes`: JSON may have spaces.
pub fn record(bytes: usize) -> Bytes {
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    format!("{{\"id\":{number}{}}}", " ".repeat(bytes.saturating_sub(10))).into()
}

impl Producer {
    pub async fn connect(fixture: &Fixture) -> Self {
        let client = Client::connect(fixture.engine.grpc_address()).await;
        Self { client, rows: Vec::new(), times: Vec::new() }
    }

    /// Appends `count` records of about `bytes` each, in one request.
    pub async fn append(&mut self, count: usize, bytes: usize) {
        self.append_with(count, bytes, &[]).await;
    }

    pub async fn append_with(&mut self, count: usize, bytes: usize, metadata: &[(&str, &str)]) {
        let payloads: Vec<_> = (0..count).map(|_| record(bytes)).collect();
        if payloads.is_empty() {
            return;
        }
        let request = AppendRequest {
            stream_id: "events".to_owned(),
            payloads: payloads.clone(),
            metadata: metadata.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            ..AppendRequest::default()
        };
        let mut call = self.client.call(path::APPEND).await;
        call.send(&request).await;
        let answer: AppendResponse = call.receive().await.expect("an answer");
        assert_eq!((answer.status(), answer.accepted as usize), (Status::Ok, count), "{answer:?}");
        assert_eq!(answer.first_sequence, self.rows.len() as i64 + 1);
        self.rows.extend(payloads);
        self.times.resize(self.rows.len(), answer.timestamp_unix_micros);
    }

    pub fn take_rows(&mut self) -> Vec<Bytes> {
        std::mem::take(&mut self.rows)
    }
}

/// A call of `StreamingRead`.
pub struct Reader {
    call: Call,
    /// The row that must come next.
    pub next: i64,
    /// Rows that came with either mark.
    pub historical: u64,
    pub live: u64,
}

impl Reader {
    /// On a connection of its own; returns when the call stands.
    pub async fn open(fixture: &Fixture, request: StreamingReadRequest, next: i64) -> Self {
        let mut client = Client::connect(fixture.engine.grpc_address()).await;
        Self::over(&mut client, request, next).await
    }

    pub async fn over(client: &mut Client, request: StreamingReadRequest, next: i64) -> Self {
        let mut call = client.call(path::STREAMING_READ).await;
        call.send(&request).await;
        call.finish();
        call.opened().await;
        Self { call, next, historical: 0, live: 0 }
    }

    /// The next answer, or how the call ended; `None`: it was cut off.
    async fn answer(&mut self) -> Option<Result<StreamingReadResponse, Ended>> {
        let answer = self.call.receive_or_cut::<StreamingReadResponse>();
        tokio::time::timeout(DEADLINE, answer).await.expect("an answer in time")
    }

    /// The next record, whatever it holds, with its sequence number checked.
    pub async fn receive(&mut self) -> Record {
        let answer = self.answer().await.expect("not cut").expect("a record");
        self.check(answer, None).0
    }

    fn check(&mut self, answer: StreamingReadResponse, rows: Option<&[Bytes]>) -> (Record, bool) {
        let record = answer.record.expect("a record");
        assert_eq!(record.sequence_number, self.next, "in order, without a gap or a double");
        if let Some(rows) = rows {
            assert!(record.payload == rows[self.next as usize - 1], "row {} is another", self.next);
        }
        self.next += 1;
        if answer.is_historical {
            self.historical += 1
        } else {
            self.live += 1
        }
        (record, answer.is_historical)
    }

    /// The next record, or how the call ended; `None`: it was cut off.
    pub async fn try_receive(&mut self, producer: &Producer) -> Option<Result<bool, Ended>> {
        self.try_receive_rows(&producer.rows).await
    }

    pub async fn try_receive_rows(&mut self, rows: &[Bytes]) -> Option<Result<bool, Ended>> {
        let answer = self.answer().await?;
        Some(answer.map(|answer| self.check(answer, Some(rows)).1))
    }

    /// Reads until it has had `last`; all of it has this mark, if one is given.
    pub async fn read_through(&mut self, last: i64, producer: &Producer, is_historical: Option<bool>) {
        while self.next <= last {
            let sequence = self.next;
            let mark = self.try_receive(producer).await.expect("not cut").expect("a record");
            if let Some(expected) = is_historical {
                assert_eq!(mark, expected, "row {sequence}");
            }
        }
    }

    /// How the call ends; nothing comes before.
    pub async fn end(&mut self) -> Ended {
        self.answer().await.expect("an end, not a cut").expect_err("the end")
    }
}
