//! Brings what pipelines could make nothing of to the streams of dead letters, before the files that lack it are committed.
//!
//! A letter's idempotency key is a function of its row, so a flush that is done again, after a crash or a failed commit, makes no
//! second one. What refuses letters for now is waited for by the flush, which is tried again.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{sync::oneshot, time};
use ttdust_shards::{
    dead_letters::{key_of_row, of_pipeline},
    ids::StreamId,
    message::{Outcome, OutcomeTo, Submission, ToShard},
    pipeline::rows::DeadLetter,
    snapshot::StreamEntry,
};

use crate::{link::ShardLink, publish::Publisher};

/// Letters of one submission at most, and their bytes: past it a submission ends.
const LETTERS_MAX: usize = 1000;
const BYTES_MAX: usize = 1 << 20;
/// Between looks at whether the shard that owes an outcome is still there.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// Letters were not taken, or nobody knows.
#[derive(Debug, thiserror::Error)]
#[error("dead letters of {stream} are not taken: {reason}")]
pub struct UndeliveredError {
    stream: StreamId,
    reason: String,
}

/// Delivers dead letters.
#[derive(Debug, Clone)]
pub struct DeadLetters {
    link: ShardLink,
    publisher: Arc<Publisher>,
}

impl DeadLetters {
    /// To the streams that `publisher` knows, on the shards of `link`.
    #[must_use]
    pub fn new(link: ShardLink, publisher: Arc<Publisher>) -> Self {
        Self { link, publisher }
    }

    /// Delivers the letters of rows of `stream`. All are on stable storage when this is done.
    ///
    /// # Errors
    /// Some are not, or may not be.
    pub async fn deliver(&self, stream: StreamId, letters: &[DeadLetter]) -> Result<(), UndeliveredError> {
        let Some(target) = self.target(stream) else {
            if let Some(first) = letters.first() {
                let (reason, sequence) = (first.failure.reason, first.sequence);
                tracing::error!(%stream, letters = letters.len(), sequence, reason, "the stream has no dead letters: records are left out");
            }
            return Ok(());
        };
        let mut rest = letters;
        while !rest.is_empty() {
            let (mut payloads, mut keys, mut bytes) = (Vec::new(), Vec::new(), 0);
            for letter in rest.iter().take(LETTERS_MAX) {
                let payload = of_pipeline(stream, letter);
                if bytes > 0 && bytes + payload.len() > BYTES_MAX {
                    break;
                }
                bytes += payload.len();
                payloads.push(payload);
                keys.push(key_of_row(stream, letter.sequence, letter.pipeline_version));
            }
            rest = &rest[payloads.len()..];
            self.submit(stream, &target, payloads, keys).await?;
        }
        Ok(())
    }

    fn target(&self, stream: StreamId) -> Option<Arc<StreamEntry>> {
        let current = self.publisher.current();
        current.stream(current.stream(stream)?.dead_letters?).cloned()
    }

    async fn submit(
        &self,
        stream: StreamId,
        target: &StreamEntry,
        payloads: Vec<Bytes>,
        keys: Vec<Bytes>,
    ) -> Result<(), UndeliveredError> {
        let (tell, mut waiter) = oneshot::channel();
        let submission = Submission {
            stream: target.id,
            schema_version: target.schema.version,
            payloads,
            keys,
            metadata: Bytes::new(),
            writer: None,
            marks: None,
            reply: OutcomeTo::Waiter(tell),
        };
        let failed = |reason: String| Err(UndeliveredError { stream, reason });
        if self.link.engine().send(target.home, ToShard::Submit(submission)).is_err() {
            return failed("their shard has too much to do".to_owned());
        }
        let outcome = loop {
            tokio::select! {
                outcome = &mut waiter => break outcome.unwrap_or(Outcome::Unknown),
                () = time::sleep(LOOK_PAUSE) => {}
            }
            // What lies in the queue of a shard that is gone is never looked at.
            if self.link.has_ended(target.home) {
                break waiter.try_recv().unwrap_or(Outcome::Unknown);
            }
        };
        match outcome {
            Outcome::Committed(_) => Ok(()),
            Outcome::Refused(refusal) => failed(format!("{refusal:?}")),
            Outcome::Unknown => failed("nobody knows whether they are on stable storage".to_owned()),
        }
    }
}
