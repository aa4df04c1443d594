//! Starts of connections and the certificate in force, read at each scrape: REST's own numbers and the shards' in one metric.

use std::sync::{
    Arc,
    atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};
use ttdust_shards::{metrics::ShardMetrics, tls::HandshakeOutcome};

use super::meaning;

/// No certificate is in force.
const NONE: i64 = i64::MIN;

/// What the control plane knows.
#[derive(Debug)]
pub(super) struct TlsNumbers {
    /// Of REST, in the order of [`HandshakeOutcome::ALL`].
    handshakes: [AtomicU64; HandshakeOutcome::ALL.len()],
    not_after_unix_seconds: AtomicI64,
}

impl Default for TlsNumbers {
    fn default() -> Self {
        Self { handshakes: Default::default(), not_after_unix_seconds: AtomicI64::new(NONE) }
    }
}

impl TlsNumbers {
    pub(super) fn count(&self, outcome: HandshakeOutcome) {
        self.handshakes[outcome.index()].fetch_add(1, Relaxed);
    }

    pub(super) fn set_not_after(&self, unix_seconds: i64) {
        self.not_after_unix_seconds.store(unix_seconds, Relaxed);
    }
}

/// Puts both sides together.
#[derive(Debug)]
pub(super) struct TlsCollector {
    pub(super) control: Arc<TlsNumbers>,
    pub(super) shards: Vec<Arc<ShardMetrics>>,
}

impl Collector for TlsCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let text = meaning("tls_handshakes_total");
        let mut family = encoder.encode_descriptor("tls_handshakes", text, None, MetricType::Counter)?;
        for outcome in HandshakeOutcome::ALL {
            let at = outcome.index();
            let rest = self.control.handshakes[at].load(Relaxed);
            let grpc = self.shards.iter().map(|shard| shard.tls_handshakes[at].get()).sum();
            for (port, count) in [("grpc", grpc), ("http", rest)] {
                let labels = [("port", port), ("outcome", outcome.name())];
                ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
        let name = "tls_certificate_not_after_timestamp_seconds";
        let encoded = encoder.encode_descriptor(name, meaning(name), None, MetricType::Gauge)?;
        match self.control.not_after_unix_seconds.load(Relaxed) {
            NONE => Ok(()),
            seconds => ConstGauge::new(seconds).encode(encoded),
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::{encoding::prometheus_text, registry::Registry};

    use super::*;

    #[test]
    fn both_ports_are_counted_and_the_shards_are_added_up() {
        let shards = vec![Arc::<ShardMetrics>::default(), Arc::default()];
        shards[0].tls_handshakes[HandshakeOutcome::Ok.index()].add(2);
        shards[1].tls_handshakes[HandshakeOutcome::Ok.index()].add(3);
        let control = Arc::<TlsNumbers>::default();
        control.count(HandshakeOutcome::Timeout);
        let mut registry = Registry::default();
        registry.register_collector(Box::new(TlsCollector { control: Arc::clone(&control), shards }));
        let text = || {
            let mut text = String::new();
            prometheus_text::encode(&mut text, &registry).expect("text");
            text
        };
        let before = text();
        for line in [
            "tls_handshakes_total{port=\"grpc\",outcome=\"ok\"} 5",
            "tls_handshakes_total{port=\"http\",outcome=\"timeout\"} 1",
            "tls_handshakes_total{port=\"http\",outcome=\"certificate\"} 0",
        ] {
            assert!(before.lines().any(|l| l == line), "{line} in\n{before}");
        }
        assert!(!before.contains("\ntls_certificate_not_after_timestamp_seconds "), "{before}");
        control.set_not_after(1_900_000_000);
        let after = text();
        assert!(after.contains("\ntls_certificate_not_after_timestamp_seconds 1900000000\n"), "{after}");
    }
}
