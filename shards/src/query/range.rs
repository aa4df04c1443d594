//! Records of a time range, in either order, a page at a time. The time is that of ingestion, which grows with the sequence
//! number, or that of the event, which may be in any order: then each file's pages, and the rows of those that may do, are
//! looked at.
//!
//! A page ends when it is full, and when its time is over or memory is short, if it has gone ahead: with what it has found, and
//! with the place where the search ended, past all rows that were looked at. So a search that finds little in much comes to its
//! end, call by call. What a call looks at first, a file or a part of one, it looks at to its end.

use std::{collections::BTreeSet, ops::Range};

use super::{
    BufferSnapshot, FileRef, Order, QueryAnswer, QueryContext, QueryError, RecordRow, events::Events, open, read_step,
    record_of,
};
use crate::{
    ids::StreamId,
    memory::Taken,
    parquet::{
        PartitionHour,
        read::{EventSpan, FileReader, FileRow},
    },
    pipeline::rows::RowReader,
    transform::decode_metadata,
    wal::batch::RowBatch,
};

/// An answer to a client ends early when its records take this many bytes of memory.
pub const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Rows that are read at once at least, where only their payloads tell which of them are wanted.
const LOOK_ROWS: usize = 1024;
/// Wanted rows that are no further from each other are read together, with those between them.
const GAP_ROWS: usize = 64;

/// Which of a record's times a range is of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TimeField {
    /// When it was ingested.
    #[default]
    Ingest,
    /// When its event was, as the stream's pipeline tells it; a record of which it does not is in no range.
    Event,
}

/// Records of one stream whose time is in [`start`, `end`), in the order of their sequence numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeRangeQuery {
    /// The stream.
    pub stream: StreamId,
    /// Which time.
    pub time_field: TimeField,
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
    let mut page = Page::new(query, bytes_max, buffer, context)?;
    page.answer.first_there = first_there(page.rest.start, buffer, files);
    match page.fill(buffer, files) {
        // What there is room for is an answer; the rest is another page's.
        Err(QueryError::Memory(_)) if page.has_moved => page.end_early(),
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
    /// `None`: the range is of times of ingestion.
    events: Option<Events>,
    /// Sequence numbers that are still wanted. Shrinks from the side where the answer begins.
    rest: Range<i64>,
    /// It has shrunk: who goes on from here is elsewhere.
    has_moved: bool,
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
    ) -> Result<Self, QueryError> {
        let events = match query.time_field {
            TimeField::Ingest => None,
            TimeField::Event => Some(Events::new(buffer, query.start_unix_micros..query.end_unix_micros)?),
        };
        let rest = match (query.order, query.after_sequence) {
            (_, None) => 1..i64::MAX,
            (Order::Ascending, Some(after)) => after.saturating_add(1)..i64::MAX,
            (Order::Descending, Some(before)) => 1..before,
        };
        let (flushed_through, reader) = (buffer.flushed_through, RowReader::new(&buffer.pipelines));
        let answer = QueryAnswer::default();
        let taken = context.bounds.meter.nothing();
        Ok(Self {
            query,
            bytes_max,
            context,
            flushed_through,
            reader,
            events,
            rest,
            has_moved: false,
            answer,
            bytes: 0,
            taken,
            more: false,
        })
    }

    fn backward(&self) -> bool {
        self.query.order == Order::Descending
    }

    fn is_full(&self) -> bool {
        self.answer.records.len() >= self.query.limit || self.bytes >= self.bytes_max
    }

    /// Whether the page ends here, where there is more to look at.
    fn ends(&mut self) -> Result<bool, QueryError> {
        if self.is_full() {
            self.more = true;
        } else if self.has_moved && self.context.bounds.ends_pages() {
            self.end_early();
        } else {
            self.context.bounds.check()?;
            return Ok(false);
        }
        Ok(true)
    }

    fn end_early(&mut self) {
        self.more = true;
        self.answer.is_partial = true;
    }

    /// Every row up to this one, in the order of the answer, was looked at.
    fn pass(&mut self, sequence: i64) {
        let before = self.rest.clone();
        match self.query.order {
            Order::Ascending => self.rest.start = self.rest.start.max(sequence.saturating_add(1)),
            Order::Descending => self.rest.end = self.rest.end.min(sequence),
        }
        self.has_moved |= self.rest != before;
    }

    fn pass_file(&mut self, file: &FileRef) {
        self.pass(match self.query.order {
            Order::Ascending => file.last_sequence.min(self.flushed_through),
            Order::Descending => file.first_sequence,
        });
    }

    fn fill(&mut self, buffer: &BufferSnapshot, files: &[FileRef]) -> Result<(), QueryError> {
        match self.query.order {
            Order::Ascending => {
                self.take_from_files(files)?;
                if self.more { Ok(()) } else { self.take_from_buffer(buffer) }
            }
            Order::Descending => {
                self.take_from_buffer(buffer)?;
                if self.more { Ok(()) } else { self.take_from_files(files) }
            }
        }
    }

    fn push(&mut self, record: RecordRow) -> Result<(), QueryError> {
        let bytes = record.memory_bytes();
        self.taken.more(bytes)?;
        self.pass(record.sequence);
        self.bytes += bytes;
        self.answer.records.push(record);
        Ok(())
    }

    /// Whether the file can hold a row that the answer needs.
    fn may_hold(&self, file: &FileRef) -> bool {
        file.first_sequence <= self.flushed_through
            && file.first_sequence < self.rest.end
            && file.last_sequence >= self.rest.start
            && (self.events.is_some()
                || file.max_timestamp >= self.query.start_unix_micros
                    && file.min_timestamp < self.query.end_unix_micros)
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
            // Where memory knows that no event was in the range, the file costs no more than this look.
            if self.has_no_event(file) {
                self.answer.cache_hits += 1;
                self.pass_file(file);
                continue;
            }
            if self.ends()? {
                break;
            }
            hours.insert(file.hour);
            self.take_from_file(file)?;
            if self.more {
                break;
            }
            self.pass_file(file);
        }
        self.answer.partitions_scanned += hours.len() as u64;
        Ok(())
    }

    /// Whether it is known, without a look into the file, that none of its events was in the range.
    fn has_no_event(&self, file: &FileRef) -> bool {
        let times = self.query.start_unix_micros..self.query.end_unix_micros;
        self.events.as_ref().is_some_and(|events| {
            let span = EventSpan::known(&file.source, self.context.cache);
            span.is_some_and(|span| !span.meets(&times) && events.are_told_by(span.told_by))
        })
    }

    fn take_from_file(&mut self, file: &FileRef) -> Result<(), QueryError> {
        let mut reader = open(file, self.context)?;
        let end = self.rest.end.min(self.flushed_through.saturating_add(1));
        let mut rows = reader.row_at(self.rest.start)?..reader.row_at(end)?;
        if let Some(events) = &self.events {
            if reader.event_times_by().is_some_and(|version| events.are_told_by(version)) {
                self.take_events(&mut reader, rows)?;
            } else {
                self.take_rows(&mut reader, rows)?;
            }
        } else {
            if file.min_timestamp < self.query.start_unix_micros {
                rows.start = rows.start.max(reader.first_row_at(self.query.start_unix_micros)?);
            }
            if file.max_timestamp >= self.query.end_unix_micros {
                rows.end = rows.end.min(reader.first_row_at(self.query.end_unix_micros)?);
            }
            self.take_rows(&mut reader, rows)?;
        }
        self.answer.count(reader.counts());
        Ok(())
    }

    /// Takes these rows; of a range of events, those whose payloads say that they are of one.
    fn take_rows(&mut self, reader: &mut FileReader<'_>, mut rows: Range<usize>) -> Result<(), QueryError> {
        while !rows.is_empty() && !self.ends()? {
            let room = self.query.limit - self.answer.records.len();
            let most = if self.events.is_some() { room.max(LOOK_ROWS) } else { room };
            for (_, row) in self.next_rows(reader, &mut rows, most)? {
                if self.is_full() {
                    self.more = true;
                    break;
                }
                let sequence = row.sequence;
                if self.is_wanted(&row.payload) {
                    self.push(record_of(row))?;
                }
                self.pass(sequence);
            }
        }
        Ok(())
    }

    /// Takes those of these rows whose event was in the time range, of a file that knows when events were.
    fn take_events(&mut self, reader: &mut FileReader<'_>, mut rows: Range<usize>) -> Result<(), QueryError> {
        let times = self.query.start_unix_micros..self.query.end_unix_micros;
        let backward = self.backward();
        let mut last_looked_at = None;
        while let Some(page) = reader.next_events(&rows, &times, backward) {
            if let Some(row) = last_looked_at.filter(|_| self.context.bounds.ends_pages()) {
                self.pass(reader.sequence_at(row)?);
            }
            if self.ends()? {
                break;
            }
            last_looked_at = Some(if backward { page.start } else { page.end - 1 });
            rows = if backward { rows.start..page.start } else { page.end..rows.end };
            let mut found = reader.events(page, &times)?;
            if backward {
                found.reverse();
            }
            let room = self.query.limit - self.answer.records.len();
            let is_too_much = found.len() > room;
            found.truncate(room);
            for near in found.chunk_by(|row, next| row.abs_diff(*next) <= GAP_ROWS) {
                self.take_found(reader, near)?;
            }
            self.more |= is_too_much;
            if self.more {
                break;
            }
        }
        Ok(())
    }

    /// Takes these rows, which are in the order of the answer.
    fn take_found(&mut self, reader: &mut FileReader<'_>, found: &[usize]) -> Result<(), QueryError> {
        let [first, ..] = found else { return Ok(()) };
        let last = found.last().unwrap_or(first);
        let mut rows = *first.min(last)..*first.max(last) + 1;
        let mut found = found.iter().peekable();
        while !rows.is_empty() && !self.ends()? {
            for (number, row) in self.next_rows(reader, &mut rows, usize::MAX)? {
                if found.next_if(|found| **found == number).is_none() {
                    continue;
                }
                if self.is_full() {
                    self.more = true;
                    break;
                }
                self.push(record_of(row))?;
            }
        }
        Ok(())
    }

    /// The next of `rows`, at most `most`, in the order of the answer and with their numbers. They are taken away from `rows`.
    fn next_rows(
        &self,
        reader: &mut FileReader<'_>,
        rows: &mut Range<usize>,
        most: usize,
    ) -> Result<Vec<(usize, FileRow)>, QueryError> {
        let backward = self.backward();
        let wanted = if backward {
            rows.start.max(rows.end.saturating_sub(most))..rows.end
        } else {
            rows.start..rows.end.min(rows.start.saturating_add(most))
        };
        let step = reader.step(&wanted, backward);
        let (step, read) = read_step(reader, step, backward)?;
        *rows = if backward { rows.start..step.start } else { step.end..rows.end };
        let numbered = step.zip(read);
        Ok(if backward { numbered.rev().collect() } else { numbered.collect() })
    }

    /// Whether a record, as readers see it, is in the time range, if that is of events.
    fn is_wanted(&mut self, payload: &[u8]) -> bool {
        self.events.as_mut().is_none_or(|events| events.has(payload))
    }

    fn take_from_buffer(&mut self, buffer: &BufferSnapshot) -> Result<(), QueryError> {
        let wanted = self.rest.start.max(self.flushed_through.saturating_add(1))..self.rest.end;
        let batches = &buffer.batches;
        let time = |batch: &RowBatch| batch.header().timestamp_unix_micros;
        let in_range = if self.events.is_some() {
            batches.as_slice()
        } else {
            let start = batches.partition_point(|batch| time(batch) < self.query.start_unix_micros);
            let end = batches.partition_point(|batch| time(batch) < self.query.end_unix_micros);
            batches.get(start..end).unwrap_or_default()
        };
        let start = in_range.partition_point(|batch| batch.header().last_sequence() < wanted.start);
        let end = in_range.partition_point(|batch| batch.header().first_sequence < wanted.end);
        let in_range = in_range.get(start..end).unwrap_or_default();
        if self.is_full() {
            self.more |= !in_range.is_empty();
            return Ok(());
        }
        self.answer.partitions_scanned += u64::from(buffer.last_batch_sequence() > buffer.flushed_through);
        for at in 0..in_range.len() {
            if self.ends()? {
                break;
            }
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
            let sequence = first + index as i64;
            let seen = self.reader.read(header.pipeline_version, rows.payload(index))?;
            if let Some(payload) = seen.filter(|payload| self.is_wanted(payload)) {
                let (timestamp_unix_micros, metadata) = (header.timestamp_unix_micros, metadata.clone());
                self.push(RecordRow { sequence, timestamp_unix_micros, payload, metadata })?;
            }
            self.pass(sequence);
        }
        Ok(())
    }

    fn finish(mut self) -> QueryAnswer {
        let looked_through = match self.query.order {
            Order::Ascending => self.rest.start - 1,
            Order::Descending => self.rest.end,
        };
        self.answer.next_after = self.more.then_some(looked_through);
        self.answer.held = self.taken.into();
        self.answer
    }
}

/// The index, from 0, of `sequence` in rows that begin with `first`; 0 for one before them.
fn row_number(sequence: i64, first: i64) -> usize {
    usize::try_from(sequence.saturating_sub(first)).unwrap_or(0)
}
