//! Latencies of answered requests, in microseconds.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;

/// Latencies at three significant digits; anything above [`Latency::MAX_US`] counts as that.
#[derive(Clone, Debug)]
pub struct Latency {
    recorded: Histogram<u64>,
}

impl Latency {
    /// Two minutes: longer than any deadline in use.
    pub const MAX_US: u64 = 120_000_000;

    /// Record one latency.
    pub fn record(&mut self, latency: Duration) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(Self::MAX_US);
        self.recorded.saturating_record(us.clamp(1, Self::MAX_US));
    }

    /// Add all latencies of another set.
    pub fn merge(&mut self, other: &Latency) {
        // Both sets have the same bounds, the only thing that could make this fail.
        let merged = self.recorded.add(&other.recorded);
        debug_assert!(merged.is_ok(), "latency sets of different bounds");
    }

    /// How many were recorded.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.recorded.len()
    }

    /// The latency in µs that `quantile` (0 to 1) of the requests did not exceed; 0 without requests.
    #[must_use]
    pub fn quantile_us(&self, quantile: f64) -> u64 {
        self.recorded.value_at_quantile(quantile)
    }

    /// Median in µs.
    #[must_use]
    pub fn p50_us(&self) -> u64 {
        self.quantile_us(0.50)
    }

    /// 90th percentile in µs.
    #[must_use]
    pub fn p90_us(&self) -> u64 {
        self.quantile_us(0.90)
    }

    /// 99th percentile in µs.
    #[must_use]
    pub fn p99_us(&self) -> u64 {
        self.quantile_us(0.99)
    }

    /// Largest latency in µs.
    #[must_use]
    pub fn max_us(&self) -> u64 {
        self.recorded.max()
    }

    /// How many requests took longer than `limit` (to the resolution of the histogram).
    #[must_use]
    pub fn slower_than(&self, limit: Duration) -> u64 {
        let us = u64::try_from(limit.as_micros())
            .unwrap_or(u64::MAX)
            .saturating_add(1);
        if us > Self::MAX_US {
            0
        } else {
            self.recorded.count_between(us, Self::MAX_US)
        }
    }
}

impl Default for Latency {
    #[expect(clippy::expect_used, reason = "constant bounds, checked by every test")]
    fn default() -> Self {
        let recorded = Histogram::new_with_bounds(1, Self::MAX_US, 3).expect("valid histogram bounds");
        Latency { recorded }
    }
}

impl fmt::Display for Latency {
    /// One line, in milliseconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p90, p99, max] = [self.p50_us(), self.p90_us(), self.p99_us(), self.max_us()].map(ms);
        write!(
            f,
            "p50 {p50:.2} ms  p90 {p90:.2} ms  p99 {p99:.2} ms  max {max:.2} ms"
        )
    }
}

/// Exact for every latency that can be recorded: they are far below 2^52.
fn ms(us: u64) -> f64 {
    us as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_follow_what_was_recorded() {
        let mut latency = Latency::default();
        assert_eq!(latency.p99_us(), 0);
        (1..=100).for_each(|ms| latency.record(Duration::from_millis(ms)));
        assert!(latency.p50_us().abs_diff(50_000) < 100, "{latency}");
        assert!(latency.p99_us().abs_diff(99_000) < 100, "{latency}");
        assert_eq!(latency.slower_than(Duration::from_micros(90_500)), 10);
        assert_eq!(latency.slower_than(Duration::from_secs(1)), 0);
    }

    #[test]
    fn a_huge_latency_is_clamped_and_sets_merge() {
        let (mut one, mut other) = (Latency::default(), Latency::default());
        one.record(Duration::ZERO);
        other.record(Duration::from_secs(100_000));
        one.merge(&other);
        assert_eq!(one.count(), 2);
        assert!(one.max_us() >= Latency::MAX_US);
    }
}
