//! Follows the catalog: puts in force what others changed, nodes and tools, and what was changed here and could not be published
//! at once.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::time::{self, MissedTickBehavior};

use super::{Control, ControlError};
use crate::flush::TakeoverPending;

/// A key that was revoked elsewhere is refused here at most two of these later.
const PERIOD: Duration = Duration::from_secs(2);

impl Control {
    /// Puts each change in force until the server drains; first takes the catalog over, if that is `pending`.
    pub async fn follow_catalog(self: &Arc<Self>, mut pending: Option<TakeoverPending>) {
        let mut ticks = time::interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.draining.load(Relaxed) {
            ticks.tick().await;
            let outcome = match &pending {
                None => self.follow().await,
                Some(takeover) => {
                    let outcome = self.take_over(takeover).await;
                    if outcome.is_ok() {
                        pending = None;
                        self.resume().await;
                    }
                    outcome
                }
            };
            match outcome {
                Ok(()) => {}
                // Whoever found it so has said so.
                Err(ControlError::Unavailable(_)) if self.parts.catalog.is_down() || self.draining.load(Relaxed) => {}
                Err(error) => tracing::error!(%error, "cannot put a change of the catalog in force; trying again"),
            }
        }
    }

    async fn follow(&self) -> Result<(), ControlError> {
        if self.is_in_force().await? {
            return Ok(());
        }
        let _changing = self.changing().await?;
        // It may have been one of our own changes, under way to be published.
        if self.is_in_force().await? {
            return Ok(());
        }
        self.publish().await
    }

    async fn take_over(&self, pending: &TakeoverPending) -> Result<(), ControlError> {
        let _changing = self.changing().await?;
        let everything = self.parts.catalog.everything().await?;
        let snapshot = self.parts.publisher.put_in_force(&everything).await?;
        self.send(snapshot).await?;
        pending.end(&everything.streams);
        Ok(())
    }
}
