//! How a file is laid out: its columns, their encodings, what its footer says.
//!
//! The figures are measured ones: pages of 64 KB or 4096 rows, row groups of 32 K rows, zstd level 1, a dictionary only where
//! few values repeat. `_seq` grows by one a row and `_ingest_ts` never falls, so a row is found by arithmetic or by binary
//! search; only they carry statistics.

use std::{collections::HashMap, collections::HashSet, sync::Arc};

use arrow_array::{Array, ArrayRef, ListArray, StringArray, StructArray, cast::AsArray};
use arrow_schema::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use parquet::{
    basic::{Compression, Encoding, ZstdLevel},
    file::{
        metadata::{KeyValue, SortingColumn},
        properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder},
    },
    schema::types::ColumnPath,
};

use crate::{
    ids::{SchemaId, StreamId},
    pipeline::Pipeline,
    transform::columns::{self, Column, FIELD_ID_KEY, Kind},
};

/// The sequence number.
pub const SEQ: &str = "_seq";
/// When the record was ingested.
pub const INGEST_TS: &str = "_ingest_ts";
/// When its event was, where the stream's pipeline tells.
pub const EVENT_TS: &str = "_event_ts";
/// The record's id.
pub const RECORD_ID: &str = "_record_id";
/// The version of the schema that it was checked with.
pub const SCHEMA_VERSION: &str = "_schema_version";
/// Its metadata.
pub const METADATA: &str = "_metadata";
/// The record as the stream's pipeline made it; without one, byte for byte.
pub const PAYLOAD: &str = "_payload";
/// Names that no typed column has.
pub const OWN_COLUMNS: [&str; 7] = [SEQ, INGEST_TS, EVENT_TS, RECORD_ID, SCHEMA_VERSION, METADATA, PAYLOAD];

/// The version of this layout.
pub const FORMAT_VERSION: &str = "1";
/// Footer key: the layout's version.
pub const KEY_FORMAT: &str = "ttdust.format_version";
/// Footer key: the stream.
pub const KEY_STREAM: &str = "ttdust.stream_id";
/// Footer key: the schema of the typed columns.
pub const KEY_SCHEMA: &str = "ttdust.schema_id";
/// Footer key: the version of the schema of the typed columns.
pub const KEY_SCHEMA_VERSION: &str = "ttdust.schema_version";
/// Footer key: the version of the stream's pipeline that the typed columns follow; not there: none.
pub const KEY_PIPELINE_VERSION: &str = "ttdust.pipeline_version";
/// Footer key: the first sequence number that the file stands for.
pub const KEY_FIRST_SEQUENCE: &str = "ttdust.first_sequence";
/// Footer key: the last sequence number that the file stands for.
pub const KEY_LAST_SEQUENCE: &str = "ttdust.last_sequence";

/// Whether a file whose footer says that it is of this version can be read.
///
/// # Errors
/// What is wrong with it.
pub(super) fn check_format(said: Option<&str>) -> Result<(), String> {
    match said {
        Some(FORMAT_VERSION) => Ok(()),
        Some(other) => Err(format!(
            "its footer says {KEY_FORMAT} {other}, this program knows only {FORMAT_VERSION}: use a newer program"
        )),
        None => Err(format!("its footer does not say {KEY_FORMAT} {FORMAT_VERSION}")),
    }
}

/// Rows of a page at most.
pub const PAGE_ROWS: usize = 4096;
const PAGE_BYTES: usize = 64 * 1024;
/// Rows of a row group of a flush at most.
pub const FLUSHED_GROUP_ROWS: usize = 32 * 1024;
/// Rows of a row group of a merged file at most.
pub const MERGED_GROUP_ROWS: usize = 128 * 1024;
/// What a row group takes in memory, which is also what writing a file takes, when records are large.
const ROW_GROUP_BYTES: usize = 64 * 1024 * 1024;

/// The file's Arrow schema around these typed fields, with a column of event times or without.
#[must_use]
pub fn file_schema(typed: &Fields, has_event_times: bool) -> SchemaRef {
    let own = |name: &str, data_type, nullable, id: u32| {
        let metadata = HashMap::from([(FIELD_ID_KEY.to_owned(), id.to_string())]);
        Arc::new(Field::new(name, data_type, nullable).with_metadata(metadata))
    };
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let mut fields = vec![own(SEQ, DataType::Int64, false, 1), own(INGEST_TS, time.clone(), false, 2)];
    if has_event_times {
        fields.push(own(EVENT_TS, time, true, 7));
    }
    fields.extend([
        own(RECORD_ID, DataType::Utf8, false, 3),
        own(SCHEMA_VERSION, DataType::Int32, false, 4),
        own(METADATA, DataType::Utf8, true, 5),
    ]);
    fields.extend(typed.iter().cloned());
    fields.push(own(PAYLOAD, DataType::Utf8, false, 6));
    Arc::new(Schema::new(fields))
}

/// The same, with the payloads as views of memory that is another's. In the file both are one.
#[must_use]
pub fn flush_schema(typed: &Fields, has_event_times: bool) -> SchemaRef {
    let view = |field: &Arc<Field>| match field.name().as_str() {
        PAYLOAD => Arc::new(field.as_ref().clone().with_data_type(DataType::Utf8View)),
        _ => Arc::clone(field),
    };
    Arc::new(Schema::new(file_schema(typed, has_event_times).fields().iter().map(view).collect::<Fields>()))
}

/// What a file's footer says.
#[derive(Debug, Clone, Copy)]
pub struct FileFacts {
    /// The stream.
    pub stream: StreamId,
    /// The schema of the typed columns.
    pub schema: SchemaId,
    /// Its version.
    pub schema_version: u32,
    /// The version of the pipeline that they follow too; 0: none.
    pub pipeline_version: u16,
    /// The first sequence number that the file stands for.
    pub first_sequence: i64,
    /// The last.
    pub last_sequence: i64,
}

/// How to write the file, in row groups of `group_rows` rows: `first_rows` are the typed columns' first rows, which show whose values repeat.
#[must_use]
pub fn writer_properties(
    facts: &FileFacts,
    columns: &[Column],
    first_rows: &[ArrayRef],
    group_rows: usize,
) -> WriterProperties {
    let level = ZstdLevel::try_new(1).expect("zstd has a level 1");
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .set_data_page_size_limit(PAGE_BYTES)
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_dictionary_page_size_limit(PAGE_BYTES)
        .set_max_row_group_row_count(Some(group_rows))
        .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_sorting_columns(Some(vec![SortingColumn { column_idx: 0, descending: false, nulls_first: false }]))
        .set_key_value_metadata(Some(footer_pairs(facts)))
        .set_created_by(concat!("ttdust ", env!("CARGO_PKG_VERSION")).to_owned());
    for name in [SEQ, INGEST_TS] {
        properties = properties
            .set_column_encoding(name.into(), Encoding::DELTA_BINARY_PACKED)
            .set_column_statistics_enabled(name.into(), EnabledStatistics::Page);
    }
    properties = properties
        .set_column_encoding(EVENT_TS.into(), Encoding::DELTA_BINARY_PACKED)
        .set_column_statistics_enabled(EVENT_TS.into(), EnabledStatistics::Page);
    // Neighbours differ in their last digits only.
    properties = properties.set_column_encoding(RECORD_ID.into(), Encoding::DELTA_BYTE_ARRAY);
    for name in [SCHEMA_VERSION, METADATA] {
        properties = properties.set_column_dictionary_enabled(name.into(), true);
    }
    for (column, rows) in columns.iter().zip(first_rows) {
        properties = typed_encoding(properties, vec![column.name.clone()], &column.kind, rows);
    }
    properties.build()
}

fn footer_pairs(facts: &FileFacts) -> Vec<KeyValue> {
    let mut pairs = vec![
        KeyValue::new(KEY_FORMAT.to_owned(), FORMAT_VERSION.to_owned()),
        KeyValue::new(KEY_STREAM.to_owned(), facts.stream.to_string()),
        KeyValue::new(KEY_SCHEMA.to_owned(), facts.schema.to_string()),
        KeyValue::new(KEY_SCHEMA_VERSION.to_owned(), facts.schema_version.to_string()),
        KeyValue::new(KEY_FIRST_SEQUENCE.to_owned(), facts.first_sequence.to_string()),
        KeyValue::new(KEY_LAST_SEQUENCE.to_owned(), facts.last_sequence.to_string()),
    ];
    if facts.pipeline_version > 0 {
        pairs.push(KeyValue::new(KEY_PIPELINE_VERSION.to_owned(), facts.pipeline_version.to_string()));
    }
    pairs
}

/// The typed columns of files under this schema and this version of the stream's pipeline.
#[must_use]
pub fn typed_columns(definition: &str, pipeline: Option<&Pipeline>) -> Vec<Column> {
    let mut typed = columns::declared_columns(definition);
    if let Some(pipeline) = pipeline {
        typed = pipeline.columns(typed);
    }
    columns::named(typed, &OWN_COLUMNS)
}

fn typed_encoding(
    mut properties: WriterPropertiesBuilder,
    path: Vec<String>,
    kind: &Kind,
    rows: &ArrayRef,
) -> WriterPropertiesBuilder {
    match kind {
        Kind::Utf8 { .. } | Kind::Json => {
            let is_enum = matches!(kind, Kind::Utf8 { is_enum: true });
            if is_enum || rows.as_string_opt::<i32>().is_some_and(values_repeat) {
                properties = properties.set_column_dictionary_enabled(ColumnPath::new(path), true);
            }
        }
        Kind::Int64 => {
            properties = properties.set_column_encoding(ColumnPath::new(path), Encoding::DELTA_BINARY_PACKED);
        }
        Kind::Float64 | Kind::Boolean => {}
        Kind::Struct(columns) => {
            let members = rows.as_any().downcast_ref::<StructArray>().map(StructArray::columns).unwrap_or_default();
            for (column, rows) in columns.iter().zip(members) {
                let path = path.iter().chain([&column.name]).cloned().collect();
                properties = typed_encoding(properties, path, &column.kind, rows);
            }
        }
        Kind::List(element) => {
            if let Some(list) = rows.as_any().downcast_ref::<ListArray>() {
                let path = path.into_iter().chain(["list".to_owned(), "element".to_owned()]).collect();
                properties = typed_encoding(properties, path, element, list.values());
            }
        }
    }
    properties
}

/// Whether each value comes up many times, so that a dictionary of a few entries replaces them.
fn values_repeat(values: &StringArray) -> bool {
    const LEAST_ROWS: usize = 64;
    const REPEATS: usize = 16;
    let present = values.len() - values.null_count();
    if present < LEAST_ROWS {
        return false;
    }
    let mut distinct = HashSet::with_hasher(ahash::RandomState::new());
    values.iter().flatten().all(|value| {
        distinct.insert(value);
        distinct.len() <= present / REPEATS
    })
}
