//! The latency of an upstream: a peak-sensitive moving average (peak EWMA), as in Finagle and linkerd.
//!
//! A measurement above the average replaces it; one below lowers it, by as much time as has passed since the last one. While there is none the
//! average fades, so that an upstream that was slow once is asked again.

use std::sync::atomic::{AtomicU64, Ordering};

/// Time after which an old average has a weight of 1/e, in ms.
const DECAY_MS: f64 = 10_000.0;
/// An upstream that has not been measured for so long is asked to find out, in ms.
const STALE_MS: u64 = 1000;
/// It has not happened yet.
const NEVER: u64 = u64::MAX;

/// Measurements of an upstream. Threads that measure at the same moment may lose one of two.
#[derive(Debug)]
pub(crate) struct Latency {
    /// The average, in µs: the bits of an `f64`.
    average: AtomicU64,
    /// When it was measured last, in ms since the start of the proxy.
    measured_ms: AtomicU64,
    /// When it was asked last while it was stale.
    asked_ms: AtomicU64,
}

impl Default for Latency {
    fn default() -> Latency {
        Latency {
            average: AtomicU64::new(0),
            measured_ms: AtomicU64::new(NEVER),
            asked_ms: AtomicU64::new(NEVER),
        }
    }
}

impl Latency {
    /// The average of all measurements, in µs. It does not fade. `None`: there are none.
    pub(crate) fn average_us(&self) -> Option<f64> {
        let average = f64::from_bits(self.average.load(Ordering::Relaxed));
        (self.measured_ms.load(Ordering::Relaxed) != NEVER).then_some(average)
    }

    /// Adds a measurement.
    pub(crate) fn add(&self, us: u64, now_ms: u64) {
        let us = us as f64;
        let measured_ms = self.measured_ms.swap(now_ms, Ordering::Relaxed);
        let old = f64::from_bits(self.average.load(Ordering::Relaxed));
        let new = if measured_ms == NEVER || us >= old {
            us
        } else {
            us + (old - us) * left(measured_ms, now_ms)
        };
        self.average.store(new.to_bits(), Ordering::Relaxed);
    }

    /// It has not been measured for a while, or not at all.
    pub(crate) fn is_stale(&self, now_ms: u64) -> bool {
        let measured_ms = self.measured_ms.load(Ordering::Relaxed);
        measured_ms == NEVER || now_ms.saturating_sub(measured_ms) > STALE_MS
    }

    /// Records that an upstream that is stale has been asked.
    pub(crate) fn ask(&self, now_ms: u64) {
        self.asked_ms.store(now_ms, Ordering::Relaxed);
    }

    /// What it probably is now, in µs. `usual` is that of its front, for one of which nothing is known.
    ///
    /// One that has been asked since it was measured counts as a usual one: while it does not respond it must not get one request after the
    /// other because its average has faded.
    pub(crate) fn expected_us(&self, usual: f64, now_ms: u64) -> f64 {
        let Some(average) = self.average_us() else {
            return usual;
        };
        let measured_ms = self.measured_ms.load(Ordering::Relaxed);
        let faded = average * left(measured_ms, now_ms);
        match self.asked_ms.load(Ordering::Relaxed) {
            asked_ms if asked_ms != NEVER && asked_ms > measured_ms => {
                faded.max(usual * left(asked_ms, now_ms))
            }
            _ => faded,
        }
    }
}

/// What is left of an average after this time, from 1 to 0.
fn left(since_ms: u64, now_ms: u64) -> f64 {
    (-(now_ms.saturating_sub(since_ms) as f64) / DECAY_MS).exp()
}

/// The usual latency of upstreams with these averages: their harmonic mean, so that a few slow ones change little.
pub(crate) fn usual_us(averages: impl Iterator<Item = f64>) -> f64 {
    let (count, sum) = averages.fold((0.0, 0.0), |(count, sum), us| {
        (count + 1.0, sum + 1.0 / (us + 1.0))
    });
    if count > 0.0 { count / sum - 1.0 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rises_at_once_and_falls_slowly() {
        let latency = Latency::default();
        assert_eq!(latency.average_us(), None);
        let average = |us, now_ms| {
            latency.add(us, now_ms);
            latency.average_us().map(f64::round)
        };
        assert_eq!(average(500, 0), Some(500.0));
        assert_eq!(average(800, 1), Some(800.0));
        // Time counts, not the number of measurements.
        assert!((0..1000).all(|_| average(0, 1) == Some(800.0)));
        assert_eq!(average(300, 10_001), Some(484.0));
        for now_ms in 10_002..40_000 {
            average(300, now_ms);
        }
        assert_eq!(average(300, 40_000), Some(309.0));
    }

    #[test]
    fn it_fades_while_it_is_not_measured() {
        let latency = Latency::default();
        assert!(latency.is_stale(0), "it was never measured");
        assert_eq!(latency.expected_us(70.0, 0), 70.0);
        latency.add(1000, 0);
        assert!(!latency.is_stale(STALE_MS) && latency.is_stale(STALE_MS + 1));
        let expected = |now_ms| latency.expected_us(70.0, now_ms).round();
        assert_eq!(
            [0, 10_000, 20_000, 50_000].map(expected),
            [1000.0, 368.0, 135.0, 7.0]
        );
        assert_eq!(latency.average_us(), Some(1000.0));
        // It does not respond.
        latency.ask(50_000);
        assert_eq!([50_000, 60_000].map(expected), [70.0, 26.0]);
        latency.add(20, 60_000);
        assert_eq!(expected(60_000), 22.0);
    }

    #[test]
    fn a_slow_one_changes_little_of_what_is_usual() {
        assert_eq!(usual_us([].into_iter()), 0.0);
        assert_eq!(usual_us([500.0; 3].into_iter()).round(), 500.0);
        let usual = usual_us([500.0, 500.0, 500.0, 60e6].into_iter());
        assert!((600.0..700.0).contains(&usual), "{usual}");
    }
}
