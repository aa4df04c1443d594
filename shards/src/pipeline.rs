//! What a stream's pipeline makes of its records: one pure function of (record, pipeline version), the same for every reader of
//! the log, the buffer and the tail, and for the files.
//!
//! | step | does |
//! |---|---|
//! | `select` | keeps these fields, and of the objects that they are in only them; what is not there is passed over |
//! | `exclude` | takes these fields away |
//! | `rename` | gives a field another name in its object; a member that had that name goes |
//! | `reorder` | puts these members of their object first, in this order |
//! | `timestamp` | reads times in `formats` (the first that fits) and `time_zone`, and writes them as `target` |
//! | `coerce` | makes a value a string, integer, number, boolean or timestamp |
//!
//! | coerce to | from string | from number | from boolean |
//! |---|---|---|---|
//! | string | as it is | its digits, as they are written | `true`, `false` |
//! | integer | a whole number of 64 bits (`7`, ` +7`, `7.0`, `7e2`) | likewise | 1, 0 |
//! | number | a decimal number; `NaN` and what is past a double is none | as it is | 1, 0 |
//! | boolean | true t yes y on 1, false f no n off 0, in any case | 1, 0 | as it is |
//!
//! Null stays null, a field that is not there stays away, an object or array is never converted. What cannot be converted goes
//! by `on_error`. A timestamp with `event_time` tells when the record's event was: files have it as `_event_ts`. Fields are named through objects, not through arrays. All else stays byte for byte.
//!
//! `members` is the record that is worked on, [`rows`] runs rows of the log, [`steps`] reads the steps, `convert` and `times` know values, `fit` checks steps
//! against a schema.

mod convert;
pub mod event_time;
mod fit;
mod members;
pub mod rows;
pub mod steps;
mod times;

use std::sync::{Arc, OnceLock};

use serde_json::Value;

use crate::transform::columns::Column;
use convert::{Conversion, Converted};
use event_time::EventTime;
use members::{Members, Text};
use steps::{Action, Compiler, OnError, Step, path_of, pointer_of};

/// What is wrong with a step.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{pointer}: {message}")]
pub struct StepError {
    /// JSON Pointer into the steps.
    pub pointer: String,
    /// What is wrong and what to do.
    pub message: String,
}

/// One version of a stream's pipeline.
#[derive(Debug)]
pub struct Pipeline {
    version: u16,
    steps: Vec<Step>,
    /// New names, as they are and as they are written; at the end `null`.
    texts: Vec<u8>,
    guesses: usize,
}

/// What became of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict<'r> {
    /// It is as it was.
    Same,
    /// It is this now.
    Changed(&'r [u8]),
    /// It is left out.
    Dropped,
    /// It is left out, and is a dead letter.
    Dead(Failure),
}

/// Why a record is a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The step, from 0.
    pub step: usize,
    /// For programs.
    pub reason: &'static str,
    /// For people.
    pub message: &'static str,
    /// The fields at fault, as the steps before have named them.
    pub pointers: Vec<String>,
}

/// The code of a record that no step can look into.
pub const NOT_AN_OBJECT: &str = "RECORD_NOT_AN_OBJECT";

/// The code of every failure.
pub fn failures() -> impl Iterator<Item = &'static str> {
    [NOT_AN_OBJECT].into_iter().chain(convert::FAILURES)
}

impl Pipeline {
    /// Compiles steps, an array.
    ///
    /// # Errors
    /// What is wrong with them; at least one.
    pub fn compile(version: u16, steps: &Value) -> Result<Self, Vec<StepError>> {
        let Compiler { steps, errors, mut texts, guesses } = Compiler::read(steps);
        if !errors.is_empty() {
            return Err(errors);
        }
        texts.extend_from_slice(NULL);
        Ok(Self { version, steps, texts, guesses })
    }

    /// The version, from 1.
    #[must_use]
    pub fn version(&self) -> u16 {
        self.version
    }

    /// What does not fit a stream whose schema has these columns (as it declares them) and whose records have keys in these
    /// fields. Nothing: it fits.
    #[must_use]
    pub fn misfits(&self, declared: Vec<Column>, key_fields: &[&str]) -> Vec<StepError> {
        fit::misfits(&self.steps, declared, key_fields)
    }

    /// The columns of its output, where the schema has these.
    #[must_use]
    pub fn columns(&self, mut declared: Vec<Column>) -> Vec<Column> {
        self.steps.iter().for_each(|step| fit::applied(step, &mut declared));
        declared
    }

    /// The field of its output that tells when a record's event was, if a step says which.
    #[must_use]
    pub fn event_time(&self) -> Option<EventTime> {
        let at = self.steps.iter().position(|step| step.is_event_time)?;
        let Action::Convert { to: Conversion::Timestamp { target, .. }, .. } = &self.steps[at].action else {
            return None;
        };
        let mut path = path_of(&self.steps[at].fields[0].pointer);
        self.steps[at + 1..].iter().for_each(|step| fit::renamed(step, &mut path));
        Some(EventTime::new(&pointer_of(&path), *target))
    }

    /// Whether this field of an output, where it is there, is the record's own as it was written: name and value.
    #[must_use]
    pub fn leaves(&self, field: &str) -> bool {
        let path = path_of(field);
        !self.steps.iter().any(|step| fit::may_change(step, &path))
    }

    /// Whether a record may become a dead letter by a step's wish.
    #[must_use]
    pub fn has_dead_letters(&self) -> bool {
        self.steps.iter().any(|step| matches!(step.action, Action::Convert { on_error: OnError::Dlq, .. }))
    }

    /// How many steps there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Never: there is at least one step.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}

/// Every version that a stream's pipeline has had: rows in the log and the buffer are of the one that was current when they came.
#[derive(Debug, Default)]
pub struct Pipelines {
    current: u16,
    versions: Vec<Stored>,
}

/// A version as the catalog keeps it, compiled when it is first needed.
#[derive(Debug)]
struct Stored {
    version: u16,
    steps: Arc<str>,
    compiled: OnceLock<Option<Arc<Pipeline>>>,
}

impl Pipelines {
    /// These versions and their steps, of which `current` is for records that come now; 0: none is.
    #[must_use]
    pub fn new(current: u16, versions: impl IntoIterator<Item = (u16, Arc<str>)>) -> Self {
        let stored = |(version, steps)| Stored { version, steps, compiled: OnceLock::new() };
        let mut versions: Vec<Stored> = versions.into_iter().map(stored).collect();
        versions.sort_unstable_by_key(|stored| stored.version);
        Self { current, versions }
    }

    /// The version for records that come now; 0: they stay as they are.
    #[must_use]
    pub fn current(&self) -> u16 {
        self.current
    }

    /// A version.
    ///
    /// # Errors
    /// There is none of this number, or this program cannot run it: rows of it cannot be read.
    pub fn get(&self, version: u16) -> Result<Arc<Pipeline>, UnknownPipeline> {
        let at = self.versions.binary_search_by_key(&version, |stored| stored.version).ok();
        let stored = at.map(|at| &self.versions[at]);
        let compile = |stored: &Stored| {
            let steps = serde_json::from_str(&stored.steps).ok()?;
            Pipeline::compile(version, &steps).ok().map(Arc::new)
        };
        stored
            .and_then(|stored| stored.compiled.get_or_init(|| compile(stored)).clone())
            .ok_or(UnknownPipeline(version))
    }
}

/// A version of a pipeline that is not at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("version {0} of the stream's pipeline is not known here: is this program older than the one that made it?")]
pub struct UnknownPipeline(
    /// The version.
    pub u16,
);

const NULL: &[u8] = b"null";

/// Runs one pipeline on records, one after the other, in the same memory.
#[derive(Debug)]
pub struct Runner {
    pipeline: Arc<Pipeline>,
    members: Members,
    out: Vec<u8>,
    text: String,
}

impl Runner {
    /// For records of this version.
    #[must_use]
    pub fn new(pipeline: Arc<Pipeline>) -> Self {
        let members = Members::new(pipeline.guesses, &pipeline.texts);
        Self { pipeline, members, out: Vec::new(), text: String::new() }
    }

    /// The pipeline.
    #[must_use]
    pub fn pipeline(&self) -> &Arc<Pipeline> {
        &self.pipeline
    }

    /// What becomes of a record.
    pub fn run(&mut self, record: &[u8]) -> Verdict<'_> {
        self.run_through(record, usize::MAX)
    }

    /// What becomes of it by the first `steps` steps.
    pub fn run_through(&mut self, record: &[u8], steps: usize) -> Verdict<'_> {
        let Self { pipeline, members, out, text } = self;
        if members.begin(record).is_none() {
            let message = "the record is no JSON object, so it has no fields";
            return Verdict::Dead(Failure { step: 0, reason: NOT_AN_OBJECT, message, pointers: Vec::new() });
        }
        for (number, step) in pipeline.steps.iter().enumerate().take(steps) {
            if let Some(ended) = apply(step, number, &pipeline.texts, members, record, text) {
                return ended;
            }
        }
        if !members.is_changed() {
            return Verdict::Same;
        }
        out.clear();
        members.write(record, out);
        Verdict::Changed(out)
    }
}

/// Runs a step. `Some`: the record is left out.
fn apply(
    step: &Step,
    number: usize,
    texts: &[u8],
    members: &mut Members,
    record: &[u8],
    text: &mut String,
) -> Option<Verdict<'static>> {
    let (to, on_error) = match &step.action {
        Action::Select(kept) => {
            members.keep(record, kept);
            return None;
        }
        Action::Exclude => {
            for field in &step.fields {
                if let Some(place) = members.find(record, &field.path) {
                    members.remove(place);
                }
            }
            return None;
        }
        Action::Rename(names) => {
            for (field, name) in step.fields.iter().zip(names) {
                if let Some(place) = members.find(record, &field.path) {
                    members.rename(record, place, *name);
                }
            }
            return None;
        }
        Action::Reorder(objects) => {
            objects.iter().for_each(|(object, names)| members.reorder(record, object, names));
            return None;
        }
        Action::Convert { to, on_error } => (to, *on_error),
    };
    let mut failed = Vec::new();
    for field in &step.fields {
        let Some(place) = members.find(record, &field.path) else { continue };
        text.clear();
        match to.convert(members.scalar(record, place), text) {
            Converted::AsItIs => {}
            Converted::Anew => {
                let value = members.make(text.as_bytes());
                members.set(place, value);
            }
            Converted::Failed => match on_error {
                OnError::Keep => {}
                OnError::Null => members.set(place, Text::made(texts.len() - NULL.len()..texts.len())),
                OnError::Drop => return Some(Verdict::Dropped),
                OnError::Dlq => failed.push(field.pointer.clone()),
            },
        }
    }
    let (reason, message) = to.failure();
    let failure = |pointers| Verdict::Dead(Failure { step: number, reason, message, pointers });
    (!failed.is_empty()).then(|| failure(failed))
}
