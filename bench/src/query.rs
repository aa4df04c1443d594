//! Queries over REST at a steady rate, beside a load or alone: how long they take, and whether they answer what was stored.
//!
//! The stream holds clicks, made by `load --payload clicks@NUMBER`, so that which keys are there, and what their records are,
//! is known without asking.

use bytes::Bytes;
use clap::{Args, ValueEnum};
use memchr::memmem;

use crate::{
    calls::{self, Call, CallArgs, Report},
    clicks::click,
};

/// Rows that a time range asks for.
const ROWS: usize = 1000;

/// Flags of `ttdust-bench query`.
#[derive(Debug, Clone, Args)]
pub struct QueryArgs {
    #[command(flatten)]
    calls: CallArgs,
    /// The stream of clicks, which has event_id among its key fields
    #[arg(long, value_name = "NAME", default_value = "clicks")]
    stream: String,
    /// What is asked for; may be given again, and is then asked for in turn [default: all]
    #[arg(long, value_enum)]
    kind: Vec<Kind>,
    /// The clicks that are in the stream: such as 0..6000000
    #[arg(long, value_name = "FROM..TO", value_parser = numbers)]
    clicks: (u64, u64),
    /// Where time ranges begin: between these Unix microseconds
    #[arg(long, value_name = "FROM..TO", value_parser = numbers)]
    times: (u64, u64),
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Kind {
    /// The record of a click that is there
    Present,
    /// The record of a click that is not
    Absent,
    /// A thousand rows from a time on
    Range,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Present, Self::Absent, Self::Range];

    fn name(self) -> &'static str {
        match self {
            Self::Present => "a key that is there",
            Self::Absent => "a key that is not",
            Self::Range => "1,000 rows of a time range",
        }
    }
}

fn numbers(text: &str) -> Result<(u64, u64), String> {
    let parsed = text.split_once("..").and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
    parsed.filter(|(from, to)| from < to).ok_or_else(|| "want FROM..TO, such as 0..6000000".to_owned())
}

/// Asks, reports on stdout, and says whether all was answered, and rightly.
///
/// # Errors
/// The server cannot be reached.
pub fn run(args: &QueryArgs) -> Result<bool, Box<dyn std::error::Error>> {
    let kinds = if args.kind.is_empty() { Kind::ALL.to_vec() } else { args.kind.clone() };
    let counts = calls::run(&args.calls, |number| {
        let kind = kinds[(number % kinds.len() as u64) as usize];
        Question::new(args, kind, number)
    })?;
    let report = Report::new(&args.calls, counts);
    calls::print(args.calls.output, &report, || report.text())?;
    Ok(report.is_good())
}

/// A query, and what its answer holds.
struct Question {
    kind: Kind,
    path: String,
    /// The record that is looked for.
    record: Bytes,
}

impl Question {
    /// The `number`-th of a run: another click and another time each.
    fn new(args: &QueryArgs, kind: Kind, number: u64) -> Self {
        // Spreads the numbers over the whole range, in no order.
        let spread = |(from, to): (u64, u64)| from + number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (to - from);
        let records = format!("/api/v1/streams/{}/records", args.stream);
        let (record, path) = match kind {
            Kind::Range => {
                let start = spread(args.times);
                (Bytes::new(), format!("{records}?start={start}&limit={ROWS}"))
            }
            Kind::Present | Kind::Absent => {
                let at = spread(args.clicks);
                // What was never sent: as many again, past the last.
                let number = if kind == Kind::Present { at } else { at + args.clicks.1 };
                let record = Bytes::from(click(number));
                let path = format!("{records}?key_field=event_id&key_value={}", event_id(&record));
                (record, path)
            }
        };
        Self { kind, path, record }
    }
}

impl Call for Question {
    fn what(&self) -> &'static str {
        self.kind.name()
    }

    fn path(&self) -> &str {
        &self.path
    }

    fn is_answered_by(&self, answer: &[u8]) -> bool {
        match self.kind {
            Kind::Present => memmem::find(answer, &self.record).is_some(),
            Kind::Absent => answer.starts_with(b"{\"found\":false"),
            Kind::Range => memmem::find_iter(answer, "\"sequence_number\"").count() == ROWS,
        }
    }
}

/// The id of a click, as it stands in its JSON.
fn event_id(click: &[u8]) -> &str {
    const AT: usize = r#"{"event_id":""#.len();
    std::str::from_utf8(&click[AT..AT + 36]).expect("a UUID")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> QueryArgs {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: QueryArgs,
        }
        let line = ["query", "--clicks", "10..20", "--times", "1000..2000"];
        <Line as clap::Parser>::parse_from(line).args
    }

    #[test]
    fn a_question_knows_its_answer() {
        let present = Question::new(&args(), Kind::Present, 3);
        let known =
            (10..20).map(click).map(Bytes::from).find(|record| *record == present.record).expect("one that is there");
        assert!(present.path.ends_with(event_id(&known)), "{}", present.path);
        let answer = [b"{\"found\":true,\"record\":{\"payload\":", &known[..], b"}}"].concat();
        assert!(present.is_answered_by(&answer));
        assert!(!present.is_answered_by(b"{\"found\":false}"));
        let absent = Question::new(&args(), Kind::Absent, 3);
        assert!((10..20).map(click).all(|record| record != absent.record));
        assert!(absent.is_answered_by(b"{\"found\":false,"));
        assert!(!absent.is_answered_by(&answer));
        let range = Question::new(&args(), Kind::Range, 3);
        assert!(range.is_answered_by("\"sequence_number\"".repeat(ROWS).as_bytes()));
        assert!(!range.is_answered_by("\"sequence_number\"".repeat(ROWS - 1).as_bytes()));
    }

    #[test]
    fn ranges_of_numbers_are_read() {
        assert_eq!(numbers("3..9"), Ok((3, 9)));
        assert!(numbers("9..3").is_err() && numbers("3").is_err() && numbers("a..b").is_err());
    }
}
