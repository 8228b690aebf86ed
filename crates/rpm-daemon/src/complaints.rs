//! Warnings about workers: of each kind one a second, with how many were left out, for a worker that runs wild must not fill the log.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rpm_core::WorkerId;
use tracing::warn;

/// Between two warnings of one kind about a worker.
const PAUSE: Duration = Duration::from_secs(1);
/// Above this many entries, those whose pause is over are dropped.
const REMEMBERED: usize = 1024;

/// What was said of whom a moment ago.
#[derive(Default)]
pub(crate) struct Complaints(BTreeMap<(WorkerId, &'static str), Complaint>);

struct Complaint {
    until: Instant,
    left_out: u64,
}

impl Complaints {
    /// Warns of a worker, unless that was said a moment ago. `what` is the kind, `why` its cause.
    pub(crate) fn warn(&mut self, worker: WorkerId, what: &'static str, why: &dyn std::fmt::Display) {
        if let Some(left_out) = self.due(worker, what, Instant::now()) {
            let why = why.to_string();
            match left_out {
                0 => warn!(%worker, why, "{what}"),
                _ => warn!(%worker, why, left_out, "{what}"),
            }
        }
    }

    /// How many of the kind were left out since the last, if one more may be told.
    fn due(&mut self, worker: WorkerId, what: &'static str, now: Instant) -> Option<u64> {
        if self.0.len() >= REMEMBERED {
            self.0.retain(|_, last| last.until > now);
        }
        let until = now + PAUSE;
        match self.0.get_mut(&(worker, what)) {
            Some(last) if last.until > now => {
                last.left_out += 1;
                None
            }
            Some(last) => {
                last.until = until;
                Some(std::mem::take(&mut last.left_out))
            }
            None => {
                self.0.insert((worker, what), Complaint { until, left_out: 0 });
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_told_once_a_second_with_the_count_of_those_left_out() {
        let mut said = Complaints::default();
        let (one, other) = (WorkerId(1), WorkerId(2));
        let now = Instant::now();
        let ms = |ms| now + Duration::from_millis(ms);
        assert_eq!(said.due(one, "a", now), Some(0));
        assert_eq!(said.due(one, "a", ms(1)), None);
        assert_eq!(said.due(one, "a", ms(999)), None);
        assert_eq!(said.due(one, "b", ms(999)), Some(0));
        assert_eq!(said.due(other, "a", ms(999)), Some(0));
        assert_eq!(said.due(one, "a", ms(1000)), Some(2));
        assert_eq!(said.due(one, "a", ms(1001)), None);
        for worker in 0..3 * REMEMBERED as u64 {
            said.due(WorkerId(worker), "c", ms(5000 + 10 * worker));
        }
        assert!(said.0.len() <= REMEMBERED, "{}", said.0.len());
    }
}
