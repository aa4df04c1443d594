//! Merging by copying: row groups that are large enough go into the result as they are, page by page, without being decoded.
//!
//! Under lasting load files are full row groups, and their merge is then a matter of reading and writing them; encoding their
//! rows anew would cost as much as the flush that made them.

use std::{os::unix::fs::FileExt as _, sync::Arc};

use parquet::{
    arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions},
    column::writer::ColumnCloseResult,
    file::{
        metadata::{ColumnChunkMetaData, KeyValue, PageIndexPolicy, ParquetMetaData, RowGroupMetaData},
        page_index::{column_index::ColumnIndexMetaData, offset_index::OffsetIndexMetaData},
        statistics::Statistics,
        writer::{SerializedFileWriter, SerializedRowGroupWriter},
    },
};

use super::{
    super::{index, layout, sink::Sink},
    Input, Merged, ParquetFileError, Writer,
};
use crate::threads;

/// A row group is left as it is from so many rows on,
const GROUP_ROWS_MIN: i64 = layout::FLUSHED_GROUP_ROWS as i64 / 2;
/// or so many bytes before compression, where records are large. The last one of each input may be smaller.
const GROUP_BYTES_MIN: i64 = 4 << 20;
/// Bytes that are held against each other at a time.
const COMPARED_BYTES: usize = 256 << 10;

/// Files whose row groups can be copied.
pub(super) struct Plan<'i> {
    sources: Vec<Source<'i>>,
    times: (i64, i64),
}

/// One of them.
struct Source<'i> {
    input: &'i Input,
    /// With its page index.
    metadata: Arc<ParquetMetaData>,
}

impl<'i> Plan<'i> {
    /// How to copy `inputs`, all of which have the columns that the result is to have; `None`: they are better read and written
    /// anew, which also tells what is wrong with one whose footer does not describe it.
    pub(super) fn of(inputs: &'i [Input]) -> Option<Self> {
        let sources = inputs.iter().map(Source::of).collect::<Option<Vec<_>>>()?;
        let schema = |source: &Source<'_>| source.metadata.file_metadata().schema_descr_ptr();
        let first = schema(sources.first()?);
        if sources.iter().any(|source| schema(source) != first) {
            return None;
        }
        let times: Vec<(i64, i64)> = sources.iter().map(Source::times).collect::<Option<_>>()?;
        let in_order = times.is_sorted_by(|before, after| before.1 <= after.0);
        in_order.then_some(Self { sources, times: (times.first()?.0, times.last()?.1) })
    }

    /// The result, whole, synced, and held against the inputs byte by byte.
    pub(super) fn run(&self, mut writer: Writer<'_>) -> Result<Merged, ParquetFileError> {
        let (job, facts) = (writer.job, writer.facts);
        if !writer.index.is_empty() {
            self.sources.iter().try_for_each(|source| writer.take_keys(source.input))?;
        }
        let (bytes, checksum) = self.write(writer)?;
        let rows = self.sources.iter().map(|source| source.input.footer.rows).sum();
        Ok(Merged { file: super::file_meta(job, &facts, rows, self.times, (bytes, checksum)), rows_transformed: 0 })
    }

    fn write(&self, writer: Writer<'_>) -> Result<(u64, u32), ParquetFileError> {
        let path = &writer.job.path;
        let failed = |error| ParquetFileError::from_parquet(path, error);
        let io_error = |source| ParquetFileError::Io { path: path.clone(), source };
        let schema = self.sources[0].metadata.file_metadata().schema_descr().root_schema_ptr();
        let properties = layout::writer_properties(&writer.facts, &[], &[], layout::MERGED_GROUP_ROWS);
        let sink = Sink::create(path).map_err(io_error)?;
        let mut file = SerializedFileWriter::new(sink, schema, Arc::new(properties)).map_err(failed)?;
        for source in &self.sources {
            for group in 0..source.metadata.num_row_groups() {
                let mut out = file.next_row_group().map_err(failed)?;
                source.copy(group, &mut out).map_err(failed)?;
                out.close().map_err(failed)?;
            }
        }
        if !writer.index.is_empty() {
            let (index, footer) = writer.index.finish(file.bytes_written() as u64);
            file.write_all(&index).map_err(io_error)?;
            file.append_key_value_metadata(KeyValue::new(index::FOOTER_KEY.to_owned(), footer));
        }
        file.into_inner().map_err(failed)?.finish().map_err(io_error)
    }

    /// Holds the result against the inputs: the same column chunks, byte by byte.
    pub(super) fn check(&self, result: &Input) -> Result<(), ParquetFileError> {
        let groups =
            self.sources.iter().flat_map(|source| source.groups().iter().map(move |group| (source.input, group)));
        let copies = result.metadata.metadata().row_groups();
        if copies.len() != groups.clone().count() {
            return Err(result.damaged("it has other row groups than were merged"));
        }
        for ((input, group), copy) in groups.zip(copies) {
            if (group.num_rows(), group.num_columns()) != (copy.num_rows(), copy.num_columns()) {
                return Err(result.damaged("a row group is not the one that was merged"));
            }
            for (column, copied) in group.columns().iter().zip(copy.columns()) {
                same_bytes(input, column, result, copied)?;
            }
        }
        Ok(())
    }
}

impl<'i> Source<'i> {
    fn of(input: &'i Input) -> Option<Self> {
        let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Required);
        let metadata = Arc::clone(ArrowReaderMetadata::load(&input.file, options).ok()?.metadata());
        let source = Self { input, metadata };
        source.is_worth_it().then_some(source)
    }

    fn groups(&self) -> &[RowGroupMetaData] {
        self.metadata.row_groups()
    }

    /// Whether its row groups are large, and lie where the footer may say that they lie.
    fn is_worth_it(&self) -> bool {
        let Some((_, all_but_last)) = self.groups().split_last() else { return false };
        let is_large =
            |group: &RowGroupMetaData| group.num_rows() >= GROUP_ROWS_MIN || group.total_byte_size() >= GROUP_BYTES_MIN;
        // One that is small is as good as none: so that a file of few rows is not carried along for ever as one group more.
        let large = if all_but_last.is_empty() { self.groups() } else { all_but_last };
        let Ok(end) = self.input.file.metadata().map(|file| file.len()) else { return false };
        large.iter().all(is_large) && (0..self.groups().len()).all(|group| self.is_within(group, end))
    }

    fn is_within(&self, group: usize, end: u64) -> bool {
        let columns = self.groups()[group].columns();
        columns.iter().enumerate().all(|(column, chunk)| {
            let Some((start, bytes)) = place(chunk) else { return false };
            let Some(stop) = start.checked_add(bytes).filter(|stop| *stop <= end) else { return false };
            let holds = |offset: i64| u64::try_from(offset).is_ok_and(|offset| (start..stop).contains(&offset));
            let pages = self.offset_index(group, column);
            holds(chunk.data_page_offset())
                && pages.is_some_and(|pages| pages.page_locations().iter().all(|page| holds(page.offset)))
        })
    }

    fn offset_index(&self, group: usize, column: usize) -> Option<&OffsetIndexMetaData> {
        self.metadata.page_index()?.offset_index(group, column)
    }

    fn column_index(&self, group: usize, column: usize) -> Option<&ColumnIndexMetaData> {
        self.metadata.page_index()?.column_index(group, column)
    }

    /// The times of the first and the last row, in Unix µs, as the statistics have them.
    fn times(&self) -> Option<(i64, i64)> {
        let times = |group: &RowGroupMetaData| {
            let column = group.columns().iter().find(|column| column.column_path().string() == layout::INGEST_TS)?;
            match column.statistics()? {
                Statistics::Int64(times) => Some((*times.min_opt()?, *times.max_opt()?)),
                _ => None,
            }
        };
        let all = self.groups().iter().map(times).collect::<Option<Vec<_>>>()?;
        let in_order = all.iter().all(|(min, max)| min <= max) && all.is_sorted_by(|before, after| before.1 <= after.0);
        in_order.then_some((all.first()?.0, all.last()?.1))
    }

    fn copy(&self, group: usize, out: &mut SerializedRowGroupWriter<'_, Sink>) -> parquet::errors::Result<()> {
        let metadata = self.metadata.row_group(group);
        for (column, chunk) in metadata.columns().iter().enumerate() {
            let close = ColumnCloseResult {
                bytes_written: chunk.compressed_size().cast_unsigned(),
                rows_written: metadata.num_rows().cast_unsigned(),
                metadata: chunk.clone(),
                bloom_filter: None,
                column_index: self.column_index(group, column).cloned(),
                offset_index: self.offset_index(group, column).cloned(),
            };
            out.append_column(&self.input.file, close)?;
        }
        Ok(())
    }
}

/// Where a column chunk begins, and how many bytes it has; `None`: nowhere.
fn place(chunk: &ColumnChunkMetaData) -> Option<(u64, u64)> {
    let start = chunk.dictionary_page_offset().unwrap_or_else(|| chunk.data_page_offset());
    Some((u64::try_from(start).ok()?, u64::try_from(chunk.compressed_size()).ok()?))
}

fn same_bytes(
    input: &Input,
    chunk: &ColumnChunkMetaData,
    result: &Input,
    copied: &ColumnChunkMetaData,
) -> Result<(), ParquetFileError> {
    let other = || result.damaged("a column is not the one that was merged");
    let ((from, bytes), (to, copied)) = place(chunk).zip(place(copied)).ok_or_else(other)?;
    if bytes != copied {
        return Err(other());
    }
    let (mut wanted, mut found) = (vec![0; COMPARED_BYTES], vec![0; COMPARED_BYTES]);
    let mut at = 0;
    while at < bytes {
        let length = usize::try_from(bytes - at).map_or(COMPARED_BYTES, |left| left.min(COMPARED_BYTES));
        for (file, start, buffer) in [(input, from, &mut wanted), (result, to, &mut found)] {
            let read = file.file.read_exact_at(&mut buffer[..length], start + at);
            read.map_err(|source| ParquetFileError::Io { path: file.path.clone(), source })?;
        }
        if wanted[..length] != found[..length] {
            return Err(other());
        }
        at += length as u64;
        threads::offer();
    }
    Ok(())
}
