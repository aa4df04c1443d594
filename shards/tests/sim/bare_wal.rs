//! The log alone, with the least that is needed around it: sequence numbers, and a list of rows in place of a buffer.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    path::Path,
};

use bytes::Bytes;
use ttdust_shards::{
    config::WalConfig,
    ids::{ShardId, StreamId},
    io::Disk,
    wal::{
        Wal, WriteOp,
        batch::RowBatch,
        entry::EntryDraft,
        recovery::{self, RecoveryError},
        segment::{PreparedSegment, ReleasedSegment, SegmentRequest},
    },
};

use crate::world::{Ack, Recovery, Subject};

const SHARD: ShardId = ShardId(1);

/// See the file's comment.
#[derive(Debug)]
pub struct BareWal {
    wal: Wal,
    rows: Vec<RowBatch>,
    last_sequence: BTreeMap<StreamId, i64>,
    waiting: VecDeque<u64>,
}

impl Subject for BareWal {
    fn recover(
        disk: &dyn Disk,
        dir: &Path,
        config: WalConfig,
        salt: u32,
        flushed: &BTreeMap<StreamId, i64>,
    ) -> Result<Recovery<Self>, RecoveryError> {
        let recovered = recovery::recover(disk, dir, SHARD)?;
        let mut last_sequence = flushed.clone();
        for batch in &recovered.batches {
            let last = last_sequence.entry(batch.header().stream).or_default();
            *last = batch.header().last_sequence().max(*last);
        }
        let wal = Wal::with_epoch_salt(SHARD, config, recovered.end, salt);
        let batches = recovered.batches.clone();
        let mut subject = Self { wal, rows: recovered.batches, last_sequence, waiting: VecDeque::new() };
        for (&stream, &through) in flushed {
            subject.flush(stream, through);
        }
        Ok(Recovery { subject, batches, torn: recovered.truncated.is_some() })
    }

    fn submit(&mut self, token: u64, stream: StreamId, now: i64, payloads: &[Bytes], keys: &[Bytes]) -> bool {
        let usage = self.wal.usage();
        if usage.used_bytes * 100 >= usage.quota_bytes * 85 || self.wal.unsynced_bytes() > 1 << 20 {
            return false;
        }
        let last = self.last_sequence.entry(stream).or_default();
        let draft = EntryDraft {
            stream,
            first_sequence: *last + 1,
            timestamp_unix_micros: now,
            schema_version: 1,
            pipeline_version: 0,
            payloads,
            keys,
            metadata: &token.to_le_bytes()[..(token % 9) as usize],
            session: &[],
        };
        *last += payloads.len() as i64;
        self.wal.append(&draft);
        self.waiting.push_back(token);
        true
    }

    fn next_write(&mut self) -> Option<WriteOp> {
        self.wal.next_write()
    }

    fn written(&mut self, op: &WriteOp, result: io::Result<()>) -> Option<Vec<Ack>> {
        let frame = self.wal.written(op.lsn, result).ok()?;
        let ack = |batch: &RowBatch| {
            let token = self.waiting.pop_front().expect("each entry has a submission that waits");
            Ack { token, first_sequence: batch.header().first_sequence }
        };
        let acks = frame.batches.iter().map(ack).collect();
        self.rows.extend(frame.batches);
        Some(acks)
    }

    fn wants_segment(&mut self) -> Option<SegmentRequest> {
        self.wal.wants_segment()
    }

    fn offer_segment(&mut self, segment: Option<PreparedSegment>) {
        match segment {
            Some(segment) => self.wal.offer_segment(segment),
            None => self.wal.segment_failed(),
        }
    }

    fn release(&mut self) -> Vec<ReleasedSegment> {
        self.wal.release()
    }

    fn rows(&mut self) -> &mut [RowBatch] {
        &mut self.rows
    }

    fn flush(&mut self, stream: StreamId, through: i64) {
        self.rows.retain(|batch| batch.header().stream != stream || batch.header().last_sequence() > through);
    }
}
