//! Who grants what clients may do: over this process's shards alone, or with Redis over all nodes.
//!
//! Shards lease ahead ([`ttdust_shards::rate::budget`]), so no record waits for an answer of this module. Calls that come to
//! control anyway, queries and admin calls, are counted here one by one. With Redis every grant is made there, within a time
//! limit; a node whose Redis is gone or slow grants by itself at once, up to the whole limit and never more, from a ledger
//! that noted all that this node got from Redis. So while Redis is gone, a client may get its limit on each node.

pub mod local;
pub mod redis;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use ttdust_shards::rate::{Category, LeaseAsk, LeaseGrant, RateLimited, RateLimits, WINDOW_MICROS};

use crate::metrics::ControlMetrics;
use local::{Granted, LocalLedger};
use redis::SharedLedger;

/// How a client stands after a call that is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The limit, in calls a second.
    pub limit: u64,
    /// How many more would be let in now.
    pub remaining: u64,
    /// Until more are let in than now.
    pub reset: Duration,
}

/// Where grants are made now.
#[derive(Debug, Clone, PartialEq)]
pub struct Coordination {
    /// How long Redis took to answer last, in milliseconds; 0: it is not asked.
    pub latency_ms: f64,
    /// For people: `local`, `redis`, or why `local`.
    pub detail: String,
}

/// Grants.
#[derive(Debug)]
pub struct Coordinator {
    local: Mutex<LocalLedger>,
    shared: Option<SharedLedger>,
    metrics: Arc<ControlMetrics>,
    started: Instant,
}

impl Coordinator {
    /// With a ledger that nodes share, or without.
    #[must_use]
    pub fn new(shared: Option<SharedLedger>, metrics: Arc<ControlMetrics>) -> Self {
        Self { local: Mutex::default(), shared, metrics, started: Instant::now() }
    }

    /// Answers a shard's asks, in their order.
    pub async fn lease(&self, limits: &RateLimits, asks: Vec<LeaseAsk>) -> Vec<LeaseGrant> {
        let granted = self.grant(limits, &asks).await;
        let answer = |(ask, granted): (LeaseAsk, Granted)| LeaseGrant {
            short: granted.permits < ask.want,
            client: ask.client,
            category: ask.category,
            permits: granted.permits,
        };
        asks.into_iter().zip(granted).map(answer).collect()
    }

    /// Counts one call of a client. `None`: there is no limit.
    ///
    /// # Errors
    /// The client is over its limit: the call must not be done.
    pub async fn admit(
        &self,
        limits: &RateLimits,
        category: Category,
        client: &Arc<str>,
    ) -> Result<Option<Standing>, RateLimited> {
        let limit = limits.of(category);
        if limit == 0 {
            return Ok(None);
        }
        let ask = LeaseAsk { client: Arc::clone(client), category, want: 1, unused: 0 };
        let granted = self.grant(limits, std::slice::from_ref(&ask)).await;
        let Granted { permits, mut window, at } = granted[0];
        let remaining = window.free(limit, at);
        let wait = Duration::from_micros(window.wait(limit, at));
        if permits == 0 {
            self.metrics.rate_limited(category);
            return Err(RateLimited { category, limit, retry_after: wait.max(Duration::from_millis(1)) });
        }
        let reset = if remaining == 0 { wait } else { Duration::from_micros(WINDOW_MICROS - at % WINDOW_MICROS) };
        Ok(Some(Standing { limit, remaining, reset }))
    }

    async fn grant(&self, limits: &RateLimits, asks: &[LeaseAsk]) -> Vec<Granted> {
        let shared = match &self.shared {
            Some(shared) => shared.grant(limits, asks).await,
            None => None,
        };
        let now = self.started.elapsed().as_micros() as u64;
        let mut local = self.local.lock().unwrap_or_else(PoisonError::into_inner);
        match shared {
            Some(granted) => {
                asks.iter().zip(&granted).for_each(|(ask, granted)| local.note(ask, granted.permits, now));
                granted
            }
            None => asks.iter().map(|ask| local.grant(limits, ask, now)).collect(),
        }
    }

    /// Where grants are made now.
    #[must_use]
    pub fn state(&self) -> Coordination {
        match &self.shared {
            None => Coordination { latency_ms: 0.0, detail: "local".into() },
            Some(shared) => shared.state(),
        }
    }
}
