//! The latest record with a key: the buffer first, from the newest row to the oldest, then the files, likewise. The first that
//! has the key is the answer.
//!
//! Where a file has no index of the field (it was written before the field was declared), its rows are looked through; what
//! that may take is for the query's bounds to say.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    BufferSnapshot, FileRef, QueryAnswer, QueryContext, QueryError, RecordRow, half_of, is_too_much_at_once, open,
    record_of,
};
use crate::{
    ids::{RecordId, StreamId},
    parquet::read::{Absence, FileReader, KeyRows},
    pipeline::{Pipelines, rows::RowReader},
    record::keys::{KeyField, KeySearch},
    snapshot::StreamEntry,
    transform::decode_metadata,
    wal::batch::{RowBatch, Rows},
};

/// The name under which a record is looked up by its own id, on every stream.
pub const RECORD_ID_FIELD: &str = "_record_id";

/// A lookup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyLookup {
    /// The stream.
    pub stream: StreamId,
    /// What to look for.
    pub wanted: Wanted,
}

/// What to look for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// The record with this sequence number. 0: no record has it.
    Sequence(i64),
    /// The latest record with this key.
    Key {
        /// Where.
        field: KeyField,
        /// The key.
        key: String,
    },
}

/// Why a lookup makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct LookupError {
    /// `key_field` or `key_value`: which is at fault.
    pub parameter: &'static str,
    /// For programs.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

impl KeyLookup {
    /// The lookup that a client asks for.
    ///
    /// # Errors
    /// The field is none of the stream's key fields, or the value cannot be a key of it.
    pub fn plan(stream: &StreamEntry, field: &str, value: &str) -> Result<Self, LookupError> {
        let wanted = if field == RECORD_ID_FIELD {
            let id: RecordId = value.parse().map_err(|error: crate::ids::ParseIdError| LookupError {
                parameter: "key_value",
                reason: "BAD_RECORD_ID",
                message: error.to_string(),
            })?;
            let sequence = id.sequence();
            Wanted::Sequence(if RecordId::of(stream.id, sequence) == id { sequence } else { 0 })
        } else {
            let declared = stream.key_fields.iter().find(|declared| declared.name() == field);
            let field = declared.cloned().ok_or_else(|| not_declared(stream, field))?;
            Wanted::Key { field, key: value.to_owned() }
        };
        Ok(Self { stream: stream.id, wanted })
    }
}

fn not_declared(stream: &StreamEntry, field: &str) -> LookupError {
    let shown: String = field.chars().take(64).collect();
    let names: Vec<String> = stream
        .key_fields
        .iter()
        .map(|field| format!("{:?}", field.name()))
        .chain([format!("{RECORD_ID_FIELD:?}")])
        .collect();
    LookupError {
        parameter: "key_field",
        reason: "UNKNOWN_KEY_FIELD",
        message: format!("{shown:?} is no key field of this stream: it has {}", names.join(", ")),
    }
}

/// Answers a lookup, with one record or none. `files` may be in any order.
///
/// # Errors
/// See [`QueryError`].
///
/// # Panics
/// The buffer is another stream's.
pub fn lookup(
    query: &KeyLookup,
    buffer: &BufferSnapshot,
    files: &[FileRef],
    context: &QueryContext<'_>,
) -> Result<QueryAnswer, QueryError> {
    assert_eq!(query.stream, buffer.stream, "the buffer of another stream");
    let mut answer = QueryAnswer::default();
    let found = match &query.wanted {
        Wanted::Sequence(sequence) => by_sequence(*sequence, buffer, files, context, &mut answer)?,
        Wanted::Key { field, key } => {
            let mut search = KeySearch::new(field.clone(), key);
            match in_buffer(&mut search, buffer, context, &mut answer)? {
                Some(record) => Some(record),
                None => in_files(&mut search, buffer.flushed_through, files, context, &mut answer)?,
            }
        }
    };
    if let Some(record) = found {
        let mut taken = context.bounds.meter.nothing();
        taken.more(record.memory_bytes())?;
        answer.held = taken.into();
        answer.records.push(record);
    }
    Ok(answer)
}

fn by_sequence(
    sequence: i64,
    buffer: &BufferSnapshot,
    files: &[FileRef],
    context: &QueryContext<'_>,
    answer: &mut QueryAnswer,
) -> Result<Option<RecordRow>, QueryError> {
    context.bounds.check()?;
    if sequence > buffer.flushed_through {
        let at = buffer.batches.partition_point(|batch| batch.header().last_sequence() < sequence);
        let Some(batch) = buffer.batches.get(at).filter(|batch| batch.header().first_sequence <= sequence) else {
            return Ok(None);
        };
        answer.partitions_scanned += 1;
        answer.rows_scanned += 1;
        return row_of(batch, (sequence - batch.header().first_sequence) as usize, &buffer.pipelines);
    }
    let holds = |file: &&FileRef| (file.first_sequence..=file.last_sequence).contains(&sequence);
    let Some(file) = files.iter().find(holds) else { return Ok(None) };
    answer.partitions_scanned += 1;
    let mut reader = open(file, context)?;
    let read = reader.row_at(sequence).and_then(|row| reader.read(row..reader.rows().min(row + 1)));
    answer.count(reader.counts());
    // A row that the pipeline left out is followed by another.
    Ok(read?.pop().filter(|row| row.sequence == sequence).map(record_of))
}

fn in_buffer(
    search: &mut KeySearch,
    buffer: &BufferSnapshot,
    context: &QueryContext<'_>,
    answer: &mut QueryAnswer,
) -> Result<Option<RecordRow>, QueryError> {
    answer.partitions_scanned += u64::from(!buffer.batches.is_empty());
    let mut reader = RowReader::new(&buffer.pipelines);
    let mut left: Option<(u16, bool)> = None;
    for batch in buffer.batches.iter().rev() {
        context.bounds.check()?;
        let header = batch.header();
        if header.last_sequence() <= buffer.flushed_through {
            break;
        }
        let rows = batch.rows().map_err(QueryError::Log)?;
        answer.rows_scanned += rows.count() as u64;
        if header.pipeline_version > 0 {
            // What is looked for may stand in what the pipeline makes of a record, and there alone, unless it leaves it as it was.
            if left.is_none_or(|(version, _)| version != header.pipeline_version) {
                let pipeline = buffer.pipelines.get(header.pipeline_version)?;
                left = Some((header.pipeline_version, pipeline.leaves(search.field().name())));
            }
            let is_left = left.is_some_and(|(_, is_left)| is_left);
            if is_left && !search.may_be_in(rows.payloads()) {
                continue;
            }
            for index in (0..rows.count()).rev() {
                if is_left && !search.may_be_in(rows.payload_bytes(index)) {
                    continue;
                }
                let seen = reader.read(header.pipeline_version, rows.payload(index))?;
                if let Some(payload) = seen.filter(|payload| search.may_be_in(payload) && search.matches(payload)) {
                    return Ok(Some(record_in(batch, &rows, index, payload)));
                }
            }
            continue;
        }
        let found = search.last_match(rows.payloads(), rows.count(), |index| rows.payload_bytes(index));
        if let Some(index) = found {
            // An earlier row of a batch that is half in files is found there, as it is here.
            return Ok(Some(record_in(batch, &rows, index, rows.payload(index))));
        }
    }
    Ok(None)
}

/// A row of a batch as it is to be seen; `None`: the pipeline leaves it out.
fn row_of(batch: &RowBatch, index: usize, pipelines: &Arc<Pipelines>) -> Result<Option<RecordRow>, QueryError> {
    let rows = batch.rows().map_err(QueryError::Log)?;
    let seen = RowReader::new(pipelines).read(batch.header().pipeline_version, rows.payload(index))?;
    Ok(seen.map(|payload| record_in(batch, &rows, index, payload)))
}

fn record_in(batch: &RowBatch, rows: &Rows, index: usize, payload: Bytes) -> RecordRow {
    let header = batch.header();
    RecordRow {
        sequence: header.first_sequence + index as i64,
        timestamp_unix_micros: header.timestamp_unix_micros,
        payload,
        metadata: decode_metadata(&rows.metadata()),
    }
}

/// Rows past `flushed_through` of a file that a compaction made after the snapshot are no fault: they are later ones.
fn in_files(
    search: &mut KeySearch,
    flushed_through: i64,
    files: &[FileRef],
    context: &QueryContext<'_>,
    answer: &mut QueryAnswer,
) -> Result<Option<RecordRow>, QueryError> {
    let mut files: Vec<&FileRef> = files.iter().filter(|file| file.first_sequence <= flushed_through).collect();
    files.sort_unstable_by_key(|file| std::cmp::Reverse(file.last_sequence));
    let mut hours = std::collections::BTreeSet::new();
    let absence = Absence::of(search.field().name(), search.key());
    for file in files {
        context.bounds.check()?;
        // Where memory knows that the key is not there, the file costs no more than this look.
        if absence.is_known(&file.source, context.cache) {
            answer.cache_hits += 1;
            continue;
        }
        let mut reader = open(file, context)?;
        let found = in_file(search, &mut reader, context);
        // A file whose index says that it has no such row was not looked into.
        if reader.counts().rows > 0 && hours.insert(file.hour) {
            answer.partitions_scanned += 1;
        }
        answer.count(reader.counts());
        if let Some(record) = found? {
            return Ok(Some(record));
        }
    }
    Ok(None)
}

fn in_file(
    search: &mut KeySearch,
    reader: &mut FileReader<'_>,
    context: &QueryContext<'_>,
) -> Result<Option<RecordRow>, QueryError> {
    match reader.rows_with_key(search.field().name(), search.key())? {
        KeyRows::None => return Ok(None),
        KeyRows::Among(rows) => {
            for row in rows {
                context.bounds.check()?;
                if let Some(found) = reader.read(row..row + 1)?.pop().filter(|found| search.matches(&found.payload)) {
                    return Ok(Some(record_of(found)));
                }
            }
        }
        KeyRows::NotIndexed => {}
    }
    let mut rest = 0..reader.rows();
    while !rest.is_empty() {
        context.bounds.check()?;
        let mut step = reader.step(&rest, true);
        let found = loop {
            match reader.last_match(step.clone(), search) {
                Err(error) if is_too_much_at_once(&error) && step.len() > 1 => step = half_of(&step, true),
                found => break found?,
            }
        };
        if let Some(row) = found {
            return Ok(reader.read(row..row + 1)?.pop().map(record_of));
        }
        rest.end = step.start;
    }
    Ok(None)
}
