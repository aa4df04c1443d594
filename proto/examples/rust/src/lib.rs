//! A client in Rust: sends records with a window in flight, again where that is safe, reads them back, and follows the stream.
//!
//! tonic carries the calls; the messages and the methods' paths are those of `ttdust-proto`.

use std::{
    collections::{BTreeMap, VecDeque},
    error::Error,
    time::Duration,
};

use futures_util::stream;
use http::uri::PathAndQuery;
use prost::{Message, bytes::Bytes};
use tokio::{sync::mpsc, time};
use tonic::{Code, Request, Status, client::Grpc, transport::Channel};
use tonic_prost::ProstCodec;
use ttdust_proto::{
    ingestion::{IngestRequest, IngestResponse, Status as Outcome},
    path,
    query::{Record, StreamingReadRequest, StreamingReadResponse, TimeRangeQueryRequest, TimeRangeQueryResponse},
    rpc,
};

/// Records in flight.
const WINDOW: usize = 256;
/// Calls without progress after which somebody should look.
const TRIES: u32 = 10;

/// What a client gives up with.
pub type Failure = Box<dyn Error + Send + Sync>;

/// A record and the key that makes it safe to send it again.
#[derive(Debug, Clone)]
pub struct Keyed {
    /// Its idempotency key.
    pub key: String,
    /// JSON.
    pub payload: Bytes,
}

/// A client of one server.
#[derive(Debug, Clone)]
pub struct Client {
    grpc: Grpc<Channel>,
    /// `authorization`, where the server asks for it.
    bearer: Option<String>,
}

impl Client {
    /// Connects to `endpoint`, such as `http://localhost:50051`.
    ///
    /// # Errors
    /// Nobody answers there.
    pub async fn connect(endpoint: String, api_key: Option<&str>) -> Result<Self, Failure> {
        let channel = Channel::from_shared(endpoint)?.connect().await?;
        Ok(Self { grpc: Grpc::new(channel), bearer: api_key.map(|key| format!("Bearer {key}")) })
    }

    fn request<T>(&self, message: T) -> Result<Request<T>, Failure> {
        let mut request = Request::new(message);
        if let Some(bearer) = &self.bearer {
            request.metadata_mut().insert("authorization", bearer.parse()?);
        }
        Ok(request)
    }

    /// Sends records until it is known what became of each: how many had which outcome.
    ///
    /// # Errors
    /// What trying again cannot help against.
    pub async fn send(&mut self, stream: &str, records: Vec<Keyed>) -> Result<BTreeMap<&'static str, u64>, Failure> {
        let mut waiting = VecDeque::from(records);
        let (mut outcomes, mut failures) = (BTreeMap::new(), 0);
        while !waiting.is_empty() {
            let before = waiting.len();
            let wait = self.call(stream, &mut waiting, &mut outcomes).await?;
            failures = if waiting.len() == before { failures + 1 } else { 0 };
            if failures == TRIES {
                return Err(format!("no progress in {TRIES} tries").into());
            }
            if !waiting.is_empty() {
                time::sleep(wait).await;
            }
        }
        Ok(outcomes)
    }

    /// One call: what of it is not taken waits again. When the next may be made.
    async fn call(
        &mut self,
        stream: &str,
        waiting: &mut VecDeque<Keyed>,
        outcomes: &mut BTreeMap<&'static str, u64>,
    ) -> Result<Duration, Failure> {
        let (requests, receiver) = mpsc::channel(WINDOW);
        let incoming = stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) });
        let request = self.request(incoming)?;
        self.grpc.ready().await?;
        let codec = ProstCodec::<IngestRequest, IngestResponse>::default();
        let path = PathAndQuery::from_static(path::INGEST_STREAM);
        let (mut sent, mut again) = (VecDeque::new(), Vec::new());
        let mut wait = Duration::ZERO;
        let ended = match self.grpc.streaming(request, path, codec).await {
            Err(status) => Some(status),
            Ok(answers) => {
                let mut answers = answers.into_inner();
                loop {
                    while wait.is_zero()
                        && sent.len() < WINDOW
                        && let Some(record) = waiting.pop_front()
                    {
                        // There is room for a whole window; whoever closed it says why in the answers.
                        let _ = requests.try_send(request_of(stream, &record));
                        sent.push_back(record);
                    }
                    if sent.is_empty() {
                        break None;
                    }
                    match answers.message().await {
                        Ok(Some(answer)) => {
                            let record = sent.pop_front().expect("one answer a request, in order");
                            match answer.status() {
                                // The call could go on; sending less for a while is what helps.
                                Outcome::RateLimited => {
                                    wait = wait.max(told_wait(&answer));
                                    again.push(record);
                                }
                                outcome => *outcomes.entry(outcome.as_str_name()).or_default() += 1,
                            }
                        }
                        Ok(None) => break None,
                        Err(status) => break Some(status),
                    }
                }
            }
        };
        // In the order in which they came: first what was refused, then what was not answered.
        again.extend(sent);
        again.into_iter().rev().for_each(|record| waiting.push_front(record));
        match ended {
            None => Ok(wait),
            Some(status) => Ok(wait.max(wait_after(&status).ok_or(status)?)),
        }
    }

    /// The first records of a stream.
    ///
    /// # Errors
    /// The call's.
    pub async fn read(&mut self, stream: &str, limit: i32) -> Result<Vec<Record>, Failure> {
        let query = TimeRangeQueryRequest {
            stream_id: stream.to_owned(),
            start_time_unix_micros: 0,
            end_time_unix_micros: i64::MAX,
            limit: Some(limit),
            ..TimeRangeQueryRequest::default()
        };
        let request = self.request(query)?;
        self.grpc.ready().await?;
        let codec = ProstCodec::<TimeRangeQueryRequest, TimeRangeQueryResponse>::default();
        let answer = self.grpc.unary(request, PathAndQuery::from_static(path::QUERY_TIME_RANGE), codec).await?;
        Ok(answer.into_inner().records)
    }

    /// The sequence numbers of `count` records from `first` on. A tail that was cut off goes on after the last that came.
    ///
    /// # Errors
    /// What trying again cannot help against.
    pub async fn follow(&mut self, stream: &str, first: i64, count: usize) -> Result<Vec<i64>, Failure> {
        let mut seen: Vec<i64> = Vec::new();
        while seen.len() < count {
            let start = seen.last().map_or(first, |last| last + 1);
            let from =
                StreamingReadRequest { stream_id: stream.to_owned(), start_sequence: Some(start), start_time: None };
            let request = self.request(from)?;
            self.grpc.ready().await?;
            let codec = ProstCodec::<StreamingReadRequest, StreamingReadResponse>::default();
            let path = PathAndQuery::from_static(path::STREAMING_READ);
            let mut answers = match self.grpc.server_streaming(request, path, codec).await {
                Ok(answers) => answers.into_inner(),
                Err(status) => {
                    time::sleep(wait_after(&status).ok_or(status)?).await;
                    continue;
                }
            };
            while seen.len() < count {
                match answers.message().await {
                    Ok(Some(answer)) => seen.extend(answer.record.map(|record| record.sequence_number)),
                    Ok(None) => break,
                    Err(status) => {
                        time::sleep(wait_after(&status).ok_or(status)?).await;
                        break;
                    }
                }
            }
        }
        Ok(seen)
    }
}

fn request_of(stream: &str, record: &Keyed) -> IngestRequest {
    IngestRequest {
        stream_id: stream.to_owned(),
        payload: record.payload.clone(),
        idempotency_key: Some(record.key.clone()),
        ..IngestRequest::default()
    }
}

/// When to send a record again that was refused in a call: its message ends with `retry after 70 ms`.
fn told_wait(answer: &IngestResponse) -> Duration {
    let message = answer.error.as_ref().map_or("", |error| error.message.as_str());
    let millis = message.strip_suffix(" ms").and_then(|message| message.rsplit(' ').next()?.parse().ok());
    Duration::from_millis(millis.unwrap_or(1000)).max(Duration::from_millis(1))
}

/// When a call that ended so may be made again; `None`: never.
#[must_use]
pub fn wait_after(status: &Status) -> Option<Duration> {
    let (mut reason, mut wait) = (String::new(), None);
    for detail in rpc::Status::decode(status.details()).map(|status| status.details).unwrap_or_default() {
        match detail.type_url.rsplit('/').next() {
            Some("google.rpc.ErrorInfo") => reason = rpc::ErrorInfo::decode(&*detail.value).ok()?.reason,
            Some("google.rpc.RetryInfo") => {
                let delay = rpc::RetryInfo::decode(&*detail.value).ok()?.retry_delay?;
                wait = Some(Duration::new(delay.seconds.try_into().ok()?, delay.nanos.try_into().ok()?));
            }
            _ => {}
        }
    }
    // Without a reason the connection broke. Either way nobody knows; the keys make it safe to send the same again.
    let unknown = ["", "OUTCOME_UNKNOWN", "SHARD_STOPPED"].contains(&reason.as_str());
    if status.code() == Code::Unavailable && unknown { Some(Duration::from_secs(1)) } else { wait }
}
