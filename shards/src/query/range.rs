//! Records of a time range, in either order, a page at a time.

use std::{collections::BTreeSet, ops::Range};

use super::{
    BufferSnapshot, FileRef, Order, QueryAnswer, QueryContext, QueryError, RecordRow, open, read_step, record_of,
};
use crate::{
    ids::StreamId, memory::Taken, parquet::PartitionHour, pipeline::rows::RowReader, transform::decode_metadata,
    wal::batch::RowBatch,
};

/// An answer to a client ends early when its records take this many bytes of memory.
pub const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Records of one stream ingested in [`start`, `end`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeRangeQuery {
    /// The stream.
    pub stream: StreamId,
    /// Unix µs, inclusive.
    pub start_unix_micros: i64,
    /// Unix µs, exclusive.
    pub end_unix_micros: i64,
    /// 1 to [`super::LIMIT_MAX`].
    pub limit: usize,
    /// Oldest or newest first.
    pub order: Order,
    /// Only rows that come after this sequence number in that order: where the page before ended.
    pub after_sequence: Option<i64>,
}

/// Answers a time-range query. `files` may be in any order and may be more than are needed.
///
/// # Errors
/// See [`QueryError`].
///
/// # Panics
/// The limit is 0, or the buffer is another stream's.
pub fn time_range(
    query: &TimeRangeQuery,
    buffer: &BufferSnapshot,
    files: &[FileRef],
    context: &QueryContext<'_>,
) -> Result<QueryAnswer, QueryError> {
    time_range_within(query, ANSWER_BYTES_MAX, buffer, files, context)
}

/// As [`time_range`], but the answer ends early at `bytes_max`.
///
/// # Errors
/// See [`QueryError`].
///
/// # Panics
/// As [`time_range`].
pub fn time_range_within(
    query: &TimeRangeQuery,
    bytes_max: usize,
    buffer: &BufferSnapshot,
    files: &[FileRef],
    context: &QueryContext<'_>,
) -> Result<QueryAnswer, QueryError> {
    assert!(query.limit > 0, "a query wants at least one record");
    assert_eq!(query.stream, buffer.stream, "the buffer of another stream");
    let mut page = Page::new(query, bytes_max, buffer, context);
    page.answer.first_there = first_there(page.rest.start, buffer, files);
    match page.fill(buffer, files) {
        // What there is room for is an answer; the rest is another page's.
        Err(QueryError::Memory(_)) if !page.answer.records.is_empty() => page.more = true,
        filled => filled?,
    }
    Ok(page.finish())
}

/// The first row at or after `start` that was there when the list of files was made: a retention takes files from the front.
fn first_there(start: i64, buffer: &BufferSnapshot, files: &[FileRef]) -> i64 {
    let is_wanted = |file: &&FileRef| file.last_sequence >= start && file.first_sequence <= buffer.flushed_through;
    let in_files = files.iter().filter(is_wanted).map(|file| file.first_sequence).min();
    in_files.unwrap_or(buffer.flushed_through.saturating_add(1)).max(start)
}

/// An answer as it fills.
struct Page<'q> {
    query: &'q TimeRangeQuery,
    bytes_max: usize,
    context: &'q QueryContext<'q>,
    /// Rows up to this one come from files, later ones from the buffer.
    flushed_through: i64,
    /// Shows rows of the buffer as they are to be seen.
    reader: RowReader,
    /// Sequence numbers that are still wanted. Shrinks from the side where the answer begins.
    rest: Range<i64>,
    answer: QueryAnswer,
    bytes: usize,
    taken: Taken,
    more: bool,
}

impl<'q> Page<'q> {
    fn new(
        query: &'q TimeRangeQuery,
        bytes_max: usize,
        buffer: &BufferSnapshot,
        context: &'q QueryContext<'q>,
    ) -> Self {
        let rest = match (query.order, query.after_sequence) {
            (_, None) => 1..i64::MAX,
            (Order::Ascending, Some(after)) => after.saturating_add(1)..i64::MAX,
            (Order::Descending, Some(before)) => 1..before,
        };
        let (flushed_through, reader) = (buffer.flushed_through, RowReader::new(&buffer.pipelines));
        let answer = QueryAnswer::default();
        let taken = context.bounds.meter.nothing();
        Self { query, bytes_max, context, flushed_through, reader, rest, answer, bytes: 0, taken, more: false }
    }

    fn backward(&self) -> bool {
        self.query.order == Order::Descending
    }

    fn is_full(&self) -> bool {
        self.answer.records.len() >= self.query.limit || self.bytes >= self.bytes_max
    }

    fn fill(&mut self, buffer: &BufferSnapshot, files: &[FileRef]) -> Result<(), QueryError> {
        match self.query.order {
            Order::Ascending => {
                self.take_from_files(files)?;
                self.take_from_buffer(buffer)
            }
            Order::Descending => {
                self.take_from_buffer(buffer)?;
                self.take_from_files(files)
            }
        }
    }

    fn push(&mut self, record: RecordRow) -> Result<(), QueryError> {
        let bytes = record.memory_bytes();
        self.taken.more(bytes)?;
        match self.query.order {
            Order::Ascending => self.rest.start = record.sequence + 1,
            Order::Descending => self.rest.end = record.sequence,
        }
        self.bytes += bytes;
        self.answer.records.push(record);
        Ok(())
    }

    /// Whether the file can hold a row that the answer needs.
    fn may_hold(&self, file: &FileRef) -> bool {
        file.first_sequence <= self.flushed_through
            && file.first_sequence < self.rest.end
            && file.last_sequence >= self.rest.start
            && file.max_timestamp >= self.query.start_unix_micros
            && file.min_timestamp < self.query.end_unix_micros
    }

    fn take_from_files(&mut self, files: &[FileRef]) -> Result<(), QueryError> {
        let mut files: Vec<&FileRef> = files.iter().filter(|file| self.may_hold(file)).collect();
        files.sort_unstable_by_key(|file| file.first_sequence);
        if self.backward() {
            files.reverse();
        }
        let mut hours: BTreeSet<PartitionHour> = BTreeSet::new();
        for file in files {
            // A file that another one covers has nothing new; with a full page this one may.
            if !self.may_hold(file) {
                continue;
            }
            if self.is_full() {
                self.more = true;
                break;
            }
            hours.insert(file.hour);
            self.take_from_file(file)?;
        }
        self.answer.partitions_scanned += hours.len() as u64;
        Ok(())
    }

    fn take_from_file(&mut self, file: &FileRef) -> Result<(), QueryError> {
        self.context.bounds.check()?;
        let mut reader = open(file, self.context)?;
        let end = self.rest.end.min(self.flushed_through.saturating_add(1));
        let mut rows = reader.row_at(self.rest.start)?..reader.row_at(end)?;
        if file.min_timestamp < self.query.start_unix_micros {
            rows.start = rows.start.max(reader.first_row_at(self.query.start_unix_micros)?);
        }
        if file.max_timestamp >= self.query.end_unix_micros {
            rows.end = rows.end.min(reader.first_row_at(self.query.end_unix_micros)?);
        }
        while !rows.is_empty() {
            if self.is_full() {
                self.more = true;
                break;
            }
            self.context.bounds.check()?;
            let room = self.query.limit - self.answer.records.len();
            let backward = self.backward();
            let wanted = if backward {
                rows.start.max(rows.end.saturating_sub(room))..rows.end
            } else {
                rows.start..rows.end.min(rows.start + room)
            };
            let step = reader.step(&wanted, backward);
            let (step, mut read) = read_step(&mut reader, step, backward)?;
            if backward {
                read.reverse();
            }
            for row in read {
                if self.is_full() {
                    self.more = true;
                    break;
                }
                self.push(record_of(row))?;
            }
            if backward {
                rows.end = step.start;
            } else {
                rows.start = step.end;
            }
        }
        self.answer.count(reader.counts());
        Ok(())
    }

    fn take_from_buffer(&mut self, buffer: &BufferSnapshot) -> Result<(), QueryError> {
        let wanted = self.rest.start.max(self.flushed_through.saturating_add(1))..self.rest.end;
        let batches = &buffer.batches;
        let time = |batch: &RowBatch| batch.header().timestamp_unix_micros;
        let start = batches.partition_point(|batch| time(batch) < self.query.start_unix_micros);
        let end = batches.partition_point(|batch| time(batch) < self.query.end_unix_micros);
        let in_range = batches.get(start..end).unwrap_or_default();
        let start = in_range.partition_point(|batch| batch.header().last_sequence() < wanted.start);
        let end = in_range.partition_point(|batch| batch.header().first_sequence < wanted.end);
        let in_range = in_range.get(start..end).unwrap_or_default();
        if self.is_full() {
            self.more |= !in_range.is_empty();
            return Ok(());
        }
        self.answer.partitions_scanned += u64::from(buffer.last_batch_sequence() > buffer.flushed_through);
        for at in 0..in_range.len() {
            if self.is_full() {
                self.more = true;
                break;
            }
            self.context.bounds.check()?;
            let at = if self.backward() { in_range.len() - 1 - at } else { at };
            self.take_from_batch(&in_range[at], &wanted)?;
        }
        Ok(())
    }

    fn take_from_batch(&mut self, batch: &RowBatch, wanted: &Range<i64>) -> Result<(), QueryError> {
        let header = batch.header();
        let rows = batch.rows().map_err(QueryError::Log)?;
        let metadata = decode_metadata(&rows.metadata());
        let first = header.first_sequence;
        let indexes = row_number(wanted.start, first)..rows.count().min(row_number(wanted.end, first));
        for at in 0..indexes.len() {
            if self.is_full() {
                self.more = true;
                break;
            }
            let index = if self.backward() { indexes.end - 1 - at } else { indexes.start + at };
            self.answer.rows_scanned += 1;
            let Some(payload) = self.reader.read(header.pipeline_version, rows.payload(index))? else { continue };
            self.push(RecordRow {
                sequence: first + index as i64,
                timestamp_unix_micros: header.timestamp_unix_micros,
                payload,
                metadata: metadata.clone(),
            })?;
        }
        Ok(())
    }

    fn finish(mut self) -> QueryAnswer {
        let last = self.answer.records.last().map(|record| record.sequence);
        self.answer.next_after = last.filter(|_| self.more);
        self.answer.held = self.taken.into();
        self.answer
    }
}

/// The index, from 0, of `sequence` in rows that begin with `first`; 0 for one before them.
fn row_number(sequence: i64, first: i64) -> usize {
    usize::try_from(sequence.saturating_sub(first)).unwrap_or(0)
}
