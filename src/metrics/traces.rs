//! Spans that were dropped, read at each scrape: the control plane's own and the shards' in one metric.

use std::sync::Arc;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter},
    },
};
use ttdust_shards::metrics::ShardMetrics;

use super::meaning;

/// Puts both sides together.
#[derive(Debug)]
pub(super) struct TraceCollector {
    pub(super) control: Counter,
    pub(super) shards: Vec<Arc<ShardMetrics>>,
}

impl Collector for TraceCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let shards: u64 = self.shards.iter().map(|shard| shard.spans_dropped.get()).sum();
        let text = meaning("traces_dropped_total");
        let dropped = encoder.encode_descriptor("traces_dropped", text, None, MetricType::Counter)?;
        ConstCounter::new(shards + self.control.get()).encode(dropped)
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::{encoding::prometheus_text, registry::Registry};

    use super::*;

    #[test]
    fn both_sides_are_counted_together() {
        let shards = vec![Arc::<ShardMetrics>::default(), Arc::default()];
        shards[0].spans_dropped.add(2);
        shards[1].spans_dropped.add(3);
        let control = Counter::default();
        control.inc_by(4);
        let mut registry = Registry::default();
        registry.register_collector(Box::new(TraceCollector { control, shards }));
        let mut text = String::new();
        prometheus_text::encode(&mut text, &registry).expect("text");
        assert!(text.lines().any(|line| line == "traces_dropped_total 9"), "{text}");
    }
}
