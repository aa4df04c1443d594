//! Parquet: each row becomes an object whose members are the columns, or is the text of one column.
//!
//! What a file claims is held against what is there, and against limits, before the reader of Parquet makes room for it: the footer
//! when the file is opened, the headers of a row group's pages before its first row is read.

use std::{
    io::{self, Read as _},
    ops::Range,
    sync::Arc,
};

use arrow_array::{Array as _, RecordBatch, cast::AsArray as _};
use arrow_schema::{DataType, Schema};
use bytes::{Buf as _, Bytes};
use flate2::read::MultiGzDecoder;
use parquet::{
    arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder},
    basic::Compression,
    errors::ParquetError,
    file::{
        metadata::{ColumnChunkMetaData, ParquetMetaData, RowGroupMetaData},
        reader::{ChunkReader, Length},
    },
};
use ttdust_shards::parquet::source::OpenSource;

use super::{
    Row, Rows,
    fields::{Kinds, Members, put_text},
    input::Broken,
    json::{is_known, is_null, put_value},
    spec::Options,
    thrift::{PageHeader, Reader, check_metadata, page_header},
};

const MAGIC: &[u8; 4] = b"PAR1";
/// The footer of a file, in bytes.
const FOOTER_BYTES_MAX: u64 = 4 << 20;
const COLUMNS_MAX: usize = 4096;
/// Columns inside each other.
const DEPTH_MAX: usize = 24;
/// A row group, decompressed, in bytes.
const ROW_GROUP_BYTES_MAX: i64 = 1 << 30;
/// A page, decompressed or not, in bytes.
const PAGE_BYTES_MAX: i64 = 64 << 20;
/// A page's header: texts of statistics may be in it.
const HEADER_BYTES_MAX: u64 = 64 << 10;
/// The length that Snappy's data begins with, in bytes.
const SNAPPY_LENGTH_BYTES: u64 = 10;
/// Rows that are decoded at a time.
const ROWS_MAX: usize = 1000;
/// Read from the object at a time.
const RANGE_BYTES: u64 = 1 << 20;

/// Reads rows.
pub(super) struct Columnar {
    source: OpenSource,
    metadata: Arc<ParquetMetaData>,
    /// Row groups that are not begun.
    groups: Range<usize>,
    reader: Option<ParquetRecordBatchReader>,
    row: u64,
    /// Of each column, in their order; or the one that holds whole records.
    shape: Shape,
}

enum Shape {
    Members(Vec<Member>),
    Payload(usize),
}

/// A column as a member of the record.
struct Member {
    name: String,
    /// The name as JSON, and a colon.
    text: Vec<u8>,
    kinds: Kinds,
}

impl std::fmt::Debug for Columnar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Columnar").field("row", &self.row).finish_non_exhaustive()
    }
}

impl From<ParquetError> for Broken {
    fn from(error: ParquetError) -> Self {
        Self(error.to_string())
    }
}

/// The file as the reader of Parquet takes it.
#[derive(Debug, Clone)]
struct Chunks(OpenSource);

/// Reads on from a place.
#[derive(Debug)]
struct Onward {
    source: OpenSource,
    at: u64,
    buffer: Bytes,
}

impl Length for Chunks {
    fn len(&self) -> u64 {
        self.0.bytes()
    }
}

impl ChunkReader for Chunks {
    type T = Onward;

    fn get_read(&self, start: u64) -> Result<Onward, ParquetError> {
        Ok(Onward { source: self.0.clone(), at: start, buffer: Bytes::new() })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let range = start..start.saturating_add(length as u64);
        read(&self.0, range).map_err(|error| ParquetError::External(Box::new(error)))
    }
}

impl io::Read for Onward {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.buffer.is_empty() {
            let end = self.at.saturating_add(HEADER_BYTES_MAX).min(self.source.bytes());
            if self.at >= end {
                return Ok(0);
            }
            self.buffer = read(&self.source, self.at..end)?;
            self.at = end;
        }
        let length = into.len().min(self.buffer.len());
        self.buffer.copy_to_slice(&mut into[..length]);
        Ok(length)
    }
}

fn read(source: &OpenSource, range: Range<u64>) -> io::Result<Bytes> {
    Ok(source.read_ranges(std::slice::from_ref(&range))?.remove(0))
}

/// Looks at what the end of the file claims.
fn check_footer(source: &OpenSource) -> Result<(), Broken> {
    let bytes = source.bytes();
    let tail = if bytes >= 12 { read(source, bytes - 8..bytes)? } else { Bytes::new() };
    if tail.get(4..) != Some(&MAGIC[..]) || read(source, 0..4)? != MAGIC[..] {
        return Err(Broken("it is no Parquet file, or one that is cut short or encrypted".to_owned()));
    }
    let length = u64::from((&tail[..4]).get_u32_le());
    if length > FOOTER_BYTES_MAX || length > bytes - 12 {
        return Err(Broken(format!(
            "its footer claims {length} bytes: at most {FOOTER_BYTES_MAX} are taken, and the file has {bytes}"
        )));
    }
    let footer = read(source, bytes - 8 - length..bytes - 8)?;
    check_metadata(&footer, DEPTH_MAX, COLUMNS_MAX).map_err(|error| Broken(format!("its footer is damaged: {error}")))
}

/// Where a column's pages lie, if that is in the file.
fn pages_of(column: &ColumnChunkMetaData, bytes: u64) -> Option<Range<u64>> {
    // Where the reader begins too: were it elsewhere, it would read what nobody has looked at.
    let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
    let (start, length) = (u64::try_from(start).ok()?, u64::try_from(column.compressed_size()).ok()?);
    let end = start.checked_add(length)?;
    let data = u64::try_from(column.data_page_offset()).ok()?;
    (start <= data && data <= end && end <= bytes).then_some(start..end)
}

/// Looks at what a row group claims.
fn check_group(number: usize, group: &RowGroupMetaData, bytes: u64) -> Result<(), Broken> {
    let claims = |what: String| Err(Broken(format!("its row group {number} claims {what}")));
    let columns = group.columns();
    let sizes = columns.iter().map(ColumnChunkMetaData::uncompressed_size);
    let total = sizes.fold(0i64, |total, size| total.saturating_add(size.max(0)));
    let largest = total.max(group.total_byte_size());
    if largest > ROW_GROUP_BYTES_MAX {
        return claims(format!(
            "{largest} bytes, and at most {ROW_GROUP_BYTES_MAX} are taken: write smaller row groups"
        ));
    }
    let is_read = |column: &&ColumnChunkMetaData| {
        use Compression::{GZIP, SNAPPY, UNCOMPRESSED, ZSTD};
        matches!(column.compression(), UNCOMPRESSED | SNAPPY | GZIP(_) | ZSTD(_))
    };
    if let Some(column) = columns.iter().find(|column| !is_read(column)) {
        let codec = column.compression();
        return Err(Broken(format!(
            "its pages are compressed by {codec}, which is not read: write it with snappy, gzip, zstd or none"
        )));
    }
    if group.num_rows() < 0 || columns.iter().any(|column| column.num_values() < 0 || column.uncompressed_size() < 0) {
        return claims("a number below zero".to_owned());
    }
    if columns.iter().any(|column| pages_of(column, bytes).is_none()) {
        return claims("pages that lie outside of the file".to_owned());
    }
    Ok(())
}

/// Looks at what the headers of a column's pages claim; how many bytes they come to, decompressed.
fn check_pages(source: &OpenSource, pages: Range<u64>, codec: Compression) -> Result<i64, Broken> {
    let damaged = |what: &str| Broken(format!("a page at byte {} and after is damaged: {what}", pages.start));
    let (mut at, mut window, mut total) = (pages.start, Bytes::new(), 0i64);
    let mut window_at = at;
    while at < pages.end {
        let left = pages.end - at;
        let held = (window_at + window.len() as u64).saturating_sub(at);
        if held < HEADER_BYTES_MAX.min(left) {
            window = read(source, at..at + RANGE_BYTES.min(left))?;
            window_at = at;
        }
        let from = usize::try_from(at - window_at).expect("within what is in memory");
        let header = page_header(&window[from..]).map_err(|error| damaged(&error.to_string()))?;
        if header.uncompressed > PAGE_BYTES_MAX || header.compressed > PAGE_BYTES_MAX {
            return Err(damaged(&format!(
                "it claims {} bytes, and {} when it is decompressed; at most {PAGE_BYTES_MAX} are taken",
                header.compressed, header.uncompressed
            )));
        }
        let length = header.bytes as u64 + header.compressed.unsigned_abs();
        if length > left {
            return Err(damaged("it reaches past its column's end"));
        }
        check_packed(source, at + header.bytes as u64, &header, codec).map_err(|what| damaged(&what))?;
        total = total.saturating_add(header.uncompressed);
        at += length;
    }
    Ok(total)
}

/// Whether a page whose data begins at this byte decompresses to what its header claims: of codecs whose decoders make room for
/// whatever comes, or tell of it in words of their own.
fn check_packed(source: &OpenSource, at: u64, header: &PageHeader, codec: Compression) -> Result<(), String> {
    let claimed = (header.uncompressed - header.plain).unsigned_abs();
    if claimed == 0 || !header.is_packed {
        return Ok(());
    }
    let (start, length) = (at + header.plain.unsigned_abs(), (header.compressed - header.plain).unsigned_abs());
    let packed = Onward { source: source.clone(), at: start, buffer: Bytes::new() }.take(length);
    match codec {
        Compression::SNAPPY => {
            let mut first = Vec::new();
            packed.take(SNAPPY_LENGTH_BYTES).read_to_end(&mut first).map_err(|error| error.to_string())?;
            match Reader::new(&first).varint() {
                Ok(found) if found == claimed => Ok(()),
                Ok(found) => Err(format!("it claims {found} bytes in its data, and {claimed} in its header")),
                Err(error) => Err(error.to_string()),
            }
        }
        Compression::GZIP(_) => {
            let mut found = MultiGzDecoder::new(packed).take(claimed + 1);
            match io::copy(&mut found, &mut io::sink()) {
                Ok(found) if found > claimed => Err(format!("it has more than the {claimed} bytes that it claims")),
                Ok(_) => Ok(()),
                Err(error) => Err(format!("it is no gzip: {error}")),
            }
        }
        _ => Ok(()),
    }
}

impl Columnar {
    /// The rows of a file, for a stream of this schema.
    pub(super) fn open(source: OpenSource, options: &Options, definition: &str) -> Result<Self, Broken> {
        check_footer(&source)?;
        let builder = builder(&source)?;
        let metadata = Arc::clone(builder.metadata());
        for (number, group) in metadata.row_groups().iter().enumerate() {
            check_group(number, group, source.bytes())?;
        }
        let shape = shape(builder.schema(), options, definition)?;
        let groups = 0..metadata.num_row_groups();
        Ok(Self { source, metadata, groups, reader: None, row: 0, shape })
    }

    /// The next rows as Arrow has them.
    fn batch(&mut self) -> Result<Option<RecordBatch>, Broken> {
        loop {
            if let Some(reader) = &mut self.reader {
                match reader.next() {
                    Some(batch) => return batch.map(Some).map_err(|error| Broken(error.to_string())),
                    None => self.reader = None,
                }
            }
            let Some(number) = self.groups.next() else { return Ok(None) };
            let mut total = 0;
            for column in self.metadata.row_group(number).columns() {
                let pages = pages_of(column, self.source.bytes()).expect("it was checked");
                total += check_pages(&self.source, pages, column.compression())?;
                if total > ROW_GROUP_BYTES_MAX {
                    return Err(Broken(format!(
                        "the pages of its row group {number} claim more than {ROW_GROUP_BYTES_MAX} bytes: write smaller \
                         row groups"
                    )));
                }
            }
            let builder = builder(&self.source)?;
            self.reader = Some(builder.with_row_groups(vec![number]).with_batch_size(ROWS_MAX).build()?);
        }
    }
}

/// Types are Parquet's own: what Arrow has put beside them is more to be believed, and nothing that is needed.
fn builder(source: &OpenSource) -> Result<ParquetRecordBatchReaderBuilder<Chunks>, Broken> {
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    Ok(ParquetRecordBatchReaderBuilder::try_new_with_options(Chunks(source.clone()), options)?)
}

fn shape(schema: &Schema, options: &Options, definition: &str) -> Result<Shape, Broken> {
    if let Some(name) = &options.payload_column {
        let found = schema.fields().iter().position(|field| field.name() == name);
        let at = found.ok_or_else(|| Broken(format!("it has no column {name:?} (options.payload_column)")))?;
        return match schema.field(at).data_type() {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Binary | DataType::LargeBinary => Ok(Shape::Payload(at)),
            other => Err(Broken(format!("the column {name:?} (options.payload_column) holds no texts but {other}"))),
        };
    }
    if let Some(field) = schema.fields().iter().find(|field| !is_known(field.data_type())) {
        return Err(Broken(format!(
            "the column {:?} is of the type {}, which is not read",
            field.name(),
            field.data_type()
        )));
    }
    let members = Members::of(definition);
    let member = |name: &String| {
        let mut text = Vec::new();
        put_text(&mut text, name);
        text.push(b':');
        Member { name: name.clone(), text, kinds: members.kinds(name) }
    };
    Ok(Shape::Members(schema.fields().iter().map(|field| member(field.name())).collect()))
}

/// Row `at` of a batch as a record.
fn record(batch: &RecordBatch, members: &[Member], at: usize, line: u64) -> Row {
    let mut out = vec![b'{'];
    for (member, column) in members.iter().zip(batch.columns()) {
        if is_null(column, at) && !member.kinds.null {
            continue;
        }
        if out.len() > 1 {
            out.push(b',');
        }
        out.extend_from_slice(&member.text);
        if is_null(column, at) {
            out.extend_from_slice(b"null");
        } else if let Err(error) = put_value(&mut out, column, at) {
            return Row::bad(line, error.0, &member.name);
        }
    }
    out.push(b'}');
    Row { line, payload: Ok(out.into()) }
}

/// Row `at` of a column of whole records.
fn payload(batch: &RecordBatch, column: usize, at: usize, line: u64) -> Row {
    let array = batch.column(column);
    if array.is_null(at) {
        return Row::bad(line, "the column has no value".to_owned(), "");
    }
    let bytes = match array.data_type() {
        DataType::Utf8 => array.as_string::<i32>().value(at).as_bytes(),
        DataType::LargeUtf8 => array.as_string::<i64>().value(at).as_bytes(),
        DataType::Binary => array.as_binary::<i32>().value(at),
        _ => array.as_binary::<i64>().value(at),
    };
    Row { line, payload: Ok(Bytes::copy_from_slice(bytes)) }
}

impl Rows for Columnar {
    fn next(&mut self) -> Result<Vec<Row>, Broken> {
        while let Some(batch) = self.batch()? {
            let first = self.row + 1;
            self.row += batch.num_rows() as u64;
            let row = |at: usize| {
                let line = first + at as u64;
                match &self.shape {
                    Shape::Members(members) => record(&batch, members, at, line),
                    Shape::Payload(column) => payload(&batch, *column, at, line),
                }
            };
            let rows: Vec<Row> = (0..batch.num_rows()).map(row).collect();
            if !rows.is_empty() {
                return Ok(rows);
            }
        }
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use arrow_array::{ArrayRef, Int64Array, StringArray};
    use parquet::{
        arrow::ArrowWriter,
        basic::{BrotliLevel, GzipLevel, ZstdLevel},
        file::properties::{WriterProperties, WriterVersion},
    };
    use ttdust_shards::parquet::source::FileSource;

    use super::{
        super::spec::{Format, Spec},
        *,
    };

    const SCHEMA: &str = r#"{"properties": {"n": {"type": "integer"}, "o": {"type": ["string", "null"]}}}"#;

    /// A file of so many rows, some of them to a row group.
    fn file(rows: i64) -> Vec<u8> {
        file_by(rows, Compression::ZSTD(ZstdLevel::default()), WriterVersion::PARQUET_1_0)
    }

    fn file_by(rows: i64, codec: Compression, version: WriterVersion) -> Vec<u8> {
        let properties = WriterProperties::builder()
            .set_compression(codec)
            .set_writer_version(version)
            .set_max_row_group_row_count(Some(700))
            .build();
        let texts = |null_every: i64| -> ArrayRef {
            let text = |n: i64| (n % null_every != 0).then(|| format!("{{\"n\":{n}}}"));
            Arc::new(StringArray::from((0..rows).map(text).collect::<Vec<_>>()))
        };
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("n", Arc::new(Int64Array::from((0..rows).collect::<Vec<_>>()))),
            ("o", texts(3)),
            ("text", texts(1_000_000)),
        ];
        let batch = RecordBatch::try_from_iter(columns).expect("a batch");
        let mut out = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut out, batch.schema(), Some(properties)).expect("a writer");
        writer.write(&batch).expect("written");
        writer.close().expect("closed");
        out
    }

    /// These bytes as an object.
    fn kept(bytes: &[u8]) -> OpenSource {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("object");
        std::fs::write(&path, bytes).expect("a file");
        FileSource::from(path).open().expect("open")
    }

    fn read_all(bytes: &[u8], options: &[(&str, &str)]) -> Result<Vec<Row>, Broken> {
        let options: BTreeMap<_, _> = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let options = Spec { source_uri: String::new(), format: Format::Parquet, options }.options().expect("valid");
        let mut rows = Columnar::open(kept(bytes), &options, SCHEMA)?;
        let mut all = Vec::new();
        loop {
            let next = rows.next()?;
            if next.is_empty() {
                return Ok(all);
            }
            all.extend(next);
        }
    }

    fn texts(rows: Vec<Row>) -> Vec<String> {
        let text = |row: Row| String::from_utf8(row.payload.expect("good").to_vec()).expect("UTF-8");
        rows.into_iter().map(text).collect()
    }

    #[test]
    fn rows_become_objects_or_are_texts_of_one_column() {
        let bytes = file(2000);
        let rows = read_all(&bytes, &[]).expect("rows");
        assert_eq!((rows.len(), rows[0].line, rows[1999].line), (2000, 1, 2000));
        let rows = texts(rows);
        assert_eq!(rows[3], r#"{"n":3,"o":null,"text":"{\"n\":3}"}"#);
        assert_eq!(rows[1999], r#"{"n":1999,"o":"{\"n\":1999}","text":"{\"n\":1999}"}"#);
        let rows = read_all(&bytes, &[("payload_column", "text")]).expect("rows");
        assert!(rows[0].payload.is_err(), "it has none");
        assert_eq!(texts(rows.into_iter().skip(1).collect())[4], r#"{"n":5}"#);
        for column in ["n", "none"] {
            assert!(read_all(&bytes, &[("payload_column", column)]).expect_err("broken").0.contains(column));
        }
        assert!(texts(read_all(&file(0), &[]).expect("no rows")).is_empty());
    }

    #[test]
    fn pages_of_each_codec_are_read_and_of_others_refused_by_name() {
        let expected = texts(read_all(&file(2000), &[]).expect("rows"));
        let gzip = Compression::GZIP(GzipLevel::default());
        for codec in [Compression::UNCOMPRESSED, Compression::SNAPPY, gzip] {
            for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
                let rows = read_all(&file_by(2000, codec, version), &[]).expect("rows");
                assert_eq!(texts(rows), expected, "{codec} {version:?}");
            }
        }
        let bytes = file(100);
        let metadata = Arc::clone(builder(&kept(&bytes)).expect("good").metadata());
        for codec in [Compression::BROTLI(BrotliLevel::default()), Compression::LZ4_RAW, Compression::LZ4] {
            let group = metadata.row_group(0).clone();
            let mut columns = group.columns().to_vec();
            columns[1] = columns[1].clone().into_builder().set_compression(codec).build().expect("built");
            let group = group.into_builder().set_column_metadata(columns).build().expect("built");
            let refused = check_group(0, &group, bytes.len() as u64).expect_err("not read").0;
            assert!(refused.contains(&codec.to_string()) && refused.contains("snappy"), "{refused}");
        }
    }

    /// Pages of a column: what the header of each claims, and what it holds.
    fn pages(pages: &[(u32, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        let put = |out: &mut Vec<u8>, number: u64| {
            let mut number = number << 1;
            while number >= 0x80 {
                out.push(number as u8 | 0x80);
                number >>= 7;
            }
            out.push(number as u8);
        };
        for &(claimed, held) in pages {
            out.extend([0x15, 0x00, 0x15]);
            put(&mut out, claimed.into());
            out.push(0x15);
            put(&mut out, held.len() as u64);
            out.push(0);
            out.extend_from_slice(held);
        }
        out
    }

    #[test]
    fn a_page_that_decompresses_to_more_than_it_claims_or_claims_too_much_is_refused_before_it_is_read() {
        let gzip = |bytes: &[u8]| {
            let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            io::Write::write_all(&mut out, bytes).expect("in memory");
            out.finish().expect("in memory")
        };
        // As much as a length of five bytes can say, and 300; nothing follows.
        let (huge, short) = ([0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0, 0], [0xac, 0x02]);
        let (bomb, five) = (gzip(&vec![0; 1 << 20]), gzip(b"12345"));
        let check = |codec: Compression, all: &[(u32, &[u8])]| {
            let bytes = pages(all);
            check_pages(&kept(&bytes), 0..bytes.len() as u64, codec).map_err(|broken| broken.0)
        };
        let gzipped = Compression::GZIP(GzipLevel::default());
        assert_eq!(check(Compression::SNAPPY, &[(300, &short), (300, &short)]), Ok(600));
        assert_eq!(check(gzipped, &[(1 << 20, &bomb), (5, &five)]), Ok((1 << 20) + 5));
        assert_eq!(check(Compression::UNCOMPRESSED, &[(2, b"12")]), Ok(2));
        let most = i32::MAX as u32;
        let cases: [(Compression, u32, &[u8], &str); 7] = [
            (Compression::SNAPPY, 300, &huge, "4294967295 bytes in its data, and 300 in its header"),
            (Compression::SNAPPY, 299, &short, "300 bytes in its data"),
            (Compression::SNAPPY, 300, b"", "cut short"),
            (Compression::SNAPPY, most, &short, "at most 67108864 are taken"),
            (gzipped, 1000, &bomb, "more than the 1000 bytes that it claims"),
            (gzipped, 1000, b"no gzip", "no gzip"),
            (gzipped, most, &bomb, "at most 67108864 are taken"),
        ];
        for (codec, claimed, held, reason) in cases {
            let refused = check(codec, &[(claimed, held)]).expect_err("refused");
            assert!(refused.contains(reason), "{codec} {claimed}: {refused}");
        }
    }

    #[test]
    fn a_file_that_is_cut_or_none_is_refused() {
        let bytes = file(100);
        for cut in [0, 3, 11, 12, bytes.len() / 2, bytes.len() - 1] {
            assert!(read_all(&bytes[..cut], &[]).is_err(), "{cut}");
        }
        let huge = [&bytes[..bytes.len() - 8], &u32::MAX.to_le_bytes(), MAGIC].concat();
        assert!(read_all(&huge, &[]).expect_err("broken").0.contains("4294967295"));
    }

    #[test]
    fn a_footer_that_claims_ten_gigabytes_is_refused_before_anything_is_read() {
        let bytes = file(100);
        let metadata = Arc::clone(builder(&kept(&bytes)).expect("good").metadata());
        let group = metadata.row_group(0).clone();
        let length = bytes.len() as u64;
        check_group(0, &group, length).expect("as it was written");
        let column =
            group.column(0).clone().into_builder().set_total_uncompressed_size(10 << 30).build().expect("built");
        let mut columns = group.columns().to_vec();
        columns[0] = column;
        let claims = group.clone().into_builder().set_column_metadata(columns).build().expect("built");
        assert!(check_group(0, &claims, length).expect_err("too much").0.contains("10737"));
        let outside = group.column(0).clone().into_builder().set_data_page_offset(i64::MAX - 5).build().expect("built");
        assert!(pages_of(&outside, length).is_none());
        let below = group.column(0).clone().into_builder().set_total_compressed_size(-1).build().expect("built");
        assert!(pages_of(&below, length).is_none());
        // The reader begins at the dictionary wherever that is said to be.
        let after_data = Some(group.column(0).data_page_offset() + 1);
        let swapped =
            group.column(0).clone().into_builder().set_dictionary_page_offset(after_data).build().expect("built");
        assert!(pages_of(&swapped, length).is_none());
    }

    #[test]
    fn whatever_byte_is_changed_the_file_is_read_or_refused() {
        let bytes = file(20);
        let options = Spec { source_uri: String::new(), format: Format::Parquet, options: BTreeMap::new() };
        let options = options.options().expect("valid");
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("object");
        let mut refused = 0;
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= [0x01, 0x40, 0xff][at % 3];
            std::fs::write(&path, changed).expect("a file");
            // What is left of it may be longer than it was: a few rows show enough.
            let read = || -> Result<(), Broken> {
                let mut rows = Columnar::open(FileSource::from(path.clone()).open()?, &options, SCHEMA)?;
                (0..8).try_for_each(|_| rows.next().map(drop))
            };
            // A panic of the reader below fails one import, and is caught where its thread works.
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(read));
            refused += usize::from(!matches!(outcome, Ok(Ok(()))));
        }
        assert!(refused > bytes.len() / 10, "{refused} of {}", bytes.len());
    }
}
