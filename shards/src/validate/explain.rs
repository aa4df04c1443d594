//! What to tell the client about a record that breaks its schema: where, and what was expected. Bounded in work, in
//! fields and in bytes, whatever the record holds.

use jsonschema::{ValidationError, error::ValidationErrorKind};
use serde_json::Value;

use super::{FIELD_ERRORS_MAX, FieldError, Invalid, SCHEMA_VIOLATION};
use crate::schema::{
    CompiledSchema,
    reference::{Budget, ReferenceNode, is_genuine},
    text::{bounded, pointer_step},
};

/// The longest message about one field, in bytes, without the ellipsis.
pub(super) const MESSAGE_BYTES_MAX: usize = 256;

/// The longest pointer, in bytes, without the ellipsis.
const POINTER_BYTES_MAX: usize = 1024;

/// A value is shown if its text is no longer than this many bytes.
const SHOWN_BYTES_MAX: usize = 64;

/// The most errors raised to find the fields to name. More than are named, because the branches of `anyOf` raise some too.
const RAISED_MAX: u64 = 1024;

/// Containers and elements looked at to find the fields to name: this many, and one a byte.
const VISITS_MIN: u64 = 16 << 10;

/// The refusal of `record`, which `schema` does not accept.
pub(super) fn violation(schema: &CompiledSchema, record: &Value, payload_len: usize) -> Invalid {
    let budget = Budget::new(RAISED_MAX, VISITS_MIN + payload_len as u64);
    let mut field_errors = Vec::new();
    for error in schema.reference.iter_errors(ReferenceNode { value: record, budget: &budget }) {
        if !is_genuine(error.instance()) {
            continue;
        }
        describe(&error, &mut field_errors);
        if field_errors.len() >= FIELD_ERRORS_MAX {
            break;
        }
    }
    if field_errors.is_empty() {
        let message = "the record does not match the schema, in a way too involved to name the fields".to_owned();
        field_errors.push(FieldError { pointer: String::new(), message });
    }
    let FieldError { pointer, message } = &field_errors[0];
    let place = if pointer.is_empty() { "the record" } else { pointer.as_str() };
    let more = match field_errors.len() - 1 {
        0 => String::new(),
        others => format!(" (and {others} more)"),
    };
    let message = bounded(2 * MESSAGE_BYTES_MAX, format_args!("{place}: {message}")) + &more;
    Invalid { code: SCHEMA_VIOLATION, message, field_errors }
}

/// Adds what `error` says, one entry for each member that should not be there.
fn describe(error: &ValidationError<'_>, into: &mut Vec<FieldError>) {
    let path = error.instance_path().as_str();
    match error.kind() {
        ValidationErrorKind::AdditionalProperties { unexpected } => {
            for name in unexpected.iter().take(FIELD_ERRORS_MAX - into.len()) {
                into.push(FieldError {
                    pointer: cut_pointer(&format!("{path}{}", pointer_step(name))),
                    message: bounded(MESSAGE_BYTES_MAX, format_args!("the schema allows no member {name:?} here")),
                });
            }
        }
        ValidationErrorKind::FalseSchema => {
            into.push(FieldError { pointer: cut_pointer(path), message: "the schema allows nothing here".to_owned() })
        }
        _ => into.push(FieldError { pointer: cut_pointer(path), message: message(error) }),
    }
}

/// What was expected; the value itself only if it is short.
fn message(error: &ValidationError<'_>) -> String {
    let shown = bounded(SHOWN_BYTES_MAX, format_args!("{}", error.instance()));
    if shown.len() <= SHOWN_BYTES_MAX {
        bounded(MESSAGE_BYTES_MAX, format_args!("{error}"))
    } else {
        bounded(MESSAGE_BYTES_MAX, format_args!("{}", error.masked()))
    }
}

/// `pointer`, cut with an ellipsis if it is very long.
pub(super) fn cut_pointer(pointer: &str) -> String {
    bounded(POINTER_BYTES_MAX, format_args!("{pointer}"))
}
