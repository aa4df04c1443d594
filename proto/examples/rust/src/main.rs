//! A client in Rust: sends records with a window in flight, again where that is safe, reads them back, and follows the stream.
//!
//! ```text
//! ttdust-example ADDRESS STREAM RECORDS.jsonl[.gz] [KEY-FIELD]
//! ```
//!
//! `TTDUST_API_KEY` is sent where it is set. Prints what it did as JSON.

mod outcome;
mod send;

use std::{
    env,
    error::Error,
    fs::File,
    io::{BufRead, BufReader, Read},
    process::ExitCode,
    time::{Duration, Instant},
};

use flate2::read::MultiGzDecoder;
use serde_json::{Value, json};
use tokio::time::sleep;
use tonic::{
    Request,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};

use outcome::Ended;
use query::{StreamingReadRequest, TimeRangeQueryRequest, query_service_client::QueryServiceClient};
use send::{Record, Sender};

/// The messages and the client of `ttdust/ingestion/v1/ingestion.proto`.
pub mod ingestion {
    tonic::include_proto!("ttdust.ingestion.v1");
}

/// The messages and the client of `ttdust/query/v1/query.proto`.
pub mod query {
    tonic::include_proto!("ttdust.query.v1");
}

/// What tells of errors, of `google/rpc/status.proto`.
pub mod rpc {
    tonic::include_proto!("google.rpc");
}

/// Records of the page that is read back.
const PAGE: i32 = 10;

type Failure = Box<dyn Error>;

/// What is sent along with each call.
#[derive(Debug, Clone)]
struct Credentials(Option<MetadataValue<Ascii>>);

impl Credentials {
    fn from_environment() -> Result<Self, Failure> {
        let Ok(key) = env::var("TTDUST_API_KEY") else { return Ok(Self(None)) };
        let value = format!("Bearer {key}").parse();
        Ok(Self(Some(value.map_err(|_| "TTDUST_API_KEY has characters that no key has")?)))
    }

    fn with<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        request
    }
}

/// The lines of a file, each with the member that tells it apart.
fn records(path: &str, key_field: &str) -> Result<Vec<Record>, Failure> {
    let file = File::open(path).map_err(|error| format!("{path}: {error}"))?;
    let text: Box<dyn Read> = if path.ends_with(".gz") { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
    let mut records = Vec::new();
    for (at, line) in BufReader::new(text).lines().enumerate() {
        let line = line?;
        let payload = line.trim();
        if payload.is_empty() {
            continue;
        }
        let wrong = |what: &str| format!("{path}, line {}: {what}", at + 1);
        let record: Value = serde_json::from_str(payload).map_err(|error| wrong(&error.to_string()))?;
        let key = match record.get(key_field) {
            Some(Value::String(key)) => key.clone(),
            Some(key) => key.to_string(),
            None => return Err(wrong(&format!("there is no {key_field}")).into()),
        };
        records.push(Record { key, payload: payload.to_owned().into() });
    }
    Ok(records)
}

/// The first records of the stream.
async fn read_page(
    client: &mut QueryServiceClient<Channel>,
    credentials: &Credentials,
    stream: &str,
) -> Result<Vec<query::Record>, Failure> {
    let mut request = credentials.with(TimeRangeQueryRequest {
        stream_id: stream.to_owned(),
        start_time_unix_micros: 0,
        end_time_unix_micros: i64::MAX,
        limit: Some(PAGE),
        ..TimeRangeQueryRequest::default()
    });
    request.set_timeout(Duration::from_secs(30));
    Ok(client.query_time_range(request).await?.into_inner().records)
}

/// Numbers of `count` records from `first` on. A tail that was cut off goes on after the last record that came.
async fn follow(
    client: &mut QueryServiceClient<Channel>,
    credentials: &Credentials,
    stream: &str,
    first: i64,
    count: usize,
) -> Result<Vec<i64>, Failure> {
    let mut seen: Vec<i64> = Vec::new();
    while seen.len() < count {
        let start = seen.last().map_or(first, |last| last + 1);
        let request = StreamingReadRequest {
            stream_id: stream.to_owned(),
            start_sequence: Some(start),
            ..StreamingReadRequest::default()
        };
        let read = async {
            let mut tail = client.streaming_read(credentials.with(request)).await?.into_inner();
            while seen.len() < count
                && let Some(answer) = tail.message().await?
            {
                seen.extend(answer.record.map(|record| record.sequence_number));
            }
            Ok::<(), tonic::Status>(())
        };
        if let Err(status) = read.await {
            let ended = Ended::of(&status);
            sleep(ended.wait.ok_or_else(|| format!("the tail ended: {ended}"))?).await;
        }
    }
    Ok(seen)
}

async fn run(arguments: &[String]) -> Result<(), Failure> {
    let (address, stream, path, key_field) = match arguments {
        [address, stream, path] => (address, stream, path, "event_id"),
        [address, stream, path, key_field] => (address, stream, path, key_field.as_str()),
        _ => return Err("want ADDRESS STREAM RECORDS.jsonl[.gz] [KEY-FIELD]".into()),
    };
    let credentials = Credentials::from_environment()?;
    // Connects when something is sent, and anew where that is needed.
    let channel = Endpoint::from_shared(format!("http://{address}"))?.connect_lazy();
    let mut sender = Sender::new(channel.clone(), credentials.clone(), stream, records(path, key_field)?);
    let begun = Instant::now();
    sender.send().await?;
    let seconds = begun.elapsed().as_secs_f64();

    let mut client = QueryServiceClient::new(channel);
    let page = read_page(&mut client, &credentials, stream).await?;
    let first = page.first().ok_or("the stream is empty")?.sequence_number;
    let followed = follow(&mut client, &credentials, stream, first, page.len()).await?;
    let rejects: Vec<Value> =
        sender.rejects.iter().take(10).map(|reject| json!([reject.key, reject.code, reject.paths])).collect();
    println!(
        "{}",
        json!({
            "outcomes": sender.outcomes,
            "rejects": rejects,
            "seconds": seconds,
            "read": page.len(),
            "followed": followed,
        })
    );
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(run(&arguments))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ttdust-example: {error}");
            ExitCode::FAILURE
        }
    }
}
