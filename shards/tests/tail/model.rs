//! Random appends, flushes and readers that come, read, pause, leave and come back, against a list of what was acked.

use ttdust_proto::query::StreamingReadRequest;
use ttdust_shards::config::IoChoice;

use crate::{
    control::{Fixture, config},
    reader::{Producer, Reader, block_on, from, metric, start_at, wait_until},
};

const STEPS: usize = 250;

/// The generator of SplitMix64 (Steele et al., 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// A reader, and the rows that were there when it began.
struct Reading {
    reader: Reader,
    there: i64,
}

/// A new reader from a random place.
async fn open(fixture: &Fixture, producer: &Producer, random: &mut Random) -> Reading {
    let there = producer.rows.len() as i64;
    let (request, next) = match random.below(4) {
        0 => (from(None), there + 1),
        1 if there > 0 => {
            let time = producer.times[random.below(producer.times.len())] + random.below(2) as i64;
            let first = producer.times.iter().position(|&other| other >= time).map_or(there, |index| index as i64) + 1;
            (StreamingReadRequest { start_time: Some(time), ..from(None) }, first)
        }
        2 => (start_at(there + 1 + random.below(300) as i64), 0),
        _ => (start_at(1 + random.below(there as usize + 1) as i64), 0),
    };
    let next = request.start_sequence.unwrap_or(next);
    Reading { reader: Reader::open(fixture, request, next).await, there }
}

/// Reads at most `count` rows of what was acked.
async fn read(fixture: &Fixture, reading: &mut Reading, producer: &Producer, count: usize) {
    for _ in 0..count {
        if reading.reader.next > producer.rows.len() as i64 {
            break;
        }
        let sequence = reading.reader.next;
        let is_historical = match reading.reader.try_receive(producer).await {
            Some(Ok(is_historical)) => is_historical,
            Some(Err(ended)) if ended.reason != "READER_TOO_SLOW" => panic!("{ended:?}"),
            // It held memory that others waited for. It goes on where it was.
            _ => {
                reading.there = producer.rows.len() as i64;
                reading.reader = Reader::open(fixture, start_at(sequence), sequence).await;
                continue;
            }
        };
        assert!(is_historical || sequence > reading.there, "row {sequence} was there when the reader began");
    }
}

/// One run.
pub fn run(seed: u64) {
    let mut random = Random(seed);
    let dir = tempfile::tempdir().expect("a directory");
    let mut config = config(dir.path(), 1 + random.below(3), IoChoice::Auto);
    // Small, so that readers fall back; smaller yet, so that they wait for each other's memory.
    let (memory_bytes, readers_max) = if seed % 3 == 1 { (1 << 20, 10) } else { (4 << 20, 5) };
    config.tail_memory_bytes = memory_bytes;
    config.buffer.memory_bytes = 1 << 20;
    let fixture = Fixture::start(config);
    block_on(async {
        let mut producer = Producer::connect(&fixture).await;
        let mut readings: Vec<Reading> = Vec::new();
        for _ in 0..STEPS {
            match random.below(10) {
                0..4 => {
                    let (count, bytes) = (1 + random.below(120), random.below(3000));
                    producer.append(count, bytes).await;
                }
                4 => fixture.flush().await,
                5 if readings.len() < readers_max => readings.push(open(&fixture, &producer, &mut random).await),
                6 if !readings.is_empty() => {
                    // It goes away and comes back where it was.
                    let at = random.below(readings.len());
                    let Reading { reader, .. } = readings.swap_remove(at);
                    let next = reader.next;
                    drop(reader);
                    if random.below(3) > 0 {
                        let there = producer.rows.len() as i64;
                        let reader = Reader::open(&fixture, start_at(next), next).await;
                        readings.push(Reading { reader, there });
                    }
                }
                _ if !readings.is_empty() => {
                    let at = random.below(readings.len());
                    let count = [1, 20, 500, 10_000][random.below(4)];
                    read(&fixture, &mut readings[at], &producer, count).await;
                }
                _ => {}
            }
        }
        for mut reading in readings {
            read(&fixture, &mut reading, &producer, usize::MAX).await;
        }
        let fallbacks = metric(&fixture, |m| m.tail_fallbacks.get());
        println!("{} rows, {fallbacks} fallbacks", producer.rows.len());
        wait_until("the memory of readers is free", || metric(&fixture, |m| m.tail_queue_bytes.get()) == 0).await;
    });
    fixture.stop();
}
