//! Small batches of records over HTTP at a steady rate: how long until they are acked.

use clap::Args;
use serde::Serialize;
use serde_json::Value;

use crate::{
    calls::{self, Call, CallArgs},
    payload::{self, PayloadKind, Payloads},
    rest::Rest,
};

/// Records that are made, and sent again and again.
const RECORDS: usize = 20_000;

/// Flags of `ttdust-bench http`.
#[derive(Debug, Clone, Args)]
pub struct HttpArgs {
    #[command(flatten)]
    calls: CallArgs,
    /// What is sent: flights, clicks or clicks@NUMBER; its schema and stream are made if need be
    #[arg(long, value_name = "KIND", default_value = "flights")]
    payload: PayloadKind,
    /// The stream [default: the payload's name]
    #[arg(long, value_name = "NAME")]
    stream: Option<String>,
    /// Records a call
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch: u32,
}

/// What a run tells.
#[derive(Debug, Serialize)]
struct Report {
    batch: u32,
    payload_bytes: f64,
    #[serde(flatten)]
    calls: calls::Report,
}

/// Sends, reports on stdout, and says whether all was taken.
///
/// # Errors
/// The server cannot be reached, or takes no such stream.
pub fn run(args: &HttpArgs) -> Result<bool, Box<dyn std::error::Error>> {
    let payloads = Payloads::load(&args.payload, RECORDS)?;
    let stream = args.stream.clone().unwrap_or_else(|| args.payload.name().to_owned());
    let rest = Rest { authority: &args.calls.http, api_key: args.calls.api_key.as_deref() };
    rest.create(&stream, &payload::schema(&args.payload, None)?, std::slice::from_ref(&stream), &[])?;
    let records: Vec<Value> = payloads.iter().map(|record| serde_json::from_slice(record)).collect::<Result<_, _>>()?;
    let path = format!("/api/v1/streams/{stream}/records");
    let counts = calls::run(&args.calls, |number| Post::new(&path, &records, args.batch, number))?;
    let report = Report {
        batch: args.batch,
        payload_bytes: payloads.mean_bytes(),
        calls: calls::Report::new(&args.calls, counts),
    };
    calls::print(args.calls.output, &report, || report.calls.text())?;
    Ok(report.calls.is_good())
}

/// A batch as a JSON array.
struct Post<'a> {
    path: &'a str,
    body: Value,
    batch: u32,
}

impl<'a> Post<'a> {
    /// The `number`-th of a run: the records that follow those of the one before, and from the first again after the last.
    fn new(path: &'a str, records: &[Value], batch: u32, number: u64) -> Self {
        let first = number * u64::from(batch);
        let record = |at: u64| records[(at % records.len() as u64) as usize].clone();
        Self { path, body: (first..first + u64::from(batch)).map(record).collect(), batch }
    }
}

impl Call for Post<'_> {
    fn what(&self) -> &'static str {
        "records over HTTP"
    }

    fn method(&self) -> &'static str {
        "POST"
    }

    fn path(&self) -> &str {
        self.path
    }

    fn body(&self) -> Option<&Value> {
        Some(&self.body)
    }

    fn is_answered_by(&self, answer: &[u8]) -> bool {
        let answer: Option<Value> = serde_json::from_slice(answer).ok();
        answer.is_some_and(|answer| answer["accepted"].as_u64() == Some(u64::from(self.batch)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn batches_go_round_the_records_and_want_all_of_them_taken() {
        let records = [json!(0), json!(1), json!(2)];
        let post = Post::new("/", &records, 2, 1);
        assert_eq!(post.body, json!([2, 0]));
        assert!(post.is_answered_by(br#"{"status":"OK","accepted":2}"#));
        assert!(!post.is_answered_by(br#"{"status":"OK","accepted":1}"#));
        assert!(!post.is_answered_by(b"accepted"));
    }
}
