//! When the events of records were, for queries by it: as the stream's pipeline that is in force now tells it, of records as
//! readers see them. So a record has one time wherever it lies, and whichever version of the pipeline it came under. One of
//! which the pipeline cannot tell it has none, and is in no answer.

use std::{ops::Range, sync::Arc};

use super::{BufferSnapshot, QueryError};
use crate::{
    pipeline::{Pipelines, event_time::EventTime},
    record::Parser,
};

/// Events in a time range.
pub(super) struct Events {
    event_time: EventTime,
    /// Unix µs.
    times: Range<i64>,
    pipelines: Arc<Pipelines>,
    parser: Parser,
}

impl Events {
    /// Of the buffer's stream.
    pub(super) fn new(buffer: &BufferSnapshot, times: Range<i64>) -> Result<Self, QueryError> {
        let pipelines = Arc::clone(&buffer.pipelines);
        let event_time = match pipelines.current() {
            0 => None,
            current => pipelines.get(current)?.event_time(),
        };
        let event_time = event_time.ok_or(QueryError::NoEventTime)?;
        Ok(Self { event_time, times, pipelines, parser: Parser::default() })
    }

    /// Whether a record, as readers see it, is of such an event.
    pub(super) fn has(&mut self, payload: &[u8]) -> bool {
        let Self { event_time, times, parser, .. } = self;
        parser.with_nodes(payload, |nodes| event_time.of(nodes).is_some_and(|time| times.contains(&time)))
    }

    /// Whether these are the times that a file has whose column was made by this version of the pipeline.
    pub(super) fn are_told_by(&self, version: u16) -> bool {
        self.pipelines.get(version).is_ok_and(|pipeline| pipeline.event_time().as_ref() == Some(&self.event_time))
    }
}
