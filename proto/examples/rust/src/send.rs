//! Sends records, each with a key, until the outcome of each is known.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use tokio::{sync::mpsc, time::sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::{
    Credentials, Failure,
    ingestion::{IngestRequest, IngestResponse, Status, ingestion_service_client::IngestionServiceClient},
    outcome::{Ended, PAUSE},
};

/// Records in flight.
const WINDOW: usize = 256;
/// Calls without progress after which somebody should look.
const TRIES: u32 = 10;
/// Between calls without progress: at first, and at most, where the server does not ask for more.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));

/// What is sent.
#[derive(Debug, Clone)]
pub struct Record {
    /// Tells it apart: the same with the same key is taken once.
    pub key: String,
    /// JSON.
    pub payload: Bytes,
}

/// A record that its schema refuses.
#[derive(Debug)]
pub struct Reject {
    /// The record's key.
    pub key: String,
    /// Why, for programs.
    pub code: String,
    /// JSON Pointers into the record.
    pub paths: Vec<String>,
}

/// Sends records to a stream.
#[derive(Debug)]
pub struct Sender {
    client: IngestionServiceClient<Channel>,
    credentials: Credentials,
    stream: String,
    waiting: VecDeque<Record>,
    /// How many came out so.
    pub outcomes: BTreeMap<String, u64>,
    /// Those that will never be taken.
    pub rejects: Vec<Reject>,
}

/// A call while it goes on.
struct Call {
    /// Where requests go; `None`: no more do.
    requests: Option<mpsc::Sender<IngestRequest>>,
    /// Not answered yet, in order.
    sent: VecDeque<Record>,
    /// Refused for now.
    again: Vec<Record>,
    /// How long the server wants to be left alone.
    wait: Duration,
}

impl Sender {
    /// Of these records to this stream.
    pub fn new(channel: Channel, credentials: Credentials, stream: &str, records: Vec<Record>) -> Self {
        Self {
            client: IngestionServiceClient::new(channel),
            credentials,
            stream: stream.to_owned(),
            waiting: records.into(),
            outcomes: BTreeMap::new(),
            rejects: Vec::new(),
        }
    }

    /// Call after call, until nothing waits.
    pub async fn send(&mut self) -> Result<(), Failure> {
        let mut failures = 0;
        while !self.waiting.is_empty() {
            let before = self.waiting.len();
            let wait = self.call().await?;
            failures = if self.waiting.len() == before { failures + 1 } else { 0 };
            if failures == TRIES {
                return Err(format!("no progress in {TRIES} tries").into());
            }
            if !self.waiting.is_empty() {
                let (first, most) = PAUSES;
                // Others want to come again at the same time.
                sleep(wait.max((first * 2_u32.pow(failures)).min(most))).await;
            }
        }
        Ok(())
    }

    /// One call: what of it is not taken waits again. How long until the next.
    async fn call(&mut self) -> Result<Duration, Failure> {
        let (requests, receiver) = mpsc::channel(WINDOW);
        let mut call =
            Call { requests: Some(requests), sent: VecDeque::new(), again: Vec::new(), wait: Duration::ZERO };
        // The server answers nothing before something came.
        self.fill(&mut call);
        let ended = self.exchange(&mut call, ReceiverStream::new(receiver)).await;
        // In the order in which they came: first what was refused, then what was not answered.
        for record in call.again.into_iter().chain(call.sent).rev() {
            self.waiting.push_front(record);
        }
        let Err(status) = ended else { return Ok(call.wait) };
        let ended = Ended::of(&status);
        let wait = ended.wait.ok_or_else(|| format!("the call ended: {ended}"))?;
        Ok(wait.max(call.wait))
    }

    async fn exchange(
        &mut self,
        call: &mut Call,
        requests: ReceiverStream<IngestRequest>,
    ) -> Result<(), tonic::Status> {
        let mut answers = self.client.ingest_stream(self.credentials.with(requests)).await?.into_inner();
        // One answer a request, in order.
        while let Some(answer) = answers.message().await? {
            self.take(call, answer);
            self.fill(call);
        }
        Ok(())
    }

    /// As many as the window has room for.
    fn fill(&mut self, call: &mut Call) {
        while let Some(requests) = &call.requests {
            if call.sent.len() == WINDOW {
                return;
            }
            // Sending less for a while is what helps a server that refuses.
            let next = if call.wait.is_zero() { self.waiting.pop_front() } else { None };
            let Some(record) = next else {
                call.requests = None;
                return;
            };
            let request = IngestRequest {
                stream_id: self.stream.clone(),
                payload: record.payload.clone(),
                idempotency_key: Some(record.key.clone()),
                ..IngestRequest::default()
            };
            call.sent.push_back(record);
            // There is room for a window; a call that is over says so by its answers.
            if requests.try_send(request).is_err() {
                call.requests = None;
            }
        }
    }

    /// Notes what became of a record.
    fn take(&mut self, call: &mut Call, answer: IngestResponse) {
        let Some(record) = call.sent.pop_front() else { return };
        let status = answer.status();
        let error = answer.error.unwrap_or_default();
        if status == Status::RateLimited {
            call.again.push(record);
            call.wait = call.wait.max(told(&error.message).unwrap_or(PAUSE));
            return;
        }
        let name = status.as_str_name().trim_start_matches("STATUS_");
        *self.outcomes.entry(name.to_owned()).or_default() += 1;
        if status == Status::ValidationError {
            let paths = error.field_errors.into_iter().map(|fault| fault.path).collect();
            self.rejects.push(Reject { key: record.key, code: error.code, paths });
        }
    }
}

/// How long a message says, which then ends with `retry after N ms`.
fn told(message: &str) -> Option<Duration> {
    let (_, end) = message.rsplit_once("retry after ")?;
    end.strip_suffix(" ms")?.parse().ok().map(Duration::from_millis)
}
