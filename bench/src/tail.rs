//! Readers of a tail: how soon a record is there after its ack, and how fast one reader replays a stream.
//!
//! Producer and readers run on one thread and share its clock. A record's latency counts from the arrival of its ack; one that
//! comes before its ack counts as 0. Every record of every reader is looked at: in order, without a gap.

use std::{
    cell::RefCell,
    fmt::Write as _,
    rc::Rc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use clap::Args;
use hdrhistogram::Histogram;
use prost::Message as _;
use serde::Serialize;
use ttdust_proto::{
    ingestion::{AppendRequest, AppendResponse},
    path,
    query::StreamingReadRequest,
};

use crate::{
    AnyError,
    client::{GrpcStatus, Target},
    load::{
        args::{Output, duration},
        report::{Latency, write_latency},
        stats::histogram,
        worker,
    },
    payload::{self, PayloadKind, Payloads},
    rest::Rest,
    wire::{Deframer, Value, WireError, next_field, put_header},
};

/// Calls that one connection may have open.
const READERS_PER_CONNECTION: usize = 100;
/// How many of the generated payloads are used.
const PAYLOADS: usize = 10_000;
/// How long readers have for what was acked last.
const PATIENCE: Duration = Duration::from_secs(30);

/// Flags of `ttdust-bench tail`.
#[derive(Debug, Clone, Args)]
pub struct TailArgs {
    /// The server's gRPC address
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:50051")]
    grpc: String,
    /// The server's REST address: the stream is made if it is not there
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8080")]
    http: String,
    /// The API key, sent as a bearer token
    #[arg(long, value_name = "KEY", env = "TTDUST_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// The stream
    #[arg(long, value_name = "NAME", default_value = "clicks")]
    stream: String,
    /// Readers, all live; with --replay one reads from the first record to the last, alone
    #[arg(long, value_name = "N", default_value_t = 100)]
    readers: usize,
    /// Requests of the producer a second
    #[arg(long, value_name = "N", default_value_t = 100.0)]
    rate: f64,
    /// Records a request
    #[arg(long, value_name = "N", default_value_t = 10)]
    batch: usize,
    /// How long the producer runs
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    duration: Duration,
    /// Read what is there, once, and nothing else
    #[arg(long)]
    replay: bool,
    /// The core of this program
    #[arg(long, value_name = "N")]
    core: Option<usize>,
    /// The format of the report on stdout
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Debug, Serialize)]
struct Report {
    mode: &'static str,
    readers: usize,
    requests: u64,
    records: u64,
    delivered: u64,
    seconds: f64,
    records_per_second: f64,
    megabytes_per_second: f64,
    /// From a record's ack to its arrival, in µs: the last record of a request, at each reader.
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_us: Option<Latency>,
    /// Records with the mark of what was there before, though their reader was live: it fell behind.
    historical: u64,
    problems: Vec<String>,
}

/// Runs it; says whether all was in order.
///
/// # Errors
/// The server cannot be reached, or ends a call.
pub fn run(args: &TailArgs) -> Result<bool, AnyError> {
    if let Some(core) = args.core {
        worker::pin(core)?;
    }
    let kind = PayloadKind::Clicks(0);
    let payloads = Payloads::load(&kind, PAYLOADS)?;
    let rest = Rest { authority: &args.http, api_key: args.api_key.as_deref() };
    let schema = payload::schema(&kind, None)?;
    rest.create(kind.name(), &schema, std::slice::from_ref(&args.stream), &[])?;
    let target = Target::new(&args.grpc, args.api_key.as_deref())?;
    let local = tokio::task::LocalSet::new();
    let report = local.block_on(&crate::runtime()?, async {
        if args.replay { replay(args, &target, &payloads).await } else { live(args, &target, &payloads).await }
    })?;
    match args.output {
        Output::Text => print!("{}", report.text()?),
        Output::Json => println!("{}", serde_json::to_string(&report)?),
    }
    Ok(report.problems.is_empty())
}

impl Report {
    fn text(&self) -> Result<String, std::fmt::Error> {
        let mut out = String::new();
        writeln!(
            out,
            "{}: {} readers, {} requests, {} records, {} delivered in {:.1} s: {:.0} records/s, {:.1} MB/s; {} fell back",
            self.mode,
            self.readers,
            self.requests,
            self.records,
            self.delivered,
            self.seconds,
            self.records_per_second,
            self.megabytes_per_second,
            self.historical,
        )?;
        if let Some(latency) = &self.latency_us {
            write_latency(&mut out, "after ack", latency)?;
        }
        self.problems.iter().try_for_each(|problem| writeln!(out, "PROBLEM: {problem}"))?;
        Ok(out)
    }
}

/// A call that answers with a stream.
struct Reading {
    body: h2::RecvStream,
    deframer: Deframer,
    next: i64,
    bytes: u64,
    historical: u64,
}

type Sender = h2::client::SendRequest<Bytes>;

async fn connect(target: &Target) -> Result<Sender, AnyError> {
    let (send, link) = target.connect().await?;
    // Errors of the connection reach each call; the task only keeps it going.
    tokio::task::spawn_local(async move { drop(link.await) });
    Ok(send)
}

fn framed(message: &impl prost::Message) -> Bytes {
    let mut framed = BytesMut::new();
    put_header(&mut framed, message.encoded_len());
    message.encode(&mut framed).expect("a BytesMut grows");
    framed.freeze()
}

impl Reading {
    /// Returns when the call follows the stream.
    async fn open(send: &mut Sender, target: &Target, stream: &str, start: i64) -> Result<Self, AnyError> {
        std::future::poll_fn(|cx| send.poll_ready(cx)).await?;
        let (answer, mut body) = send.send_request(target.request(path::STREAMING_READ), false)?;
        let request =
            StreamingReadRequest { stream_id: stream.to_owned(), start_sequence: Some(start), start_time: None };
        body.send_data(framed(&request), true)?;
        let answer = answer.await?;
        if let Some(status) = GrpcStatus::read(answer.headers()) {
            return Err(format!("a reader was refused: {}: {}", status.kind(), status.message).into());
        }
        let body = answer.into_body();
        Ok(Self { body, deframer: Deframer::default(), next: start, bytes: 0, historical: 0 })
    }

    /// Takes what comes until record `last` is there; `each` is told what came in one go ended with.
    async fn read(&mut self, last: i64, mut each: impl FnMut(i64)) -> Result<(), AnyError> {
        while self.next <= last {
            let Some(chunk) = self.body.data().await else {
                let status = self.body.trailers().await?.as_ref().and_then(GrpcStatus::read).unwrap_or_default();
                return Err(format!("a reader was ended: {}: {}", status.kind(), status.message).into());
            };
            let chunk = chunk?;
            self.body.flow_control().release_capacity(chunk.len())?;
            self.bytes += chunk.len() as u64;
            let (next, historical) = (&mut self.next, &mut self.historical);
            self.deframer.feed(&chunk, |message| {
                let (sequence, is_historical) = sequence_of(message)?;
                if sequence != *next {
                    return Err(WireError::Malformed);
                }
                *next += 1;
                *historical += u64::from(is_historical);
                Ok(())
            })?;
            each(self.next - 1);
        }
        Ok(())
    }
}

/// Sequence number and mark of a `StreamingReadResponse`.
fn sequence_of(message: &[u8]) -> Result<(i64, bool), WireError> {
    let (mut rest, mut sequence, mut is_historical) = (message, 0, false);
    while let Some((number, value)) = next_field(&mut rest)? {
        match (number, value) {
            (1, Value::Bytes(mut record)) => {
                while let Some((number, value)) = next_field(&mut record)? {
                    if let (3, Value::Varint(value)) = (number, value) {
                        sequence = value as i64;
                        break;
                    }
                }
            }
            (2, Value::Varint(value)) => is_historical = value != 0,
            _ => {}
        }
    }
    Ok((sequence, is_historical))
}

/// A producer with one call.
struct Appending {
    send: h2::SendStream<Bytes>,
    body: h2::RecvStream,
    deframer: Deframer,
}

impl Appending {
    async fn open(target: &Target) -> Result<Self, AnyError> {
        let mut sender = connect(target).await?;
        std::future::poll_fn(|cx| sender.poll_ready(cx)).await?;
        let (answer, send) = sender.send_request(target.request(path::APPEND), false)?;
        Ok(Self { send, body: answer.await?.into_body(), deframer: Deframer::default() })
    }

    async fn append(&mut self, stream: &str, payloads: Vec<Bytes>) -> Result<AppendResponse, AnyError> {
        let request = AppendRequest { stream_id: stream.to_owned(), payloads, ..AppendRequest::default() };
        self.send.send_data(framed(&request), false)?;
        let mut answer = None;
        while answer.is_none() {
            let chunk = self.body.data().await.ok_or("the producer's call was ended")??;
            self.body.flow_control().release_capacity(chunk.len())?;
            self.deframer.feed(&chunk, |message| {
                answer = Some(AppendResponse::decode(message).map_err(|_| WireError::Malformed)?);
                Ok(())
            })?;
        }
        let answer = answer.ok_or("no answer")?;
        if answer.accepted == 0 {
            return Err(format!("the producer was refused: {answer:?}").into());
        }
        Ok(answer)
    }
}

fn batch(payloads: &Payloads, from: u64, count: usize) -> Vec<Bytes> {
    (from..from + count as u64).map(|index| payloads.get(index % payloads.len() as u64).clone()).collect()
}

/// Reads what is there once.
async fn replay(args: &TailArgs, target: &Target, payloads: &Payloads) -> Result<Report, AnyError> {
    let mut producer = Appending::open(target).await?;
    let last = producer.append(&args.stream, batch(payloads, 0, 1)).await?.last_sequence;
    let mut sender = connect(target).await?;
    let began = Instant::now();
    let mut reading = Reading::open(&mut sender, target, &args.stream, 1).await?;
    reading.read(last, |_| ()).await?;
    let seconds = began.elapsed().as_secs_f64();
    Ok(Report {
        mode: "replay",
        readers: 1,
        requests: 0,
        records: last as u64,
        delivered: last as u64,
        seconds,
        records_per_second: last as f64 / seconds,
        megabytes_per_second: reading.bytes as f64 / seconds / 1e6,
        latency_us: None,
        historical: 0,
        problems: Vec::new(),
    })
}

/// Arrivals at one reader, in ns since the start: index n is that of request n's last record.
type Arrivals = Rc<RefCell<Vec<u64>>>;

/// Readers that are live while records come in.
async fn live(args: &TailArgs, target: &Target, payloads: &Payloads) -> Result<Report, AnyError> {
    let mut producer = Appending::open(target).await?;
    let before = producer.append(&args.stream, batch(payloads, 0, 1)).await?.last_sequence;
    let requests = (args.rate * args.duration.as_secs_f64()).round().max(1.0) as u64;
    let last = before + requests as i64 * args.batch as i64;
    let began = Instant::now();
    let mut tasks = Vec::new();
    let mut arrivals = Vec::new();
    let mut sender = None;
    for index in 0..args.readers {
        if index % READERS_PER_CONNECTION == 0 {
            sender = Some(connect(target).await?);
        }
        let sender = sender.as_mut().ok_or("no connection")?;
        let mut reading = Reading::open(sender, target, &args.stream, before + 1).await?;
        let own = Arrivals::default();
        arrivals.push(Rc::clone(&own));
        let size = args.batch as i64;
        tasks.push(tokio::task::spawn_local(async move {
            let done = reading.read(last, |through| {
                let now = began.elapsed().as_nanos() as u64;
                let whole = ((through - before) / size) as usize;
                own.borrow_mut().resize(whole, now);
            });
            let done = done.await.map_err(|error| error.to_string());
            (reading, done)
        }));
    }
    let first_due = Instant::now();
    let mut acked = Vec::with_capacity(requests as usize);
    for request in 0..requests {
        let due = first_due + Duration::from_secs_f64(request as f64 / args.rate);
        tokio::time::sleep_until(due.into()).await;
        producer.append(&args.stream, batch(payloads, request * args.batch as u64, args.batch)).await?;
        acked.push(began.elapsed().as_nanos() as u64);
    }
    let seconds = first_due.elapsed().as_secs_f64();
    let mut report = Report {
        mode: "live",
        readers: args.readers,
        requests,
        records: requests * args.batch as u64,
        delivered: 0,
        seconds,
        records_per_second: 0.0,
        megabytes_per_second: 0.0,
        latency_us: None,
        historical: 0,
        problems: Vec::new(),
    };
    let mut bytes = 0;
    for task in tasks {
        let (reading, done) = tokio::time::timeout(PATIENCE, task).await.map_err(|_| "a reader did not get all")??;
        report.problems.extend(done.err());
        report.delivered += (reading.next - before - 1) as u64;
        report.historical += reading.historical;
        bytes += reading.bytes;
    }
    report.records_per_second = report.delivered as f64 / seconds;
    report.megabytes_per_second = bytes as f64 / seconds / 1e6;
    report.latency_us = Some(Latency::of(&latencies(&acked, &arrivals)));
    Ok(report)
}

/// From each request's ack to the arrival of its last record at each reader.
fn latencies(acked: &[u64], arrivals: &[Arrivals]) -> Histogram<u64> {
    let mut all = histogram();
    for arrivals in arrivals {
        for (acked, arrived) in acked.iter().zip(arrivals.borrow().iter()) {
            all.saturating_record(arrived.saturating_sub(*acked));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use ttdust_proto::query::{Record, StreamingReadResponse};

    use super::*;

    #[test]
    fn sequence_and_mark_are_read_from_an_answer() {
        for is_historical in [false, true] {
            let record = Record { record_id: "rec_x".into(), sequence_number: 77, ..Record::default() };
            let message = StreamingReadResponse { record: Some(record), is_historical }.encode_to_vec();
            assert_eq!(sequence_of(&message).ok(), Some((77, is_historical)));
        }
    }

    #[test]
    fn what_comes_before_its_ack_counts_as_nothing() {
        let arrivals = [Arrivals::new(RefCell::new(vec![5_000, 30_000])), Arrivals::new(RefCell::new(vec![9_000]))];
        let all = latencies(&[8_000, 20_000], &arrivals);
        assert_eq!(all.len(), 3);
        assert!(all.max() >= 9_900 && all.min() == 0, "{} {}", all.min(), all.max());
    }
}
