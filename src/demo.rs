//! `ttdust demo`: the main job on real data, in one command. Starts a server of its own on embedded defaults, streams the
//! bundled flight events into it over gRPC, queries a range back over REST, and shows where the Parquet lies.
//!
//! It goes through the public interface alone, as any client would, and leaves no process behind.

mod client;

use std::{
    io::{self, IsTerminal as _, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use bytes::Bytes;
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use client::{Acked, Appender, Rest};

const SCHEMA: &str = include_str!("../tests/data/flights.schema.json");
const FLIGHTS: &[u8] = include_bytes!("../tests/data/flights.jsonl.gz");
/// Records in one request.
const BATCH: usize = 100;
/// Requests under way.
const IN_FLIGHT: usize = 16;
const START_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(40);
const FILE_TIMEOUT: Duration = Duration::from_secs(60);

/// Why the demonstration did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// A file, process or socket.
    #[error("{0}: {1}")]
    Io(String, #[source] io::Error),
    /// The server refused or answered something else than it should.
    #[error("{0}")]
    Server(String),
}

fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> DemoError {
    |error| DemoError::Io(what.into(), error)
}

/// Runs the demonstration with `records` records in `dir` (kept), or in a temporary directory (kept too, and named).
///
/// # Errors
/// See [`DemoError`]; the server is stopped all the same.
pub async fn run(dir: Option<PathBuf>, records: usize) -> Result<(), DemoError> {
    let dir = match dir {
        Some(dir) => dir,
        None => {
            tempfile::Builder::new().prefix("ttdust-demo-").tempdir().map_err(io_error("temporary directory"))?.keep()
        }
    };
    std::fs::create_dir_all(&dir).map_err(io_error(dir.display().to_string()))?;
    println!("starting a server in {}", dir.display());
    let mut server = Server::start(&dir)?;
    let outcome = show(&mut server, &dir, records.max(1)).await;
    server.stop()?;
    outcome
}

async fn show(server: &mut Server, dir: &Path, records: usize) -> Result<(), DemoError> {
    let (http, grpc) = server.addresses().await?;
    println!("it serves REST on http://{http} and gRPC on {grpc}");
    let rest = Rest::new(&http);
    let stream = create_stream(&rest).await?;
    let sample = sample()?;
    let acked = ingest(&grpc, &stream, &sample, records).await?;
    read_back(&rest, &stream, &acked).await?;
    show_files(dir, &stream, acked.records).await
}

async fn create_stream(rest: &Rest) -> Result<String, DemoError> {
    // A directory that is used again has them from the last time, so the names are new ones.
    let name = format!("flights-{}", uuid::Uuid::now_v7().simple());
    let definition: Value = serde_json::from_str(SCHEMA).expect("the bundled schema is JSON");
    let schema = json!({"name": name, "namespace": "demo", "description": "Flights from New York City, 2013",
        "definition": definition, "compatibility_mode": "none"});
    let schema = rest.post("/api/v1/schemas", &schema).await?;
    let stream = json!({"name": name, "description": "The demonstration's stream", "schema_id": schema["id"]});
    let stream = rest.post("/api/v1/streams", &stream).await?;
    let id = stream["id"].as_str().ok_or_else(|| DemoError::Server(format!("no id in {stream}")))?;
    println!("created the schema {} and the stream {id} ({name})", schema["id"].as_str().unwrap_or("?"));
    Ok(id.to_owned())
}

/// The bundled flights, one JSON text each.
fn sample() -> Result<Vec<Bytes>, DemoError> {
    let mut text = String::new();
    flate2::read::GzDecoder::new(FLIGHTS).read_to_string(&mut text).map_err(io_error("the bundled sample"))?;
    let text = Bytes::from(text);
    Ok(text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).map(|line| text.slice_ref(line)).collect())
}

/// What was acked, over all requests.
struct Totals {
    records: usize,
    first_timestamp: i64,
    last_timestamp: i64,
}

async fn ingest(grpc: &str, stream: &str, sample: &[Bytes], records: usize) -> Result<Totals, DemoError> {
    let mut appender = Appender::connect(grpc, stream).await?;
    let mut latency = Histogram::<u64>::new_with_bounds(1, 3_600_000_000, 3).expect("the bounds are valid");
    let mut totals = Totals { records: 0, first_timestamp: i64::MAX, last_timestamp: 0 };
    let mut next = 0;
    let mut progress = Progress::new(records);
    let mut sent = std::collections::VecDeque::new();
    let began = Instant::now();
    while totals.records < records {
        while sent.len() < IN_FLIGHT && next < records {
            let batch: Vec<Bytes> =
                (next..records.min(next + BATCH)).map(|i| sample[i % sample.len()].clone()).collect();
            next += batch.len();
            sent.push_back((Instant::now(), batch.clone()));
            appender.send(batch).await?;
        }
        let answer = appender.receive().await?;
        let (at, batch) = sent.pop_front().ok_or_else(|| DemoError::Server("an answer too many".to_owned()))?;
        match answer {
            Acked::Committed { accepted, timestamp } => {
                latency.saturating_record(at.elapsed().as_micros() as u64);
                totals.records += accepted as usize;
                totals.first_timestamp = totals.first_timestamp.min(timestamp);
                totals.last_timestamp = totals.last_timestamp.max(timestamp);
            }
            Acked::RetryAfter(pause) => {
                tokio::time::sleep(pause).await;
                sent.push_back((Instant::now(), batch.clone()));
                appender.send(batch).await?;
            }
        }
        progress.show(totals.records);
    }
    let elapsed = began.elapsed().as_secs_f64();
    progress.finish();
    println!(
        "{} records validated, synced and acked in {elapsed:.2} s: {:.0} records/s in requests of {BATCH}; ack p50 {:.2} ms, \
         p99 {:.2} ms",
        totals.records,
        totals.records as f64 / elapsed,
        latency.value_at_quantile(0.5) as f64 / 1000.0,
        latency.value_at_quantile(0.99) as f64 / 1000.0,
    );
    Ok(totals)
}

async fn read_back(rest: &Rest, stream: &str, acked: &Totals) -> Result<(), DemoError> {
    let (start, end) = (acked.first_timestamp, acked.last_timestamp + 1);
    let path = format!("/api/v1/streams/{stream}/records?start={start}&end={end}&limit=3");
    println!("\nGET {path}");
    let answer = rest.get(&path).await?;
    let rows = answer["records"].as_array().filter(|rows| rows.len() == 3);
    for row in rows.ok_or_else(|| DemoError::Server(format!("three rows were expected, not {answer}")))? {
        println!("  {} #{} {} {}", row["record_id"], row["sequence_number"], row["ingested_at"], row["payload"]);
    }
    Ok(())
}

/// Waits until the rows are in Parquet files and shows where.
async fn show_files(dir: &Path, stream: &str, records: usize) -> Result<(), DemoError> {
    let objects = dir.join("objects").join(stream);
    let deadline = Instant::now() + FILE_TIMEOUT;
    let files = loop {
        let files = parquet_files(&objects);
        // A file's name ends in the last sequence number that it holds.
        let through = files.last().and_then(|file| last_sequence(file)).unwrap_or(0);
        if through as usize >= records {
            break files;
        }
        if Instant::now() > deadline {
            return Err(DemoError::Server(format!("no Parquet files with all rows under {}", objects.display())));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let bytes: u64 = files.iter().filter_map(|file| file.metadata().ok()).map(|meta| meta.len()).sum();
    println!("\nthe same records as Parquet, in {} files of {bytes} bytes:", files.len());
    files.iter().take(3).for_each(|file| println!("  {}", file.display()));
    println!(
        "\nread them with DuckDB:\n  duckdb -c \"SELECT carrier, count(*) AS flights, avg(delay.departure) AS delay"
    );
    println!("    FROM '{}/**/*.parquet' GROUP BY carrier ORDER BY flights DESC\"", objects.display());
    Ok(())
}

fn parquet_files(dir: &Path) -> Vec<PathBuf> {
    let mut waiting = vec![dir.to_owned()];
    let mut files = Vec::new();
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(std::fs::read_dir(&path).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())));
        } else if path.extension().is_some_and(|extension| extension == "parquet") {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn last_sequence(file: &Path) -> Option<i64> {
    let name = file.file_name()?.to_str()?;
    name.split(['-', '.']).nth(1)?.parse().ok()
}

/// A bar on a terminal; nothing elsewhere.
struct Progress {
    total: usize,
    shown: Instant,
    on: bool,
}

impl Progress {
    const WIDTH: usize = 40;

    fn new(total: usize) -> Self {
        Self { total, shown: Instant::now(), on: io::stderr().is_terminal() }
    }

    fn show(&mut self, done: usize) {
        if !self.on || (self.shown.elapsed() < Duration::from_millis(50) && done < self.total) {
            return;
        }
        self.shown = Instant::now();
        let filled = Self::WIDTH * done / self.total;
        let bar = "#".repeat(filled) + &"-".repeat(Self::WIDTH - filled);
        let _ = write!(io::stderr(), "\r[{bar}] {done}/{} acked", self.total);
    }

    fn finish(&self) {
        if self.on {
            let _ = writeln!(io::stderr());
        }
    }
}

/// A server of one's own, killed if it is dropped.
struct Server {
    child: Child,
    port_file: PathBuf,
}

impl Server {
    fn start(dir: &Path) -> Result<Self, DemoError> {
        let program = std::env::current_exe().map_err(io_error("this program's own path"))?;
        let port_file = dir.join("demo-ports.json");
        let _ = std::fs::remove_file(&port_file);
        let child = Command::new(program)
            .args(["serve", "--port-file"])
            .arg(&port_file)
            .env("TTDUST_DATA_DIR", dir)
            .env("TTDUST_BIND_ADDRESS", "127.0.0.1:0")
            .env("TTDUST_GRPC_ADDRESS", "127.0.0.1:0")
            .env("TTDUST_BUFFER_FLUSH_INTERVAL_MS", "1000")
            .env("TTDUST_LOG_LEVEL", "warn")
            .env("TTDUST_LOG_FORMAT", "text")
            .stdin(Stdio::null())
            .spawn()
            .map_err(io_error("cannot start the server"))?;
        Ok(Self { child, port_file })
    }

    /// Where it serves REST and gRPC, once it does.
    async fn addresses(&mut self) -> Result<(String, String), DemoError> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let ports =
                std::fs::read(&self.port_file).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
            if let Some(ports) = ports
                && let (Some(http), Some(grpc)) = (ports["http"].as_str(), ports["grpc"].as_str())
            {
                return Ok((http.to_owned(), grpc.to_owned()));
            }
            if let Some(status) = self.child.try_wait().map_err(io_error("the server"))? {
                return Err(DemoError::Server(format!("the server ended at its start: {status}; its log is above")));
            }
            if Instant::now() > deadline {
                return Err(DemoError::Server("the server is not ready after a minute".to_owned()));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Stops it as an operator would, and checks that it ended well.
    fn stop(mut self) -> Result<(), DemoError> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)
            .map_err(|error| DemoError::Io("cannot stop the server".to_owned(), error.into()))?;
        let deadline = Instant::now() + STOP_TIMEOUT;
        loop {
            match self.child.try_wait().map_err(io_error("the server"))? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(DemoError::Server(format!("the server ended with {status}"))),
                None if Instant::now() > deadline => {
                    return Err(DemoError::Server("the server did not stop in time and was killed".to_owned()));
                }
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // After a clean stop there is nothing left to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
