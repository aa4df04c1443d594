//! Merged files against files that were written at once from the same rows: the same rows, columns and keys, whatever the
//! pieces were, and whichever schema version each was written with.

#[path = "parquet/batches.rs"]
mod batches;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow_array::RecordBatch;
use batches::{MICROS_AN_HOUR, Random, Reading, Stream, file_ref, job};
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use ttdust_shards::{
    ids::{SchemaId, StreamId},
    parquet::{
        ParquetFileError, PartitionHour,
        layout::MERGED_GROUP_ROWS,
        merge::{FileFooter, MergeJob, Merged, footer, merge},
        write,
    },
    query::{BufferSnapshot, KeyLookup, Wanted, lookup},
    record::keys::KeyField,
    schema::CompiledSchema,
    transform::encode_metadata,
    wal::batch::RowBatch,
};

/// Definitions by version, from 1. Text is text in the first and JSON in the third, in a column of the same type.
const VERSIONS: [&str; 3] = [
    r#"{"type":"object","properties":{"s":{"type":"string"},"n":{"type":"integer"}}}"#,
    r#"{"type":"object","properties":{"s":{"type":"string"},"n":{"type":"number"},
        "o":{"type":"object","properties":{"a":{"type":"array","items":{"type":"integer"}}}}}}"#,
    r#"{"type":"object","properties":{"s":{},"new":{"type":"boolean"}}}"#,
];

fn payload(random: &mut Random, at: usize) -> Bytes {
    let s = ["\"a\"", "\"b\\n\"", "null", "\"ü\"", "7"][random.below(5) as usize];
    let n = ["1", "2.5", "1e2", "\"x\""][random.below(4) as usize];
    let o = ["", r#","o":{"a":[1,2]}"#, r#","o":{"a":[]}"#, r#","new":true"#][random.below(4) as usize];
    let filler = " ".repeat(random.below(40) as usize);
    format!(r#"{{"k":"key-{at}","s":{s},{filler}"n":{n}{o}}}"#).into()
}

fn history(random: &mut Random, batches: usize) -> (StreamId, Vec<RowBatch>, usize) {
    let mut stream = Stream::new();
    let (mut time, mut at, mut all) = (10 * MICROS_AN_HOUR, 0, Vec::new());
    for _ in 0..batches {
        time += random.below(3) as i64;
        let metadata = encode_metadata([("source", "a\"\\\n"), ("ü", "")].into_iter().take(random.below(3) as usize));
        let payloads: Vec<Bytes> = (0..1 + random.below(30))
            .map(|_| {
                at += 1;
                payload(random, at)
            })
            .collect();
        all.push(stream.batch(time, &metadata, &payloads));
    }
    (stream.id, all, at)
}

fn schema(version: usize) -> Arc<CompiledSchema> {
    let compiled = CompiledSchema::compile(SchemaId::from_bytes([9; 16]), version as u32, VERSIONS[version - 1]);
    Arc::new(compiled.unwrap())
}

fn key_fields(indexed: bool) -> Arc<[KeyField]> {
    if indexed { [KeyField::new("k")].into() } else { [].into() }
}

/// Writes `batches` with this version as `name`.
fn piece(batches: &[RowBatch], version: usize, indexed: bool, dir: &Path, name: &str) -> PathBuf {
    let mut job = job(VERSIONS[version - 1], batches, dir, name);
    (job.schema, job.key_fields) = (schema(version), key_fields(indexed));
    write(&job).unwrap().path
}

fn merge_job(stream: StreamId, inputs: Vec<PathBuf>, version: usize, dir: &Path) -> MergeJob {
    MergeJob {
        stream,
        hour: PartitionHour(10),
        inputs,
        schema: SchemaId::from_bytes([9; 16]),
        schema_version: version as u32,
        definition: VERSIONS[version - 1].into(),
        pipeline: None,
        key_fields: key_fields(true),
        path: dir.join("merged.parquet"),
    }
}

fn read(path: &Path) -> Vec<RecordBatch> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
    builder.with_batch_size(1000).build().unwrap().map(Result::unwrap).collect()
}

/// Every record is found by its key, and no other.
fn check_keys(stream: StreamId, merged: &Merged, rows: usize) {
    let last = merged.file.last_sequence;
    let buffer = BufferSnapshot {
        stream,
        batches: vec![],
        flushed_through: last,
        last_sequence: last,
        next_sequence: last + 1,
        pipelines: Default::default(),
    };
    let reading = Reading::new(1 << 20);
    for at in (1..=rows as i64 + 1).step_by(rows / 150 + 1) {
        let wanted = Wanted::Key { field: KeyField::new("k"), key: format!("key-{at}") };
        let answer =
            lookup(&KeyLookup { stream, wanted }, &buffer, &[file_ref(&merged.file)], &reading.context()).unwrap();
        let found = answer.records.first().map(|record| record.sequence);
        assert_eq!(found, (1..=rows as i64).contains(&at).then_some(at), "key-{at}");
    }
}

#[test]
fn a_merge_of_pieces_is_what_would_have_been_written_at_once() {
    for seed in 1..=12 {
        let mut random = Random(seed);
        let (stream, all, rows) = history(&mut random, 60);
        let dir = tempfile::tempdir().unwrap();
        let newest = 1 + random.below(3) as usize;
        let (mut inputs, mut start, mut other_rows) = (Vec::new(), 0, 0);
        while start < all.len() {
            let end = all.len().min(start + 1 + random.below(20) as usize);
            let is_last = end == all.len();
            // Versions come in any order: a flush may be of an older one than the flush before it.
            let version = if is_last { newest } else { 1 + random.below(newest as u64) as usize };
            let batches = &all[start..end];
            if version != newest {
                other_rows += batches.iter().map(|batch| u64::from(batch.header().count)).sum::<u64>();
            }
            inputs.push(piece(batches, version, random.chance(2), dir.path(), &format!("{start}.parquet")));
            start = end;
        }
        let job = merge_job(stream, inputs.clone(), newest, dir.path());
        let merged = merge(&job).unwrap();
        let at_once = piece(&all, newest, true, dir.path(), "at-once.parquet");
        assert_eq!(read(&job.path), read(&at_once), "seed {seed}");
        assert_eq!(footer(&job.path).unwrap(), footer(&at_once).unwrap());
        assert_eq!(merged.rows_transformed, other_rows, "columns of the same version are copied");
        let bytes = fs::read(&job.path).unwrap();
        assert_eq!((merged.file.bytes, merged.file.checksum), (bytes.len() as u64, crc32c::crc32c(&bytes)));
        assert_eq!((merged.file.first_sequence, merged.file.last_sequence), (1, rows as i64));
        let times = |batch: &RowBatch| batch.header().timestamp_unix_micros;
        assert_eq!(
            (merged.file.min_timestamp, merged.file.max_timestamp),
            (times(&all[0]), times(&all[all.len() - 1]))
        );
        check_keys(stream, &merged, rows);
        // Cut short and begun anew, it gives the same bytes.
        assert_eq!(merge(&job).unwrap(), merged);
        assert_eq!(fs::read(&job.path).unwrap(), bytes);
        // What was merged can be merged.
        if let [first, second, ..] = &inputs[..] {
            let two = MergeJob {
                path: dir.path().join("two"),
                ..merge_job(stream, vec![first.clone(), second.clone()], newest, dir.path())
            };
            merge(&two).unwrap();
            let rest: Vec<_> = [two.path.clone()].into_iter().chain(inputs[2..].iter().cloned()).collect();
            let again = MergeJob { path: dir.path().join("again"), ..merge_job(stream, rest, newest, dir.path()) };
            merge(&again).unwrap();
            assert_eq!(read(&again.path), read(&at_once), "seed {seed}");
        }
    }
}

/// Files of so many rows in batches of 1000, of which each is a microsecond after the one before it, and all of the batches.
fn large_pieces(dir: &Path, rows: &[usize]) -> (Stream, Vec<RowBatch>, Vec<PathBuf>) {
    let (mut random, mut stream, mut at) = (Random(3), Stream::new(), 0);
    let (mut all, mut inputs): (Vec<RowBatch>, Vec<PathBuf>) = (Vec::new(), Vec::new());
    for (n, rows) in rows.iter().enumerate() {
        let batches: Vec<RowBatch> = (0..rows / 1000)
            .map(|_| {
                at += 1000;
                let payloads: Vec<Bytes> = (at - 999..=at).map(|at| payload(&mut random, at)).collect();
                stream.batch(10 * MICROS_AN_HOUR + at as i64 / 1000, &[], &payloads)
            })
            .collect();
        inputs.push(piece(&batches, 1, true, dir, &format!("{n}.parquet")));
        all.extend(batches);
    }
    (stream, all, inputs)
}

/// Rows by row group.
fn groups(path: &Path) -> Vec<usize> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
    reader.metadata().row_groups().iter().map(|group| group.num_rows() as usize).collect()
}

#[test]
fn large_row_groups_are_made_of_small_ones() {
    let dir = tempfile::tempdir().unwrap();
    let (stream, all, inputs) = large_pieces(dir.path(), &[10_000; 20]);
    let job = merge_job(stream.id, inputs, 1, dir.path());
    let merged = merge(&job).unwrap();
    let at_once = piece(&all, 1, true, dir.path(), "at-once.parquet");
    assert_eq!(read(&job.path), read(&at_once));
    assert_eq!(groups(&job.path), [MERGED_GROUP_ROWS, 200_000 - MERGED_GROUP_ROWS]);
    check_keys(stream.id, &merged, 200_000);
}

#[test]
fn large_row_groups_are_copied_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    // The last group of a file may be a small one.
    let (stream, all, inputs) = large_pieces(dir.path(), &[50_000, 20_000, 66_000]);
    let job = merge_job(stream.id, inputs.clone(), 1, dir.path());
    let merged = merge(&job).unwrap();
    let at_once = piece(&all, 1, true, dir.path(), "at-once.parquet");
    assert_eq!(read(&job.path), read(&at_once));
    assert_eq!(footer(&job.path).unwrap(), footer(&at_once).unwrap());
    let of_inputs: Vec<usize> = inputs.iter().flat_map(|input| groups(input)).collect();
    assert_eq!((groups(&job.path), merged.rows_transformed), (of_inputs, 0));
    let bytes = fs::read(&job.path).unwrap();
    assert_eq!((merged.file.bytes, merged.file.checksum), (bytes.len() as u64, crc32c::crc32c(&bytes)));
    let times = (10 * MICROS_AN_HOUR + 1, 10 * MICROS_AN_HOUR + 136);
    assert_eq!((merged.file.min_timestamp, merged.file.max_timestamp, merged.file.rows), (times.0, times.1, 136_000));
    check_keys(stream.id, &merged, 136_000);
    // What was copied can be copied again, and a file of another version is not.
    let again = MergeJob { inputs: vec![job.path.clone()], path: dir.path().join("again.parquet"), ..job };
    merge(&again).unwrap();
    assert_eq!(fs::read(&again.path).unwrap(), bytes);
    let anew = MergeJob { schema_version: 2, definition: VERSIONS[1].into(), ..again };
    assert_eq!(merge(&anew).unwrap().rows_transformed, 136_000);
}

#[test]
fn damage_in_what_is_copied_is_refused_or_seen_by_whoever_reads_it() {
    let dir = tempfile::tempdir().unwrap();
    let (stream, _, inputs) = large_pieces(dir.path(), &[20_000, 20_000]);
    let job = merge_job(stream.id, inputs.clone(), 1, dir.path());
    let whole = fs::read(&inputs[1]).unwrap();
    let mut random = Random(7);
    for _ in 0..40 {
        let mut damaged = whole.clone();
        // Half of them where footer and page index are.
        let range = if random.chance(2) { whole.len() } else { 6000 };
        let at_byte = whole.len() - 1 - random.below(range as u64) as usize;
        damaged[at_byte] ^= 1 << random.below(8);
        fs::write(&inputs[1], &damaged).unwrap();
        // It never panics, and leaves nothing when it refuses.
        match merge(&job) {
            Ok(merged) => assert_eq!(merged.file.bytes, fs::metadata(&job.path).unwrap().len()),
            Err(_) => assert!(!job.path.exists(), "byte {at_byte}"),
        }
        let _ = fs::remove_file(&job.path);
    }
}

fn is_format(outcome: &Result<Merged, ParquetFileError>) -> bool {
    matches!(outcome, Err(ParquetFileError::Format { .. }))
}

#[test]
fn what_is_damaged_or_does_not_fit_is_refused_and_nothing_is_left() {
    let mut random = Random(5);
    let (stream, all, _) = history(&mut random, 30);
    let dir = tempfile::tempdir().unwrap();
    let pieces: Vec<_> =
        (0..3).map(|n| piece(&all[n * 10..n * 10 + 10], 1, true, dir.path(), &format!("{n}.parquet"))).collect();
    let at = |of: &[usize]| merge_job(stream, of.iter().map(|n| pieces[*n].clone()).collect(), 1, dir.path());
    for wrong in [&[0, 2][..], &[1, 0], &[0, 0], &[0, 1, 1]] {
        assert!(is_format(&merge(&at(wrong))), "{wrong:?}");
    }
    let other = StreamId::from_bytes([8; 16]);
    assert!(is_format(&merge(&MergeJob { stream: other, ..at(&[0, 1]) })));
    let FileFooter { first_sequence, schema_version, .. } = footer(&pieces[1]).unwrap();
    assert_eq!((first_sequence, schema_version), (all[10].header().first_sequence, 1));
    let whole = fs::read(&pieces[1]).unwrap();
    let good = merge(&at(&[0, 1, 2])).unwrap();
    fs::remove_file(&good.file.path).unwrap();
    for end in [0, 4, whole.len() / 2, whole.len() - 1] {
        fs::write(&pieces[1], &whole[..end]).unwrap();
        assert!(is_format(&merge(&at(&[0, 1, 2]))), "{end}");
        assert!(!good.file.path.exists(), "{end}");
    }
    for _ in 0..60 {
        let mut damaged = whole.clone();
        let at_byte = random.below(whole.len() as u64) as usize;
        damaged[at_byte] ^= 1 << random.below(8);
        fs::write(&pieces[1], &damaged).unwrap();
        // A flip may be in what no reader looks at. It never panics, and leaves nothing when it refuses.
        if merge(&at(&[0, 1, 2])).is_ok() {
            fs::remove_file(&good.file.path).unwrap();
        }
        assert!(!good.file.path.exists(), "byte {at_byte}");
    }
    fs::remove_file(&pieces[1]).unwrap();
    assert!(matches!(merge(&at(&[0, 1, 2])), Err(ParquetFileError::Io { .. })));
}
