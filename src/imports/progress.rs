//! How far a job came: a few numbers, kept in the catalog. A run begins at what was kept last.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::replay::ReplayProgress;

/// Bad rows that are told of; the others are only counted.
pub const FAULTS_MAX: usize = 100;
/// What is told of one, in bytes.
const FAULT_BYTES_MAX: usize = 1024;

/// See the file's comment. All but the faults and what follows are of rows whose fate is known, in order: nothing is left out before them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// How many runs there were: the epoch of the job's writer.
    pub runs: u64,
    /// Objects that are read to their end.
    pub objects_done: usize,
    /// How many there are.
    pub objects_total: usize,
    /// Rows of the next object that are done.
    pub rows: u64,
    /// Numbers of the job's writer that are taken.
    pub numbers: u64,
    /// Rows that were read.
    pub processed: u64,
    /// Those that are records of the stream now.
    pub succeeded: u64,
    /// Those that are not.
    pub failed: u64,
    /// The first bad rows.
    pub faults: Vec<RowFault>,
    /// Why it failed.
    pub reason: Option<String>,
    /// What it waits for.
    pub waits_for: Option<String>,
    /// Of a replay: what came of its letters, which are its rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay: Option<ReplayProgress>,
}

/// A bad row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowFault {
    /// The object.
    pub object: String,
    /// The line that the row begins on; of Parquet the row's number. From 1.
    pub line: u64,
    /// What is wrong.
    pub message: String,
    /// Where: a JSON Pointer into the record, or the name of a column; empty: the row as a whole.
    pub field: String,
}

impl Progress {
    /// As the catalog keeps it.
    #[must_use]
    pub fn to_value(&self) -> Value {
        serde_json::to_value(self).expect("texts and numbers always serialise")
    }

    /// As the catalog has kept it.
    #[must_use]
    pub fn of_value(value: &Value) -> Self {
        serde_json::from_value(value.clone()).unwrap_or_default()
    }

    /// Another run begins.
    pub(super) fn begin(&mut self, objects: usize) {
        self.runs += 1;
        self.objects_total = objects;
        self.reason = None;
        self.waits_for = None;
    }

    /// A row is bad.
    pub(super) fn fault(&mut self, object: &str, line: u64, message: &str, field: &str) {
        self.failed += 1;
        if self.faults.len() < FAULTS_MAX {
            let cut = |text: &str| text.chars().take(FAULT_BYTES_MAX / 4).collect::<String>();
            let fault = RowFault { object: object.to_owned(), line, message: cut(message), field: cut(field) };
            self.faults.push(fault);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_back_as_it_was_kept_and_the_first_faults_are_told() {
        let mut progress = Progress { numbers: 7, ..Progress::default() };
        progress.begin(3);
        for line in 1..=200 {
            progress.fault("a", line, &"é".repeat(2000), "/n");
        }
        assert_eq!((progress.failed, progress.faults.len(), progress.faults[99].line), (200, FAULTS_MAX, 100));
        assert!(progress.faults[0].message.len() <= FAULT_BYTES_MAX);
        assert_eq!(Progress::of_value(&progress.to_value()), progress);
        assert_eq!(Progress::of_value(&Value::Null), Progress::default());
    }
}
