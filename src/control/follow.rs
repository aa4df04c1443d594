//! Follows a catalog that others change too: other nodes, and tools.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::time::{self, MissedTickBehavior};

use super::{Control, ControlError};
use crate::{catalog::CatalogError, flush::TakeoverPending};

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
                // While it is down, whoever found it so has said so.
                Ok(()) | Err(ControlError::Unavailable(_)) => {}
                Err(error) => tracing::error!(%error, "cannot put a change of the catalog in force; trying again"),
            }
        }
    }

    async fn follow(&self) -> Result<(), ControlError> {
        let generation: Result<i64, CatalogError> = self.parts.catalog.generation().await;
        if generation? == self.parts.publisher.generation() {
            return Ok(());
        }
        let _changing = self.changing().await?;
        // Meanwhile one of our own changes may have been put in force: then this is one time too many, and no harm.
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
