//! Connections to Postgres: at most so many, each used by one call at a time, and given up at the first sign of trouble.
//!
//! Invariant: while Postgres is down nobody waits for it. Calls fail at once; one task tries to connect, ever more seldom, and
//! ends the outage for all. A call that was cut short takes its connection with it: nobody knows what is still under way there.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use prometheus_client::metrics::{gauge::Gauge, histogram::Histogram};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time,
};
use tokio_postgres::{Client, Config, NoTls, config::SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{migrations, password::Password, reason_of, tls};
use crate::{
    catalog::{CatalogError, Result},
    config::{PgOptions, PgTls},
};

/// So many connections are open soon after the start: opening one takes tens of milliseconds where the server is busy, and a
/// call that finds none free waits for that.
const OPEN_AHEAD: usize = 4;
/// Calls that wait for a connection at most.
const WAITING: usize = 256;
/// The server ends a statement that takes too long by itself; one that does not answer even then is as good as down.
pub(super) const GRACE: Duration = Duration::from_secs(1);
/// A new index on a large table takes its time; a server that was stopped meanwhile never answers.
const MIGRATION_TIMEOUT: Duration = Duration::from_secs(600);
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
const SECONDS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// What metrics show of the pool.
#[derive(Debug, Clone)]
pub struct PgFigures {
    /// Connections that a call uses.
    pub active: Gauge,
    /// Seconds of one catalog call.
    pub latency: Histogram,
}

impl Default for PgFigures {
    fn default() -> Self {
        Self { active: Gauge::default(), latency: Histogram::new(SECONDS) }
    }
}

/// A handle, cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Pool(Arc<Shared>);

struct Shared {
    connector: Connector,
    permits: Arc<Semaphore>,
    waiting: AtomicUsize,
    idle: Mutex<Vec<Client>>,
    /// Connections that calls use or open.
    lent: AtomicUsize,
    /// A connection came back, or is gone.
    returned: Notify,
    /// Why it is down; `None`: it is up.
    down: Mutex<Option<String>>,
    /// Whether this process has seen the database at its version.
    migrated: AtomicBool,
    figures: PgFigures,
    call_timeout: Duration,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("place", &self.connector.place).finish_non_exhaustive()
    }
}

/// How to open a connection.
pub(super) struct Connector {
    config: Config,
    password: Password,
    tls: Option<MakeRustlsConnect>,
    timeout: Duration,
    /// For people.
    pub(super) place: String,
}

impl Connector {
    /// # Errors
    /// `Unavailable`: the certificates of `pg.ca_path` cannot be used.
    pub(super) fn new(options: &PgOptions, password: Password) -> Result<Self> {
        let mut config = Config::new();
        config
            .host(&options.host)
            .port(options.port)
            .dbname(&options.database)
            .user(&options.user)
            .application_name("ttdust")
            .options(format!("-c statement_timeout={}", options.statement_timeout.as_millis()))
            // A peer that vanished without a word is noticed, be there a call or not.
            .tcp_user_timeout(options.statement_timeout + GRACE)
            .keepalives_idle(Duration::from_secs(30));
        // A socket of this machine needs no encryption, and the protocol has none for it.
        let tls = if options.host.starts_with('/') { PgTls::Disable } else { options.tls };
        config.ssl_mode(match tls {
            PgTls::Disable => SslMode::Disable,
            PgTls::Prefer => SslMode::Prefer,
            PgTls::Require => SslMode::Require,
        });
        let tls = (tls != PgTls::Disable).then(|| tls::connector(options.ca_path.as_deref())).transpose()?;
        let place = options.place();
        Ok(Self { config, password, tls, timeout: options.connect_timeout, place })
    }

    /// The same for a session that others see under `name`, and that Postgres ends when it is silent for longer than `silence`.
    pub(super) fn for_session(mut self, name: &str, statement_timeout: Duration, silence: Duration) -> Self {
        let (statement, silence) = (statement_timeout.as_millis(), silence.as_millis());
        self.config
            .application_name(name)
            .options(format!("-c statement_timeout={statement} -c idle_session_timeout={silence}"));
        self
    }

    /// Opens a connection, and runs it on a task of its own.
    pub(super) async fn connect(&self) -> Result<Client> {
        let mut config = self.config.clone();
        let password = self.password.now();
        if !password.reveal().is_empty() {
            config.password(password.reveal());
        }
        let opening = async {
            // Two types, for a connection with TLS and one without.
            match &self.tls {
                Some(tls) => {
                    let (client, connection) = config.connect(tls.clone()).await?;
                    // How it ends, the next call on it is told.
                    drop(tokio::spawn(connection));
                    Ok(client)
                }
                None => {
                    let (client, connection) = config.connect(NoTls).await?;
                    drop(tokio::spawn(connection));
                    Ok(client)
                }
            }
        };
        let failed = |reason: String| CatalogError::Unavailable(format!("cannot connect to {}: {reason}", self.place));
        match time::timeout(self.timeout, Box::pin(opening)).await {
            Ok(opened) => opened.map_err(|error: tokio_postgres::Error| failed(reason_of(&error))),
            Err(_) => Err(failed(format!("no answer in {} ms", self.timeout.as_millis()))),
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing can panic while one is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// A pool without a connection yet.
    ///
    /// # Errors
    /// `Unavailable`: the certificates of `pg.ca_path` cannot be used.
    pub(super) fn new(options: &PgOptions, password: Password, figures: PgFigures) -> Result<Self> {
        Ok(Self(Arc::new(Shared {
            connector: Connector::new(options, password)?,
            permits: Arc::new(Semaphore::new(options.pool_size)),
            waiting: AtomicUsize::new(0),
            idle: Mutex::default(),
            lent: AtomicUsize::new(0),
            returned: Notify::new(),
            down: Mutex::default(),
            migrated: AtomicBool::new(false),
            figures,
            call_timeout: options.statement_timeout + GRACE,
        })))
    }

    /// Where it leads, for people.
    pub(super) fn place(&self) -> &str {
        &self.0.connector.place
    }

    /// Whether it is down, which the log tells.
    pub(super) fn is_down(&self) -> bool {
        self.0.check_up().is_err()
    }

    /// Opens the first connection, brings the database to this version, and opens some more meanwhile.
    ///
    /// # Errors
    /// `Unavailable`: the pool is down then, and tries on; `Corrupt`: the database is newer than this program.
    pub(super) async fn begin(&self) -> Result<()> {
        match self.0.ready_connection().await {
            Ok(client) => {
                locked(&self.0.idle).push(client);
                let more = OPEN_AHEAD.min(self.0.permits.available_permits()).saturating_sub(1);
                tokio::spawn(Arc::clone(&self.0).open_ahead(more));
                Ok(())
            }
            Err(error) => {
                if let CatalogError::Unavailable(reason) = &error {
                    self.0.went_down(reason.clone());
                }
                Err(error)
            }
        }
    }

    /// Runs `operation` on a connection that nobody else has.
    ///
    /// # Errors
    /// Those of `operation`; `Unavailable`: there is no connection, or no answer.
    pub(super) async fn call<T>(
        &self,
        operation: impl for<'c> FnOnce(&'c mut Client) -> BoxFuture<'c, Result<T>>,
    ) -> Result<T> {
        let mut lease = self.lease().await?;
        let began = Instant::now();
        let outcome = time::timeout(self.0.call_timeout, operation(lease.client())).await;
        self.0.figures.latency.observe(began.elapsed().as_secs_f64());
        match outcome {
            Ok(outcome) => {
                lease.give_back();
                outcome
            }
            Err(_) => {
                let reason = format!("{}: no answer in {} ms", self.0.connector.place, self.0.call_timeout.as_millis());
                self.0.went_down(reason.clone());
                Err(CatalogError::Unavailable(reason))
            }
        }
    }

    async fn lease(&self) -> Result<Lease> {
        self.0.check_up()?;
        let permit = self.permit().await?;
        let (client, lent) = self.0.connection().await?;
        self.0.figures.active.inc();
        Ok(Lease { client: Some(client), lent, _permit: permit })
    }

    async fn permit(&self) -> Result<OwnedSemaphorePermit> {
        struct Waiting<'a>(&'a AtomicUsize);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Relaxed);
            }
        }
        let before = self.0.waiting.fetch_add(1, Relaxed);
        let _waiting = Waiting(&self.0.waiting);
        let busy = |what: &str| CatalogError::Unavailable(format!("{}: {what}", self.0.connector.place));
        if before >= WAITING {
            return Err(busy("too many calls wait for a connection"));
        }
        match time::timeout(self.0.call_timeout, Arc::clone(&self.0.permits).acquire_owned()).await {
            Ok(permit) => Ok(permit.expect("the semaphore is never closed")),
            Err(_) => Err(busy("every connection is in use: raise pg.pool_size")),
        }
    }
}

impl Shared {
    fn check_up(&self) -> Result<()> {
        match &*locked(&self.down) {
            None => Ok(()),
            Some(reason) => Err(CatalogError::Unavailable(reason.clone())),
        }
    }

    /// An idle connection, or a new one, or one that is given back: a server may allow fewer than `pg.pool_size`. Only if there
    /// is no connection at all is one that cannot be opened the sign of an outage.
    async fn connection(self: &Arc<Self>) -> Result<(Client, Lent)> {
        let deadline = time::Instant::now() + self.call_timeout;
        loop {
            // It may have gone down meanwhile.
            self.check_up()?;
            let mut lent = Lent::new(self);
            let idle = || locked(&self.idle).pop();
            while let Some(client) = idle() {
                if !client.is_closed() {
                    return Ok((client, lent));
                }
            }
            let error = match self.ready_connection().await {
                Ok(client) => return Ok((client, lent)),
                Err(error) => error,
            };
            // Nothing came back that another could use, or this one.
            lent.tells = false;
            drop(lent);
            if self.lent.load(Relaxed) == 0 && locked(&self.idle).is_empty() {
                self.went_down(error.to_string());
                return Err(error);
            }
            // From here on it misses nothing: what came back before is remembered, an outage is looked for after.
            let returned = self.returned.notified();
            self.check_up()?;
            tracing::debug!(%error, "no further connection to the catalog: waiting for one of those that are open");
            if time::timeout_at(deadline, returned).await.is_err() {
                return Err(error);
            }
        }
    }

    /// A connection to a database of this version.
    async fn ready_connection(&self) -> Result<Client> {
        let mut client = self.connector.connect().await?;
        if !self.migrated.load(Relaxed) {
            let applied = time::timeout(MIGRATION_TIMEOUT, migrations::apply(&mut client)).await;
            let plan = applied.map_err(|_| CatalogError::Unavailable("its migration does not end".into()))??;
            if !plan.steps.is_empty() {
                tracing::info!(from = plan.from, to = plan.to, steps = ?plan.steps, "catalog migrated");
            }
            self.migrated.store(true, Relaxed);
        }
        Ok(client)
    }

    /// Opens `more` connections for calls to come. What is in the way of that, a call will meet that needs one.
    async fn open_ahead(self: Arc<Self>, more: usize) {
        for _ in 0..more {
            let Ok(_permit) = self.permits.try_acquire() else { return };
            match self.ready_connection().await {
                Ok(client) if self.check_up().is_ok() => locked(&self.idle).push(client),
                _ => return,
            }
        }
    }

    /// Refuses calls from here on, and begins to try.
    fn went_down(self: &Arc<Self>, reason: String) {
        if locked(&self.down).replace(reason.clone()).is_some() {
            return;
        }
        locked(&self.idle).clear();
        self.returned.notify_waiters();
        tracing::warn!(%reason, "the catalog is down; records are taken, changes are refused until it is back");
        tokio::spawn(recover(Arc::downgrade(self)));
    }
}

/// Ends an outage. Ends itself with the pool.
async fn recover(pool: Weak<Shared>) {
    let began = Instant::now();
    let mut pause = PAUSE_MIN;
    loop {
        time::sleep(with_jitter(pause)).await;
        pause = (pause * 2).min(PAUSE_MAX);
        let Some(shared) = pool.upgrade() else { return };
        match shared.ready_connection().await {
            Ok(client) => {
                locked(&shared.idle).push(client);
                *locked(&shared.down) = None;
                shared.returned.notify_waiters();
                tracing::info!(seconds = began.elapsed().as_secs(), "the catalog is back");
                return;
            }
            Err(error) => *locked(&shared.down) = Some(error.to_string()),
        }
    }
}

/// From half of `pause` to all of it, so that nodes that lost the same server do not come back as one.
fn with_jitter(pause: Duration) -> Duration {
    let part = (uuid::Uuid::new_v4().as_u128() & 0xffff) as u32;
    pause / 2 + pause / 2 * part / 0x1_0000
}

/// A connection that is counted as one that a call uses or opens.
struct Lent {
    shared: Arc<Shared>,
    /// Whether whoever waits for a connection is told of its end.
    tells: bool,
}

impl Lent {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.lent.fetch_add(1, Relaxed);
        Self { shared: Arc::clone(shared), tells: true }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.shared.lent.fetch_sub(1, Relaxed);
        if self.tells {
            self.shared.returned.notify_one();
        }
    }
}

/// A connection in use.
struct Lease {
    /// `None` once it is given back.
    client: Option<Client>,
    lent: Lent,
    _permit: OwnedSemaphorePermit,
}

impl Lease {
    fn client(&mut self) -> &mut Client {
        self.client.as_mut().expect("it is given back last")
    }

    /// Its call came to its end, good or bad.
    fn give_back(mut self) {
        if let Some(client) = self.client.take().filter(|client| !client.is_closed()) {
            locked(&self.lent.shared.idle).push(client);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.lent.shared.figures.active.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_spread_and_bounded() {
        let pauses: Vec<_> = (0..100).map(|_| with_jitter(PAUSE_MAX)).collect();
        assert!(pauses.iter().all(|pause| (PAUSE_MAX / 2..=PAUSE_MAX).contains(pause)), "{pauses:?}");
        assert!(pauses.iter().any(|pause| *pause != pauses[0]));
    }
}
