//! When an upstream is left out because requests fail there.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Failures in a row after which an upstream is ejected.
const FAILURES: u32 = 5;
/// Responses of 500 and above in a row after which it is ejected.
const BAD_ANSWERS: u32 = 20;
/// Duration of the first ejection, and of the longest, in ms.
const FIRST_MS: u64 = 500;
const LONGEST_MS: u64 = 30_000;
/// Steps from the first duration to the longest; each doubles it.
const STEPS: u64 = 6;
/// After this time without an ejection the next one is a step shorter, in ms.
const FORGIVEN_MS: u64 = 60_000;

/// Failures of an upstream, and the ejections that follow.
#[derive(Debug, Default)]
pub(crate) struct Ejection {
    failures: AtomicU32,
    bad_answers: AtomicU32,
    /// How often it was ejected.
    count: AtomicU32,
    /// Steps of the next one, if none is forgiven until then.
    steps: AtomicU64,
    /// End of the last one, in ms since the start of the proxy.
    until_ms: AtomicU64,
}

impl Ejection {
    /// When it ends, in ms since the start of the proxy. `None`: the upstream is not ejected.
    pub(crate) fn until_ms(&self, now_ms: u64) -> Option<u64> {
        Some(self.until_ms.load(Ordering::Relaxed)).filter(|until_ms| *until_ms > now_ms)
    }

    /// How often it was ejected.
    pub(crate) fn count(&self) -> u32 {
        self.count.load(Ordering::Relaxed)
    }

    /// Records that the upstream accepts connections.
    pub(crate) fn connected(&self) {
        self.failures.store(0, Ordering::Relaxed);
    }

    /// Records a response. True if it ejects the upstream.
    pub(crate) fn answered(&self, status: u16, now_ms: u64) -> bool {
        self.failures.store(0, Ordering::Relaxed);
        if status < 500 {
            self.bad_answers.store(0, Ordering::Relaxed);
            return false;
        }
        self.count_to(&self.bad_answers, BAD_ANSWERS, now_ms)
    }

    /// Records a failure. True if it ejects the upstream.
    pub(crate) fn failed(&self, now_ms: u64) -> bool {
        self.count_to(&self.failures, FAILURES, now_ms)
    }

    fn count_to(&self, counter: &AtomicU32, most: u32, now_ms: u64) -> bool {
        if counter.fetch_add(1, Ordering::Relaxed) + 1 < most {
            return false;
        }
        counter.store(0, Ordering::Relaxed);
        self.eject(now_ms)
    }

    /// One that is ejected is not ejected again: these requests were in flight before, or there is no other upstream.
    fn eject(&self, now_ms: u64) -> bool {
        let ended_ms = self.until_ms.load(Ordering::Relaxed);
        let Some(calm_ms) = now_ms.checked_sub(ended_ms) else {
            return false;
        };
        let steps = self.steps.load(Ordering::Relaxed);
        let steps = steps.saturating_sub(calm_ms / FORGIVEN_MS);
        let until_ms = now_ms + (FIRST_MS << steps).min(LONGEST_MS);
        let ordering = Ordering::Relaxed;
        let claimed = self
            .until_ms
            .compare_exchange(ended_ms, until_ms, ordering, ordering);
        if claimed.is_err() {
            return false;
        }
        self.steps.store((steps + 1).min(STEPS), Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_eject_for_longer_and_longer() {
        let ejection = Ejection::default();
        let fail = |now| assert!((0..FAILURES).any(|_| ejection.failed(now)));
        (1..FAILURES).for_each(|_| assert!(!ejection.failed(0)));
        ejection.answered(200, 0);
        ejection.failed(0);
        assert_eq!(ejection.until_ms(0), None, "an answer forgives");
        ejection.answered(200, 0);
        fail(1000);
        assert_eq!(ejection.until_ms(1000), Some(1000 + FIRST_MS));
        assert_eq!(ejection.until_ms(1000 + FIRST_MS), None);
        fail(5000);
        assert_eq!(ejection.until_ms(5000), Some(5000 + 2 * FIRST_MS));
    }

    #[test]
    fn an_ejection_is_forgiven_in_time() {
        let ejection = Ejection::default();
        let mut now = 0;
        let mut ejected_for = |calm: u64| {
            now += calm;
            assert!((0..FAILURES).any(|_| ejection.failed(now)));
            let until = ejection.until_ms(now).expect("it is ejected");
            until - std::mem::replace(&mut now, until)
        };
        let times = [0, 0, 0, 60_000, 150_000, 0].map(&mut ejected_for);
        assert_eq!(times, [500, 1000, 2000, 2000, 1000, 2000]);
        assert_eq!([0; 4].map(&mut ejected_for), [4000, 8000, 16_000, 30_000]);
        (0..20).for_each(|_| assert_eq!(ejected_for(0), 30_000));
        assert_eq!(ejected_for(60_000), 16_000, "a step less than the longest");
        assert_eq!(ejected_for(600_000), 500);
        assert_eq!(ejection.count(), 32, "all are counted");
    }

    #[test]
    fn requests_that_were_in_flight_together_eject_once() {
        let ejection = Ejection::default();
        let ejected = (0..50).filter(|_| ejection.failed(1000)).count();
        assert_eq!((ejected, ejection.count()), (1, 1));
        assert_eq!(ejection.until_ms(1000), Some(1000 + FIRST_MS));
    }

    #[test]
    fn answers_of_a_broken_worker_eject_it_too() {
        let ejection = Ejection::default();
        (1..BAD_ANSWERS).for_each(|_| assert!(!ejection.answered(503, 0)));
        assert!(ejection.answered(500, 0));
        assert_eq!(ejection.until_ms(0), Some(FIRST_MS));
    }
}
