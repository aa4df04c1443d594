//! What a file's footer says, checked once: where its rows, pages and key index are.

use std::ops::Range;

use parquet::{
    arrow::{ProjectionMask, arrow_reader::ArrowReaderMetadata},
    file::page_index::column_index::ColumnIndexMetaData,
};

use super::EventSpan;
use crate::parquet::{
    index::{self, Footer},
    layout::{
        EVENT_TS, INGEST_TS, KEY_FIRST_SEQUENCE, KEY_FORMAT, KEY_LAST_SEQUENCE, KEY_PIPELINE_VERSION, METADATA,
        PAYLOAD, SEQ, check_format,
    },
};

/// A page of `_ingest_ts`, `_seq` or `_event_ts`. One without any value has a least that is more than its most.
#[derive(Debug, Clone)]
pub(in crate::parquet) struct Page {
    pub(super) rows: Range<usize>,
    pub(super) min: i64,
    pub(super) max: i64,
}

/// What a footer says.
#[derive(Debug)]
pub(in crate::parquet) struct Facts {
    pub(super) metadata: ArrowReaderMetadata,
    /// What the file stands for.
    pub(super) first_sequence: i64,
    pub(super) last_sequence: i64,
    /// As many, or fewer where the pipeline left some out.
    pub(super) rows: usize,
    /// The version of the stream's pipeline that its columns follow; 0: none.
    pub(super) pipeline_version: u16,
    pub(super) index: Option<Footer>,
    pub(super) time_pages: Vec<Page>,
    /// Of a file that is not dense.
    pub(super) sequence_pages: Vec<Page>,
    /// `None`: it has no `_event_ts`, or none of ours.
    pub(super) event_pages: Option<Vec<Page>>,
    pub(super) row_columns: ProjectionMask,
    pub(super) time_column: ProjectionMask,
    pub(super) sequence_column: ProjectionMask,
    pub(super) event_column: ProjectionMask,
    pub(super) payload_column: ProjectionMask,
    /// The first row of each row group, and the end.
    group_starts: Vec<usize>,
}

impl Facts {
    /// From the footer; `Err`: what is wrong with it.
    pub(super) fn new(metadata: ArrowReaderMetadata) -> Result<Self, String> {
        check_format(footer_value(&metadata, KEY_FORMAT))?;
        let sequence = |key| footer_value(&metadata, key).and_then(|text| text.parse::<i64>().ok());
        let (first, last) = (sequence(KEY_FIRST_SEQUENCE), sequence(KEY_LAST_SEQUENCE));
        let rows = metadata.metadata().file_metadata().num_rows();
        let (Some(first_sequence), Some(last)) = (first, last) else {
            return Err("its footer has no sequence range".to_owned());
        };
        let range = last.checked_sub(first_sequence).and_then(|range| range.checked_add(1));
        if range.is_none_or(|range| range < 1 || rows < 0 || rows > range) {
            return Err("its footer's sequence range does not fit its rows".to_owned());
        }
        let mut group_starts: Vec<usize> = vec![0];
        for group in metadata.metadata().row_groups() {
            let rows = usize::try_from(group.num_rows()).ok().filter(|rows| *rows > 0);
            let end = rows.and_then(|rows| group_starts[group_starts.len() - 1].checked_add(rows));
            group_starts.push(end.ok_or("a row group has no rows")?);
        }
        if group_starts.last().copied() != usize::try_from(rows).ok() {
            return Err("its row groups' rows do not come to its rows".to_owned());
        }
        let columns = |names: &[&str]| {
            let fields = metadata.parquet_schema().root_schema().get_fields();
            let roots = fields.iter().enumerate().filter(|(_, field)| names.contains(&field.name()));
            ProjectionMask::roots(metadata.parquet_schema(), roots.map(|(index, _)| index))
        };
        let pages = |column: &str| {
            page_ranges(&metadata, &group_starts, column).ok_or_else(|| format!("it has no page index of {column}"))
        };
        Ok(Self {
            first_sequence,
            last_sequence: last,
            rows: group_starts[group_starts.len() - 1],
            pipeline_version: footer_value(&metadata, KEY_PIPELINE_VERSION)
                .map_or(Some(0), |text| text.parse().ok())
                .ok_or("its footer's version of the pipeline is no number")?,
            index: footer_value(&metadata, index::FOOTER_KEY).and_then(Footer::parse),
            time_pages: pages(INGEST_TS)?,
            sequence_pages: if range == Some(rows) { Vec::new() } else { pages(SEQ)? },
            event_pages: page_ranges(&metadata, &group_starts, EVENT_TS),
            row_columns: columns(&[SEQ, INGEST_TS, METADATA, PAYLOAD]),
            time_column: columns(&[INGEST_TS]),
            sequence_column: columns(&[SEQ]),
            event_column: columns(&[EVENT_TS]),
            payload_column: columns(&[PAYLOAD]),
            group_starts,
            metadata,
        })
    }

    /// Whether every sequence number has its row.
    pub(super) fn is_dense(&self) -> bool {
        self.last_sequence - self.first_sequence + 1 == self.rows as i64
    }

    /// When its records' events were; `None`: no column tells.
    pub(super) fn event_span(&self) -> Option<EventSpan> {
        let pages = self.event_pages.as_deref()?;
        let first = pages.iter().map(|page| page.min).min().unwrap_or(i64::MAX);
        let last = pages.iter().map(|page| page.max).max().unwrap_or(i64::MIN);
        Some(EventSpan { told_by: self.pipeline_version, first, last })
    }

    pub(in crate::parquet) fn memory_bytes(&self) -> usize {
        // The Arrow schema of a file is as large as its Parquet schema, about: a few hundred bytes a column.
        let schema = 512 * self.metadata.parquet_schema().columns().len();
        let events = self.event_pages.as_ref().map_or(0, Vec::len);
        size_of::<Self>()
            + self.metadata.metadata().memory_size()
            + schema
            + (self.time_pages.len() + self.sequence_pages.len() + events) * size_of::<Page>()
            + self.group_starts.len() * size_of::<usize>()
    }

    /// The row group of a row.
    pub(super) fn group_of(&self, row: usize) -> usize {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        self.group_starts.partition_point(|start| *start <= row) - 1
    }

    /// The rows of a row group; at least one.
    pub(super) fn group_rows(&self, group: usize) -> Range<usize> {
        self.group_starts[group]..self.group_starts[group + 1]
    }

    /// Bytes of the payloads of a row group, before compression.
    pub(super) fn payload_bytes(&self, group: usize) -> u64 {
        let columns = self.metadata.metadata().row_group(group).columns();
        columns.last().map_or(0, |payload| u64::try_from(payload.uncompressed_size()).unwrap_or(0))
    }
}

fn footer_value<'m>(metadata: &'m ArrowReaderMetadata, key: &str) -> Option<&'m str> {
    let pairs = metadata.metadata().file_metadata().key_value_metadata()?;
    pairs.iter().find(|pair| pair.key == key)?.value.as_deref()
}

/// The pages of one of our columns that has statistics, with what is least and most in each.
fn page_ranges(metadata: &ArrowReaderMetadata, group_starts: &[usize], column: &str) -> Option<Vec<Page>> {
    if group_starts.len() == 1 {
        return Some(Vec::new());
    }
    let index = metadata.metadata().page_index()?;
    let columns = metadata.parquet_schema().columns();
    let column = columns.iter().position(|found| found.path().parts() == [column])?;
    let mut pages: Vec<Page> = Vec::new();
    for (group, rows) in group_starts.windows(2).enumerate() {
        let Some(ColumnIndexMetaData::INT64(values)) = index.column_index(group, column) else { return None };
        let locations = index.offset_index(group, column)?.page_locations();
        for (page, location) in locations.iter().enumerate() {
            let start = rows[0].checked_add(usize::try_from(location.first_row_index).ok()?)?;
            if let Some(last) = pages.last_mut()
                && page > 0
            {
                last.rows.end = start;
            }
            let (min, max) = (*values.min_values().get(page)?, *values.max_values().get(page)?);
            let (min, max) = if values.is_null_page(page) { (i64::MAX, i64::MIN) } else { (min, max) };
            pages.push(Page { rows: start..rows[1], min, max });
        }
    }
    pages.iter().all(|page| page.rows.start < page.rows.end).then_some(pages)
}
