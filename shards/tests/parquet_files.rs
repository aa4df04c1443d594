//! What is written is what was given, in the layout that is promised.

#[path = "parquet/batches.rs"]
mod batches;

use std::{fs, io::Read, path::Path, sync::Arc};

use ::parquet::{
    arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder},
    basic::{Compression, Encoding},
    file::metadata::{PageIndexPolicy, ParquetMetaData},
};
use arrow_array::{
    Array, Int32Array, Int64Array, RecordBatch, StringArray, StructArray, cast::AsArray,
    types::TimestampMicrosecondType,
};
use arrow_schema::DataType;
use batches::{MICROS_AN_HOUR, Random, Stream, job, read_all};
use bytes::Bytes;
use ttdust_shards::{
    ids::RecordId,
    parquet::{self, FileMeta, ParquetFileError, cache::FileCache, layout, read::FileReader},
    transform::encode_metadata,
    wal::batch::RowBatch,
};

const TEN: i64 = 10 * MICROS_AN_HOUR;

fn flights() -> (String, Vec<Bytes>) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data");
    let mut lines = String::new();
    let file = fs::File::open(dir.join("flights.jsonl.gz")).unwrap();
    flate2::read::GzDecoder::new(file).read_to_string(&mut lines).unwrap();
    let records = lines.lines().map(|line| Bytes::copy_from_slice(line.as_bytes())).collect();
    (fs::read_to_string(dir.join("flights.schema.json")).unwrap(), records)
}

fn all_rows(path: &Path) -> RecordBatch {
    let builder = ParquetRecordBatchReaderBuilder::try_new(fs::File::open(path).unwrap()).unwrap();
    let rows = builder.metadata().file_metadata().num_rows() as usize;
    let mut batches: Vec<RecordBatch> = builder.with_batch_size(rows).build().unwrap().map(Result::unwrap).collect();
    assert_eq!(batches.len(), 1);
    batches.remove(0)
}

fn metadata(path: &Path) -> Arc<ParquetMetaData> {
    let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Required);
    Arc::clone(ArrowReaderMetadata::load(&fs::File::open(path).unwrap(), options).unwrap().metadata())
}

fn strings<'a>(batch: &'a RecordBatch, name: &str) -> &'a StringArray {
    batch.column_by_name(name).unwrap().as_string::<i32>()
}

fn integers<'a>(parent: &'a dyn Array, name: &str) -> &'a Int64Array {
    parent.as_any().downcast_ref::<StructArray>().unwrap().column_by_name(name).unwrap().as_primitive()
}

#[test]
fn flights_come_back_whole() {
    let (definition, records) = flights();
    let mut stream = Stream::new();
    let labels = encode_metadata([("source", "nyc"), ("a\"b", "ü\n")]);
    let batches: Vec<RowBatch> = records
        .chunks(333)
        .enumerate()
        .map(|(index, chunk)| stream.batch(TEN + index as i64, if index % 2 == 0 { &labels } else { &[] }, chunk))
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let meta = parquet::write(&job(&definition, &batches, dir.path(), "flights")).unwrap();
    let rows = all_rows(&meta.path);
    assert_eq!(rows.num_rows(), records.len());

    let (sequences, versions): (&Int64Array, &Int32Array) = (
        rows.column_by_name(layout::SEQ).unwrap().as_primitive(),
        rows.column_by_name(layout::SCHEMA_VERSION).unwrap().as_primitive(),
    );
    let times = rows.column_by_name(layout::INGEST_TS).unwrap().as_primitive::<TimestampMicrosecondType>();
    let (ids, payloads) = (strings(&rows, layout::RECORD_ID), strings(&rows, layout::PAYLOAD));
    let (labels, origins) = (strings(&rows, layout::METADATA), strings(&rows, "origin"));
    let delays = integers(rows.column_by_name("delay").unwrap(), "arrival");
    let mut delays_missing = 0;
    for (row, record) in records.iter().enumerate() {
        assert_eq!(payloads.value(row).as_bytes(), record);
        assert_eq!(sequences.value(row), row as i64 + 1);
        assert_eq!(times.value(row), TEN + (row / 333) as i64);
        assert_eq!(versions.value(row), 3);
        assert_eq!(ids.value(row), RecordId::of(stream.id, row as i64 + 1).to_string());
        let label = labels.is_valid(row).then(|| labels.value(row));
        assert_eq!(label, (row / 333 % 2 == 0).then_some(r#"{"a\"b":"ü\n","source":"nyc"}"#));
        let value: serde_json::Value = serde_json::from_slice(record).unwrap();
        assert_eq!(Some(origins.value(row)), value["origin"].as_str());
        for name in ["timestamp", "tailnum"] {
            let column = strings(&rows, name);
            assert_eq!(column.is_valid(row).then(|| column.value(row)), value[name].as_str());
        }
        let delay = delays.is_valid(row).then(|| delays.value(row));
        assert_eq!(delay, value["delay"]["arrival"].as_i64());
        delays_missing += usize::from(delay.is_none());
    }
    assert!(delays_missing > 0, "the sample has cancelled flights");
}

#[test]
fn the_meta_says_what_the_file_is() {
    let mut stream = Stream::new();
    stream.batch(TEN, &[], &[Bytes::from_static(b"{}"), Bytes::from_static(b"{}")]);
    let batches = [
        stream.batch(TEN + 5, &[], &[Bytes::from_static(b"{}")]),
        stream.batch(TEN + 9, &[], &[Bytes::from_static(b"{}"), Bytes::from_static(b"{}")]),
    ];
    let dir = tempfile::tempdir().unwrap();
    let job = job("{}", &batches, dir.path(), "file");
    // Replaced if it exists, even by something shorter.
    fs::write(&job.path, vec![1; 100_000]).unwrap();
    let meta = parquet::write(&job).unwrap();
    let file = fs::read(&meta.path).unwrap();
    let expected = FileMeta {
        stream: stream.id,
        hour: parquet::PartitionHour(10),
        path: job.path.clone(),
        first_sequence: 3,
        last_sequence: 5,
        rows: 3,
        min_timestamp: TEN + 5,
        max_timestamp: TEN + 9,
        bytes: file.len() as u64,
        checksum: crc32c::crc32c(&file),
    };
    assert_eq!(meta, expected);
    // The same rows are the same bytes: a retry after a crash writes the same object.
    assert_eq!(parquet::write(&job).unwrap(), expected);

    let metadata = metadata(&meta.path);
    let pairs = metadata.file_metadata().key_value_metadata().unwrap();
    let pairs: Vec<(&str, &str)> =
        pairs.iter().map(|pair| (pair.key.as_str(), pair.value.as_deref().unwrap())).collect();
    assert_eq!(
        pairs,
        [
            ("ttdust.format_version", "1"),
            ("ttdust.stream_id", "str_07070707-0707-0707-0707-070707070707"),
            ("ttdust.schema_id", "sch_09090909-0909-0909-0909-090909090909"),
            ("ttdust.schema_version", "3"),
            ("ttdust.first_sequence", "3"),
            ("ttdust.last_sequence", "5"),
        ]
    );
    assert_eq!(metadata.file_metadata().schema_descr().num_columns(), 6);
}

#[test]
fn the_layout_is_the_measured_one() {
    let definition = r#"{"properties":{
        "kind":{"enum":["a","b"]}, "city":{"type":"string"}, "key":{"type":"string"}, "size":{"type":"integer"},
        "tags":{"type":"array","items":{"enum":["x"]}}, "ok":{"type":"boolean"}}}"#;
    let mut stream = Stream::new();
    let batches: Vec<RowBatch> = (0..90)
        .map(|batch| {
            let payloads: Vec<Bytes> = (0..500)
                .map(|row| {
                    let key = batch * 500 + row;
                    let filler = "y".repeat(100);
                    Bytes::from(format!(
                        r#"{{"kind":"a","city":"city {}","key":"key {key}","size":{row},"tags":["x"],"ok":true,"f":"{filler}"}}"#,
                        key % 7
                    ))
                })
                .collect();
            stream.batch(TEN + batch, &[], &payloads)
        })
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let meta = parquet::write(&job(definition, &batches, dir.path(), "file")).unwrap();
    let metadata = metadata(&meta.path);
    let groups: Vec<i64> = metadata.row_groups().iter().map(|group| group.num_rows()).collect();
    assert_eq!(groups, [32_768, 45_000 - 32_768]);

    let columns: Vec<String> =
        metadata.file_metadata().schema_descr().columns().iter().map(|column| column.path().string()).collect();
    let own = ["_seq", "_ingest_ts", "_record_id", "_schema_version", "_metadata"];
    let typed = ["city", "key", "kind", "ok", "size", "tags.list.element"];
    assert!(columns.iter().eq(own.iter().chain(&typed).chain(&["_payload"])), "{columns:?}");

    let index = metadata.page_index().unwrap();
    for (number, group) in metadata.row_groups().iter().enumerate() {
        for (column, name) in group.columns().iter().zip(&columns) {
            let name = name.as_str();
            assert!(matches!(column.compression(), Compression::ZSTD(_)), "{name}");
            let has_statistics = ["_seq", "_ingest_ts"].contains(&name);
            assert_eq!(
                column.statistics().is_some_and(|values| values.min_bytes_opt().is_some()),
                has_statistics,
                "{name}"
            );
            let dictionary = ["_schema_version", "_metadata", "city", "kind", "tags.list.element"].contains(&name);
            assert_eq!(column.dictionary_page_offset().is_some(), dictionary, "{name}");
        }
        for delta in [0, 1] {
            assert!(group.column(delta).encodings().any(|encoding| encoding == Encoding::DELTA_BINARY_PACKED));
        }
        for (column, name) in columns.iter().enumerate() {
            let pages = index.offset_index(number, column).unwrap().page_locations();
            let starts = pages.iter().map(|page| page.first_row_index).chain([group.num_rows()]);
            assert!(starts.collect::<Vec<_>>().windows(2).all(|pair| pair[1] - pair[0] <= 4096), "{name}");
            let payload_rows = 64 * 1024 / 150;
            assert!(name != "_payload" || pages.len() as i64 > group.num_rows() / payload_rows / 2);
        }
    }
}

#[test]
fn every_field_has_an_id_and_a_type() {
    let definition =
        r#"{"properties":{"o":{"properties":{"l":{"type":"array","items":{"type":"number"}}}},"_seq":{}}}"#;
    let mut stream = Stream::new();
    let batches = [stream.batch(TEN, &[], &[Bytes::from_static(br#"{"o":{"l":[1,2.5,"x"]},"_seq":"mine"}"#)])];
    let dir = tempfile::tempdir().unwrap();
    let meta = parquet::write(&job(definition, &batches, dir.path(), "file")).unwrap();
    let rows = all_rows(&meta.path);
    fn check(field: &arrow_schema::Field, ids: &mut Vec<i32>) {
        ids.push(field.metadata()["PARQUET:field_id"].parse().unwrap());
        match field.data_type() {
            DataType::Struct(fields) => fields.iter().for_each(|field| check(field, ids)),
            DataType::List(field) => check(field, ids),
            _ => {}
        }
    }
    let mut ids = Vec::new();
    rows.schema().fields().iter().for_each(|field| check(field, &mut ids));
    assert_eq!(ids.len(), 10);
    assert!(ids.iter().all(|id| *id > 0));
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 10, "no id twice");
    assert_eq!(strings(&rows, "_seq_").value(0), "\"mine\"");
    let zone = rows.schema().field_with_name("_ingest_ts").unwrap().data_type().to_string();
    assert_eq!(zone, "Timestamp(µs, \"UTC\")");
}

#[test]
fn records_of_any_size_go_in() {
    let mut stream = Stream::new();
    // Text that does not compress, so that the row group is cut by its bytes.
    let mut random = Random(3);
    let text: String = (0..2 << 20)
        .map(|_| char::from(b'0' + random.below(64) as u8))
        .map(|c| if c == '\\' { 'é' } else { c })
        .collect();
    let large = Bytes::from(format!(r#"{{"a":"{text}"}}"#));
    let small = Bytes::from_static(br#"{"a":"s"}"#);
    let batches: Vec<RowBatch> =
        (0..30).map(|time| stream.batch(TEN + time, &[], &[small.clone(), large.clone()])).collect();
    let dir = tempfile::tempdir().unwrap();
    let definition = r#"{"properties":{"a":{"type":"string"}}}"#;
    let meta = parquet::write(&job(definition, &batches, dir.path(), "file")).unwrap();
    assert!(metadata(&meta.path).num_row_groups() > 1);
    for backward in [false, true] {
        let rows = read_all(&meta.path.clone().into(), backward);
        assert!(rows.iter().map(|row| row.sequence).eq(1..=60));
        assert!(rows.iter().all(|row| row.payload == if row.sequence % 2 == 1 { &small } else { &large }));
    }
}

#[test]
fn what_cannot_be_written_leaves_nothing() {
    let mut stream = Stream::new();
    let batches = [stream.batch(TEN, &[], &[Bytes::from_static(b"{}"), Bytes::from_static(b"{\"a\":\"\xff\"}")])];
    let dir = tempfile::tempdir().unwrap();
    let error = parquet::write(&job("{}", &batches, dir.path(), "file")).unwrap_err();
    assert!(error.to_string().contains("record 2 of str_"), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);

    let error = parquet::write(&job("{}", &batches, &dir.path().join("none"), "file")).unwrap_err();
    assert!(matches!(error, ParquetFileError::Io { .. }), "{error}");
}

#[test]
fn what_is_not_ours_is_refused() {
    let mut stream = Stream::new();
    let batches = [stream.batch(TEN, &[], &[Bytes::from_static(b"{}")])];
    let dir = tempfile::tempdir().unwrap();
    let meta = parquet::write(&job("{}", &batches, dir.path(), "file")).unwrap();
    let whole = fs::read(&meta.path).unwrap();
    let source = meta.path.clone().into();
    let cache = FileCache::new(0);
    assert!(FileReader::open(&source, &cache).is_ok());
    for cut in [0, 1, 8, whole.len() / 2, whole.len() - 1] {
        fs::write(&meta.path, &whole[..cut]).unwrap();
        assert!(FileReader::open(&source, &cache).is_err(), "cut at {cut}");
    }
    let at = whole.windows(14).position(|window| window == b"format_version").unwrap();
    let mut other = whole.clone();
    other[at] = b'F';
    fs::write(&meta.path, &other).unwrap();
    assert!(matches!(FileReader::open(&source, &cache), Err(ParquetFileError::Format { .. })));
    // Behind the key stand the value's tag and length.
    let mut newer = whole;
    assert_eq!(newer[at + 16], b'1');
    newer[at + 16] = b'2';
    fs::write(&meta.path, &newer).unwrap();
    let refused = FileReader::open(&source, &cache).unwrap_err().to_string();
    assert!(refused.contains("format_version 2") && refused.contains("use a newer program"), "{refused}");
    fs::remove_file(&meta.path).unwrap();
    assert!(matches!(FileReader::open(&source, &cache), Err(ParquetFileError::Io { .. })));
}

#[test]
#[should_panic(expected = "a gap between batches")]
fn a_gap_is_a_bug_of_the_caller() {
    let mut stream = Stream::new();
    let batches: Vec<RowBatch> =
        (0..3).map(|time| stream.batch(TEN + time, &[], &[Bytes::from_static(b"{}")])).collect();
    let dir = tempfile::tempdir().unwrap();
    let _ = parquet::write(&job("{}", &[batches[0].clone(), batches[2].clone()], dir.path(), "file"));
}
