//! Grants that all nodes make together: the ledger's accounts lie in Redis, one hash each, and one script a batch of asks
//! grants by the rules of [`super::local`], by Redis's own clock.
//!
//! An outage costs one batch one time limit; see [`crate::redis_link`].

use std::{sync::Arc, time::Duration};

use redis::{RedisError, Script};
use ttdust_shards::rate::{LeaseAsk, RateLimits, SLICE_MICROS, SlidingWindow, WINDOW_MICROS};

use super::{Coordination, local::Granted};
use crate::{
    config::RedisUrl,
    metrics::ControlMetrics,
    redis_link::{Purpose, RedisLink},
};

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

/// What is so with Redis and without.
const PURPOSE: Purpose = Purpose { with: "limits hold over all nodes together", without: "this node limits by itself" };

/// A ledger in Redis.
pub struct SharedLedger {
    link: RedisLink,
    script: Script,
}

impl std::fmt::Debug for SharedLedger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedLedger").field("link", &self.link).finish_non_exhaustive()
    }
}

impl SharedLedger {
    /// A ledger at `url`, each of whose answers may take `timeout`; see [`RedisLink::start`].
    ///
    /// # Errors
    /// The URL is none of a Redis.
    pub async fn start(url: &RedisUrl, timeout: Duration, metrics: Arc<ControlMetrics>) -> Result<Self, RedisError> {
        let link = RedisLink::start(url, timeout, PURPOSE, Some(Script::new(GRANT)), metrics).await?;
        Ok(Self { link, script: Script::new(GRANT) })
    }

    /// Grants of asks, in their order; `None`: Redis is gone or late, nothing is known to be granted.
    pub async fn grant(&self, limits: &RateLimits, asks: &[LeaseAsk]) -> Option<Vec<Granted>> {
        let mut connection = self.link.connection()?;
        let mut call = self.script.prepare_invoke();
        call.arg(WINDOW_MICROS).arg(WINDOW_MICROS / SLICE_MICROS);
        for ask in asks {
            call.key(format!("{KEY_PREFIX}:{}:{}", ask.category.name(), ask.client));
            call.arg(limits.of(ask.category)).arg(ask.want).arg(ask.unused);
        }
        let numbers: Vec<u64> = self.link.answered(call.invoke_async(&mut connection)).await?;
        let granted = read_answer(&numbers, asks.len());
        if granted.is_none() {
            self.link.lose(&"its answer is not what the script gives");
        }
        granted
    }

    /// Where grants are made now.
    pub fn state(&self) -> Coordination {
        match self.link.latency_ms() {
            Ok(latency_ms) => Coordination { latency_ms, detail: "redis".into() },
            Err(reason) => {
                let detail = format!("local: limits hold on each node alone, because redis is gone: {reason}");
                Coordination { latency_ms: 0.0, detail }
            }
        }
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
