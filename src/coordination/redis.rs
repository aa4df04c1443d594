//! Grants that all nodes make together: the ledger's accounts lie in Redis, one hash each, and one script a batch of asks
//! grants by the rules of [`super::local`], by Redis's own clock.
//!
//! A task keeps one connection. Whatever fails or is late gives the connection up, and from that moment nothing is asked until
//! the task has a new one that answers: it tries again with growing pauses. So an outage costs one batch one time limit.

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
use ttdust_shards::rate::{LeaseAsk, RateLimits, SLICE_MICROS, SlidingWindow, WINDOW_MICROS};

use super::{Coordination, local::Granted};
use crate::{config::RedisUrl, metrics::ControlMetrics};

/// Between two looks at a connection that is not asked otherwise.
const PING_PAUSE: Duration = Duration::from_secs(1);
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// A connection, with its greetings, may take so many times an answer's time limit, and no longer than
/// [`CONNECT_MAX`].
const CONNECT_FACTOR: u32 = 10;
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// What every key begins with. The braces keep a cluster from spreading the keys of one script over its nodes.
const KEY_PREFIX: &str = "ttdust:{rate}:1";

/// For each key an account: `n` the window's number, `c` and `p` what was granted in it and in the one before, `d` and `e`
/// likewise what was wanted. For each ask: limit, want, unused. Answers the time in µs, and for each ask what is granted, `c`
/// and `p`.
const GRANT: &str = r"
local length, slices = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local number = math.floor(now / length)
local left = length - now % length
local answer = {now}
for i, key in ipairs(KEYS) do
  local limit, want, unused = tonumber(ARGV[3 * i]), tonumber(ARGV[3 * i + 1]), tonumber(ARGV[3 * i + 2])
  local known = redis.call('HMGET', key, 'n', 'c', 'p', 'd', 'e')
  local n, c, p = tonumber(known[1]) or 0, tonumber(known[2]) or 0, tonumber(known[3]) or 0
  local d, e = tonumber(known[4]) or 0, tonumber(known[5]) or 0
  if n == number - 1 then
    c, p, d, e = 0, c, 0, d
  elseif n ~= number then
    c, p, d, e = 0, 0, 0, 0
  end
  local of_current = math.min(unused, c)
  c = c - of_current
  p = math.max(0, p - (unused - of_current))
  d = d + want
  local free = math.max(0, limit - c - math.ceil(p * left / length))
  local permits = want
  if want > free / 4 then
    local in_a_slice = (d + e * left / length) / slices
    permits = math.min(want, math.ceil(free * want / math.max(want, in_a_slice, 1)))
  end
  c = c + permits
  redis.call('HSET', key, 'n', number, 'c', c, 'p', p, 'd', d, 'e', e)
  redis.call('PEXPIRE', key, 3 * length / 1000)
  answer[3 * i - 1], answer[3 * i], answer[3 * i + 1] = permits, c, p
end
return answer
";

/// A ledger in Redis.
#[derive(Debug)]
pub struct SharedLedger(Arc<Shared>);

struct Shared {
    client: Client,
    script: Script,
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

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl SharedLedger {
    /// A ledger at `url`, each of whose answers may take `timeout`. Its task lives as long as the runtime; the first
    /// connection is awaited for as long as one may take.
    ///
    /// # Errors
    /// The URL is none of a Redis.
    pub async fn start(url: &RedisUrl, timeout: Duration, metrics: Arc<ControlMetrics>) -> Result<Self, RedisError> {
        let shared = Arc::new(Shared {
            client: Client::open(url.secret())?,
            script: Script::new(GRANT),
            timeout,
            connection: Mutex::default(),
            lost: Notify::new(),
            latency_micros: AtomicU64::new(0),
            reason: Mutex::new("not connected yet".into()),
            metrics,
        });
        shared.connect().await;
        tokio::spawn(Arc::clone(&shared).keep());
        Ok(Self(shared))
    }

    /// Grants of asks, in their order; `None`: Redis is gone or late, nothing is known to be granted.
    pub async fn grant(&self, limits: &RateLimits, asks: &[LeaseAsk]) -> Option<Vec<Granted>> {
        self.0.grant(limits, asks).await
    }

    /// Where grants are made now.
    pub fn state(&self) -> Coordination {
        let latency_ms = self.0.latency_micros.load(Relaxed) as f64 / 1e3;
        match self.0.connection() {
            Some(_) => Coordination { latency_ms, detail: "redis".into() },
            None => {
                let reason = self.0.reason.lock().unwrap_or_else(PoisonError::into_inner);
                let detail = format!("local: limits hold on each node alone, because redis is gone: {reason}");
                Coordination { latency_ms: 0.0, detail }
            }
        }
    }
}

impl Shared {
    fn connection(&self) -> Option<MultiplexedConnection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gives the connection up.
    fn lose(&self, reason: &dyn Display) {
        let had = self.connection.lock().unwrap_or_else(PoisonError::into_inner).take();
        *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = reason.to_string();
        if had.is_some() {
            tracing::warn!(%reason, "redis is gone or slow: this node limits by itself until it is back");
            self.lost.notify_one();
        }
    }

    /// Awaits an answer for as long as it may take; a failure or a late answer gives the connection up.
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

    async fn grant(&self, limits: &RateLimits, asks: &[LeaseAsk]) -> Option<Vec<Granted>> {
        let mut connection = self.connection()?;
        let mut call = self.script.prepare_invoke();
        call.arg(WINDOW_MICROS).arg(WINDOW_MICROS / SLICE_MICROS);
        for ask in asks {
            call.key(format!("{KEY_PREFIX}:{}:{}", ask.category.name(), ask.client));
            call.arg(limits.of(ask.category)).arg(ask.want).arg(ask.unused);
        }
        let numbers: Vec<u64> = self.answered(call.invoke_async(&mut connection)).await?;
        let granted = read_answer(&numbers, asks.len());
        if granted.is_none() {
            self.lose(&"its answer is not what the script gives");
        }
        granted
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
                tracing::info!("redis is there: limits hold over all nodes together");
            }
            Ok(Err(error)) => self.not_connected(&error),
            Err(_) => self.not_connected(&format_args!("no connection in {bound:?}")),
        }
    }

    fn not_connected(&self, reason: &dyn Display) {
        tracing::debug!(%reason, "redis cannot be reached");
        let mut known = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
        if *known != reason.to_string() {
            tracing::warn!(%reason, "redis cannot be reached: this node limits by itself until it can");
            *known = reason.to_string();
        }
    }

    async fn connected(&self, bound: Duration) -> Result<MultiplexedConnection, RedisError> {
        let bound = Some(bound);
        let config = AsyncConnectionConfig::new().set_connection_timeout(bound).set_response_timeout(bound);
        let mut connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        // It is there before the first ask, which then takes one round trip.
        self.script.prepare_invoke().load_async(&mut connection).await?;
        Ok(connection)
    }
}

/// What the script answered to so many asks.
fn read_answer(numbers: &[u64], asks: usize) -> Option<Vec<Granted>> {
    let (&at, rest) = numbers.split_first()?;
    let (grants, more) = rest.as_chunks::<3>();
    if grants.len() != asks || !more.is_empty() {
        return None;
    }
    let granted = |&[permits, current, previous]: &[u64; 3]| Granted {
        permits,
        window: SlidingWindow::with_counts(at, current, previous),
        at,
    };
    Some(grants.iter().map(granted).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_another_shape_is_none() {
        assert_eq!(read_answer(&[7_250_000, 3, 4, 8], 1).map(|granted| granted[0].permits), Some(3));
        let mut window = read_answer(&[7_250_000, 3, 4, 8], 1).expect("an answer")[0].window;
        assert_eq!(window.used(7_250_000), 4 + 6);
        for bad in [&[][..], &[1], &[1, 2, 3], &[1, 2, 3, 4, 5, 6, 7]] {
            assert!(read_answer(bad, 1).is_none(), "{bad:?}");
        }
    }
}
