//! How much comes in a second, over about the last minute.
//!
//! What came weighs less as it ages, by 1/e a minute, so that a rate needs two numbers and no history.

/// The time after which what came weighs 1/e, in µs.
const MEMORY_MICROS: f64 = 60_000_000.0;

/// Records and bytes a second.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Meter {
    records: f64,
    bytes: f64,
    /// Monotonic µs of the last count.
    at: u64,
}

impl Meter {
    /// Counts what came in at `now`, monotonic µs.
    pub(super) fn count(&mut self, records: u32, bytes: u32, now: u64) {
        let kept = self.kept(now);
        self.records = self.records.mul_add(kept, f64::from(records));
        self.bytes = self.bytes.mul_add(kept, f64::from(bytes));
        self.at = now;
    }

    /// Records and bytes a second, as of `now`.
    pub(super) fn rates(&self, now: u64) -> (f64, f64) {
        let a_second = self.kept(now) * 1e6 / MEMORY_MICROS;
        (self.records * a_second, self.bytes * a_second)
    }

    fn kept(&self, now: u64) -> f64 {
        (-(now.saturating_sub(self.at) as f64) / MEMORY_MICROS).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_rate_is_found_and_a_silence_forgets_it() {
        let mut meter = Meter::default();
        let mut now = 0;
        for _ in 0..6000 {
            now += 100_000;
            meter.count(50, 5000, now);
        }
        let (records, bytes) = meter.rates(now);
        assert!((records - 500.0).abs() < 2.0, "{records}");
        assert!((bytes - 50_000.0).abs() < 200.0, "{bytes}");
        let (records, _) = meter.rates(now + 600_000_000);
        assert!(records < 0.1, "{records}");
        assert_eq!(Meter::default().rates(now), (0.0, 0.0));
    }
}
