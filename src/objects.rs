//! Where committed files lie: one object a file, by key. A local directory now; S3 later.
//!
//! A key is a function of stream, hour, sequence range and format version, so a retry writes the same name. Keys are made of
//! ids and numbers only, never of names that a client chose.

mod local;

use std::path::PathBuf;

use ttdust_shards::{ids::StreamId, parquet::FileMeta};

use crate::calendar::civil_from_days;

pub use local::{LocalObjects, clean_staging};

/// The version of the files' layout, part of each key.
pub const FORMAT_VERSION: u32 = 1;

/// Why an object is not in place.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// The staged file is gone or is not what was written: it must be written anew from the log.
    #[error("the staged file {path} is lost: {reason}")]
    StagedLost {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// An object with this key exists and holds something else.
    #[error("an object {key} exists and holds something else")]
    Different {
        /// The key.
        key: String,
    },
    /// The store failed; worth trying again.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// The key of a file: `{stream}/{yyyy}/{mm}/{dd}/{hh}/{first}-{last}.v1.parquet`.
#[must_use]
pub fn key_of(file: &FileMeta) -> String {
    let (year, month, day) = civil_from_days(file.hour.0.div_euclid(24));
    let hour = file.hour.0.rem_euclid(24);
    format!(
        "{}/{year:04}/{month:02}/{day:02}/{hour:02}/{:020}-{:020}.v{FORMAT_VERSION}.parquet",
        file.stream, file.first_sequence, file.last_sequence
    )
}

/// What every key of a stream begins with.
#[must_use]
pub fn prefix_of(stream: StreamId) -> String {
    stream.to_string()
}
