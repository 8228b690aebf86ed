//! How often something may be reported that happens again and again.

use std::time::{Duration, Instant};

/// Between two reports, when the first ones are used up; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// After so long without one it begins again.
const QUIET: Duration = Duration::from_secs(600);

/// Some reports at once, then one after each pause.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    burst: u32,
    left: u32,
    pause: Duration,
    /// When the next one may come; that of the last, as long as some are left.
    at: Option<Instant>,
}

impl Pace {
    pub(super) fn new(burst: u32) -> Pace {
        Pace {
            burst,
            left: burst,
            pause: FIRST_PAUSE,
            at: None,
        }
    }

    /// Before this time nothing may be reported; `None`: at once.
    pub(super) fn opens(&self) -> Option<Instant> {
        self.at.filter(|_| self.left == 0)
    }

    pub(super) fn is_open(&self, now: Instant) -> bool {
        self.opens().is_none_or(|at| at <= now)
    }

    /// Something is reported.
    pub(super) fn spend(&mut self, now: Instant) {
        if self.at.is_some_and(|at| now >= at + QUIET) {
            *self = Pace::new(self.burst);
        }
        if self.left > 1 {
            self.left -= 1;
            self.at = Some(now);
            return;
        }
        if self.left == 0 {
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
        self.left = 0;
        self.at = Some(now + self.pause);
    }

    /// Nothing is known of it that matters any more.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.at.is_none_or(|at| now >= at + QUIET)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_at_once_then_after_growing_pauses_and_anew_when_it_was_quiet() {
        let begun = Instant::now();
        let mut pace = Pace::new(2);
        let mut told = Vec::new();
        for second in 0..3600 {
            let now = begun + Duration::from_secs(second);
            if pace.is_open(now) {
                pace.spend(now);
                told.push(second);
            }
        }
        assert_eq!(told, [0, 1, 61, 181, 421, 901, 1501, 2101, 2701, 3301]);
        let later = begun + Duration::from_secs(3600) + LONGEST_PAUSE + QUIET;
        assert!(pace.is_over(later));
        for _ in 0..2 {
            assert!(pace.is_open(later));
            pace.spend(later);
        }
        assert_eq!(pace.opens(), Some(later + FIRST_PAUSE));
    }
}
