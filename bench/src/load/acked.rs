//! The file that says what was acked: written by `load --acked`, read by `ttdust-bench verify`.

use std::{fs, io, path::Path};

use serde::{Deserialize, Serialize};

use super::stats::Acked;
use crate::payload::PayloadKind;

/// What was acked of one stream.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct AckedStream {
    /// Its id or name.
    pub stream: String,
    /// Runs of sequence numbers, first and last, ascending.
    pub ranges: Vec<(i64, i64)>,
    /// The earliest and the latest time in an ack, Unix µs.
    pub times: Option<(i64, i64)>,
    /// Sequence number and index in the payload set, for some records.
    pub samples: Vec<(i64, u64)>,
}

/// What was acked in a run.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct AckedRun {
    /// The payload, as on the command line.
    pub payload: String,
    /// How many records of it.
    pub payload_records: u32,
    /// Requests whose outcome is unknown: records of theirs may be there too.
    pub unknown_requests: u64,
    /// By stream.
    pub streams: Vec<AckedStream>,
}

impl AckedRun {
    /// Of what was counted.
    #[must_use]
    pub fn new(
        kind: &PayloadKind,
        payload_records: u32,
        unknown_requests: u64,
        names: &[String],
        acked: Vec<Acked>,
    ) -> Self {
        let stream = |(name, acked): (&String, Acked)| AckedStream {
            stream: name.clone(),
            ranges: acked.sequences.ranges().collect(),
            times: acked.times,
            samples: acked.samples,
        };
        let streams = names.iter().zip(acked).map(stream).collect();
        Self { payload: kind.to_string(), payload_records, unknown_requests, streams }
    }

    /// Reads the file.
    ///
    /// # Errors
    /// It cannot be read, or is no such file.
    pub fn read(path: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(path)?)?)
    }

    /// Writes the file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        fs::write(path, serde_json::to_vec(self)?)
    }
}
