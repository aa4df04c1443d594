//! The memory that queries hold, read at each scrape.

use std::sync::{Arc, OnceLock};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, gauge::ConstGauge},
};
use ttdust_shards::memory::Pool;

use super::meaning;

/// Where the memory is counted, once there are queries.
pub(super) type QueryMemory = Arc<OnceLock<Arc<Pool>>>;

/// Shows it.
#[derive(Debug)]
pub(super) struct QueryMemoryCollector(pub(super) QueryMemory);

impl Collector for QueryMemoryCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let pool = self.0.get();
        let shown = [
            ("query_memory_bytes", pool.map_or(0, |pool| pool.used())),
            ("query_memory_limit_bytes", pool.map_or(0, |pool| pool.limit())),
        ];
        for (name, bytes) in shown {
            let encoded = encoder.encode_descriptor(name, meaning(name), None, MetricType::Gauge)?;
            ConstGauge::new(i64::try_from(bytes).unwrap_or(i64::MAX)).encode(encoded)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::{encoding::prometheus_text, registry::Registry};

    use super::*;

    #[test]
    fn what_is_held_is_shown_beside_its_limit() {
        let memory = QueryMemory::default();
        let mut registry = Registry::default();
        registry.register_collector(Box::new(QueryMemoryCollector(Arc::clone(&memory))));
        let text = || {
            let mut text = String::new();
            prometheus_text::encode(&mut text, &registry).expect("a String takes it");
            text
        };
        assert!(text().contains("query_memory_bytes 0\n"), "{}", text());
        let pool = Arc::clone(memory.get_or_init(|| Pool::new(100)));
        let held = pool.try_charge(60, 100);
        assert!(text().contains("query_memory_bytes 60\n"), "{}", text());
        assert!(text().contains("query_memory_limit_bytes 100\n"), "{}", text());
        drop(held);
        assert!(text().contains("query_memory_bytes 0\n"), "{}", text());
    }
}
