//! How fast and how much at once: pauses after failures, and parts that are as large as the receiver takes in time. Without I/O or clock.

use std::time::Duration;

/// The first pause after a failure, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];
/// The longest pause that a receiver may ask for.
const LONGEST_ASKED: Duration = Duration::from_secs(300);

/// Pauses after failures in a row: twice as long each time, up to a bound, and shortened at random so that many do not come back together.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The next pause; `dice` is between 0 and 1. What the receiver asks for is the least.
    pub(super) fn pause(&mut self, asked: Option<Duration>, dice: f64) -> Duration {
        let [first, longest] = PAUSES;
        let full = first.saturating_mul(1 << self.failures.min(10)).min(longest);
        self.failures = self.failures.saturating_add(1);
        let pause = full.mul_f64(0.5 + dice.clamp(0.0, 1.0) / 2.0);
        pause.max(asked.unwrap_or_default().min(LONGEST_ASKED))
    }

    /// Something was taken.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// The most records in a part: half as many after one that was not done in time, and an eighth more after each that was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    limit: usize,
    most: usize,
}

impl Pace {
    pub(super) fn new(most: usize) -> Pace {
        Pace { limit: most, most }
    }

    /// The most records in a part now.
    pub(super) fn limit(self) -> usize {
        self.limit
    }

    /// So many records were not taken in time.
    pub(super) fn late(&mut self, records: usize) {
        self.limit = (records / 2).clamp(1, self.limit);
    }

    /// So many records were taken at once.
    pub(super) fn taken(&mut self, records: usize) {
        if records >= self.limit {
            self.limit = (self.limit + self.limit.div_ceil(8)).min(self.most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_begin_again() {
        let mut backoff = Backoff::default();
        let pauses: Vec<u64> = (0..7).map(|_| backoff.pause(None, 1.0).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(backoff.pause(None, 0.0), Duration::from_secs(15));
        assert_eq!(
            backoff.pause(Some(Duration::from_secs(60)), 1.0),
            Duration::from_secs(60)
        );
        assert_eq!(backoff.pause(Some(Duration::from_secs(9999)), 1.0), LONGEST_ASKED);
        backoff.reset();
        assert_eq!(backoff.pause(None, 1.0), Duration::from_secs(1));
    }

    #[test]
    fn parts_shrink_to_what_is_taken_in_time_and_grow_again() {
        let mut pace = Pace::new(1_000);
        for expected in [500, 250, 125] {
            pace.late(pace.limit());
            assert_eq!(pace.limit(), expected);
        }
        pace.taken(7);
        assert_eq!(pace.limit(), 125, "a small part says nothing");
        let mut requests = 0;
        while pace.limit() < 1_000 {
            pace.taken(pace.limit());
            requests += 1;
        }
        assert!(requests > 10, "{requests}");
        for _ in 0..20 {
            pace.late(1);
        }
        assert_eq!(pace.limit(), 1);
    }
}
