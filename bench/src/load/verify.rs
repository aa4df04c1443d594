//! Reading back: every acked record is there once, sequence numbers have no gaps, payloads are what was sent.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use h2::client::SendRequest;
use serde::Serialize;
use ttdust_proto::query::{Record, TimeRangeQueryRequest, TimeRangeQueryResponse};

use super::{acked::AckedStream, sequences::Sequences};
use crate::{
    client::{CallError, ConnectError, Target, unary},
    payload::Payloads,
};

/// Records a query, at most as many as the contract allows.
const PAGE_RECORDS: i32 = 10_000;

/// What was found. Good is when `problems` is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Records acked.
    pub acked: u64,
    /// Records read back, in the time range of the run.
    pub read: u64,
    /// Payloads compared with what was sent under that sequence number.
    pub samples_compared: u64,
    /// Records that this run has no ack of: another writer's, or of requests whose outcome is unknown.
    pub not_ours: u64,
    /// What is wrong; empty: nothing.
    pub problems: Vec<String>,
}

/// Nothing could be read back.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A query failed.
    #[error("QueryTimeRange of {stream} failed: {source}")]
    Query {
        /// The stream.
        stream: String,
        /// Why.
        source: CallError,
    },
}

/// Checks of one stream, fed page by page.
#[derive(Debug)]
struct Check<'a> {
    acked: &'a AckedStream,
    payloads: &'a Payloads,
    known: HashSet<&'a [u8]>,
    samples: HashMap<i64, u64>,
    seen: Sequences,
    last: Option<(i64, i64)>,
    verdict: Verdict,
    out_of_order: u64,
    twice: u64,
    foreign: u64,
    wrong: u64,
}

impl<'a> Check<'a> {
    fn new(acked: &'a AckedStream, payloads: &'a Payloads) -> Self {
        Self {
            acked,
            payloads,
            known: payloads.iter().map(|record| &record[..]).collect(),
            samples: acked.samples.iter().copied().collect(),
            seen: Sequences::default(),
            last: None,
            verdict: Verdict::default(),
            out_of_order: 0,
            twice: 0,
            foreign: 0,
            wrong: 0,
        }
    }

    fn feed(&mut self, records: &[Record]) {
        for record in records {
            self.verdict.read += 1;
            self.twice += self.seen.insert(record.sequence_number, record.sequence_number);
            let place = (record.timestamp_unix_micros, record.sequence_number);
            self.out_of_order += u64::from(self.last.is_some_and(|last| place <= last));
            self.last = Some(place);
            self.foreign += u64::from(!self.known.contains(&record.payload[..]));
            if let Some(&index) = self.samples.get(&record.sequence_number) {
                self.verdict.samples_compared += 1;
                self.wrong += u64::from(self.payloads.get(index) != &record.payload);
            }
        }
    }

    fn finish(mut self) -> Verdict {
        let stream = &self.acked.stream;
        let mut problem = |count: u64, what: &str| {
            if count > 0 {
                self.verdict.problems.push(format!("{stream}: {count} {what}"));
            }
        };
        let mut ours = Sequences::default();
        self.acked.ranges.iter().for_each(|&(first, last)| {
            ours.insert(first, last);
        });
        let mut union = self.seen.clone();
        let shared = union.merge(&ours);
        problem(ours.len() - shared, "acked records are not there");
        problem(self.twice, "records are there more than once");
        problem(self.out_of_order, "records are out of order");
        problem(self.wrong, "records have another payload than was sent under their sequence number");
        let gaps = self.seen.ranges().count().saturating_sub(1);
        problem(gaps as u64, "gaps in the sequence numbers");
        self.verdict.acked = ours.len();
        self.verdict.not_ours = self.seen.len() - shared;
        problem(self.foreign.saturating_sub(self.verdict.not_ours), "records have a payload that was never sent");
        let uncompared = self.samples.len() as u64 - self.verdict.samples_compared.min(self.samples.len() as u64);
        // Missing ones were counted above: this is only to say so when nothing could be compared at all.
        if self.verdict.acked > 0 && self.verdict.samples_compared == 0 && uncompared > 0 {
            problem(uncompared, "samples could not be compared");
        }
        self.verdict
    }
}

impl Verdict {
    fn merge(&mut self, other: Self) {
        self.acked += other.acked;
        self.read += other.read;
        self.samples_compared += other.samples_compared;
        self.not_ours += other.not_ours;
        self.problems.extend(other.problems);
    }
}

/// Reads the streams back and checks them. `progress` is told the records read so far.
///
/// # Errors
/// See [`VerifyError`].
pub async fn verify(
    target: &Target,
    streams: &[AckedStream],
    payloads: &Payloads,
    mut progress: impl FnMut(u64),
) -> Result<Verdict, VerifyError> {
    let (mut send, link) = target.connect().await?;
    // Errors of the connection reach each call; the task only keeps it going.
    let link = tokio::spawn(async move { drop(link.await) });
    let mut verdict = Verdict::default();
    for acked in streams {
        let mut check = Check::new(acked, payloads);
        read_back(target, &mut send, acked, |records| {
            check.feed(records);
            progress(verdict.read + check.verdict.read);
        })
        .await
        .map_err(|source| VerifyError::Query { stream: acked.stream.clone(), source })?;
        verdict.merge(check.finish());
    }
    link.abort();
    Ok(verdict)
}

async fn read_back(
    target: &Target,
    send: &mut SendRequest<Bytes>,
    acked: &AckedStream,
    mut each: impl FnMut(&[Record]),
) -> Result<(), CallError> {
    let Some((from, to)) = acked.times else { return Ok(()) };
    let mut request = TimeRangeQueryRequest {
        stream_id: acked.stream.clone(),
        start_time_unix_micros: from,
        end_time_unix_micros: to + 1,
        limit: Some(PAGE_RECORDS),
        cursor: None,
        order: None,
        time_field: None,
    };
    loop {
        let page: TimeRangeQueryResponse = unary(send, target, ttdust_proto::path::QUERY_TIME_RANGE, &request).await?;
        each(&page.records);
        match page.next_cursor.filter(|cursor| !cursor.is_empty()) {
            Some(cursor) => request.cursor = Some(cursor),
            None => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payloads() -> Payloads {
        Payloads::new((0..10).map(|n| Bytes::from(format!("{{\"n\":{n}}}"))).collect())
    }

    fn record(sequence: i64, n: u64) -> Record {
        Record {
            sequence_number: sequence,
            timestamp_unix_micros: 1000 + sequence / 3,
            payload: payloads().get(n).clone(),
            ..Record::default()
        }
    }

    fn verdict(change: impl FnOnce(&mut Vec<Record>)) -> Verdict {
        let payloads = payloads();
        let acked = AckedStream {
            stream: "s".into(),
            ranges: vec![(5, 14), (17, 20)],
            times: Some((1000, 2000)),
            samples: vec![(6, 6), (20, 0)],
        };
        let mut records: Vec<Record> = (5..=20).map(|sequence| record(sequence, sequence as u64 % 10)).collect();
        change(&mut records);
        let mut check = Check::new(&acked, &payloads);
        check.feed(&records[..4]);
        check.feed(&records[4..]);
        check.finish()
    }

    #[test]
    fn what_is_all_there_passes_and_what_is_not_ours_is_only_counted() {
        let verdict = verdict(|records| records[10].payload = Bytes::from_static(b"{\"other\":1}"));
        assert_eq!(verdict, Verdict { acked: 14, read: 16, samples_compared: 2, not_ours: 2, problems: Vec::new() });
    }

    #[test]
    fn each_fault_is_told() {
        let told = |change: fn(&mut Vec<Record>), wanted: &str| {
            let problems = verdict(change).problems;
            assert!(problems.iter().any(|problem| problem.contains(wanted)), "{wanted}: {problems:?}");
        };
        told(|records| drop(records.pop()), "1 acked records are not there");
        told(|records| drop(records.remove(8)), "1 gaps");
        told(|records| records.insert(8, records[8].clone()), "1 records are there more than once");
        told(|records| records.swap(2, 12), "out of order");
        told(|records| records[1].payload = Bytes::from_static(b"{\"n\":7}"), "1 records have another payload");
        told(
            |records| records.iter_mut().take(3).for_each(|record| record.payload = Bytes::from_static(b"x")),
            "1 records have a payload that was never sent",
        );
    }
}
