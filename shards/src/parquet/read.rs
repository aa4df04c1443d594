//! Reading rows back: by row number, and the row number by time. Only what is asked for is read: the footer with its page
//! index, then the pages of the columns that hold the rows.

use std::ops::Range;

use arrow_array::{
    Array, RecordBatch,
    cast::AsArray,
    types::{Int64Type, TimestampMicrosecondType},
};
use bytes::Bytes;
use parquet::{
    arrow::{
        ProjectionMask,
        arrow_reader::{
            ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
            RowSelection,
        },
    },
    file::{metadata::PageIndexPolicy, page_index::column_index::ColumnIndexMetaData},
};

use super::{
    ParquetFileError,
    layout::{FORMAT_VERSION, INGEST_TS, KEY_FIRST_SEQUENCE, KEY_FORMAT, KEY_LAST_SEQUENCE, METADATA, PAYLOAD, SEQ},
    source::{FileSource, OpenSource},
};

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

/// A page of `_ingest_ts`.
#[derive(Debug, Clone)]
struct Page {
    rows: Range<usize>,
    min: i64,
    max: i64,
}

/// An open file of ours.
#[derive(Debug)]
pub struct FileReader<'s> {
    source: &'s FileSource,
    file: OpenSource,
    metadata: ArrowReaderMetadata,
    first_sequence: i64,
    rows: usize,
    rows_decoded: u64,
}

impl<'s> FileReader<'s> {
    /// Opens the file and reads its footer.
    ///
    /// # Errors
    /// [`ParquetFileError`]: it cannot be read, or is not laid out as [`super::write`] does.
    pub fn open(source: &'s FileSource) -> Result<Self, ParquetFileError> {
        let path = source.name();
        let file = source.open().map_err(|source| ParquetFileError::Io { path: path.to_owned(), source })?;
        let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Required);
        let metadata =
            ArrowReaderMetadata::load(&file, options).map_err(|error| ParquetFileError::from_parquet(path, error))?;
        let mut reader = Self { source, file, metadata, first_sequence: 0, rows: 0, rows_decoded: 0 };
        if reader.footer_value(KEY_FORMAT) != Some(FORMAT_VERSION) {
            return Err(reader.damaged(format!("its footer does not say {KEY_FORMAT} {FORMAT_VERSION}")));
        }
        let sequence = |key| reader.footer_value(key).and_then(|text| text.parse::<i64>().ok());
        let (first, last) = (sequence(KEY_FIRST_SEQUENCE), sequence(KEY_LAST_SEQUENCE));
        let rows = reader.metadata.metadata().file_metadata().num_rows();
        match (first, last) {
            (Some(first), Some(last)) if last.checked_sub(first) == Some(rows - 1) && rows > 0 => {
                reader.first_sequence = first;
                reader.rows = usize::try_from(rows).map_err(|_| reader.damaged("too many rows".to_owned()))?;
                Ok(reader)
            }
            _ => Err(reader.damaged("its footer's sequence range does not fit its rows".to_owned())),
        }
    }

    /// The sequence number of its first row; the others follow without gaps.
    #[must_use]
    pub fn first_sequence(&self) -> i64 {
        self.first_sequence
    }

    /// The sequence number of its last row.
    #[must_use]
    pub fn last_sequence(&self) -> i64 {
        self.first_sequence + (self.rows as i64 - 1)
    }

    /// How many rows it has.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Rows of which any column was decoded so far.
    #[must_use]
    pub fn rows_decoded(&self) -> u64 {
        self.rows_decoded
    }

    /// The first row ingested at or after `unix_micros`; [`FileReader::rows`] if there is none.
    ///
    /// # Errors
    /// [`ParquetFileError`].
    pub fn first_row_at(&mut self, unix_micros: i64) -> Result<usize, ParquetFileError> {
        let pages = self.time_pages()?;
        let page = pages.partition_point(|page| page.max < unix_micros);
        let Some(page) = pages.get(page) else { return Ok(self.rows) };
        if page.min >= unix_micros {
            return Ok(page.rows.start);
        }
        let mut before = 0;
        for batch in self.batches(page.rows.clone(), &[INGEST_TS], page.rows.len())? {
            let batch = batch.map_err(|error| self.damaged(error.to_string()))?;
            let times = self.column(&batch, INGEST_TS)?;
            let times = times.as_primitive_opt::<TimestampMicrosecondType>();
            let times = times.ok_or_else(|| self.damaged(format!("{INGEST_TS} is of another type")))?;
            before += times.values().partition_point(|time| *time < unix_micros);
        }
        self.rows_decoded += page.rows.len() as u64;
        Ok(page.rows.start + before)
    }

    /// Hands the rows numbered `rows` to `take`, in order, until it returns `false`.
    ///
    /// # Errors
    /// [`ParquetFileError`].
    pub fn read(&mut self, rows: Range<usize>, mut take: impl FnMut(FileRow) -> bool) -> Result<(), ParquetFileError> {
        let mut sequence = self.first_sequence + rows.start as i64;
        for batch in self.batches(rows.clone(), &[SEQ, INGEST_TS, METADATA, PAYLOAD], self.batch_rows())? {
            let batch = batch.map_err(|error| self.damaged(error.to_string()))?;
            self.rows_decoded += batch.num_rows() as u64;
            let other_type = || self.damaged("its own columns are of other types".to_owned());
            let sequences = self.column(&batch, SEQ)?.as_primitive_opt::<Int64Type>().ok_or_else(other_type)?;
            let times = self.column(&batch, INGEST_TS)?.as_primitive_opt::<TimestampMicrosecondType>();
            let times = times.ok_or_else(other_type)?;
            let metadata = self.column(&batch, METADATA)?.as_string_opt::<i32>().ok_or_else(other_type)?;
            let payloads = self.column(&batch, PAYLOAD)?.as_string_opt::<i32>().ok_or_else(other_type)?;
            // One copy a batch; the rows share it.
            let (start, end) = match payloads.value_offsets() {
                [start, .., end] => (*start as usize, *end as usize),
                _ => continue,
            };
            let data = Bytes::copy_from_slice(&payloads.value_data()[start..end]);
            for (row, offsets) in payloads.value_offsets().windows(2).enumerate() {
                if sequences.value(row) != sequence {
                    return Err(self.damaged(format!("row {sequence} says that it is {}", sequences.value(row))));
                }
                let goes_on = take(FileRow {
                    sequence,
                    timestamp_unix_micros: times.value(row),
                    metadata_json: metadata.is_valid(row).then(|| metadata.value(row).to_owned()),
                    payload: data.slice(offsets[0] as usize - start..offsets[1] as usize - start),
                });
                sequence += 1;
                if !goes_on {
                    return Ok(());
                }
            }
        }
        if sequence != self.first_sequence + rows.end as i64 {
            return Err(self.damaged(format!("it ends at row {}", sequence - 1)));
        }
        Ok(())
    }

    fn batches(
        &self,
        rows: Range<usize>,
        columns: &[&str],
        batch_rows: usize,
    ) -> Result<ParquetRecordBatchReader, ParquetFileError> {
        let root = self.metadata.parquet_schema().root_schema().get_fields();
        let roots = root.iter().enumerate().filter(|(_, field)| columns.contains(&field.name()));
        let projection = ProjectionMask::roots(self.metadata.parquet_schema(), roots.map(|(index, _)| index));
        ParquetRecordBatchReaderBuilder::new_with_metadata(self.file.clone(), self.metadata.clone())
            .with_projection(projection)
            .with_row_selection(RowSelection::from_consecutive_ranges([rows].into_iter(), self.rows))
            .with_batch_size(batch_rows)
            .build()
            .map_err(|error| ParquetFileError::from_parquet(self.source.name(), error))
    }

    /// Rows of a batch such that its payloads take a few MB.
    fn batch_rows(&self) -> usize {
        const BATCH_BYTES: u64 = 4 * 1024 * 1024;
        let groups = self.metadata.metadata().row_groups();
        let bytes: i64 = groups.iter().filter_map(|group| Some(group.columns().last()?.uncompressed_size())).sum();
        let average = u64::try_from(bytes).unwrap_or(0) / self.rows as u64 + 1;
        usize::try_from(BATCH_BYTES / average).unwrap_or(0).clamp(16, 1024)
    }

    fn time_pages(&self) -> Result<Vec<Page>, ParquetFileError> {
        let metadata = self.metadata.metadata();
        let missing = || self.damaged(format!("it has no page index of {INGEST_TS}"));
        let index = metadata.page_index().ok_or_else(missing)?;
        let columns = self.metadata.parquet_schema().columns();
        let column = columns.iter().position(|column| column.path().parts() == [INGEST_TS]).ok_or_else(missing)?;
        let mut pages: Vec<Page> = Vec::new();
        let mut group_start = 0;
        for (group, of_group) in metadata.row_groups().iter().enumerate() {
            let group_end = group_start + usize::try_from(of_group.num_rows()).map_err(|_| missing())?;
            let Some(ColumnIndexMetaData::INT64(values)) = index.column_index(group, column) else {
                return Err(missing());
            };
            let locations = index.offset_index(group, column).ok_or_else(missing)?.page_locations();
            for (page, location) in locations.iter().enumerate() {
                let start = group_start + usize::try_from(location.first_row_index).map_err(|_| missing())?;
                if let Some(last) = pages.last_mut()
                    && page > 0
                {
                    last.rows.end = start;
                }
                let bounds = (values.min_values().get(page), values.max_values().get(page));
                let (Some(&min), Some(&max)) = bounds else { return Err(missing()) };
                pages.push(Page { rows: start..group_end, min, max });
            }
            group_start = group_end;
        }
        Ok(pages)
    }

    fn column<'b>(&self, batch: &'b RecordBatch, name: &str) -> Result<&'b dyn Array, ParquetFileError> {
        batch.column_by_name(name).map(AsRef::as_ref).ok_or_else(|| self.damaged(format!("it has no column {name}")))
    }

    fn footer_value(&self, key: &str) -> Option<&str> {
        let pairs = self.metadata.metadata().file_metadata().key_value_metadata()?;
        pairs.iter().find(|pair| pair.key == key)?.value.as_deref()
    }

    fn damaged(&self, reason: String) -> ParquetFileError {
        ParquetFileError::Format { path: self.source.name().to_owned(), reason }
    }
}
