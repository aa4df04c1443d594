//! Reading rows back: by row number, the row number by time, and the row numbers by key. Only what is asked for is read: the
//! footer with its page index, then the pages of the columns that hold the rows, all that one step needs at once.
//!
//! Memory is bounded by steps: see [`FileReader::step`].

use std::{ops::Range, path::Path, sync::Arc};

use arrow_array::{
    Array, RecordBatch, StringArray,
    cast::AsArray,
    types::{Int64Type, TimestampMicrosecondType},
};
use bytes::Bytes;
use parquet::{
    DecodeResult,
    arrow::{
        ProjectionMask,
        arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, RowGroupSelection, RowSelection, RowSelector},
        push_decoder::ParquetPushDecoderBuilder,
    },
    errors::ParquetError,
    file::metadata::{PageIndexPolicy, ParquetMetaDataPushDecoder},
};

use super::{
    ParquetFileError,
    cache::{FileCache, Part, Value},
    index::{Head, hash_of},
    layout::{EVENT_TS, INGEST_TS, METADATA, PAYLOAD, SEQ},
    source::{FileSource, OpenSource},
};
use crate::{memory::Meter, record::keys::KeySearch};

mod facts;

pub(super) use facts::Facts;

/// Bytes at a file's end that are read at once: the whole footer of most files.
const TAIL_BYTES: u64 = 128 * 1024;
/// Bytes of payload that one step reads, about.
const STEP_BYTES: u64 = 8 * 1024 * 1024;
/// Rows that one step reads at least, if there are as many, and at most.
const STEP_ROWS: Range<usize> = 1..16 * 1024;
/// And the part of the memory that it may have of which its payload takes: pages, columns and rows take the rest.
const STEP_SHARE: usize = 8;

/// A row of a file, as a query needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRow {
    /// Its sequence number.
    pub sequence: i64,
    /// When it was ingested, Unix µs.
    pub timestamp_unix_micros: i64,
    /// Its metadata as a JSON object, if it has any.
    pub metadata_json: Option<String>,
    /// The record.
    pub payload: Bytes,
}

/// Which rows of a file have a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyRows {
    /// The file has no index of the field: any row may.
    NotIndexed,
    /// One of these may, the last first, and no other row does; but if none of these has it, then any row may.
    Among(Vec<usize>),
    /// None has.
    None,
}

/// A key that many files may lack.
#[derive(Debug)]
pub struct Absence {
    field: Box<str>,
    hash: u64,
}

impl Absence {
    /// Of `key` in `field`.
    #[must_use]
    pub fn of(field: &str, key: &str) -> Self {
        Self { field: field.into(), hash: hash_of(key) }
    }

    /// Whether `cache` knows that no record of the file has the key.
    #[must_use]
    pub fn is_known(&self, file: &FileSource, cache: &FileCache) -> bool {
        cache.lacks(file.name(), &self.field, self.hash) == Some(true)
    }
}

/// When the events of a file's records were, as its own column of times says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventSpan {
    /// The version of the stream's pipeline that told it.
    pub told_by: u16,
    /// The first, Unix µs.
    pub first: i64,
    /// The last; before the first: no record has a time.
    pub last: i64,
}

impl EventSpan {
    /// Of a file whose footer was read before, without a look into it; `None`: that is not known, or it has no such column.
    #[must_use]
    pub fn known(file: &FileSource, cache: &FileCache) -> Option<Self> {
        cache.events(file.name())
    }

    /// Whether an event may have been in `times`.
    #[must_use]
    pub fn meets(&self, times: &Range<i64>) -> bool {
        self.first < times.end && self.last >= times.start
    }
}

/// What reading took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReadCounts {
    /// Rows of which any column was decoded.
    pub rows: u64,
    /// What was there in the cache.
    pub cache_hits: u64,
    /// What was not, and had to be read.
    pub cache_misses: u64,
}

/// An open file of ours.
#[derive(Debug)]
pub struct FileReader<'s> {
    fetcher: Fetcher<'s>,
    facts: Arc<Facts>,
}

/// Gets bytes of one file.
#[derive(Debug)]
struct Fetcher<'s> {
    source: &'s FileSource,
    cache: &'s FileCache,
    /// Opened when it is first needed: what the cache can answer needs no file.
    file: Option<OpenSource>,
    meter: Meter,
    counts: ReadCounts,
}

impl Fetcher<'_> {
    fn name(&self) -> &Path {
        self.source.name()
    }

    fn damaged(&self, reason: impl Into<String>) -> ParquetFileError {
        ParquetFileError::Format { path: self.name().to_owned(), reason: reason.into() }
    }

    fn failed(&self, error: ParquetError) -> ParquetFileError {
        ParquetFileError::from_parquet(self.name(), error)
    }

    fn open(&mut self) -> Result<&OpenSource, ParquetFileError> {
        let io = |source| ParquetFileError::Io { path: self.source.name().to_owned(), source };
        if self.file.is_none() {
            self.file = Some(self.source.open().map_err(io)?);
        }
        Ok(self.file.as_ref().expect("opened above"))
    }

    /// The bytes of `ranges`, read now.
    fn read(&mut self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, ParquetFileError> {
        let path = self.name().to_owned();
        let read = self.open()?.read_ranges(ranges).map_err(|source| ParquetFileError::Io { path, source })?;
        if read.len() != ranges.len() {
            return Err(self.damaged("its store gave another number of ranges than it was asked for"));
        }
        Ok(read)
    }

    /// The bytes of `ranges`, from the cache if they lie elsewhere and were read before.
    fn fetch(&mut self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, ParquetFileError> {
        if matches!(self.source, FileSource::Local(_)) {
            return self.read(ranges);
        }
        let known = |range: &Range<u64>| match self.cache.get(self.source.name(), &Part::Range(range.clone())) {
            Some(Value::Range(bytes)) => Some(bytes),
            _ => None,
        };
        let mut found: Vec<Option<Bytes>> = ranges.iter().map(known).collect();
        let missing: Vec<Range<u64>> =
            ranges.iter().zip(&found).filter(|(_, found)| found.is_none()).map(|(range, _)| range.clone()).collect();
        self.counts.cache_hits += (ranges.len() - missing.len()) as u64;
        self.counts.cache_misses += missing.len() as u64;
        if !missing.is_empty() {
            let mut read = missing.iter().zip(self.read(&missing)?);
            for place in found.iter_mut().filter(|place| place.is_none()) {
                let (range, bytes) = read.next().expect("as many as are missing");
                self.cache.put(self.source.name(), Part::Range(range.clone()), Value::Range(bytes.clone()));
                *place = Some(bytes);
            }
        }
        Ok(found.into_iter().flatten().collect())
    }

    /// What the footer says.
    fn facts(&mut self) -> Result<Arc<Facts>, ParquetFileError> {
        if let Some(Value::Footer(facts)) = self.cache.get(self.source.name(), &Part::Footer) {
            self.counts.cache_hits += 1;
            return Ok(facts);
        }
        self.counts.cache_misses += 1;
        let metadata = self.footer()?;
        let facts = Arc::new(Facts::new(metadata).map_err(|reason| self.damaged(reason))?);
        if let Some(span) = facts.event_span() {
            self.cache.put(self.source.name(), Part::Events, Value::Events(span));
        }
        self.cache.put(self.source.name(), Part::Footer, Value::Footer(Arc::clone(&facts)));
        Ok(facts)
    }

    fn footer(&mut self) -> Result<ArrowReaderMetadata, ParquetFileError> {
        let bytes = self.open()?.bytes();
        let mut decoder = ParquetMetaDataPushDecoder::try_new(bytes)
            .map_err(|error| self.failed(error))?
            .with_page_index_policy(PageIndexPolicy::Required);
        let tail = bytes.saturating_sub(TAIL_BYTES)..bytes;
        let mut wanted = Vec::from([tail]);
        loop {
            let read = self.read(&wanted)?;
            decoder.push_ranges(wanted, read).map_err(|error| self.failed(error))?;
            match decoder.try_decode().map_err(|error| self.failed(error))? {
                DecodeResult::NeedsData(ranges) => wanted = ranges,
                DecodeResult::Data(metadata) => {
                    let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Required);
                    let metadata = ArrowReaderMetadata::try_new(Arc::new(metadata), options);
                    return metadata.map_err(|error| self.failed(error));
                }
                DecodeResult::Finished => return Err(self.damaged("it has no footer")),
            }
        }
    }
}

impl<'s> FileReader<'s> {
    /// Opens the file and reads its footer, unless `cache` knows it.
    ///
    /// # Errors
    /// [`ParquetFileError`]: it cannot be read, or is not laid out as [`super::write`] does.
    pub fn open(source: &'s FileSource, cache: &'s FileCache) -> Result<Self, ParquetFileError> {
        Self::open_within(source, cache, Meter::default())
    }

    /// The same; what is read and decoded at a time is held against `meter`.
    ///
    /// # Errors
    /// As there; so is every method's when there is no memory.
    pub fn open_within(source: &'s FileSource, cache: &'s FileCache, meter: Meter) -> Result<Self, ParquetFileError> {
        let mut fetcher = Fetcher { source, cache, file: None, meter, counts: ReadCounts::default() };
        let facts = fetcher.facts()?;
        Ok(Self { fetcher, facts })
    }

    /// The first sequence number that it stands for.
    #[must_use]
    pub fn first_sequence(&self) -> i64 {
        self.facts.first_sequence
    }

    /// The last sequence number that it stands for: those between that have no row are left out by the stream's pipeline.
    #[must_use]
    pub fn last_sequence(&self) -> i64 {
        self.facts.last_sequence
    }

    /// The first row whose sequence number is `sequence` or a later one; [`FileReader::rows`] if there is none.
    ///
    /// # Errors
    /// [`ParquetFileError`].
    pub fn row_at(&mut self, sequence: i64) -> Result<usize, ParquetFileError> {
        let facts = Arc::clone(&self.facts);
        if facts.is_dense() {
            let row = sequence.saturating_sub(facts.first_sequence);
            return Ok(usize::try_from(row).unwrap_or(0).min(facts.rows));
        }
        let page = facts.sequence_pages.partition_point(|page| page.max < sequence);
        let Some(page) = facts.sequence_pages.get(page) else { return Ok(facts.rows) };
        if page.min >= sequence {
            return Ok(page.rows.start);
        }
        let mut before = 0;
        self.decode(page.rows.clone(), &facts.sequence_column, |fetcher, batch| {
            let sequences = column(fetcher, batch, SEQ)?.as_primitive_opt::<Int64Type>();
            let sequences = sequences.ok_or_else(|| fetcher.damaged(format!("{SEQ} is of another type")))?;
            before += sequences.values().partition_point(|found| *found < sequence);
            Ok(())
        })?;
        Ok(page.rows.start + before)
    }

    /// The sequence number of a row.
    ///
    /// # Errors
    /// [`ParquetFileError`].
    ///
    /// # Panics
    /// There is no such row.
    pub fn sequence_at(&mut self, row: usize) -> Result<i64, ParquetFileError> {
        let facts = Arc::clone(&self.facts);
        if facts.is_dense() {
            return Ok(facts.first_sequence + row as i64);
        }
        let mut found = None;
        self.decode(row..row + 1, &facts.sequence_column, |fetcher, batch| {
            let sequences = column(fetcher, batch, SEQ)?.as_primitive_opt::<Int64Type>();
            let sequences = sequences.ok_or_else(|| fetcher.damaged(format!("{SEQ} is of another type")))?;
            found = sequences.values().first().copied();
            Ok(())
        })?;
        found.ok_or_else(|| self.fetcher.damaged(format!("it has no row {row}")))
    }

    /// How many rows it has.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.facts.rows
    }

    /// What reading took so far.
    #[must_use]
    pub fn counts(&self) -> ReadCounts {
        self.fetcher.counts
    }

    /// The first row ingested at or after `unix_micros`; [`FileReader::rows`] if there is none.
    ///
    /// # Errors
    /// [`ParquetFileError`].
    pub fn first_row_at(&mut self, unix_micros: i64) -> Result<usize, ParquetFileError> {
        let facts = Arc::clone(&self.facts);
        let page = facts.time_pages.partition_point(|page| page.max < unix_micros);
        let Some(page) = facts.time_pages.get(page) else { return Ok(facts.rows) };
        if page.min >= unix_micros {
            return Ok(page.rows.start);
        }
        let mut before = 0;
        self.decode(page.rows.clone(), &facts.time_column, |fetcher, batch| {
            let times = column(fetcher, batch, INGEST_TS)?.as_primitive_opt::<TimestampMicrosecondType>();
            let times = times.ok_or_else(|| fetcher.damaged(format!("{INGEST_TS} is of another type")))?;
            before += times.values().partition_point(|time| *time < unix_micros);
            Ok(())
        })?;
        Ok(page.rows.start + before)
    }

    /// The version of the stream's pipeline by which its records' times of events were told; `None`: it has none.
    #[must_use]
    pub fn event_times_by(&self) -> Option<u16> {
        self.facts.event_pages.as_ref().map(|_| self.facts.pipeline_version)
    }

    /// The first part of `rows`, or the last if `backward`, in which there may be a row whose event was in `times` (Unix µs): a
    /// page of their column. `None`: there is none.
    #[must_use]
    pub fn next_events(&self, rows: &Range<usize>, times: &Range<i64>, backward: bool) -> Option<Range<usize>> {
        let pages = self.facts.event_pages.as_deref()?;
        let from = pages.partition_point(|page| page.rows.end <= rows.start);
        let to = pages.partition_point(|page| page.rows.start < rows.end);
        let mut pages = pages.get(from..to)?.iter().filter(|page| page.min < times.end && page.max >= times.start);
        let page = if backward { pages.next_back() } else { pages.next() }?;
        Some(page.rows.start.max(rows.start)..page.rows.end.min(rows.end))
    }

    /// Those of `rows`, which are within one row group, whose event was in `times`, in order.
    ///
    /// # Errors
    /// [`ParquetFileError`].
    ///
    /// # Panics
    /// They are not within one row group.
    pub fn events(&mut self, rows: Range<usize>, times: &Range<i64>) -> Result<Vec<usize>, ParquetFileError> {
        let facts = Arc::clone(&self.facts);
        let (mut found, mut start) = (Vec::new(), rows.start);
        self.decode(rows, &facts.event_column, |fetcher, batch| {
            let events = column(fetcher, batch, EVENT_TS)?.as_primitive_opt::<TimestampMicrosecondType>();
            let events = events.ok_or_else(|| fetcher.damaged(format!("{EVENT_TS} is of another type")))?;
            let is_wanted = |time: Option<i64>| time.is_some_and(|time| times.contains(&time));
            found.extend((start..).zip(events.iter()).filter(|(_, time)| is_wanted(*time)).map(|(row, _)| row));
            start += batch.num_rows();
            Ok(())
        })?;
        Ok(found)
    }

    /// The part of `rows` to read in one go, at its end if `backward`: within one row group, and a few MB of payload, if
    /// records are about as large as their neighbours. A row group that is read whole takes 64 MB and a record at most.
    #[must_use]
    pub fn step(&self, rows: &Range<usize>, backward: bool) -> Range<usize> {
        if rows.is_empty() {
            return rows.clone();
        }
        let group = self.facts.group_of(if backward { rows.end - 1 } else { rows.start });
        let of_group = self.facts.group_rows(group);
        let bytes = self.facts.payload_bytes(group) / of_group.len() as u64 + 1;
        let step_bytes = STEP_BYTES.min((self.fetcher.meter.may() / STEP_SHARE) as u64);
        let most = usize::try_from(step_bytes / bytes).unwrap_or(usize::MAX).clamp(STEP_ROWS.start, STEP_ROWS.end);
        if backward {
            rows.start.max(of_group.start).max(rows.end.saturating_sub(most))..rows.end
        } else {
            rows.start..rows.end.min(of_group.end).min(rows.start + most)
        }
    }

    /// The rows numbered `rows`, which are within one row group.
    ///
    /// # Errors
    /// [`ParquetFileError`].
    ///
    /// # Panics
    /// They are not.
    pub fn read(&mut self, rows: Range<usize>) -> Result<Vec<FileRow>, ParquetFileError> {
        self.foresee(&rows)?;
        let facts = Arc::clone(&self.facts);
        let mut read = Vec::with_capacity(rows.len());
        let least = facts.first_sequence + rows.start as i64;
        self.decode(rows, &facts.row_columns, |fetcher, batch| take_rows(fetcher, batch, (&facts, least), &mut read))?;
        Ok(read)
    }

    /// The last of the rows numbered `rows`, which are within one row group, that `search` looks for.
    ///
    /// # Errors
    /// [`ParquetFileError`].
    ///
    /// # Panics
    /// They are not.
    pub fn last_match(
        &mut self,
        rows: Range<usize>,
        search: &mut KeySearch,
    ) -> Result<Option<usize>, ParquetFileError> {
        self.foresee(&rows)?;
        let facts = Arc::clone(&self.facts);
        let mut found = None;
        let mut start = rows.start;
        self.decode(rows, &facts.payload_column, |fetcher, batch| {
            let payloads = texts(fetcher, batch, PAYLOAD)?;
            let (text, offsets) = (text_of(payloads), payloads.value_offsets());
            let base = offsets.first().map_or(0, |offset| *offset as usize);
            let payload = |row: usize| &text[offsets[row] as usize - base..offsets[row + 1] as usize - base];
            let last = search.last_match(text, payloads.len(), payload);
            found = last.map(|row| start + row).or(found);
            start += batch.num_rows();
            Ok(())
        })?;
        Ok(found)
    }

    /// The rows whose key in `field` may be `key`, as the file's index knows them.
    ///
    /// # Errors
    /// [`ParquetFileError`].
    pub fn rows_with_key(&mut self, field: &str, key: &str) -> Result<KeyRows, ParquetFileError> {
        let facts = Arc::clone(&self.facts);
        let Some((number, index)) = facts.index.as_ref().and_then(|index| index.field(field)) else {
            return Ok(KeyRows::NotIndexed);
        };
        let damaged = |fetcher: &Fetcher<'_>| fetcher.damaged(format!("its index of {field} is damaged"));
        let name = self.fetcher.source.name();
        let head = match self.fetcher.cache.get(name, &Part::Head(number)) {
            Some(Value::Head(head)) => {
                self.fetcher.counts.cache_hits += 1;
                head
            }
            _ => {
                self.fetcher.counts.cache_misses += 1;
                let bytes = self.fetcher.read(&[index.head_range()])?.pop().unwrap_or_default();
                let head = Arc::new(Head::new(index, bytes).ok_or_else(|| damaged(&self.fetcher))?);
                self.fetcher.cache.put(name, Part::Head(number), Value::Head(Arc::clone(&head)));
                head
            }
        };
        let hash = hash_of(key);
        let Some(bucket) = head.bucket_of(hash) else { return Ok(KeyRows::None) };
        let bytes = self.fetcher.fetch(&[bucket])?.pop().unwrap_or_default();
        let rows = head.rows(hash, &bytes).ok_or_else(|| damaged(&self.fetcher))?;
        let rows: Vec<usize> = rows.into_iter().map(|row| row as usize).collect();
        if rows.iter().any(|row| *row >= facts.rows) {
            return Err(damaged(&self.fetcher));
        }
        Ok(if rows.is_empty() { KeyRows::None } else { KeyRows::Among(rows) })
    }

    /// Before anything is allocated: if the rows are about as large as their neighbours, is there memory for their payloads?
    fn foresee(&self, rows: &Range<usize>) -> Result<(), ParquetFileError> {
        if rows.is_empty() {
            return Ok(());
        }
        let group = self.facts.group_of(rows.start);
        let each = self.facts.payload_bytes(group) / self.facts.group_rows(group).len() as u64;
        let bytes = usize::try_from(each.saturating_mul(rows.len() as u64)).unwrap_or(usize::MAX);
        Ok(self.fetcher.meter.check(bytes)?)
    }

    /// Decodes these columns of the rows numbered `rows`, which are within one row group, and hands them to `take`.
    fn decode(
        &mut self,
        rows: Range<usize>,
        columns: &ProjectionMask,
        mut take: impl FnMut(&Fetcher<'_>, &RecordBatch) -> Result<(), ParquetFileError>,
    ) -> Result<(), ParquetFileError> {
        if rows.is_empty() {
            return Ok(());
        }
        let group = self.facts.group_of(rows.start);
        let of_group = self.facts.group_rows(group);
        assert!(rows.end <= of_group.end, "rows {rows:?} of more than one row group");
        let selection =
            RowSelection::from(vec![RowSelector::skip(rows.start - of_group.start), RowSelector::select(rows.len())]);
        let mut decoder = ParquetPushDecoderBuilder::new_with_metadata(self.facts.metadata.clone())
            .with_projection(columns.clone())
            .with_row_group_selections(vec![RowGroupSelection::new(group, Some(selection))])
            .with_batch_size(rows.len())
            .build()
            .map_err(|error| self.fetcher.failed(error))?;
        let mut decoded = 0;
        // What the decoder has: the pages as they lie, and the columns of the rows that it made of them.
        let mut taken = self.fetcher.meter.nothing();
        loop {
            match decoder.try_decode().map_err(|error| self.fetcher.failed(error))? {
                DecodeResult::NeedsData(ranges) => {
                    let bytes: u64 = ranges.iter().map(|range| range.end - range.start).sum();
                    taken.more(usize::try_from(bytes).unwrap_or(usize::MAX))?;
                    let read = self.fetcher.fetch(&ranges)?;
                    decoder.push_ranges(ranges, read).map_err(|error| self.fetcher.failed(error))?;
                }
                DecodeResult::Data(batch) => {
                    decoded += batch.num_rows();
                    taken.more(batch.get_array_memory_size())?;
                    take(&self.fetcher, &batch)?;
                }
                DecodeResult::Finished => break,
            }
        }
        self.fetcher.counts.rows += decoded as u64;
        if decoded != rows.len() {
            return Err(self.fetcher.damaged(format!("it has {decoded} rows where {} should be", rows.len())));
        }
        Ok(())
    }
}

/// Appends the rows of `batch` to `read`, whose first is `least` or, where rows are left out, a later one.
fn take_rows(
    fetcher: &Fetcher<'_>,
    batch: &RecordBatch,
    (facts, least): (&Facts, i64),
    read: &mut Vec<FileRow>,
) -> Result<(), ParquetFileError> {
    let other_type = || fetcher.damaged("its own columns are of other types");
    let sequences = column(fetcher, batch, SEQ)?.as_primitive_opt::<Int64Type>().ok_or_else(other_type)?;
    let times = column(fetcher, batch, INGEST_TS)?.as_primitive_opt::<TimestampMicrosecondType>();
    let times = times.ok_or_else(other_type)?;
    let metadata = texts(fetcher, batch, METADATA)?;
    let payloads = texts(fetcher, batch, PAYLOAD)?;
    // One copy a batch; the rows share it.
    let data = Bytes::copy_from_slice(text_of(payloads));
    let base = payloads.value_offsets().first().map_or(0, |offset| *offset as usize);
    for (row, offsets) in payloads.value_offsets().windows(2).enumerate() {
        let next = read.last().map_or(least, |before| before.sequence + 1);
        let sequence = sequences.value(row);
        let is_right =
            if facts.is_dense() { sequence == next } else { (next..=facts.last_sequence).contains(&sequence) };
        if !is_right {
            return Err(fetcher.damaged(format!("row {next} says that it is {sequence}")));
        }
        read.push(FileRow {
            sequence,
            timestamp_unix_micros: times.value(row),
            metadata_json: metadata.is_valid(row).then(|| metadata.value(row).to_owned()),
            payload: data.slice(offsets[0] as usize - base..offsets[1] as usize - base),
        });
    }
    Ok(())
}

fn column<'b>(fetcher: &Fetcher<'_>, batch: &'b RecordBatch, name: &str) -> Result<&'b dyn Array, ParquetFileError> {
    let column = batch.column_by_name(name).map(AsRef::as_ref);
    column.ok_or_else(|| fetcher.damaged(format!("it has no column {name}")))
}

fn texts<'b>(fetcher: &Fetcher<'_>, batch: &'b RecordBatch, name: &str) -> Result<&'b StringArray, ParquetFileError> {
    let texts = column(fetcher, batch, name)?.as_string_opt::<i32>();
    texts.ok_or_else(|| fetcher.damaged(format!("{name} is of another type")))
}

/// The bytes of all values, one after the other.
fn text_of(values: &StringArray) -> &[u8] {
    match values.value_offsets() {
        [start, .., end] => &values.value_data()[*start as usize..*end as usize],
        _ => &[],
    }
}
