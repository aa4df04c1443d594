//! Whether steps fit a stream, and which columns come out of them: the steps, run on the schema's columns.

use super::{
    StepError,
    convert::Conversion,
    members::{Kept, Name},
    steps::{Action, Field, Step, path_of, pointer_of},
    times::Target,
};
use crate::transform::columns::{Column, Kind, MAX_LEAVES};

/// What the schema says of a field.
enum Found {
    /// It has this kind of values.
    Declared(Kind),
    /// It may be there: the schema does not say what its object has.
    Free,
    Absent,
}

/// The columns after `step`.
pub(super) fn applied(step: &Step, columns: &mut Vec<Column>) {
    match &step.action {
        Action::Select(kept) => keep(columns, kept),
        Action::Exclude => step.fields.iter().for_each(|field| remove(columns, &field.path)),
        Action::Rename(_) => {
            for (field, name) in step.fields.iter().zip(&step.new_names) {
                if let Some(column) = find(columns, &field.path) {
                    column.key.clone_from(name);
                    column.name.clone_from(name);
                }
            }
        }
        Action::Reorder(objects) => {
            for (object, members) in objects {
                if let Some(columns) = members_of(columns, object) {
                    let place = |column: &Column| members.iter().position(|name| *name.text == column.key);
                    columns.sort_by_key(|column| place(column).unwrap_or(usize::MAX));
                }
            }
        }
        Action::Convert { to, .. } => {
            for field in &step.fields {
                if let Some(column) = find(columns, &field.path) {
                    column.kind = kind_of(to);
                }
            }
        }
    }
}

fn kind_of(to: &Conversion) -> Kind {
    match to {
        Conversion::String | Conversion::Timestamp { target: Target::Rfc3339, .. } => Kind::Utf8 { is_enum: false },
        Conversion::Integer | Conversion::Timestamp { target: Target::Unix(_), .. } => Kind::Int64,
        Conversion::Number => Kind::Float64,
        Conversion::Boolean => Kind::Boolean,
    }
}

fn members_of<'c>(columns: &'c mut Vec<Column>, object: &[Name]) -> Option<&'c mut Vec<Column>> {
    object.iter().try_fold(columns, |columns, name| {
        match &mut columns.iter_mut().find(|column| *column.key == *name.text)?.kind {
            Kind::Struct(columns) => Some(columns),
            _ => None,
        }
    })
}

fn find<'c>(columns: &'c mut Vec<Column>, path: &[Name]) -> Option<&'c mut Column> {
    let (last, object) = path.split_last()?;
    members_of(columns, object)?.iter_mut().find(|column| *column.key == *last.text)
}

fn remove(columns: &mut Vec<Column>, path: &[Name]) {
    let Some((last, object)) = path.split_last() else { return };
    if let Some(members) = members_of(columns, object) {
        members.retain(|column| *column.key != *last.text);
    }
    close_empty(columns);
}

fn keep(columns: &mut Vec<Column>, kept: &[Kept]) {
    columns.retain_mut(|column| {
        let Some(kept) = kept.iter().find(|kept| *kept.name.text == column.key) else { return false };
        if let (Some(inner), Kind::Struct(members)) = (&kept.inner, &mut column.kind) {
            keep(members, inner);
        }
        true
    });
    close_empty(columns);
}

/// A struct without members is no column type: it is kept as JSON text.
fn close_empty(columns: &mut [Column]) {
    for column in columns {
        if let Kind::Struct(members) = &mut column.kind {
            close_empty(members);
            if members.is_empty() {
                column.kind = Kind::Json;
            }
        }
    }
}

fn look(columns: &[Column], path: &[Name], is_cut: bool) -> Found {
    let Some((name, rest)) = path.split_first() else { return Found::Absent };
    if columns.is_empty() {
        return Found::Free;
    }
    match columns.iter().find(|column| *column.key == *name.text).map(|column| &column.kind) {
        None if is_cut => Found::Free,
        None => Found::Absent,
        Some(kind) if rest.is_empty() => Found::Declared(kind.clone()),
        Some(Kind::Struct(members)) => look(members, rest, is_cut),
        Some(Kind::Json) => Found::Free,
        Some(_) => Found::Absent,
    }
}

fn leaves(columns: &[Column]) -> usize {
    let of_kind = |kind: &Kind| match kind {
        Kind::Struct(columns) => leaves(columns),
        _ => 1,
    };
    columns.iter().map(|column| of_kind(&column.kind)).sum()
}

/// What does not fit: fields that the schema does not have, types that cannot be converted, names that are taken, key fields that
/// would be gone. `columns` are the schema's.
pub(super) fn misfits(steps: &[Step], mut columns: Vec<Column>, key_fields: &[&str]) -> Vec<StepError> {
    // A schema of more columns than are made: what is missing among them may well be in the schema.
    let is_cut = leaves(&columns) >= MAX_LEAVES;
    let mut errors = Vec::new();
    let mut event_time: Option<Vec<String>> = None;
    for (number, step) in steps.iter().enumerate() {
        let mut error = |at: usize, message: String| {
            let place = match step.action {
                Action::Rename(_) => pointer_of(&[&step.names_given[at]]),
                _ => format!("/{at}"),
            };
            errors.push(StepError { pointer: format!("/{number}/fields{place}"), message });
        };
        for (at, field) in step.fields.iter().enumerate() {
            match look(&columns, &field.path, is_cut) {
                Found::Absent => error(at, absent(&columns, field)),
                Found::Declared(kind) => {
                    if let Some(message) = inconvertible(&step.action, &kind) {
                        error(at, message);
                    }
                }
                Found::Free => {}
            }
            if let Some(name) = step.new_names.get(at) {
                let (object, _) = field.path.split_at(field.path.len() - 1);
                let is_taken = members_of(&mut columns, object)
                    .is_some_and(|members| members.iter().any(|column| column.key == *name));
                let is_same = |other: &Field| {
                    let others = &other.path[..other.path.len() - 1];
                    others.len() == object.len() && others.iter().zip(object).all(|(a, b)| a.text == b.text)
                };
                let before = step.fields[..at].iter().zip(&step.new_names);
                if is_taken || before.clone().any(|(other, other_name)| other_name == name && is_same(other)) {
                    error(at, format!("the schema has a {name} there already: exclude or rename it before"));
                }
            }
        }
        for key_field in key_fields {
            let path = path_of(key_field);
            if is_lost(step, &path) {
                error(0, format!("{key_field} is a key field of the stream: it is to stay, under its name"));
            }
        }
        if let Some(path) = &mut event_time {
            let is_converted = matches!(step.action, Action::Convert { .. })
                && step.fields.iter().any(|field| field.pointer == pointer_of(path));
            let is_taken_away = !matches!(step.action, Action::Rename(_)) && is_lost(step, path);
            if is_converted || is_taken_away {
                error(0, format!("{} tells when the event was: it is to stay as it is", pointer_of(path)));
            }
            renamed(step, path);
        } else if step.is_event_time {
            event_time = step.fields.first().map(|field| path_of(&field.pointer));
        }
        applied(step, &mut columns);
    }
    errors
}

/// Where the field at `path` is after the step, if it is there.
pub(super) fn renamed(step: &Step, path: &mut [String]) {
    for (field, name) in step.fields.iter().zip(&step.new_names) {
        let depth = field.path.len();
        if depth <= path.len() && field.path.iter().zip(path.iter()).all(|(a, b)| *a.text == **b) {
            path[depth - 1].clone_from(name);
        }
    }
}

/// Whether after the step there may be another value at `path`, or the same under another name. To be gone is neither.
pub(super) fn may_change(step: &Step, path: &[String]) -> bool {
    let leads_there = |field: &Field, name: &str| {
        let Some((_, object)) = field.path.split_last() else { return false };
        let depth = object.len();
        let are_same = object.iter().zip(path).all(|(name, given)| *name.text == **given);
        are_same && path.get(depth).is_some_and(|given| given == name)
    };
    let by_its_name = |field: &Field| field.path.last().is_some_and(|name| leads_there(field, &name.text));
    match &step.action {
        Action::Select(_) | Action::Exclude | Action::Reorder(_) => false,
        Action::Convert { .. } => step.fields.iter().any(by_its_name),
        Action::Rename(_) => {
            let mut names = step.fields.iter().zip(&step.new_names);
            step.fields.iter().any(by_its_name) || names.any(|(field, name)| leads_there(field, name))
        }
    }
}

fn absent(columns: &[Column], field: &Field) -> String {
    let names: Vec<_> = columns.iter().map(|column| column.key.as_str()).take(20).collect();
    format!(
        "the stream's schema, as the steps before leave it, has no {} (it has {}): declare it in the schema, or name another",
        field.pointer,
        names.join(", ")
    )
}

fn inconvertible(action: &Action, kind: &Kind) -> Option<String> {
    let Action::Convert { to, .. } = action else { return None };
    let (is_nested, is_boolean) = (matches!(kind, Kind::Struct(_) | Kind::List(_)), matches!(kind, Kind::Boolean));
    match to {
        _ if is_nested => Some("an object or array cannot be converted: name a field in it".to_owned()),
        Conversion::Timestamp { .. } if is_boolean => Some("a boolean is no time".to_owned()),
        _ => None,
    }
}

/// Whether the field that `path` leads to is gone after the step, or has another name.
fn is_lost(step: &Step, path: &[String]) -> bool {
    let begins = |long: &[String], short: &[Name]| {
        short.len() <= long.len() && short.iter().zip(long).all(|(short, long)| *short.text == **long)
    };
    match &step.action {
        Action::Select(_) => !step.fields.iter().any(|field| begins(path, &field.path)),
        Action::Exclude | Action::Rename(_) => step.fields.iter().any(|field| begins(path, &field.path)),
        Action::Reorder(_) | Action::Convert { .. } => false,
    }
}
