//! `ttdust tail`: prints a stream's records as they come, without a gap over broken connections.

mod events;

use std::time::{Duration, Instant};

use clap::Args;
use http::{HeaderMap, HeaderValue, Method, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde::Deserialize;
use tokio::time::timeout;

use super::{
    api::{Api, Call},
    failure::{Failure, Outcome, Problem},
    output::{Output, note},
    records::{Manner, Record, unreadable},
    session::Session,
    streams::path_of,
    text::{parse_duration, parse_moment},
};
use crate::outgoing::with_causes;
use events::{Event, Events};

/// A live connection shows itself every 15 s: one that is silent for so long is dead.
const SILENCE_MAX: Duration = Duration::from_secs(45);
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Records to follow.
#[derive(Args)]
pub struct Tail {
    /// The stream's name or id.
    stream: String,
    /// Begin with the first record that there is; default: with what comes from now on.
    #[arg(long, conflicts_with_all = ["start_sequence", "start"])]
    from_start: bool,
    /// Begin with this sequence number.
    #[arg(long, value_name = "N", conflicts_with = "start", value_parser = clap::value_parser!(i64).range(1..))]
    start_sequence: Option<i64>,
    /// Begin with what was ingested at or after this time: RFC 3339, or how long ago, such as 15m.
    #[arg(long, value_name = "TIME", value_parser = parse_moment, allow_hyphen_values = true)]
    start: Option<i64>,
    /// End after so many records.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Print the records alone, as they were sent, one a line.
    #[arg(long)]
    payload: bool,
    /// How long to try again while the server is away.
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = parse_duration)]
    retry_for: Duration,
}

/// Where to begin, or to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    Sequence(i64),
    Time(i64),
}

/// Why a connection ended.
enum End {
    /// There were as many as were asked for.
    Enough,
    /// It broke, or the server wants the reader to come again.
    Cut(Failure),
    /// There will be no more.
    Final(Failure),
}

/// The data of the last event of a tail.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LastWords {
    code: String,
    message: String,
}

/// Prints records until there are enough, or until it is broken off.
pub(super) async fn run(tail: Tail, session: &mut Session) -> Outcome {
    let Session { api, output } = session;
    let manner = Manner { payload: tail.payload };
    let stream = path_of(&tail.stream);
    let mut start = match (tail.from_start, tail.start_sequence, tail.start) {
        (true, ..) => Start::Sequence(1),
        (_, Some(sequence), _) => Start::Sequence(sequence),
        (.., Some(micros)) => Start::Time(micros),
        // A place that a second connection can begin at as well: `now` would be another one then.
        _ => Start::Sequence(newest(api, &stream).await? + 1),
    };
    let mut left = tail.count.unwrap_or(u64::MAX);
    let (mut pause, mut since) = (PAUSE_FIRST, Instant::now());
    let mut has_begun = false;
    manner.head(output)?;
    output.flush()?;
    loop {
        let before = left;
        let failure = match opened(api, &format!("{stream}/tail"), start).await {
            Ok(body) => {
                has_begun = true;
                match follow(body, manner, output, &mut start, &mut left).await? {
                    End::Enough => return Ok(()),
                    End::Final(failure) => return Err(failure),
                    End::Cut(failure) => failure,
                }
            }
            Err(failure) => failure,
        };
        if left < before {
            (pause, since) = (PAUSE_FIRST, Instant::now());
        }
        if !may_pass(&failure, has_begun) || since.elapsed() + pause > tail.retry_for {
            return Err(failure);
        }
        if output.is_terminal() {
            note(&format!("{}; trying again", failure.told().lines().next().unwrap_or_default()));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Whether the same may succeed later. Before a first answer, a server that is not there is a wrong address.
fn may_pass(failure: &Failure, has_begun: bool) -> bool {
    match failure {
        Failure::Refused(problem) => problem.is_passing(),
        Failure::Unreachable { .. } => has_begun,
        _ => false,
    }
}

/// The sequence number of the newest record; 0: there is none.
async fn newest(api: &Api, stream: &str) -> Result<i64, Failure> {
    #[derive(Deserialize)]
    struct Page<'a> {
        #[serde(borrow)]
        records: Vec<Record<'a>>,
    }
    let query = [("limit", "1".to_owned()), ("order", "desc".to_owned())];
    let answer = api.get(&format!("{stream}/records"), &query).await?;
    let page: Page<'_> = serde_json::from_str(answer.text()?).map_err(|error| unreadable(&error))?;
    Ok(page.records.first().map_or(0, |record| record.sequence_number))
}

async fn opened(api: &Api, path: &str, start: Start) -> Result<Incoming, Failure> {
    let query = [match start {
        Start::Sequence(sequence) => ("start_sequence", sequence.to_string()),
        Start::Time(micros) => ("start_time", micros.to_string()),
    }];
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT, HeaderValue::from_static("text/event-stream"));
    let call = Call { method: Method::GET, path, query: &query, headers, body: Default::default() };
    api.open(call).await.map_err(|error| error.into_failure(api.place()))?
}

/// Prints what comes on a connection. `start` is where the next one has to begin, `left` how many are still wanted.
async fn follow(
    mut body: Incoming,
    manner: Manner,
    output: &mut Output,
    start: &mut Start,
    left: &mut u64,
) -> Result<End, Failure> {
    let cut = |what: String| {
        let remedy = "what was printed is whole; --start-sequence goes on after it".to_owned();
        End::Cut(Failure::Unreachable { what, remedy })
    };
    let mut events = Events::default();
    loop {
        let frame = match timeout(SILENCE_MAX, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => return Ok(cut(format!("the tail was cut: {}", with_causes(&error)))),
            Ok(None) => return Ok(cut("the tail was cut".to_owned())),
            Err(_) => return Ok(cut(format!("the server was silent for {} s", SILENCE_MAX.as_secs()))),
        };
        let Some(data) = frame.data_ref() else { continue };
        for Event { name, data } in events.feed(data) {
            if name == "error" {
                output.flush()?;
                return Ok(ended(&data));
            }
            let record: Record<'_> = serde_json::from_str(&data).map_err(|error| unreadable(&error))?;
            *start = Start::Sequence(record.sequence_number + 1);
            manner.record(&data, output)?;
            *left -= 1;
            if *left == 0 {
                output.flush()?;
                return Ok(End::Enough);
            }
        }
        output.flush()?;
    }
}

/// What the last event of a tail means.
fn ended(data: &str) -> End {
    let words: LastWords = serde_json::from_str(data).unwrap_or_default();
    let (status, again, remedy) = match words.code.as_str() {
        "UNAUTHENTICATED" => (401, false, "the key has ended or was deleted: give one that is good"),
        "PERMISSION_DENIED" => (403, false, "use a key whose role permits it"),
        "STREAM_DELETING" | "STREAM_NOT_FOUND" => (404, false, "the stream is gone"),
        "RECORDS_EXPIRED" => {
            (409, false, "records were deleted before they could be read: --from-start takes what is left")
        }
        _ => (503, true, ""),
    };
    let (detail, code, remedy) = (words.message, words.code, remedy.to_owned());
    let failure = Failure::Refused(Box::new(Problem { status, code, detail, remedy, ..Problem::default() }));
    if again { End::Cut(failure) } else { End::Final(failure) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_goes_on_unless_its_end_is_final() {
        for (code, again) in [
            ("DRAINING", true),
            ("READER_TOO_SLOW", true),
            ("READER_STALLED", true),
            ("UNAUTHENTICATED", false),
            ("STREAM_DELETING", false),
            ("STREAM_NOT_FOUND", false),
            ("RECORDS_EXPIRED", false),
        ] {
            let end = ended(&format!("{{\"code\":\"{code}\",\"message\":\"m\"}}"));
            match end {
                End::Cut(failure) => assert!(again && may_pass(&failure, false), "{code}"),
                End::Final(failure) => assert!(!again && failure.told().contains(code), "{code}"),
                End::Enough => panic!("{code}"),
            }
        }
    }
}
