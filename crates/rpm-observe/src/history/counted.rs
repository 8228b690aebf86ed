//! From totals to what was added in a second.

use std::collections::BTreeMap;

use rpm_wire::api::{Answered, AppFigures};

use super::row::Values;

/// After a longer pause, in seconds, nobody knows when something was counted: it is a gap.
const LONGEST_PAUSE: f64 = 10.0;

/// The totals of an app that were seen last.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    /// When, and how often each instance had been restarted.
    last: Option<(f64, BTreeMap<u32, u32>)>,
    /// When and what each worker had answered, as far as that is known. One that was started since then had answered nothing.
    answered: BTreeMap<u64, (f64, Answered)>,
    workers: Vec<u64>,
}

/// The figures of a moment.
#[derive(Debug, Default)]
pub(crate) struct Moment {
    pub(crate) values: Values,
    /// How many answers there were since the moment before, by status class; `None`: nobody counts, or this is the first that is known.
    pub(crate) answers: Option<[u64; 5]>,
    /// How many answers took how long since the moment before: one count for each of the bounds, and one beyond them.
    pub(crate) times: Vec<u64>,
    pub(crate) bounds_ms: Vec<f64>,
}

impl Counted {
    /// The figures of this moment, in seconds since any other.
    pub(crate) fn moment(&mut self, at: f64, figures: AppFigures) -> Moment {
        let before = self.last.take().and_then(|(before, restarts)| {
            let pause = at - before;
            (pause > 0.0 && pause <= LONGEST_PAUSE).then_some((pause, restarts))
        });
        let added = self.added(at, &figures, before.is_some());
        let pause = before.as_ref().map_or(1.0, |(pause, _)| *pause);
        let restarts = before.map(|(_, before)| restarts(&before, &figures.restarts));
        let per_second = |count: fn(&Answered) -> u64| {
            let added = added.as_ref()?;
            Some(count(added) as f64 / pause)
        };
        let quantile = |share| quantile(&added.as_ref()?.times, &figures.bounds_ms, share);
        let values = [
            Some(f64::from(figures.online)),
            Some(figures.cpu_percent),
            Some(figures.memory_bytes as f64),
            restarts,
            figures.connections.map(f64::from),
            figures.queue.map(f64::from),
            per_second(|all| all.classes[1..].iter().sum()),
            per_second(|all| all.classes[4]),
            quantile(0.5),
            quantile(0.99),
            figures.delay_us.map(|us| us as f64 / 1e6),
        ];
        self.last = Some((at, figures.restarts));
        Moment {
            values,
            answers: added.as_ref().map(|all| all.classes),
            times: added.map_or_else(Vec::new, |all| all.times),
            bounds_ms: figures.bounds_ms,
        }
    }

    /// What all workers have answered since the moment before, and keeps what they have answered in all. `None`: nobody counts, or this is
    /// the first that is known. `continuous`: the moment before is not long ago.
    fn added(&mut self, at: f64, figures: &AppFigures, continuous: bool) -> Option<Answered> {
        if !continuous {
            self.answered.clear();
        }
        let is_new = |worker: &&u64| continuous && !self.workers.contains(worker);
        for worker in figures.workers.iter().filter(is_new) {
            self.answered.insert(*worker, (at, Answered::default()));
        }
        self.workers.clone_from(&figures.workers);
        self.answered
            .retain(|worker, _| figures.workers.contains(worker) || figures.answered.contains_key(worker));
        let mut all = None;
        for (worker, now) in &figures.answered {
            // A worker that has run unmeasured for long is known by its totals alone.
            let before = self.answered.insert(*worker, (at, now.clone()));
            if let Some((_, before)) = before.filter(|(before, _)| at - before <= LONGEST_PAUSE) {
                add(all.get_or_insert_default(), &before, now);
            }
        }
        all
    }
}

/// A count that was reset, or belongs to an instance that is gone, adds nothing.
fn restarts(before: &BTreeMap<u32, u32>, now: &BTreeMap<u32, u32>) -> f64 {
    let added = |(id, count): (&u32, &u32)| count.saturating_sub(*before.get(id).unwrap_or(count));
    now.iter().map(added).map(f64::from).sum()
}

/// Adds what was added between two totals. Of totals that begin again nothing is known.
fn add(all: &mut Answered, before: &Answered, now: &Answered) {
    let classes = now.classes.iter().zip(&before.classes);
    for (sum, (now, before)) in all.classes.iter_mut().zip(classes) {
        *sum += now.saturating_sub(*before);
    }
    all.times.resize(all.times.len().max(now.times.len()), 0);
    for (at, now) in now.times.iter().enumerate() {
        all.times[at] += now.saturating_sub(before.times.get(at).copied().unwrap_or(0));
    }
}

/// The time within which this share was answered, in seconds: interpolated between the bounds, and the last bound beyond it.
pub(crate) fn quantile(times: &[u64], bounds_ms: &[f64], share: f64) -> Option<f64> {
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
            workers: workers.iter().map(|(worker, ..)| *worker).collect(),
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
            (1.0, figures(3, &[(1, 100, 1)]), [None; 3]),
            (
                2.0,
                figures(4, &[(1, 110, 3)]),
                [Some(1.0), Some(12.0), Some(2.0)],
            ),
            // Two seconds later.
            (
                4.0,
                figures(4, &[(1, 130, 3)]),
                [Some(0.0), Some(10.0), Some(0.0)],
            ),
            // The worker was replaced, and the restarts were reset.
            (5.0, figures(0, &[(2, 5, 0)]), [Some(0.0), Some(5.0), Some(0.0)]),
            (6.0, figures(0, &[(2, 2, 0)]), [Some(0.0), Some(0.0), Some(0.0)]),
            // Nobody asked for a while, and the clock was set back.
            (60.0, figures(0, &[(2, 900, 0)]), [None; 3]),
            (30.0, figures(0, &[(2, 901, 0)]), [None; 3]),
            (
                31.0,
                figures(0, &[(2, 902, 0)]),
                [Some(0.0), Some(1.0), Some(0.0)],
            ),
            // Nothing is measured any more.
            (32.0, AppFigures::default(), [Some(0.0), None, None]),
        ] {
            let values = counted.moment(second, figures).values;
            assert_eq!(counts(&values), expected, "second {second}");
        }
    }

    #[test]
    fn a_worker_that_is_first_measured_late_adds_what_is_new_alone() {
        let mut counted = Counted::default();
        let mut silent = figures(0, &[(1, 0, 0), (2, 0, 0)]);
        silent.answered.clear();
        let unmeasured = |worker: u64, mut figures: AppFigures| {
            figures.workers.push(worker);
            figures
        };
        for (second, figures, requests) in [
            (1.0, silent.clone(), None),
            (2.0, unmeasured(2, figures(0, &[(1, 7000, 0)])), None),
            (3.0, unmeasured(2, figures(0, &[(1, 7005, 0)])), Some(5.0)),
            // The other is measured now, too; it has run for long.
            (4.0, figures(0, &[(1, 7010, 0), (2, 9000, 0)]), Some(5.0)),
            (5.0, figures(0, &[(1, 7015, 0), (2, 9005, 0)]), Some(10.0)),
            // One is silent for a moment.
            (6.0, unmeasured(2, figures(0, &[(1, 7020, 0)])), Some(5.0)),
            (7.0, figures(0, &[(1, 7025, 0), (2, 9015, 0)]), Some(15.0)),
            // One was not measured for long.
            (12.0, unmeasured(2, figures(0, &[(1, 7025, 0)])), Some(0.0)),
            (17.0, unmeasured(2, figures(0, &[(1, 7025, 0)])), Some(0.0)),
            (18.0, figures(0, &[(1, 7030, 0), (2, 9500, 0)]), Some(5.0)),
            (28.0, figures(0, &[(1, 7130, 0), (2, 9600, 0)]), Some(20.0)),
            // One is replaced, and the new one is not measured at once.
            (29.0, unmeasured(3, figures(0, &[(1, 7135, 0)])), Some(5.0)),
            (30.0, figures(0, &[(1, 7140, 0), (3, 8, 0)]), Some(13.0)),
        ] {
            let values = counted.moment(second, figures).values;
            assert_eq!(values[6], requests, "second {second}");
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
