//! Whether the server can do its work, part by part.

use std::{
    collections::BTreeMap,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use tokio::{sync::Mutex, time};
use ttdust_shards::ids::ShardId;

use super::Control;

/// A part that takes longer is down.
const TIMEOUT: Duration = Duration::from_secs(1);

/// How a part stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Component {
    /// Whether it works.
    pub up: bool,
    /// How long it took to answer, in milliseconds.
    pub latency_ms: f64,
    /// For people; empty: nothing to say.
    pub detail: String,
}

/// How the server stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Readiness {
    /// Whether it can do its work. It takes records without Postgres or S3, too.
    pub ready: bool,
    /// Its parts, by name.
    pub components: BTreeMap<String, Component>,
}

impl Control {
    /// Asks every part. Anyone may ask for it, and as often as he likes: those who come while the parts are asked share the
    /// next answer.
    pub async fn readiness(&self) -> Readiness {
        Box::pin(self.checked.or_else(|| self.ask_every_part())).await
    }

    async fn ask_every_part(&self) -> Readiness {
        let (catalog, objects, shards) = tokio::join!(
            self.check_catalog(),
            self.check_objects(),
            join_all(self.parts.link.shards().map(|shard| self.check_shard(shard))),
        );
        let coordination = self.parts.coordinator.state();
        let backend = self.parts.link.engine().backend();
        let mut components = BTreeMap::from([
            ("catalog".to_owned(), catalog),
            ("objects".to_owned(), objects),
            (
                // Never down: without Redis this node goes on by itself.
                "coordination".to_owned(),
                Component { up: true, latency_ms: coordination.latency_ms, detail: coordination.detail },
            ),
            (
                "io".to_owned(),
                Component { up: true, latency_ms: 0.0, detail: format!("{}: {}", backend.kind, backend.reason) },
            ),
        ]);
        components.extend(shards.into_iter().map(|(shard, component)| (format!("shard_{shard}"), component)));
        if self.draining.load(Relaxed) {
            let detail = "the server is shutting down".into();
            components.insert("server".into(), Component { up: false, latency_ms: 0.0, detail });
        }
        let spared = |part: &str| match part {
            "catalog" => self.parts.catalog.is_shared(),
            "objects" => self.parts.objects.is_remote(),
            _ => false,
        };
        Readiness { ready: components.iter().all(|(part, component)| component.up || spared(part)), components }
    }

    async fn check_catalog(&self) -> Component {
        let catalog = &self.parts.catalog;
        let component = timed(async { catalog.ping().await.map_err(|e| e.to_string()) }).await;
        // Which one it is, while there is nothing worse to say.
        let detail = if component.up { catalog.store_name().to_owned() } else { component.detail };
        Component { detail, ..component }
    }

    async fn check_objects(&self) -> Component {
        let objects = &self.parts.objects;
        let component = timed(async { objects.check().await.map_err(|e| e.to_string()) }).await;
        let detail = if component.up { objects.store_name().to_owned() } else { component.detail };
        Component { detail, ..component }
    }

    async fn check_shard(&self, shard: ShardId) -> (ShardId, Component) {
        (shard, timed(self.parts.link.ping(shard, TIMEOUT)).await)
    }
}

/// The answer of the last check, for those who came before that began; one check is under way at a time.
#[derive(Debug, Default)]
pub(super) struct Latest(Mutex<Option<(Instant, Readiness)>>);

impl Latest {
    /// An answer that is no older than this call: of a check that began meanwhile, or else of `check`.
    async fn or_else<F: Future<Output = Readiness>>(&self, check: impl FnOnce() -> F) -> Readiness {
        let asked = Instant::now();
        let mut latest = self.0.lock().await;
        match &*latest {
            Some((began, readiness)) if *began > asked => readiness.clone(),
            _ => {
                let began = Instant::now();
                let readiness = check().await;
                *latest = Some((began, readiness.clone()));
                readiness
            }
        }
    }
}

async fn timed(check: impl Future<Output = Result<(), String>>) -> Component {
    let start = Instant::now();
    let outcome = time::timeout(TIMEOUT, check).await;
    let detail = match outcome {
        Ok(Ok(())) => None,
        Ok(Err(reason)) => Some(reason),
        Err(_) => Some(format!("no answer in {} ms", TIMEOUT.as_millis())),
    };
    let latency_ms = (start.elapsed().as_secs_f64() * 1e6).round() / 1e3;
    Component { up: detail.is_none(), latency_ms, detail: detail.unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn many_who_ask_at_once_cost_two_checks_and_nobody_hears_of_the_past() {
        let (latest, checks) = (Latest::default(), AtomicUsize::new(0));
        let check = async || {
            let ready = checks.fetch_add(1, Relaxed) > 0;
            tokio::task::yield_now().await;
            Readiness { ready, components: BTreeMap::new() }
        };
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(async {
            let answers = join_all((0..100).map(|_| latest.or_else(check))).await;
            assert!(!answers[0].ready && answers[1..].iter().all(|answer| answer.ready), "{answers:?}");
            assert_eq!(checks.load(Relaxed), 2);
            latest.or_else(check).await;
            assert_eq!(checks.load(Relaxed), 3, "an answer from before the question is none");
        });
    }
}
