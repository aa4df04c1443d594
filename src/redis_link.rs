//! A connection to Redis that is kept for as long as the server runs, for a purpose that the server can do without.
//!
//! Whatever fails or is late gives the connection up, and from that moment nothing is asked until the link's task has a new one
//! that answers: it tries again with growing pauses. So an outage costs whoever asks one time limit.

use std::{
    fmt::Display,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use redis::{AsyncConnectionConfig, Client, RedisError, Script, aio::MultiplexedConnection};
use tokio::{sync::Notify, time};

use crate::{config::RedisUrl, metrics::ControlMetrics};

/// Between two looks at a connection that is not asked otherwise.
const PING_PAUSE: Duration = Duration::from_secs(1);
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// A connection, with its greetings, may take so many times an answer's time limit, and no longer than
/// [`CONNECT_MAX`].
const CONNECT_FACTOR: u32 = 10;
const CONNECT_MAX: Duration = Duration::from_secs(2);

/// What a link is for, in the words of the log.
#[derive(Debug, Clone, Copy)]
pub struct Purpose {
    /// What is so while Redis answers.
    pub with: &'static str,
    /// What is so while it does not.
    pub without: &'static str,
}

/// A link, cheap to clone.
#[derive(Debug, Clone)]
pub struct RedisLink(Arc<Link>);

struct Link {
    client: Client,
    purpose: Purpose,
    /// Loaded into each connection: then its first call takes one round trip.
    script: Option<Script>,
    timeout: Duration,
    /// `None`: Redis is gone, as far as is known.
    connection: Mutex<Option<MultiplexedConnection>>,
    /// Rung when the connection was given up.
    lost: Notify,
    latency_micros: AtomicU64,
    /// Why there is no connection.
    reason: Mutex<String>,
    metrics: Arc<ControlMetrics>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl RedisLink {
    /// A link to `url`, each of whose answers may take `timeout`. Its task lives as long as the runtime; the first connection is
    /// awaited for as long as one may take.
    ///
    /// # Errors
    /// The URL is none of a Redis.
    pub async fn start(
        url: &RedisUrl,
        timeout: Duration,
        purpose: Purpose,
        script: Option<Script>,
        metrics: Arc<ControlMetrics>,
    ) -> Result<Self, RedisError> {
        let link = Arc::new(Link {
            client: Client::open(url.secret())?,
            purpose,
            script,
            timeout,
            connection: Mutex::default(),
            lost: Notify::new(),
            latency_micros: AtomicU64::new(0),
            reason: Mutex::new("not connected yet".into()),
            metrics,
        });
        link.connect().await;
        tokio::spawn(Arc::clone(&link).keep());
        Ok(Self(link))
    }

    /// The connection; `None`: Redis is gone, as far as is known.
    #[must_use]
    pub fn connection(&self) -> Option<MultiplexedConnection> {
        self.0.connection()
    }

    /// Awaits an answer for as long as it may take; a failure or a late answer gives the connection up, and is `None`.
    pub async fn answered<T>(&self, answer: impl Future<Output = Result<T, RedisError>>) -> Option<T> {
        self.0.answered(answer).await
    }

    /// Gives the connection up.
    pub fn lose(&self, reason: &dyn Display) {
        self.0.lose(reason);
    }

    /// How long an answer may take.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.0.timeout
    }

    /// How long the last answer took, in milliseconds.
    ///
    /// # Errors
    /// Redis is gone: why.
    pub fn latency_ms(&self) -> Result<f64, String> {
        match self.0.connection() {
            Some(_) => Ok(self.0.latency_micros.load(Relaxed) as f64 / 1e3),
            None => Err(self.0.reason.lock().unwrap_or_else(PoisonError::into_inner).clone()),
        }
    }
}

impl Link {
    fn connection(&self) -> Option<MultiplexedConnection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn lose(&self, reason: &dyn Display) {
        let had = self.connection.lock().unwrap_or_else(PoisonError::into_inner).take();
        *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = reason.to_string();
        if had.is_some() {
            tracing::warn!(%reason, "redis is gone or slow: {} until it is back", self.purpose.without);
            self.lost.notify_one();
        }
    }

    async fn answered<T>(&self, answer: impl Future<Output = Result<T, RedisError>>) -> Option<T> {
        let start = Instant::now();
        let outcome = time::timeout(self.timeout, answer).await;
        let elapsed = start.elapsed();
        self.metrics.redis_answered(elapsed);
        match outcome {
            Ok(Ok(answer)) => {
                self.latency_micros.store(elapsed.as_micros() as u64, Relaxed);
                return Some(answer);
            }
            Ok(Err(error)) => self.lose(&error),
            Err(_) => self.lose(&format_args!("no answer in {} ms (redis.timeout_ms)", self.timeout.as_millis())),
        }
        None
    }

    /// Keeps a connection for as long as the server runs.
    async fn keep(self: Arc<Self>) {
        let mut pause = RETRY_MIN;
        loop {
            if let Some(mut connection) = self.connection() {
                pause = RETRY_MIN;
                tokio::select! {
                    () = self.lost.notified() => {}
                    () = time::sleep(PING_PAUSE) => {
                        let ping = async { redis::cmd("PING").query_async::<String>(&mut connection).await };
                        let _ = self.answered(ping).await;
                    }
                }
            } else {
                time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_MAX);
                self.connect().await;
            }
        }
    }

    /// Tries to get a connection that answers.
    async fn connect(&self) {
        let bound = (self.timeout * CONNECT_FACTOR).min(CONNECT_MAX);
        match time::timeout(bound, self.connected(bound)).await {
            Ok(Ok(connection)) => {
                *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection);
                tracing::info!("redis is there: {}", self.purpose.with);
            }
            Ok(Err(error)) => self.not_connected(&error),
            Err(_) => self.not_connected(&format_args!("no connection in {bound:?}")),
        }
    }

    fn not_connected(&self, reason: &dyn Display) {
        tracing::debug!(%reason, "redis cannot be reached");
        let mut known = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
        if *known != reason.to_string() {
            tracing::warn!(%reason, "redis cannot be reached: {} until it can", self.purpose.without);
            *known = reason.to_string();
        }
    }

    async fn connected(&self, bound: Duration) -> Result<MultiplexedConnection, RedisError> {
        let bound = Some(bound);
        let config = AsyncConnectionConfig::new().set_connection_timeout(bound).set_response_timeout(bound);
        let mut connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        match &self.script {
            Some(script) => drop(script.prepare_invoke().load_async(&mut connection).await?),
            None => drop(redis::cmd("PING").query_async::<String>(&mut connection).await?),
        }
        Ok(connection)
    }
}
