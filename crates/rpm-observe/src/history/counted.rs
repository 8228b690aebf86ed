//! From totals to what was added in a second.

use std::collections::BTreeMap;

use rpm_wire::api::{Answered, AppFigures};

use super::row::Values;

/// After a longer pause nobody knows when something was counted: it is a gap.
const LONGEST_PAUSE: u32 = 10;

/// The totals of an app that were seen last.
#[derive(Debug, Default)]
pub(super) struct Counted {
    last: Option<(u32, AppFigures)>,
}

impl Counted {
    /// The figures of this second.
    pub(super) fn values(&mut self, second: u32, figures: AppFigures) -> Values {
        let before = self.last.take();
        let before = before.filter(|(at, _)| {
            second
                .checked_sub(*at)
                .is_some_and(|pause| pause <= LONGEST_PAUSE)
        });
        let before = before.map(|(_, figures)| figures);
        let restarts = before
            .as_ref()
            .map(|before| restarts(&before.restarts, &figures.restarts));
        // A first look at what is measured knows totals alone.
        let before =
            before.filter(|before| before.bounds_ms == figures.bounds_ms && !before.bounds_ms.is_empty());
        let answered = before.map(|before| answered(&before.answered, &figures.answered));
        let quantile = |share| {
            answered
                .as_ref()
                .and_then(|all| quantile(&all.times, &figures.bounds_ms, share))
        };
        let requests = answered
            .as_ref()
            .map(|all| all.classes[1..].iter().sum::<u64>() as f64);
        let values = [
            Some(f64::from(figures.online)),
            Some(figures.cpu_percent),
            Some(figures.memory_bytes as f64),
            restarts,
            figures.connections.map(f64::from),
            figures.queue.map(f64::from),
            requests,
            answered.as_ref().map(|all| all.classes[4] as f64),
            quantile(0.5),
            quantile(0.99),
            figures.delay_us.map(|us| us as f64 / 1e6),
        ];
        self.last = Some((second, figures));
        values
    }
}

/// A count that was reset, or belongs to an instance that is gone, adds nothing.
fn restarts(before: &BTreeMap<u32, u32>, now: &BTreeMap<u32, u32>) -> f64 {
    let added = |(id, count): (&u32, &u32)| count.saturating_sub(*before.get(id).unwrap_or(count));
    now.iter().map(added).map(f64::from).sum()
}

/// What all workers have answered since; one that is new began at 0.
fn answered(before: &BTreeMap<u64, Answered>, now: &BTreeMap<u64, Answered>) -> Answered {
    let mut all = Answered::default();
    for (worker, counts) in now {
        let none = Answered::default();
        let before = before.get(worker).unwrap_or(&none);
        for (sum, (now, before)) in all
            .classes
            .iter_mut()
            .zip(counts.classes.iter().zip(&before.classes))
        {
            *sum += now.saturating_sub(*before);
        }
        all.times.resize(all.times.len().max(counts.times.len()), 0);
        for (at, now) in counts.times.iter().enumerate() {
            all.times[at] += now.saturating_sub(before.times.get(at).copied().unwrap_or(0));
        }
    }
    all
}

/// The time within which this share was answered, in seconds: interpolated between the bounds, and the last bound beyond it.
fn quantile(times: &[u64], bounds_ms: &[f64], share: f64) -> Option<f64> {
    let total: u64 = times.iter().sum();
    let wanted = (total > 0).then_some(total as f64 * share)?;
    let (mut below, mut lower) = (0.0, 0.0);
    for (count, bound) in times.iter().zip(bounds_ms) {
        let within = below + *count as f64;
        if within >= wanted && *count > 0 {
            return Some((lower + (bound - lower) * (wanted - below) / *count as f64) / 1000.0);
        }
        (below, lower) = (within, *bound);
    }
    Some(lower / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(restarts: u32, workers: &[(u64, u64, u64)]) -> AppFigures {
        let answered = workers.iter().map(|(worker, good, bad)| {
            let classes = [0, *good, 0, 0, *bad];
            (
                *worker,
                Answered {
                    classes,
                    times: vec![*good, *bad, 0],
                },
            )
        });
        AppFigures {
            restarts: BTreeMap::from([(0, restarts)]),
            bounds_ms: vec![10.0, 100.0],
            answered: answered.collect(),
            ..AppFigures::default()
        }
    }

    /// Restarts, requests and errors.
    fn counts(values: &Values) -> [Option<f64>; 3] {
        [values[3], values[6], values[7]]
    }

    #[test]
    fn counters_that_begin_again_never_go_backwards() {
        let mut counted = Counted::default();
        for (second, figures, expected) in [
            (1, figures(3, &[(1, 100, 1)]), [None; 3]),
            (2, figures(4, &[(1, 110, 3)]), [Some(1.0), Some(12.0), Some(2.0)]),
            // The worker was replaced, and the restarts were reset.
            (3, figures(0, &[(2, 5, 0)]), [Some(0.0), Some(5.0), Some(0.0)]),
            (4, figures(0, &[(2, 2, 0)]), [Some(0.0), Some(0.0), Some(0.0)]),
            // Nobody asked for a while, and the clock was set back.
            (60, figures(0, &[(2, 900, 0)]), [None; 3]),
            (30, figures(0, &[(2, 901, 0)]), [None; 3]),
            (31, figures(0, &[(2, 902, 0)]), [Some(0.0), Some(1.0), Some(0.0)]),
            // Nothing is measured any more.
            (32, AppFigures::default(), [Some(0.0), None, None]),
        ] {
            let values = counted.values(second, figures);
            assert_eq!(counts(&values), expected, "second {second}");
        }
    }

    #[test]
    fn quantiles_are_between_bounds() {
        let bounds = [10.0, 100.0];
        for (times, share, expected) in [
            ([0, 0, 0], 0.5, None),
            ([10, 0, 0], 0.5, Some(0.005)),
            ([0, 10, 0], 0.5, Some(0.055)),
            ([98, 0, 2], 0.99, Some(0.1)),
        ] {
            assert_eq!(quantile(&times, &bounds, share), expected, "{times:?}");
        }
    }
}
