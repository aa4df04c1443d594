//! Who grants what clients may do: over this process's shards alone, or with Redis over all nodes.
//!
//! Shards lease ahead ([`ttdust_shards::rate::budget`]), so no record waits for an answer of this module. Calls that come to
//! control anyway, queries and admin calls, are counted here one by one. With Redis every grant is made there, within a time
//! limit; a node whose Redis is gone or slow grants by itself at once, up to the whole limit and never more, from a ledger
//! that noted all that this node got from Redis. So while Redis is gone, a client may get its limit on each node.

pub mod local;
pub mod redis;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use ttdust_shards::rate::{Category, LeaseAsk, LeaseGrant, RateLimited, RateLimits, WINDOW_MICROS};

use crate::metrics::ControlMetrics;
use local::{Granted, LocalLedger};
use redis::SharedLedger;

/// Clients with debts that are remembered.
const DEBTORS_MAX: usize = 10_000;
/// The longest time that a client is told to wait, in µs.
const RETRY_MICROS_MAX: u64 = 3_600_000_000;

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
    /// What clients brought by REST over what they were granted, to be paid before anything else of theirs is let in.
    debts: Mutex<HashMap<(Category, Arc<str>), u64>>,
    shared: Option<SharedLedger>,
    metrics: Arc<ControlMetrics>,
    started: Instant,
}

impl Coordinator {
    /// With a ledger that nodes share, or without.
    #[must_use]
    pub fn new(shared: Option<SharedLedger>, metrics: Arc<ControlMetrics>) -> Self {
        Self { local: Mutex::default(), debts: Mutex::default(), shared, metrics, started: Instant::now() }
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

    /// Counts a request with records that does not come over gRPC, where the shards lease permits ahead. As there, one that is
    /// larger than what is left is let in whole while anything is left, and what it overdraws is paid before the client's next.
    /// The standing is that of records; `None`: they are not limited.
    ///
    /// # Errors
    /// The client is over a limit: nothing of the request may be taken.
    pub async fn admit_records(
        &self,
        limits: &RateLimits,
        client: &Arc<str>,
        records: u64,
        bytes: u64,
    ) -> Result<Option<Standing>, RateLimited> {
        let costs = [(Category::IngestRecords, records), (Category::IngestBytes, bytes)];
        let costs: Vec<_> = costs.into_iter().filter(|(category, _)| limits.of(*category) > 0).collect();
        if costs.is_empty() {
            return Ok(None);
        }
        let ask = |category, want, unused| LeaseAsk { client: Arc::clone(client), category, want, unused };
        let debts: Vec<_> = costs.iter().map(|&(category, _)| self.debt(category, client)).collect();
        let asks: Vec<_> =
            costs.iter().zip(&debts).map(|(&(category, cost), debt)| ask(category, debt + cost, 0)).collect();
        let granted = self.grant(limits, &asks).await;
        let is_over = |(permits, debt, cost): (u64, u64, u64)| cost > 0 && permits <= debt;
        let told = || {
            granted.iter().zip(&debts).zip(&costs).map(|((granted, &debt), &(_, cost))| (granted.permits, debt, cost))
        };
        let Some(at) = told().position(is_over) else {
            for (&(category, cost), granted) in costs.iter().zip(&granted) {
                self.settle(category, client, cost, granted.permits);
            }
            return Ok(costs.iter().position(|(category, _)| *category == Category::IngestRecords).map(|at| {
                let limit = limits.of(Category::IngestRecords);
                let Granted { mut window, at, .. } = granted[at];
                let (remaining, wait) = (window.free(limit, at), window.wait(limit, at));
                let reset = if remaining == 0 { wait } else { WINDOW_MICROS - at % WINDOW_MICROS };
                Standing { limit, remaining, reset: Duration::from_micros(reset) }
            }));
        };
        // What pays a debt is kept; the rest goes back, for nothing of the request is taken.
        let mut back = Vec::new();
        for ((&(category, _), granted), &debt) in costs.iter().zip(&granted).zip(&debts) {
            let paid = granted.permits.min(debt);
            self.settle(category, client, 0, paid);
            if granted.permits > paid {
                back.push(ask(category, 0, granted.permits - paid));
            }
        }
        if !back.is_empty() {
            self.grant(limits, &back).await;
        }
        let (category, limit) = (costs[at].0, limits.of(costs[at].0));
        let Granted { mut window, at: now, permits } = granted[at];
        let owed = u128::from(debts[at] - permits.min(debts[at])) * u128::from(WINDOW_MICROS) / u128::from(limit);
        let wait = window.wait(limit, now).max(u64::try_from(owed).unwrap_or(u64::MAX)).clamp(1000, RETRY_MICROS_MAX);
        self.metrics.rate_limited(category);
        Err(RateLimited { category, limit, retry_after: Duration::from_micros(wait) })
    }

    fn debt(&self, category: Category, client: &Arc<str>) -> u64 {
        let debts = self.debts.lock().unwrap_or_else(PoisonError::into_inner);
        debts.get(&(category, Arc::clone(client))).copied().unwrap_or(0)
    }

    /// What a client brought and was granted. Of several requests at once one may have paid what another did too: that is lost.
    fn settle(&self, category: Category, client: &Arc<str>, brought: u64, granted: u64) {
        let mut debts = self.debts.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (category, Arc::clone(client));
        let debt = debts.get(&key).copied().unwrap_or(0).saturating_add(brought).saturating_sub(granted);
        if debt == 0 {
            debts.remove(&key);
            return;
        }
        if debts.len() >= DEBTORS_MAX && !debts.contains_key(&key) {
            debts.clear();
        }
        debts.insert(key, debt);
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
