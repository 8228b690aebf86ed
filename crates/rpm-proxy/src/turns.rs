//! Turns of weighted upstreams: each gets requests in proportion to its weight.
//!
//! It is start-time fair queueing. The upstream whose next turn is due first has it; an upstream that was left out for a while goes on where
//! the others are, and does not make up for what it has missed.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bits of a part of a turn. The other 48 are enough for 80 years with 100,000 requests per second.
const PART_BITS: u32 = 16;

/// How far the upstreams of a front have come: turns per unit of weight of the one that had the last turn, in parts.
#[derive(Debug, Default)]
pub(crate) struct Progress(AtomicU64);

/// The turns of an upstream.
#[derive(Debug, Default)]
pub(crate) struct Turns(AtomicU64);

impl Turns {
    /// The turns that it has had, or would have had if it had not been left out.
    ///
    /// An upstream that has not been left out has had its share of the progress: otherwise its turn would have been due before the last one.
    pub(crate) fn count(&self, weight: u32, progress: &Progress) -> u64 {
        let parts = u128::from(progress.0.load(Ordering::Relaxed)) * u128::from(weight);
        let share = u64::try_from(parts >> PART_BITS).unwrap_or(u64::MAX);
        self.0.load(Ordering::Relaxed).max(share)
    }

    /// It has its next turn, because it had so many by [`Turns::count`]. (It may have more by now: other threads have chosen it, too. The
    /// progress does not count those yet, so the other upstreams are still due.)
    pub(crate) fn take(&self, count: u64, weight: u32, progress: &Progress) {
        self.0.fetch_max(count, Ordering::Relaxed);
        self.0.fetch_add(1, Ordering::Relaxed);
        let parts = (count << PART_BITS) / u64::from(weight);
        progress.0.fetch_max(parts, Ordering::Relaxed);
    }
}

/// Compares when the next turns of two upstreams are due, which have had so many and have these weights.
pub(crate) fn compare(first: (u64, u32), second: (u64, u32)) -> std::cmp::Ordering {
    let due = |(count, _): (u64, u32), (_, other): (u64, u32)| (u128::from(count) + 1) * u128::from(other);
    due(first, second).cmp(&due(second, first))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many turns in turn, and returns how many each has had.
    fn taken<const N: usize>(all: &[(Turns, u32); N], progress: &Progress, times: u32) -> [u32; N] {
        let mut taken = [0; N];
        for _ in 0..times {
            let count = |one: usize| (all[one].0.count(all[one].1, progress), all[one].1);
            let next = (0..N).min_by(|one, other| compare(count(*one), count(*other)));
            let next = next.expect("there are some");
            all[next].0.take(count(next).0, all[next].1, progress);
            taken[next] += 1;
        }
        taken
    }

    #[test]
    fn turns_are_exact_for_weeks() {
        let begin = u64::from(u32::MAX) - 50;
        let all = [7, 3, 1].map(|weight| (Turns(AtomicU64::new(begin * u64::from(weight))), weight));
        let progress = Progress(AtomicU64::new(begin << PART_BITS));
        for _ in 0..200 {
            assert_eq!(taken(&all, &progress, 11), [7, 3, 1]);
        }
    }

    #[test]
    fn who_is_never_left_out_is_as_far_as_its_share() {
        let all = [100, 99, 37, 3, 2, 1].map(|weight| (Turns::default(), weight));
        let progress = Progress::default();
        for _ in 0..10_000 {
            taken(&all, &progress, 1);
            for (turns, weight) in &all {
                let had = turns.0.load(Ordering::Relaxed);
                assert_eq!(turns.count(*weight, &progress), had, "weight {weight}");
            }
        }
    }
}
