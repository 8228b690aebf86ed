//! A small deterministic generator for jitter: the same seed gives the same delays.

use core::time::Duration;

/// SplitMix64. It is written here because its state is part of the snapshot.
#[derive(Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Rng(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// `span` ± 10 %.
    pub(crate) fn jitter(&mut self, span: Duration) -> Duration {
        let thousandths = u32::try_from(self.next() % 1001).unwrap_or(0);
        // The span is divided first, so that no product overflows.
        (span - span / 10).saturating_add(span / 5 / 1000 * thousandths)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_within_ten_percent_and_varies() {
        let mut rng = Rng::new(7);
        let second = Duration::from_secs(1);
        let drawn: Vec<Duration> = (0..1000).map(|_| rng.jitter(second)).collect();
        let (low, high) = (drawn.iter().min().unwrap(), drawn.iter().max().unwrap());
        assert!(*low >= second * 9 / 10 && *low < second * 92 / 100, "{low:?}");
        assert!(
            *high <= second * 11 / 10 && *high > second * 108 / 100,
            "{high:?}"
        );
    }

    #[test]
    fn extreme_spans_do_not_overflow() {
        let mut rng = Rng::new(1);
        assert_eq!(rng.jitter(Duration::ZERO), Duration::ZERO);
        assert!((0..100).all(|_| rng.jitter(Duration::MAX) >= Duration::MAX / 10 * 9));
    }

    #[test]
    fn the_seed_decides() {
        let draw = |seed| Rng::new(seed).jitter(Duration::from_secs(1));
        assert_eq!(draw(3), draw(3));
        assert_ne!(draw(3), draw(4));
    }
}
