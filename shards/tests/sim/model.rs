//! What must be true, whatever happens: a model of what clients were told.

use std::collections::BTreeMap;

use bytes::Bytes;
use ttdust_shards::{
    ids::{FIRST_SEQUENCE, StreamId},
    io::sim::SimRng,
    wal::batch::RowBatch,
};

/// What a client knows of a submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// Nothing yet.
    Waiting,
    /// Acknowledged, or surfaced by a recovery: it must stay, from this sequence number on.
    Kept(i64),
    /// A recovery did not surface it; so many acknowledgements had been given by then.
    Gone(u64),
}

#[derive(Debug)]
struct Submission {
    stream: StreamId,
    count: usize,
    seed: u64,
    known: Known,
}

impl Submission {
    fn payload(&self, token: u64, index: usize) -> Bytes {
        let mut rng = SimRng::new(self.seed ^ (index as u64) << 32);
        let len = match self.seed % 64 {
            0 => 20_000 + rng.below(30_000),
            1..4 => rng.below(9000),
            _ => rng.below(300),
        };
        let mut bytes = format!("{token}:{index}:").into_bytes();
        let fill = rng.next_u64();
        bytes.extend((0..len).map(|i| (fill.rotate_left(i as u32 % 64) as u8).wrapping_add(i as u8)));
        Bytes::from(bytes)
    }
}

/// The model.
#[derive(Debug, Default)]
pub struct Model {
    submissions: Vec<Submission>,
    flushed: BTreeMap<StreamId, i64>,
    acks: u64,
}

impl Model {
    /// A new submission: its token and its records.
    pub fn submit(&mut self, stream: StreamId, rng: &mut SimRng) -> (u64, Vec<Bytes>) {
        let token = self.submissions.len() as u64;
        let seed = rng.next_u64();
        let count = if seed.is_multiple_of(64) { 1 } else { 1 + rng.below(6) as usize };
        let submission = Submission { stream, count, seed, known: Known::Waiting };
        let payloads = (0..count).map(|index| submission.payload(token, index)).collect();
        self.submissions.push(submission);
        (token, payloads)
    }

    /// A submission was acknowledged.
    pub fn acked(&mut self, token: u64, first_sequence: i64) -> Result<(), String> {
        self.acks += 1;
        let submission = &mut self.submissions[token as usize];
        if submission.known != Known::Waiting {
            return Err(format!("submission {token} was acknowledged in the state {:?}", submission.known));
        }
        submission.known = Known::Kept(first_sequence);
        Ok(())
    }

    /// Rows of a stream are in committed files.
    pub fn flush(&mut self, stream: StreamId, through: i64) {
        let flushed = self.flushed.entry(stream).or_insert(through);
        *flushed = through.max(*flushed);
    }

    /// The last sequence number in committed files, by stream.
    pub fn flushed(&self) -> &BTreeMap<StreamId, i64> {
        &self.flushed
    }

    /// Checks a batch's records against what was submitted, and gives the submission's token.
    pub fn check_batch(&self, batch: &RowBatch) -> Result<u64, String> {
        let header = batch.header();
        let rows = batch.rows().map_err(|error| format!("{header:?} cannot be read: {error}"))?;
        let text = rows.payload(0);
        let token = text.split(|&byte| byte == b':').next().and_then(|token| std::str::from_utf8(token).ok());
        let token: u64 = token.and_then(|token| token.parse().ok()).ok_or("a record that nobody submitted")?;
        let submission = self.submissions.get(token as usize).ok_or("a token that was never given")?;
        if submission.stream != header.stream || submission.count != rows.count() {
            return Err(format!("submission {token} came back as {header:?}"));
        }
        for index in 0..rows.count() {
            if rows.payload(index) != submission.payload(token, index) || rows.key(index) != key(token, index) {
                return Err(format!("record {index} of submission {token} came back with other bytes"));
            }
        }
        Ok(token)
    }

    /// Holds what a recovery surfaced against what clients know.
    pub fn check_recovered(&mut self, batches: &[RowBatch]) -> Result<(), String> {
        let mut next: BTreeMap<StreamId, i64> = BTreeMap::new();
        let mut surfaced = vec![None; self.submissions.len()];
        for batch in batches {
            let token = self.check_batch(batch)?;
            let header = batch.header();
            let flushed = self.flushed.get(&header.stream).copied().unwrap_or(FIRST_SEQUENCE - 1);
            let wanted = next.entry(header.stream).or_insert_with(|| header.first_sequence.min(flushed + 1));
            if header.first_sequence != *wanted {
                return Err(format!("sequence number {wanted} was expected, not that of {header:?}"));
            }
            *wanted = header.last_sequence() + 1;
            if surfaced[token as usize].replace(header.first_sequence).is_some() {
                return Err(format!("submission {token} came back twice"));
            }
        }
        for (token, (submission, surfaced)) in self.submissions.iter_mut().zip(surfaced).enumerate() {
            let flushed = self.flushed.get(&submission.stream).copied().unwrap_or(FIRST_SEQUENCE - 1);
            submission.known = match (submission.known, surfaced) {
                (Known::Kept(first), None) if first + submission.count as i64 - 1 > flushed => {
                    return Err(format!("submission {token}, acknowledged as {first}, is gone"));
                }
                (Known::Kept(first), None) => Known::Kept(first),
                (Known::Kept(first), Some(now)) if first != now => {
                    return Err(format!("submission {token}, acknowledged as {first}, came back as {now}"));
                }
                (Known::Gone(acks), Some(_)) if acks != self.acks => {
                    return Err(format!("submission {token} was gone, and came back after others were acknowledged"));
                }
                (_, Some(now)) => Known::Kept(now),
                (Known::Waiting, None) => Known::Gone(self.acks),
                (Known::Gone(acks), None) => Known::Gone(acks),
            };
        }
        Ok(())
    }
}

/// The idempotency key of a record: each submission of an even token has some.
pub fn key(token: u64, index: usize) -> Bytes {
    if token.is_multiple_of(2) && index != 1 { Bytes::from(format!("key-{token}-{index}")) } else { Bytes::new() }
}
