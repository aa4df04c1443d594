//! How fast a record is found in a local file, by key and by range, and what an object store would be asked for it.

use std::{
    fs::File,
    io,
    ops::Range,
    os::unix::fs::FileExt as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use ttdust_shards::{
    ids::{SchemaId, StreamId},
    parquet::{
        PartitionHour, WriteJob,
        cache::FileCache,
        source::{FileSource, RangeRead},
        write,
    },
    query::{
        Bounds, BufferSnapshot, FileRef, KeyLookup, Order, Query, QueryAnswer, QueryContext, TimeField, TimeRangeQuery,
        Wanted,
    },
    record::keys::KeyField,
    schema::CompiledSchema,
};

use super::parquet::batches;

/// Rows of a range.
const RANGE_ROWS: usize = 1000;
const CACHE_BYTES: usize = 256 << 20;
const FIELD: &str = "key";
/// Files of a stream that was not merged: of 30 hours and more, say. And the rows of each.
const FILES: usize = 3000;
const ROWS_OF_MANY: usize = 5000;
/// Lookups in rows that are not flushed, which look at all of them.
const SCANS: usize = 11;

/// Measures lookups and ranges in one file of `rows` records of about 320 bytes, for `duration` each.
///
/// # Errors
/// The file cannot be written or read.
pub fn run(rows: usize, duration: Duration) -> io::Result<()> {
    let dir = tempfile::tempdir()?;
    let files = Files::write(rows, "key", &dir.path().join("bench.parquet"))?;
    let mut number = 0u64;
    // A stride that is prime to every number of rows in use visits all of them in no order.
    let mut next = move || {
        number = number.wrapping_add(7_368_787);
        number as usize % rows
    };
    let cache = FileCache::new(CACHE_BYTES);
    let present = |row: usize| files.by_key(format!("key-{row:012}"));
    let absent = |row: usize| files.by_key(format!("none-{row:012}"));
    let range = |order| {
        move |row: usize| {
            let after = row as i64;
            let after = if order == Order::Ascending {
                after.min((rows - RANGE_ROWS) as i64)
            } else {
                after + RANGE_ROWS as i64
            };
            (order, after)
        }
    };
    measure("key, present", duration, &mut next, |row| files.ask(&present(row), &files.local, &cache, 1))?;
    measure("key, absent", duration, &mut next, |row| files.ask(&absent(row), &files.local, &cache, 0))?;
    for (name, order) in
        [("1,000 rows, oldest first", Order::Ascending), ("1,000 rows, newest first", Order::Descending)]
    {
        let range = range(order);
        measure(name, duration, &mut next, |row| {
            let (order, after) = range(row);
            files.ask(&files.range(order, after), &files.local, &cache, RANGE_ROWS.min(rows))
        })?;
    }
    println!("what an object store is asked for, a query:");
    // Only what is small fits: footers and heads of indexes would not.
    let uncached = FileCache::new(0);
    files.count("key, present, nothing known", 50, &uncached, || present(next()))?;
    let warm = |row: usize| files.by_key(format!("key-{:012}", row));
    files.count("key, present, footer and filter known", 500, &cache, || warm(next()))?;
    files.count("key, absent, footer and filter known", 5000, &cache, || absent(next()))?;
    files.count("1,000 rows, footer known", 200, &cache, || {
        let (order, after) = range(Order::Ascending)(next());
        files.range(order, after)
    })?;
    files.unflushed(&cache)?;
    many(dir.path(), duration)
}

/// The same over many files, of which the oldest one alone has the keys that are there. The others are one file under many names.
fn many(dir: &std::path::Path, duration: Duration) -> io::Result<()> {
    println!("over {FILES} files of {ROWS_OF_MANY} records:");
    let newer = Files::write(ROWS_OF_MANY, "other", &dir.join("newer.parquet"))?;
    // Fewer rows, so it is the last to be looked at.
    let oldest = Files::write(ROWS_OF_MANY - 1, "key", &dir.join("oldest.parquet"))?;
    let mut files = vec![oldest.local[0].clone()];
    for number in 1..FILES {
        let path = dir.join(format!("newer-{number}.parquet"));
        std::fs::hard_link(dir.join("newer.parquet"), &path)?;
        files.push(FileRef { source: path.into(), ..newer.local[0].clone() });
    }
    let cache = FileCache::new(CACHE_BYTES);
    let mut number = 0_usize;
    let mut next = move || {
        number = number.wrapping_add(7_368_787);
        number % (ROWS_OF_MANY - 1)
    };
    measure("key, present in the oldest", duration, &mut next, |row| {
        newer.ask(&newer.by_key(format!("key-{row:012}")), &files, &cache, 1)
    })?;
    measure("key, absent", duration, &mut next, |row| {
        newer.ask(&newer.by_key(format!("none-{row:012}")), &files, &cache, 0)
    })?;
    println!("{} bytes of the cache in use", cache.bytes());
    Ok(())
}

fn measure(
    name: &str,
    duration: Duration,
    next: &mut impl FnMut() -> usize,
    mut once: impl FnMut(usize) -> io::Result<()>,
) -> io::Result<()> {
    let mut times = Vec::new();
    for _ in 0..100 {
        once(next())?;
    }
    let end = Instant::now() + duration;
    while Instant::now() < end {
        let row = next();
        let start = Instant::now();
        once(row)?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
    println!(
        "{name:<28} p50 {:>8.1} µs  p99 {:>8.1} µs  max {:>8.1} µs  n {}",
        at(0.5),
        at(0.99),
        at(1.0),
        times.len()
    );
    Ok(())
}

/// One file, as a local one and as an object whose reads are counted.
struct Files {
    stream: StreamId,
    buffer: BufferSnapshot,
    /// The same rows before they are in a file.
    not_flushed: BufferSnapshot,
    local: [FileRef; 1],
    object: [FileRef; 1],
    counted: Arc<Counted>,
}

#[derive(Debug)]
struct Counted {
    file: File,
    rounds: AtomicU64,
    bytes: AtomicU64,
}

impl RangeRead for Counted {
    fn read_ranges(&self, ranges: &[Range<u64>]) -> io::Result<Vec<Bytes>> {
        self.rounds.fetch_add(1, Relaxed);
        let read = |range: &Range<u64>| {
            let mut bytes = vec![0; usize::try_from(range.end - range.start).map_err(io::Error::other)?];
            self.file.read_exact_at(&mut bytes, range.start)?;
            self.bytes.fetch_add(bytes.len() as u64, Relaxed);
            Ok(Bytes::from(bytes))
        };
        ranges.iter().map(read).collect()
    }
}

impl Files {
    /// A file whose keys begin with `prefix`.
    fn write(rows: usize, prefix: &str, path: &std::path::Path) -> io::Result<Self> {
        let stream = StreamId::generate();
        let definition = r#"{"type":"object","properties":{"key":{"type":"string"},"n":{"type":"integer"}}}"#;
        let record = |row: usize| {
            // Text that compresses about as well as events do.
            let filler = format!("{:064x}", (row as u128).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835));
            Bytes::from(format!(
                r#"{{"key":"{prefix}-{row:012}","n":{row},"url":"https://example.com/products/{filler}","agent":"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)","referrer":"https://example.com/","ok":true}}"#
            ))
        };
        let payloads: Vec<Bytes> = (0..rows).map(record).collect();
        let schema = CompiledSchema::compile(SchemaId::generate(), 1, definition).map_err(io::Error::other)?;
        let job = WriteJob {
            stream,
            schema: Arc::new(schema),
            pipelines: Arc::default(),
            hour: PartitionHour(0),
            batches: batches(stream, &payloads),
            key_fields: [KeyField::new(FIELD)].into(),
            path: path.to_owned(),
        };
        let meta = write(&job).map_err(io::Error::other)?;
        println!("lookup: {rows} records of {} bytes, a file of {} bytes", payloads[0].len(), meta.bytes);
        let counted =
            Arc::new(Counted { file: File::open(&meta.path)?, rounds: AtomicU64::new(0), bytes: AtomicU64::new(0) });
        let file = |source| FileRef {
            source,
            hour: meta.hour,
            first_sequence: meta.first_sequence,
            last_sequence: meta.last_sequence,
            min_timestamp: meta.min_timestamp,
            max_timestamp: meta.max_timestamp,
            bytes: meta.bytes,
        };
        let object = FileSource::Object {
            key: "object".into(),
            bytes: meta.bytes,
            ranges: Arc::clone(&counted) as Arc<dyn RangeRead>,
        };
        let last = meta.last_sequence;
        let buffer = |batches, flushed_through| BufferSnapshot {
            stream,
            batches,
            flushed_through,
            last_sequence: last,
            next_sequence: last + 1,
            pipelines: Default::default(),
        };
        Ok(Self {
            stream,
            buffer: buffer(Vec::new(), last),
            not_flushed: buffer(job.batches, 0),
            local: [file(meta.path.clone().into())],
            object: [file(object)],
            counted,
        })
    }

    fn by_key(&self, key: String) -> Query {
        Query::Lookup(KeyLookup { stream: self.stream, wanted: Wanted::Key { field: KeyField::new(FIELD), key } })
    }

    fn range(&self, order: Order, after: i64) -> Query {
        Query::TimeRange(TimeRangeQuery {
            stream: self.stream,
            time_field: TimeField::Ingest,
            start_unix_micros: i64::MIN,
            end_unix_micros: i64::MAX,
            limit: RANGE_ROWS,
            order,
            after_sequence: Some(after),
        })
    }

    /// How long it takes to know that a key is in none of the rows, while they are not flushed.
    fn unflushed(&self, cache: &FileCache) -> io::Result<()> {
        println!("in rows that are not flushed, a key that none has:");
        for (field, key) in [(FIELD, "none"), ("n", "4000000000")] {
            let wanted = Wanted::Key { field: KeyField::new(field), key: key.to_owned() };
            let query = Query::Lookup(KeyLookup { stream: self.stream, wanted });
            let context = QueryContext { cache, bounds: &Bounds::default() };
            let mut times = Vec::new();
            for _ in 0..SCANS {
                let start = Instant::now();
                let answer = query.answer(&self.not_flushed, &[], &context).map_err(io::Error::other)?;
                times.push(start.elapsed());
                if !answer.records.is_empty() {
                    return Err(io::Error::other(format!("{key} is there")));
                }
            }
            times.sort_unstable();
            let median = times[times.len() / 2].as_secs_f64();
            let each = median / self.buffer.last_sequence as f64 * 1e9;
            println!("{field:<28} p50 {:>8.1} ms  {each:>6.1} ns a row", median * 1e3);
        }
        Ok(())
    }

    /// Asks, and checks how many records come.
    fn ask(&self, query: &Query, files: &[FileRef], cache: &FileCache, records: usize) -> io::Result<()> {
        let answer = self.answer(query, files, cache)?;
        if answer.records.len() < records.min(1) || answer.records.len() > records {
            return Err(io::Error::other(format!("{} records, not {records}, of {query:?}", answer.records.len())));
        }
        Ok(())
    }

    fn answer(&self, query: &Query, files: &[FileRef], cache: &FileCache) -> io::Result<QueryAnswer> {
        let context = QueryContext { cache, bounds: &Bounds::default() };
        query.answer(&self.buffer, files, &context).map_err(io::Error::other)
    }

    /// Prints round trips and bytes of `times` queries each. Each counts what it alone reads: the ranges that a query before
    /// it left in the cache are few among so many rows.
    fn count(&self, name: &str, times: u64, cache: &FileCache, mut query: impl FnMut() -> Query) -> io::Result<()> {
        self.answer(&query(), &self.object, cache)?;
        self.counted.rounds.store(0, Relaxed);
        self.counted.bytes.store(0, Relaxed);
        for _ in 0..times {
            self.answer(&query(), &self.object, cache)?;
        }
        let each = |total: &AtomicU64| total.load(Relaxed) as f64 / times as f64;
        println!(
            "{name:<40} {:>6.2} round trips {:>10.0} bytes",
            each(&self.counted.rounds),
            each(&self.counted.bytes)
        );
        Ok(())
    }
}
