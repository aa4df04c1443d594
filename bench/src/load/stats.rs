//! What a run counts. One a thread, merged at the end.
//!
//! A request is in the measured window by when it started (latencies), a record by when its ack came (throughput). Sequence
//! numbers, errors and totals count over the whole run, the warm-up included.

use bytes::Bytes;
use hdrhistogram::Histogram;

use super::{flight::Sent, sequences::Sequences};
use crate::{client::Errors, messages::Messages, stalls, wire::Answer};

/// Latencies over this count as this, in ns: an hour.
const LATENCY_NS_MAX: u64 = 3_600_000_000_000;
/// One acked record in so many has its payload compared by `--verify`.
const SAMPLE_EVERY: u64 = 97;
const SAMPLES_MAX: usize = 100_000;
const SECOND_NS: u64 = 1_000_000_000;

/// The measured part of a run, in ns since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// From here on,
    pub from_ns: u64,
    /// and before here.
    pub to_ns: u64,
}

impl Window {
    /// Whether `at_ns` is in it.
    #[must_use]
    pub fn holds(&self, at_ns: u64) -> bool {
        (self.from_ns..self.to_ns).contains(&at_ns)
    }
}

/// A second of the measured window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Second {
    /// Records acked in it.
    pub records: u64,
    /// The longest that an ack in it took, in ns.
    pub slowest_ns: u64,
}

/// What was acked of one stream: for `--verify`.
#[derive(Debug, Default)]
pub struct Acked {
    /// The sequence numbers.
    pub sequences: Sequences,
    /// Some of them, with the index of the payload that was sent.
    pub samples: Vec<(i64, u64)>,
    /// The earliest and the latest time in an ack, Unix µs.
    pub times: Option<(i64, i64)>,
}

impl Acked {
    fn add(&mut self, answer: &Answer, sent: Sent, messages: &Messages) -> u64 {
        let twice = self.sequences.insert(answer.first_sequence, answer.last_sequence);
        let time = answer.timestamp_unix_micros;
        self.times = Some(self.times.map_or((time, time), |(from, to)| (from.min(time), to.max(time))));
        // Only where each record of the request was taken is it known which sequence number is whose.
        if answer.accepted == messages.batch() && self.samples.len() < SAMPLES_MAX {
            let row = (SAMPLE_EVERY - self.sequences.len() % SAMPLE_EVERY) % SAMPLE_EVERY;
            let row = if answer.accepted > 1 { row % u64::from(answer.accepted) } else { row };
            if row < u64::from(answer.accepted) {
                self.samples
                    .push((answer.first_sequence + row as i64, messages.payload_index(sent.message, row as u32)));
            }
        }
        twice
    }

    /// Adds all of `other`; how many sequence numbers both had.
    pub fn merge(&mut self, other: Self) -> u64 {
        self.samples.extend(other.samples);
        self.times = match (self.times, other.times) {
            (Some((a, b)), Some((c, d))) => Some((a.min(c), b.max(d))),
            (one, another) => one.or(another),
        };
        self.sequences.merge(&other.sequences)
    }
}

/// What was not as the contract says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Violations {
    /// Acks whose sequence numbers do not follow those of the call's ack before.
    pub order: u64,
    /// Answers whose counts do not sum to the records sent, or whose range does not fit the count.
    pub counts: u64,
    /// Sequence numbers acked twice (only with `--verify`).
    pub acked_twice: u64,
}

impl Violations {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.order + self.counts + self.acked_twice
    }
}

/// See the module's comment.
#[derive(Debug)]
pub struct Stats {
    /// From start to final answer of good requests that started in the window, in ns.
    pub latency: Histogram<u64>,
    /// Of these, those that no stall of the machine fell into; see [`stalls`].
    pub undisturbed: Histogram<u64>,
    /// How late the generator sent, in ns; open loop only.
    pub lag: Histogram<u64>,
    /// Requests acked in the window.
    pub window_requests: u64,
    /// Records acked in the window.
    pub window_records: u64,
    /// Their payloads, in bytes.
    pub window_bytes: u64,
    /// The window, second by second, as far as there were acks.
    pub seconds: Vec<Second>,
    /// Requests with a final answer.
    pub requests: u64,
    /// Records acked.
    pub acked: u64,
    /// Records that were there already.
    pub duplicates: u64,
    /// Records refused for what they hold.
    pub rejected: u64,
    /// Records put into the dead-letter queue.
    pub dead_lettered: u64,
    /// Requests refused for now.
    pub rate_limited: u64,
    /// Requests sent again for that.
    pub retries: u64,
    /// Requests sent and never answered: their outcome is unknown.
    pub unanswered: u64,
    /// Requests due before the end and never sent.
    pub unsent: u64,
    /// By kind: records where an answer told of records, else requests, calls or connections.
    pub errors: Errors,
    /// Breaches of the contract.
    pub violations: Violations,
    /// One a stream; empty without `--verify`.
    pub acked_of: Vec<Acked>,
}

impl Stats {
    /// Nothing counted. `verify_streams`: how many streams to remember sequence numbers of.
    #[must_use]
    pub fn new(verify_streams: usize) -> Self {
        Self {
            latency: histogram(),
            undisturbed: histogram(),
            lag: histogram(),
            window_requests: 0,
            window_records: 0,
            window_bytes: 0,
            seconds: Vec::new(),
            requests: 0,
            acked: 0,
            duplicates: 0,
            rejected: 0,
            dead_lettered: 0,
            rate_limited: 0,
            retries: 0,
            unanswered: 0,
            unsent: 0,
            errors: Errors::default(),
            violations: Violations::default(),
            acked_of: (0..verify_streams).map(|_| Acked::default()).collect(),
        }
    }

    /// Counts a final answer to `sent` that came at `now_ns`. Reasons of what is not good are the caller's to add.
    pub fn answered(
        &mut self,
        answer: &Answer,
        sent: Sent,
        stream: usize,
        messages: &Messages,
        now_ns: u64,
        window: Window,
    ) {
        self.requests += 1;
        self.acked += u64::from(answer.accepted);
        self.duplicates += u64::from(answer.duplicates);
        self.rejected += u64::from(answer.rejected);
        self.dead_lettered += u64::from(answer.dead_lettered);
        let told = answer.accepted + answer.duplicates + answer.rejected + answer.dead_lettered;
        let range = answer.last_sequence - answer.first_sequence + 1;
        let fits = answer.accepted == 0 || range == i64::from(answer.accepted);
        // An answer that tells of no record is an error as a whole.
        if (told != 0 && told != messages.batch()) || !fits {
            self.violations.counts += 1;
        }
        if answer.accepted + answer.duplicates > 0 && window.holds(sent.start_ns) {
            let latency_ns = now_ns.saturating_sub(sent.start_ns);
            self.record(latency_ns);
        }
        if answer.accepted > 0 {
            if window.holds(now_ns) {
                self.window_requests += 1;
                self.window_records += u64::from(answer.accepted);
                let bytes = u64::from(messages.payload_bytes(sent.message));
                self.window_bytes += bytes * u64::from(answer.accepted) / u64::from(messages.batch());
                let second = self.second(((now_ns - window.from_ns) / SECOND_NS) as usize);
                second.records += u64::from(answer.accepted);
                second.slowest_ns = second.slowest_ns.max(now_ns.saturating_sub(sent.start_ns));
            }
            if let (Some(acked), true) = (self.acked_of.get_mut(stream), fits) {
                self.violations.acked_twice += acked.add(answer, sent, messages);
            }
        }
    }

    fn second(&mut self, at: usize) -> &mut Second {
        if self.seconds.len() <= at {
            self.seconds.resize(at + 1, Second::default());
        }
        &mut self.seconds[at]
    }

    /// Counts a latency that ends now.
    fn record(&mut self, latency_ns: u64) {
        self.latency.saturating_record(latency_ns);
        if !stalls::ended_within(latency_ns) {
            self.undisturbed.saturating_record(latency_ns);
        }
    }

    /// Counts requests that were due at these times and never sent. Their latency is at least what they waited, and counts as
    /// that: leaving them out would make an overloaded server look good.
    pub fn never_sent(&mut self, due_ns: impl Iterator<Item = u64>, now_ns: u64, window: Window) {
        for due_ns in due_ns {
            self.unsent += 1;
            if window.holds(due_ns) {
                self.record(now_ns.saturating_sub(due_ns));
            }
        }
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: Self) {
        self.latency += other.latency;
        self.undisturbed += other.undisturbed;
        self.lag += other.lag;
        self.window_requests += other.window_requests;
        self.window_records += other.window_records;
        self.window_bytes += other.window_bytes;
        for (at, theirs) in other.seconds.into_iter().enumerate() {
            let mine = self.second(at);
            mine.records += theirs.records;
            mine.slowest_ns = mine.slowest_ns.max(theirs.slowest_ns);
        }
        self.requests += other.requests;
        self.acked += other.acked;
        self.duplicates += other.duplicates;
        self.rejected += other.rejected;
        self.dead_lettered += other.dead_lettered;
        self.rate_limited += other.rate_limited;
        self.retries += other.retries;
        self.unanswered += other.unanswered;
        self.unsent += other.unsent;
        self.errors.merge(other.errors);
        self.violations.order += other.violations.order;
        self.violations.counts += other.violations.counts;
        self.violations.acked_twice += other.violations.acked_twice;
        for (mine, theirs) in self.acked_of.iter_mut().zip(other.acked_of) {
            self.violations.acked_twice += mine.merge(theirs);
        }
    }
}

/// For latencies in ns, to three digits.
#[must_use]
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1024, LATENCY_NS_MAX, 3).expect("constant bounds")
}

/// A histogram in the percentile text format that HdrHistogram tools read, in ms.
#[must_use]
pub fn hgrm(histogram: &Histogram<u64>) -> Bytes {
    use std::fmt::Write as _;
    let mut text = String::from("       Value     Percentile TotalCount 1/(1-Percentile)\n\n");
    let ms = |ns: f64| ns / 1e6;
    let mut total = 0;
    for step in histogram.iter_quantiles(5) {
        total += step.count_since_last_iteration();
        let quantile = step.quantile_iterated_to();
        let value = ms(step.value_iterated_to() as f64);
        let line = if quantile < 1.0 {
            writeln!(text, "{value:12.3} {quantile:.12} {total:10} {:14.2}", 1.0 / (1.0 - quantile))
        } else {
            writeln!(text, "{value:12.3} {quantile:.12} {total:10}")
        };
        line.expect("a String grows");
    }
    write!(
        text,
        "#[Mean    = {:12.3}, StdDeviation   = {:12.3}]\n#[Max     = {:12.3}, Total count    = {:12}]\n\
         #[Buckets = {:12}, SubBuckets     = {:12}]\n",
        ms(histogram.mean()),
        ms(histogram.stdev()),
        ms(histogram.max() as f64),
        histogram.len(),
        histogram.buckets(),
        2048,
    )
    .expect("a String grows");
    Bytes::from(text)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::payload::Payloads;

    const WINDOW: Window = Window { from_ns: 1000, to_ns: 2_000_000 };

    fn messages(batch: u32) -> Messages {
        let records = (0..10).map(|index| Bytes::from(vec![b'x'; 10 + index])).collect();
        Messages::new(Arc::new(Payloads::new(records)), batch, None)
    }

    fn acked(first: i64, count: u32) -> Answer {
        let last_sequence = first + i64::from(count) - 1;
        Answer { first_sequence: first, last_sequence, accepted: count, status: 1, ..Answer::default() }
    }

    #[test]
    fn the_window_is_by_start_for_latency_and_by_ack_for_throughput() {
        let messages = messages(5);
        let mut stats = Stats::new(1);
        let mut answer = |first, start_ns, now_ns| {
            stats.answered(&acked(first, 5), Sent { start_ns, message: 0 }, 0, &messages, now_ns, WINDOW);
        };
        answer(1, 0, 500);
        answer(6, 500, 1500);
        answer(11, 1_500_000, 1_900_000);
        answer(16, 1_999_999, 2_500_000);
        assert_eq!((stats.requests, stats.acked), (4, 20));
        assert_eq!((stats.window_requests, stats.window_records, stats.window_bytes), (2, 10, 2 * 60));
        assert_eq!(stats.latency.len(), 2);
        assert_eq!(stats.acked_of[0].sequences.ranges().collect::<Vec<_>>(), [(1, 20)]);
        assert_eq!(stats.violations.total(), 0);
    }

    #[test]
    fn seconds_count_by_ack_and_threads_add_up() {
        let messages = messages(5);
        let window = Window { from_ns: 1000, to_ns: 10 * SECOND_NS };
        let stats = |acks: &[(u64, u64)]| {
            let mut stats = Stats::new(0);
            for &(start_ns, now_ns) in acks {
                stats.answered(&acked(1, 5), Sent { start_ns, message: 0 }, 0, &messages, now_ns, window);
            }
            stats
        };
        let mut one = stats(&[(0, 500), (500, 1000), (1000, SECOND_NS + 999), (SECOND_NS, 3 * SECOND_NS + 1000)]);
        let second = |records, slowest_ns| Second { records, slowest_ns };
        let wanted = [second(10, SECOND_NS - 1), second(0, 0), second(0, 0), second(5, 2 * SECOND_NS + 1000)];
        assert_eq!(one.seconds, wanted, "what came before the window counts nowhere");
        one.merge(stats(&[(SECOND_NS, SECOND_NS + 2000), (4 * SECOND_NS, 5 * SECOND_NS)]));
        assert_eq!((one.seconds[1], one.seconds[4].records), (second(5, 2000), 5));
        assert_eq!(one.seconds.iter().map(|second| second.records).sum::<u64>(), one.window_records);
    }

    #[test]
    fn counts_that_do_not_fit_are_violations() {
        let messages = messages(5);
        let mut stats = Stats::new(1);
        let sent = Sent { start_ns: 0, message: 0 };
        stats.answered(&Answer { rejected: 1, ..acked(1, 3) }, sent, 0, &messages, 1, WINDOW);
        assert_eq!(stats.violations.counts, 1);
        stats.answered(&Answer { last_sequence: 9, ..acked(1, 5) }, sent, 0, &messages, 1, WINDOW);
        assert_eq!(stats.violations.counts, 2);
        stats.answered(&acked(3, 5), sent, 0, &messages, 1, WINDOW);
        assert_eq!(stats.violations.acked_twice, 1);
        let whole = Answer { status: 5, ..Answer::default() };
        stats.answered(&whole, sent, 0, &messages, 1, WINDOW);
        assert_eq!(stats.violations.total(), 3);
    }

    #[test]
    fn samples_name_the_payload_of_their_sequence() {
        for batch in [1, 4] {
            let messages = messages(batch);
            let mut stats = Stats::new(1);
            for message in 0..1000 {
                let first = 1 + message as i64 * i64::from(batch);
                let sent = Sent { start_ns: 0, message };
                stats.answered(&acked(first, batch), sent, 0, &messages, 1, WINDOW);
            }
            let samples = &stats.acked_of[0].samples;
            assert!(samples.len() >= 10, "{}", samples.len());
            for &(sequence, payload) in samples {
                let row = (sequence - 1) as u64 % u64::from(batch);
                let message = (sequence - 1) as u64 / u64::from(batch);
                assert_eq!(payload, messages.payload_index(message, row as u32));
            }
        }
    }

    #[test]
    fn the_unsent_count_with_what_they_waited() {
        let mut stats = Stats::new(0);
        stats.never_sent([500, 1_000_000, 1_500_000].into_iter(), 10_000_000, WINDOW);
        assert_eq!((stats.unsent, stats.latency.len()), (3, 2));
        assert!(stats.latency.min() > 8_000_000);
    }

    #[test]
    fn the_export_ends_with_all_values_at_quantile_one() {
        let mut histogram = histogram();
        (1..=1000).for_each(|n| histogram.saturating_record(n * 10_000));
        let text = String::from_utf8(hgrm(&histogram).to_vec()).expect("text");
        let last = text.lines().rfind(|line| !line.starts_with('#')).expect("a value");
        let columns: Vec<&str> = last.split_whitespace().collect();
        assert_eq!(columns[1..], ["1.000000000000", "1000"]);
        assert!((columns[0].parse::<f64>().expect("a number") - 10.0).abs() < 0.02);
    }
}
