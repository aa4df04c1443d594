//! Calls refused for a rate limit, read at each scrape: the control plane's own and the shards' in one metric.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter},
};
use ttdust_shards::{metrics::ShardMetrics, rate::Category};

use super::meaning;

/// What the control plane refused, in the order of [`Category::ALL`].
#[derive(Debug, Default)]
pub(super) struct RateNumbers([AtomicU64; Category::ALL.len()]);

impl RateNumbers {
    pub(super) fn count(&self, category: Category) {
        self.0[category.index()].fetch_add(1, Relaxed);
    }
}

/// Puts both sides together.
#[derive(Debug)]
pub(super) struct RateCollector {
    pub(super) control: Arc<RateNumbers>,
    pub(super) shards: Vec<Arc<ShardMetrics>>,
}

impl Collector for RateCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let text = meaning("rate_limit_hits_total");
        let mut family = encoder.encode_descriptor("rate_limit_hits", text, None, MetricType::Counter)?;
        for category in Category::ALL {
            let at = category.index();
            let grpc: u64 = self.shards.iter().map(|shard| shard.rate_limit_hits[at].get()).sum();
            let count = grpc + self.control.0[at].load(Relaxed);
            ConstCounter::new(count).encode(family.encode_family(&[("category", category.name())])?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::{encoding::prometheus_text, registry::Registry};

    use super::*;

    #[test]
    fn both_sides_are_counted_together() {
        let shards = vec![Arc::<ShardMetrics>::default(), Arc::default()];
        shards[0].rate_limit_hits[Category::AuthFailures.index()].add(2);
        shards[1].rate_limit_hits[Category::IngestBytes.index()].add(3);
        let control = Arc::<RateNumbers>::default();
        control.count(Category::AuthFailures);
        let mut registry = Registry::default();
        registry.register_collector(Box::new(RateCollector { control, shards }));
        let mut text = String::new();
        prometheus_text::encode(&mut text, &registry).expect("text");
        for line in [
            "rate_limit_hits_total{category=\"auth_failures\"} 3",
            "rate_limit_hits_total{category=\"ingest_bytes\"} 3",
            "rate_limit_hits_total{category=\"query\"} 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
    }
}
