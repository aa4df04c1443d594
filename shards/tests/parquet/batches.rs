//! Row batches made by the log, over a file in memory, and a seeded source of random numbers.

// Each test binary uses a part.
#![allow(dead_code)]

use std::{
    io,
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use ttdust_shards::{
    config::WalConfig,
    ids::{SchemaId, ShardId, StreamId},
    io::DiskFile,
    parquet::{
        FileMeta, PartitionHour, WriteJob,
        cache::FileCache,
        read::{FileReader, FileRow},
        source::FileSource,
    },
    pipeline::Pipelines,
    query::{Bounds, BufferSnapshot, FileRef, QueryContext},
    schema::CompiledSchema,
    wal::{
        Wal,
        batch::RowBatch,
        entry::EntryDraft,
        recovery::LogEnd,
        segment::{PreparedSegment, Segment},
    },
};

/// What queries read with, without an end.
pub struct Reading(FileCache, Bounds);

impl Reading {
    pub fn new(cache_bytes: usize) -> Self {
        Self(FileCache::new(cache_bytes), Bounds::default())
    }

    pub fn context(&self) -> QueryContext<'_> {
        QueryContext { cache: &self.0, bounds: &self.1 }
    }
}

pub const MICROS_AN_HOUR: i64 = 3_600_000_000;

/// One stream's log, in memory.
pub struct Stream {
    pub id: StreamId,
    /// Of the batches that come.
    pub pipeline_version: u16,
    wal: Wal,
    next_sequence: i64,
}

impl Stream {
    pub fn new() -> Self {
        let config = WalConfig { segment_bytes: 1 << 40, frame_bytes: 4096, ..WalConfig::default() };
        let mut wal = Wal::new(ShardId(0), config, LogEnd::default());
        let request = wal.wants_segment().unwrap();
        let file = Arc::new(MemoryFile::default());
        let (path, epoch) = (PathBuf::from("memory"), Some(request.epoch));
        let segment = Segment { id: request.id, epoch, path, file, bytes: request.bytes };
        wal.offer_segment(PreparedSegment { segment: Arc::new(segment), free_bytes: u64::MAX });
        Self { id: StreamId::from_bytes([7; 16]), pipeline_version: 0, wal, next_sequence: 1 }
    }

    /// The next batch, acked.
    pub fn batch(&mut self, timestamp: i64, metadata: &[u8], payloads: &[Bytes]) -> RowBatch {
        let draft = EntryDraft {
            stream: self.id,
            first_sequence: self.next_sequence,
            timestamp_unix_micros: timestamp,
            schema_version: 3,
            pipeline_version: self.pipeline_version,
            payloads,
            keys: &[],
            metadata,
            session: &[],
        };
        self.next_sequence += payloads.len() as i64;
        let lsn = self.wal.append(&draft);
        let write = self.wal.next_write().unwrap();
        write.segment.file.write_durable(&write.data, write.offset).unwrap();
        let mut frame = self.wal.written(lsn, Ok(())).unwrap();
        assert_eq!(frame.batches.len(), 1);
        frame.batches.remove(0)
    }
}

#[derive(Debug, Default)]
struct MemoryFile(Mutex<Vec<u8>>);

impl DiskFile for MemoryFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().len() as u64)
    }
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        buf.copy_from_slice(&self.0.lock().unwrap()[offset as usize..][..buf.len()]);
        Ok(())
    }
    fn write_durable(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let mut bytes = self.0.lock().unwrap();
        bytes.resize(offset as usize, 0);
        bytes.extend_from_slice(data);
        Ok(())
    }
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
    fn write_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    fn writes_are_durable(&self) -> bool {
        true
    }
}

/// A job for `batches`, to be written as `name` into `dir`.
pub fn job(definition: &str, batches: &[RowBatch], dir: &Path, name: &str) -> WriteJob {
    let header = *batches[0].header();
    let schema = CompiledSchema::compile(SchemaId::from_bytes([9; 16]), 3, definition).unwrap();
    WriteJob {
        stream: header.stream,
        schema: Arc::new(schema),
        pipelines: Arc::default(),
        hour: PartitionHour(header.timestamp_unix_micros.div_euclid(MICROS_AN_HOUR)),
        batches: batches.to_vec(),
        key_fields: Arc::default(),
        path: dir.join(name),
    }
}

/// The buffer of a stream of these batches when rows up to `flushed_through` are in files.
pub fn buffer_of(batches: &[RowBatch], flushed_through: i64, pipelines: Arc<Pipelines>) -> BufferSnapshot {
    let last = batches[batches.len() - 1].header();
    let past = |batch: &&RowBatch| batch.header().last_sequence() > flushed_through;
    BufferSnapshot {
        stream: last.stream,
        batches: batches.iter().filter(past).cloned().collect(),
        flushed_through,
        last_sequence: last.last_sequence(),
        next_sequence: last.last_sequence() + 1,
        pipelines,
    }
}

/// The file as the catalog would name it.
pub fn file_ref(meta: &FileMeta) -> FileRef {
    FileRef {
        source: meta.path.clone().into(),
        hour: meta.hour,
        first_sequence: meta.first_sequence,
        last_sequence: meta.last_sequence,
        min_timestamp: meta.min_timestamp,
        max_timestamp: meta.max_timestamp,
        bytes: meta.bytes,
    }
}

/// All rows of a file, step by step from one end or the other.
pub fn read_all(source: &FileSource, backward: bool) -> Vec<FileRow> {
    let cache = FileCache::new(0);
    let mut reader = FileReader::open(source, &cache).unwrap();
    let mut rest = 0..reader.rows();
    let mut rows = Vec::new();
    while !rest.is_empty() {
        let step = reader.step(&rest, backward);
        let read = reader.read(step.clone()).unwrap();
        assert_eq!(read.len(), step.len());
        if backward {
            rows.splice(0..0, read);
            rest.end = step.start;
        } else {
            rows.extend(read);
            rest.start = step.end;
        }
    }
    rows
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
