//! Row batches made the way the log makes them, and a seeded source of random numbers.

use std::{
    io,
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use ttdust_shards::{
    ids::{SchemaId, StreamId},
    io::DiskFile,
    parquet::{FileMeta, PartitionHour, WriteJob},
    query::FileRef,
    schema::CompiledSchema,
    wal::{
        batch::{BatchHeader, RowBatch},
        segment::Segment,
    },
};

pub const MICROS_AN_HOUR: i64 = 3_600_000_000;

/// Batches of one stream, one after the other.
pub struct Stream {
    pub id: StreamId,
    segment: Arc<Segment>,
    next_sequence: i64,
}

impl Stream {
    pub fn new() -> Self {
        let segment = Segment { id: 1, path: PathBuf::from("none"), file: Arc::new(NoFile) };
        Self { id: StreamId::from_bytes([7; 16]), segment: Arc::new(segment), next_sequence: 1 }
    }

    pub fn batch(&mut self, timestamp: i64, metadata: &[u8], payloads: &[Bytes]) -> RowBatch {
        let mut entry = vec![0u8; 64];
        let mut end = 0;
        for payload in payloads {
            end += payload.len() as u32;
            entry.extend_from_slice(&end.to_le_bytes());
        }
        entry.extend_from_slice(metadata);
        payloads.iter().for_each(|payload| entry.extend_from_slice(payload));
        entry.resize(entry.len().next_multiple_of(8), 0);
        let header = BatchHeader {
            stream: self.id,
            first_sequence: self.next_sequence,
            timestamp_unix_micros: timestamp,
            schema_version: 3,
            count: payloads.len() as u32,
            payload_bytes: end,
            entry_bytes: entry.len() as u32,
        };
        entry[44..48].copy_from_slice(&header.count.to_le_bytes());
        entry[52..56].copy_from_slice(&(metadata.len() as u32).to_le_bytes());
        self.next_sequence += payloads.len() as i64;
        RowBatch::new(header, Arc::clone(&self.segment), 0, Some(entry.into()))
    }
}

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

/// A job for `batches`, to be written as `name` into `dir`.
pub fn job(definition: &str, batches: &[RowBatch], dir: &Path, name: &str) -> WriteJob {
    let header = *batches[0].header();
    let schema = CompiledSchema::compile(SchemaId::from_bytes([9; 16]), 3, definition).unwrap();
    WriteJob {
        stream: header.stream,
        schema: Arc::new(schema),
        hour: PartitionHour(header.timestamp_unix_micros.div_euclid(MICROS_AN_HOUR)),
        batches: batches.to_vec(),
        path: dir.join(name),
    }
}

/// The file as the catalog would name it.
pub fn file_ref(meta: &FileMeta) -> FileRef {
    FileRef {
        path: meta.path.clone(),
        hour: meta.hour,
        first_sequence: meta.first_sequence,
        last_sequence: meta.last_sequence,
        min_timestamp: meta.min_timestamp,
        max_timestamp: meta.max_timestamp,
        bytes: meta.bytes,
    }
}

/// Random numbers from a seed (SplitMix64).
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    pub fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }
}
