//! Bytes + schema → verdict.
//!
//! There are two fast paths: the schema as a program over the bytes, where it can be one, and the schema over a tape that
//! is parsed from a copy. Both only ever accept: whatever they do not accept, for whatever reason, goes to the reference,
//! which decides and writes the messages. So they must agree with it on nothing but this: what a fast path accepts, the
//! reference accepts.
//!
//! Policies: a record is one JSON text in UTF-8 without a byte order mark; it nests at most
//! [`DEPTH_MAX`](crate::schema::DEPTH_MAX) objects and arrays; an object names each member once; a number beyond an f64 is
//! refused, and any other is compared as the nearest i64, u64 or f64 (the stored payload keeps its text); `1.0` and `1e2` are
//! integers.

use simd_json::{Buffers, INPUT_PADDING, Tape};

use crate::schema::{
    CompiledSchema, DEPTH_MAX,
    reference::{Budget, ReferenceNode},
    tape::{Document, TapeNode, Wide},
    text::{self, TextError},
};

mod explain;
mod program;

/// The record is not one JSON text.
pub const NOT_JSON: &str = "NOT_JSON";
/// The record nests more than [`DEPTH_MAX`] objects and arrays.
pub const TOO_DEEP: &str = "TOO_DEEP";
/// An object in the record names a member twice.
pub const DUPLICATE_KEY: &str = "DUPLICATE_KEY";
/// The record has a number beyond an f64.
pub const NUMBER_OUT_OF_RANGE: &str = "NUMBER_OUT_OF_RANGE";
/// The record is JSON, but not what the schema asks for.
pub const SCHEMA_VIOLATION: &str = "SCHEMA_VIOLATION";

/// The record has more bytes than it may.
pub const RECORD_TOO_LARGE: &str = "RECORD_TOO_LARGE";
/// The code of every refusal.
pub const FAILURES: [&str; 6] =
    [NOT_JSON, TOO_DEEP, DUPLICATE_KEY, NUMBER_OUT_OF_RANGE, SCHEMA_VIOLATION, RECORD_TOO_LARGE];

/// The most fields that one refusal names.
pub const FIELD_ERRORS_MAX: usize = 16;

/// Buffers that grew beyond what a record of this many bytes needs are given back after the record.
const RETAINED_BYTES_MAX: usize = 256 << 10;

/// Why a record is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// [`NOT_JSON`] or [`SCHEMA_VIOLATION`] or a limit's name: the machine-readable reason.
    pub code: &'static str,
    /// For people: what is wrong. At most about 1 KiB.
    pub message: String,
    /// The fields at fault, at most [`FIELD_ERRORS_MAX`].
    pub field_errors: Vec<FieldError>,
}

/// One field at fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// JSON Pointer into the record. One over 1 KiB is cut and ends with `…`.
    pub pointer: String,
    /// What is wrong there. At most about 300 bytes.
    pub message: String,
}

/// What the fast path alone has to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TapeVerdict {
    /// Valid: this is final.
    Accepted,
    /// Invalid, unless the reference says otherwise.
    Rejected,
    /// It could not read the payload, or a member is named twice.
    Unread,
}

/// Checks records; one a thread, because it reuses its buffers from record to record.
pub struct Validator {
    /// The copy that simd-json parses in place, with the padding that it wants.
    copy: Vec<u8>,
    buffers: Buffers,
    tape: Tape<'static>,
    wide: Wide,
    memory: program::Memory,
}

impl std::fmt::Debug for Validator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Validator").finish_non_exhaustive()
    }
}

impl Default for Validator {
    fn default() -> Self {
        Self {
            copy: Vec::new(),
            buffers: Buffers::with_max_depth(0, DEPTH_MAX),
            tape: Tape(Vec::new()),
            wide: Wide::default(),
            memory: program::Memory::default(),
        }
    }
}

impl Validator {
    /// Whether `payload` is one JSON text that `schema` accepts. Never changes `payload`.
    ///
    /// # Errors
    /// [`Invalid`] with the reason and the fields at fault.
    pub fn check(&mut self, schema: &CompiledSchema, payload: &[u8]) -> Result<(), Box<Invalid>> {
        if self.check_program(schema, payload) == Some(true) {
            return Ok(());
        }
        match self.check_tape(schema, payload) {
            TapeVerdict::Accepted => Ok(()),
            TapeVerdict::Rejected | TapeVerdict::Unread => decide(schema, payload),
        }
    }

    /// The verdict of [`Validator::check`] without its reasons, which cost many times as much.
    pub fn accepts(&mut self, schema: &CompiledSchema, payload: &[u8]) -> bool {
        self.check_program(schema, payload) == Some(true)
            || self.check_tape(schema, payload) == TapeVerdict::Accepted
            || text::parse(payload, DEPTH_MAX).is_ok_and(|value| reference_accepts(schema, &value))
    }

    /// Both verdicts on `payload`, for tests and fuzzing: wherever the tape says [`TapeVerdict::Accepted`], the reference
    /// must say `Ok`.
    pub fn check_both(&mut self, schema: &CompiledSchema, payload: &[u8]) -> (TapeVerdict, Result<(), Box<Invalid>>) {
        (self.check_tape(schema, payload), decide(schema, payload))
    }

    /// Whether the schema's program accepts `payload`, which is final; `None`: it has no program. For tests, too: wherever
    /// this is `Some(true)`, the reference must say `Ok`.
    pub fn check_program(&mut self, schema: &CompiledSchema, payload: &[u8]) -> Option<bool> {
        schema.program.as_ref().map(|program| self.memory.accepts(program, payload))
    }

    /// What the tape alone says of `payload`.
    pub fn check_tape(&mut self, schema: &CompiledSchema, payload: &[u8]) -> TapeVerdict {
        self.copy.clear();
        self.copy.extend_from_slice(payload);
        self.copy.resize(payload.len() + INPUT_PADDING, 0);
        let mut tape = std::mem::replace(&mut self.tape, Tape(Vec::new())).reset();
        let read = simd_json::fill_tape_padded(&mut self.copy, payload.len(), &mut self.buffers, &mut tape).is_ok()
            && self.wide.index(&tape.0).is_ok();
        let verdict = if !read {
            TapeVerdict::Unread
        } else if schema.tape.is_valid(TapeNode::root(&Document { entries: &tape.0, wide: &self.wide })) {
            TapeVerdict::Accepted
        } else {
            TapeVerdict::Rejected
        };
        self.tape = tape.reset();
        if payload.len() > RETAINED_BYTES_MAX {
            *self = Self { memory: std::mem::take(&mut self.memory), ..Self::default() };
        }
        verdict
    }
}

/// The reference's verdict, with what to tell the client.
#[cold]
fn decide(schema: &CompiledSchema, payload: &[u8]) -> Result<(), Box<Invalid>> {
    let value = text::parse(payload, DEPTH_MAX).map_err(|error| Box::new(unreadable(&error)))?;
    if reference_accepts(schema, &value) {
        return Ok(());
    }
    Err(Box::new(explain::violation(schema, &value, payload.len())))
}

fn reference_accepts(schema: &CompiledSchema, value: &serde_json::Value) -> bool {
    schema.reference.is_valid(ReferenceNode { value, budget: &Budget::unlimited() })
}

/// The refusal of a payload that cannot be read.
fn unreadable(error: &TextError) -> Invalid {
    let message = text::bounded(explain::MESSAGE_BYTES_MAX, format_args!("{error}"));
    let (code, field_errors) = match error {
        TextError::NotJson(_) => (NOT_JSON, Vec::new()),
        TextError::NumberOutOfRange(_) => (NUMBER_OUT_OF_RANGE, Vec::new()),
        TextError::TooDeep { .. } => (TOO_DEEP, Vec::new()),
        TextError::DuplicateKey { pointer, .. } => {
            (DUPLICATE_KEY, vec![FieldError { pointer: explain::cut_pointer(pointer), message: message.clone() }])
        }
    };
    Invalid { code, message, field_errors }
}
