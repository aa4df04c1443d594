//! The records that were refused: the first ones on standard error, all of them in a file if there is one.

use std::{
    fs::File,
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
};

use serde_json::json;

use super::{batches::Batch, delivery::RowError};
use crate::cli::{
    failure::{Failure, Outcome},
    output::note,
};

/// Refused records that are told of on standard error.
const TOLD_MAX: u64 = 5;

/// Where they go.
pub(super) struct Rejects {
    file: Option<(PathBuf, BufWriter<File>)>,
    /// Names of the input's files.
    names: Vec<String>,
    told: u64,
}

impl Rejects {
    pub(super) fn create(path: Option<&Path>, names: Vec<String>) -> Result<Self, Failure> {
        let create = |path: &Path| match File::create(path) {
            Ok(file) => Ok((path.to_owned(), BufWriter::new(file))),
            Err(error) => Err(Failure::file(path, &error)),
        };
        Ok(Self { file: path.map(create).transpose()?, names, told: 0 })
    }

    /// Whether each of them is wanted.
    pub(super) fn are_kept(&self) -> bool {
        self.file.is_some()
    }

    /// Tells of records of a batch.
    pub(super) fn add(&mut self, batch: &Batch, errors: &[RowError]) -> Outcome {
        for error in errors {
            let (name, line) = (&self.names[batch.file], batch.lines.get(error.index).copied().unwrap_or(0));
            if self.told < TOLD_MAX {
                note(&format!("refused: {name}, line {line}: {}", in_short(error)));
            } else if self.told == TOLD_MAX && self.file.is_none() {
                note("refused: and others; --rejects FILE keeps them with their reasons");
            }
            self.told += 1;
            if let Some((path, file)) = &mut self.file {
                let fields =
                    error.field_errors.iter().map(|field| json!({"path": field.path, "message": field.message}));
                let row = json!({
                    "file": name,
                    "line": line,
                    "code": error.code,
                    "message": error.message,
                    "field_errors": fields.collect::<Vec<_>>(),
                    "record": String::from_utf8_lossy(batch.record(error.index)),
                });
                writeln!(file, "{row}").map_err(|error| Failure::file(path, &error))?;
            }
        }
        Ok(())
    }

    /// Writes out what waits.
    pub(super) fn end(self) -> Outcome {
        match self.file {
            Some((path, mut file)) => file.flush().map_err(|error| Failure::file(&path, &error)),
            None => Ok(()),
        }
    }
}

fn in_short(error: &RowError) -> String {
    match error.field_errors.first() {
        Some(field) if !field.path.is_empty() => format!("{}: {}", field.path, field.message),
        Some(field) => field.message.clone(),
        None => error.message.clone(),
    }
}
