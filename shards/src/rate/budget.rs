//! What a shard lets its clients ingest: permits leased from control, counted here without a lock or a wait.
//!
//! A client has a balance a category. A request is let in while the balance is above the client's credit line, and lowers it
//! by all that it brings; a grant raises it. So one request may overdraw, however large it is, and what it overdraws is paid
//! by later grants before anything else is let in: over time no client gets more than its limit. The credit line is this
//! shard's fixed share, limit / shards, and lets a client begin before its first lease is there; it is 0 for a window's length
//! after a grant fell short, when the client is known to be at its limit. Hence all shards together let in, within one window,
//! at most the limit, what their shares add to it for a client that is new to them, and one request each; whatever is over is
//! paid back.
//!
//! Leases are asked for in batches, one under way at a time. While control does not answer, a debt is paid at the fixed
//! share's rate. Times are µs since the shard's start, given by the caller.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Category, LeaseAsk, LeaseGrant, RateLimited, RateLimits, SLICE_MICROS, WINDOW_MICROS};

/// Clients that a shard remembers; any more share one budget.
const CLIENTS_MAX: usize = 10_000;
/// Whose budget clients share that are too many.
const CROWD: &str = "(others)";
/// Asks in one batch, and as many that give back.
const ASKS_MAX: usize = 512;
/// Slices that an ask looks ahead, where asks come late.
const SLICES_AHEAD_MAX: u64 = 4;
/// Between two asks for a client that gets what it wants.
const PAUSE_MICROS: u64 = 20_000;
/// The same for one at its limit: somewhat less than a slice, so that each upkeep finds it due.
const SHORT_PAUSE_MICROS: u64 = SLICE_MICROS * 9 / 10;
/// After this time without an answer, a shard pays debts itself.
const SILENCE_MICROS: u64 = 1_000_000;
const SWEEP_MICROS: u64 = 1_000_000;
/// A client that did nothing for so long is forgotten.
const FORGET_MICROS: u64 = 10_000_000;

const CATEGORIES: [Category; 2] = [Category::IngestRecords, Category::IngestBytes];

/// The budgets of a shard's clients.
#[derive(Debug)]
pub struct Budgets {
    limits: Cell<RateLimits>,
    shards: u64,
    started: Instant,
    clients: RefCell<HashMap<Arc<str>, Rc<ClientBudget>, ahash::RandomState>>,
    /// Clients that want permits and are in no batch.
    wanting: RefCell<Vec<Rc<ClientBudget>>>,
    /// Clients of the batch under way.
    asked: RefCell<Vec<Rc<ClientBudget>>>,
    /// What goes back with the next batch.
    unused: RefCell<Vec<LeaseAsk>>,
    /// When the batch was sent.
    asked_at: Cell<Option<u64>>,
    swept_at: Cell<u64>,
    paid_at: Cell<u64>,
}

/// One client's budget; a call keeps it.
#[derive(Debug)]
pub struct ClientBudget {
    id: Arc<str>,
    /// In the order of [`CATEGORIES`].
    accounts: RefCell<[Account; 2]>,
    /// Whether it is among those that want permits, or in the batch under way.
    listed: Cell<bool>,
    used_at: Cell<u64>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Account {
    balance: i64,
    /// What clients brought since the last ask, let in or not.
    demand: u64,
    /// What is expected of one slice.
    expected: u64,
    asked_at: u64,
    /// When a grant last fell short.
    short_at: Option<u64>,
}

impl Account {
    fn is_short(&self, now: u64) -> bool {
        self.short_at.is_some_and(|at| now.saturating_sub(at) < WINDOW_MICROS)
    }

    fn credit(&self, share: u64, now: u64) -> i64 {
        if self.is_short(now) { 0 } else { signed(share) }
    }

    fn wants(&self) -> bool {
        self.balance <= signed(self.expected / 2)
    }

    fn is_due(&self, now: u64) -> bool {
        let pause = if self.is_short(now) { SHORT_PAUSE_MICROS } else { PAUSE_MICROS };
        self.wants() && (self.asked_at == 0 || now.saturating_sub(self.asked_at) >= pause)
    }

    /// How many permits to ask for now: debts, and what may come until the ask after the next.
    fn want(&mut self, limit: u64, now: u64) -> u64 {
        let elapsed = now.saturating_sub(self.asked_at).max(SLICE_MICROS);
        let demand = u128::from(self.demand) * u128::from(SLICE_MICROS) / u128::from(elapsed);
        self.expected = u64::try_from(demand).unwrap_or(u64::MAX).max(self.expected / 2);
        self.demand = 0;
        self.asked_at = now.max(1);
        let slices = 1 + (elapsed / SLICE_MICROS).min(SLICES_AHEAD_MAX);
        let ahead = self.expected.saturating_mul(slices).clamp(1, (limit / 2).max(1));
        signed(ahead).saturating_sub(self.balance).max(0).unsigned_abs()
    }
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

impl Budgets {
    /// No limits yet, on one of `shards` shards.
    #[must_use]
    pub fn new(shards: usize) -> Self {
        assert!(shards > 0, "a shard is one of one or more");
        Self {
            limits: Cell::default(),
            shards: shards as u64,
            started: Instant::now(),
            clients: RefCell::default(),
            wanting: RefCell::default(),
            asked: RefCell::default(),
            unused: RefCell::default(),
            asked_at: Cell::new(None),
            swept_at: Cell::new(0),
            paid_at: Cell::new(0),
        }
    }

    /// These limits from now on; balances stay.
    pub fn set_limits(&self, limits: RateLimits) {
        self.limits.set(limits);
    }

    /// Whether what is ingested is limited.
    #[must_use]
    pub fn are_limited(&self) -> bool {
        let limits = self.limits.get();
        limits.ingest_records_per_second > 0 || limits.ingest_bytes_per_second > 0
    }

    /// A time as the other methods want it.
    #[must_use]
    pub fn micros(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.started).as_micros() as u64
    }

    /// This shard's part of a limit.
    fn share(&self, limit: u64) -> u64 {
        (limit / self.shards).max(1)
    }

    /// The budget of a client.
    #[must_use]
    pub fn client(&self, id: &Arc<str>, now: u64) -> Rc<ClientBudget> {
        let mut clients = self.clients.borrow_mut();
        if let Some(known) = clients.get(id) {
            return Rc::clone(known);
        }
        let id = if clients.len() < CLIENTS_MAX { Arc::clone(id) } else { CROWD.into() };
        let new = || ClientBudget {
            id: Arc::clone(&id),
            accounts: RefCell::default(),
            listed: Cell::new(false),
            used_at: Cell::new(now),
        };
        Rc::clone(clients.entry(Arc::clone(&id)).or_insert_with(|| Rc::new(new())))
    }

    /// Lets a request in or not. `true`: there is something new to ask for.
    ///
    /// # Errors
    /// The client is over a limit: nothing was taken from its budget.
    pub fn charge(
        &self,
        client: &Rc<ClientBudget>,
        now: u64,
        records: u64,
        bytes: u64,
    ) -> (Result<(), RateLimited>, bool) {
        let limits = self.limits.get();
        let mut accounts = client.accounts.borrow_mut();
        let mut over = None;
        client.used_at.set(now);
        let costs = [records, bytes];
        for ((category, account), cost) in CATEGORIES.into_iter().zip(accounts.iter_mut()).zip(costs) {
            let limit = limits.of(category);
            if limit == 0 {
                continue;
            }
            account.demand = account.demand.saturating_add(cost);
            let missing = -account.balance.saturating_add(account.credit(self.share(limit), now));
            if missing >= 0 {
                let retry_after = retry_after(missing.unsigned_abs(), limit, account.is_short(now));
                let worse = RateLimited { category, limit, retry_after };
                if over.is_none_or(|known: RateLimited| known.retry_after < retry_after) {
                    over = Some(worse);
                }
            }
        }
        let mut wants = false;
        for ((category, account), cost) in CATEGORIES.into_iter().zip(accounts.iter_mut()).zip(costs) {
            if limits.of(category) > 0 {
                if over.is_none() {
                    account.balance = account.balance.saturating_sub(signed(cost));
                }
                wants |= account.wants();
            }
        }
        let listed = wants && !client.listed.replace(true);
        if listed {
            self.wanting.borrow_mut().push(Rc::clone(client));
        }
        (over.map_or(Ok(()), Err), listed)
    }

    /// The next batch of asks, if none is under way and something is due.
    #[must_use]
    pub fn next_asks(&self, now: u64) -> Option<Vec<LeaseAsk>> {
        if self.asked_at.get().is_some() || (self.wanting.borrow().is_empty() && self.unused.borrow().is_empty()) {
            return None;
        }
        let limits = self.limits.get();
        let (mut asks, mut asked) = (self.unused.take(), self.asked.borrow_mut());
        self.wanting.borrow_mut().retain(|client| {
            if asks.len() >= 2 * ASKS_MAX {
                return true;
            }
            let before = asks.len();
            let mut wants = false;
            let idle = now.saturating_sub(client.used_at.get()) >= WINDOW_MICROS;
            for (category, account) in CATEGORIES.into_iter().zip(client.accounts.borrow_mut().iter_mut()) {
                let limit = limits.of(category);
                // Who is idle needs nothing but the payment of its debts.
                let needs = limit > 0 && (!idle || account.balance < 0);
                wants |= needs && account.wants();
                if needs && account.is_due(now) {
                    let want = account.want(limit, now);
                    asks.push(LeaseAsk { client: Arc::clone(&client.id), category, want, unused: 0 });
                }
            }
            if asks.len() > before {
                asked.push(Rc::clone(client));
                return false;
            }
            if !wants {
                client.listed.set(false);
            }
            wants
        });
        if asks.is_empty() {
            return None;
        }
        self.asked_at.set(Some(now));
        Some(asks)
    }

    /// What control granted of the batch under way.
    pub fn granted(&self, now: u64, grants: &[LeaseGrant]) {
        {
            let clients = self.clients.borrow();
            for grant in grants {
                let Some(client) = clients.get(&grant.client) else { continue };
                let Some(at) = CATEGORIES.iter().position(|&category| category == grant.category) else { continue };
                let account = &mut client.accounts.borrow_mut()[at];
                account.balance = account.balance.saturating_add(signed(grant.permits));
                if grant.short {
                    account.short_at = Some(now);
                }
            }
        }
        self.batch_ended();
    }

    /// The batch went nowhere: its clients want as before.
    pub fn unsent(&self) {
        self.batch_ended();
    }

    fn batch_ended(&self) {
        self.asked_at.set(None);
        self.wanting.borrow_mut().append(&mut self.asked.borrow_mut());
    }

    /// What is done every slice or so: debts are paid while control is silent, what is not used goes back, and who is gone is
    /// forgotten.
    pub fn tidy(&self, now: u64) {
        self.pay_in_silence(now);
        if now.saturating_sub(self.swept_at.get()) < SWEEP_MICROS {
            return;
        }
        self.swept_at.set(now);
        let mut unused = self.unused.borrow_mut();
        self.clients.borrow_mut().retain(|_, client| {
            let idle = now.saturating_sub(client.used_at.get());
            if idle < WINDOW_MICROS {
                return true;
            }
            let mut accounts = client.accounts.borrow_mut();
            for (category, account) in CATEGORIES.into_iter().zip(accounts.iter_mut()) {
                account.expected = 0;
                if account.balance > 0 && unused.len() < ASKS_MAX {
                    let back = std::mem::take(&mut account.balance).unsigned_abs();
                    unused.push(LeaseAsk { client: Arc::clone(&client.id), category, want: 0, unused: back });
                }
            }
            let settled = accounts.iter().all(|account| account.balance == 0);
            !(settled && idle >= FORGET_MICROS && !client.listed.get() && Rc::strong_count(client) == 1)
        });
    }

    fn pay_in_silence(&self, now: u64) {
        let silent = self.asked_at.get().is_some_and(|at| now.saturating_sub(at) >= SILENCE_MICROS);
        if !silent || now.saturating_sub(self.paid_at.get()) < WINDOW_MICROS {
            return;
        }
        self.paid_at.set(now);
        let limits = self.limits.get();
        for client in self.asked.borrow().iter().chain(self.wanting.borrow().iter()) {
            for (category, account) in CATEGORIES.into_iter().zip(client.accounts.borrow_mut().iter_mut()) {
                if account.balance <= 0 && limits.of(category) > 0 {
                    account.balance = account.balance.saturating_add(signed(self.share(limits.of(category))));
                }
            }
        }
    }
}

/// When as much as is missing may have been granted: no sooner than the next lease.
fn retry_after(missing: u64, limit: u64, short: bool) -> Duration {
    let least = if short { SLICE_MICROS } else { PAUSE_MICROS };
    let earned = u128::from(missing) * u128::from(WINDOW_MICROS) / u128::from(limit);
    Duration::from_micros(u64::try_from(earned).unwrap_or(u64::MAX).clamp(least, 3_600_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budgets(shards: usize, records: u64) -> Budgets {
        let budgets = Budgets::new(shards);
        budgets.set_limits(RateLimits { ingest_records_per_second: records, ..RateLimits::default() });
        budgets
    }

    fn grant(ask: &LeaseAsk, permits: u64) -> LeaseGrant {
        let short = permits < ask.want;
        LeaseGrant { client: Arc::clone(&ask.client), category: ask.category, permits, short }
    }

    #[test]
    fn a_client_begins_on_its_credit_and_pays_what_it_overdraws_before_it_goes_on() {
        let budgets = budgets(2, 100);
        let client = budgets.client(&"a".into(), 0);
        let (first, news) = budgets.charge(&client, 1, 49, 1);
        assert_eq!((first, news), (Ok(()), true));
        assert_eq!(budgets.charge(&client, 2, 500, 1).0, Ok(()), "one unit of credit lets one request in");
        let over = budgets.charge(&client, 3, 1, 1).0.expect_err("over its limit");
        assert_eq!((over.category, over.limit), (Category::IngestRecords, 100));
        assert_eq!(over.retry_after, Duration::from_millis(4990), "499 are missing at 100 a second");
        let asks = budgets.next_asks(4).expect("asks");
        assert!(asks[0].want >= 549, "{asks:?}");
        assert!(budgets.next_asks(200_000).is_none(), "one batch at a time");
        budgets.granted(5, &[grant(&asks[0], 500)]);
        assert!(budgets.charge(&client, 6, 1, 1).0.is_err(), "a grant that is short ends the credit");
        let asks = budgets.next_asks(100_100).expect("a debt is asked for again");
        budgets.granted(100_200, &[grant(&asks[0], 50)]);
        assert_eq!(budgets.charge(&client, 100_300, 1, 1).0, Ok(()));
        let other = budgets.client(&"b".into(), 100_300);
        assert_eq!(budgets.charge(&other, 100_300, 50, 1).0, Ok(()), "another client is not hindered");
    }

    #[test]
    fn a_debt_is_asked_for_until_it_is_paid_though_the_client_stays_away() {
        let budgets = budgets(1, 10);
        let client = budgets.client(&"a".into(), 0);
        budgets.charge(&client, 0, 30, 0).0.expect("the first request overdraws");
        let (mut now, mut granted) = (0, 0);
        while client.accounts.borrow()[0].balance < 0 {
            now += SLICE_MICROS;
            budgets.tidy(now);
            if let Some(asks) = budgets.next_asks(now) {
                granted += 1;
                budgets.granted(now, &[grant(&asks[0], 1)]);
            }
            assert!(now < 10 * WINDOW_MICROS, "it ends");
        }
        assert_eq!(granted, 30);
    }

    #[test]
    fn without_an_answer_a_shard_lives_on_its_share() {
        let budgets = budgets(4, 100);
        let client = budgets.client(&"a".into(), 0);
        let (mut taken, mut now) = (0, 0);
        while now < 10 * WINDOW_MICROS {
            now += 10_000;
            taken += u64::from(budgets.charge(&client, now, 1, 0).0.is_ok());
            let _ = budgets.next_asks(now);
            budgets.tidy(now);
        }
        assert!((225..=300).contains(&taken), "25 a second in ten seconds, not {taken}");
    }

    #[test]
    fn what_is_not_used_goes_back_and_who_is_gone_is_forgotten() {
        let budgets = budgets(1, 1000);
        let client = budgets.client(&"a".into(), 0);
        budgets.charge(&client, 0, 1, 0).0.expect("let in");
        let asks = budgets.next_asks(1).expect("asks");
        budgets.granted(2, &[grant(&asks[0], 101)]);
        budgets.tidy(1_100_000);
        let back = budgets.next_asks(1_100_000).expect("what goes back");
        assert_eq!((back[0].want, back[0].unused), (0, 100));
        budgets.granted(1_100_001, &[]);
        drop(client);
        for second in 2..20 {
            budgets.tidy(second * 1_100_000);
            if let Some(asks) = budgets.next_asks(second * 1_100_000) {
                let grants: Vec<_> = asks.iter().map(|ask| grant(ask, ask.want)).collect();
                budgets.granted(second * 1_100_000, &grants);
            }
        }
        assert!(budgets.clients.borrow().is_empty(), "{budgets:?}");
    }

    #[test]
    fn clients_past_the_bound_share_one_budget() {
        let budgets = budgets(1, 10);
        for n in 0..CLIENTS_MAX + 5 {
            let _ = budgets.client(&format!("c{n}").into(), 0);
        }
        assert_eq!(budgets.clients.borrow().len(), CLIENTS_MAX + 1);
        let (x, y) = (budgets.client(&"x".into(), 0), budgets.client(&"y".into(), 0));
        assert!(Rc::ptr_eq(&x, &y));
    }
}
