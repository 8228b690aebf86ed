//! How often something is done that takes longer the more there is.

use std::ops::RangeInclusive;
use std::time::Duration;

/// So many times what it took goes by before it is done again, within bounds: a machine that stood still for a while, or a disk, does not make
/// it wait for long.
pub(crate) fn pause(took: Duration, share: u32, within: RangeInclusive<Duration>) -> Duration {
    took.saturating_mul(share).clamp(*within.start(), *within.end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_a_share_within_its_bounds() {
        let ms = Duration::from_millis;
        for (took, expected) in [(0, 25), (2, 25), (10, 90), (500, 1000), (u64::MAX / 2, 1000)] {
            assert_eq!(pause(ms(took), 9, ms(25)..=ms(1000)), ms(expected), "{took} ms");
        }
    }
}
