//! A batch on its way: sent, and sent again under its idempotency key for as long as its outcome is not known.

use std::{
    cell::{Cell, RefCell},
    io::{self, IsTerminal as _},
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderValue, Method, header};
use serde::Deserialize;

use super::{OnInvalid, Produce, batches::Batch};
use crate::cli::{
    api::{Api, Call},
    failure::{Failure, FieldProblem, Problem},
    output::note,
    streams::path_of,
    text::plain,
};

/// The first wait before another try; each one after it is twice as long, up to the longest.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// No JSON text, in any schema: a request that ends with it takes nothing.
const NO_RECORD: &[u8] = b"this is no record\n";

/// What became of a batch.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Delivered {
    pub(super) accepted: u64,
    pub(super) duplicates: u64,
    pub(super) rejected: u64,
    pub(super) dead_lettered: u64,
    /// The first ones that were refused.
    pub(super) row_errors: Vec<RowError>,
    /// Why those that are refused are no dead letters, where they were to be.
    error: Option<LettersProblem>,
}

/// Why dead letters were not written.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LettersProblem {
    code: String,
    message: String,
    retry_after_millis: Option<u32>,
}

impl LettersProblem {
    /// What the batch comes to: it is sent again, where that may help.
    fn into_failure(self) -> Failure {
        let seconds = self.retry_after_millis.map(|millis| millis.div_ceil(1000));
        let status = if seconds.is_some() { 503 } else { 409 };
        let Self { code, message: detail, .. } = self;
        Failure::Refused(Box::new(Problem { status, code, detail, retry_after_seconds: seconds, ..Problem::default() }))
    }
}

impl Delivered {
    /// How many were refused, dead letters or not.
    pub(super) fn bad(&self) -> u64 {
        self.rejected + self.dead_lettered
    }
}

/// Why a record was refused.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default)]
pub(super) struct RowError {
    /// Which of the batch.
    pub(super) index: usize,
    pub(super) code: String,
    pub(super) message: String,
    pub(super) field_errors: Vec<FieldError>,
}

/// What is wrong with a member.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default)]
pub(super) struct FieldError {
    pub(super) path: String,
    pub(super) message: String,
}

/// How batches are sent.
pub(super) struct Delivery<'a> {
    api: &'a Api,
    /// As the user names it, for people.
    stream: String,
    path: String,
    on_invalid: OnInvalid,
    run_id: &'a str,
    headers: HeaderMap,
    retry_for: Duration,
    /// Whether a batch has been taken: before, a server that is not there is a wrong address.
    has_delivered: Cell<bool>,
    gives_up: Cell<bool>,
    /// Why a batch waits, for people.
    waits_for: RefCell<Option<String>>,
}

impl<'a> Delivery<'a> {
    pub(super) fn new(api: &'a Api, produce: &Produce, run_id: &'a str) -> Result<Self, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
        if !produce.metadata.is_empty() {
            let metadata: std::collections::BTreeMap<_, _> = produce.metadata.iter().cloned().collect();
            let text = serde_json::to_string(&metadata).expect("texts always serialise");
            let value = HeaderValue::try_from(text).map_err(|_| Failure::usage("metadata is text on one line"))?;
            headers.insert("x-metadata", value);
        }
        Ok(Self {
            api,
            stream: plain(&produce.stream),
            path: format!("{}/records", path_of(&produce.stream)),
            on_invalid: produce.on_invalid,
            run_id,
            headers,
            retry_for: produce.retry_for,
            has_delivered: Cell::new(false),
            gives_up: Cell::new(false),
            waits_for: RefCell::new(None),
        })
    }

    /// Whoever is under way ends with the answer to its present try.
    pub(super) fn no_more_tries(&self) {
        self.gives_up.set(true);
    }

    /// Why a batch waits at the moment, for people.
    pub(super) fn waits_for(&self) -> Option<String> {
        self.waits_for.borrow().clone()
    }

    /// Sends a batch until it is known what became of it.
    pub(super) async fn deliver(&self, batch: Batch) -> (Batch, Result<Delivered, Failure>) {
        let began = Instant::now();
        let mut pause = PAUSE_FIRST;
        loop {
            let failure = match self.send(&batch).await {
                Ok(delivered) => {
                    self.has_delivered.set(true);
                    self.waits_for.replace(None);
                    return (batch, Ok(delivered));
                }
                Err(failure) => failure,
            };
            let Some(least) = self.may_pass(&failure) else {
                let failure = self.about(&batch, failure);
                return (batch, Err(failure));
            };
            // Not all at the same moment: up to half as long again.
            let wait = least.max(pause).mul_f64(1.0 + f64::from(uuid::Uuid::new_v4().as_bytes()[0]) / 512.0);
            if began.elapsed() + wait > self.retry_for || self.gives_up.get() {
                return (batch, Err(failure));
            }
            self.wait_for(&failure);
            tokio::time::sleep(wait).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Tells what is waited for: where there is no line of progress, once.
    fn wait_for(&self, failure: &Failure) {
        let why = failure.first_line();
        if self.waits_for.borrow().is_none() && !io::stderr().is_terminal() {
            note(&format!("waiting: {why}"));
        }
        self.waits_for.replace(Some(why));
    }

    /// How long to wait, if the same may be taken later.
    fn may_pass(&self, failure: &Failure) -> Option<Duration> {
        match failure {
            Failure::Refused(problem) if problem.is_passing() => {
                Some(Duration::from_secs(problem.retry_after_seconds.unwrap_or(0).into()))
            }
            Failure::Unreachable { .. } if self.has_delivered.get() => Some(Duration::ZERO),
            _ => None,
        }
    }

    async fn send(&self, batch: &Batch) -> Result<Delivered, Failure> {
        let mut headers = self.headers.clone();
        let key = format!("{}.{}", self.run_id, batch.number);
        headers.insert("idempotency-key", HeaderValue::try_from(key).expect("an id and a number are ASCII"));
        let on_invalid = match self.on_invalid {
            OnInvalid::Skip => "skip",
            OnInvalid::Dlq => "dlq",
            OnInvalid::Atomic => "atomic",
        };
        let query = [("on_invalid", on_invalid.to_owned())];
        let body = batch.body.clone();
        let call = Call { method: Method::POST, path: &self.path, query: &query, headers, body };
        let answer = self.api.exchange(call).await.map_err(|error| error.into_failure(self.api.place()))?;
        let mut delivered: Delivered = self.api.checked(&self.path, answer)?.parse()?;
        match delivered.error.take() {
            Some(problem) => Err(problem.into_failure()),
            None => Ok(delivered),
        }
    }

    /// A refusal of a whole batch, with the places of its bad records in the files rather than in the batch.
    fn about(&self, batch: &Batch, failure: Failure) -> Failure {
        let Failure::Refused(mut problem) = failure else { return failure };
        if problem.code == "DLQ_MISSING" {
            problem.remedy = format!("`ttdust stream change {} --dlq-days 7` keeps what is refused", self.stream);
        }
        if problem.status == 422 {
            problem.remedy =
                "mend them, or send with --on-invalid skip to have the others taken (--rejects FILE keeps \
                              the bad ones)"
                    .to_owned();
            problem.detail = format!("nothing of a batch of {} records was taken: it has bad ones", batch.len());
            problem.errors = problem.errors.into_iter().map(|error| in_lines(batch, error)).collect();
        }
        Failure::Refused(problem)
    }

    /// The reasons of all that was refused of a batch. An answer tells of the first hundred; the rest is asked for by a request
    /// that takes nothing.
    pub(super) async fn all_errors(&self, batch: &Batch, delivered: Delivered) -> Vec<RowError> {
        let bad = delivered.bad();
        let Delivered { mut row_errors, .. } = delivered;
        while (row_errors.len() as u64) < bad {
            let from = row_errors.last().map_or(0, |error| error.index + 1);
            let body = [batch.after(from), NO_RECORD].concat();
            let query = [("on_invalid", "atomic".to_owned())];
            let headers = self.headers.clone();
            let call = Call { method: Method::POST, path: &self.path, query: &query, headers, body: body.into() };
            let Ok(answer) = self.api.exchange(call).await else { break };
            let Err(Failure::Refused(problem)) = self.api.checked(&self.path, answer) else { break };
            let before = row_errors.len();
            for error in &problem.errors {
                let Some((index, pointer)) = row_of(&error.pointer) else { continue };
                let index = from + index;
                if index >= batch.lines.len() {
                    continue;
                }
                let field = FieldError { path: pointer.to_owned(), message: error.detail.clone() };
                match row_errors.last_mut().filter(|last| last.index == index) {
                    Some(last) => last.field_errors.push(field),
                    None => row_errors.push(RowError {
                        index,
                        code: "VALIDATION_ERROR".to_owned(),
                        message: error.detail.clone(),
                        field_errors: if pointer.is_empty() { Vec::new() } else { vec![field] },
                    }),
                }
            }
            if row_errors.len() == before {
                break;
            }
        }
        row_errors
    }
}

/// The record and the place in it that a pointer into a batch names.
fn row_of(pointer: &str) -> Option<(usize, &str)> {
    let rest = pointer.strip_prefix('/')?;
    let end = rest.find('/').unwrap_or(rest.len());
    Some((rest[..end].parse().ok()?, &rest[end..]))
}

fn in_lines(batch: &Batch, error: FieldProblem) -> FieldProblem {
    let place =
        row_of(&error.pointer).and_then(|(index, rest)| Some(format!("line {} {rest}", batch.lines.get(index)?)));
    match place {
        Some(place) => FieldProblem { pointer: place.trim_end().to_owned(), detail: error.detail },
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_record_is_told_by_its_line() {
        let batch = Batch { number: 0, file: 0, body: "1\n2\n".into(), lines: vec![7, 9] };
        let at =
            |pointer: &str| in_lines(&batch, FieldProblem { pointer: pointer.into(), detail: String::new() }).pointer;
        assert_eq!(at("/1/user/id"), "line 9 /user/id");
        assert_eq!(at("/0"), "line 7");
        assert_eq!(at("/2/x"), "/2/x", "there is no such record");
        assert_eq!(at("body"), "body");
    }
}
