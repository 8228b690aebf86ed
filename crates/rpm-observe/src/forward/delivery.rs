//! A batch on its way: what was taken, what is tried again, and what the receiver refuses for good. Without I/O or clock.

use std::collections::VecDeque;
use std::time::Duration;

/// The first pause after a failure, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];
/// The longest pause that a receiver may ask for.
const LONGEST_ASKED: Duration = Duration::from_secs(300);

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Everything was taken.
    Taken,
    /// These were not, by their numbers in the request; the others were.
    Partly {
        again: Vec<usize>,
        refused: Vec<usize>,
        why: String,
    },
    /// Something in it is wrong, or it is too long: a smaller part may be taken. What says so may also be something else than the receiver, at a wrong
    /// address.
    Refused(String),
    /// Nothing was taken, and it may go well later.
    Later { why: String, after: Option<Duration> },
}

/// Why what is left is not sent at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pause {
    /// The request failed; and the time that the receiver asks for.
    Failed(Option<Duration>),
    /// It is sent in smaller parts.
    Split,
}

/// What follows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Settled {
    /// Numbers of records in the batch that were taken.
    pub taken: Vec<usize>,
    /// Those that are given up.
    pub refused: Vec<usize>,
    pub pause: Option<Pause>,
    /// Why something was not taken.
    pub why: Option<String>,
}

/// The records of a batch that are not settled yet, in the parts in which they are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Delivery {
    parts: VecDeque<Vec<usize>>,
    /// The receiver has taken something: what it refuses is wrong.
    is_proven: bool,
    /// What was refused, each alone, by what may not be the receiver.
    doubtful: Vec<usize>,
}

impl Delivery {
    pub(super) fn new(records: usize, is_proven: bool) -> Delivery {
        let all: Vec<usize> = (0..records).collect();
        Delivery {
            parts: VecDeque::from([all]),
            is_proven,
            doubtful: Vec::new(),
        }
    }

    /// What is sent next; `None` when everything is settled.
    pub(super) fn part(&self) -> Option<&[usize]> {
        self.parts.front().map(Vec::as_slice)
    }

    /// The receiver has answered to the part that is first.
    pub(super) fn answered(&mut self, outcome: Outcome) -> Settled {
        let mut settled = Settled::default();
        let Some(mut part) = self.parts.pop_front() else {
            return settled;
        };
        match outcome {
            Outcome::Taken => {
                settled.taken = part;
                self.prove();
            }
            Outcome::Partly { again, refused, why } => {
                let chosen = |numbers: &[usize]| {
                    numbers
                        .iter()
                        .filter_map(|number| part.get(*number).copied())
                        .collect::<Vec<_>>()
                };
                let (again, refused) = (chosen(&again), chosen(&refused));
                settled.taken = part
                    .iter()
                    .copied()
                    .filter(|number| !again.contains(number) && !refused.contains(number))
                    .collect();
                if !settled.taken.is_empty() {
                    self.prove();
                }
                settled.refused = refused;
                settled.why = Some(why);
                if !again.is_empty() {
                    settled.pause = Some(Pause::Failed(None));
                    self.parts.push_front(again);
                }
            }
            Outcome::Refused(why) => {
                settled.why = Some(why);
                match part.len() {
                    0 | 1 if self.is_proven => settled.refused = part,
                    0 | 1 => {
                        self.doubtful.extend(part);
                        settled.pause = Some(Pause::Failed(None));
                    }
                    count => {
                        settled.pause = Some(Pause::Split);
                        let rest = part.split_off(count / 2);
                        self.parts.push_front(rest);
                        self.parts.push_front(part);
                    }
                }
            }
            Outcome::Later { why, after } => {
                settled.why = Some(why);
                settled.pause = Some(Pause::Failed(after));
                self.parts.push_front(part);
            }
        }
        if self.parts.is_empty() && !self.doubtful.is_empty() {
            self.parts.push_back(std::mem::take(&mut self.doubtful));
        }
        settled
    }

    /// The receiver takes something, so it says once more what it refuses.
    fn prove(&mut self) {
        self.is_proven = true;
        for record in self.doubtful.drain(..).rev() {
            self.parts.push_front(vec![record]);
        }
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    fn later(after: Option<u64>) -> Outcome {
        Outcome::Later {
            why: "down".to_owned(),
            after: after.map(Duration::from_secs),
        }
    }

    #[test]
    fn one_bad_record_is_found_and_the_others_are_taken() {
        for bad in 0..10 {
            let mut delivery = Delivery::new(10, false);
            let (mut taken, mut refused, mut requests) = (Vec::new(), Vec::new(), 0);
            while let Some(part) = delivery.part() {
                requests += 1;
                let outcome = match part.contains(&bad) {
                    true => Outcome::Refused("bad".to_owned()),
                    false => Outcome::Taken,
                };
                let settled = delivery.answered(outcome);
                taken.extend(settled.taken);
                refused.extend(settled.refused);
            }
            assert_eq!(refused, [bad]);
            assert_eq!(taken.len(), 9);
            assert!(
                taken.is_sorted() && requests < 10,
                "in order: {taken:?}, {requests} requests"
            );
        }
    }

    #[test]
    fn nothing_is_given_up_before_anything_was_taken() {
        let refused = || Outcome::Refused("plain HTTP to a port of TLS".to_owned());
        for count in 1..6 {
            let mut delivery = Delivery::new(count, false);
            let (mut splits, mut failures) = (0, 0);
            for _ in 0..50 {
                let settled = delivery.answered(refused());
                assert!(settled.refused.is_empty(), "{count}: {settled:?}");
                match settled.pause.expect("it is not asked at once") {
                    Pause::Split => splits += 1,
                    Pause::Failed(_) => failures += 1,
                }
            }
            assert!(
                failures >= 25 && (splits > 0) == (count > 1),
                "{splits} {failures}"
            );
            let mut taken = Vec::new();
            while delivery.part().is_some() {
                let settled = delivery.answered(Outcome::Taken);
                assert!(settled.refused.is_empty(), "{count}: {settled:?}");
                taken.extend(settled.taken);
            }
            taken.sort_unstable();
            assert_eq!(taken, (0..count).collect::<Vec<_>>(), "the address is put right");
            let mut proven = Delivery::new(1, true);
            assert_eq!(proven.answered(refused()).refused, [0]);
        }
    }

    #[test]
    fn what_is_tried_again_stays_first() {
        let mut delivery = Delivery::new(4, false);
        let settled = delivery.answered(later(Some(7)));
        assert_eq!(settled.pause, Some(Pause::Failed(Some(Duration::from_secs(7)))));
        let settled = delivery.answered(Outcome::Partly {
            again: vec![1, 3],
            refused: vec![2, 9],
            why: "busy".to_owned(),
        });
        assert_eq!(
            (settled.taken, settled.refused, settled.pause),
            (vec![0], vec![2], Some(Pause::Failed(None)))
        );
        assert_eq!(delivery.part(), Some(&[1, 3][..]));
        let settled = delivery.answered(Outcome::Partly {
            again: vec![],
            refused: vec![1],
            why: "wrong".to_owned(),
        });
        assert_eq!(
            (settled.taken, settled.refused, settled.pause),
            (vec![1], vec![3], None)
        );
        assert_eq!(delivery.part(), None);
        assert_eq!(delivery.answered(Outcome::Taken), Settled::default());
    }

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
}
