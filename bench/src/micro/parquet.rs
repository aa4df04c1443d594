//! How fast frozen rows become a Parquet file: the flusher's work, on one core, with the sync at the end.

use std::{
    io,
    os::fd::BorrowedFd,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use ttdust_shards::{
    ids::{SchemaId, StreamId},
    io::DiskFile,
    parquet::{PartitionHour, WriteJob, write},
    schema::CompiledSchema,
    wal::{
        batch::{BatchHeader, RowBatch},
        segment::Segment,
    },
};

/// Records of an append.
const BATCH_ROWS: usize = 100;

/// Writes `payloads`, which follow the schema `definition`, to a file in a temporary directory, `rounds` times, and prints
/// records and MB of JSON a second of each round. Once is a warm-up more.
///
/// # Errors
/// The schema is none, or the file cannot be written.
pub fn run(definition: &str, payloads: &[Bytes], rounds: u32) -> io::Result<()> {
    let dir = tempfile::tempdir()?;
    let stream = StreamId::generate();
    let schema = CompiledSchema::compile(SchemaId::generate(), 1, definition).map_err(io::Error::other)?;
    let job = WriteJob {
        stream,
        schema: Arc::new(schema),
        hour: PartitionHour(0),
        batches: batches(stream, payloads),
        path: dir.path().join("bench.parquet"),
    };
    let json_bytes: usize = payloads.iter().map(Bytes::len).sum();
    println!("parquet: {} records, {} bytes of JSON each", payloads.len(), json_bytes / payloads.len().max(1));
    for round in 0..=rounds {
        let start = Instant::now();
        let meta = write(&job).map_err(io::Error::other)?;
        let elapsed = start.elapsed();
        if round > 0 {
            print(payloads.len(), json_bytes, meta.bytes, elapsed);
        }
    }
    Ok(())
}

fn print(records: usize, json_bytes: usize, file_bytes: u64, elapsed: Duration) {
    let seconds = elapsed.as_secs_f64();
    println!(
        "{:>8.0} k records/s {:>7.0} MB/s of JSON {:>6.1} % of its size {:>7.0} ns a record",
        records as f64 / seconds / 1e3,
        json_bytes as f64 / seconds / 1e6,
        file_bytes as f64 * 100.0 / json_bytes as f64,
        seconds * 1e9 / records as f64,
    );
}

fn batches(stream: StreamId, payloads: &[Bytes]) -> Vec<RowBatch> {
    let segment = Arc::new(Segment { id: 1, path: PathBuf::new(), file: Arc::new(NoFile) });
    let mut sequence = 1;
    let mut batches = Vec::new();
    for chunk in payloads.chunks(BATCH_ROWS) {
        let mut entry = vec![0u8; 64];
        let mut end = 0;
        for payload in chunk {
            end += payload.len() as u32;
            entry.extend_from_slice(&end.to_le_bytes());
        }
        chunk.iter().for_each(|payload| entry.extend_from_slice(payload));
        entry[44..48].copy_from_slice(&(chunk.len() as u32).to_le_bytes());
        let header = BatchHeader {
            stream,
            first_sequence: sequence,
            timestamp_unix_micros: sequence,
            schema_version: 1,
            count: chunk.len() as u32,
            payload_bytes: end,
            entry_bytes: entry.len() as u32,
        };
        sequence += chunk.len() as i64;
        batches.push(RowBatch::new(header, Arc::clone(&segment), 0, Some(entry.into())));
    }
    batches
}

/// The segment of batches that are all in memory.
#[derive(Debug)]
struct NoFile;

impl DiskFile for NoFile {
    fn len(&self) -> io::Result<u64> {
        Ok(0)
    }
    fn read_exact_at(&self, _buf: &mut [u8], _offset: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn write_durable(&self, _data: &[u8], _offset: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn sync(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn write_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    fn writes_are_durable(&self) -> bool {
        false
    }
}
