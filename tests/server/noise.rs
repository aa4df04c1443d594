//! Records that do not compress, and producers that send them until the log is full, or until they are taken again.

#![allow(dead_code, reason = "each test that includes this file uses a part of it")]

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::{
    process::DEADLINE,
    producer::{Producer, Refused},
};

/// Refusals in a row after which the log counts as full.
const REFUSALS: usize = 40;
/// About the length of a record.
pub const RECORD_BYTES: usize = 2000;
/// Records of a batch.
pub const BATCH: usize = 50;

/// Text that does not compress much (SplitMix64, Steele et al., 2014), so that files take room too.
pub struct Noise(pub u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn record(&mut self) -> Bytes {
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-";
        let mut text = String::with_capacity(RECORD_BYTES + 32);
        text.push_str(r#"{"noise":""#);
        while text.len() < RECORD_BYTES {
            let mut bits = self.next();
            for _ in 0..10 {
                text.push(char::from(DIGITS[(bits & 63) as usize]));
                bits >>= 6;
            }
        }
        text.push_str("\"}");
        text.into()
    }

    pub fn batch(&mut self) -> Vec<Bytes> {
        (0..BATCH).map(|_| self.record()).collect()
    }
}

/// Appends until nothing has been taken for a while; returns the last refusal.
pub async fn fill(producer: &mut Producer, noise: &mut Noise) -> Refused {
    let end = Instant::now() + DEADLINE;
    let mut refusals = 0;
    loop {
        match producer.append(noise.batch()).await {
            Ok(()) => refusals = 0,
            Err(refused) => {
                let (reason, after) = refused.reason();
                assert!(["BACKPRESSURE", "LOG_FULL"].contains(&reason), "{refused:?}");
                assert!((1..=60_000).contains(&after), "{refused:?}");
                match &refused {
                    Refused::Answered(_) => assert_eq!(reason, "BACKPRESSURE", "{refused:?}"),
                    Refused::Ended(ended) => assert_eq!((ended.code, reason), (14, "LOG_FULL"), "{refused:?}"),
                }
                refusals += 1;
                if refusals >= REFUSALS {
                    return refused;
                }
                tokio::time::sleep(Duration::from_millis(after.min(20))).await;
            }
        }
        assert!(Instant::now() < end, "the log never filled: {} records acked", producer.acked.len());
    }
}

/// Appends a batch, trying again as the server says.
pub async fn append_at_last(producer: &mut Producer, noise: &mut Noise) {
    let end = Instant::now() + DEADLINE;
    while let Err(refused) = producer.append(noise.batch()).await {
        assert!(Instant::now() < end, "still refused: {refused:?}");
        tokio::time::sleep(Duration::from_millis(refused.reason().1)).await;
    }
}
