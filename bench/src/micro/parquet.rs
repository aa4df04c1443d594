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
    config::WalConfig,
    ids::{SchemaId, ShardId, StreamId},
    io::DiskFile,
    parquet::{PartitionHour, WriteJob, write},
    record::keys::KeyField,
    schema::CompiledSchema,
    wal::{
        Wal,
        batch::RowBatch,
        entry::EntryDraft,
        recovery::LogEnd,
        segment::{PreparedSegment, Segment},
    },
};

/// Records of an append.
pub(super) const BATCH_ROWS: usize = 100;

/// Writes `payloads`, which follow the schema `definition`, with an index of `key_fields`, to a file in a temporary directory, `rounds` times, and prints
/// records and MB of JSON a second of each round. Once is a warm-up more.
///
/// # Errors
/// The schema is none, or the file cannot be written.
pub fn run(definition: &str, payloads: &[Bytes], key_fields: &[String], rounds: u32) -> io::Result<()> {
    let dir = tempfile::tempdir()?;
    let stream = StreamId::generate();
    let schema = CompiledSchema::compile(SchemaId::generate(), 1, definition).map_err(io::Error::other)?;
    let job = WriteJob {
        stream,
        schema: Arc::new(schema),
        pipelines: Arc::default(),
        hour: PartitionHour(0),
        batches: batches(stream, payloads),
        key_fields: key_fields.iter().map(|field| KeyField::new(field)).collect(),
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

/// A log whose only segment takes all, in memory.
pub(super) fn log_in_memory() -> Wal {
    let config = WalConfig { segment_bytes: 1 << 40, ..WalConfig::default() };
    let mut wal = Wal::new(ShardId(0), config, LogEnd::default());
    let request = wal.wants_segment().expect("a new log wants its first segment");
    let (path, file) = (PathBuf::new(), Arc::new(NoFile));
    let segment = Segment { id: request.id, epoch: Some(request.epoch), path, file, bytes: request.bytes };
    wal.offer_segment(PreparedSegment { segment: Arc::new(segment), free_bytes: u64::MAX });
    wal
}

/// Appends `payloads`, the first of which gets this sequence number.
pub(super) fn append(wal: &mut Wal, stream: StreamId, first_sequence: i64, payloads: &[Bytes]) {
    wal.append(&EntryDraft {
        stream,
        first_sequence,
        timestamp_unix_micros: first_sequence,
        schema_version: 1,
        pipeline_version: 0,
        payloads,
        keys: &[],
        metadata: &[],
        session: &[],
    });
}

/// Takes all that was appended for written.
pub(super) fn written(wal: &mut Wal) -> Vec<RowBatch> {
    let mut batches = Vec::new();
    while let Some(write) = wal.next_write() {
        batches.extend(wal.written(write.lsn, Ok(())).expect("nothing was written, so nothing failed").batches);
    }
    batches
}

/// `payloads` as the log holds them.
pub(super) fn batches(stream: StreamId, payloads: &[Bytes]) -> Vec<RowBatch> {
    let mut wal = log_in_memory();
    let mut next_sequence = 1;
    for chunk in payloads.chunks(BATCH_ROWS) {
        append(&mut wal, stream, next_sequence, chunk);
        next_sequence += chunk.len() as i64;
    }
    written(&mut wal)
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
