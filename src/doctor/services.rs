//! The services that the configuration names, by the clients that the server has for them. None of them is changed, but for an
//! object that the probe of an S3 store puts and removes.

use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::Check;
use crate::{
    catalog::CatalogPlace,
    config::{Config, RedisUrl, S3Options},
    objects::{Objects, S3Figures},
    redis_link::{Purpose, RedisLink},
};

const POSTGRES: &str = "postgres";
const S3: &str = "s3";
const REDIS: &str = "redis";
/// Whoever takes longer is as good as away.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) async fn check(config: &Config) -> Vec<Check> {
    let mut checks = Vec::new();
    if config.postgres.is_some() {
        checks.push(postgres(&CatalogPlace::of(config)).await);
    }
    if let Some(options) = &config.s3 {
        checks.push(s3(options).await);
    }
    let settings = config.settings();
    if let Some(url) = &settings.redis_url {
        checks.push(redis(url, settings.redis_timeout).await);
    }
    checks
}

/// What came within [`PATIENCE`], with how long it took in ms.
async fn within<T, E: ToString>(call: impl Future<Output = Result<T, E>>) -> Result<(T, u128), String> {
    let begun = Instant::now();
    let outcome = timeout(PATIENCE, call).await.map_err(|_| format!("no answer in {} s", PATIENCE.as_secs()))?;
    outcome.map(|value| (value, begun.elapsed().as_millis())).map_err(|error| error.to_string())
}

async fn postgres(place: &CatalogPlace) -> Check {
    match within(place.migration_plan()).await {
        Ok((plan, millis)) if plan.steps.is_empty() => {
            Check::ok(POSTGRES, format!("{place} answers in {millis} ms, with a catalog of version {}", plan.from))
        }
        Ok((plan, millis)) => {
            let steps = plan.steps.len();
            let found = format!("{place} answers in {millis} ms; a start brings its catalog forward by {steps} steps");
            Check::ok(POSTGRES, found)
        }
        Err(reason) => {
            let remedy =
                "see that it runs and lets us in: pg.host, pg.port, pg.user, pg.password (or pg.password_path), pg.tls";
            Check::failed(POSTGRES, format!("{place}: {reason}"), remedy)
        }
    }
}

async fn s3(options: &S3Options) -> Check {
    let place = format!("{} bucket {}", options.endpoint, options.bucket);
    let probed = within(async {
        let objects = Objects::s3(options, S3Figures::default()).await?;
        // A store that is away lets itself be opened.
        objects.list("", None, 1).await
    });
    match probed.await {
        Ok((_, millis)) => Check::ok(S3, format!("{place}: put, get, list and delete took {millis} ms")),
        Err(reason) => {
            let remedy =
                "see that it runs, has the bucket and lets us in: s3.endpoint, s3.bucket, s3.access_key, s3.secret_key";
            Check::failed(S3, format!("{place}: {reason}"), remedy)
        }
    }
}

async fn redis(url: &RedisUrl, answer_timeout: Duration) -> Check {
    const PURPOSE: Purpose = Purpose { with: "it was asked for", without: "it was asked for" };
    let linked = within(async {
        let link = RedisLink::start(url, answer_timeout, PURPOSE, None, std::sync::Arc::default()).await;
        link.map_err(|error| error.to_string())?.latency_ms()
    });
    match linked.await {
        Ok((_, millis)) => Check::ok(REDIS, format!("{url:?} answers; a connection took {millis} ms")),
        Err(reason) => {
            let remedy = "see that it runs and lets us in (redis.url), or raise redis.timeout_ms; the server does without it meanwhile";
            Check::warning(REDIS, format!("{url:?}: {reason}"), remedy)
        }
    }
}
