//! One look at a server after the other.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    exposition::Exposition,
    figures::{Look, ProcessFigures, ShardFigures, lag, ratio},
};
use crate::{
    calendar::{now_unix_micros, rfc3339},
    cli::{api::Api, failure::Failure, streams::path_of, text::parse_size},
};

/// Between two looks at which streams there are, and how the server is set.
const LIST_AGAIN: Duration = Duration::from_secs(30);
/// Streams past these are not looked at.
const STREAMS_MAX: usize = 10_000;
/// Calls under way at a time.
const CALLS: usize = 4;

/// What is known of a server after a look.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Frame {
    pub(super) time: String,
    pub(super) endpoint: String,
    pub(super) version: String,
    /// `ok`, or `down`: it cannot do its work.
    pub(super) status: String,
    pub(super) io_backend: String,
    pub(super) io_reason: String,
    /// Parts of the server that are down, and why.
    pub(super) down: BTreeMap<String, String>,
    /// The time that rates are of; none: it is the first look.
    pub(super) seconds: Option<f64>,
    pub(super) process: ProcessFigures,
    pub(super) total: ShardFigures,
    pub(super) shards: Vec<ShardFigures>,
    /// Those that were looked at, busiest first.
    pub(super) streams: Vec<StreamFigures>,
    /// How many there are; none: the caller may not know.
    pub(super) streams_known: Option<usize>,
    /// What could not be had, and why.
    pub(super) notes: Vec<String>,
}

/// What a stream does.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct StreamFigures {
    pub(super) stream: String,
    pub(super) shard: Option<u32>,
    /// By its sequence numbers, since it was looked at before.
    pub(super) records_per_second: Option<f64>,
    /// Over about the last minute, as the server has it.
    pub(super) minute_records_per_second: Option<f64>,
    /// The same of payload, in 10^6 bytes.
    pub(super) minute_mb_per_second: Option<f64>,
    pub(super) buffered_bytes: Option<u64>,
    pub(super) unflushed_records: Option<u64>,
    pub(super) flush_lag_seconds: Option<f64>,
    pub(super) files: u64,
}

/// A stream, as its last look had it.
#[derive(Debug, Default)]
struct Watched {
    id: String,
    name: String,
    /// The last sequence number, and when.
    last: Option<(i64, Instant)>,
    figures: Option<StreamFigures>,
}

#[derive(Deserialize)]
struct Named {
    id: String,
    name: String,
}

#[derive(Deserialize)]
struct Whole {
    statistics: Statistics,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Statistics {
    shard: Option<u32>,
    last_sequence: Option<i64>,
    flushed_through: i64,
    buffered_bytes: Option<u64>,
    records_per_second: Option<f64>,
    bytes_per_second: Option<f64>,
    files: u64,
}

#[derive(Deserialize)]
struct Readiness {
    status: String,
    components: BTreeMap<String, Part>,
}

#[derive(Deserialize)]
struct Part {
    status: String,
    #[serde(default)]
    detail: String,
}

/// Looks at a server again and again.
pub(super) struct Poller<'a> {
    api: &'a Api,
    /// Streams to ask after at a look.
    most: usize,
    before: Option<Look>,
    quota_bytes: Option<u64>,
    streams: Vec<Watched>,
    /// Where the round over the streams goes on.
    next: usize,
    listed: Option<Instant>,
    /// Whether the caller may know them.
    may_know: bool,
    /// Why there is no list of streams, or no quota.
    refused: Vec<String>,
}

impl<'a> Poller<'a> {
    pub(super) fn new(api: &'a Api, most: usize) -> Self {
        Self {
            api,
            most,
            before: None,
            quota_bytes: None,
            streams: Vec::new(),
            next: 0,
            listed: None,
            may_know: false,
            refused: Vec::new(),
        }
    }

    /// Asks the server how it is and what it counted. After a failure rates begin anew.
    pub(super) async fn look(&mut self) -> Result<Frame, Failure> {
        let looked = self.look_once().await;
        if looked.is_err() {
            (self.before, self.listed) = (None, None);
            self.streams.clear();
        }
        looked
    }

    async fn look_once(&mut self) -> Result<Frame, Failure> {
        let answer = self.api.get("/metrics", &[]).await?;
        let at = Instant::now();
        let metrics = Exposition::parse(answer.text()?).map_err(|what| Failure::Unreachable {
            what,
            remedy: "is this a TTDust server, of a version near to this program's?".to_owned(),
        })?;
        let look = Look::new(&metrics, at);
        let readiness: Readiness = self.api.health().await?.parse()?;
        if self.listed.is_none_or(|listed| listed.elapsed() >= LIST_AGAIN) {
            self.list().await?;
        }
        let mut notes = self.refused.clone();
        notes.extend(self.look_at_streams().await?);
        let before = self.before.as_ref();
        let io = metrics.of("ttdust_io_backend").first();
        let build = metrics.of("ttdust_build_info").first();
        let down = readiness.components.into_iter().filter(|(_, part)| part.status != "ok");
        let frame = Frame {
            time: rfc3339(now_unix_micros()),
            endpoint: self.api.place().to_owned(),
            version: build.map_or_else(String::new, |build| build.label("version").to_owned()),
            status: readiness.status,
            io_backend: io.map_or_else(String::new, |io| io.label("kind").to_owned()),
            io_reason: io.map_or_else(String::new, |io| io.label("reason").to_owned()),
            down: down.map(|(name, part)| (name, part.detail)).collect(),
            seconds: before.map(|before| (at - before.at).as_secs_f64()),
            process: look.process_since(before, &metrics),
            total: look.total_since(before, self.quota_bytes),
            shards: look.shards_since(before, self.quota_bytes),
            streams: busiest(&self.streams),
            streams_known: self.may_know.then_some(self.streams.len()),
            notes,
        };
        self.before = Some(look);
        Ok(frame)
    }

    /// Which streams there are, and how large the log may be. A caller that may not know either goes without.
    async fn list(&mut self) -> Result<(), Failure> {
        self.listed = Some(Instant::now());
        self.refused.clear();
        match self.api.get("/api/v1/config", &[]).await {
            Ok(answer) => self.quota_bytes = quota(&answer.parse()?),
            Err(failure) => self.refused.push(told("the log's quota is not known", failure)?),
        }
        if self.most == 0 {
            return Ok(());
        }
        match self.api.list("/api/v1/streams", &[], "streams", STREAMS_MAX).await {
            Ok(listed) => {
                self.may_know = true;
                let mut known: BTreeMap<_, _> =
                    self.streams.drain(..).map(|stream| (stream.id.clone(), stream)).collect();
                for stream in listed {
                    let Ok(Named { id, name }) = serde_json::from_str(stream.get()) else { continue };
                    let stream = known.remove(&id).unwrap_or_default();
                    self.streams.push(Watched { id, name, ..stream });
                }
            }
            Err(failure) => {
                self.may_know = false;
                self.refused.push(told("streams are not shown", failure)?);
            }
        }
        Ok(())
    }

    /// Looks at some streams, the busiest first; what went wrong with one.
    async fn look_at_streams(&mut self) -> Result<Option<String>, Failure> {
        let rates: Vec<_> = self.streams.iter().map(Watched::rate).collect();
        let chosen = chosen(&rates, self.most, &mut self.next);
        let api = self.api;
        let paths = chosen.iter().map(|&at| (at, path_of(&self.streams[at].id))).collect::<Vec<_>>();
        let calls = paths.iter().map(|(at, path)| async move { (*at, api.get(path, &[]).await, Instant::now()) });
        let answers: Vec<_> = stream::iter(calls).buffer_unordered(CALLS).collect().await;
        let mut note = None;
        for (at, answer, when) in answers {
            match answer {
                Ok(answer) => self.streams[at].looked(&answer.parse::<Whole>()?.statistics, when),
                // It was deleted since: the next list is without it.
                Err(Failure::Refused(problem)) if problem.status == 404 => self.streams[at].figures = None,
                Err(failure) => note = Some(told("a stream could not be looked at", failure)?),
            }
        }
        Ok(note)
    }
}

impl Watched {
    /// By which streams are chosen; one that was never looked at comes with the round.
    fn rate(&self) -> f64 {
        let rates = self.figures.iter().flat_map(|had| [had.records_per_second, had.minute_records_per_second]);
        rates.flatten().fold(0.0, f64::max)
    }

    fn looked(&mut self, now: &Statistics, at: Instant) {
        let since = |last: i64| {
            let (before, when) = self.last?;
            // A stream of the same id never counts backwards.
            ratio((last - before).max(0) as f64, (at - when).as_secs_f64())
        };
        let records_per_second = now.last_sequence.and_then(since);
        let unflushed = now.last_sequence.map(|last| (last - now.flushed_through).max(0) as u64);
        let rate = records_per_second.or(now.records_per_second);
        self.figures = Some(StreamFigures {
            stream: self.name.clone(),
            shard: now.shard,
            records_per_second,
            minute_records_per_second: now.records_per_second,
            minute_mb_per_second: now.bytes_per_second.map(|bytes| bytes / 1e6),
            buffered_bytes: now.buffered_bytes,
            unflushed_records: unflushed,
            flush_lag_seconds: unflushed.zip(rate).and_then(|(rows, rate)| lag(rows as f64, rate)),
            files: now.files,
        });
        self.last = now.last_sequence.map(|last| (last, at)).or(self.last);
    }
}

/// A failure as a note, if the server is there all the same.
fn told(what: &str, failure: Failure) -> Result<String, Failure> {
    match &failure {
        Failure::Refused(_) => Ok(format!("{what}: {}", failure.first_line())),
        _ => Err(failure),
    }
}

/// The quota of the log of all shards, by the settings in force.
fn quota(config: &Value) -> Option<u64> {
    parse_size(config.pointer("/settings/wal.quota_bytes/value")?.as_str()?).ok()
}

/// Which of the streams with these rates to look at: all, or else those with the highest, in one half, and a round over all of
/// them in the other, that finds which become busy.
fn chosen(rates: &[f64], most: usize, next: &mut usize) -> Vec<usize> {
    if rates.len() <= most {
        return (0..rates.len()).collect();
    }
    let mut by_rate: Vec<_> = (0..rates.len()).filter(|&at| rates[at] > 0.0).collect();
    by_rate.sort_by(|&one, &other| rates[other].total_cmp(&rates[one]));
    by_rate.truncate(most / 2);
    let mut chosen = by_rate;
    for _ in 0..rates.len() {
        if chosen.len() >= most {
            break;
        }
        let at = *next % rates.len();
        *next = at + 1;
        if !chosen.contains(&at) {
            chosen.push(at);
        }
    }
    chosen
}

fn busiest(streams: &[Watched]) -> Vec<StreamFigures> {
    let mut all: Vec<_> = streams.iter().filter_map(|stream| stream.figures.clone()).collect();
    let rate =
        |figures: &StreamFigures| figures.records_per_second.or(figures.minute_records_per_second).unwrap_or(0.0);
    all.sort_by(|one, other| rate(other).total_cmp(&rate(one)));
    all
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn all_streams_are_looked_at_where_they_are_few_and_the_busy_ones_always() {
        let mut next = 0;
        assert_eq!(chosen(&[0.0, 1.0], 2, &mut next), [0, 1]);
        assert_eq!(chosen(&[], 2, &mut next), [0; 0]);
        assert_eq!(chosen(&[1.0], 0, &mut next), [0; 0]);
        let rates = [0.0, 5.0, 0.0, 9.0, 0.0, 1.0];
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..3 {
            let round = chosen(&rates, 4, &mut next);
            assert_eq!((round.len(), &round[..2]), (4, &[3, 1][..]));
            seen.extend(round);
        }
        assert_eq!(seen.len(), 6, "after three rounds each was looked at");
        assert_eq!(chosen(&[0.0; 6], 4, &mut 4), [4, 5, 0, 1], "nobody is busy");
    }

    #[test]
    fn a_stream_s_rate_is_by_its_sequence_numbers() {
        let mut stream = Watched { name: "clicks".into(), ..Watched::default() };
        let at = Instant::now();
        let look = |last: Option<i64>| -> Statistics {
            let told = json!({"shard": 1, "last_sequence": last, "flushed_through": 900, "records_per_second": 40.0,
                "bytes_per_second": 2e6, "files": 3, "buffered_bytes": 5, "more": true});
            serde_json::from_value(told).expect("statistics")
        };
        stream.looked(&look(Some(1000)), at);
        let first = stream.figures.clone().expect("looked at");
        assert_eq!((first.records_per_second, first.minute_mb_per_second), (None, Some(2.0)));
        assert_eq!((first.unflushed_records, first.flush_lag_seconds), (Some(100), Some(2.5)));
        // A look that did not come through leaves the one before it in force.
        stream.looked(&look(None), at + Duration::from_secs(1));
        assert_eq!(stream.figures.as_ref().expect("looked at").unflushed_records, None);
        stream.looked(&look(Some(1500)), at + Duration::from_secs(5));
        let last = stream.figures.clone().expect("looked at");
        assert_eq!((last.records_per_second, last.flush_lag_seconds), (Some(100.0), Some(6.0)));
        let others = [Watched::default(), stream];
        assert_eq!(busiest(&others).len(), 1, "one was never looked at");
    }

    #[test]
    fn a_refusal_is_a_note_and_a_server_that_is_gone_a_failure() {
        let refused = Failure::not_found("no such thing", "look elsewhere");
        assert_eq!(
            told("streams are not shown", refused).expect("a note"),
            "streams are not shown: no such thing (NOT_FOUND)"
        );
        assert!(told("x", Failure::usage("y")).is_err());
        assert_eq!(quota(&json!({"settings": {"wal.quota_bytes": {"value": "6GiB"}}})), Some(6 << 30));
        assert_eq!(quota(&json!({"settings": {}})), None);
    }
}
