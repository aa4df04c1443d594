//! A node's claim on its catalog: an advisory lock of a session of its own, which ends with the node, however that ends.
//!
//! Each node counts the sequence numbers of its streams by itself, so that of two nodes on one catalog the second could never
//! commit a file again. Invariants: of two nodes that claim a catalog one has it; a node commits files only while it has, and
//! Postgres keeps its session, and with it the lock, for longer than a commit takes that began while it had. Records are taken
//! all the same: they are in this node's log.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::time;
use tokio_postgres::Client;

use super::{
    failure, get,
    password::Password,
    pool::{Connector, GRACE},
};
use crate::{
    catalog::{CatalogError, Result},
    config::PgOptions,
};

/// Of Postgres's advisory locks, the one that a node has: one past that of migrations.
const LOCK: i64 = 0x7474_6475_7375;
/// Between signs of life.
const BEAT: Duration = Duration::from_secs(5);
/// A session that was not heard of for so long counts as lost.
const HEARD_WITHIN: Duration = Duration::from_secs(15);
/// A node that was killed may leave its session behind for a moment.
const WAIT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(500);
const TAKE_TIMEOUT: Duration = Duration::from_secs(10);
const LOST: &str = "this node's claim on it is lost, for now";

/// The claim, if one was made; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Claim(Arc<Mutex<State>>);

#[derive(Default)]
enum State {
    /// By a tool, which has no streams.
    #[default]
    NotMade,
    /// By this session, which was heard of at this time.
    Held(Session, Instant),
    /// Not now, and why.
    Lost(String),
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotMade => f.write_str("NotMade"),
            Self::Held(_, heard) => f.debug_tuple("Held").field(heard).finish_non_exhaustive(),
            Self::Lost(reason) => f.debug_tuple("Lost").field(reason).finish(),
        }
    }
}

/// What became of a try.
enum Try {
    Held(Session, Instant),
    /// By the session of this process id in Postgres, and whose that is.
    Taken(i32, String),
}

/// A session that has the lock.
#[derive(Clone)]
struct Session {
    client: Arc<Client>,
    /// Its process id in Postgres.
    pid: i32,
}

impl Claim {
    /// Claims the catalog for `node`, a text for people, and keeps it on a task of its own. If Postgres cannot be reached, as
    /// it cannot while it is `down`, the claim is made once it can.
    ///
    /// # Errors
    /// `Conflict`: another node has it.
    pub(super) async fn make(&self, options: &PgOptions, password: Password, node: &str, down: bool) -> Result<()> {
        let connector = Connector::new(options, password)?.for_session(
            &format!("ttdust node {node}"),
            options.statement_timeout,
            HEARD_WITHIN + options.statement_timeout + 2 * GRACE,
        );
        self.set(State::Lost(LOST.into()));
        if !down {
            self.take_in_time(&connector).await?;
        }
        tokio::spawn(self.clone().keep(connector));
        Ok(())
    }

    async fn take_in_time(&self, connector: &Connector) -> Result<()> {
        let began = Instant::now();
        loop {
            match take(connector).await {
                Ok(Try::Held(session, heard)) => {
                    self.set(State::Held(session, heard));
                    return Ok(());
                }
                Ok(Try::Taken(_, by)) if began.elapsed() >= WAIT => {
                    return Err(CatalogError::Conflict(format!(
                        "{} is the catalog of another node, {by}: stop that one, or give this one a database of its own",
                        connector.place
                    )));
                }
                Ok(Try::Taken(_, by)) => tracing::info!(%by, "a node has the catalog: waiting for its end"),
                Err(CatalogError::Unavailable(_)) => return Ok(()),
                Err(error) => return Err(error),
            }
            time::sleep(PAUSE).await;
        }
    }

    /// Whether files may be committed.
    ///
    /// # Errors
    /// `Unavailable`: not now.
    pub(super) fn check(&self) -> Result<()> {
        match &*self.state() {
            State::NotMade => Ok(()),
            State::Held(session, heard) if !session.client.is_closed() && heard.elapsed() < HEARD_WITHIN => Ok(()),
            State::Held(..) => Err(CatalogError::Unavailable(LOST.into())),
            State::Lost(reason) => Err(CatalogError::Unavailable(reason.clone())),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing can panic while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, state: State) {
        *self.state() = state;
    }

    fn held(&self) -> Option<(Session, Instant)> {
        match &*self.state() {
            State::Held(session, heard) => Some((session.clone(), *heard)),
            State::NotMade | State::Lost(_) => None,
        }
    }

    /// Shows that the node lives, and claims the catalog again when the session was lost, for as long as the server runs.
    async fn keep(self, connector: Connector) {
        // The last session that had it.
        let mut last = None;
        loop {
            time::sleep(PAUSE).await;
            let Some((session, heard)) = self.held() else {
                self.take_again(&connector, last).await;
                continue;
            };
            last = Some(session.pid);
            if heard.elapsed() < BEAT && !session.client.is_closed() {
                continue;
            }
            let began = Instant::now();
            match time::timeout(BEAT, session.client.batch_execute("")).await {
                Ok(Ok(())) => self.set(State::Held(session, began)),
                // The pool tells of an outage.
                _ => self.set(State::Lost(LOST.into())),
            }
        }
    }

    /// Of this node's sessions, `last` was the last that had it.
    async fn take_again(&self, connector: &Connector, last: Option<i32>) {
        match take(connector).await {
            Ok(Try::Held(session, heard)) => {
                tracing::info!("the catalog is this node's");
                self.set(State::Held(session, heard));
            }
            // Postgres has not yet noticed its end.
            Ok(Try::Taken(pid, _)) if Some(pid) == last => {}
            Ok(Try::Taken(_, by)) => {
                let reason = format!("another node has it, {by}: stop one of the two; what this one flushes waits");
                let told = matches!(&*self.state(), State::Lost(known) if *known == reason);
                if !told {
                    tracing::error!(%reason, "the catalog is not this node's any more");
                }
                self.set(State::Lost(reason));
            }
            // Told by whoever else tries.
            Err(_) => {}
        }
    }
}

async fn take(connector: &Connector) -> Result<Try> {
    let taking = time::timeout(TAKE_TIMEOUT, Box::pin(try_to_take(connector)));
    taking.await.unwrap_or_else(|_| Err(CatalogError::Unavailable(format!("{} does not answer", connector.place))))
}

async fn try_to_take(connector: &Connector) -> Result<Try> {
    let client = connector.connect().await?;
    // Before Postgres hears of it: its own clock starts later.
    let heard = Instant::now();
    let taken = client.query_one("SELECT pg_try_advisory_lock($1), pg_backend_pid()", &[&LOCK]).await;
    let row = taken.map_err(failure)?;
    if get(&row, 0)? {
        return Ok(Try::Held(Session { client: Arc::new(client), pid: get(&row, 1)? }, heard));
    }
    let holder = "SELECT pid, application_name, coalesce(host(client_addr), 'a socket'), \
                  backend_start::timestamptz(0)::text \
                  FROM pg_stat_activity WHERE pid = (SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted \
                  AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
                  AND classid = ($1::bigint >> 32)::oid AND objid = ($1 & 4294967295)::oid AND objsubid = 1)";
    Ok(match client.query_opt(holder, &[&LOCK]).await.map_err(failure)? {
        Some(row) => {
            let (name, address, since): (String, String, String) = (get(&row, 1)?, get(&row, 2)?, get(&row, 3)?);
            Try::Taken(get(&row, 0)?, format!("{name} at {address}, connected since {since}"))
        }
        None => Try::Taken(0, "which has just ended".into()),
    })
}
