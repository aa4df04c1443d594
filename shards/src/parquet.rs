//! Frozen rows ↔ Parquet, in the measured layout.
//!
//! Columns: `_seq`, `_ingest_ts`, `_event_ts` (where the stream's pipeline tells when events were), `_record_id`,
//! `_schema_version`, `_metadata` (JSON text, null if none), the typed columns of the schema, `_payload` (the record byte for
//! byte). Ordered by `_seq`, which has no gaps but those of rows that the stream's pipeline leaves out: a file stands for a range
//! of sequence numbers. Payload and typed columns are what the pipeline makes.
//!
//! Between the last row group and the footer lies a key index, which other readers pass by.
//!
//! [`layout`] says how a file is laid out, `index` what its key index is, `sink` makes its bytes durable, [`read`] reads it
//! back from a [`source`] and keeps what is worth it in a [`cache`].

pub mod cache;
mod index;
pub mod layout;
pub mod merge;
pub mod read;
mod sink;
pub mod source;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow_array::{
    ArrayRef, RecordBatch,
    builder::{Int32Builder, Int64Builder, StringBuilder, StringViewBuilder, TimestampMicrosecondBuilder},
};
use arrow_schema::SchemaRef;
use parquet::{
    arrow::{ArrowWriter, arrow_writer::ArrowWriterOptions},
    errors::ParquetError,
    file::metadata::KeyValue,
};

use crate::{
    ids::{RecordId, StreamId},
    memory::MemoryShort,
    pipeline::{Pipelines, Runner, UnknownPipeline, Verdict, event_time::EventTime, rows::DeadLetter},
    record::{Parser, keys::KeyField},
    schema::CompiledSchema,
    threads,
    transform::{columns, decode_metadata, rows, rows::RowBuilder},
    wal::batch::{BatchHeader, RowBatch, Rows},
};
use index::IndexBuilder;
use sink::Sink;

/// Rows that are encoded before others are offered the core: less than a millisecond's work.
const PIECE_ROWS: usize = 512;

/// An hour of a stream: where its files lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionHour(
    /// Hours since the Unix epoch.
    pub i64,
);

/// A file to write.
#[derive(Debug)]
pub struct WriteJob {
    /// The stream.
    pub stream: StreamId,
    /// The schema that the typed columns follow.
    pub schema: Arc<CompiledSchema>,
    /// What the records are to be. The typed columns follow the version of the last batch.
    pub pipelines: Arc<Pipelines>,
    /// The hour, by time of ingest, that all batches belong to.
    pub hour: PartitionHour,
    /// The rows, in order of their sequence numbers, without gaps.
    pub batches: Vec<RowBatch>,
    /// The fields whose keys are indexed.
    pub key_fields: Arc<[KeyField]>,
    /// Where to write it; replaced if it exists.
    pub path: PathBuf,
}

/// A file that was written and synced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileMeta {
    /// The stream.
    pub stream: StreamId,
    /// The hour.
    pub hour: PartitionHour,
    /// Where it lies now.
    pub path: PathBuf,
    /// The first sequence number that it stands for.
    pub first_sequence: i64,
    /// The last.
    pub last_sequence: i64,
    /// Rows: last − first + 1, without those that the pipeline left out.
    pub rows: u64,
    /// The time of the first record that it stands for, Unix µs.
    pub min_timestamp: i64,
    /// The time of the last.
    pub max_timestamp: i64,
    /// Its length in bytes.
    pub bytes: u64,
    /// CRC32C of the whole file.
    pub checksum: u32,
}

/// What came of a job.
#[derive(Debug)]
pub struct Written {
    /// The file.
    pub file: FileMeta,
    /// Records that are not in it, because the pipeline could not make anything of them.
    pub dead: Vec<DeadLetter>,
    /// What the pipeline did.
    pub processed: Processed,
}

/// What a pipeline did with records, by number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Processed {
    /// Records that it saw.
    pub records: u64,
    /// Of these, left out by a step's wish.
    pub dropped: u64,
    /// Of these, dead letters.
    pub failed: u64,
}

/// Why a file could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ParquetFileError {
    /// The system failed.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Rows are of a version of the pipeline that is not at hand.
    #[error("rows of {stream} cannot be written: {error}")]
    Pipeline {
        /// The stream.
        stream: StreamId,
        /// Why.
        #[source]
        error: UnknownPipeline,
    },
    /// What is to be read takes more memory than there is for it.
    #[error(transparent)]
    Memory(#[from] MemoryShort),
    /// Not a file of ours, or damaged.
    #[error("{path} is not a usable Parquet file: {reason}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl ParquetFileError {
    /// Whether the store of the file cannot answer now: nothing is wrong with the file.
    #[must_use]
    pub fn is_of_a_store_that_is_away(&self) -> bool {
        use io::ErrorKind::{HostUnreachable, TimedOut};
        matches!(self, Self::Io { source, .. } if matches!(source.kind(), HostUnreachable | TimedOut))
    }

    /// What `error` means for the file at `path`.
    fn from_parquet(path: &Path, error: ParquetError) -> Self {
        let path = path.to_owned();
        match error {
            ParquetError::External(inner) => match inner.downcast::<io::Error>() {
                Ok(source) => Self::Io { path, source: *source },
                Err(inner) => Self::Format { path, reason: inner.to_string() },
            },
            error => Self::Format { path, reason: error.to_string() },
        }
    }
}

impl WriteJob {
    /// The first and the last sequence number.
    ///
    /// # Panics
    /// The job has no batches.
    #[must_use]
    pub fn sequences(&self) -> (i64, i64) {
        let (first, last) = self.ends();
        (first.header().first_sequence, last.header().last_sequence())
    }

    fn facts(&self) -> layout::FileFacts {
        let (first_sequence, last_sequence) = self.sequences();
        layout::FileFacts {
            stream: self.stream,
            schema: self.schema.id,
            schema_version: self.schema.version,
            pipeline_version: self.pipeline_version(),
            first_sequence,
            last_sequence,
        }
    }

    /// The version that the typed columns follow; 0: none.
    fn pipeline_version(&self) -> u16 {
        self.ends().1.header().pipeline_version
    }

    fn unusable(&self, error: UnknownPipeline) -> ParquetFileError {
        ParquetFileError::Pipeline { stream: self.stream, error }
    }

    fn ends(&self) -> (&RowBatch, &RowBatch) {
        let [first, ..] = self.batches.as_slice() else { panic!("a job to write a file has rows") };
        (first, self.batches.last().unwrap_or(first))
    }

    /// A wrong job would be a wrong file, found too late to be put right.
    fn assert_in_order(&self) {
        for batch in &self.batches {
            assert_eq!(batch.header().stream, self.stream, "rows of another stream");
        }
        for pair in self.batches.windows(2) {
            let (before, after) = (pair[0].header(), pair[1].header());
            assert_eq!(before.last_sequence() + 1, after.first_sequence, "a gap between batches");
            assert!(before.timestamp_unix_micros <= after.timestamp_unix_micros, "time falls between batches");
        }
    }
}

/// Writes and syncs a file. Runs on the flusher's thread. Takes the memory of about one row group, and 16 bytes a row and key
/// field, with 33 more a row at the end.
///
/// # Errors
/// [`ParquetFileError`]; what was written is removed.
///
/// # Panics
/// The job has no batches, or they are another stream's, not in order, or with gaps.
pub fn write(job: &WriteJob) -> Result<FileMeta, ParquetFileError> {
    flush(job).map(|written| written.file)
}

/// As [`write`], with what the stream's pipeline left out.
///
/// # Errors
/// As there.
///
/// # Panics
/// As there.
pub fn flush(job: &WriteJob) -> Result<Written, ParquetFileError> {
    job.assert_in_order();
    let io_error = |source| ParquetFileError::Io { path: job.path.clone(), source };
    let sink = Sink::create(&job.path).map_err(io_error)?;
    let mut encoder = Encoder::new(job, sink)?;
    for batch in &job.batches {
        encoder.append(batch)?;
    }
    let (rows, dead) = (encoder.rows, std::mem::take(&mut encoder.dead));
    let processed = encoder.processed;
    let (bytes, checksum) = encoder.finish()?.finish().map_err(io_error)?;
    let (first, last) = job.ends();
    let (first_sequence, last_sequence) = job.sequences();
    let file = FileMeta {
        stream: job.stream,
        hour: job.hour,
        path: job.path.clone(),
        first_sequence,
        last_sequence,
        rows,
        min_timestamp: first.header().timestamp_unix_micros,
        max_timestamp: last.header().timestamp_unix_micros,
        bytes,
        checksum,
    };
    Ok(Written { file, dead, processed })
}

/// Turns rows into record batches, and those into the file.
struct Encoder<'j> {
    job: &'j WriteJob,
    schema: SchemaRef,
    columns: Vec<columns::Column>,
    typed: RowBuilder,
    parser: Parser,
    /// For the version of the batch at hand.
    runner: Option<Runner>,
    index: IndexBuilder,
    sequences: Int64Builder,
    times: TimestampMicrosecondBuilder,
    /// Where the pipeline tells when events were: how, and when.
    event_times: Option<(EventTime, TimestampMicrosecondBuilder)>,
    record_ids: StringBuilder,
    schema_versions: Int32Builder,
    metadata: StringBuilder,
    /// It refers to the memory of rows that the file has as they are: so they are copied once less on their way into a page.
    payloads: StringViewBuilder,
    /// The batch at hand, as the column of payloads knows it.
    lent: Option<u32>,
    step_rows: usize,
    step_bytes: usize,
    rows: u64,
    dead: Vec<DeadLetter>,
    processed: Processed,
    file: FileState,
}

/// The writer can only be made when the first rows have shown how to encode the columns.
enum FileState {
    Waiting(Option<Sink>),
    Open(Box<ArrowWriter<Sink>>),
}

impl<'j> Encoder<'j> {
    /// Rows of a step: a row group is a whole number of them.
    const STEP_ROWS: usize = layout::PAGE_ROWS;
    /// Payload bytes after which a step ends early. With one record more it is far from the 2 GiB of an Arrow column.
    const STEP_BYTES: usize = 8 * 1024 * 1024;

    fn new(job: &'j WriteJob, sink: Sink) -> Result<Self, ParquetFileError> {
        let version = job.pipeline_version();
        let pipeline = (version > 0).then(|| job.pipelines.get(version)).transpose();
        let pipeline = pipeline.map_err(|error| job.unusable(error))?;
        let columns = layout::typed_columns(&job.schema.definition, pipeline.as_deref());
        let typed = RowBuilder::new(&columns);
        let event_time = pipeline.and_then(|pipeline| pipeline.event_time());
        Ok(Self {
            job,
            schema: layout::flush_schema(typed.fields(), event_time.is_some()),
            columns,
            typed,
            parser: Parser::default(),
            runner: None,
            index: IndexBuilder::new(&job.key_fields),
            sequences: Int64Builder::new(),
            times: TimestampMicrosecondBuilder::new(),
            event_times: event_time.map(|event_time| (event_time, TimestampMicrosecondBuilder::new())),
            record_ids: StringBuilder::new(),
            schema_versions: Int32Builder::new(),
            metadata: StringBuilder::new(),
            payloads: StringViewBuilder::new(),
            lent: None,
            step_rows: 0,
            step_bytes: 0,
            rows: 0,
            dead: Vec::new(),
            processed: Processed::default(),
            file: FileState::Waiting(Some(sink)),
        })
    }

    fn append(&mut self, batch: &RowBatch) -> Result<(), ParquetFileError> {
        let header = *batch.header();
        let path = &self.job.path;
        let rows = batch.rows().map_err(|source| ParquetFileError::Io { path: path.clone(), source })?;
        let metadata = metadata_json(&decode_metadata(&rows.metadata()));
        threads::offer();
        self.lent = None;
        if header.pipeline_version > 0 {
            return self.append_processed(batch, &rows, metadata.as_deref());
        }
        for index in 0..header.count as usize {
            self.push(&header, &rows, index, None, metadata.as_deref())?;
        }
        Ok(())
    }

    /// The rows of a batch as its pipeline makes them.
    #[cold]
    fn append_processed(
        &mut self,
        batch: &RowBatch,
        rows: &Rows,
        metadata: Option<&str>,
    ) -> Result<(), ParquetFileError> {
        let header = *batch.header();
        let pipeline = self.job.pipelines.get(header.pipeline_version).map_err(|error| self.job.unusable(error))?;
        if self.runner.as_ref().is_none_or(|runner| !Arc::ptr_eq(runner.pipeline(), &pipeline)) {
            self.runner = Some(Runner::new(pipeline));
        }
        let mut runner = self.runner.take().expect("made above");
        for index in 0..header.count as usize {
            self.processed.records += 1;
            match runner.run(rows.payload_bytes(index)) {
                Verdict::Same => self.push(&header, rows, index, None, metadata)?,
                Verdict::Changed(output) => self.push(&header, rows, index, Some(output), metadata)?,
                Verdict::Dropped => self.processed.dropped += 1,
                Verdict::Dead(failure) => {
                    self.processed.failed += 1;
                    self.dead.push(DeadLetter {
                        sequence: header.first_sequence + index as i64,
                        timestamp_unix_micros: header.timestamp_unix_micros,
                        schema_version: header.schema_version,
                        pipeline_version: header.pipeline_version,
                        failure,
                        payload: rows.payload(index),
                        metadata: rows.metadata(),
                    });
                }
            }
        }
        self.runner = Some(runner);
        Ok(())
    }

    /// Adds a row: record `index` of the batch at hand, as it is or as its pipeline made it.
    fn push(
        &mut self,
        header: &BatchHeader,
        rows: &Rows,
        index: usize,
        made: Option<&[u8]>,
        metadata: Option<&str>,
    ) -> Result<(), ParquetFileError> {
        let sequence = header.first_sequence + index as i64;
        let payload = made.unwrap_or_else(|| rows.payload_bytes(index));
        let is_text = match made {
            Some(made) => std::str::from_utf8(made).map(|made| self.payloads.append_value(made)).is_ok(),
            None => self.lend_payload(rows, index),
        };
        if !is_text {
            let reason = format!("record {sequence} of {} is not UTF-8: it was never validated", self.job.stream);
            return Err(ParquetFileError::Format { path: self.job.path.clone(), reason });
        }
        self.sequences.append_value(sequence);
        self.times.append_value(header.timestamp_unix_micros);
        let id = RecordId::of(self.job.stream, sequence).to_text();
        self.record_ids.append_value(std::str::from_utf8(&id).expect("an id is ASCII"));
        self.schema_versions.append_value(header.schema_version as i32);
        self.metadata.append_option(metadata);
        self.look_at(payload);
        self.rows += 1;
        self.step_rows += 1;
        self.step_bytes += payload.len() + metadata.map_or(0, str::len);
        if self.step_rows == Self::STEP_ROWS || self.step_bytes >= Self::STEP_BYTES {
            self.step()?;
        }
        Ok(())
    }

    /// Adds the payload of record `index` of the batch at hand, without a copy; false: it is not UTF-8.
    fn lend_payload(&mut self, rows: &Rows, index: usize) -> bool {
        let Self { payloads, lent, .. } = self;
        let entry = *lent.get_or_insert_with(|| payloads.append_block(rows.entry().into()));
        let range = rows.payload_range(index);
        payloads.try_append_view(entry, range.start as u32, range.len() as u32).is_ok()
    }

    /// What is inside the record: typed columns and keys, in one look.
    fn look_at(&mut self, payload: &[u8]) {
        let Self { parser, typed, index, event_times, .. } = self;
        if typed.is_empty() && index.is_empty() && event_times.is_none() {
            return;
        }
        parser.with_nodes(payload, |nodes| {
            if !typed.is_empty() {
                typed.append(nodes);
            }
            if !index.is_empty() {
                index.append(nodes);
            }
            if let Some((event_time, times)) = event_times {
                times.append_option(event_time.of(nodes));
            }
        });
    }

    fn step(&mut self) -> Result<(), ParquetFileError> {
        self.step_rows = 0;
        self.step_bytes = 0;
        // The column that knows it goes into the file.
        self.lent = None;
        let typed = self.typed.finish();
        let properties =
            || layout::writer_properties(&self.job.facts(), &self.columns, &typed, layout::FLUSHED_GROUP_ROWS);
        if let FileState::Waiting(sink) = &mut self.file {
            let sink = sink.take().expect("the state is left in the same step");
            let options = ArrowWriterOptions::new()
                .with_properties(properties())
                .with_skip_arrow_metadata(true)
                .with_schema_root("record".to_owned());
            let writer = ArrowWriter::try_new_with_options(sink, Arc::clone(&self.schema), options)
                .map_err(|error| ParquetFileError::from_parquet(&self.job.path, error))?;
            self.file = FileState::Open(Box::new(writer));
        }
        let mut columns: Vec<ArrayRef> =
            vec![Arc::new(self.sequences.finish()), Arc::new(self.times.finish().with_timezone("UTC"))];
        if let Some((_, times)) = &mut self.event_times {
            columns.push(Arc::new(times.finish().with_timezone("UTC")));
        }
        let rest: [ArrayRef; 3] = [
            Arc::new(rows::finish_texts(&mut self.record_ids)),
            Arc::new(self.schema_versions.finish()),
            Arc::new(rows::finish_texts(&mut self.metadata)),
        ];
        columns.extend(rest);
        columns.extend(typed);
        columns.push(Arc::new(self.payloads.finish()));
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns).expect("built by this very schema");
        let FileState::Open(writer) = &mut self.file else { unreachable!("opened above") };
        write_in_pieces(writer, &batch).map_err(|error| ParquetFileError::from_parquet(&self.job.path, error))
    }

    /// The file with its footer, not yet synced.
    fn finish(mut self) -> Result<Sink, ParquetFileError> {
        if self.step_rows > 0 || matches!(self.file, FileState::Waiting(_)) {
            self.step()?;
        }
        let FileState::Open(mut writer) = self.file else { unreachable!("a step opens it") };
        let path = &self.job.path;
        if !self.index.is_empty() {
            // Only whole row groups have their place in the file.
            writer.flush().map_err(|error| ParquetFileError::from_parquet(path, error))?;
            let (index, footer) = self.index.finish(writer.bytes_written() as u64);
            let io_error = |source| ParquetFileError::Io { path: path.clone(), source };
            writer.write_all(&index).map_err(io_error)?;
            writer.append_key_value_metadata(KeyValue::new(index::FOOTER_KEY.to_owned(), footer));
        }
        writer.into_inner().map_err(|error| ParquetFileError::from_parquet(path, error))
    }
}

/// Writes a batch, and offers the core to others between its pieces.
fn write_in_pieces(writer: &mut ArrowWriter<Sink>, batch: &RecordBatch) -> Result<(), ParquetError> {
    for from in (0..batch.num_rows()).step_by(PIECE_ROWS) {
        writer.write(&batch.slice(from, PIECE_ROWS.min(batch.num_rows() - from)))?;
        threads::offer();
    }
    Ok(())
}

/// Metadata as a JSON object of strings; `None`: there is none.
fn metadata_json(pairs: &[(String, String)]) -> Option<String> {
    if pairs.is_empty() {
        return None;
    }
    let mut text = String::from("{");
    for (index, (name, value)) in pairs.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        rows::write_json_string(name, &mut text);
        text.push(':');
        rows::write_json_string(value, &mut text);
    }
    text.push('}');
    Some(text)
}
