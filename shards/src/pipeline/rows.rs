//! Rows of the log as their readers see them: each through the version of the pipeline that its batch names.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::{Failure, Pipelines, Runner, UnknownPipeline, Verdict};

/// What a share of output takes in memory at least.
const SHARE_BYTES: usize = 16 * 1024;

/// A record that its pipeline could not make anything of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its sequence number.
    pub sequence: i64,
    /// When it was ingested, Unix µs.
    pub timestamp_unix_micros: i64,
    /// The schema version that it was checked with.
    pub schema_version: u32,
    /// The version of the pipeline.
    pub pipeline_version: u16,
    /// Why.
    pub failure: Failure,
    /// The record as it came.
    pub payload: Bytes,
    /// Its encoded metadata.
    pub metadata: Bytes,
}

/// Runs records of one stream, whatever their versions.
#[derive(Debug)]
pub struct RowReader {
    pipelines: Arc<Pipelines>,
    /// For the version of the rows at hand.
    runner: Option<Runner>,
    share: BytesMut,
}

impl RowReader {
    /// For rows of the stream whose pipelines these are.
    #[must_use]
    pub fn new(pipelines: &Arc<Pipelines>) -> Self {
        Self { pipelines: Arc::clone(pipelines), runner: None, share: BytesMut::new() }
    }

    /// What becomes of a record of this version; 0: it is as it was.
    ///
    /// # Errors
    /// The version is not known.
    pub fn run(&mut self, version: u16, record: &[u8]) -> Result<Verdict<'_>, UnknownPipeline> {
        if version == 0 {
            return Ok(Verdict::Same);
        }
        let is_other = self.runner.as_ref().is_none_or(|runner| runner.pipeline().version() != version);
        if is_other {
            self.runner = Some(Runner::new(self.pipelines.get(version)?));
        }
        Ok(self.runner.as_mut().map_or(Verdict::Same, |runner| runner.run(record)))
    }

    /// The record as a reader sees it; `None`: not at all. What was made anew shares memory with its neighbours.
    ///
    /// # Errors
    /// The version is not known.
    pub fn read(&mut self, version: u16, record: Bytes) -> Result<Option<Bytes>, UnknownPipeline> {
        let mut share = std::mem::take(&mut self.share);
        let read = match self.run(version, &record)? {
            Verdict::Same => Some(record),
            Verdict::Changed(output) => {
                if share.capacity() < output.len() {
                    share = BytesMut::with_capacity(SHARE_BYTES.max(output.len()));
                }
                share.extend_from_slice(output);
                Some(share.split().freeze())
            }
            Verdict::Dropped | Verdict::Dead(_) => None,
        };
        self.share = share;
        Ok(read)
    }
}
