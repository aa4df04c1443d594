//! Several files of one hour → one file with the same rows, for fewer and larger reads.
//!
//! What is the record's own stays as it is, value by value: sequence number, time, id, schema version, metadata, payload. The
//! typed columns follow one schema, and one version of the stream's pipeline: they are copied from a file that has them so, and
//! made anew from the payloads of one that has not. Where all have them so and are large row groups already, those are copied as
//! they are: see [`copy`]. The result is a function of the inputs and the schema, so a merge that was cut short gives the same
//! bytes again.
//!
//! [`merge`] reads its result back and holds all of it against what it read, before anyone can let go of the inputs.
//! Memory is about one row group, a batch of rows, and what the key index takes.

mod copy;

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow_array::{
    Array, ArrayRef, RecordBatch, StringArray,
    builder::TimestampMicrosecondBuilder,
    cast::AsArray,
    types::{Int32Type, Int64Type, TimestampMicrosecondType},
};
use arrow_schema::SchemaRef;
use parquet::{
    arrow::{
        ArrowWriter, ProjectionMask,
        arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder},
        arrow_writer::ArrowWriterOptions,
    },
    file::metadata::KeyValue,
};

use super::{
    FileMeta, ParquetFileError, PartitionHour,
    index::{self, IndexBuilder},
    layout::{
        self, EVENT_TS, FileFacts, INGEST_TS, KEY_FIRST_SEQUENCE, KEY_FORMAT, KEY_LAST_SEQUENCE, KEY_PIPELINE_VERSION,
        KEY_SCHEMA, KEY_SCHEMA_VERSION, KEY_STREAM, METADATA, OWN_COLUMNS, PAYLOAD, RECORD_ID, SCHEMA_VERSION, SEQ,
    },
    sink::Sink,
    write_in_pieces,
};
use crate::{
    ids::{SchemaId, StreamId},
    pipeline::{Pipeline, event_time::EventTime},
    record::{Parser, keys::KeyField},
    transform::{columns, rows::RowBuilder},
};

/// Payload bytes of a batch, about.
const BATCH_BYTES: u64 = 4 * 1024 * 1024;

/// What a file's footer says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileFooter {
    /// The stream.
    pub stream: StreamId,
    /// The schema of its typed columns.
    pub schema: SchemaId,
    /// The version of that schema.
    pub schema_version: u32,
    /// The version of the stream's pipeline that they follow too; 0: none.
    pub pipeline_version: u16,
    /// The first sequence number that it stands for.
    pub first_sequence: i64,
    /// The last.
    pub last_sequence: i64,
    /// How many rows it has.
    pub rows: u64,
}

/// Files to merge.
#[derive(Debug)]
pub struct MergeJob {
    /// The stream.
    pub stream: StreamId,
    /// The hour of all of them.
    pub hour: PartitionHour,
    /// The files, on this machine, in the order of their sequence numbers and without a gap.
    pub inputs: Vec<PathBuf>,
    /// The schema that the typed columns follow.
    pub schema: SchemaId,
    /// Its version.
    pub schema_version: u32,
    /// Its definition.
    pub definition: Arc<str>,
    /// The version of the stream's pipeline that they follow too.
    pub pipeline: Option<Arc<Pipeline>>,
    /// The fields whose keys are indexed.
    pub key_fields: Arc<[KeyField]>,
    /// Where to write the result; replaced if it exists.
    pub path: PathBuf,
}

/// What came of a merge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged {
    /// The file, written, synced and read back.
    pub file: FileMeta,
    /// Rows whose typed columns were made anew from their payloads.
    pub rows_transformed: u64,
}

/// Reads a file's footer. Blocking.
///
/// # Errors
/// It cannot be read, or is not laid out as [`super::write`] does.
pub fn footer(path: &Path) -> Result<FileFooter, ParquetFileError> {
    Ok(Input::open(path)?.footer)
}

/// Merges files, and holds the result against them. Blocking, for seconds to a minute.
///
/// # Errors
/// An input cannot be read or is not what the others go on from, or the result cannot be written or is not what it should be;
/// what was written is removed.
///
/// # Panics
/// The job has no inputs.
pub fn merge(job: &MergeJob) -> Result<Merged, ParquetFileError> {
    let inputs = job.inputs.iter().map(|path| Input::open(path)).collect::<Result<Vec<_>, _>>()?;
    check_in_order(job, &inputs)?;
    let (first, last) = (&inputs[0].footer, &inputs[inputs.len() - 1].footer);
    let facts = FileFacts {
        stream: job.stream,
        schema: job.schema,
        schema_version: job.schema_version,
        pipeline_version: job.pipeline.as_ref().map_or(0, |pipeline| pipeline.version()),
        first_sequence: first.first_sequence,
        last_sequence: last.last_sequence,
    };
    let mut writer = Writer::create(job, facts)?;
    let alike = inputs.iter().all(|input| writer.has_our_columns(input));
    if let Some(plan) = alike.then(|| copy::Plan::of(&inputs)).flatten() {
        let merged = plan.run(writer)?;
        return checked(job, &facts, |result| plan.check(result)).map(|()| merged);
    }
    inputs.iter().try_for_each(|input| writer.take(input))?;
    let written = writer.finish(inputs.iter().map(|input| input.footer.rows).sum())?;
    checked(job, &facts, |result| {
        let mut rows = Rows::new(facts.first_sequence);
        result.batches(&OWN_COLUMNS, |batch| rows.take(result, batch))?;
        match rows == written.rows {
            true => Ok(()),
            false => Err(result.damaged("what was read back is not what was merged")),
        }
    })?;
    Ok(written.merged(job, &facts))
}

/// Reads the result back, and removes it if `check` finds that it is not what it should be.
fn checked(
    job: &MergeJob,
    facts: &FileFacts,
    check: impl FnOnce(&Input) -> Result<(), ParquetFileError>,
) -> Result<(), ParquetFileError> {
    let outcome = Input::open(&job.path).and_then(|result| {
        let expected = (facts.first_sequence, facts.last_sequence);
        match (result.footer.first_sequence, result.footer.last_sequence) == expected {
            true => check(&result),
            false => Err(result.damaged("it has other rows than were merged")),
        }
    });
    if outcome.is_err() {
        // Best effort: what stays, the next start removes.
        let _ = std::fs::remove_file(&job.path);
    }
    outcome
}

fn format_error(path: &Path, reason: String) -> ParquetFileError {
    ParquetFileError::Format { path: path.to_owned(), reason }
}

fn check_in_order(job: &MergeJob, inputs: &[Input]) -> Result<(), ParquetFileError> {
    assert!(!inputs.is_empty(), "a merge has inputs");
    if let Some(other) = inputs.iter().find(|input| input.footer.stream != job.stream) {
        return Err(other.damaged("it is another stream's"));
    }
    for pair in inputs.windows(2) {
        if pair[0].footer.last_sequence.checked_add(1) != Some(pair[1].footer.first_sequence) {
            return Err(pair[1].damaged("it does not begin where the file before it ends"));
        }
    }
    Ok(())
}

/// A file that is read as a whole.
struct Input {
    path: PathBuf,
    file: File,
    metadata: ArrowReaderMetadata,
    footer: FileFooter,
}

impl Input {
    fn open(path: &Path) -> Result<Self, ParquetFileError> {
        let file = File::open(path).map_err(|source| ParquetFileError::Io { path: path.to_owned(), source })?;
        let metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new())
            .map_err(|error| ParquetFileError::from_parquet(path, error))?;
        let footer = footer_of(&metadata).map_err(|reason| format_error(path, reason))?;
        Ok(Self { path: path.to_owned(), file, metadata, footer })
    }

    fn damaged(&self, reason: &str) -> ParquetFileError {
        format_error(&self.path, reason.to_owned())
    }

    /// Hands all rows with these columns to `take`, in order.
    fn batches(
        &self,
        columns: &[&str],
        mut take: impl FnMut(&RecordBatch) -> Result<(), ParquetFileError>,
    ) -> Result<(), ParquetFileError> {
        let failed = |error| ParquetFileError::from_parquet(&self.path, error);
        let parquet = self.metadata.parquet_schema();
        let roots = parquet.root_schema().get_fields().iter().enumerate();
        let wanted = roots.filter(|(_, field)| columns.contains(&field.name())).map(|(index, _)| index);
        let io = |source| ParquetFileError::Io { path: self.path.clone(), source };
        let file = self.file.try_clone().map_err(io)?;
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(file, self.metadata.clone())
            .with_projection(ProjectionMask::roots(parquet, wanted))
            .with_batch_size(self.batch_rows())
            .build()
            .map_err(failed)?;
        for batch in reader {
            take(&batch.map_err(|error| self.damaged(&error.to_string()))?)?;
        }
        Ok(())
    }

    /// Rows of a batch such that its payloads take a few MB, even where they are larger than elsewhere in the file.
    fn batch_rows(&self) -> usize {
        let groups = self.metadata.metadata().row_groups();
        let row_bytes = groups.iter().filter_map(|group| {
            let bytes = u64::try_from(group.columns().last()?.uncompressed_size()).ok()?;
            bytes.checked_div(u64::try_from(group.num_rows()).ok()?)
        });
        let largest = row_bytes.max().unwrap_or(0) + 1;
        usize::try_from(BATCH_BYTES / largest).unwrap_or(0).clamp(16, layout::PAGE_ROWS)
    }
}

fn footer_of(metadata: &ArrowReaderMetadata) -> Result<FileFooter, String> {
    let file = metadata.metadata().file_metadata();
    let value = |key: &str| {
        let pair = file.key_value_metadata().and_then(|pairs| pairs.iter().find(|pair| pair.key == key));
        pair.and_then(|pair| pair.value.as_deref()).ok_or_else(|| format!("its footer does not say {key}"))
    };
    layout::check_format(value(KEY_FORMAT).ok())?;
    let footer = FileFooter {
        stream: parsed(KEY_STREAM, value(KEY_STREAM)?)?,
        schema: parsed(KEY_SCHEMA, value(KEY_SCHEMA)?)?,
        schema_version: parsed(KEY_SCHEMA_VERSION, value(KEY_SCHEMA_VERSION)?)?,
        pipeline_version: value(KEY_PIPELINE_VERSION).map_or(Ok(0), |text| parsed(KEY_PIPELINE_VERSION, text))?,
        first_sequence: parsed(KEY_FIRST_SEQUENCE, value(KEY_FIRST_SEQUENCE)?)?,
        last_sequence: parsed(KEY_LAST_SEQUENCE, value(KEY_LAST_SEQUENCE)?)?,
        rows: u64::try_from(file.num_rows()).map_err(|_| "its footer says that it has fewer than no rows")?,
    };
    let range = footer.last_sequence.checked_sub(footer.first_sequence).and_then(|range| range.checked_add(1));
    if range.is_none_or(|range| range < 1 || file.num_rows() > range) {
        return Err("its footer's sequence range does not fit its rows".to_owned());
    }
    Ok(footer)
}

fn parsed<T: std::str::FromStr>(key: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("its footer says {key} {text}"))
}

/// What rows came by: how many and how far, and a checksum of all that is the records' own.
#[derive(Debug, PartialEq, Eq)]
struct Rows {
    count: u64,
    next: i64,
    min_timestamp: Option<i64>,
    max_timestamp: i64,
    checksum: u32,
}

impl Rows {
    fn new(first: i64) -> Self {
        Self { count: 0, next: first, min_timestamp: None, max_timestamp: i64::MIN, checksum: 0 }
    }

    /// Takes the rows of a batch of `input`.
    fn take(&mut self, input: &Input, batch: &RecordBatch) -> Result<(), ParquetFileError> {
        let own = OwnColumns::of(input, batch)?;
        for row in 0..batch.num_rows() {
            let (sequence, time) = (own.sequences.value(row), own.times.value(row));
            // Rows that the pipeline left out are not there; that none other is missing, their number tells.
            if sequence < self.next || sequence > input.footer.last_sequence {
                return Err(input.damaged(&format!("row {} says that it is {sequence}", self.next)));
            }
            if time < self.max_timestamp {
                return Err(input.damaged(&format!("time falls at row {sequence}")));
            }
            self.count += 1;
            self.next = sequence + 1;
            self.min_timestamp.get_or_insert(time);
            self.max_timestamp = time;
            self.add(&sequence.to_le_bytes());
            self.add(&time.to_le_bytes());
            self.add(&own.versions.value(row).to_le_bytes());
            for texts in [own.ids, own.metadata, own.payloads] {
                self.add_text(texts.is_valid(row).then(|| texts.value(row)));
            }
        }
        Ok(())
    }

    fn add(&mut self, bytes: &[u8]) {
        self.checksum = crc32c::crc32c_append(self.checksum, bytes);
    }

    fn add_text(&mut self, text: Option<&str>) {
        self.add(&text.map_or(u64::MAX, |text| text.len() as u64).to_le_bytes());
        self.add(text.unwrap_or_default().as_bytes());
    }
}

/// The columns that are not the schema's.
struct OwnColumns<'b> {
    sequences: &'b arrow_array::Int64Array,
    times: &'b arrow_array::TimestampMicrosecondArray,
    ids: &'b StringArray,
    versions: &'b arrow_array::Int32Array,
    metadata: &'b StringArray,
    payloads: &'b StringArray,
}

impl<'b> OwnColumns<'b> {
    fn of(input: &Input, batch: &'b RecordBatch) -> Result<Self, ParquetFileError> {
        let own = Self::find(batch);
        let complete = own.as_ref().is_some_and(|own| {
            let columns: [&dyn Array; 5] = [own.sequences, own.times, own.ids, own.versions, own.payloads];
            columns.iter().all(|column| column.null_count() == 0)
        });
        own.filter(|_| complete).ok_or_else(|| input.damaged("its own columns are not what they should be"))
    }

    fn find(batch: &'b RecordBatch) -> Option<Self> {
        Some(Self {
            sequences: batch.column_by_name(SEQ)?.as_primitive_opt::<Int64Type>()?,
            times: batch.column_by_name(INGEST_TS)?.as_primitive_opt::<TimestampMicrosecondType>()?,
            ids: batch.column_by_name(RECORD_ID)?.as_string_opt()?,
            versions: batch.column_by_name(SCHEMA_VERSION)?.as_primitive_opt::<Int32Type>()?,
            metadata: batch.column_by_name(METADATA)?.as_string_opt()?,
            payloads: batch.column_by_name(PAYLOAD)?.as_string_opt()?,
        })
    }
}

/// The file that is written.
struct Writer<'j> {
    job: &'j MergeJob,
    facts: FileFacts,
    columns: Vec<columns::Column>,
    typed: RowBuilder,
    /// Where the pipeline tells when events were: how, and when, of rows that do not have it yet.
    event_times: Option<(EventTime, TimestampMicrosecondBuilder)>,
    schema: SchemaRef,
    parser: Parser,
    index: IndexBuilder,
    rows: Rows,
    rows_transformed: u64,
    /// Made when the first rows have shown how to encode the columns.
    file: Option<ArrowWriter<Sink>>,
}

/// The file, whole and synced.
struct Written {
    rows: Rows,
    rows_transformed: u64,
    bytes: u64,
    checksum: u32,
}

impl<'j> Writer<'j> {
    fn create(job: &'j MergeJob, facts: FileFacts) -> Result<Self, ParquetFileError> {
        let columns = layout::typed_columns(&job.definition, job.pipeline.as_deref());
        let typed = RowBuilder::new(&columns);
        let event_time = job.pipeline.as_ref().and_then(|pipeline| pipeline.event_time());
        Ok(Self {
            job,
            facts,
            schema: layout::file_schema(typed.fields(), event_time.is_some()),
            event_times: event_time.map(|event_time| (event_time, TimestampMicrosecondBuilder::new())),
            columns,
            typed,
            parser: Parser::default(),
            index: IndexBuilder::new(&job.key_fields),
            rows: Rows::new(facts.first_sequence),
            rows_transformed: 0,
            file: None,
        })
    }

    fn take(&mut self, input: &Input) -> Result<(), ParquetFileError> {
        let same = self.has_our_columns(input);
        let own = OWN_COLUMNS;
        let all: Vec<&str> = self.schema.fields().iter().map(|field| field.name().as_str()).collect();
        let wanted = if same { all.as_slice() } else { &own };
        let wanted: Vec<String> = wanted.iter().map(|&name| name.to_owned()).collect();
        let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
        input.batches(&wanted, |batch| {
            self.rows.take(input, batch)?;
            let payloads = OwnColumns::of(input, batch)?.payloads;
            self.look_at(payloads, !same);
            let typed = if same { typed_of(&self.schema, batch) } else { Some(self.typed.finish()) };
            let typed = typed.ok_or_else(|| input.damaged("a column is missing"))?;
            let made = |(_, times): &mut (EventTime, TimestampMicrosecondBuilder)| -> ArrayRef {
                Arc::new(times.finish().with_timezone("UTC"))
            };
            let event_times = match &mut self.event_times {
                Some(_) if same => batch.column_by_name(EVENT_TS).cloned(),
                event_times => event_times.as_mut().map(made),
            };
            self.write(input, batch, event_times, typed)
        })
    }

    /// Whether the file has the typed columns that the result is to have. The same types are not enough: text may be a string of
    /// the record or JSON, as the version has it.
    fn has_our_columns(&self, input: &Input) -> bool {
        let of_input = (input.footer.schema, input.footer.schema_version, input.footer.pipeline_version);
        of_input == (self.facts.schema, self.facts.schema_version, self.facts.pipeline_version)
            && self.schema.fields() == input.metadata.schema().fields()
    }

    /// The keys alone of what is copied as it is.
    fn take_keys(&mut self, input: &Input) -> Result<(), ParquetFileError> {
        input.batches(&[PAYLOAD], |batch| {
            let payloads = batch.column_by_name(PAYLOAD).and_then(|column| column.as_string_opt::<i32>());
            let payloads = payloads.filter(|payloads| payloads.null_count() == 0);
            self.look_at(payloads.ok_or_else(|| input.damaged("its payloads are not what they should be"))?, false);
            Ok(())
        })
    }

    /// What is inside the records: keys, and the typed columns if they are not copied.
    fn look_at(&mut self, payloads: &StringArray, transform: bool) {
        let Self { parser, typed, index, event_times, .. } = self;
        let mut event_times = event_times.as_mut().filter(|_| transform);
        let transform = transform && !typed.is_empty();
        if transform {
            self.rows_transformed += payloads.len() as u64;
        }
        if !transform && index.is_empty() && event_times.is_none() {
            return;
        }
        for payload in payloads.iter().flatten() {
            parser.with_nodes(payload.as_bytes(), |nodes| {
                if transform {
                    typed.append(nodes);
                }
                if !index.is_empty() {
                    index.append(nodes);
                }
                if let Some((event_time, times)) = &mut event_times {
                    times.append_option(event_time.of(nodes));
                }
            });
        }
    }

    /// The file, without rows as yet; the first ones' typed columns are `typed`.
    fn open(&self, typed: &[ArrayRef]) -> Result<ArrowWriter<Sink>, ParquetFileError> {
        let path = &self.job.path;
        let properties = layout::writer_properties(&self.facts, &self.columns, typed, layout::MERGED_GROUP_ROWS);
        let options = ArrowWriterOptions::new()
            .with_properties(properties)
            .with_skip_arrow_metadata(true)
            .with_schema_root("record".to_owned());
        let sink = Sink::create(path).map_err(|source| ParquetFileError::Io { path: path.clone(), source })?;
        ArrowWriter::try_new_with_options(sink, Arc::clone(&self.schema), options)
            .map_err(|error| ParquetFileError::from_parquet(path, error))
    }

    fn write(
        &mut self,
        input: &Input,
        batch: &RecordBatch,
        event_times: Option<ArrayRef>,
        typed: Vec<ArrayRef>,
    ) -> Result<(), ParquetFileError> {
        if self.file.is_none() {
            self.file = Some(self.open(&typed)?);
        }
        let path = &self.job.path;
        let column = |name: &&str| match *name {
            EVENT_TS => event_times.clone(),
            name => batch.column_by_name(name).cloned(),
        };
        let (before, payload) = OWN_COLUMNS.split_at(OWN_COLUMNS.len() - 1);
        let mut columns: Vec<ArrayRef> = before.iter().filter_map(column).collect();
        columns.extend(typed);
        columns.extend(payload.iter().filter_map(column));
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns)
            .map_err(|error| input.damaged(&error.to_string()))?;
        let writer = self.file.as_mut().expect("made above");
        write_in_pieces(writer, &batch).map_err(|error| ParquetFileError::from_parquet(path, error))
    }

    fn finish(mut self, rows: u64) -> Result<Written, ParquetFileError> {
        let path = &self.job.path;
        let failed = |error| ParquetFileError::from_parquet(path, error);
        let io_error = |source| ParquetFileError::Io { path: path.clone(), source };
        if self.rows.count != rows {
            return Err(format_error(path, format!("its inputs have {} rows, not {rows}", self.rows.count)));
        }
        // Of rows that were all left out nothing was written.
        let typed = self.typed.finish();
        let mut writer = match self.file.take() {
            Some(writer) => writer,
            None => self.open(&typed)?,
        };
        if !self.index.is_empty() {
            // Only whole row groups have their place in the file.
            writer.flush().map_err(failed)?;
            let (index, footer) = self.index.finish(writer.bytes_written() as u64);
            writer.write_all(&index).map_err(io_error)?;
            writer.append_key_value_metadata(KeyValue::new(index::FOOTER_KEY.to_owned(), footer));
        }
        let (bytes, checksum) = writer.into_inner().map_err(failed)?.finish().map_err(io_error)?;
        Ok(Written { rows: self.rows, rows_transformed: self.rows_transformed, bytes, checksum })
    }
}

/// The typed columns of a batch that has them as `schema` says.
fn typed_of(schema: &SchemaRef, batch: &RecordBatch) -> Option<Vec<ArrayRef>> {
    let fields = schema.fields().iter().filter(|field| !OWN_COLUMNS.contains(&field.name().as_str()));
    fields.map(|field| batch.column_by_name(field.name()).cloned()).collect()
}

impl Written {
    fn merged(self, job: &MergeJob, facts: &FileFacts) -> Merged {
        // Without rows nobody looks for them by time.
        let times = self.rows.min_timestamp.map_or((0, 0), |min| (min, self.rows.max_timestamp));
        let file = file_meta(job, facts, self.rows.count, times, (self.bytes, self.checksum));
        Merged { file, rows_transformed: self.rows_transformed }
    }
}

/// The file that was written: its rows, the times of the first and the last, its length and CRC32C.
fn file_meta(job: &MergeJob, facts: &FileFacts, rows: u64, times: (i64, i64), content: (u64, u32)) -> FileMeta {
    FileMeta {
        stream: job.stream,
        hour: job.hour,
        path: job.path.clone(),
        first_sequence: facts.first_sequence,
        last_sequence: facts.last_sequence,
        rows,
        min_timestamp: times.0,
        max_timestamp: times.1,
        bytes: content.0,
        checksum: content.1,
    }
}
